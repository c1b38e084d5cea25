"""Post-training of a model: one run for every row of the paper's Tables 4 and 6, in two stages (section 5.1)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from blockvid.attention.policies import Semantic, Window
from blockvid.data.shards import Shards as VideoShards
from blockvid.data.sources import ShardSource
from blockvid.data.takes import TENSORS, TakeSource
from blockvid.errors import InputError
from blockvid.flow import ChunkSchedule
from blockvid.model.device import pick_device
from blockvid.model.dit import BlockDiT
from blockvid.model.load import Models, describe_models, load_models
from blockvid.pipeline import Settings
from blockvid.recipes.previews import Preview, ProbeLoss
from blockvid.recipes.storybook import SUBJECT_WEIGHT
from blockvid.sampling.solvers import Renoise
from blockvid.storyboard import Storyboard
from blockvid.storybook.corpus import EncodedTakes, Shards, build
from blockvid.training.adversaries import DMD, GAN, Adversary, Scores, SiD
from blockvid.training.batch import Batch, Objective, Source
from blockvid.training.cost import Cost, cost, memory
from blockvid.training.densities import Density, Independent, continuing
from blockvid.training.export import export
from blockvid.training.loop import Cadence, Loop, Plan, Seen, losses_of
from blockvid.training.lora import add_lora
from blockvid.training.objectives import BlockForcing, FlowMatching, Sum, VelocityForcing
from blockvid.training.objectives.visibility import Causal, TeacherForcing
from blockvid.training.optimisation import AdamW
from blockvid.training.rollout import Rollout
from blockvid.training.self_forcing import SelfForcing
from blockvid.training.sharding import Mesh, Precision, Sharding, World, launched, place
from blockvid.training.tracking import TensorBoard, Tracker, Wandb

Loss = Literal["naive", "velocity", "rollout-velocity", "block", "self", "ours"]
"""Rows of Table 6: flow matching; Velocity Forcing in both readings; Block Forcing; flow matching and Self Forcing;
Block and Self Forcing, the paper's."""
Schedule = Literal["naive", "linear", "cosine", "sigmoid", "independent"]
"""Rows of Table 4, and the noise of plain Diffusion Forcing."""
FEW_STEPS = Settings(steps=4, guidance=1.0, shift=5.0, solver=Renoise())
"""How a model that Self Forcing trained is sampled: as `Rollout` does it."""


