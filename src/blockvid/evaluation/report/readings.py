"""What results say, before anything is drawn: which tiers there are, what moved beyond its noise, and where."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from jaxtyping import Float

from blockvid.evaluation import drift
from blockvid.evaluation.metric import TIERS
from blockvid.evaluation.report.numbers import count, decimals, listed, percent, short
from blockvid.evaluation.results import MetricRecord, Quantity, Results, VideoRecord, Warn, value
from blockvid.evaluation.statistics import Bootstrap

DYNAMIC = "dynamic_degree"
PER_WEIGHT = "/weight"
ROBUST = "/robust"
SINGLE = 2.0
"""Multiple of its noise floor from which the drift of a single video is taken for one."""
MOST = 1000.0
"""Multiple of the noise floor that more counts as; a floor of 0 is no measure."""
TIER_MEANS = {
    "core": "no model",
    "light": "weights from a Python package",
    "vbench": "the networks that VBench names",
}


@dataclass(frozen=True)
class Mark:
    """The segment of a video that is farthest from its first, in units of what noise would show."""

    segment: int
    """From 0."""
    quantity: Quantity
    change: float
    """Relative to the first segment, signed."""


def scored(results: Results) -> tuple[VideoRecord, ...]:
    """Videos that have numbers."""
    return tuple(v for v in results.videos if v.status == "scored")


def failed(results: Results) -> tuple[VideoRecord, ...]:
    """Videos that have a reason instead."""
    return tuple(v for v in results.videos if v.status == "failed")


def loud(results: Results) -> tuple[tuple[VideoRecord, Warn], ...]:
    """Warnings that make scores meaningless."""
    return tuple((v, w) for v in results.videos for w in v.warnings if w.loud)


def tier(key: str) -> str:
    """Of a full key."""
    return key.partition("@")[2].partition(":")[0]


def tiers(results: Results) -> tuple[str, ...]:
    """Those that something was measured in, the largest first."""
    there = {m.tier for m in results.metrics}
    return tuple(t for t in reversed(TIERS) if t in there)


def metrics(results: Results, of: str) -> tuple[MetricRecord, ...]:
    """Those of one tier."""
    return tuple(m for m in results.metrics if m.tier == of)


def quantities(results: Results, of: str) -> tuple[Quantity, ...]:
    """Those of one tier."""
    return tuple(q for q in results.quantities if tier(q.key) == of)


def metric(results: Results, key: str) -> MetricRecord | None:
    """By its key."""
    return next((m for m in results.metrics if m.key == key), None)


def title(quantity: Quantity) -> str:
    """vde_clarity: Clarity."""
    return quantity.name.removeprefix("vde_").replace("_", " ").capitalize()


def dynamic(results: Results, of: str) -> MetricRecord | None:
    """Dynamic degree of the same tier, else of the largest that has it: it stands beside every drift."""
    found = [m for m in results.metrics if m.name == DYNAMIC]
    return next((m for m in found if m.tier == of), max(found, key=lambda m: TIERS.index(m.tier), default=None))


def is_dynamic(quantity: Quantity) -> bool:
    """Whether it is of the dynamic degree, which is 0 or 1: nothing to call worst or noisy."""
    return quantity.metric.startswith(f"{DYNAMIC}@")


def changes(video: VideoRecord, key: str) -> Float[np.ndarray, " n"]:
    """Of each segment from the first, relative to it, by metric key; nan where the first is 0."""
    scores = np.array([value(x) for x in video.segment_scores.get(key, ())], dtype=np.float64)
    if not len(scores):
        return scores
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = (scores - scores[0]) / abs(scores[0])
    return np.where(np.isfinite(relative), relative, math.nan)


def total_weight(results: Results) -> float:
    """The sum of the weights of VDE; nan for weights that are not known here."""
    kind = results.configuration.weights
    known = kind in get_args(drift.Weights)
    return float(drift.weights(kind, results.configuration.segments).sum()) if known else math.nan  # type: ignore[arg-type]


def floors(results: Results, key: str) -> Float[np.ndarray, " n"]:
    """Finite noise floors of the videos, as VDE, by key of quantity."""
    found = [value(v.drift[key].noise_floor) for v in scored(results) if key in v.drift]
    return np.array([x for x in found if math.isfinite(x)])


def mean_floor(results: Results, key: str) -> float:
    """Over videos; nan where it cannot be told of any."""
    found = floors(results, key)
    return float(found.mean()) if len(found) else math.nan


def mark(results: Results, video: VideoRecord, among: Sequence[Quantity]) -> Mark | None:
    """Where a video is worst, and in which quantity; None where nothing changed or nothing was measured."""
    weight = total_weight(results)
    best: tuple[float, Mark] | None = None
    for q in among:
        if q.key not in video.drift or is_dynamic(q):
            continue
        change = changes(video, q.metric)
        if not np.isfinite(change).any() or not np.nanmax(np.abs(change)):
            continue
        floor = value(video.drift[q.key].noise_floor) / weight
        index = int(np.nanargmax(np.abs(change)))
        size = abs(float(change[index])) / (floor if floor > 0 else 1)
        if best is None or size > best[0]:
            best = (size, Mark(index, q, float(change[index])))
    return best[1] if best else None


@dataclass(frozen=True)
class Reading:
    """How far a quantity typically drifts, as the profile reads it, and how that compares to noise."""

    share: float
    """Median over videos, relative to the score."""
    multiple: float
    """Of each video's own noise floor: geometric mean over videos, which one wild video does not decide."""
    low: float
    """Of its 95 % interval; 0 where there is none."""

    @property
    def beyond_noise(self) -> bool:
        """Whether videos drift more than their own noise: the whole interval does, or a single video twice as much."""
        return self.low > 1 or (self.low == 0 and self.multiple > SINGLE)


