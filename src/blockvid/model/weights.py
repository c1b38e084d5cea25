"""Weight files of one network: found, checked, read strictly and fingerprinted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from blockvid.errors import InputError

DIFFUSERS_STEM = "diffusion_pytorch_model"
TRANSFORMERS_STEM = "model"

Network = TypeVar("Network", bound=nn.Module)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises InputError if it is absent or holds anything else."""
    if not path.is_file():
        raise InputError(f"{path} is missing, and a model folder needs it; name a complete folder or download it again")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); download it again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}, not a JSON object; download it again")
    return value


def weight_files(folder: Path, stem: str = DIFFUSERS_STEM) -> tuple[Path, ...]:
    """The safetensors files of `folder`: one, or the shards that its index lists.

    Raises InputError if one is absent or cut short, which is found by its header and size without reading it all.
    """
    index = folder / f"{stem}.safetensors.index.json"
    if index.is_file():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise InputError(f"{index} has no weight_map; download it again")
        names = sorted({str(name) for name in shards.values()})
        if any(Path(name).name != name for name in names):
            raise InputError(f"{index} lists shards outside {folder}; download it again")
    else:
        names = [f"{stem}.safetensors"]
    files = tuple(folder / name for name in names)
    for path in files:
        if not path.is_file():
            raise InputError(f"{path} is missing, and holds weights; download it again (only safetensors are read)")
        _names(path)
    return files


def load_strictly(
    build: Callable[[], Network], files: Sequence[Path], device: str | torch.device, dtype: torch.dtype
) -> Network:
    """The network of `build` with exactly the weights in `files`, in `dtype`, frozen and in evaluation mode.

    Parameters with a part of their name in the network's `_keep_in_fp32_modules` are float32 in any case, as diffusers'
    `from_pretrained` has it. Raises InputError for a missing, an unexpected or a wrongly shaped weight.
    """
    with torch.device("meta"):
        network = build()
    expected = network.state_dict()
    weights: dict[str, Tensor] = {}
    for path in files:
        names = _names(path)
        unexpected = sorted(names - set(expected))
        if unexpected:
            raise InputError(
                f"{path} holds {len(unexpected)} weights, such as {unexpected[0]}, that its config.json has no place "
                "for; use the config.json that belongs to it"
            )
        with safe_open(path, framework="pt") as file:
            for name in names:
                weight = file.get_tensor(name)
                if weight.shape != expected[name].shape:
                    raise InputError(
                        f"{name} in {path} is {tuple(weight.shape)} where its config.json makes "
                        f"{tuple(expected[name].shape)}; use the config.json that belongs to it"
                    )
                weights[name] = weight.to(device, _precision(network, name, dtype))
    missing = sorted(set(expected) - set(weights))
    if missing:
        raise InputError(f"{files[0].parent} lacks {len(missing)} weights, such as {missing[0]}; download it again")
    network.load_state_dict(weights, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def in_precision(network: Network, dtype: torch.dtype) -> Network:
    """`network`, of any device, with its weights in the types that `load_strictly` would give them."""
    weights = {name: weight.to(_precision(network, name, dtype)) for name, weight in network.state_dict().items()}
    network.load_state_dict(weights, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def _precision(network: nn.Module, name: str, dtype: torch.dtype) -> torch.dtype:
    fp32 = set(getattr(network, "_keep_in_fp32_modules", None) or ())
    return dtype if fp32.isdisjoint(name.split(".")) else torch.float32


def fingerprint(folder: Path, files: Sequence[Path]) -> str:
    """sha256 over the names and contents of `files` of `folder`, in the order of their names."""
    total = hashlib.sha256()
    for path in sorted(files):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()} {digest}\n".encode())
    return total.hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All that a safetensors file holds. Raises InputError if it is absent or cut short."""
    if not path.is_file():
        raise InputError(f"{path} is missing, and holds weights; download it again (only safetensors are read)")
    names = _names(path)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in names}


def _names(path: Path) -> set[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except SafetensorError as error:
        raise InputError(f"{path} is not a whole safetensors file ({error}); download it again") from None
