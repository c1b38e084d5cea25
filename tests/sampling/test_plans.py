"""Laws of chunks that start below full noise: the plan's levels, and the solvers on them.

What every plan must do is in test_sampler.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from blockvid.errors import InputError
from blockvid.flow import ChunkSchedule, noised, original_sigma_grid, over_frames, sigma_grid
from blockvid.sampling.noise import Start, base_noise
from blockvid.sampling.plans import Chunkwise, Commit, Step
from blockvid.sampling.solvers import Euler, Solver, UniPC

GRID = sigma_grid(6, 5.0)
STARTS = tuple(ChunkSchedule("cosine").levels(4).tolist())
FRAMES = (4, 3, 3, 2)  # the first chunk has the video's extra frame
every_solver = pytest.mark.parametrize("solver", [Euler(), UniPC(), UniPC(order=1), UniPC(corrector=False)], ids=repr)


def latents(seed: int, chunk: int) -> Tensor:
    return base_noise(seed, chunk, (2, 3, FRAMES[chunk], 2, 2), dtype=torch.float64)


def descend(
    steps: list[Step], solver: Solver, start: Start, denoise: Callable[[Tensor, Tensor], Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """(x, its levels) before every step of one chunk and after the last."""
    level = lambda sigma: torch.where(start.known, 0.0, torch.tensor(sigma, dtype=torch.float64)).expand(2, -1)  # noqa: E731
    path, state = [(start.x, level(steps[0].sigma[0]))], solver.start(0)
    for step in steps:
        x, sigma, sigma_next = path[-1][0], level(step.sigma[0]), level(step.sigma_next[0])
        x, state = solver(x, denoise(x, sigma), sigma, sigma_next, state)
        path.append((x, sigma_next))
    return path


def steps_of(plan: Chunkwise, chunk: int, grid: tuple[float, ...] = GRID) -> list[Step]:
    return [move for move in plan([chunk], grid) if isinstance(move, Step)]


def test_a_chunk_descends_the_grid_scaled_by_where_it_starts() -> None:
    moves = list(Chunkwise(STARTS)(range(1, 4), GRID))
    assert [move.chunk for move in moves if isinstance(move, Commit)] == [1, 2, 3]
    for chunk in range(1, 4):
        mine = [move for move in moves if isinstance(move, Step) and move.chunks == (chunk,)]
        assert [step.sigma[0] for step in mine] == pytest.approx([STARTS[chunk] * sigma for sigma in GRID[:-1]])
        assert [step.sigma_next[0] for step in mine] == [*(step.sigma[0] for step in mine[1:]), 0.0]


def test_starting_from_noise_is_what_no_starts_mean() -> None:
    assert list(Chunkwise((1.0, 1.0, 1.0))(range(3), GRID)) == list(Chunkwise()(range(3), GRID))


def test_a_chunk_does_not_depend_on_which_are_left() -> None:
    assert list(Chunkwise(STARTS)(range(4), GRID))[-2 * len(GRID) :] == list(Chunkwise(STARTS)(range(2, 4), GRID))


@every_solver
def test_an_oracle_is_followed_straight_from_a_warm_start(solver: Solver) -> None:
    """Whatever x starts at level e, it moves towards the data as x0 + (sigma / e)(x - x0), and arrives exactly."""
    for chunk in range(1, 4):
        steps, truth = steps_of(Chunkwise(STARTS), chunk), latents(1, chunk)
        start = Start.warm(None, latents(0, chunk), latents(2, chunk - 1), STARTS[chunk])
        path = descend(steps, solver, start, lambda x, sigma, truth=truth: truth)
        first = path[0][1]
        for x, sigma in path:
            torch.testing.assert_close(x, truth + over_frames(sigma / first) * (start.x - truth), atol=1e-12, rtol=0)
        assert torch.equal(path[-1][0], truth)


@every_solver
def test_a_warm_start_from_the_truth_is_the_common_path_joined_late(solver: Solver) -> None:
    """Where nothing moves, the previous chunk is the truth, and x lies on the path from it to the noise throughout."""
    truth, noise, grid = latents(1, 1), latents(0, 1), (1.0, *GRID[1:])
    for x, sigma in descend(
        steps_of(Chunkwise(STARTS), 1, grid), solver, Start.warm(None, noise, truth, STARTS[1]), lambda x, sigma: truth
    ):
        torch.testing.assert_close(x, noised(truth, noise, sigma), atol=1e-12, rtol=0)


@every_solver
def test_known_frames_stay_through_a_warm_start(solver: Solver) -> None:
    clean = latents(3, 1)[:, :, :1]
    start = Start.warm(clean, latents(0, 1), latents(2, 0), STARTS[1])
    for x, sigma in descend(steps_of(Chunkwise(STARTS), 1), solver, start, lambda x, sigma: torch.sin(2 * x)):
        assert torch.equal(x[:, :, :1], clean)
        assert (sigma[:, 0] == 0).all()


@pytest.mark.parametrize(("solver", "fall"), [(Euler(), 1.9), (UniPC(), 3.0)], ids=repr)
@pytest.mark.parametrize("start", [0.25, 0.55, 0.9])
def test_solvers_keep_their_order_from_any_start(solver: Solver, fall: float, start: float) -> None:
    """Data N(0, 4) has a closed best denoiser and exact flow; the error falls as 2^order when steps double."""
    s, x = 2.0, torch.full((2, 3, 4, 2, 2), 1.3, dtype=torch.float64)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        at = over_frames(sigma)
        return (1 - at) * s**2 * x / ((1 - at) ** 2 * s**2 + at**2)

    errors = []
    for count in (20, 40, 80):
        steps = steps_of(Chunkwise((start,)), 0, original_sigma_grid(count, 1.0))
        first = steps[0].sigma[0]
        made = descend(steps, solver, Start.after(None, x), denoise)[-1][0].flatten()[0].item()
        errors.append(abs(made - 1.3 * s / (((1 - first) * s) ** 2 + first**2) ** 0.5))
    assert errors[0] > fall * errors[1] > fall**2 * errors[2]


@pytest.mark.parametrize("start", [0.0, -0.5, 1.01, float("nan")])
def test_a_level_that_is_none_is_an_input_error(start: float) -> None:
    with pytest.raises(InputError, match=f"chunk 1 starts at level {start}, .* use 1"):
        Chunkwise((0.5, start))


@pytest.mark.parametrize("chunks", [[4], range(3, 6), [-1]], ids=str)
def test_a_chunk_without_a_level_is_an_input_error_before_the_first_step(chunks: range) -> None:
    with pytest.raises(InputError, match=r"4 starting levels do not cover chunks .* give one for every chunk"):
        next(Chunkwise(STARTS)(chunks, GRID))
