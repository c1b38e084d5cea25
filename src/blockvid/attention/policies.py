"""What is kept and what is recalled: which past chunks the next chunk may look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from blockvid.errors import InputError


@runtime_checkable
class Policy(Protocol):
    """Chooses the past chunks that chunk `chunk` attends to."""

    @property
    def horizon(self) -> int | None:
        """Chunks older than this many before the current one are never recalled and may be dropped; None: keep all."""
        ...

    def recall(self, chunk: int) -> tuple[int, ...]:
        """Indices of the chunks to recall, ascending, all < `chunk`."""
        ...


@dataclass(frozen=True)
class Full:
    """Every past chunk: exact and unbounded (memory and time per chunk grow with the video)."""

    @property
    def horizon(self) -> int | None:
        return None

    def recall(self, chunk: int) -> tuple[int, ...]:
        return tuple(range(chunk))


@dataclass(frozen=True)
class Window:
    """The last `chunks` chunks: constant time and memory per chunk (the rolling cache of Self Forcing)."""

    chunks: int = 2

    def __post_init__(self) -> None:
        if self.chunks < 0:
            raise InputError(f"a window of {self.chunks} chunks is negative; use 0 (no memory) or more")

    @property
    def horizon(self) -> int | None:
        return self.chunks

    def recall(self, chunk: int) -> tuple[int, ...]:
        return tuple(range(max(0, chunk - self.chunks), chunk))


KeyValuePolicy = Full | Window
