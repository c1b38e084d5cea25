"""What a training run takes, before it begins: parameters, memory per rank, tokens and operations per step.

Counts are exact. Bytes are right within a factor of two, most of them known exactly (weights and optimisers).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from blockvid.model.dit import BlockDiT
from blockvid.training.sharding import Mesh, Precision

# Dense bfloat16 operations a second, by a part of the name CUDA gives the device (makers' data sheets).
PEAKS = {"H20": 148e12, "H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}
# Bytes that a block keeps for its backward pass, per token and channel; measured, with an ffn of 5.8 widths.
SAVED: dict[Precision, float] = {"float32": 143, "bfloat16": 109}


@dataclass(frozen=True)
class Cost:
    """Of one microbatch: tokens, and operations of the forward and backward passes, recomputation not counted."""

    tokens: int
    operations: float

    def rates(self, microbatches: int, seconds: float, ranks: int, device: torch.device) -> dict[str, float]:
        """Tokens a second of all ranks, and the share of their peak that is used (MFU) where that is known."""
        made = {"tokens_per_second": self.tokens * microbatches / seconds}
        most = peak(device)
        if most is not None:
            made["mfu"] = self.operations * microbatches / seconds / (ranks * most)
        return made


def peak(device: torch.device) -> float | None:
    """Dense bfloat16 operations a second of a GPU, by its name."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((rate for part, rate in sorted(PEAKS.items(), key=lambda one: -len(one[0])) if part in name), None)


def cost(
    dit: BlockDiT, chunks: Sequence[int], tokens_per_frame: int, batch: int, seen: Sequence[int], words: int = 512
) -> Cost:
    """Of flow matching on `batch` videos of `chunks` latent frames each, chunk c attending to `seen[c]` frames.

    `words` is the length of a chunk's text.
    """
    c = dit.config
    dim, layers = dit.width, c["num_layers"]
    tokens = batch * sum(chunks) * tokens_per_frame
    weights = 6 * dim**2 + 2 * dim * c["ffn_dim"]  # per token; the text's keys and values are beside it
    pairs = batch * tokens_per_frame**2 * sum(own * visible for own, visible in zip(chunks, seen, strict=True))
    read = tokens * words
    forward = layers * (2 * weights * tokens + 4 * dim * (pairs + read) + 2 * 2 * dim**2 * batch * len(chunks) * words)
    return Cost(tokens, 3.0 * forward)


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank."""

    weights: float
    gradients: float
    optimisers: float
    average: float
    gathered: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimisers + self.average + self.gathered + self.activations

    def __str__(self) -> str:
        parts = (
            ("weights", self.weights), ("gradients", self.gradients), ("optimisers", self.optimisers),
            ("average", self.average), ("gathered", self.gathered), ("activations", self.activations),
        )  # fmt: skip
        return ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts)


def memory(
    networks: Mapping[str, nn.Module], tokens: int, mesh: Mesh, precision: Precision, recompute: Sequence[str] = ()
) -> Memory:
    """Of plain training with AdamW on microbatches of `tokens`; shapes suffice (networks on the meta device).

    Activations are those of "model" alone.
    """
    shards = (mesh.dp_shard or 1) * mesh.sp
    every = sum(p.numel() for network in networks.values() for p in network.parameters())
    trained = sum(p.numel() for network in networks.values() for p in network.parameters() if p.requires_grad)
    averaged = sum(p.numel() for p in networks["model"].parameters() if p.requires_grad)
    element = 2 if precision == "bfloat16" else 4
    model = networks["model"]
    assert isinstance(model, BlockDiT)
    blocks = [sum(p.numel() for p in block.parameters()) for block in model.blocks]
    kept = element * len(blocks) + SAVED[precision] if "model" in recompute else len(blocks) * SAVED[precision]
    return Memory(
        weights=4 * every / shards,
        gradients=4 * trained / shards,
        optimisers=8 * trained / shards,
        average=4 * averaged / shards,
        gathered=2 * max(blocks) * element if shards > 1 else 0.0,
        activations=kept * model.width * tokens / mesh.sp,
    )
