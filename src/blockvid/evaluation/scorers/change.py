"""What happens from one frame to the next that motion does not explain: standstill, repeats, flicker, cuts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32

from blockvid.evaluation.metric import Metric
from blockvid.evaluation.scorers.motion import SHORT, SMALLEST, Reduced, flow, reduced
from blockvid.evaluation.scorers.opencv import opencv
from blockvid.evaluation.scorers.spans import average, frames, pairs
from blockvid.evaluation.series import Footage, Picture, Reader, Rows, Series, Window

STILL = 2.0
"""Largest change of a 4 x 4 block's mean luma, of 255, in frames reduced to a short side of 240, that codecs make.

Measured: a still encoded with x264 (CRF 17 to 28) or VP9 stays below in 95 % of the pairs, at CRF 35 in 90 %; a pan of
a photograph by 0.1 px a frame exceeds it in 95 %, as do 128 of the 131 pairs of an animated film at 25 frames a second.
"""
BRIEF = 0.5
"""Seconds up to which unchanged pairs count as repeated frames, and from which as a standstill."""
CELLS = (9, 16)
"""Rows and columns of the grid that brightness is averaged over."""
BINS = 8
"""Of the histogram, in each of R, G and B."""
CUT_STRUCTURE, CUT_COLOUR = 0.25, 0.15
"""Least differences of a cut. Measured: cuts have at least 0.6 and 0.26, or 0.31 and 0.85 where a large subject stays
in its place; fast traffic, a violent shake and a flash have at most 0.19 of structure."""
CUT_PEAK = 4
"""How many times the median structure difference around it a cut has: television snow is no series of cuts."""
AROUND = 8
"""Pairs on either side that a cut is compared with."""
BLOCK = 4096
"""Frames whose cells are in memory at a time."""


@dataclass(frozen=True)
class Change:
    """Differences of each pair (t-1, t), and where each frame is bright.

    difference: mean |change| of R, G and B, 0..255, at full size. peak: the largest |change| of a block's mean luma
    (`STILL`). histogram: half the L1 distance of 8 x 8 x 8 colour histograms, 0 to 1. structure: 1 - correlation of the
    luma of t-1 with that of t after DIS flow has undone the motion, 0 to 2; without flow where the short side is below
    32. cells: of each frame, mean luma, 0..255, of a 9 x 16 grid, row by row.
    """

    name: str = "change"

    @property
    def identity(self) -> str:
        """Its definition above, and OpenCV's version, which computes the flow."""
        return f"change 2 {SHORT} {BINS} {CELLS[0]}x{CELLS[1]} opencv {opencv().__version__}"

    def open(self, footage: Footage, device: torch.device) -> Reader:  # noqa: ARG002
        """Works on the CPU, whatever the device."""
        return Reader(_read, before=1)


class _Look(NamedTuple):
    """What a pair's differences are taken of."""

    blocks: Float32[np.ndarray, "r c"]
    """Mean luma of 4 x 4 pixels."""
    colours: Float32[np.ndarray, " bins"]
    """Histogram, summing to 1."""
    cells: Float32[np.ndarray, " cells"]


