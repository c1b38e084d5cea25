"""Whether chunks show their seams: the change across a border against the change inside."""

from __future__ import annotations

import math

import numpy as np

from blockvid.evaluation.metric import Metric
from blockvid.evaluation.scorers.change import Change
from blockvid.evaluation.series import Footage, Series

AROUND = 4
"""Pairs on either side of a border that it is compared with: near enough to move as fast as it does."""


def jumps(series: Series, span: range, footage: Footage) -> list[tuple[int, float, float]]:
    """Per border inside a span: its frame, the change across it, and the median change of the pairs around it.

    Changes are `change.difference`, 0..255; pairs across another border are left out. A border without any pair
    around it inside the span is left out.
    """
    difference, borders = series["change.difference"], set(footage.borders)
    found = []
    for border in sorted(borders):
        if not span.start < border < span.stop:
            continue
        near = range(max(border - AROUND, span.start + 1), min(border + AROUND + 1, span.stop))
        inside = [float(difference[t]) for t in near if t not in borders]
        if inside:
            found.append((border, float(difference[border]), float(np.median(inside))))
    return found


def boundary_jump(series: Series, span: range, footage: Footage) -> float:
    """Changes across the borders over the changes around them, summed before they are divided; nan without borders."""
    found = jumps(series, span, footage)
    across, around = sum(jump[1] for jump in found), sum(jump[2] for jump in found)
    if not found:
        return math.nan
    if around:
        return across / around
    return math.inf if across else 1.0


def metrics() -> tuple[Metric, ...]:
    """boundary_jump of tier core."""
    return (
        Metric(
            name="boundary_jump",
            tier="core",
            title="Boundary jump",
            formula="mean |change| across chunk borders over the median of 4 pairs on either side; 1: no visible seam",
            extractors=(Change(),),
            score=boundary_jump,
            better="lower",
        ),
    )
