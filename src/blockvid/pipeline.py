"""A storyboard in, a stream of decoded chunks out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from einops import repeat
from jaxtyping import Float, UInt8
from torch import Tensor

from blockvid.attention.attend import Cached
from blockvid.attention.cache import ChunkMemory, KVCache, MemoryWriter, Placement, place
from blockvid.attention.policies import KeyValuePolicy, Window, recalls, similarity
from blockvid.attention.rope import MAX_POSITION
from blockvid.attention.storage import Storage
from blockvid.errors import InputError
from blockvid.flow import ChunkSchedule
from blockvid.model.autoencoder import Autoencoder, to_pixels, to_unit
from blockvid.model.device import pick_device, pick_dtype
from blockvid.model.dit import TextContext
from blockvid.model.load import Models, load_models
from blockvid.model.text import PromptEmbedding, Prompts
from blockvid.sampling.denoiser import GuidanceRule, Guided, VelocityDenoiser
from blockvid.sampling.noise import BoundaryNoise, ContextNoise, Start, chunk_seed
from blockvid.sampling.plans import Chunkwise
from blockvid.sampling.sampler import Condition, Progress, sample
from blockvid.sampling.seams import Dissolve
from blockvid.sampling.solvers import Euler, Renoise, Solver, UniPC
from blockvid.storyboard import Chunk, Shot, Storyboard
from blockvid.trace.record import ChunkTrace, Recalled
from blockvid.video import read_image

SOLVERS: dict[str, Solver] = {"unipc": UniPC(), "euler": Euler(), "renoise": Renoise()}


@dataclass(frozen=True)
class Settings:
    """How to sample; None leaves a choice to the model."""

    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    guidance_rule: GuidanceRule | None = None
    """What the scale multiplies: `Guided`."""
    shift: float | None = None
    solver: Solver | None = None
    policy: KeyValuePolicy = field(default_factory=Window)
    storage: Storage = field(default_factory=Storage)
    placement: Placement = "compact"
    noise: BoundaryNoise = field(default_factory=BoundaryNoise)
    schedule: ChunkSchedule | None = None
    """Warm start: chunk c begins at eps_c from the chunk before it, instead of from noise. None: from noise."""
    context_noise: float | None = None
    """Sigma at which a finished chunk is remembered: `ContextNoise`."""
    overlap: int | None = None
    """Last latent frames of the chunk before, clean, that a chunk is denoised beside: `Start.overlapping`."""
    dissolve: float | None = None
    """How much a new chunk's details may differ from those before them to come in gradually: `Dissolve`."""
    negative_prompt: str | None = None
    image: Path | None = None
    """First frame: the video starts from this picture (text + image to video)."""

    def resolved(self, models: Models, storyboard: Storyboard) -> Decided:
        """Every choice made: the caller's, else the storyboard's, else the model's. InputError if out of range."""
        mine = {name: value for name in FOR_THE_MODEL if (value := getattr(self, name)) is not None}
        chosen = replace(models.defaults, **mine)  # which refuses what no model is sampled with
        negative = storyboard.negative_prompt or models.defaults.negative_prompt
        made = Decided(
            **vars(self)
            | {name: getattr(chosen, name) for name in FOR_THE_MODEL}
            | {
                "solver": self.solver or SOLVERS[chosen.solver],
                "negative_prompt": negative if self.negative_prompt is None else self.negative_prompt,
                "image": self.image or storyboard.image or storyboard.shots[0].image,
            }
        )
        for scale in {made.scale(shot) for shot in storyboard.shots}:
            replace(chosen, guidance=scale)
        if not 0 <= made.seed < 2**63:
            raise InputError(f"seed {made.seed} is outside 0 to 2^63 - 1, as in a storyboard; use a number such as 0")
        if made.overlap > models.geometry.chunk_frames:
            raise InputError(
                f"an overlap of {made.overlap} latent frames is outside 0 to {models.geometry.chunk_frames}, the "
                "length of a chunk; use 0 for none, or 1"
            )
        salience, layers = made.policy.salience, len(models.dit.blocks)
        if salience is not None and salience.layer is not None and salience.layer >= layers:
            raise InputError(
                f"layer {salience.layer} cannot choose: the model has {layers} layers; use 0 to {layers - 1}"
            )
        return made


FOR_THE_MODEL = ("steps", "guidance", "guidance_rule", "shift", "context_noise", "overlap", "dissolve")
"""Of `Settings`, what a model has defaults for, in the same form."""


