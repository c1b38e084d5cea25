"""What each step trains on: a permutation that the seed decides, dealt to however many ranks there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from blockvid.errors import InputError

Items = Int[np.ndarray, " _"]


@dataclass(frozen=True)
class Rank:
    """Which share of every batch this process trains on; ranks that compute one sample together share a number."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise InputError(f"rank {self.index} of {self.count} does not exist; use 0 to {self.count - 1}")


@dataclass(frozen=True)
class Cursor:
    """Where a run is in its data: save it with the weights that have seen what it counts."""

    seed: int = 0
    epoch: int = 0
    consumed: int = 0
    """Items of this epoch that were trained on, by all ranks together."""


class Sampler:
    """Deals items to steps: every item once an epoch, in batches of one kind, in the same order for any world size.

    Within an epoch each kind's items are permuted and cut into batches, and the batches are permuted. The last batch of
    a kind is completed with the first items of its permutation, so up to `batch` - 1 of a kind come twice, and a
    data set smaller than a batch can be trained on.
    """

    def __init__(self, kinds: Sequence[Items], batch: int, seed: int = 0, rank: Rank | None = None) -> None:
        """Over the items of each kind; `batch` is that of all ranks together.

        Raises InputError if there is no item, or the batch does not divide over the ranks.
        """
        self.rank = rank or Rank()
        if batch < 1 or batch % self.rank.count:
            below = batch - batch % self.rank.count
            near = f"{below} or {below + self.rank.count}" if below > 0 else f"{self.rank.count}"
            raise InputError(f"a batch of {batch} does not divide over {self.rank.count} ranks; use {near}")
        self.kinds = [np.asarray(kind) for kind in kinds if len(kind)]
        if not self.kinds:
            raise InputError("there is nothing to train on: the data set holds no item; encode some videos first")
        self.batch, self.seed = batch, seed
        self._dealt: tuple[int, list[Items]] = (-1, [])

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return sum(-(-len(kind) // self.batch) for kind in self.kinds)

    def whole(self, step: int) -> Items:
        """The items of all ranks at a step, counted from the beginning of the first epoch."""
        epoch, position = divmod(step, self.steps)
        if self._dealt[0] != epoch:  # kept, for it takes longer to deal an epoch than to train on a small batch
            self._dealt = epoch, self._deal(epoch)
        return self._dealt[1][position]

    def at(self, step: int) -> Items:
        """This rank's items at a step: a pure function of the step."""
        return self.whole(step)[self.rank.index :: self.rank.count]

    def cursor(self, step: int) -> Cursor:
        """The state after `step` steps."""
        epoch, position = divmod(step, self.steps)
        return Cursor(self.seed, epoch, position * self.batch)

    def step(self, cursor: Cursor) -> int:
        """The step that comes next. Raises InputError for the cursor of another seed, batch size or data set."""
        if cursor.seed != self.seed:
            raise InputError(f"the data was dealt with seed {cursor.seed}, not {self.seed}; use seed {cursor.seed}")
        position, rest = divmod(cursor.consumed, self.batch)
        if rest or not 0 <= position <= self.steps or cursor.epoch < 0:
            raise InputError(
                f"{cursor.consumed} items into an epoch of {self.steps} batches of {self.batch} is no place between "
                "two batches; use the data set and the batch size that the run was begun with"
            )
        return cursor.epoch * self.steps + position

    def take(self, cursor: Cursor) -> tuple[Items, Cursor]:
        """This rank's next items, and the cursor to keep once they have been consumed."""
        step = self.step(cursor)
        return self.at(step), self.cursor(step + 1)

    def _deal(self, epoch: int) -> list[Items]:
        batches: list[Items] = []
        for number, kind in enumerate(self.kinds):
            order = np.random.default_rng((self.seed, epoch, number)).permutation(kind)
            filled = np.resize(order, -(-len(kind) // self.batch) * self.batch)  # which repeats from the beginning
            batches.extend(filled.reshape(-1, self.batch))
        turns = np.random.default_rng((self.seed, epoch, len(self.kinds))).permutation(len(batches))
        return [batches[turn] for turn in turns]
