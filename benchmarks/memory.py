"""What remembering costs and what forgetting loses: policies, tau, the cache itself, and the shape of a real model.

    python benchmarks/memory.py [--chunks 60] [--steps 4] [--rounds 1] [--only policies tau rolling shape]

Writes a table (a section per part, after each part) and docs/images/memory-tau.png. Every measurement runs in a process
of its own, so that its peak memory is its own. `--chunks 6 --steps 1 --clips 1 --taus 0.9 --out trial.md --images .`
shows in a minute or two that everything runs.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from generate_tasks import environment, peak
from jaxtyping import Float, Int
from memory_shape import (
    BOX,
    Point,
    draw_tau,
    rolling_report,
    rolling_run,
    shape_report,
    shape_run,
)
from torch import Tensor
from tyro.extras import literal_type_from_choices

from blockvid.attention.attend import Cached, Recording
from blockvid.attention.attend import Full as Everything
from blockvid.attention.cache import ChunkMemory, Context, KVCache, LayerMemory, MemoryWriter
from blockvid.attention.policies import (
    DynamicSparse,
    Full,
    KeyValuePolicy,
    Semantic,
    SinkWindow,
    Window,
    recalls,
    similarity,
)
from blockvid.attention.rope import grid_positions
from blockvid.attention.salience import Salience
from blockvid.attention.storage import Packed, Storage
from blockvid.evaluation.statistics import Bootstrap
from blockvid.flow import noised
from blockvid.model.dit import TextContext
from blockvid.model.load import Models
from blockvid.model.text import PromptEmbedding
from blockvid.pipeline import Pipeline, Settings
from blockvid.storybook.captions import captions
from blockvid.storybook.corpus import encode_clip
from blockvid.storybook.world import render, sample_take

Part = Literal["policies", "tau", "rolling", "shape"]
PARTS: tuple[Part, ...] = ("policies", "tau", "rolling", "shape")
SCENES = (
    "a green frog hops beside a pond in the morning",
    "a yellow bus drives through a town in the rain",
    "an owl flies over a dark forest at night",
    "a white rabbit runs across a meadow by day, the camera follows",
    "a small rocket hovers above the desert at dusk",
)
"""Two of each are made within ten chunks, so a bank of the most similar is full by then."""
EXTRA = 5  # chunks planned after the last measured one: a cache that nobody asks again would be empty
SEMANTIC = Semantic(2, 2, Salience(tau=0.98))
CASES: dict[str, tuple[KeyValuePolicy, Storage]] = {
    "Window(2)": (Window(2), Storage()),
    "Window(4)": (Window(4), Storage()),
    "Window(4), int8": (Window(4), Storage(precision="int8")),
    "SinkWindow(1, 2)": (SinkWindow(1, 2), Storage()),
    "DynamicSparse(4), tau 0.98": (DynamicSparse(4, Salience(tau=0.98)), Storage()),
    "Semantic(2, 2), tau 0.98": (SEMANTIC, Storage()),
    "Semantic(2, 2), tau 0.98, int8": (SEMANTIC, Storage(precision="int8")),
    "Semantic(2, 2), tau 0.98, host": (SEMANTIC, Storage(place="host")),
    "Full": (Full(), Storage()),
}
Policy = literal_type_from_choices(CASES)
LEVELS = (0.2, 0.5, 0.8, 0.95)
PAST = 4  # chunks that the fifth one sees
PAPER = (0.97, 0.98)


@dataclass(frozen=True)
class Benchmark:
    """Memory, time and similarity of every policy."""

    chunks: int = 60
    """Chunks of each video, and of the cache alone."""
    steps: int = 4
    """Solver steps of a chunk."""
    rounds: int = 1
    """Turns of each policy; medians are shown."""
    full_chunks: int = 30
    """Chunks of the video that remembers everything, at most."""
    clips: int = 24
    """Held-out takes of five chunks for the curve of tau."""
    taus: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 1.0)
    """Those of the paper are always among them."""
    only: tuple[Part, ...] = PARTS
    """Parts to measure; the others are left out of the table."""
    policies: tuple[Policy, ...] = tuple(CASES)
    """Rows of the first part, to take more turns of one of them; the first is the unit of the time column."""
    model: str = "storybook"
    out: Path = Path("benchmarks/memory.md")
    images: Path = Path("docs/images")

    def __call__(self) -> None:
        load = os.getloadavg()[0]
        here = alone(environment, {})
        lines = [
            "# What remembering costs, and what forgetting loses\n",
            f"`{' '.join(['python benchmarks/memory.py', *sys.argv[1:]])}`, {datetime.now(UTC):%Y-%m-%d}. "
            f"{here['processor']}, {here['threads']} threads, load {load:.1f} before the start. torch {here['torch']}, "
            f"diffusers {here['diffusers']}, blockvid {here['blockvid']}. Model: {self.model}.",
        ]
        if missing := [part for part in PARTS if part not in self.only]:
            lines.append(f"\nNot measured in this run: {', '.join(missing)}.")
        for part in (part for part in PARTS if part in self.only):
            lines += self.section(part)
            self.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(self.out)

    def section(self, part: Part) -> list[str]:
        """Measure one part; the lines of its section."""
        if part == "policies":
            order = [(name, turn) for turn in range(self.rounds) for name in self.policies]
            runs: dict[str, list[dict[str, Any]]] = {name: [] for name in self.policies}
            for name, turn in order:
                print(f"{name}, turn {turn}", flush=True)
                count = min(self.chunks, self.full_chunks) if name == "Full" else self.chunks
                runs[name].append(alone(policy_run, self.model, name, count, self.steps))
            return list(policies_report(runs, self.chunks, self.steps))
        if part == "tau":
            taus = sorted({*self.taus, *PAPER})
            found, sizes = alone(tau_run, self.model, taus, self.clips)
            self.images.mkdir(parents=True, exist_ok=True)
            layers = np.array([np.mean(found[f"tau {tau:g}"]["layers"], axis=0) for tau in taus])
            points = {name: point(row) for name, row in found.items()}
            draw_tau(points, layers, taus, self.images / "memory-tau.png")
            return list(tau_report(found, sizes, taus, self.clips))
        if part == "rolling":
            return list(rolling_report(alone(rolling_run, self.model, self.chunks, self.steps), self.steps))
        return list(shape_report(*alone(shape_run)))


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's value, from a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def resident(field: str) -> float:
    """VmRSS (now) or VmHWM (the most so far) of this process in MB; the most so far where there is no /proc.

    The kernel's record for `getrusage` begins with the parent's, which these do not.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return peak()
    lines = status.read_text(encoding="utf-8").splitlines()
    return next(float(line.split()[1]) / 1e3 for line in lines if line.startswith(field))


