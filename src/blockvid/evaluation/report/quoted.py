"""What others published, apart from what was measured."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from blockvid.evaluation.reference import LABEL, Published, Row, published
from blockvid.evaluation.report.markup import Html, element, joined
from blockvid.evaluation.report.numbers import NONE, fixed
from blockvid.evaluation.report.tables import Column, cell, table
from blockvid.evaluation.results import Results

PLACES = 4
"""Decimals that were printed."""


def quoted_tables(results: Results) -> Html:
    """The rows of papers as they were printed, one table for each of theirs."""
    record = published()
    groups = itertools.groupby(record.rows, key=lambda row: (row.source, row.table))
    tables = [_table(record, source, name, list(rows)) for (source, name), rows in groups]
    return joined([element("p", None, _comparable(results)), *tables])


def _comparable(results: Results) -> str:
    same = "vbench tier with the release profile, 10 segments, linear weights and stride 1"
    c = results.configuration
    asked = (c.profile, c.segments, c.weights, c.stride) == ("release", 10, "linear", 1)
    there = any(m.tier == "vbench" for m in results.metrics)
    mine = "what this run has of that tier was computed so" if asked and there else "this run is not that"
    return (
        f"These numbers are {LABEL} here. They compare to the {same} only ({mine}), and even then only over the same "
        "videos, which are not published. Their data set scores of imaging quality are divided by 100."
    )


def _table(record: Published, source: str, name: str, rows: Sequence[Row]) -> Html:
    names = [m for m in record.metrics if any(m in row.values for row in rows)]
    columns = [
        Column("Method", css="words"),
        *(Column(record.metrics[m].title, f"{record.metrics[m].direction} is better", under=LABEL) for m in names),
    ]
    body = [
        element(
            "tr",
            None,
            element("th", {"scope": "row"}, row.method),
            *(cell(fixed(row.values[m], PLACES) if m in row.values else NONE) for m in names),
        )
        for row in rows
    ]
    of = record.sources[source]
    caption = f"{LABEL.capitalize()}: {name}, {rows[0].benchmark}. {of.title}"
    return joined([table(caption, columns, body, "quoted"), element("p", {"class": "quiet note"}, of.note)])
