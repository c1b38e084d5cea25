"""Rectified flow: the straight path between data and noise, its velocity, and the levels at which it is visited.

The paper's t is sigma here: 0 is data, 1 is noise, and the model's timestep is 1000 sigma. There is one level per
latent frame, (b, f), because chunks (and a given first frame) sit at different levels in one forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor

from blockvid.errors import InputError

TIMESTEPS = 1000
"""The model's timestep at sigma = 1."""

Level = TypeVar("Level", float, Tensor)
ScheduleKind = Literal["naive", "linear", "cosine", "sigmoid"]


def over_frames(values: Shaped[Tensor, "b f"]) -> Shaped[Tensor, "b 1 f 1 1"]:
    """One value per latent frame, shaped to meet latents (b c f h w)."""
    return rearrange(values, "b f -> b 1 f 1 1")


def noised(
    x0: Float[Tensor, "b c f h w"], eps: Float[Tensor, "b c f h w"], sigma: Float[Tensor, "b f"]
) -> Float[Tensor, "b c f h w"]:
    """x_sigma = (1 - sigma) x0 + sigma eps, the straight path of rectified flow (Eq. 2)."""
    level = over_frames(sigma)
    return (1 - level) * x0 + level * eps


def velocity(x0: Float[Tensor, "b c f h w"], eps: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f h w"]:
    """v = eps - x0 = d x_sigma / d sigma, what the model predicts (Eqs. 3 and 4)."""
    return eps - x0


def x0_from_velocity(
    x: Float[Tensor, "b c f h w"], v: Float[Tensor, "b c f h w"], sigma: Float[Tensor, "b f"]
) -> Float[Tensor, "b c f h w"]:
    """x0 = x_sigma - sigma v, Eqs. 2 and 3 solved for the data."""
    return x - over_frames(sigma) * v


def shift_sigma(u: Level, shift: float) -> Level:
    """w_s(u) = s u / (1 + (s - 1) u): s > 1 spends more of the levels near noise. Keeps 0 and 1; w_a w_b = w_ab.

    Raises InputError unless shift is a finite number above 0.
    """
    if not (math.isfinite(shift) and shift > 0):
        raise InputError(f"shift {shift} is not a finite number above 0; use 1 for no shift, 3 to 12 for Wan models")
    return shift * u / (1 + (shift - 1) * u)


def sigma_grid(steps: int, shift: float) -> tuple[float, ...]:
    """The steps + 1 descending levels of diffusers' Wan sampler, from 1 - 1e-6 to 0.

    The evenly spaced levels run from 1 towards 1/1000 before the shift. The first stays 1e-6 below 1 as it does in
    diffusers' UniPCMultistepScheduler (use_flow_sigmas), so that the two can be compared to the last digit.
    Raises InputError unless steps >= 1 and shift > 0.
    """
    first, *rest = _evenly(1.0, 1 / TIMESTEPS, steps)
    return _closed([shift_sigma(first, shift) - 1e-6, *(shift_sigma(u, shift) for u in rest)])


def original_sigma_grid(steps: int, shift: float) -> tuple[float, ...]:
    """The steps + 1 descending levels of Wan's own repository: 0.999 towards 0 evenly, then shifted.

    It differs slightly from `sigma_grid`: the last level of 50 at shift 5 is 0.0925 instead of 0.0968.
    Raises InputError unless steps >= 1 and shift > 0.
    """
    return _closed([shift_sigma(u, shift) for u in _evenly(1 - 1 / TIMESTEPS, 0.0, steps)])


def few_step_grid(steps: int, shift: float) -> tuple[float, ...]:
    """The steps + 1 descending levels that few-step students learn: 1 towards 0 evenly, then shifted.

    4 steps at shift 5 are the timesteps 1000, 937.5, 833.3 and 625 of Self Forcing (arXiv 2506.08009).
    Raises InputError unless steps >= 1 and shift > 0.
    """
    return _closed([min(1.0, shift_sigma(u, shift)) for u in _evenly(1.0, 0.0, steps)])


def sample_sigma(shape: Sequence[int], shift: float, generator: torch.Generator) -> Float[Tensor, "*shape"]:
    """Training levels: uniform in [0, 1), shifted as the sampling grid is. On the generator's device."""
    return shift_sigma(torch.rand(tuple(shape), generator=generator, device=generator.device), shift)


@dataclass(frozen=True)
class ChunkSchedule:
    """eps_c, the noise of each of n chunks: low where the scene is set, high where it goes on (Eqs. 11, 26 and 27).

    "naive" treats no chunk differently: 1.0 throughout. The others rise from eps_min to eps_max along the chunk index,
    counted from 0; the literal sigmoid stays inside both ends (at alpha 10: 0.106 and 0.991 of 0.1 and 0.997) unless it
    is `normalised`. `one_based` counts from 1 as the paper prints it, for audits only: values may leave
    [eps_min, eps_max], even exceed 1, and the cosine turns back at the end.
    Raises InputError unless 0 < eps_min <= eps_max <= 1 and alpha > 0.
    """

    kind: ScheduleKind = "naive"
    eps_min: float = 0.1
    eps_max: float = 0.997
    alpha: float = 10.0
    one_based: bool = False
    normalised: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(ScheduleKind):
            raise InputError(f"schedule {self.kind!r} is unknown; use {', '.join(get_args(ScheduleKind))}")
        if not 0 < self.eps_min <= self.eps_max <= 1:
            raise InputError(
                f"eps_min {self.eps_min} and eps_max {self.eps_max} are not 0 < eps_min <= eps_max <= 1; "
                "use 0.1 and 0.997"
            )
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise InputError(f"alpha {self.alpha} is not a finite number above 0; use 10, or more for a steeper middle")

    def levels(self, chunks: int) -> Float[Tensor, " n"]:
        """eps_c of every chunk, float64; a single chunk has eps_max. Raises InputError unless chunks >= 1."""
        if chunks < 1:
            raise InputError(f"{chunks} chunks have no noise schedule; use 1 or more")
        if self.kind == "naive":
            return torch.ones(chunks, dtype=torch.float64)
        low, high = torch.tensor([self.eps_min, self.eps_max], dtype=torch.float64)
        if chunks == 1:
            return high[None]
        rise = [self._rise((index + self.one_based) / (chunks - 1)) for index in range(chunks)]
        return torch.lerp(low, high, torch.tensor(rise, dtype=torch.float64))  # ends on eps_max to the last bit

    def _rise(self, at: float) -> float:
        """From 0 to 1 as `at` does, 0.5 half-way. The logistic function is written with tanh, which cannot overflow."""
        if self.kind == "linear":
            return at
        if self.kind == "cosine":
            return (1 - math.cos(math.pi * at)) / 2
        reach = math.tanh(self.alpha / 4) if self.normalised else 1.0
        return (1 + math.tanh(self.alpha * (at - 0.5) / 2) / reach) / 2


def _evenly(first: float, last: float, steps: int) -> list[float]:
    """`steps` levels from first towards last, which is not among them."""
    if steps < 1:
        raise InputError(f"{steps} steps cannot remove the noise; use 1 or more (30 to 50 for a model not distilled)")
    return [first + (last - first) * i / steps for i in range(steps)]


def _closed(levels: list[float]) -> tuple[float, ...]:
    """The levels followed by 0; they must fall strictly, or a solver would step backwards."""
    if any(a <= b for a, b in zip(levels, [*levels[1:], 0.0], strict=True)):
        raise InputError(f"{len(levels)} steps at this shift do not give falling noise levels; use a smaller shift")
    return (*levels, 0.0)
