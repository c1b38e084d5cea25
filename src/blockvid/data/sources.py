"""Batches from shards."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from blockvid.batch import Batch
from blockvid.data.dataset import read_empty
from blockvid.data.sampler import Rank, Sampler
from blockvid.data.shards import Shards
from blockvid.errors import InputError
from blockvid.model.dit import TextContext


class ShardSource:
    """Windows of consecutive chunks from a folder of shards, each once an epoch; a training source.

    All windows of a batch are of one kind: either they open their videos, and their first chunk carries the image
    latent and is one frame longer, or none does.
    """

    def __init__(self, shards: Shards, chunks: int, batch: int, seed: int = 0, rank: Rank | None = None) -> None:
        """Windows of `chunks`; a loop that numbers its microbatches over all ranks leaves `rank` alone.

        For one that does not, `batch` is that of all ranks together and each reads its share. Raises InputError if no
        video is long enough, or the batch does not divide over the ranks.
        """
        if chunks < 1:
            raise InputError(f"windows of {chunks} chunks hold nothing; use 1 or more")
        kinds = shards.index.windows(chunks)
        self.shards, self.chunks = shards, chunks
        self.sampler = Sampler(list(kinds.values()), batch, seed, rank)

    def batch(self, step: int) -> Batch:
        """A pure function of the step. Raises InputError if a shard is damaged."""
        windows = [self._window(int(row)) for row in self.sampler.at(step)]
        frames = tuple(chunk["latents"].shape[1] for chunk in windows[0])
        channels, _, height, width = windows[0][0]["latents"].shape
        slots, dim = self.shards.dataset.text_slots, windows[0][0]["tokens"].shape[1]
        # Filled in place: to stack, pad and convert one after the other took twice as long as to read.
        latents = torch.empty(len(windows), channels, sum(frames), height, width)
        tokens = torch.zeros(len(windows), self.chunks, slots, dim)
        for row, window in enumerate(windows):
            for number, (chunk, part) in enumerate(zip(window, latents[row].split(frames, dim=1), strict=True)):
                part.copy_(chunk["latents"])
                tokens[row, number, : len(chunk["tokens"])] = chunk["tokens"]
        lengths = torch.tensor([[len(chunk["tokens"]) for chunk in window] for window in windows])
        pooled = torch.stack([torch.stack([chunk["pooled"] for chunk in window]) for window in windows]).float()
        text = TextContext(tokens, frames, self._mask(lengths))
        return Batch(latents, frames, text, pooled, torch.ones_like(latents[:, :1]))

    @property
    def empty(self) -> TextContext:
        """The embedding of no prompt: one row, one chunk."""
        read = read_empty(self.shards.folder)["tokens"]
        tokens = torch.zeros(1, 1, self.shards.dataset.text_slots, read.shape[1])
        tokens[0, 0, : len(read)] = read
        return TextContext(tokens, (1,), self._mask(torch.tensor([[len(read)]])))

    def _window(self, first: int) -> list[dict[str, Tensor]]:
        return [self.shards.read(row) for row in range(first, first + self.chunks)]

    def _mask(self, lengths: Int[Tensor, "b n"]) -> Bool[Tensor, "b n l"] | None:
        slots = torch.arange(self.shards.dataset.text_slots)
        return slots < lengths[..., None] if self.shards.dataset.text_mask else None
