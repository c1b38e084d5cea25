"""Laws of footage: true to the clock, in the model's size, and encoded in pieces as it would be whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from blockvid.data.footage import fitted, latent_chunks, steady
from blockvid.errors import InputError
from blockvid.geometry import Geometry
from blockvid.model.autoencoder import encode, to_unit
from blockvid.model.load import load_models
from blockvid.video import read_image, write_video
from data.made_clips import pictures, timed_video

if TYPE_CHECKING:
    from tiny_models import Tiny

pytest_plugins = ["tiny_models"]

GREYS = np.arange(0, 240, 8, dtype=np.uint8)


def geometry(fps: float = 8, width: int = 32, height: int = 32) -> Geometry:
    return Geometry(width=width, height=height, fps=fps, chunk_frames=2)


def greys(count: int, width: int = 32, height: int = 32) -> np.ndarray:
    return np.broadcast_to(GREYS[:count, None, None, None], (count, height, width, 3)).copy()


def which(path: Path, fps: float) -> list[int]:
    """The number of the frame that is shown at each tick."""
    return [round(float(picture.mean()) / 8) for picture in steady(path, geometry(fps))]


@pytest.mark.parametrize("fps", [8, 16, 23.976, 24, 25, 29.97, 30, 60])
def test_an_unchanged_rate_keeps_every_frame_once(tmp_path: Path, fps: float):
    write_video(tmp_path / "a.mp4", greys(20), fps, crf=1)
    assert which(tmp_path / "a.mp4", fps) == list(range(20))


def test_a_rate_is_changed_by_the_clock(tmp_path: Path):
    write_video(tmp_path / "a.mp4", greys(24), 24, crf=1)
    assert which(tmp_path / "a.mp4", 8) == [1, 4, 7, 10, 13, 16, 19, 22]
    assert which(tmp_path / "a.mp4", 48) == [n // 2 for n in range(48)]
    halves = which(tmp_path / "a.mp4", 16)
    assert len(halves) == 16 and all(
        abs(shown / 24 - tick / 16) <= 0.5 / 16 + 1e-9 for tick, shown in enumerate(halves)
    )


def test_a_variable_rate_is_held_as_long_as_it_is_shown(tmp_path: Path):
    timed_video(tmp_path / "a.mkv", greys(4), [0, 1000, 1250, 2000])
    assert which(tmp_path / "a.mkv", 8)[:16] == [0] * 8 + [1] * 2 + [2] * 6


@pytest.mark.parametrize(("width", "height"), [(51, 33), (33, 97), (32, 32), (8, 200)])
def test_any_size_is_cropped_around_the_middle_as_pictures_to_start_from_are(tmp_path: Path, width: int, height: int):
    picture = pictures(1, width=width, height=height)[0]
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert np.array_equal(fitted(picture, geometry()), read_image(tmp_path / "a.png", 32, 32))


@pytest.mark.parametrize(
    ("frames", "lengths"), [(9, [3]), (17, [3, 2]), (16, [3, 2]), (14, [3, 2]), (13, [3]), (6, [3]), (5, []), (1, [])]
)
def test_chunks_are_the_latents_of_the_whole_video(storybook: Tiny, frames: int, lengths: list[int]):
    models = load_models(str(storybook.folder))
    shown = pictures(frames)
    chunks = list(latent_chunks(iter(shown), models.autoencoder, geometry()))
    assert [chunk.shape[1] for chunk in chunks] == lengths
    if chunks:
        filled = np.concatenate([shown, shown[-1:].repeat(-(frames - 1) % 4, axis=0)])
        whole = encode(models.autoencoder, to_unit(torch.from_numpy(filled))[None])[0]
        assert torch.equal(torch.cat(chunks, dim=1), whole[:, : sum(lengths)])


def test_what_is_no_video_is_refused(tmp_path: Path):
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(InputError, match="is not a video that FFmpeg can open"):
        list(steady(tmp_path / "a.mp4", geometry()))
