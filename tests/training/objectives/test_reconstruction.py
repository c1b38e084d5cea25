"""Autoencoding."""

from __future__ import annotations

import torch

from blockvid.model.storybook_vae import StorybookVAE
from blockvid.training.objectives import Reconstruction


def test_reconstruction_tracks_latent_statistics_and_has_gradients() -> None:
    torch.manual_seed(0)
    vae = StorybookVAE(width=16, latent_width=16, blocks=1, latent_blocks=1)
    frames = torch.rand(2, 3, 5, 16, 16) * 2 - 1
    objective = Reconstruction(momentum=1.0)
    losses = objective(vae, frames, torch.ones(2, 1, 5, 16, 16), torch.Generator().manual_seed(0))
    losses.loss.backward()
    assert all(p.grad is not None for p in vae.parameters())
    latents, _ = vae.encode(frames)
    assert latents.mean().abs() < 1e-5 and abs(latents.std() - 1) < 0.05


def test_motion_counts_errors_that_change_and_not_those_that_stay() -> None:
    torch.manual_seed(0)
    vae = StorybookVAE(width=16, latent_width=16, blocks=1, latent_blocks=1)
    still = (torch.rand(1, 3, 1, 16, 16) * 2 - 1).expand(-1, -1, 5, -1, -1)
    with torch.no_grad():
        for parameter in vae.parameters():  # so that it answers 0 whatever it sees
            parameter.zero_()

    def excess(frames: torch.Tensor) -> float:
        weight = torch.ones(1, 1, 5, 16, 16)
        made = [Reconstruction(motion=m)(vae, frames, weight, torch.Generator()).loss for m in (0.0, 1.0)]
        return (made[1] - made[0]).item()

    moving = still * torch.tensor([1, -1, 1, -1, 1]).view(1, 1, -1, 1, 1)
    assert excess(still) == 0
    assert abs(excess(moving) - 2 * still.abs().mean().item()) < 1e-6
