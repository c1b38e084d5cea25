"""Trained networks as folders that `from_pretrained` and `blockvid generate` read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from blockvid.model.adapters import save_adapter
from blockvid.model.dit import BlockDiT
from blockvid.training.checkpoint import network_tensors, newest
from blockvid.training.lora import has_lora
from blockvid.training.sharding import World, whole


def export(network: nn.Module, folder: Path, world: World, base: Path | None = None) -> None:
    """Writes the network's present weights, gathered from all ranks, to `folder`/transformer; all ranks must call.

    Adapters are merged into the weights, and also written by themselves to `folder`/adapter. The rest of the model
    folder `base` (autoencoder, text encoder, card) is linked to, or copied onto another disk, unless `folder` has it.
    """
    assert isinstance(network, BlockDiT)
    tensors = {name: whole(tensor) for name, tensor in network_tensors("", network).items()}
    if world.rank == 0:
        with torch.device("meta"):
            made = BlockDiT(**{k: v for k, v in network.config.items() if not k.startswith("_")})
            if has_lora(network):
                made.add_adapter(network.peft_config["default"])
        made.load_state_dict({name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}, assign=True)
        if has_lora(network):
            adapters = {name.replace(".default", ""): t for name, t in made.state_dict().items() if ".lora_" in name}
            config = network.peft_config["default"]
            save_adapter(adapters, config.lora_alpha / config.r, folder / "adapter")
            made.fuse_lora()  # in place, which is why the tensors are copies
            made.unload_lora()
        save_network(made, folder / "transformer")
        if base is not None:
            _complete(folder, base)
    world.agree(None)


def save_network(network: nn.Module, folder: Path) -> None:
    """Writes `folder` anew; after a kill at any moment `exported` finds the old network or the new one in it, whole."""
    assert isinstance(network, ModelMixin)
    fresh, aside = folder.with_name(f"{folder.name}.new"), _aside(folder)
    there = exported(folder)
    for left in (fresh, aside):
        shutil.rmtree(left, ignore_errors=True)
    network.save_pretrained(fresh)
    if there:
        folder.rename(aside)
    fresh.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


def exported(folder: Path) -> bool:
    """Whether there is a network in `folder`; one that a killed `save_network` had moved aside is put back."""
    if not folder.exists() and _aside(folder).exists():
        _aside(folder).rename(folder)
    return folder.exists()


def begins_from(folder: Path, run: Path) -> bool:
    """Whether the run in the folder `run` begins with the network in `folder`: not where it has a checkpoint."""
    return newest(run / "checkpoints") is None and exported(folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.old")


def _complete(folder: Path, base: Path) -> None:
    for part in base.iterdir():
        there = folder / part.name
        if part.name.startswith("transformer") or there.exists():
            continue
        if part.is_dir():
            shutil.copytree(part, there, copy_function=_link)
        else:
            _link(str(part), str(there))


def _link(source: str, there: str) -> None:
    """A hard link to what a symbolic link means, or a copy where disks differ."""
    real = Path(source).resolve()
    try:
        os.link(real, there)
    except OSError:
        shutil.copy2(real, there)
