"""Rows of a span: of its frames, of the pairs and of the triples that lie inside it, and their mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from blockvid.evaluation.series import Footage, Series

Inside = Callable[[np.ndarray, range], np.ndarray]
"""`frames`, `pairs` or `triples`."""


def frames(rows: np.ndarray, span: range) -> np.ndarray:
    """Rows of all frames of [a, b)."""
    return rows[span.start : span.stop]


def pairs(rows: np.ndarray, span: range) -> np.ndarray:
    """Rows of the pairs (t-1, t) of [a, b), filed at t = a+1 .. b-1."""
    return rows[span.start + 1 : span.stop]


def triples(rows: np.ndarray, span: range) -> np.ndarray:
    """Rows of the triples (t-1, t, t+1) of [a, b), filed at t = a+1 .. b-2."""
    return rows[span.start + 1 : max(span.stop - 1, span.start + 1)]


def average(values: np.ndarray) -> float:
    """The mean of what is not nan, in float64; nan if that is nothing."""
    known = values[~np.isnan(values)]
    return float(known.mean(dtype=np.float64)) if len(known) else math.nan


def mean_of(key: str, inside: Inside) -> Callable[[Series, range, Footage], float]:
    """A score that can be sent to another process: the mean of the rows `key` of a span."""
    return partial(_mean, key, inside)


def _mean(key: str, inside: Inside, series: Series, span: range, footage: Footage) -> float:  # noqa: ARG001
    return average(inside(series[key], span))
