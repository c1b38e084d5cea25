"""Whether one set of videos scores better than another on the same prompts: paired, corrected, never across tiers."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from blockvid.errors import InputError
from blockvid.evaluation import statistics
from blockvid.evaluation.results import (
    Configuration,
    EstimateRecord,
    MetricRecord,
    Number,
    Quantity,
    Record,
    Results,
    VideoRecord,
    value,
)
from blockvid.evaluation.statistics import Bootstrap, Direction, Estimate, PairedPermutation, holm

FILE = "comparison.json"
MUST_AGREE: Mapping[str, str] = {
    "profile": "profile",
    "segments": "number of segments",
    "weights": "weights",
    "robust_weights": "weights of the robust form",
    "remainder": "treatment of left-over frames",
    "stride": "stride",
}
"""Fields of `Configuration` that change what a number means."""


class Run(Record):
    """One of the runs that were compared."""

    label: str
    """Its name; with a number where several have the same."""
    created: str
    videos: int
    """All that it has, failed ones too."""
    failed: int
    loud: tuple[str, ...]
    """Common videos of which a loud warning says that drift means nothing, such as frozen ones."""


class Left(Record):
    """A metric or quantity that was not tested."""

    name: str
    why: str


class Difference(Record):
    """Runs a and b in one metric or quantity, over the videos on which both have a value."""

    key: str
    """With tier and model."""
    a: str
    b: str
    better: Direction
    pairs: int
    finite_pairs: int
    """Those that the difference and p are taken over."""
    infinite_share_a: Number
    infinite_share_b: Number
    mean_a: Number
    """Over the finite pairs, as is mean_b."""
    mean_b: Number
    difference: EstimateRecord
    """Mean of a - b with its 95 % bootstrap interval."""
    median_difference: EstimateRecord
    p: float
    """Of the paired permutation test."""
    p_holm: float
    """Corrected for the number of metrics and quantities that these two runs are compared in."""
    cliffs_delta: Number
    """In [-1, 1]; positive where a tends to be larger."""
    win_rate: Number
    """Share of the pairs in which a is better, ties half."""


class Comparison(Record):
    """comparison.json: every pair of runs in every metric and quantity that they share."""

    version: Literal[1] = 1
    runs: tuple[Run, ...]
    paired_by: Literal["entry", "name"]
    """Videos belong together that were made for the same entry of the benchmark, or that have the same name."""
    videos: tuple[str, ...]
    """What all runs have scored, by entry or name."""
    configuration: Configuration
    """Of the first run; the others agree in all that matters."""
    metrics: tuple[MetricRecord, ...]
    quantities: tuple[Quantity, ...]
    differences: tuple[Difference, ...]
    left_out: tuple[Left, ...]

    def text(self) -> str:
        """The file's content."""
        return self.model_dump_json(indent=1) + "\n"


def compare(
    runs: Sequence[Results], bootstrap: Bootstrap | None = None, test: PairedPermutation | None = None
) -> Comparison:
    """Every pair of runs, over the videos that all of them have scored, in every metric that all of them have.

    Raises InputError for fewer than two runs, runs that differ in profile, segments, weights, remainder or stride, a
    metric that two runs have of different tiers or models, and runs without a common video or metric.
    """
    if len(runs) < 2:
        raise InputError(f"{len(runs)} run is nothing to compare; give two or more folders of `blockvid eval`")
    labels = _labels(runs)
    _check_configurations(runs, labels)
    _check_metrics(runs, labels)
    paired_by = _paired_by(runs)
    common = _common(runs, paired_by, labels)
    keys, left = _keys(runs, labels)
    differences: list[Difference] = []
    for a, b in itertools.combinations(range(len(runs)), 2):
        found = []
        for key in keys:
            of_a, of_b = (_values(runs[i], key, paired_by, common) for i in (a, b))
            both = [k for k in of_a if not (math.isnan(of_a[k]) or math.isnan(of_b[k]))]
            if not both:
                left.append(Left(name=key, why=f"no video has a value of it in both {labels[a]} and {labels[b]}"))
                continue
            tested = statistics.compare(of_a, of_b, runs[a].better(key) or "lower", bootstrap, test)
            found.append((key, tested, _means(of_a, of_b, both)))
        corrected = holm([tested.p for _, tested, _ in found])
        differences += [
            _difference(key, (labels[a], labels[b]), runs[a].better(key) or "lower", tested, means, p)
            for (key, tested, means), p in zip(found, corrected, strict=True)
        ]
    return Comparison(
        runs=tuple(_run(run, label, paired_by, common) for run, label in zip(runs, labels, strict=True)),
        paired_by=paired_by,
        videos=common,
        configuration=runs[0].configuration,
        metrics=tuple(m for m in runs[0].metrics if all(m.key in _metric_keys(run) for run in runs)),
        quantities=tuple(q for q in runs[0].quantities if q.key in keys),
        differences=tuple(differences),
        left_out=tuple(left),
    )


