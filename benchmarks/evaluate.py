"""What it costs to measure a video: time and memory of each tier, beside whole clips in memory for every metric.

    python benchmarks/evaluate.py [--seconds 20] [--memory-seconds 60] [--tiers core light vbench] [--rounds 3]

Writes a table, section by section. Every measurement runs in a process of its own; what is compared takes turns. About
half an hour on two cores, 5 GB of memory for the clips that are held whole, and 2 GB of disk for random weights of the
tier vbench. `--seconds 2 --memory-seconds 4 --tiers core --rounds 1` shows in a minute or two that it runs.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tyro
from evaluate_tasks import FPS, HEIGHT, WIDTH, at_once, cached, make_clip, models, ours, save_random_weights, where
from evaluate_whole import naive
from generate_tasks import environment

from blockvid.evaluation import catalogue
from blockvid.evaluation.crew import processors
from blockvid.evaluation.metric import TIERS, Tier

Runs = dict[str, list[dict[str, Any]]]
FASTER = {"core": 1.0, "light": 3.0}
"""Aims: seconds for a second of video, at most."""
LESS = 5
"""Aim: times less memory than a whole clip takes, at least."""
MOST = 1500
"""Aim: MB for 60 s of 480p, at most."""


@dataclass(frozen=True)
class Benchmark:
    """Time and memory of each tier, against whole clips in memory."""

    seconds: float = 20.0
    """Length of the clip that is timed."""
    memory_seconds: float = 60.0
    """Length of the clip that memory is compared with."""
    tiers: tuple[Tier, ...] = TIERS
    """vbench is measured over a few frames, with random weights."""
    rounds: int = 3
    """Turns of everything that is timed; medians are shown."""
    threads: int = processors()
    """Of torch; OpenCV has one."""
    vbench_frames: int = 16
    """Frames that tier vbench is measured over; 3 or more hold a pair for RAFT."""
    out: Path = Path("benchmarks/evaluate.md")

    def __call__(self) -> None:
        load, here = os.getloadavg()[0], alone(environment, {})
        lines = [
            "# What it costs to measure a video\n",
            f"`{' '.join(['python benchmarks/evaluate.py', *sys.argv[1:]])}`, {datetime.now(UTC):%Y-%m-%d}. "
            f"{here['processor']}, {processors()} processors, {self.threads} threads for torch and one for OpenCV; "
            f"load {load:.1f} before the start. torch {here['torch']}, blockvid {here['blockvid']}. Clips: a textured "
            f"subject before a moving texture, {WIDTH}x{HEIGHT}, {FPS:g} frames a second, H.264.",
        ]
        with tempfile.TemporaryDirectory() as folder:
            for section in self.sections(Path(folder)):
                lines += section
                self.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(self.out)

    def sections(self, folder: Path) -> Iterator[list[str]]:
        """The lines of each part, as they are measured."""
        tiers = [tier for tier in self.tiers if tier in FASTER]
        if tiers:
            clip = self.clip(folder, "timed", self.seconds, 0)
            streamed, whole = self.timed(clip, tiers, folder)
            pair = {tier: self.pair(clip, tier, folder) for tier in tiers}
            yield list(time_report(streamed, whole, pair, self.seconds))
            yield list(self.memory_report(streamed, whole, folder))
            yield list(metrics_report(streamed[tiers[-1]][0]["scores"], whole, self.seconds))
        for tier in tiers:
            print(f"where the time goes, {tier}", flush=True)
            yield list(where_report(tier, alone(where, clip, tier, self.threads, folder), self.seconds))
        if tiers:
            yield list(cached_report({t: alone(cached, clip, t, self.threads, folder) for t in tiers}, self.seconds))
        if "vbench" in self.tiers:
            yield list(self.vbench_report(folder))

    def clip(self, folder: Path, name: str, seconds: float, seed: int) -> Path:
        """A made clip."""
        path = folder / f"{name}.mp4"
        alone(make_clip, path, round(seconds * FPS), seed)
        return path

    def timed(self, clip: Path, tiers: Sequence[Tier], folder: Path) -> tuple[Runs, Runs]:
        """Every round of every tier by blockvid, and of every metric over whole clips, by turns."""
        keys = [metric.key for metric in catalogue.metrics(tiers[-1], models(folder))]
        streamed: Runs = {tier: [] for tier in tiers}
        whole: Runs = {key: [] for key in keys}
        for turn in range(self.rounds):
            for tier in tiers:
                print(f"{tier}, turn {turn}", flush=True)
                streamed[tier].append(alone(ours, clip, tier, self.threads, folder))
            for key in keys:
                print(f"whole clip, {key}, turn {turn}", flush=True)
                whole[key].append(alone(naive, clip, key, self.threads, folder))
        return streamed, whole

    def pair(self, clip: Path, tier: Tier, folder: Path) -> float:
        """Seconds for a second of video, of two clips at once."""
        print(f"two clips at once, {tier}", flush=True)
        other = folder / "other.mp4"
        if not other.exists():
            self.clip(folder, "other", self.seconds, 1)
        taken = [alone(at_once, (clip, other), tier, folder) for _ in range(self.rounds)]
        return statistics.median(taken) / (2 * self.seconds)

    def memory_report(self, streamed: Runs, whole: Runs, folder: Path) -> Iterator[str]:
        """Peaks over a longer clip."""
        clip, least = self.clip(folder, "long", self.memory_seconds, 2), leanest(whole)
        yield (
            f"\n## Memory\n\nLargest resident size of a process, its imports (torch, OpenCV, FFmpeg) included. Whole "
            f"clip: the leanest of all metrics, over {self.memory_seconds:g} s, for both tiers. **Grows**: what each "
            "further second of video adds, from the shorter clip to the longer.\n"
        )
        yield (
            f"| tier | imports, MB | blockvid, {self.seconds:g} s | blockvid, {self.memory_seconds:g} s "
            f"| whole clip, {self.memory_seconds:g} s | times | without imports, times | grows, MB/s | whole, MB/s |"
        )
        yield "|" + "---|" * 9
        short, rows = middle(whole[least], "peak"), {}
        print(f"memory, whole clip, {least}", flush=True)
        held = alone(naive, clip, least, self.threads, folder)
        for tier, runs in streamed.items():
            print(f"memory, {tier}", flush=True)
            long = rows[tier] = alone(ours, clip, tier, self.threads, folder)  # type: ignore[arg-type]
            added = self.memory_seconds - self.seconds or math.nan
            yield (
                f"| {tier} | {long['before']:.0f} | {middle(runs, 'peak'):.0f} | {long['peak']:.0f} "
                f"| {held['peak']:.0f} ({least}) | {held['peak'] / long['peak']:.1f} "
                f"| {(held['peak'] - held['before']) / (long['peak'] - long['before']):.1f} "
                f"| {(long['peak'] - middle(runs, 'peak')) / added:.2f} | {(held['peak'] - short) / added:.1f} |"
            )
        peaks = {tier: row["peak"] for tier, row in rows.items()}
        yield verdict(
            f"at least {LESS} times less memory than a whole clip of {self.memory_seconds:g} s",
            [tier for tier, peak in peaks.items() if held["peak"] < LESS * peak],
        )
        yield verdict(f"{self.memory_seconds:g} s within {MOST} MB", [t for t, peak in peaks.items() if peak > MOST])

    def vbench_report(self, folder: Path) -> Iterator[str]:
        """The cost of tier vbench, frame by frame."""
        print("vbench", flush=True)
        clip = self.clip(folder, "short", self.vbench_frames / FPS, 3)
        alone(save_random_weights, folder)
        yield from where_report("vbench", alone(where, clip, "vbench", self.threads, folder), self.vbench_frames / FPS)
        yield (
            f"\nRandom weights of the published networks' shapes: the cost only, no score of which means anything. "
            f"Extrapolated from {self.vbench_frames} frames to a second of video, so that what a video costs once "
            "(hash, files, scores) weighs more than it would in a longer one. AMT, which needs a checkout, is left out."
        )


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's value, from a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def middle(runs: Sequence[Mapping[str, Any]], key: str) -> float:
    """The median over rounds."""
    return statistics.median(run[key] for run in runs)


def leanest(whole: Runs) -> str:
    """The metric whose whole clip took the least memory."""
    return min(whole, key=lambda key: middle(whole[key], "peak"))


def verdict(aim: str, missed: Sequence[str]) -> str:
    """Whether every tier reached an aim."""
    return f"\nAim, {aim}: " + (f"missed by {', '.join(missed)}." if missed else "reached.")


def time_report(streamed: Runs, whole: Runs, pair: Mapping[str, float], seconds: float) -> Iterator[str]:
    """Seconds for a second of video."""
    rounds = len(next(iter(streamed.values())))
    yield (
        f"\n## Time: {seconds:g} s of video, seconds for each\n\nMedians of {rounds} turn(s), from the file to the "
        "record, imports left out. **blockvid**: one call, all metrics of the tier for the video and its 10 segments, "
        "drift, curves, stills; light is core and its own. **Whole clips**: one decoding into float32 for each metric, "
        "then its score for the video alone, by the same functions. **Two at once**: two clips, two workers with a "
        "thread each, their start included.\n"
    )
    yield "| tier | metrics | blockvid | whole clips | of it decoding | times | blockvid, two at once | aim |"
    yield "|" + "---|" * 8
    missed = []
    for tier, runs in streamed.items():
        keys = [key for key in whole if "@core" in key or tier != "core"]
        taken = middle(runs, "seconds") / seconds
        held, decoding = (sum(middle(whole[key], what) for key in keys) / seconds for what in ("seconds", "decode"))
        if taken > FASTER[tier]:
            missed.append(tier)
        yield (
            f"| {tier} | {len(keys)} | {taken:.3f} | {held:.3f} | {decoding:.3f} | {held / taken:.2f} "
            f"| {pair[tier]:.3f} | {FASTER[tier]:g} |"
        )
    yield verdict("real time for core, three times that for light, one clip", missed)


def metrics_report(scores: Mapping[str, float | None], whole: Runs, seconds: float) -> Iterator[str]:
    """Whole clips, one by one, and whether they agree."""
    yield "\n## Whole clips, metric by metric\n"
    yield "| metric | s for a second | of it decoding | peak, MB | score | blockvid's |"
    yield "|" + "---|" * 6
    for key, runs in whole.items():
        time, decoding = (middle(runs, what) / seconds for what in ("seconds", "decode"))
        yield (
            f"| {key} | {time:.3f} | {decoding:.3f} | {middle(runs, 'peak'):.0f} | {runs[0]['score']:.6g} "
            f"| {number(scores[key]):.6g} |"
        )
    off = max(abs(runs[0]["score"] - number(scores[key])) for key, runs in whole.items())
    yield f"\nThe largest difference of two scores is {off:.2g}."


def number(score: float | None) -> float:
    """nan for what has no score."""
    return math.nan if score is None else score


def where_report(tier: str, found: Mapping[str, Any], seconds: float) -> Iterator[str]:
    """Parts, the costliest first."""
    spent, wall = dict(found["spent"]), found["wall"]
    loading = sum(value for part, value in spent.items() if part.startswith("load"))
    spent = {part: value for part, value in spent.items() if not part.startswith("load")}
    working = wall - loading
    spent["everything else"] = working - sum(spent.values())
    yield (
        f"\n## Where the time goes: {tier}\n\n{working / seconds:.3f} s for a second of video, and {loading:.2f} s to "
        f"load networks; {found['peak']:.0f} MB at most. What several extractors share "
        "(flow, masks, pictures) is on the account of the first that asks, as in `motion: DIS flow`.\n"
    )
    yield "| part | s for a second | share, % |\n|---|---|---|"
    for part, value in sorted(spent.items(), key=lambda item: -item[1]):
        if value >= 0.002 * working:
            yield f"| {part} | {value / seconds:.4f} | {100 * value / working:.1f} |"


def cached_report(found: Mapping[str, Mapping[str, float]], seconds: float) -> Iterator[str]:
    """Milliseconds to score again."""
    yield (
        f"\n## Again, from the rows\n\nMilliseconds for the {seconds:g} s clip once its rows are stored: all scores, "
        "segments, drift, curves and warnings, and the sha256 of the file; medians of 5.\n"
    )
    names = next(iter(found.values()))
    yield f"| tier |{''.join(f' {name} |' for name in names)}\n|{'---|' * (len(names) + 1)}"
    for tier, taken in found.items():
        yield f"| {tier} |{''.join(f' {taken[name]:.0f} |' for name in names)}"


if __name__ == "__main__":
    tyro.cli(Benchmark, config=(tyro.conf.FlagCreatePairsOff,))()
