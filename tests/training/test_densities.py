"""Every density draws what it says: supports, quantiles, who is a target, and nothing but the generator decides."""

from __future__ import annotations

import pytest
import torch

from blockvid.errors import InputError
from blockvid.flow import ChunkSchedule, shift_sigma
from blockvid.training.densities import (
    CleanPrefix,
    Density,
    Independent,
    Levels,
    Mixture,
    Scheduled,
    Shared,
    continuing,
)

QUANTILES = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
DENSITIES: list[Density] = [
    Shared(),
    Independent(),
    Independent(clean=0.5),
    CleanPrefix(),
    CleanPrefix(Shared(), noise=0.0),
    Scheduled(),
    Mixture((Shared(), CleanPrefix(Scheduled())), (1, 3)),
    continuing(),
    continuing(ChunkSchedule("cosine")),
]
every_density = pytest.mark.parametrize("density", DENSITIES, ids=repr)


def drawn(density: Density, rows: int = 20000, chunks: int = 4, shift: float = 5.0, seed: int = 0) -> Levels:
    return density((rows, chunks), shift, torch.Generator().manual_seed(seed))


@every_density
@pytest.mark.parametrize("chunks", [1, 4])
def test_levels_and_targets(density: Density, chunks: int) -> None:
    sigma, target = drawn(density, 500, chunks)
    assert sigma.shape == target.shape == (500, chunks)
    assert (sigma >= 0).all() and (sigma <= 1).all()
    assert set(target.unique().tolist()) <= {0.0, 1.0} and target.any()
    assert (sigma[target == 0] <= 0.1).all()


@every_density
def test_the_generator_decides(density: Density) -> None:
    assert all(torch.equal(a, b) for a, b in zip(drawn(density, 9), drawn(density, 9), strict=True))
    assert not torch.equal(drawn(density, 9)[0], drawn(density, 9, seed=1)[0])


@pytest.mark.parametrize("shift", [1.0, 5.0])
@pytest.mark.parametrize("density", [Shared(), Independent()], ids=repr)
def test_a_level_is_a_shifted_uniform_one(density: Density, shift: float) -> None:
    sigma, target = drawn(density, shift=shift)
    assert target.all()
    for chunk in range(4):
        torch.testing.assert_close(
            sigma[:, chunk].quantile(QUANTILES), shift_sigma(QUANTILES, shift), atol=0.02, rtol=0
        )


def test_shared_levels_are_shared_and_independent_ones_uncorrelated() -> None:
    sigma, _ = drawn(Shared())
    assert torch.equal(sigma, sigma[:, :1].expand(-1, 4))
    assert (drawn(Independent())[0].T.corrcoef() - torch.eye(4)).abs().max() < 0.03


def test_scattered_context_is_nearly_clean_as_often_as_asked() -> None:
    sigma, target = drawn(Independent(clean=0.25, noise=0.2))
    assert target.mean().item() == pytest.approx(0.75, abs=0.01)
    torch.testing.assert_close(sigma[target == 0].quantile(QUANTILES), 0.2 * QUANTILES, atol=0.005, rtol=0)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_prefix_is_clean_and_of_any_length_but_all(noise: float) -> None:
    sigma, target = drawn(CleanPrefix(Shared(), noise))
    assert (target.diff(dim=1) >= 0).all() and target[:, -1].all()
    torch.testing.assert_close((1 - target).sum(1).histc(4, 0, 3) / 20000, torch.full((4,), 0.25), atol=0.02, rtol=0)
    assert (sigma[target == 0] <= noise).all()
    rest = torch.where(target == 1, sigma, sigma[:, 3:])
    assert torch.equal(rest, sigma[:, 3:].expand(-1, 4))


@pytest.mark.parametrize("kind", ["naive", "linear", "cosine"])
def test_a_schedule_from_its_first_to_its_last_level(kind: str) -> None:
    """t_c / t_b is eps_min at the first chunk and eps_max at the last; "naive" is the shared level."""
    schedule = ChunkSchedule(kind)  # type: ignore[arg-type]
    sigma, target = drawn(Scheduled(schedule, independent=0.0))
    ends = (1.0, 1.0) if kind == "naive" else (schedule.eps_min, schedule.eps_max)
    shared = sigma[:, -1] / ends[1]
    assert target.all()
    torch.testing.assert_close(sigma[:, 0], ends[0] * shared)
    torch.testing.assert_close(sigma, schedule.levels(4).float() * shared[:, None])
    torch.testing.assert_close(shared.quantile(QUANTILES), shift_sigma(QUANTILES, 5.0), atol=0.02, rtol=0)


def test_some_scheduled_samples_have_levels_of_their_own() -> None:
    sigma, _ = drawn(Scheduled(independent=0.25))
    own = (sigma[:, 0] / 0.1 - sigma[:, 3] / 0.997).abs() > 1e-4
    assert own.float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert sigma[own, 0].max() > 0.99 > 0.1 >= sigma[~own, 0].max()


def test_a_mixture_has_its_parts_in_proportion() -> None:
    sigma, target = drawn(Mixture((Shared(), Independent(clean=1.0), Independent()), (1, 1, 2)))
    shared, context = (sigma == sigma[:, :1]).all(1), (target == 0).all(1)
    parts = [part.float().mean().item() for part in (shared, context, ~shared & ~context)]
    assert parts == pytest.approx([0.25, 0.25, 0.5], abs=0.015)
    assert all(torch.equal(a, b) for a, b in zip(drawn(Mixture((Shared(),), (3,))), drawn(Shared()), strict=True))


@pytest.mark.parametrize("schedule", [None, ChunkSchedule("cosine")], ids=repr)
def test_half_of_the_samples_continue_clean_chunks(schedule: ChunkSchedule | None) -> None:
    """Of four chunks a prefix of 0 to 3 is clean; scattered context, a quarter of the rest, seldom looks like one."""
    sigma, target = drawn(continuing(schedule))
    prefix = ((target.diff(dim=1) >= 0).all(1) & (target[:, -1] > 0) & (target[:, 0] == 0)).float().mean().item()
    scattered = (1 / 4) * (3 / 4) ** 3 + (1 / 4) ** 2 * (3 / 4) ** 2 + (1 / 4) ** 3 * (3 / 4)
    assert prefix == pytest.approx(3 / 8 + (scattered / 2 if schedule is None else 0), abs=0.01)
    assert sigma[target == 1][:, None].max() > 0.95


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Independent(clean=1.5), "clean 1.5 is not a number from 0 to 1"),
        (lambda: CleanPrefix(noise=-0.1), "noise -0.1 is not a number from 0 to 1"),
        (lambda: Scheduled(ChunkSchedule("linear", one_based=True)), "use one_based=False"),
        (lambda: Mixture((Shared(),), (0.5, 0.5)), "1 densities and 2 shares"),
        (lambda: Mixture((Shared(), Shared()), (0.0, 0.0)), r"shares \(0.0, 0.0\) are not probabilities"),
    ],
)
def test_what_no_density_can_be(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
