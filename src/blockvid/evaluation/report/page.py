"""report.html: what was measured, how sure it is, when it happened, and how it came about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blockvid.evaluation.report.markup import Html, element, joined, page
from blockvid.evaluation.report.numbers import clock, count
from blockvid.evaluation.report.panels import drift_panels, how_to_read, lag_panels, score_panels
from blockvid.evaluation.report.provenance import provenance
from blockvid.evaluation.report.quoted import quoted_tables
from blockvid.evaluation.report.readings import failed, is_robust, loud, scored, tiers, verdict
from blockvid.evaluation.report.stills import Album
from blockvid.evaluation.report.tables import drift_tables, legend, robust_tables, score_tables
from blockvid.evaluation.report.videos import failures, index_tables, sections, video_id
from blockvid.evaluation.results import Results
from blockvid.files import replacing

REPORT = "report.html"
"""Its name in a run folder."""


def write_report(results: Results, folder: Path) -> Path:
    """Write report.html beside results.json and its stills; InputError where the disk refuses."""
    path = Path(folder) / REPORT
    content = report(results, Path(folder))
    with replacing(path) as part:
        part.write_text(content, encoding="utf-8")
    return path


def report(results: Results, folder: Path) -> str:
    """The page as text; stills are read from below `folder`."""
    album = Album(results, folder)
    shown = sections(results, folder, album)
    body = [
        _head(results),
        *_banner(results),
        _glance(results),
        *_summary(results),
        *_videos(results, shown, album),
        _section("provenance", "Provenance", provenance(results)),
        _section("formulas", "Formulas", legend(results)),
        _folded("quoted", "Published numbers (quoted, not measured)", quoted_tables(results)),
        element("footer", {"class": "quiet"}, f"blockvid {results.provenance.versions.get('blockvid', '')}".strip()),
    ]
    return page(f"{results.name} · blockvid", verdict(results), body)


def _head(results: Results) -> Html:
    c = results.configuration
    kind = f"Video drift, {c.profile} profile, {' and '.join(tiers(results)) or c.tier} tier"
    return element(
        "header",
        None,
        element("p", {"class": "eyebrow"}, kind),
        element("h1", None, results.name),
        element("p", {"class": "verdict"}, verdict(results)),
        _contents(results),
    )


def _contents(results: Results) -> Html:
    names = [("drift", "Drift"), ("segments", "Over time"), ("scores", "Scores"), ("videos", "Videos")]
    names = names if scored(results) else names[-1:]
    names += [("provenance", "Provenance"), ("formulas", "Formulas"), ("quoted", "Published numbers")]
    links = [element("a", {"href": f"#{anchor}"}, words) for anchor, words in names]
    return element("nav", {"aria-label": "Contents"}, *links)


def _banner(results: Results) -> list[Html]:
    """What makes numbers meaningless, before any number."""
    found = loud(results)
    if not found:
        return []
    numbers = {v.name: i for i, v in enumerate(results.videos)}
    names = len({v.name for v, _ in found})
    words = f"{count(names, 'video')} must not be believed"
    items = [
        element("li", None, element("a", {"href": f"#{video_id(numbers[v.name])}"}, v.name), f" is {w.kind}. ", w.text)
        for v, w in found[:8]
    ]
    items += (
        [element("li", None, f"and {len(found) - 8} more, marked in the table of videos")] if len(found) > 8 else []
    )
    note = "A video that stands still scores 0 on every drift. Means below include these videos."
    content = [element("h2", {"id": "loud"}, words), element("ul", None, *items), element("p", None, note)]
    return [element("section", {"class": "banner", "aria-labelledby": "loud"}, *content)]


def _glance(results: Results) -> Html:
    videos, broken = scored(results), failed(results)
    quiet = sum(1 for v in videos for w in v.warnings if not w.loud)
    facts = [
        (str(len(videos)), "video scored" if len(videos) == 1 else "videos scored"),
        (clock(round(sum(v.seconds for v in videos))), "of video in all"),
        (str(results.configuration.segments), f"segments, {results.configuration.weights} weights"),
    ]
    facts += [(str(len(broken)), "failed")] if broken else []
    facts += [(str(quiet), "warning" if quiet == 1 else "warnings")] if quiet else []
    facts += [(str(len(results.missing)), "entries without a video")] if results.missing else []
    items = [element("div", None, element("dd", None, n), element("dt", None, words)) for n, words in facts]
    return element("dl", {"class": "glance"}, *items)


def _summary(results: Results) -> list[Html]:
    if not scored(results):
        return []
    how = (
        "VDE sums how far each segment lies from the first, early segments weighing more under the published weights; "
        "over the sum of the weights it is the mean change, in %. Dots are means over videos and bars their 95 % "
        "bootstrap intervals; faint strokes are single videos. The upright tick is the noise floor, what a constant "
        "score with this much noise would show: read nothing into a dot near it. Infinite values are never averaged in."
    )
    drifts = drift_tables(results)
    robust = robust_tables(results)
    shown = (
        [*robust, _more("As published", drifts)] if is_robust(results) else [*drifts, _more("Robust reading", robust)]
    )
    if results.absent:
        absent = "; ".join(f"{name} (takes {metrics})" for name, metrics in results.absent.items())
        shown.append(element("p", {"class": "quiet note"}, f"Of this profile, not measured: {absent}."))
    parts = [_section("drift", "Drift", element("p", {"class": "how"}, how), *shown)]
    parts.append(
        _section("segments", "Over time", element("p", {"class": "how"}, how_to_read(results)), drift_panels(results))
    )
    scores = [*score_tables(results), _more("Scores by segment", [score_panels(results)])]
    lags = lag_panels(results)
    scores += [_more("Similarity by distance in time", [lags])] if "<figure" in lags else []
    return [*parts, _section("scores", "Scores", *scores)]


def _videos(results: Results, shown: Sequence[Html], album: Album) -> list[Html]:
    parts = [*index_tables(results)]
    if failed(results):
        parts.append(failures(results))
    if results.missing:
        entries = ", ".join(results.missing)
        parts.append(element("p", None, element("strong", None, "Entries without a video: "), entries))
    if album.dropped:
        parts.append(
            element("p", {"class": "quiet note"}, f"{count(album.dropped, 'still')} left out to keep this file small.")
        )
    return [_section("videos", "Videos", *parts, *shown)]


def _section(anchor: str, words: str, *content: str) -> Html:
    heading = element("h2", {"id": anchor}, words)
    return element("section", {"aria-labelledby": anchor}, heading, *content)


def _folded(anchor: str, words: str, content: Html) -> Html:
    summary = element("summary", None, element("h2", {"id": anchor}, words))
    return element("section", {"aria-labelledby": anchor}, element("details", {"class": "fold"}, summary, content))


def _more(words: str, content: Sequence[Html]) -> Html:
    return element("details", {"class": "more"}, element("summary", None, words), *content) if content else joined([])
