"""How fast blockvid makes a long video on this machine, beside diffusers with the same weights.

    python benchmarks/generate.py [--chunks 60] [--steps 20] [--out benchmarks/generate.md]

Writes a table, and the raw numbers beside it (`.json`, after every task). Every task runs in a process of its own; the
side by side takes turns, so that a busy machine slows every route alike. More than an hour on two cores; `--chunks 6
--compared 6 --steps 1 --rounds 1` shows in minutes that everything runs.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tyro

TASKS = Path(__file__).with_name("generate_tasks.py")
GUIDANCES = (1.0, 3.0)
DTYPES = ("float32", "bfloat16")
ROUTES = {
    "blockvid": "KV cache of the last two chunks",
    "skyreels, recommended overlap": "windows, 5 latent frames overlap (17 frames, as recommended)",
    "skyreels, overlap of two chunks": "windows, overlap as long as blockvid's context",
    "anyflow-far, as released": "KV cache of two chunks, older ones in 4x4 patches; eager flex attention",
    "anyflow-far, fused attention": "the same, flex attention replaced by torch's fused kernel",
    "anyflow-far, fused attention, least context": "the same, older chunks at one token a frame",
}
COMMANDS = {
    "python, nothing imported": [sys.executable, "-c", "pass"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import blockvid": [sys.executable, "-c", "import blockvid"],
    "import blockvid.pipeline": [sys.executable, "-c", "import blockvid.pipeline"],
    "blockvid --help": [str(Path(sys.executable).with_name("blockvid")), "--help"],
}


@dataclass(frozen=True)
class Benchmark:
    """Time to generate, chunk by chunk and side by side."""

    chunks: int = 60
    """Chunks of the streamed video."""
    compared: int = 8
    """Chunks of each video of the side by side, at least 6; 8, 13, 18, ... are whole windows for every route."""
    steps: int | None = None
    """Solver steps; the model's own by default."""
    rounds: int = 3
    """Turns of each route."""
    video_seconds: float = 60.0
    """Length of the decoded video."""
    model: str = "storybook"
    """A model; random weights of the storybook's shape if it is missing."""
    out: Path = Path("benchmarks/generate.md")

    def __call__(self) -> None:
        if self.compared < 6:
            raise SystemExit(f"{self.compared} chunks hold no second window of SkyReels; use 8, or 6 for a trial")
        raw: dict[str, Any] = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "command": " ".join(["python benchmarks/generate.py", *sys.argv[1:]]),
            "load": os.getloadavg()[0],
        }
        with weights(self.model) as (model, name):
            raw["model"] = name
            for key, value in self.measurements(model):
                raw[key] = value
                self.out.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
        self.out.write_text("\n".join(report(raw)) + "\n", encoding="utf-8")
        print(f"{self.out}")

    def measurements(self, model: str) -> Iterator[tuple[str, Any]]:
        """Name and raw numbers of each part, as they are measured."""
        yield "environment", task({"task": "environment"})
        yield "startup", {name: [wall(command) for _ in range(5)] for name, command in COMMANDS.items()}
        yield "stream", task({"task": "stream", "model": model, "chunks": self.chunks, "steps": self.steps})
        yield "decode", task({"task": "decode", "model": model, "video_seconds": self.video_seconds})
        yield "same_weights", task({"task": "same_weights", "model": model})["difference"]
        runs: list[dict[str, Any]] = []
        for turn in range(self.rounds):
            for dtype in DTYPES:
                for guidance in GUIDANCES:
                    for route in ROUTES:
                        order = {"route": route, "dtype": dtype, "guidance": guidance}
                        sizes = {"model": model, "chunks": self.compared, "steps": self.steps}
                        runs.append({**order, "round": turn, **task({"task": "route", **order, **sizes})})
                        yield "routes", runs


