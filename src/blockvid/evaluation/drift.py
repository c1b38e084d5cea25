"""Video Drift Error: how far the segments of a video move away from its beginning (Eqs. 14-19).

Everything here is a function of the segment scores m_1 .. m_N of one metric, a float array; nothing is seen of pixels.
Segments are counted from 0 in results, from 1 in formulas.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from blockvid.errors import InputError

Weights = Literal["linear", "log", "uniform"]
Remainder = Literal["trim", "spread"]
Flag = Literal[
    "score is not finite",
    "fewer than two segments",
    "reference is zero",
    "reference is negative",
    "reference is small",
    "weights are zero",
]

MEAN_ABSOLUTE = math.sqrt(2 / math.pi)
"""E|z| of a standard normal z."""
NORMAL_QUARTILE = 0.6744897501960817
"""The median of |z|."""
SECOND_DIFFERENCE = math.sqrt(6)
"""Standard deviation of z_1 - 2 z_2 + z_3."""
NORMAL_FROM = 50
"""Segments from which the number of inversions counts as normal; the exact law takes time growing with their cube."""


def weights(kind: Weights, segments: int) -> Float[np.ndarray, " later"]:
    """w_i of segments 2..N (Eq. 19): N - i + 1, its natural logarithm, or 1; float64, empty for fewer than 2 segments.

    Both of the paper's weights favour early segments, and the logarithm gives the last one weight 0.
    Raises InputError for another kind or fewer than 0 segments.
    """
    if kind not in get_args(Weights):
        raise InputError(f"weights {kind!r} are unknown; use {', '.join(get_args(Weights))}")
    if segments < 0:
        raise InputError(f"{segments} segments cannot be weighted; use 0 or more")
    remaining = np.arange(segments - 1, 0, -1, dtype=np.float64)
    return {"linear": remaining, "log": np.log(remaining), "uniform": np.ones_like(remaining)}[kind]


def segments(frames: int, count: int, remainder: Remainder) -> tuple[range, ...]:
    """The frames of each of `count` segments of a video.

    "trim" gives each floor(frames / count) and drops the tail, as the authors' code does; "spread" drops nothing, and
    lengths differ by at most 1. Raises InputError unless 1 <= count <= frames.
    """
    if remainder not in get_args(Remainder):
        raise InputError(f"remainder {remainder!r} is unknown; use {', '.join(get_args(Remainder))}")
    if count < 1:
        raise InputError(f"{count} segments do not cut a video; use 1 or more (10 as published)")
    if frames < count:
        raise InputError(
            f"{frames} frames do not fill {count} segments of at least 1 frame; use a longer video or fewer segments"
        )
    end = frames - frames % count if remainder == "trim" else frames
    edges = [index * end // count for index in range(count + 1)]
    return tuple(range(a, b) for a, b in itertools.pairwise(edges))


def segments_by_time(seconds: Float[np.ndarray, " frames"], count: int) -> tuple[range, ...]:
    """The frames of each of `count` segments of equal duration; `seconds` are the frames' times, increasing from 0.

    A segment holds the frames that begin in it, or, where none does, the one that is on the screen; the last frame
    lasts as long as the median one. At a constant rate this is "spread" up to where a remainder falls. Times within a
    tenth of a frame of a border count as on it: containers round them.
    Raises InputError unless 1 <= count <= frames.
    """
    segments(len(seconds), count, "spread")  # refuses what cannot be cut
    usual = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 1.0
    borders = (float(seconds[-1]) + usual) * np.arange(count + 1) / count
    edges = np.searchsorted(seconds, borders - usual / 10)
    return tuple(range(min(a, b - 1), b) for a, b in itertools.pairwise(map(int, edges)))


# As published


@dataclass(frozen=True)
class DriftResult:
    """VDE of one video and one metric."""

    vde: float
    """Sum of w_i |Delta_i|, at least 0 (inf, nan: see `Drift`); it grows with N, so compare it at equal N only."""
    per_weight: float
    """VDE over the sum of the weights: the weighted mean relative change."""
    relative: tuple[float, ...]
    """|Delta_i| of segments 2..N."""
    noise_floor: float | None
    """The VDE to expect of a video whose score is constant but measured with noise; None where it cannot be told."""
    flags: tuple[Flag, ...]
    """Why the numbers should be read with care; empty for an ordinary video."""


@dataclass(frozen=True)
class Drift:
    """VDE = sum over i = 2..N of w_i |m_i - m_1| / |m_1| (Eqs. 17-19), as the paper and its authors' code have it.

    The printed denominator is m_1; its absolute value keeps errors from cancelling where m_1 is negative (flagged).
    m_1 = 0 gives inf, whatever the weights, unless all scores are 0: then nothing changed and VDE is 0 (both flagged).
    Fewer than two segments give 0, as in the authors' code, and so do two under the logarithm (both flagged). A score
    that is nan or inf gives nan (flagged).
    """

    weights: Weights = "linear"

    def __call__(self, scores: Float[np.ndarray, " n"], errors: Float[np.ndarray, " n"] | None = None) -> DriftResult:
        """VDE of m_1..m_N; `errors` are standard errors of the scores, for the noise floor.

        Without errors the floor assumes one noise level, estimated by `noise_level`. Raises InputError unless scores
        (and errors, finite and not negative) are arrays of one dimension and the same length.
        """
        m, s = _scores(scores), _errors(errors, scores)
        if not np.isfinite(m).all():
            unknown = tuple(map(float, np.full(max(len(m) - 1, 0), math.nan)))
            return DriftResult(math.nan, math.nan, unknown, None, ("score is not finite",))
        if len(m) < 2:
            return DriftResult(0.0, 0.0, (), None, ("fewer than two segments",))
        w, first = weights(self.weights, len(m)), abs(float(m[0]))
        relative = _over(np.abs(m[1:] - m[0]), first)
        vde = float(w @ relative) if np.isfinite(relative).all() else math.inf  # a weight of 0 times inf is no number
        floor = None if s is None or not first else noise_floor(w, s[1:], float(s[0])) / first
        flags: tuple[Flag, ...] = ()
        if m[0] <= 0:
            flags = ("reference is zero",) if m[0] == 0 else ("reference is negative",)
        total = float(w.sum())
        if not total:
            flags = (*flags, "weights are zero")
        per_weight = vde / total if total else vde
        return DriftResult(vde, per_weight, tuple(map(float, relative)), floor, flags)


# Robust


@dataclass(frozen=True)
class Worst:
    """The segment that is farthest from the reference."""

    segment: int
    drift: float


@dataclass(frozen=True)
class Slope:
    """A Theil-Sen trend, in score units per segment."""

    value: float
    low: float
    high: float
    """Ends of its confidence interval; infinite where there are too few segments for one."""


@dataclass(frozen=True)
class RobustResult:
    """Drift of one video and one metric; everything is nan or None, with a flag, where it could not be measured."""

    total: float
    """Weighted mean of |drift| over the segments after the reference: comparable between different N."""
    drift: tuple[float, ...]
    """(m_i - reference) / scale of every segment; positive where the score rose."""
    reference: float
    scale: float
    """What score units are divided by to be relative: max(|reference|, eps)."""
    slope: Slope
    slope_relative: Slope
    """The slope over the scale."""
    end_minus_start: float
    """Mean score of the last share of the video minus that of the first, in score units."""
    worst: Worst | None
    time_to_failure: float | None
    """Where in the video, in [0, 1), |drift| exceeds the threshold for good; None: never, nan: unknown."""
    noise_floor: float | None
    """The total to expect of a video whose score is constant but measured with noise; None where it cannot be told."""
    flags: tuple[Flag, ...]


@dataclass(frozen=True)
class RobustDrift:
    """Drift that an odd opening, the number of segments or a sign does not dominate; not in the paper.

    The reference is the median of the first `reference` segments (of N - 1, if there are not more): 1 trusts the first
    segment, 2 averages two, from 3 on one bad opening segment is outvoted. Weights over the segments after it sum to 1;
    "increasing" is proportional to 1, 2, 3, ..., the opposite of the paper's. `ends` is the share of the video that
    counts as start and as end (FramePack's start-end contrast: 15 %); segments that straddle it count in proportion.
    Raises InputError unless reference >= 1, eps > 0, threshold >= 0, 0 < ends <= 0.5, 0 < confidence < 1.
    """

    weights: Literal["uniform", "increasing"] = "uniform"
    reference: int = 2
    eps: float = 1e-6
    threshold: float = 0.1
    ends: float = 0.15
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.weights not in ("uniform", "increasing"):
            raise InputError(f"weights {self.weights!r} are unknown; use uniform, increasing")
        if self.reference < 1:
            raise InputError(f"a reference of {self.reference} segments has no median; use 1 or more")
        if not (math.isfinite(self.eps) and self.eps > 0):
            raise InputError(f"eps {self.eps} is not a finite number above 0; use 1e-6")
        if not self.threshold >= 0:
            raise InputError(f"threshold {self.threshold} is not a relative drift of at least 0; use 0.1")
        if not 0 < self.ends <= 0.5:
            raise InputError(f"ends {self.ends} is not a share in (0, 0.5]; use 0.15")
        if not 0 < self.confidence < 1:
            raise InputError(f"confidence {self.confidence} is not between 0 and 1; use 0.95")

    def __call__(self, scores: Float[np.ndarray, " n"], errors: Float[np.ndarray, " n"] | None = None) -> RobustResult:
        """Drift of m_1..m_N, arguments as for `Drift`; a score that is nan or inf, or N < 2, leaves it unmeasured."""
        m, s = _scores(scores), _errors(errors, scores)
        if not np.isfinite(m).all():
            return _unmeasured(len(m), "score is not finite")
        if len(m) < 2:
            return _unmeasured(len(m), "fewer than two segments")
        r = min(self.reference, len(m) - 1)
        reference = float(np.median(m[:r]))
        scale = max(abs(reference), self.eps)
        drift = (m - reference) / scale
        w = np.ones(len(m) - r) if self.weights == "uniform" else np.arange(1.0, len(m) - r + 1)
        w /= w.sum()
        slope = theil_sen(m, self.confidence)
        worst = int(np.abs(drift).argmax())
        return RobustResult(
            total=float(w @ np.abs(drift[r:])),
            drift=tuple(map(float, drift)),
            reference=reference,
            scale=scale,
            slope=slope,
            slope_relative=Slope(slope.value / scale, slope.low / scale, slope.high / scale),
            end_minus_start=_end_minus_start(m, self.ends),
            worst=Worst(worst, float(drift[worst])),
            time_to_failure=_time_to_failure(drift, self.threshold),
            noise_floor=None if s is None else noise_floor(w, s[r:], _median_error(s[:r])) / scale,
            flags=("reference is small",) if abs(reference) < self.eps else (),
        )


def theil_sen(values: Float[np.ndarray, " n"], confidence: float = 0.95) -> Slope:
    """The median of all (m_j - m_i) / (j - i), i < j, and its confidence interval (Sen 1968); n >= 2.

    Of independent, equally distributed errors, the number of pairwise slopes below the true one is distributed as the
    inversions of a random permutation. The interval is therefore between the k-th smallest and the k-th largest slope
    for the largest k with 2 P(inversions < k) <= 1 - confidence. At 95 % that takes 5 segments; fewer give (-inf, inf).
    Ties make it wider than it need be. From 50 values on, the number counts as normal.
    Raises InputError for fewer than 2 values.
    """
    if len(values) < 2:
        raise InputError(f"{len(values)} values have no slope; use 2 or more")
    i, j = np.triu_indices(len(values), k=1)
    slopes = np.sort((values[j] - values[i]) / (j - i))
    k = _inversions_below(len(values), (1 - confidence) / 2)
    middle = float(np.median(slopes))
    return Slope(middle, float(slopes[k - 1]), float(slopes[-k])) if k else Slope(middle, -math.inf, math.inf)


def noise_level(scores: Float[np.ndarray, " n"]) -> float | None:
    """Standard deviation of independent normal noise on a slow trend: median |m_(i-1) - 2 m_i + m_(i+1)| / (0.674 √6).

    Second differences cancel a linear trend and have 6 times the variance of the noise; their median ignores a few
    jumps, which are drift and not noise. On average 8 % too high at 10 segments. None for fewer than three scores.
    """
    if len(scores) < 3:
        return None
    return float(np.median(np.abs(np.diff(scores, 2)))) / (NORMAL_QUARTILE * SECOND_DIFFERENCE)


def noise_floor(w: Float[np.ndarray, " m"], errors: Float[np.ndarray, " m"], reference: float) -> float:
    """E sum w_i |m_i - m_ref| = √(2/π) sum w_i √(s_i² + s_ref²), for constant scores with independent normal errors.

    `errors` are the standard errors s_i and `reference` is s_ref. Over |m_ref| it is the drift of pure noise, the noise
    of that denominator neglected: 45 · 1.128 cv for 10 segments, linear weights and a coefficient of variation cv.
    """
    return float(MEAN_ABSOLUTE * (w @ np.hypot(errors, reference)))


def _inversions_below(n: int, share: float) -> int:
    """The largest k with P(a random permutation of n has fewer than k inversions) <= share.

    The i-th element of a permutation adds 0 to i - 1 inversions, each equally likely.
    """
    if n >= NORMAL_FROM:
        spread = math.sqrt(n * (n - 1) * (2 * n + 5) / 72)
        return max(math.floor(NormalDist(n * (n - 1) / 4, spread).inv_cdf(share)), 0)
    law = np.ones(1)
    for size in range(2, n + 1):
        law = np.convolve(law, np.full(size, 1 / size))
    return int(np.searchsorted(np.cumsum(law), share, side="right"))


def _end_minus_start(m: Float[np.ndarray, " n"], ends: float) -> float:
    inside = np.clip(ends * len(m) - np.arange(len(m)), 0, 1)
    return float((inside[::-1] @ m - inside @ m) / inside.sum())


def _time_to_failure(drift: Float[np.ndarray, " n"], threshold: float) -> float | None:
    (sound,) = np.nonzero(np.abs(drift) <= threshold)
    failed = int(sound[-1]) + 1 if len(sound) else 0
    return failed / len(drift) if failed < len(drift) else None


def _median_error(errors: Float[np.ndarray, " r"]) -> float:
    """Standard error of the median of r scores: exact for one and two, within 8 % for more equally noisy ones."""
    r, variance = len(errors), float(np.mean(errors**2))
    return math.sqrt(variance / r if r < 3 else variance * (math.pi / 2) / (r + math.pi / 2 - 1))


def _over(changes: Float[np.ndarray, " m"], first: float) -> Float[np.ndarray, " m"]:
    """changes / first, where 0 / 0 is no change and anything else over 0 (or nearly 0) is inf."""
    with np.errstate(divide="ignore", over="ignore"):
        return np.divide(changes, first, out=np.zeros_like(changes), where=changes > 0)


def _scores(scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    m = np.asarray(scores, dtype=np.float64)
    if m.ndim != 1:
        raise InputError(f"scores of shape {m.shape} are not one number per segment; give an array of one dimension")
    return m


def _errors(errors: Float[np.ndarray, " n"] | None, scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"] | None:
    """The given standard errors, or equal ones estimated from the scores; None where neither is possible."""
    m = _scores(scores)
    if errors is None:
        level = noise_level(m) if np.isfinite(m).all() else None
        return None if level is None else np.full(len(m), level)
    s = np.asarray(errors, dtype=np.float64)
    if s.shape != m.shape:
        raise InputError(f"{s.size} standard errors do not match {m.size} scores; give one per score")
    if not (np.isfinite(s).all() and (s >= 0).all()):
        raise InputError("standard errors hold a value that is negative or not finite; give numbers of at least 0")
    return s


def _unmeasured(count: int, why: Flag) -> RobustResult:
    unknown = Slope(math.nan, math.nan, math.nan)
    drift = (math.nan,) * count
    return RobustResult(
        math.nan, drift, math.nan, math.nan, unknown, unknown, math.nan, None, math.nan, None, flags=(why,)
    )
