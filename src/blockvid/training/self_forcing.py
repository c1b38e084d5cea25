"""Self Forcing: the student is trained on what it generates, chunk after chunk, as it will be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from blockvid.batch import Batch
from blockvid.errors import InputError
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.sampling.noise import chunk_seed
from blockvid.training.adversaries import Adversary, Scene
from blockvid.training.objective import Losses
from blockvid.training.rollout import Rollout


@dataclass(frozen=True)
class SelfForcing:
    """The video-level loss of roll-outs (Eq. 1, with the adversaries of Self Forcing, arXiv 2506.08009).

    Every `every` steps it rolls out `chunks` chunks, or as many as the batch has. Where the batch has more, the
    roll-out continues its real beginning with probability `history`, and otherwise starts the video itself, at the
    batch's first chunk. The adversary's judge learns from each roll-out, the student from each `ratio`-th; roll-outs
    for the judge alone have no gradient. At other steps nothing is due.

    Exits and the choice of a beginning are functions of the step (and `seed`), the same in every batch of it, so that
    ranks that share parameters run them equally often.
    Raises InputError unless every >= 1, chunks >= 1 and history is in [0, 1].
    """

    adversary: Adversary
    rollout: Rollout = Rollout()
    every: int = 1
    chunks: int = 4
    history: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.every < 1 or self.chunks < 1:
            raise InputError(f"{self.chunks} chunks every {self.every} steps is no roll-out; use 1 or more of each")
        if not 0 <= self.history <= 1:
            raise InputError(f"history {self.history} is no probability; use 0.5, or 0 to always start a video")

    def networks(self, base: BlockDiT) -> dict[str, nn.Module]:
        """The adversary's."""
        return self.adversary.networks(base)

    def due(self, step: int) -> tuple[str, ...]:
        """Who learns at a step: "judge", "model". Judges go first: a new one has nothing to say."""
        if step % self.every:
            return ()
        return ("judge", "model") if (step // self.every + 1) % self.adversary.ratio == 0 else ("judge",)

    def __call__(
        self,
        networks: Mapping[str, nn.Module],
        batch: Batch,
        empty: TextContext,
        step: int,
        generator: torch.Generator,
    ) -> Losses:
        """Losses of "model" and of the adversary's network, as far as they are due at `step`."""
        due = self.due(step)
        if not due:
            return Losses({}, {})
        with torch.set_grad_enabled("model" in due):
            scene, forwards = self._scene(networks["model"], batch, empty, step, generator)
        parts = [self.adversary.for_judge(networks, scene, generator)]
        if "model" in due:
            parts.append(self.adversary.for_model(networks, scene, generator))
        logged = {"forwards": torch.tensor(float(forwards))}
        for part in parts:
            logged |= part.logged
        return Losses({name: loss for part in parts for name, loss in part.due.items()}, logged)

    def _scene(
        self, model: nn.Module, batch: Batch, empty: TextContext, step: int, generator: torch.Generator
    ) -> tuple[Scene, int]:
        """A roll-out beside the batch's own chunks, and how many forwards it took."""
        assert isinstance(model, BlockDiT)
        common = torch.Generator().manual_seed(chunk_seed(self.seed, step))
        generated = min(self.chunks, len(batch.frames))
        continued = bool(torch.rand(1, generator=common) < self.history)
        some = batch.chunks(0, len(batch.frames) if continued else generated)
        scored = some.chunks(len(some.frames) - generated, len(some.frames))
        exits = self.rollout.draw_exits(generated, common)
        noise = [torch.randn(scored.latents.shape, generator=generator) for _ in range(max(exits) + 1)]
        rolled = self.rollout(model, some, exits, noise, generator)
        return Scene(rolled.latents, scored.latents, scored.text, scored.pooled, empty), rolled.forwards
