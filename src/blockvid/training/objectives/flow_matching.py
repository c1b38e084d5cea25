"""Flow matching: the plain objective, and what the others build on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from blockvid.batch import Batch
from blockvid.flow import velocity
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.training.densities import Density, check_share, continuing
from blockvid.training.objective import Losses
from blockvid.training.objectives.resampling import Resampling
from blockvid.training.objectives.visibility import Causal, Example, Visibility


@dataclass(frozen=True)
class FlowMatching:
    """|f(x_sigma, sigma) - (eps - x0)|^2 over the target chunks (Eqs. 2-4; "Naive" of Table 6).

    A chunk reads no prompt with probability `text_dropout`, as guidance asks for, and sees nothing before it with
    probability `context_dropout`. With `resampling`, context has the faults of generation, and targets still have none.
    """

    density: Density = continuing()
    visibility: Visibility = Causal()
    shift: float = 8.0
    text_dropout: float = 0.1
    context_dropout: float = 0.0
    resampling: Resampling | None = None

    def __post_init__(self) -> None:
        check_share("text_dropout", self.text_dropout)
        check_share("context_dropout", self.context_dropout)

    def networks(self, base: BlockDiT) -> dict[str, nn.Module]:  # noqa: ARG002
        return {}

    def __call__(
        self,
        networks: Mapping[str, nn.Module],
        batch: Batch,
        empty: TextContext,
        step: int,  # noqa: ARG002
        generator: torch.Generator,
    ) -> Losses:
        example = self.sample(networks, batch, empty, generator)
        predicted = self.predict(networks, example, generator)
        loss = mean_over_targets(squared(predicted, velocity(example.x0, example.eps)), example, batch.weight)
        return Losses({"model": loss}, {})

    def sample(
        self, networks: Mapping[str, nn.Module], batch: Batch, empty: TextContext, generator: torch.Generator
    ) -> Example:
        """An example of the batch, its context resampled as often as asked."""
        context = None
        if self.resampling is not None and torch.rand((), generator=generator) < self.resampling.share:
            negative = batch.text.without(torch.ones_like(batch.pooled[..., 0], dtype=torch.bool), empty)
            context = self.resampling(cast(BlockDiT, networks["model"]), batch, negative, generator)
        return self.example(batch, empty, generator, context)

    def example(
        self,
        batch: Batch,
        empty: TextContext,
        generator: torch.Generator,
        context: Float[Tensor, "b c f h w"] | None = None,
    ) -> Example:
        """The batch with its noise; `context` is what chunks are where they are context, instead of themselves."""
        x0, shape = batch.latents.float(), (len(batch.latents), len(batch.frames))
        sigma, target = self.density(shape, self.shift, generator)
        eps = torch.randn(x0.shape, generator=generator)
        unread = torch.rand(shape, generator=generator) < self.text_dropout
        alone = torch.zeros(shape, dtype=torch.bool)
        if self.context_dropout:  # without it, runs stay what they were
            alone = torch.rand(shape, generator=generator) < self.context_dropout
        return Example(
            x0=x0,
            context=x0 if context is None else context,
            eps=eps.to(x0.device),
            sigma=sigma.to(x0.device),
            target=target.to(x0.device),
            alone=alone,
            text=batch.text.without(unread.to(x0.device), empty),
            pooled=batch.pooled,
        )

    def predict(
        self, networks: Mapping[str, nn.Module], example: Example, generator: torch.Generator
    ) -> Float[Tensor, "b c f h w"]:
        """The velocity that the student predicts."""
        # A cast: whatever shards or compiles a model has its attributes, but need not be of its class.
        return self.visibility(cast(BlockDiT, networks["model"]), example, generator)


def squared(predicted: Float[Tensor, "b c f h w"], wanted: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f h w"]:
    """Squared errors, in float32."""
    return (predicted.float() - wanted).square()


def mean_over_targets(
    error: Float[Tensor, "b c f h w"], example: Example, weight: Float[Tensor, "b 1 f h w"]
) -> Float[Tensor, ""]:
    """Mean of `error` weighted by `weight`, without the chunks that are context; 0 if all are."""
    counted = example.per_frame(example.target)[:, None, :, None, None] * weight
    return (error * counted).sum() / (counted.sum() * error.shape[1]).clamp(min=1)