def together(runs: Sequence[Results], comparison: Comparison) -> tuple[tuple[VideoRecord, ...], ...]:
    """Per common video the records of all runs."""
    by = [{_identity(v, comparison.paired_by): v for v in _scored(run)} for run in runs]
    return tuple(tuple(of[name] for of in by) for name in comparison.videos)


def _labels(runs: Sequence[Results]) -> tuple[str, ...]:
    several = Counter(run.name for run in runs)
    seen: Counter[str] = Counter()
    labels = []
    for run in runs:
        seen[run.name] += 1
        labels.append(run.name if several[run.name] == 1 else f"{run.name} ({seen[run.name]})")
    return tuple(labels)


def _check_configurations(runs: Sequence[Results], labels: Sequence[str]) -> None:
    first = runs[0].configuration.model_dump()
    for run, label in zip(runs[1:], labels[1:], strict=True):
        for field, words in MUST_AGREE.items():
            ours, theirs = first[field], run.configuration.model_dump()[field]
            if ours != theirs:
                raise InputError(
                    f"{words} is {ours} in {labels[0]} and {theirs} in {label}, so their numbers do not compare; "
                    "evaluate both alike"
                )


def _check_metrics(runs: Sequence[Results], labels: Sequence[str]) -> None:
    """No name stands for different tiers, models or metrics in two runs, unless both runs have them all."""
    for (a, of_a), (b, of_b) in itertools.combinations(zip(runs, labels, strict=True), 2):
        for name in sorted(_by_name(a).keys() & _by_name(b).keys()):
            if _by_name(a)[name] != _by_name(b)[name]:
                ours, theirs = (", ".join(sorted(_by_name(run)[name])) for run in (a, b))
                raise InputError(
                    f"{name} is {ours} in {of_a} and {theirs} in {of_b}, and tiers and models do not compare; "
                    "evaluate both with the same --tier and weights"
                )


def _by_name(run: Results) -> dict[str, set[str]]:
    """What stands behind each name: keys with whole models, and the metric of a quantity."""
    found: dict[str, set[str]] = {}
    for m in run.metrics:
        found.setdefault(m.name, set()).add(f"{m.key} ({m.model})" if m.model else m.key)
    for q in run.quantities:
        found.setdefault(q.name, set()).add(f"{q.key} of {q.metric}")
    return found


def _scored(run: Results) -> tuple[VideoRecord, ...]:
    return tuple(v for v in run.videos if v.status == "scored")


def _identity(video: VideoRecord, paired_by: Literal["entry", "name"]) -> str:
    return (video.entry or "") if paired_by == "entry" else video.name


def _paired_by(runs: Sequence[Results]) -> Literal["entry", "name"]:
    """By entry where every video has one, no two of a run the same."""
    entries = [[v.entry for v in _scored(run)] for run in runs]
    return "entry" if all(of and all(of) and len(set(of)) == len(of) for of in entries) else "name"


