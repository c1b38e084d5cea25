"""A report holds all that was measured, names it, and is one file whatever videos are called."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from blockvid.evaluation.reference import LABEL, published
from blockvid.evaluation.report import report, write_report
from blockvid.evaluation.report.readings import verdict
from blockvid.evaluation.results import Results
from evaluation.made_results import KINDS, MODEL, VBENCH, again, make
from evaluation.report.document import Node, parsed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    return make(folder, 8, kinds=(*KINDS, *VBENCH))


@pytest.fixture(scope="module")
def page(results: Results, folder: Path) -> Node:
    return parsed(report(results, folder))


def tables(page: Node, caption: str) -> list[Node]:
    return [t for t in page.all("table") if caption in t.all("caption")[0].text]


# One file


def test_it_is_written_whole_beside_the_results(results: Results, folder: Path):
    path = write_report(results, folder)
    assert path == folder / "report.html"
    assert path.read_text(encoding="utf-8") == report(results, folder)
    assert not list(folder.glob(".*.part"))


def test_names_from_files_are_shown_and_never_read_as_markup(folder: Path):
    hostile = '"><script>alert(1)</script><img src=x onerror=alert(2)>&amp; ünïcødé 夏 \x00 \ud800.mp4'
    made = make(folder, 3)
    videos = [
        made.videos[0].model_copy(update={"name": hostile, "prompts": (hostile,), "entry": hostile}),
        *made.videos[1:],
    ]
    page = parsed(report(again(made, {"name": hostile}).model_copy(update={"videos": tuple(videos)}), folder))
    shown = hostile.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    assert page.all("h1")[0].text == shown
    assert shown in [h.text for h in page.all("h3")]
    assert len(page.all("script")) == 1
    assert not [i for i in page.all("img") if i.attributes["src"] == "x"]


# Numbers


def test_every_metric_and_quantity_stands_in_a_table_of_its_tier_alone(results: Results, page: Node):
    for keys, caption in (
        ([m.key for m in results.metrics], "Scores, "),
        ([q.key for q in results.quantities], "Drift, "),
    ):
        found: dict[str, str] = {}
        for table in tables(page, caption):
            tier = re.search(rf"{caption}(\w+) tier", table.all("caption")[0].text)
            assert tier
            for code in table.all("small", "key"):
                assert code.text.split("@")[1].split(":")[0] == tier[1]
                found[code.text] = tier[1]
        assert set(found) == set(keys)


def test_no_table_mixes_tiers(page: Node):
    for table in page.all("table"):
        keys = {s.text for s in table.all("small", "key")}
        assert len({key.split("@")[1].split(":")[0] for key in keys}) <= 1


def test_drift_stands_with_its_weight_floor_and_dynamic_degree(results: Results, page: Node):
    rows = [row for table in tables(page, "Drift, ") for row in table.all("tr") if row.all("small", "key")]
    assert len(rows) == len(results.quantities)
    for row in rows:
        labels = {td.attributes.get("data-label") for td in row.all("td")}
        assert {"VDE", "/ weight, %", "floor", "dynamic", "median", "trimmed", "videos"} <= labels
    clarity = next(row for row in rows if row.all("small", "key")[0].text == "vde_clarity@core")
    cells = {td.attributes.get("data-label"): td.text for td in clarity.all("td")}
    record = results.summary["vde_clarity@core"].mean
    assert cells["VDE"].startswith(f"{record.value:.3f}") and f"{record.low:.3f} to {record.high:.3f}" in cells["VDE"]
    assert cells["dynamic"] == "0.875" and "12\u202f% infinite" in cells["videos"]


def test_formulas_are_on_every_row_and_in_the_legend(results: Results, page: Node):
    legend = page.all("dl", "legend")[0].text
    for m in results.metrics:
        assert m.key in legend and m.formula in legend
    assert MODEL in legend
    for row in (r for t in tables(page, "Scores, ") for r in t.all("tr") if r.all("small", "key")):
        assert row.attributes["title"]


def test_provenance_says_what_was_run(results: Results, page: Node):
    said = page.all("dl", "facts-box")[0].text
    words = (
        "release",
        "10 segments",
        "linear",
        "every frame",
        "cpu",
        "2 threads",
        "av 18.1.0",
        MODEL,
        "blockvid eval made/",
    )
    assert all(word in said for word in words)


def test_quoted_rows_are_in_tables_of_their_own_that_say_so(results: Results, page: Node):
    quoted = page.all("table", "quoted")
    methods = [th.text for table in quoted for th in table.all("th") if th.attributes["scope"] == "row"]
    assert methods == [row.method for row in published().rows]
    assert all(LABEL in table.all("caption")[0].text.lower() for table in quoted)
    measured = [t for t in page.all("table") if t not in quoted]
    assert not [t for t in measured if any(method in t.text for method in set(methods))]
    assert "vbench tier" in page.all("details", "fold")[0].text


# What must not be overlooked


def test_a_frozen_video_is_said_before_any_number(results: Results, page: Node):
    (banner,) = page.all("section", "banner")
    frozen = results.videos[7].name
    assert frozen in banner.text and "frozen" in banner.text
    main = [n for n in page.all("main")[0].children if isinstance(n, Node)]
    assert main.index(banner) < min(main.index(n) for n in main if n.all("table"))


def test_no_banner_without_a_loud_warning(folder: Path):
    assert not parsed(report(make(folder, 4, special=False), folder)).all("section", "banner")


def test_failed_videos_stand_with_their_reasons(results: Results, page: Node):
    (table,) = tables(page, "could not be scored")
    failed = results.videos[-1]
    assert failed.name in table.text and (failed.reason or "") in table.text


def test_the_worst_segment_is_framed_and_named(results: Results, page: Node):
    frames = page.all("figure", "worst")
    assert len(frames) == 7  # all but the frozen one
    assert all(re.match(r"worst: \w+ [+−][\d.]+", frame.all("figcaption")[0].text) for frame in frames)


def test_every_segment_has_a_still_and_every_video_its_colours(results: Results, page: Node):
    images = page.all("img")
    assert len([i for i in images if i.attributes["src"].startswith("data:image/jpeg;base64,/9j")]) == 8 * 10
    assert len([i for i in images if i.attributes["src"].startswith("data:image/png")]) == 8


def test_stills_that_are_missing_or_lie_elsewhere_are_not_embedded(results: Results, folder: Path, tmp_path: Path):
    assert not [i for i in parsed(report(results, tmp_path)).all("img") if "jpeg" in i.attributes["src"]]
    inner = tmp_path / "inner"
    inner.mkdir()
    still = results.videos[0].stills[0]
    (tmp_path / "secret.jpg").write_bytes((folder / still.file).read_bytes())
    outside = [s.model_copy(update={"file": "../secret.jpg"}) for s in results.videos[0].stills]
    one = again(results, {"videos": [results.videos[0].model_copy(update={"stills": tuple(outside)})]})
    assert not [i for i in parsed(report(one, inner)).all("img") if "jpeg" in i.attributes["src"]]


def test_the_robust_profile_is_read_in_the_robust_way_first(results: Results, folder: Path):
    configuration = {**results.configuration.model_dump(), "profile": "robust"}
    page = parsed(report(again(results, {"configuration": configuration}), folder))
    captions = [table.all("caption")[0].text for table in page.all("table")]
    assert captions[0].startswith("Robust reading") and any(c.startswith("Drift, ") for c in captions)


def test_quantities_of_the_profile_that_were_not_measured_are_named(results: Results, folder: Path):
    page = parsed(report(again(results, {"absent": {"vde_aesthetic": "aesthetic_quality"}}), folder))
    assert "not measured: vde_aesthetic (takes aesthetic_quality)" in page.text


# Any results


@pytest.mark.parametrize("videos", [1, 2, 3])
def test_few_videos(tmp_path: Path, videos: int):
    parsed(report(make(tmp_path, videos, special=False), tmp_path))


def test_nothing_scored(results: Results, folder: Path):
    broken = again(results, {"videos": [results.videos[-1]], "summary": {}, "missing": ["e1", "e2"]})
    page = parsed(report(broken, folder))
    assert "None of 1 video could be scored" in page.all("p", "verdict")[0].text
    assert "e1, e2" in page.text


def test_videos_too_short_to_be_cut(results: Results, folder: Path):
    nothing = {
        "segments": (),
        "segment_scores": {},
        "drift": {},
        "curves": {},
        "lags": {},
        "colors": (),
        "seconds": 0.0,
    }
    parsed(report(again(results, {"videos": [v.model_copy(update=nothing) for v in results.videos]}), folder))


def test_missing_numbers_are_gaps(results: Results, folder: Path):
    def emptied(video):
        scores = {
            key: tuple(None if i == 3 else x for i, x in enumerate(of)) for key, of in video.segment_scores.items()
        }
        return video.model_copy(update={"segment_scores": scores, "scores": dict.fromkeys(video.scores)})

    page = parsed(report(again(results, {"videos": [emptied(v) for v in results.videos]}), folder))
    assert "nan" not in re.sub(r"\s+", " ", page.all("main")[0].text).lower().split()
    paths = [p.attributes["d"] for p in page.all("path")]
    assert not [d for d in paths if "nan" in d or "inf" in d]


def test_a_large_set_stays_small_and_folded(tmp_path: Path):
    text = report(make(tmp_path, 80), tmp_path)
    assert len(text.encode()) < 5_000_000
    assert text.count('<details class="video') == 80
    assert not re.search('<details class="video[^>]* open', text)


def collapsing(number: int, name: str, scores: np.ndarray) -> np.ndarray:
    """Everything constant, but clarity halved at half time."""
    return np.where((np.arange(len(scores)) >= len(scores) / 2) & (name == "clarity"), 5.0, 10.0)


def test_the_verdict_names_what_drifts_most_and_is_one_sentence(results: Results, folder: Path):
    steady = make(folder, 8, seed=2, special=False, edit=lambda n, name, scores: scores * 0 + 1)
    assert verdict(steady).endswith("nothing drifts beyond the noise of its own measurement.")
    falls = make(folder, 8, seed=2, special=False, edit=collapsing)
    assert "clarity drifts most" in verdict(falls)
    for said in (verdict(steady), verdict(falls), verdict(results)):
        assert said.count(". ") == 0 and said.endswith(".")


def test_the_verdict_compares_each_video_with_its_own_noise(folder: Path):
    """One wild and noisy video hides nothing that all videos do."""

    def wild(number: int, name: str, scores: np.ndarray) -> np.ndarray:
        if number == 0:
            return 10.0 + 90 * (np.arange(len(scores)) % 2)
        return collapsing(number, name, scores) + 0.01 * (np.arange(len(scores)) % 2)

    made = make(folder, 8, seed=2, special=False, edit=wild)
    assert "clarity drifts most" in verdict(made) and "stay within the noise" in verdict(made)
