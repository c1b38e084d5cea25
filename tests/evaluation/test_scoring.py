"""Laws of the numbers of one video: they follow from rows, and say what they are about."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from blockvid.evaluation.metric import Metric
from blockvid.evaluation.profiles import Paper, Profile, Release, Robust
from blockvid.evaluation.results import VideoRecord, value
from blockvid.evaluation.rows import Facts
from blockvid.evaluation.scan import SECONDS
from blockvid.evaluation.scoring import LAGS, Facets, Scoring, colors, curve, lags
from blockvid.evaluation.series import Caption, Footage, Series
from tiny_metrics import tiny

LEVEL = tiny()[0]
VIDEO = VideoRecord(name="film", path="", status="failed", sha256="ab")


def scored(
    levels: np.ndarray,
    profile: Profile | None = None,
    metric: Metric = LEVEL,
    seconds: np.ndarray | None = None,
    stride: int = 1,
) -> VideoRecord:
    times = np.arange(len(levels)) * stride / 8 if seconds is None else seconds
    frames = (len(levels) - 1) * stride + 1
    facts = Facts(width=8, height=6, fps=8.0, frames=frames, seconds=float(times[-1]) + 0.125, variable=False)
    facets = Facets((5, 12), (Caption(0, 1, "a fox"),))
    scoring = Scoring((metric,), profile or Release(), stride)
    return scoring(VIDEO, facts, {"brightness.level": levels, SECONDS: times}, facets)


def test_a_constant_score_does_not_drift():
    for profile in (Release(), Paper(), Robust()):
        drift = scored(np.full(40, 7.25), profile).drift["vde_clarity@core"]
        assert (drift.vde, drift.per_weight, drift.robust.total, drift.robust.slope) == (0, 0, 0, 0)


@pytest.mark.parametrize("rate", [0.01, 0.5, -0.25])
def test_a_score_that_changes_once_and_for_good_by_r_has_a_vde_of_45_r(rate: float):
    levels = np.repeat([2.0] + 9 * [2.0 * (1 + rate)], 4)
    video = scored(levels)
    drift = video.drift["vde_clarity@core"]
    assert drift.vde == pytest.approx(45 * abs(rate))
    assert drift.per_weight == pytest.approx(abs(rate))
    assert video.segment_scores["clarity@core"] == pytest.approx(levels[::4])
    assert scored(levels, Release(weights="uniform")).drift["vde_clarity@core"].vde == pytest.approx(9 * abs(rate))


def test_the_remainder_is_dropped_spread_or_cut_by_time():
    levels = np.arange(1.0, 24.0)  # 23 frames
    of = {cut: scored(levels, Release(remainder=cut)) for cut in ("trim", "spread", "time")}
    assert of["trim"].segment_scores["clarity@core"] == tuple(np.arange(1.5, 21, 2))
    assert of["trim"].segments[-1] == (18 / 8, 20 / 8)
    assert of["spread"].segments[-1] == (20 / 8, 23 / 8)
    assert of["time"].segments[-1] == pytest.approx((0.9 * 23 / 8, 23 / 8))
    for video in of.values():
        assert all(a[1] == b[0] for a, b in zip(video.segments, video.segments[1:], strict=False))
        assert video.scores["clarity@core"] == 12.0, "of all frames, whatever the cut"


def test_a_video_that_is_too_short_has_scores_and_a_warning_and_no_drift():
    video = scored(np.arange(9.0))
    assert video.scores["clarity@core"] == 4.0
    assert (video.segments, video.segment_scores, video.drift) == ((), {}, {})
    assert [(warning.kind, warning.loud) for warning in video.warnings] == [("short", False)]
    assert "9 scored frames do not fill 10 segments" in video.warnings[0].text
    (one,) = scored(np.zeros(1)).warnings
    assert "1 scored frame does not fill 10" in one.text


def test_a_profile_is_read_in_its_own_way_and_holds_both_readings():
    opening = np.repeat([1.0] + 9 * [2.0], 4)
    plain = scored(opening, Release()).drift["vde_clarity@core"]
    robust = scored(opening, Robust(weights="increasing")).drift["vde_clarity@core"]
    assert plain.vde == robust.vde == 45
    assert robust.robust.total == pytest.approx(1 / 3), "against the median of two segments"
    assert robust.robust.worst_segment == 0


def test_what_is_said_of_the_video_reaches_the_metric_in_rows_that_it_has():
    seen: list[Footage] = []

    def score(series: Series, span: range, footage: Footage) -> float:
        seen.append(footage)
        return 0.0

    video = scored(np.zeros(10), metric=replace(LEVEL, score=score), stride=3)
    assert seen[0].borders == (2, 4), "frames 5 and 12 first show in rows 2 (frame 6) and 4 (frame 12)"
    assert (seen[0].fps, seen[0].first) == (8 / 3, range(1))
    assert seen[0].captions[0].text == "a fox"
    assert video.prompts == ("a fox",)
    scored(np.zeros(1), metric=replace(LEVEL, score=score))
    assert (seen[-1].borders, seen[-1].first) == ((), None)


def test_curves_are_means_over_equal_parts_without_what_is_missing():
    assert curve(np.array([1.0, math.nan, 3.0])) == pytest.approx([1.0, math.nan, 3.0], nan_ok=True)
    long = np.arange(2400.0)
    long[5] = math.nan
    means = curve(long)
    assert len(means) == 240
    assert means[0] == pytest.approx((45 - 5) / 9)
    assert means[1:] == pytest.approx(np.arange(14.5, 2400, 10))
    video = scored(np.arange(20.0))
    assert video.curves == {"clarity@core": tuple(np.arange(20.0))}


def test_similarity_falls_with_distance_as_vectors_turn():
    seconds = np.arange(40 * 8) / 8
    angle = seconds * math.pi / 16
    turning = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=1) * 3
    assert lags(turning, seconds) == pytest.approx([math.cos(lag * math.pi / 16) for lag in LAGS], abs=1e-9)
    short = lags(turning[:20], seconds[:20])
    assert [math.isnan(number) for number in short] == [lag > 2.4 for lag in LAGS]


def test_similarity_is_of_frames_at_that_distance_and_of_no_others():
    seconds = np.array([0.0, 0.1, 0.2, 1.1, 1.2, 1.3])
    vectors = np.eye(6)
    vectors[3] = vectors[0] + vectors[1]  # 1.1 s: 1 s after frame 1
    found = dict(zip(LAGS, lags(vectors, seconds), strict=True))
    assert found[1.0] == pytest.approx((1 / math.sqrt(2) + 0) / 2), "frames 1 and 3, 2 and 4"
    assert math.isnan(found[0.5])
    before = np.eye(4)
    before[2] = before[0]
    rounded = dict(zip(LAGS, lags(before, np.array([0.0, 0.4, 0.999, 1.4])), strict=True))
    assert rounded[1.0] == (1 + 0) / 2, "0.999 s is nearer to 1 s than 1.4 s is"
    assert all(math.isnan(number) for number in lags(np.zeros((9, 3)), np.arange(9) / 4)), "0 has no direction"
    assert all(math.isnan(number) for number in lags(np.ones((1, 3)), np.zeros(1)))


def test_a_long_video_is_sampled_and_not_loaded():
    class Counting(np.ndarray):
        most = 0

        def __getitem__(self, index: object) -> np.ndarray:
            found = np.asarray(super().__getitem__(index))  # type: ignore[arg-type]
            Counting.most = max(Counting.most, len(found))
            return found

    lags(np.ones((50_000, 4)).view(Counting), np.arange(50_000) / 8)
    assert 0 < Counting.most <= 64


def test_colours_are_mean_colours():
    rgb = np.stack([np.arange(480), np.full(480, 300), np.full(480, -3)], axis=1)
    strip = colors({"luma.rgb": rgb % 256 * [[1, 0, 0]] + [[0, 300, -3]]})
    assert len(strip) == 240
    assert strip[:2] == [(0, 255, 0), (2, 255, 0)]
    assert colors({}) == []


def test_infinite_drift_stays_infinite_in_the_record():
    levels = np.repeat([0.0] + 9 * [1.0], 2)
    drift = scored(levels).drift["vde_clarity@core"]
    assert value(drift.vde) == math.inf
    assert "reference is zero" in drift.flags
    restored = VideoRecord.model_validate_json(scored(levels).model_dump_json())
    assert restored == scored(levels)
