"""What `benchmarks/memory.py` does without the embedded weights: the cache alone, a 1.3 B model, the picture."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from blockvid.attention import attend as attend_module
from blockvid.attention.attend import Cached, Recording
from blockvid.attention.cache import ChunkMemory, KVCache, MemoryWriter
from blockvid.attention.policies import (
    DynamicSparse,
    Full,
    KeyValuePolicy,
    Semantic,
    SinkWindow,
    Window,
    recalls,
)
from blockvid.attention.rope import Rope, grid_positions
from blockvid.attention.storage import Storage
from blockvid.estimate import Memory, estimate, text_bytes
from blockvid.flow import TIMESTEPS
from blockvid.geometry import Geometry
from blockvid.model.device import pick_dtype
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.model.load import Models, describe_models
from blockvid.pipeline import Settings
from blockvid.storyboard import Storyboard

WINDOW = 2  # chunks
FRAMES, SIDE = 8, 8  # of a chunk of the cache alone: 512 tokens, a multiple of the 128 to which FAR pads
SETS = 4  # of q, k and v that take turns, so that no chunk finds its own in the processor's cache
POLICIES: dict[str, KeyValuePolicy] = {
    "Full": Full(),
    "Window(1)": Window(1),
    "Window(2)": Window(2),
    "Window(4)": Window(4),
    "SinkWindow(1, 2)": SinkWindow(1, 2),
    "DynamicSparse(4)": DynamicSparse(4),
    "Semantic(2, 2)": Semantic(2, 2),
}
STORAGES = {
    "device": Storage(),
    "device, int8": Storage(precision="int8"),
    "host": Storage("host"),
    "host, int8": Storage("host", "int8"),
    "host, int8, not ahead": Storage("host", "int8", ahead=0),
}
MEASURED = (
    ("Window(2)", "device"),
    ("Window(2)", "host"),
    ("Window(2)", "device, int8"),
    ("Semantic(2, 2)", "device, int8"),
    ("Semantic(2, 2)", "host, int8"),
    ("Full", "device"),
)
BUDGET = 24e9
SECONDS = 60
BOX = (0.5, 0.99)  # the aim of the curve of tau: at most this share of the tokens at this similarity or more

Point = tuple[float, tuple[float, float, float]]
"""Share of the context that is kept; similarity, and both ends of its interval."""


@dataclass(frozen=True)
class Shape:
    """Of the tensors that one layer hands to its cache."""

    layers: int
    heads: int
    head_dim: int
    rows: int
    dtype: torch.dtype
    grid: tuple[int, int, int] = (FRAMES, SIDE, SIDE)

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    def draw(self, chunks: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Random q, k and v of `chunks` chunks, each (b s heads d) and contiguous, as projections leave them."""
        chance = torch.Generator().manual_seed(seed)
        size = (self.rows, chunks * self.tokens, self.heads, self.head_dim)
        return tuple(torch.randn(size, generator=chance).to(self.dtype) for _ in "qkv")  # type: ignore[return-value]


class Ours:
    """blockvid's cache: keys are rotated once a chunk, when they are recalled."""

    def __init__(self, shape: Shape, chunks: int) -> None:
        self.shape, self.rope, self.grid = shape, Rope(shape.head_dim), grid_positions(*shape.grid)
        self.cache = KVCache(recalls(Window(WINDOW), torch.eye(chunks)), self.rope, dtype=shape.dtype)
        self.sets = [shape.draw(1, seed) for seed in range(SETS)]

    def read(self, chunk: int, steps: int) -> None:
        """From the memory and a chunk's own q, k and v to what the attention kernel is given."""
        attend = Cached(self.rope, self.cache.recall(chunk, chunk * self.shape.grid[0]), self.grid)
        for _ in range(steps):
            for layer in range(self.shape.layers):
                attend(layer, *self.sets[(chunk + layer) % SETS])

    def write(self, chunk: int) -> None:
        """From a clean pass to the memory."""
        frames = self.shape.grid[0]
        empty = ChunkMemory(chunk, chunk * frames, frames, self.grid, ())
        writer = MemoryWriter(empty, self.rope, torch.Generator())
        for layer in range(self.shape.layers):
            writer.write(layer, *self.sets[(chunk + layer) % SETS])
        self.cache.append(writer.memory())


