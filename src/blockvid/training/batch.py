"""What training code agrees on: the batch it is given, where batches come from, and what an objective answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from blockvid.model.dit import BlockDiT, TextContext


@dataclass(frozen=True)
class Batch:
    """Consecutive chunks of videos, one text row and one pooled prompt a chunk."""

    latents: Float[Tensor, "b c f h w"]
    """Normalised latents of the chunks."""
    frames: tuple[int, ...]
    """Latent frames of each chunk; they sum to f."""
    text: TextContext
    """Prompts, one row a chunk; its frames are these."""
    pooled: Float[Tensor, "b n d"]
    """Masked-mean prompt embedding of each chunk, for retrieval."""
    weight: Float[Tensor, "b 1 f h w"]
    """How much an error counts; ones where nothing is special."""

    def to(self, device: torch.device) -> Batch:
        """The same on `device`."""
        return Batch(
            self.latents.to(device), self.frames, self.text.to(device), self.pooled.to(device), self.weight.to(device)
        )

    def chunks(self, start: int, stop: int) -> Batch:
        """The chunks from `start` to before `stop`."""
        span = slice(sum(self.frames[:start]), sum(self.frames[:stop]))
        return Batch(
            self.latents[:, :, span],
            self.frames[start:stop],
            self.text.chunks(start, stop),
            self.pooled[:, start:stop],
            self.weight[:, :, span],
        )


@runtime_checkable
class Source(Protocol):
    """Where batches come from."""

    def batch(self, step: int) -> Batch:
        """A pure function of the step: a resumed run sees what an uninterrupted one would have seen."""
        ...

    @property
    def empty(self) -> TextContext:
        """The embedding of no prompt: one row, one chunk."""
        ...


@dataclass(frozen=True)
class Losses:
    """What one step minimises and records."""

    due: Mapping[str, Tensor]
    """A scalar by network that is updated at this step, e.g. {"model": ...} or {"critic": ...}."""
    logged: Mapping[str, Tensor]
    """Further scalars to record, detached."""


@runtime_checkable
class Objective(Protocol):
    """What a training step minimises. A loss under one name leaves no gradient in any other network."""

    def networks(self, base: BlockDiT) -> dict[str, nn.Module]:
        """Networks it trains beside "model", and frozen ones it needs, made from the base."""
        ...

    def __call__(
        self,
        networks: Mapping[str, nn.Module],
        batch: Batch,
        empty: TextContext,
        step: int,
        generator: torch.Generator,
    ) -> Losses:
        """Losses of one step; networks["model"] is the student.

        Randomness comes from `generator`, on the CPU: a step is a pure function of (weights, batch, step, seed).
        """
        ...