def _look(small: Reduced) -> _Look:
    cv2 = opencv()
    height, width = small.luma.shape
    y, shape = small.luma.astype(np.float32), (max(width // 4, 1), max(height // 4, 1))
    counts = cv2.calcHist([small.rgb], [0, 1, 2], None, [BINS] * 3, [0, 256] * 3).ravel()
    return _Look(
        blocks=cv2.resize(y, shape, interpolation=cv2.INTER_AREA),
        colours=counts / counts.sum(),
        cells=cv2.resize(y, CELLS[::-1], interpolation=cv2.INTER_AREA).ravel(),
    )


def _read(window: Window) -> Rows:
    cv2 = opencv()
    looks = [_look(picture.once(reduced)) for picture in window.pictures]
    wanted = slice(window.start, window.stop)
    names = ("difference", "peak", "histogram", "structure")
    rows = {name: np.full(len(window.wanted), np.nan, dtype=np.float32) for name in names}
    for row, index in enumerate(range(len(looks))[wanted]):
        if index > 0:
            (before, picture), (a, b) = window.pictures[index - 1 : index + 1], looks[index - 1 : index + 1]
            rows["difference"][row] = cv2.norm(before.pixels, picture.pixels, cv2.NORM_L1) / picture.pixels.size
            rows["peak"][row] = np.abs(b.blocks - a.blocks).max()
            rows["histogram"][row] = np.abs(b.colours - a.colours).sum() / 2
            rows["structure"][row] = _structure(before, picture)
    return {**rows, "cells": np.stack([look.cells for look in looks[wanted]])}


def _structure(before: Picture, picture: Picture) -> float:
    cv2 = opencv()
    a, b = before.once(reduced).luma, picture.once(reduced).luma
    height, width = a.shape
    if min(height, width) >= SMALLEST:
        x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        there = np.dstack((x, y)) + flow(before, picture)
        b = cv2.remap(b, there, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    flat = a.min() == a.max(), b.min() == b.max()
    if any(flat):  # there is no correlation: one colour is like another, and unlike a picture
        return float(not all(flat))
    (mean_a, spread_a), (mean_b, spread_b) = ((m.item(), d.item()) for m, d in map(cv2.meanStdDev, (a, b)))
    together = float(np.dot(a.ravel().astype(np.float32), b.ravel().astype(np.float32))) / a.size
    return 1 - (together - mean_a * mean_b) / (spread_a * spread_b)


def still(series: Series, span: range) -> Bool[np.ndarray, " pairs"]:
    """Which pairs of a span do not change beyond what a codec does (`STILL`)."""
    return pairs(series["change.peak"], span) < STILL


def cuts(series: Series, span: range) -> list[int]:
    """The frames of a span that begin another shot: hard cuts; fades and dissolves are not found.

    Structure changes although motion is undone, more than around it and more than two frames before and after, and so
    do colours.
    """
    structure, colour = pairs(series["change.structure"], span), pairs(series["change.histogram"], span)
    found = []
    for i in np.flatnonzero((structure >= CUT_STRUCTURE) & (colour >= CUT_COLOUR)):
        near = structure[max(i - 2, 0) : i + 3]
        others = np.concatenate([structure[max(i - AROUND, 0) : i], structure[i + 1 : i + 1 + AROUND]])
        first = int(np.argmax(near)) == min(i, 2)  # of equals the first
        if first and (not len(others) or structure[i] >= CUT_PEAK * np.median(others)):
            found.append(span.start + 1 + int(i))
    return found


def runs(flags: Bool[np.ndarray, " n"]) -> list[range]:
    """The stretches of consecutive true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [range(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def repeats(series: Series, span: range, fps: float) -> int:
    """Unchanged pairs of a span next to changed ones, in stretches of at most half a second (`BRIEF`)."""
    unchanged = still(series, span)
    longest = max(BRIEF * fps, 1)
    return sum(len(run) for run in runs(unchanged) if len(run) <= longest and len(run) < len(unchanged))


def _freeze(series: Series, span: range, footage: Footage) -> float:  # noqa: ARG001
    unchanged = still(series, span)
    return float(unchanged.mean()) if len(unchanged) else math.nan


def _duplicate(series: Series, span: range, footage: Footage) -> float:
    return repeats(series, span, footage.fps) / (len(span) - 1) if len(span) > 1 else math.nan


def _temporal_flickering(series: Series, span: range, footage: Footage) -> float:  # noqa: ARG001
    return (255 - average(pairs(series["change.difference"], span))) / 255


def _cut_count(series: Series, span: range, footage: Footage) -> float:  # noqa: ARG001
    return float(len(cuts(series, span))) if len(span) > 1 else math.nan


def flicker(series: Series, span: range, footage: Footage) -> float:  # noqa: ARG001
    """Levels, of 255, that brightness moves to and fro in a span; nan for fewer than three frames.

    Motion brightens a place for a while, flicker for a moment: only changes that the next one takes back count.

    Of the smaller of both, averaged over time, the median over places leaves out what passes by.
    """
    if len(span) < 3:
        return math.nan
    total = np.zeros(CELLS[0] * CELLS[1])
    cells = frames(series["change.cells"], span)
    for start in range(0, len(cells) - 2, BLOCK):
        steps = np.diff(np.asarray(cells[start : start + BLOCK + 2], dtype=np.float64), axis=0)
        smaller = np.minimum(np.abs(steps[:-1]), np.abs(steps[1:]))
        total += np.where(steps[:-1] * steps[1:] < 0, smaller, 0).sum(axis=0)
    return float(np.median(total)) / (len(span) - 2)


def repetition(series: Series, span: range, fps: float) -> Float[np.ndarray, " lags"]:
    """How alike frames are at a distance of 1, 2, ... half seconds, as long as there are 8 such pairs.

    Mean |difference| of cells at that distance over the mean over all distances of half a second or more: about 1
    where nothing returns, 0 where everything does. Long spans are sampled at 600 of their half seconds.
    """
    step = max(round(fps / 2), 1)
    half_seconds = frames(series["change.cells"], span)[::step][:600]
    cells = np.asarray(half_seconds, dtype=np.float32)
    lags = len(cells) - 8
    if lags < 1:
        return np.empty(0)
    far = np.array([np.abs(cells[k:] - cells[:-k]).mean() for k in range(1, lags + 1)])
    return far / far.mean() if far.mean() else np.zeros(lags)


def metrics() -> tuple[Metric, ...]:
    """freeze, duplicate, temporal_flickering, flicker and cuts of tier core."""
    made = (Change(),)
    return (
        Metric(
            name="freeze",
            tier="core",
            title="Freeze",
            formula="share of neighbouring frames in which no 4 x 4 block, at short side 240, changes by 2 of 255",
            extractors=made,
            score=_freeze,
            better="lower",
            bounds=(0, 1),
        ),
        Metric(
            name="duplicate",
            tier="core",
            title="Duplicate frames",
            formula="share of such frames in stretches of at most half a second between frames that change",
            extractors=made,
            score=_duplicate,
            better="lower",
            bounds=(0, 1),
        ),
        Metric(
            name="temporal_flickering",
            tier="core",
            title="Temporal flickering",
            formula="(255 - MAD) / 255 of neighbouring frames, as VBench: meant for scenes that stand still",
            extractors=made,
            score=_temporal_flickering,
            better="higher",
            bounds=(0, 1),
        ),
        Metric(
            name="flicker",
            tier="core",
            title="Flicker",
            formula="brightness, of 255, that a cell of a 9 x 16 grid gains and at once loses: median cell's mean",
            extractors=made,
            score=flicker,
            better="lower",
        ),
        Metric(
            name="cuts",
            tier="core",
            title="Cuts",
            formula="hard cuts: peaks of structure difference after motion is undone, where colours change too",
            extractors=made,
            score=_cut_count,
        ),
    )
