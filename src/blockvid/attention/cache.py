"""The KV cache across chunks: what each finished chunk leaves behind, and what the next one is given of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from blockvid.attention.policies import Recall, needed
from blockvid.attention.rope import Rope
from blockvid.attention.salience import Salience
from blockvid.attention.storage import Packed, Storage

Placement = Literal["compact", "absolute", "zero"]
"""Where recalled chunks stand in time. compact: one after the other from 0, then the current chunk, so a minute never
leaves the positions that a few chunks were trained on; absolute: where they were in the video (Algorithm 2 to the
letter); zero: recalled-but-not-recent chunks all begin at 0, the recent ones follow compactly."""


@dataclass(frozen=True)
class LayerMemory:
    """Un-rotated keys and values of one layer, and which of the chunk's tokens they are (None: all of them)."""

    keys: Packed
    values: Packed
    kept: Int[Tensor, " m"] | None = None

    def to(self, device: torch.device | str) -> LayerMemory:
        """On another device."""
        kept = None if self.kept is None else self.kept.to(device)
        return LayerMemory(self.keys.to(device), self.values.to(device), kept)


@dataclass(frozen=True)
class ChunkMemory:
    """What is remembered of one finished chunk. `grid` is its tokens' (t, h, w), t counting from the chunk's start."""

    index: int
    start: int
    """Its first latent frame in the video."""
    frames: int
    grid: Int[Tensor, "s 3"]
    layers: tuple[LayerMemory, ...]

    @property
    def kept(self) -> tuple[float, ...]:
        """Share of the chunk's tokens that each layer remembers."""
        return tuple(layer.keys.data.shape[1] / len(self.grid) for layer in self.layers)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers)

    def to(self, device: torch.device | str) -> ChunkMemory:
        """On another device."""
        return replace(self, grid=self.grid.to(device), layers=tuple(layer.to(device) for layer in self.layers))

    def tensors(self) -> dict[str, Tensor]:
        """A flat form for a journal; `from_tensors` is its inverse."""
        named = {"chunk": torch.tensor([self.index, self.start, self.frames]), "grid": self.grid}
        for i, layer in enumerate(self.layers):
            every = {
                "k": layer.keys.data,
                "v": layer.values.data,
                "k_scale": layer.keys.scale,
                "v_scale": layer.values.scale,
                "kept": layer.kept,
            }
            named |= {f"{i}.{name}": tensor for name, tensor in every.items() if tensor is not None}
        return named

    @classmethod
    def from_tensors(cls, named: Mapping[str, Tensor]) -> ChunkMemory:
        """The memory that `tensors` described."""
        index, start, frames = named["chunk"].tolist()
        count = sum(name.endswith(".k") for name in named)
        layers = tuple(
            LayerMemory(
                Packed(named[f"{i}.k"], named.get(f"{i}.k_scale")),
                Packed(named[f"{i}.v"], named.get(f"{i}.v_scale")),
                named.get(f"{i}.kept"),
            )
            for i in range(count)
        )
        return cls(index, start, frames, named["grid"], layers)


class MemoryWriter:
    """Turns a clean pass into a chunk's memory, layer by layer, so that no more than is kept stays alive.

    q and k are un-rotated; row 0 (the conditional branch) decides which tokens are kept, for all rows. Salience is
    computed at the chunk's own positions: scores depend on differences only, so the choice is the same anywhere.
    Tokens in front of the chunk's own, those of an overlap, are left out: they are remembered with their own chunk.
    """

    def __init__(
        self,
        empty: ChunkMemory,
        rope: Rope,
        generator: torch.Generator,
        salience: Salience | None = None,
        storage: Storage | None = None,
    ) -> None:
        self.empty, self.rope, self.generator = empty, rope, generator
        self.salience, self.storage = salience, storage or Storage()
        self.layers: list[LayerMemory] = []
        self._waiting: list[tuple[Tensor, Tensor]] = []  # layers before the one that chooses for all
        self._phases = rope.phases(empty.grid) if salience is not None else None
        self._shared: Tensor | None = None

    def write(
        self,
        layer: int,
        q: Float[Tensor, "b s heads d"],
        k: Float[Tensor, "b s heads d"],
        v: Float[Tensor, "b s heads d"],
    ) -> None:
        """The next layer of the pass."""
        q, k, v = (x[:, x.shape[1] - len(self.empty.grid) :] for x in (q, k, v))
        due = len(self.layers) + len(self._waiting)
        if layer != due:
            raise ValueError(f"layer {layer} came where layer {due} was due: one writer serves one forward")
        if self.salience is None:
            self._remember(k, v, None)
        elif self.salience.layer is None:
            self._remember(k, v, self._choose(self.salience, q, k))
        elif layer < self.salience.layer:
            self._waiting.append((k, v))
        else:
            if layer == self.salience.layer:
                self._shared = self._choose(self.salience, q, k)
                for earlier_k, earlier_v in self._waiting:
                    self._remember(earlier_k, earlier_v, self._shared)
                self._waiting = []
            self._remember(k, v, self._shared)

    def memory(self) -> ChunkMemory:
        """The finished memory."""
        assert not self._waiting, "the pass ended before the layer that chooses"
        return replace(self.empty, layers=tuple(self.layers))

    def _choose(self, salience: Salience, q: Tensor, k: Tensor) -> Tensor:
        assert self._phases is not None
        q, k = (self.rope.rotate(x[:1].float(), self._phases)[0] for x in (q, k))
        return salience.select(salience.importance(q, k, self.generator))

    def _remember(self, k: Tensor, v: Tensor, kept: Tensor | None) -> None:
        if kept is not None:
            k, v = k[:, kept], v[:, kept]
        # A view would keep the whole fused projection of the pass alive.
        k, v = (x.contiguous() if x.untyped_storage().nbytes() == x.nbytes else x.clone() for x in (k, v))
        self.layers.append(LayerMemory(self.storage.keys(k), self.storage.values(v), kept))


