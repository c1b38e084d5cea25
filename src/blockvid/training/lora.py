"""Low-rank adapters: a network trains a few numbers beside its frozen weights (arXiv 2106.09685), through peft."""

from __future__ import annotations

from importlib.util import find_spec

from torch import nn

from blockvid.errors import InputError
from blockvid.model.dit import BlockDiT

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")


def add_lora(model: BlockDiT, rank: int, targets: tuple[str, ...] = TARGETS, alpha: float | None = None) -> None:
    """Freezes `model` and adds adapters to every linear layer whose name ends in one of `targets`.

    `alpha` / `rank` scales what they add, `rank` by default. Raises InputError for a rank below 1 or without peft.
    """
    if rank < 1:
        raise InputError(f"a LoRA of rank {rank} learns nothing; use 1 or more")
    if find_spec("peft") is None:
        raise InputError("peft is not installed; run pip install 'blockvid[lora]', or train all weights")
    from peft import LoraConfig

    model.requires_grad_(False)
    scale = rank if alpha is None else alpha
    model.add_adapter(LoraConfig(r=rank, lora_alpha=scale, target_modules=list(targets)))  # pyright: ignore[reportArgumentType]


def has_lora(model: nn.Module) -> bool:
    """Whether `add_lora` was here."""
    return any("lora_A" in name for name, _ in model.named_parameters())
