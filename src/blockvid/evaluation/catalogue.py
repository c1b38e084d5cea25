"""Which metrics there are, by tier."""

from __future__ import annotations

from blockvid.errors import InputError
from blockvid.evaluation.metric import TIERS, Metric, Tier
from blockvid.evaluation.scorers import boundary, change, luma, motion


def metrics(tier: Tier = "core") -> tuple[Metric, ...]:
    """All metrics up to a tier; a name can be there in several, told apart by key. Raises InputError."""
    if tier not in TIERS:
        raise InputError(f"tier {tier!r} is unknown; use {', '.join(TIERS)}")
    return (*luma.metrics(), *motion.metrics(), *change.metrics(), *boundary.metrics())
