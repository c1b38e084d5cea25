"""The sizes of a video in pixels, latents and tokens: the one place where strides are applied."""

from __future__ import annotations

import math
from dataclasses import dataclass

from blockvid.errors import InputError


@dataclass(frozen=True)
class Geometry:
    """How one model cuts a video into latent frames, tokens and chunks.

    ``width`` and ``height`` are pixels, ``fps`` pixel frames a second, ``chunk_frames`` the latent frames of a native
    chunk, ``patch`` the (time, height, width) latents of one token.

    A whole video is one stream of the causal autoencoder: latent frame 0 is the image latent (one pixel frame), every
    other latent frame is ``temporal_stride`` pixel frames. Chunk 0 therefore has one latent frame more than the others.
    """

    width: int
    height: int
    fps: float
    chunk_frames: int
    temporal_stride: int = 4
    spatial_stride: int = 8
    patch: tuple[int, int, int] = (1, 2, 2)
    latent_channels: int = 16

    def __post_init__(self) -> None:
        _check_number("fps", self.fps)
        for name in ("chunk_frames", "temporal_stride", "spatial_stride", "latent_channels"):
            _check_whole(name, getattr(self, name))
        if len(self.patch) != 3:
            raise InputError(f"patch {self.patch} has {len(self.patch)} sizes; give three: (time, height, width)")
        for name, size in zip(("patch time", "patch height", "patch width"), self.patch, strict=True):
            _check_whole(name, size)
        if self.patch[0] != 1:
            raise InputError(
                f"patch time {self.patch[0]} cannot divide both {self.chunk_frames + 1} latent frames (chunk 0) and "
                f"{self.chunk_frames} (the other chunks); use 1"
            )
        _check_multiple("height", self.height, self.spatial_stride * self.patch[1])
        _check_multiple("width", self.width, self.spatial_stride * self.patch[2])

    @property
    def latent_height(self) -> int:
        """Rows of a latent frame."""
        return self.height // self.spatial_stride

    @property
    def latent_width(self) -> int:
        """Columns of a latent frame."""
        return self.width // self.spatial_stride

    @property
    def tokens_per_frame(self) -> int:
        """Tokens the transformer sees for one latent frame."""
        return (self.latent_height // self.patch[1]) * (self.latent_width // self.patch[2])

    @property
    def chunk_seconds(self) -> float:
        """Seconds of video in a native chunk."""
        return self.chunk_frames * self.temporal_stride / self.fps

    def latent_frames(self, pixel_frames: int) -> int:
        """The fewest latent frames that decode to at least ``pixel_frames`` frames: ``1 + ceil((t - 1) / stride)``."""
        _check_whole("pixel_frames", pixel_frames)
        return 1 + -(-(pixel_frames - 1) // self.temporal_stride)

    def pixel_frames(self, latent_frames: int) -> int:
        """The pixel frames that ``latent_frames`` decode to from the start of the video: ``1 + stride (f - 1)``."""
        _check_whole("latent_frames", latent_frames)
        return 1 + self.temporal_stride * (latent_frames - 1)

    def pixels(self, start: int, stop: int, frames: int | None = None) -> range:
        """The pixel frames of the latent frames from ``start`` to before ``stop``, of a video of ``frames`` if given.

        Of its last chunk, that is less than is decoded where the video ends inside a latent frame.
        """
        first, last = (self.pixel_frames(edge) if edge else 0 for edge in (start, stop))
        return range(first, last if frames is None else min(last, frames))


def _check_number(name: str, value: float) -> None:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if not numeric or not math.isfinite(value) or value <= 0:
        raise InputError(f"{name} {value!r} is not a finite number above 0; give one such as 8")


def _check_whole(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} {value!r} is not a whole number of at least 1; give one such as 1")


def _check_multiple(name: str, value: int, unit: int) -> None:
    _check_whole(name, value)
    if value % unit:
        below = value - value % unit
        choices = f"{below} or {below + unit}" if below else f"{unit}"
        raise InputError(f"{name} {value} does not divide into patches of {unit} pixels; use {choices}")
