"""A video file as the model sees it: at its rate, in its size, as latents chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from blockvid.geometry import Geometry
from blockvid.model.autoencoder import Autoencoder, to_unit
from blockvid.video import READ, probe, read_timed

TIE = 1e-6
"""Ticks by which rounding may put a frame that lies between two of them on the wrong side."""

Picture = UInt8[np.ndarray, "_ _ 3"]


def steady(path: Path, geometry: Geometry) -> Iterator[Picture]:
    """The frames of a video at the geometry's rate, in its size (resized, centre-cropped), one at a time.

    A frame is shown from the tick nearest to its time until the next frame is, so a variable rate is true to the clock
    and an unchanged rate keeps every frame. Raises InputError for what is no video or is damaged.
    """
    fps = geometry.fps
    usual = 1 / probe(path).fps
    shown: Picture | None = None
    moment, due = 0.0, 0
    for block, seconds in read_timed(path, READ):
        for pixels, moment in zip(block, map(float, seconds), strict=True):
            tick = _tick(moment, fps)
            if shown is not None and due < tick:
                yield from _repeated(fitted(shown, geometry), tick - due)
                due = tick
            shown = pixels
    if shown is not None:
        yield from _repeated(fitted(shown, geometry), _tick(moment + usual, fps) - due)


def _tick(moment: float, fps: float) -> int:
    return math.floor(moment * fps + 0.5 + TIE)


def _repeated(picture: Picture, times: int) -> Iterator[Picture]:
    return (picture for _ in range(times))


def fitted(pixels: Picture, geometry: Geometry) -> Picture:
    """Resized until it covers the geometry's frame, and cropped around the middle, as pictures to start from are."""
    size = (geometry.width, geometry.height)
    return np.asarray(ImageOps.fit(Image.fromarray(pixels), size, Image.Resampling.LANCZOS))


def latent_chunks(
    pictures: Iterator[Picture], autoencoder: Autoencoder, geometry: Geometry
) -> Iterator[Float[Tensor, "c _ h w"]]:
    """Latents of each whole native chunk, on the CPU, while the pictures arrive; what is left over is dropped.

    Chunk 0 has one latent frame more than the others. Pictures that end inside a latent frame are continued by their
    last one, as `Geometry.latent_frames` counts.
    """
    stream = autoencoder.encoder()
    parts: list[Tensor] = []
    length, wanted = 1, geometry.chunk_frames + 1
    while piece := list(islice(pictures, length)):
        piece += [piece[-1]] * (length - len(piece))
        parts.append(stream.push(to_unit(torch.from_numpy(np.stack(piece)))[None])[0].cpu())
        length = geometry.temporal_stride
        if len(parts) == wanted:
            yield torch.cat(parts, dim=1)
            parts, wanted = [], geometry.chunk_frames
