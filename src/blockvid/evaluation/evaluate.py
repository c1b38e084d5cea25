"""Evaluate videos: decode each once, keep its rows, and make the record that reports and comparisons read."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from blockvid.errors import InputError
from blockvid.evaluation import catalogue, profiles
from blockvid.evaluation.catalogue import Models
from blockvid.evaluation.crew import Job, Work, failed, processors, run
from blockvid.evaluation.metric import Metric, Tier
from blockvid.evaluation.profiles import Profile, Release, chosen, quantity_key
from blockvid.evaluation.results import (
    Configuration,
    EstimateRecord,
    MetricRecord,
    Provenance,
    Quantity,
    Results,
    SummaryRecord,
    VideoRecord,
    drifts,
    value,
)
from blockvid.evaluation.rows import Store
from blockvid.evaluation.scan import Scan, extractors
from blockvid.evaluation.scorers.opencv import opencv
from blockvid.evaluation.scoring import LAGS, Facets, Scoring
from blockvid.evaluation.series import Caption
from blockvid.evaluation.sources import Source, Videos, borders, sources
from blockvid.evaluation.statistics import Estimate, summary


@dataclass(frozen=True)
class Progress:
    """How far an evaluation is; told after every few frames and every video."""

    videos: int
    done: int
    """Of the videos, failed ones included."""
    failed: int
    running: tuple[str, ...]
    """Names of videos that frames were read of and that are not done."""
    frames: int
    """Read so far."""
    expected: int
    """Frames to be read in all, as the containers have it; what is stored need not be read."""
    elapsed: float
    """Seconds since frames began to be read."""
    video: VideoRecord | None = None
    """The one that was just done."""

    @property
    def remaining(self) -> float | None:
        """Seconds to go, at the rate so far; None where that is unknown."""
        return self.elapsed * max(self.expected - self.frames, 0) / self.frames if self.frames else None


Watch = Callable[[Progress], None]


def _unwatched(progress: Progress) -> None:
    del progress


@dataclass(frozen=True)
class Evaluation:
    """All that determines an evaluation, and how it is carried out."""

    profile: Profile = field(default_factory=Release)
    tier: Tier = "core"
    metrics: tuple[Metric, ...] | None = None
    """None: all up to the tier (`catalogue.metrics`)."""
    models: Models = field(default_factory=Models)
    """What those of higher tiers are computed with."""
    stride: int = 1
    """Look at every so many frames only; anything but 1 compares with nobody's published numbers."""
    name: str = "videos"
    """What the report calls them."""
    cache: Path | None = None
    """Where rows are kept, so that no frame is looked at twice; None: nowhere."""
    stills: Path | None = None
    """A folder, beside the results.json to be, that gets small pictures; None: none are wanted."""
    workers: int = 1
    """Videos at a time; one is done in this process, several in processes of their own (guard the script's main)."""
    threads: int | None = None
    """Of torch in each; None: the processors divided among the workers. Networks depend on it in the eighth digit, and
    nothing else does: give a number to have every bit the same whatever the workers."""
    device: str = "cpu"
    batch: int = 8
    """Frames that go through a network together; no score depends on it."""

    def __post_init__(self) -> None:
        for what, number in (("stride", self.stride), ("workers", self.workers), ("batch", self.batch)):
            if number < 1:
                raise InputError(f"{what} {number} is less than 1; use 1 or more")

    def __call__(
        self,
        videos: Videos,
        captions: Mapping[str, Sequence[Caption]] | None = None,
        borders: Mapping[str, Sequence[int]] | None = None,
        watch: Watch = _unwatched,
    ) -> Results:
        """Evaluate; a video that cannot be scored has a failed record with its reason.

        `captions` and `borders` (frames with which chunks begin) are by name of video; without, borders are those of
        the run that made it. Raises InputError, before any work, for videos, names, weights or packages that are not
        there, and where nothing can be stored. Interrupted, it goes on from its cache when it is run again.
        """
        metrics = self.metrics if self.metrics is not None else catalogue.metrics(self.tier, self.models)
        scan = Scan(extractors(metrics), self.stride, self.batch, self.device)
        scoring = Scoring(metrics, self.profile, self.stride)
        facets = _facets(sources(videos), captions or {}, borders or {})
        with ExitStack() as held:
            cache = self.cache or Path(held.enter_context(tempfile.TemporaryDirectory(prefix="blockvid-")))
            work = Work(scan, scoring, cache, self.stills)
            records = _Run(work, facets, watch).go(self.workers, self.threads or max(1, processors() // self.workers))
        return self._results(metrics, records)

    def _results(self, metrics: tuple[Metric, ...], videos: tuple[VideoRecord, ...]) -> Results:
        quantities = chosen(self.profile, metrics)
        keys = {name: quantity_key(name, metric) for name, metric in quantities.items()}
        return Results(
            name=self.name,
            configuration=Configuration(
                profile=self.profile.name,
                tier=self.tier,
                segments=self.profile.segments,
                weights=self.profile.reading.drift.weights,
                robust_weights=self.profile.reading.robust.weights,
                remainder=self.profile.remainder,
                stride=self.stride,
                lags=LAGS,
            ),
            provenance=self._provenance(metrics),
            metrics=tuple(_metric_record(metric) for metric in metrics),
            quantities=tuple(Quantity(name=n, key=keys[n], metric=m.key) for n, m in quantities.items()),
            videos=videos,
            summary=summaries(videos, [metric.key for metric in metrics], list(keys.values())),
            absent={n: " or ".join(of) for n, of in self.profile.quantities.items() if n not in quantities},
        )

    def _provenance(self, metrics: tuple[Metric, ...]) -> Provenance:
        return Provenance(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions={
                "blockvid": version("blockvid"),
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
                "av": av.__version__,
                "ffmpeg": av.ffmpeg_version_info,
                "opencv": opencv().__version__,
            },
            device=self.device,
            threads=self.threads or max(1, processors() // self.workers),
            models={"+".join(e.name for e in m.extractors): m.model for m in metrics if m.model},
        )


def evaluate(
    videos: Videos,
    profile: str | Profile = "release",
    tier: Tier = "light",
    segments: int = 10,
    cache: str | Path | None = None,
    workers: int = 1,
    watch: Watch = _unwatched,
) -> Results:
    """Score videos and measure how they drift; `Evaluation` has all options.

    `videos` are a file, a folder, several of both, or by name files and frames in memory with their rate. `segments` is
    of a profile that is only named.
    """
    of_name = profiles.profile(profile, segments) if isinstance(profile, str) else profile
    folder = None if cache is None else Path(cache)
    return Evaluation(of_name, tier, cache=folder, workers=workers)(videos, watch=watch)


class _Run:
    """One evaluation under way."""

    def __init__(self, work: Work, facets: Mapping[Source, Facets], watch: Watch) -> None:
        self._work, self._facets, self._watch = work, facets, watch
        self._records: dict[str, VideoRecord] = {}
        self._frames: dict[int, int] = {}
        self._expected: dict[int, int] = {}
        self._jobs: list[Job] = []
        self._began = time.perf_counter()

    def go(self, workers: int, threads: int) -> tuple[VideoRecord, ...]:
        self._look()
        if any(self._expected.values()):
            self._work.scan.check()
        self._began = time.perf_counter()
        self._tell()
        run(self._work, self._jobs, workers, threads, self._tick, self._finished)
        return tuple(self._records[source.name] for source in self._facets)

    def _look(self) -> None:
        """Which videos there are to do, and how much there is to do in each."""
        store = Store(self._work.store)
        for source, facets in self._facets.items():
            video = VideoRecord(name=source.name, path=str(source.path or ""), status="failed")
            try:
                video = video.model_copy(update={"sha256": source.sha256()})
                stored = store.video(video.sha256 or "").has(self._work.scan.extractors, self._work.scan.stride)
                info = None if stored else source.info()
            except InputError as error:
                self._records[source.name] = failed(video, error)
                continue
            self._expected[len(self._jobs)] = 0 if info is None else info.frames or round(info.seconds * info.fps)
            self._jobs.append(Job(source, video, facets))

    def _tick(self, index: int, frames: int) -> None:
        self._frames[index] = self._frames.get(index, 0) + frames
        self._tell()

    def _finished(self, index: int, video: VideoRecord) -> None:
        self._records[video.name] = video
        self._expected[index] = self._frames.get(index, 0)
        self._tell(video)

    def _tell(self, video: VideoRecord | None = None) -> None:
        running = [self._jobs[index].video.name for index in self._frames]
        self._watch(
            Progress(
                videos=len(self._facets),
                done=len(self._records),
                failed=sum(record.status == "failed" for record in self._records.values()),
                running=tuple(name for name in running if name not in self._records),
                frames=sum(self._frames.values()),
                expected=sum(max(self._expected[i], self._frames.get(i, 0)) for i in self._expected),
                elapsed=time.perf_counter() - self._began,
                video=video,
            )
        )


def summaries(videos: Sequence[VideoRecord], metrics: Sequence[str], quantities: Sequence[str]) -> dict[str, Any]:
    """Over videos, by key as in `Results.summary`; a failed video's numbers are missing."""
    drift = [drifts(video) for video in videos]
    found = {key: [value(video.scores.get(key)) for video in videos] for key in metrics}
    for key in quantities:
        for of in ("", "/weight", "/robust"):
            found[f"{key}{of}"] = [numbers.get(f"{key}{of}", np.nan) for numbers in drift]
    return {key: _summary_record(np.array(numbers)) for key, numbers in found.items()}


def _summary_record(values: np.ndarray) -> SummaryRecord:
    found = summary(values)
    return SummaryRecord(
        videos=found.count,
        missing=found.missing,
        infinite_share=found.infinite_share,
        mean=_estimate(found.mean),
        median=_estimate(found.median),
        trimmed_mean=_estimate(found.trimmed_mean),
    )


def _estimate(of: Estimate) -> EstimateRecord:
    return EstimateRecord(value=of.value, low=of.low, high=of.high)


def _metric_record(metric: Metric) -> MetricRecord:
    return MetricRecord(
        key=metric.key,
        name=metric.name,
        tier=metric.tier,
        title=metric.title,
        formula=metric.formula,
        better=metric.better,
        bounds=metric.bounds,
        model=metric.model,
    )


def _facets(
    found: tuple[Source, ...], captions: Mapping[str, Sequence[Caption]], chunks: Mapping[str, Sequence[int]]
) -> dict[Source, Facets]:
    names = {source.name for source in found}
    for name in (*captions, *chunks):
        if name not in names:
            raise InputError(f"{name!r} is none of the videos; use a name such as {min(names)!r}")
    return {source: Facets(_borders(source, chunks), tuple(captions.get(source.name, ()))) for source in found}


def _borders(source: Source, given: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    if source.name in given:
        return tuple(given[source.name])
    return () if source.path is None else borders(source.path)