@dataclass(frozen=True)
class Context:
    """What one chunk attends to besides itself: rotated keys and values, layer by layer.

    Native memories are rotated once, here; int8 ones each time a layer asks, or there would be nothing saved.
    """

    start: int
    """Time position of the current chunk's first latent frame."""
    rope: Rope
    memories: tuple[ChunkMemory, ...]
    phases: tuple[tuple[Tensor, Tensor], ...]
    """Of every token of each memory's grid."""
    dtype: torch.dtype
    ready: tuple[tuple[Tensor, Tensor], ...] = ()

    def layer(self, index: int) -> tuple[Float[Tensor, "b z heads d"], Float[Tensor, "b z heads d"]] | None:
        """Keys and values of one layer; None if nothing is recalled."""
        if not self.phases:
            return None
        return self.ready[index] if self.ready else self._rotated(index)

    def prepared(self) -> Context:
        """With every layer's keys rotated in advance; the memories themselves are let go."""
        if not self.memories:
            return self
        ready = tuple(self._rotated(i) for i in range(len(self.memories[0].layers)))
        return replace(self, memories=(), ready=ready)

    def _rotated(self, index: int) -> tuple[Tensor, Tensor]:
        keys, values = [], []
        for memory, (cos, sin) in zip(self.memories, self.phases, strict=True):
            layer = memory.layers[index]
            phases = (cos, sin) if layer.kept is None else (cos[layer.kept], sin[layer.kept])
            keys.append(self.rope.rotate(layer.keys.unpack(self.dtype), phases))
            values.append(layer.values.unpack(self.dtype))
        return torch.cat(keys, dim=1), torch.cat(values, dim=1)


class KVCache:
    """Chunk memories, and what the chunks of one storyboard recall of them.

    `plan` says what every chunk recalls, so a memory is dropped as soon as no later chunk asks for it, and those in
    host memory are fetched for the next chunk while the current one is made (`ahead` 0: only when it begins).
    """

    def __init__(
        self,
        plan: Sequence[Recall],
        rope: Rope,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        placement: Placement = "compact",
        ahead: int = 1,
    ) -> None:
        self.plan, self.rope = tuple(plan), rope
        self.placement: Placement = placement
        self.device, self.dtype, self.ahead = torch.device(device), dtype, ahead
        self.memories: dict[int, ChunkMemory] = {}
        self._fetched: dict[int, ChunkMemory] = {}  # copies on a GPU of memories that wait in host memory
        self._side = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def append(self, memory: ChunkMemory) -> None:
        """Remember a finished chunk and drop those that no later chunk recalls."""
        self.memories[memory.index] = memory
        wanted = needed(self.plan, memory.index + 1)
        self.memories = {index: kept for index, kept in self.memories.items() if index in wanted}

    def recall(self, chunk: int, start: int) -> Context:
        """The context of chunk `chunk`, whose first latent frame in the video is `start`."""
        recall = self.plan[chunk]
        memories = tuple(self._here(index) for index, _ in recall)
        spans = [(memory.start, memory.frames) for memory in memories]
        offsets, position = place(recall, spans, start, self.placement)
        phases = []
        for memory, offset in zip(memories, offsets, strict=True):
            moved = memory.grid + torch.tensor([offset, 0, 0], device=memory.grid.device)
            phases.append(self.rope.phases(moved))
        context = Context(position, self.rope, memories, tuple(phases), self.dtype)
        packed = any(layer.keys.scale is not None for memory in memories for layer in memory.layers)
        self._fetch_ahead(chunk + 1)
        return context if packed else context.prepared()

    @property
    def nbytes(self) -> int:
        """Bytes of all remembered keys and values."""
        return sum(memory.nbytes for memory in self.memories.values())

    def _here(self, index: int) -> ChunkMemory:
        """A memory on the computing device."""
        if self._side is None:
            return self.memories[index].to(self.device)
        stream = torch.cuda.current_stream(self.device)
        stream.wait_stream(self._side)
        if index not in self._fetched:
            self._fetched[index] = self.memories[index].to(self.device)
        for tensor in self._fetched[index].tensors().values():
            if tensor.is_cuda:
                tensor.record_stream(stream)  # or the side stream may reuse its memory while this one reads it
        return self._fetched[index]

    def _fetch_ahead(self, chunk: int) -> None:
        """Keep what `chunk` will recall too, and start copying the rest of it, as far as it exists."""
        wanted = {index for index, _ in self.plan[chunk]} if chunk < len(self.plan) and self.ahead else set()
        self._fetched = {index: memory for index, memory in self._fetched.items() if index in wanted}
        if self._side is None:
            return
        with torch.cuda.stream(self._side):
            for index in (wanted & self.memories.keys()) - self._fetched.keys():
                self._fetched[index] = self.memories[index].to(self.device)


def place(recall: Recall, spans: Sequence[tuple[int, int]], start: int, placement: Placement) -> tuple[list[int], int]:
    """Time position at which each recalled chunk begins, and at which the current one does.

    `spans` are (start, frames) in the video of the recalled chunks, and `start` that of the current one.
    """
    if placement == "absolute":
        return [first for first, _ in spans], start
    offsets, after = [], 0
    for (_, why), (_, frames) in zip(recall, spans, strict=True):
        if placement == "zero" and why in ("similar", "sink"):
            offsets.append(0)
            after = max(after, frames)
        else:
            offsets.append(after)
            after += frames
    return offsets, after
