"""Laws of profiles: each quantity is measured by the best there is, under a name that says by what."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from blockvid.errors import InputError
from blockvid.evaluation.metric import TIERS, Metric, Tier
from blockvid.evaluation.profiles import Cut, Name, Paper, Release, Robust, chosen, cut, profile, quantity_key
from tiny_metrics import tiny


def metric(name: str, tier: Tier) -> Metric:
    return replace(tiny()[0], name=name, tier=tier, model=None if tier == "core" else 16 * "a")


def names(tier: Tier) -> list[Metric]:
    """What a catalogue has up to a tier."""
    by_tier: dict[Tier, tuple[str, ...]] = {
        "core": ("clarity", "motion_energy", "motion_smoothness", "dynamic_degree"),
        "light": ("subject_consistency", "background_consistency", "identity", "background_static"),
        "vbench": ("subject_consistency", "imaging_quality", "aesthetic_quality", "dynamic_degree", "identity"),
    }
    return [metric(name, t) for t in TIERS[: TIERS.index(tier) + 1] for name in by_tier[t]]


def keys(of: Release | Paper | Robust, tier: Tier) -> dict[str, str]:
    return {quantity: found.key for quantity, found in chosen(of, names(tier)).items()}


def test_release_takes_the_highest_tier_of_each():
    assert keys(Release(), "core") == {
        "vde_motion": "motion_smoothness@core",
        "vde_clarity": "clarity@core",
        "vde_dynamic": "dynamic_degree@core",
    }
    assert keys(Release(), "vbench") == {
        "vde_subject": "subject_consistency@vbench:aaaaaaaa",
        "vde_background": "background_consistency@light:aaaaaaaa",
        "vde_motion": "motion_smoothness@core",
        "vde_aesthetic": "aesthetic_quality@vbench:aaaaaaaa",
        "vde_clarity": "imaging_quality@vbench:aaaaaaaa",
        "vde_dynamic": "dynamic_degree@vbench:aaaaaaaa",
    }


def test_paper_measures_each_equation_and_robust_adds_identity():
    light = keys(Paper(), "light")
    assert light["vde_clarity"] == "clarity@core"
    assert light["vde_motion"] == "motion_energy@core"
    assert light["vde_subject"] == "identity@light:aaaaaaaa"
    assert "vde_aesthetic" not in light
    assert keys(Paper("smoothness"), "vbench")["vde_motion"] == "motion_smoothness@core"
    assert keys(Paper(), "vbench")["vde_clarity"] == "clarity@core", "Eq. 20 is no network"
    assert set(keys(Robust(), "vbench")) == {*keys(Release(), "vbench"), "vde_identity"}


def test_a_quantity_is_named_after_what_stands_for_it():
    assert quantity_key("vde_clarity", metric("imaging_quality", "vbench")) == "vde_clarity@vbench:aaaaaaaa"
    assert quantity_key("vde_clarity", metric("clarity", "core")) == "vde_clarity@core"


def test_choices_reach_the_arithmetic():
    chosen_one = profile("paper", 7, "log", "spread", "smoothness")
    assert chosen_one == Paper("smoothness", 7, "log", "spread")
    assert chosen_one.reading.drift.weights == "log"
    robust = profile("robust", weights="increasing").reading
    assert (robust.robust.weights, robust.drift.weights) == ("increasing", "linear")
    assert [profile(name).name for name in get_args(Name)] == list(get_args(Name))
    assert [profile(name).remainder for name in get_args(Name)] == ["trim", "time", "time"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("vbench",), "profile 'vbench' is unknown; use release, paper, robust"),
        (("release", 0), "0 segments"),
        (("release", 10, "increasing"), "weights 'increasing' are unknown; use linear"),
        (("robust", 10, "linear"), "weights 'linear' are unknown; use uniform"),
        (("release", 10, None, "drop"), "remainder 'drop' is unknown; use trim, spread, time"),
        (("release", 10, None, None, "energy"), "motion 'energy' is a choice of profile paper"),
        (("paper", 10, None, None, "flow"), "motion 'flow' is unknown"),
    ],
)
def test_what_is_unknown_is_refused(arguments: tuple, problem: str):
    with pytest.raises(InputError, match=problem):
        profile(*arguments)


@pytest.mark.parametrize("remainder", get_args(Cut))
def test_a_video_with_fewer_frames_than_segments_is_not_cut(remainder: Cut):
    assert cut(np.arange(9) / 8, Release(remainder=remainder)) == ()
    assert len(cut(np.arange(10) / 8, Release(remainder=remainder))) == 10
    assert len(cut(np.arange(1) / 8, Release(segments=1, remainder=remainder))) == 1


def test_equal_durations_are_not_equal_counts():
    slow_then_fast = np.concatenate([np.arange(10) / 10, 1 + np.arange(40) / 40])
    assert cut(slow_then_fast, Release(2)) == (range(25), range(25, 50))
    assert cut(slow_then_fast, Paper(segments=2)) == (range(10), range(10, 50))
