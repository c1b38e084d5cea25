"""The record of an evaluation, as results.json has it: everything that a report, a comparison or a gate reads."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from blockvid.errors import InputError
from blockvid.evaluation.metric import Tier
from blockvid.evaluation.statistics import Direction
from blockvid.files import replacing

FILE = "results.json"
TABLE = "results.csv"
SCHEMA = "results.schema.json"
"""Beside this module, and published with the package."""


def _number(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


Number = Annotated[float | Literal["inf", "-inf"] | None, BeforeValidator(_number)]
"""JSON has no infinity: "inf" and "-inf" stand for it. None: it could not be measured."""


def value(number: Number) -> float:
    """As a float; nan for None."""
    return math.nan if number is None else float(number)


class Record(BaseModel):
    """A part of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MetricRecord(Record):
    """A metric that was computed; scores are filed under its key."""

    key: str
    """Name, tier and the first 8 digits of its model's sha256: "clarity@core"."""
    name: str
    tier: Tier
    title: str
    formula: str
    better: Direction | None
    bounds: tuple[float, float] | None = None
    model: str | None = None
    """sha256 of its weights."""


class Quantity(Record):
    """What drifts: a quantity of the profile, and the metric that stands for it at this tier."""

    name: str
    """As in "vde_clarity"."""
    key: str
    """With tier and model, as its metric's: "vde_clarity@core"."""
    metric: str
    """The metric's key."""


class RobustRecord(Record):
    """`RobustResult`, flattened; relative unless said otherwise."""

    total: Number
    drift: tuple[Number, ...]
    slope: Number
    """Theil-Sen, relative to the reference, per segment."""
    slope_low: Number
    slope_high: Number
    end_minus_start: Number
    """In score units."""
    worst_segment: int | None
    time_to_failure: Number
    """Share of the video, 0 to 1; None: it never failed, or nothing was measured (see `flags`)."""
    noise_floor: Number
    flags: tuple[str, ...]


class DriftRecord(Record):
    """Drift of one video in one quantity."""

    vde: Number
    per_weight: Number
    """VDE over the sum of weights."""
    relative: tuple[Number, ...]
    """|Delta| of segments 2..N."""
    noise_floor: Number
    flags: tuple[str, ...]
    robust: RobustRecord


class Warn(Record):
    """Something a reader must know before believing a number."""

    kind: str
    """Such as "frozen"; a short name that stays."""
    text: str
    """One sentence."""
    loud: bool = False
    """It makes scores meaningless, as a frozen video does all drift."""
    start: float | None = None
    end: float | None = None
    """Where in the video, in seconds; None: everywhere."""


class Still(Record):
    """A small picture of the video."""

    seconds: float
    file: str
    """JPEG, relative to results.json."""


class VideoRecord(Record):
    """One video; a failed one has a reason and nothing else."""

    name: str
    """Unique in this file: the path below what was asked for."""
    path: str
    status: Literal["scored", "failed"]
    reason: str | None = None
    sha256: str | None = None
    """Of the file, or of the frames if there was none."""
    entry: str | None = None
    """Id in the benchmark that it was generated for."""
    prompts: tuple[str, ...] = ()
    width: int = 0
    height: int = 0
    frames: int = 0
    seconds: float = 0.0
    fps: float = 0.0
    variable_rate: bool = False
    segments: tuple[tuple[float, float], ...] = ()
    """In seconds, half-open; empty if it is too short to be cut."""
    scores: dict[str, Number] = Field(default_factory=dict)
    """Of the whole video, by metric key."""
    segment_scores: dict[str, tuple[Number, ...]] = Field(default_factory=dict)
    drift: dict[str, DriftRecord] = Field(default_factory=dict)
    """By key of quantity."""
    curves: dict[str, tuple[Number, ...]] = Field(default_factory=dict)
    """Means of a metric over up to 240 equal parts of the video, for drawing; by metric key."""
    lags: dict[str, tuple[Number, ...]] = Field(default_factory=dict)
    """Similarity of frames by distance in time (`Configuration.lags`), by metric key."""
    colors: tuple[tuple[int, int, int], ...] = ()
    """Mean colour of up to 240 equal parts, 0 to 255: the exposure strip."""
    warnings: tuple[Warn, ...] = ()
    stills: tuple[Still, ...] = ()


class EstimateRecord(Record):
    """A number with its 95 % interval."""

    value: Number
    low: Number
    high: Number


class SummaryRecord(Record):
    """One metric or drift over all videos that have it; infinite values are counted, never averaged in."""

    videos: int
    missing: int
    infinite_share: Number
    mean: EstimateRecord
    median: EstimateRecord
    trimmed_mean: EstimateRecord


class Configuration(Record):
    """What was asked for."""

    profile: str
    tier: Tier
    segments: int
    weights: str
    """Of VDE."""
    robust_weights: str
    """Of the robust total."""
    remainder: str
    stride: int = 1
    """Every so many frames are scored; anything but 1 compares with nobody's published numbers."""
    lags: tuple[float, ...] = ()
    """Seconds."""
    bench: str | None = None


