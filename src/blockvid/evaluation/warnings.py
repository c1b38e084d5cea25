"""What a reader must know before believing a video's numbers; each threshold with its reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from blockvid.evaluation.drift import theil_sen
from blockvid.evaluation.results import VideoRecord, Warn, value
from blockvid.evaluation.scan import SECONDS
from blockvid.evaluation.scorers.boundary import boundary_jump, jumps
from blockvid.evaluation.scorers.change import cuts, flicker, repeats, repetition, runs, still
from blockvid.evaluation.scorers.spans import average
from blockvid.evaluation.series import Footage, Series

FROZEN = 0.9
"""Share of unchanged pairs: at low bit rates keyframes make a pair in 12 change even in a still."""
STANDSTILL = 1.0
"""Seconds without change that are told; a held pose is shorter, and rarely still to the pixel."""
MOTIONLESS = 0.02
"""Median motion, in % of the short side (0.1 px at 480p), below which flow is no more than its own error."""
REPEATED = 0.2
"""Share of repeated frames: from a fifth on, the file's rate is not the rate that motion was made at."""
OPENING, APART = 5.0, 0.03
"""The first segment is off by so many times the others' spread, and by 3 %: less is the noise of segments."""
BRIGHTER, BLOWN, GAUDIER = 0.1, 0.05, 0.1
"""Growth from start to end, of luma (of 1), of the share of pixels at white, of saturation: visible side by side."""
ENDS = 0.15
"""Share of a video that counts as its start and as its end (FramePack's)."""
BLACK = 0.03
"""Mean and spread of luma, of 1, up to which a frame shows nothing: limited-range black with noise stays below."""
FLICKER = 1.5
"""Levels, of 255: calm real clips have 0.01 to 0.5, a bus that fills the picture 1.2, visible flicker from 1.8 on."""
SEAM, SEAMS = 3.0, 1.5
"""Times the motion around it that one border, and all of them, must change; frames of real clips have 0.9 to 1.2."""
FAINT = 1.0
"""Change, of 255, that a seam must have to be seen."""
DYING, ALIVE = 0.25, 0.1
"""Motion of the end over that of the start, and what the start must have had, in % of the short side."""
LOOP = 0.15
"""Difference of frames a period apart, over the largest at a shorter distance."""
BRIEF = 8
"""Frames of a segment; with fewer, a segment has at most three comparisons of smoothness."""
SMALL = 0.05
"""|m_1| over the median |m_i|: relative drift is then more than twentyfold, and says little but that."""
SAME = 1e-6
"""Cosine distance to the first frame's features, below which those of other frames are the same."""
MOST = 5
"""Places that are told one by one."""
BLOCK = 1024
"""Embeddings in memory at a time."""


@dataclass(frozen=True)
class _Case:
    """One video, its rows, and what many findings need."""

    record: VideoRecord
    series: Series
    footage: Footage
    quantities: Mapping[str, str]
    embeddings: tuple[str, ...]

    @property
    def span(self) -> range:
        return range(len(self.series[SECONDS]))

    def time(self, frame: int) -> float:
        """When a frame begins, in seconds; the end of the video for the one after the last."""
        seconds = self.series[SECONDS]
        return float(seconds[frame]) if frame < len(seconds) else self.record.seconds

    def knows(self, key: str) -> bool:
        return key in self.series and len(self.span) > 1

    def ends(self, key: str) -> tuple[float, float]:
        """Means of the first and of the last 15 %."""
        rows = np.asarray(self.series[key], dtype=np.float64)
        size = max(round(ENDS * len(rows)), 1)
        return average(rows[:size]), average(rows[-size:])

    def rises(self, key: str) -> bool:
        """Whether means over tenths have a trend that is surely above 0."""
        rows = np.asarray(self.series[key], dtype=np.float64)
        return len(rows) >= 10 and theil_sen(np.array([part.mean() for part in np.array_split(rows, 10)])).low > 0

    @cached_property
    def frozen(self) -> float:
        """Share of unchanged pairs; 0 where that was not measured."""
        return float(still(self.series, self.span).mean()) if self.knows("change.peak") else 0.0


def warnings(
    record: VideoRecord,
    series: Series,
    footage: Footage,
    quantities: Mapping[str, str],
    embeddings: Sequence[str] = (),
) -> tuple[Warn, ...]:
    """Findings about a scored video, loud ones first; what was not measured gives none.

    `quantities` are keys of metrics by key of quantity, `embeddings` the series of one vector a frame
    (`Metric.embedding`); `series` has `frame.seconds`.
    """
    case = _Case(record, series, footage, quantities, tuple(embeddings))
    found = [warn for rule in RULES for warn in rule(case)]
    return tuple(sorted(found, key=lambda warn: not warn.loud))


