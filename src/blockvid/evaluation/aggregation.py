"""One number for many videos as VBench makes it: its averages, its normalisation, its quality score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np

from blockvid.errors import InputError
from blockvid.evaluation.results import Results, VideoRecord, value

Average = Literal["videos", "frames"]
"""Mean over videos, as VBench on several GPUs; or over all frames pooled, as on one: they differ with lengths."""

POOLED = ("subject_consistency", "background_consistency")
"""Dimensions that VBench pools; background consistency always."""
RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "subject_consistency": (0.1462, 1.0),
        "background_consistency": (0.2615, 1.0),
        "temporal_flickering": (0.6293, 1.0),
        "motion_smoothness": (0.706, 0.9975),
        "dynamic_degree": (0.0, 1.0),
        "aesthetic_quality": (0.0, 1.0),
        "imaging_quality": (0.0, 1.0),
    }
)
"""What the leaderboard takes for the worst and the best value, by name of metric."""
DYNAMIC_WEIGHT = 0.5
"""Of dynamic degree in the quality score; all others weigh 1."""


def aggregated(results: Results, key: str, average: Average = "videos") -> float:
    """A metric's number for the data set, as VBench reports it: imaging quality over 100, all else as it is.

    "frames" weighs each video by its number of comparisons, one less than its scored frames, where VBench pools them
    (`POOLED`), and is "videos" elsewhere. Videos without a score are left out; nan if that is all.
    Raises InputError for another average or a key that is no metric's.
    """
    if average not in get_args(Average):
        raise InputError(f"average {average!r} is unknown; use {', '.join(get_args(Average))}")
    name = next((metric.name for metric in results.metrics if metric.key == key), None)
    if name is None:
        known = ", ".join(metric.key for metric in results.metrics)
        raise InputError(f"{key!r} is no metric that was computed; use one of {known}")
    known = [(score, _pairs(video, results)) for video in results.videos if not math.isnan(score := _score(video, key))]
    if average == "frames" and name in POOLED:
        known = [(score, pairs) for score, pairs in known if pairs]
        weights = [pairs for _, pairs in known]
    else:
        weights = [1] * len(known)
    if not known:
        return math.nan
    mean = float(np.average([score for score, _ in known], weights=weights))
    return mean / 100 if name == "imaging_quality" else mean


def normalised(name: str, number: float) -> float:
    """(number - min) / (max - min) with the leaderboard's range of a metric; not clamped, so above 1 is possible.

    `number` is as `aggregated` gives it. Raises InputError for a metric that the leaderboard does not know.
    """
    if name not in RANGES:
        raise InputError(f"{name!r} has no place on the leaderboard; use one of {', '.join(RANGES)}")
    low, high = RANGES[name]
    return (number - low) / (high - low)


def quality(numbers: Mapping[str, float]) -> float:
    """VBench's quality score: the weighted mean of normalised numbers, given by name as `aggregated` has them.

    Raises InputError unless all seven dimensions are there: a mean of fewer would look like the leaderboard's.
    """
    missing = [name for name in RANGES if name not in numbers]
    if missing:
        raise InputError(f"the quality score lacks {', '.join(missing)}; measure all of {', '.join(RANGES)}")
    weights = [DYNAMIC_WEIGHT if name == "dynamic_degree" else 1.0 for name in RANGES]
    return float(np.average([normalised(name, numbers[name]) for name in RANGES], weights=weights))


def _score(video: VideoRecord, key: str) -> float:
    return value(video.scores.get(key))


def _pairs(video: VideoRecord, results: Results) -> int:
    return -(-video.frames // results.configuration.stride) - 1