def _common(runs: Sequence[Results], paired_by: Literal["entry", "name"], labels: Sequence[str]) -> tuple[str, ...]:
    names = [{_identity(v, paired_by) for v in _scored(run)} for run in runs]
    common = tuple(sorted(set.intersection(*names)))
    if not common:
        examples = ", ".join(f"{label}: {min(of, default='none')}" for label, of in zip(labels, names, strict=True))
        raise InputError(
            f"no {paired_by} of a video is scored in every run ({examples}); give videos of the same prompts the same "
            "file name below their folders, or name them by entry of a benchmark"
        )
    return common


def _metric_keys(run: Results) -> set[str]:
    return {m.key for m in run.metrics}


def _keys(runs: Sequence[Results], labels: Sequence[str]) -> tuple[list[str], list[Left]]:
    """What is tested, quantities first, and what is not."""
    everywhere = [{*(q.key for q in run.quantities), *_metric_keys(run)} for run in runs]
    listed = [key for run in runs for key in (*(q.key for q in run.quantities), *(m.key for m in run.metrics))]
    keys, left = [], []
    for key in dict.fromkeys(listed):
        absent = [label for label, of in zip(labels, everywhere, strict=True) if key not in of]
        if absent:
            left.append(Left(name=key, why=f"not measured in {', '.join(absent)}"))
        elif runs[0].better(key) is None:
            left.append(Left(name=key, why="neither more nor less of it is better"))
        else:
            keys.append(key)
    if not keys:
        raise InputError(f"{' and '.join(labels)} share no metric; evaluate them with the same --tier and --profile")
    quantities = {q.key for q in runs[0].quantities}
    return sorted(keys, key=lambda key: key not in quantities), left


def _values(run: Results, key: str, paired_by: Literal["entry", "name"], common: Sequence[str]) -> dict[str, float]:
    values = run.values(key)
    of = {_identity(v, paired_by): values[v.name] for v in _scored(run)}
    return {name: of[name] for name in common}


def _means(a: Mapping[str, float], b: Mapping[str, float], both: Sequence[str]) -> tuple[float, float]:
    finite = [k for k in both if math.isfinite(a[k]) and math.isfinite(b[k])]
    if not finite:
        return math.nan, math.nan
    return math.fsum(a[k] for k in finite) / len(finite), math.fsum(b[k] for k in finite) / len(finite)


def _difference(
    key: str,
    labels: tuple[str, str],
    better: Direction,
    tested: statistics.Comparison,
    means: tuple[float, float],
    corrected: float,
) -> Difference:
    return Difference(
        key=key,
        a=labels[0],
        b=labels[1],
        better=better,
        pairs=tested.pairs,
        finite_pairs=tested.finite_pairs,
        infinite_share_a=tested.infinite_share_a,
        infinite_share_b=tested.infinite_share_b,
        mean_a=means[0],
        mean_b=means[1],
        difference=_record(tested.difference),
        median_difference=_record(tested.median_difference),
        p=tested.p,
        p_holm=corrected,
        cliffs_delta=tested.cliffs_delta,
        win_rate=tested.win_rate,
    )


def _record(e: Estimate) -> EstimateRecord:
    return EstimateRecord(value=e.value, low=e.low, high=e.high)


def _run(run: Results, label: str, paired_by: Literal["entry", "name"], common: Sequence[str]) -> Run:
    loud = [_identity(v, paired_by) for v in _scored(run) if any(w.loud for w in v.warnings)]
    return Run(
        label=label,
        created=run.provenance.created,
        videos=len(run.videos),
        failed=sum(v.status == "failed" for v in run.videos),
        loud=tuple(name for name in loud if name in common),
    )


def significant(difference: Difference, level: float = 0.05) -> bool:
    """Whether a and b differ by more than chance explains, after correction."""
    return difference.p_holm < level and not math.isnan(value(difference.difference.value))
