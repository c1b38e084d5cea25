"""Comparisons are paired and antisymmetric, find nothing between equal runs, and refuse what does not compare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blockvid.errors import InputError
from blockvid.evaluation.compare import Comparison, Difference, compare, significant, together
from blockvid.evaluation.results import Results
from blockvid.evaluation.statistics import Bootstrap
from evaluation.made_results import KINDS, MODEL, VBENCH, again, make

QUICK = Bootstrap(resamples=100)
WORSE = 0.03


def decaying(number: int, name: str, scores: np.ndarray) -> np.ndarray:
    """Clarity that falls by a share for each segment."""
    return scores * (1 - WORSE * np.arange(len(scores))) if name == "clarity" else scores


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return make(tmp_path_factory.mktemp("good"), 10, seed=3, special=False)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return again(make(tmp_path_factory.mktemp("bad"), 10, seed=3, special=False, edit=decaying), {"name": "bad"})


def of(comparison: Comparison, name: str) -> Difference:
    (found,) = [d for d in comparison.differences if d.key.split("@")[0] == name]
    return found


def configured(results: Results, **changes: object) -> Results:
    return again(results, {"configuration": {**results.configuration.model_dump(), **changes}})


# Laws


def test_equal_runs_do_not_differ(good: Results):
    comparison = compare([good, good], QUICK)
    assert len({run.label for run in comparison.runs}) == 2
    for d in comparison.differences:
        assert (d.p, d.p_holm, d.cliffs_delta, d.win_rate, d.difference.value) == (1, 1, 0, 0.5, 0)
        assert not significant(d)


def test_the_other_way_round_every_sign_turns(good: Results, bad: Results):
    there, back = compare([good, bad], QUICK), compare([bad, good], QUICK)
    assert [d.key for d in there.differences] == [d.key for d in back.differences]
    for one, other in zip(there.differences, back.differences, strict=True):
        assert (one.a, one.b) == (other.b, other.a)
        assert one.difference.value == pytest.approx(-float(other.difference.value or 0), abs=1e-12)
        assert (one.p, one.p_holm) == (other.p, other.p_holm)
        assert one.cliffs_delta == -float(other.cliffs_delta or 0)
        assert float(one.win_rate or 0) + float(other.win_rate or 0) == 1
        assert (one.mean_a, one.mean_b) == (other.mean_b, other.mean_a)


def test_what_was_made_worse_is_found_and_nothing_else(good: Results, bad: Results):
    comparison = compare([good, bad], QUICK)
    assert {d.key for d in comparison.differences if significant(d)} == {"vde_clarity@core", "clarity@core"}
    clarity = of(comparison, "vde_clarity")
    assert float(clarity.difference.value or 0) < 0 and clarity.win_rate == 1 and clarity.better == "lower"
    assert of(comparison, "clarity").win_rate == 1


def test_corrected_p_is_never_smaller_and_by_hand_for_the_smallest(good: Results, bad: Results):
    differences = compare([good, bad], QUICK).differences
    assert all(d.p <= d.p_holm <= 1 for d in differences)
    smallest = min(differences, key=lambda d: d.p)
    assert smallest.p_holm == min(1, smallest.p * len(differences))


def test_every_pair_of_several_runs_is_compared(good: Results, bad: Results):
    comparison = compare([good, bad, again(good, {"name": "third"})], QUICK)
    pairs = {(d.a, d.b) for d in comparison.differences}
    assert pairs == {("fixture 3", "bad"), ("fixture 3", "third"), ("bad", "third")}
    assert {d.p for d in comparison.differences if (d.a, d.b) == ("fixture 3", "third")} == {1}


def test_infinite_drift_is_counted_and_wins_nothing(tmp_path: Path):
    infinite = make(tmp_path, 6, seed=1)  # the fifth begins with clarity 0
    sound = again(make(tmp_path, 6, seed=1, special=False), {"name": "sound"})
    clarity = of(compare([infinite, sound], QUICK), "vde_clarity")
    assert (clarity.pairs, clarity.finite_pairs) == (6, 5)
    assert (clarity.infinite_share_a, clarity.infinite_share_b) == (pytest.approx(1 / 6), 0)


def test_the_record_survives_its_file(good: Results, bad: Results):
    comparison = compare([good, bad], QUICK)
    assert Comparison.model_validate_json(comparison.text()) == comparison


# Which videos and metrics


def test_only_videos_that_all_have_scored_count(good: Results, bad: Results):
    fewer = again(bad, {"videos": [*bad.videos[2:6], bad.videos[0].model_copy(update={"status": "failed"})]})
    comparison = compare([good, fewer], QUICK)
    assert comparison.paired_by == "name"
    assert comparison.videos == tuple(sorted(v.name for v in bad.videos[2:6]))
    assert all(d.pairs == 4 for d in comparison.differences)
    assert all(a.name == b.name for a, b in together([good, fewer], comparison))


def test_entries_pair_videos_of_different_names(good: Results, bad: Results):
    runs = [
        again(run, {"videos": [v.model_copy(update={"entry": f"e{i}", "name": f"{run.name}/{i}"}) for i, v in order]})
        for run, order in ((good, list(enumerate(good.videos))), (bad, list(enumerate(bad.videos))[::-1]))
    ]
    comparison = compare(runs, QUICK)
    assert (comparison.paired_by, comparison.videos[0], len(comparison.videos)) == ("entry", "e0", 10)
    assert of(comparison, "vde_clarity").p == of(compare([good, bad], QUICK), "vde_clarity").p


def test_frozen_videos_are_named(tmp_path: Path):
    frozen = make(tmp_path, 4)
    comparison = compare([frozen, frozen], QUICK)
    assert [run.loud for run in comparison.runs] == [(frozen.videos[3].name,)] * 2
    assert comparison.runs[0].failed == 1


def test_what_has_no_better_or_is_not_everywhere_is_left_out_with_its_reason(good: Results, tmp_path: Path):
    more = make(tmp_path, 10, kinds=(*KINDS, VBENCH[0]), special=False)
    left = {one.name: one.why for one in compare([good, configured(more, tier="light")], QUICK).left_out}
    assert "not measured in fixture 3" in left[VBENCH[0].key]
    assert "better" in left["exposure@core"]


# Refusals


@pytest.mark.parametrize(
    ("field", "other"),
    [("profile", "paper"), ("segments", 5), ("weights", "log"), ("remainder", "spread"), ("stride", 4)],
)
def test_runs_that_were_evaluated_differently_do_not_compare(good: Results, bad: Results, field: str, other: object):
    with pytest.raises(InputError, match=f"{other}.* in bad"):
        compare([good, configured(bad, **{field: other})], QUICK)


def test_another_tier_of_the_same_metric_is_refused(good: Results, tmp_path: Path):
    with pytest.raises(InputError, match=r"subject_consistency is .*@light.*@vbench"):
        compare([good, make(tmp_path, 10, kinds=(*KINDS[:6], VBENCH[1]), special=False)], QUICK)


def test_another_model_of_the_same_first_digits_is_refused(good: Results, bad: Results):
    other = [m.model_copy(update={"model": MODEL[:-1] + "1"} if m.model else {}) for m in bad.metrics]
    with pytest.raises(InputError, match="_consistency is"):
        compare([good, again(bad, {"metrics": other})], QUICK)


def test_another_metric_behind_a_quantity_is_refused(good: Results, bad: Results):
    other = [
        q.model_copy(update={"metric": "motion_energy@core"} if q.name == "vde_motion" else {}) for q in bad.quantities
    ]
    with pytest.raises(InputError, match="vde_motion is"):
        compare([good, again(bad, {"quantities": other})], QUICK)


def test_one_run_and_runs_without_a_common_video_are_refused(good: Results, bad: Results):
    with pytest.raises(InputError, match="1 run"):
        compare([good])
    renamed = [v.model_copy(update={"name": f"other {v.name}"}) for v in bad.videos]
    with pytest.raises(InputError, match="no name of a video"):
        compare([good, again(bad, {"videos": renamed})])