class Provenance(Record):
    """What it was computed with."""

    created: str
    """UTC, ISO 8601."""
    versions: dict[str, str]
    """blockvid, python, torch, numpy, av, ffmpeg, opencv ..."""
    device: str
    threads: int
    models: dict[str, str]
    """sha256 by name of the weights."""
    command: str | None = None


class Results(Record):
    """results.json."""

    version: Literal[1] = 1
    name: str
    """What the report calls this set of videos."""
    configuration: Configuration
    provenance: Provenance
    metrics: tuple[MetricRecord, ...]
    quantities: tuple[Quantity, ...]
    videos: tuple[VideoRecord, ...]
    summary: dict[str, SummaryRecord]
    """By key of metric and by key of quantity (its VDE); "KEY/weight" is VDE over the sum of weights, "KEY/robust" the
    robust total."""
    missing: tuple[str, ...] = ()
    """Entries of the benchmark without a video."""
    absent: dict[str, str] = Field(default_factory=dict)
    """Quantities of the profile that were not measured, each with the metrics it takes."""

    @classmethod
    def read(cls, path: str | Path) -> Results:
        """A results.json, or the folder that holds it. Raises InputError, one line."""
        path = Path(path)
        file = path / FILE if path.is_dir() else path
        try:
            return cls.model_validate_json(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file} cannot be read ({error}); name the folder of a `blockvid eval` run") from None
        except ValidationError as error:
            finding = error.errors(include_url=False)[0]
            where = ".".join(str(step) for step in finding["loc"]) or "the file"
            raise InputError(
                f"{file}: {where} is not as written by this version ({finding['msg']}); run `blockvid eval` again"
            ) from None

    def text(self) -> str:
        """The file's content."""
        return self.model_dump_json(indent=1) + "\n"

    def write(self, folder: Path) -> None:
        """results.json and results.csv in a folder, which is made. Raises InputError if the system refuses."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder} cannot be made ({error.strerror}); name another folder") from None
        for name, text in ((FILE, self.text()), (TABLE, csv_text(self))):
            with replacing(folder / name) as part:
                part.write_text(text, encoding="utf-8")

    def find(self, name: str) -> str:
        """The full key of a metric or quantity: itself, or of the one with this name before the "@".

        Raises InputError if there is none, or several.
        """
        keys = [*(m.key for m in self.metrics), *(q.key for q in self.quantities)]
        found = [key for key in keys if name in (key, key.split("@")[0])]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"{name!r} could be {' or '.join(found)}; write one of them in full")
        raise InputError(f"{name!r} was not measured; use one of {', '.join(_names(keys))}")

    def values(self, key: str) -> dict[str, float]:
        """Per video the score or VDE under a full key; nan where it has none."""
        is_drift = any(q.key == key for q in self.quantities)
        return {
            v.name: (value(v.drift[key].vde) if key in v.drift else math.nan) if is_drift else value(v.scores.get(key))
            for v in self.videos
        }

    def better(self, key: str) -> Direction | None:
        """Which values under a full key are better: drift is better when lower."""
        directions: list[Direction | None] = [metric.better for metric in self.metrics if metric.key == key]
        return directions[0] if directions else "lower"


def _names(keys: Iterable[str]) -> list[str]:
    return sorted({key.split("@")[0] for key in keys})


def csv_text(results: Results) -> str:
    """One row a video: its facts, scores by key of metric, drift by key of quantity (names as in `summary`).

    Missing numbers are empty, infinite ones "inf".
    """
    metrics = [metric.key for metric in results.metrics]
    quantities = [quantity.key for quantity in results.quantities]
    facts = ("name", "path", "status", "reason", "sha256", "entry", "width", "height", "frames", "seconds", "fps")
    of_drift = [f"{key}{of}" for key in quantities for of in ("", "/weight", "/robust")]
    lines = io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    table.writerow([*facts, *metrics, *of_drift])
    for video in results.videos:
        numbers = {**{key: value(number) for key, number in video.scores.items()}, **drifts(video)}
        values = [numbers.get(key, math.nan) for key in (*metrics, *of_drift)]
        known = [getattr(video, fact) for fact in facts]
        table.writerow([*known, *("" if math.isnan(number) else repr(number) for number in values)])
    return lines.getvalue()


def drifts(video: VideoRecord) -> dict[str, float]:
    """Its numbers of drift, named as in `Results.summary`.

    The robust total of a reference that is next to 0 (a first half without motion, say) is a quotient by eps: infinite.
    """
    found: dict[str, float] = {}
    for key, drift in video.drift.items():
        found[key] = value(drift.vde)
        found[f"{key}/weight"] = value(drift.per_weight)
        small = "reference is small" in drift.robust.flags and value(drift.robust.total) > 0
        found[f"{key}/robust"] = math.inf if small else value(drift.robust.total)
    return found


def schema_text() -> str:
    """The JSON Schema of results.json, as shipped in results.schema.json."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Results.model_json_schema()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
