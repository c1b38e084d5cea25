"""What updates a network's weights, and how fast along the run: settings that make the optimisers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from blockvid.errors import InputError
from blockvid.training.sharding import parameters


@runtime_checkable
class Optimiser(Protocol):
    """Makes the optimisers of a network, once it has its final place."""

    def __call__(self, network: nn.Module) -> list[torch.optim.Optimizer]: ...


@dataclass(frozen=True)
class AdamW:
    """Decoupled weight decay on everything trainable; the defaults are the paper's (section 5.1) and the field's."""

    lr: float = 1e-4
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)

    def __call__(self, network: nn.Module) -> list[torch.optim.Optimizer]:
        trained = [p for p in parameters(network).values() if p.requires_grad]
        return [torch.optim.AdamW(trained, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)]


def hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Muon's share: the square and wide matrices inside the blocks."""
    return name.startswith("blocks.") and parameter.ndim == 2


@dataclass(frozen=True)
class MuonAdamW:
    """Muon for the matrices that `matrices` picks, AdamW for the rest. For one process: Muon needs whole matrices."""

    lr: float = 1e-3
    matrix_lr: float = 4e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    matrices: Callable[[str, nn.Parameter], bool] = hidden_matrix

    def __call__(self, network: nn.Module) -> list[torch.optim.Optimizer]:
        trained = {name: p for name, p in parameters(network).items() if p.requires_grad}
        if any(isinstance(p, DTensor) for p in trained.values()):
            raise InputError("Muon needs whole matrices and these are sharded; use AdamW, or one process")
        picked = [p for name, p in trained.items() if self.matrices(name, p)]
        others = [p for name, p in trained.items() if not self.matrices(name, p)]
        adamw = torch.optim.AdamW(others, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)
        if not picked:
            return [adamw]
        muon = torch.optim.Muon(
            picked, lr=self.matrix_lr, weight_decay=self.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        return [adamw, muon]


@runtime_checkable
class Rate(Protocol):
    """Factor of every learning rate at a step."""

    def __call__(self, step: int, steps: int) -> float: ...


@dataclass(frozen=True)
class Stepwise:
    """1, then `factor` from the fraction `at` of the run on: 1e-4 to 5e-5 (section 5.1, which does not say when)."""

    factor: float = 0.5
    at: float = 0.5

    def __call__(self, step: int, steps: int) -> float:
        return 1.0 if step < self.at * steps else self.factor

    def described(self, steps: int) -> str:
        """What becomes of the rate in a run of so many steps."""
        return f"times {self.factor:g} from step {math.ceil(self.at * steps)}"


@dataclass(frozen=True)
class WarmHoldFall:
    """Rises to `peak` over `warmup` steps, holds, and falls to zero over the last fraction `fall` of the run.

    The constant phase lets a later run continue from any checkpoint before the fall with more steps.
    """

    warmup: int = 100
    fall: float = 0.3
    peak: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.fall <= 1:
            raise InputError(f"a fall over {self.fall} of the run is no share; use a number from 0 to 1")
        if not self.peak > 0:
            raise InputError(f"a peak of {self.peak} times the learning rate teaches nothing; use a number above 0")

    def __call__(self, step: int, steps: int) -> float:
        return self.peak * min(1.0, (step + 1) / self.warmup, max(0.0, (steps - step) / self._falling(steps)))

    def described(self, steps: int) -> str:
        """What becomes of the rate in a run of so many steps, after its warming up."""
        return f"falling to 0 from step {steps - self._falling(steps)}"

    def _falling(self, steps: int) -> int:
        return max(1, round(self.fall * steps))
