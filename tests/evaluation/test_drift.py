"""Laws of drift: the published arithmetic to the digit, and what the robust form promises in its place."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockvid.errors import InputError
from blockvid.evaluation.drift import (
    NORMAL_FROM,
    Drift,
    RobustDrift,
    Weights,
    noise_level,
    segments,
    segments_by_time,
    theil_sen,
    weights,
)

relaxed = settings(deadline=None)  # a busy machine is no failure
KINDS: tuple[Weights, ...] = ("linear", "log", "uniform")
kinds = st.sampled_from(KINDS)
scores = st.lists(st.floats(0.1, 100), min_size=2, max_size=30).map(np.array)


def ones_but(changes: dict[int, float]) -> np.ndarray:
    """Ten scores of 1, but for some."""
    m = np.ones(10)
    for index, value in changes.items():
        m[index] = value
    return m


# Weights and segments


@pytest.mark.parametrize(("count", "total"), [(5, 10), (10, 45), (15, 105), (20, 190), (30, 435)])
def test_linear_weights_sum_to_a_triangle_number(count: int, total: int):
    assert weights("linear", count).sum() == total
    later = np.full(count, 1.25)
    later[0] = 1.0
    assert Drift()(later).vde == pytest.approx(0.25 * total)


def test_weights_of_ten_segments():
    assert weights("linear", 10).tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert weights("log", 10).tolist() == pytest.approx([math.log(k) for k in range(9, 0, -1)])
    assert weights("log", 10)[-1] == 0
    assert weights("log", 10).sum() == pytest.approx(math.log(math.factorial(9)))
    assert weights("uniform", 10).tolist() == [1] * 9


@relaxed
@given(kinds, st.integers(0, 100))
def test_weights_never_rise_and_are_never_negative(kind: Weights, count: int):
    w = weights(kind, count)
    assert len(w) == max(count - 1, 0)
    assert (np.diff(w) <= 0).all() and (w >= 0).all()


@relaxed
@given(st.integers(1, 500), st.integers(1, 40))
def test_segments_tile_the_video(frames: int, count: int):
    if frames < count:
        with pytest.raises(InputError, match=f"{frames} frames do not fill {count} segments"):
            segments(frames, count, "spread")
        return
    trimmed, spread = segments(frames, count, "trim"), segments(frames, count, "spread")
    assert [frame for part in trimmed for frame in part] == list(range(frames - frames % count))
    assert {len(part) for part in trimmed} == {frames // count}
    assert [frame for part in spread for frame in part] == list(range(frames))
    assert max(map(len, spread)) - min(map(len, spread)) <= 1
    assert len(trimmed) == len(spread) == count


@relaxed
@given(st.integers(1, 20), st.integers(1, 40), st.sampled_from([8, 24, 30000 / 1001]), st.booleans())
def test_segments_by_time_are_segments_where_the_rate_is_constant(each: int, count: int, fps: float, rounded: bool):
    seconds = np.arange(each * count) / fps
    assert segments_by_time(seconds.round(3) if rounded else seconds, count) == segments(len(seconds), count, "trim")


@relaxed
@given(st.lists(st.floats(0.001, 5), min_size=1, max_size=60), st.integers(1, 20))
def test_segments_by_time_last_equally_long_and_are_never_empty(gaps: list[float], count: int):
    seconds = np.concatenate([[0.0], np.cumsum(gaps)])
    if len(seconds) < count:
        with pytest.raises(InputError, match="do not fill"):
            segments_by_time(seconds, count)
        return
    parts = segments_by_time(seconds, count)
    usual = float(np.median(gaps))
    borders = np.arange(count + 1) / count * (seconds[-1] + usual) - usual / 10
    assert (parts[0].start, parts[-1].stop) == (0, len(seconds))
    for part, begin, end in zip(parts, borders, borders[1:], strict=False):
        began = seconds[part.start : part.stop]
        assert len(began) == 1 or (begin <= began[0] and began[-1] < end)
        assert len(began) > 1 or began[0] < end
    assert all(b.start in (a.stop, a.stop - 1) for a, b in itertools.pairwise(parts))


def test_what_cannot_be_cut_or_weighted_is_refused():
    with pytest.raises(InputError, match=r"0 segments .* use 1 or more"):
        segments(10, 0, "trim")
    with pytest.raises(InputError, match=r"'pad' is unknown; use trim, spread"):
        segments(10, 2, "pad")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"'square' are unknown; use linear, log, uniform"):
        weights("square", 10)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"-1 segments"):
        weights("linear", -1)


# As published


@pytest.mark.parametrize(
    ("m", "linear", "log", "plain"),
    [
        (ones_but({9: 0.5}), 0.5, 0.0, 0.0556),
        (ones_but({1: 0.5}), 4.5, 1.098612, 0.0556),
        (np.linspace(1, 0.5, 10), 9.166667, 2.720072, 0.277778),
        (ones_but(dict.fromkeys(range(1, 10), 0.5)), 22.5, 6.400914, 0.5),
        (ones_but({0: 0.5}), 45.0, 12.801827, 1.0),
    ],
    ids=["last halves", "second halves", "ramp", "drop for good", "first alone bad"],
)
def test_golden_values_of_ten_segments(m: np.ndarray, linear: float, log: float, plain: float):
    assert Drift("linear")(m).vde == pytest.approx(linear, abs=1e-6)
    assert Drift("log")(m).vde == pytest.approx(log, abs=1e-6)
    assert Drift("uniform")(m).per_weight == pytest.approx(plain, abs=5e-5)


@relaxed
@given(kinds, st.floats(-100, 100).filter(bool), st.integers(2, 30))
def test_a_constant_metric_has_no_drift(kind: Weights, value: float, count: int):
    result = Drift(kind)(np.full(count, value))
    assert (result.vde, result.per_weight, result.noise_floor or 0.0) == (0, 0, 0)
    assert set(result.relative) == {0.0}


@relaxed
@given(kinds, scores, st.floats(1e-3, 1e3), st.booleans())
def test_the_unit_of_a_metric_does_not_matter(kind: Weights, m: np.ndarray, scale: float, negative: bool):
    plain, scaled = Drift(kind)(m), Drift(kind)(m * (-scale if negative else scale))
    assert scaled.vde == pytest.approx(plain.vde, rel=1e-9, abs=1e-9)
    assert ("reference is negative" in scaled.flags) == negative
    if plain.noise_floor is not None:
        assert scaled.noise_floor == pytest.approx(plain.noise_floor, rel=1e-9, abs=1e-9)


@relaxed
@given(kinds, scores)
def test_vde_is_the_weighted_sum_of_the_relative_changes(kind: Weights, m: np.ndarray):
    result = Drift(kind)(m)
    assert result.vde == pytest.approx(sum(w * r for w, r in zip(weights(kind, len(m)), result.relative, strict=True)))
    if "weights are zero" not in result.flags:
        assert min(result.relative) - 1e-9 <= result.per_weight <= max(result.relative) + 1e-9


@relaxed
@given(scores)
def test_uniform_weights_are_mape_and_wmape_against_the_first_segment(m: np.ndarray):
    """Eqs. 14 and 15 with m_1 as the actual value of every later segment."""
    actual, changes = np.full(len(m) - 1, m[0]), np.abs(m[1:] - m[0])
    share = Drift("uniform")(m).per_weight
    assert 100 * share == pytest.approx(100 * np.mean(changes / actual))
    assert share == pytest.approx(changes.sum() / actual.sum())


@pytest.mark.parametrize("kind", KINDS)
def test_a_reference_of_zero_is_infinite_drift_unless_nothing_changes(kind: Weights):
    last = Drift(kind)(np.array([0.0, 0.0, 0.0, 1.0]))  # the logarithm gives the only change weight 0
    assert (last.vde, last.per_weight, last.relative) == (math.inf, math.inf, (0.0, 0.0, math.inf))
    still = Drift(kind)(np.zeros(4))
    assert (still.vde, still.per_weight, still.relative) == (0.0, 0.0, (0.0, 0.0, 0.0))
    assert last.flags == still.flags == ("reference is zero",)
    assert last.noise_floor is None


def test_a_tiny_reference_overflows_to_infinity_in_silence():
    result = Drift()(np.array([5e-324, 1.0, 2.0, 1.0]))
    assert (result.vde, result.flags) == (math.inf, ())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("index", [0, 4, 9])
def test_a_score_that_is_no_number_is_never_dropped(bad: float, index: int):
    plain, robust = Drift("log")(ones_but({index: bad})), RobustDrift()(ones_but({index: bad}))
    assert math.isnan(plain.vde) and math.isnan(plain.per_weight) and len(plain.relative) == 9
    assert math.isnan(robust.total) and math.isnan(robust.slope.value) and len(robust.drift) == 10
    assert robust.worst is None and robust.time_to_failure is not None and math.isnan(robust.time_to_failure)
    assert plain.flags == robust.flags == ("score is not finite",)


@pytest.mark.parametrize("m", [np.array([]), np.array([0.3])])
def test_too_short_a_video_has_no_drift_as_published_and_an_unknown_one_otherwise(m: np.ndarray):
    plain, robust = Drift()(m), RobustDrift()(m)
    assert (plain.vde, plain.relative, plain.flags) == (0.0, (), ("fewer than two segments",))
    assert math.isnan(robust.total) and robust.flags == ("fewer than two segments",)


def test_two_segments_under_the_logarithm_have_no_weight():
    result = Drift("log")(np.array([1.0, 0.5]))
    assert (result.vde, result.per_weight, result.relative) == (0.0, 0.0, (0.5,))
    assert result.flags == ("weights are zero",)


def test_scores_and_errors_of_another_shape_are_refused():
    with pytest.raises(InputError, match=r"shape \(2, 5\) .* one dimension"):
        Drift()(np.ones((2, 5)))
    with pytest.raises(InputError, match="9 standard errors do not match 10 scores"):
        Drift()(np.ones(10), np.ones(9))
    with pytest.raises(InputError, match="negative or not finite"):
        RobustDrift()(np.ones(10), np.full(10, -1.0))


# Robust


@relaxed
@given(st.floats(-0.9, 5), st.integers(3, 40), st.sampled_from(["uniform", "increasing"]), st.integers(1, 3))
def test_total_does_not_depend_on_the_number_of_segments(offset: float, count: int, kind, r: int):
    m = np.full(count, 7.0)
    m[min(r, count - 1) :] *= 1 + offset
    result = RobustDrift(kind, reference=r)(m)
    assert result.total == pytest.approx(abs(offset), abs=1e-9)
    assert result.drift[-1] == pytest.approx(offset, abs=1e-9)


@relaxed
@given(scores, st.floats(1e-2, 1e3))
def test_relative_results_do_not_depend_on_the_unit(m: np.ndarray, unit: float):
    plain, scaled = RobustDrift()(m), RobustDrift()(m * unit)
    assert scaled.total == pytest.approx(plain.total, rel=1e-6)
    assert scaled.drift == pytest.approx(plain.drift, rel=1e-6, abs=1e-9)
    assert scaled.slope.value == pytest.approx(plain.slope.value * unit, rel=1e-6, abs=1e-9)
    assert scaled.slope_relative.value == pytest.approx(plain.slope_relative.value, rel=1e-6, abs=1e-9)
    assert scaled.end_minus_start == pytest.approx(plain.end_minus_start * unit, rel=1e-6, abs=1e-9)


def test_one_bad_opening_segment_is_outvoted_from_three_on():
    m = ones_but({0: 0.5})
    assert Drift()(m).vde == 45
    assert RobustDrift(reference=3)(m).total == 0
    assert RobustDrift(reference=2)(m).total == pytest.approx(1 / 3)


def test_a_late_collapse_weighs_more_than_an_early_one_when_weights_increase():
    early, late = ones_but({2: 0.5}), ones_but({9: 0.5})
    assert Drift()(early).vde > Drift()(late).vde
    increasing = RobustDrift("increasing")
    assert increasing(early).total == pytest.approx(0.5 / 36)
    assert increasing(late).total == pytest.approx(0.5 * 8 / 36)


def test_decay_and_improvement_have_opposite_signs():
    ramp = np.linspace(1, 0.5, 11)
    down, up = RobustDrift(reference=1)(ramp), RobustDrift(reference=1)(2 - ramp)
    assert down.drift == pytest.approx([-d for d in up.drift])
    assert (down.slope.value, up.slope.value) == pytest.approx((-0.05, 0.05))
    assert down.total == pytest.approx(up.total)
    assert RobustDrift(reference=1)(-ramp).drift == pytest.approx(up.drift)  # a negative metric that rises


def test_a_small_reference_is_flagged_and_divided_by_eps():
    result = RobustDrift(eps=0.01)(np.array([0.0, 0.0, 0.0, 0.005]))
    assert (result.scale, result.drift[-1]) == (0.01, 0.5)
    assert result.flags == ("reference is small",)


def test_start_and_end_are_shares_of_the_video():
    m = np.array([1.0, 2, 0, 0, 0, 0, 0, 0, 5, 9])
    start, end = (1 + 0.5 * 2) / 1.5, (9 + 0.5 * 5) / 1.5
    assert RobustDrift()(m).end_minus_start == pytest.approx(end - start)
    assert RobustDrift()(np.repeat(m, 4)).end_minus_start == pytest.approx(end - start)
    assert RobustDrift()(np.array([3.0, 1, 1, 4])).end_minus_start == pytest.approx(1)


def test_the_worst_segment_is_the_farthest_and_the_earliest_of_equals():
    assert vars(RobustDrift()(ones_but({4: 0.5, 7: 0.75})).worst) == {"segment": 4, "drift": -0.5}
    assert vars(RobustDrift()(ones_but({4: 0.5, 7: 1.5})).worst) == {"segment": 4, "drift": -0.5}


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({}, None),
        ({4: 0.5}, None),
        ({9: 0.5}, 0.9),
        ({4: 0.5, 9: 0.5}, 0.9),
        ({6: 0.5, 7: 1.5, 8: 0.5, 9: 0.5}, 0.6),
        (dict.fromkeys(range(2, 10), 0.89), 0.2),
        (dict.fromkeys(range(2, 10), 0.91), None),
    ],
)
def test_failure_begins_where_drift_stays_beyond_the_threshold(changes: dict[int, float], failure: float | None):
    assert RobustDrift(threshold=0.1)(ones_but(changes)).time_to_failure == failure


def test_options_out_of_range_are_refused():
    for wrong, message in (
        ({"reference": 0}, "reference of 0"),
        ({"eps": 0.0}, "eps 0.0"),
        ({"threshold": math.nan}, "threshold nan"),
        ({"ends": 0.6}, "ends 0.6"),
        ({"confidence": 1.0}, "confidence 1.0"),
        ({"weights": "linear"}, "weights 'linear' are unknown"),
    ):
        with pytest.raises(InputError, match=message):
            RobustDrift(**wrong)


# Slope


@relaxed
@given(st.floats(-10, 10), st.floats(-10, 10), st.integers(5, 30))
def test_a_straight_line_has_its_slope_without_doubt(slope: float, start: float, count: int):
    found = theil_sen(start + slope * np.arange(count))
    assert [found.value, found.low, found.high] == pytest.approx([slope] * 3, abs=1e-9)


def test_the_slope_survives_a_quarter_of_outliers():
    m = 1 - 0.01 * np.arange(12)
    m[[2, 7, 9]] = [100, -50, 30]
    assert theil_sen(m).value == pytest.approx(-0.01, abs=0.02)
    assert abs(np.polyfit(np.arange(12), m, 1)[0]) > 1


def test_the_interval_is_exact_over_all_permutations():
    """Of equally distributed errors every order is equally likely: count those whose interval holds the true slope."""
    intervals = [theil_sen(np.array(order, dtype=float), 0.9) for order in itertools.permutations([0, 1, 3, 7, 15, 31])]
    covered = np.mean([one.low <= 0 <= one.high for one in intervals])
    assert 0.9 <= covered < 0.96
    assert covered == pytest.approx(1 - 2 * (1 + 5 + 14) / 720)  # Mahonian numbers of 6: 1, 5, 14, then 29


def test_few_segments_have_no_bounded_interval():
    assert theil_sen(np.array([1.0, 2, 4, 3])).low == -math.inf
    assert math.isfinite(theil_sen(np.array([1.0, 2, 4, 3, 5])).low)
    with pytest.raises(InputError, match="1 values have no slope"):
        theil_sen(np.array([1.0]))


def test_the_normal_law_takes_over_without_a_jump():
    noise = np.random.default_rng(0).standard_normal(NORMAL_FROM)
    exact, normal = theil_sen(noise[:-1]), theil_sen(noise)
    assert normal.high - normal.low == pytest.approx(exact.high - exact.low, rel=0.1)


# Noise floor


@pytest.mark.parametrize("cv", [0.005, 0.02])
@pytest.mark.parametrize("kind", KINDS)
def test_pure_noise_has_the_drift_that_the_floor_says(kind: Weights, cv: float):
    errors, m = np.full(10, cv), 1 + cv * np.random.default_rng(0).standard_normal((1500, 10))
    drift = Drift(kind)
    floor = drift(np.ones(10), errors).noise_floor
    assert np.mean([drift(one).vde for one in m]) == pytest.approx(floor, rel=0.06)
    assert np.mean([drift(one).noise_floor for one in m]) == pytest.approx(floor, rel=0.15)
    if kind == "linear":
        assert floor == pytest.approx(45 * 1.128 * cv, rel=1e-3)


@pytest.mark.parametrize("r", [1, 2, 3, 4])
def test_the_robust_floor_knows_its_reference(r: int):
    errors = 0.01 * np.array([3.0] * r + [1.0] * (12 - r))  # a noisier beginning
    m = 5 + 5 * errors * np.random.default_rng(r).standard_normal((1000, 12))
    drift = RobustDrift("increasing", reference=r)
    floor = drift(np.full(12, 5.0), 5 * errors).noise_floor
    assert np.mean([drift(one).total for one in m]) == pytest.approx(floor, rel=0.1)


def test_neither_a_trend_nor_a_collapse_counts_as_noise():
    noise = 0.01 * np.random.default_rng(0).standard_normal((300, 20))
    step = np.where(np.arange(20) < 12, 1.0, 0.2)
    for shape in (np.ones(20), np.linspace(1, 0.2, 20), step):
        assert np.mean([noise_level(shape + one) for one in noise]) == pytest.approx(0.01, rel=0.25)
    assert noise_level(np.ones(2)) is None
    assert RobustDrift()(np.array([1.0, 0.5])).noise_floor is None
