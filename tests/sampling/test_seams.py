"""Laws of how a chunk joins the one before it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from blockvid.errors import InputError
from blockvid.sampling.seams import Dissolve

SHAPE = (1, 4, 8, 3, 5)


def drawn(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def test_none_shows_a_chunk_as_it_is() -> None:
    latents = drawn(0)
    assert torch.equal(Dissolve()(latents, drawn(1)), latents)


def test_it_is_the_filter_of_its_docstring() -> None:
    latents, before = drawn(0), drawn(1)
    shown = Dissolve(0.8)(latents, before)
    for y in range(SHAPE[3]):
        for x in range(SHAPE[4]):
            last = before[0, :, -1, y, x].double()
            for t in range(SHAPE[2]):
                change = latents[0, :, t, y, x].double() - last
                d, tau = change.square().mean().sqrt(), 0.8 / 2**t
                last = last + d**4 / (d**4 + tau**4) * change
                torch.testing.assert_close(shown[0, :, t, y, x].double(), last, rtol=1e-4, atol=1e-5)


def test_only_the_last_frame_before_counts() -> None:
    latents, before = drawn(0), drawn(1)
    assert torch.equal(Dissolve(0.8)(latents, before), Dissolve(0.8)(latents, before[:, :, -1:]))


def test_motion_and_cuts_are_shown_at_once() -> None:
    """At five times tau a change is held back by a six hundredth."""
    before = torch.zeros(SHAPE)
    cut = torch.full(SHAPE, 4.0)
    shown = Dissolve(0.8)(cut, before)
    assert (cut - shown).abs().max() < 4 / 600
    assert (cut - Dissolve(8.0)(cut, before))[:, :, 0].min() > 3.7  # and at half of tau by sixteen parts of seventeen


def test_details_fade_in_and_are_all_there_before_the_chunk_ends() -> None:
    """Where the chunk is a still picture, a little other than the one before, it comes nearer from frame to frame."""
    before = drawn(0)[:, :, -1:]
    latents = (before + 0.2 * drawn(3)[:, :, :1]).expand(SHAPE)
    shown = Dissolve(0.8)(latents, before)
    missing = (shown - latents).square().mean(dim=(1, 3, 4))[0].sqrt()
    assert missing[0] > 0.9 * (before - latents).square().mean().sqrt()
    assert (missing[1:] <= missing[:-1]).all() and missing[-1] < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_does_not_change_stays(dtype: torch.dtype) -> None:
    """Also past the frame at which tau has run out in floating point."""
    before = drawn(0).to(dtype)[:, :, -1:]
    long = before.expand(1, 4, 60, 3, 5)
    assert torch.equal(Dissolve(1e-6)(long, before), long) and Dissolve(0.8)(long, before).dtype == dtype


@pytest.mark.parametrize("tau", [-1.0, float("nan"), float("inf")])
def test_what_is_no_difference_is_refused(tau: float) -> None:
    with pytest.raises(InputError, match=r"a dissolve of .* is not a finite number of at least 0; use 0"):
        Dissolve(tau)
