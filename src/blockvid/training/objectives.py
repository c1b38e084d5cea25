"""What a training step minimises: one frozen dataclass per objective."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from blockvid.attention.attend import Attend, BlockCausal, Recalling
from blockvid.attention.policies import Recall, Window
from blockvid.attention.rope import grid_positions
from blockvid.errors import InputError
from blockvid.flow import ChunkSchedule, noised, shift_sigma, velocity
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.model.storybook_vae import StorybookVAE


@dataclass(frozen=True)
class Reconstruction:
    """Autoencoding: absolute error of pixels and of their differences, through latents disturbed by `noise`.

    Noise on normalised latents makes the code smooth and robust to a denoiser's small errors. The latent statistics
    that normalise are running estimates, updated here.
    """

    noise: float = 0.15
    edges: float = 1.0
    squares: float = 2.0
    momentum: float = 0.05

    def __call__(
        self,
        model: StorybookVAE,
        frames: Float[Tensor, "b 3 t h w"],
        weight: Float[Tensor, "b 1 t h w"],
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Losses of one batch of clips of 1 + 4k frames in [-1, 1]; `weight` is larger where detail matters."""
        latents, _ = model.encode(frames)
        self._track(model, latents.detach().float())
        decoded, _ = model.decode(latents + self.noise * torch.randn(latents.shape, generator=generator))
        error = decoded.float() - frames
        scale = weight / weight.mean()
        pixels, squares = (error.abs() * scale).mean(), (error.square() * scale).mean()
        edges = (error.diff(dim=-1).abs() * scale[..., 1:]).mean() + (
            error.diff(dim=-2).abs() * scale[..., 1:, :]
        ).mean()
        return {
            "loss": pixels + self.edges * edges + self.squares * squares,
            "psnr": -10 * (error.square().mean() / 4).log10(),
        }

    def _track(self, model: StorybookVAE, latents: Tensor) -> None:
        mean = latents.mean(dim=(0, 2, 3, 4)) * model.latents_std + model.latents_mean
        std = latents.std(dim=(0, 2, 3, 4)) * model.latents_std
        # Replaced, not changed in place: the backward pass of this step still needs the old ones.
        model.latents_mean = torch.lerp(model.latents_mean, mean, self.momentum)
        model.latents_std = torch.lerp(model.latents_std, std.clamp(min=1e-4), self.momentum)


@dataclass(frozen=True)
class DiffusionForcing:
    """Flow matching of block-causal chunks, each at its own noise level (Eqs 2-4 per chunk).

    With probability `prefix` the chunks before a random one are (nearly) clean, as they are in generation, and the rest
    are noisy; otherwise every chunk draws independently and is nearly clean with probability `clean`. "Nearly": noise
    uniform in [0, `context_noise`], so that generation survives its own small errors.

    Under a `schedule` the noisy chunks of a sample are at eps_c t_b (Eqs 11, 26, 27): one t_b for the sample, and the
    eps_c of as many chunks as the training window has. With probability `independent` a sample has levels and clean
    chunks drawn as without a schedule, or early chunks would never be learned from noise. Prefixes are clean in either.
    Raises InputError for a one-based schedule, whose levels may exceed 1.
    """

    shift: float = 8.0
    prefix: float = 0.5
    clean: float = 0.25
    context_noise: float = 0.1
    text_dropout: float = 0.1
    window: int = 2
    older: float = 0.0
    """Probability that a chunk sees an earlier one from before its window: retrieval as generation may ask for it."""
    schedule: ChunkSchedule | None = None
    independent: float = 0.25

    def __post_init__(self) -> None:
        if self.schedule is not None and self.schedule.one_based:
            raise InputError(f"a one-based {self.schedule.kind} schedule is for audits only; use one_based=False")

    def levels(
        self, batch: int, chunks: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"]]:
        """sigma per chunk, and 1 where the chunk is a target, 0 where it is context."""
        draw = lambda: torch.rand(batch, chunks, generator=generator)  # noqa: E731
        sigma, context = shift_sigma(draw(), self.shift), self.context_noise * draw()
        first_noisy = torch.randint(chunks, (batch, 1), generator=generator)
        prefix = torch.arange(chunks) < first_noisy
        scattered = draw() < self.clean
        in_prefix = draw()[:, :1] < self.prefix
        if self.schedule is not None:  # drawn last: without a schedule, runs stay what they were
            shared = torch.rand(batch, 1, generator=generator) >= self.independent
            eps = self.schedule.levels(chunks).to(sigma)
            sigma, scattered = torch.where(shared, eps * sigma[:, :1], sigma), scattered & ~shared
        is_context = torch.where(in_prefix, prefix, scattered)
        return torch.where(is_context, context, sigma), (~is_context).float()

    def __call__(
        self,
        model: BlockDiT,
        latents: Float[Tensor, "b c f h w"],
        frames: tuple[int, ...],
        text: TextContext,
        empty: TextContext,
        weight: Float[Tensor, "b 1 f h w"],
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Losses of one batch of `frames`-long chunks; `empty` is the embedding of no prompt, one row."""
        batch, _, _, h, w = latents.shape
        sigma, target = self.levels(batch, len(frames), generator)
        spread = torch.repeat_interleave(torch.arange(len(frames)), torch.tensor(frames))
        eps = torch.randn(latents.shape, generator=generator)
        drop = torch.rand(batch, len(frames), generator=generator) < self.text_dropout
        text = _without(text, empty, drop)
        attend = self._visibility(model, frames, (h, w), generator)
        predicted = model(noised(latents, eps, sigma[:, spread]), 1000 * sigma[:, spread], text, attend)
        error = (predicted.float() - velocity(latents, eps)).square()
        counted = target[:, None, spread, None, None] * weight
        loss = (error * counted).sum() / (counted.sum() * latents.shape[1]).clamp(min=1)
        return {"loss": loss}

    def _visibility(
        self, model: BlockDiT, frames: tuple[int, ...], size: tuple[int, int], generator: torch.Generator
    ) -> Attend:
        patch, chunks = model.config["patch_size"][1], len(frames)
        h, w = size[0] // patch, size[1] // patch
        positions, tokens = grid_positions(sum(frames), h, w), tuple(k * h * w for k in frames)
        if not self.older:
            return BlockCausal(model.rope, positions, tokens, self.window)
        retrieved = (torch.rand(chunks, chunks, generator=generator) < self.older).tolist()
        plan: list[Recall] = []
        for c in range(chunks):
            older = [i for i in range(max(0, c - self.window)) if retrieved[c][i]]
            plan.append((*((i, "similar") for i in older), *Window(self.window).recall(c, torch.empty(0))))
        return Recalling(model.rope, positions, tokens, plan)


def _without(text: TextContext, empty: TextContext, drop: Tensor) -> TextContext:
    tokens = torch.where(drop[..., None, None], empty.tokens, text.tokens)
    mask = None if text.mask is None or empty.mask is None else torch.where(drop[..., None], empty.mask, text.mask)
    return TextContext(tokens, text.frames, mask)