def task(order: dict[str, Any]) -> dict[str, Any]:
    """One task of `generate_tasks.py` in a fresh process, offline."""
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
    print(" ".join(str(value) for key, value in order.items() if key != "model"), flush=True)
    done = subprocess.run(
        [sys.executable, str(TASKS), json.dumps(order)], env={**os.environ, **quiet}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{order} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def wall(command: Sequence[str]) -> float:
    """Seconds that a command takes."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


@contextmanager
def weights(model: str) -> Iterator[tuple[str, str]]:
    """The model to load and what to call it: random weights of the storybook's shape where it has none."""
    from blockvid.model.load import STORYBOOK

    if model != "storybook" or STORYBOOK.is_dir():
        yield model, model if model == "storybook" else f"the model in {Path(model).name}"
        return
    with tempfile.TemporaryDirectory() as folder:
        task({"task": "make_random", "folder": folder})
        yield folder, "random weights of the storybook's shape, for its own are missing here"


def report(raw: dict[str, Any]) -> Iterable[str]:
    """The lines of the table."""
    here, stream = raw["environment"], raw["stream"]
    yield "# Generation on a CPU\n"
    yield (
        f"`{raw['command']}`, {raw['date']}. {here['processor']}, {here['threads']} threads, load {raw['load']:.1f} "
        f"before the start. torch {here['torch']}, diffusers {here['diffusers']}, blockvid {here['blockvid']}. "
        f"Model: {raw['model']}.\n"
    )
    yield "## Startup\n\n| | seconds, median of 5 |\n|---|---|"
    for name, seconds in raw["startup"].items():
        yield f"| `{name}` | {statistics.median(seconds):.2f} |"
    yield from stream_report(stream)
    yield from decode_report(raw["decode"], stream["fps"])
    yield from routes_report(raw["routes"], raw["same_weights"])


def stream_report(stream: dict[str, Any]) -> Iterable[str]:
    """Seconds a chunk over the whole video, and what they amount to."""
    seconds, frames = stream["seconds"], stream["frames"]
    n, (width, height) = len(seconds), stream["size"]
    early, late = (range(10, 20), range(n - 10, n)) if n >= 30 else (range(n // 3, 2 * n // 3), range(2 * n // 3, n))
    first, last = (statistics.median(seconds[i] for i in span) for span in (early, late))
    yield (
        f"\n## One video of {frames / stream['fps']:.0f} s through `Pipeline.stream`\n\n"
        f"{n} chunks of {width}x{height} at {stream['fps']:g} frames/s, {stream['steps']} steps, guidance "
        f"{stream['guidance']:g}, {stream['dtype']}, Window(2), decoded; "
        f"{stream['parameters'] / 1e6:.1f} M parameters.\n"
    )
    yield "| | |\n|---|---|"
    yield f"| imports | {stream['import']:.2f} s |"
    yield f"| load the model | {stream['load']:.2f} s |"
    yield f"| first chunk, text encoder included | {seconds[0]:.2f} s |"
    yield f"| chunks {early[0]} to {early[-1]}, median | {first:.2f} s |"
    yield f"| chunks {late[0]} to {late[-1]}, median | {last:.2f} s |"
    yield f"| late / early (within 1.05 is the aim) | {last / first:.3f} |"
    yield f"| frames a second, all chunks | {frames / sum(seconds):.2f} |"
    then, end = stream["peak_mb"][early[0]], stream["peak_mb"][-1]
    yield f"| peak memory after chunk {early[0]} / at the end | {then:.0f} / {end:.0f} MB |"
    yield "\nSeconds by chunk: " + " ".join(f"{value:.2f}" for value in seconds)


def decode_report(decode: dict[str, Any], fps: float) -> Iterable[str]:
    """The autoencoder alone."""
    yield f"\n## Streaming decoder, {decode['frames'] / fps:.0f} s of video, float32\n\n| | |\n|---|---|"
    yield f"| frames a second | {decode['frames'] / decode['seconds']:.1f} |"
    yield f"| memory: models loaded / peak | {decode['before_mb']:.0f} / {decode['peak_mb']:.0f} MB |"


def routes_report(runs: list[dict[str, Any]], difference: float) -> Iterable[str]:
    """Seconds per new latent frame of every route, and how many times blockvid's they are."""
    total = sum(piece["frames"] for piece in runs[0]["pieces"])
    yield (
        f"\n## Side by side: {total} latent frames\n\n"
        "Latents only, all text slots read without a mask, equal solver steps, the same weights (velocities over one "
        f"window differ by {difference:.1g} standard deviations in float32). Seconds per new latent frame: **steady** "
        "is the median over chunks or windows with a complete context, **whole** the whole video, which flatters "
        "routes whose first window is long. The solver is UniPC (AnyFlow-FAR: Euler). A clean pass per chunk to fill "
        "the cache is part of blockvid's and AnyFlow-FAR's time. AnyFlow-FAR never forgets: what is older than two "
        "chunks stays in its context, compressed, so its last row is the nearest to an equal context; its delta "
        "embedder and its compressed patches have random weights.\n"
    )
    yield "| route | dtype | guidance | steady, s | times blockvid | whole, s | times blockvid | peak MB |"
    yield "|---|---|---|---|---|---|---|---|"
    for dtype in DTYPES:
        for guidance in GUIDANCES:
            rows = {
                route: [r for r in runs if (r["route"], r["dtype"], r["guidance"]) == (route, dtype, guidance)]
                for route in ROUTES
            }
            ours_steady, ours_whole = steady(rows["blockvid"]), whole(rows["blockvid"])
            for route, taken in rows.items():
                peak = max(run["peak_mb"] for run in taken)
                yield (
                    f"| {route}: {ROUTES[route]} | {dtype} | {'yes' if guidance != 1 else 'no'} | {steady(taken):.4f} "
                    f"| {steady(taken) / ours_steady:.2f} | {whole(taken):.4f} | {whole(taken) / ours_whole:.2f} "
                    f"| {peak:.0f} |"
                )


def steady(runs: Sequence[dict[str, Any]]) -> float:
    """Seconds per new latent frame where the context is complete: the median of every round's median."""
    return statistics.median(
        statistics.median(piece["seconds"] / piece["frames"] for piece in run["pieces"] if piece["steady"])
        for run in runs
    )


def whole(runs: Sequence[dict[str, Any]]) -> float:
    """Seconds per latent frame of the whole video, start of the pipeline included: the median of the rounds."""
    return statistics.median(run["whole"] / sum(piece["frames"] for piece in run["pieces"]) for run in runs)


if __name__ == "__main__":
    tyro.cli(Benchmark, config=(tyro.conf.FlagCreatePairsOff,))()
