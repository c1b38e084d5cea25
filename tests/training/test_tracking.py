"""A tracker that fails is named once and stops nothing; what was logged is there when the run is over."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from blockvid.errors import InputError
from blockvid.training.tracking import JSONLines, TensorBoard, Tracking, Wandb


class Failing:
    """Works once."""

    def __init__(self) -> None:
        self.asked = 0

    def log(self, step: int, row: Mapping[str, float]) -> None:
        self.asked += 1
        if self.asked > 1:
            raise ConnectionError("no network")

    def close(self) -> None:
        raise AssertionError("a tracker that was left out is not asked again")


def test_a_failing_tracker_is_left_out_and_the_others_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    failing = Failing()
    tracking = Tracking([failing, JSONLines(tmp_path / "log.jsonl")])
    with caplog.at_level(logging.WARNING):
        for step in range(5):
            tracking.log(step, {"loss": step / 2})
        tracking.close()
    assert failing.asked == 2
    assert [record.message for record in caplog.records] == [
        "Failing failed and is left out from here on: ConnectionError('no network')"
    ]
    assert (tmp_path / "log.jsonl").read_text().splitlines()[-1] == '{"step": 4, "loss": 2.0}'


def test_a_full_disk_stops_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracking = Tracking([JSONLines(tmp_path / "missing" / "log.jsonl")])
    tracking.log(1, {"loss": 1.0})
    tracking.close()
    assert "JSONLines failed" in caplog.text


def test_rows_after_the_step_that_is_continued_from_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 2.0}\n{"step": 3, "lo')
    JSONLines(path, step=1).log(2, {"loss": 2.5})
    assert path.read_text() == '{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 2.5}\n'


def test_absent_packages_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"tensorboard is not installed; run pip install 'blockvid\[track\]'"):
        TensorBoard(tmp_path)
    with pytest.raises(InputError, match=r"wandb is not installed"):
        Wandb("project", "name", {}, tmp_path)
