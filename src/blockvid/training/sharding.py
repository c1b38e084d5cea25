"""Where a training run's networks live: processes in a mesh, parameters sharded over them, activations recomputed.

One process needs no process group. Under `torchrun` the ranks form a mesh (dp_replicate, dp_shard, sp): batches differ
along the first two axes, parameters are sharded over the last two, and tokens are split along the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper, checkpoint_wrapper
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from blockvid.errors import InputError
from blockvid.model.device import pick_device, pick_dtype
from blockvid.model.dit import Block
from blockvid.training.parallel import sequence_parallel

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Mesh:
    """How many ranks hold copies, shards of parameters, and shares of the tokens; `dp_shard` None is what is left."""

    dp_replicate: int = 1
    dp_shard: int | None = None
    sp: int = 1

    def __post_init__(self) -> None:
        for name, ranks in (("dp_replicate", self.dp_replicate), ("dp_shard", self.dp_shard), ("sp", self.sp)):
            if ranks is not None and ranks < 1:
                raise InputError(f"{name} {ranks} is no number of ranks; use 1 or more")

    def over(self, processes: int) -> Mesh:
        """The mesh with `dp_shard` known; InputError if it is not one of `processes` processes."""
        given = self.dp_replicate * self.sp
        shards = max(1, processes // given) if self.dp_shard is None else self.dp_shard
        if given * shards != processes:
            raise InputError(
                f"a mesh of dp_replicate {self.dp_replicate} x dp_shard {shards} x sp {self.sp} is "
                f"{given * shards} processes and {processes} run; start it with torchrun --nproc-per-node "
                f"{given * shards}, or change the mesh"
            )
        return Mesh(self.dp_replicate, shards, self.sp)


@dataclass(frozen=True)
class World:
    """This process among those of the run; the default is one process that is alone."""

    device: torch.device = torch.device("cpu")
    rank: int = 0
    mesh: Mesh = Mesh(dp_shard=1)
    shards: DeviceMesh | None = None
    """(dp_replicate, dp_shard x sp), None in a single process."""
    sp: dist.ProcessGroup | None = None
    control: dist.ProcessGroup | None = None
    """All ranks, over gloo: decisions that must be common."""
    saving: dist.ProcessGroup | None = None
    """All ranks, over gloo, for checkpoints alone: their collectives run beside a step's."""

    @property
    def size(self) -> int:
        return self.dp_size * self.mesh.sp

    @property
    def dp_size(self) -> int:
        """How many microbatches are computed at once."""
        return self.mesh.dp_replicate * (self.mesh.dp_shard or 1)

    @property
    def dp_rank(self) -> int:
        """Which of them is this rank's; sequence-parallel ranks share one."""
        return self.rank // self.mesh.sp

    def any(self, said: bool) -> bool:
        """Whether any rank says so."""
        if self.control is None:
            return said
        vote = torch.tensor(int(said))
        dist.all_reduce(vote, dist.ReduceOp.MAX, group=self.control)
        return bool(vote)

    def agree(self, refusal: str | None) -> None:
        """Raises InputError on every rank if one has a reason to."""
        reasons = [refusal]
        if self.control is not None:
            reasons = [None] * self.size
            dist.all_gather_object(reasons, refusal, group=self.control)
        for reason in reasons:
            if reason is not None:
                raise InputError(reason)

    def mean(self, values: Tensor) -> Tensor:
        """Over all ranks, in float64 on the CPU."""
        values = values.double().cpu()
        if self.control is not None:
            dist.all_reduce(values, group=self.control)
            values /= self.size
        return values


ALONE = World()


@contextmanager
def launched(mesh: Mesh, device: torch.device) -> Iterator[World]:
    """This process's place, inside its process group if torchrun started it; InputError if the mesh does not fit."""
    if not dist.is_torchelastic_launched():
        yield World(device, mesh=mesh.over(1))
        return
    if device.type == "cuda":
        device = torch.device("cuda", dist.get_node_local_rank())
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield among(mesh, device)
    finally:
        dist.destroy_process_group()


