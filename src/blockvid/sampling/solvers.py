"""From one noise level to the next: solvers of the flow ODE, given predictions of the data.

A solver is a value; what it remembers between steps is a state that the caller carries, one per chunk. Levels are
one per latent frame, and a frame whose level does not change keeps its value and its history, bit for bit. Levels and
coefficients are float64 on whatever device the levels are (the CPU, in `sampler`); only latents are on the accelerator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from blockvid.errors import InputError
from blockvid.flow import few_step_grid, noised, over_frames, sigma_grid
from blockvid.sampling.noise import fresh_noise

Latents = Float[Tensor, "b c f h w"]
Levels = Float[Tensor, "b f"]
State = TypeVar("State")


@runtime_checkable
class SolverProtocol(Protocol[State]):
    """Moves latents x from sigma to sigma_next, given x0, the data predicted at (x, sigma)."""

    def grid(self, steps: int, shift: float) -> tuple[float, ...]:
        """The steps + 1 levels, falling to 0, that it is meant to visit."""
        ...

    def start(self, seed: int) -> State:
        """The state before a chunk's first step; `seed` is the chunk's own."""
        ...

    def __call__(
        self, x: Latents, x0: Latents, sigma: Levels, sigma_next: Levels, state: State
    ) -> tuple[Latents, State]:
        """x at sigma_next, and the state for the step after. At sigma_next = 0, x is x0 exactly."""
        ...


@dataclass(frozen=True)
class Euler:
    """x' = (sigma'/sigma) x + (1 - sigma'/sigma) x0, which is x + (sigma' - sigma) v. First order, no memory."""

    def grid(self, steps: int, shift: float) -> tuple[float, ...]:
        return sigma_grid(steps, shift)

    def start(self, seed: int) -> None:  # noqa: ARG002
        return None

    def __call__(self, x: Latents, x0: Latents, sigma: Levels, sigma_next: Levels, state: None) -> tuple[Latents, None]:
        ratio = sigma_next.double() / sigma.double()
        return _blend(sigma != sigma_next, [(ratio, x), (1 - ratio, x0)], otherwise=x), state


@dataclass(frozen=True)
class UniPCState:
    """What UniPC knows of the last two steps, per latent frame."""

    sample: Latents  # the corrected x that the last step left from
    x0: Latents
    x0_before: Latents
    sigma: Levels
    sigma_before: Levels
    order: Int[Tensor, "b f"]  # of the last predictor; 0 before a frame's first step


@dataclass(frozen=True)
class UniPC:
    """The predictor-corrector of Zhao et al. 2023 (arXiv 2302.04867) with B(h) = e^h - 1 and data prediction.

    alpha = 1 - sigma and lambda = log(alpha / sigma). The corrector re-does the last step once the prediction at its
    end is known, at no further model call; the model sees the uncorrected x. The last step (sigma' = 0) has order 1.
    Equal to diffusers' UniPCMultistepScheduler with flow sigmas. Raises InputError unless order is 1 or 2.
    """

    order: int = 2
    corrector: bool = True

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise InputError(f"UniPC of order {self.order} is not available; use order 1 or 2")

    def grid(self, steps: int, shift: float) -> tuple[float, ...]:
        return sigma_grid(steps, shift)

    def start(self, seed: int) -> UniPCState | None:  # noqa: ARG002
        return None

    def __call__(
        self, x: Latents, x0: Latents, sigma: Levels, sigma_next: Levels, state: UniPCState | None
    ) -> tuple[Latents, UniPCState]:
        sigma, sigma_next = sigma.double(), sigma_next.double()
        if state is None:
            state = UniPCState(x, x0, x0, sigma, sigma, order=torch.zeros_like(sigma, dtype=torch.long))
        moving = sigma != sigma_next
        sample = _corrected(x, x0, sigma, state, moving) if self.corrector else x
        order = torch.where(sigma_next == 0, 1, (state.order + 1).clamp(max=self.order))
        x_next = _predicted(sample, x0, sigma, sigma_next, state, order, otherwise=x)
        moved = over_frames(moving).to(x.device)
        return x_next, UniPCState(
            sample=torch.where(moved, sample, state.sample),
            x0=torch.where(moved, x0, state.x0),
            x0_before=torch.where(moved, state.x0, state.x0_before),
            sigma=torch.where(moving, sigma, state.sigma),
            sigma_before=torch.where(moving, state.sigma, state.sigma_before),
            order=torch.where(moving, order, state.order),
        )


def _corrected(x: Latents, x0: Latents, sigma: Levels, last: UniPCState, moving: Bool[Tensor, "b f"]) -> Latents:
    """UniC: x at sigma once more from the last step's start, now that x0 is known at both its ends."""
    h = _lambda(sigma) - _lambda(last.sigma)
    phi = torch.expm1(-h)
    phi_1 = -phi / h - 1
    b1, b2 = phi_1 / phi, 2 * (-phi_1 / h - 0.5) / phi
    r = (_lambda(last.sigma_before) - _lambda(last.sigma)) / h
    rho_1 = (b2 - b1) / (r - 1)  # [[1, 1], [r, 1]] rho = [b1, b2]
    before = torch.where(last.order == 2, rho_1 / r, 0.0)
    here = torch.where(last.order == 2, b1 - rho_1, 0.5)
    gain = -(1 - sigma) * phi
    terms = [
        (sigma / last.sigma, last.sample),
        (gain * (1 - here - before), last.x0),
        (gain * here, x0),
        (gain * before, last.x0_before),
    ]
    return _blend(moving & (last.order > 0), terms, otherwise=x)


def _predicted(
    sample: Latents,
    x0: Latents,
    sigma: Levels,
    sigma_next: Levels,
    last: UniPCState,
    order: Int[Tensor, "b f"],
    otherwise: Latents,
) -> Latents:
    """UniP: the step from sigma to sigma_next, extrapolating x0 through the last prediction where the order is 2."""
    h = _lambda(sigma_next) - _lambda(sigma)
    r = (_lambda(last.sigma) - _lambda(sigma)) / h
    before = torch.where(order == 2, 0.5 / r, 0.0)
    gain = -(1 - sigma_next) * torch.expm1(-h)
    terms = [(sigma_next / sigma, sample), (gain * (1 - before), x0), (gain * before, last.x0)]
    return _blend(sigma != sigma_next, terms, otherwise)


def _lambda(sigma: Levels) -> Levels:
    """Half the log of the signal-to-noise ratio: -inf at sigma = 1, +inf at 0; the formulas above take both limits."""
    return torch.log((1 - sigma) / sigma)


def _blend(where: Bool[Tensor, "b f"], terms: list[tuple[Levels, Latents]], otherwise: Latents) -> Latents:
    """The sum of coefficient x latents where the mask holds, `otherwise` elsewhere.

    Coefficients outside the mask may be nan (0/0 at equal levels); they are zeroed, or gradients would be nan too.
    """
    dtype = torch.promote_types(otherwise.dtype, torch.float32)
    total = torch.zeros_like(otherwise, dtype=dtype)
    for coefficient, latents in terms:
        total = total + over_frames(torch.where(where, coefficient, 0.0)).to(total) * latents
    return torch.where(over_frames(where).to(total.device), total.to(otherwise.dtype), otherwise)


@dataclass(frozen=True)
class Renoise:
    """x' = (1 - sigma') x0 + sigma' eps with new noise at every step: how few-step students are trained and sampled.

    `training.rollout.Rollout` descends in the same way (consistency sampling; Self Forcing, arXiv 2506.08009, Alg. 1).
    """

    def grid(self, steps: int, shift: float) -> tuple[float, ...]:
        return few_step_grid(steps, shift)

    def start(self, seed: int) -> tuple[int, int]:
        """The chunk's seed, and how many steps it has made."""
        return seed, 0

    def __call__(
        self, x: Latents, x0: Latents, sigma: Levels, sigma_next: Levels, state: tuple[int, int]
    ) -> tuple[Latents, tuple[int, int]]:
        seed, step = state
        dtype = torch.promote_types(x.dtype, torch.float32)
        eps = fresh_noise(seed, step, x.shape).to(x.device, dtype)
        fresh = noised(x0.to(dtype), eps, sigma_next.to(x.device, dtype)).to(x.dtype)
        return torch.where(over_frames(sigma != sigma_next).to(x.device), fresh, x), (seed, step + 1)


Solver = Euler | UniPC | Renoise
