"""The doctor's own health: it finds made metrics sound, and broken ones broken."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from blockvid.evaluation import catalogue
from blockvid.evaluation.catalogue import Models
from blockvid.evaluation.doctor import Check, checks, videos
from blockvid.evaluation.metric import Metric, Tier
from blockvid.evaluation.series import Footage, Series
from blockvid.evaluation.weights import Sources

pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def sound() -> tuple[Check, ...]:
    return checks()


def test_core_measures_what_it_says(sound: tuple[Check, ...]):
    assert [check for check in sound if check.passed is False] == []
    assert sum(check.passed is True for check in sound) > 30


def test_what_needs_a_network_says_so(sound: tuple[Check, ...]):
    silent = [check for check in sound if check.passed is None]
    assert {check.name for check in silent} >= {"identity is lost", "features differ and none is zero"}
    assert all("--tier light" in check.reason and np.isnan(check.measured) for check in silent)


def test_every_made_video_is_asked_about(sound: tuple[Check, ...]):
    assert {check.video for check in sound} - {""} == set(videos())


def test_videos_are_the_same_every_time():
    first, second = videos(), videos()
    for name, (frames, fps) in first.items():
        assert frames.dtype == np.uint8 and frames.shape == (160, 112, 192, 3) and fps == 16
        assert np.array_equal(frames, second[name][0]), name


def test_a_broken_metric_is_found():
    def broken(tier: Tier) -> tuple[Metric, ...]:
        constant = partial(_always, 300.0)
        return tuple(replace(m, score=constant) if m.name == "clarity" else m for m in catalogue.metrics(tier))

    failed = {check.name for check in checks(metrics=broken) if check.passed is False}
    assert failed == {"clarity falls throughout", "its clarity is lost", "a warning: first segment"}


def _always(value: float, series: Series, span: range, footage: Footage) -> float:
    return value


def test_weights_that_are_not_there_are_named(tmp_path: Path):
    nowhere = Sources({}, None, None, tmp_path, tmp_path, offline=True, hub_cache=tmp_path, clip_cache=tmp_path)
    told = checks("vbench", lambda tier: catalogue.metrics(tier, Models(nowhere)))
    silent = [check for check in told if check.passed is None]
    assert len(silent) == 3
    assert all("dino" in check.reason for check in silent)
    assert all(check.passed for check in told if check not in silent)
