"""Visibility matrices from chunk ids: the plain statement of each rule, for tests and for kernels that want a mask."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def chunk_ids(chunk_tokens: tuple[int, ...]) -> Int[Tensor, " s"]:
    """The chunk that each token belongs to."""
    return torch.repeat_interleave(torch.arange(len(chunk_tokens)), torch.tensor(chunk_tokens))


def block_causal(ids: Int[Tensor, " s"], window: int | None = None) -> Bool[Tensor, "s s"]:
    """Row sees column iff the column's chunk is the row's or one of the `window` before it (None: any before)."""
    gap = ids[:, None] - ids[None, :]
    return (gap >= 0) if window is None else (gap >= 0) & (gap <= window)


def teacher_forcing(ids: Int[Tensor, " s"], window: int | None = None) -> Bool[Tensor, "s2 s2"]:
    """Of clean tokens followed by noisy ones of the same chunks; s2 = 2 s.

    Clean rows see clean columns as in `block_causal`; noisy rows their own chunk's noisy columns, and the clean ones of
    the `window` chunks before it.
    """
    clean = block_causal(ids, window)
    own = ids[:, None] == ids[None, :]
    return torch.cat((torch.cat((clean, torch.zeros_like(own)), 1), torch.cat((clean & ~own, own), 1)))
