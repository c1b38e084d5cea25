"""The tables over all videos: drift, its robust reading, scores; one table a tier, never two tiers in one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blockvid.evaluation.report.charts import Estimated, axis_cell, interval_cell
from blockvid.evaluation.report.markup import Html, breakable, element, joined
from blockvid.evaluation.report.numbers import NONE, count, decimals, fixed, interval, percent, short, signed
from blockvid.evaluation.report.readings import (
    PER_WEIGHT,
    ROBUST,
    TIER_MEANS,
    dynamic,
    mean_floor,
    metrics,
    quantities,
    scored,
    tiers,
    title,
    total_weight,
)
from blockvid.evaluation.report.svg import Axis, linear, logarithmic
from blockvid.evaluation.results import EstimateRecord, MetricRecord, Quantity, Results, SummaryRecord, value

ARROWS = {"lower": "lower is better", "higher": "higher is better", None: "should stay as it is"}
CELL = (12, 208)
"""Where the axis of a chart in a table begins and ends."""


@dataclass(frozen=True)
class Column:
    """The heading of a column."""

    title: str
    hint: str = ""
    css: str = "number"
    under: str = ""
    """A second, smaller line."""


COUNTED = Column(
    "Videos",
    "with a value, of those scored; means leave infinite ones out",
    under="missing, infinite",
)


def table(caption: str, columns: Sequence[Column], rows: Sequence[Html], css: str = "") -> Html:
    """A table that scrolls sideways where it does not fit, also by keyboard."""
    head = [
        element(
            "th",
            {"scope": "col", "class": c.css, "title": c.hint or None},
            c.title,
            *([element("small", None, breakable(c.under))] if c.under else []),
        )
        for c in columns
    ]
    whole = element(
        "table",
        {"class": css or None},
        element("caption", None, element("span", None, caption)),
        element("thead", None, element("tr", None, *head)),
        element("tbody", None, *rows),
    )
    return element("div", {"class": "scroll", "tabindex": 0}, whole)


def cell(main: str, below: str = "", sort: float | None = None, label: str | None = None) -> Html:
    """A number with a smaller line below it; `sort` is what scripts order it by, `label` its name on narrow screens."""
    order = None if sort is None else "" if math.isnan(sort) else f"{sort:.6g}"
    small = [element("small", None, below)] if below else []
    return element("td", {"class": "number", "data-sort": order, "data-label": label}, main, *small)


def named(key: str, words: str) -> Html:
    """The heading of a row: a title and its key with the tier; links to the legend."""
    link = element("a", {"href": f"#{legend_id(key)}"}, words)
    return element("th", {"scope": "row"}, link, element("small", {"class": "key"}, breakable(key)))


def legend_id(key: str) -> str:
    """Where a key is explained."""
    return "formula-" + key.translate({ord("@"): "-", ord(":"): "-", ord("/"): "-", ord(" "): "-"})


def formula(results: Results, quantity: Quantity) -> str:
    """Of a drift."""
    of = next((m for m in results.metrics if m.key == quantity.metric), None)
    by = f"; m: {quantity.metric}, {of.formula}" if of else f"; m: {quantity.metric}"
    return f"VDE = Σ w_i |m_i − m_1| / |m_1| over segments i = 2..N, {results.configuration.weights} weights w{by}"


def average(e: EstimateRecord, label: str, places: int | None = None, scale: float = 1) -> Html:
    """A mean above its interval."""
    mean, low, high = (scale * value(x) for x in (e.value, e.low, e.high))
    digits = decimals([mean, (high - low) / 2 if math.isfinite(high - low) else mean]) if places is None else places
    return cell(fixed(mean, digits), interval(low, high, digits), mean, label)


def drift_tables(results: Results) -> list[Html]:
    """VDE with all that must stand beside it, one table a tier."""
    found = []
    for tier in tiers(results):
        rows = [q for q in quantities(results, tier) if q.key in results.summary]
        if rows:
            found.append(_drift_table(results, tier, rows))
    return found


def _drift_table(results: Results, tier: str, rows: Sequence[Quantity]) -> Html:
    weight = total_weight(results)
    records = [(q, results.summary[q.key], results.summary.get(q.key + PER_WEIGHT)) for q in rows]
    shares = {q.key: _per_weight(results, q.key) for q in rows}
    ends = [100 * value(x) for _, _, w in records if w for x in (w.mean.value, w.mean.low, w.mean.high)]
    means = [100 * mean_floor(results, q.key) / weight for q in rows]
    axis = logarithmic(np.concatenate([*shares.values(), np.array(ends + means)]), *CELL)
    places = decimals([value(record.mean.value) for _, record, _ in records])
    finer = decimals([100 * value(w.mean.value) for _, _, w in records if w])
    moving = dynamic(results, tier)
    columns = [
        Column("Quantity", css="words"),
        Column("Change from the first segment", "VDE over the sum of weights, in %; logarithmic", "chart"),
        Column("VDE", "mean over videos, below it the 95 % bootstrap interval", under="mean"),
        Column(
            "VDE / weight", "VDE over the sum of its weights, in %: the mean change from segment 1", under="mean, %"
        ),
        Column("Noise floor", "the VDE of a constant score with this much noise, mean over videos", under="as VDE"),
        _dynamic_column(moving),
        Column("Median"),
        Column("Trimmed", "mean without the 20 % at each end", under="mean"),
        COUNTED,
    ]
    body = [element("tr", {"class": "axis", "aria-hidden": "true"}, *_axis_row(axis, len(columns)))]
    for quantity, record, per_weight in records:
        chart = _drift_chart(quantity, per_weight, (shares[quantity.key], means[rows.index(quantity)]), axis)
        body.append(
            element(
                "tr",
                {"title": formula(results, quantity)},
                named(quantity.key, title(quantity)),
                element("td", {"class": "chart"}, chart),
                average(record.mean, "VDE", places),
                average(per_weight.mean, "/ weight, %", finer, 100) if per_weight else cell(NONE, label="/ weight, %"),
                cell(fixed(mean_floor(results, quantity.key), places), label="floor"),
                _dynamic_cell(results, moving),
                average(record.median, "median", places),
                average(record.trimmed_mean, "trimmed", places),
                _counts(record),
            )
        )
    caption = f"Drift, {tier} tier ({TIER_MEANS.get(tier, tier)}), {results.configuration.profile} profile"
    return table(caption, columns, body, "cards")


def _axis_row(axis: Axis, columns: int) -> list[Html]:
    empty = element("td")
    return [empty, element("td", {"class": "chart"}, axis_cell(axis, _axis_text)), *[empty] * (columns - 2)]


def _axis_text(x: float) -> str:
    return f"{x:g} %"


def _drift_chart(
    quantity: Quantity, record: SummaryRecord | None, values: tuple[np.ndarray, float], axis: Axis
) -> Html:
    shares, floor = values
    if record is None:
        return Html("")
    mean, low, high = (100 * value(x) for x in (record.mean.value, record.mean.low, record.mean.high))
    return interval_cell(
        Estimated(mean, low, high, shares, floor), axis, quantity.key, lambda x: f"{short(x)} %", axis.ticks()
    )


def _per_weight(results: Results, key: str) -> np.ndarray:
    """Of the videos, in %."""
    return np.array([100 * value(v.drift[key].per_weight) for v in scored(results) if key in v.drift])


def _dynamic_column(moving: MetricRecord | None) -> Column:
    hint = "share of videos that move; drift of what stands still means nothing"
    return Column("Dynamic degree", hint, under=f"@{moving.tier}" if moving else "not measured")


def _dynamic_cell(results: Results, moving: MetricRecord | None) -> Html:
    record = results.summary.get(moving.key) if moving else None
    return cell(short(value(record.mean.value)) if record else NONE, label="dynamic")


def _counts(record: SummaryRecord) -> Html:
    share = value(record.infinite_share)
    infinite = (
        element("small", {"class": "loud"}, f"{percent(share, decimals([100 * share], 1))} infinite")
        if share > 0
        else Html("")
    )
    missing = element("small", None, f"{record.missing} missing") if record.missing else Html("")
    known = record.videos - record.missing
    return element("td", {"class": "number", "data-label": "videos"}, f"{known} of {record.videos}", missing, infinite)


def robust_tables(results: Results) -> list[Html]:
    """The same segments read so that an odd opening, N or a sign does not dominate."""
    found = []
    for tier in tiers(results):
        columns = [
            Column("Quantity", css="words"),
            Column("Total", "weighted mean |drift| from the median of the first segments", under="mean, %"),
            Column("Noise floor", "the total of a constant score with this much noise", under="mean, %"),
            _dynamic_column(dynamic(results, tier)),
            Column("Trend", "Theil-Sen slope, relative, per segment", under="median, % a segment"),
            Column("End − start", "last 15 % minus first 15 %, in units of the score", under="median"),
            Column("Fails", "videos whose drift exceeds the threshold for good", under="videos"),
            Column("Fails at", "where in the video, of those that fail", under="median"),
        ]
        rows = [_robust_row(results, q, tier) for q in quantities(results, tier)]
        if rows:
            found.append(table(f"Robust reading, {tier} tier", columns, rows, "cards"))
    return found


def _robust_row(results: Results, quantity: Quantity, tier: str) -> Html:
    records = [v.drift[quantity.key].robust for v in scored(results) if quantity.key in v.drift]
    record = results.summary.get(quantity.key + ROBUST)
    floors = [x for r in records if math.isfinite(x := value(r.noise_floor))]
    floor = 100 * sum(floors) / len(floors) if floors else math.nan
    slope, change = _median([value(r.slope) for r in records]), _median([value(r.end_minus_start) for r in records])
    known = [r for r in records if math.isfinite(value(r.total))]
    times = [value(r.time_to_failure) for r in known if math.isfinite(value(r.time_to_failure))]
    hint = f"weighted mean of |m_i − reference| / |reference|; m: {quantity.metric}"
    return element(
        "tr",
        {"title": hint},
        named(quantity.key, title(quantity)),
        average(record.mean, "total, %", 2, 100) if record else cell(NONE, label="total, %"),
        cell(fixed(floor, 2), "", floor, "floor, %"),
        _dynamic_cell(results, dynamic(results, tier)),
        cell(signed(slope), "", slope, "trend"),
        cell(short(change), "", change, "end − start"),
        cell(f"{len(times)} of {len(known)}", "", len(times), "fails"),
        cell(percent(_median(times)) if times else NONE, label="fails at"),
    )


def _median(values: Sequence[float]) -> float:
    known = [x for x in values if math.isfinite(x)]
    return float(np.median(known)) if known else math.nan


def score_tables(results: Results) -> list[Html]:
    """Scores of whole videos, one table a tier."""
    columns = [
        Column("Metric", css="words"),
        Column("Videos, mean and interval", "each row has its own scale", "chart", "each row on its own scale"),
        Column("Mean", "below it the 95 % bootstrap interval"),
        Column("Median"),
        Column("Trimmed", "mean without the 20 % at each end", under="mean"),
        Column("Better", css="words"),
        COUNTED,
    ]
    found = []
    for tier in tiers(results):
        rows = [_score_row(results, m) for m in metrics(results, tier) if m.key in results.summary]
        if rows:
            found.append(table(f"Scores, {tier} tier ({TIER_MEANS.get(tier, tier)})", columns, rows, "cards"))
    return found


def _score_row(results: Results, metric: MetricRecord) -> Html:
    record = results.summary[metric.key]
    values = np.array([value(v.scores.get(metric.key)) for v in scored(results)])
    mean, low, high = (value(x) for x in (record.mean.value, record.mean.low, record.mean.high))
    finite = values[np.isfinite(values)]
    axis = linear(np.append(finite, [x for x in (mean, low, high) if math.isfinite(x)]), *CELL)
    chart = interval_cell(Estimated(mean, low, high, values), axis, metric.key, short) if len(finite) else Html("")
    edges = [element("span", None, short(float(x))) for x in (finite.min(), finite.max())] if len(finite) else []
    return element(
        "tr",
        {"title": f"{metric.key}: {metric.formula}"},
        named(metric.key, metric.title),
        element("td", {"class": "chart"}, chart, element("small", {"class": "edges"}, *edges)),
        average(record.mean, "mean"),
        average(record.median, "median"),
        average(record.trimmed_mean, "trimmed"),
        element("td", {"class": "words quiet"}, ARROWS[metric.better]),
        _counts(record),
    )


def legend(results: Results) -> Html:
    """What every key means."""
    items: list[Html] = []
    for q in results.quantities:
        items += _entry(q.key, title(q) + " drift", formula(results, q), "lower is better")
    for m in results.metrics:
        weights = f"; weights sha256 {m.model}" if m.model else ""
        items += _entry(m.key, m.title, m.formula, f"{ARROWS[m.better]}; {m.tier} tier{weights}")
    note = element(
        "p",
        {"class": "quiet"},
        "A key is the name, the tier after @ and the first digits of the sha256 of the weights, where there are any. "
        f"VDE / weight is VDE over the sum of the weights of {count(results.configuration.segments, 'segment')}. The "
        "noise floor is the VDE that a constant score would have with the noise seen between neighbouring segments.",
    )
    return joined([note, element("dl", {"class": "legend"}, *items)])


def _entry(key: str, words: str, meaning: str, more: str) -> list[Html]:
    head = element("dt", {"id": legend_id(key)}, words, " ", element("code", None, key))
    return [head, element("dd", None, meaning, element("small", None, more))]
