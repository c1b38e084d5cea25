"""RAFT against flows that its authors' code and torchvision gave for the same made weights and frames (`raft.json`)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from torch import Tensor

from blockvid.errors import InputError
from blockvid.evaluation.networks.raft import (
    RAFT,
    correlation_levels,
    dynamic,
    looked_up,
    padded,
    places,
    raft_weights,
    upsampled,
)

FROZEN = json.loads(Path(__file__).with_name("raft.json").read_text(encoding="utf-8"))
LAYOUTS = ("original", "torchvision")


def made_weight(name: str, shape: list[int]) -> Tensor:
    """Uniform numbers from an integer hash of the name and the place, the same on every machine; flow changes little.

    The two names that the original has for some norms give equal numbers.
    """
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    count, wide = math.prod(shape), len(shape) > 1
    x = torch.arange(count) * 2654435761 + crc32(name.replace(".norm3.", ".downsample.1.").encode())
    for _ in range(2):
        x = ((x & 0xFFFFFFFF) ^ (x & 0xFFFFFFFF) >> 16) * 0x45D9F3B
    x = ((x & 0xFFFFFFFF).double() / 2**31 - 1) * math.sqrt(3 / (count / shape[0] if wide else 4))
    x = (x + (not wide and name.endswith("weight"))).reshape(shape).float()
    if name.endswith("running_var"):
        return x.abs() + 0.5
    return x / 20 if "flow_head.conv2" in name else x


def made_frame(height: int, width: int, shift: float) -> Tensor:
    y, x = torch.arange(height, dtype=torch.float64)[:, None], torch.arange(width, dtype=torch.float64) + shift
    fine = [torch.sin(0.9 * y - 0.7 * x + c) * torch.sin(0.011 * x * (c + 1)) for c in range(3)]
    coarse = [torch.sin(x * (0.05 + 0.02 * c) + 0.03 * y) for c in range(3)]
    return (0.5 + 0.25 * (torch.stack(coarse) + torch.stack(fine))).float() * 255


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> tuple[RAFT, list[dict[str, Any]]]:
    frozen = FROZEN[request.param]
    network = RAFT()
    network.load_state_dict(raft_weights({name: made_weight(name, shape) for name, shape in frozen["shapes"].items()}))
    return network, frozen["flows"]


@pytest.mark.parametrize("index", [0, 1])
def test_flows_are_the_originals_and_torchvisions(layout: tuple[RAFT, list[dict[str, Any]]], index: int) -> None:
    network, flows = layout
    expected = flows[index]
    size = expected["height"], expected["width"]
    before, after = (made_frame(*size, shift)[None] for shift in (0, 3))
    flow = network(before, after, *expected["updates"])  # none: as many as VBench makes
    assert flow.shape == (1, 2, *size)
    some = flow[0, :, :: FROZEN["every"], :: FROZEN["every"]].flatten().tolist()
    assert some == pytest.approx(expected["flow"], abs=1e-3)


@pytest.fixture(scope="module")
def tiny() -> RAFT:
    network = RAFT(channels=(8, 8, 8), features=8, hidden=8, levels=2, radius=2)
    weights = {name: made_weight(name, list(weight.shape)) for name, weight in network.state_dict().items()}
    network.load_state_dict(weights)
    return network


def test_pairs_of_a_batch_have_the_flow_they_have_alone(tiny: RAFT) -> None:
    frames = torch.stack([made_frame(40, 56, shift) for shift in (0, 2, 7)])
    before, after = frames[:2], frames[1:]
    alone = torch.cat([tiny(a[None], b[None]) for a, b in zip(before, after, strict=True)])
    torch.testing.assert_close(tiny(before, after), alone, rtol=0, atol=1e-4)
    assert not torch.allclose(alone[0], alone[1], atol=1e-2)


def test_the_network_is_frozen(tiny: RAFT) -> None:
    """Batch norms would otherwise measure the frames."""
    assert not any(m.training for m in tiny.modules()) and not any(p.requires_grad for p in tiny.parameters())


@pytest.mark.parametrize(
    ("size", "error"), [((32, 33), r"33x32 are not whole places .*; use padded"), ((24, 32), r"32x24 are too small")]
)
def test_frames_it_cannot_place_are_refused(tiny: RAFT, size: tuple[int, int], error: str) -> None:
    """Below two places at the coarsest level the original divides by zero, and its flow is nan."""
    with pytest.raises(InputError, match=error):
        tiny(torch.zeros(1, 3, *size), torch.zeros(1, 3, *size))
    assert tiny(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32), updates=1).isfinite().all()


def test_a_name_of_another_network_is_left_to_be_refused() -> None:
    assert set(raft_weights({"module.fnet.norm3.weight": torch.zeros(1), "head.weight": torch.zeros(1)})) == {
        "head.weight"
    }


def test_correlations_are_read_where_the_flow_points() -> None:
    """With a radius of 0 and whole flows, the first level is the product of the two places; outside it is 0."""
    torch.manual_seed(0)
    before, after = torch.randn(2, 1, 6, 8, 9)
    flow = torch.tensor((3.0, -2.0))[None, :, None, None]
    seen = looked_up(correlation_levels(before, after, 1), places(before) + flow, 0)[0, 0]
    expected = torch.zeros(8, 9)
    expected[2:, :-3] = (before[0, :, 2:, :-3] * after[0, :, :-2, 3:]).sum(0) / math.sqrt(6)
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5)


def test_the_window_goes_through_x_first() -> None:
    """The level is x + 10 y itself, so what is read tells where."""
    level = (torch.arange(5.0)[:, None] * 10 + torch.arange(5.0))[None, None].expand(25, 1, 5, 5)
    seen = looked_up((level,), places(torch.zeros(1, 1, 5, 5)), 1)[0, :, 2, 2]
    assert seen.tolist() == pytest.approx([11, 21, 31, 12, 22, 32, 13, 23, 33], abs=1e-4)


def test_a_constant_flow_is_upsampled_to_itself_in_pixels() -> None:
    torch.manual_seed(0)
    up = upsampled(torch.tensor((1.5, -2.0))[None, :, None, None].expand(1, 2, 4, 5), torch.randn(1, 576, 4, 5))
    assert up.shape == (1, 2, 32, 40)
    inside = up[0, :, 8:-8, 8:-8]
    torch.testing.assert_close(inside, torch.tensor((12.0, -16.0))[:, None, None].expand_as(inside))


@pytest.mark.parametrize("size", [(16, 24), (13, 17), (9, 8), (480, 854)])
def test_padding_repeats_borders_with_the_odd_one_at_the_end(size: tuple[int, int]) -> None:
    h, w = size
    frame = torch.rand(1, 1, h, w)
    found = padded(frame)
    top, left = (found.shape[2] - h) // 2, (found.shape[3] - w) // 2
    expected = np.pad(frame[0, 0].numpy(), ((top, found.shape[2] - h - top), (left, found.shape[3] - w - left)), "edge")
    assert np.array_equal(found[0, 0].numpy(), expected)
    assert found.shape[2] == math.ceil(h / 8) * 8 and found.shape[3] == math.ceil(w / 8) * 8


@pytest.mark.parametrize("size", [(4, 5), (7, 11), (48, 64)])
def test_dynamic_is_the_mean_of_the_longest_twentieth(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    flow = torch.randn(3, 2, *size) * 10
    for one, found in zip(flow.double().numpy(), dynamic(flow), strict=True):
        lengths = np.sort(np.hypot(one[0], one[1]).ravel())[::-1]
        assert found.item() == pytest.approx(lengths[: int(size[0] * size[1] * 0.05)].mean(), rel=1e-5)


def test_a_flow_without_a_twentieth_is_refused() -> None:
    with pytest.raises(InputError, match="19x1 has no longest 5 %; use 20"):
        dynamic(torch.zeros(1, 2, 1, 19))
