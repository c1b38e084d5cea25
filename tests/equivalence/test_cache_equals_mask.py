"""Cached = masked: a video made chunk by chunk from a cache is what one masked forward over all chunks gives.

float32; outputs are of order 1 and the observed differences are below 2e-6.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from blockvid.attention.attend import Attend, BlockCausal, Cached, Full, Masked, Recalling, Recording
from blockvid.attention.cache import ChunkMemory, KVCache, MemoryWriter
from blockvid.attention.masks import block_causal, chunk_ids
from blockvid.attention.policies import Full as Everything
from blockvid.attention.policies import Policy, Recall, Window, recalls
from blockvid.attention.rope import grid_positions
from blockvid.model.dit import BlockDiT, TextContext

HEIGHT, WIDTH = 4, 6
TOKENS = (HEIGHT // 2) * (WIDTH // 2)
FRAMES = [(9, 8, 8), (3, 2, 1, 2), (1, 1, 1, 1, 1), (4,)]


@pytest.fixture(scope="module")
def model() -> BlockDiT:
    torch.manual_seed(0)
    model = BlockDiT(
        num_attention_heads=2, attention_head_dim=16, text_dim=24, freq_dim=32, ffn_dim=48, num_layers=3
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.requires_grad_(False)


class Video:
    """Random latents of a few chunks, clean but for the last (a level per frame), and text of its own per chunk."""

    def __init__(self, frames: tuple[int, ...], batch: int = 2, noisy: bool = True) -> None:
        generator = torch.Generator().manual_seed(sum(frames))
        total = sum(frames)
        self.frames = frames
        self.latents = torch.randn(batch, 16, total, HEIGHT, WIDTH, generator=generator)
        self.timestep = torch.zeros(batch, total)
        if noisy:
            self.timestep[:, -frames[-1] :] = 1000 * torch.rand(batch, frames[-1], generator=generator)
        mask = torch.rand(batch, len(frames), 7, generator=generator) < 0.6
        mask[..., 0] = True
        self.text = TextContext(torch.randn(batch, len(frames), 7, 24, generator=generator), frames, mask)
        self.chunk_tokens = tuple(count * TOKENS for count in frames)

    def positions(self, start: int = 0) -> Tensor:
        return grid_positions(sum(self.frames), HEIGHT // 2, WIDTH // 2, start)

    def at_once(self, model: BlockDiT, attend: Attend) -> Tensor:
        return model(self.latents, self.timestep, self.text, attend)

    def chunkwise(self, model: BlockDiT, policy: Policy) -> tuple[Tensor, KVCache]:
        """Each chunk with its recalled context and itself; its keys and values are then remembered."""
        plan = recalls(policy, torch.eye(len(self.frames) + 1))
        cache, made, start = KVCache(plan, model.rope), [], 0
        for chunk, count in enumerate(self.frames):
            span = slice(start, start + count)
            positions = grid_positions(count, HEIGHT // 2, WIDTH // 2)
            empty = ChunkMemory(chunk, start, count, positions, ())
            writer = MemoryWriter(empty, model.rope, torch.Generator(), policy.salience)
            recording = Recording(Cached(model.rope, cache.recall(chunk, start), positions), writer)
            mask = self.text.mask
            text = TextContext(
                self.text.tokens[:, chunk : chunk + 1], (count,), None if mask is None else mask[:, chunk : chunk + 1]
            )
            made.append(model(self.latents[:, :, span], self.timestep[:, span], text, recording))
            cache.append(writer.memory())
            start += count
        return torch.cat(made, dim=2), cache


def close(actual: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0.3
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames", FRAMES, ids=str)
def test_every_past_chunk(model: BlockDiT, frames: tuple[int, ...]) -> None:
    """In particular a noisy chunk after clean ones, as it is generated; batch of 2, as guidance makes it."""
    video = Video(frames)
    masked = video.at_once(model, Masked(model.rope, video.positions(), block_causal(chunk_ids(video.chunk_tokens))))
    close(video.at_once(model, BlockCausal(model.rope, video.positions(), video.chunk_tokens)), masked)
    close(video.chunkwise(model, Everything())[0], masked)


@pytest.mark.parametrize("frames", FRAMES, ids=str)
@pytest.mark.parametrize("window", [0, 1, 2])
def test_a_window(model: BlockDiT, frames: tuple[int, ...], window: int) -> None:
    """Also in deep layers: what a cached chunk saw is bounded by its own window, in the mask too.

    Cached positions are re-indexed from the window's start, and the mask's are not: only distances matter.
    """
    video = Video(frames)
    mask = block_causal(chunk_ids(video.chunk_tokens), window)
    masked = video.at_once(model, Masked(model.rope, video.positions(), mask))
    close(video.at_once(model, BlockCausal(model.rope, video.positions(), video.chunk_tokens, window)), masked)
    made, cache = video.chunkwise(model, Window(window))
    close(made, masked)
    assert len(cache.memories) == min(window, len(frames))


def test_a_window_that_holds_everything_is_no_window(model: BlockDiT) -> None:
    video = Video((3, 2, 2))
    assert torch.equal(video.chunkwise(model, Window(2))[0], video.chunkwise(model, Everything())[0])


def test_a_window_matters(model: BlockDiT) -> None:
    video = Video((3, 2, 2))
    narrow, wide = video.chunkwise(model, Window(1))[0], video.chunkwise(model, Everything())[0]
    assert (narrow - wide)[:, :, 5:].abs().max() > 1e-2


def test_one_chunk_is_bidirectional(model: BlockDiT) -> None:
    video = Video((7,))
    full = video.at_once(model, Full(model.rope, video.positions()))
    close(video.at_once(model, BlockCausal(model.rope, video.positions(), video.chunk_tokens)), full)
    close(video.chunkwise(model, Everything())[0], full)


@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_causality(model: BlockDiT, chunk: int) -> None:
    """Nothing of a chunk, neither latents nor level nor text, reaches an earlier one by a single bit."""
    video, changed = Video((3, 2, 2)), Video((3, 2, 2))
    start = sum(video.frames[:chunk])
    changed.latents[:, :, start:] += 1
    changed.timestep[:, start:] += 100
    changed.text.tokens[:, chunk:] += 1
    attend = BlockCausal(model.rope, video.positions(), video.chunk_tokens)
    before, after = video.at_once(model, attend), changed.at_once(model, attend)
    assert torch.equal(before[:, :, :start], after[:, :, :start])
    assert (before - after)[:, :, start:].abs().amax(dim=(0, 1, 3, 4)).min() > 1e-3


def test_text_reaches_its_own_chunk_alone(model: BlockDiT) -> None:
    video, changed = Video((3, 2, 2)), Video((3, 2, 2))
    changed.text.tokens[:, 1] += 1
    attend = BlockCausal(model.rope, video.positions(), video.chunk_tokens, window=0)
    moved = (video.at_once(model, attend) - changed.at_once(model, attend)).abs().amax(dim=(0, 1, 3, 4))
    assert (moved > 1e-3).tolist() == [False] * 3 + [True] * 2 + [False] * 2
    assert moved[:3].max() == moved[5:].max() == 0


@pytest.mark.parametrize("shift", [1, 100, 1000])
def test_only_differences_of_time_matter(model: BlockDiT, shift: int) -> None:
    video = Video((3, 2, 2))
    mask = block_causal(chunk_ids(video.chunk_tokens))
    close(
        video.at_once(model, Masked(model.rope, video.positions(shift), mask)),
        video.at_once(model, Masked(model.rope, video.positions(), mask)),
    )


def test_batch_rows_are_independent(model: BlockDiT) -> None:
    """Guidance puts the prompt's and the negative prompt's rows into one cache."""
    video = Video((3, 2, 2))
    both, _ = video.chunkwise(model, Everything())
    for row in range(2):
        video = Video((3, 2, 2))
        assert video.text.mask is not None
        one = slice(row, row + 1)
        video.latents, video.timestep = video.latents[one], video.timestep[one]
        video.text = TextContext(video.text.tokens[one], video.text.frames, video.text.mask[one])
        close(video.chunkwise(model, Everything())[0], both[one])


def test_masked_slots_of_text_are_unread(model: BlockDiT) -> None:
    video, changed = Video((3, 2)), Video((3, 2))
    assert changed.text.mask is not None
    changed.text.tokens[~changed.text.mask] = 50.0
    attend = BlockCausal(model.rope, video.positions(), video.chunk_tokens)
    assert torch.equal(video.at_once(model, attend), changed.at_once(model, attend))


@pytest.mark.parametrize("skipped", [(), (0,), (1,), (0, 1), (2,)])
def test_training_with_retrieval_is_generation_with_the_same_recalls(model: BlockDiT, skipped: tuple[int, ...]) -> None:
    """The last chunk sees some of those before it, at compact positions: in one masked pass and from the cache."""
    video = Video((3, 2, 2, 2, 2))
    last = tuple((i, "similar") for i in range(4) if i not in skipped)
    plan = [tuple((i, "all") for i in range(c)) for c in range(4)] + [last]
    at_once = video.at_once(model, Recalling(model.rope, video.positions(), video.chunk_tokens, plan))

    class Given:
        salience = None

        def held(self, chunks: int) -> int:
            return chunks

        def recall(self, chunk: int, similarity: Tensor) -> Recall:
            return plan[chunk] if chunk < len(plan) else ()

    close(video.chunkwise(model, Given())[0], at_once)


def test_retrieving_nothing_is_the_window(model: BlockDiT) -> None:
    video = Video((3, 2, 2, 2, 2))
    plan = recalls(Window(2), torch.eye(5))
    windowed = video.at_once(model, BlockCausal(model.rope, video.positions(), video.chunk_tokens, 2))
    assert torch.equal(
        video.at_once(model, Recalling(model.rope, video.positions(), video.chunk_tokens, plan)), windowed
    )
