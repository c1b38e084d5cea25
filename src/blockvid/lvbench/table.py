"""How many videos of which class come from where: the paper's Table 1, and the same table of any entries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from blockvid.lvbench.entry import CLASSES, Entry, ObjectClass

TOTAL = "LV-Bench"
"""Name of the last row, as printed."""


@dataclass(frozen=True)
class Row:
    """The videos of one source by class; ``label`` says whether they were counted here or quoted from the paper."""

    source: str
    videos: int
    classes: Mapping[ObjectClass, int]
    label: Literal["counted", "quoted"] = "counted"

    @property
    def unclassified(self) -> int:
        """Videos of no stated class."""
        return self.videos - sum(self.classes.values())

    def share(self, object_class: ObjectClass) -> float:
        """Part of all videos of the source that are of this class, in [0, 1]."""
        return self.classes[object_class] / self.videos if self.videos else 0.0


def statistics(entries: Iterable[Entry], total: str = "all") -> tuple[Row, ...]:
    """One row a source, in order of name, and the row ``total``; entries without a source are under "unknown"."""
    groups: dict[str, list[Entry]] = {}
    everything: list[Entry] = []
    for entry in entries:
        groups.setdefault(entry.source or "unknown", []).append(entry)
        everything.append(entry)
    return (*(_row(source, groups[source]) for source in sorted(groups)), _row(total, everything))


def _row(source: str, entries: list[Entry]) -> Row:
    return Row(source, len(entries), {kind: sum(e.object_class == kind for e in entries) for kind in CLASSES})


def _quoted(source: str, videos: int, human: int, animal: int, environment: int) -> Row:
    return Row(source, videos, {"human": human, "animal": animal, "environment": environment}, "quoted")


TABLE_1 = (
    _quoted("DanceTrack", 66, 66, 0, 0),
    _quoted("GOT-10k", 272, 177, 54, 41),
    _quoted("HD-VILA-100M", 117, 47, 35, 35),
    _quoted("ShareGPT4V", 545, 381, 82, 82),
    _quoted(TOTAL, 1000, 671, 171, 158),
)
"""As printed in the paper; nothing here has counted the videos."""
