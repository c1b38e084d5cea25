"""A page of comparisons shows every pair, mixes no tiers, and plays what is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blockvid.evaluation.compare import Comparison, compare, significant
from blockvid.evaluation.report import comparison_page, write_comparison
from blockvid.evaluation.report.comparison import verdict
from blockvid.evaluation.results import Results
from blockvid.evaluation.statistics import Bootstrap
from evaluation.made_results import again, make
from evaluation.report.document import Node, parsed

QUICK = Bootstrap(resamples=100)
NAMES = ("plain", "with <b>tags</b> & “quotes”", "third")


def decaying(number: int, name: str, scores: np.ndarray) -> np.ndarray:
    """Clarity that falls, by another share in each video."""
    fall = 0.03 + 0.001 * number
    return scores * (1 - fall * np.arange(len(scores))) if name == "clarity" else scores


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, ...]:
    folder = tmp_path_factory.mktemp("runs")
    made = [make(folder, 12, seed=4), make(folder, 12, seed=4, edit=decaying), make(folder, 12, seed=5)]
    return tuple(again(run, {"name": name}) for run, name in zip(made, NAMES, strict=True))


@pytest.fixture(scope="module")
def comparison(runs: tuple[Results, ...]) -> Comparison:
    return compare(runs, QUICK)


@pytest.fixture(scope="module")
def page(comparison: Comparison, runs: tuple[Results, ...], tmp_path_factory: pytest.TempPathFactory) -> Node:
    return parsed(comparison_page(comparison, runs, tmp_path_factory.mktemp("page")))


def test_the_record_and_the_page_are_written(comparison: Comparison, runs: tuple[Results, ...], tmp_path: Path):
    path = write_comparison(comparison, runs, tmp_path)
    assert path == tmp_path / "compare.html"
    parsed(path.read_text(encoding="utf-8"))
    assert Comparison.model_validate_json((tmp_path / "comparison.json").read_text(encoding="utf-8")) == comparison


def test_every_difference_has_a_row_in_a_table_of_its_tier(comparison: Comparison, page: Node):
    captions = [(t.all("caption")[0].text, t) for t in page.all("table", "cards")]
    rows = [(caption, row) for caption, t in captions if " against " in caption for row in t.all("tr")]
    found = [(caption, row.all("small", "key")[0].text) for caption, row in rows if row.all("small", "key")]
    assert len(found) == len(comparison.differences)
    for d in comparison.differences:
        tier = d.key.split("@")[1].split(":")[0]
        assert [c for c, key in found if key == d.key and c.startswith(f"{d.a} against {d.b}, {tier} tier")]


def test_sure_differences_are_marked_and_no_others(comparison: Comparison, page: Node):
    marked = [row.all("small", "key")[0].text for row in page.all("tr", "sure")]
    assert sorted(marked) == sorted(d.key for d in comparison.differences if significant(d))
    assert "vde_clarity@core" in marked


def test_drift_stands_with_its_weight_floor_and_dynamic_degree(page: Node):
    rows = [r for r in page.all("tr") if r.all("small", "key") and r.all("small", "key")[0].text == "vde_motion@core"]
    for row in rows:
        cells = {td.attributes.get("data-label"): td for td in row.all("td")}
        assert "%, " in cells[NAMES[0] if NAMES[0] in cells else NAMES[1]].all("small")[0].text
        assert cells["dynamic"].text.count("0.92") == 2


def test_names_are_shown_as_they_are(comparison: Comparison, page: Node):
    assert all(name in page.all("h1")[0].text for name in NAMES)
    assert [h.text for h in page.all("h3") if h.attributes.get("id", "").startswith("pair-")] == list(comparison.videos)


def test_frozen_videos_are_said_before_any_number(runs: tuple[Results, ...], page: Node):
    (banner,) = page.all("section", "banner")
    assert banner.text.count(runs[0].videos[11].name) == 3
    main = [n for n in page.all("main")[0].children if isinstance(n, Node)]
    assert main.index(banner) < min(main.index(n) for n in main if n.all("table"))


def test_files_that_are_not_there_are_said_to_be_missing(comparison: Comparison, page: Node):
    assert not page.all("video")
    assert page.text.count(" is not there") == 3 * len(comparison.videos)


def test_files_that_are_there_get_players_by_relative_address(runs: tuple[Results, ...], tmp_path: Path):
    file = tmp_path / "videos" / "a b#1.mp4"
    file.parent.mkdir()
    file.write_bytes(b"mp4")
    first = runs[0].videos[0].model_copy(update={"path": str(file)})
    pair = [again(run, {"videos": [first]}) for run in runs[:2]]
    page = parsed(write_comparison(compare(pair, QUICK), pair, _made(tmp_path / "out")).read_text(encoding="utf-8"))
    assert [v.attributes["src"] for v in page.all("video")] == ["../videos/a%20b%231.mp4"] * 2
    assert all("controls" in v.attributes and v.attributes["preload"] == "none" for v in page.all("video"))


def test_the_verdict_is_one_sentence_about_what_is_sure(runs: tuple[Results, ...], comparison: Comparison):
    two = verdict(compare(runs[:2], QUICK))
    assert f"{NAMES[0]} is better than {NAMES[1]} in clarity drift and clarity;" in two
    assert "nothing differs" in verdict(compare([runs[0], runs[0]], QUICK))
    few = [again(run, {"videos": run.videos[:4]}) for run in runs[:2]]
    assert "4 videos cannot show more" in verdict(compare(few, QUICK))
    for said in (two, verdict(comparison)):
        assert said.count(". ") == 0 and said.endswith(".")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
