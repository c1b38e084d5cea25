"""Laws of results.json: what is written is read, finite or not, and the shipped schema is its description."""

from __future__ import annotations

import csv
import io
import json
import math
from importlib import resources
from pathlib import Path

import pytest

from blockvid.errors import InputError
from blockvid.evaluation.results import SCHEMA, Results, VideoRecord, csv_text, drifts, schema_text, value
from evaluation.made_results import make


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return make(tmp_path_factory.mktemp("made"), videos=4)


def test_the_shipped_schema_describes_the_record():
    shipped = resources.files("blockvid.evaluation").joinpath(SCHEMA).read_text(encoding="utf-8")
    assert shipped == schema_text(), "write schema_text() to it and commit"


def test_what_is_written_is_read(results: Results, tmp_path: Path):
    results.write(tmp_path / "run")
    assert Results.read(tmp_path / "run") == Results.read(tmp_path / "run" / "results.json") == results
    assert (tmp_path / "run" / "results.csv").read_text() == csv_text(results)
    assert {file.name for file in (tmp_path / "run").iterdir()} == {"results.json", "results.csv"}


@pytest.mark.parametrize("number", [1.5, math.inf, -math.inf, math.nan])
def test_numbers_that_json_lacks_survive_it(number: float):
    video = VideoRecord(name="x", path="x", status="scored", scores={"clarity@core": number})
    text = video.model_dump_json()
    json.loads(text, parse_constant=pytest.fail)
    read = value(VideoRecord.model_validate_json(text).scores["clarity@core"])
    assert read == number or (math.isnan(read) and math.isnan(number))


def test_a_table_has_a_row_for_each_video_and_a_column_for_each_number(results: Results):
    first, *rows = csv.reader(io.StringIO(csv_text(results)))
    assert [row[0] for row in rows] == [video.name for video in results.videos]
    assert {len(row) for row in rows} == {len(first)} == {len(set(first))}
    for row, video in zip(rows, results.videos, strict=True):
        cells = dict(zip(first, row, strict=True))
        assert (cells["status"], cells["reason"]) == (video.status, video.reason or "")
        for key, number in {**{k: value(v) for k, v in video.scores.items()}, **drifts(video)}.items():
            assert cells[key] == ("" if math.isnan(number) else repr(number))
            assert math.isnan(number) or float(cells[key]) == number
    failed = dict(zip(first, rows[-1], strict=True))
    assert failed["status"] == "failed" and failed["clarity@core"] == failed["vde_clarity@core"] == ""
    dark = dict(zip(first, rows[2], strict=True))
    assert dark["vde_clarity@core"] == "inf"


def test_keys_are_found_by_name_or_in_full(results: Results):
    assert results.find("vde_clarity") == results.find("vde_clarity@core") == "vde_clarity@core"
    assert results.find("subject_consistency").startswith("subject_consistency@light:")
    with pytest.raises(InputError, match="'fid' was not measured; use one of"):
        results.find("fid")
    two = results.model_copy(
        update={"metrics": (*results.metrics, results.metrics[0].model_copy(update={"key": "clarity@light"}))}
    )
    with pytest.raises(InputError, match="could be clarity@core or clarity@light"):
        two.find("clarity")


def test_drift_is_better_when_lower(results: Results):
    assert (results.better("vde_clarity@core"), results.better("clarity@core")) == ("lower", "higher")
    assert results.better("exposure@core") is None


def test_what_cannot_be_read_or_written_is_named(results: Results, tmp_path: Path):
    with pytest.raises(InputError, match="name the folder of a `blockvid eval` run"):
        Results.read(tmp_path)
    (tmp_path / "results.json").write_text('{"version": 1}')
    with pytest.raises(InputError, match="run `blockvid eval` again"):
        Results.read(tmp_path)
    with pytest.raises(InputError, match="cannot be made"):
        results.write(tmp_path / "results.json")
