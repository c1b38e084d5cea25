"""The cache keeps what later chunks recall, in the form asked for, and places it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from blockvid.attention.attend import Cached
from blockvid.attention.cache import ChunkMemory, KVCache, MemoryWriter, place
from blockvid.attention.policies import Full, Policy, Semantic, SinkWindow, Window, recalls
from blockvid.attention.rope import Rope, grid_positions
from blockvid.attention.salience import Salience
from blockvid.attention.storage import Storage

ROPE = Rope(16)
LAYERS = 3
THIN = Salience(tau=0.7, recent=4, random=4, multiple=1)


def projections(index: int, tokens: int, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(index)
    draw = lambda: torch.randn(2, tokens, 2, 16, generator=generator).to(dtype)  # noqa: E731
    return [(draw(), draw(), draw()) for _ in range(LAYERS)]


def memory(
    index: int,
    frames: int = 2,
    dtype: torch.dtype = torch.float32,
    salience: Salience | None = None,
    storage: Storage | None = None,
) -> ChunkMemory:
    grid = grid_positions(frames, 2, 3)
    empty = ChunkMemory(index, 2 * index, frames, grid, ())
    writer = MemoryWriter(empty, ROPE, torch.Generator().manual_seed(index), salience, storage)
    for layer, (q, k, v) in enumerate(projections(index, len(grid), dtype)):
        writer.write(layer, q, k, v)
    return writer.memory()


def cache(policy: Policy, chunks: int = 8) -> KVCache:
    return KVCache(recalls(policy, torch.eye(chunks)), ROPE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("salience", [None, THIN], ids=["dense", "thinned"])
@pytest.mark.parametrize("storage", [Storage(), Storage(precision="int8")], ids=["native", "int8"])
def test_a_memory_survives_a_file(
    tmp_path: Path, dtype: torch.dtype, salience: Salience | None, storage: Storage
) -> None:
    kept = memory(7, dtype=dtype, salience=salience, storage=storage)
    save_file(kept.tensors(), tmp_path / "memory.safetensors")
    read = ChunkMemory.from_tensors(load_file(tmp_path / "memory.safetensors"))
    assert (read.index, read.start, read.frames, read.nbytes, read.kept) == (7, 14, 2, kept.nbytes, kept.kept)
    again, named = read.tensors(), kept.tensors()
    assert again.keys() == named.keys()
    assert all(again[name].dtype == x.dtype and torch.equal(again[name], x) for name, x in named.items())


def test_a_memory_of_many_layers_keeps_their_order(tmp_path: Path) -> None:
    writer = MemoryWriter(ChunkMemory(0, 0, 1, grid_positions(1, 2, 3), ()), ROPE, torch.Generator())
    for layer in range(12):
        x = torch.full((1, 6, 1, 16), float(layer))
        writer.write(layer, x, x, x)
    named = {name: x.clone() for name, x in writer.memory().tensors().items()}
    save_file(named, tmp_path / "memory.safetensors")
    read = ChunkMemory.from_tensors(load_file(tmp_path / "memory.safetensors"))
    assert [int(layer.keys.data.max()) for layer in read.layers] == list(range(12))


@pytest.mark.parametrize("window", [0, 1, 3])
def test_what_no_later_chunk_recalls_is_dropped(window: int) -> None:
    held = cache(Window(window))
    for index in range(6):
        held.append(memory(index))
        assert sorted(held.memories) == list(range(max(0, index + 1 - window), index + 1))
    assert held.nbytes == window * memory(0).nbytes
    held.append(memory(6))
    held.append(memory(7))
    assert not held.memories, "no chunk follows the last"


def test_a_retrieved_chunk_lives_until_its_last_use() -> None:
    similar = torch.eye(6)
    similar[4, 0] = similar[5, 1] = 0.9
    held = KVCache(recalls(Semantic(similar=1, recent=1), similar), ROPE)
    alive = []
    for index in range(6):
        held.append(memory(index))
        alive.append(sorted(held.memories))
    # 2 and 3 find nothing alike and take the earliest; 4 wants 0, 5 wants 1.
    assert alive == [[0], [0, 1], [0, 1, 2], [0, 1, 3], [1, 4], []]


def test_everything_is_kept_where_everything_is_recalled() -> None:
    held = cache(Full())
    for index in range(5):
        held.append(memory(index))
    assert sorted(held.memories) == list(range(5))


@pytest.mark.parametrize("salience", [None, THIN], ids=["dense", "thinned"])
def test_recalled_chunks_are_placed_one_after_the_other(salience: Salience | None) -> None:
    """Rotated at use, at compact positions: chunks 3 and 4 of a long video start at 0 and at the frames of chunk 3."""
    held, memories = cache(Window(2)), [memory(i, f, salience=salience) for i, f in enumerate((4, 2, 2, 3, 1))]
    for one in memories:
        held.append(one)
    context = held.recall(5, 12)
    assert context.start == 4
    phases = ROPE.phases(grid_positions(4, 2, 3))
    for layer in range(LAYERS):
        three, four = memories[3].layers[layer], memories[4].layers[layer]
        every = torch.arange(24)
        kept = every if salience is None else torch.cat((three.kept, 18 + four.kept))
        rotated = ROPE.rotate(torch.cat((three.keys.data, four.keys.data), 1), (phases[0][kept], phases[1][kept]))
        keys, values = context.layer(layer)
        assert torch.equal(keys, rotated)
        assert torch.equal(values, torch.cat((three.values.data, four.values.data), dim=1))


def test_placements() -> None:
    recall = ((0, "similar"), (3, "similar"), (6, "recent"), (7, "recent"))
    spans = [(0, 3), (9, 2), (15, 2), (17, 2)]
    assert place(recall, spans, 19, "compact") == ([0, 3, 5, 7], 9)
    assert place(recall, spans, 19, "absolute") == ([0, 9, 15, 17], 19)
    assert place(recall, spans, 19, "zero") == ([0, 0, 3, 5], 7)
    assert place((), [], 19, "compact") == ([], 0)


def test_a_minute_stays_within_the_positions_of_a_window() -> None:
    """The rotary table has 1024 positions; a windowed video may be longer."""
    held = cache(Window(1), 1002)
    for index in (0, 999, 1000):
        held.append(memory(index, 2))
    assert held.recall(1001, 2002).start == 2


def test_the_first_chunk_recalls_nothing() -> None:
    context = cache(Full()).recall(0, 0)
    assert context.start == 0 and context.layer(0) is None


def test_recall_does_not_change_the_memory() -> None:
    held = cache(Full())
    held.append(memory(0))
    first, second = held.recall(1, 2), held.recall(1, 2)
    assert torch.equal(first.layer(0)[0], second.layer(0)[0])
    assert torch.equal(held.memories[0].layers[0].keys.data, memory(0).layers[0].keys.data)


def test_permuting_kept_tokens_with_their_positions_changes_nothing() -> None:
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    (q, k, v), *_ = projections(9, 6)
    seen = []
    for permuted in (torch.arange(12), order):
        writer = MemoryWriter(ChunkMemory(0, 0, 2, grid_positions(2, 2, 3)[permuted], ()), ROPE, torch.Generator())
        for layer, triple in enumerate(projections(0, 12)):
            writer.write(layer, *(x[:, permuted] for x in triple))
        held = cache(Window(1))
        held.append(writer.memory())
        seen.append(Cached(ROPE, held.recall(1, 2), grid_positions(1, 2, 3))(0, q, k, v))
    torch.testing.assert_close(*seen)


@pytest.mark.parametrize("policy", [Window(2), SinkWindow(1, 1), Semantic(1, 1, THIN)], ids=repr)
@pytest.mark.parametrize("precision", ["native", "int8"])
def test_offloaded_is_resident(policy: Policy, precision: str) -> None:
    """Bit for bit, through attention, whichever device holds the memories."""
    (q, k, v), *_ = projections(9, 6)
    seen = []
    for place_ in ("device", "host"):
        storage = Storage(place_, precision)
        held = cache(policy)
        for index in range(4):
            held.append(memory(index, salience=policy.salience, storage=storage))
        assert all(layer.keys.data.device.type == "cpu" for m in held.memories.values() for layer in m.layers)
        attend = Cached(ROPE, held.recall(4, 8), grid_positions(1, 2, 3))
        seen.append(torch.stack([attend(layer, q, k, v) for layer in range(LAYERS)]))
    assert torch.equal(*seen)


def test_int8_is_half_of_bfloat16_and_close() -> None:
    """Attention through 8-bit memories is within 1% of its own size; the bytes are half, and a scale for each row."""
    (q, k, v), *_ = projections(9, 6)
    made = {}
    for precision in ("native", "int8"):
        held = cache(Window(2))
        for index in range(2):
            held.append(memory(index, 4, storage=Storage(precision=precision)))
        made[precision] = Cached(ROPE, held.recall(2, 4), grid_positions(1, 2, 3))(0, q, k, v)
    error = (made["int8"] - made["native"]).norm() / made["native"].norm()
    assert 0 < error < 0.01
    small = memory(0, 40, torch.bfloat16, storage=Storage(precision="int8"))
    assert 0.5 < small.nbytes / memory(0, 40, torch.bfloat16).nbytes < 0.65
    x = torch.randn(2, 50, 3, 16, generator=torch.Generator().manual_seed(3))
    for packed in (Storage(precision="int8").keys(x), Storage(precision="int8").values(x)):
        assert packed.scale is not None
        assert ((packed.unpack(torch.float32) - x).abs() <= packed.scale / 2 * 1.001).all()


def test_one_layer_may_choose_for_all() -> None:
    shared = memory(0, 4, salience=Salience(tau=0.7, recent=4, random=4, layer=1, multiple=1))
    own = memory(0, 4, salience=Salience(tau=0.7, recent=24, random=0, multiple=1))
    assert all(torch.equal(layer.kept, shared.layers[0].kept) for layer in shared.layers)
    every = Salience(tau=0.7, probes="all", multiple=1)
    chosen = memory(0, 4, salience=every).layers
    by_one = memory(0, 4, salience=Salience(tau=0.7, probes="all", layer=1, multiple=1)).layers
    assert all(torch.equal(layer.kept, chosen[1].kept) for layer in by_one)
    assert any(not torch.equal(layer.kept, chosen[1].kept) for layer in chosen)
    for layer, (_, k, v) in zip(by_one, projections(0, 24), strict=True):
        assert torch.equal(layer.keys.data, k[:, layer.kept]) and torch.equal(layer.values.data, v[:, layer.kept])
    assert own.kept != (1.0, 1.0, 1.0)


def test_the_conditional_row_chooses_for_both() -> None:
    grid = grid_positions(4, 2, 3)
    kept = []
    for other in (0.0, 5.0):
        writer = MemoryWriter(ChunkMemory(0, 0, 4, grid, ()), ROPE, torch.Generator().manual_seed(0), THIN)
        (q, k, v), *_ = projections(0, 24)
        row = torch.tensor([1.0, other])[:, None, None, None]
        writer.write(0, q * row, k * row, v)
        (layer,) = writer.memory().layers
        assert len(layer.values.data) == 2
        kept.append(layer.kept)
    assert torch.equal(*kept)