class Far:
    """The attention processor of AnyFlow-FAR around projections that are given and a kernel that does nothing.

    Only whole chunks are cached, no compressed ones; its clean pass computes the whole window anew, of which only the
    writing is done here, and the rotary table is made in advance. All three favour the peer.
    """

    def __init__(self, shape: Shape, chunks: int) -> None:
        from diffusers.models.transformers import transformer_anyflow_far as far

        self.shape, self.processor = shape, far.AnyFlowCausalAttnProcessor()
        self.processor._attention_backend, self.processor._parallel_config = "flex", None
        size = (2, shape.rows, shape.heads)
        whole = (WINDOW + 1) * shape.tokens
        self.caches = [
            {
                "full_cache": torch.zeros(*size, whole, shape.head_dim, dtype=shape.dtype),
                "compressed_cache": torch.zeros(*size, 0, shape.head_dim, dtype=shape.dtype),
            }
            for _ in range(shape.layers)
        ]
        self.modules = {
            count: [self._module(shape.draw(count, seed)) for seed in range(SETS)] for count in range(1, WINDOW + 1)
        }
        rope = far.AnyFlowCausalRotaryPosEmbed(shape.head_dim, (1, 2, 2), (1, 4, 4), 1024)
        self.phases = [
            rope._forward_full_frame(count * shape.grid[0], *shape.grid[1:], torch.device("cpu")).flatten(0, 2)[
                None, None
            ]
            for count in range(1, WINDOW + 2)
        ]
        done = {count: torch.zeros_like(shape.draw(count, 0)[0]) for count in range(1, WINDOW + 1)}
        far.dispatch_attention_fn = lambda query, *_, **__: done[query.shape[1] // shape.tokens]
        self.chunks = chunks

    def _module(self, tensors: tuple[Tensor, Tensor, Tensor]) -> Any:
        q, k, v = (x.flatten(2) for x in tensors)
        same = [lambda x: x, lambda x: x]
        names = {"to_q": lambda _: q, "to_k": lambda _: k, "to_v": lambda _: v}
        return SimpleNamespace(**names, norm_q=None, norm_k=None, heads=self.shape.heads, to_out=same, hidden=q)

    def read(self, chunk: int, steps: int) -> None:
        """From the cache and a chunk's own q, k and v to what the attention kernel is given."""
        past = min(chunk, WINDOW)
        phases = {"query": self.phases[past][:, :, -self.shape.tokens :], "key": self.phases[past]}
        flag = {
            "is_cache_step": False,
            "num_cached_compressed_tokens": 0,
            "num_cached_full_tokens": past * self.shape.tokens,
        }
        for _ in range(steps):
            for layer, cache in enumerate(self.caches):
                module = self.modules[1][(chunk + layer) % SETS]
                self.processor(module, module.hidden, rotary_emb=phases, kv_cache=cache, kv_cache_flag=flag)

    def write(self, chunk: int) -> None:
        """From a clean pass over the window, which rolls by being written again, to the cache."""
        count = min(chunk + 1, WINDOW)
        flag = {"is_cache_step": True, "num_compressed_tokens": 0, "num_full_tokens": count * self.shape.tokens}
        for layer, cache in enumerate(self.caches):
            module = self.modules[count][(chunk + layer) % SETS]
            self.processor(module, module.hidden, kv_cache=cache, kv_cache_flag=flag)


@torch.no_grad()
def rolling_run(model: str, chunks: int, steps: int) -> dict[str, Any]:
    """Median seconds of both caches, which take turns chunk by chunk."""
    config = describe_models(model).dit.config
    dtype = pick_dtype(torch.device("cpu"))
    shape = Shape(config["num_layers"], config["num_attention_heads"], config["attention_head_dim"], 2, dtype)
    routes = {"ours": Ours(shape, chunks), "far": Far(shape, chunks)}
    spent: dict[str, list[float]] = {}
    with patch.object(attend_module, "attention", lambda q, *_: q):
        for chunk in range(chunks):
            for name, route in routes.items():
                for what, call in {
                    "read once": lambda route=route: route.read(chunk, 1),  # noqa: B023
                    "read": lambda route=route: route.read(chunk, steps),  # noqa: B023
                    "write": lambda route=route: route.write(chunk),  # noqa: B023
                }.items():
                    began = time.perf_counter()
                    call()
                    if chunk > WINDOW:  # when the window is full
                        spent.setdefault(f"{name}, {what}", []).append(time.perf_counter() - began)
    medians = {name: statistics.median(seconds) for name, seconds in spent.items()}
    return {"seconds": medians, "chunks": chunks, "shape": shape}


def rolling_report(found: dict[str, Any], steps: int) -> Iterator[str]:
    """Both caches side by side."""
    shape, seconds = found["shape"], found["seconds"]
    yield (
        f"\n## The cache alone: append, roll, read\n\n"
        f"{found['chunks']} chunks of {shape.tokens} tokens, a window of {WINDOW}, {shape.layers} layers, "
        f"{shape.heads} heads of {shape.head_dim}, {shape.rows} rows, {str(shape.dtype).removeprefix('torch.')}; "
        "median milliseconds a chunk once the window is full; both take turns chunk by chunk. Append and roll: from "
        "the q, k and v of a clean pass to the memory. Read: from the memory and a chunk's own q, k and v to what the "
        f"attention kernel is given, rotary embedding included, {steps} steps. blockvid keeps the tensors that the "
        "projections made, so its append copies nothing. The peer is diffusers' `AnyFlowCausalAttnProcessor`, which "
        f"has no separate cache functions: its projections are given and its kernel does nothing. In its favour: the "
        f"chunk is a multiple of the 128 tokens it pads to ({shape.tokens}, not the model's 480), nothing older than "
        f"the window is kept compressed, its rotary table is free, and so is the clean pass over the whole window by "
        f"which it rolls. It rotates all keys at every step and blockvid the recalled ones once a chunk.\n"
    )
    yield "| | blockvid, ms | AnyFlow-FAR, ms | blockvid / AnyFlow-FAR |\n|---|---|---|---|"
    rows = {
        "append and roll": ("write",),
        "read, one step": ("read once",),
        f"read, {steps} steps": ("read",),
        f"append, roll and read, {steps} steps": ("write", "read"),
    }
    for label, names in rows.items():
        ours, far = (sum(seconds[f"{route}, {name}"] for name in names) for route in ("ours", "far"))
        yield f"| {label} | {1e3 * ours:.2f} | {1e3 * far:.2f} | {ours / far:.3f} |"


def wan_folder(folder: Path) -> Path:
    """The config files of Wan2.1-T2V-1.3B, by its published numbers, without weights."""
    configs: dict[str, dict[str, Any]] = {
        "model_index.json": {"_class_name": "WanPipeline"},
        "transformer/config.json": {
            "_class_name": "WanTransformer3DModel",
            "num_attention_heads": 12,
            "attention_head_dim": 128,
            "ffn_dim": 8960,
            "num_layers": 30,
            "text_dim": 4096,
        },
        "vae/config.json": {"_class_name": "AutoencoderKLWan", "base_dim": 96, "z_dim": 16},
        "text_encoder/config.json": {
            "d_model": 4096,
            "d_kv": 64,
            "d_ff": 10240,
            "num_layers": 24,
            "num_heads": 64,
            "vocab_size": 256384,
            "feed_forward_proj": "gated-gelu",
        },
    }
    for name, config in configs.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config), encoding="utf-8")
    return folder


