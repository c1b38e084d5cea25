"""Velocity Forcing, a row of Table 6 that the paper does not define, in one of two readings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from blockvid.batch import Batch
from blockvid.flow import velocity
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.training.densities import Independent
from blockvid.training.objective import Losses
from blockvid.training.objectives.flow_matching import FlowMatching, mean_over_targets, squared
from blockvid.training.objectives.visibility import TeacherForcing


@runtime_checkable
class History(Protocol):
    """What the student makes of a batch's prompts: its own chunks, in the place of the batch's."""

    def __call__(self, model: BlockDiT, batch: Batch, generator: torch.Generator) -> Float[Tensor, "b c f h w"]:
        """x0 of every chunk; called without gradients."""
        ...


@dataclass(frozen=True)
class VelocityForcing:
    """Flow matching of the data, where every chunk sees what the model itself made of those before it.

    Velocities are forced, contexts are the model's own: `flow` with `history` in the place of the clean data. The other
    reading of Table 6's row, an older name of Block Forcing without Self Forcing, is `BlockForcing`.
    """

    history: History
    flow: FlowMatching = FlowMatching(Independent(), TeacherForcing())

    def networks(self, base: BlockDiT) -> dict[str, nn.Module]:
        return self.flow.networks(base)

    def __call__(
        self,
        networks: Mapping[str, nn.Module],
        batch: Batch,
        empty: TextContext,
        step: int,  # noqa: ARG002
        generator: torch.Generator,
    ) -> Losses:
        """Logs "drift": the mean square between the history and the data."""
        with torch.no_grad():
            made = self.history(cast(BlockDiT, networks["model"]), batch, generator).float()
        example = self.flow.example(batch, empty, generator, made)
        predicted = self.flow.predict(networks, example, generator)
        loss = mean_over_targets(squared(predicted, velocity(example.x0, example.eps)), example, batch.weight)
        return Losses({"model": loss}, {"drift": (made - batch.latents).float().square().mean()})
