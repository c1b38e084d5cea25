"""Which metrics there are, by tier."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from blockvid.errors import InputError
from blockvid.evaluation.masks import Masking, ResidualMotion
from blockvid.evaluation.metric import TIERS, Metric, Tier
from blockvid.evaluation.scorers import boundary, change, consistency, dynamic, identity, luma, motion, quality, text
from blockvid.evaluation.scorers.consistency import Precision
from blockvid.evaluation.weights import Sources, find


def local() -> Sources:
    """Weights where torch and blockvid keep them in a person's home; nothing is fetched."""
    home = Path.home() / ".cache"
    return Sources({}, None, home / "vbench", home / "torch", home / "blockvid" / "weights", offline=True)


@dataclass(frozen=True)
class Models:
    """What the metrics of higher tiers are computed with."""

    sources: Sources = field(default_factory=local)
    """Where weights lie; those of tier light come with a Python package."""
    masking: Masking | None = None
    """What tells the subject from the background; None: residual motion."""
    tau: float = 0.2
    """Motion up to which background counts as static, in % of the short side (Eq. 24)."""
    camera: ResidualMotion | None = None
    """What removes the camera's motion before that; None: it counts as motion, as printed."""
    text: text.TextImage | None = None
    """A text-image model; without one there is no text alignment."""
    amt: Path | None = None
    """A checkout of AMT, whose licence forbids commercial use; without one the motion smoothness is that of core."""
    precision: Precision = "float32"
    """Of CLIP's cosines in background consistency."""


def metrics(tier: Tier = "core", models: Models | None = None) -> tuple[Metric, ...]:
    """All metrics up to a tier; a name can be there in several, told apart by key.

    Raises InputError for a tier that is unknown, and where its weights are not to be had.
    """
    if tier not in TIERS:
        raise InputError(f"tier {tier!r} is unknown; use {', '.join(TIERS)}")
    models = models or Models()
    found = (*luma.metrics(), *motion.metrics(), *change.metrics(), *boundary.metrics())
    if TIERS.index(tier) >= TIERS.index("light"):
        found += _with_networks(models, tier)
    return (*found, *text.metrics(models.text))


def _with_networks(models: Models, tier: Tier) -> tuple[Metric, ...]:
    weights = partial(find, sources=models.sources)
    lite = weights("efficientnet_lite0")
    if tier == "light":
        return (
            *consistency.metrics(lite, masking=models.masking),
            *identity.metrics(lite, None, models.masking, models.tau, models.camera),
        )
    dino = weights("dino_vitbase16")
    amt = weights("amt_s") if models.amt is not None else None
    return (
        *consistency.metrics(lite, dino, weights("clip_b32"), models.masking, models.precision),
        *identity.metrics(lite, dino, models.masking, models.tau, models.camera),
        *quality.metrics(weights("clip_l14"), weights("laion_linear"), weights("musiq_spaq")),
        *dynamic.metrics(weights("raft_things"), amt, models.amt),
    )