# Standstill


def _frozen(case: _Case) -> Iterator[Warn]:
    if case.frozen >= FROZEN:
        text = f"Frozen: {case.frozen:.0%} of its frames do not change. Such a video has no drift, whatever it shows."
        yield Warn(kind="frozen", text=text, loud=True)
    elif case.knows("motion.speed"):
        speeds = np.asarray(case.series["motion.speed"])
        speed = float(np.median(speeds[1:]))  # nan in frames too small for flow
        if speed < MOTIONLESS:
            text = f"Hardly anything moves ({speed:.3f} % of the short side): low drift says little."
            yield Warn(kind="motionless", text=text)


def _standstills(case: _Case) -> Iterator[Warn]:
    if not case.knows("change.peak") or case.frozen >= FROZEN:
        return
    unchanged = still(case.series, case.span)
    unchanged[1:-1] |= unchanged[:-2] & unchanged[2:]  # a keyframe within a standstill
    stretches = [(case.time(run.start), case.time(run.stop)) for run in runs(unchanged)]
    for start, end in _longest([s for s in stretches if s[1] - s[0] >= STANDSTILL]):
        yield Warn(kind="standstill", text=f"Nothing changes for {end - start:.1f} s.", start=start, end=end)


def _repeated(case: _Case) -> Iterator[Warn]:
    if not case.knows("change.peak"):
        return
    share = repeats(case.series, case.span, case.footage.fps) / (len(case.span) - 1)
    if share >= REPEATED:
        rate = case.footage.fps * (1 - share)
        text = f"{share:.0%} of its frames repeat the one before: about {rate:.0f} new frames a second."
        yield Warn(kind="duplicates", text=text)


def _dying(case: _Case) -> Iterator[Warn]:
    if not case.knows("motion.speed") or case.frozen >= FROZEN:
        return
    start, end = case.ends("motion.speed")
    if start >= ALIVE and end < DYING * start:
        text = f"Motion dies down: {end / start:.0%} of the beginning's is left at the end."
        yield Warn(kind="stagnation", text=text, start=case.record.seconds * (1 - ENDS), end=case.record.seconds)


def _loop(case: _Case) -> Iterator[Warn]:
    if not case.knows("change.cells") or case.frozen >= FROZEN:
        return
    alike = repetition(case.series, case.span, case.footage.fps)
    for index in range(1, len(alike)):
        if alike[index] < LOOP * alike[:index].max():
            yield Warn(kind="loop", text=f"It repeats itself every {(index + 1) / 2:g} s.")
            return


# Pictures


def _growth(case: _Case) -> Iterator[Warn]:
    for key, least, kind, what in (
        ("luma.mean", BRIGHTER, "exposure", "mean luma"),
        ("luma.bright", BLOWN, "exposure", "the share of white pixels"),
        ("luma.saturation", GAUDIER, "saturation", "saturation"),
    ):
        if not case.knows(key):
            continue
        start, end = case.ends(key)
        if end - start >= least and case.rises(key):
            text = f"From start to end {what} grows from {start:.2f} to {end:.2f}; learned scores may reward that."
            yield Warn(kind=kind, text=text)


def _black(case: _Case) -> Iterator[Warn]:
    if "luma.mean" not in case.series:
        return
    dark = (np.asarray(case.series["luma.mean"]) <= BLACK) & (np.asarray(case.series["luma.spread"]) <= BLACK)
    for start, end in _longest([(case.time(run.start), case.time(run.stop)) for run in runs(dark)]):
        yield Warn(kind="black", text=f"Black for {end - start:.1f} s.", start=start, end=end)


def _flicker(case: _Case) -> Iterator[Warn]:
    if case.knows("change.cells") and (found := flicker(case.series, case.span, case.footage)) >= FLICKER:
        yield Warn(kind="flicker", text=f"Brightness flickers by {found:.1f} of 255 levels from frame to frame.")


# Shots, chunks and segments


def _cuts(case: _Case) -> Iterator[Warn]:
    if case.knows("change.structure") and (found := cuts(case.series, case.span)):
        places = _listed([case.time(frame) for frame in found])
        plural = "cut" if len(found) == 1 else "cuts"
        yield Warn(kind="cuts", text=f"{len(found)} hard {plural} at {places}: drift compares different shots.")


def _seams(case: _Case) -> Iterator[Warn]:
    if not case.knows("change.difference"):
        return
    found = jumps(case.series, case.span, case.footage)
    clear = [border for border, across, around in found if across >= FAINT and across >= SEAM * around]
    total = boundary_jump(case.series, case.span, case.footage)
    if clear or (total >= SEAMS and max((across for _, across, _ in found), default=0) >= FAINT):
        where = f", most at {_listed([case.time(border) for border in clear])}" if clear else ""
        text = f"Chunks show their seams: borders change {total:.1f} times as much as frames around them{where}."
        yield Warn(kind="seams", text=text)


