"""Tells real latents from generated ones, with the eyes of the base model; and what keeps it from being too sure."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from blockvid.attention.attend import Full, attention
from blockvid.errors import InputError
from blockvid.flow import TIMESTEPS
from blockvid.model.dit import Attention, BlockDiT, FeedForward, LayerNorm32, TextContext

Scope = Literal["video", "chunk"]
"""What gets a verdict of its own: all latents that are shown at once, or each of their chunks."""
Verdict = Callable[[Float[Tensor, "b c f h w"]], Float[Tensor, "b m"]]
"""Logits of noisy latents whose level and text are settled."""

DEPTHS = (14 / 30, 22 / 30, 1.0)


class Register(nn.Module):
    """A learned token that reads features by cross-attention, then a feed-forward (both with a residual)."""

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(dim))
        self.norm, self.attn = nn.RMSNorm(dim, eps=eps), Attention(dim, heads, eps)
        self.norm_ffn, self.ffn = LayerNorm32(dim, eps), FeedForward(dim, 4 * dim, dim, nn.GELU("tanh"))

    def forward(self, features: Float[Tensor, "b s d"]) -> Float[Tensor, "b d"]:
        """What the token has read."""
        token = self.norm(self.token)[None, None].expand(len(features), 1, -1).type_as(features)
        token = token + self.attn.out(attention(*self.attn.qkv(token, features)))
        return (token + self.ffn(self.norm_ffn(token).type_as(token)))[:, 0]


class Discriminator(nn.Module):
    """A copy of the base transformer, bidirectional, whose features one register token per tapped block reads.

    As in Self Forcing's critic, registers read the features at about half, three quarters and all of the depth
    (blocks 13, 21 and 29 of 30); their concatenation becomes a logit, positive for real. The last layer starts at zero:
    a new discriminator has no opinion. A Wan 1.3B trunk gets 3 registers of 28 million parameters.
    """

    def __init__(self, base: BlockDiT, scope: Scope = "video", seed: int = 0) -> None:
        super().__init__()
        if scope not in get_args(Scope):
            raise InputError(f"scope {scope!r} is unknown; use {', '.join(get_args(Scope))}")
        self.scope: Scope = scope
        self.trunk = copy.deepcopy(base).requires_grad_(True)
        dim, depth = base.width, len(base.blocks)
        heads, eps = base.config["num_attention_heads"], base.config["eps"]
        self.layers = sorted({max(1, round(share * depth)) - 1 for share in DEPTHS})
        self.registers = nn.ModuleList(Register(dim, heads, eps) for _ in self.layers)
        width = dim * len(self.layers)
        self.norm, self.hidden, self.logit = LayerNorm32(width, eps), nn.Linear(width, dim), nn.Linear(dim, 1)
        self._initialize(torch.Generator().manual_seed(seed))
        for part in (self.registers, self.norm, self.hidden, self.logit):
            part.to(next(base.parameters()))

    def forward(
        self, latents: Float[Tensor, "b c f h w"], sigma: Float[Tensor, "b f"], text: TextContext
    ) -> Float[Tensor, "b m"]:
        """Logits of latents at level sigma under their prompts; m is 1, or the number of chunks."""
        see = Full(self.trunk.rope, self.trunk.positions(*latents.shape[2:]).to(latents.device))
        features = self.trunk.features(latents.to(self.trunk.dtype), TIMESTEPS * sigma, text, see, self.layers)
        verdicts = []
        for piece in zip(*(each.split(self._pieces(text), dim=1) for each in features), strict=True):
            read = [register(part.flatten(1, 2)) for register, part in zip(self.registers, piece, strict=True)]
            joined = torch.cat(read, dim=-1)
            verdicts.append(self.logit(F.silu(self.hidden(self.norm(joined).type_as(joined)))))
        return torch.cat(verdicts, dim=-1).float()

    def _pieces(self, text: TextContext) -> tuple[int, ...]:
        return text.frames if self.scope == "chunk" else (sum(text.frames),)

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator) -> None:
        for register in self.registers:
            assert isinstance(register, Register)
            nn.init.normal_(register.token, generator=generator)
        for module in (*self.registers.modules(), self.hidden, self.logit):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.logit.weight)


@runtime_checkable
class Penalty(Protocol):
    """How steep a verdict is: the mean over the batch of |d logit / d latents|^2, which R1 and R2 keep small.

    Several logits of a row count with their sum.
    """

    def __call__(
        self, verdict: Verdict, x: Float[Tensor, "b c f h w"], generator: torch.Generator
    ) -> Float[Tensor, ""]: ...


@dataclass(frozen=True)
class FiniteDifference:
    """((D(x + step n) - D(x)) / step)^2 for one normal n: an estimate that needs no second derivative.

    Approximated R1 of Seaweed-APT (arXiv 2501.08316, which leaves out the division); as Self Forcing has it. Its mean
    over n is the exact penalty, up to terms of order step^2.
    """

    step: float = 0.01

    def __post_init__(self) -> None:
        if not self.step > 0:
            raise InputError(f"a finite difference over {self.step} is none; use a step above 0, such as 0.01")

    def __call__(
        self, verdict: Verdict, x: Float[Tensor, "b c f h w"], generator: torch.Generator
    ) -> Float[Tensor, ""]:
        x = x.detach()
        moved = x + self.step * torch.randn(x.shape, generator=generator).to(x)
        return ((verdict(moved) - verdict(x)).sum(dim=1) / self.step).square().mean()


@dataclass(frozen=True)
class Exact:
    """The gradient itself, differentiated again (Mescheder et al. 2018, arXiv 1801.04406).

    Outside autocast with plain attention, since fused kernels have no second derivative: slow, and much memory.
    """

    def __call__(
        self,
        verdict: Verdict,
        x: Float[Tensor, "b c f h w"],
        generator: torch.Generator,  # noqa: ARG002
    ) -> Float[Tensor, ""]:
        x = x.detach().requires_grad_()
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
            (slope,) = torch.autograd.grad(verdict(x).sum(), x, create_graph=True)
        return slope.square().flatten(1).sum(dim=1).mean()
