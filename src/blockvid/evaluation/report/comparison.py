"""compare.html: what differs between runs by more than chance, by how much, where and in which videos."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from blockvid.evaluation.compare import FILE, Comparison, Difference, significant, together
from blockvid.evaluation.report.charts import Estimated, axis_cell, interval_cell
from blockvid.evaluation.report.markup import Html, element, joined, page
from blockvid.evaluation.report.numbers import NONE, clock, count, decimals, fixed, interval, listed, percent, short
from blockvid.evaluation.report.pairs import paired_dots, players
from blockvid.evaluation.report.panels import drift_panel, grid, score_panel
from blockvid.evaluation.report.provenance import provenance
from blockvid.evaluation.report.readings import (
    TIER_MEANS,
    dynamic,
    is_dynamic,
    mean_floor,
    metric,
    tier,
    tiers,
    title,
    total_weight,
)
from blockvid.evaluation.report.svg import Axis
from blockvid.evaluation.report.tables import CELL, Column, cell, formula, legend, named, table
from blockvid.evaluation.results import Results, value
from blockvid.files import replacing

PAGE = "compare.html"
LEVEL = 0.05
"""p from which on a difference counts as chance."""


def write_comparison(comparison: Comparison, runs: Sequence[Results], folder: Path) -> Path:
    """Write comparison.json and compare.html to a folder and return the page; InputError where the disk refuses."""
    folder = Path(folder)
    content = {FILE: comparison.text(), PAGE: comparison_page(comparison, runs, folder)}
    for name, text in content.items():
        with replacing(folder / name) as part:
            part.write_text(text, encoding="utf-8")
    return folder / PAGE


def comparison_page(comparison: Comparison, runs: Sequence[Results], folder: Path) -> str:
    """The page as text; addresses of videos are relative to `folder`. `runs` are those that were compared, in order."""
    by_label = {run.label: results for run, results in zip(comparison.runs, runs, strict=True)}
    body = [
        _head(comparison, runs[0]),
        *_banner(comparison),
        _glance(comparison, by_label),
        _section("differences", "Differences", *_differences(comparison, by_label)),
        _section("wins", "Who wins how often", *_matrices(comparison)),
        _section("segments", "Over time", *_curves(comparison, by_label)),
        _section("pairs", "Video by video", *_dots(comparison, by_label)),
        _section("players", "Side by side", *players(comparison, by_label, folder)),
        _section("provenance", "Provenance", *_provenance(by_label)),
        _section("formulas", "Formulas", legend(runs[0])),
    ]
    names = listed(by_label)
    return page(f"{names} · blockvid compare", verdict(comparison), body)


def verdict(comparison: Comparison) -> str:
    """One sentence, in plain words."""
    where = f"On {count(len(comparison.videos), 'common video')}"
    sure = [d for d in comparison.differences if significant(d, LEVEL)]
    if not sure:
        few = too_few(comparison)
        reason = f"; {few}" if few else ""
        return f"{where}, nothing differs by more than chance explains{reason}."
    if len(comparison.runs) > 2:
        several = f"{len(sure)} of {count(len(comparison.differences), 'comparison')}"
        return f"{where}, {several} of two runs find more than chance explains."
    parts = []
    for winner, loser in ((sure[0].a, sure[0].b), (sure[0].b, sure[0].a)):
        won = [_words(comparison, d.key) for d in sure if _winner(d) == winner]
        if won:
            parts.append(f"{winner} is better than {loser} in {listed(won)}")
    return f"{where}, {'; '.join(parts)}; nothing else differs by more than chance explains."


def too_few(comparison: Comparison) -> str | None:
    """That so few videos could show no difference however large, if that is so."""
    tests = max((_tests(comparison, d) for d in comparison.differences), default=0)
    pairs = max((d.finite_pairs for d in comparison.differences), default=0)
    least = min(2.0 ** (1 - pairs) * tests, 1.0)
    if least < LEVEL:
        return None
    return f"{count(pairs, 'video')} cannot show more, as even the clearest difference would have p = {short(least, 2)}"


def _tests(comparison: Comparison, of: Difference) -> int:
    return sum((d.a, d.b) == (of.a, of.b) for d in comparison.differences)


def _winner(d: Difference) -> str:
    less = value(d.difference.value) < 0
    return d.a if less == (d.better == "lower") else d.b


def _words(comparison: Comparison, key: str) -> str:
    quantity = next((q for q in comparison.quantities if q.key == key), None)
    if quantity:
        return f"{title(quantity).lower()} drift"
    return next((m.title.lower() for m in comparison.metrics if m.key == key), key)


def _head(comparison: Comparison, first: Results) -> Html:
    labels = [
        element("span", None, element("span", {"class": f"swatch run-{i % 6}"}), run.label, " ")
        for i, run in enumerate(comparison.runs)
    ]
    kind = f"Comparison, {comparison.configuration.profile} profile, {' and '.join(tiers(first))} tier"
    anchors = (
        ("differences", "Differences"),
        ("segments", "Over time"),
        ("pairs", "Video by video"),
        ("players", "Side by side"),
    )
    links = [element("a", {"href": f"#{anchor}"}, words) for anchor, words in anchors]
    return element(
        "header",
        None,
        element("p", {"class": "eyebrow"}, kind),
        element("h1", {"class": "runs"}, *labels),
        element("p", {"class": "verdict"}, verdict(comparison)),
        element("nav", {"aria-label": "Contents"}, *links),
    )


def _banner(comparison: Comparison) -> list[Html]:
    items = [
        element(
            "li",
            None,
            f"{run.label}: {listed(run.loud[:5])}" + (f" and {len(run.loud) - 5} more" if len(run.loud) > 5 else ""),
        )
        for run in comparison.runs
        if run.loud
    ]
    if not items:
        return []
    note = "A video that stands still scores 0 on every drift, and so wins where it should not."
    content = [
        element("h2", {"id": "loud"}, "Not to be believed"),
        element("ul", None, *items),
        element("p", None, note),
    ]
    return [element("section", {"class": "banner", "aria-labelledby": "loud"}, *content)]


def _glance(comparison: Comparison, runs: Mapping[str, Results]) -> Html:
    seconds = sum(video.seconds for videos in together(tuple(runs.values()), comparison) for video in videos[:1])
    facts = [
        (str(len(comparison.videos)), f"common videos, paired by {comparison.paired_by}"),
        (clock(round(seconds)), "of video in each"),
        *((f"{run.videos - run.failed} of {run.videos}", f"scored in {run.label}") for run in comparison.runs),
    ]
    items = [element("div", None, element("dd", None, n), element("dt", None, words)) for n, words in facts]
    return element("dl", {"class": "glance"}, *items)


def _differences(comparison: Comparison, runs: Mapping[str, Results]) -> list[Html]:
    how = (
        "Paired over the same videos. Bars are 95 % bootstrap intervals of the mean difference, relative to the mean "
        "of both runs; left of 0 the first run has less. p is of a paired permutation test, corrected after Holm for "
        "the number of rows that two runs are compared in, over all tiers. The win rate counts ties half; Cliff's δ "
        "is from −1 to 1. Infinite values take part in both of these, and in no mean. Below drift stand VDE / weight "
        "in % and the noise floor, as VDE."
    )
    parts: list[Html] = [element("p", {"class": "how"}, how)]
    for pair in dict.fromkeys((d.a, d.b) for d in comparison.differences):
        for of in tiers(runs[pair[0]]):
            rows = [d for d in comparison.differences if (d.a, d.b) == pair and tier(d.key) == of]
            if rows:
                parts.append(_table(comparison, runs, rows, of))
    if comparison.left_out:
        items = [element("li", None, element("code", None, one.name), f": {one.why}") for one in comparison.left_out]
        parts.append(
            element("details", {"class": "more"}, element("summary", None, "Left out"), element("ul", None, *items))
        )
    return parts


def _table(comparison: Comparison, runs: Mapping[str, Results], rows: Sequence[Difference], of: str) -> Html:
    a, b = rows[0].a, rows[0].b
    moving = dynamic(runs[a], of)
    axis = _axis(rows)
    beside = "below drift: VDE / weight, noise floor"
    columns = [
        Column("Metric", css="words"),
        Column(f"{a} − {b}", "mean difference relative to the mean of both", "chart"),
        Column(a, beside, under="mean"),
        Column(b, beside, under="mean"),
        Column("Difference", "mean of the first minus the second; below it the 95 % interval"),
        Column("p (Holm)", "paired permutation test, corrected for several metrics", under="uncorrected"),
        Column("Win rate", f"share of pairs in which {a} is better; δ > 0: {a} tends to be larger", under="Cliff's δ"),
        Column("Dynamic", "mean dynamic degree of both", under=f"@{moving.tier}" if moving else ""),
        Column("Pairs", "with a value in both", under="infinite"),
    ]
    empty = element("td")
    axis_row = [empty, element("td", {"class": "chart"}, axis_cell(axis, _share)), *[empty] * (len(columns) - 2)]
    body = [element("tr", {"class": "axis", "aria-hidden": "true"}, *axis_row)]
    body += [_row(comparison, runs, d, axis) for d in rows]
    return table(f"{a} against {b}, {of} tier ({TIER_MEANS.get(of, of)})", columns, body, "cards")


def _row(comparison: Comparison, runs: Mapping[str, Results], d: Difference, axis: Axis) -> Html:
    first = runs[d.a]
    quantity = next((q for q in comparison.quantities if q.key == d.key), None)
    of = metric(first, d.key)
    hint = formula(first, quantity) if quantity else of.formula if of else ""
    means = [value(d.mean_a), value(d.mean_b)]
    low, high = value(d.difference.low), value(d.difference.high)
    places = decimals([*means, (high - low) / 2 if math.isfinite(high - low) else means[0]], 3)
    scale = _scale(d)
    ends = [100 * value(x) / scale for x in (d.difference.value, d.difference.low, d.difference.high)]
    chart = interval_cell(Estimated(ends[0], ends[1], ends[2], np.zeros(0)), axis, d.key, _share, axis.ticks())
    moving = dynamic(first, tier(d.key))
    shares = [value(x) for x in (d.infinite_share_a, d.infinite_share_b)]
    infinite = [percent(x, decimals([100 * x], 1)) for x in shares] if any(x > 0 for x in shares) else []
    return element(
        "tr",
        {"title": hint, "class": "sure" if significant(d, LEVEL) else None},
        named(d.key, _words(comparison, d.key).capitalize()),
        element("td", {"class": "chart"}, chart),
        *(
            cell(fixed(m, places), _beside(runs[r], d.key, m, quantity is not None), m, r)
            for m, r in zip(means, (d.a, d.b), strict=True)
        ),
        cell(fixed(value(d.difference.value), places), interval(low, high, places), label="difference"),
        cell(_p(d.p_holm), _p(d.p), d.p_holm, "p (Holm)"),
        cell(percent(value(d.win_rate)), f"δ {fixed(value(d.cliffs_delta), 2)}", label="win rate"),
        cell(_both(comparison, runs, d, moving.key) if moving else NONE, label="dynamic"),
        cell(str(d.pairs), f"{' and '.join(infinite)} infinite" if infinite else "", label="pairs"),
    )


def _beside(results: Results, key: str, mean: float, drift: bool) -> str:
    """VDE over the sum of weights, and the mean noise floor."""
    if not drift or not math.isfinite(mean):
        return ""
    share = 100 * mean / total_weight(results)
    return f"{fixed(share, decimals([share]))} %, {short(mean_floor(results, key), 2)}"


def _both(comparison: Comparison, runs: Mapping[str, Results], d: Difference, key: str) -> str:
    """Means of a score over the common videos in both runs."""
    pair = (runs[d.a], runs[d.b])
    values = [run.values(key) for run in pair]
    index = [list(runs).index(label) for label in (d.a, d.b)]
    found = [
        [of[videos[i].name] for videos in together(tuple(runs.values()), comparison)]
        for of, i in zip(values, index, strict=True)
    ]
    known = [[x for x in of if math.isfinite(x)] for of in found]
    return ", ".join(short(sum(of) / len(of), 2) if of else NONE for of in known)


def _scale(d: Difference) -> float:
    """What differences are relative to."""
    return (abs(value(d.mean_a)) + abs(value(d.mean_b))) / 2 or 1.0


def _axis(rows: Sequence[Difference]) -> Axis:
    """Holds all intervals and 0, the same to both sides."""
    ends = [100 * value(x) / _scale(d) for d in rows for x in (d.difference.value, d.difference.low, d.difference.high)]
    most = max((abs(x) for x in ends if math.isfinite(x)), default=1.0) or 1.0
    return Axis(-1.08 * most, 1.08 * most, *CELL)


def _share(x: float) -> str:
    return f"{fixed(x, 0 if abs(x) >= 10 or not x else 2)} %"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else fixed(p, 3)


def _matrices(comparison: Comparison) -> list[Html]:
    """How often the run of a row beats that of a column, over all metrics of a tier and in each."""
    parts: list[Html] = []
    for of in dict.fromkeys(tier(d.key) for d in comparison.differences):
        rows = [d for d in comparison.differences if tier(d.key) == of]
        number = len({d.key for d in rows})
        words = f"Share of pairs in which the row beats the column, {of} tier, mean over {count(number, 'metric')}"
        parts.append(_matrix(comparison, rows, words))
    if len(comparison.runs) > 2:
        single = [
            _matrix(comparison, [d for d in comparison.differences if d.key == key], key)
            for key in dict.fromkeys(d.key for d in comparison.differences)
        ]
        parts.append(element("details", {"class": "more"}, element("summary", None, "Each metric"), *single))
    return parts


def _matrix(comparison: Comparison, rows: Sequence[Difference], words: str) -> Html:
    labels = [run.label for run in comparison.runs]
    body = []
    for own in labels:
        cells = [cell(_wins(rows, own, other)) for other in labels]
        body.append(element("tr", None, element("th", {"scope": "row"}, own), *cells))
    return table(words, [Column("", css="words"), *(Column(label) for label in labels)], body, "matrix")


def _wins(rows: Sequence[Difference], own: str, other: str) -> str:
    rates = [value(d.win_rate) if d.a == own else 1 - value(d.win_rate) for d in rows if {d.a, d.b} == {own, other}]
    known = [x for x in rates if math.isfinite(x)]
    return percent(sum(known) / len(known)) if known and own != other else NONE


def _curves(comparison: Comparison, runs: Mapping[str, Results]) -> list[Html]:
    common = {label: _only(results, comparison) for label, results in runs.items()}
    drifts = [drift_panel(q, common) for q in comparison.quantities if not is_dynamic(q)]
    scores = [score_panel(m, common) for m in comparison.metrics]
    how = (
        "Thick: the median over the common videos; shaded: the middle half of them. Drift is the change from segment 1."
    )
    folded = element("details", {"class": "more"}, element("summary", None, "Scores by segment"), grid(scores))
    return [element("p", {"class": "how"}, how), _key(comparison), grid(drifts), folded]


def _only(results: Results, comparison: Comparison) -> Results:
    """The common videos of a run."""
    names = set(comparison.videos)
    by_entry = comparison.paired_by == "entry"
    common = (v for v in results.videos if v.status == "scored" and (v.entry if by_entry else v.name) in names)
    return results.model_copy(update={"videos": tuple(common)})


def _key(comparison: Comparison) -> Html:
    items = [
        element("span", None, element("span", {"class": f"swatch run-{i % 6}"}), run.label)
        for i, run in enumerate(comparison.runs)
    ]
    return element("p", {"class": "runs-key"}, *items)


def _dots(comparison: Comparison, runs: Mapping[str, Results]) -> list[Html]:
    parts: list[Html] = [_key(comparison)]
    for index, d in enumerate({d.key: d for d in comparison.differences}.values()):
        words = _words(comparison, d.key).capitalize()
        summary = element(
            "summary", None, words, " ", element("code", {"class": "key"}, d.key), f", {d.better} is better"
        )
        chart = paired_dots(comparison, runs, d.key, words)
        parts.append(element("details", {"class": "more", "open": "" if index == 0 else None}, summary, chart))
    return parts


def _provenance(runs: Mapping[str, Results]) -> list[Html]:
    return [joined([element("h3", None, label), provenance(results)]) for label, results in runs.items()]


def _section(anchor: str, words: str, *content: str) -> Html:
    return element("section", {"aria-labelledby": anchor}, element("h2", {"id": anchor}, words), *content)
