"""Our UniPC and grid are those of diffusers' scheduler, on one trajectory of a nonlinear denoiser."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor

from blockvid.flow import over_frames, sigma_grid, x0_from_velocity
from blockvid.sampling.solvers import UniPC

SHAPE = (2, 3, 4, 2, 5)


def bent(x: Tensor, sigma: Tensor) -> Tensor:
    """The velocity of a nonlinear denoiser with bounded data, so that float32 rounding is not amplified to chaos."""
    at = over_frames(sigma).to(x)
    return (x - torch.tanh(3 * x) * torch.cos(at)) / at


def reference(steps: int, shift: float, solver: UniPC) -> UniPCMultistepScheduler:
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=shift,
        solver_order=solver.order,
        disable_corrector=[] if solver.corrector else list(range(steps)),
    )
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)  # its look-up by integer timestep finds the wrong one of duplicates
    return scheduler


@pytest.mark.parametrize(("steps", "shift"), [(1, 5.0), (4, 3.0), (30, 8.0), (50, 5.0), (50, 12.0)])
def test_grid(steps: int, shift: float) -> None:
    theirs = reference(steps, shift, UniPC()).sigmas
    torch.testing.assert_close(torch.tensor(sigma_grid(steps, shift), dtype=torch.float32), theirs, atol=1e-7, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 50])
@pytest.mark.parametrize("shift", [3.0, 8.0])
@pytest.mark.parametrize("solver", [UniPC(), UniPC(corrector=False), UniPC(order=1)], ids=repr)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_every_step(steps: int, shift: float, solver: UniPC, dtype: torch.dtype, tolerance: float) -> None:
    scheduler = reference(steps, shift, solver)
    grid = sigma_grid(steps, shift)
    scheduler.sigmas = torch.tensor(grid, dtype=torch.float64)  # as it is, their float32 grid rounds the coefficients
    ours = theirs = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=dtype)
    state = solver.start(0)
    for timestep, (now, after) in zip(scheduler.timesteps, pairwise(grid), strict=True):
        sigma, sigma_next = (torch.full((2, 4), level, dtype=torch.float64) for level in (now, after))
        theirs = scheduler.step(bent(theirs, sigma), timestep, theirs).prev_sample
        x0 = x0_from_velocity(ours, bent(ours, sigma), sigma.to(dtype))
        ours, state = solver(ours, x0, sigma, sigma_next, state)
        torch.testing.assert_close(ours, theirs.to(dtype), atol=tolerance, rtol=tolerance)
