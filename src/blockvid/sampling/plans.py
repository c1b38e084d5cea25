"""Which chunk moves when: a plan is a generator of steps and commits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Step:
    """One forward pass over the active chunks, in ascending order, each at its own level."""

    chunks: tuple[int, ...]
    sigma: tuple[float, ...]
    sigma_next: tuple[float, ...]


@dataclass(frozen=True)
class Commit:
    """A chunk has reached sigma = 0: one clean pass writes it to memory, then it is handed out."""

    chunk: int

    @property
    def chunks(self) -> tuple[int, ...]:
        """The chunk, as a Step would name it."""
        return (self.chunk,)


@runtime_checkable
class PlanProtocol(Protocol):
    """Orders the work on the chunks of one video.

    `chunks` are the indices still to make, ascending: a resumed video passes those that are left. Every chunk must
    descend the whole grid and be committed once, in order.
    """

    def __call__(self, chunks: Sequence[int], grid: Sequence[float]) -> Iterator[Step | Commit]: ...


@dataclass(frozen=True)
class Chunkwise:
    """One chunk at a time, from noise to data, each seeing only finished ones (Eq. 10)."""

    def __call__(self, chunks: Sequence[int], grid: Sequence[float]) -> Iterator[Step | Commit]:
        for chunk in chunks:
            for sigma, sigma_next in pairwise(grid):
                yield Step((chunk,), (sigma,), (sigma_next,))
            yield Commit(chunk)


Plan = Chunkwise