@dataclass(frozen=True)
class PostTraining:
    """Trains a model on; writes a model folder that `--model` and a later stage's `--start` take."""

    start: str = "storybook"
    """The model to begin from: a name, folder or hub id, or the folder of an earlier stage."""
    data: Path | None = None
    """Shards of `blockvid data encode`; None: takes of the storybook, rendered and encoded into the output folder."""
    unseen: Path | None = None
    """Shards that are not learned from, for probe.jsonl, such as those of `data encode --part eval`; of the storybook's
    takes ten are always left out."""
    loss: Loss = "ours"
    """naive, velocity, rollout-velocity, block, self or ours: the rows of Table 6."""
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
    steps: int = 2000
    """Length of the run."""
    batch: int = 3
    """Videos in a microbatch."""
    microbatches: int = 1
    """Of a step, over all ranks."""
    chunks: int = 5
    """Chunks of a training window."""
    lr: float = 1e-4
    """Halved at half of the steps."""
    weight_decay: float = 1e-4
    ema: float = 0.999
    """Of the weights that are exported; 0 exports the last ones."""
    lora: int = 0
    """Rank of low-rank adapters; 0 trains all weights."""
    takes: int = 20
    """Shards of ten storybook takes, where no data is given."""
    seed: int = 0
    device: str = "auto"
    precision: Precision | Literal["auto"] = "auto"
    """Of the computation; auto is bfloat16 on a GPU and on processors that multiply it natively."""
    recompute: bool = False
    """Keep only the inputs of blocks and compute them again: less memory, a third more time."""
    compile: bool = False
    dp_replicate: int = 1
    """Copies of the model over ranks (torchrun)."""
    dp_shard: int | None = None
    """Ranks that share one copy; None: all that are left."""
    sp: int = 1
    """Ranks that share the tokens of a sample; divides the heads."""
    save: int = 200
    """Steps between checkpoints."""
    keep: int = 2
    """Checkpoints that stay."""
    log: int = 20
    """Steps between reports."""
    previews: Path | None = None
    """Storyboard of which a video is made, and its drift measured, with every checkpoint."""
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Trackers beside log.jsonl."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "microbatches", "chunks", "every", "ratio", "takes", "save", "keep", "log"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)} is less than 1; use 1 or more")
        if self.similar < 0 or self.lora < 0:
            raise InputError(f"similar {self.similar} and lora {self.lora} cannot be negative; use 0 for none")
        if not self.lr > 0:
            raise InputError(f"lr {self.lr} is no learning rate; use a number above 0, such as 1e-4")
        if self.previews is not None and self.sp > 1:
            raise InputError(f"sp {self.sp} trains a model that cannot generate meanwhile; leave out --previews")
        self.objective()

    def density(self) -> Density:
        """Half of the samples continue clean chunks, as generation does."""
        return continuing(None if self.schedule == "independent" else ChunkSchedule(self.schedule))

    def objective(self) -> Objective:
        """What a step minimises."""
        seen = Semantic(self.similar) if self.similar else Window()
        flow = FlowMatching(self.density(), Causal(seen))
        block = BlockForcing(self.gamma, self.similar or 2, flow=flow)
        rollout = Rollout(policy=seen)
        if self.loss == "rollout-velocity":
            forced = FlowMatching(Independent(), TeacherForcing(seen))
            return VelocityForcing("rollout_context", block, forced, RolledHistory(rollout))
        scores = Scores(visibility=Causal(Window()))  # as the base was trained to see
        players: dict[str, Adversary] = {
            "gan": GAN(ratio=self.ratio),
            "dmd": DMD(scores, ratio=self.ratio),
            "sid": SiD(scores, ratio=self.ratio),
        }
        forcing = SelfForcing(players[self.adversary], rollout, self.every, chunks=min(4, self.chunks))
        made: dict[str, Objective] = {
            "naive": flow,
            "velocity": VelocityForcing("bf_only", block),
            "block": block,
            "self": Sum((forcing, flow)),
            "ours": Sum((forcing, block)),
        }
        return made[self.loss]

    def plan(self) -> Plan:
        """What decides the weights."""
        native = torch.cpu.get_capabilities().get("avx512_bf16", False) or torch.cuda.is_available()
        automatic: Precision = "bfloat16" if native else "float32"
        return Plan(
            self.steps,
            self.microbatches,
            AdamW(self.lr, self.weight_decay),
            ema=self.ema,
            seed=self.seed,
            precision=automatic if self.precision == "auto" else self.precision,
        )

    def __call__(self, out: Path, stop: Callable[[], bool] = lambda: False) -> None:
        """Run to the end or until `stop`; over an earlier `out` it continues."""
        with launched(self._mesh(), pick_device(self.device)) as world:
            models = load_models(self.start, "cpu", torch.float32)
            looks = self._looks(models, out, world)
            source, unseen = self.sources(models, out, world)
            model = models.dit.train().requires_grad_(True)
            objective = self.objective()
            if self.lora:
                add_lora(model, self.lora)
            networks = {"model": model, **objective.networks(model)}
            place(networks, world, self._sharding())
            losses = losses_of(objective, source, networks, world.device)
            config = {name: value for name, value in asdict(self).items() if name not in WITHOUT_EFFECT}
            looks.append(ProbeLoss(unseen or source, unseen is not None, world, out / "probe.jsonl"))
            cadence = Cadence(self.save, self.log, preview=self.save, keep=self.keep)
            loop = Loop(networks, losses, self.plan(), out, world, config, cadence)
            base = models.folder

            def written(_step: int, network: torch.nn.Module) -> None:
                export(network, out, world, base)

            def looked(step: int, network: torch.nn.Module) -> None:
                for look in looks:
                    look(step, network)

            trackers = self._trackers(out, config) if world.rank == 0 else []
            loop.run(trackers, self._cost(models), on_save=written, preview=looked, stop=stop)

    def _looks(self, models: Models, out: Path, world: World) -> list[Seen]:
        """What is looked at with every checkpoint beside the loss: a video, made as the model is to be used."""
        if self.previews is None:
            return []
        settings = FEW_STEPS if self.loss in ("self", "ours") else Settings()
        return [Preview(models, Storyboard.read(self.previews), settings, out / "previews", world)]

    def _trackers(self, out: Path, config: dict[str, object]) -> list[Tracker]:
        made: dict[str, Callable[[], Tracker]] = {
            "tensorboard": lambda: TensorBoard(out / "tensorboard"),
            "wandb": lambda: Wandb("blockvid", out.name, config, out),
        }
        return [made[name]() for name in self.track]

    def sources(self, models: Models, out: Path, world: World) -> tuple[Source, Source | None]:
        """Where batches come from, and the same of takes that are not learned from; the first rank makes takes."""
        if self.data is not None:
            return self._shards(self.data, models), None if self.unseen is None else self._shards(self.unseen, models)
        if models.text != "minilm":
            raise InputError(
                f"{models.name} does not know the storybook; give --data, shards of `blockvid data encode`"
            )
        makes = EncodedTakes(models.geometry, models.folder / "vae")
        if world.rank == 0:
            build(out / "takes", self.takes + 1, makes, min(self.takes + 1, os.cpu_count() or 1))
        world.agree(None)
        learned, unseen = (
            TakeSource(Shards.read(out / "takes", TENSORS, part), models.geometry, self.chunks, batch, Batch, weight)
            for part, batch, weight in (
                (slice(self.takes), self.batch, SUBJECT_WEIGHT),
                (slice(self.takes, self.takes + 1), min(self.batch, makes.takes), 0.0),
            )
        )
        return learned, unseen

    def _shards(self, folder: Path, models: Models) -> Source:
        shards = VideoShards.open(folder)
        shards.dataset.check(models)
        return ShardSource(shards, self.chunks, self.batch, Batch, self.seed)

    def rows(self) -> list[tuple[str, str]]:
        """What `--dry-run` prints; no weights are loaded."""
        models = describe_models(self.start, torch.float32)
        mesh, plan = self._mesh().over(self._ranks()), self.plan()
        model = models.dit.requires_grad_(True)
        if self.lora:
            add_lora(model, self.lora)
        networks = {"model": model, **self.objective().networks(model)}
        one = self._cost(models)
        needed = memory(networks, one.tokens, mesh, plan.precision, self._sharding().recompute)
        count = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
        sizes = ", ".join(f"{name} {number:,}" for name, number in count.items())
        return [
            ("model", f"{models.name}; {sizes} parameters"),
            ("loss", f"{self.loss}, schedule {self.schedule}"),
            ("step", f"{self.microbatches} x {self.batch} videos of {self.chunks} chunks, {one.tokens:,} tokens each"),
            ("operations", f"{one.operations * self.microbatches / 1e12:.2f} TFLOP a step of flow matching"),
            ("memory", f"{needed.total / 1e9:.2f} GB a rank of {self._ranks()}: {needed}"),
            ("run", f"{self.steps} steps, {plan.precision}, lr {self.lr:g}, halved after {self.steps // 2}"),
        ]

    def _ranks(self) -> int:
        return self.dp_replicate * (self.dp_shard or 1) * self.sp

    def _mesh(self) -> Mesh:
        return Mesh(self.dp_replicate, self.dp_shard, self.sp)

    def _sharding(self) -> Sharding:
        named = ("model",)
        return Sharding(self.plan().precision, named if self.recompute else (), named if self.compile else ())

    def _cost(self, models: Models) -> Cost:
        size, tokens = models.geometry.chunk_frames, models.geometry.tokens_per_frame
        seen = [size * (1 + min(c, 2 + self.similar)) for c in range(self.chunks)]
        return cost(models.dit, [size] * self.chunks, tokens, self.batch, seen, 64 if models.text == "minilm" else 512)


