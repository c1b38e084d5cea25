"""Laws of what a chunk starts from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from blockvid.errors import InputError
from blockvid.flow import noised
from blockvid.sampling.noise import BoundaryNoise, Start, base_noise, chunk_seed

SHAPE = (1, 4, 3, 2, 2)
FRAMES = (9, 8, 8, 5)  # the first chunk has the video's extra frame
SEEDS = (7, 7, 7, 7)
SIZE = (4, 2, 3)
BASES = ("independent", "shared")
every_base = pytest.mark.parametrize("base", BASES)
every_shuffle = pytest.mark.parametrize("shuffle", ["local", "joint", "freenoise"])


def video(noise: BoundaryNoise, seeds: tuple[int, ...] = SEEDS, frames: tuple[int, ...] = FRAMES) -> list[Tensor]:
    """Every chunk's noise, frames first: (f, c h w)."""
    return [noise(chunk, seeds, frames, SIZE)[0].movedim(1, 0).flatten(1) for chunk in range(len(frames))]


def frame_set(*pieces: Tensor) -> list[tuple[float, ...]]:
    """The frames in an order of their own: equal for two lists of the same frames."""
    return sorted(tuple(frame.tolist()) for frame in torch.cat(pieces))


def test_noise_depends_on_seed_and_chunk_only() -> None:
    torch.manual_seed(1)
    first = [base_noise(7, chunk, SHAPE) for chunk in range(2)]
    torch.manual_seed(2)
    later = [base_noise(7, chunk, SHAPE) for chunk in reversed(range(5))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, later, strict=False))
    assert not torch.equal(later[0], later[1])
    assert not torch.equal(base_noise(8, 0, SHAPE), later[0])


def test_neighbouring_seeds_and_chunks_share_nothing() -> None:
    seeds = {chunk_seed(seed, chunk) for seed in range(-20, 20) for chunk in range(40)}
    assert len(seeds) == 40 * 40


def test_seeds_stay_what_they_were() -> None:
    """A golden: changing it changes every published video."""
    assert [chunk_seed(0, 0), chunk_seed(42, 3)] == [7120306904099482837, 15108266918530370284]


def test_another_dtype_is_the_same_noise_rounded() -> None:
    assert torch.equal(base_noise(0, 0, SHAPE, dtype=torch.bfloat16), base_noise(0, 0, SHAPE).bfloat16())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_every_device_has_the_same_noise() -> None:
    assert torch.equal(base_noise(0, 0, SHAPE, device="cuda").cpu(), base_noise(0, 0, SHAPE))


def test_noise_is_standard_normal() -> None:
    noise = base_noise(0, 0, (1, 16, 8, 32, 32))
    assert noise.mean().abs() < 0.01
    assert abs(noise.std() - 1) < 0.01


def test_known_frames_hold_their_values_and_the_rest_is_the_noise_there_was() -> None:
    noise, clean = base_noise(0, 0, SHAPE), torch.ones(1, 4, 1, 2, 2)
    start = Start.after(clean, noise)
    assert start.known.tolist() == [True, False, False]
    assert torch.equal(start.x[:, :, :1], clean)
    assert torch.equal(start.x[:, :, 1:], noise[:, :, 1:])
    free = Start.after(None, noise)
    assert torch.equal(free.x, noise)
    assert not free.known.any()


def test_a_warm_start_is_the_previous_chunk_noised() -> None:
    noise, previous = base_noise(0, 1, SHAPE), base_noise(1, 0, SHAPE)
    start = Start.warm(None, noise, previous, 0.3)
    torch.testing.assert_close(start.x, 0.7 * previous + 0.3 * noise)
    assert not start.known.any()
    assert torch.equal(Start.warm(None, noise, previous, 1.0).x, noise)


@pytest.mark.parametrize(("count", "taken"), [(4, [1, 2, 3]), (3, [0, 1, 2]), (2, [0, 1, 1]), (1, [0, 0, 0])])
def test_a_longer_chunk_is_cut_at_its_start_and_a_shorter_one_held_at_its_end(count: int, taken: list[int]) -> None:
    noise, previous = base_noise(0, 1, SHAPE), base_noise(1, 0, (1, 4, count, 2, 2))
    expected = noised(previous[:, :, taken], noise, torch.full((1, 3), 0.3))
    assert torch.equal(Start.warm(None, noise, previous, 0.3).x, expected)


def test_known_frames_win_over_a_warm_start() -> None:
    noise, previous, clean = base_noise(0, 1, SHAPE), base_noise(1, 0, SHAPE), torch.ones(1, 4, 1, 2, 2)
    start = Start.warm(clean, noise, previous, 0.3)
    assert start.known.tolist() == [True, False, False]
    assert torch.equal(start.x[:, :, :1], clean)
    assert torch.equal(start.x[:, :, 1:], Start.warm(None, noise, previous, 0.3).x[:, :, 1:])