def shape_run() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The arithmetic, and what a GPU measures if there is one."""
    with tempfile.TemporaryDirectory() as folder:
        models = describe_models(str(wan_folder(Path(folder))), torch.bfloat16)
        storyboard = Storyboard.model_validate({"shots": [{"prompt": "a red fox walks", "seconds": SECONDS}]})
        # A GPU's memory is asked for, and there need be none; the rate matters to the expected time alone.
        with (
            patch("blockvid.estimate.product_rate", return_value=float("inf")),
            patch("blockvid.estimate.text_bytes", return_value=text_bytes(models)),  # once: a network is built for it
        ):
            estimates = {
                (rows, name, place): memory_of(models, storyboard, rows, policy, storage)
                for rows in (1, 2)
                for name, policy in POLICIES.items()
                for place, storage in STORAGES.items()
            }
        chunks = storyboard.chunks(models.geometry)
        frames = [chunk.frames for chunk in chunks]
        config, tokens = models.dit.config, models.geometry.tokens_per_frame
        per_token = 2 * config["num_layers"] * config["num_attention_heads"] * config["attention_head_dim"] * 2
        arithmetic = {"estimates": estimates, "frames": frames, "tokens": tokens, "per_token": per_token}
        if not torch.cuda.is_available():
            return arithmetic, []
        with torch.device("cuda"):
            dit = BlockDiT.from_config(dict(config)).to(torch.bfloat16).eval()
        return arithmetic, [measured(dit, models.geometry, frames, name, place) for name, place in MEASURED]


def memory_of(models: Models, storyboard: Storyboard, rows: int, policy: KeyValuePolicy, storage: Storage) -> Memory:
    """The estimate for a GPU, without guidance (one row) or with it (two)."""
    wanted = Settings(guidance=1.0 if rows == 1 else None, policy=policy, storage=storage)
    settings = wanted.resolved(models, storyboard)
    return estimate(models, storyboard, settings, torch.device("cuda")).memory


@torch.no_grad()
def measured(dit: BlockDiT, geometry: Geometry, frames: Sequence[int], name: str, place: str) -> dict[str, Any]:
    """Peak bytes allocated and seconds of the last chunk: a step and a clean pass per chunk, one row, random text."""
    device, cuda = dit.device, dit.device.type == "cuda"
    policy, storage = POLICIES[name], STORAGES[place]
    cache = KVCache(recalls(policy, torch.ones(len(frames), len(frames))), dit.rope, device, dit.dtype)
    text = torch.randn(1, 1, 512, dit.config["text_dim"], device=device, dtype=dit.dtype)
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds: list[float] = []
    try:
        for index in range(len(frames)):
            began = time.perf_counter()
            cache.append(one_chunk(dit, geometry, frames, index, cache, storage, text))
            if cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
    except torch.OutOfMemoryError:
        return {"policy": name, "storage": place, "made": len(seconds), "peak": None, "seconds": None}
    most = torch.cuda.max_memory_allocated() if cuda else 0
    return {"policy": name, "storage": place, "made": len(seconds), "peak": most, "seconds": seconds[-1]}


def one_chunk(
    dit: BlockDiT,
    geometry: Geometry,
    frames: Sequence[int],
    index: int,
    cache: KVCache,
    storage: Storage,
    text: Float[Tensor, "1 1 l d"],
) -> ChunkMemory:
    """One prediction at full noise and one clean pass of a chunk; what is to be remembered. Nothing is thinned."""
    g, own, start = geometry, frames[index], sum(frames[:index])
    grid = grid_positions(own, g.latent_height // g.patch[1], g.latent_width // g.patch[2]).to(dit.device)
    attend = Cached(dit.rope, cache.recall(index, start), grid)
    size = (1, g.latent_channels, own, g.latent_height, g.latent_width)
    x, context = torch.randn(size, device=dit.device, dtype=dit.dtype), TextContext(text, (own,))
    writer = MemoryWriter(ChunkMemory(index, start, own, grid, ()), dit.rope, torch.Generator(), None, storage)
    for sigma, seen in ((1.0, attend), (0.0, Recording(attend, writer))):
        dit(x, torch.full((1, own), TIMESTEPS * sigma, device=dit.device), context, seen)
    return writer.memory()


def shape_report(arithmetic: dict[str, Any], gpu: list[dict[str, Any]]) -> Iterator[str]:
    """Gigabytes by policy and storage, and the verdict about 24."""
    frames, tokens, per_token = arithmetic["frames"], arithmetic["tokens"], arithmetic["per_token"]
    estimates: dict[tuple[int, str, str], Memory] = arithmetic["estimates"]
    whole = sum(frames) * tokens * per_token
    yield (
        f"\n## A minute of Wan 2.1 1.3B at 480p\n\n"
        f"Arithmetic, not measured: 832x480, 16 frames/s, {len(frames)} chunks of {max(frames[1:])} latent frames (the "
        f"first {frames[0]}), {sum(frames)} latent frames of {tokens} tokens, bfloat16. A token is 2 (key, value) x 30 "
        f"layers x 1536 channels x 2 bytes = {per_token} bytes, the whole minute {whole / 1e9:.1f} GB of cache, "
        f"{2 * whole / 1e9:.1f} GB with guidance (two rows). Below: `blockvid.estimate`'s peak on a GPU in GB, "
        f"weights, text encoder, cache as remembered and as rotated, activations and decoding included, where "
        f"nothing is thinned (tau 1 is the bound for DynamicSparse and Semantic).\n"
    )
    for rows, label in ((1, "without guidance"), (2, "with guidance")):
        yield f"\n| {label} | {' | '.join(STORAGES)} |\n|{'---|' * (len(STORAGES) + 1)}"
        for name in POLICIES:
            peaks = (estimates[rows, name, place].peak for place in STORAGES)
            yield f"| {name} | {' | '.join(f'{peak / 1e9:.1f}' for peak in peaks)} |"
        fits = [f"{n} ({p})" for (r, n, p), m in estimates.items() if r == rows and m.peak <= BUDGET]
        yield f"\nWithin {BUDGET / 1e9:.0f} GB {label}: {'; '.join(fits) or 'none'}."
    parts = [part.name for part in fields(Memory)]
    yield f"\nBy what needs it, GB, without guidance:\n\n| | {' | '.join(parts)} |\n|{'---|' * (len(parts) + 1)}"
    for name, place in MEASURED:
        memory = estimates[1, name, place]
        yield f"| {name}, {place} | {' | '.join(f'{getattr(memory, part) / 1e9:.1f}' for part in parts)} |"
    if not gpu:
        yield "\nNot measured: no CUDA GPU was at hand."
        return
    yield (
        f"\nMeasured on {torch.cuda.get_device_name()} with random weights: a step and a clean pass a chunk, latents "
        "only, without guidance, text encoder and decoder.\n"
    )
    yield "| policy, storage | chunks made | peak, GB | s, last chunk |\n|---|---|---|---|"
    for row in gpu:
        peak = "out of memory |" if row["peak"] is None else f"{row['peak'] / 1e9:.1f} | {row['seconds']:.1f}"
        yield f"| {row['policy']}, {row['storage']} | {row['made']} | {peak} |"


def draw_tau(
    points: dict[str, Point], layers: Float[np.ndarray, "taus layers"], taus: Sequence[float], path: Path
) -> None:
    """Kept share against tau, also by layer; similarity against kept share, with what else keeps as much."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure((11, 4.4), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2)
    for layer, shares in enumerate(layers.T):
        left.plot(taus, shares, color=str(0.85 - 0.5 * layer / len(layers.T)), lw=1)
    left.plot(taus, [points[f"tau {tau:g}"][0] for tau in taus], "o-", color="tab:blue", label="all (grey: each layer)")
    left.plot([0, 1], [0, 1], ":", color="0.6", label="attention spread evenly")
    left.set(xlabel="tau", ylabel="share of tokens kept", xlim=(min(taus) - 0.02, 1.01), ylim=(0, 1.02))
    left.legend(frameon=False)
    curves = (("tau {:g}", "salient tokens", "tab:blue"), ("random, as many as tau {:g}", "random tokens", "tab:red"))
    for pattern, label, color in curves:
        shares, spans = zip(*(points[pattern.format(tau)] for tau in taus), strict=True)
        mean, low, high = np.array(spans).T
        right.plot(shares, mean, "o-", ms=3, color=color, label=label)
        right.fill_between(shares, low, high, color=color, alpha=0.2, lw=0)
    for name, marker in (("Window(1)", "v"), ("Window(2)", "s"), ("Window(3)", "^"), ("Semantic(1, 1), tau 1", "D")):
        share, (mean, _, _) = points[name]
        right.plot(share, mean, marker, color="0.25", ms=6, label=f"{name.removesuffix(', tau 1')}, dense")
    right.add_patch(Rectangle((0, BOX[1]), BOX[0], 1 - BOX[1], color="tab:green", alpha=0.2, label="aim"))
    right.set(xlabel="share of the four chunks' tokens kept", ylabel="cosine similarity of velocities", xlim=(0, 1.02))
    right.legend(frameon=False)
    figure.savefig(path)
