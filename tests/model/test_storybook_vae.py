"""The storybook's autoencoder beyond its streams, which tests/equivalence has."""

from __future__ import annotations

import torch

from blockvid.model.storybook_vae import StorybookVAE


def test_an_autoencoder_that_grew_computes_what_it_did() -> None:
    torch.manual_seed(0)
    small = StorybookVAE(width=16, latent_width=32, blocks=1, latent_blocks=1)
    small.latents_mean, small.latents_std = torch.randn(16), 1 + torch.rand(16)
    grown = StorybookVAE(width=16, latent_width=32, blocks=1, latent_blocks=3)
    frames, latents = torch.randn(1, 3, 9, 16, 16), torch.randn(1, 16, 3, 2, 2)
    assert not torch.equal(grown.encode(frames)[0], small.encode(frames)[0])
    grown.become(small)
    assert torch.equal(grown.encode(frames)[0], small.encode(frames)[0])
    assert torch.equal(grown.decode(latents)[0], small.decode(latents)[0])
    grown.decode(grown.encode(frames)[0])[0].square().mean().backward()
    learns = grown.get_parameter("decoder.2.conv2.weight").grad
    assert learns is not None and learns.abs().sum() > 0
