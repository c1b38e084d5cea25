"""What models learn from: a batch of consecutive chunks, and where batches come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from blockvid.model.dit import TextContext


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
