"""Laws of takes: reproducible, split in two, and moving as their segments say."""

from __future__ import annotations

import numpy as np
import pytest

from blockvid.errors import InputError
from blockvid.storybook.scenes import HELD_OUT
from blockvid.storybook.takes import CHUNK_SECONDS, Segment, Take, make_take, motion, sample_take


def _ends(take: Take) -> tuple[np.ndarray, np.ndarray]:
    state = motion(take, np.arange(len(take.segments) + 1) * CHUNK_SECONDS)
    return state.x, state.camera


def test_a_seed_gives_one_take_and_seeds_differ() -> None:
    assert sample_take(3, 60) == sample_take(3, 60)
    assert len({sample_take(seed, 8) for seed in range(20)}) == 20
    assert sample_take(5, 60).seconds == 60


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_splits_are_disjoint(split) -> None:
    for seed in range(60):
        take = sample_take(seed, 4, split)
        assert ((take.subject, take.scene) in HELD_OUT) == (split == "heldout")


def test_every_pair_is_of_one_split_or_the_other() -> None:
    pairs = {(take.subject, take.scene) for take in (sample_take(seed, 4, "every") for seed in range(600))}
    assert pairs & HELD_OUT and pairs - HELD_OUT


def test_every_direction_is_the_displacement_in_the_world() -> None:
    for seed in range(60):
        take = sample_take(seed, 24)
        x, _ = _ends(take)
        for segment, moved in zip(take.segments, np.diff(x), strict=True):
            wanted = {"left": -1, "right": 1, "none": 0}[segment.direction]
            assert wanted * moved > 0.25 if wanted else abs(moved) < 0.12, (seed, segment, moved)


def test_the_camera_does_what_its_name_says() -> None:
    for seed in range(60):
        take = sample_take(seed, 24)
        _, camera = _ends(take)
        zoom = motion(take, np.arange(len(take.segments) + 1) * CHUNK_SECONDS).zoom
        for index, segment in enumerate(take.segments):
            moved, ratio = camera[index + 1] - camera[index], zoom[index + 1] / zoom[index]
            if segment.camera.startswith("pan"):
                assert moved * {"pan_left": -1, "pan_right": 1}[segment.camera] > 0.25
            if segment.camera == "still":
                assert abs(moved) < 0.25
            if segment.camera.startswith("zoom"):
                assert (ratio > 1.1) if segment.camera == "zoom_in" else (ratio < 0.9)
            else:
                assert ratio == pytest.approx(1)


def test_motion_is_continuous_and_independent_of_the_frame_rate() -> None:
    take = sample_take(11, 60)
    fine = motion(take, np.arange(0, 60, 1 / 240))
    for values in (fine.x, fine.camera, fine.zoom, fine.scale, fine.facing):
        assert np.abs(np.diff(values)).max() < 0.07
    coarse = motion(take, np.arange(0, 60, 1 / 8))
    np.testing.assert_allclose(coarse.x, fine.x[::30], atol=1e-12)


def test_impossible_takes_are_refused() -> None:
    with pytest.raises(InputError, match="lacks"):
        make_take("desert", "blue_dolphin", (Segment("stand"),))
    with pytest.raises(InputError, match="left or right"):
        make_take("desert", "camel", (Segment("walk"),))
    with pytest.raises(InputError, match="unknown"):
        make_take("desert", "camel", (Segment("explode"),))
