"""What a generation will take, before it begins: frames, tokens, memory and time for this model on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from blockvid.attention.attend import EXPLICIT_SCORES
from blockvid.attention.policies import KeyValuePolicy, Window, recalls
from blockvid.attention.storage import Storage
from blockvid.errors import InputError
from blockvid.model.autoencoder import Autoencoder, WanAutoencoder
from blockvid.model.load import Models
from blockvid.model.storybook_vae import UNSHUFFLE, StorybookAutoencoder
from blockvid.model.text import minilm_folder
from blockvid.model.weights import read_json
from blockvid.pipeline import Decided
from blockvid.storyboard import Chunk, Storyboard

RUNTIME_BYTES = 450e6  # Python, torch and the libraries, resident
ATTENTION_SHARE = 0.35  # of the matrix product rate that attention and pointwise work reach, over the whole forward
DECODER_FEATURES = 48  # float32 maps of the decoder's full-size width that are alive at once, or carried on


@dataclass(frozen=True)
class Memory:
    """Bytes by what needs them. The text encoder is gone before the cache fills, and decoding comes after denoising.

    A bound where tokens are thinned: how many are kept is known when they are.
    """

    weights: float
    text: float
    cache: float
    denoising: float
    decoding: float
    resting: float
    """Of the cache, what stays while a chunk is decoded: its context is gone by then."""
    host: float = 0.0
    """Remembered chunks that wait in host memory beside a GPU; not part of the peak."""

    @property
    def peak(self) -> float:
        """Of the whole process."""
        return RUNTIME_BYTES + self.weights + max(self.text, self.cache + self.denoising, self.resting + self.decoding)

    def __str__(self) -> str:
        parts = (
            ("weights", self.weights),
            ("text encoder", self.text),
            ("cache", self.cache),
            ("denoising", self.denoising),
            ("decoding", self.decoding),
        )
        shown = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in parts)
        return f"{shown}; in host memory {self.host / 1e9:.1f}" if self.host else shown


@dataclass(frozen=True)
class Estimate:
    """Counts are exact. Bytes are right within a factor of two, most of it known exactly (weights and cache). Seconds
    follow from the operations and a short measurement of this machine, and are an order of magnitude."""

    frames: int
    seconds: float
    fps: float
    size: tuple[int, int]
    chunks: int
    steps: int
    tokens_per_chunk: int
    most_attended: int
    calls: int
    operations: float
    memory: Memory
    storage: Storage
    expected_seconds: float
    where: str

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each line of a report."""
        width, height = self.size
        return [
            ("video", f"{self.frames} frames, {self.seconds:g} s at {self.fps:g} fps, {width}x{height}"),
            ("chunks", f"{self.chunks}, {self.steps} steps each, {self.calls} transformer calls in all"),
            ("tokens", f"{self.tokens_per_chunk} in the largest chunk, attending to at most {self.most_attended}"),
            ("peak memory", f"about {self.memory.peak / 1e9:.1f} GB ({self.memory})"),
            ("past chunks", f"kept in {self.storage}"),
            ("time", f"about {_duration(self.expected_seconds)} ({self.operations / 1e12:.3g} TFLOP) on {self.where}"),
        ]


def estimate(models: Models, storyboard: Storyboard, settings: Decided, device: torch.device) -> Estimate:
    """The cost on `device` of `storyboard` under `settings`; shapes suffice, as from `describe_models`."""
    geometry, dit = models.geometry, models.dit
    chunks = storyboard.chunks(geometry)
    n, dim = geometry.tokens_per_frame, dit.width
    overlaps = settings.overlaps(chunks)
    sizes = [(chunk.frames + overlap) * n for chunk, overlap in zip(chunks, overlaps, strict=True)]
    attended = _attended(chunks, settings.policy)
    spans = [(frames + overlap) * n for frames, overlap in zip(attended, overlaps, strict=True)]
    weights = sum(p.numel() for p in dit.blocks.parameters())
    scores = 4 * dit.config["num_layers"] * dim
    per_call = [2 * weights * own + scores * own * seen for own, seen in zip(sizes, spans, strict=True)]
    operations = (1 + settings.guided(chunks)) * (settings.steps + 1) * sum(per_call)
    return Estimate(
        frames=storyboard.frames(geometry),
        seconds=storyboard.seconds,
        fps=geometry.fps,
        size=(geometry.width, geometry.height),
        chunks=len(chunks),
        steps=settings.steps,
        tokens_per_chunk=max(sizes),
        most_attended=max(spans),
        calls=len(chunks) * (settings.steps + 1),
        operations=operations,
        memory=memory(models, storyboard, settings, device),
        storage=settings.storage,
        expected_seconds=operations / (ATTENTION_SHARE * product_rate(device, dit.dtype, dim)),
        where=f"{device.type}, {torch.get_num_threads()} threads, {str(dit.dtype).removeprefix('torch.')}",
    )