@dataclass(frozen=True)
class Decided:
    """`Settings` for one model and storyboard, with no choice left."""

    seed: int
    steps: int
    guidance: float
    guidance_rule: GuidanceRule
    shift: float
    solver: Solver
    policy: KeyValuePolicy
    storage: Storage
    placement: Placement
    noise: BoundaryNoise
    schedule: ChunkSchedule | None
    context_noise: float
    overlap: int
    dissolve: float
    negative_prompt: str
    image: Path | None

    @property
    def grid(self) -> tuple[float, ...]:
        """The levels that the solver visits."""
        return self.solver.grid(self.steps, self.shift)

    def scale(self, of: Chunk | Shot) -> float:
        """Guidance: a shot's own goes before that of all."""
        return self.guidance if of.guidance is None else of.guidance

    def guided(self, chunks: Sequence[Chunk]) -> bool:
        """Whether any of them asks for a pass under the negative prompt too."""
        return any(self.scale(chunk) != 1 for chunk in chunks)

    def overlaps(self, chunks: Sequence[Chunk]) -> tuple[int, ...]:
        """Latent frames of the chunk before that each chunk is denoised beside."""
        return (0, *(min(self.overlap, chunk.frames) for chunk in chunks[:-1]))


@dataclass(frozen=True)
class State:
    """All that the next chunk needs of the ones before: enough to go on exactly where a stream stopped."""

    memories: tuple[ChunkMemory, ...] = ()
    decoder: dict[str, Tensor] = field(default_factory=dict)
    latents: Float[Tensor, "1 c f h w"] | None = None
    """Of the last finished chunk, as shown."""


@dataclass(frozen=True)
class Clip:
    """One finished chunk."""

    chunk: Chunk
    frames: UInt8[np.ndarray, "t h w 3"]
    latents: Float[Tensor, "1 c f h w"]
    """As shown: behind the seam."""
    memory: ChunkMemory
    decoder: dict[str, Tensor]
    trace: ChunkTrace


Watch = Callable[[Progress], None]


