"""Every network is a denoiser: (x, sigma) and what it may read and see -> the data it believes in.

Solvers and the loop know nothing of velocities, guidance or text; those are denoisers around denoisers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from blockvid.attention.attend import Attend
from blockvid.errors import InputError
from blockvid.flow import TIMESTEPS, x0_from_velocity
from blockvid.model.dit import TextContext

GuidanceRule = Literal["cfg", "cfg-zero"]


@runtime_checkable
class Denoiser(Protocol):
    """Predicts the data x0 behind x, whose latent frames are at the levels sigma."""

    def __call__(
        self, x: Float[Tensor, "b c f h w"], sigma: Float[Tensor, "b f"], text: TextContext, attend: Attend
    ) -> Float[Tensor, "b c f h w"]: ...


@runtime_checkable
class VelocityModel(Protocol):
    """The forward pass of BlockDiT."""

    @property
    def dtype(self) -> torch.dtype: ...

    def __call__(
        self,
        latents: Float[Tensor, "b c f h w"],
        timestep: Float[Tensor, "b f"],
        text: TextContext,
        attend: Attend,
    ) -> Float[Tensor, "b c f h w"]: ...


@dataclass(frozen=True)
class VelocityDenoiser:
    """x0 = x - sigma v of a model that predicts v (Eqs. 2 to 4); the difference is taken in x's precision."""

    model: VelocityModel

    def __call__(
        self, x: Float[Tensor, "b c f h w"], sigma: Float[Tensor, "b f"], text: TextContext, attend: Attend
    ) -> Float[Tensor, "b c f h w"]:
        v = self.model(x.to(self.model.dtype), TIMESTEPS * sigma, text, attend)
        return x0_from_velocity(x, v.to(x.dtype), sigma)


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance: D_u + scale (D_c - D_u); the same in x0 as in v, which differ by a linear map.

    By the rule "cfg-zero", the negative prompt's velocity is first multiplied by the number that brings it nearest to
    the prompt's, <v_c, v_u> / |v_u|^2 for each sample (CFG-Zero*, arXiv 2503.18886); sigma is then to be the same for
    all frames that are not clean. That paper's idle first steps are not taken.

    For b rows of x, the text and all that attend sees have 2b: the prompt's first, then the negative prompt's. One
    pass serves both. Text of b rows means no guidance, costs half, and asks for scale 1: InputError otherwise. At
    scale 1 with 2b rows both still run, since the negative prompt's rows of the cache serve later chunks.
    """

    denoiser: Denoiser
    scale: float
    rule: GuidanceRule = "cfg"

    def __call__(
        self, x: Float[Tensor, "b c f h w"], sigma: Float[Tensor, "b f"], text: TextContext, attend: Attend
    ) -> Float[Tensor, "b c f h w"]:
        rows, given = x.shape[0], text.tokens.shape[0]
        if given == rows and self.scale == 1:
            return self.denoiser(x, sigma, text, attend)
        if given != 2 * rows:
            raise InputError(
                f"{given} text rows for {rows} latents at guidance {self.scale}: guidance reads {2 * rows} rows, "
                f"prompts then negative prompts; add the negative rows, or use guidance 1 with {rows} rows"
            )
        both = self.denoiser(
            repeat(x, "b c f h w -> (two b) c f h w", two=2), repeat(sigma, "b f -> (two b) f", two=2), text, attend
        )
        cond, uncond = both.chunk(2)
        if self.rule == "cfg-zero":
            uncond = _nearest(x, cond, uncond)
        return torch.lerp(uncond, cond, self.scale)  # unlike the textbook sum, exactly cond at scale 1


def _nearest(
    x: Float[Tensor, "b c f h w"], cond: Float[Tensor, "b c f h w"], uncond: Float[Tensor, "b c f h w"]
) -> Float[Tensor, "b c f h w"]:
    """`uncond` by the multiple of its velocity that is nearest to `cond`'s; x - D is sigma v, so sigma cancels."""
    theirs, ours = (x - cond).flatten(1), (x - uncond).flatten(1)
    # Where nothing moves there is nothing to scale, and any number will do.
    scale = (theirs * ours).sum(1) / ours.square().sum(1).clamp(min=torch.finfo(x.dtype).tiny)
    return x - scale.view(-1, 1, 1, 1, 1) * (x - uncond)