class Clock:
    """Seconds spent in methods, by a name that may span several."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    def watch(self, owner: type, method: str, name: str) -> None:
        """Replace a method, for this process, by itself with a timer."""
        original = getattr(owner, method)

        @functools.wraps(original)
        def timed(*arguments: Any) -> Any:
            began = time.perf_counter()
            result = original(*arguments)
            self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - began
            return result

        setattr(owner, method, timed)


def policy_run(model: str, name: str, chunks: int, steps: int) -> dict[str, Any]:
    """A video under one policy: seconds, cache seconds, memory and tokens, chunk by chunk."""
    policy, storage = CASES[name]
    clock = Clock()
    for owner, method in ((KVCache, "append"), (KVCache, "recall"), (MemoryWriter, "write")):
        clock.watch(owner, method, "bookkeeping")
    clock.watch(Context, "layer", "reading")
    pipe = Pipeline.from_pretrained(model, "cpu")
    prompts = [SCENES[index % len(SCENES)] for index in range(chunks + EXTRA)]
    clips = pipe.take(prompts, Settings(steps=steps, policy=policy, storage=storage)).clips()
    rows: list[dict[str, Any]] = []
    reference = fixed_work(pipe.models)
    last, before = time.perf_counter(), dict[str, float]()
    for clip in islice(clips, chunks):
        now = time.perf_counter()
        rows.append(
            {
                "seconds": now - last,
                **{key: clock.spent.get(key, 0.0) - before.get(key, 0.0) for key in ("bookkeeping", "reading")},
                "resident": resident("VmRSS"),
                "attended": clip.trace.attended,
                "kept": clip.trace.kept,
                "bank": clip.trace.bank_bytes,
            }
        )
        del clip
        began = time.perf_counter()
        reference()
        last, before = time.perf_counter(), dict(clock.spent)
        rows[-1]["reference"] = last - began
    return {**{key: [row[key] for row in rows] for key in rows[0]}, "peak": resident("VmHWM")}


def fixed_work(models: Models) -> Callable[[], None]:
    """The same few forwards each time: how fast the machine is just then."""
    dit, g = models.dit, models.geometry
    shape = (1, g.latent_channels, g.chunk_frames, g.latent_height, g.latent_width)
    x, sigma = torch.zeros(shape, dtype=dit.dtype), torch.ones(1, g.chunk_frames)
    tokens = torch.zeros(1, 1, 32, dit.config["text_dim"], dtype=dit.dtype)
    text = TextContext(tokens, (g.chunk_frames,), torch.ones(1, 1, 32, dtype=torch.bool))
    attend = Everything(dit.rope, positions(models, g.chunk_frames))

    @torch.no_grad()
    def run() -> None:
        for _ in range(3):
            dit(x, 1000 * sigma, text, attend)

    run()
    return run


def early_late(chunks: int) -> tuple[range, range]:
    """The chunks that flatness compares: 10 to 19 with the last ten, or thirds of a short trial."""
    if chunks >= 30:
        return range(10, 20), range(chunks - 10, chunks)
    return range(chunks // 3, 2 * chunks // 3), range(2 * chunks // 3, chunks)


def growth(values: Sequence[float]) -> float:
    """Mean of the late chunks over the mean of the early ones."""
    early, late = early_late(len(values))
    return statistics.mean(values[i] for i in late) / statistics.mean(values[i] for i in early)


def policies_report(runs: dict[str, list[dict[str, Any]]], chunks: int, steps: int) -> Iterator[str]:
    """One row per policy and codec."""
    early, late = early_late(chunks)
    first = next(iter(runs))
    whole = f"Full is made for {len(runs['Full'][0]['seconds'])} chunks. " if "Full" in runs else ""
    rows = {name: policy_row(taken) for name, taken in runs.items()}
    yield (
        f"\n## Policies and codecs over {chunks} chunks\n\n"
        f"{steps} steps, decoded, in the model's own precision on the CPU; {len(SCENES)} prompts take turns. Each row "
        f"is a process of its own, in {len(runs[first])} turn(s), medians. {whole}"
        f"**Flat**: mean of chunks {late[0]} to {late[-1]} over mean of chunks {early[0]} to {early[-1]} (within 1.05 "
        "is the aim; Full: its own last chunks), of seconds as they are, and of seconds against those of fixed "
        "forwards after each chunk, as the machine's own speed wanders by several percent in a minute (brackets: least "
        "and most of the turns). **Attended**: tokens "
        "that the last chunk sees, its own included, mean over layers. **Bank**: keys and values remembered after the "
        "last chunk, as more chunks were to follow. **Bookkeeping**: share of the chunks' time in `KVCache.append`, "
        "`KVCache.recall` and `MemoryWriter.write`, salience and quantisation included (3 % is the aim). **Reading**: "
        "share in `Context.layer`, which unpacks and rotates int8 memories at every step.\n"
    )
    yield (
        f"| policy | s a chunk | times {first} | flat, time | flat, against fixed work | attended | kept | bank, MB "
        "| peak, MB | flat, resident | bookkeeping, % | reading, % |"
    )
    yield "|" + "---|" * 12
    base = rows[first]["seconds"]
    for name, row in rows.items():
        yield (
            f"| {name} | {row['seconds']:.3f} | {row['seconds'] / base:.2f} | {row['flat']:.3f} "
            f"| {row['steady']:.3f} [{row['least']:.3f}, {row['most']:.3f}] "
            f"| {row['attended']:.0f} | {row['kept']:.3f} | {row['bank'] / 1e6:.1f} | {row['peak']:.0f} "
            f"| {row['resident']:.3f} | {100 * row['bookkeeping']:.1f} | {100 * row['reading']:.1f} |"
        )
    bounded = {name: row for name, row in rows.items() if name != "Full"}
    for what, key, limit in (("time against fixed work", "steady", 1.05), ("resident memory", "resident", 1.05)):
        yield verdict(f"{what} flat within 5 %", [name for name, row in bounded.items() if row[key] > limit])
    yield verdict("bookkeeping at most 3 %", [n for n, row in bounded.items() if row["bookkeeping"] > 0.03])
    thinned = {name: taken for name, taken in runs.items() if CASES[name][0].salience is not None}
    if not thinned:
        return
    yield "\nKept by layer in generation, mean over chunks:\n"
    layers = len(runs[first][0]["kept"][0])
    yield f"| policy |{''.join(f' {layer} |' for layer in range(layers))}\n|{'---|' * (layers + 1)}"
    for name, taken in thinned.items():
        kept = np.mean([run["kept"] for run in taken], axis=(0, 1))
        yield f"| {name} |{''.join(f' {share:.3f} |' for share in kept)}"


def verdict(aim: str, missed: list[str]) -> str:
    """Whether every bounded policy reached an aim."""
    return f"\nAim, {aim}: " + (f"missed by {'; '.join(missed)}." if missed else "reached by every bounded policy.")


def policy_row(taken: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over the turns of what a row shows."""

    def middle(value: Callable[[dict[str, Any]], float]) -> float:
        return statistics.median(value(run) for run in taken)

    first = early_late(len(taken[0]["seconds"]))[0][0]
    steady = [growth(run["seconds"]) / growth(run["reference"]) for run in taken]
    return {
        "seconds": middle(lambda run: statistics.median(run["seconds"][first:])),
        "flat": middle(lambda run: growth(run["seconds"])),
        "steady": statistics.median(steady),
        "least": min(steady),
        "most": max(steady),
        "resident": middle(lambda run: growth(run["resident"])),
        "attended": middle(lambda run: run["attended"][-1]),
        "kept": middle(lambda run: float(np.mean(run["kept"]))),
        "bank": middle(lambda run: run["bank"][-1]),
        "peak": middle(lambda run: run["peak"]),
        "bookkeeping": middle(lambda run: sum(run["bookkeeping"][first:]) / sum(run["seconds"][first:])),
        "reading": middle(lambda run: sum(run["reading"][first:]) / sum(run["seconds"][first:])),
    }


