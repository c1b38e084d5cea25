"""Diffusion forcing as the embedded model's recipe calls it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from blockvid.attention.policies import Window
from blockvid.flow import ChunkSchedule
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.training.batch import Batch
from blockvid.training.densities import Levels, PrefixOrScattered
from blockvid.training.objectives.flow_matching import FlowMatching
from blockvid.training.objectives.visibility import Causal, RandomlyRecalling


@dataclass(frozen=True)
class DiffusionForcing:
    """Flow matching of block-causal chunks, each at its own noise level (Eqs 2-4 per chunk).

    It is `flow_matching`, to the bit, under the names and the call of the base model's run; see
    `densities.PrefixOrScattered` for the levels. `context_noise` lets generation survive its own small errors.
    Raises InputError for a one-based schedule, whose levels may exceed 1.
    """

    shift: float = 8.0
    prefix: float = 0.5
    clean: float = 0.25
    context_noise: float = 0.1
    text_dropout: float = 0.1
    window: int = 2
    older: float = 0.0
    """Probability that a chunk sees an earlier one from before its window: retrieval as generation may ask for it."""
    schedule: ChunkSchedule | None = None
    independent: float = 0.25

    def __post_init__(self) -> None:
        _ = self.density

    @property
    def density(self) -> PrefixOrScattered:
        return PrefixOrScattered(self.prefix, self.clean, self.context_noise, self.schedule, self.independent)

    @property
    def flow_matching(self) -> FlowMatching:
        """The same objective, in the parts it is composed of."""
        seen = RandomlyRecalling(self.window, self.older) if self.older else Causal(Window(self.window))
        return FlowMatching(self.density, seen, self.shift, self.text_dropout)

    def levels(self, batch: int, chunks: int, generator: torch.Generator) -> Levels:
        """sigma per chunk, and 1 where the chunk is a target, 0 where it is context."""
        return self.density((batch, chunks), self.shift, generator)

    def __call__(
        self,
        model: BlockDiT,
        latents: Float[Tensor, "b c f h w"],
        frames: tuple[int, ...],
        text: TextContext,
        empty: TextContext,
        weight: Float[Tensor, "b 1 f h w"],
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Losses of one batch of `frames`-long chunks; `empty` is the embedding of no prompt, one row."""
        unused = latents.new_zeros(len(latents), len(frames), 1)
        batch = Batch(latents, frames, text, unused, weight)
        return {"loss": self.flow_matching({"model": model}, batch, empty, 0, generator).due["model"]}