def memory(models: Models, storyboard: Storyboard, settings: Decided, device: torch.device) -> Memory:
    """What `estimate` says of memory, without measuring the machine."""
    geometry, dit, storage = models.geometry, models.dit, settings.storage
    chunks = storyboard.chunks(geometry)
    rows, n = 1 + settings.guided(chunks), geometry.tokens_per_frame
    sizes = sorted(chunk.frames * n for chunk in chunks)
    own, seen = sizes[-1], max(_attended(chunks, settings.policy)) * n
    held = sum(sizes[-settings.policy.held(len(chunks)) :]) if settings.policy.held(len(chunks)) else 0
    ahead = _fetched_ahead(len(chunks), settings) * own  # fetched for the next chunk alone
    dim, element = dit.width, dit.dtype.itemsize
    vae = models.autoencoder.vae if isinstance(models.autoencoder, WanAutoencoder | StorybookAutoencoder) else None
    resident = [*dit.parameters(), *(() if vae is None else vae.parameters())]
    layers, recalled = dit.config["num_layers"], seen - own
    kept = storage.bytes_per_number(element, dit.config["attention_head_dim"])
    rotated = recalled * (element if storage.precision == "native" else 2 * element / layers)  # all layers, or one
    offloaded = storage.place == "host" and device.type != "cpu"
    here = recalled + ahead if offloaded else held  # of what is remembered, as it is stored
    number = 2 * rows * layers * dim
    beside = max(settings.overlaps(chunks)) * n
    live = rows * element * ((own + beside) * (12 * dim + dit.config["ffn_dim"]) + 2 * (seen + beside) * dim)
    scores = rows * dit.config["num_attention_heads"] * (own + beside) * (seen + beside)
    if device.type == "cpu" and dit.dtype == torch.bfloat16 and scores <= EXPLICIT_SCORES:
        live += scores * element  # written out there, see attend.py
    area = 4 * geometry.width * geometry.height
    pixels = 3 * area * geometry.temporal_stride * own // geometry.tokens_per_frame
    return Memory(
        weights=sum(p.numel() * p.element_size() for p in resident),
        text=text_bytes(models),
        cache=number * (here * kept + rotated + (0 if offloaded else own * kept)),
        denoising=live,
        decoding=5 * pixels + DECODER_FEATURES * area * _features(models.autoencoder),
        resting=number * kept * (storage.ahead * recalled if offloaded else held + own),
        host=number * held * kept if offloaded else 0.0,
    )


def text_bytes(models: Models) -> int:
    """Bytes of the text encoder's weights, by its config: umT5-XXL is larger than most transformers that it serves."""
    if models.text == "minilm":
        return (minilm_folder() / "model.safetensors").stat().st_size
    from transformers import UMT5Config, UMT5EncoderModel

    config = read_json(models.folder / "text_encoder" / "config.json")
    with torch.device("meta"):
        network = UMT5EncoderModel(UMT5Config(**config))
    return sum(p.numel() for p in network.parameters()) * torch.bfloat16.itemsize


def _features(autoencoder: Autoencoder) -> float:
    """Channels per pixel where the decoder is widest."""
    if isinstance(autoencoder, WanAutoencoder):
        return autoencoder.vae.config["base_dim"] / autoencoder.patch**2
    if isinstance(autoencoder, StorybookAutoencoder):
        return autoencoder.vae.config["width"] / UNSHUFFLE**2
    return 0.0


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _attended(chunks: tuple[Chunk, ...], policy: KeyValuePolicy) -> list[int]:
    """Latent frames that each chunk's tokens see, itself included, at most: prompts are not read for this."""
    alike = torch.ones(len(chunks), len(chunks))
    plan = recalls(policy, alike)
    return [
        chunk.frames + sum(chunks[index].frames for index, _ in recall)
        for chunk, recall in zip(chunks, plan, strict=True)
    ]


def _fetched_ahead(chunks: int, settings: Decided) -> int:
    """Memories of the next chunk that this one does not share, at most: recent ones are shared or do not exist yet."""
    plan = recalls(settings.policy, torch.ones(chunks, chunks))
    return settings.storage.ahead * max(sum(why == "similar" for _, why in recall) for recall in plan)


def fit(models: Models, storyboard: Storyboard, settings: Decided, device: torch.device, budget: float) -> Decided:
    """`settings` with the first storage whose peak is within `budget` bytes; exact ones are tried first.

    InputError, saying what would fit, if none is.
    """
    exact = [Storage()] if device.type == "cpu" else [Storage(), Storage("host"), Storage("host", ahead=0)]
    storages = [*exact, *(replace(storage, precision="int8") for storage in exact)]

    def smallest(policy: KeyValuePolicy) -> tuple[float, Decided]:
        """The first that fits, else the one that needs least."""
        asked = [replace(settings, policy=policy, storage=storage) for storage in storages]
        tried = [(memory(models, storyboard, one, device).peak, one) for one in asked]
        return next((one for one in tried if one[0] <= budget), min(tried, key=lambda one: one[0]))

    peak, found = smallest(settings.policy)
    if peak <= budget:
        return found
    advice = "use a smaller model, size or --chunk-frames"
    for policy in (Window(2), Window(1), Window(0)):
        other, least = smallest(policy)
        if other <= budget:
            stored = "" if least.storage.precision == "native" else ", with int8 memories,"
            advice = f"--keep window --window {policy.chunks}{stored} would need {other / 1e9:.2f} GB"
            break
    raise InputError(
        f"a memory of {budget / 1e9:.2f} GB is less than the {peak / 1e9:.2f} GB that this needs at least; {advice}"
    )


def product_rate(device: torch.device, dtype: torch.dtype, dim: int) -> float:
    """Operations a second of a matrix product of the model's shape, measured for about a second.

    Of two rows first, then of more: a CPU that emulates bfloat16 multiplies hundreds of times slower, and would be at a
    product of a thousand rows for minutes.
    """
    b = torch.randn(dim, 4 * dim, device=device, dtype=dtype)
    rows, seconds = 1, 0.0
    while seconds < 0.2 and rows < 1024:
        rows *= 2
        seconds = _seconds(torch.randn(rows, dim, device=device, dtype=dtype), b, 4)
    return 4 * 2 * rows * dim * 4 * dim / seconds


def _seconds(a: torch.Tensor, b: torch.Tensor, times: int) -> float:
    """How long a @ b takes, so many times."""
    (a @ b).sum().item()
    began = time.perf_counter()
    for _ in range(times):
        c = a @ b
    c.sum().item()
    return time.perf_counter() - began
