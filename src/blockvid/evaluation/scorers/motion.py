"""How much and how evenly things move, by DIS optical flow (Kroeger et al. 2016), which needs no model.

Flow is computed on frames reduced to a short side of at most 240, with the "fast" preset. Against made motion of 1 to
30 px at 480p its end-point error is below 0.35 px (0.55 px for 2 % of zoom), and mean magnitudes are right within 5 %;
finer settings cost up to 20 times as much and move smoothness by at most 0.001 on clean clips, 0.009 on noisy ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8

from blockvid.evaluation.metric import Metric
from blockvid.evaluation.scorers.opencv import opencv
from blockvid.evaluation.scorers.spans import average, mean_of, pairs, triples
from blockvid.evaluation.series import Footage, Picture, Reader, Rows, Series, Window

SHORT = 240
"""Short side, in pixels, that flow is computed at; smaller frames stay as they are."""
SMALLEST = 32
"""Short side below which DIS has no pyramid to search (and crashes on elongated frames): there is no flow."""
TOP = 0.05
"""Share of pixels, the fastest, that VBench's dynamic degree averages."""
DYNAMIC = 100 * 6 / 256
"""Motion from which a sampled pair counts as moving, in % of the short side: VBench's 6 px at 256."""
RATE = 8
"""Frames a second that dynamic degree samples, about."""


class Reduced(NamedTuple):
    """A frame at the size that flow is computed at."""

    rgb: UInt8[np.ndarray, "h w 3"]
    luma: UInt8[np.ndarray, "h w"]


def reduced(pixels: UInt8[np.ndarray, "h w 3"]) -> Reduced:
    """Area-averaged to a short side of at most 240; for `Picture.once`."""
    cv2 = opencv()
    height, width = pixels.shape[:2]
    scale = SHORT / min(height, width)
    if scale < 1:
        size = (max(round(width * scale), SHORT), max(round(height * scale), SHORT))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return Reduced(pixels, cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))


def flow(start: Picture, end: Picture) -> Float32[np.ndarray, "h w 2"]:
    """Where each pixel of reduced `start` is in reduced `end`, as (x, y) steps in reduced pixels; computed once.

    The short side of the reduced frames must be at least 32 (`SMALLEST`).
    """
    return start.once(_Flow(end.number, start.once(reduced).luma, end.once(reduced).luma))


