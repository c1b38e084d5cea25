"""VBench's arithmetic over videos, by hand."""

from __future__ import annotations

import math

import pytest

from blockvid.errors import InputError
from blockvid.evaluation.aggregation import RANGES, aggregated, normalised, quality
from blockvid.evaluation.evaluate import Evaluation
from blockvid.evaluation.results import MetricRecord, Results, VideoRecord
from tiny_metrics import ramp, tiny

NAMES = ("subject_consistency", "motion_smoothness", "imaging_quality")


def results(*videos: tuple[int, float | None], stride: int = 1) -> Results:
    """Of videos with so many frames and this score in every metric."""
    one = Evaluation(metrics=tiny(), stride=stride)({"x": (ramp(3), 8.0)})
    metrics = [
        MetricRecord(key=f"{name}@vbench", name=name, tier="vbench", title=name, formula="", better="higher")
        for name in NAMES
    ]
    records = [
        VideoRecord(
            name=str(n), path="", status="scored", frames=frames, scores={f"{name}@vbench": score for name in NAMES}
        )
        for n, (frames, score) in enumerate(videos)
    ]
    return one.model_copy(update={"metrics": tuple(metrics), "videos": tuple(records)})


def test_pooled_frames_weigh_long_videos_more_where_vbench_pools():
    two = results((11, 0.9), (31, 0.5))
    assert aggregated(two, "subject_consistency@vbench") == pytest.approx(0.7)
    assert aggregated(two, "subject_consistency@vbench", "frames") == pytest.approx((10 * 0.9 + 30 * 0.5) / 40)
    assert aggregated(two, "motion_smoothness@vbench", "frames") == pytest.approx(0.7)


def test_scored_frames_are_what_is_pooled():
    two = results((21, 0.9), (41, 0.5), stride=10)
    assert aggregated(two, "subject_consistency@vbench", "frames") == pytest.approx((2 * 0.9 + 4 * 0.5) / 6)


def test_imaging_quality_is_a_share_for_a_data_set_only():
    assert aggregated(results((9, 60.0), (9, 70.0)), "imaging_quality@vbench") == pytest.approx(0.65)


def test_videos_without_a_score_are_left_out():
    assert aggregated(results((9, 0.5), (9, None)), "subject_consistency@vbench", "frames") == 0.5
    assert math.isnan(aggregated(results((9, None)), "subject_consistency@vbench"))
    assert math.isnan(aggregated(results((1, 0.5)), "subject_consistency@vbench", "frames"))


def test_normalised_numbers_are_not_clamped():
    assert normalised("subject_consistency", 0.1462) == 0
    assert normalised("motion_smoothness", 0.9975) == pytest.approx(1)
    assert normalised("motion_smoothness", 1) == pytest.approx(1.00858, abs=1e-5)
    assert normalised("background_consistency", 0) == pytest.approx(-0.2615 / 0.7385)


def test_quality_weighs_dynamic_degree_by_half():
    best = {name: high for name, (_, high) in RANGES.items()}
    assert quality(best) == pytest.approx(1)
    assert quality({**best, "dynamic_degree": 0.0}) == pytest.approx(6 / 6.5)
    assert quality({**best, "aesthetic_quality": 0.0}) == pytest.approx(5.5 / 6.5)


def test_what_is_unknown_is_refused():
    with pytest.raises(InputError, match="'fid@vbench' is no metric that was computed; use one of subject"):
        aggregated(results((9, 0.5)), "fid@vbench")
    with pytest.raises(InputError, match="average 'mean' is unknown; use videos, frames"):
        aggregated(results((9, 0.5)), "subject_consistency@vbench", "mean")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'clarity' has no place on the leaderboard"):
        normalised("clarity", 1.0)
    with pytest.raises(InputError, match="lacks dynamic_degree"):
        quality({name: 1.0 for name in RANGES if name != "dynamic_degree"})
