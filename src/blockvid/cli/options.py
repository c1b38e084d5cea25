"""Groups of command-line options that several commands share, and what each of them stands for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from blockvid.errors import InputError

if TYPE_CHECKING:
    import torch

    from blockvid.attention.policies import KeyValuePolicy
    from blockvid.attention.storage import Storage
    from blockvid.evaluation.watch import Rule
    from blockvid.flow import ChunkSchedule
    from blockvid.model.load import Models
    from blockvid.pipeline import Pipeline
    from blockvid.sampling.noise import BoundaryNoise


def default(text: str, metavar: str | None = None) -> Any:
    """An option whose None is worth explaining, unlike "(default: None)"."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {text})")


@dataclass(frozen=True)
class Model:
    """Which model makes the video, at what size, and where it runs."""

    name: Annotated[str, tyro.conf.arg(name="model", metavar="NAME|FOLDER|HUB-ID")] = "storybook"
    """An embedded model, "storybook" or "storybook-fast" (fewer steps, no guidance); a folder (Wan 2.1 or
    SkyReels-V2-DF as diffusers saves them, or one that `blockvid train` wrote); or a hub id such as
    Wan-AI/Wan2.1-T2V-1.3B-Diffusers, downloaded once."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto is a GPU where there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the transformer; auto is bfloat16 where the processor multiplies it natively, else float32."""
    width: Annotated[int | None, default("the model's", "PIXELS")] = None
    """A multiple of 16."""
    height: Annotated[int | None, default("the model's", "PIXELS")] = None
    """A multiple of 16."""
    fps: Annotated[float | None, default("the model's", "NUMBER")] = None
    """Frames per second."""
    chunk_frames: Annotated[int | None, default("the model's", "N")] = None
    """Longest chunk, in latent frames (four pixel frames each)."""

    def load(self) -> Pipeline:
        from blockvid.pipeline import Pipeline

        return Pipeline.from_pretrained(self.name, self.device, self._dtype(), *self._size)

    def load_encoders(self) -> Models:
        """Without the transformer's weights."""
        from blockvid.model.device import pick_device
        from blockvid.model.load import load_encoders

        return load_encoders(self.name, pick_device(self.device), *self._size)

    def describe(self) -> tuple[Models, torch.device]:
        """What `load` would load, without its weights, and onto which device."""
        from blockvid.model.device import pick_device, pick_dtype
        from blockvid.model.load import describe_models

        device = pick_device(self.device)
        return describe_models(self.name, self._dtype() or pick_dtype(device), *self._size), device

    @property
    def _size(self) -> tuple[int | None, int | None, float | None, int | None]:
        return self.width, self.height, self.fps, self.chunk_frames

    def _dtype(self) -> torch.dtype | None:
        import torch

        return None if self.dtype == "auto" else getattr(torch, self.dtype)


def _bytes(text: str) -> float:
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kmgt]i?)?b?\s*", text.lower())
    if found is None:
        raise InputError(f"--max-memory {text!r} is no size; use a number with a unit, such as 8GB or 500MB")
    number, unit = found.groups()
    base = 1024 if unit and unit.endswith("i") else 1000
    return float(number) * base ** ("kmgt".index(unit[0]) + 1 if unit else 0)


