"""Laws of the order: decided by the seed alone, whole in every epoch, and the same from any saved place."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockvid.data.sampler import Cursor, Rank, Sampler
from blockvid.errors import InputError

KINDS = (np.arange(0, 7), np.arange(7, 30))


def sampler(batch: int = 6, seed: int = 0, rank: Rank | None = None) -> Sampler:
    return Sampler(KINDS, batch, seed, rank)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_any_number_of_ranks_sees_the_same_items_at_every_step(world: int):
    ranks = [sampler(rank=Rank(index, world)) for index in range(world)]
    for step in range(2 * sampler().steps):
        dealt = np.empty(6, dtype=int)
        for index, rank in enumerate(ranks):
            dealt[index::world] = rank.at(step)
        assert dealt.tolist() == sampler().whole(step).tolist()


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4).filter(any),
    batch=st.integers(1, 12),
    epoch=st.integers(0, 3),
)
def test_an_epoch_holds_every_item_and_few_twice_in_batches_of_one_kind(sizes: list[int], batch: int, epoch: int):
    bounds = np.cumsum([0, *sizes])
    kinds = [np.arange(bounds[n], bounds[n + 1]) for n in range(len(sizes))]
    deal = Sampler(kinds, batch)
    batches = [deal.whole(epoch * deal.steps + step) for step in range(deal.steps)]
    for kind in kinds:
        own = [items for items in batches if np.isin(items, kind).any()]
        assert all(np.isin(items, kind).all() for items in own)
        seen = np.concatenate(own).tolist() if own else []
        assert set(seen) == set(kind.tolist()) and len(seen) - len(kind) < batch


def test_a_step_does_not_depend_on_the_steps_before():
    forward = [sampler().at(step).tolist() for step in range(15)]
    one = sampler()
    assert [one.at(step).tolist() for step in reversed(range(15))] == forward[::-1]


def test_epochs_and_seeds_differ():
    deal = sampler()
    first, second = (np.concatenate([deal.whole(e * deal.steps + s) for s in range(deal.steps)]) for e in (0, 1))
    other = np.concatenate([sampler(seed=1).whole(s) for s in range(deal.steps)])
    assert first.tolist() != second.tolist() and first.tolist() != other.tolist()


def test_from_a_saved_cursor_it_goes_on_whatever_the_number_of_ranks():
    alone, cursor, seen = sampler(), Cursor(), []
    for _ in range(8):
        items, cursor = alone.take(cursor)
        seen.append(items.tolist())
    assert seen == [alone.at(step).tolist() for step in range(8)]
    saved = Cursor(**json.loads(json.dumps(dataclasses.asdict(cursor))))
    assert saved == cursor == alone.cursor(8) and alone.step(saved) == 8
    for index in range(2):
        items, _ = sampler(rank=Rank(index, 2)).take(saved)
        assert items.tolist() == alone.at(8)[index::2].tolist()


def test_what_was_read_ahead_but_not_consumed_is_read_again():
    deal, cursor = sampler(), Cursor()
    ahead, _ = deal.take(cursor)
    again, _ = deal.take(cursor)
    assert ahead.tolist() == again.tolist()


@pytest.mark.parametrize(
    ("cursor", "message"),
    [
        (Cursor(seed=1), "dealt with seed 1, not 0; use seed 1"),
        (Cursor(consumed=5), "5 items into an epoch of 6 batches of 6 is no place between two batches"),
        (Cursor(consumed=60), "use the data set and the batch size that the run was begun with"),
    ],
)
def test_foreign_cursors_are_refused(cursor: Cursor, message: str):
    with pytest.raises(InputError, match=message):
        sampler().step(cursor)


def test_what_cannot_be_dealt_is_refused():
    with pytest.raises(InputError, match="a batch of 6 does not divide over 4 ranks; use 4 or 8"):
        sampler(rank=Rank(0, 4))
    with pytest.raises(InputError, match="a batch of 2 does not divide over 4 ranks; use 4"):
        sampler(batch=2, rank=Rank(0, 4))
    with pytest.raises(InputError, match="rank 2 of 2 does not exist; use 0 to 1"):
        Rank(2, 2)
    with pytest.raises(InputError, match="holds no item"):
        Sampler([np.arange(0)], 2)
