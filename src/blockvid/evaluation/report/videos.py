"""One video at a time: its pictures, colours and scores on one axis of time, and what to know of them."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from blockvid.evaluation.report.charts import Group, lag_chart, spark, time_axis
from blockvid.evaluation.report.files import of_file
from blockvid.evaluation.report.markup import Html, breakable, data_uri, element, joined
from blockvid.evaluation.report.numbers import NONE, clock, count, decimals, fixed, listed, percent, short, signed, span
from blockvid.evaluation.report.panels import framed, grid
from blockvid.evaluation.report.readings import (
    Mark,
    changes,
    dynamic,
    is_dynamic,
    mark,
    metric,
    metrics,
    quantities,
    scored,
    tiers,
    title,
)
from blockvid.evaluation.report.stills import Album, of_segments
from blockvid.evaluation.report.tables import Column, cell, formula, legend_id, named, table
from blockvid.evaluation.results import DriftRecord, MetricRecord, Quantity, Results, VideoRecord, value

OPEN = 8
"""Videos up to which each is unfolded at once."""
BUDGET = 100_000
"""Points that all curves of a page may have together."""
LAGS = 60
"""Videos up to which each has its own chart of lags; the chart over all of them has a line for each."""
POINTS = 24, 240
"""Least and most of a curve."""


@dataclass(frozen=True)
class Place:
    """Where a video stands in the page."""

    results: Results
    album: Album
    folder: Path
    points: int
    unfolded: bool


def video_id(number: int) -> str:
    """Of a section."""
    return f"video-{number}"


def index_tables(results: Results) -> list[Html]:
    """All videos with their drift, one table a tier."""
    found = []
    for tier in tiers(results):
        shown = quantities(results, tier)
        if not shown:
            continue
        moving = dynamic(results, tier)
        columns = [
            Column("Video", css="words"),
            Column(
                "Dynamic degree", "drift of what stands still means nothing", under=f"@{moving.tier}" if moving else ""
            ),
            *(Column(title(q), formula(results, q), under=q.key) for q in shown),
            Column("Worst segment", "farthest from the first, in units of its noise floor", "words"),
        ]
        rows = [
            _index_row(results, number, video, shown, moving)
            for number, video in enumerate(results.videos)
            if video.status == "scored"
        ]
        caption = f"Videos, {tier} tier: VDE, below it VDE / weight and the noise floor"
        found.append(table(caption, columns, rows, "index sortable"))
    return found


def _index_row(
    results: Results, number: int, video: VideoRecord, shown: Sequence[Quantity], moving: MetricRecord | None
) -> Html:
    is_loud = any(w.loud for w in video.warnings)
    flags = f" ({', '.join(dict.fromkeys(w.kind for w in video.warnings))})" if video.warnings else ""
    link = element("a", {"href": f"#{video_id(number)}"}, video.name)
    head = element(
        "th", {"scope": "row"}, link, element("small", {"class": "loud" if is_loud else None}, flags.strip())
    )
    still = value(video.scores.get(moving.key)) if moving else math.nan
    return element(
        "tr",
        {"class": "meaningless" if is_loud else None},
        head,
        cell(short(still), "", still),
        *(_vde_cell(video, q) for q in shown),
        element("td", {"class": "words"}, _marked(results, video, mark(results, video, shown))),
    )


def _vde_cell(video: VideoRecord, quantity: Quantity) -> Html:
    if quantity.key not in video.drift:
        return cell(NONE)
    record = video.drift[quantity.key]
    vde = value(record.vde)
    return cell(short(vde), _beside(record), vde)


def _beside(record: DriftRecord) -> str:
    if math.isinf(value(record.vde)):
        return "segment 1 scores 0"
    return f"{_share(value(record.per_weight))}, floor {short(value(record.noise_floor))}"


def _share(x: float) -> str:
    return percent(x, decimals([100 * x]))


def _marked(results: Results, video: VideoRecord, found: Mark | None) -> str:
    if found is None:
        return NONE
    where = f" at {span(*video.segments[found.segment])}" if found.segment < len(video.segments) else ""
    of = metric(results, found.quantity.metric)
    return f"{of.title if of else found.quantity.metric} {signed(found.change)}{where}"


def failures(results: Results) -> Html:
    """Videos without numbers, and why."""
    rows = [
        element(
            "tr",
            None,
            element("th", {"scope": "row"}, v.name),
            element("td", {"class": "words"}, v.reason or "unknown"),
        )
        for v in results.videos
        if v.status == "failed"
    ]
    return table("Videos that could not be scored", [Column("Video", css="words"), Column("Reason", css="words")], rows)


def sections(results: Results, folder: Path, album: Album) -> list[Html]:
    """A section for each scored video; folded where there are many."""
    number = len(scored(results))
    share = BUDGET // max(number * len(results.metrics), 1)
    place = Place(results, album, folder, min(max(share, POINTS[0]), POINTS[1]), number <= OPEN)
    return [_section(place, index, v) for index, v in enumerate(results.videos) if v.status == "scored"]


def _section(place: Place, number: int, video: VideoRecord) -> Html:
    found = mark(place.results, video, place.results.quantities)
    worst = _marked(place.results, video, found)
    is_loud = any(w.loud for w in video.warnings)
    told = [element("span", {"class": "quiet"}, clock(video.seconds))]
    if found is not None:
        told.append(element("span", {"class": "quiet"}, f"worst: {worst}"))
    told += [element("span", {"class": "loud"}, w.kind) for w in video.warnings if w.loud]
    summary = element("summary", None, element("h3", {"id": video_id(number)}, video.name), *told)
    content = [_facts(place, video), *_warned(video), _sheet(place, video, found)]
    content += [_score(place, video, tier) for tier in tiers(place.results)]
    content += [_more(place, video)]
    attributes = {
        "class": "video meaningless" if is_loud else "video",
        "style": f"--n:{max(len(video.segments), 1)}",
        "open": "" if place.unfolded else None,
    }
    return element("details", attributes, summary, *content)


def _facts(place: Place, video: VideoRecord) -> Html:
    facts = [f"{video.width} × {video.height}", count(video.frames, "frame"), f"{video.fps:g} frames a second"]
    facts += ["variable rate"] if video.variable_rate else []
    facts += [f"entry {video.entry}"] if video.entry else []
    address = of_file(video.path, place.folder)
    link = [", ", element("a", {"href": address}, "open the file")] if address else []
    return element("p", {"class": "quiet facts"}, ", ".join(facts), *link)


def _warned(video: VideoRecord) -> list[Html]:
    items = []
    for w in video.warnings:
        where = f" ({span(w.start, w.end)})" if w.start is not None and w.end is not None else ""
        head = element("strong", None, f"{w.kind}{where}: ")
        items.append(element("li", {"class": "loud" if w.loud else None}, head, w.text))
    return [element("ul", {"class": "warnings"}, *items)] if items else []


def _sheet(place: Place, video: VideoRecord, found: Mark | None) -> Html:
    """Stills and mean colours above their times."""
    shown = of_segments(video)
    figures = [_still(place, video, index, found) for index in range(len(shown))]
    strip = []
    if video.colors:
        colours = np.array([video.colors], dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(colours).save(out, format="PNG", optimize=True)
        words = f"mean colour over time, from {_rgb(video.colors[0])} to {_rgb(video.colors[-1])}"
        address = data_uri("image/png", out.getvalue())
        strip = [
            element("img", {"class": "strip", "src": address, "alt": words, "title": "exposure: mean colour over time"})
        ]
    columns = {"class": "stills", "style": None if video.segments else f"--n:{len(figures)}"}
    row = [element("div", columns, *figures)] if figures else []
    return element("div", {"class": "sheet"}, *row, *strip, time_axis(video.seconds))


def _still(place: Place, video: VideoRecord, index: int, found: Mark | None) -> Html:
    still = of_segments(video)[index]
    address = place.album.address(still) if still else None
    when = span(*video.segments[index]) if index < len(video.segments) else clock(still.seconds) if still else ""
    if still is None or address is None:
        picture = element("div", {"class": "absent"}, "no still")
    else:
        words = f"{video.name} at {clock(still.seconds)}"
        picture = element("img", {"src": address, "alt": words, "title": when, "loading": "lazy", "decoding": "async"})
    if found is None or found.segment != index or not video.segments:
        return element("figure", None, picture)
    caption = element("figcaption", None, f"worst: {title(found.quantity).lower()} {signed(found.change)}")
    side = "late" if index >= len(video.segments) / 2 else "early"
    return element("figure", {"class": f"worst {side}"}, picture, caption)


def _rgb(colour: tuple[int, int, int]) -> str:
    return f"rgb({', '.join(map(str, colour))})"


def _caption(words: str, video: VideoRecord) -> Html:
    """Only what cannot be seen from the place repeats the video's name."""
    return joined([words, element("span", {"class": "unseen"}, f", {video.name}")])


