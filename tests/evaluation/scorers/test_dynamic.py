"""Laws of motion by networks: sampled as VBench samples, pairs and triples that never leave their span."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from blockvid.errors import InputError
from blockvid.evaluation.networks.preprocess import planes
from blockvid.evaluation.networks.raft import RAFT, dynamic, padded
from blockvid.evaluation.scorers.dynamic import Interpolated, Raft, dynamic_degree, metrics, motion_smoothness
from blockvid.evaluation.series import Footage, extract
from blockvid.evaluation.weights import Found

AT_480P = Footage(854, 480, 24.0)
THRESHOLD = 6 * 480 / 256


def vbench_moves(sizes: list[float], count: int, threshold: float) -> bool:
    """VBench's loop over the pairs of `count` sampled frames."""
    needed, moved = round(4 * (count / 16)), 0
    for size in sizes:
        moved += size > threshold
        if moved >= needed:
            return True
    return False


@pytest.mark.parametrize("fps", [8.0, 12.0, 20.0, 24.0, 30.0])
@pytest.mark.parametrize("frames", [13, 40, 97])
def test_the_degree_of_a_video_is_vbenchs(fps: float, frames: int):
    step = max(1, round(fps / 8))
    sampled = list(range(0, frames, step))
    footage = Footage(854, 480, fps)
    for moving in range(len(sampled)):
        row = np.full(frames, np.nan, dtype=np.float32)
        row[sampled[1:]] = THRESHOLD - 0.01
        row[sampled[1 : moving + 1]] = THRESHOLD + 0.01
        expected = vbench_moves(row[sampled[1:]].tolist(), len(sampled), THRESHOLD)
        assert dynamic_degree({"raft.fast": row}, range(frames), footage) == expected


def test_a_pair_across_the_edge_of_a_span_does_not_count():
    row = np.full(48, np.nan, dtype=np.float32)
    row[3::3] = 0.0
    row[24] = 100.0  # from frame 21 to 24
    for span, expected in ((range(21, 25), 1.0), (range(24, 28), 0.0), (range(22, 28), 0.0), (range(21, 24), math.nan)):
        assert dynamic_degree({"raft.fast": row}, span, AT_480P) == pytest.approx(expected, nan_ok=True)


def test_frames_that_raft_cannot_take_have_no_degree():
    assert math.isnan(dynamic_degree({"raft.fast": np.full(9, np.nan)}, range(9), AT_480P))


def raft_weights(path: Path) -> tuple[RAFT, Found]:
    torch.manual_seed(0)
    network = RAFT()
    torch.save({f"module.{name}": weight for name, weight in network.state_dict().items()}, path)
    return network, Found(path, "ab" * 32)


def test_rows_are_raft_between_sampled_frames(tmp_path: Path):
    network, weights = raft_weights(tmp_path / "raft.pth")
    frames = np.random.default_rng(0).integers(0, 256, (5, 124, 130, 3), dtype=np.uint8)
    series = extract(frames, [Raft(weights)], 16.0, batch=3)
    assert np.isnan(series["raft.fast"]).tolist() == [True, True, False, True, False]
    for t in (2, 4):
        flow = network(*(padded(planes(frames[n])) for n in (t - 2, t)))
        assert series["raft.fast"][t] == pytest.approx(float(dynamic(flow)), rel=1e-5)


@pytest.mark.parametrize(("height", "width"), [(120, 160), (96, 160)])
def test_small_frames_have_no_flow(height: int, width: int, tmp_path: Path):
    _, weights = raft_weights(tmp_path / "raft.pth")
    series = extract(np.zeros((3, height, width, 3), np.uint8), [Raft(weights)], 8.0)
    assert np.isnan(series["raft.fast"]).all()


# AMT

MODEL = """
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, img0, img1, embt, scale_factor=1.0, eval=False):
        return {"imgt_pred": (img0 + img1) / 2 * self.gain}
"""


@pytest.fixture
def brought(tmp_path: Path) -> Interpolated:
    """A checkout whose network gives the mean of two frames."""
    (tmp_path / "AMT" / "networks").mkdir(parents=True)
    (tmp_path / "AMT" / "networks" / "AMT-S.py").write_text(MODEL, encoding="utf-8")
    torch.save({"state_dict": {"gain": torch.ones(1)}}, tmp_path / "amt-s.pth")
    return Interpolated(tmp_path / "AMT", Found(tmp_path / "amt-s.pth", "ab" * 32))


def ramp(levels: list[int], height: int = 114, width: int = 120) -> np.ndarray:
    return np.stack([np.full((height, width, 3), level, dtype=np.uint8) for level in levels])


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_rows_are_how_far_each_frame_is_from_the_middle_of_its_neighbours(brought: Interpolated, batch: int):
    levels = [0, 10, 60, 50, 90, 90]
    series = extract(ramp(levels), [brought], 16.0, batch=batch)
    assert np.isnan(series["amt.even"]).tolist() == [True] + [False] * 4 + [True]
    middles = [(a + b) // 2 for a, b in zip(levels, levels[2:], strict=False)]
    off = [abs(real - made) for real, made in zip(levels[1:-1], middles, strict=True)]
    np.testing.assert_allclose(series["amt.even"][1:-1], [(255 - d) / 255 for d in off], atol=1.01 / 255)


@pytest.mark.parametrize("count", range(3, 12))
@pytest.mark.parametrize("start", [0, 1, 5])
def test_a_span_is_scored_by_its_own_odd_frames(count: int, start: int):
    """As VBench scores a clip that holds nothing but the span: ceil(n / 2) - 1 comparisons."""
    row = np.random.default_rng(0).uniform(0.9, 1, 30).astype(np.float32)
    odd = [start + offset for offset in range(1, count - 1, 2)]
    assert len(odd) == math.ceil(count / 2) - 1
    got = motion_smoothness({"amt.even": row}, range(start, start + count), AT_480P)
    assert got == pytest.approx(float(row[odd].mean(dtype=np.float64)))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_frames_have_no_smoothness(count: int):
    assert math.isnan(motion_smoothness({"amt.even": np.ones(9, np.float32)}, range(2, 2 + count), AT_480P))


def test_small_frames_have_no_smoothness(brought: Interpolated):
    assert np.isnan(extract(ramp([0, 1, 2], 112), [brought], 16.0)["amt.even"]).all()


def test_identity_follows_the_checkouts_code(brought: Interpolated, tmp_path: Path):
    before = brought.identity
    (tmp_path / "AMT" / "networks" / "AMT-S.py").write_text(MODEL + "\n", encoding="utf-8")
    assert brought.identity != before
    with pytest.raises(InputError, match=r"cannot be read .* name the folder of a checkout"):
        _ = Interpolated(tmp_path / "nowhere", brought.weights).identity


def test_metrics_are_those_of_the_weights_there_are(tmp_path: Path):
    weights = Found(tmp_path / "a", "ab" * 32)
    assert metrics() == metrics(amt=weights) == metrics(amt_checkout=tmp_path) == ()
    made = metrics(weights, weights, tmp_path)
    assert [m.key for m in made] == ["dynamic_degree@vbench:abababab", "motion_smoothness@vbench:abababab"]
    assert [m.key for m in pickle.loads(pickle.dumps(made))] == [m.key for m in made]
