"""What a metric says over many videos, and whether one model beats another on the same prompts.

Scores have heavy tails and may be infinite (a VDE whose first segment scored 0): infinite values are counted and never
averaged in, missing ones (nan) likewise. All results are pure functions of the values, their order left aside: random
draws start from the seed of the test's or the interval's configuration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from jaxtyping import Float

from blockvid.errors import InputError

Values = Float[np.ndarray, " n"]
Statistic = Callable[[np.ndarray], np.ndarray]
"""From (..., n) to (...)."""
Direction = Literal["lower", "higher"]
"""Which values of a metric are better."""

NORMAL = NormalDist()
TRIMMED = 0.2
"""Share that the trimmed mean leaves out at each end."""
ROUNDING = 1e-9
"""Sums of the same differences in another order count as equal within this share of their size."""


def mean(values: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    return np.mean(values, axis=-1)


def median(values: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    return np.median(values, axis=-1)


def trimmed_mean(values: np.ndarray) -> np.ndarray:
    """Over the last axis: the mean without the floor(n / 5) smallest and as many largest values."""
    cut = int(TRIMMED * values.shape[-1])
    return np.mean(np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut], axis=-1)


@dataclass(frozen=True)
class Estimate:
    """A number and its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """Bias-corrected and accelerated (BCa) bootstrap intervals (Efron 1987).

    No values give nan throughout, one value an interval of (-inf, inf), values that are all equal an interval of width
    0. Coverage falls short of `confidence` for few values: about 0.9 for 0.95 at 10.
    Raises InputError unless resamples >= 1 and 0 < confidence < 1.
    """

    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise InputError(f"{self.resamples} resamples give no interval; use 1000 or more")
        if not 0 < self.confidence < 1:
            raise InputError(f"confidence {self.confidence} is not between 0 and 1; use 0.95")

    def __call__(self, values: Values, statistic: Statistic = mean) -> Estimate:
        """`statistic` of the values, which must be finite, with its interval."""
        values = np.sort(values)  # the same draws must meet the same values, whatever their order was
        n = len(values)
        if n == 0:
            return Estimate(math.nan, math.nan, math.nan)
        if values[0] == values[-1]:
            same = float(values[0])
            return Estimate(same, same, same) if n > 1 else Estimate(same, -math.inf, math.inf)
        value = float(statistic(values))
        draws = np.random.default_rng(self.seed).integers(n, size=(self.resamples, n))
        resampled = statistic(values[draws])
        below = (resampled < value).sum() + (resampled == value).sum() / 2
        bias = NORMAL.inv_cdf(float(np.clip(below, 0.5, self.resamples - 0.5)) / self.resamples)
        acceleration = _acceleration(values, statistic)
        tail = (1 - self.confidence) / 2
        levels = [_level(bias, acceleration, NORMAL.inv_cdf(level)) for level in (tail, 1 - tail)]
        low, high = np.quantile(resampled, levels)
        return Estimate(value, float(low), float(high))


def _acceleration(values: Values, statistic: Statistic) -> float:
    """One sixth of the skewness of the jackknife; 0 if leaving out a value changes nothing."""
    n = len(values)
    others = np.arange(n - 1) + (np.arange(n - 1) >= np.arange(n)[:, None])  # row i: all indices but i
    left_out = statistic(values[others])
    influence = left_out.mean() - left_out
    spread = float((influence**2).sum())
    return float((influence**3).sum()) / (6 * spread**1.5) if spread**1.5 > 0 else 0.0


def _level(bias: float, acceleration: float, z: float) -> float:
    """Which quantile of the resamples stands for the normal quantile z."""
    shifted = bias + z
    slowed = 1 - acceleration * shifted
    if slowed <= 0:  # beyond the pole of the correction: the outermost resample
        return float(shifted > 0)
    return NORMAL.cdf(bias + shifted / slowed)


@dataclass(frozen=True)
class Summary:
    """One metric over many videos; averages and intervals are of the finite values alone."""

    count: int
    """Values that were given, all kinds."""
    missing: int
    """Of them nan."""
    infinite_share: float
    """Infinite values per value that is not missing; nan if all are."""
    mean: Estimate
    median: Estimate
    trimmed_mean: Estimate


def summary(values: Values, bootstrap: Bootstrap | None = None) -> Summary:
    """Mean, median and 20 % trimmed mean with BCa intervals; 2000 resamples at 95 % unless told otherwise."""
    values = np.asarray(values, dtype=np.float64)
    interval = bootstrap or Bootstrap()
    finite = values[np.isfinite(values)]
    missing = int(np.isnan(values).sum())
    return Summary(
        count=len(values),
        missing=missing,
        infinite_share=_infinite_share(values),
        mean=interval(finite, mean),
        median=interval(finite, median),
        trimmed_mean=interval(finite, trimmed_mean),
    )