@dataclass(frozen=True)
class Memory:
    """What a chunk can see of the past, and in what form the past is kept (README: which policy to choose when)."""

    keep: Literal["window", "sink-window", "dynamic-sparse", "semantic", "full"] = "window"
    """window: the last chunks. sink-window: the first ones too. dynamic-sparse: the last ones, thinned. semantic, the
    paper's: the last ones and those with the most similar prompts, thinned. full: all, growing with the video."""
    window: Annotated[int | None, default("2; 4 with dynamic-sparse", "CHUNKS")] = None
    """Latest chunks that a chunk sees; all but full."""
    sink: Annotated[int, tyro.conf.arg(metavar="CHUNKS")] = 1
    """First chunks that stay in view; sink-window."""
    similar: Annotated[int, tyro.conf.arg(metavar="CHUNKS")] = 2
    """Chunks recalled for their prompts; semantic."""
    ties: Literal["earliest", "latest"] = "earliest"
    """Which of equally similar chunks to recall; semantic."""
    tau: float = 0.98
    """Share of the attention that a thinned chunk's kept tokens cover, in (0, 1]; also for the next five options."""
    probes: Literal["literal", "stratified", "all"] = "literal"
    """Tokens whose attention is asked: 64 last and 64 random ones, 128 spread evenly, or every one."""
    salience_mask: Literal["none", "token"] = "none"
    """Whether a probe sees its whole chunk, or only the tokens up to itself."""
    salience_mean: Literal["mean", "cumulative"] = "mean"
    """Importance as the mean over who may see a token, or as a running mean along the tokens."""
    salience_layer: Annotated[int | None, default("each its own", "LAYER")] = None
    """The layer whose choice all layers share."""
    salience_multiple: Annotated[int, tyro.conf.arg(metavar="TOKENS")] = 32
    """The number of kept tokens is rounded up to a multiple of this; 1 is the paper to the letter, slower."""
    placement: Literal["compact", "absolute", "zero"] = "compact"
    """Time positions of recalled chunks: one after the other, where they were, or similar ones all at the start."""
    store: Literal["auto", "device", "host", "int8", "host-int8"] = "auto"
    """Where memories wait, beside the model or in host memory, and whether in 8 bits. auto: device, or what
    --max-memory needs."""
    max_memory: Annotated[str | None, default("none", "SIZE")] = None
    """Budget such as 8GB, of the GPU or else of the process. A storage that fits is chosen, or the run is refused."""

    def policy(self) -> KeyValuePolicy:
        from blockvid.attention.policies import DynamicSparse, Full, Semantic, SinkWindow, Window
        from blockvid.attention.salience import Salience

        recent = (4 if self.keep == "dynamic-sparse" else 2) if self.window is None else self.window
        salience = Salience(
            tau=self.tau,
            probes=self.probes,
            mask=self.salience_mask,
            mean=self.salience_mean,
            layer=self.salience_layer,
            multiple=self.salience_multiple,
        )
        made: dict[str, KeyValuePolicy] = {
            "window": Window(recent),
            "sink-window": SinkWindow(self.sink, recent),
            "dynamic-sparse": DynamicSparse(recent, salience),
            "semantic": Semantic(self.similar, recent, salience, self.ties),
            "full": Full(),
        }
        return made[self.keep]

    def budget(self) -> float | None:
        """--max-memory in bytes."""
        return None if self.max_memory is None else _bytes(self.max_memory)

    def storage(self) -> Storage:
        from blockvid.attention.storage import Storage

        place = "host" if self.store in ("host", "host-int8") else "device"
        return Storage(place, "int8" if self.store in ("int8", "host-int8") else "native")


@dataclass(frozen=True)
class Noise:
    """How the noise of neighbouring chunks is related (Eqs. 11 to 13), and noise in what they remember."""

    noise: Literal["independent", "shared"] = "independent"
    """Base noise: new for every chunk, or one for all of them."""
    shuffle: Literal["local", "joint", "freenoise"] = "local"
    """Shuffling at a chunk boundary: each side by itself, both together, or the later side copies the earlier."""
    context_noise: Annotated[float | None, default("the model's", "LEVEL")] = None
    """Level, from 0 to below 1, at which a finished chunk is remembered, so that later ones rely less on its details;
    SkyReels-V2 advises 0.02. 0 is clean."""
    shuffle_window: Annotated[int, tyro.conf.arg(metavar="FRAMES")] = 0
    """Latent frames on each side of a boundary that are shuffled; 0 is no shuffling, 4 the paper's."""
    schedule: Annotated[
        Literal["naive", "linear", "cosine", "sigmoid"] | None, default("none", "naive|linear|cosine|sigmoid")
    ] = None
    """Begin each chunk at this schedule's level, from the chunk before it. An experiment: the paper has schedules in
    training alone. naive is to begin from noise."""
    eps_min: float = 0.1
    """Level of a schedule's first chunk."""
    eps_max: float = 0.997
    """Level of its last chunk."""
    alpha: float = 10.0
    """Steepness of the sigmoid."""

    def boundary(self) -> BoundaryNoise:
        from blockvid.sampling.noise import BoundaryNoise

        return BoundaryNoise(self.noise, self.shuffle, self.shuffle_window)

    def levels(self) -> ChunkSchedule | None:
        from blockvid.flow import ChunkSchedule

        made = ChunkSchedule(self.schedule or "naive", self.eps_min, self.eps_max, self.alpha)
        return None if self.schedule is None else made


@dataclass(frozen=True)
class Watching:
    """How far each chunk has drifted from the first, while the video is made."""

    watch: bool = False
    """Score every finished chunk (clarity, exposure, contrast, saturation, motion, jump at its boundary), print how far
    it is from the first, and keep that in watch.json of the run folder."""
    warn_at: Annotated[tuple[str, ...], tyro.conf.arg(metavar="METRIC=LIMIT ...")] = ()
    """Say so when a metric has changed by more than a share of the first chunk's: clarity=0.5. Implies --watch."""
    stop_at: Annotated[tuple[str, ...], tyro.conf.arg(metavar="METRIC=LIMIT ...")] = ()
    """Stop the run there, with exit status 1; --resume without it goes on. Implies --watch."""

    def rules(self) -> list[Rule] | None:
        """None: nothing is watched."""
        if not (self.watch or self.warn_at or self.stop_at):
            return None
        from blockvid.evaluation.watch import Rule

        return [Rule.parse(t, "warn") for t in self.warn_at] + [Rule.parse(t, "stop") for t in self.stop_at]
