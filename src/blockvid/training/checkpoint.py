"""A run's state on disk: written beside the training, complete or absent, readable by any number of ranks.

`folder/step-N` is a `torch.distributed.checkpoint`, with the counters and the configuration in `run.json`. It is
written as `step-N.tmp` and renamed; only then does `LATEST` name it and does the oldest go. A crash at any moment
leaves the previous one valid.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from blockvid.errors import InputError
from blockvid.files import replacing
from blockvid.training.sharding import World, parameters, plain_name

log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]
"""By a name that says what it is; DTensors are saved and read in shards."""


class Checkpoints:
    """Those of one run. One save is under way at most; all ranks must call alike."""

    def __init__(self, folder: Path, world: World, keep: int = 2) -> None:
        if keep < 1:
            raise InputError(f"keeping {keep} checkpoints keeps none; use 1 or more")
        self.folder, self.world, self.keep = folder, world, keep
        self._pending: tuple[int, dict[str, Any], Future[Any]] | None = None
        if world.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob("step-*.tmp"):
                shutil.rmtree(left)
        world.agree(None)  # nobody looks before that is done

    def newest(self) -> Path | None:
        """The last complete checkpoint."""
        return newest(self.folder)

    def save(self, step: int, tensors: Tensors, record: Mapping[str, Any]) -> None:
        """Copies the tensors and writes them in the background. Raises InputError if there is too little room."""
        self.settle()
        self.world.agree(_too_little_room(self.folder, tensors) if self.world.rank == 0 else None)
        _allow_single_process()
        written = dcp.async_save(
            tensors,
            checkpoint_id=self._path(step, ".tmp"),
            process_group=self.world.saving,
            no_dist=self.world.saving is None,
        )
        assert isinstance(written, Future)
        self._pending = step, dict(record), written

    def settle(self, wait: bool = True) -> None:
        """Completes the save under way if it is written, or may be waited for. InputError if it cannot be."""
        if self._pending is None or not (wait or self._pending[2].done()):
            return
        step, record, written = self._pending
        self._pending = None
        failure = written.exception()
        if failure is not None:
            raise InputError(_unwritten(step, self.folder)) if _is_of_the_disk(failure) else failure
        if self.world.rank == 0:
            self._complete(step, record)

    def _complete(self, step: int, record: Mapping[str, Any]) -> None:
        made, final = self._path(step, ".tmp"), self._path(step)
        _write(made / "run.json", json.dumps(record, indent=1))
        if final.exists():  # left by a run that went on from an earlier one
            shutil.rmtree(final)
        made.rename(final)
        with replacing(self.folder / "LATEST") as part:
            part.write_text(final.name, encoding="utf-8")
        steps = sorted(self.folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
        older = [path for path in steps if path != final]
        for path in older[: len(older) - self.keep + 1] if len(older) >= self.keep else []:
            shutil.rmtree(path)

    def _path(self, step: int, ending: str = "") -> Path:
        return self.folder / f"step-{step}{ending}"


def newest(folder: Path) -> Path | None:
    """The last complete checkpoint in a folder of them."""
    latest = folder / "LATEST"
    return folder / latest.read_text(encoding="utf-8").strip() if latest.exists() else None


def record_of(checkpoint: Path) -> dict[str, Any]:
    """Its counters and configuration."""
    return json.loads((checkpoint / "run.json").read_text(encoding="utf-8"))


def sizes_of(checkpoint: Path) -> dict[str, torch.Size]:
    """The whole size of every tensor in it."""
    entries = dcp.FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    return {name: getattr(entry, "size", torch.Size()) for name, entry in entries.items()}


def load(checkpoint: Path, tensors: Tensors, world: World) -> None:
    """Fills the tensors in place. Raises InputError if the checkpoint lacks one, or holds it in another shape."""
    sizes = sizes_of(checkpoint)
    for name, tensor in tensors.items():
        if name not in sizes:
            raise InputError(f"{checkpoint} has no {name}; it is of another model or objective, use another folder")
        if sizes[name] != tensor.shape:
            raise InputError(
                f"{name} is {tuple(sizes[name])} in {checkpoint} and {tuple(tensor.shape)} here; "
                "use the model it was made with, or another folder"
            )
    _allow_single_process()
    dcp.load(tensors, checkpoint_id=checkpoint, process_group=world.saving, no_dist=world.saving is None)


def require_same(checkpoint: Path, saved: Mapping[str, Any], asked: Mapping[str, Any], where: str = "") -> None:
    """Raises InputError at the first setting that differs from the one that a checkpoint was made with."""
    for name in sorted(saved.keys() | asked.keys()):
        old, new = saved.get(name), asked.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            require_same(checkpoint, old, new, f"{where}{name}.")
        elif old != new:
            raise InputError(
                f"{where}{name} is {new!r} and {checkpoint} was made with {old!r}; use that, or another folder"
            )


def network_tensors(prefix: str, network: nn.Module) -> Tensors:
    """Parameters and buffers, sharing memory with the network."""
    named = {**parameters(network), **{plain_name(n): b for n, b in network.named_buffers()}}
    return {prefix + name: tensor.detach() for name, tensor in named.items()}


def optimizer_tensors(prefix: str, network: nn.Module, optimizers: list[torch.optim.Optimizer]) -> Tensors:
    """What the optimisers remember of each parameter that they have stepped."""
    return {
        f"{prefix}{name}:{key}": value
        for name, parameter in parameters(network).items()
        for optimizer in optimizers
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def recall_optimizers(
    prefix: str, network: nn.Module, optimizers: list[torch.optim.Optimizer], sizes: Mapping[str, torch.Size]
) -> Tensors:
    """Gives the optimisers an empty memory of the sizes that a checkpoint has, and returns it to be filled."""
    made: Tensors = {}
    named = parameters(network)
    owner = {id(p): optimizer for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    for entry, size in sizes.items():
        name, _, key = entry.removeprefix(prefix).rpartition(":")
        if not entry.startswith(prefix) or name not in named or id(named[name]) not in owner:
            continue
        parameter = named[name]
        # Adam's count of steps is a scalar on the CPU; everything else is of its parameter's shape and shards.
        value = torch.zeros_like(parameter.detach()) if size == parameter.shape else torch.zeros(size)
        owner[id(parameter)].state[parameter][key] = made[entry] = value
    return made


def read_single_file(path: Path, network: nn.Module, average: Tensors, optimizers: list[torch.optim.Optimizer]) -> int:
    """Fills all three from a `checkpoint.pt` of blockvid before 0.2, and returns its step. For one process."""
    state = torch.load(path, weights_only=True)
    network.load_state_dict(state["model"])
    for name, tensor in average.items():
        tensor.copy_(state["average"][name])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        base = [group["base_lr"] for group in optimizer.param_groups]
        optimizer.load_state_dict(saved)
        for group, lr in zip(optimizer.param_groups, base, strict=True):
            group["base_lr"] = lr
    return state["step"]


def _too_little_room(folder: Path, tensors: Tensors) -> str | None:
    needed, free = sum(t.numel() * t.element_size() for t in tensors.values()), shutil.disk_usage(folder).free
    if needed <= free:
        return None
    return (
        f"a checkpoint takes {needed / 1e9:.2f} GB and {folder} has {free / 1e9:.2f} GB free; "
        "free some space, or use another folder"
    )


def _unwritten(step: int, folder: Path) -> str:
    free = shutil.disk_usage(folder).free
    return (
        f"step {step} could not be written to {folder}, which has {free / 1e9:.2f} GB free; make room there and run "
        "again: the previous checkpoint is intact"
    )


def _is_of_the_disk(failure: BaseException) -> bool:
    causes = (
        [cause for cause, _ in failure.failures.values()] if isinstance(failure, CheckpointException) else [failure]
    )
    # A short write reaches us from torch's zip writer, without the OSError that it began with.
    return any(isinstance(cause, OSError) or "inline_container" in str(cause) for cause in causes)


def _allow_single_process() -> None:
    # Saving without a process group is what is meant where one process runs alone.
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
