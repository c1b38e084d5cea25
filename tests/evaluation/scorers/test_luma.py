"""Laws of luma: rows equal their definitions, degradations move each score the way its name says."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from blockvid.evaluation.scorers.luma import Luma, metrics
from blockvid.evaluation.series import Footage, extract

cv2 = pytest.importorskip("cv2")
SIZE = (37, 64)


def clip(count: int = 6, seed: int = 0) -> np.ndarray:
    """Frames with detail at several scales, the same but for a shift."""
    rng = np.random.default_rng(seed)
    scales = [cv2.resize(rng.uniform(0, 255, (n, n, 3)), (80, 80), interpolation=cv2.INTER_CUBIC) for n in (5, 20, 80)]
    canvas = np.clip(sum(scales) / 3, 0, 255).astype(np.uint8)
    return np.stack([canvas[: SIZE[0], i : i + SIZE[1]] for i in range(count)])


def rows(video: np.ndarray, batch: int = 8) -> dict[str, np.ndarray]:
    return extract(video, [Luma()], 16.0, batch=batch)


def score(name: str, video: np.ndarray) -> float:
    metric = next(m for m in metrics() if m.name == name)
    return metric.score(rows(video), range(len(video)), Footage(SIZE[1], SIZE[0], 16.0))


def test_rows_are_as_defined():
    video = clip()
    made = rows(video)
    assert all(values.dtype == np.float32 and len(values) == len(video) for values in made.values())
    for t, frame in enumerate(video.astype(np.float64)):
        y = np.rint(frame @ [0.299, 0.587, 0.114])
        p = np.pad(y, 1, mode="reflect")
        laplacian = p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:] - 4 * y
        assert made["luma.sharpness"][t] == pytest.approx(laplacian.var(), rel=2e-3)
        assert made["luma.mean"][t] == pytest.approx(y.mean() / 255, abs=1e-4)
        assert made["luma.spread"][t] == pytest.approx(y.std() / 255, abs=1e-4)
        chroma = (frame.max(-1) - frame.min(-1)).sum() / frame.max(-1).sum()
        assert made["luma.saturation"][t] == pytest.approx(chroma, abs=1e-6)
        assert made["luma.rgb"][t] == pytest.approx(frame.mean((0, 1)), abs=1e-4)
        assert made["luma.bright"][t] == pytest.approx((y >= 250).mean(), abs=2 / y.size)


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_batches_change_nothing(batch: int):
    whole, parts = rows(clip(7)), rows(clip(7), batch)
    assert all(np.array_equal(whole[key], parts[key]) for key in whole)


def test_one_colour_has_known_scores():
    video = np.full((2, *SIZE, 3), (200, 100, 100), dtype=np.uint8)
    assert score("clarity", video) == score("contrast", video) == 0
    assert score("saturation", video) == pytest.approx(0.5)
    assert score("exposure", video) == pytest.approx(130 / 255, abs=1e-3)
    assert score("saturation", np.zeros_like(video)) == 0


def test_blur_lowers_clarity_step_by_step():
    video = clip()
    blurred = [np.stack([cv2.GaussianBlur(frame, (0, 0), s) for frame in video]) for s in (0.5, 1, 2, 4)]
    clarity = [score("clarity", v) for v in (video, *blurred)]
    assert clarity == sorted(clarity, reverse=True)
    assert clarity[-1] < 0.01 * clarity[0]


def test_each_score_follows_its_own_change():
    video = clip().astype(np.float64)
    gray = video.mean(-1, keepdims=True)

    def made(changed: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(changed), 0, 255).astype(np.uint8)

    for name, changes in {
        "exposure": [video * k for k in (0.3, 0.6, 1)],
        "contrast": [128 + (video - 128) * k for k in (0.2, 0.5, 1)],
        "saturation": [gray + (video - gray) * k for k in (0, 0.5, 1)],
    }.items():
        scores = [score(name, made(changed)) for changed in changes]
        assert scores == sorted(scores), name
        assert scores[-1] > 1.5 * scores[0], name
    assert score("saturation", made(video * 0.5)) == pytest.approx(score("saturation", made(video)), abs=0.01)


def test_a_span_is_scored_on_its_frames_alone():
    video = np.concatenate([clip(4), np.zeros((4, *SIZE, 3), dtype=np.uint8)])
    series, footage = rows(video), Footage(SIZE[1], SIZE[0], 16.0)
    for metric in metrics():
        alone = metric.score(rows(video[:4]), range(4), footage)
        assert metric.score(series, range(4), footage) == alone
        assert np.isnan(metric.score(series, range(3, 3), footage))


def test_metrics_and_extractors_reach_other_processes():
    assert pickle.loads(pickle.dumps(metrics()[0].extractors)) == metrics()[0].extractors
    assert [m.key for m in pickle.loads(pickle.dumps(metrics()))] == [m.key for m in metrics()]
