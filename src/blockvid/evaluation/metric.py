"""What a number about a video is: its name, tier and formula, and how it follows from rows of frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from blockvid.evaluation.series import Extractor, Footage, Series
from blockvid.evaluation.statistics import Direction

Tier = Literal["core", "light", "vbench"]
"""core: no model; light: weights from a Python package; vbench: the networks that VBench names."""
TIERS: tuple[Tier, ...] = ("core", "light", "vbench")


@dataclass(frozen=True)
class Metric:
    """One score of a span of frames; higher tiers have metrics of the same name with other models behind them."""

    name: str
    """As in "subject_consistency"; `key` adds what it was computed with."""
    tier: Tier
    title: str
    formula: str
    """One line that says what is computed."""
    extractors: tuple[Extractor, ...]
    score: Callable[[Series, range, Footage], float]
    """Of frames in a span; nan where they have no such score (one frame has no motion). Can be sent to a process."""
    better: Direction | None = None
    """None: neither, such as exposure, which should stay as it is."""
    bounds: tuple[float, float] | None = None
    """The range of values, for axes; None where it is open."""
    model: str | None = None
    """sha256 of the weights; None where there are none."""
    curve: str | None = None
    """The series, one number a frame, whose course is drawn; None where the score is no mean over frames."""
    embedding: str | None = None
    """The series, one vector a frame, whose cosine at growing distances is reported; None where there is none."""

    @property
    def key(self) -> str:
        """The name with tier and model: "clarity@core", "subject_consistency@light:1f0a9c3e"."""
        return f"{self.name}@{self.tier}" + (f":{self.model[:8]}" if self.model else "")
