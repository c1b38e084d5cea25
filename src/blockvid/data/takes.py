"""The storybook's encoded takes and snippets as training sources, beside shards of real videos."""

from __future__ import annotations

import numpy as np
import torch

from blockvid.batch import Batch
from blockvid.data.sampler import Rank
from blockvid.errors import InputError
from blockvid.geometry import Geometry
from blockvid.model.dit import TextContext
from blockvid.model.text import MiniLMText, masked_mean
from blockvid.storybook.corpus import Shards


class TakeSource:
    """Windows of consecutive chunks from encoded takes; one starting chunk for the whole batch of all ranks."""

    def __init__(
        self,
        takes: Shards,
        geometry: Geometry,
        chunks: int,
        batch: int,
        subject: float = 0.0,
        rank: Rank | None = None,
    ) -> None:
        """Windows of `chunks`; an error counts 1 + `subject` on the subject; `batch` and `rank` as of `ShardSource`.

        Raises InputError if takes are shorter than a window, or the batch does not divide over the ranks.
        """
        self.takes, self.geometry, self.chunks, self.batch_size = takes, geometry, chunks, batch
        self.subject, self.rank = subject, rank or Rank()
        self.per_take = takes.tensors["mask"].shape[1]
        if not 1 <= chunks <= self.per_take:
            raise InputError(f"takes have {self.per_take} chunks, not {chunks}; use windows of 1 to {self.per_take}")
        if batch % self.rank.count or batch > len(takes):
            raise InputError(
                f"a batch of {batch} is not dealt from {len(takes)} takes to {self.rank.count} ranks; use a multiple "
                f"of {self.rank.count} up to {len(takes)}"
            )

    def batch(self, step: int) -> Batch:
        """A pure function of the step. Windows that open a take carry its image latent: a longer first chunk."""
        rows = self.takes.rows(step, self.batch_size)[self.rank.index :: self.rank.count]
        size = self.geometry.chunk_frames
        first = int(np.random.default_rng(step).integers(self.per_take - self.chunks + 1))
        frames = (size + (first == 0), *[size] * (self.chunks - 1))
        start = first * size + (first > 0)
        span, chunks = slice(start, start + sum(frames)), slice(first, first + self.chunks)
        tensors = self.takes.tensors
        tokens, mask = tensors["tokens"][rows, chunks].float(), tensors["mask"][rows, chunks]
        pooled = masked_mean(tokens.flatten(0, 1), mask.flatten(0, 1)).unflatten(0, mask.shape[:2])
        weight = 1 + self.subject * tensors["coverage"][rows, None, span].float()
        latents = tensors["latents"][rows, :, span].float()
        return Batch(latents, frames, TextContext(tokens, frames, mask), pooled, weight)

    @property
    def empty(self) -> TextContext:
        """The embedding of no prompt: one row, one chunk. Loads the text encoder: ask once."""
        return _no_prompt()


class StillSource:
    """Single latent frames of encoded snippets as videos of one frame, each with its prompt."""

    def __init__(self, snippets: Shards, batch: int, subject: float = 0.0) -> None:
        """`batch` stills a step, each of another snippet while there are enough; `subject` as of `TakeSource`."""
        self.snippets, self.batch_size, self.subject = snippets, batch, subject

    def batch(self, step: int) -> Batch:
        """A pure function of the step. Prompts are cut to the longest among them."""
        tensors, count = self.snippets.tensors, len(self.snippets)
        rows = self.snippets.order(step).repeat(-(-self.batch_size // count))[: self.batch_size]
        chance = torch.Generator().manual_seed(step)
        moments = torch.randint(tensors["latents"].shape[2], (self.batch_size,), generator=chance)
        chunks = tensors["chunk"][rows, moments].long()
        mask = tensors["mask"][rows, chunks]
        longest = int(mask.sum(-1).max())
        tokens, mask = tensors["tokens"][rows, chunks, :longest].float(), mask[:, :longest]
        weight = 1 + self.subject * tensors["coverage"][rows, moments, None, None].float()
        latents = tensors["latents"][rows, :, moments, None].float()
        text = TextContext(tokens[:, None], (1,), mask[:, None])
        return Batch(latents, (1,), text, masked_mean(tokens, mask)[:, None], weight)

    @property
    def empty(self) -> TextContext:
        """The embedding of no prompt: one row, one chunk. Loads the text encoder: ask once."""
        return _no_prompt()


def _no_prompt() -> TextContext:
    null = MiniLMText()([""])
    return TextContext(null.tokens[:, None], (1,), null.mask[:, None])
