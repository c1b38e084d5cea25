"""Block Forcing: flow matching anchored to semantically related history (Section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from blockvid.batch import Batch
from blockvid.errors import InputError
from blockvid.flow import over_frames, velocity
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.training.densities import check_share
from blockvid.training.objective import Losses
from blockvid.training.objectives.flow_matching import FlowMatching, mean_over_targets, squared
from blockvid.training.objectives.reference import SemanticReference
from blockvid.training.objectives.visibility import Example

Target = Literal["blended", "additive", "literal", "fm_plus_literal"]


@dataclass(frozen=True)
class BlockForcing:
    """Errors of the predicted velocity v from x and from x_cond, the history that the prompt recalls (Eq. 5).

    Eq. 5 as printed contradicts Eq. 3: where gamma is 0, its target is eps, which no sample comes from, and x itself
    is never asked for. The text promises a part for fidelity and one for semantics, weighted by gamma in [0, 1]:

    blended          |v - (eps - [(1 - gamma) x + gamma x_cond])|^2, which is the two parts
                     (1 - gamma) |v - (eps - x)|^2 + gamma |v - (eps - x_cond)|^2 less gamma (1 - gamma) |x - x_cond|^2,
                     a constant. gamma 0 is flow matching, gamma 1 is Eq. 5's.
    additive         |v - (eps - x)|^2 + gamma |v - (eps - x_cond)|^2: blended with gamma / (1 + gamma).
    literal          |v - (eps - gamma x_cond)|^2, Eq. 5 to the letter: samples tend to gamma x_cond.
    fm_plus_literal  literal and |v - (eps - x)|^2: samples tend to (x + gamma x_cond) / 2.

    A chunk with no past has flow matching's target, whatever `target` is. gamma is multiplied by
    sigma^`time_weight`: above 0 the history counts at high noise only, where layout and identity are decided.
    """

    gamma: float = 0.1
    target: Target = "blended"
    reference: SemanticReference = SemanticReference()
    """How x_cond is made."""
    time_weight: float = 0.0
    flow: FlowMatching = FlowMatching()

    def __post_init__(self) -> None:
        check_share("gamma", self.gamma)
        if self.target not in get_args(Target):
            raise InputError(f"target {self.target!r} is unknown; use {', '.join(get_args(Target))}")
        if not self.time_weight >= 0:
            raise InputError(f"time_weight {self.time_weight} is negative; use 0, or 1 for history at high noise only")

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
        """Logs "fidelity", the error that flow matching alone would have, and "semantic", the one from x_cond."""
        example = self.flow.sample(networks, batch, empty, generator)
        x_cond, found = self.reference(example.x0, batch.frames, batch.pooled)
        predicted = self.flow.predict(networks, example, generator)
        loss = mean_over_targets(self.error(predicted, example, x_cond, found), example, batch.weight)
        with torch.no_grad():
            fidelity = squared(predicted, velocity(example.x0, example.eps))
            semantic = squared(predicted, velocity(x_cond, example.eps))
            chunks = replace(example, target=example.target * found)
            logged = {
                "fidelity": mean_over_targets(fidelity, example, batch.weight),
                "semantic": mean_over_targets(semantic, chunks, batch.weight),
            }
        return Losses({"model": loss}, logged)

    def error(
        self,
        predicted: Float[Tensor, "b c f h w"],
        example: Example,
        x_cond: Float[Tensor, "b c f h w"],
        found: Bool[Tensor, "b n"],
    ) -> Float[Tensor, "b c f h w"]:
        """What is averaged, per latent value."""
        x0, eps = example.x0, example.eps
        gamma = over_frames(example.per_frame(self.gamma * example.sigma**self.time_weight * found))
        if self.target == "blended":
            return squared(predicted, velocity(torch.lerp(x0, x_cond, gamma), eps))
        fidelity = squared(predicted, velocity(x0, eps))
        if self.target == "additive":
            return fidelity + gamma * squared(predicted, velocity(x_cond, eps))
        recalled = over_frames(example.per_frame(found.to(gamma))) > 0
        literal = squared(predicted, velocity(torch.where(recalled, gamma * x_cond, x0), eps))
        return literal if self.target == "literal" else fidelity + literal