class Pipeline:
    """Generates videos with one model: `stream` hands out chunks as they are ready, calling returns the whole video.

    What was read of the last storyboard's prompts is kept, so that it can be made again without the text encoder.
    """

    def __init__(self, models: Models) -> None:
        self.models = models
        self._prompts = Prompts(models.text_encoder)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "storybook",
        device: str = "auto",
        dtype: torch.dtype | None = None,
        width: int | None = None,
        height: int | None = None,
        fps: float | None = None,
        chunk_frames: int | None = None,
    ) -> Pipeline:
        """An embedded model ("storybook", "storybook-fast"), a model folder, or a hub id ("owner/name").

        Size, rate and chunk length (latent frames) default to what the model was trained for. `dtype` None is bfloat16
        where the processor multiplies it natively, else float32. Raises InputError for what cannot be loaded.
        """
        place = pick_device(device)
        return cls(load_models(str(model), place, dtype or pick_dtype(place), width, height, fps, chunk_frames))

    def __call__(
        self, storyboard: Storyboard | Sequence[str], settings: Settings | None = None
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """The whole video as uint8 frames; a sequence of prompts is a storyboard of native chunks."""
        return np.concatenate([clip.frames for clip in self.stream(storyboard, settings)])

    def stream(
        self,
        storyboard: Storyboard | Sequence[str],
        settings: Settings | None = None,
        start: int = 0,
        state: State | None = None,
        watch: Watch | None = None,
    ) -> Iterator[Clip]:
        """Clips from chunk `start` on, each yielded once decoded; `watch` is told of every step.

        With `start` > 0, `state` must be the state after chunk `start` - 1 of the same storyboard and settings; what
        follows is then bit for bit what an uninterrupted stream yields on the same machine.
        """
        return self.take(storyboard, settings).clips(start, state, watch)

    def take(self, storyboard: Storyboard | Sequence[str], settings: Settings | None = None) -> Take:
        """One video about to be made: prompts are embedded and pictures looked at, no frame exists yet."""
        storyboard = self._storyboard(storyboard)
        decided = (settings or Settings()).resolved(self.models, storyboard)
        return Take(self.models, self._prompts, storyboard, decided)

    def _storyboard(self, storyboard: Storyboard | Sequence[str]) -> Storyboard:
        if isinstance(storyboard, Storyboard):
            return storyboard
        if isinstance(storyboard, str) or not storyboard:
            raise InputError(f"{storyboard!r} is neither a Storyboard nor a list of prompts; use ['a fox runs', ...]")
        seconds = self.models.geometry.chunk_seconds
        return Storyboard.model_validate({"shots": [{"prompt": prompt, "seconds": seconds} for prompt in storyboard]})


class Take:
    """One video being made: what `sample` asks for, answered from the storyboard, the cache and the autoencoder."""

    def __init__(self, models: Models, prompts: Prompts, storyboard: Storyboard, settings: Decided) -> None:
        self.models, self.settings, self.geometry = models, settings, models.geometry
        self.chunks = storyboard.chunks(models.geometry)
        self.frames = storyboard.frames(models.geometry)
        self.device = next(models.dit.parameters()).device
        self.guided = settings.guided(self.chunks)
        self.anchors = {chunk.index: path for chunk in self.chunks if (path := self._anchor(chunk)) is not None}
        for path in self.anchors.values():
            read_image(path, self.geometry.width, self.geometry.height)  # a bad picture is refused before any work
        self.prompts, self.row = self._embed(prompts)
        self.similarity = similarity(self.prompts.pooled[[self.row[chunk.prompt] for chunk in self.chunks]])
        self.plan = recalls(settings.policy, self.similarity)
        """What each chunk will recall."""
        self.starts, self.overlaps = self._starts(), settings.overlaps(self.chunks)
        self._check_positions()
        self.cache = KVCache(
            self.plan, models.dit.rope, self.device, models.dit.dtype, settings.placement, settings.storage.ahead
        )
        self.memory: ChunkMemory | None = None
        """Of the last finished chunk, like `latents`."""
        self.latents: Tensor | None = None
        self.kept: dict[int, tuple[float, ...]] = {}
        """Share of each chunk's tokens that each layer remembers."""

    def clips(self, start: int = 0, state: State | None = None, watch: Watch | None = None) -> Iterator[Clip]:
        """As `Pipeline.stream`; a take serves one pass."""
        state, watch = state or State(), watch or (lambda _: None)
        self.latents = state.latents
        for memory in state.memories:
            self._remember(memory)
        decoder = self.models.autoencoder.decoder()
        if state.decoder:
            decoder.load(state.decoder)
        settings, indices, plan = self.settings, range(start, len(self.chunks)), Chunkwise(self.starts)
        for event in sample(plan, settings.solver, settings.grid, indices, self.begin, self.condition, self.commit):
            if isinstance(event, Progress):
                watch(event)
                continue
            chunk = self.chunks[event.chunk]
            self.latents = latents = self._joined(chunk, event.latents)
            pixels = to_uint8(decoder.push(latents.to(self.device)))[: len(self.pixels(chunk))]
            assert self.memory is not None
            yield Clip(chunk, pixels, latents, self.memory, decoder.state(), self._trace(chunk, self.memory))

    def begin(self, index: int) -> Start:
        """Noise of the chunk, its first latent frame given where the storyboard has a picture, behind the overlap."""
        g = self.geometry
        path, clean = self.anchors.get(index), None
        if path is not None:
            clean = picture_latent(self.models.autoencoder, read_image(path, g.width, g.height), index > 0)
        shape = (g.latent_channels, g.latent_height, g.latent_width)
        seeds = [self.settings.seed if chunk.seed is None else chunk.seed for chunk in self.chunks]
        seed = chunk_seed(seeds[index], index)
        noise = self.settings.noise(index, seeds, [chunk.frames for chunk in self.chunks], shape, self.device)
        start, overlap = Start.after(clean, noise, seed), self.overlaps[index]
        if self.starts and index > 0:
            start = Start.warm(clean, noise, self._previous(), self.starts[index], seed)
        return start.overlapping(self._previous()[:, :, -overlap:]) if overlap else start

    def condition(self, chunks: tuple[int, ...]) -> Condition:
        """The chunk's prompt (and the negative prompt) and the past that the policy recalls."""
        (index,) = chunks
        chunk, overlap = self.chunks[index], self.overlaps[index]
        own, seen = self._positions(chunk.frames), self._positions(overlap + chunk.frames, -overlap)
        rope, settings = self.models.dit.rope, self.settings
        attend = Cached(rope, self.cache.recall(index, chunk.start), seen)
        empty = ChunkMemory(index, chunk.start, chunk.frames, own, ())
        seed = chunk_seed(settings.seed, index)
        chance = torch.Generator().manual_seed(seed)
        writer = MemoryWriter(empty, rope, chance, settings.policy.salience, settings.storage)
        rows = [self.row[prompt] for prompt in (chunk.prompt, settings.negative_prompt)[: 1 + self.guided]]
        mask = self.prompts.mask[rows, None].to(self.device) if self.models.text_mask else None
        text = TextContext(self.prompts.tokens[rows, None].to(self.device), (overlap + chunk.frames,), mask)
        denoiser = Guided(VelocityDenoiser(self.models.dit), self.settings.scale(chunk), settings.guidance_rule)
        context = ContextNoise(settings.context_noise, seed)
        return Condition(denoiser, text, attend, writer, context)

    def _joined(self, chunk: Chunk, latents: Float[Tensor, "1 c f h w"]) -> Float[Tensor, "1 c f h w"]:
        """A finished chunk as it is shown; what begins with a picture of the storyboard begins with exactly that."""
        seam = Dissolve(self.settings.dissolve)
        if chunk.index == 0 or chunk.index in self.anchors or seam.tau == 0:
            return latents
        return seam(latents, self._previous())

    def commit(self, memory: ChunkMemory) -> None:
        """Remember a finished chunk."""
        self.memory = memory
        self._remember(memory)

    def _remember(self, memory: ChunkMemory) -> None:
        self.cache.append(memory)  # which keeps nothing that no later chunk recalls
        self.kept[memory.index] = memory.kept

    def _trace(self, chunk: Chunk, memory: ChunkMemory) -> ChunkTrace:
        """What the chunk recalled and why."""
        g, similarities = self.geometry, self.similarity[chunk.index].tolist()
        recalled = []
        for index, why in self.plan[chunk.index]:
            tokens = self.chunks[index].frames * g.tokens_per_frame * sum(self.kept[index]) / len(self.kept[index])
            recalled.append(Recalled(chunk=index, why=why, similarity=similarities[index], tokens=tokens))
        span = g.pixels(chunk.start, chunk.stop, self.frames)
        return ChunkTrace(
            chunk=chunk.index,
            prompt=chunk.prompt,
            seconds=(span.start / g.fps, span.stop / g.fps),
            recalled=tuple(recalled),
            similarities=tuple(similarities[: chunk.index]),
            tokens=chunk.frames * g.tokens_per_frame,
            kept=memory.kept,
            bank_bytes=self.cache.nbytes,
        )

    def _starts(self) -> tuple[float, ...]:
        """Level at which each chunk begins; the first has nothing before it and begins from noise."""
        schedule = self.settings.schedule
        return () if schedule is None else (1.0, *schedule.levels(len(self.chunks)).tolist()[1:])

    def _check_positions(self) -> None:
        """InputError, before any work, if a chunk would stand past the end of the rotary table."""
        for chunk, recall in zip(self.chunks, self.plan, strict=True):
            spans = [(self.chunks[index].start, self.chunks[index].frames) for index, _ in recall]
            _, first = place(recall, spans, chunk.start, self.settings.placement)
            if first + chunk.frames > MAX_POSITION:
                raise InputError(
                    f"chunk {chunk.index} would stand at latent frame {first} and the rotary table ends at "
                    f"{MAX_POSITION}; use a policy that recalls less, or compact positions"
                )

    def _positions(self, frames: int, start: int = 0) -> Tensor:
        g = self.geometry
        return self.models.dit.positions(frames, g.latent_height, g.latent_width, start).to(self.device)

    def _previous(self) -> Float[Tensor, "1 c f h w"]:
        """Latents of the last finished chunk."""
        if self.latents is None:
            raise ValueError(
                "the state has no latents: a warm start, an overlap or a dissolve begins from those of the chunk before"
            )
        return self.latents.to(self.device)

    def _embed(self, prompts: Prompts) -> tuple[PromptEmbedding, dict[str, int]]:
        """Different prompts, in host memory: an hour's would fill a GPU. And the row of each."""
        read = list(dict.fromkeys([*(chunk.prompt for chunk in self.chunks), self.settings.negative_prompt]))
        made = prompts(read)
        row = {prompt: number for number, prompt in enumerate(read)}
        return PromptEmbedding(made.tokens.to(self.models.dit.dtype), made.mask, made.pooled), row

    def _anchor(self, chunk: Chunk) -> Path | None:
        return self.settings.image if chunk.index == 0 else chunk.image

    def pixels(self, chunk: Chunk) -> range:
        """The chunk's pixel frames: of the last one, fewer than are decoded where the video ends inside it."""
        return self.geometry.pixels(chunk.start, chunk.stop, self.frames)


def picture_latent(
    autoencoder: Autoencoder, picture: UInt8[np.ndarray, "h w 3"], moving: bool
) -> Float[Tensor, "1 c 1 h8 w8"]:
    """A picture as one latent frame: the video's first (one pixel frame) or, if `moving`, four frames of stillness."""
    stride = autoencoder.temporal_stride
    frame = to_unit(torch.from_numpy(picture)[None, None])
    stream = autoencoder.encoder()
    first = stream.push(frame)
    return stream.push(repeat(frame, "b c 1 h w -> b c t h w", t=stride)) if moving else first


def to_uint8(frames: Float[Tensor, "1 3 t h w"]) -> UInt8[np.ndarray, "t h w 3"]:
    """Decoded frames as an array of pixels."""
    return to_pixels(frames)[0].cpu().numpy()
