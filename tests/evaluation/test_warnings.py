"""Laws of warnings: each trouble is found where it was made, and a sound video has none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from blockvid.evaluation.drift import Drift, RobustDrift
from blockvid.evaluation.results import DriftRecord, RobustRecord, VideoRecord, Warn
from blockvid.evaluation.series import Footage
from blockvid.evaluation.warnings import warnings

FRAMES, FPS = 320, 16.0
BORDERS = tuple(range(32, FRAMES, 32))
CLARITY = {"vde_clarity@core": "clarity@core"}


def sound() -> dict[str, np.ndarray]:
    """Rows of a video with nothing wrong: noise around usual levels."""
    rng = np.random.default_rng(0)
    near = lambda level: (level * rng.uniform(0.9, 1.1, FRAMES)).astype(np.float32)  # noqa: E731
    pairs = {
        "change.difference": near(4),
        "change.peak": near(20),
        "change.histogram": near(0.03),
        "change.structure": near(0.02),
        "motion.speed": near(0.5),
    }
    for rows in pairs.values():
        rows[0] = np.nan
    drifting = np.cumsum(rng.normal(0, 1, (FRAMES, 144)), axis=0) + np.linspace(0, 200, FRAMES)[:, None]
    return pairs | {
        "frame.seconds": np.arange(FRAMES) / FPS,
        "luma.mean": near(0.45),
        "luma.spread": near(0.2),
        "luma.bright": near(0.01),
        "luma.saturation": near(0.4),
        "change.cells": drifting.astype(np.float32) / 2,
    }


def found(changes: dict[str, np.ndarray] | None = None, **given: Any) -> dict[str, Warn]:
    """By kind; the first of several."""
    made: dict[str, Warn] = {}
    for warn in everything(changes, **given):
        made.setdefault(warn.kind, warn)
    return made


def everything(
    changes: dict[str, np.ndarray] | None = None,
    scores: list[float] | None = None,
    borders: tuple[int, ...] = BORDERS,
    variable: bool = False,
    embeddings: tuple[str, ...] = (),
) -> tuple[Warn, ...]:
    series = sound() | (changes or {})
    count = len(series["frame.seconds"])
    m = scores or [400.0, 410.0, 395.0, 405.0, 401.0, 399.0, 402.0, 398.0, 403.0, 400.0]
    record = VideoRecord(
        name="a.mp4",
        path="a.mp4",
        status="scored",
        frames=count,
        seconds=count / FPS,
        fps=FPS,
        variable_rate=variable,
        segments=tuple((i * count / FPS / 10, (i + 1) * count / FPS / 10) for i in range(10)),
        segment_scores={"clarity@core": tuple(m)},
        drift={"vde_clarity@core": drift(m)},
    )
    return warnings(record, series, Footage(64, 48, FPS, borders), CLARITY, embeddings)


def drift(scores: list[float]) -> DriftRecord:
    plain, robust = Drift()(np.array(scores)), RobustDrift()(np.array(scores))
    return DriftRecord(
        vde=plain.vde,
        per_weight=plain.per_weight,
        relative=plain.relative,
        noise_floor=plain.noise_floor,
        flags=plain.flags,
        robust=RobustRecord(
            total=robust.total,
            drift=robust.drift,
            slope=robust.slope.value,
            slope_low=robust.slope.low,
            slope_high=robust.slope.high,
            end_minus_start=robust.end_minus_start,
            worst_segment=0,
            time_to_failure=None,
            noise_floor=None,
            flags=(),
        ),
    )


def changed(key: str, where: slice | list[int], value: float) -> dict[str, np.ndarray]:
    rows = sound()[key].copy()
    rows[where] = value
    return {key: rows}


def test_a_sound_video_has_no_warning():
    assert everything() == ()


def test_what_was_not_measured_gives_no_warning():
    only = {"frame.seconds": np.arange(FRAMES) / FPS}
    record = VideoRecord(name="a", path="a", status="scored", frames=FRAMES, seconds=20, fps=FPS)
    assert warnings(record, only, Footage(64, 48, FPS), {}, ("subject.embedding",)) == ()


def test_a_frozen_video_is_told_loudly_even_with_keyframes():
    peak = changed("change.peak", slice(1, None), 0.0)["change.peak"]
    peak[12::24] = 6.0
    warn = everything({"change.peak": peak})[0]
    assert warn.kind == "frozen" and warn.loud
    assert "no drift" in warn.text
    assert {"standstill", "duplicates"}.isdisjoint(found({"change.peak": peak}))


def test_a_standstill_is_told_with_its_time():
    peak = changed("change.peak", slice(65, 97), 0.0)["change.peak"]
    peak[80] = 7.0  # a keyframe
    warn = found({"change.peak": peak})["standstill"]
    assert (warn.start, warn.end) == (4.0, 6.0)  # frames 64 to 96 are the same
    assert "standstill" not in found(changed("change.peak", slice(65, 75), 0.0))
    many = sound()["change.peak"]
    many[np.arange(FRAMES) % 40 > 20] = 0
    assert sum(w.kind == "standstill" for w in everything({"change.peak": many})) == 5  # the longest, of 8


def test_repeated_frames_are_told_with_the_rate_there_is():
    text = found(changed("change.peak", slice(1, None, 2), 0.1))["duplicates"].text
    assert "50%" in text and "8 new frames" in text
    assert "duplicates" not in found(changed("change.peak", slice(1, None, 8), 0.1))


def test_motion_that_dies_or_was_never_there_is_told():
    dying = sound()["motion.speed"] * np.linspace(1, 0.05, FRAMES)
    assert found({"motion.speed": dying})["stagnation"].end == FRAMES / FPS
    assert "stagnation" not in found({"motion.speed": sound()["motion.speed"] * np.linspace(1, 0.5, FRAMES)})
    assert set(found({"motion.speed": sound()["motion.speed"] / 100})) == {"motionless"}
    assert not found({"motion.speed": np.full(FRAMES, np.nan)})  # frames too small for flow


def test_a_loop_is_told_with_its_period():
    cells = np.tile(sound()["change.cells"][:64], (5, 1))
    assert "4 s" in found({"change.cells": cells})["loop"].text


@pytest.mark.parametrize(
    ("key", "end", "kind"),
    [("luma.mean", 0.7, "exposure"), ("luma.bright", 0.2, "exposure"), ("luma.saturation", 0.7, "saturation")],
)
def test_growth_is_told_and_one_bright_end_is_not(key: str, end: float, kind: str):
    start = float(np.mean(sound()[key]))
    assert set(found({key: np.linspace(start, end, FRAMES)})) == {kind}
    assert not found({key: np.linspace(end, start, FRAMES)})
    late = sound()[key].copy()
    late[-FRAMES // 10 :] = end
    assert not found({key: late})


def test_black_is_told_with_its_time():
    dark = changed("luma.mean", slice(160, 176), 0.01) | changed("luma.spread", slice(160, 176), 0.005)
    warn = found(dark)["black"]
    assert (warn.start, warn.end) == (10, 11)
    assert "black" not in found(changed("luma.mean", slice(160, 176), 0.01))  # stars in the night


def test_flicker_is_told():
    cells = sound()["change.cells"] + 3 * (np.arange(FRAMES) % 2)[:, None]
    assert set(found({"change.cells": cells})) == {"flicker"}


def test_cuts_are_told_with_their_times():
    cut = changed("change.structure", [100, 200], 0.9) | changed("change.histogram", [100, 200], 0.6)
    text = found(cut)["cuts"].text
    assert text.startswith("2 hard cuts at 6.2, 12.5 s")


def test_seams_are_told_with_their_times():
    one = found(changed("change.difference", [64], 20.0))["seams"].text
    assert "most at 4.0 s" in one
    assert found(changed("change.difference", list(BORDERS), 8.0))["seams"].text.count(" at ") == 0
    assert "seams" not in found(changed("change.difference", list(BORDERS), 8.0), borders=())
    quiet = {"change.difference": sound()["change.difference"] / 100}
    quiet["change.difference"][64] = 0.5
    assert "seams" not in found(quiet)  # nobody sees half a level


def test_an_opening_that_makes_the_drift_is_told():
    steady = [400.0, 402.0, 399.0, 401.0, 400.0, 398.0, 401.0, 400.0, 399.0]
    warn = found(scores=[200.0, *steady])["first segment"]
    assert "clarity" in warn.text
    assert (warn.start, warn.end) == (0, 2)
    decaying = [400.0 - 20 * i for i in range(10)]
    assert not found(scores=decaying)
    assert not found(scores=[400.0, *[390.0, 391.0] * 4, 390.0])  # 2.5 %


def test_a_reference_of_0_or_near_it_is_told():
    rest = [300.0, 500.0] * 4 + [400.0]
    assert set(found(scores=[0.0, *rest])) == {"infinite drift"}
    assert set(found(scores=[4.0, *rest])) == {"small reference"}
    assert not found(scores=[math.nan, *rest])


def test_short_segments_and_a_varying_rate_are_told():
    short = {key: rows[:60] for key, rows in sound().items()}
    assert set(found(short, borders=())) == {"short"}
    assert set(found(variable=True)) == {"variable rate"}


def test_features_of_a_broken_network_are_told_loudly():
    rng = np.random.default_rng(0)
    good = rng.normal(size=(FRAMES, 8)).astype(np.float32)
    name = ("subject.embedding",)
    assert not found({name[0]: good}, embeddings=name)
    zero = good.copy()
    zero[7] = 0
    same = good[:1] * np.linspace(1, 2, FRAMES)[:, None]
    for broken in (zero, same, np.full_like(good, np.nan)):
        warn = found({name[0]: broken}, embeddings=name)["features"]
        assert warn.loud and name[0] in warn.text
    missing = good.copy()
    missing[:40] = np.nan  # frames without a subject
    assert not found({name[0]: missing}, embeddings=name)
    frozen = changed("change.peak", slice(1, None), 0.0)
    assert set(found({name[0]: same} | frozen, embeddings=name)) == {"frozen"}  # then they should be the same


def test_loud_warnings_come_first():
    frozen = changed("change.peak", slice(1, None), 0.0)
    told = everything(frozen, variable=True, scores=[0.0, 400.0, *[300.0, 500.0] * 4])
    assert [warn.loud for warn in told] == [True, False, False]
