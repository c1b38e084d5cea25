"""One frame to what a network reads: VBench's resizing of float pixels, bit for bit.

Pixels are float32 in 0..255 when they are resized, without antialiasing, so bicubic values may leave that range and are
kept. Each class is a value that can be compared and hashed: it names the product that it makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from blockvid.errors import InputError

Mode = Literal["bilinear", "bicubic"]
Channels = tuple[float, float, float]
Frame: TypeAlias = UInt8[np.ndarray, "h w 3"]


def planes(frame: Frame) -> Float[Tensor, "1 3 h w"]:
    """Float32 in 0..255; channels stay last in memory, as VBench has them, lest another kernel round otherwise."""
    return rearrange(torch.from_numpy(frame.astype(np.float32, order="C")), "h w c -> 1 c h w")


def resized(pixels: Float[Tensor, "b 3 h w"], size: tuple[int, int], mode: Mode) -> Float[Tensor, "b 3 h2 w2"]:
    """Pixels at `size` (height, width); themselves if they have it, as in torchvision."""
    if pixels.shape[-2:] == size:
        return pixels
    return F.interpolate(pixels, size=size, mode=mode, align_corners=False, antialias=False)


def short_side_size(height: int, width: int, short: int) -> tuple[int, int]:
    """(height, width) with the shorter side at `short` and the longer rounded down, as torchvision's Resize(short)."""
    longer = int(short * max(height, width) / min(height, width))
    return (short, longer) if height <= width else (longer, short)


@dataclass(frozen=True)
class Normal:
    """(pixels / 255 - mean) / std, per channel."""

    mean: Channels
    std: Channels

    def __call__(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """The pixels (0..255) as a network reads them."""
        mean, std = (rearrange(torch.tensor(channels), "c -> c 1 1") for channels in (self.mean, self.std))
        return pixels.div(255.0).sub(mean).div(std)


@dataclass(frozen=True)
class ShortSide:
    """The shorter side resized to `size`, the longer one along with it; nothing is cut off."""

    size: int
    mode: Mode
    normal: Normal

    def __call__(self, frame: Frame) -> Float[Tensor, "3 h2 w2"]:
        """The picture as the network reads it."""
        size = short_side_size(frame.shape[0], frame.shape[1], self.size)
        return self.normal(resized(planes(frame), size, self.mode))[0]


@dataclass(frozen=True)
class CentreCrop:
    """The shorter side resized to `size`, then the square in the middle; half pixels go to the even neighbour."""

    size: int
    mode: Mode
    normal: Normal

    def __call__(self, frame: Frame) -> Float[Tensor, "3 size size"]:
        """The picture as the network reads it."""
        size = short_side_size(frame.shape[0], frame.shape[1], self.size)
        pixels = resized(planes(frame), size, self.mode)
        top, left = (round((side - self.size) / 2) for side in pixels.shape[-2:])
        return self.normal(pixels[..., top : top + self.size, left : left + self.size])[0]


@dataclass(frozen=True)
class LongSide:
    """The longer side brought down to `limit` where it is more, bilinearly; values in 0..1 (VBench's mode "longer")."""

    limit: int

    def __call__(self, frame: Frame) -> Float[Tensor, "3 h2 w2"]:
        """The picture as the network reads it. Raises InputError for one so narrow that no pixel is left of it."""
        pixels, (height, width) = planes(frame), frame.shape[:2]
        if max(height, width) > self.limit:
            scale = self.limit / max(height, width)  # as VBench rounds: 561 pixels become 511
            size = int(scale * height), int(scale * width)
            if 0 in size:
                raise InputError(
                    f"a picture of {width}x{height} has no pixel left at {self.limit}; use one that is less narrow"
                )
            pixels = resized(pixels, size, "bilinear")
        return (pixels / 255.0)[0]


IMAGENET = Normal(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
OPENAI = Normal(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))
TENSORFLOW = Normal(mean=(127 / 255, 127 / 255, 127 / 255), std=(128 / 255, 128 / 255, 128 / 255))
"""(pixels - 127) / 128, as EfficientNet-Lite was trained."""

DINO_PICTURE = ShortSide(224, "bilinear", IMAGENET)
CLIP_PICTURE = CentreCrop(224, "bicubic", OPENAI)
MUSIQ_PICTURE = LongSide(512)
EFFICIENTNET_PICTURE = ShortSide(224, "bilinear", TENSORFLOW)
