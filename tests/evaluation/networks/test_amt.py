"""The adapter to AMT, on a made checkout with the interface of the real one: no part of AMT may be here."""

from __future__ import annotations

import math
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from blockvid.errors import InputError
from blockvid.evaluation.networks.amt import AMT

MODEL = """
import torch
from torch import nn
from networks.blocks.mixing import mixed
from utils.flow_utils import lifted

class Model(nn.Module):
    def __init__(self, corr_radius=3):
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(3, 1, 1))

    def forward(self, img0, img1, embt, scale_factor=1.0, eval=False, **kwargs):
        assert scale_factor == 1 and eval and embt.shape == (len(img0), 1, 1, 1) and bool((embt == 0.5).all())
        assert not any(side % 16 for side in img0.shape[2:]) and float(img0.max()) <= 1
        return {"imgt_pred": lifted(mixed(img0, img1, embt), self.gain)}
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "AMT"
    files = {
        "networks/__init__.py": "",
        "networks/AMT-S.py": MODEL,
        "networks/blocks/__init__.py": "",
        "networks/blocks/mixing.py": "def mixed(a, b, time):\n    return a * (1 - time) + b * time\n",
        "utils/__init__.py": "",
        "utils/flow_utils.py": "def lifted(frames, gain):\n    return frames * gain\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """As AMT's trainer saves: the learning rate was a NumPy number, of NumPy 1, where its module had another name."""
    new, old = tmp_path / "new.pth", tmp_path / "amt-s.pth"
    optimizer = {"param_groups": [{"lr": np.float64(2e-5)}]}
    torch.save({"epoch": 300, "state_dict": {"gain": torch.ones(3, 1, 1)}, "optim": optimizer}, new)
    with zipfile.ZipFile(new) as source, zipfile.ZipFile(old, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            target.writestr(entry.filename, content.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n"))
    assert b"numpy.core.multiarray\n" in old.read_bytes()
    return old


@pytest.fixture
def amt(checkout: Path, weights: Path) -> AMT:
    return AMT.from_checkout(checkout, weights)


def frames(seed: int, *size: int) -> Tensor:
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(2, 3, 32, 48), (1, 3, 37, 50), (1, 3, 9, 15)])
def test_the_middle_is_cut_to_size_and_truncated(amt: AMT, size: tuple[int, ...]) -> None:
    before, after = frames(0, *size), frames(1, *size)
    mean = before.numpy() / np.float32(255) * np.float32(0.5) + after.numpy() / np.float32(255) * np.float32(0.5)
    middle = amt.middle(before, after)
    assert middle.dtype == torch.uint8
    assert np.array_equal(middle.numpy(), (mean * np.float32(255)).clip(0, 255).astype(np.uint8))


def test_what_is_brighter_than_white_is_clipped(amt: AMT) -> None:
    amt.network.gain.fill_(3)
    assert (amt.middle(frames(0, 1, 3, 16, 16) // 2 + 100, frames(1, 1, 3, 16, 16) // 2 + 100) == 255).all()


def test_frames_of_which_the_network_makes_nan_are_refused(amt: AMT) -> None:
    amt.network.gain[0] = math.nan
    with pytest.raises(InputError, match="20x10; use sides of 113 pixels"):
        amt.middle(frames(0, 1, 3, 10, 20), frames(1, 1, 3, 10, 20))


def test_smoothness_is_what_is_left_of_255_levels(amt: AMT) -> None:
    before = torch.full((2, 3, 20, 20), 40, dtype=torch.uint8)
    after = torch.full((2, 3, 20, 20), 43, dtype=torch.uint8)
    middle = torch.stack((torch.full((3, 20, 20), 41), torch.full((3, 20, 20), 92))).to(torch.uint8)
    assert amt.smoothness(before, middle, after).tolist() == [1, (255 - 51) / 255]  # 41.5 is truncated to 41
    middle[0, :, :10] = 31
    assert amt.smoothness(before, middle, after)[0].item() == pytest.approx((255 - 5) / 255, abs=1e-12)


def test_modules_of_the_same_names_are_left_as_they_were(
    checkout: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = type(sys)("utils")
    monkeypatch.setitem(sys.modules, "utils", mine)
    path = list(sys.path)
    AMT.from_checkout(checkout, weights)
    assert sys.modules["utils"] is mine and sys.path == path
    assert not [name for name in sys.modules if name.partition(".")[0] == "networks" or name == "utils.flow_utils"]


def test_the_network_is_frozen(amt: AMT) -> None:
    assert not amt.network.training and not any(weight.requires_grad for weight in amt.network.parameters())


def without_network(checkout: Path, weights: Path) -> None:
    (checkout / "networks/AMT-S.py").unlink()


def without_utils(checkout: Path, weights: Path) -> None:
    (checkout / "utils/flow_utils.py").unlink()


def without_model(checkout: Path, weights: Path) -> None:
    (checkout / "networks/AMT-S.py").write_text("Model = 3\n")


def without_weights(checkout: Path, weights: Path) -> None:
    weights.unlink()


def cut_short(checkout: Path, weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:300])


def a_web_page(checkout: Path, weights: Path) -> None:
    weights.write_text("<!DOCTYPE html>\n<html>\n</html>\n")


def code(checkout: Path, weights: Path) -> None:
    torch.save({"state_dict": {"gain": Path}}, weights)


def tensors_alone(checkout: Path, weights: Path) -> None:
    torch.save({"gain": torch.ones(3, 1, 1)}, weights)


def other_names(checkout: Path, weights: Path) -> None:
    torch.save({"state_dict": {"bias": torch.ones(3, 1, 1)}}, weights)


def another_shape(checkout: Path, weights: Path) -> None:
    torch.save({"state_dict": {"gain": torch.ones(4, 1, 1)}}, weights)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (without_network, r"AMT has no networks/AMT-S.py; name the folder of a checkout"),
        (without_utils, r"cannot be imported \(No module named 'utils.flow_utils'\); use a whole checkout"),
        (without_model, r"defines no network named Model; use"),
        (without_weights, r"amt-s.pth is missing.*; download"),
        (cut_short, r"amt-s.pth is not a file of tensors \(.*\); download"),
        (a_web_page, r"amt-s.pth is not a file of tensors \(.*\); download"),
        (code, r"amt-s.pth is not a file of tensors \(.*\); download"),
        (tensors_alone, r"amt-s.pth has no state_dict; use amt-s.pth"),
        (other_names, r"bias of shape \(3, 1, 1\) is in one of them only; use amt-s.pth"),
        (another_shape, r"gain of shape \(3, 1, 1\) is in one of them only; use amt-s.pth"),
    ],
)
def test_what_is_not_amt_is_refused(
    checkout: Path, weights: Path, spoil: Callable[[Path, Path], None], error: str
) -> None:
    spoil(checkout, weights)
    path = list(sys.path)
    with pytest.raises(InputError, match=error) as caught:
        AMT.from_checkout(checkout, weights)
    assert len(str(caught.value).splitlines()) == 1 and sys.path == path
