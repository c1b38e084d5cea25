"""What a training step minimises: what an objective is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from blockvid.batch import Batch
from blockvid.model.dit import BlockDiT, TextContext


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
