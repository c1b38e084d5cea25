"""The same video in several runs: its scores on one line, its pictures side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from blockvid.evaluation.compare import Comparison, together
from blockvid.evaluation.report.files import of_file
from blockvid.evaluation.report.markup import Html, element
from blockvid.evaluation.report.numbers import INFINITE, exact, fixed, short
from blockvid.evaluation.report.svg import Axis, dot, line, linear, picture, text
from blockvid.evaluation.results import Results

WIDTH, NAMES, MARGIN = 720, 210, 34
"""Of a plot, of the names at its left, and of the room for infinite values at its right."""
ROW, DENSE = 20, 5
MANY = 60
"""Videos from which on rows are dense and have no names."""
LETTERS = 30


def paired_dots(comparison: Comparison, runs: Mapping[str, Results], key: str, words: str) -> Html:
    """A row for each video with a dot for each run, largest difference between the first two on top."""
    rows = _rows(comparison, tuple(runs.values()), key)
    known = [(name, values) for name, values in rows if np.isfinite(values).any() or np.isinf(values).any()]
    known.sort(key=lambda row: -_gap(row[1]))
    step = ROW if len(known) <= MANY else DENSE
    left = NAMES if step == ROW else 20
    axis = linear(np.concatenate([v for _, v in known]) if known else np.zeros(0), left, WIDTH - MARGIN)
    height = step * len(known) + 30
    parts = _rungs(axis, height)
    for index, (name, values) in enumerate(known):
        y = step * (index + 0.5) + 4
        parts += _row(name, values, y, axis, list(runs))
        if step == ROW:
            parts.append(text(left - 12, y + 4, _cut(name), "tick", "end"))
    told = "; ".join(f"{label} has a dot in each row" for label in runs)
    return picture(WIDTH, height, f"{words} by video", told, parts, "pairs")


def _rows(comparison: Comparison, runs: Sequence[Results], key: str) -> list[tuple[str, np.ndarray]]:
    values = [run.values(key) for run in runs]
    return [
        (name, np.array([of[video.name] for of, video in zip(values, videos, strict=True)]))
        for name, videos in zip(comparison.videos, together(runs, comparison), strict=True)
    ]


def _gap(values: np.ndarray) -> float:
    """Of the first two runs, as far as both are finite."""
    gap = float(values[0] - values[1]) if np.isfinite(values[:2]).all() else 0.0
    return abs(gap)


def _rungs(axis: Axis, height: float) -> list[Html]:
    ticks = axis.ticks(5)
    places = exact(ticks[1] - ticks[0]) if len(ticks) > 1 else 2
    parts = []
    for t in ticks:
        parts.append(line((axis(t), 4), (axis(t), height - 22), "grid"))
        parts.append(text(axis(t), height - 6, fixed(t, places), "tick", "middle"))
    return parts


def _row(name: str, values: np.ndarray, y: float, axis: Axis, labels: Sequence[str]) -> list[Html]:
    finite = [float(x) for x in values if math.isfinite(x)]
    parts = [line((axis(min(finite)), y), (axis(max(finite)), y), "link")] if len(finite) > 1 else []
    for index, (x, label) in enumerate(zip(values, labels, strict=True)):
        css = f"run-{index % 6}"
        if math.isfinite(x):
            parts.append(dot(axis(x), y, 4, css, f"{name}, {label}: {short(x)}"))
        elif math.isinf(x):
            parts.append(text(WIDTH - MARGIN / 2 + 8 * index, y + 4, INFINITE, css, "middle"))
    return parts


def _cut(name: str) -> str:
    return name if len(name) <= LETTERS else f"…{name[1 - LETTERS :]}"


def players(comparison: Comparison, runs: Mapping[str, Results], folder: Path) -> list[Html]:
    """For each video a folded row of players; scripts keep them in step."""
    rows = []
    for index, (name, videos) in enumerate(
        zip(comparison.videos, together(tuple(runs.values()), comparison), strict=True)
    ):
        figures = [
            _player(label, video.path, folder, number)
            for number, (label, video) in enumerate(zip(runs, videos, strict=True))
        ]
        prompts = [element("p", {"class": "quiet note"}, " / ".join(videos[0].prompts))] if videos[0].prompts else []
        summary = element("summary", None, element("h3", {"id": f"pair-{index}"}, name))
        rows.append(
            element("details", {"class": "video"}, summary, *prompts, element("div", {"class": "players"}, *figures))
        )
    return rows


def _player(label: str, path: str, folder: Path, number: int) -> Html:
    address = of_file(path, folder)
    caption = element("figcaption", None, element("span", {"class": f"swatch run-{number % 6}"}), label)
    if address is None:
        return element("figure", None, caption, element("p", {"class": "quiet"}, f"{path} is not there"))
    given = {"src": address, "controls": "", "preload": "none", "playsinline": "", "aria-label": label}
    return element("figure", None, caption, element("video", given))
