"""Laws of the straight path and of the levels on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blockvid.errors import InputError
from blockvid.flow import (
    TIMESTEPS,
    few_step_grid,
    noised,
    original_sigma_grid,
    sample_sigma,
    shift_sigma,
    sigma_grid,
    velocity,
    x0_from_velocity,
)

SHIFTS = st.floats(0.1, 20)
LEVELS = st.floats(0, 1)
GRIDS = pytest.mark.parametrize("grid", [sigma_grid, original_sigma_grid, few_step_grid])


def latents(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, 4, 2, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_velocity_is_the_derivative_of_the_path_and_leads_back_to_the_data() -> None:
    x0, eps = latents(0), latents(1)
    sigma = torch.rand(2, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    step = 1e-3
    slope = (noised(x0, eps, sigma + step) - noised(x0, eps, sigma)) / step
    torch.testing.assert_close(slope, velocity(x0, eps))
    torch.testing.assert_close(x0_from_velocity(noised(x0, eps, sigma), velocity(x0, eps), sigma), x0)


def test_the_path_joins_data_and_noise() -> None:
    x0, eps = latents(0), latents(1)
    assert torch.equal(noised(x0, eps, torch.zeros(2, 4)), x0)
    assert torch.equal(noised(x0, eps, torch.ones(2, 4)), eps)


def test_a_level_touches_its_own_frame_only() -> None:
    x0, eps = latents(0), latents(1)
    x = noised(x0, eps, torch.tensor([[0.0, 1.0, 0.0, 0.0]] * 2))
    assert torch.equal(x[:, :, 1], eps[:, :, 1])
    assert torch.equal(x[:, :, [0, 2, 3]], x0[:, :, [0, 2, 3]])


@given(LEVELS, SHIFTS, SHIFTS)
def test_shifts_compose_and_keep_the_ends(u: float, a: float, b: float) -> None:
    assert shift_sigma(shift_sigma(u, a), b) == pytest.approx(shift_sigma(u, a * b), abs=1e-12)
    assert shift_sigma(shift_sigma(u, a), 1 / a) == pytest.approx(u, abs=1e-12)
    assert (shift_sigma(0.0, a), shift_sigma(1.0, a)) == (0.0, pytest.approx(1.0))


def test_warped_few_step_list_of_self_forcing() -> None:
    assert [TIMESTEPS * sigma for sigma in few_step_grid(4, 5.0)] == pytest.approx([1000, 937.5, 833 + 1 / 3, 625, 0])


def test_original_grid_gives_the_timesteps_of_wan() -> None:
    timesteps = [int(TIMESTEPS * sigma) for sigma in original_sigma_grid(50, 5.0)]
    assert timesteps[:4] == [999, 995, 991, 987]
    assert timesteps[-4:] == [241, 172, 92, 0]


@given(st.integers(1, 200), SHIFTS)
def test_grids_fall_strictly_to_zero(steps: int, shift: float) -> None:
    for grid in (sigma_grid(steps, shift), original_sigma_grid(steps, shift), few_step_grid(steps, shift)):
        assert len(grid) == steps + 1
        assert grid[0] <= 1
        assert grid[-1] == 0
        assert all(a > b for a, b in pairwise(grid))


@GRIDS
@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_is_an_input_error(grid: Callable[[int, float], tuple[float, ...]], steps: int) -> None:
    with pytest.raises(InputError, match=f"{steps} steps .* use 1 or more"):
        grid(steps, 5.0)


@GRIDS
@pytest.mark.parametrize("shift", [0.0, -1.0, math.inf, math.nan])
def test_an_impossible_shift_is_an_input_error(grid: Callable[[int, float], tuple[float, ...]], shift: float) -> None:
    with pytest.raises(InputError, match=f"shift {shift} .* use 1"):
        grid(4, shift)


def test_a_grid_that_would_rise_is_an_input_error() -> None:
    with pytest.raises(InputError, match="smaller shift"):
        sigma_grid(1000, 5000.0)


def test_training_levels_follow_the_shifted_density() -> None:
    sigma = sample_sigma((4, 5000), 5.0, torch.Generator().manual_seed(0))
    assert sigma.shape == (4, 5000)
    assert 0 <= sigma.min() < sigma.max() < 1
    quantiles = torch.quantile(sigma.flatten(), torch.tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(quantiles, shift_sigma(torch.tensor([0.25, 0.5, 0.75]), 5.0), atol=0.01, rtol=0)
    assert torch.equal(sigma, sample_sigma((4, 5000), 5.0, torch.Generator().manual_seed(0)))
