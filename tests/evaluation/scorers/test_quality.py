"""Laws of quality: rows are those of each frame alone, by the networks and the arithmetic that VBench names."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from blockvid.evaluation.networks.musiq import MUSIQ
from blockvid.evaluation.networks.preprocess import CLIP_PICTURE, MUSIQ_PICTURE
from blockvid.evaluation.networks.vit import AestheticHead, ClipViT, ViTSizes
from blockvid.evaluation.scorers.quality import Aesthetic, Imaging, metrics
from blockvid.evaluation.series import Footage, extract
from blockvid.evaluation.weights import Found

TINY, DIM = ViTSizes(width=32, depth=2, heads=4, patch=32), 16
FOOTAGE = Footage(96, 64, 16.0)


def found(path: Path, weights: dict[str, torch.Tensor], digit: str) -> Found:
    torch.save(weights, path)
    return Found(path, digit * 64)


def randomised(network: nn.Module) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = {name: 0.1 * torch.randn(w.shape, generator=generator) for name, w in network.state_dict().items()}
    network.load_state_dict(weights)
    return weights


def video(count: int, height: int = 64, width: int = 96) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_aesthetic_quality_is_a_tenth_of_a_linear_score_of_unit_embeddings(tmp_path: Path):
    clip, head = ClipViT(TINY, DIM), AestheticHead(DIM)
    extractor = Aesthetic(
        found(tmp_path / "clip.pth", randomised(clip), "a"),
        found(tmp_path / "head.pth", randomised(head), "b"),
        TINY,
        DIM,
    )
    frames = video(5)
    series = extract(frames, [extractor], 16.0)
    embeddings = torch.cat([clip.eval()(CLIP_PICTURE(frame)[None]) for frame in frames])
    expected = ((F.normalize(embeddings, dim=-1) @ head.weight[0] + head.bias[0]) / 10).detach()
    np.testing.assert_allclose(series["aesthetic.score"], expected.numpy(), atol=1e-6)
    assert series["aesthetic.score"].std() > 0
    (metric,) = metrics(clip_l14=extractor.clip, laion=extractor.head)
    assert metric.score(series, range(1, 4), FOOTAGE) == pytest.approx(float(expected[1:4].mean()), abs=1e-6)


def test_the_aesthetic_score_of_a_frame_does_not_depend_on_its_batch(tmp_path: Path):
    clip, head = (
        found(tmp_path / f"{n}.pth", randomised(net), n)
        for n, net in (("c", ClipViT(TINY, DIM)), ("d", AestheticHead(DIM)))
    )
    one, all_ = (extract(video(5), [Aesthetic(clip, head, TINY, DIM)], 16.0, batch=b) for b in (1, 5))
    np.testing.assert_allclose(one["aesthetic.score"], all_["aesthetic.score"], atol=1e-6)


def test_imaging_quality_is_musiq_of_frames_brought_down_to_512(tmp_path: Path):
    network = MUSIQ()
    randomised(network)
    checkpoint = tmp_path / "musiq.pth"
    torch.save(released(network), checkpoint)
    weights = Found(checkpoint, "c" * 64)
    frames = video(3, 32, 600)
    series = extract(frames, [Imaging(weights)], 16.0, batch=2)
    assert MUSIQ_PICTURE(frames[0]).shape == (3, 27, 512)
    expected = [float(network.eval()(MUSIQ_PICTURE(frame)[None])) for frame in frames]
    np.testing.assert_allclose(series["imaging.score"], expected, rtol=1e-5)
    assert series["imaging.score"].std() > 0
    (metric,) = metrics(musiq=weights)
    assert metric.score(series, range(3), FOOTAGE) == pytest.approx(np.mean(expected), rel=1e-5)


def released(network: MUSIQ) -> dict[str, torch.Tensor]:
    """Its weights under the names and in the shapes of the released checkpoint."""
    inside = "transformer_encoder."
    result = {}
    for name, weight in network.state_dict().items():
        if name == "place":
            result[f"{inside}posembed_input.position_emb"] = weight[None]
        elif name == "scale":
            result[f"{inside}scaleembed_input.scale_emb"] = weight
        elif name == "cls":
            result[f"{inside}cls"] = weight.reshape(1, 1, -1)
        elif name.startswith("norm."):
            result[f"{inside}encoder_norm.{name.removeprefix('norm.')}"] = weight
        elif name.startswith("stem."):
            part = name.removeprefix("stem.")
            result[part if "_root." in part else f"block1.{part}"] = weight
        else:
            result[name] = weight
    return result


def test_metrics_are_those_of_the_weights_there_are(tmp_path: Path):
    weights = Found(tmp_path / "a", "ab" * 32)
    assert metrics() == metrics(clip_l14=weights) == metrics(laion=weights) == ()
    made = metrics(weights, weights, weights)
    assert [m.name for m in made] == ["aesthetic_quality", "imaging_quality"] and {m.tier for m in made} == {"vbench"}
    other = metrics(weights, Found(tmp_path / "b", "cd" * 32))
    assert other[0].key != made[0].key and other[0].extractors[0].identity != made[0].extractors[0].identity
    assert [m.key for m in pickle.loads(pickle.dumps(made))] == [m.key for m in made]
