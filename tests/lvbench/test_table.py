"""The paper's Table 1, compared with itself, and the same table of entries."""

from __future__ import annotations

import re

import pytest

from blockvid.lvbench import CLASSES, TABLE_1, Entry, Row, statistics

PRINTED = """
DanceTrack 66 Humans (66, 100%)
GOT-10k 272 Humans (177, 65%) Animals (54, 20%) Environment (41, 15%)
HD-VILA-100M 117 Humans (47, 40%) Animals (35, 30%) Environment (35, 30%)
ShareGPT4V 545 Humans (381, 70%) Animals (82, 15%) Environment (82, 15%)
LV-Bench 1000 Humans (671, 67%) Animals (171, 17%) Environment (158, 16%)
"""
CELLS = re.compile(r"(Humans|Animals|Environment) \((\d+), (\d+)%\)")


@pytest.mark.parametrize(("row", "line"), list(zip(TABLE_1, PRINTED.split("\n")[1:], strict=False)))
def test_table_1_is_quoted_as_printed_and_its_percentages_follow(row: Row, line: str) -> None:
    source, videos = line.split()[:2]
    assert (row.source, row.videos, row.label) == (source, int(videos), "quoted")
    printed = {name[:3].lower(): (int(count), int(percent)) for name, count, percent in CELLS.findall(line)}
    for kind in CLASSES:
        assert (row.classes[kind], round(100 * row.share(kind))) == printed.get(kind[:3], (0, 0))


def test_table_1_adds_up() -> None:
    *sources, total = TABLE_1
    assert [row.unclassified for row in TABLE_1] == [0] * 5
    assert sum(row.videos for row in sources) == total.videos == 1000
    for kind in CLASSES:
        assert sum(row.classes[kind] for row in sources) == total.classes[kind]


def entries(row: Row) -> list[Entry]:
    segments = [{"start": 0, "end": 50, "caption": "a lamp"}]
    kinds = [kind for kind in CLASSES for _ in range(row.classes[kind])]
    return [
        Entry.parse({"id": f"{row.source}_{n}", "source": row.source, "class": k, "duration": 50, "segments": segments})
        for n, k in enumerate(kinds)
    ]


def test_entries_in_table_1s_numbers_make_table_1() -> None:
    *sources, total = TABLE_1
    counted = statistics([e for row in sources for e in entries(row)], total.source)
    assert [(r.source, r.videos, r.classes) for r in counted] == [(r.source, r.videos, r.classes) for r in TABLE_1]
    assert {row.label for row in counted} == {"counted"}


def test_what_is_not_stated_is_counted_too() -> None:
    plain = Entry.parse({"id": "a", "duration": 1, "segments": [{"start": 0, "end": 1, "caption": "a lamp"}]})
    unknown, everything = statistics([plain])
    assert (unknown.source, unknown.videos, unknown.unclassified, unknown.share("human")) == ("unknown", 1, 1, 0)
    assert (everything.source, everything.videos) == ("all", 1)
    assert statistics([])[0].share("human") == 0