@dataclass(frozen=True)
class Scene:
    """A true take of five chunks as the model sees it."""

    latents: Float[Tensor, "1 c f h w"]
    noise: Float[Tensor, "1 c f h w"]
    """Of the fifth chunk."""
    prompt: PromptEmbedding
    sizes: tuple[int, ...]

    @property
    def starts(self) -> tuple[int, ...]:
        return (0, *accumulate(self.sizes[:-1]))

    @classmethod
    def held_out(cls, models: Models, seed: int) -> Scene:
        """Pairs of subject and scene that training never showed."""
        g = models.geometry
        sizes = (g.chunk_frames + 1, *[g.chunk_frames] * PAST)
        take = sample_take(seed, seconds=4 * (PAST + 2), split="heldout")
        clip = render(take, width=g.width, height=g.height, fps=g.fps, start=0, stop=g.pixel_frames(sum(sizes)))
        latents = encode_clip(models.autoencoder.vae, clip.frames)[None]
        shape = latents[:, :, -sizes[-1] :].shape
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return cls(latents, noise, models.text_encoder()(captions(take)[: PAST + 1]), sizes)

    def chunk(self, index: int) -> Float[Tensor, "1 c f h w"]:
        return self.latents.split(self.sizes, dim=2)[index]

    def text(self, index: int, dtype: torch.dtype) -> TextContext:
        row = slice(index, index + 1)
        return TextContext(self.prompt.tokens[row, None].to(dtype), (self.sizes[index],), self.prompt.mask[row, None])


