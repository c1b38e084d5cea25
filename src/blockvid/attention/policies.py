"""What is kept and what is recalled: which past chunks, and how much of them, the next chunk may look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from blockvid.attention.salience import Salience
from blockvid.errors import InputError

Why = Literal["recent", "similar", "sink", "all"]
"""For what reason a past chunk is recalled."""

Recall = tuple[tuple[int, Why], ...]
"""Past chunks, ascending, each with the reason."""

Similarity = Float[Tensor, "n n"]
"""Cosine of the prompt embeddings of every two chunks; see `similarity`."""


@runtime_checkable
class Policy(Protocol):
    """Chooses the past chunks that chunk `chunk` attends to, and the tokens of a chunk that are remembered at all.

    The choice depends on prompts alone, so it is known for the whole storyboard before any frame is made.
    """

    @property
    def salience(self) -> Salience | None:
        """How finished chunks are thinned; None: every token is remembered."""
        ...

    def held(self, chunks: int) -> int:
        """The most chunks that are remembered at a time in a video of `chunks`, whatever the prompts."""
        ...

    def recall(self, chunk: int, similarity: Similarity) -> Recall:
        """The chunks to recall, all < `chunk`; `similarity` covers at least the chunks up to this one."""
        ...


@dataclass(frozen=True)
class Full:
    """Every past chunk: exact and unbounded (memory and time per chunk grow with the video)."""

    @property
    def salience(self) -> None:
        return None

    def __str__(self) -> str:
        return "every past chunk"

    def held(self, chunks: int) -> int:
        return chunks

    def recall(self, chunk: int, similarity: Similarity) -> Recall:  # noqa: ARG002
        return tuple((index, "all") for index in range(chunk))


@dataclass(frozen=True)
class Window:
    """The last `chunks` chunks: constant time and memory per chunk (the rolling cache of Self Forcing)."""

    chunks: int = 2

    def __post_init__(self) -> None:
        _at_least("a window of {} chunks", self.chunks, 0)

    @property
    def salience(self) -> None:
        return None

    def __str__(self) -> str:
        return f"the last {self.chunks} chunks"

    def held(self, chunks: int) -> int:
        return min(chunks, self.chunks)

    def recall(self, chunk: int, similarity: Similarity) -> Recall:  # noqa: ARG002
        return _recent(chunk, self.chunks)


@dataclass(frozen=True)
class SinkWindow:
    """The first `sink` chunks and the last `chunks`: the opening stays in view (attention sinks by chunk)."""

    sink: int = 1
    chunks: int = 2

    def __post_init__(self) -> None:
        _at_least("a sink of {} chunks", self.sink, 0)
        _at_least("a window of {} chunks", self.chunks, 0)

    @property
    def salience(self) -> None:
        return None

    def __str__(self) -> str:
        return f"the first {self.sink} and the last {self.chunks} chunks"

    def held(self, chunks: int) -> int:
        return min(chunks, self.sink + self.chunks)

    def recall(self, chunk: int, similarity: Similarity) -> Recall:  # noqa: ARG002
        recent = _recent(chunk, self.chunks)
        first = recent[0][0] if recent else chunk
        return (*((index, "sink") for index in range(min(self.sink, first))), *recent)


@dataclass(frozen=True)
class DynamicSparse:
    """The last `chunks` chunks, each thinned to its salient tokens (after ZipVL; Table 5's "dynamic sparse")."""

    chunks: int = 4
    salience: Salience = field(default_factory=Salience)

    def __post_init__(self) -> None:
        _at_least("a window of {} chunks", self.chunks, 0)

    def __str__(self) -> str:
        return f"the last {self.chunks} chunks, thinned at tau {self.salience.tau:g}"

    def held(self, chunks: int) -> int:
        return min(chunks, self.chunks)

    def recall(self, chunk: int, similarity: Similarity) -> Recall:  # noqa: ARG002
        return _recent(chunk, self.chunks)


@dataclass(frozen=True)
class Semantic:
    """The `recent` latest chunks and, of the others, the `similar` whose prompts are closest (Eqs. 8, 9, Algorithm 1).

    Similarities are compared after rounding to 1e-6; of equal ones the earliest wins, which has drifted least
    (ties="latest" is the algorithm's stable sort to the letter). Fewer candidates than `similar`: all of them.
    """

    similar: int = 2
    recent: int = 2
    salience: Salience = field(default_factory=Salience)
    ties: Literal["earliest", "latest"] = "earliest"

    def __post_init__(self) -> None:
        _at_least("recalling {} similar chunks", self.similar, 0)
        _at_least("recalling {} recent chunks", self.recent, 0)

    def __str__(self) -> str:
        return f"{self.recent} recent and {self.similar} similar chunks, thinned at tau {self.salience.tau:g}"

    def held(self, chunks: int) -> int:
        return chunks if self.similar else min(chunks, self.recent)

    def recall(self, chunk: int, similarity: Similarity) -> Recall:
        recent = _recent(chunk, self.recent)
        scores = torch.round(similarity[chunk, : chunk - len(recent)].double(), decimals=6).tolist()
        sign = 1 if self.ties == "earliest" else -1
        ranked = sorted(range(len(scores)), key=lambda index: (-scores[index], sign * index))
        return (*((index, "similar") for index in sorted(ranked[: self.similar])), *recent)


KeyValuePolicy = Full | Window | SinkWindow | DynamicSparse | Semantic


def similarity(pooled: Float[Tensor, "n d"]) -> Similarity:
    """Cosine of every two prompt embeddings (Eq. 8), in float64; their scale does not matter."""
    unit = F.normalize(pooled.double(), dim=-1)
    return unit @ unit.T


def recalls(policy: Policy, similar: Similarity) -> tuple[Recall, ...]:
    """What each chunk of a storyboard recalls."""
    return tuple(policy.recall(chunk, similar) for chunk in range(len(similar)))


def needed(plan: tuple[Recall, ...], start: int) -> frozenset[int]:
    """The chunks before `start` that chunk `start` or a later one recalls: the rest may be forgotten."""
    return frozenset(index for recall in plan[start:] for index, _ in recall if index < start)


def _recent(chunk: int, count: int) -> Recall:
    return tuple((index, "recent") for index in range(max(0, chunk - count), chunk))


def _at_least(what: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{what.format(value)} is negative; use {least} (no memory) or more")
