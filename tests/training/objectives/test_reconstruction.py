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
    losses["loss"].backward()
    assert all(p.grad is not None for p in vae.parameters())
    latents, _ = vae.encode(frames)
    assert latents.mean().abs() < 1e-5 and abs(latents.std() - 1) < 0.05
