"""Laws of what a chunk starts from."""

from __future__ import annotations

import pytest
import torch

from blockvid.sampling.noise import Start, base_noise, chunk_seed

SHAPE = (1, 4, 3, 2, 2)


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