def among(mesh: Mesh, device: torch.device) -> World:
    """This process's place in a mesh of all processes of the group that it has joined."""
    ranks = dist.get_world_size()
    mesh = mesh.over(ranks)
    # Two meshes of the same ranks, for flattening the last two axes of one is not public.
    grid = mesh.dp_replicate, ranks // mesh.dp_replicate
    shards = init_device_mesh(device.type, grid, mesh_dim_names=("replicate", "shard"))
    rows = init_device_mesh(device.type, (ranks // mesh.sp, mesh.sp), mesh_dim_names=("dp", "sp"))
    sp = rows.get_group("sp") if mesh.sp > 1 else None
    return World(device, dist.get_rank(), mesh, shards, sp, _over_gloo(), _over_gloo())


def _over_gloo() -> dist.ProcessGroup:
    group = dist.new_group(backend="gloo", timeout=timedelta(hours=1))  # a preview or a save may take that long
    assert isinstance(group, dist.ProcessGroup)
    return group


@dataclass(frozen=True)
class Sharding:
    """How networks are laid out.

    `recompute` names networks whose blocks keep only their inputs for the backward pass. A network whose parameters an
    objective freezes until the backward pass must not be among them: it would be recomputed unfrozen.
    """

    precision: Precision = "float32"
    recompute: tuple[str, ...] = ()
    compile: tuple[str, ...] = ()


def place(networks: Mapping[str, nn.Module], world: World, sharding: Sharding) -> None:
    """Moves and shards every network in place: activation checkpointing, then compilation, then sharding.

    Optimisers are made afterwards. Every rank must hold the same weights. Raises InputError for an unknown name.
    """
    for name in (*sharding.recompute, *sharding.compile):
        if name not in networks:
            raise InputError(f"network {name!r} is none of this run; use {', '.join(networks)}")
    for name, network in networks.items():
        network.to(world.device)
        if world.sp is not None:
            sequence_parallel(network, world.sp)
        if name in sharding.recompute:
            _each_block(network, checkpoint_wrapper)
        if name in sharding.compile:
            _each_block(network, _compiled)
        if world.shards is not None:
            _shard(network, world.shards, sharding.precision)


def _each_block(network: nn.Module, change: Callable[[nn.Module], nn.Module]) -> None:
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Block | CheckpointWrapper) and not isinstance(parent, CheckpointWrapper):
                setattr(parent, name, change(child))


def _compiled(block: nn.Module) -> nn.Module:
    block.compile()
    return block


def _shard(network: nn.Module, mesh: DeviceMesh, precision: Precision) -> None:
    half = torch.bfloat16 if precision == "bfloat16" and mesh.device_type == "cuda" else None
    # Inputs are cast by autocast, layer by layer: a timestep of 937.5 must not arrive as 936.
    policy = MixedPrecisionPolicy(half, torch.float32 if half else None, cast_forward_inputs=False)
    held = mesh["shard"] if mesh["replicate"].size() == 1 else mesh
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    for block in blocks:
        fully_shard(block, mesh=held, mp_policy=policy)
    # The root too is gathered anew for each forward: only then does it notice that it was frozen in between.
    fully_shard(network, mesh=held, mp_policy=policy, reshard_after_forward=True)


def local(tensor: Tensor) -> Tensor:
    """This rank's part, sharing memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The tensor that all ranks together hold; all must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def plain_name(name: str) -> str:
    """A parameter's name without what wrapping its block has added."""
    return name.replace("_checkpoint_wrapped_module.", "").replace("_orig_mod.", "")


def parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """By plain name."""
    return {plain_name(name): parameter for name, parameter in network.named_parameters()}


def native_precision(device: str = "auto") -> Precision:
    """bfloat16 where a device multiplies it natively, else float32. Raises InputError as `pick_device` does."""
    return "bfloat16" if pick_dtype(pick_device(device)) is torch.bfloat16 else "float32"


def autocast(device: torch.device, precision: Precision) -> Any:
    """The context that a loss is computed in."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
