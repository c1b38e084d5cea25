"""Ulysses sequence parallelism: tokens are split over ranks, and heads while they attend.

The split runs through the picture, not through time: every rank holds some rows (else columns) of every latent frame,
so noise levels per frame, texts per chunk and any rule of visibility stay what they are. Attention gets all tokens of
some heads, by one all-to-all before and one after (DeepSpeed-Ulysses, arXiv 2309.14509).

Gradients inside the split are `ranks` times the truth, so that the mean over all ranks, which `fully_shard` takes, is
the right sum over tokens as it is the right mean over batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from blockvid.attention.attend import Attend
from blockvid.errors import InputError
from blockvid.model.dit import BlockDiT, TextContext

GRIDS = {
    "rows": ("r three b (f h w) heads d -> three b (f r h w) heads d", "b (f r h w) heads d -> r b (f h w) heads d"),
    "columns": ("r three b (f h w) heads d -> three b (f h r w) heads d", "b (f h r w) heads d -> r b (f h w) heads d"),
}


@dataclass(frozen=True)
class Split:
    """A rank's share of a grid of `frames` x `height` x `width` tokens (its own, not all ranks')."""

    group: dist.ProcessGroup
    axis: Literal["rows", "columns"]
    frames: int
    height: int
    width: int

    @property
    def ranks(self) -> int:
        return dist.get_world_size(self.group)

    @property
    def dim(self) -> int:
        """Of latents (b c f h w), the one that is shared out."""
        return -2 if self.axis == "rows" else -1

    def to_heads(self, qkv: Float[Tensor, "three b own heads d"]) -> Float[Tensor, "three b s share d"]:
        """All tokens of this rank's heads, for this rank's tokens of all heads."""
        parts = rearrange(qkv, "three b s (r heads) d -> r three b s heads d", r=self.ranks)
        return rearrange(exchanged(parts, self.group), GRIDS[self.axis][0], f=self.frames, h=self.height, w=self.width)

    def to_tokens(self, y: Float[Tensor, "b s share d"]) -> Float[Tensor, "b own heads d"]:
        """The inverse, for what attention answers."""
        grid = {"f": self.frames, "h": self.height, "w": self.width}
        parts = rearrange(y, GRIDS[self.axis][1], r=self.ranks, **grid)
        return rearrange(exchanged(parts, self.group), "r b s heads d -> b s (r heads) d")


class _Exchange(torch.autograd.Function):
    """Part r of this rank against this rank's part of rank r: its own inverse, and so its own gradient."""

    @staticmethod
    def forward(ctx, parts: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        made = torch.empty_like(parts, memory_format=torch.contiguous_format)
        dist.all_to_all_single(made, parts.contiguous(), group=group)
        return made

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        made = torch.empty_like(grad, memory_format=torch.contiguous_format)
        dist.all_to_all_single(made, grad.contiguous(), group=ctx.group)
        return made, None


class _Share(torch.autograd.Function):
    """This rank's share of a tensor that all ranks hold; the gradient is whole again, and the truth."""

    @staticmethod
    def forward(ctx, x: Tensor, group: dist.ProcessGroup, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return x.chunk(dist.get_world_size(group), dim)[dist.get_rank(group)].contiguous()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _collected(grad, ctx.group, ctx.dim) / dist.get_world_size(ctx.group), None, None


class _Whole(torch.autograd.Function):
    """The shares of all ranks together; the gradient enters the split there, `ranks` times."""

    @staticmethod
    def forward(ctx, x: Tensor, group: dist.ProcessGroup, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return _collected(x, group, dim)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        ranks = dist.get_world_size(ctx.group)
        return grad.chunk(ranks, ctx.dim)[dist.get_rank(ctx.group)] * ranks, None, None


def _collected(x: Tensor, group: dist.ProcessGroup, dim: int) -> Tensor:
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, x.contiguous(), group=group)
    return torch.cat(parts, dim)


def exchanged(parts: Float[Tensor, "r ..."], group: dist.ProcessGroup) -> Float[Tensor, "r ..."]:
    """Part r goes to rank r, and that rank's part for this one comes back in its place; differentiable."""
    made = _Exchange.apply(parts, group)
    assert isinstance(made, Tensor)
    return made


class Ulysses:
    """Any `Attend` over the tokens of all ranks, each rank attending with its share of the heads.

    What the inner rule keeps (memories, say) holds that share alone.
    """

    def __init__(self, attend: Attend, split: Split) -> None:
        self.attend, self.split = attend, split

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = self.split.to_heads(torch.stack((q, k, v))).unbind()
        return self.split.to_tokens(self.attend(layer, q, k, v))


class SequenceParallelDiT(BlockDiT):
    """A `BlockDiT` whose ranks each compute a part of every latent frame; inputs and outputs are whole on all of them.

    All ranks of the group must be given the same inputs.
    """

    sp_group: dist.ProcessGroup

    def forward(
        self,
        latents: Float[Tensor, "b c f h w"],
        timestep: Float[Tensor, "b f"],
        text: TextContext,
        attend: Attend,
    ) -> Float[Tensor, "b c f h w"]:
        split = split_of(self.sp_group, latents.shape[-3], *self.cells(*latents.shape[-2:]))
        share = _Share.apply(latents, self.sp_group, split.dim)
        made = super().forward(share, timestep, text, Ulysses(attend, split))
        whole = _Whole.apply(made, self.sp_group, split.dim)
        assert isinstance(whole, Tensor)
        return whole


def split_of(group: dist.ProcessGroup, frames: int, height: int, width: int) -> Split:
    """The share of a whole grid of tokens: of its rows if they divide, else of its columns; else InputError."""
    ranks = dist.get_world_size(group)
    if height % ranks == 0:
        return Split(group, "rows", frames, height // ranks, width)
    if width % ranks == 0:
        return Split(group, "columns", frames, height, width // ranks)
    raise InputError(
        f"sequence parallelism over {ranks} ranks divides neither {height} rows nor {width} columns of tokens; "
        f"use sp {_divisors(height, width)}"
    )


def _divisors(height: int, width: int) -> str:
    return " or ".join(str(n) for n in range(1, max(height, width) + 1) if height % n == 0 or width % n == 0)


def sequence_parallel(network: nn.Module, group: dist.ProcessGroup) -> None:
    """Splits the tokens of a `BlockDiT` over `group` from now on; other networks compute the same on all ranks.

    The class is exchanged in place, as `fully_shard` does, so that adapters, frozen parameters and names stay.
    Raises InputError if the heads do not divide.
    """
    if not isinstance(network, BlockDiT):
        return
    heads, ranks = network.config["num_attention_heads"], dist.get_world_size(group)
    if heads % ranks:
        fitting = " or ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        raise InputError(f"{heads} heads do not divide over {ranks} sequence-parallel ranks; use sp {fitting}")
    network.__class__ = SequenceParallelDiT
    assert isinstance(network, SequenceParallelDiT)
    network.sp_group = group
