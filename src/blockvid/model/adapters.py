"""Low-rank adapters (LoRA, arXiv 2106.09685) in diffusers' file form, added to the weights that they are for."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from blockvid.errors import InputError
from blockvid.files import replacing
from blockvid.model.weights import read_tensors

ADAPTER = "pytorch_lora_weights.safetensors"
"""diffusers' name of the file; its keys are transformer.MODULE.lora_A.weight (r n) and transformer.MODULE.lora_B.weight
(m r), with transformer.MODULE.alpha where B A is scaled by alpha / r."""
PREFIX = "transformer."


Pairs = dict[str, tuple[Tensor, Tensor]]
"""A (r n) and B (m r) in float32, by the name of the linear layer to whose weight (m n) B A is added."""


def read_pairs(file: Path, network: nn.Module) -> Pairs:
    """What `file` adds to the linear layers of `network`.

    Raises InputError for anything in it that is no such pair, or fits no layer.
    """
    tensors, layers = read_tensors(file), dict(network.named_modules())
    names = sorted({name.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for name in tensors if ".lora_" in name})
    known = {f"{PREFIX}{name}{end}" for name in names for end in (".lora_A.weight", ".lora_B.weight", ".alpha")}
    if unknown := sorted(tensors.keys() - known):
        raise InputError(f"{file} holds {unknown[0]}, no part of a LoRA in diffusers' form; convert it by diffusers")
    if not names:
        raise InputError(f"{file} holds no adapters; use a LoRA in diffusers' form, or drop base from blockvid.json")
    pairs: Pairs = {}
    for name in names:
        down, up = (tensors.get(f"{PREFIX}{name}.lora_{part}.weight") for part in "AB")
        layer = layers.get(name)
        if down is None or up is None or not isinstance(layer, nn.Linear):
            raise InputError(f"{file} adapts {name}, no linear layer of its base, or by half; use its own base")
        if (up.shape[0], down.shape[1]) != layer.weight.shape or up.shape[1] != down.shape[0]:
            raise InputError(
                f"{file} adapts {name} by {tuple(up.shape)} times {tuple(down.shape)}, and its base has "
                f"{tuple(layer.weight.shape)} there; use its own base"
            )
        alpha = tensors.get(f"{PREFIX}{name}.alpha")
        scale = 1.0 if alpha is None else float(alpha) / down.shape[0]
        pairs[name] = down.float(), scale * up.float()
    return pairs


@torch.no_grad()
def fuse(network: nn.Module, file: Path, strength: float = 1.0) -> None:
    """Adds to the weights of `network` `strength` times what `file` has for them, summed in float32.

    Raises what `read_pairs` does.
    """
    for name, (down, up) in read_pairs(file, network).items():
        layer = network.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        layer.weight.copy_(layer.weight.float() + strength * (up @ down).to(layer.weight.device))


def save_adapter(tensors: dict[str, Tensor], scale: float, folder: Path) -> None:
    """Writes `ADAPTER` from pairs MODULE.lora_A.weight and MODULE.lora_B.weight, of which `scale` B A is added."""
    scaled = {PREFIX + name: scale * tensor if ".lora_B." in name else tensor for name, tensor in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / ADAPTER) as part:
        save_file({name: tensor.contiguous() for name, tensor in scaled.items()}, part, metadata={"format": "pt"})
