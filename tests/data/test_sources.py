"""Laws of sources: a batch is a function of the step, holds what was encoded, and says what generation would say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from blockvid.batch import Batch, Source
from blockvid.data.encode import encode
from blockvid.data.sampler import Rank
from blockvid.data.shards import Shards
from blockvid.data.sources import ShardSource
from blockvid.data.takes import StillSource, TakeSource
from blockvid.errors import InputError
from blockvid.geometry import Geometry
from blockvid.model.text import masked_mean
from blockvid.pipeline import Settings
from blockvid.storyboard import Storyboard
from blockvid.storybook import corpus
from data.made_clips import clip

if TYPE_CHECKING:
    from tiny_models import Tiny

pytest_plugins = ["tiny_models"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    clip(folder, "one", 33, (1.0, 1.0, 1.0, 1.0))
    clip(folder, "second", 25, (1.0, 2.0))
    return folder


@pytest.fixture(scope="module")
def shards(videos: Path, storybook: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    out = tmp_path_factory.mktemp("shards")
    encode(videos, out, storybook.pipeline().models)
    return Shards.open(out)


def equal(a: Batch, b: Batch) -> bool:
    pairs = [(a.latents, b.latents), (a.text.tokens, b.text.tokens), (a.pooled, b.pooled), (a.weight, b.weight)]
    return a.frames == b.frames == a.text.frames and all(torch.equal(x, y) for x, y in pairs)


def test_a_batch_is_a_function_of_the_step_and_every_window_comes(shards: Shards):
    source: Source = ShardSource(shards, 2, 1)
    again = ShardSource(shards, 2, 1)
    steps = range(again.sampler.steps)
    batches = [source.batch(step) for step in steps]
    assert all(equal(again.batch(step), batches[step]) for step in reversed(steps))
    assert sorted(batch.frames for batch in batches) == [(2, 2)] * 3 + [(3, 2)] * 2
    for batch in batches:
        assert batch.latents.shape == (1, 16, sum(batch.frames), 4, 4) and batch.latents.dtype == torch.float32
        assert torch.equal(batch.weight, torch.ones(1, 1, sum(batch.frames), 4, 4))


@pytest.mark.parametrize("world", [1, 2])
def test_ranks_share_the_batch_that_one_alone_would_read(shards: Shards, world: int):
    alone = ShardSource(shards, 2, 2)
    ranks = [ShardSource(shards, 2, 2, rank=Rank(index, world)) for index in range(world)]
    for step in range(alone.sampler.steps):
        parts = [rank.batch(step) for rank in ranks]
        assert torch.equal(torch.cat([part.latents for part in parts]), alone.batch(step).latents)


@pytest.mark.parametrize("kind", ["storybook", "wan"])
def test_prompts_are_what_generation_would_read(
    kind: str, request: pytest.FixtureRequest, videos: Path, tmp_path: Path
):
    tiny: Tiny = request.getfixturevalue(kind)
    pipe = tiny.pipeline()
    encode(videos, tmp_path / "out", pipe.models)
    shards = Shards.open(tmp_path / "out")
    shards.dataset.check(pipe.models)
    assert all(shards.read(row)["tokens"].shape[0] < shards.dataset.text_slots for row in range(len(shards)))
    source = ShardSource(shards, 4, 1)
    batch = source.batch(0)
    take = pipe.take(Storyboard.read(videos / "one.json"), Settings(negative_prompt=""))
    read, empty = [take.row[chunk.prompt] for chunk in take.chunks[:4]], [take.row[""]]
    assert torch.equal(batch.text.tokens[0], take.prompts.tokens[read].float())
    assert torch.equal(batch.pooled[0], take.prompts.pooled[read].float())
    assert torch.equal(source.empty.tokens[0], take.prompts.tokens[empty].float())
    condition = take.condition((0,)).text
    assert (batch.text.mask is None) == (condition.mask is None) == (source.empty.mask is None)
    if batch.text.mask is not None and source.empty.mask is not None:
        assert torch.equal(batch.text.mask[0], take.prompts.mask[read])
        assert torch.equal(source.empty.mask[0], take.prompts.mask[empty])


def test_what_cannot_be_cut_is_refused(shards: Shards):
    with pytest.raises(InputError, match="no video has 9 chunks, the longest has 4"):
        ShardSource(shards, 9, 1)
    with pytest.raises(InputError, match="windows of 0 chunks hold nothing"):
        ShardSource(shards, 0, 1)


GEOMETRY = Geometry(width=16, height=16, fps=8, chunk_frames=8)


@pytest.fixture
def takes() -> corpus.Shards:
    """Twenty seconds of numbers: five chunks of four seconds."""
    chance = torch.Generator().manual_seed(0)
    return corpus.Shards(
        {
            "latents": torch.randn(6, 16, 41, 2, 2, generator=chance).half(),
            "coverage": torch.rand(6, 41, 2, 2, generator=chance).half(),
            "tokens": torch.randn(6, 5, 7, 12, generator=chance).half(),
            "mask": torch.rand(6, 5, 7, generator=chance) < 0.5,
        }
    )


def test_takes_are_windows_of_the_corpus(takes: corpus.Shards):
    source: Source = TakeSource(takes, GEOMETRY, 3, 2, subject=6.0)
    seen = set()
    for step in range(12):
        batch, rows = source.batch(step), takes.rows(step, 2)
        starts = [n for n in range(41) if torch.equal(takes.tensors["latents"][rows[0], :, n], batch.latents[0, :, 0])]
        (start,) = starts
        first = start // 8
        seen.add(first)
        assert batch.frames == batch.text.frames == ((9, 8, 8) if start == 0 else (8, 8, 8))
        assert start == first * 8 + (first > 0)
        span = slice(start, start + sum(batch.frames))
        assert torch.equal(batch.latents, takes.tensors["latents"][rows, :, span].float())
        assert torch.equal(batch.weight[:, 0], 1 + 6 * takes.tensors["coverage"][rows, span].float())
        tokens, mask = (takes.tensors[name][rows, first : first + 3] for name in ("tokens", "mask"))
        assert torch.equal(batch.text.tokens, tokens.float()) and torch.equal(batch.text.mask, mask)
        assert torch.equal(batch.pooled[1], masked_mean(tokens[1].float(), mask[1]))
        assert equal(batch, source.batch(step))
    assert seen == {0, 1, 2}


def test_takes_are_shared_by_ranks(takes: corpus.Shards):
    alone = TakeSource(takes, GEOMETRY, 2, 6)
    ranks = [TakeSource(takes, GEOMETRY, 2, 6, rank=Rank(index, 3)) for index in range(3)]
    for step in range(4):
        dealt = torch.stack([rank.batch(step).latents for rank in ranks], dim=1).flatten(0, 1)
        assert torch.equal(dealt, alone.batch(step).latents)
    with pytest.raises(InputError, match="takes have 5 chunks, not 6; use windows of 1 to 5"):
        TakeSource(takes, GEOMETRY, 6, 2)
    with pytest.raises(InputError, match="a batch of 4 is not dealt from 6 takes to 3 ranks"):
        TakeSource(takes, GEOMETRY, 2, 4, rank=Rank(0, 3))


@pytest.mark.parametrize("stills", [1, 3, 13])
def test_a_still_is_a_moment_of_a_snippet_with_the_prompt_of_its_chunk(stills: int):
    """Snippets whose latents say which snippet and moment they are of, and whose prompts which snippet and chunk."""
    snippet, moment, chunk = torch.arange(6).half(), torch.arange(4).half(), torch.arange(2).half()
    said = (snippet[:, None] * 100 + chunk)[..., None, None]
    of = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]])
    snippets = corpus.Shards(
        {
            "latents": (snippet[:, None] * 100 + moment)[:, None, :, None, None].expand(-1, 16, -1, 2, 2),
            "coverage": (moment / 64)[None, :, None, None].expand(6, -1, 2, 2),
            "tokens": said.expand(-1, -1, 7, 12),
            "mask": (torch.arange(7) < 5).expand(6, 2, -1),
            "chunk": of.byte(),
        }
    )
    source: Source = StillSource(snippets, stills, subject=6.0)
    moments = set()
    for step in range(40):
        batch = source.batch(step)
        assert batch.latents.shape == (stills, 16, 1, 2, 2) and batch.frames == batch.text.frames == (1,)
        which, when = batch.latents[:, 0, 0, 0, 0].long() // 100, batch.latents[:, 0, 0, 0, 0].long() % 100
        wanted = (which * 100 + of[which, when]).float()
        assert torch.equal(batch.text.tokens, wanted[:, None, None, None].expand(-1, 1, 5, 12))
        assert torch.equal(batch.pooled, wanted[:, None, None].expand(-1, 1, 12))
        assert torch.equal(batch.weight[:, 0, 0, 0, 0], 1 + 6 * when / 64)
        assert len(which.unique()) == min(stills, 6)
        assert equal(batch, source.batch(step))
        moments |= set(when.tolist())
    assert moments == {0, 1, 2, 3} or stills == 1
