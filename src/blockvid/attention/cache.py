"""The KV cache across chunks: what each finished chunk leaves behind, and what the next one is given of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from blockvid.attention.policies import Policy
from blockvid.attention.rope import Rope


@dataclass(frozen=True)
class ChunkMemory:
    """Un-rotated keys and values of one finished chunk, per layer, with each token's place inside the chunk."""

    index: int
    frames: int
    keys: tuple[Float[Tensor, "b s heads d"], ...]
    values: tuple[Float[Tensor, "b s heads d"], ...]
    positions: Int[Tensor, "s 3"]

    def tensors(self) -> dict[str, Tensor]:
        """A flat form for a journal; `from_tensors` is its inverse."""
        named = {"positions": self.positions, "chunk": torch.tensor([self.index, self.frames])}
        for layer, (key, value) in enumerate(zip(self.keys, self.values, strict=True)):
            named[f"k{layer}"], named[f"v{layer}"] = key, value
        return named

    @classmethod
    def from_tensors(cls, named: Mapping[str, Tensor]) -> ChunkMemory:
        """The memory that `tensors` described."""
        layers = range(sum(name.startswith("k") for name in named))
        index, frames = named["chunk"].tolist()
        keys, values = tuple(named[f"k{i}"] for i in layers), tuple(named[f"v{i}"] for i in layers)
        return cls(index, frames, keys, values, named["positions"])

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return sum(x.nbytes for x in (*self.keys, *self.values))


@dataclass(frozen=True)
class Context:
    """What one chunk attends to besides itself: rotated keys and values per layer, and the latent frames they span."""

    frames: int
    keys: tuple[Float[Tensor, "b z heads d"], ...]
    values: tuple[Float[Tensor, "b z heads d"], ...]


class KVCache:
    """Chunk memories under a policy.

    Positions are re-indexed compactly on recall: the recalled chunks follow each other in time order from t = 0 and the
    current chunk starts at `Context.frames`, so a minute never leaves the positions that a few chunks were trained on.
    """

    def __init__(self, policy: Policy, rope: Rope) -> None:
        self.policy, self.rope = policy, rope
        self.memories: dict[int, ChunkMemory] = {}

    def append(self, memory: ChunkMemory) -> None:
        """Remember a finished chunk and drop the ones that no later chunk can recall."""
        self.memories[memory.index] = memory
        horizon = self.policy.horizon
        if horizon is not None:
            oldest = memory.index + 1 - horizon
            self.memories = {index: kept for index, kept in self.memories.items() if index >= oldest}

    def recall(self, chunk: int) -> Context:
        """The context of chunk `chunk`: keys rotated once here, not once per layer and step."""
        recalled = [self.memories[index] for index in self.policy.recall(chunk)]
        if not recalled:
            return Context(0, (), ())
        placed, start = [], 0
        for memory in recalled:
            offset = torch.tensor([start, 0, 0], device=memory.positions.device)
            placed.append(self.rope.phases(memory.positions + offset))
            start += memory.frames
        keys = tuple(
            torch.cat(
                [self.rope.rotate(m.keys[layer], phase) for m, phase in zip(recalled, placed, strict=True)], dim=1
            )
            for layer in range(len(recalled[0].keys))
        )
        values = tuple(torch.cat([m.values[layer] for m in recalled], dim=1) for layer in range(len(recalled[0].keys)))
        return Context(start, keys, values)

    @property
    def nbytes(self) -> int:
        """Bytes of all remembered keys and values."""
        return sum(memory.nbytes for memory in self.memories.values())