def reading(results: Results, key: str) -> Reading | None:
    """Of a quantity; None where it, or its noise, cannot be told."""
    robust = is_robust(results)
    record = results.summary.get(key + (ROBUST if robust else PER_WEIGHT))
    pairs = [
        (value(d.robust.total), value(d.robust.noise_floor)) if robust else (value(d.vde), value(d.noise_floor))
        for d in (v.drift[key] for v in scored(results) if key in v.drift)
    ]
    known = [(drift, floor) for drift, floor in pairs if math.isfinite(drift) and math.isfinite(floor) and drift]
    ratios = [min(drift / floor, MOST) if floor else MOST for drift, floor in known]
    if record is None or math.isnan(value(record.median.value)):
        return None
    if not ratios:  # nothing moved, or nobody knows the noise
        return Reading(0.0, 0.0, 0.0) if value(record.median.value) == 0 else None
    estimate = Bootstrap()(np.log(ratios))
    low = math.exp(estimate.low) if math.isfinite(estimate.low) else 0.0
    return Reading(value(record.median.value), math.exp(estimate.value), low)


def is_robust(results: Results) -> bool:
    """Whether the profile reads drift in the robust way."""
    return results.configuration.profile == "robust"


def verdict(results: Results) -> str:
    """One sentence, in plain words."""
    videos = scored(results)
    if not videos:
        return f"None of {count(len(results.videos), 'video')} could be scored; the reasons stand below."
    frozen = {v.name for v, _ in loud(results)}
    if len(frozen) == len(videos):
        return f"No number below means anything: {_all(len(videos))} a loud warning."
    found = {q: reading(results, q.key) for q in results.quantities if not is_dynamic(q)}
    judged = {q: r for q, r in found.items() if r is not None}
    moved = sorted((q for q, r in judged.items() if r.beyond_noise), key=lambda q: -judged[q].multiple)
    calm = [title(q).lower() for q, r in judged.items() if not r.beyond_noise]
    where = "In this video" if len(videos) == 1 else f"Over {len(videos)} videos"
    if not judged:
        return f"{where}, no drift could be measured."
    if not moved:
        return f"{where}, nothing drifts beyond the noise of its own measurement."
    return f"{where}, {_most(moved, judged[moved[0]])}{_stays(calm)}."


def _most(moved: Sequence[Quantity], r: Reading) -> str:
    first, *others = moved
    size = f"typically {percent(r.share, decimals([100 * r.share]))} from where it began"
    noise = f", {short(r.multiple, 2)} times what noise alone would show" if r.multiple < MOST else ""
    rest = (
        f"; {listed(title(q).lower() for q in others)} {'drifts' if len(others) == 1 else 'drift'} too"
        if others
        else ""
    )
    return f"{title(first).lower()} drifts most: {size}{noise}{rest}"


def _stays(calm: Sequence[str]) -> str:
    if not calm:
        return ""
    return f"; {listed(calm)} {'stays' if len(calm) == 1 else 'stay'} within the noise"


def _all(number: int) -> str:
    return "the only video has" if number == 1 else f"all {number} videos have"