WITHOUT_EFFECT = (
    "steps",
    "device",
    "save",
    "keep",
    "log",
    "previews",
    "track",
    "unseen",
    "dp_replicate",
    "dp_shard",
    "sp",
    "recompute",
    "compile",
)
"""Options that may differ when a run goes on."""


@dataclass(frozen=True)
class RolledHistory:
    """What the student makes of a batch, for Velocity Forcing."""

    rollout: Rollout

    def __call__(self, model: BlockDiT, batch: Batch, generator: torch.Generator) -> Tensor:
        chunks = len(batch.frames)
        exits = (len(self.rollout.timesteps) - 1,) * chunks
        noise = [torch.randn(batch.latents.shape, generator=generator) for _ in range(max(exits) + 1)]
        return self.rollout(model, batch, exits, noise, generator).latents


def storybook_stage1() -> PostTraining:
    """Block and Self Forcing of the shipped storybook model on takes of 20 s."""
    return PostTraining()


def storybook_stage2() -> PostTraining:
    """On from stage 1's folder (`--start`), with a fresh optimiser and a fresh order of the data."""
    return PostTraining(start="runs/storybook_stage1", steps=500, seed=1)


def wan_1_3b_stage1() -> PostTraining:
    """The paper's first stage on SkyReels-V2-DF 1.3B: one pass over the shards of `--data` (section 5.1: 32 GPUs)."""
    return PostTraining(
        start="Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers",
        data=Path("data/stage1"),
        steps=34_000,
        batch=1,
        microbatches=32,
        chunks=4,
        recompute=True,
        save=500,
    )


def wan_1_3b_stage2() -> PostTraining:
    """The second stage: two passes over 800 long videos, from the first stage's weights."""
    return replace(
        wan_1_3b_stage1(), start="runs/wan_1_3b_stage1", data=Path("data/stage2"), steps=1_000, chunks=12, seed=1
    )
