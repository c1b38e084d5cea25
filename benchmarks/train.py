"""What a training step costs, and whether the data keep up: python benchmarks/train.py [--steps 8] [--rounds 1].

Every line is the training loop itself in processes of its own, on random latents of the model's shape. On a CUDA GPU
`--shape wan --device cuda` measures the 1.3B shape at 480p, MFU included. Below: what the 1.3B shape needs of each of
8 and 32 GPUs, by arithmetic. Writes benchmarks/train.md.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from generate_tasks import environment
from rich.console import Console
from train_tasks import SIMILAR, WAN, WARM
from tyro.extras import literal_type_from_choices

from blockvid.model.dit import BlockDiT
from blockvid.training.cost import memory
from blockvid.training.sharding import Mesh

say = Console(stderr=True).print


@dataclass(frozen=True)
class Case:
    """A way to lay out the same step."""

    name: str
    recompute: bool = False
    compile: bool = False
    dp_shard: int = 1
    sp: int = 1

    @property
    def ranks(self) -> int:
        return self.dp_shard * self.sp


CASES = (
    Case("plain"),
    Case("recompute", recompute=True),
    Case("compile", compile=True),
    Case("recompute, compile", recompute=True, compile=True),
    Case("2 ranks, sharded", dp_shard=2),
    Case("2 ranks, sequence parallel", sp=2),
)
Name = literal_type_from_choices([case.name for case in CASES])


@dataclass(frozen=True)
class Options:
    """What to measure."""

    shape: Literal["storybook", "wan"] = "storybook"
    device: str = "cpu"
    batch: int = 3
    """Videos a microbatch."""
    chunks: int = 5
    steps: int = 8
    """Steps that count, after three that do not."""
    rounds: int = 1
    """Turns of each case; the median is shown."""
    only: tuple[Name, ...] = tuple(case.name for case in CASES)
    reading: bool = True
    """Also measure how fast shards are read."""
    out: Path = Path("benchmarks/train.md")


def measured(order: dict[str, Any], ranks: int) -> dict[str, Any]:
    """What a task finds, run by torchrun where it has several ranks; its cores are shared out among them."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        asked = json.dumps({**order, "threads": max(1, (os.cpu_count() or 1) // ranks), "out": str(out)})
        task = [str(Path(__file__).with_name("train_tasks.py")), asked]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", str(port)]
        done = subprocess.run(
            [sys.executable, *(launch if ranks > 1 else []), *task],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // ranks))},
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stderr[-4000:])
        return json.loads(out.read_text())


def step_rows(options: Options) -> tuple[list[str], dict[str, Any] | None]:
    """Lines of the table, and what the plain case found."""
    precision = "bfloat16" if torch.cpu.get_capabilities().get("avx512_bf16") or options.device != "cpu" else "float32"
    found: dict[str, list[dict[str, Any]]] = {}
    for turn in range(options.rounds):
        for case in (case for case in CASES if case.name in options.only):
            say(f"{case.name}, turn {turn}")
            order = {
                "task": "step", "shape": options.shape, "device": options.device, "batch": options.batch,
                "chunks": options.chunks, "steps": options.steps, "precision": precision,
                "recompute": case.recompute, "compile": case.compile, "dp_shard": case.dp_shard, "sp": case.sp,
            }  # fmt: skip
            found.setdefault(case.name, []).append(measured(order, case.ranks))
    plain = found.get("plain", [None])[0]
    rows = []
    for name, turns in found.items():
        seconds = statistics.median(turn["seconds"] for turn in turns)
        rate = turns[0]["tokens"] / seconds
        first = statistics.median(turn["first"] for turn in turns)
        ratio = "" if plain is None else f"{rate / (plain['tokens'] / _median(found['plain'])):.2f}"
        mfu = f"{max(turn['mfu'] for turn in turns):.1%}" if turns[0]["mfu"] else "unknown"
        rows.append(
            f"| {name} | {seconds:.3f} | {rate:,.0f} | {ratio} | {turns[0]['operations'] / seconds / 1e9:,.0f} | {mfu} "
            f"| {max(turn['peak'] for turn in turns) / 1e6:,.0f} | {first:.1f} |"
        )
    return rows, plain and {**plain, "seconds": _median(found["plain"])}


