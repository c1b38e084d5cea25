"""EfficientNet-Lite0 with its public weights: the features that `efficientnet-lite-pytorch` 0.1.0 gave for waves."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from blockvid.evaluation.networks.checkpoints import load_efficientnet
from blockvid.evaluation.networks.efficientnet import EfficientNetLite0, SameConv, pooled, pooled_under
from blockvid.evaluation.networks.preprocess import EFFICIENTNET_PICTURE
from blockvid.evaluation.weights import REGISTRY, packaged

FROZEN = json.loads(Path(__file__).with_name("efficientnet.json").read_text(encoding="utf-8"))
ANALOG_CLOCK, TRAFFIC_LIGHT = 409, 920


@cache
def network() -> EfficientNetLite0:
    return load_efficientnet(packaged(REGISTRY["efficientnet_lite0"]))


def waves(height: int, width: int) -> Tensor:
    """A picture without a picture file, of about -1..1."""
    y = torch.arange(height, dtype=torch.float64)[:, None] / 17
    x = torch.arange(width, dtype=torch.float64) / 23
    planes = [torch.sin((c + 1) * y + x) * torch.cos(x * x / 9 - c * y) for c in range(3)]
    return torch.stack(planes).float()[None]


@pytest.mark.parametrize("case", FROZEN, ids=lambda case: "x".join(map(str, case["size"])))
def test_features_equal_the_reference(case):
    features = network()(waves(*case["size"]))
    assert list(features.shape) == case["shape"]
    embedding = pooled(features)[0]
    assert (embedding[::8] - torch.tensor(case["embedding"])).abs().max() < 1e-5
    assert (features[0].mean(dim=0) - torch.tensor(case["means"])).abs().max() < 1e-5
    assert network().logits(embedding[None]).argmax().item() == case["class"]


def drawing(background: tuple[int, int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGB", (224, 224), background)
    return picture, ImageDraw.Draw(picture)


def clock() -> Image.Image:
    picture, draw = drawing((180, 160, 140))
    draw.ellipse((22, 22, 202, 202), fill=(250, 250, 250), outline=(40, 30, 20), width=8)
    for hour in range(12):
        y, x = math.sin(math.tau * hour / 12), math.cos(math.tau * hour / 12)
        draw.line((112 + 78 * x, 112 + 78 * y, 112 + 66 * x, 112 + 66 * y), fill=0, width=5)
    draw.line((112, 112, 112, 55), fill=0, width=5)
    draw.line((112, 112, 150, 130), fill=0, width=7)
    return picture


def lights() -> Image.Image:
    picture, draw = drawing((120, 170, 220))
    draw.rectangle((80, 20, 144, 204), fill=(30, 30, 30))
    for row, colour in enumerate([(255, 0, 0), (90, 80, 0), (0, 90, 0)]):
        draw.ellipse((92, 34 + row * 58, 132, 74 + row * 58), fill=colour)
    return picture


@pytest.mark.parametrize(("drawn", "expected"), [(clock, ANALOG_CLOCK), (lights, TRAFFIC_LIGHT)])
def test_it_recognises_a_drawing(drawn, expected: int):
    features = network()(EFFICIENTNET_PICTURE(np.asarray(drawn()))[None])
    assert network().logits(pooled(features)).argmax().item() == expected


@pytest.mark.parametrize(("height", "width"), [(224, 398), (97, 131), (1, 1), (33, 64)])
def test_the_map_is_a_32nd_rounded_up(height: int, width: int):
    features = network()(waves(height, width))
    assert features.shape == (1, 1280, math.ceil(height / 32), math.ceil(width / 32))
    assert (features >= 0).all() and (features <= 6).all()


@pytest.mark.parametrize(("size", "expected"), [(4, [3.0, 2.0]), (5, [2.0, 3.0, 2.0])])
def test_padding_is_tensorflows(size: int, expected: list[float]):
    conv = SameConv(1, 1, 3, 2, bias=False)
    conv.weight.data[:] = 0
    conv.weight.data[0, 0, 1] = 1  # the sum of three in a row
    with torch.no_grad():
        assert conv(torch.ones(1, 1, size, size))[0, 0, 0].tolist() == expected  # an odd zero on the right


def test_a_mask_of_ones_is_no_mask():
    features = network()(waves(224, 398))
    for size in [(224, 398), (7, 13), (3, 5)]:
        assert torch.allclose(pooled_under(features, torch.ones(1, *size)), pooled(features), atol=1e-5)


def test_a_mask_weighs_places():
    features = torch.arange(24.0).reshape(1, 2, 3, 4)
    mask = torch.zeros(1, 30, 40)
    mask[0, 10:20, 30:] = 1
    assert torch.equal(pooled_under(features, mask), features[:, :, 1, 3])
    mask[0, :10, :5] = 2  # half of a place, twice as heavy
    assert torch.allclose(pooled_under(features, mask), (features[:, :, 1, 3] + features[:, :, 0, 0]) / 2)
    assert torch.allclose(pooled_under(features, 7 * mask), pooled_under(features, mask))


def test_an_empty_mask_has_no_mean():
    features = torch.ones(2, 3, 2, 2)
    masks = torch.stack((torch.zeros(4, 4), torch.ones(4, 4)))
    means = pooled_under(features, masks)
    assert means[0].isnan().all() and means[1].tolist() == [1.0] * 3
