"""Laws of preprocessing: bit for bit what the stated resizing of a whole clip gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from blockvid.errors import InputError
from blockvid.evaluation.networks.preprocess import (
    CLIP_PICTURE,
    DINO_PICTURE,
    EFFICIENTNET_PICTURE,
    IMAGENET,
    MUSIQ_PICTURE,
    OPENAI,
    CentreCrop,
    LongSide,
    Normal,
    ShortSide,
)

SIZES = [(480, 854), (97, 131), (300, 224), (224, 398), (224, 224), (561, 420), (120, 121)]


def clip(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (2, height, width, 3), dtype=np.uint8)


def loaded(frames: np.ndarray) -> Tensor:
    """As VBench holds a video: float32, 0..255, frames x channels x height x width."""
    return torch.Tensor(frames).permute(0, 3, 1, 2)


def short_side_at_224(video: Tensor, mode: str) -> Tensor:
    height, width = video.shape[-2:]
    short, long = (width, height) if width <= height else (height, width)
    new_short, new_long = 224, int(224 * long / short)
    size = [new_long, new_short] if width <= height else [new_short, new_long]
    if [height, width] == size:
        return video
    return F.interpolate(video, size=size, mode=mode, align_corners=False, antialias=False)


def normalised(video: Tensor, normal: Normal) -> Tensor:
    video = video.float().div(255.0)
    return video.sub_(torch.tensor(normal.mean)[:, None, None]).div_(torch.tensor(normal.std)[:, None, None])


@pytest.mark.parametrize("size", SIZES)
def test_dino_sees_the_short_side_at_224_bilinear_and_uncut(size: tuple[int, int]):
    frames = clip(*size)
    expected = normalised(short_side_at_224(loaded(frames), "bilinear"), IMAGENET)
    assert torch.equal(torch.stack([DINO_PICTURE(frame) for frame in frames]), expected)


@pytest.mark.parametrize("size", SIZES)
def test_clip_sees_the_middle_of_the_short_side_at_224_bicubic(size: tuple[int, int]):
    frames = clip(*size)
    video = short_side_at_224(loaded(frames), "bicubic")
    height, width = video.shape[-2:]
    top, left = int(round((height - 224) / 2.0)), int(round((width - 224) / 2.0))  # noqa: RUF046 - torchvision's words
    expected = normalised(video[..., top : top + 224, left : left + 224], OPENAI)
    assert torch.equal(torch.stack([CLIP_PICTURE(frame) for frame in frames]), expected)


@pytest.mark.parametrize("size", [*SIZES, (1080, 1920), (512, 300)])
def test_musiq_sees_long_sides_above_512_brought_down(size: tuple[int, int]):
    frames = clip(*size)
    video, (height, width) = loaded(frames), size
    if max(size) > 512:
        scale = 512.0 / max(size)
        small = int(scale * height), int(scale * width)
        video = F.interpolate(video, size=small, mode="bilinear", align_corners=False, antialias=False)
    assert torch.equal(torch.stack([MUSIQ_PICTURE(frame) for frame in frames]), video / 255.0)


def test_a_long_side_may_come_out_one_pixel_short():
    assert MUSIQ_PICTURE(clip(561, 420)[0]).shape == (3, 511, 383)  # 512 / 561 * 561 < 512 in floating point


def test_half_a_pixel_of_crop_goes_to_the_even_neighbour():
    columns = np.broadcast_to(np.arange(229, dtype=np.uint8)[None, :, None], (224, 229, 3))
    plain = CentreCrop(224, "bicubic", Normal((0, 0, 0), (1, 1, 1)))
    assert (plain(columns)[0, 0, [0, -1]] * 255).round().tolist() == [2, 225]  # 2.5 to 2
    columns = np.broadcast_to(np.arange(231, dtype=np.uint8)[None, :, None], (224, 231, 3))
    assert (plain(columns)[0, 0, [0, -1]] * 255).round().tolist() == [4, 227]  # 3.5 to 4


def test_bicubic_overshoot_is_kept():
    edge = np.zeros((300, 300, 3), dtype=np.uint8)
    edge[:, 150:] = 255
    plain = CentreCrop(224, "bicubic", Normal((0, 0, 0), (1, 1, 1)))
    assert plain(edge).min() < -0.01 and plain(edge).max() > 1.01


def test_efficientnet_reads_pixels_as_in_tensorflow():
    grey = np.full((224, 224, 3), 255, dtype=np.uint8)
    assert torch.allclose(EFFICIENTNET_PICTURE(grey), torch.tensor(1.0))
    assert torch.allclose(EFFICIENTNET_PICTURE(grey * 0), torch.tensor(-127 / 128))


def test_frames_of_any_layout_in_memory_are_read_and_left_alone():
    frame = clip(60, 80)[0]
    turned = np.ascontiguousarray(frame.transpose(2, 1, 0)).transpose(2, 1, 0)
    turned.flags.writeable = False
    before = frame.copy()
    assert torch.equal(DINO_PICTURE(turned), DINO_PICTURE(frame)) and np.array_equal(frame, before)


def test_equal_preprocessing_is_one_key():
    same = ShortSide(224, "bilinear", Normal(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)))
    assert len({DINO_PICTURE, same, CLIP_PICTURE, MUSIQ_PICTURE, LongSide(512), LongSide(384)}) == 4


def test_a_line_of_pixels_is_refused():
    with pytest.raises(InputError, match="a picture of 1200x2 has no pixel left at 512; "):
        MUSIQ_PICTURE(np.zeros((2, 1200, 3), dtype=np.uint8))
