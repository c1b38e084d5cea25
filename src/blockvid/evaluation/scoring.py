"""From stored rows to one video's record: scores, drift, curves. Nothing here sees a pixel."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from blockvid.evaluation.drift import DriftResult, RobustResult
from blockvid.evaluation.metric import Metric
from blockvid.evaluation.profiles import Profile, chosen, cut, quantity_key
from blockvid.evaluation.results import DriftRecord, RobustRecord, VideoRecord, Warn
from blockvid.evaluation.rows import Facts
from blockvid.evaluation.scan import SECONDS
from blockvid.evaluation.series import Caption, Footage, Series
from blockvid.evaluation.warnings import warnings

PARTS = 240
"""Into which a video is divided, at most, to draw its course."""
LAGS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Seconds between frames that are compared."""
PAIRS, BLOCK = 512, 64
"""Pairs of frames compared for each distance, at most; how many are in memory at once."""
RGB = "luma.rgb"
"""The series of mean colours."""


@dataclass(frozen=True)
class Facets:
    """What is said of one video besides its frames."""

    borders: tuple[int, ...] = ()
    """Frames with which chunks begin, the first chunk's left out."""
    captions: tuple[Caption, ...] = ()


@dataclass(frozen=True)
class Scoring:
    """What is made of rows; can be sent to another process."""

    metrics: tuple[Metric, ...]
    profile: Profile
    stride: int = 1
    """Of the frames that have rows."""

    def __call__(self, video: VideoRecord, facts: Facts, series: Series, facets: Facets) -> VideoRecord:
        """`video`, which has a name and a path, with all numbers filled in."""
        seconds = np.asarray(series[SECONDS])
        spans = cut(seconds, self.profile)
        footage = self.footage(facts, facets, spans)
        parts = {metric.key: _segment_scores(metric, series, spans, footage) for metric in self.metrics}
        known = video.model_dump(exclude_defaults=True, exclude={"status"})
        record = VideoRecord.model_validate(
            {
                **known,
                "status": "scored",
                "prompts": tuple(caption.text for caption in facets.captions),
                "width": facts.width,
                "height": facts.height,
                "frames": facts.frames,
                "seconds": facts.seconds,
                "fps": facts.frames / facts.seconds if facts.variable else facts.fps,
                "variable_rate": facts.variable,
                "segments": self._edges(spans, seconds, facts),
                "scores": {m.key: m.score(series, range(len(seconds)), footage) for m in self.metrics},
                "segment_scores": parts if spans else {},
                "drift": self._drift(parts) if spans else {},
                "curves": {m.key: curve(series[m.curve]) for m in self.metrics if m.curve},
                "lags": {m.key: lags(series[m.embedding], seconds) for m in self.metrics if m.embedding},
                "colors": colors(series),
            }
        )
        quantities = {quantity_key(name, metric): metric.key for name, metric in self._chosen.items()}
        embeddings = tuple(dict.fromkeys(metric.embedding for metric in self.metrics if metric.embedding))
        found = warnings(record, series, footage, quantities, embeddings)
        uncut = () if spans else (_uncut(len(seconds), self.profile.segments),)
        return record.model_copy(update={"warnings": (*found, *uncut)})

    @property
    def _chosen(self) -> dict[str, Metric]:
        return chosen(self.profile, self.metrics)

    def footage(self, facts: Facts, facets: Facets, spans: tuple[range, ...]) -> Footage:
        """What metrics are told, counted in frames that have rows."""
        borders = sorted({-(-border // self.stride) for border in facets.borders if 0 < border < facts.frames})
        rows = -(-facts.frames // self.stride)
        return Footage(
            facts.width,
            facts.height,
            facts.fps / self.stride,
            tuple(border for border in borders if border < rows),
            facets.captions,
            spans[0] if spans else None,
        )

    def _edges(
        self, spans: tuple[range, ...], seconds: Float[np.ndarray, " rows"], facts: Facts
    ) -> list[tuple[float, float]]:
        if self.profile.remainder == "time":
            edges = [facts.seconds * index / len(spans) for index in range(len(spans) + 1)] if spans else []
        else:
            starts = [*(span.start for span in spans), *(span.stop for span in spans[-1:])]
            edges = [float(seconds[start]) if start < len(seconds) else facts.seconds for start in starts]
        return list(pairwise(edges))

    def _drift(self, parts: dict[str, list[float]]) -> dict[str, DriftRecord]:
        found, reading = {}, self.profile.reading
        for quantity, metric in self._chosen.items():
            scores = np.array(parts[metric.key])
            found[quantity_key(quantity, metric)] = _record(reading.drift(scores), reading.robust(scores))
        return found


def curve(values: Float[np.ndarray, " rows"]) -> list[float]:
    """Means over up to 240 equal parts, missing numbers left out; nan for a part without any."""
    return [_mean(np.asarray(values[part.start : part.stop], dtype=np.float64)) for part in _parts(len(values))]


def lags(embedding: Float[np.ndarray, "rows c"], seconds: Float[np.ndarray, " rows"]) -> list[float]:
    """Mean cosine of frames that are so many seconds (`LAGS`) apart; nan where the video is shorter.

    Up to 512 pairs, evenly spread, each frame with the one nearest to that distance, if it is off by less than half a
    usual frame.
    """
    usual = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 0.0
    return [_similarity(embedding, *_apart(seconds, lag, usual / 2)) for lag in LAGS]


def colors(series: Series) -> list[tuple[int, int, int]]:
    """Mean colour of up to 240 equal parts; none where nothing measured it."""
    if RGB not in series:
        return []
    rgb = series[RGB]
    means = [np.asarray(rgb[part.start : part.stop], dtype=np.float64).mean(axis=0) for part in _parts(len(rgb))]
    return [(round(red), round(green), round(blue)) for red, green, blue in np.clip(means, 0, 255).tolist()]


def _segment_scores(metric: Metric, series: Series, spans: tuple[range, ...], footage: Footage) -> list[float]:
    return [metric.score(series, span, footage) for span in spans]


def _apart(seconds: Float[np.ndarray, " rows"], lag: float, off: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of frames, and of those `lag` after them."""
    candidates = np.flatnonzero(seconds + lag <= seconds[-1] + off)
    picked = np.unique(np.linspace(0, len(candidates) - 1, min(PAIRS, len(candidates))).round().astype(int))
    starts = candidates[picked]
    due = seconds[starts] + lag
    after = np.searchsorted(seconds, due).clip(1, max(len(seconds) - 1, 1)).clip(max=len(seconds) - 1)
    ends = np.where(due - seconds[after - 1] < seconds[after] - due, after - 1, after)
    near = (np.abs(seconds[ends] - due) <= off) & (ends > starts)
    return starts[near], ends[near]


def _similarity(embedding: Float[np.ndarray, "rows c"], starts: np.ndarray, ends: np.ndarray) -> float:
    found: list[np.ndarray] = []
    for block in range(0, len(starts), BLOCK):
        a, b = (np.asarray(embedding[index[block : block + BLOCK]], dtype=np.float64) for index in (starts, ends))
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        found.append(np.divide((a * b).sum(axis=1), lengths, out=np.full(len(a), math.nan), where=lengths > 0))
    return _mean(np.concatenate(found)) if found else math.nan


def _parts(count: int) -> list[range]:
    number = min(PARTS, count)
    return [range(index * count // number, (index + 1) * count // number) for index in range(number)]


def _mean(values: Float[np.ndarray, " n"]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _record(plain: DriftResult, robust: RobustResult) -> DriftRecord:
    worst = None if robust.worst is None else robust.worst.segment
    return DriftRecord.model_validate(
        {
            **asdict(plain),
            "robust": RobustRecord.model_validate(
                {
                    "total": robust.total,
                    "drift": robust.drift,
                    "slope": robust.slope_relative.value,
                    "slope_low": robust.slope_relative.low,
                    "slope_high": robust.slope_relative.high,
                    "end_minus_start": robust.end_minus_start,
                    "worst_segment": worst,
                    "time_to_failure": robust.time_to_failure,
                    "noise_floor": robust.noise_floor,
                    "flags": robust.flags,
                }
            ),
        }
    )


def _uncut(frames: int, segments: int) -> Warn:
    text = f"{frames} scored {'frame does' if frames == 1 else 'frames do'} not fill {segments} segments: no drift."
    return Warn(kind="short", text=text)
