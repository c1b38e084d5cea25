"""Post-training of a model in two stages (section 5.1), on one device or over many by torchrun."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from blockvid.batch import Source
from blockvid.data.dataset import Dataset
from blockvid.data.shards import Shards as VideoShards
from blockvid.data.sources import ShardSource
from blockvid.data.takes import TakeSource
from blockvid.errors import InputError, at_least_one
from blockvid.model.device import pick_device
from blockvid.model.dit import BlockDiT
from blockvid.model.load import Models, describe_models, load_models, load_transformer, save_blockvid_json
from blockvid.recipes.forcing import Forcing, Student
from blockvid.recipes.previews import Preview, ProbeLoss
from blockvid.recipes.storybook import SUBJECT_WEIGHT
from blockvid.storyboard import Storyboard
from blockvid.storybook.corpus import EncodedTakes, Shards, build
from blockvid.training.cost import Cost, cost, memory
from blockvid.training.export import export
from blockvid.training.loop import Cadence, Loop, Plan, Seen, losses_of
from blockvid.training.lora import add_lora, go_on_with
from blockvid.training.optimisation import AdamW, Stepwise, WarmHoldFall
from blockvid.training.sharding import Mesh, Precision, Sharding, World, launched, native_precision, place
from blockvid.training.tracking import TensorBoard, Tracker, Wandb


@dataclass(frozen=True)
class Data:
    """What is learned from."""

    data: Path | None = None
    """Shards of `blockvid data encode`; None: takes of the storybook, rendered and encoded into the output folder."""
    takes: int = 20
    """Shards of ten storybook takes, where no data is given."""
    batch: int = 3
    """Videos in a microbatch."""
    chunks: int = 5
    """Chunks of a training window."""

    def __post_init__(self) -> None:
        at_least_one(self, "takes", "batch", "chunks")


@dataclass(frozen=True)
class Optimisation:
    """How the weights move."""

    steps: int = 2000
    """Length of the run."""
    microbatches: int = 1
    """Of a step, over all ranks."""
    lr: float = 1e-4
    """Halved at half of the steps, or as `fall` says."""
    fall: float | None = None
    """Last share of the run, over which the rate falls to zero; None: the paper's half at half of the steps."""
    weight_decay: float = 1e-4
    ema: float = 0.999
    """Of the weights that are exported; 0 exports the last ones."""
    lora: int = 0
    """Rank of low-rank adapters; 0 trains all weights."""
    seed: int = 0
    precision: Precision | Literal["auto"] = "auto"
    """Of the computation; auto is bfloat16 where the device multiplies it natively."""

    def __post_init__(self) -> None:
        at_least_one(self, "steps", "microbatches")
        if self.lora < 0:
            raise InputError(f"lora {self.lora} cannot be negative; use 0 for none")
        if not self.lr > 0:
            raise InputError(f"lr {self.lr} is no learning rate; use a number above 0, such as 1e-4")
        self.rate()

    def rate(self) -> Stepwise | WarmHoldFall:
        """Of learning, at a step of the run."""
        return Stepwise() if self.fall is None else WarmHoldFall(warmup=1, fall=self.fall)

    def plan(self, device: str = "auto") -> Plan:
        """As the loop takes it, on a device."""
        return Plan(
            self.steps,
            self.microbatches,
            AdamW(self.lr, self.weight_decay),
            rate=self.rate(),
            ema=self.ema,
            seed=self.seed,
            precision=native_precision(device) if self.precision == "auto" else self.precision,
        )