def _opening(case: _Case) -> Iterator[Warn]:
    off = [name for name, scores in _segment_scores(case).items() if _is_off(scores)]
    if off:
        text = (
            f"The first segment is unlike the steady rest in {', '.join(off)}: "
            "this drift tells of the opening, not of decay."
        )
        start, end = case.record.segments[0]
        yield Warn(kind="first segment", text=text, start=start, end=end)


def _is_off(scores: Float[np.ndarray, " n"]) -> bool:
    first, rest = float(scores[0]), scores[1:]
    if len(rest) < 3 or not np.isfinite(scores).all():
        return False
    gap, spread = abs(first - float(np.median(rest))), float(np.abs(rest - np.median(rest)).max())
    return gap > OPENING * spread and gap > APART * abs(first)


def _reference(case: _Case) -> Iterator[Warn]:
    infinite = [_plain(key) for key, drift in case.record.drift.items() if value(drift.vde) == math.inf]
    if infinite:
        text = f"The first segment scores 0 in {', '.join(infinite)}: drift relative to it is infinite."
        yield Warn(kind="infinite drift", text=text)
    scored = {name: np.abs(scores) for name, scores in _segment_scores(case).items() if name not in infinite}
    small = [name for name, m in scored.items() if np.isfinite(m).all() and 0 < m[0] < SMALL * np.median(m)]
    if small:
        text = f"The first segment scores near 0 in {', '.join(small)}: drift relative to it is out of proportion."
        yield Warn(kind="small reference", text=text)


def _short(case: _Case) -> Iterator[Warn]:
    if case.record.segments:
        frames = len(case.span) // len(case.record.segments)
        if frames < BRIEF:
            text = f"Segments of {frames} frames are too short for scores of motion to be steady."
            yield Warn(kind="short", text=text)


def _rate(case: _Case) -> Iterator[Warn]:
    if case.record.variable_rate:
        text = "The frame rate varies: frames, not seconds, are what scores of neighbouring frames compare."
        yield Warn(kind="variable rate", text=text)


# Features


def _features(case: _Case) -> Iterator[Warn]:
    for key in case.embeddings:
        if key not in case.series:
            continue
        zero, same = _degenerate(case.series[key])
        if zero:
            text = f"{key} is zero or no number in {zero} frames: the network or its weights are broken."
            yield Warn(kind="features", text=text, loud=True)
        elif same and case.knows("change.peak") and case.frozen < FROZEN:
            text = f"{key} is the same for all frames though they differ: the network or its weights are broken."
            yield Warn(kind="features", text=text, loud=True)


def _degenerate(rows: np.ndarray) -> tuple[int, bool]:
    """How many vectors have no direction, and whether all others have the same.

    A vector of nan alone is missing, as a subject can be, unless all are.
    """
    zero, sound, same, first = 0, 0, True, None
    for start in range(0, len(rows), BLOCK):
        block = np.asarray(rows[start : start + BLOCK], dtype=np.float64)
        lengths = np.linalg.norm(block, axis=1)
        directed = np.isfinite(lengths) & (lengths > 0)
        zero += int((~directed & ~np.isnan(block).all(axis=1)).sum())
        sound += int(directed.sum())
        directions = block[directed] / lengths[directed, None]
        if len(directions):
            first = directions[0] if first is None else first
            same = same and bool((1 - directions @ first < SAME).all())
    return zero if sound else len(rows), same and sound > 1


def _segment_scores(case: _Case) -> dict[str, Float[np.ndarray, " n"]]:
    """By name of quantity, the scores of segments that its drift was read from."""
    scores = case.record.segment_scores
    return {
        _plain(quantity): np.array([value(score) for score in scores[metric]])
        for quantity, metric in case.quantities.items()
        if metric in scores
    }


def _plain(quantity: str) -> str:
    """ "vde_clarity@core" is clarity to a reader."""
    return quantity.split("@")[0].removeprefix("vde_")


def _longest(stretches: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return sorted(sorted(stretches, key=lambda s: s[0] - s[1])[:MOST])


def _listed(times: list[float]) -> str:
    shown = ", ".join(f"{time:.1f}" for time in times[:MOST])
    return f"{shown} s" + (f" and {len(times) - MOST} more" if len(times) > MOST else "")


RULES: tuple[Callable[[_Case], Iterator[Warn]], ...] = (
    _frozen,
    _features,
    _standstills,
    _repeated,
    _dying,
    _loop,
    _black,
    _growth,
    _flicker,
    _cuts,
    _seams,
    _opening,
    _reference,
    _short,
    _rate,
)
"""Each finds one kind of trouble."""
