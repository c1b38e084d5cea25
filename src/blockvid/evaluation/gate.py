"""Whether results are good enough, for machines that must say yes or no."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

from blockvid.errors import InputError
from blockvid.evaluation.results import Results, SummaryRecord, value
from blockvid.evaluation.statistics import Estimate

Kind = Literal["max", "min"]
Statistic = Literal["mean", "median", "trimmed_mean"]
READINGS = ("/weight", "/robust")
"""What `Results.summary` has of a quantity beside its VDE."""


@dataclass(frozen=True)
class Limit:
    """A number that a metric or a quantity must not pass."""

    name: str
    """As `Results.find` takes it; with "/weight" VDE over the sum of weights, with "/robust" the robust total."""
    value: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of "vde_clarity=0.9". Raises InputError for anything else."""
        name, equals, number = text.rpartition("=")
        if not (equals and name.strip()):
            raise InputError(f"limit {text!r} is not NAME=NUMBER; write it like vde_clarity=0.9")
        try:
            limit = float(number)
        except ValueError:
            limit = math.nan
        if not math.isfinite(limit):
            raise InputError(f"limit {text!r} ends in no finite number; write it like vde_clarity=0.9")
        return cls(name.strip(), limit)


@dataclass(frozen=True)
class Verdict:
    """What became of one limit."""

    key: str
    """Of what was measured, with its tier; as given if there is no such thing."""
    kind: Kind
    limit: float
    statistic: Statistic
    measured: Estimate | None
    """With its 95 % interval; None if nothing was."""
    passed: bool
    why: str
    """One line."""


def gate(
    results: Results, max: Sequence[Limit] = (), min: Sequence[Limit] = (), statistic: Statistic = "mean"
) -> tuple[Verdict, ...]:
    """One verdict for each limit on the `statistic` over videos; the value decides, its interval is told.

    What was not measured does not pass: a metric that is missing, failed videos, entries of the benchmark without a
    video. Nor does a largest value where some are infinite, or a drift where a loud warning says that it means nothing.
    Raises InputError without limits and for an unknown statistic.
    """
    if statistic not in get_args(Statistic):
        raise InputError(f"statistic {statistic!r} is unknown; use {', '.join(get_args(Statistic))}")
    if not (max or min):
        raise InputError("0 limits decide nothing; give one, such as --max vde_clarity=0.9")
    kinds: tuple[tuple[Kind, Sequence[Limit]], ...] = (("max", max), ("min", min))
    return tuple(_verdict(results, kind, limit, statistic) for kind, limits in kinds for limit in limits)


def _verdict(results: Results, kind: Kind, limit: Limit, statistic: Statistic) -> Verdict:
    name = next((limit.name.removesuffix(end) for end in READINGS if limit.name.endswith(end)), limit.name)
    try:
        found = results.find(name)
    except InputError as error:
        return Verdict(limit.name, kind, limit.value, statistic, None, False, str(error))
    key = found + limit.name[len(name) :]
    summary = results.summary.get(key)
    measured = None if summary is None else _estimate(summary, statistic)
    if summary is None or measured is None or math.isnan(measured.value):
        return Verdict(key, kind, limit.value, statistic, None, False, _nothing(results, key))
    kept = measured.value <= limit.value if kind == "max" else measured.value >= limit.value
    relation = {("max", True): "at most", ("max", False): "above", ("min", True): "at least", ("min", False): "below"}
    said = f"{statistic.replace('_', ' ')} {_told(measured)} is {relation[kind, kept]} {limit.value:g}"
    if not kept:
        return Verdict(key, kind, limit.value, statistic, measured, False, said)
    doubt = _doubt(results, found, kind, summary)
    passed = doubt is None
    return Verdict(key, kind, limit.value, statistic, measured, passed, said if passed else f"{said}, but {doubt}")


def _nothing(results: Results, key: str) -> str:
    scored = sum(v.status == "scored" for v in results.videos)
    if not scored:
        return f"none of {_count(len(results.videos), 'video')} was scored; see the reasons in the report"
    return f"{key} has no finite value in {_count(scored, 'scored video')}; see the report"


def _doubt(results: Results, key: str, kind: Kind, summary: SummaryRecord) -> str | None:
    """Why a value that keeps to its limit does not count; None if it does."""
    share = value(summary.infinite_share)
    if kind == "max" and share > 0:
        return f"{share:.0%} of the videos are infinite (their first segment scored 0)"
    failed = sum(v.status == "failed" for v in results.videos)
    if failed:
        return f"{failed} of {_count(len(results.videos), 'video')} failed"
    if results.missing:
        return f"{_count(len(results.missing), 'entry', 'entries')} of the benchmark without a video"
    if kind == "max" and any(q.key == key for q in results.quantities):
        loud = [(v.name, w.kind) for v in results.videos for w in v.warnings if w.loud]
        if loud:
            names = len({name for name, _ in loud})
            return f"{_count(names, 'video')} ({loud[0][0]}: {loud[0][1]}, for one) make drift mean nothing"
    return None


def _estimate(summary: SummaryRecord, statistic: Statistic) -> Estimate:
    record = {"mean": summary.mean, "median": summary.median, "trimmed_mean": summary.trimmed_mean}[statistic]
    return Estimate(value(record.value), value(record.low), value(record.high))


def _told(e: Estimate) -> str:
    return f"{e.value:.4g}" + (f" [{e.low:.4g}, {e.high:.4g}]" if math.isfinite(e.low) else " (one video, no interval)")


def _count(number: int, one: str, several: str | None = None) -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"
