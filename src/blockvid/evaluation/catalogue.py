"""Which metrics there are, by tier."""

from __future__ import annotations

from blockvid.errors import InputError
from blockvid.evaluation.metric import TIERS, Metric, Tier


def metrics(tier: Tier = "core") -> tuple[Metric, ...]:
    """All metrics up to a tier; a name can be there in several, told apart by key. Raises InputError."""
    if tier not in TIERS:
        raise InputError(f"tier {tier!r} is unknown; use {', '.join(TIERS)}")
    from blockvid.evaluation.scorers import luma, motion

    return (*luma.metrics(), *motion.metrics())
