"""What each policy recalls, and why."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blockvid.attention.policies import (
    DynamicSparse,
    Full,
    KeyValuePolicy,
    Policy,
    Semantic,
    SinkWindow,
    Window,
    needed,
    recalls,
    similarity,
)
from blockvid.attention.salience import Salience
from blockvid.errors import InputError

EVERY = [Full(), Window(2), Window(0), SinkWindow(1, 2), SinkWindow(2, 0), DynamicSparse(3), Semantic(2, 2)]


def random_similarity(chunks: int, seed: int) -> torch.Tensor:
    return similarity(torch.randn(chunks, 4, generator=torch.Generator().manual_seed(seed)))


def indices(policy: Policy, chunk: int, similar: torch.Tensor) -> list[int]:
    return [index for index, _ in policy.recall(chunk, similar)]


@pytest.mark.parametrize("policy", EVERY, ids=repr)
@given(chunks=st.integers(1, 12), seed=st.integers(0, 99))
def test_the_past_is_recalled_once_in_order_and_never_the_future(
    policy: KeyValuePolicy, chunks: int, seed: int
) -> None:
    similar = random_similarity(chunks, seed)
    assert isinstance(policy, Policy)
    for chunk, recall in enumerate(recalls(policy, similar)):
        found = [index for index, _ in recall]
        assert found == sorted(set(found)) and all(0 <= index < chunk for index in found)
    later = torch.randn(20, 20, generator=torch.Generator().manual_seed(seed))
    later[:chunks, :chunks] = similar
    assert recalls(policy, later)[:chunks] == recalls(policy, similar), "prompts to come change nothing"


def test_each_policy_by_hand() -> None:
    similar = torch.eye(8)
    assert indices(Full(), 3, similar) == [0, 1, 2]
    assert [indices(Window(2), chunk, similar) for chunk in (0, 1, 5)] == [[], [0], [3, 4]]
    assert [indices(SinkWindow(1, 2), chunk, similar) for chunk in (1, 2, 3, 5)] == [[0], [0, 1], [0, 1, 2], [0, 3, 4]]
    assert SinkWindow(1, 2).recall(5, similar) == ((0, "sink"), (3, "recent"), (4, "recent"))
    assert indices(DynamicSparse(4), 7, similar) == [3, 4, 5, 6]


def test_semantic_takes_the_most_similar_of_the_rest() -> None:
    similar = torch.eye(7)
    similar[6] = torch.tensor([0.1, 0.9, 0.3, 0.8, 1.0, 1.0, 1.0])
    found = Semantic(similar=2, recent=2).recall(6, similar)
    assert found == ((1, "similar"), (3, "similar"), (4, "recent"), (5, "recent"))
    assert indices(Semantic(2, 2), 3, similar) == [0, 1, 2], "fewer than asked for: all there are"


def test_semantic_without_retrieval_is_the_thinned_window_and_with_enough_of_it_the_full_history() -> None:
    similar, thin = random_similarity(9, 0), Salience(0.7, multiple=1)
    for chunk in range(9):
        assert Semantic(0, 2, thin).recall(chunk, similar) == DynamicSparse(2, thin).recall(chunk, similar)
        assert indices(Semantic(9, 2), chunk, similar) == indices(Full(), chunk, similar)
    assert Semantic(0, 2, thin).salience == DynamicSparse(2, thin).salience == thin


def test_ties_go_to_the_earliest_or_to_the_latest() -> None:
    same = similarity(torch.ones(7, 3) * torch.arange(1.0, 8)[:, None])
    same[6, 2] += 3e-7  # below the rounding
    assert indices(Semantic(2, 2), 6, same) == [0, 1, 4, 5]
    assert indices(Semantic(2, 2, ties="latest"), 6, same) == [2, 3, 4, 5]


@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_the_scale_of_embeddings_does_not_matter(scale: float, seed: int) -> None:
    pooled = torch.randn(8, 5, generator=torch.Generator().manual_seed(seed))
    scaled = pooled * torch.logspace(0, 1, 8)[:, None] * scale
    assert recalls(Semantic(), similarity(scaled)) == recalls(Semantic(), similarity(pooled))


def test_needed_is_what_a_later_chunk_recalls() -> None:
    plan = recalls(Window(2), torch.eye(6))
    assert needed(plan, 4) == {2, 3} and needed(plan, 0) == set() and needed(plan, 6) == set()
    similar = torch.eye(6)
    similar[5, 1] = 0.5
    assert needed(recalls(Semantic(1, 1), similar), 5) == {1, 4}


def test_nonsense_is_refused() -> None:
    for policy, values in ((Window, (-1,)), (SinkWindow, (-1, 2)), (DynamicSparse, (-1,)), (Semantic, (-1, 2))):
        with pytest.raises(InputError, match=r"-1 .*chunks is negative; use 0"):
            policy(*values)


@pytest.mark.parametrize("policy", EVERY, ids=repr)
@given(chunks=st.integers(1, 12), seed=st.integers(0, 99))
def test_no_more_is_held_than_is_announced(policy: KeyValuePolicy, chunks: int, seed: int) -> None:
    plan = recalls(policy, random_similarity(chunks, seed))
    assert max(len(needed(plan, start)) for start in range(chunks + 1)) <= policy.held(chunks)
