"""Velocity Forcing, a row of Table 6 that the paper does not define, in both readings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, cast, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from blockvid.errors import InputError
from blockvid.flow import velocity
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.training.batch import Batch, Losses
from blockvid.training.densities import Independent
from blockvid.training.objectives.block_forcing import BlockForcing
from blockvid.training.objectives.flow_matching import FlowMatching, mean_over_targets, squared
from blockvid.training.objectives.visibility import TeacherForcing

Mode = Literal["bf_only", "rollout_context"]


@runtime_checkable
class History(Protocol):
    """What the student makes of a batch's prompts: its own chunks, in the place of the batch's."""

    def __call__(self, model: BlockDiT, batch: Batch, generator: torch.Generator) -> Float[Tensor, "b c f h w"]:
        """x0 of every chunk; called without gradients."""
        ...


@dataclass(frozen=True)
class VelocityForcing:
    """Table 6's "Velocity Forcing".

    bf_only          the Block Forcing loss `block` without Self Forcing, probably an older name of it.
    rollout_context  flow matching of the data, `flow`, where every chunk sees what the model itself made of those
                     before it (`history`) instead of the data: velocities are forced, contexts are its own.
    Raises InputError for rollout_context without a history.
    """

    mode: Mode = "bf_only"
    block: BlockForcing = BlockForcing()
    flow: FlowMatching = FlowMatching(Independent(), TeacherForcing())
    history: History | None = None

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise InputError(f"mode {self.mode!r} is unknown; use {' or '.join(get_args(Mode))}")
        if self.mode == "rollout_context" and self.history is None:
            raise InputError("mode 'rollout_context' has no history to show; give one, such as a roll-out")
        if self.mode == "bf_only" and self.history is not None:
            raise InputError("mode 'bf_only' has no use for a history; use mode='rollout_context'")

    def networks(self, base: BlockDiT) -> dict[str, nn.Module]:
        return self.block.networks(base) if self.mode == "bf_only" else self.flow.networks(base)

    def __call__(
        self,
        networks: Mapping[str, nn.Module],
        batch: Batch,
        empty: TextContext,
        step: int,
        generator: torch.Generator,
    ) -> Losses:
        """Logs what `block` logs, or "drift": the mean square between the history and the data."""
        if self.history is None:
            return self.block(networks, batch, empty, step, generator)
        with torch.no_grad():
            made = self.history(cast(BlockDiT, networks["model"]), batch, generator).float()
        example = self.flow.example(batch, empty, generator, made)
        predicted = self.flow.predict(networks, example, generator)
        loss = mean_over_targets(squared(predicted, velocity(example.x0, example.eps)), example, batch.weight)
        return Losses({"model": loss}, {"drift": (made - batch.latents).float().square().mean()})
