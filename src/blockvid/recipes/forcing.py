"""What a step of post-training minimises, as options: one for every row of the paper's Tables 4 and 6."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from blockvid.attention.policies import Semantic, Window
from blockvid.batch import Batch
from blockvid.errors import InputError, at_least_one
from blockvid.flow import ChunkSchedule
from blockvid.model.dit import BlockDiT
from blockvid.model.load import Defaults
from blockvid.pipeline import Settings
from blockvid.sampling.solvers import Renoise
from blockvid.training.adversaries import DMD, GAN, Adversary, Scores, SiD
from blockvid.training.densities import Density, Independent, continuing
from blockvid.training.distillation import Distillation
from blockvid.training.objective import Objective
from blockvid.training.objectives import BlockForcing, FlowMatching, Sum, VelocityForcing
from blockvid.training.objectives.reference import SemanticReference
from blockvid.training.objectives.visibility import Causal, TeacherForcing
from blockvid.training.rollout import Rollout
from blockvid.training.self_forcing import SelfForcing

Loss = Literal["naive", "velocity", "rollout-velocity", "block", "self", "ours", "distill"]
"""Rows of Table 6: flow matching; Velocity Forcing in both readings; Block Forcing; flow matching and Self Forcing;
Block and Self Forcing, the paper's. And none of its rows: distillation into few steps without guidance."""
Schedule = Literal["naive", "linear", "cosine", "sigmoid", "independent"]
"""Rows of Table 4, and the noise of plain Diffusion Forcing."""

FEW_STEPS = Settings(steps=len(Rollout().timesteps), guidance=1.0, shift=Rollout().shift, solver=Renoise(), overlap=0)
"""The steps of a model that Self Forcing trained: those that it was rolled out in."""


@dataclass(frozen=True)
class Student:
    """What `--loss distill` makes of the model, which is its teacher."""

    student_steps: int = 5
    """Steps of a chunk, by Euler's rule and without guidance."""
    student_shift: float = 4.0
    """Of their levels."""
    substeps: int = 2
    """Steps of the teacher, by UniPC, for one of the student."""
    teacher_guidance: float = 3.5
    """What the student learns to do without."""
    history: int = 2
    """Real chunks, at most, before those that are generated."""
    generated: int = 1
    """Chunks of a window that the student generates, of `--chunks`, and learns from."""

    def __post_init__(self) -> None:
        at_least_one(self, "student_steps", "substeps", "generated")
        self.distillation()

    def distillation(self) -> Distillation:
        """As an objective."""
        return Distillation(
            steps=self.student_steps,
            shift=self.student_shift,
            guidance=self.teacher_guidance,
            substeps=self.substeps,
            history=self.history,
            chunks=self.generated,
        )


@dataclass(frozen=True)
class Forcing:
    """What a step minimises (the paper's Tables 4 and 6)."""

    loss: Loss = "ours"
    """naive, velocity, rollout-velocity, block, self or ours: the rows of Table 6; distill: `Student`."""
    schedule: Schedule = "cosine"
    """Noise levels along the chunks of a sample (Table 4)."""
    gamma: float = 0.1
    """How much Block Forcing's target is history."""
    similar: int = 2
    """Chunks recalled for their prompts: in attention, and as Block Forcing's history."""
    adversary: Literal["gan", "dmd", "sid"] = "gan"
    """Whom Self Forcing plays against."""
    every: int = 5
    """Steps from one roll-out of Self Forcing to the next."""
    ratio: int = 5
    """Roll-outs from one update of the student by its adversary to the next; the adversary learns from each."""

    student: Student = Student()

    def __post_init__(self) -> None:
        at_least_one(self, "every", "ratio")
        if self.similar < 0:
            raise InputError(f"similar {self.similar} cannot be negative; use 0 for none")
        self.objective()

    @property
    def described(self) -> str:
        """For `--dry-run`."""
        if self.loss != "distill":
            return f"{self.loss}, schedule {self.schedule}"
        s = self.student
        return (
            f"distill: {s.student_steps} steps, of {s.substeps} each of the teacher at guidance "
            f"{s.teacher_guidance:g}, in {s.generated} of a window's chunks after at most {s.history} real ones"
        )

    @property
    def seen(self) -> Semantic | Window:
        """The past chunks that a chunk learns to use."""
        return Semantic(self.similar) if self.similar else Window()

    @property
    def sampling(self) -> Settings:
        """What is asked for, beside the model's defaults, to sample the result as it was trained."""
        if self.loss == "distill":
            return Settings()
        return replace(FEW_STEPS if self.loss in ("self", "ours") else Settings(), policy=self.seen)

    def defaults(self, base: Defaults) -> Defaults:
        """Of what becomes of a model with the defaults `base`: a student has its own."""
        s = self.student
        if self.loss != "distill":
            return base
        steps, shift = s.student_steps, s.student_shift
        return replace(base, steps=steps, guidance=1.0, shift=shift, solver="euler", context_noise=0.0, overlap=0)

    def density(self) -> Density:
        """Half of the samples continue clean chunks, as generation does."""
        return continuing(None if self.schedule == "independent" else ChunkSchedule(self.schedule))

    def objective(self) -> Objective:
        """As the loop takes it."""
        seen, flow = self.seen, FlowMatching(self.density(), Causal(self.seen))
        block = BlockForcing(self.gamma, reference=SemanticReference(self.similar or 2), flow=flow)
        rollout = Rollout(policy=seen)
        if self.loss == "rollout-velocity":
            return VelocityForcing(RolledHistory(rollout), FlowMatching(Independent(), TeacherForcing(seen)))
        forcing = SelfForcing(self._player(), rollout, self.every)
        made: dict[str, Objective] = {
            "naive": flow,
            "velocity": block,  # probably an older name of it
            "block": block,
            "self": Sum((forcing, flow)),
            "ours": Sum((forcing, block)),
            "distill": self.student.distillation(),
        }
        return made[self.loss]

    def _player(self) -> Adversary:
        scores = Scores(visibility=Causal(Window()))  # as the storybook was trained to see, and a first stage trains
        made: dict[str, Adversary] = {
            "gan": GAN(ratio=self.ratio),
            "dmd": DMD(scores, ratio=self.ratio),
            "sid": SiD(scores, ratio=self.ratio),
        }
        return made[self.adversary]


@dataclass(frozen=True)
class RolledHistory:
    """What the student makes of a batch, for Velocity Forcing."""

    rollout: Rollout

    def __call__(self, model: BlockDiT, batch: Batch, generator: torch.Generator) -> Tensor:
        chunks = len(batch.frames)
        exits = (len(self.rollout.timesteps) - 1,) * chunks
        noise = [torch.randn(batch.latents.shape, generator=generator) for _ in range(max(exits) + 1)]
        return self.rollout(model, batch, exits, noise, generator).latents