@dataclass(frozen=True)
class Remembering:
    """How the four chunks are remembered; `counts` of chunk and layer thins at random instead of by salience."""

    policy: KeyValuePolicy
    counts: tuple[tuple[int, ...], ...] = ()

    def __call__(self, models: Models, scene: Scene) -> tuple[KVCache, list[ChunkMemory]]:
        """The cache that the fifth chunk reads, by clean passes as in generation, and all that was written."""
        dit, chance = models.dit, torch.Generator().manual_seed(0)
        cache = KVCache(recalls(self.policy, similarity(scene.prompt.pooled)), dit.rope, dtype=dit.dtype)
        written = []
        for index in range(PAST):
            start, frames, grid = scene.starts[index], scene.sizes[index], positions(models, scene.sizes[index])
            empty = ChunkMemory(index, start, frames, grid, ())
            writer = MemoryWriter(empty, dit.rope, chance, self.policy.salience)
            attend = Recording(Cached(dit.rope, cache.recall(index, start), grid), writer)
            dit(scene.chunk(index).to(dit.dtype), torch.zeros(1, frames), scene.text(index, dit.dtype), attend)
            memory = writer.memory()
            memory = at_random(memory, self.counts[index], chance) if self.counts else memory
            cache.append(memory)
            written.append(memory)
        return cache, written


