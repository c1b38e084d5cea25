"""What one frame shows without any model: sharpness, brightness, contrast, colour."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import UInt8

from blockvid.evaluation.metric import Metric
from blockvid.evaluation.scorers.opencv import opencv
from blockvid.evaluation.scorers.spans import frames, mean_of
from blockvid.evaluation.series import Footage, Reader, Rows, Window

BRIGHT = 250
"""Luma, of 255, from which a pixel counts as blown out; codecs leave white a few levels below 255."""


@dataclass(frozen=True)
class Luma:
    """Statistics of each frame at its full size; luma is that of BT.601 (0.299 R + 0.587 G + 0.114 B), rounded.

    sharpness: variance of the Laplacian of luma (Eq. 20), with the 4-neighbour kernel (aperture 1, scale 1), borders
    reflected, in units of 0..255. mean, spread: of luma / 255. saturation: sum of max(R, G, B) - min(R, G, B) over the
    sum of max(R, G, B), which is HSV's weighted by its value, so that noise in shadows does not count; 0 for black.
    bright: share of pixels with luma of at least 250. rgb: mean colour, 0..255.
    """

    name: str = "luma"

    @property
    def identity(self) -> str:
        """Its definition above, as version 1."""
        return f"luma 1 bt601 laplacian-1 bright-{BRIGHT}"

    def open(self, footage: Footage, device: torch.device) -> Reader:  # noqa: ARG002
        """Works on the CPU, whatever the device."""
        return Reader(_read)


def luma(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    """0.299 R + 0.587 G + 0.114 B; for `Picture.once`."""
    cv2 = opencv()
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def sharpness(y: UInt8[np.ndarray, "h w"]) -> float:
    """Variance of the Laplacian of luma (Eq. 20), as in `Luma`."""
    cv2 = opencv()
    # 8-bit differences fit 16 bits, and the sums are taken in float64: the same number at half the cost of floats.
    _, edges = cv2.meanStdDev(cv2.Laplacian(y, cv2.CV_16S, ksize=1))
    return float(edges.item()) ** 2


def _read(window: Window) -> Rows:
    rows = [_statistics(p.pixels, p.once(luma)) for p in window.wanted]
    return {key: np.array([row[key] for row in rows], dtype=np.float32) for key in rows[0]}


def _statistics(pixels: UInt8[np.ndarray, "h w 3"], y: UInt8[np.ndarray, "h w"]) -> dict[str, float | list[float]]:
    cv2 = opencv()
    mean, spread = cv2.meanStdDev(y)
    red, green, blue = cv2.split(pixels)
    high = cv2.mean(cv2.max(cv2.max(red, green), blue))[0]
    low = cv2.mean(cv2.min(cv2.min(red, green), blue))[0]
    return {
        "sharpness": sharpness(y),
        "mean": mean.item() / 255,
        "spread": spread.item() / 255,
        "saturation": (high - low) / high if high else 0.0,
        "bright": float(np.count_nonzero(y >= BRIGHT)) / y.size,
        "rgb": list(cv2.mean(pixels)[:3]),
    }


def metrics() -> tuple[Metric, ...]:
    """clarity, exposure, contrast and saturation of tier core, each the mean over the frames of a span."""
    laplacian = "mean variance of the Laplacian of luma, 0..255, at full size (Eq. 20)"
    spread = "standard deviation of luma within a frame, of 1 (RMS contrast)"
    chroma = "sum of max(R, G, B) - min(R, G, B) over sum of max(R, G, B)"
    return (
        replace(_metric("clarity", "Clarity", laplacian, "sharpness"), better="higher", bounds=None),
        _metric("exposure", "Exposure", "mean luma, 0 black to 1 white", "mean"),
        _metric("contrast", "Contrast", spread, "spread"),
        _metric("saturation", "Saturation", chroma, "saturation"),
    )


def _metric(name: str, title: str, formula: str, key: str) -> Metric:
    rows = f"luma.{key}"
    return Metric(name, "core", title, formula, (Luma(),), mean_of(rows, frames), bounds=(0, 1), curve=rows)