def _median(turns: list[dict[str, Any]]) -> float:
    return statistics.median(turn["seconds"] for turn in turns)


def reading_lines(options: Options, plain: dict[str, Any] | None) -> list[str]:
    """How fast shards are read, and how often the plain step could be fed."""
    say("reading")
    order = {
        "task": "reading", "shape": options.shape, "batch": options.batch, "chunks": options.chunks, "videos": 100,
        "batches": 200,
    }  # fmt: skip
    found = measured(order, 1)
    rate = found["tokens"] / found["seconds"]
    lines = [
        "## Reading shards",
        "",
        f"100 videos of 15 chunks ({found['megabytes']:,.0f} MB), 200 batches of {options.batch} x {options.chunks} "
        "chunks in the sampler's order, on the loop's own thread and from a page cache that is warm: "
        f"{found['seconds'] * 1e3:.1f} ms a batch (slowest {found['slowest'] * 1e3:.1f}), {rate:,.0f} tokens a second.",
    ]
    if plain is not None:
        times = rate / (plain["tokens"] / plain["seconds"])
        lines += ["", f"That is {times:,.0f} times what the plain step consumes (aim 20)."]
    return [*lines, ""]


def on_paper() -> list[str]:
    """Memory of a rank for the 1.3B shape, by `training.cost.memory`."""
    with torch.device("meta"):
        model = BlockDiT().requires_grad_(True)
    tokens = 4 * WAN.chunk_frames * WAN.tokens_per_frame
    lines = [
        "## The 1.3B shape on several GPUs, by arithmetic",
        "",
        f"Flow matching of one video of 4 chunks ({tokens:,} tokens) a data-parallel rank at 480p, bfloat16 with "
        "float32 masters, AdamW and an average; GB a rank. Not measured.",
        "",
        "| GPUs | mesh | recompute | weights, gradients, optimiser, average | activations | total |",
        "|---|---|---|---|---|---|",
    ]
    for gpus, sp in ((1, 1), (8, 1), (8, 4), (32, 1), (32, 4)):
        for recompute in ((), ("model",)):
            needed = memory({"model": model}, tokens, Mesh(1, gpus // sp, sp), "bfloat16", recompute)
            states = needed.total - needed.activations
            lines.append(
                f"| {gpus} | dp_shard {gpus // sp}, sp {sp} | {'yes' if recompute else 'no'} | {states / 1e9:.1f} "
                f"| {needed.activations / 1e9:.1f} | {needed.total / 1e9:.1f} |"
            )
    return [*lines, ""]


def main(options: Options) -> None:
    """Write the table."""
    began, load = datetime.now(UTC).date().isoformat(), os.getloadavg()[0]
    facts = environment({})
    rows, plain = step_rows(options)
    given = shlex.join(sys.argv[1:])
    lines = [
        "# What a training step costs",
        "",
        f"`python benchmarks/train.py{' ' + given if given else ''}`, {began}. {facts['processor']}, "
        f"{facts['threads']} threads, load {load:.1f} before the start. torch {facts['torch']}, blockvid "
        f"{facts['blockvid']}. Shape: {options.shape}, device {options.device}.",
        "",
        "## A step of the loop",
        "",
        f"Flow matching of {options.batch} videos of {options.chunks} chunks a data-parallel rank, block-causal over "
        f"two recent and {SIMILAR} similar chunks, AdamW, clipping and the average included; median of {options.steps} "
        f"steps after {WARM}, {options.rounds} turn(s). Ranks share the cores of this machine and talk over gloo: two "
        "ranks here show what the exchange costs, not what a second machine gains. **First**: seconds of the first "
        "step, compilation included. **GFLOP/s**: of the step without what is computed twice.",
        "",
        "| layout | s a step | tokens a second | against plain | GFLOP/s | MFU | peak of a rank, MB | first, s |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        *(reading_lines(options, plain) if options.reading else []),
        *on_paper(),
    ]  # fmt: skip
    options.out.write_text("\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