@dataclass(frozen=True)
class PairedPermutation:
    """The p-value of a mean difference if each pair could as well have been the other way round; two-sided.

    All sign flips are enumerated up to `exact` differences that are not 0 (those are the same under any flip), beyond
    that `draws` random ones are taken and p = (1 + hits) / (1 + draws), which is never 0 and keeps its level.
    Raises InputError unless draws >= 1 and 0 <= exact <= 16.
    """

    draws: int = 9999
    exact: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise InputError(f"{self.draws} draws give no p-value; use 1000 or more")
        if not 0 <= self.exact <= 16:
            raise InputError(f"2^{self.exact} sign flips cannot be enumerated; use exact of 0 to 16, such as 12")

    def __call__(self, differences: Values) -> float:
        """p of finite paired differences, in (0, 1]; 1 if none differs."""
        moved = np.sort(differences[differences != 0])  # the same draws must meet the same differences
        n = len(moved)
        if n <= self.exact:
            signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        else:
            signs = 1 - 2 * np.random.default_rng(self.seed).integers(2, size=(self.draws, n), dtype=np.int8)
        sizes = np.abs(moved)
        reached = np.abs(signs @ moved) >= abs(moved.sum()) - ROUNDING * sizes.sum()
        hits = int(reached.sum())
        return hits / len(signs) if n <= self.exact else (1 + hits) / (1 + len(signs))


def holm(p: Sequence[float]) -> tuple[float, ...]:
    """p-values corrected for being several (Holm 1979), in the order given.

    The k-th smallest of m is multiplied by m - k + 1, is never less than a smaller one's, and at most 1; rejecting
    those below alpha keeps the chance of any false rejection below alpha, whatever their dependence.
    Raises InputError for a value outside [0, 1].
    """
    for value in p:
        if not 0 <= value <= 1:
            raise InputError(f"p-value {value} is not between 0 and 1; leave out metrics that were not compared")
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    corrected = np.minimum(np.maximum.accumulate(factors * np.asarray(p, dtype=np.float64)[order]), 1)
    result = np.empty(len(p))
    result[order] = corrected
    return tuple(map(float, result))


def cliffs_delta(a: Values, b: Values) -> float:
    """P(a > b) - P(a < b) over all pairs of a value of each, in [-1, 1]; infinite values are ordered as any.

    nan if either is empty. Raises InputError for nan.
    """
    if np.isnan(a).any() or np.isnan(b).any():
        raise InputError("nan cannot be ordered; leave missing values out")
    if not (len(a) and len(b)):
        return math.nan
    ordered = np.sort(b)
    smaller = np.searchsorted(ordered, a, side="left").sum()
    larger = (len(b) - np.searchsorted(ordered, a, side="right")).sum()
    return float(smaller - larger) / (len(a) * len(b))


def win_rate(a: Values, b: Values, better: Direction) -> float:
    """Share of pairs (a_i, b_i) in which a is better, ties counted as half; nan without pairs."""
    if better not in ("lower", "higher"):
        raise InputError(f"direction {better!r} is unknown; use lower, higher")
    if not len(a):
        return math.nan
    wins = a < b if better == "lower" else a > b
    return float((wins + (a == b) / 2).mean())


@dataclass(frozen=True)
class Comparison:
    """Two models, a and b, on the same prompts in one metric."""

    pairs: int
    """Prompts on which both have a value that is not missing."""
    only_a: int
    """Prompts without such a value of b."""
    only_b: int
    infinite_share_a: float
    """Among the pairs."""
    infinite_share_b: float
    finite_pairs: int
    """Pairs that differences and p are taken over: both values finite."""
    difference: Estimate
    """Mean of a - b."""
    median_difference: Estimate
    p: float
    """Of the paired permutation test, before any correction (`holm`) for several metrics."""
    cliffs_delta: float
    """Positive where values of a tend to be larger; infinite values included."""
    win_rate: float
    """Share of the pairs in which a is better, ties half; infinite values included."""


def compare(
    a: Mapping[str, float],
    b: Mapping[str, float],
    better: Direction,
    bootstrap: Bootstrap | None = None,
    test: PairedPermutation | None = None,
) -> Comparison:
    """Compare a with b over the keys (prompts, videos) that both have.

    Raises InputError if no key has a value, other than nan, in both.
    """
    known_a, known_b = ({key for key, value in of.items() if not math.isnan(value)} for of in (a, b))
    keys = sorted(known_a & known_b)
    if not keys:
        raise InputError(f"{len(a)} and {len(b)} values share no key with a value in both; compare the same prompts")
    x, y = (np.array([of[key] for key in keys], dtype=np.float64) for of in (a, b))
    finite = np.isfinite(x) & np.isfinite(y)
    differences = x[finite] - y[finite]
    interval = bootstrap or Bootstrap()
    return Comparison(
        pairs=len(keys),
        only_a=len(known_a - known_b),
        only_b=len(known_b - known_a),
        infinite_share_a=_infinite_share(x),
        infinite_share_b=_infinite_share(y),
        finite_pairs=int(finite.sum()),
        difference=interval(differences, mean),
        median_difference=interval(differences, median),
        p=(test or PairedPermutation())(differences),
        cliffs_delta=cliffs_delta(x, y),
        win_rate=win_rate(x, y, better),
    )


def _infinite_share(values: Values) -> float:
    known = values[~np.isnan(values)]
    return float(np.isinf(known).mean()) if len(known) else math.nan
