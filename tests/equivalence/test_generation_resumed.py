"""A video taken up after a chunk is the video made in one go, and its beginning does not depend on its length."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from blockvid.attention.attend import Cached
from blockvid.attention.cache import ChunkMemory, KVCache, MemoryWriter
from blockvid.attention.policies import DynamicSparse, Full, KeyValuePolicy, Semantic, SinkWindow, Window, recalls
from blockvid.attention.rope import grid_positions
from blockvid.attention.salience import Salience
from blockvid.flow import sigma_grid
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.sampling.denoiser import Guided, VelocityDenoiser
from blockvid.sampling.noise import Start, base_noise
from blockvid.sampling.plans import Chunkwise
from blockvid.sampling.sampler import Condition, Finished, sample
from blockvid.sampling.solvers import UniPC

FRAMES = (3, 2, 2, 2)
THIN = Salience(tau=0.6, recent=3, random=3, multiple=1)
POLICIES = [Window(2), Full(), SinkWindow(1, 1), DynamicSparse(2, THIN), Semantic(1, 1, THIN)]
SIMILARITY = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def model() -> BlockDiT:
    torch.manual_seed(0)
    return BlockDiT(
        num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=4, text_dim=8, freq_dim=16,
        ffn_dim=32, num_layers=2,
    ).eval()  # fmt: skip


class Studio:
    """A model, its memory and a prompt per chunk."""

    def __init__(self, model: BlockDiT, policy: KeyValuePolicy, guidance: float) -> None:
        self.model, self.guidance, self.policy = model, guidance, policy
        self.rows = 1 if guidance == 1 else 2
        self.cache = KVCache(recalls(policy, SIMILARITY), model.rope)

    def begin(self, chunk: int) -> Start:
        shape = (1, 4, FRAMES[chunk], 4, 4)
        return Start.after(torch.ones(1, 4, 1, 4, 4) if chunk == 0 else None, base_noise(5, chunk, shape))

    def condition(self, chunks: tuple[int, ...]) -> Condition:
        (chunk,) = chunks
        words = torch.randn(self.rows, 1, 3, 8, generator=torch.Generator().manual_seed(chunk))
        start, grid = sum(FRAMES[:chunk]), grid_positions(FRAMES[chunk], 2, 2)
        attend = Cached(self.model.rope, self.cache.recall(chunk, start), grid)
        empty = ChunkMemory(chunk, start, FRAMES[chunk], grid, ())
        chance = torch.Generator().manual_seed(chunk)
        writer = MemoryWriter(empty, self.model.rope, chance, self.policy.salience)
        denoiser = Guided(VelocityDenoiser(self.model), self.guidance)
        return Condition(denoiser, TextContext(words, (FRAMES[chunk],)), attend, writer)

    def make(self, chunks: Sequence[int]) -> list[Tensor]:
        events = sample(Chunkwise(), UniPC(), sigma_grid(4, 5.0), chunks, self.begin, self.condition, self.cache.append)
        return [event.latents for event in events if isinstance(event, Finished)]


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_resumed_is_uninterrupted(model: BlockDiT, policy: KeyValuePolicy, guidance: float) -> None:
    whole = Studio(model, policy, guidance).make(range(4))
    studio = Studio(model, policy, guidance)
    parts = [latents for chunk in range(4) for latents in studio.make([chunk])]
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_later_chunks_change_nothing_before_them_and_see_what_came_before(
    model: BlockDiT, policy: KeyValuePolicy
) -> None:
    whole, short = Studio(model, policy, 4.0).make(range(4)), Studio(model, policy, 4.0).make(range(2))
    assert all(torch.equal(a, b) for a, b in zip(whole, short, strict=False))
    forgetful = Studio(model, Window(0), 4.0).make(range(2))
    assert torch.equal(forgetful[0], short[0])
    assert not torch.equal(forgetful[1], short[1])


def test_the_given_first_frame_is_the_first_frame(model: BlockDiT) -> None:
    first, *_ = Studio(model, Window(2), 4.0).make(range(1))
    assert torch.equal(first[:, :, :1], torch.ones(1, 4, 1, 4, 4))
    assert not torch.equal(first[:, :, 1:2], torch.ones(1, 4, 1, 4, 4))
