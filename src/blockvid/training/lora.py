"""Low-rank adapters: a network trains a few numbers beside its frozen weights (arXiv 2106.09685), through peft."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from blockvid.errors import InputError
from blockvid.model.adapters import read_pairs
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


@torch.no_grad()
def go_on_with(model: BlockDiT, rank: int, file: Path) -> None:
    """`add_lora` with the adapters of `file`, in diffusers' form, to begin from.

    They are taken at strength 1, and layers that the file leaves out begin without effect. Raises InputError, too, for
    what is no LoRA for `model`, or of another rank or of other layers than `add_lora` adds.
    """
    pairs = read_pairs(file, model)
    for name, (down, _) in pairs.items():
        if down.shape[0] != rank:
            raise InputError(
                f"{file} has adapters of rank {down.shape[0]}, not {rank}; use --lora {down.shape[0]}, or --lora 0 to "
                "train all weights of the sum"
            )
        if not name.endswith(TARGETS):
            raise InputError(f"{file} adapts {name}, which is not trained by --lora; use --lora 0 to train all weights")
    add_lora(model, rank)
    held = dict(model.named_parameters())
    for name, pair in pairs.items():
        for part, tensor in zip("AB", pair, strict=True):
            held[f"{name}.lora_{part}.default.weight"].copy_(tensor)


def has_lora(model: nn.Module) -> bool:
    """Whether `add_lora` was here."""
    return any("lora_A" in name for name, _ in model.named_parameters())