def _score(place: Place, video: VideoRecord, tier: str) -> Html:
    """Curves of one tier on the axis of the stills, each with its numbers beside it."""
    results = place.results
    moving = dynamic(results, tier)
    still = short(value(video.scores.get(moving.key))) if moving else NONE
    by_metric = {q.metric: q for q in quantities(results, tier)}
    under = f"@{moving.tier}" if moving else ""
    columns = [
        Column("Metric", css="words"),
        Column("Over time", "thin: its course; thick: segments; tinted: the segment farthest from the first", "course"),
        Column("Score", "of the whole video"),
        Column("VDE"),
        Column("/ weight", "VDE over the sum of weights"),
        Column("Floor", "the VDE that noise alone would give"),
        Column("Dynamic", "dynamic degree", under=under),
    ]
    rows = []
    for m in sorted(metrics(results, tier), key=lambda m: m.key not in by_metric):
        if m.key in video.scores or m.key in video.segment_scores:
            rows.append(_score_row(place, video, m, by_metric.get(m.key), still))
    return table(_caption(f"{tier} tier", video), columns, rows, "score") if rows else Html("")


def _score_row(place: Place, video: VideoRecord, of: MetricRecord, quantity: Quantity | None, still: str) -> Html:
    change = changes(video, of.key)
    known = np.isfinite(change).any() and np.nanmax(np.abs(change)) > 0
    worst = int(np.nanargmax(np.abs(change))) if known and quantity and not is_dynamic(quantity) else None
    numbers = [np.array([value(x) for x in found.get(of.key, ())]) for found in (video.curves, video.segment_scores)]
    chart = spark(f"{of.title} over time", numbers[0], numbers[1], worst, place.points)
    record = video.drift.get(quantity.key) if quantity else None
    hint = formula(place.results, quantity) if quantity else of.formula
    key = quantity.key if quantity else of.key
    head = element(
        "th",
        {"scope": "row"},
        element("a", {"href": f"#{legend_id(key)}"}, of.title),
        element("small", {"class": "key"}, breakable(of.key)),
    )
    cells = [element("td", None, NONE)] * 4 if record is None else _beside_curve(record, still)
    score = element("td", {"class": "number", "data-label": "score"}, short(value(video.scores.get(of.key))))
    course = {"class": "course", "data-seconds": f"{video.seconds:g}"}
    return element(
        "tr", {"class": None if record else "plain", "title": hint}, head, element("td", course, chart), score, *cells
    )


