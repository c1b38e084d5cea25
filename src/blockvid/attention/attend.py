"""Who sees whom: the model computes q, k and v; an `Attend` decides what they see.

q and k arrive after qk-norm and before the rotary embedding. Training passes `BlockCausal`, generation passes `Cached`,
parity tests pass `Full` or `Masked`: one forward serves all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Protocol, TypeVar, cast, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from blockvid.attention.cache import Context, MemoryWriter
from blockvid.attention.policies import Recall
from blockvid.attention.rope import Rope

Call = TypeVar("Call", bound=Callable[..., Tensor])


@runtime_checkable
class Attend(Protocol):
    """Self-attention of one layer."""

    def __call__(
        self,
        layer: int,
        q: Float[Tensor, "b s heads d"],
        k: Float[Tensor, "b s heads d"],
        v: Float[Tensor, "b s heads d"],
    ) -> Float[Tensor, "b s heads d"]: ...


EXPLICIT_SCORES = 2**27  # 256 MB of bfloat16: beyond it a fused kernel's constant memory is worth its time


class _Explicit(torch.autograd.Function):
    """softmax(q k^T / sqrt(d)) v over materialised bf16 probabilities, which cost 2 bytes a score.

    On CPUs the fused kernel works in float32 tiles (with AMX: in its backward pass only), while a batched bf16 product
    runs on the matrix units, in half the time or less (benchmarks/attention.md).
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None) -> Tensor:
        """q, k and v have the heads in their batch; `hidden` (b z) is True for keys that no query of a sample sees."""
        scores = torch.bmm(q * q.shape[-1] ** -0.5, k.transpose(1, 2))
        if hidden is not None:
            scores.unflatten(0, (len(hidden), -1)).masked_fill_(hidden[:, None, None], -math.inf)
        probabilities = torch.softmax(scores, -1, out=scores)  # in place: fresh pages would cost more than the softmax
        ctx.save_for_backward(q, k, v, probabilities)
        return torch.bmm(probabilities, v)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        q, k, v, probabilities = ctx.saved_tensors
        dp = torch.bmm(grad, v.transpose(1, 2))
        ds = torch._softmax_backward_data(dp, probabilities, -1, dp.dtype)
        scale = q.shape[-1] ** -0.5
        dv = torch.bmm(grad.transpose(1, 2), probabilities).transpose(1, 2)
        dk = torch.bmm((q * scale).transpose(1, 2), ds).transpose(1, 2)
        return torch.bmm(ds, k) * scale, dk, dv, None


def attention(
    q: Float[Tensor, "b s heads d"],
    k: Float[Tensor, "b z heads d"],
    v: Float[Tensor, "b z heads d"],
    mask: Bool[Tensor, "*broadcast z"] | None = None,
) -> Float[Tensor, "b s heads d"]:
    """Scaled dot-product attention on the layout of this code base; `mask` is True where a key is visible."""
    of_keys = mask is None or mask.shape == (len(k), 1, 1, k.shape[1])
    if of_keys and q.device.type == "cpu" and q.dtype == torch.bfloat16 and _explicit_pays(q, k, v):
        flat = (rearrange(x, "b s heads d -> (b heads) s d") for x in (q, k, v))
        hidden = None if mask is None else ~mask[:, 0, 0]
        return rearrange(_Explicit.apply(*flat, hidden), "(b heads) s d -> b s heads d", b=len(q))
    q, k, v = (rearrange(x, "b s heads d -> b heads s d") for x in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), "b heads s d -> b s heads d")


def _explicit_pays(q: Tensor, k: Tensor, v: Tensor) -> bool:
    learned = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    scores = q.shape[0] * q.shape[2] * q.shape[1] * k.shape[1]
    return (learned or not _has_amx()) and scores <= EXPLICIT_SCORES


@lru_cache(maxsize=1)
def _has_amx() -> bool:
    return torch.cpu.get_capabilities().get("amx_bf16", False)


class Full:
    """Bidirectional: every token sees every token of the forward (Wan 2.1, SkyReels-V2 by default)."""

    def __init__(self, rope: Rope, positions: Int[Tensor, "s 3"]) -> None:
        self.rope, self.phases = rope, rope.phases(positions)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: ARG002
        return attention(self.rope.rotate(q, self.phases), self.rope.rotate(k, self.phases), v)


class Masked:
    """A token sees what a boolean matrix says: the reference that every faster rule is tested against."""

    def __init__(self, rope: Rope, positions: Int[Tensor, "s 3"], mask: Bool[Tensor, "s s"]) -> None:
        self.rope, self.phases, self.mask = rope, rope.phases(positions), mask

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: ARG002
        return attention(self.rope.rotate(q, self.phases), self.rope.rotate(k, self.phases), v, self.mask)


class BlockCausal:
    """A chunk sees itself and the `window` chunks before it (None: all of them), bidirectionally inside a chunk.

    Equal to `Masked` with `masks.block_causal`, at the cost of what is visible only: no masked score is computed.
    """

    def __init__(
        self, rope: Rope, positions: Int[Tensor, "s 3"], chunk_tokens: tuple[int, ...], window: int | None = None
    ) -> None:
        if sum(chunk_tokens) != len(positions):
            raise ValueError(f"chunks of {chunk_tokens} tokens do not tile {len(positions)} positions")
        self.rope, self.phases = rope, rope.phases(positions)
        stops = tuple(accumulate(chunk_tokens))
        starts = (0, *stops[:-1])
        self.spans = [
            (start, stop, starts[max(0, c - window) if window is not None else 0])
            for c, (start, stop) in enumerate(zip(starts, stops, strict=True))
        ]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: ARG002
        q, k = self.rope.rotate(q, self.phases), self.rope.rotate(k, self.phases)
        return torch.cat(
            [attention(q[:, start:stop], k[:, first:stop], v[:, first:stop]) for start, stop, first in self.spans],
            dim=1,
        )