def test_an_overlap_stands_before_all_that_a_chunk_starts_from() -> None:
    noise, previous, clean = base_noise(0, 1, SHAPE), base_noise(1, 0, (1, 4, 2, 2, 2)), torch.ones(1, 4, 1, 2, 2)
    plain = Start.after(clean, noise, seed=3)
    start = plain.overlapping(previous)
    assert (start.known.tolist(), start.overlap, start.seed) == ([True, True, True, False, False], 2, 3)
    assert torch.equal(start.x, torch.cat([previous, plain.x], dim=2))


@pytest.mark.parametrize("level", [0.0, -0.1, 1.1, float("nan")])
def test_a_warm_start_at_no_level_is_an_input_error(level: float) -> None:
    with pytest.raises(InputError, match=f"level {level} is outside .* use 1"):
        Start.warm(None, base_noise(0, 1, SHAPE), base_noise(0, 0, SHAPE), level)


@every_shuffle
def test_without_a_window_noise_is_the_base_noise_bit_for_bit(shuffle: str) -> None:
    seeds = (7, 8, 2**63 - 1, 7)
    for chunk, (seed, frames) in enumerate(zip(seeds, FRAMES, strict=True)):
        assert torch.equal(
            BoundaryNoise(shuffle=shuffle)(chunk, seeds, FRAMES, SIZE), base_noise(seed, chunk, (1, 4, frames, 2, 3))
        )


@every_base
def test_a_local_window_of_one_frame_changes_nothing(base: str) -> None:
    for one, none in zip(video(BoundaryNoise(base, window=1)), video(BoundaryNoise(base)), strict=True):
        assert torch.equal(one, none)


