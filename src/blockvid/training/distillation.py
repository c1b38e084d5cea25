"""A student that makes in one step, without guidance, what its teacher makes in several guided ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from blockvid.attention.policies import KeyValuePolicy, Window
from blockvid.batch import Batch
from blockvid.errors import InputError, at_least_one
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.sampling.noise import chunk_seed
from blockvid.sampling.solvers import Euler, UniPC
from blockvid.training.objective import Losses
from blockvid.training.rollout import Past, View


@dataclass(frozen=True)
class Distillation:
    """|v - v*|^2, v* the constant velocity that takes the student's x to where the guided teacher takes it.

    The student goes down `steps` levels by Euler's rule, each from where its own last step has led, with the cache of
    its own generation (Self Forcing's context, arXiv 2506.08009). From each of these points the teacher takes
    `substeps` steps of UniPC to the student's next level, guided by the rule "cfg", with a cache of its own of the same
    chunks. So the regression is that of progressive distillation (Salimans & Ho 2022, arXiv 2202.00512) and of
    distilled guidance (Meng et al. 2023, arXiv 2210.03142), on the points that the student will visit. No gradient
    passes from one step into the one before.

    A batch lends its prompts, and up to `history` real chunks; `chunks` chunks after them are generated. Where in the
    batch they are is a function of the step (and `seed`), the same for all ranks.
    Raises InputError unless steps, substeps and chunks are at least 1, history at least 0 and guidance in [0, 100].
    """

    steps: int = 5
    shift: float = 4.0
    guidance: float = 3.5
    substeps: int = 2
    history: int = 2
    chunks: int = 1
    policy: KeyValuePolicy = Window()
    seed: int = 0

    def __post_init__(self) -> None:
        at_least_one(self, "steps", "substeps", "chunks")
        if self.history < 0:
            raise InputError(f"a history of {self.history} chunks is below 0; use 0 to start every video, or 2")
        if not 0 <= self.guidance <= 100:
            raise InputError(f"guidance {self.guidance} is outside 0 to 100; use the model's own, such as 3.5")
        Euler().grid(self.steps, self.shift)

    @property
    def levels(self) -> tuple[float, ...]:
        """The student's, falling to 0: those that `Euler` visits in as many steps."""
        return Euler().grid(self.steps, self.shift)

    def networks(self, base: BlockDiT) -> dict[str, nn.Module]:
        """The teacher, which stays as the base is."""
        return {"teacher": copy.deepcopy(base).requires_grad_(False)}

    def __call__(
        self,
        networks: Mapping[str, nn.Module],
        batch: Batch,
        empty: TextContext,
        step: int,
        generator: torch.Generator,
    ) -> Losses:
        """The mean over levels and generated chunks; logs it of the first and of the last level, too."""
        student, teacher = networks["model"], networks["teacher"]
        assert isinstance(student, BlockDiT) and isinstance(teacher, BlockDiT)
        shown, given = self._shown(batch, step)
        pasts = (
            Past.of(student, shown, self.policy),
            Past.of(teacher, shown, self.policy).guided(self.guidance, empty),
        )
        errors: list[list[Tensor]] = []
        for c, latents in enumerate(shown.latents.split(shown.frames, dim=2)):
            ours, theirs = (past.view(c) for past in pasts)
            x = latents
            if c >= given:
                x, found = self._descend(ours, theirs, torch.randn(x.shape, generator=generator).to(x))
                errors.append(found)
            if c + 1 < len(shown.frames):
                for past, see in zip(pasts, (ours, theirs), strict=True):
                    past.remember(see, x, generator)
        by_level = torch.stack([torch.stack(found) for found in errors]).mean(dim=0)
        return Losses({"model": by_level.mean()}, {"first": by_level[0].detach(), "last": by_level[-1].detach()})

    def _shown(self, batch: Batch, step: int) -> tuple[Batch, int]:
        """The chunks of this step, and how many of them are given."""
        common = torch.Generator().manual_seed(chunk_seed(self.seed, step))
        most = len(batch.frames) - self.chunks
        if most < 0:
            raise InputError(
                f"{self.chunks} chunks are not generated from windows of {len(batch.frames)}; use --chunks "
                f"{self.chunks} or more"
            )
        first = int(torch.randint(most + 1, (1,), generator=common))
        given = min(first, self.history)
        return batch.chunks(first - given, first + self.chunks), given

    def _descend(
        self, ours: View, theirs: View, x: Float[Tensor, "b c f h w"]
    ) -> tuple[Float[Tensor, "b c f h w"], list[Tensor]]:
        """Where the student comes to from noise, without a gradient, and its error at every level."""
        errors = []
        for index, (sigma, lower) in enumerate(pairwise(self.levels)):
            wanted = (x - self.taught(theirs, x, index)) / (sigma - lower)
            v = (x - ours(x, sigma)) / sigma
            errors.append((v.float() - wanted.float()).square().mean())
            x = (x - (sigma - lower) * v).detach()
        return x, errors

    @torch.no_grad()
    def taught(self, theirs: View, x: Float[Tensor, "b c f h w"], index: int) -> Float[Tensor, "b c f h w"]:
        """Where the teacher takes x, from the student's level `index` to its next."""
        levels = Euler().grid(self.steps * self.substeps, self.shift)[index * self.substeps :][: self.substeps + 1]
        solver = UniPC()
        state, per_frame = solver.start(0), torch.ones(x.shape[0], x.shape[2], dtype=torch.float64)
        for sigma, lower in pairwise(levels):
            x, state = solver(x, theirs(x, sigma), sigma * per_frame, lower * per_frame, state)
        return x