def _left_out(call: Call) -> Call:
    """Of a compiled block's graph, which would else be compiled anew for every plan."""
    return cast(Call, torch.compiler.disable(call))


class Recalling:
    """A chunk sees itself and the chunks that `plan` gives it, at the compact positions they have in generation.

    Training with the visibility of a policy: equal to `Cached` over memories of the same forward. Chunks must be in
    time order, and their own tokens stay at `positions`; the skipped ones leave no gap.
    """

    def __init__(
        self, rope: Rope, positions: Int[Tensor, "s 3"], chunk_tokens: tuple[int, ...], plan: Sequence[Recall]
    ) -> None:
        self.rope, self.phases = rope, rope.phases(positions)
        stops = tuple(accumulate(chunk_tokens))
        starts = (0, *stops[:-1])
        first = [int(positions[start, 0]) for start in starts]
        frames = [int(positions[stop - 1, 0]) - t + 1 for t, stop in zip(first, stops, strict=True)]
        self.chunks: list[tuple[slice, list[tuple[slice, tuple[Tensor, Tensor] | None]]]] = []
        for chunk, recall in enumerate(plan):
            seen: list[tuple[slice, tuple[Tensor, Tensor] | None]] = []
            after = first[chunk]
            for index, _ in reversed(recall):
                after -= frames[index]
                span = slice(starts[index], stops[index])
                moved = positions[span] + torch.tensor([after - first[index], 0, 0], device=positions.device)
                seen.append((span, None if after == first[index] else rope.phases(moved)))
            self.chunks.append((slice(starts[chunk], stops[chunk]), seen[::-1]))

    @_left_out
    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: ARG002
        rotated = self.rope.rotate(k, self.phases)
        return self.read(self.rope.rotate(q, self.phases), (rotated, v), (k, rotated, v))

    def read(
        self, q: Float[Tensor, "b s heads d"], own: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor, Tensor]
    ) -> Float[Tensor, "b s heads d"]:
        """Each chunk over what it recalls of `past` (keys, the same rotated, values) and its `own` keys and values.

        `q` and the own keys are rotated. The two are apart because the past may be another version of the same chunks.
        """
        keys, rotated, values = past
        made = []
        for span, recalled in self.chunks:
            k = [rotated[:, at] if moved is None else self.rope.rotate(keys[:, at], moved) for at, moved in recalled]
            v = [values[:, at] for at, _ in recalled]
            made.append(attention(q[:, span], torch.cat((*k, own[0][:, span]), 1), torch.cat((*v, own[1][:, span]), 1)))
        return torch.cat(made, dim=1)


class CleanThenNoisy:
    """Teacher forcing: clean chunks, then noisy ones at the same positions, in one forward (Self Forcing; BD3-LM).

    A clean chunk sees itself and the clean ones that `plan` gives it; a noisy one itself and the same clean ones. The
    noisy half is what `Cached` gives over memories of the clean chunks. With the plan of a window it is `Masked` with
    `masks.teacher_forcing`.
    """

    def __init__(
        self, rope: Rope, positions: Int[Tensor, "s 3"], chunk_tokens: tuple[int, ...], plan: Sequence[Recall]
    ) -> None:
        self.rope, self.recalling = rope, Recalling(rope, positions, chunk_tokens, plan)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: ARG002
        phases = self.recalling.phases
        clean_q, noisy_q = (self.rope.rotate(half, phases) for half in q.chunk(2, dim=1))
        clean_k, noisy_k = k.chunk(2, dim=1)
        clean_v, noisy_v = v.chunk(2, dim=1)
        rotated = self.rope.rotate(clean_k, phases)
        past = (clean_k, rotated, clean_v)
        clean = self.recalling.read(clean_q, (rotated, clean_v), past)
        noisy = self.recalling.read(noisy_q, (self.rope.rotate(noisy_k, phases), noisy_v), past)
        return torch.cat((clean, noisy), dim=1)


class Rowwise:
    """Rows of a batch with visibilities of their own; those that share one are attended together."""

    def __init__(self, groups: Sequence[tuple[Sequence[int], Attend]]) -> None:
        self.groups = [(torch.tensor(rows), attend) for rows, attend in groups]
        self.order = torch.argsort(torch.cat([rows for rows, _ in self.groups]))

    @_left_out
    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if len(self.order) != len(q):
            raise ValueError(f"visibilities of {len(self.order)} rows do not fit a batch of {len(q)}")
        made = [attend(layer, q[rows], k[rows], v[rows]) for rows, attend in self.groups]
        return torch.cat(made)[self.order]


class Cached:
    """The chunk being generated sees its context and itself."""

    def __init__(self, rope: Rope, context: Context, positions: Int[Tensor, "s 3"]) -> None:
        self.rope, self.context = rope, context
        after = positions + torch.tensor([context.start, 0, 0], device=positions.device)
        self.phases = rope.phases(after)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = self.rope.rotate(q, self.phases), self.rope.rotate(k, self.phases)
        past = self.context.layer(layer)
        if past is not None:
            k, v = torch.cat((past[0], k), dim=1), torch.cat((past[1], v), dim=1)
        return attention(q, k, v)


class Recording:
    """Any `Attend`, whose keys and values a writer also gets: how a clean pass becomes a chunk's memory."""

    def __init__(self, attend: Attend, writer: MemoryWriter) -> None:
        self.attend, self.writer = attend, writer

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.writer.write(layer, q, k, v)
        return self.attend(layer, q, k, v)