def _beside_curve(record: DriftRecord, still: str) -> list[Html]:
    vde = cell(short(value(record.vde)), listed(record.flags) if record.flags else "", label="VDE")
    share = cell(_share(value(record.per_weight)), label="/ weight")
    return [vde, share, cell(short(value(record.noise_floor)), label="floor"), cell(still, label="dynamic")]


def _more(place: Place, video: VideoRecord) -> Html:
    """Segment scores, prompts and, where there are not too many videos, lags; folded."""
    parts = [_segment_table(place.results, video, tier) for tier in tiers(place.results)] if video.segments else []
    seconds = np.array(place.results.configuration.lags, dtype=np.float64)
    charts = []
    for key, lags in video.lags.items() if len(place.results.videos) <= LAGS else ():
        of = metric(place.results, key)
        values = np.array([value(x) for x in lags])
        if of and len(values) == len(seconds) > 1:
            chart = lag_chart(f"{of.title} by distance", seconds, [Group(video.name, "", {video.name: values})])
            charts.append(framed(of.title, f"{key}, by distance in time", of.formula, chart, ""))
    parts += [grid(charts)] if charts else []
    if video.prompts:
        parts += [element("h4", None, "Prompts"), element("ol", None, *(element("li", None, p) for p in video.prompts))]
    if video.sha256:
        parts.append(element("p", {"class": "quiet note"}, "sha256 ", element("code", None, video.sha256)))
    return element("details", {"class": "more"}, element("summary", None, "Segment scores and more"), *parts)


def _segment_table(results: Results, video: VideoRecord, tier: str) -> Html:
    columns = [Column("Metric", css="words")]
    columns += [Column(str(n), span(*of), under=clock(of[0])) for n, of in enumerate(video.segments, start=1)]
    rows = []
    for m in metrics(results, tier):
        scores = [value(x) for x in video.segment_scores.get(m.key, ())]
        if not scores:
            continue
        spread = max(scores) - min(scores) if all(map(math.isfinite, scores)) else math.nan
        places = decimals([spread, max(map(abs, scores))] if spread else scores, 3)
        cells = [element("td", None, fixed(x, places)) for x in scores]
        rows.append(element("tr", None, named(m.key, m.title), *cells))
    return table(_caption(f"Segment scores, {tier} tier", video), columns, rows, "segments") if rows else joined([])
