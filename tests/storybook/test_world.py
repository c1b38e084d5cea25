"""Laws of the renderer: deterministic, sliceable, size-free, and true to the take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from blockvid.errors import InputError
from blockvid.storybook.scenes import SCENES, paint
from blockvid.storybook.world import Segment, _stage, make_take, render, sample_take

WALK = (Segment("walk", "right", 0.2, "follow"),)


def test_rendering_twice_gives_the_same_frames(sprites: Path) -> None:
    first = render(sample_take(4, 8), 64, 48, 8, 0, 20, cache_dir=sprites)
    _stage.cache_clear()
    again = render(sample_take(4, 8), 64, 48, 8, 0, 20, cache_dir=sprites)
    assert torch.equal(first.frames, again.frames)
    assert torch.equal(first.mask, again.mask)


@pytest.mark.parametrize("seed", range(6))
def test_a_part_is_the_slice_of_the_whole(seed: int, sprites: Path) -> None:
    take = sample_take(seed, 8)
    whole = render(take, 64, 48, 8, 0, 48, cache_dir=sprites)
    part = render(take, 64, 48, 8, 13, 41, cache_dir=sprites)
    # vectorised sines may differ in the last bit with the position in a batch
    assert int((whole.frames[13:41].int() - part.frames.int()).abs().max()) <= 1
    assert torch.equal(whole.mask[13:41], part.mask)
    assert torch.equal(whole.subject[13:41], part.subject)


@pytest.mark.parametrize("scene", SCENES)
def test_every_scene_shows_its_subject_large_in_the_middle(scene: str, sprites: Path) -> None:
    clip = render(make_take(scene, "red_fox", WALK), 80, 48, 8, 16, 18, cache_dir=sprites)
    assert clip.frames.shape == (2, 48, 80, 3)
    rows, columns = torch.nonzero(clip.mask[0], as_tuple=True)
    assert 0.33 < (rows.max() - rows.min() + 1) / 48 < 0.62
    assert abs(columns.float().mean() / 80 - 0.5) < 0.2


def test_size_and_frame_rate_do_not_change_what_is_shown(sprites: Path) -> None:
    take = make_take("village", "brown_horse", WALK)
    small = render(take, 80, 48, 8, 8, 9, cache_dir=sprites)
    large = render(take, 160, 96, 24, 24, 25, cache_dir=sprites)
    assert torch.equal(small.subject, large.subject)
    shrunk = torch.nn.functional.avg_pool2d(large.frames.float().permute(0, 3, 1, 2), 2)
    assert (shrunk - small.frames.float().permute(0, 3, 1, 2)).abs().mean() < 8


def test_the_subject_faces_the_way_it_goes(sprites: Path) -> None:
    for direction in ("left", "right"):
        take = make_take("desert", "camel", (Segment("walk", direction, 0.2, "follow"),))
        mask = render(take, 160, 96, 8, 20, 21, cache_dir=sprites).mask[0]
        rows, columns = torch.nonzero(mask, as_tuple=True)
        head = columns[rows < rows.min() + (rows.max() - rows.min()) // 4].float().mean()
        assert (head < columns.float().mean()) == (direction == "left")


def test_the_background_scrolls_against_the_camera_and_the_subject_can_be_away(sprites: Path) -> None:
    plan = (
        Segment("stand", camera="still"),
        Segment("leave", "right", camera="still"),
        Segment("absent", camera="still"),
        Segment("return", "left", camera="still"),
    )
    clip = render(make_take("meadow", "red_fox", plan), 80, 48, 4, cache_dir=sprites)
    seen = clip.mask.flatten(1).any(-1)
    assert bool(seen[:16].all())
    assert not bool(seen[33:47].any())
    assert bool(seen[-2:].all())


def test_a_minute_renders_and_nights_are_dark(sprites: Path) -> None:
    long = render(sample_take(8, 60), 40, 24, 2, cache_dir=sprites)
    assert long.frames.shape[0] == 120
    light = {
        time: render(make_take("meadow", "red_fox", WALK, time=time), 40, 24, 8, 0, 1, cache_dir=sprites)
        .frames.float()
        .mean()
        for time in ("day", "night")
    }
    assert light["night"] < 0.6 * light["day"]


def test_panoramas_close_on_themselves() -> None:
    for key in SCENES:
        land = paint(key, 1, "ground", 40)
        for layer in (*land.back, land.ground, *land.props, land.front, land.clouds):
            assert torch.equal(layer.image[..., 0], layer.image[..., -1])
            jumps = (layer.image[..., 1:] - layer.image[..., :-1]).abs().mean((0, 1))
            assert jumps[-1] <= jumps.max() + 1e-6
            assert torch.isfinite(layer.image).all()


def test_no_frames_are_refused(sprites: Path) -> None:
    with pytest.raises(InputError, match="stop must lie after start"):
        render(sample_take(0, 4), start=5, stop=5, cache_dir=sprites)