@dataclass(frozen=True)
class Layout:
    """Where the work is done: time and memory, but not what is learned. May differ when a run goes on."""

    device: str = "auto"
    """cpu or cuda; auto is CUDA where there is one."""
    recompute: bool = False
    """Keep only the inputs of blocks and compute them again: less memory, a third more time."""
    compile: bool = False
    """Compile the transformer; the first steps take minutes."""
    dp_replicate: int = 1
    """Copies of the model over ranks (torchrun)."""
    dp_shard: int | None = None
    """Ranks that share one copy; None: all that are left."""
    sp: int = 1
    """Ranks that share the tokens of a sample; divides the heads."""

    @property
    def mesh(self) -> Mesh:
        """Of ranks."""
        return Mesh(self.dp_replicate, self.dp_shard, self.sp)

    @property
    def ranks(self) -> int:
        """How many there are, where one copy is not shared by all that are left."""
        return self.dp_replicate * (self.dp_shard or 1) * self.sp

    def sharding(self, precision: Precision) -> Sharding:
        """As networks are placed."""
        named = ("model",)
        return Sharding(precision, named if self.recompute else (), named if self.compile else ())


@dataclass(frozen=True)
class Looks:
    """What a run keeps and shows on the way. May differ when a run goes on."""

    save: int = 200
    """Steps between checkpoints."""
    keep: int = 2
    """Checkpoints that stay."""
    log: int = 20
    """Steps between reports."""
    unseen: Path | None = None
    """Shards that are not learned from, for probe.jsonl, such as those of `data encode --part eval`; of the storybook's
    takes ten are always left out."""
    previews: Path | None = None
    """Storyboard of which a video is made, and its drift measured, with every checkpoint."""
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Trackers beside log.jsonl."""

    def __post_init__(self) -> None:
        at_least_one(self, "save", "keep", "log")

    def trackers(self, out: Path, config: dict[str, object]) -> list[Tracker]:
        """Those asked for."""
        made: dict[str, Callable[[], Tracker]] = {
            "tensorboard": lambda: TensorBoard(out / "tensorboard"),
            "wandb": lambda: Wandb("blockvid", out.name, config, out),
        }
        return [made[name]() for name in self.track]


@dataclass(frozen=True)
class PostTraining:
    """Trains a model on; writes a model folder that `--model` and a later stage's `--start` take."""

    start: str = "storybook"
    """The model to begin from: a name, folder or hub id, or the folder of an earlier stage."""
    forcing: Forcing = Forcing()
    data: Data = Data()
    optimisation: Optimisation = Optimisation()
    layout: Layout = Layout()
    looks: Looks = Looks()

    def __post_init__(self) -> None:
        if self.looks.previews is not None and self.layout.sp > 1:
            raise InputError(f"sp {self.layout.sp} trains a model that cannot generate meanwhile; leave out --previews")

    def __call__(self, out: Path, stop: Callable[[], bool] = lambda: False) -> None:
        """Run to the end or until `stop`; over an earlier `out` it continues."""
        with launched(self.layout.mesh, pick_device(self.layout.device)) as world:
            models = load_models(self.start, "cpu", torch.float32, **self._sizes())
            seen = self._previews(models, out, world)
            source, unseen = self.sources(models, out, world)
            under = None if models.adapters is None else load_transformer(models.adapters.base)
            networks, objective = self._networks(models, under), self.forcing.objective()
            plan = self.optimisation.plan(self.layout.device)
            place(networks, world, self.layout.sharding(plan.precision))
            losses = losses_of(objective, source, networks, world.device)
            decisive = asdict(replace(self, layout=Layout(), looks=Looks()))
            decisive["optimisation"]["steps"] = None
            probe, looks = self._probe(unseen or source, unseen is not None, networks, world, out), self.looks
            seen.append(probe)
            cadence = Cadence(looks.save, looks.log, preview=looks.save, keep=looks.keep)
            loop = Loop(networks, losses, plan, out, world, decisive, cadence)
            base = models.folder

            def written(_step: int, network: nn.Module) -> None:
                export(network, out, world, base)
                if world.rank == 0:
                    self._say_how_to_sample(models, out)

            def looked(step: int, network: nn.Module) -> None:
                for look in seen:
                    look(step, network)

            if loop.step == 0:
                probe(0, networks["model"])
            trackers = looks.trackers(out, decisive) if world.rank == 0 else []
            loop.run(trackers, self._cost(models), on_save=written, preview=looked, stop=stop)

    def _sizes(self) -> dict[str, Any]:
        """Of the data, which the model takes on; without shards (takes, or a dry run before there are any) its own."""
        folder = self.data.data
        return {} if folder is None or not Dataset.found(folder) else vars(Dataset.read(folder).sizes)

    def _networks(self, models: Models, under: BlockDiT | None = None) -> dict[str, nn.Module]:
        """The model, and what the objective trains beside it; `under` is what the adapters it may be are added to.

        Adapters go on as adapters of the same, and a student that is adapters with what they are for as its teacher.
        """
        rank, whole = self.optimisation.lora, models.dit.train().requires_grad_(True)
        model = whole if under is None or not rank else copy.deepcopy(under).train()
        base = under if under is not None and self.forcing.loss == "distill" else whole
        made = {"model": model, **self.forcing.objective().networks(base)}
        if rank and under is not None and models.adapters is not None:
            go_on_with(model, rank, models.adapters.file)
        elif rank:
            add_lora(model, rank)
        return made

    def _probe(
        self, source: Source, unseen: bool, networks: Mapping[str, nn.Module], world: World, out: Path
    ) -> ProbeLoss:
        """The loss that compares along the run: plain flow matching, but of a student its distance to its teacher."""
        file = out / "probe.jsonl"
        if self.forcing.loss == "distill":
            return ProbeLoss(source, unseen, world, file, self.forcing.objective(), networks)
        return ProbeLoss(source, unseen, world, file)

    def _say_how_to_sample(self, models: Models, out: Path) -> None:
        """The card of the model, and one of its adapters by themselves; a student has defaults of its own."""
        defaults = self.forcing.defaults(models.defaults)
        save_blockvid_json(out, models.geometry, defaults, models.text)
        if self.optimisation.lora:
            start = str(Path(self.start).resolve()) if Path(self.start).is_dir() else self.start
            base = start if models.adapters is None else models.adapters.base
            save_blockvid_json(out / "adapter", models.geometry, defaults, models.text, base)

    def _previews(self, models: Models, out: Path, world: World) -> list[Seen]:
        """What is looked at with every checkpoint beside the loss: a video, made as the model is to be used."""
        if self.looks.previews is None:
            return []
        made = replace(models, defaults=self.forcing.defaults(models.defaults))
        board, folder = Storyboard.read(self.looks.previews), out / "previews"
        return [Preview(made, board, self.forcing.sampling, folder, world)]

    def sources(self, models: Models, out: Path, world: World) -> tuple[Source, Source | None]:
        """Where batches come from, and the same of takes that are not learned from; the first rank makes takes."""
        data, unseen = self.data, self.looks.unseen
        if data.data is not None:
            return self._shards(data.data, models), None if unseen is None else self._shards(unseen, models)
        if models.text != "minilm":
            raise InputError(
                f"{models.name} does not know the storybook; give --data, shards of `blockvid data encode`"
            )
        makes = EncodedTakes(models.geometry, models.folder / "vae")
        if world.rank == 0:
            build(out / "takes", range(data.takes + 1), makes, min(data.takes + 1, os.cpu_count() or 1))
        world.agree(None)
        learned, left_out = (
            TakeSource(Shards.read(out / "takes", part), models.geometry, data.chunks, batch, weight)
            for part, batch, weight in (
                (range(data.takes), data.batch, SUBJECT_WEIGHT),
                (range(data.takes, data.takes + 1), min(data.batch, makes.takes), 0.0),
            )
        )
        return learned, left_out

    def _shards(self, folder: Path, models: Models) -> Source:
        shards = VideoShards.open(folder)
        shards.dataset.check(models)
        return ShardSource(shards, self.data.chunks, self.data.batch, self.optimisation.seed)

    def rows(self) -> list[tuple[str, str]]:
        """What `--dry-run` prints; no weights are loaded."""
        models = describe_models(self.start, torch.float32, **self._sizes())
        layout, plan = self.layout, self.optimisation.plan(self.layout.device)
        there = models.adapters is not None and models.adapters.file.is_file()  # of a hub id only configs are
        under = models.dit if there else None  # which has the shapes of the base
        networks, one = self._networks(models, under), self._cost(models)
        sharding = layout.sharding(plan.precision)
        needed = memory(networks, one.tokens, layout.mesh.over(layout.ranks), plan.precision, sharding.recompute)
        count = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
        sizes = ", ".join(f"{name} {number:,}" for name, number in count.items())
        batch, chunks, turns = self.data.batch, self.data.chunks, plan.microbatches
        rate = self.optimisation.rate()
        return [
            ("model", f"{models.name}; {sizes} parameters"),
            ("loss", self.forcing.described),
            ("step", f"{turns} x {batch} videos of {chunks} chunks, {one.tokens:,} tokens each"),
            ("operations", f"{one.operations * turns / 1e12:.2f} TFLOP a step of flow matching"),
            ("memory", f"{needed.total / 1e9:.2f} GB a rank of {layout.ranks}: {needed}"),
            ("run", f"{plan.steps} steps, {plan.precision}, lr {self.optimisation.lr:g}, {rate.described(plan.steps)}"),
        ]

    def _cost(self, models: Models) -> Cost:
        size, tokens = models.geometry.chunk_frames, models.geometry.tokens_per_frame
        chunks, most = self.data.chunks, 2 + self.forcing.similar
        seen = [size * (1 + min(c, most)) for c in range(chunks)]
        return cost(models.dit, [size] * chunks, tokens, self.data.batch, seen, 64 if models.text == "minilm" else 512)


