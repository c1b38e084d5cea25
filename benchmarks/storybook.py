"""How good the embedded model is: python benchmarks/storybook.py [--settings window semantic ...] [--boards 20].

Held-out means subject-scene pairs that no training take shows. Twenty storyboards of a minute (`storybook.boards`) are
generated from their captions; a classifier that was trained on rendered frames reads subject, scene, time of day and
direction from every chunk, and `blockvid eval` scores the videos. The same is done with what the renderer shows for
them, and with what the autoencoder leaves of that. Also: the autoencoder's PSNR on held-out renders, the velocity error
on them by noise level with true context, and contact sheets of the first boards, renders above generations.

Videos stay in --videos, so that a stopped run goes on; a run with fewer --boards shows in minutes that everything runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from storybook_score import QUESTIONS, SETTINGS, Score, conditions, identity, made_by, reconstructed, rendered, score
from tyro.extras import literal_type_from_choices

from blockvid.attention.attend import BlockCausal
from blockvid.attention.rope import grid_positions
from blockvid.evaluation.metric import Tier
from blockvid.evaluation.results import value
from blockvid.evaluation.statistics import Bootstrap, Estimate
from blockvid.flow import noised, velocity
from blockvid.model.autoencoder import to_unit
from blockvid.model.dit import TextContext
from blockvid.model.load import STORYBOOK, Models
from blockvid.pipeline import Pipeline
from blockvid.storybook.boards import FIRST_SEED, Board, boards
from blockvid.storybook.captions import captions
from blockvid.storybook.corpus import encode_clip
from blockvid.storybook.probe import Probe
from blockvid.storybook.world import Take, render, sample_take
from blockvid.video import read_frames

CHUNKS_OF = {"% of chunks": slice(None), "chunks 0 to 3": slice(0, 4), "chunks 11 to 14": slice(-4, None)}
METRICS = ("boundary_jump", "dynamic_degree", "motion_energy", "clarity")
Way = literal_type_from_choices(SETTINGS)
LEVELS = (0.2, 0.5, 0.8, 0.95)


@dataclass(frozen=True)
class Options:
    """What to measure."""

    model: str = "storybook"
    out: Path = Path("benchmarks/storybook.md")
    images: Path = Path("docs/images")
    clips: int = 40
    """Held-out clips for the autoencoder and for the velocity error."""
    boards: int = 20
    """How many of the twenty; fewer take them evenly from the three kinds."""
    first: int = FIRST_SEED
    """Another seed gives twenty other boards, such as 800000: for choosing settings, so that none is reported on the
    boards it was chosen on. Give --out and --images then, or they replace the published ones."""
    settings: tuple[Way, ...] = ("window",)
    """Ways to generate, of `storybook_score.SETTINGS`; five to eight minutes each on two cores. The others are compared
    with the first of them board by board."""
    against: str | None = None
    """A folder of other weights, or of these with other defaults, to be compared with under the first setting."""
    probe: Path = STORYBOOK / "probe"
    """What `blockvid train storybook_probe` made; without it nothing is read, and there are no accuracies."""
    tier: Tier = "light"
    videos: Path = Path("runs/scorecard")
    sheets: int = 3
    """Contact sheets, of the first plain boards."""


def interval(values: list[float]) -> str:
    """Mean and 95 % bootstrap interval over clips."""
    found = Bootstrap()(np.array(values))
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def clip_of(models: Models, take: Take, frames: int) -> torch.Tensor:
    """The first `frames` frames of a take, uint8 (t h w 3)."""
    g = models.geometry
    return render(take, width=g.width, height=g.height, fps=g.fps, start=0, stop=frames).frames


def reconstruction(models: Models, clips: int) -> list[float]:
    """PSNR in dB of each of `clips` held-out clips of 33 frames through the autoencoder."""
    found = []
    for seed in range(clips):
        frames = clip_of(models, sample_take(10_000 + seed, seconds=8, split="heldout"), 33)
        stream, back = models.autoencoder.encoder(), models.autoencoder.decoder()
        decoded = back.push(stream.push(to_unit(frames)[None]))
        error = (decoded[0].clamp(-1, 1) - to_unit(frames)).square().mean() / 4
        found.append(float(-10 * error.log10()))
    return found


@dataclass(frozen=True)
class TrueTake:
    """Three chunks of a held-out take, as the model sees them."""

    latents: torch.Tensor
    text: TextContext
    noise: torch.Tensor


@torch.no_grad()
def held_out(models: Models, clips: int) -> list[TrueTake]:
    """The takes that velocity errors are measured on."""
    g, embed, found = models.geometry, models.text_encoder(), []
    for seed in range(clips):
        take = sample_take(20_000 + seed, seconds=12, split="heldout")
        latents = encode_clip(models.autoencoder.vae, clip_of(models, take, 97))[None]
        prompt = embed(captions(take)[:3])
        sizes = (g.chunk_frames + 1, g.chunk_frames, g.chunk_frames)
        text = TextContext(prompt.tokens[None].to(models.dit.dtype), sizes, prompt.mask[None])
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
        found.append(TrueTake(latents, text, noise))
    return found


@torch.no_grad()
def velocity_errors(models: Models, takes: list[TrueTake]) -> dict[float, list[float]]:
    """Mean squared velocity error of a chunk given two true chunks before it, by the chunk's noise level."""
    g, sizes = models.geometry, takes[0].text.frames
    positions = grid_positions(sum(sizes), g.latent_height // 2, g.latent_width // 2)
    attend = BlockCausal(models.dit.rope, positions, tuple(k * g.tokens_per_frame for k in sizes), 2)
    found: dict[float, list[float]] = {level: [] for level in LEVELS}
    for take in takes:
        for level in LEVELS:
            sigma = torch.zeros(1, sum(sizes))
            sigma[:, -sizes[-1] :] = level
            x = noised(take.latents, take.noise, sigma).to(models.dit.dtype)
            v = models.dit(x, 1000 * sigma, take.text, attend)
            error = (v.float() - velocity(take.latents, take.noise))[:, :, -sizes[-1] :]
            found[level].append(float(error.square().mean()))
    return found


def chosen(count: int, first: int) -> list[Board]:
    """`count` of the boards, evenly from the three kinds, in their order."""
    every = boards(first)
    return [every[round(i * len(every) / count)] for i in range(count)]


def over_boards(statistic: Callable[[np.ndarray], float], count: int) -> Estimate:
    """`statistic` of the rows of all boards, and its 95 % bootstrap interval over boards."""
    drawn = np.random.default_rng(0).integers(count, size=(2000, count))
    low, high = np.quantile([statistic(rows) for rows in drawn], [0.025, 0.975])
    return Estimate(statistic(np.arange(count)), float(low), float(high))


def share(found: np.ndarray, rows: np.ndarray) -> float:
    """Right of asked in percent, over those boards."""
    right, asked = found[rows].sum(0)
    return float(100 * right / max(asked, 1))


def accuracy(of: Score, question: str, chunks: slice = slice(None)) -> str:
    """Share of right chunks in percent, with a 95 % bootstrap interval over boards."""
    found = of.accuracies(question, chunks)
    e = over_boards(lambda rows: share(found, rows), len(found))
    return f"{e.value:.1f} [{e.low:.1f}, {e.high:.1f}]"


def measured(of: Score, key: str) -> str:
    """The mean of a metric or a VDE over the boards, with its interval."""
    mean = of.results.summary[key].mean
    return f"{value(mean.value):.3g} [{value(mean.low):.3g}, {value(mean.high):.3g}]"


def versus(base: Score, now: Score, them: str, us: str) -> list[str]:
    """What other weights, or another way, score on the same boards and seeds, and the paired difference to them."""
    lines = [f"| measure | {them} | {us} | difference |", "|---|---|---|---|"]
    for question in (q for q in QUESTIONS if now.right.get(q)):
        for name, chunks in CHUNKS_OF.items():
            theirs, ours = (of.accuracies(question, chunks) for of in (base, now))
            e = over_boards(lambda rows, a=theirs, b=ours: share(b, rows) - share(a, rows), len(ours))
            both = f"{accuracy(base, question, chunks)} | {accuracy(now, question, chunks)}"
            lines.append(f"| {question}, {name} | {both} | {e.value:+.1f} [{e.low:+.1f}, {e.high:+.1f}] |")
    named = [(m.key, m.key) for m in now.results.metrics if m.name in METRICS]
    named += [(f"VDE, {q.key}", q.key) for q in now.results.quantities]
    for name, key in named:
        theirs, ours = (np.array([found for _, found in sorted(of.results.values(key).items())]) for of in (base, now))
        both = np.isfinite(ours - theirs)  # a video that does not move at first has no VDE of its dynamic degree
        e = Bootstrap()((ours - theirs)[both])
        counted = "" if both.all() else f" ({both.sum()} boards)"
        cells = f"{measured(base, key)} | {measured(now, key)}"
        lines.append(f"| {name}{counted} | {cells} | {e.value:+.3g} [{e.low:+.3g}, {e.high:+.3g}] |")
    return lines


def contrast(of: Score, quantity: str) -> str:
    """How far the last 15 % of a board score from its first 15 %, whichever is higher, as a mean over the boards."""
    drifts = [video.drift[quantity].robust.end_minus_start for video in of.results.videos]
    found = Bootstrap()(np.abs([value(drift) for drift in drifts]))
    return f"{found.value:.3g} [{found.low:.3g}, {found.high:.3g}]"


def table(scores: dict[str, Score]) -> list[str]:
    """Measures down, ways to make the videos across."""
    first = next(iter(scores.values()))
    asked = [q for q in QUESTIONS if first.right.get(q)]
    rows = [
        (f"{q}, {name}", [accuracy(s, q, chunks) for s in scores.values()])
        for name, chunks in CHUNKS_OF.items()
        for q in asked
    ]
    for name in METRICS:
        keys = [metric.key for metric in first.results.metrics if metric.name == name]
        rows += [(key, [measured(s, key) for s in scores.values()]) for key in keys]
    for q in first.results.quantities:
        rows.append((f"VDE, {q.key}", [measured(s, q.key) for s in scores.values()]))
    for q in first.results.quantities:
        rows.append((f"start-end contrast, {q.metric}", [contrast(s, q.key) for s in scores.values()]))
    lines = [f"| {name} | " + " | ".join(values) + " |" for name, values in rows]
    return ["| measure | " + " | ".join(scores) + " |", "|---" * (len(scores) + 1) + "|", *lines]


def sheet(board: Board, true: Path, made: Path, path: Path) -> None:
    """A still in the middle of every chunk: renders above generations, five chunks a row."""
    shown, generated = (np.concatenate(list(read_frames(folder / f"{board.name}.mp4"))) for folder in (true, made))
    per = len(shown) // len(board.film.told)
    stills = [np.concatenate((shown[i], generated[i])) for i in range(per // 2, len(shown), per)]
    rows = [np.concatenate(stills[i : i + 5], axis=1) for i in range(0, len(stills), 5)]
    Image.fromarray(np.concatenate([np.pad(row, ((0, 6), (0, 0), (0, 0)), constant_values=255) for row in rows])).save(
        path
    )


def main(options: Options) -> None:
    """Measure and write the table."""
    pipe = Pipeline.from_pretrained(options.model)
    other = Pipeline.from_pretrained(options.against) if options.against is not None else None
    probe = Probe.from_pretrained(options.probe).eval() if options.probe.exists() else None
    options.images.mkdir(parents=True, exist_ok=True)
    told = chosen(options.boards, options.first)
    which = "" if options.first == FIRST_SEED else f"-{options.first}"
    videos = options.videos / f"{identity(pipe.models)}{which}"
    bounds = {"renders": rendered, "autoencoder": reconstructed}
    scores = {name: score(pipe, probe, told, make, videos / name, options.tier) for name, make in bounds.items()}
    for name in options.settings:
        scores[name] = score(pipe, probe, told, made_by(SETTINGS[name]), videos / name, options.tier)
    way, compared = options.settings[0], []
    for name in options.settings[1:]:
        compared += [f"{name} beside {way}:", "", *versus(scores[way], scores[name], way, name), ""]
    if other is not None:
        folder = options.videos / f"{identity(other.models)}{which}" / way
        base = score(other, probe, told, made_by(SETTINGS[way]), folder, options.tier)
        heading = (
            f"Beside the weights {other.models.fingerprint[:12]}, {other.models.defaults.guidance_rule} "
            f"{other.models.defaults.guidance:g}, under "
            f"{way}, the same storyboards and seeds:"
        )
        compared += [heading, "", *versus(base, scores[way], "other weights", "these"), ""]
    for number, board in enumerate(told[: options.sheets]):
        sheet(board, videos / "renders", videos / way, options.images / f"heldout-{number}.png")
    psnr, errors = (
        reconstruction(pipe.models, options.clips),
        velocity_errors(pipe.models, held_out(pipe.models, options.clips)),
    )
    lines = [
        "# The embedded model, measured",
        "",
        f"{conditions(pipe.models)}, {pipe.models.dit.dtype}. {len(told)} held-out storyboards of a "
        "minute, seeds 0, 1, ...; means with 95 % bootstrap intervals over storyboards. Accuracies are of a "
        "classifier's reading of each chunk against what its caption asks; the column of the renders says how far the "
        "classifier is to be trusted.",
        "",
        *table(scores),
        "",
        *compared,
        f"Means with 95 % bootstrap intervals over {options.clips} held-out clips:",
        "",
        "| measure | value |",
        "|---|---|",
        f"| autoencoder PSNR, dB | {interval(psnr)} |",
        *(f"| velocity error at sigma {level}, true context | {interval(errors[level])} |" for level in LEVELS),
        "",
        "| contact sheet | storyboard |",
        "|---|---|",
        *(f"| heldout-{n}.png | {b.storyboard.shots[0].prompt} |" for n, b in enumerate(told[: options.sheets])),
        "",
    ]
    options.out.write_text("\n".join(lines), encoding="utf-8")
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(tyro.cli(Options))
