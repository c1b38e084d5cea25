"""Which chunk moves when: a plan is a generator of steps and commits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

from blockvid.errors import InputError


@dataclass(frozen=True)
class Step:
    """One forward pass over the active chunks, in ascending order, each at its own level."""

    chunks: tuple[int, ...]
    sigma: tuple[float, ...]
    sigma_next: tuple[float, ...]


@dataclass(frozen=True)
class Commit:
    """A chunk has reached sigma = 0: one more pass writes it to memory, then it is handed out."""

    chunk: int

    @property
    def chunks(self) -> tuple[int, ...]:
        """The chunk, as a Step would name it."""
        return (self.chunk,)


@runtime_checkable
class PlanProtocol(Protocol):
    """Orders the work on the chunks of one video.

    `chunks` are the indices still to make, ascending: a resumed video passes those that are left. Every chunk must
    descend the whole grid, or all of it scaled to the level it starts at, and be committed once, in order.
    """

    def __call__(self, chunks: Sequence[int], grid: Sequence[float]) -> Iterator[Step | Commit]: ...


@dataclass(frozen=True)
class Chunkwise:
    """One chunk at a time, from noise to data, each seeing only finished ones (Eq. 10).

    `starts[c]` is the level in (0, 1] at which chunk c starts, the eps_c of a warm start (`noise.Start.warm`): its
    levels are starts[c] sigma, in as many steps as any other chunk's. Empty: every chunk starts from noise, at 1.
    Raises InputError for a level outside (0, 1], and before the first step for a chunk that has none.
    """

    starts: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for chunk, start in enumerate(self.starts):
            if not 0 < start <= 1:
                raise InputError(f"chunk {chunk} starts at level {start}, outside (0, 1]; use 1 to start from noise")

    def __call__(self, chunks: Sequence[int], grid: Sequence[float]) -> Iterator[Step | Commit]:
        if self.starts and not all(0 <= chunk < len(self.starts) for chunk in chunks):
            raise InputError(
                f"{len(self.starts)} starting levels do not cover chunks {min(chunks)} to {max(chunks)}; "
                "give one for every chunk of the video, or none"
            )
        for chunk in chunks:
            start = self.starts[chunk] if self.starts else 1.0
            for sigma, sigma_next in pairwise(start * level for level in grid):
                yield Step((chunk,), (sigma,), (sigma_next,))
            yield Commit(chunk)


Plan = Chunkwise
