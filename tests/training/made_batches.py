"""A small batch, networks for it, and its chunks one by one from a cache, as generation has them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from blockvid.attention.attend import Attend, Cached, Recording
from blockvid.attention.cache import ChunkMemory, KVCache, MemoryWriter
from blockvid.attention.policies import Recall
from blockvid.attention.rope import grid_positions
from blockvid.batch import Batch
from blockvid.flow import over_frames
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.training.objectives.visibility import Example
from tiny_models import transformer

FRAMES = (3, 2, 2, 2, 1)
SIDE = 4
EMPTY = TextContext(torch.zeros(1, 1, 5, 8), (1,), torch.tensor([[[True, False, False, False, False]]]))


def batch(frames: tuple[int, ...] = FRAMES, rows: int = 2, seed: int = 0) -> Batch:
    """Random latents and prompts of every row and chunk."""
    generator = torch.Generator().manual_seed(seed)
    total, chunks = sum(frames), len(frames)
    latents = torch.randn(rows, 4, total, SIDE, SIDE, generator=generator)
    mask = torch.rand(rows, chunks, 5, generator=generator) < 0.6
    mask[..., 0] = True
    text = TextContext(torch.randn(rows, chunks, 5, 8, generator=generator), frames, mask)
    pooled = torch.randn(rows, chunks, 8, generator=generator)
    return Batch(latents, frames, text, pooled, torch.ones(rows, 1, total, SIDE, SIDE))


def model() -> BlockDiT:
    """All weights count, so that what is seen shows in what is predicted."""
    return transformer(BlockDiT, 8, in_channels=4, out_channels=4)


class Oracle(BlockDiT):
    """Knows the data: v = (x_sigma - x0) / sigma. `asked` are the latents, timesteps, texts and `Attend`s it was given.

    Where a forward has more frames than `x0`, the last ones are meant.
    """

    def knows(self, x0: Tensor) -> Oracle:
        self.x0, self.asked = x0, []
        return self

    def forward(self, latents: Tensor, timestep: Tensor, text: TextContext, attend: Attend) -> Tensor:
        self.asked.append((latents, timestep, text, attend))
        last = slice(latents.shape[2] - self.x0.shape[2], None)
        made = torch.zeros_like(latents)
        made[:, :, last] = (latents[:, :, last] - self.x0) / over_frames(timestep[:, last] / 1000).clamp(min=1e-6)
        return made


def oracle(x0: Tensor) -> Oracle:
    return transformer(Oracle, 8, in_channels=4, out_channels=4).knows(x0)


def from_cache(
    network: BlockDiT, example: Example, plans: Sequence[Sequence[Recall]], clean: Tensor | None = None
) -> Tensor:
    """Predictions of every row's chunks, each from the memories of those that its plan recalls.

    A memory is written by the forward of the noisy chunk, or by one of `clean` at sigma 0 as in generation.
    """
    rows = []
    for row, plan in enumerate(plans):
        cache, starts = KVCache(tuple(plan), network.rope), (0, *accumulate(example.frames))
        made = []
        for chunk, count in enumerate(example.frames):
            positions = grid_positions(count, SIDE // 2, SIDE // 2)
            at = slice(starts[chunk], starts[chunk + 1])
            noisy = example.noisy[row : row + 1, :, at]
            level = 1000 * example.sigma[row, chunk].expand(1, count)
            assert example.text.mask is not None
            mine = (slice(row, row + 1), slice(chunk, chunk + 1))
            text = TextContext(example.text.tokens[mine], (count,), example.text.mask[mine])
            writer = MemoryWriter(
                ChunkMemory(chunk, starts[chunk], count, positions, ()), network.rope, torch.Generator()
            )
            seen = Cached(network.rope, cache.recall(chunk, starts[chunk]), positions)
            if clean is None:
                made.append(network(noisy, level, text, Recording(seen, writer)))
            else:
                made.append(network(noisy, level, text, seen))
                network(clean[row : row + 1, :, at], torch.zeros(1, count), text, Recording(seen, writer))
            cache.append(writer.memory())
        rows.append(torch.cat(made, dim=2))
    return torch.cat(rows)
