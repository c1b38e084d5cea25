"""What `benchmarks/train.py` measures, each task in processes of its own: `train_tasks.py '{"task": ...}'`.

The first rank writes what it found as JSON to the file that the order names.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from blockvid.attention.policies import Semantic
from blockvid.batch import Batch
from blockvid.cli.console import peak_memory
from blockvid.data.dataset import Dataset, write_empty
from blockvid.data.index import Sample
from blockvid.data.shards import Shards, ShardWriter
from blockvid.data.sources import ShardSource
from blockvid.geometry import Geometry
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.recipes.storybook import GEOMETRY, storybook_base
from blockvid.training.cost import cost
from blockvid.training.densities import continuing
from blockvid.training.loop import Cadence, Loop, Plan, losses_of
from blockvid.training.objectives import FlowMatching
from blockvid.training.objectives.visibility import Causal
from blockvid.training.sharding import Mesh, Precision, Sharding, launched, place

WARM = 3
"""Steps before the first that counts."""
WAN = Geometry(width=832, height=480, fps=16.0, chunk_frames=20)
SIMILAR = 2


def shape(name: str) -> tuple[BlockDiT, Geometry, int]:
    """A transformer, the geometry it is trained at, and the text slots of a chunk."""
    return (BlockDiT(), WAN, 512) if name == "wan" else (storybook_base().model(), GEOMETRY, 48)


class Made:
    """One batch of random latents and prompts, given again and again."""

    def __init__(self, model: BlockDiT, geometry: Geometry, slots: int, rows: int, chunks: int) -> None:
        g, dim = geometry, model.config["text_dim"]
        draw = torch.Generator().manual_seed(0)
        frames = (g.chunk_frames,) * chunks
        latents = torch.randn(rows, g.latent_channels, sum(frames), g.latent_height, g.latent_width, generator=draw)
        tokens = torch.randn(rows, chunks, slots, dim, generator=draw)
        mask = torch.ones(rows, chunks, slots, dtype=torch.bool)
        self.made = Batch(latents, frames, TextContext(tokens, frames, mask), tokens.mean(2), latents[:, :1] * 0 + 1)
        self.empty = TextContext(tokens[:1, :1], (1,), mask[:1, :1])

    def batch(self, step: int) -> Batch:  # noqa: ARG002
        """The batch."""
        return self.made


def objective() -> FlowMatching:
    """Flow matching as post-training has it: half of the samples continue clean chunks, two similar ones recalled."""
    return FlowMatching(continuing(), Causal(Semantic(SIMILAR)))


def step(order: dict[str, Any]) -> dict[str, Any] | None:
    """Seconds a step of the training loop, peak memory of a rank, MFU where the device's peak is known."""
    precision: Precision = order["precision"]
    with launched(Mesh(dp_shard=order["dp_shard"], sp=order["sp"]), torch.device(order["device"])) as world:
        torch.manual_seed(0)
        model, geometry, slots = shape(order["shape"])
        rows, chunks = order["batch"], order["chunks"]
        source = Made(model, geometry, slots, rows, chunks)
        size = geometry.chunk_frames
        seen = [size * (1 + min(c, 2 + SIMILAR)) for c in range(chunks)]
        needed = cost(model, [size] * chunks, geometry.tokens_per_frame, rows, seen, slots)
        networks = {"model": model}
        named = ("model",)
        layout = Sharding(precision, named if order["recompute"] else (), named if order["compile"] else ())
        place(networks, world, layout)
        losses = losses_of(objective(), source, networks, world.device)
        plan = Plan(WARM + order["steps"], world.dp_size, precision=precision)
        with tempfile.TemporaryDirectory() as folder:
            loop = Loop(networks, losses, plan, Path(folder), world, cadence=Cadence(save=10**9, log=1))
            loop.run(cost=needed)
            if world.rank:
                return None
            lines = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
        return {
            "seconds": statistics.median(line["seconds_per_step"] for line in lines[WARM:]),
            "first": lines[0]["seconds_per_step"],
            "tokens": needed.tokens * world.dp_size,
            "operations": needed.operations * world.dp_size,
            "mfu": statistics.median(line.get("mfu", 0.0) for line in lines[WARM:]),
            "peak": torch.cuda.max_memory_allocated() if world.device.type == "cuda" else peak_memory(),
        }


def reading(order: dict[str, Any]) -> dict[str, Any]:
    """Seconds to read a batch of shards of random latents as large as those of the shape."""
    model, g, slots = shape(order["shape"])
    channels, rows, chunks = g.latent_channels, order["batch"], order["chunks"]
    draw = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writer = ShardWriter(folder)
        for video in range(order["videos"]):
            samples = [
                Sample(
                    f"{video:04d}",
                    chunk,
                    g.chunk_frames + (chunk == 0),
                    {
                        "latents": torch.randn(
                            channels, g.chunk_frames + (chunk == 0), g.latent_height, g.latent_width, generator=draw
                        ).half(),
                        "tokens": torch.randn(slots // 2, model.config["text_dim"], generator=draw).half(),
                        "pooled": torch.randn(model.config["text_dim"], generator=draw),
                    },
                    {},
                )
                for chunk in range(15)
            ]
            writer.write(f"{video:04d}", samples)
            writer.add(f"{video:04d}")
        writer.close()
        described = Dataset(
            model=order["shape"], autoencoder="random", geometry=g, latents="float16", text="minilm",
            text_slots=slots, text_mask=True,
        )  # fmt: skip
        (folder / "dataset.json").write_text(described.model_dump_json())
        write_empty(folder, {"tokens": torch.zeros(2, model.config["text_dim"])})
        source = ShardSource(Shards.open(folder), chunks, rows)
        times = []
        for number in range(order["batches"]):
            began = time.perf_counter()
            source.batch(number)
            times.append(time.perf_counter() - began)
        size = sum(path.stat().st_size for path in (folder / "shards").iterdir())
    return {
        "seconds": statistics.median(times),
        "slowest": max(times),
        "tokens": rows * chunks * g.chunk_frames * g.tokens_per_frame,
        "megabytes": size / 1e6,
    }


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked["threads"])
    os.environ.setdefault("OMP_NUM_THREADS", str(asked["threads"]))
    found = {"step": step, "reading": reading}[asked["task"]](asked)
    if found is not None:
        Path(asked["out"]).write_text(json.dumps(found))
