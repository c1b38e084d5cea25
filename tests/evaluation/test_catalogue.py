"""Laws of the catalogue: a tier has everything of the tiers below it, and keys tell all apart."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from blockvid.errors import InputError
from blockvid.evaluation.catalogue import Models, metrics
from blockvid.evaluation.metric import Metric
from blockvid.evaluation.profiles import Paper, Release, Robust, chosen
from blockvid.evaluation.scan import extractors
from blockvid.evaluation.weights import Sources

VBENCH = ("dino_vitbase16", "clip_b32", "clip_l14", "laion_linear", "musiq_spaq", "raft_things", "amt_s")


@pytest.fixture
def models(tmp_path: Path) -> Models:
    """Files that stand for weights; nothing here opens them."""
    files = {name: tmp_path / f"{name}.pth" for name in VBENCH}
    for name, file in files.items():
        file.write_text(name)
    place = tmp_path / "nowhere"
    return Models(Sources(files, None, None, place, tmp_path / "cache", offline=True))


def keys(found: tuple[Metric, ...]) -> set[str]:
    return {metric.key for metric in found}


def test_a_tier_has_all_of_the_tiers_below(models: Models):
    core, light, vbench = metrics(), metrics("light", models), metrics("vbench", models)
    assert keys(core) < keys(light) < keys(vbench)
    for found in (core, light, vbench):
        assert len(keys(found)) == len(found)
        extractors(found)
    assert {metric.tier for metric in core} == {"core"}
    assert all(metric.model is None for metric in core)
    of_names = {metric.name for metric in vbench if metric.tier == "vbench"}
    assert of_names >= {"subject_consistency", "background_consistency", "aesthetic_quality", "imaging_quality"}
    assert "motion_smoothness" not in of_names, "AMT's licence: only who names it has it"


def test_amt_is_there_when_it_is_named(models: Models, tmp_path: Path):
    named = Models(models.sources, amt=tmp_path)
    assert {m.name for m in metrics("vbench", named)} - {m.name for m in metrics("vbench", models)} == set()
    assert len(metrics("vbench", named)) == len(metrics("vbench", models)) + 1


def test_every_quantity_is_measured_at_the_top_and_some_at_the_bottom(models: Models):
    for profile in (Release(), Paper(), Paper("smoothness"), Robust()):
        assert set(chosen(profile, metrics("vbench", models))) == set(profile.quantities)
        assert {"vde_clarity", "vde_motion"} <= set(chosen(profile, metrics()))
    assert set(Paper().quantities) - set(chosen(Paper(), metrics("light", models))) == {"vde_aesthetic"}


def test_metrics_can_be_sent_to_another_process(models: Models):
    found = metrics("vbench", models)
    assert keys(pickle.loads(pickle.dumps(found))) == keys(found)


def test_weights_that_are_nowhere_are_named(models: Models):
    sources = Sources({}, None, None, models.sources.torch_home, models.sources.cache, offline=True)
    with pytest.raises(InputError, match="dino_vitbase16"):
        metrics("vbench", Models(sources))
    with pytest.raises(InputError, match="tier 'heavy' is unknown; use core, light, vbench"):
        metrics("heavy")  # type: ignore[arg-type]
