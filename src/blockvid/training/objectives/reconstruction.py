"""Autoencoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from blockvid.model.storybook_vae import StorybookVAE


class Reconstructed(NamedTuple):
    """What came back, and how far it is from what went in."""

    frames: Float[Tensor, "b 3 t h w"]
    loss: Float[Tensor, ""]
    psnr: Float[Tensor, ""]
    """In dB, over the batch."""


@dataclass(frozen=True)
class Reconstruction:
    """Autoencoding: errors of pixels, of their differences in space (`edges`) and in time (`motion`).

    All absolute, beside the `squares` of pixels, and through latents disturbed by `noise`.

    Noise on normalised latents makes the code smooth and robust to a denoiser's small errors. The latent statistics
    that normalise are running estimates, updated here.
    """

    noise: float = 0.15
    edges: float = 1.0
    motion: float = 0.0
    squares: float = 2.0
    momentum: float = 0.05

    def __call__(
        self,
        model: StorybookVAE,
        frames: Float[Tensor, "b 3 t h w"],
        weight: Float[Tensor, "b 1 t h w"],
        generator: torch.Generator,
    ) -> Reconstructed:
        """One batch of clips of 1 + 4k frames in [-1, 1]; `weight` is larger where detail matters."""
        latents, _ = model.encode(frames)
        self._track(model, latents.detach().float())
        disturbed = latents + self.noise * torch.randn(latents.shape, generator=generator).to(latents)
        decoded, _ = model.decode(disturbed)
        decoded = decoded.float()
        error = decoded - frames
        scale = weight / weight.mean()
        pixels, squares = (error.abs() * scale).mean(), (error.square() * scale).mean()
        edges = (error.diff(dim=-1).abs() * scale[..., 1:]).mean() + (
            error.diff(dim=-2).abs() * scale[..., 1:, :]
        ).mean()
        motion = (error.diff(dim=2).abs() * scale[:, :, 1:]).mean()
        loss = pixels + self.edges * edges + self.motion * motion + self.squares * squares
        return Reconstructed(decoded, loss, -10 * (error.square().mean() / 4).log10())

    def _track(self, model: StorybookVAE, latents: Tensor) -> None:
        mean = latents.mean(dim=(0, 2, 3, 4)) * model.latents_std + model.latents_mean
        std = latents.std(dim=(0, 2, 3, 4)) * model.latents_std
        # Replaced, not changed in place: the backward pass of this step still needs the old ones.
        model.latents_mean = torch.lerp(model.latents_mean, mean, self.momentum)
        model.latents_std = torch.lerp(model.latents_std, std.clamp(min=1e-4), self.momentum)
