"""The scorecard's parts: videos of the twenty boards, what the probe reads from them, and how they drift."""

from __future__ import annotations

import datetime
import hashlib
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from blockvid.attention.policies import DynamicSparse, Full, Semantic, SinkWindow, Window
from blockvid.attention.salience import Salience
from blockvid.evaluation.evaluate import Evaluation
from blockvid.evaluation.metric import Tier
from blockvid.evaluation.profiles import Release
from blockvid.evaluation.results import Results
from blockvid.geometry import Geometry
from blockvid.model.autoencoder import to_pixels, to_unit
from blockvid.model.load import Models
from blockvid.pipeline import Pipeline, Settings
from blockvid.sampling.noise import BoundaryNoise
from blockvid.storybook.boards import CHUNKS, Board
from blockvid.storybook.films import Film
from blockvid.storybook.probe import CLASSES, Probe
from blockvid.video import read_frames, write_video

QUESTIONS = tuple(CLASSES)
SETTINGS: dict[str, Settings] = {
    "window": Settings(),
    "full": Settings(policy=Full()),
    "sink-window": Settings(policy=SinkWindow(1, 2)),
    "dynamic-sparse": Settings(policy=DynamicSparse(4, Salience(tau=0.9))),
    "semantic": Settings(policy=Semantic(2, 2, Salience(tau=0.9))),
    "window, dissolve 0.8": Settings(dissolve=0.8),
    "window, overlap 1": Settings(overlap=1),
    "window, context noise 0.1": Settings(context_noise=0.1),
    "window, local shuffle": Settings(policy=Window(), noise=BoundaryNoise("shared", "local", 4)),
    "window, joint shuffle": Settings(policy=Window(), noise=BoundaryNoise("shared", "joint", 4)),
    "window, freenoise": Settings(policy=Window(), noise=BoundaryNoise("independent", "freenoise", 4)),
}
"""Ways to generate; boards have the seeds 0, 1, ..."""
LATE = 1
"""Frames that a video begins before its first chunk's: the autoencoder's first latent frame is a single picture."""
say = Console(stderr=True).print
Right = dict[str, list[list[bool | None]]]
"""By question: a row for each board, a column for each chunk; None where nothing is asked."""


@dataclass(frozen=True)
class Score:
    """Of one way to make the boards' videos."""

    right: Right
    results: Results

    def accuracies(self, question: str, chunks: slice = slice(None)) -> np.ndarray:
        """Right and asked, by board: an array (boards, 2)."""
        rows = [[answer for answer in row[chunks] if answer is not None] for row in self.right[question]]
        return np.array([(sum(row), len(row)) for row in rows], dtype=float)


def conditions(models: Models) -> str:
    """When, by which command, of which weights, sampled how, and on what a table was made: how it begins."""
    command, d = shlex.join((f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:])), models.defaults
    return (
        f"{datetime.date.today()}, `python {command}`, weights {models.fingerprint[:12]}, by default {d.solver}, "
        f"{d.steps} steps, {d.guidance_rule} {d.guidance:g}, shift {d.shift:g}; torch {torch.__version__}, "
        f"{platform.machine()}, {torch.get_num_threads()} threads"
    )


def identity(models: Models) -> str:
    """A folder's name for videos of these weights with these defaults: other defaults make other videos."""
    return f"{models.fingerprint[:12]}-{hashlib.sha256(repr(models.defaults).encode()).hexdigest()[:6]}"


def filmed(film: Film, geometry: Geometry) -> np.ndarray:
    """What the renderer shows, its chunks where those of a generated video are."""
    return film.render(geometry.width, geometry.height, geometry.fps, LATE)[0][:-LATE].numpy()


def rendered(pipe: Pipeline, board: Board, _seed: int = 0) -> np.ndarray:
    """What the renderer shows of a board."""
    return filmed(board.film, pipe.models.geometry)


@torch.no_grad()
def reconstructed(pipe: Pipeline, board: Board, _seed: int = 0) -> np.ndarray:
    """What the autoencoder leaves of it: the most that a transformer in its latents can show."""
    frames = torch.from_numpy(rendered(pipe, board))
    encoder, decoder = pipe.models.autoencoder.encoder(), pipe.models.autoencoder.decoder()
    pieces = [frames[:1], *frames[1:].split(32)]
    pieces[-1] = pieces[-1][: len(pieces[-1]) // 4 * 4]
    made = [decoder.push(encoder.push(to_unit(piece)[None]))[0] for piece in pieces]
    shown = to_pixels(torch.cat(made, dim=1))
    return np.concatenate((shown.numpy(), np.repeat(shown[-1:].numpy(), len(frames) - len(shown), axis=0)))


def made_by(settings: Settings) -> Callable[[Pipeline, Board, int], np.ndarray]:
    """What the model generates from the captions alone."""
    return lambda pipe, board, seed: pipe(board.storyboard, replace(settings, seed=seed))


def score(
    pipe: Pipeline,
    probe: Probe | None,
    boards: Sequence[Board],
    make: Callable[[Pipeline, Board, int], np.ndarray],
    folder: Path,
    tier: Tier,
) -> Score:
    """Make what is missing of the boards' videos in `folder`, read them (without a probe: not), and evaluate them."""
    folder.mkdir(parents=True, exist_ok=True)
    fps = pipe.models.geometry.fps
    right: Right = {}
    for seed, board in enumerate(boards):
        path = folder / f"{board.name}.mp4"
        if not path.exists():
            say(f"{folder.name}: {board.name}")
            write_video(path, make(pipe, board, seed), fps)
        if probe is not None:
            frames = torch.from_numpy(np.concatenate(list(read_frames(path))))
            for question, answers in _read(probe, board, frames, fps).items():
                right.setdefault(question, []).append(answers)
    starts = [round(fps * 4 * chunk) + LATE for chunk in range(1, CHUNKS)]
    borders: Mapping[str, Sequence[int]] = {board.name: starts for board in boards}
    evaluation = Evaluation(Release(), tier, cache=folder / "rows", threads=torch.get_num_threads())
    return Score(right, evaluation({board.name: folder / f"{board.name}.mp4" for board in boards}, borders=borders))


def _read(probe: Probe, board: Board, frames: torch.Tensor, fps: float) -> dict[str, list[bool | None]]:
    per, found = round(4 * fps), {question: [] for question in QUESTIONS}
    for chunk in range(CHUNKS):
        answers = probe.read(frames[chunk * per + LATE : (chunk + 1) * per + LATE], fps).answers
        for question, wanted in board.expected(chunk).items():
            found[question].append(None if wanted is None else answers[question] == wanted)
    return found