@every_base
def test_local_shuffling_keeps_both_ends_of_a_chunk_in_place(base: str) -> None:
    """Eqs. 12 and 13: each side of a boundary keeps its own frames, in another order."""
    plain, shuffled = video(BoundaryNoise(base)), video(BoundaryNoise(base, "local", window=4))
    for chunk, (before, after) in enumerate(zip(plain, shuffled, strict=True)):
        s = min(4, (FRAMES[chunk] - (chunk == 0)) // 2)
        assert frame_set(after[-s:]) == frame_set(before[-s:])
        assert chunk == 0 or frame_set(after[:s]) == frame_set(before[:s])
        assert s < 4 or not torch.equal(before, after)  # two frames keep their order every other time


@every_base
def test_joint_shuffling_keeps_the_frames_of_both_sides_together(base: str) -> None:
    plain, shuffled = video(BoundaryNoise(base)), video(BoundaryNoise(base, "joint", window=4))
    for chunk, (s, z) in enumerate([(4, 4), (4, 4), (4, 2)]):
        sides = [(noise[chunk][-s:], noise[chunk + 1][:z]) for noise in (plain, shuffled)]
        assert frame_set(*sides[0]) == frame_set(*sides[1])
    moved = [frame_set(a) != frame_set(b) for a, b in zip(plain, shuffled, strict=True)]
    assert base == "shared" or all(moved)  # frames did cross


@every_base
def test_freenoise_begins_a_chunk_with_the_noise_that_the_one_before_ended_on(base: str) -> None:
    plain, shuffled = video(BoundaryNoise(base)), video(BoundaryNoise(base, "freenoise", window=4))
    assert not torch.equal(shuffled[1][:4], shuffled[0][-4:])
    for chunk, s in enumerate([4, 4, 2]):
        assert frame_set(shuffled[chunk + 1][:s]) == frame_set(shuffled[chunk][-s:])
        reach = min(4, FRAMES[chunk] // 2)
        assert frame_set(shuffled[chunk][-reach:]) == frame_set(plain[chunk][-reach:])


def test_freenoise_copies_what_there_is_where_the_chunk_before_is_shorter() -> None:
    noise = BoundaryNoise(shuffle="freenoise", window=4)
    plain, shuffled = (video(made, (7, 7, 7), (9, 4, 8)) for made in (BoundaryNoise(), noise))
    assert frame_set(shuffled[2][:4]) == frame_set(shuffled[1][-2:], plain[2][2:4])


@every_base
@every_shuffle
@pytest.mark.parametrize("window", [2, 3, 100])
@pytest.mark.parametrize("frames", [FRAMES, (8, 7, 7, 7)], ids=str)
def test_the_interior_and_the_beginning_of_the_video_are_left_alone(
    base: str, shuffle: str, window: int, frames: tuple[int, ...]
) -> None:
    plain = video(BoundaryNoise(base), frames=frames)
    shuffled = video(BoundaryNoise(base, shuffle, window), frames=frames)
    for chunk, (before, after) in enumerate(zip(plain, shuffled, strict=True)):
        s = min(window, (frames[chunk] - (chunk == 0)) // 2)
        kept = slice(0 if chunk == 0 else s, len(before) - s)
        assert torch.equal(before[kept], after[kept])


@every_base
@every_shuffle
@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("frames", [(9, 8, 8, 8), (1, 1, 1), (2, 1, 1), (4, 3, 3, 3)], ids=str)
def test_noise_does_not_depend_on_how_many_chunks_follow(
    base: str, shuffle: str, window: int, frames: tuple[int, ...]
) -> None:
    noise = BoundaryNoise(base, shuffle, window)
    whole = video(noise, frames=frames, seeds=SEEDS[: len(frames)])
    for length in range(1, len(frames)):
        short = video(noise, frames=frames[:length], seeds=SEEDS[:length])
        assert all(torch.equal(a, b) for a, b in zip(short, whole, strict=False))


@pytest.mark.parametrize("shuffle", ["local", "freenoise"])
def test_noise_does_not_depend_on_what_follows_either_unless_it_is_pooled(shuffle: str) -> None:
    noise = BoundaryNoise(shuffle=shuffle, window=4)
    ours, other = video(noise), video(noise, seeds=(7, 7, 8, 8), frames=(9, 8, 3, 5))
    assert all(torch.equal(a, b) for a, b in zip(ours[:2], other[:2], strict=True))


@every_base
@every_shuffle
def test_shuffling_is_a_function_of_its_arguments(base: str, shuffle: str) -> None:
    torch.manual_seed(1)
    first = video(BoundaryNoise(base, shuffle, 4))
    torch.manual_seed(2)
    noise = BoundaryNoise(base, shuffle, 4)
    again = [noise(chunk, SEEDS, FRAMES, SIZE) for chunk in reversed(range(4))][::-1]
    assert all(torch.equal(a, b[0].movedim(1, 0).flatten(1)) for a, b in zip(first, again, strict=True))
    other = video(noise, seeds=(8, 8, 8, 8))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_shared_noise_is_the_same_in_every_chunk_of_a_seed() -> None:
    first, *rest = video(BoundaryNoise("shared"), seeds=(7, 7, 8, 7))
    assert torch.equal(first[1:], rest[0])
    assert torch.equal(rest[0][:5], rest[2])
    assert not torch.equal(rest[0], rest[1])
    assert frame_set(first[:1])[0] not in frame_set(first[1:])  # the extra first frame has noise of its own


def test_chunks_of_shared_noise_are_shuffled_each_in_its_own_order() -> None:
    chunks = video(BoundaryNoise("shared", "local", 4), frames=(9, 8, 8, 8))[1:]
    assert frame_set(chunks[0]) == frame_set(chunks[1]) == frame_set(chunks[2])
    assert not torch.equal(chunks[0], chunks[1])
    assert not torch.equal(chunks[1], chunks[2])


@every_base
@every_shuffle
def test_shuffled_noise_is_standard_normal(base: str, shuffle: str) -> None:
    noise = BoundaryNoise(base, shuffle, 4)(1, SEEDS, FRAMES, (16, 32, 32))
    assert noise.mean().abs() < 0.01
    assert abs(noise.std() - 1) < 0.01


def test_shuffled_seeds_stay_what_they_were() -> None:
    """A golden: changing it changes every published video that was made with shuffling."""
    order = {}
    plain = video(BoundaryNoise("shared"))
    frames = [tuple(frame.tolist()) for frame in plain[1]]
    for shuffle in ("local", "joint", "freenoise"):
        shuffled = video(BoundaryNoise("shared", shuffle, 4))
        order[shuffle] = [frames.index(tuple(frame.tolist())) for frame in shuffled[1]]
    assert order == {
        "local": [2, 0, 1, 3, 7, 6, 5, 4],
        "joint": [6, 0, 3, 1, 6, 4, 5, 3],
        "freenoise": [4, 5, 6, 7, 7, 6, 5, 4],
    }


def test_settings_and_chunks_that_are_none_are_input_errors() -> None:
    with pytest.raises(InputError, match=r"window of -1 latent frames .* use 0"):
        BoundaryNoise(window=-1)
    with pytest.raises(InputError, match="chunk 4 is not among 4 chunks with 4 seeds"):
        BoundaryNoise()(4, SEEDS, FRAMES, SIZE)
    with pytest.raises(InputError, match="4 chunks with 1 seeds"):
        BoundaryNoise()(0, (7,), FRAMES, SIZE)
    for name, known in (("base", "independent, shared"), ("shuffle", "local, joint, freenoise")):
        noise = BoundaryNoise()
        object.__setattr__(noise, name, "global")  # the tests' own check of signatures would refuse it first
        with pytest.raises(InputError, match=f"{name} 'global' is unknown; use {known}"):
            noise.__post_init__()
