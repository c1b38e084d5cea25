"""Importance and selection of tokens against their definitions."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from blockvid.attention.rope import Rope, grid_positions
from blockvid.attention.salience import Salience, cover_count
from blockvid.errors import InputError

ROPE = Rope(16)


def qk(tokens: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(2 * torch.randn(tokens, 3, 16, generator=generator) for _ in range(2))


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def naive(q: Tensor, k: Tensor, probes: list[int], causal: bool) -> Tensor:
    """The mean over (head, probe) pairs that may see a token, one pair at a time."""
    total, voters = torch.zeros(len(k)), torch.zeros(len(k))
    for p in probes:
        seen = p + 1 if causal else len(k)
        for head in range(q.shape[1]):
            row = (k[:seen, head] @ q[p, head] / math.sqrt(q.shape[-1])).softmax(0)
            total[:seen] += row
            voters[:seen] += 1
    return total / voters.clamp(min=1)


@pytest.mark.parametrize("mask", ["none", "token"])
def test_importance_is_the_mean_attention_of_those_who_may_see(mask: str) -> None:
    q, k = qk(40)
    salience = Salience(recent=5, random=7, mask=mask)
    probes = salience.probe_indices(40, chance()).tolist()
    torch.testing.assert_close(salience.importance(q, k, chance()), naive(q, k, probes, mask == "token"))


def test_importance_sums_to_one_and_the_literal_mean_runs_along_the_tokens() -> None:
    q, k = qk(40)
    plain = Salience(recent=5, random=7)
    assert abs(float(plain.importance(q, k, chance()).sum()) - 1) < 1e-5
    received = plain.importance(q, k, chance()) * 12 * 3
    running = Salience(recent=5, random=7, mean="cumulative").importance(q, k, chance())
    torch.testing.assert_close(running, torch.stack([received[: i + 1].mean() for i in range(40)]))


def test_probes() -> None:
    literal = Salience().probe_indices(500, chance())
    assert literal[64:].tolist() == list(range(436, 500))
    assert len(set(literal.tolist())) == 128 and literal[:64].max() < 436 and literal.tolist() == sorted(literal)
    assert torch.equal(literal, Salience().probe_indices(500, chance())), "seeded"
    assert not torch.equal(literal, Salience().probe_indices(500, chance(1)))
    for few in (1, 127, 128):
        assert Salience().probe_indices(few, chance()).tolist() == list(range(few))
    assert Salience(probes="all").probe_indices(500, chance()).tolist() == list(range(500))
    spread = Salience(probes="stratified").probe_indices(500, chance())
    gaps = spread.diff()
    assert len(spread) == 128 and spread[0] == 0 and spread[-1] == 499 and gaps.min() >= 3 and gaps.max() <= 4


@given(seed=st.integers(0, 200), tau=st.floats(0.01, 0.999), size=st.integers(1, 60))
def test_the_kept_cover_tau_and_one_fewer_do_not(seed: int, tau: float, size: int) -> None:
    mass = torch.rand(size, generator=chance(seed)) ** 3 + 1e-4
    kept = Salience(tau, multiple=1).select(mass)
    assert kept.tolist() == sorted(kept.tolist())
    ordered, total = mass.double().sort(descending=True).values, mass.double().sum()
    assert mass[kept].double().sum() >= tau * total * (1 - 1e-9)
    assert ordered[: len(kept) - 1].sum() < tau * total
    torch.testing.assert_close(mass[kept].double().sum(), ordered[: len(kept)].sum(), msg="the largest are kept")


@given(seed=st.integers(0, 50), tau=st.floats(0.01, 1), multiple=st.integers(1, 40))
def test_rounding_up_only_adds(seed: int, tau: float, multiple: int) -> None:
    mass = torch.rand(50, generator=chance(seed)) ** 4
    exact, kept = (Salience(tau, multiple=m).select(mass).tolist() for m in (1, multiple))
    assert set(exact) <= set(kept) and 0 <= len(kept) - len(exact) < multiple
    assert len(kept) == 50 or len(kept) % multiple == 0


@given(seed=st.integers(0, 50))
def test_more_tau_keeps_more(seed: int) -> None:
    mass = torch.rand(50, generator=chance(seed)) ** 4
    kept = [set(Salience(tau, multiple=1).select(mass).tolist()) for tau in (0.2, 0.5, 0.9, 0.98, 1.0)]
    assert all(a <= b for a, b in pairwise(kept)) and len(kept[-1]) == 50


def test_cover_count_at_its_ends() -> None:
    assert cover_count(torch.tensor([1.0, 0.0, 0.0]), 0.98) == 1
    assert cover_count(torch.tensor([1.0, 0.0, 0.0]), 1.0) == 3
    assert cover_count(torch.full((50,), 0.02), 0.97) == 49
    assert cover_count(torch.full((1,), 0.3), 0.01) == 1


@pytest.mark.parametrize("offset", [1, 7, 300])
def test_selection_does_not_depend_on_where_in_the_video_the_chunk_is(offset: int) -> None:
    q, k = qk(48)
    grid = grid_positions(8, 2, 3)
    chosen = []
    for start in (0, offset):
        phases = ROPE.phases(grid + torch.tensor([start, 0, 0]))
        rotated = (ROPE.rotate(x[None], phases)[0] for x in (q, k))
        chosen.append(Salience(0.8, recent=8, random=8).importance(*rotated, chance()))
    torch.testing.assert_close(*chosen, rtol=0, atol=2e-6)
    assert torch.equal(Salience(0.8, multiple=1).select(chosen[0]), Salience(0.8, multiple=1).select(chosen[1]))


def test_a_token_that_everyone_looks_at_is_kept_first() -> None:
    q, k = qk(200)
    k[17] = 3 * q.mean(dim=(0, 1)) + 20 * q.mean(0)
    q += 2 * q.mean(0)
    assert Salience().importance(q, k, chance()).argmax() == 17


def test_nonsense_is_refused() -> None:
    for tau in (0.0, -1.0, 1.01, math.nan):
        with pytest.raises(InputError, match=rf"tau {tau} is outside \(0, 1\]; use 1"):
            Salience(tau)
    with pytest.raises(InputError, match="0 recent and 0 random probes are no probes"):
        Salience(recent=0, random=0)
    with pytest.raises(InputError, match="layer -1 is negative"):
        Salience(layer=-1)
    with pytest.raises(InputError, match="multiple of 0"):
        Salience(multiple=0)
