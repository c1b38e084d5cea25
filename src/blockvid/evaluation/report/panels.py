"""Small multiples over all videos: how each quantity and each score moves from segment to segment."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from blockvid.evaluation.report.charts import MANY, Group, lag_chart, panel
from blockvid.evaluation.report.markup import Html, breakable, element
from blockvid.evaluation.report.numbers import THIN, count, short, signed
from blockvid.evaluation.report.readings import changes, is_dynamic, scored, title
from blockvid.evaluation.results import MetricRecord, Quantity, Results, value


def drift_panels(results: Results) -> Html:
    """Per quantity the change from the first segment, signed, in %."""
    return grid([drift_panel(q, {"": results}) for q in results.quantities if not is_dynamic(q)])


def score_panels(results: Results) -> Html:
    """Per metric its scores as they are."""
    return grid([score_panel(m, {"": results}) for m in results.metrics])


def lag_panels(results: Results) -> Html:
    """Per metric with lags how alike frames are that lie so far apart."""
    seconds = np.array(results.configuration.lags, dtype=np.float64)
    found = []
    for m in results.metrics:
        lines = {v.name: _numbers(v.lags[m.key]) for v in scored(results) if len(v.lags.get(m.key, ())) == len(seconds)}
        if lines and len(seconds) > 1:
            chart = lag_chart(f"{m.title} by distance", seconds, [Group(results.name, "", lines)])
            found.append(framed(m.title, f"{m.key}, by distance in time", m.formula, chart, ""))
    return grid(found)


def grid(panels: Sequence[Html]) -> Html:
    """Panels side by side, as many as fit."""
    return element("div", {"class": "panels"}, *panels)


def drift_panel(quantity: Quantity, runs: dict[str, Results]) -> Html:
    """Of one quantity; one group of lines for each run, by label."""
    groups, left_out = [], 0
    for index, (label, results) in enumerate(runs.items()):
        found = {v.name: changes(v, quantity.metric) for v in scored(results)}
        lines = {name: 100 * line for name, line in found.items() if len(line) and np.isfinite(line).any()}
        left_out += len(found) - len(lines)
        groups.append(Group(label or results.name, css(index, runs), lines))
    words = f"{title(quantity)} drift"
    without = f"{count(left_out, 'video')} without: the first segment scores 0 or is missing" if left_out else ""
    note = f"change from segment 1 in the score {quantity.metric}"
    return framed(words, quantity.key, note, panel(words, groups, _change, f"{THIN}%", baseline=0), without)


def score_panel(metric: MetricRecord, runs: dict[str, Results]) -> Html:
    """Of one metric; one group of lines for each run, by label."""
    groups = []
    for index, (label, results) in enumerate(runs.items()):
        found = {v.name: _numbers(v.segment_scores.get(metric.key, ())) for v in scored(results)}
        lines = {name: line for name, line in found.items() if np.isfinite(line).any()}
        groups.append(Group(label or results.name, css(index, runs), lines))
    return framed(metric.title, metric.key, metric.formula, panel(metric.title, groups, short), "")


def css(index: int, runs: dict[str, Results]) -> str:
    """The class of a run's colour; none if there is one run."""
    return f"run-{index % 6}" if len(runs) > 1 else ""


def framed(words: str, key: str, formula: str, chart: Html, note: str) -> Html:
    """A chart under its title and the key of what it shows."""
    caption = element(
        "figcaption",
        {"title": formula},
        element("strong", None, words),
        " ",
        element("code", {"class": "key"}, breakable(key)),
    )
    below = [element("p", {"class": "quiet note"}, note)] if note else []
    return element("figure", None, caption, chart, *below)


def how_to_read(results: Results) -> str:
    """What the lines are."""
    if len(scored(results)) < MANY:
        return "One line a video; 0 is the first segment."
    return "Blue: the median over videos; shaded: the middle half of them; thin: each video. 0 is the first segment."


def _change(x: float) -> str:
    return signed(x / 100) if x else "0"


def _numbers(values: Sequence[float | str | None]) -> np.ndarray:
    return np.array([value(x) if isinstance(x, float | int) or x is None else math.nan for x in values])
