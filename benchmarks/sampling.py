"""How to sample the embedded model: python benchmarks/sampling.py [--openings 120].

The first chunk of many held-out storyboards, made in each way from the same noise, and read by the classifier of
`benchmarks/storybook.py`. What somebody is, is settled there, and seldom changes later; so a hundred openings say in
minutes what twenty whole videos, some of them always good and some always bad, cannot: which sampler finds who is
asked for. Differences are to the first way, opening by opening.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, islice
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.progress import track
from storybook_score import LATE, conditions

from blockvid.evaluation.scorers.luma import luma, sharpness
from blockvid.evaluation.statistics import Bootstrap
from blockvid.model.load import STORYBOOK
from blockvid.pipeline import Pipeline, Settings
from blockvid.sampling.denoiser import GuidanceRule
from blockvid.storybook.boards import Board, boards
from blockvid.storybook.probe import Probe
from storybook import interval

QUESTIONS = ("subject", "scene", "direction")
Way = tuple[int, float, float, GuidanceRule]
"""Steps, guidance, shift and guidance's rule."""
Made = tuple[str, Pipeline, Settings]
"""What a row is called, by whom it is made, and how."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    model: str = "storybook"
    out: Path = Path("benchmarks/sampling.md")
    openings: int = 120
    first: int = 810_000
    """Seed of the boards: not those of the scorecard, for whoever chooses by this table may not be judged by it."""
    ways: tuple[Way, ...] = ((20, 3, 8, "cfg"), (10, 3, 4, "cfg"), (10, 3.5, 4, "cfg"), (10, 4.5, 4, "cfg"))
    student: str | None = None
    """A model of few steps, such as storybook-fast, as a last row: sampled as its own defaults say."""


@dataclass(frozen=True)
class Opening:
    """A first chunk, made in one way."""

    right: tuple[float, ...]
    """By question: 1 right, 0 wrong, nan not asked."""
    clarity: float
    """Mean over its frames."""
    seconds: float


def chosen(options: Options) -> list[Board]:
    """That many boards, twenty of each seed."""
    seeds = count(options.first, 100_000)
    return list(islice(chain.from_iterable(map(boards, seeds)), options.openings))


def rows_of(options: Options) -> list[Made]:
    """The ways of the model, and the student."""
    pipe, made = Pipeline.from_pretrained(options.model), []
    for steps, guidance, shift, rule in options.ways:
        named = "guidance" if rule == "cfg" else rule
        settings = Settings(steps=steps, guidance=guidance, shift=shift, guidance_rule=rule)
        made.append((f"{steps} steps, {named} {guidance:g}, shift {shift:g}", pipe, settings))
    if options.student is not None:
        student = Pipeline.from_pretrained(options.student)
        made.append((f"{Path(options.student).name}, {student.models.defaults.steps} steps", student, Settings()))
    return made


def opening(pipe: Pipeline, probe: Probe, board: Board, settings: Settings) -> Opening:
    """Make one and read it."""
    take = pipe.take(board.storyboard, settings)
    began = time.perf_counter()
    frames = next(take.clips()).frames
    seconds = time.perf_counter() - began
    read = probe.read(torch.from_numpy(frames)[LATE:], pipe.models.geometry.fps)
    answers, wanted = read.answers, board.expected(0)
    right = (np.nan if wanted[q] is None else float(answers[q] == wanted[q]) for q in QUESTIONS)
    return Opening(tuple(right), float(np.mean([sharpness(luma(frame)) for frame in frames])), seconds)


def row(name: str, found: Sequence[Opening], base: Sequence[Opening]) -> str:
    """Shares in percent; what is not asked counts for nothing."""
    cells = []
    for at in range(len(QUESTIONS)):
        ours, theirs = (np.array([100 * each.right[at] for each in of]) for of in (found, base))
        asked = ~np.isnan(ours)
        cells.append(f"{ours[asked].mean():.1f}")
        if found is not base:
            d = Bootstrap()((ours - theirs)[asked])
            cells[-1] += f", {d.value:+.1f} [{d.low:+.1f}, {d.high:+.1f}]"
    spent, theirs = (np.median([each.seconds for each in of]) for of in (found, base))
    cells += [interval([each.clarity for each in found]), f"{spent / theirs:.2f}"]
    return f"| {name} | {' | '.join(cells)} |"


def main(options: Options) -> None:
    """Measure and write the table."""
    made, probe = rows_of(options), Probe.from_pretrained(STORYBOOK / "probe").eval()
    told = chosen(options)
    for _, pipe, _ in made:
        next(iter(pipe.stream(told[0].storyboard, Settings(steps=1))))  # the first is slower
    founds: list[list[Opening]] = [[] for _ in made]
    for seed, board in track(list(enumerate(told)), "openings"):
        for (_, pipe, settings), found in zip(made, founds, strict=True):  # in turn: a busy moment falls on all
            found.append(opening(pipe, probe, board, replace(settings, seed=seed)))
    lines = [
        "# How to sample the embedded model",
        "",
        f"{conditions(made[0][1].models)}. The first chunks of {options.openings} held-out storyboards, seeds 0, 1, "
        "...; shares of right readings in percent, and the paired difference to the first row with its 95 % bootstrap "
        "interval over openings; seconds are medians, times the first row's.",
        "",
        f"| way | {', % | '.join(QUESTIONS)}, % | clarity | seconds |",
        "|---" * (len(QUESTIONS) + 3) + "|",
        *(row(name, found, founds[0]) for (name, _, _), found in zip(made, founds, strict=True)),
        "",
    ]
    options.out.write_text("\n".join(lines), encoding="utf-8")
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(tyro.cli(Options))
