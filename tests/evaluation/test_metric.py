"""A metric's key says what it was computed with."""

from __future__ import annotations

from dataclasses import replace

from tiny_metrics import tiny


def test_the_key_is_name_tier_and_model():
    level, _, colour = tiny()
    assert level.key == "clarity@core"
    assert colour.key == "motion_smoothness@light:01234567"
    assert replace(colour, tier="vbench").key == "motion_smoothness@vbench:01234567"
