"""The cache keeps what a policy may recall, and places it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from blockvid.attention.cache import ChunkMemory, KVCache
from blockvid.attention.policies import Full, Policy, Window
from blockvid.attention.rope import Rope, grid_positions
from blockvid.errors import InputError

ROPE = Rope(16)
LAYERS = 3


def memory(index: int, frames: int = 2, dtype: torch.dtype = torch.float32) -> ChunkMemory:
    generator = torch.Generator().manual_seed(index)
    positions = grid_positions(frames, 2, 3)
    keys, values = (
        tuple(torch.randn(2, len(positions), 2, 16, generator=generator).to(dtype) for _ in range(LAYERS))
        for _ in range(2)
    )
    return ChunkMemory(index, frames, keys, values, positions)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_memory_survives_a_file(tmp_path: Path, dtype: torch.dtype) -> None:
    kept = memory(7, dtype=dtype)
    save_file(kept.tensors(), tmp_path / "memory.safetensors")
    read = ChunkMemory.from_tensors(load_file(tmp_path / "memory.safetensors"))
    assert (read.index, read.frames, read.nbytes) == (7, 2, kept.nbytes)
    assert torch.equal(read.positions, kept.positions)
    for one, other in zip((*read.keys, *read.values), (*kept.keys, *kept.values), strict=True):
        assert one.dtype == dtype and torch.equal(one, other)


def test_a_memory_of_many_layers_keeps_their_order(tmp_path: Path) -> None:
    keys = tuple(torch.full((1, 6, 1, 16), float(layer)) for layer in range(12))
    kept = ChunkMemory(0, 1, keys, keys, grid_positions(1, 2, 3))
    save_file({name: x.clone() for name, x in kept.tensors().items()}, tmp_path / "memory.safetensors")
    read = ChunkMemory.from_tensors(load_file(tmp_path / "memory.safetensors"))
    assert [int(key.max()) for key in read.keys] == list(range(12))


@pytest.mark.parametrize("window", [0, 1, 3])
def test_eviction_keeps_exactly_the_horizon(window: int) -> None:
    cache = KVCache(Window(window), ROPE)
    for index in range(6):
        cache.append(memory(index))
        assert sorted(cache.memories) == list(range(max(0, index + 1 - window), index + 1))
        assert set(Window(window).recall(index + 1)) == set(cache.memories), "and all of it is recalled next"
    assert cache.nbytes == window * memory(0).nbytes


def test_everything_is_kept_without_a_horizon() -> None:
    cache = KVCache(Full(), ROPE)
    for index in range(5):
        cache.append(memory(index))
    assert sorted(cache.memories) == list(range(5)) and Full().recall(5) == tuple(range(5))


def test_recalled_chunks_are_placed_one_after_the_other() -> None:
    """Rotated at use, at compact positions: chunks 3 and 4 of a long video start at 0 and at the frames of chunk 3."""
    cache = KVCache(Window(2), ROPE)
    for index, frames in enumerate((4, 2, 2, 3, 1)):
        cache.append(memory(index, frames))
    context = cache.recall(5)
    assert context.frames == 4
    three, four = memory(3, 3), memory(4, 1)
    phases = ROPE.phases(grid_positions(4, 2, 3))
    for layer in range(LAYERS):
        rotated = ROPE.rotate(torch.cat((three.keys[layer], four.keys[layer]), dim=1), phases)
        assert torch.equal(context.keys[layer], rotated)
        assert torch.equal(context.values[layer], torch.cat((three.values[layer], four.values[layer]), dim=1))


def test_a_minute_stays_within_the_positions_of_a_window() -> None:
    """The rotary table has 1024 positions; a windowed video may be longer."""
    cache = KVCache(Window(1), ROPE)
    for index in (0, 999, 1000):
        cache.append(memory(index, 2))
    assert cache.recall(1001).frames == 2


def test_the_first_chunk_recalls_nothing() -> None:
    assert KVCache(Full(), ROPE).recall(0).frames == 0
    assert Window(2).recall(0) == () and Window(2).recall(1) == (0,) and Window(2).recall(5) == (3, 4)


def test_recall_does_not_change_the_memory() -> None:
    cache = KVCache(Full(), ROPE)
    cache.append(memory(0))
    first, second = cache.recall(1), cache.recall(1)
    assert torch.equal(first.keys[0], second.keys[0])
    assert torch.equal(cache.memories[0].keys[0], memory(0).keys[0])


def test_policies_are_policies_and_refuse_nonsense() -> None:
    assert isinstance(Full(), Policy) and isinstance(Window(), Policy)
    with pytest.raises(InputError, match="a window of -1 chunks is negative; use 0"):
        Window(-1)
