"""Rotary positions: three axes, interleaved pairs, only distances matter."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blockvid.attention.rope import MAX_POSITION, Rope, grid_positions
from blockvid.errors import InputError


def test_positions_are_in_token_order() -> None:
    expected = [[t, h, w] for t in (5, 6) for h in (0, 1) for w in (0, 1, 2)]
    assert grid_positions(2, 2, 3, start=5).tolist() == expected


@pytest.mark.parametrize(("dim", "split"), [(128, (44, 42, 42)), (64, (24, 20, 20)), (16, (8, 4, 4)), (24, (8, 8, 8))])
def test_channels_are_split_as_in_wan(dim: int, split: tuple[int, int, int]) -> None:
    assert Rope(dim).split == split


def test_a_pair_turns_by_its_phase() -> None:
    """Channels (0, 1) turn by t radians: their frequency is 1."""
    x = torch.zeros(1, 1, 1, 16)
    x[..., 0] = 1.0
    rope = Rope(16)
    turned = rope.rotate(x, rope.phases(torch.tensor([[2, 0, 0]])))[0, 0, 0]
    torch.testing.assert_close(turned[:2], torch.tensor([math.cos(2), math.sin(2)]))
    assert turned[2:].abs().max() == 0


@given(
    a=st.tuples(*[st.integers(0, 400)] * 3),
    b=st.tuples(*[st.integers(0, 400)] * 3),
    offset=st.tuples(*[st.integers(0, 400)] * 3),
)
def test_scores_depend_on_distances_alone(
    a: tuple[int, int, int], b: tuple[int, int, int], offset: tuple[int, int, int]
) -> None:
    rope, generator = Rope(24), torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 24, generator=generator).double().unbind(0)

    def score(shift: torch.Tensor) -> torch.Tensor:
        place = [rope.phases(torch.tensor([at]) + shift) for at in (a, b)]
        return (rope.rotate(q, place[0]) * rope.rotate(k, place[1])).sum()

    torch.testing.assert_close(score(torch.tensor([offset])), score(torch.tensor([[0, 0, 0]])), rtol=0, atol=2e-5)


def test_rotation_keeps_lengths_and_dtype() -> None:
    rope, x = Rope(16), torch.randn(2, 6, 3, 16)
    phases = rope.phases(grid_positions(1, 2, 3))
    torch.testing.assert_close(rope.rotate(x, phases).norm(dim=-1), x.norm(dim=-1))
    assert rope.rotate(x.bfloat16(), phases).dtype == torch.bfloat16


def test_positions_past_the_table_are_refused() -> None:
    with pytest.raises(InputError, match="position 1024 is past the rotary table of 1024; use a bounded window"):
        Rope(16).phases(grid_positions(1, 1, 1, start=MAX_POSITION))
    Rope(16).phases(grid_positions(1, 1, 1, start=MAX_POSITION - 1))
