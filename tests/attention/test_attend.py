"""Who sees whom: kernels against the definition, and what a recording refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from blockvid.attention.attend import (
    Attend,
    BlockCausal,
    Cached,
    CleanThenNoisy,
    Full,
    Masked,
    Recalling,
    Recording,
    Rowwise,
    _Explicit,
    attention,
)
from blockvid.attention.cache import ChunkMemory, Context, MemoryWriter
from blockvid.attention.masks import block_causal, chunk_ids, teacher_forcing
from blockvid.attention.policies import Full as Everything
from blockvid.attention.policies import Window, recalls
from blockvid.attention.rope import Rope, grid_positions

ROPE = Rope(16)


def nothing() -> Context:
    return Context(0, ROPE, (), (), torch.float32)


def random_qkv(s: int, z: int | None = None, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(s)
    q = torch.randn(2, s, 3, 16, generator=generator)
    k, v = (torch.randn(2, z or s, 3, 16, generator=generator) for _ in range(2))
    return q.to(dtype), k.to(dtype), v.to(dtype)


def test_attention_is_the_definition() -> None:
    q, k, v = random_qkv(5, 9)
    mask = torch.rand(5, 9, generator=torch.Generator().manual_seed(0)) < 0.7
    mask[:, 0] = True
    scores = torch.einsum("bshd,bzhd->bhsz", q, k) / 4
    for visible in (None, mask):
        seen = scores if visible is None else scores.masked_fill(~visible, -torch.inf)
        expected = torch.einsum("bhsz,bzhd->bshd", seen.softmax(-1), v)
        torch.testing.assert_close(attention(q, k, v, visible), expected, rtol=0, atol=1e-6)


def test_the_explicit_kernel_has_the_right_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    k, v = (torch.randn(2, 5, 4, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(2))
    hidden = torch.tensor([[False, True, False, False, True]])  # one sample of two heads
    for unseen, mask in ((None, None), (hidden, ~hidden[:, None])):
        assert torch.autograd.gradcheck(_Explicit.apply, (q, k, v, unseen))
        expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        torch.testing.assert_close(_Explicit.apply(q, k, v, unseen), expected)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("keys", [40, 130])
def test_bfloat16_on_the_cpu_is_float32_attention_but_for_rounding(keys: int, masked: bool) -> None:
    """bfloat16 has 8 bits: relative to the largest entry, the output errs by under 1 % and the gradients by 2 %."""
    mask = torch.arange(keys) < torch.tensor([keys - 7, 3])[:, None, None, None] if masked else None
    exact = [x.requires_grad_() for x in random_qkv(40, keys, torch.bfloat16)]
    wide = [x.detach().float().requires_grad_() for x in exact]
    upstream = torch.randn(exact[0].shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    low, high = attention(*exact, mask), attention(*wide, mask)
    assert low.dtype == torch.bfloat16
    low.backward(upstream)
    high.backward(upstream.float())
    assert (low.float() - high).abs().max() < 0.01 * high.abs().max()
    for ours, theirs in zip(exact, wide, strict=True):
        assert ours.grad is not None and theirs.grad is not None
        assert (ours.grad.float() - theirs.grad).abs().max() < 0.02 * theirs.grad.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_scores_do_not_overflow(dtype: torch.dtype) -> None:
    q, k, v = random_qkv(6, dtype=dtype)
    assert attention(100 * q, 100 * k, v).isfinite().all()


@pytest.mark.parametrize("window", [None, 0, 1, 2])
@pytest.mark.parametrize("frames", [(2, 1, 3, 2), (4,), (1, 1, 1)], ids=str)
def test_block_causal_is_the_mask(frames: tuple[int, ...], window: int | None) -> None:
    positions = grid_positions(sum(frames), 2, 3)
    tokens = tuple(6 * count for count in frames)
    q, k, v = random_qkv(len(positions))
    masked = Masked(ROPE, positions, block_causal(chunk_ids(tokens), window))
    actual = BlockCausal(ROPE, positions, tokens, window)(0, q, k, v)
    torch.testing.assert_close(actual, masked(0, q, k, v), rtol=0, atol=1e-5)


def test_the_mask_in_plain_sight() -> None:
    ids = chunk_ids((2, 1, 1))
    assert ids.tolist() == [0, 0, 1, 2]
    assert block_causal(ids).int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert block_causal(ids, 1).int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1]]
    assert block_causal(ids, 0).int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_the_mask_of_teacher_forcing_in_plain_sight() -> None:
    ids = chunk_ids((2, 1, 1))
    clean, none = block_causal(ids).int().tolist(), [0, 0, 0, 0]
    noisy = [[0, 0, 0, 0, 1, 1, 0, 0]] * 2 + [[1, 1, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 0, 0, 1]]
    assert teacher_forcing(ids).int().tolist() == [row + none for row in clean] + noisy
    assert teacher_forcing(ids, 1).int().tolist()[-1] == [0, 0, 1, 0, 0, 0, 0, 1]
    assert teacher_forcing(ids, 0).int().tolist()[-1] == [0, 0, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("window", [None, 0, 1, 2])
@pytest.mark.parametrize("frames", [(2, 1, 3, 2), (4,), (1, 1, 1)], ids=str)
def test_clean_then_noisy_is_the_mask(frames: tuple[int, ...], window: int | None) -> None:
    """Also its gradients."""
    positions, tokens = grid_positions(sum(frames), 2, 3), tuple(6 * count for count in frames)
    plan = recalls(Everything() if window is None else Window(window), torch.eye(len(frames)))
    mask = teacher_forcing(chunk_ids(tokens), window)
    qkv = [x.requires_grad_() for x in random_qkv(2 * len(positions))]
    upstream = torch.randn(qkv[0].shape, generator=torch.Generator().manual_seed(1))
    masked = Masked(ROPE, positions.repeat(2, 1), mask)(0, *qkv)
    actual = CleanThenNoisy(ROPE, positions, tokens, plan)(0, *qkv)
    torch.testing.assert_close(actual, masked, rtol=0, atol=1e-5)
    gradients = [torch.autograd.grad(y, qkv, upstream) for y in (actual, masked)]
    for ours, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-5)


def test_rows_have_visibilities_of_their_own() -> None:
    positions = grid_positions(2, 2, 3)
    q, k, v = (torch.cat((x, x.flip(0)))[:3] for x in random_qkv(12))
    full, causal = Full(ROPE, positions), BlockCausal(ROPE, positions, (6, 6))
    made = Rowwise([((2, 0), causal), ((1,), full)])(0, q, k, v)
    torch.testing.assert_close(made[[0, 2]], causal(0, q, k, v)[[0, 2]], rtol=0, atol=1e-6)
    torch.testing.assert_close(made[1], full(0, q, k, v)[1], rtol=0, atol=1e-6)
    assert (made - full(0, q, k, v))[[0, 2]].abs().max() > 1e-2
    with pytest.raises(ValueError, match="visibilities of 3 rows do not fit a batch of 2"):
        Rowwise([((2, 0), causal), ((1,), full)])(0, q[:2], k[:2], v[:2])


def test_a_compiled_block_serves_every_plan() -> None:
    q, k, v = random_qkv(6)
    positions, graphs = grid_positions(3, 1, 2), list[torch.fx.GraphModule]()

    def counting(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    def block(attend: Attend) -> Tensor:
        return attend(0, q + 1, k, v) * 2

    compiled, counts = torch.compile(block, backend=counting), []
    for plan in ([(), (), ()], [(), ((0, "similar"),), ()], [(), (), ((0, "similar"), (1, "recent"))]):
        one = Recalling(ROPE, positions, (2, 2, 2), plan)
        for attend in (one, Rowwise([([1, 0], one)])):
            assert torch.equal(compiled(attend), block(attend))
        counts.append(len(graphs))
    assert counts[0] == counts[-1] > 0


def test_an_empty_context_is_bidirectional() -> None:
    positions = grid_positions(2, 2, 3)
    q, k, v = random_qkv(12)
    assert torch.equal(Cached(ROPE, nothing(), positions)(0, q, k, v), Full(ROPE, positions)(0, q, k, v))


def test_chunks_that_do_not_tile_are_refused() -> None:
    with pytest.raises(ValueError, match=r"chunks of \(6, 5\) tokens do not tile 12 positions"):
        BlockCausal(ROPE, grid_positions(2, 2, 3), (6, 5))


def test_a_recording_keeps_unrotated_keys_and_serves_one_forward() -> None:
    positions = grid_positions(2, 2, 3)
    writer = MemoryWriter(ChunkMemory(3, 8, 2, positions, ()), ROPE, torch.Generator())
    recording = Recording(Full(ROPE, positions), writer)
    q, k, v = random_qkv(12)
    for layer in range(2):
        assert torch.equal(recording(layer, q, k, v), Full(ROPE, positions)(layer, q, k, v))
    memory = writer.memory()
    assert (memory.index, memory.start, memory.frames, memory.kept) == (3, 8, 2, (1.0, 1.0))
    assert all(torch.equal(layer.keys.data, k) and torch.equal(layer.values.data, v) for layer in memory.layers)
    with pytest.raises(ValueError, match="layer 0 came where layer 2 was due: one writer serves one forward"):
        recording(0, q, k, v)


def test_every_attend_is_one() -> None:
    positions = grid_positions(1, 2, 3)
    attend: list[Attend] = [Full(ROPE, positions), Cached(ROPE, nothing(), positions)]
    attend += [Masked(ROPE, positions, torch.ones(6, 6).bool()), BlockCausal(ROPE, positions, (6,))]
    attend += [CleanThenNoisy(ROPE, positions, (6,), [()]), Rowwise([((0,), attend[0])])]
    writer = MemoryWriter(ChunkMemory(0, 0, 1, positions, ()), ROPE, torch.Generator())
    assert all(isinstance(one, Attend) for one in [*attend, Recording(attend[0], writer)])
