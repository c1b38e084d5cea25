"""Laws of the statistics over videos: intervals cover, tests keep their level, and no order or infinity leaks in."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockvid.errors import InputError
from blockvid.evaluation.statistics import (
    Bootstrap,
    PairedPermutation,
    cliffs_delta,
    compare,
    holm,
    mean,
    median,
    summary,
    trimmed_mean,
    win_rate,
)

relaxed = settings(deadline=None)  # a busy machine is no failure
QUICK = Bootstrap(resamples=300)
numbers = st.lists(st.floats(-100, 100), min_size=1, max_size=30).map(np.array)
probabilities = st.lists(st.floats(0, 1), max_size=12)


# One model


def test_averages_by_hand():
    values = np.array([9.0, 1, 2, 100, 4, 5, 6, 7, 8, 3])
    found = summary(values, QUICK)
    assert (found.mean.value, found.median.value, found.trimmed_mean.value) == (14.5, 5.5, 5.5)
    assert trimmed_mean(np.array([0.0, 1, 5, 9])) == 3.75  # floor(4 / 5) = 0 are cut
    assert (found.count, found.missing, found.infinite_share) == (10, 0, 0)


def test_infinite_and_missing_values_are_counted_and_never_averaged():
    finite = np.array([1.0, 2, 4, 3, 2])
    mixed = np.concatenate([[math.inf], finite, [math.nan, math.inf, -math.inf]])
    plain, found = summary(finite, QUICK), summary(mixed, QUICK)
    assert (found.mean, found.median, found.trimmed_mean) == (plain.mean, plain.median, plain.trimmed_mean)
    assert (found.count, found.missing, found.infinite_share) == (9, 1, 3 / 8)


def test_nothing_one_value_and_equal_values_are_defined():
    nothing = summary(np.array([math.nan, math.nan]))
    assert all(math.isnan(x) for x in (nothing.mean.value, nothing.mean.low, nothing.infinite_share))
    one = summary(np.array([3.0])).median
    assert (one.value, one.low, one.high) == (3.0, -math.inf, math.inf)
    same = summary(np.full(7, 0.1)).mean
    assert (same.value, same.low, same.high) == (0.1, 0.1, 0.1)


def test_the_interval_covers_the_mean_of_normal_data():
    samples = np.random.default_rng(0).standard_normal((300, 25))
    intervals = [Bootstrap(resamples=400, seed=seed)(sample) for seed, sample in enumerate(samples)]
    assert 0.89 <= np.mean([one.low <= 0 <= one.high for one in intervals]) <= 0.98
    width = np.mean([one.high - one.low for one in intervals])
    assert width == pytest.approx(2 * 1.96 / math.sqrt(25), rel=0.1)


def test_the_interval_leans_towards_the_long_tail():
    skewed = np.random.default_rng(0).exponential(size=40)
    found = Bootstrap()(skewed)
    plain = np.quantile(np.random.default_rng(0).choice(skewed, (2000, 40)).mean(axis=1), [0.025, 0.975])
    assert found.high - found.value > found.value - found.low
    assert found.low > plain[0] and found.high > plain[1]


def test_an_extreme_outlier_stays_inside_the_resamples():
    values = np.array([0.0] * 30 + [1e9])
    found = Bootstrap(confidence=0.999)(values)
    assert 0 <= found.low <= found.value <= found.high <= 1e9


@relaxed
@given(numbers, st.randoms(), st.sampled_from([mean, median, trimmed_mean]))
def test_order_does_not_matter(values: np.ndarray, random, statistic):
    shuffled = np.array(random.sample(list(values), len(values)))
    assert QUICK(values, statistic) == QUICK(shuffled, statistic)
    assert PairedPermutation(draws=50)(values) == PairedPermutation(draws=50)(shuffled)


@relaxed
@given(numbers, st.sampled_from([mean, median, trimmed_mean]))
def test_intervals_are_inside_the_values(values: np.ndarray, statistic):
    found = QUICK(values, statistic)
    assert found.low <= found.high
    if len(values) > 1:
        assert values.min() - 1e-9 <= found.low and found.high <= values.max() + 1e-9


def test_more_confidence_is_a_wider_interval_and_the_seed_decides():
    values = np.random.default_rng(0).standard_normal(50)
    wide, narrow = Bootstrap(confidence=0.99)(values), Bootstrap(confidence=0.5)(values)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert Bootstrap(seed=1)(values) == Bootstrap(seed=1)(values) != Bootstrap(seed=2)(values)


# Two models


@relaxed
@given(st.lists(st.integers(-9, 9), max_size=7))
def test_small_samples_are_enumerated(differences: list[int]):
    flips = [sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in signs_of(len(differences))]
    expected = np.mean([abs(flip) >= abs(sum(differences)) for flip in flips])
    assert PairedPermutation()(np.array(differences, dtype=float)) == pytest.approx(expected)


def signs_of(count: int) -> list[tuple[int, ...]]:
    return list(itertools.product((-1, 1), repeat=count))


def test_p_of_five_equal_signs_by_hand():
    assert PairedPermutation()(np.array([1.0, 2, 3, 4, 5])) == 2 / 32
    assert PairedPermutation()(np.array([0.1, 0.2, 0.3, 0.0, 0.0])) == 2 / 8  # zeros say nothing; 0.1 + 0.2 rounds
    assert PairedPermutation()(np.zeros(5)) == PairedPermutation()(np.array([])) == 1


@relaxed
@given(numbers)
def test_p_does_not_know_which_model_is_which(differences: np.ndarray):
    test = PairedPermutation(draws=2000)
    p, reversed_p = test(differences), test(-differences)
    assert 0 < p <= 1
    assert reversed_p == pytest.approx(p, abs=0 if np.count_nonzero(differences) <= 12 else 0.06)


@pytest.mark.parametrize("count", [8, 20])
def test_p_is_uniform_when_nothing_differs(count: int):
    noise = np.random.default_rng(0).standard_normal((400, count))
    p = np.array([PairedPermutation(draws=199, seed=seed)(one) for seed, one in enumerate(noise)])
    for level in (0.05, 0.25, 0.5, 0.75):
        assert (p <= level).mean() == pytest.approx(level, abs=0.07)


def test_random_draws_agree_with_enumeration_and_are_never_zero():
    differences = np.random.default_rng(0).standard_normal(12) + 0.4
    exact, drawn = PairedPermutation()(differences), PairedPermutation(exact=0)(differences)
    assert drawn == pytest.approx(exact, abs=0.015)
    assert PairedPermutation(draws=99)(np.ones(200)) == 0.01


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.5, 0.9]) == (1.0, 1.0)
    assert holm([]) == ()
    with pytest.raises(InputError, match="p-value nan is not between 0 and 1"):
        holm([0.1, math.nan])


@relaxed
@given(probabilities)
def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni(p: list[float]):
    corrected = holm(p)
    assert all(before <= after <= min(1, len(p) * before) for before, after in zip(p, corrected, strict=True))
    for (p1, q1), (p2, q2) in itertools.product(zip(p, corrected, strict=True), repeat=2):
        assert q1 <= q2 or p1 > p2


@relaxed
@given(numbers, numbers)
def test_cliffs_delta_counts_all_pairs(a: np.ndarray, b: np.ndarray):
    expected = np.sign(a[:, None] - b).mean()
    assert cliffs_delta(a, b) == pytest.approx(expected)
    assert cliffs_delta(b, a) == -cliffs_delta(a, b)


def test_cliffs_delta_of_separated_samples_is_one():
    low, high = np.array([1.0, 2, 3]), np.array([4.0, math.inf])
    assert (cliffs_delta(high, low), cliffs_delta(low, high), cliffs_delta(low, low)) == (1, -1, 0)
    assert math.isnan(cliffs_delta(low, np.array([])))
    with pytest.raises(InputError, match="nan cannot be ordered"):
        cliffs_delta(low, np.array([math.nan]))


@relaxed
@given(numbers, st.randoms())
def test_wins_of_both_models_add_up(a: np.ndarray, random):
    b = np.array(random.sample(list(a), len(a)))
    assert win_rate(a, b, "lower") + win_rate(b, a, "lower") == pytest.approx(1)
    assert win_rate(a, b, "lower") == pytest.approx(win_rate(b, a, "higher"))
    assert win_rate(a, a, "lower") == 0.5


def test_models_are_compared_on_common_keys():
    a = {"fox": 1.0, "owl": 2.0, "cat": math.inf, "elk": 4.0, "ant": math.nan, "bee": 7.0}
    b = {"owl": 3.0, "fox": 2.0, "cat": 9.0, "elk": 4.0, "ant": 1.0, "dog": 1.0}
    found = compare(a, b, "lower", QUICK)
    assert (found.pairs, found.only_a, found.only_b, found.finite_pairs) == (4, 1, 2, 3)
    assert (found.infinite_share_a, found.infinite_share_b) == (0.25, 0)
    assert found.difference.value == pytest.approx(-2 / 3)
    assert found.median_difference.value == -1
    assert found.win_rate == 2.5 / 4  # two wins, a tie, and a loss by infinity
    assert found.p == 0.5
    assert found.cliffs_delta == cliffs_delta(np.array([1, 2, math.inf, 4]), np.array([2, 3, 9.0, 4]))
    assert compare(dict(reversed(a.items())), b, "lower", QUICK) == found


def test_a_comparison_turned_round_is_its_mirror():
    rng = np.random.default_rng(0)
    a, b = ({str(key): value for key, value in enumerate(rng.normal(mean, size=30))} for mean in (0.0, 0.8))
    one, other = compare(a, b, "lower", QUICK), compare(b, a, "lower", QUICK)
    assert one.difference.value == pytest.approx(-other.difference.value)
    assert one.difference.low == pytest.approx(-other.difference.high, abs=0.15)
    assert (one.cliffs_delta, one.win_rate) == (-other.cliffs_delta, 1 - other.win_rate)
    assert one.win_rate > 0.5 and one.p < 0.05 and one.difference.high < 0


def test_pairs_that_are_all_infinite_have_no_difference_but_an_order():
    found = compare({"x": math.inf, "y": math.inf}, {"x": 1.0, "y": math.inf}, "lower", QUICK)
    assert math.isnan(found.difference.value) and found.p == 1
    assert (found.finite_pairs, found.infinite_share_a, found.win_rate) == (0, 1, 0.25)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="share no key"):
        compare({"x": 1.0}, {"x": math.nan, "y": 1.0}, "lower")
    with pytest.raises(InputError, match="direction 'up'"):
        win_rate(np.ones(1), np.ones(1), "up")  # type: ignore[arg-type]
    for wrong in ({"resamples": 0}, {"confidence": 0.0}):
        with pytest.raises(InputError, match="use"):
            Bootstrap(**wrong)
    for wrong in ({"draws": 0}, {"exact": 40}):
        with pytest.raises(InputError, match="use"):
            PairedPermutation(**wrong)