@dataclass(frozen=True)
class _Flow:
    """The flow from a picture to another, whose number alone tells it from others of the same picture."""

    to: int
    # Not the pictures: one would keep the next alive, and that the next after it.
    start: np.ndarray = field(compare=False, repr=False)
    end: np.ndarray = field(compare=False, repr=False)

    def __call__(self, pixels: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w 2"]:  # noqa: ARG002
        cv2 = opencv()
        return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(self.start, self.end, None)


@dataclass(frozen=True)
class Motion:
    """Flow between frames. speed, fast: of the pair (t-1, t), mean magnitude and that of its fastest 5 % of pixels.

    even: of the triple (t-1, t, t+1), (255 - MAD) / 255 of the reduced frame t against the frame interpolated from its
    neighbours. sampled: as `fast`, of (t-k, t) where k divides t, for k = max(1, round(fps / 8)), else nan. Magnitudes
    are in % of the short side. All nan for frames with a short side below 32.
    """

    name: str = "motion"

    @property
    def identity(self) -> str:
        """The settings of the flow and OpenCV's version, which it is computed by."""
        return f"motion 1 dis-fast {SHORT} {TOP:g} opencv {opencv().__version__}"

    def open(self, footage: Footage, device: torch.device) -> Reader:  # noqa: ARG002
        """Works on the CPU, whatever the device."""
        step = interval(footage.fps)
        small = min(footage.width, footage.height) < SMALLEST
        return Reader(lambda window: _read(window, step, small), before=step, after=1)


def interval(fps: float) -> int:
    """Frames from one that dynamic degree samples to the next (VBench): about 8 a second, halves rounded to even."""
    return max(1, round(fps / RATE)) if math.isfinite(fps) else 1


def _read(window: Window, step: int, small: bool) -> Rows:
    count = window.stop - window.start
    rows = {key: np.full(count, np.nan, dtype=np.float32) for key in ("speed", "fast", "even", "sampled")}
    if small:
        return rows
    pictures = window.pictures
    for row, index in enumerate(range(window.start, window.stop)):
        picture = pictures[index]
        if index > 0:
            rows["speed"][row], rows["fast"][row] = magnitude(pictures[index - 1], picture)
        if 0 < index < len(pictures) - 1:
            rows["even"][row] = _evenness(pictures[index - 1], picture, pictures[index + 1])
        if picture.number % step == 0 and picture.number > 0:
            rows["sampled"][row] = magnitude(pictures[index - step], picture)[1]
    return rows


def magnitude(start: Picture, end: Picture) -> tuple[float, float]:
    """The mean length of flow and that of its longest 5 %, in % of the short side."""
    cv2 = opencv()
    steps = flow(start, end)
    lengths = cv2.magnitude(steps[..., 0], steps[..., 1]).ravel()
    percent = 100 / min(steps.shape[:2])
    fastest = max(int(TOP * lengths.size), 1)
    top = np.partition(lengths, lengths.size - fastest)[-fastest:]
    return float(lengths.mean(dtype=np.float64)) * percent, float(top.mean(dtype=np.float64)) * percent


def _evenness(before: Picture, picture: Picture, after: Picture) -> float:
    """Both neighbours follow half of their flow to the middle, as in Super SloMo (Jiang et al. 2018, Eq. 4)."""
    cv2 = opencv()
    truth = picture.once(reduced).rgb
    half = (flow(before, after) - flow(after, before)) / 4
    height, width = truth.shape[:2]
    here = np.dstack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)))
    warped = [
        cv2.remap(p.once(reduced).rgb, there, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for p, there in ((before, here - half), (after, here + half))
    ]
    middle = cv2.addWeighted(warped[0], 0.5, warped[1], 0.5, 0)
    return 1 - cv2.norm(middle, truth, cv2.NORM_L1) / truth.size / 255


def is_dynamic(magnitudes: Float[np.ndarray, " pairs"], threshold: float) -> bool:
    """VBench's rule: of n sampled frames' n - 1 pairs, at least round(n / 4) move by more than the threshold.

    At least one must: VBench asks for none of two frames. Halves are rounded to even.
    """
    needed = max(1, round((len(magnitudes) + 1) / 4))
    return int((magnitudes > threshold).sum()) >= needed


def _smoothness(series: Series, span: range, footage: Footage) -> float:  # noqa: ARG001
    """Of the odd frames of a span, counted from its first, as VBench leaves them out and interpolates them."""
    return average(triples(series["motion.even"], span)[::2])


def _dynamic_degree(series: Series, span: range, footage: Footage) -> float:
    step = interval(footage.fps)
    first = -(-span.start // step) * step  # the video's sampling grid: pairs inside the span
    moved = series["motion.sampled"][first + step : span.stop : step]
    return float(is_dynamic(moved, DYNAMIC)) if len(moved) and not np.isnan(moved).all() else math.nan


def metrics() -> tuple[Metric, ...]:
    """motion_energy, motion_smoothness and dynamic_degree of tier core."""
    return (
        Metric(
            name="motion_energy",
            tier="core",
            title="Motion energy",
            formula="mean length of DIS flow between neighbouring frames, in % of the short side (Eq. 21)",
            extractors=(Motion(),),
            score=mean_of("motion.speed", pairs),
            curve="motion.speed",
        ),
        Metric(
            name="motion_smoothness",
            tier="core",
            title="Motion smoothness",
            formula="(255 - MAD) / 255 of odd frames against their neighbours warped half-way by DIS flow",
            extractors=(Motion(),),
            score=_smoothness,
            better="higher",
            bounds=(0, 1),
            curve="motion.even",
        ),
        Metric(
            name="dynamic_degree",
            tier="core",
            title="Dynamic degree",
            formula="1 if a quarter of about 8 pairs a second move: fastest 5 % of DIS flow > 6/256 of the short side",
            extractors=(Motion(),),
            score=_dynamic_degree,
            better="higher",
            bounds=(0, 1),
        ),
    )
