"""Batches from shards."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from blockvid.data.dataset import read_empty
from blockvid.data.sampler import Rank, Sampler
from blockvid.data.shards import Shards
from blockvid.errors import InputError
from blockvid.model.dit import TextContext

B = TypeVar("B")
B_co = TypeVar("B_co", covariant=True)


class MakeBatch(Protocol[B_co]):
    """How the trainer's batch is made; `blockvid.training.batch.Batch` is one."""

    def __call__(
        self, latents: Tensor, frames: tuple[int, ...], text: TextContext, pooled: Tensor, weight: Tensor
    ) -> B_co:
        """Of latents (b c f h w), latent frames of each chunk, prompts, pooled (b n d) and weight (b 1 f h w)."""
        ...


class ShardSource(Generic[B]):
    """Windows of consecutive chunks from a folder of shards, each once an epoch; a training source.

    All windows of a batch are of one kind: either they open their videos, and their first chunk carries the image
    latent and is one frame longer, or none does.
    """

    def __init__(
        self, shards: Shards, chunks: int, batch: int, make: MakeBatch[B], seed: int = 0, rank: Rank | None = None
    ) -> None:
        """Windows of `chunks`; `batch` is that of all ranks together, of which each `batch()` reads its rank's share.

        Raises InputError if no video is long enough, or the batch does not divide over the ranks.
        """
        if chunks < 1:
            raise InputError(f"windows of {chunks} chunks hold nothing; use 1 or more")
        kinds = shards.index.windows(chunks)
        self.shards, self.chunks, self.make = shards, chunks, make
        self.sampler = Sampler(list(kinds.values()), batch, seed, rank)

    def batch(self, step: int) -> B:
        """A pure function of the step. Raises InputError if a shard is damaged."""
        windows = [self._window(int(row)) for row in self.sampler.at(step)]
        frames = tuple(chunk["latents"].shape[1] for chunk in windows[0])
        latents = torch.stack([torch.cat([chunk["latents"] for chunk in w], dim=1).float() for w in windows])
        tokens = torch.stack([torch.stack([self._padded(chunk["tokens"]) for chunk in w]) for w in windows])
        lengths = torch.tensor([[len(chunk["tokens"]) for chunk in w] for w in windows])
        pooled = torch.stack([torch.stack([chunk["pooled"].float() for chunk in w]) for w in windows])
        text = TextContext(tokens, frames, self._mask(lengths))
        return self.make(latents, frames, text, pooled, torch.ones_like(latents[:, :1]))

    @property
    def empty(self) -> TextContext:
        """The embedding of no prompt: one row, one chunk."""
        tokens = read_empty(self.shards.folder)["tokens"]
        lengths = torch.tensor([[len(tokens)]])
        return TextContext(rearrange(self._padded(tokens), "l d -> 1 1 l d"), (1,), self._mask(lengths))

    def _window(self, first: int) -> list[dict[str, Tensor]]:
        return [self.shards.read(row) for row in range(first, first + self.chunks)]

    def _padded(self, tokens: Float[Tensor, "n d"]) -> Float[Tensor, "l d"]:
        slots = self.shards.dataset.text_slots
        return torch.cat((tokens, tokens.new_zeros(slots - len(tokens), tokens.shape[1]))).float()

    def _mask(self, lengths: Tensor) -> Bool[Tensor, "b n l"] | None:
        slots = torch.arange(self.shards.dataset.text_slots)
        return slots < lengths[..., None] if self.shards.dataset.text_mask else None
