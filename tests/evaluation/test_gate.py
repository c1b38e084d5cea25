"""A gate says no unless everything it was asked about was measured and keeps to its limit."""

from __future__ import annotations

import math

import pytest

from blockvid.errors import InputError
from blockvid.evaluation.gate import Limit, gate
from blockvid.evaluation.results import Results
from evaluation.made_results import KINDS, VBENCH, again, make


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return make(tmp_path_factory.mktemp("clean"), 4, special=False)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return make(tmp_path_factory.mktemp("mixed"), 6)


def test_a_limit_is_a_name_and_a_number():
    assert Limit.parse("vde_clarity=0.9") == Limit("vde_clarity", 0.9)
    assert Limit.parse(" vde_clarity@core/weight = 1e-2") == Limit("vde_clarity@core/weight", 0.01)


@pytest.mark.parametrize("text", ["vde_clarity", "=0.9", "vde_clarity=", "vde_clarity=low", "vde_clarity=nan", "a=inf"])
def test_anything_else_is_refused_in_one_line(text: str):
    with pytest.raises(InputError, match=r"vde_clarity=0\.9") as error:
        Limit.parse(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("statistic", ["mean", "median", "trimmed_mean"])
def test_the_value_decides_and_a_limit_that_is_met_exactly_passes(clean: Results, statistic: str):
    record = getattr(clean.summary["vde_clarity@core"], statistic)
    exact, below = Limit("vde_clarity", record.value), Limit("vde_clarity", math.nextafter(record.value, -math.inf))
    kept, broken, least = (
        *gate(clean, max=[exact, below], statistic=statistic),
        *gate(clean, min=[exact], statistic=statistic),
    )[:3]
    assert (kept.passed, broken.passed, least.passed) == (True, False, True)
    assert kept.measured and (kept.measured.value, kept.measured.low) == (record.value, record.low)
    assert kept.key == "vde_clarity@core"
    assert "at most" in kept.why and "above" in broken.why and "at least" in least.why


@pytest.mark.parametrize("reading", ["/weight", "/robust"])
def test_the_other_readings_of_drift_can_be_limited_too(clean: Results, reading: str):
    (verdict,) = gate(clean, max=[Limit(f"vde_clarity{reading}", 1)])
    assert verdict.passed and verdict.key == f"vde_clarity@core{reading}"
    assert verdict.measured and verdict.measured.value == clean.summary[verdict.key].mean.value


def test_what_was_not_measured_does_not_pass(clean: Results):
    (verdict,) = gate(clean, max=[Limit("vde_aesthetic", 1e9)])
    assert not verdict.passed and verdict.measured is None and "was not measured" in verdict.why


def test_a_name_of_two_tiers_is_not_guessed(tmp_path):
    both = make(tmp_path, 3, kinds=(*KINDS, *VBENCH), special=False)
    (verdict,) = gate(both, max=[Limit("vde_subject", 1e9)])
    assert not verdict.passed and "vde_subject@light" in verdict.why and "vde_subject@vbench" in verdict.why
    (verdict,) = gate(both, max=[Limit("vde_subject@vbench:dd12ab34", 1e9)])
    assert verdict.passed


@pytest.mark.parametrize(
    ("name", "said"),
    [("vde_clarity", "12|17% of the videos are infinite"), ("vde_motion", "1 of 7 videos failed")],
)
def test_infinite_values_and_failed_videos_do_not_pass(mixed: Results, name: str, said: str):
    (verdict,) = gate(mixed, max=[Limit(name, 1e9)])
    assert not verdict.passed and verdict.measured is not None
    assert any(part in verdict.why for part in said.split("|"))


def test_frozen_videos_pass_no_limit_on_drift_but_may_pass_one_on_a_score(mixed: Results):
    whole = again(mixed, {"videos": [v for v in mixed.videos if v.status == "scored"]})
    (drift,) = gate(whole, max=[Limit("vde_motion", 1e9)])
    (score,) = gate(whole, min=[Limit("clarity", 0)])
    assert not drift.passed and "frozen" in drift.why
    assert score.passed


def test_entries_without_a_video_do_not_pass(clean: Results):
    (verdict,) = gate(again(clean, {"missing": ["a", "b"]}), max=[Limit("vde_clarity", 1e9)])
    assert not verdict.passed and "2 entries" in verdict.why


def test_nothing_scored_does_not_pass(mixed: Results):
    failed = [v for v in mixed.videos if v.status == "failed"]
    (verdict,) = gate(again(mixed, {"videos": failed, "summary": {}}), max=[Limit("vde_clarity", 1e9)])
    assert not verdict.passed and verdict.measured is None and "none of 1 video" in verdict.why


def test_every_reason_is_one_line_and_order_is_that_of_the_limits(mixed: Results):
    limits = [Limit("vde_motion", 1), Limit("nothing", 1), Limit("vde_clarity", 1)]
    verdicts = gate(mixed, max=limits, min=[Limit("clarity", 1)])
    assert [v.kind for v in verdicts] == ["max", "max", "max", "min"]
    assert [v.key.split("@")[0] for v in verdicts] == ["vde_motion", "nothing", "vde_clarity", "clarity"]
    assert all(v.why and "\n" not in v.why for v in verdicts)


def test_a_gate_without_limits_and_an_unknown_statistic_are_refused(clean: Results):
    with pytest.raises(InputError, match="0 limits"):
        gate(clean)
    with pytest.raises(InputError, match="statistic 'mode'"):
        gate(clean, max=[Limit("vde_clarity", 1)], statistic="mode")  # type: ignore[arg-type]