def storybook_stage1() -> PostTraining:
    """Block and Self Forcing of the shipped storybook model on takes of 20 s."""
    return PostTraining()


def storybook_stage2() -> PostTraining:
    """On from stage 1's folder (`--start`), with a fresh optimiser and a fresh order of the data."""
    return PostTraining("runs/storybook_stage1", optimisation=Optimisation(steps=500, seed=1))


def storybook_distill() -> PostTraining:
    """The storybook model in five steps without guidance, a fifth of its forward passes; adapters, so that it travels
    light."""
    return PostTraining(
        forcing=Forcing("distill"),
        data=Data(takes=40, batch=1),
        optimisation=Optimisation(steps=1000, lr=1e-3, ema=0.98, lora=32),
        looks=Looks(save=50, log=5),
    )


def wan_1_3b_stage1() -> PostTraining:
    """The paper's first stage (section 5.1), on SkyReels-V2-DF 1.3B: as many windows as it has videos, 1.1 M."""
    return PostTraining(
        start="Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers",
        data=Data(Path("data/stage1"), batch=1, chunks=4),
        optimisation=Optimisation(steps=34_000, microbatches=32),
        layout=Layout(recompute=True),
        looks=Looks(save=500),
    )


def wan_1_3b_stage2() -> PostTraining:
    """The second stage, from the first one's weights: two passes over the windows of 800 videos of 60 s, four each."""
    return replace(
        wan_1_3b_stage1(),
        start="runs/wan_1_3b_stage1",
        data=Data(Path("data/stage2"), batch=1, chunks=12),
        optimisation=Optimisation(steps=200, microbatches=32, seed=1),
        looks=Looks(save=50),
    )


def wan_1_3b_distill() -> PostTraining:
    """On from the second stage's weights (or `--start`): eight steps without guidance, of a teacher's 32 with it."""
    student = Student(student_steps=8, student_shift=8.0, substeps=4, teacher_guidance=6.0)
    return replace(
        wan_1_3b_stage2(),
        start="runs/wan_1_3b_stage2",
        forcing=Forcing("distill", student=student),
        optimisation=Optimisation(steps=2_000, microbatches=8, lr=2e-4, ema=0.99, lora=64),
    )
