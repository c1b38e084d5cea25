"""Motion smoothness as VBench has it, through a copy of AMT that the user brings (Li et al. 2023, arXiv 2304.09790).

AMT's code and weights are under CC BY-NC 4.0, for non-commercial use only, and no part of them is here. Who may use
them clones github.com/MCG-NKU/AMT, downloads amt-s.pth, and names both; the folder's Python code is run.
"""

from __future__ import annotations

import importlib.util
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from blockvid.errors import InputError

MULTIPLE = 16
"""Sides in pixels that the network takes are multiples of it."""
NETWORK = "networks/AMT-S.py"
"""The file of a checkout that defines `Model`, whose defaults are those of amt-s.pth."""
PACKAGES = ("networks", "utils")
"""Names that a checkout's files import each other by."""

NUMBER = np.float64(0).__reduce__()[0]
"""What pickle makes NumPy numbers with."""
SAFE: tuple[Any, ...] = (
    (NUMBER, "numpy.core.multiarray.scalar"),
    (NUMBER, "numpy._core.multiarray.scalar"),
    np.dtype,
    type(np.dtype("f8")),
)
"""amt-s.pth holds a NumPy number beside tensors, the optimizer's learning rate: all that is read beside tensors."""


class AMT:
    """A frame interpolator, frozen, around the `Model` of a checkout."""

    def __init__(self, network: nn.Module, device: str | torch.device = "cpu") -> None:
        self.network = network.to(device).eval().requires_grad_(False)
        self.device = torch.device(device)

    @classmethod
    def from_checkout(cls, folder: str | Path, weights: str | Path, device: str | torch.device = "cpu") -> AMT:
        """AMT-S from a checkout of MCG-NKU/AMT and the path of amt-s.pth. Raises InputError if they are not that.

        The checkout's code is imported, and with it run; the weights are read as tensors only. Not for several threads
        at once: the interpreter's module path is another during the import.
        """
        network = _model(Path(folder))()
        state = _state(Path(weights))
        different = _shapes(network.state_dict()) ^ _shapes(state)
        if different:
            name, shape = min(different)
            raise InputError(
                f"{weights} does not fit {Path(folder) / NETWORK}: {name} of shape {shape} is in one of them only; use "
                "amt-s.pth"
            )
        network.load_state_dict(state)
        return cls(network, device)

    @torch.no_grad()
    def middle(self, before: UInt8[Tensor, "b 3 h w"], after: UInt8[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b 3 h w"]:
        """The frames half way in time, clipped and truncated to whole levels, as VBench has it.

        Raises InputError where the network gives nan: below sides of 113 pixels AMT-S divides by zero.
        """
        h, w = before.shape[2:]
        top, left = -h % MULTIPLE // 2, -w % MULTIPLE // 2
        time = torch.full((len(before), 1, 1, 1), 0.5, device=self.device)
        found = self.network(self._input(before), self._input(after), time, scale_factor=1.0, eval=True)["imgt_pred"]
        if not found.isfinite().all():
            raise InputError(f"AMT has no middle of frames of {w}x{h}; use sides of 113 pixels or more")
        levels = (255 * found[..., top : top + h, left : left + w]).clamp(0, 255)
        return levels.to(torch.uint8).to(before.device)

    def smoothness(
        self, before: UInt8[Tensor, "b 3 h w"], middle: UInt8[Tensor, "b 3 h w"], after: UInt8[Tensor, "b 3 h w"]
    ) -> Float[Tensor, " b"]:
        """How well `middle` follows from its neighbours, 0 to 1: (255 - mean absolute difference in levels) / 255.

        VBench's score of a video is the mean over frames 1, 3, 5, ... counted from 0. float64, on the frames' device.
        """
        difference = (self.middle(before, after).double() - middle.double()).abs()
        return (255 - difference.mean(dim=(1, 2, 3))) / 255

    def _input(self, frames: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 y x"]:
        """Frames in [0, 1] with repeated borders up to a multiple of 16, half on each side, the odd one at the end."""
        h, w = (-n % MULTIPLE for n in frames.shape[2:])
        return F.pad(frames.to(self.device) / 255, (w // 2, w - w // 2, h // 2, h - h // 2), mode="replicate")


def _model(folder: Path) -> Callable[[], nn.Module]:
    """The class `Model` of a checkout."""
    file = folder / NETWORK
    if not file.is_file():
        raise InputError(f"{folder} has no {NETWORK}; name the folder of a checkout of github.com/MCG-NKU/AMT")
    spec = importlib.util.spec_from_file_location("amt_s", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _first_on_the_path(folder):
        try:
            spec.loader.exec_module(module)
        except ImportError as error:
            raise InputError(
                f"{file} cannot be imported ({error}); use a whole checkout of github.com/MCG-NKU/AMT, and install "
                "what it needs"
            ) from error
    model = vars(module).get("Model")
    if not (isinstance(model, type) and issubclass(model, nn.Module)):
        raise InputError(f"{file} defines no network named Model; use a checkout of github.com/MCG-NKU/AMT")
    return model


@contextmanager
def _first_on_the_path(folder: Path) -> Iterator[None]:
    """Imports of PACKAGES find those in `folder`; afterwards they are what they were before."""
    path, before = list(sys.path), _taken_out()
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        _taken_out()
        sys.path[:] = path
        sys.modules.update(before)


def _taken_out() -> dict[str, Any]:
    """The imported modules of PACKAGES, which count as not imported from now on."""
    names = [name for name in sys.modules if name.partition(".")[0] in PACKAGES]
    return {name: sys.modules.pop(name) for name in names}


def _shapes(state: Mapping[str, Tensor]) -> set[tuple[str, tuple[int, ...]]]:
    return {(name, tuple(weight.shape)) for name, weight in state.items()}


def _state(weights: Path) -> Mapping[str, Tensor]:
    """The network's tensors in a checkpoint of AMT's trainer."""
    if not weights.is_file():
        raise InputError(f"{weights} is missing, and holds AMT's weights; download amt-s.pth")
    try:
        with torch.serialization.safe_globals(list(SAFE)):
            checkpoint = torch.load(weights, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        why = str(error).strip().splitlines()[0]
        raise InputError(f"{weights} is not a file of tensors ({why}); download amt-s.pth again") from None
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict):
        raise InputError(f"{weights} has no state_dict; use amt-s.pth")
    return state
