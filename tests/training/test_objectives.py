"""Diffusion forcing draws the levels it says, weighs what it says, and an oracle has no loss."""

from __future__ import annotations

import torch
from torch import Tensor

from blockvid.flow import velocity
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.model.storybook_vae import StorybookVAE
from blockvid.training.objectives import DiffusionForcing, Reconstruction

FRAMES = (3, 2, 2)


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