def positions(models: Models, frames: int) -> Int[Tensor, "s 3"]:
    """Of a chunk's tokens."""
    g = models.geometry
    return grid_positions(frames, g.latent_height // g.patch[1], g.latent_width // g.patch[2])


def at_random(memory: ChunkMemory, counts: tuple[int, ...], chance: torch.Generator) -> ChunkMemory:
    """A dense memory thinned to as many tokens a layer, drawn without looking."""
    layers = []
    for layer, count in zip(memory.layers, counts, strict=True):
        kept = torch.randperm(len(memory.grid), generator=chance)[:count].sort().values
        layers.append(LayerMemory(Packed(layer.keys.data[:, kept]), Packed(layer.values.data[:, kept]), kept))
    return replace(memory, layers=tuple(layers))


def velocities(models: Models, scene: Scene, cache: KVCache) -> Float[Tensor, "levels n"]:
    """Of the fifth chunk, by noise level."""
    dit, start, frames, made = models.dit, scene.starts[PAST], scene.sizes[PAST], []
    attend = Cached(dit.rope, cache.recall(PAST, start), positions(models, frames))
    for level in LEVELS:
        sigma = torch.full((1, frames), level)
        x = noised(scene.chunk(PAST), scene.noise, sigma)
        made.append(dit(x.to(dit.dtype), 1000 * sigma, scene.text(PAST, dit.dtype), attend).double().flatten())
    return torch.stack(made)


def variants(taus: Sequence[float]) -> dict[str, KeyValuePolicy]:
    """What is compared with `Full` over four chunks, beside random tokens."""
    return {
        **{f"tau {tau:g}": DynamicSparse(PAST, Salience(tau=tau)) for tau in taus},
        "Semantic(2, 2), tau 0.98": SEMANTIC,
        "Window(1)": Window(1),
        "Window(2)": Window(2),
        "Window(3)": Window(3),
        "Semantic(1, 1), tau 1": Semantic(1, 1, Salience(tau=1.0)),
    }


@torch.no_grad()
def tau_run(model: str, taus: Sequence[float], clips: int) -> tuple[dict[str, dict[str, Any]], tuple[int, int]]:
    """By variant: share of the context kept, cosine (clip, level) and kept (clip, layer); context and own tokens."""
    models, found = Pipeline.from_pretrained(model, "cpu").models, dict[str, dict[str, Any]]()
    context = own = 0
    for seed in range(30_000, 30_000 + clips):
        scene = Scene.held_out(models, seed)
        context, own = (models.geometry.tokens_per_frame * sum(part) for part in (scene.sizes[:-1], scene.sizes[-1:]))
        dense = velocities(models, scene, Remembering(Full())(models, scene)[0])

        def compare(name: str, remembering: Remembering) -> list[ChunkMemory]:
            cache, written = remembering(models, scene)  # noqa: B023
            seen = [written[index].kept for index, _ in cache.plan[PAST]]
            whole = [scene.sizes[index] for index, _ in cache.plan[PAST]]  # noqa: B023
            tokens = models.geometry.tokens_per_frame * np.average(seen, axis=1) @ whole
            row = found.setdefault(name, {"share": [], "cosine": [], "layers": []})
            row["share"].append(float(tokens / context))  # noqa: B023
            row["cosine"].append(F.cosine_similarity(velocities(models, scene, cache), dense).tolist())  # noqa: B023
            row["layers"].append(np.mean([memory.kept for memory in written], axis=0).tolist())
            return written

        for name, policy in variants(taus).items():
            written = compare(name, Remembering(policy))
            if name.startswith("tau "):
                counts = tuple(tuple(layer.keys.data.shape[1] for layer in memory.layers) for memory in written)
                compare(f"random, as many as {name}", Remembering(Full(), counts))
    return found, (context, own)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and both ends of its 95 % bootstrap interval."""
    found = Bootstrap()(np.array(values))
    return found.value, found.low, found.high


def point(row: dict[str, Any]) -> Point:
    """Mean share of the context, and the similarity over levels with its interval over clips."""
    return float(np.mean(row["share"])), interval(np.mean(row["cosine"], axis=1).tolist())


def tau_report(
    found: dict[str, dict[str, Any]], sizes: tuple[int, int], taus: Sequence[float], clips: int
) -> Iterator[str]:
    """The curve as a table, its verdict, and what the paper's values keep."""
    context, own = sizes
    points = {name: point(row) for name, row in found.items()}

    def total(share: float) -> float:
        return (share * context + own) / (context + own)

    yield (
        f"\n## Tau: what is kept against what is predicted\n\n![](../docs/images/memory-tau.png)\n\n"
        f"{clips} held-out rendered takes: four true chunks ({context} tokens) are remembered by clean passes, then "
        f"the velocity of the fifth ({own} tokens) is predicted from each memory and compared with that from all four, "
        f"dense, at noise levels {', '.join(map(str, LEVELS))}; no guidance. Similarity: cosine, mean over levels, "
        "with a 95 % bootstrap interval over clips. Random tokens: as many, in each chunk and layer, as salience kept. "
        "Semantic(2, 2) recalls the same four chunks; the windows and Semantic(1, 1) are dense. Training "
        "showed the model dense chunks only: the last two, and at times one older.\n"
    )
    yield "| memory | context kept | attended, own tokens included | similarity | by level | random tokens |"
    yield "|---|---|---|---|---|---|"
    for name in variants(taus):
        share, (mean, low, high) = points[name]
        control = points.get(f"random, as many as {name}")
        chance = "" if control is None else "{:.4f} [{:.4f}, {:.4f}]".format(*control[1])
        levels = " ".join(f"{value:.4f}" for value in np.mean(found[name]["cosine"], axis=0))
        yield (
            f"| {name} | {share:.3f} | {total(share):.3f} | {mean:.4f} [{low:.4f}, {high:.4f}] | {levels} | {chance} |"
        )
    for what, measure in (("of the context", lambda share: share), ("attended, own tokens included", total)):
        yield tau_verdict(what, {tau: (measure(points[f"tau {tau:g}"][0]), points[f"tau {tau:g}"][1]) for tau in taus})
    yield "\nKept by layer at the paper's values:\n"
    layers = len(found[f"tau {PAPER[0]:g}"]["layers"][0])
    yield f"| tau |{''.join(f' {layer} |' for layer in range(layers))} all |\n|{'---|' * (layers + 2)}"
    for tau in PAPER:
        kept = np.mean(found[f"tau {tau:g}"]["layers"], axis=0)
        yield f"| {tau:g} |{''.join(f' {share:.3f} |' for share in kept)} {kept.mean():.3f} |"


def tau_verdict(what: str, points: dict[float, Point]) -> str:
    """Whether some tau reaches the similarity with at most half the tokens, and the nearest miss if none does."""
    share, similar = BOX
    aim = f"\nAim, similarity {similar} or more with at most {share:g} of the tokens ({what}): "
    reached = [tau for tau, (kept, (mean, _, _)) in points.items() if kept <= share and mean >= similar]
    if reached:
        return aim + f"reached at tau {', '.join(f'{tau:g}' for tau in reached)}."
    within = {tau: mean for tau, (kept, (mean, _, _)) in points.items() if kept <= share}
    alike = {tau: kept for tau, (kept, (mean, _, _)) in points.items() if mean >= similar}
    best = max(within, key=lambda tau: within[tau], default=None)
    least = min(alike, key=lambda tau: alike[tau], default=None)
    return aim + "not reached. {} {}".format(
        "No tau keeps so few." if best is None else f"Within {share:g}, tau {best:g} has {within[best]:.4f}.",
        f"No tau has {similar}." if least is None else f"The fewest at {similar}: tau {least:g}, {alike[least]:.3f}.",
    )


if __name__ == "__main__":
    tyro.cli(Benchmark, config=(tyro.conf.FlagCreatePairsOff,))()
