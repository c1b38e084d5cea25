"""The charts of a report: how sure a mean is, how scores move over segments and over time."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from blockvid.evaluation.report.markup import Html, element
from blockvid.evaluation.report.numbers import clock, exact, fixed, short
from blockvid.evaluation.report.svg import (
    Axis,
    Values,
    band,
    curve,
    dot,
    line,
    linear,
    number,
    outline,
    picture,
    text,
)

CELL_WIDTH, CELL_HEIGHT = 220, 30
PANEL_WIDTH, PANEL_HEIGHT = 340, 184
LEFT, TOP, RIGHT, BOTTOM = 44, 12, 292, 150
"""Of the plot in a panel; what it ends in is written to its right."""
SPARK_WIDTH, SPARK_HEIGHT = 1000, 100
QUARTILES = (0.25, 0.75)
MANY = 4
"""Lines from which on a band and a median are drawn over them."""
CROWDED = 24
"""Lines from which on those of single videos are left out where several runs share a panel."""
Format = Callable[[float], str]


@dataclass(frozen=True)
class Group:
    """Lines that belong together: the videos of a run."""

    label: str
    css: str
    lines: Mapping[str, Values]
    """By name of video, one value per segment."""


@dataclass(frozen=True)
class Estimated:
    """A mean with its interval, what it was taken over, and what noise would give."""

    value: float
    low: float
    high: float
    values: Values
    floor: float = math.nan


def interval_cell(estimated: Estimated, axis: Axis, name: str, shown: Format, ticks: Sequence[float] = ()) -> Html:
    """Videos as strokes, the mean as a dot, its interval as a bar, the noise floor as a tick; rows share the axis."""
    middle = CELL_HEIGHT / 2
    parts = [line((axis(t), 0), (axis(t), CELL_HEIGHT), "grid") for t in ticks]
    known = estimated.values[np.isfinite(estimated.values)]
    strokes = "".join(f"M{number(axis(x))} {middle - 6:g}v12" for x in sorted({*map(float, known)}))
    parts.append(element("path", {"d": strokes, "class": "strokes"}))
    if math.isfinite(estimated.low) and math.isfinite(estimated.high):
        parts.append(line((axis(estimated.low), middle), (axis(estimated.high), middle), "bar"))
    if math.isfinite(estimated.value):
        parts.append(dot(axis(estimated.value), middle, 4.5, "mean"))
    if math.isfinite(estimated.floor):
        parts.append(line((axis(estimated.floor), 4), (axis(estimated.floor), CELL_HEIGHT - 4), "floor"))
    told = f"mean {shown(estimated.value)}, 95 % interval {shown(estimated.low)} to {shown(estimated.high)}"
    floor = f", noise floor {shown(estimated.floor)}" if math.isfinite(estimated.floor) else ""
    return picture(CELL_WIDTH, CELL_HEIGHT, name, told + floor, parts, "cell")


def axis_cell(axis: Axis, shown: Format) -> Html:
    """The numbers that belong to a column of `interval_cell`s."""
    parts = []
    for t in axis.ticks():
        at_start = axis(t) < 20
        parts.append(text(axis(t) - 8 * at_start, 12, shown(t), "tick", "start" if at_start else "middle"))
    return picture(CELL_WIDTH, 16, "axis", "", parts, "cell")


def panel(title: str, groups: Sequence[Group], shown: Format, unit: str = "", baseline: float | None = None) -> Html:
    """Scores over segments: a thin line per video; a median and the middle half where there are enough of them."""
    every = [v for group in groups for v in group.lines.values() if len(v)]
    length = max((len(v) for v in every), default=0)
    bare = len(groups) > 1 and len(every) > CROWDED
    vertical, left_out = _range([q for group in groups for q in _middle(group)] if bare else every, baseline)
    horizontal = Axis(1, max(length, 2), LEFT, RIGHT)
    parts = [*_rungs(vertical, unit), *_numbered(horizontal, length)]
    if baseline is not None:
        parts.append(line((LEFT, vertical(baseline)), (RIGHT, vertical(baseline)), "baseline"))
    inner, ends = [], []
    for group in groups:
        drawn, end = _group(group, horizontal, vertical, len(every), bare)
        inner += drawn
        ends += [(end, group.css)] if math.isfinite(end) else []
    frame = {"x": LEFT, "y": TOP, "width": RIGHT - LEFT, "height": BOTTOM - TOP}
    shifted = {**frame, "viewBox": f"{LEFT} {TOP} {RIGHT - LEFT} {BOTTOM - TOP}"}
    parts.append(element("svg", shifted, *inner))
    parts += [text(RIGHT + 5, vertical(y) + place, shown(y), f"end {css}") for y, css, place in _apart(ends, vertical)]
    if left_out and not bare:
        parts.append(text(RIGHT, TOP - 2, f"{left_out} leave the panel", "tick", "end"))
    return picture(PANEL_WIDTH, PANEL_HEIGHT, title, _described(groups, shown), parts, "panel")


def _rungs(vertical: Axis, unit: str) -> list[Html]:
    """Round values of a vertical axis."""
    ticks = vertical.ticks(4)
    places = exact(ticks[1] - ticks[0]) if len(ticks) > 1 else 2
    parts = []
    for t in ticks:
        parts.append(line((LEFT, vertical(t)), (RIGHT, vertical(t)), "grid"))
        parts.append(text(LEFT - 6, vertical(t) + 3.5, fixed(t, places) + unit if t else "0", "tick", "end"))
    return parts


def _numbered(horizontal: Axis, length: int) -> list[Html]:
    """The numbers of some segments."""
    parts = []
    for segment in dict.fromkeys((1, *(int(t) for t in horizontal.ticks(4) if t == int(t) and t > 1), length)):
        if segment in (1, length) or segment <= length - max(1, length // 8):
            parts.append(text(horizontal(segment), BOTTOM + 15, str(segment), "tick", "middle"))
    parts.append(text((LEFT + RIGHT) / 2, BOTTOM + 29, "segment", "tick", "middle"))
    return parts


def _range(every: Sequence[Values], baseline: float | None) -> tuple[Axis, int]:
    """An axis for the bulk of the lines, and how many lines leave it."""
    stacked = np.concatenate(every) if every else np.zeros(0)
    finite = stacked[np.isfinite(stacked)]
    whole = np.append(finite, baseline) if baseline is not None else finite
    axis = linear(whole, BOTTOM, TOP)
    if len(every) < MANY or not len(finite):
        return axis, 0
    low, high = np.quantile(finite, [0.02, 0.98])
    bulk = linear(np.array([low, high, *([baseline] if baseline is not None else [])]), BOTTOM, TOP, pad=0.25)
    if axis.high - axis.low < 1.8 * (bulk.high - bulk.low):
        return axis, 0
    outside = [v for v in every if np.isfinite(v).any() and (np.nanmin(v) < bulk.low or np.nanmax(v) > bulk.high)]
    return bulk, len(outside)


def _group(group: Group, horizontal: Axis, vertical: Axis, crowd: int, bare: bool) -> tuple[list[Html], float]:
    """The lines of a group, without those of single videos if `bare`, and where the median (or the only line) ends."""
    lines = {name: v for name, v in group.lines.items() if np.isfinite(v).any()}
    if not lines:
        return [], math.nan
    alone = len(lines) == 1
    faint = f"video {group.css}" + (" crowd" if crowd > 40 else " few" if len(lines) < MANY else "")
    parts = []
    for name, values in lines.items() if not (bare and len(lines) >= MANY) else ():
        d = curve(np.arange(1, len(values) + 1), values, horizontal, vertical)
        css = f"median {group.css}" if alone else faint
        parts.append(element("path", {"d": d, "class": css}, element("title", None, name)))
    middle, low, high = _middle(group)
    if len(lines) >= MANY:
        xs = np.arange(1, len(middle) + 1)
        shade = element("path", {"d": band(xs, low, high, horizontal, vertical), "class": f"band {group.css}"})
        over = element("path", {"d": curve(xs, middle, horizontal, vertical), "class": f"median {group.css}"})
        parts = [shade, *parts, over]
    known = middle[np.isfinite(middle)]
    return parts, float(known[-1]) if len(known) and (alone or len(lines) >= MANY) else math.nan


def _middle(group: Group) -> tuple[Values, ...]:
    """Median and quartiles over the lines of a group, which may differ in length."""
    lines = [v for v in group.lines.values() if np.isfinite(v).any()]
    if not lines:
        return ()
    length = max(map(len, lines))
    return _quantiles(np.array([np.pad(v, (0, length - len(v)), constant_values=math.nan) for v in lines]))


def _quantiles(stacked: Float[np.ndarray, "videos n"]) -> tuple[Values, Values, Values]:
    finite = np.where(np.isfinite(stacked), stacked, math.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a segment that no video has a score of
        middle, low, high = np.nanquantile(finite, [0.5, *QUARTILES], axis=0)
    return middle, low, high


def _apart(ends: Sequence[tuple[float, str]], vertical: Axis) -> list[tuple[float, str, float]]:
    """Each end with how far below itself its number must stand, that none covers another."""
    placed, last = [], -math.inf
    for y, css in sorted(ends, key=lambda end: vertical(end[0])):
        wanted = max(min(max(vertical(y), TOP), BOTTOM) + 4, last + 12)
        placed.append((y, css, wanted - vertical(y)))
        last = wanted
    return placed


def _described(groups: Sequence[Group], shown: Format) -> str:
    told = []
    for group in groups:
        ends = [v[-1] for v in group.lines.values() if len(v) and math.isfinite(v[-1])]
        if ends:
            told.append(f"{group.label}: the last segment is at {shown(float(np.median(ends)))} in the median")
    return "; ".join(told)


def spark(title: str, fine: Values, segments: Values, worst: int | None, most: int) -> Html:
    """One score over the time of one video: its course, the means of its segments as steps, its worst segment tinted.

    It is stretched to its place, so it holds no words. At most `most` points are drawn.
    """
    drawn = thinned(fine, most)
    vertical = linear(np.concatenate([drawn, segments]), SPARK_HEIGHT - 4, 4, pad=0)
    parts = []
    if len(segments):
        width = SPARK_WIDTH / len(segments)
        if worst is not None:
            tint = {"x": number(worst * width), "y": 0, "width": number(width), "height": SPARK_HEIGHT, "class": "tint"}
            parts.append(element("rect", tint))
        edges = [(x, y) for i, y in enumerate(segments) for x in (i * width, (i + 1) * width)]
        d = outline([_whole(x, y, vertical) for x, y in edges])
        parts.append(element("path", {"d": d, "class": "steps"}))
    if len(drawn):
        places = Axis(0, len(drawn), 0, SPARK_WIDTH)
        d = outline([_whole(places(i + 0.5), y, vertical) for i, y in enumerate(drawn)])
        parts.append(element("path", {"d": d, "class": "course"}))
    attributes = {
        "viewBox": f"0 0 {SPARK_WIDTH} {SPARK_HEIGHT}",
        "preserveAspectRatio": "none",
        "role": "img",
        "class": "spark",
        "data-range": f"{vertical.low:.6g} {vertical.high:.6g}",
    }
    return element("svg", attributes, element("title", None, title), *parts)


def _whole(x: float, y: float, vertical: Axis) -> tuple[float, float]:
    """A point in whole coordinates: there are many, and a thousandth is finer than a pixel."""
    return round(x), round(vertical(y)) if math.isfinite(y) else math.nan


def thinned(values: Values, most: int) -> Values:
    """Means of neighbours, so that at most so many are left; nan where all of them are."""
    if len(values) <= most:
        return values
    parts = np.array_split(values, most)
    known = [part[np.isfinite(part)] for part in parts]
    return np.array([part.mean() if len(part) else math.nan for part in known])


def lag_chart(title: str, seconds: Values, groups: Sequence[Group], shown: Format = short) -> Html:
    """Similarity by distance in time; times on a logarithmic axis."""
    every = [v for group in groups for v in group.lines.values()]
    vertical, _ = _range(every, None)
    horizontal = Axis(float(seconds.min()), float(seconds.max()), LEFT, RIGHT, log=True)
    parts = _rungs(vertical, "")
    every_other = max(1, math.ceil(len(seconds) / 6))
    parts += [text(horizontal(s), BOTTOM + 15, f"{s:g}", "tick", "middle") for s in seconds[::every_other]]
    parts.append(text((LEFT + RIGHT) / 2, BOTTOM + 29, "seconds apart", "tick", "middle"))
    for group in groups:
        stacked = np.array(list(group.lines.values()))
        for name, values in group.lines.items():
            css = f"median {group.css}" if len(stacked) == 1 else f"video {group.css}"
            d = curve(seconds, values, horizontal, vertical)
            parts.append(element("path", {"d": d, "class": css}, element("title", None, name)))
        if len(stacked) >= MANY:
            middle, low, high = _quantiles(stacked)
            parts.append(element("path", {"d": band(seconds, low, high, horizontal, vertical), "class": "band"}))
            parts.append(element("path", {"d": curve(seconds, middle, horizontal, vertical), "class": "median"}))
    return picture(PANEL_WIDTH, PANEL_HEIGHT, title, _described(groups, shown), parts, "panel")


def time_axis(seconds: float) -> Html:
    """Times below pictures that share a video's width, as words at shares of it."""
    if not seconds > 0:
        return element("div", {"class": "times"}, "0:00")
    ticks = Axis(0, seconds, 0, 1).ticks(5)
    marks = [
        element(
            "span",
            {"style": f"left:{100 * t / seconds:.4g}%", "class": "last" if t > 0.97 * seconds else None},
            clock(t),
        )
        for t in ticks
    ]
    return element("div", {"class": "times", "aria-hidden": "true"}, *marks)
