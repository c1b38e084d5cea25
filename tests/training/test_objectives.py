"""Diffusion forcing draws the levels it says, weighs what it says, and an oracle has no loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from blockvid.errors import InputError
from blockvid.flow import ChunkSchedule, shift_sigma, velocity
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.model.storybook_vae import StorybookVAE
from blockvid.training.objectives import DiffusionForcing, Reconstruction

FRAMES = (3, 2, 2)
every_schedule = pytest.mark.parametrize(
    "schedule", [ChunkSchedule(kind) for kind in ("naive", "linear", "cosine", "sigmoid")], ids=repr
)


def batch(generator: torch.Generator) -> tuple[Tensor, TextContext, TextContext]:
    latents = torch.randn(2, 4, 7, 4, 4, generator=generator)
    mask = torch.ones(2, 3, 5, dtype=torch.bool)
    text = TextContext(torch.randn(2, 3, 5, 8, generator=generator), FRAMES, mask)
    empty = TextContext(torch.zeros(1, 1, 5, 8), (1,), torch.ones(1, 1, 5, dtype=torch.bool))
    return latents, text, empty


def tiny() -> BlockDiT:
    torch.manual_seed(0)
    model = BlockDiT(
        num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=4, text_dim=8, freq_dim=16,
        ffn_dim=32, num_layers=2,
    )  # fmt: skip
    model.initialize()
    return model


def test_levels_are_context_or_target() -> None:
    objective = DiffusionForcing(context_noise=0.1)
    sigma, target = objective.levels(4000, 3, torch.Generator().manual_seed(0))
    assert (sigma[target == 0] <= 0.1).all() and (sigma >= 0).all() and (sigma <= 1).all()
    assert 0.6 < target[:, -1].mean() <= 1.0
    assert target[:, 0].mean() < target[:, -1].mean()  # prefixes are clean more often than endings


def test_prefix_only_keeps_the_clean_chunks_first() -> None:
    _, target = DiffusionForcing(prefix=1.0).levels(500, 4, torch.Generator().manual_seed(0))
    assert (target.diff(dim=1) >= 0).all()
    assert (target[:, -1] == 1).all()


def test_levels_without_a_schedule_stay_what_they_were() -> None:
    """A golden, with the draw that follows: a resumed run must see what it would have seen."""
    generator = torch.Generator().manual_seed(3)
    sigma, target = DiffusionForcing().levels(2, 3, generator)
    expected = [[0.0771865845, 0.4856595397, 0.0594421215], [0.0887856707, 0.0451031327, 0.3384892941]]
    torch.testing.assert_close(sigma, torch.tensor(expected))
    assert target.tolist() == [[0, 1, 0], [0, 0, 1]]
    assert torch.rand(1, generator=generator).item() == pytest.approx(0.2927446961)


@every_schedule
def test_the_chunks_of_a_scheduled_sample_share_one_level(schedule: ChunkSchedule) -> None:
    """t_c / eps_c is the same t_b for every noisy chunk, and t_b has the shifted density."""
    objective = DiffusionForcing(shift=5.0, prefix=0.0, independent=0.0, schedule=schedule)
    sigma, target = objective.levels(20000, 3, torch.Generator().manual_seed(0))
    assert (target == 1).all()
    shared = sigma / schedule.levels(3).float()
    torch.testing.assert_close(shared, shared[:, :1].expand(-1, 3))
    quantiles = torch.tensor([0.25, 0.5, 0.75])
    torch.testing.assert_close(shared[:, 0].quantile(quantiles), shift_sigma(quantiles, 5.0), atol=0.02, rtol=0)


@every_schedule
def test_prefixes_are_clean_under_a_schedule_too(schedule: ChunkSchedule) -> None:
    objective = DiffusionForcing(prefix=1.0, independent=0.0, schedule=schedule)
    sigma, target = objective.levels(500, 4, torch.Generator().manual_seed(0))
    assert torch.equal(target, DiffusionForcing(prefix=1.0).levels(500, 4, torch.Generator().manual_seed(0))[1])
    assert (sigma[target == 0] <= objective.context_noise).all()
    shared = torch.where(target == 1, sigma / schedule.levels(4).float(), torch.nan)
    torch.testing.assert_close(shared.nan_to_num(), (target * shared[:, 3:]))


def test_some_samples_have_levels_of_their_own() -> None:
    schedule = ChunkSchedule("cosine")
    objective = DiffusionForcing(prefix=0.0, clean=0.0, independent=0.25, schedule=schedule)
    sigma, _ = objective.levels(8000, 3, torch.Generator().manual_seed(0))
    shared = sigma / schedule.levels(3).float()
    own = (shared[:, 0] - shared[:, 2]).abs() > 1e-5
    assert own.float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert sigma[own, 0].max() > 0.99 > schedule.eps_min >= sigma[~own, 0].max()  # early chunks learn from noise here


def test_a_schedule_for_no_sample_is_no_schedule() -> None:
    objective = DiffusionForcing(independent=1.0, schedule=ChunkSchedule("cosine"))
    ours, plain = (o.levels(50, 3, torch.Generator().manual_seed(0)) for o in (objective, DiffusionForcing()))
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


@pytest.mark.parametrize(
    ("objective", "loss", "gradient", "after"),
    [
        (DiffusionForcing(), 2.615825653, 0.0444267765, 0.4570120573),
        (DiffusionForcing(older=0.5, window=0), 2.612518787, 0.0463982932, 0.9935811162),
        (
            DiffusionForcing(schedule=ChunkSchedule("cosine"), older=0.5, window=0),
            2.524625301,
            0.0452938229,
            0.5182792544,
        ),
    ],
    ids=["plain", "older", "schedule"],
)
def test_a_step_is_what_it_was(objective: DiffusionForcing, loss: float, gradient: float, after: float) -> None:
    """Goldens of the code that trained the shipped model, with the draw that follows a step."""
    generator, network = torch.Generator().manual_seed(5), tiny()
    latents, text, empty = batch(generator)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    weight = 1 + torch.rand(2, 1, 7, 4, 4, generator=generator)
    made = objective(network, latents, FRAMES, text, empty, weight, generator)["loss"]
    made.backward()
    projection = network.get_parameter("blocks.0.attn1.to_k.weight").grad
    assert projection is not None
    assert made.item() == pytest.approx(loss, rel=1e-6)
    assert projection.norm().item() == pytest.approx(gradient, rel=1e-4)
    assert torch.rand(1, generator=generator).item() == pytest.approx(after)


def test_a_scheduled_batch_has_a_loss() -> None:
    generator = torch.Generator().manual_seed(1)
    latents, text, empty = batch(generator)
    objective = DiffusionForcing(prefix=0.0, schedule=ChunkSchedule("cosine"))
    assert objective(tiny(), latents, FRAMES, text, empty, torch.ones(2, 1, 7, 4, 4), generator)["loss"].isfinite()


def test_a_schedule_that_leaves_its_range_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"one-based linear schedule .* use one_based=False"):
        DiffusionForcing(schedule=ChunkSchedule("linear", one_based=True))


def test_a_zero_head_loses_the_mean_square_of_the_velocity() -> None:
    generator = torch.Generator().manual_seed(1)
    latents, text, empty = batch(generator)
    objective = DiffusionForcing(prefix=0.0, clean=0.0, text_dropout=0.0)
    again = torch.Generator().set_state(generator.get_state())
    loss = objective(tiny(), latents, FRAMES, text, empty, torch.ones(2, 1, 7, 4, 4), generator)["loss"]
    objective.levels(2, 3, again)
    eps = torch.randn(latents.shape, generator=again)
    assert torch.allclose(loss, velocity(latents, eps).square().mean())


def test_context_chunks_have_no_loss_and_weights_weigh() -> None:
    generator = torch.Generator().manual_seed(1)
    latents, text, empty = batch(generator)
    nothing = DiffusionForcing(prefix=0.0, clean=1.0)
    assert nothing(tiny(), latents, FRAMES, text, empty, torch.ones(2, 1, 7, 4, 4), generator)["loss"] == 0
    one = torch.zeros(2, 1, 7, 4, 4)
    one[..., 0, 0] = 1
    objective = DiffusionForcing(prefix=0.0, clean=0.0)
    state = generator.get_state()
    loss = objective(tiny(), latents, FRAMES, text, empty, one, generator)["loss"]
    moved = latents.clone()
    moved[..., 1:, 1:] += 5
    generator.set_state(state)
    assert objective(tiny(), moved, FRAMES, text, empty, one, generator)["loss"] == loss


def test_reconstruction_tracks_latent_statistics_and_has_gradients() -> None:
    torch.manual_seed(0)
    vae = StorybookVAE(width=16, latent_width=16, blocks=1, latent_blocks=1)
    frames = torch.rand(2, 3, 5, 16, 16) * 2 - 1
    objective = Reconstruction(momentum=1.0)
    losses = objective(vae, frames, torch.ones(2, 1, 5, 16, 16), torch.Generator().manual_seed(0))
    losses["loss"].backward()
    assert all(p.grad is not None for p in vae.parameters())
    latents, _ = vae.encode(frames)
    assert latents.mean().abs() < 1e-5 and abs(latents.std() - 1) < 0.05
