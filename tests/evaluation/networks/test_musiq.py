"""MUSIQ against scores that its PyTorch port gave for the same made weights and pictures (`musiq.json`)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from zlib import crc32

import pytest
import torch
from torch import Tensor

from blockvid.errors import InputError
from blockvid.evaluation.networks.musiq import GRID, MUSIQ, hashed_places, musiq_weights, resized, same_padded

FROZEN = json.loads(Path(__file__).with_name("musiq.json").read_text(encoding="utf-8"))
SMALL = {"width": 24, "heads": 2, "layers": 2, "hidden": 40}


def made_weight(name: str, shape: list[int]) -> Tensor:
    """Uniform numbers from an integer hash of the name and the place, the same on every machine.

    What follows the first norm is small, so that the eps of later norms and the deviation of kernels matter.
    """
    count = math.prod(shape)
    x = torch.arange(count) * 2654435761 + crc32(name.encode())
    for _ in range(2):
        x = ((x & 0xFFFFFFFF) ^ (x & 0xFFFFFFFF) >> 16) * 0x45D9F3B
    wide = len(shape) > 1
    x = ((x & 0xFFFFFFFF).double() / 2**31 - 1) * 2 * math.sqrt(3 / (count / shape[0] if wide else 4))
    x = (x + 1) / 100 if name.startswith("gn_root") else x + (not wide and name.endswith("weight"))
    return x.reshape(shape).float()


def made_picture(height: int, width: int, contrast: float = 1.0) -> Tensor:
    y, x = torch.arange(height, dtype=torch.float64)[:, None], torch.arange(width, dtype=torch.float64)
    fine = [torch.sin(0.9 * y - 0.7 * x + c) * torch.sin(0.011 * x * (c + 1)) for c in range(3)]
    coarse = [torch.sin(x * (0.05 + 0.02 * c) + 0.03 * y) for c in range(3)]
    return (0.5 + 0.25 * contrast * (torch.stack(coarse) + torch.stack(fine))).float()


@pytest.fixture(scope="module")
def network() -> MUSIQ:
    network = MUSIQ(**SMALL)
    network.load_state_dict(musiq_weights({name: made_weight(name, shape) for name, shape in FROZEN["shapes"].items()}))
    return network


@pytest.mark.parametrize(("height", "width", "contrast", "score"), FROZEN["scores"])
def test_scores_are_the_ports(network: MUSIQ, height: int, width: int, contrast: float, score: float) -> None:
    (found,) = network(made_picture(height, width, contrast)[None])
    assert found.item() == pytest.approx(score, abs=1e-5)


def test_frames_of_a_batch_are_scored_as_if_alone(network: MUSIQ) -> None:
    picture = made_picture(96, 160)
    batch = torch.stack((picture, picture.flip(-1), 1 - picture))
    alone = torch.cat([network(frame[None]) for frame in batch])
    torch.testing.assert_close(network(batch), alone, rtol=0, atol=1e-5)
    assert alone.unique().numel() == 3


def test_the_released_checkpoints_names_and_shapes_fit() -> None:
    """The full network: 384 for 24 channels, 1152 for 40, 14 layers for 2."""
    full, released = {24: 384, 40: 1152}, {}
    for name, shape in FROZEN["shapes"].items():
        layers = range(14) if "encoderblock_0" in name else range(0 if "encoderblock_1" in name else 1)
        for layer in layers:
            released[name.replace("block_0", f"block_{layer}")] = torch.empty(
                [full.get(n, n) for n in shape], device="meta"
            )
    with torch.device("meta"):
        network = MUSIQ()
    network.load_state_dict(musiq_weights(released), assign=True)
    assert sum(weight.numel() for weight in network.parameters()) == 27_125_825


def test_a_name_of_another_network_is_left_to_be_refused() -> None:
    assert set(musiq_weights({"head.weight": torch.zeros(1), "fnet.conv1": torch.zeros(1)})) > {"fnet.conv1"}


def test_the_network_is_frozen(network: MUSIQ) -> None:
    assert not any(m.training for m in network.modules()) and not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(("height", "width", "side", "size"), [(480, 854, 224, (126, 224)), (5, 900, 384, (2, 384))])
def test_the_long_side_is_what_is_asked(height: int, width: int, side: int, size: tuple[int, int]) -> None:
    assert resized(torch.zeros(1, 3, height, width), side).shape[-2:] == size
    assert resized(torch.zeros(1, 3, width, height), side).shape[-2:] == size[::-1]


def test_a_frame_of_which_nothing_would_be_left_is_refused(network: MUSIQ) -> None:
    with pytest.raises(InputError, match=r"448x1 is too narrow.*; crop it"):
        network(torch.zeros(1, 3, 1, 448))
    assert network(torch.zeros(1, 3, 1, 447)).isfinite().all()


@pytest.mark.parametrize(("size", "stride"), [(7, 2), (3, 2), (3, 1), (1, 1), (32, 32)])
def test_windows_cover_everything_and_the_odd_zero_is_last(size: int, stride: int) -> None:
    for n in range(1, 70):
        padded = same_padded(torch.ones(1, 1, n, n), size, stride)[0, 0].diagonal()
        assert (len(padded) - size) // stride + 1 == math.ceil(n / stride) and padded.sum() == n
        before, after = int(padded.argmax()), len(padded) - n - int(padded.argmax())
        assert after - before in (0, 1)


def test_places_are_the_nearest_of_the_grid() -> None:
    cpu = torch.device("cpu")
    assert hashed_places(GRID, GRID, cpu).tolist() == list(range(GRID**2))
    assert hashed_places(1, 4, cpu).tolist() == [0, 2, 5, 7]
    assert hashed_places(2, 1, cpu).tolist() == [0, 50]
    assert hashed_places(1, 20, cpu).tolist() == [n // 2 for n in range(20)]
