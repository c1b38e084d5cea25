"""Numbers that others have published, to print beside one's own: quoted, never measured here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, model_validator

from blockvid.errors import InputError
from blockvid.evaluation.statistics import Direction

FILE = "published.json"
"""Beside this module."""
LABEL = "quoted, not measured"
"""What a report writes at every such row."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Metric(_Record):
    """A column of a published table."""

    title: Annotated[str, Field(min_length=1)]
    """As printed."""
    direction: Direction
    """Which values are better."""


class Source(_Record):
    """A publication."""

    title: Annotated[str, Field(min_length=1)]
    note: str
    """How the numbers came here, and what is not known of them."""


class Row(_Record):
    """What one publication reports of one method."""

    source: str
    table: str
    benchmark: Literal["LV-Bench", "VBench"]
    method: str
    measured: Literal[False]
    """Never: these values were copied from a table."""
    values: Annotated[Mapping[str, float], Field(min_length=1), AfterValidator(MappingProxyType), PlainSerializer(dict)]
    """By name of metric, raw as printed: VBench scores in [0, 1], VDE at least 0."""


class Published(_Record):
    """All quoted rows."""

    version: Literal[1]
    metrics: Annotated[Mapping[str, Metric], AfterValidator(MappingProxyType), PlainSerializer(dict)]
    sources: Annotated[Mapping[str, Source], AfterValidator(MappingProxyType), PlainSerializer(dict)]
    rows: tuple[Row, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for row in self.rows:
            if row.source not in self.sources:
                raise ValueError(f"{row.method}: source {row.source!r} is not among the sources")
            if unknown := set(row.values) - set(self.metrics):
                raise ValueError(f"{row.method}: metrics {sorted(unknown)} have no direction")
        places = [(row.source, row.table, row.method) for row in self.rows]
        if len(set(places)) < len(places):
            raise ValueError("a method stands twice in a table")
        return self

    def of(self, benchmark: Literal["LV-Bench", "VBench"]) -> tuple[Row, ...]:
        """The rows of one benchmark, in the order of their tables; values of different benchmarks do not compare."""
        return tuple(row for row in self.rows if row.benchmark == benchmark)

    def direction(self, metric: str) -> Direction:
        """Whether lower or higher values of a metric are better; InputError for one that nobody published."""
        if metric not in self.metrics:
            raise InputError(f"metric {metric!r} has no published values; use one of {', '.join(self.metrics)}")
        return self.metrics[metric].direction


def published() -> Published:
    """The paper's Tables 2 and 3, and what a follow-up adds to Table 2."""
    return Published.model_validate_json(
        resources.files("blockvid.evaluation").joinpath(FILE).read_text(encoding="utf-8")
    )
