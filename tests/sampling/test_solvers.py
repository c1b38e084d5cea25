"""Laws of the solvers, on problems whose answers are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from blockvid.errors import InputError
from blockvid.flow import noised, original_sigma_grid, over_frames, sigma_grid
from blockvid.sampling.noise import fresh_noise
from blockvid.sampling.solvers import Euler, Renoise, Solver, UniPC

ODE = [Euler(), UniPC(), UniPC(order=1), UniPC(corrector=False)]
every_solver = pytest.mark.parametrize("solver", [*ODE, Renoise()], ids=repr)
every_ode_solver = pytest.mark.parametrize("solver", ODE, ids=repr)
SHAPE = (2, 3, 4, 2, 2)  # b c f h w


def draw(seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def level(sigma: float | Sequence[float]) -> Tensor:
    return torch.tensor(sigma, dtype=torch.float64).expand(2, 4)


def bent(x: Tensor, sigma: Tensor) -> Tensor:
    """A denoiser that is linear in nothing and mixes no frames."""
    return torch.sin(2 * x) * (1 - over_frames(sigma)).to(x) + 0.3 * x


def solve(solver: Solver, denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, grid: Sequence[float]) -> Tensor:
    state = solver.start(0)
    for sigma, sigma_next in pairwise(map(level, grid)):
        x, state = solver(x, denoise(x, sigma), sigma, sigma_next, state)
    return x


@every_ode_solver
@pytest.mark.parametrize("first", [1.0, 0.999])
def test_an_oracle_is_followed_along_the_straight_path(solver: Solver, first: float) -> None:
    x0, eps = draw(0), draw(1)
    x, state = noised(x0, eps, level(first)), solver.start(0)
    for sigma, sigma_next in pairwise([first, 0.9, 0.5, 0.45, 0.1, 0.0]):
        x, state = solver(x, x0, level(sigma), level(sigma_next), state)
        torch.testing.assert_close(x, noised(x0, eps, level(sigma_next)), atol=1e-12, rtol=0)
    assert torch.equal(x, x0)


@every_solver
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_last_step_returns_the_prediction_exactly(solver: Solver, dtype: torch.dtype) -> None:
    x, state = draw(0, dtype), solver.start(0)
    for sigma, sigma_next in pairwise(map(level, sigma_grid(6, 5.0))):
        x0 = bent(x, sigma)
        x, state = solver(x, x0, sigma, sigma_next, state)
    assert x.dtype == dtype
    assert torch.equal(x, x0)


@pytest.mark.parametrize(
    ("solver", "errors"),
    [
        (Euler(), [-0.3954, -0.2048, -0.1043, -0.0527]),
        (UniPC(), [-0.0296, 0.0221, 0.0080, 0.0021]),
    ],
    ids=repr,
)
def test_error_on_gaussian_data_falls_as_published(solver: Solver, errors: list[float]) -> None:
    """Data N(0, s^2) has a closed best denoiser and exact flow. Wan's own grid, shift 5, s = 2, x = 1.3."""
    s, x = 2.0, torch.full(SHAPE, 1.3, dtype=torch.float64)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        at = over_frames(sigma)
        return (1 - at) * s**2 * x / ((1 - at) ** 2 * s**2 + at**2)

    measured = []
    for steps in (10, 20, 40, 80):
        grid = original_sigma_grid(steps, 5.0)
        exact = 1.3 * s / (((1 - grid[0]) * s) ** 2 + grid[0] ** 2) ** 0.5
        measured.append(solve(solver, denoise, x, grid).flatten()[0].item() - exact)
    assert measured == pytest.approx(errors, abs=6e-5)


def test_first_order_unipc_without_corrector_is_euler() -> None:
    grid = sigma_grid(8, 5.0)
    torch.testing.assert_close(
        solve(UniPC(order=1, corrector=False), bent, draw(0), grid), solve(Euler(), bent, draw(0), grid)
    )


@every_ode_solver
def test_frames_at_their_own_levels_move_as_if_alone(solver: Solver) -> None:
    """Frame i starts i steps late and waits at its level until then: diffusion forcing with one solver state."""
    grid, lag = sigma_grid(6, 5.0), 2
    x, state = draw(0), solver.start(0)
    together = solve(solver, bent, x, grid)
    for now in range(len(grid) - 1 + 3 * lag):
        at = [min(max(now - lag * frame, 0), len(grid) - 1) for frame in range(4)]
        after = [min(max(now + 1 - lag * frame, 0), len(grid) - 1) for frame in range(4)]
        sigma, sigma_next = level([grid[i] for i in at]), level([grid[i] for i in after])
        x_next, state = solver(x, bent(x, sigma), sigma, sigma_next, state)
        still = [frame for frame in range(4) if at[frame] == after[frame]]
        assert torch.equal(x_next[:, :, still], x[:, :, still])
        x = x_next
    torch.testing.assert_close(x, together, atol=1e-12, rtol=0)


@every_solver
def test_a_step_is_a_function(solver: Solver) -> None:
    """Neither the latents nor the state given are changed, so a step can be taken again."""
    grid = [level(sigma) for sigma in sigma_grid(4, 5.0)]
    x, state = solver(draw(0), bent(draw(0), grid[0]), grid[0], grid[1], solver.start(0))
    once, after = solver(x, bent(x, grid[1]), grid[1], grid[2], state)
    solver(once, bent(once, grid[2]), grid[2], grid[3], after)
    again, _ = solver(x, bent(x, grid[1]), grid[1], grid[2], state)
    assert torch.equal(once, again)


def test_renoising_forgets_all_but_the_prediction() -> None:
    """Whatever x was, the next is the prediction under noise of its own: of the chunk's seed and the step's number."""
    x0, (now, after) = draw(0), map(level, (0.9, 0.5))
    made, state = Renoise()(draw(1), x0, now, after, Renoise().start(7))
    assert torch.equal(made, noised(x0, fresh_noise(7, 0, SHAPE).double(), after))
    assert torch.equal(made, Renoise()(draw(2), x0, now, after, Renoise().start(7))[0])
    later, _ = Renoise()(made, x0, now, after, state)
    other, _ = Renoise()(made, x0, now, after, Renoise().start(8))
    assert not torch.equal(later, made)
    assert not torch.equal(other, made)


@every_solver
def test_gradients_pass_frames_that_wait(solver: Solver) -> None:
    x = draw(0).requires_grad_()
    y, state = x, solver.start(0)
    for now, after in pairwise([1.0, 0.6, 0.2, 0.0]):
        sigma, sigma_next = level([0.0, now, now, now]), level([0.0, after, after, after])
        y, state = solver(y, bent(y, sigma), sigma, sigma_next, state)
    y.sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert torch.equal(x.grad[:, :, 0], torch.ones_like(x.grad[:, :, 0]))


@pytest.mark.parametrize("order", [0, 3])
def test_an_order_that_is_not_there_is_an_input_error(order: int) -> None:
    with pytest.raises(InputError, match=f"order {order} .* use order 1 or 2"):
        UniPC(order=order)
