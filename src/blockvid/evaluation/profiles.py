"""What drifts, and how it is measured: a profile names quantities, the metrics that stand for them, cut and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

import numpy as np
from jaxtyping import Float

from blockvid.errors import InputError
from blockvid.evaluation import drift
from blockvid.evaluation.drift import Drift, RobustDrift, Weights
from blockvid.evaluation.metric import TIERS, Metric

Cut = Literal["trim", "spread", "time"]
"""trim: floor(T/N) frames each, the tail dropped; spread: as equal as it goes; time: equal durations."""
Name = Literal["release", "paper", "robust"]

QUALITY = ("imaging_quality", "clarity")
"""What stands for clarity in the authors' code, and what where it is not run."""
RELEASED = {
    "vde_subject": ("subject_consistency",),
    "vde_background": ("background_consistency",),
    "vde_motion": ("motion_smoothness",),
    "vde_aesthetic": ("aesthetic_quality",),
    "vde_clarity": QUALITY,
    "vde_dynamic": ("dynamic_degree",),
}


@dataclass(frozen=True)
class Reading:
    """Drift in its two forms, which every record has."""

    drift: Drift = Drift()
    """VDE (Eqs. 17-19)."""
    robust: RobustDrift = RobustDrift()


class Profile(Protocol):
    """A way to measure drift."""

    @property
    def name(self) -> Name: ...
    @property
    def quantities(self) -> dict[str, tuple[str, ...]]:
        """Names of metrics by quantity, preferred first; each in the highest tier there is."""
        ...

    @property
    def segments(self) -> int:
        """N."""
        ...

    @property
    def remainder(self) -> Cut: ...
    @property
    def reading(self) -> Reading:
        """How segment scores become drift."""
        ...


@dataclass(frozen=True)
class Release:
    """As in the authors' code, which made the published tables: VBench's scorers within each segment."""

    segments: int = 10
    weights: Weights = "linear"
    remainder: Cut = "trim"
    name: Literal["release"] = field(default="release", init=False)

    def __post_init__(self) -> None:
        _check(self.segments, self.weights, self.remainder)

    @property
    def quantities(self) -> dict[str, tuple[str, ...]]:
        """Five as published, and the degree of motion."""
        return dict(RELEASED)

    @property
    def reading(self) -> Reading:
        """With these weights of VDE."""
        return Reading(Drift(self.weights))


@dataclass(frozen=True)
class Paper:
    """As printed (Eqs. 20-25): sharpness, energy or smoothness of motion, a static background, one identity."""

    motion: Literal["energy", "smoothness"] = "energy"
    segments: int = 10
    weights: Weights = "linear"
    remainder: Cut = "time"
    name: Literal["paper"] = field(default="paper", init=False)

    def __post_init__(self) -> None:
        if self.motion not in ("energy", "smoothness"):
            raise InputError(f"motion {self.motion!r} is unknown; use energy, smoothness")
        _check(self.segments, self.weights, self.remainder)

    @property
    def quantities(self) -> dict[str, tuple[str, ...]]:
        """Five, each by its equation."""
        return {
            "vde_subject": ("identity",),
            "vde_background": ("background_static",),
            "vde_motion": (f"motion_{self.motion}",),
            "vde_aesthetic": ("aesthetic_quality",),
            "vde_clarity": ("clarity",),
        }

    @property
    def reading(self) -> Reading:
        """With these weights of VDE."""
        return Reading(Drift(self.weights))


@dataclass(frozen=True)
class Robust:
    """The release's quantities and identity, read so that an odd opening, N or a sign does not dominate."""

    segments: int = 10
    weights: Literal["uniform", "increasing"] = "uniform"
    remainder: Cut = "time"
    name: Literal["robust"] = field(default="robust", init=False)

    def __post_init__(self) -> None:
        _check(self.segments, "linear", self.remainder)
        RobustDrift(self.weights)

    @property
    def quantities(self) -> dict[str, tuple[str, ...]]:
        """The release's, and identity, which those within a segment cannot see."""
        return {**RELEASED, "vde_identity": ("identity",)}

    @property
    def reading(self) -> Reading:
        """With these weights of the robust total; VDE beside it has the paper's."""
        return Reading(robust=RobustDrift(self.weights))


def profile(
    name: str,
    segments: int = 10,
    weights: str | None = None,
    remainder: str | None = None,
    motion: str | None = None,
) -> Release | Paper | Robust:
    """The profile of that name, with what is given in place of its own; `motion` is the paper's choice of Eq. 21.

    Raises InputError for a name, kind of weights or remainder that is unknown, or a motion that is no choice there.
    """
    kinds = {"release": Release, "paper": Paper, "robust": Robust}
    if name not in kinds:
        raise InputError(f"profile {name!r} is unknown; use {', '.join(kinds)}")
    if motion is not None and name != "paper":
        raise InputError(f"motion {motion!r} is a choice of profile paper only; leave it out of profile {name}")
    given = {"segments": segments, "weights": weights, "remainder": remainder, "motion": motion}
    return kinds[name](**{key: value for key, value in given.items() if value is not None})


def chosen(profile: Profile, metrics: Sequence[Metric]) -> dict[str, Metric]:
    """The metric of each quantity that can be measured: the first preferred name there is, in its highest tier."""
    found: dict[str, Metric] = {}
    for quantity, names in profile.quantities.items():
        for name in names:
            of_name = [metric for metric in metrics if metric.name == name]
            if of_name:
                found[quantity] = max(of_name, key=lambda metric: TIERS.index(metric.tier))
                break
    return found


def quantity_key(quantity: str, metric: Metric) -> str:
    """The quantity's name with what it was computed with: "vde_clarity@core"."""
    return quantity + metric.key.removeprefix(metric.name)


def cut(seconds: Float[np.ndarray, " frames"], profile: Profile) -> tuple[range, ...]:
    """The profile's segments of a video whose frames have these times; empty if it has fewer frames than segments."""
    if len(seconds) < profile.segments:
        return ()
    if profile.remainder == "time":
        return drift.segments_by_time(seconds, profile.segments)
    return drift.segments(len(seconds), profile.segments, profile.remainder)


def _check(segments: int, weights: Weights, remainder: str) -> None:
    drift.segments(max(segments, 1), segments, "spread")
    drift.weights(weights, segments)
    if remainder not in get_args(Cut):
        raise InputError(f"remainder {remainder!r} is unknown; use {', '.join(get_args(Cut))}")
