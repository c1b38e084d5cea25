"""A tiny adversarial flow-matching run, and what two ranks do with it when torchrun starts this file."""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from blockvid.attention.attend import BlockCausal, Recalling
from blockvid.attention.rope import grid_positions
from blockvid.batch import Batch
from blockvid.errors import InputError
from blockvid.flow import noised, velocity
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.training.export import export
from blockvid.training.loop import Cadence, Loop, Plan, losses_of
from blockvid.training.objective import Losses
from blockvid.training.optimisation import AdamW
from blockvid.training.parallel import sequence_parallel
from blockvid.training.sharding import Mesh, Sharding, World, among, launched, place

FRAMES = (3, 2)
STEPS, SAVED, KILLED = 4, 2, 3
MESHES = {"replicated": Mesh(2, 1, 1), "sharded": Mesh(1, 2, 1), "tokens": Mesh(1, 1, 2)}
CPU = torch.device("cpu")


def tiny(heads: int = 2) -> BlockDiT:
    torch.manual_seed(0)
    model = BlockDiT(
        num_attention_heads=heads, attention_head_dim=24, in_channels=4, out_channels=4, text_dim=8, freq_dim=16,
        ffn_dim=32, num_layers=2,
    )  # fmt: skip
    model.initialize()
    with torch.no_grad():
        model.proj_out.weight.normal_(std=0.1)
    return model


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Conv3d(4, 8, 2), nn.SiLU(), nn.Conv3d(8, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).mean()


@dataclass(frozen=True)
class TinySource:
    """Random latents of `size`, a pure function of the microbatch."""

    size: tuple[int, int] = (4, 4)

    def batch(self, step: int) -> Batch:
        draw = torch.Generator().manual_seed(step)
        text = TextContext(torch.randn(1, 2, 5, 8, generator=draw), FRAMES, None)
        shape = 1, 4, sum(FRAMES), *self.size
        return Batch(
            torch.randn(shape, generator=draw), FRAMES, text, torch.zeros(1, 2, 8), torch.ones(1, 1, *shape[2:])
        )

    @property
    def empty(self) -> TextContext:
        return TextContext(torch.zeros(1, 1, 5, 8), (1,), None)


@dataclass(frozen=True)
class TinyAdversarial:
    """Flow matching, and every second step a frozen critic's word on the model's x0; the critic learns at each step."""

    scale: float = 0.1

    def networks(self, base: BlockDiT) -> dict[str, nn.Module]:
        return {"critic": Critic()}

    def __call__(
        self, networks: Mapping[str, nn.Module], batch: Batch, empty: TextContext, step: int, generator: torch.Generator
    ) -> Losses:
        model, critic, x0 = networks["model"], networks["critic"], batch.latents
        assert isinstance(model, BlockDiT)
        sigma = torch.rand(1, sum(FRAMES), generator=generator)
        eps = torch.randn(x0.shape, generator=generator)
        h, w = (size // 2 for size in x0.shape[-2:])
        attend = BlockCausal(model.rope, grid_positions(sum(FRAMES), h, w), tuple(k * h * w for k in FRAMES))
        predicted = model(noised(x0, eps, sigma), 1000 * sigma, batch.text, attend)
        made = eps - predicted
        due = {"critic": critic(made.detach()) - critic(x0)}
        if step % 2 == 0:
            critic.requires_grad_(False)
            due["model"] = (predicted - velocity(x0, eps)).square().mean() - self.scale * critic(made)
            critic.requires_grad_(True)
        return Losses(due, {"random": torch.rand(())})


def loop(folder: Path, world: World, steps: int = STEPS, objective: TinyAdversarial = TinyAdversarial()) -> Loop:
    """The run as every test makes it: two microbatches a step, clipped now and then."""
    torch.manual_seed(2)
    base = tiny()
    networks = {"model": base, **objective.networks(base)}
    place(networks, world, Sharding(recompute=("model",)))
    plan = Plan(steps, microbatches=2, optimiser=AdamW(1e-3), others={"critic": AdamW(1e-2)}, clip=1.0, ema=0.9)
    losses = losses_of(objective, TinySource(), networks, world.device)
    return Loop(networks, losses, plan, folder, world, {"objective": objective}, Cadence(save=2, log=1))


def rows(folder: Path) -> list[dict[str, float]]:
    """What was logged, without times."""
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds_per_step"} for line in lines]


def split_equals_whole(world: World, size: tuple[int, int]) -> None:
    """Outputs, input gradients and the mean over ranks of weight gradients, under two rules of visibility."""
    assert world.sp is not None
    plain, h, w = tiny(), size[0] // 2, size[1] // 2
    shared = copy.deepcopy(plain)
    sequence_parallel(shared, world.sp)
    positions, tokens = grid_positions(sum(FRAMES), h, w), tuple(k * h * w for k in FRAMES)
    for attend in (
        BlockCausal(plain.rope, positions, tokens),
        Recalling(plain.rope, positions, tokens, [(), ((0, "similar"),)]),
    ):
        results = []
        for model in (plain, shared):
            torch.manual_seed(3)
            x = torch.randn(2, 4, sum(FRAMES), *size, requires_grad=True)
            text = TextContext(torch.randn(2, 2, 5, 8), FRAMES, None)
            model.zero_grad()
            y = model(x, 1000 * torch.rand(2, sum(FRAMES)), text, attend)
            y.square().sum().backward()
            grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            if model is shared:
                dist.all_reduce(grads)
                grads /= 2
            results.append((y.detach(), x.grad, grads))
        for ours, single in zip(results[1], results[0], strict=True):
            torch.testing.assert_close(ours, single, rtol=1e-4, atol=1e-5)


def refusals(world: World) -> dict[str, str]:
    assert world.sp is not None
    said = {}
    for name, make in {
        "heads": lambda: sequence_parallel(tiny(3), world.sp),
        "mesh": lambda: among(Mesh(1, 2, 2), CPU),
        "grid": lambda: tokens_that_do_not_divide(world),
        "other rank": lambda: world.agree("rank 1 objects" if world.rank == 1 else None),
    }.items():
        try:
            make()
        except InputError as error:
            said[name] = str(error)
    return said


def tokens_that_do_not_divide(world: World) -> None:
    model = tiny()
    sequence_parallel(model, world.sp)
    text = TextContext(torch.zeros(1, 1, 5, 8), (1,), None)
    model(torch.zeros(1, 4, 1, 6, 10), torch.zeros(1, 1), text, BlockCausal(model.rope, grid_positions(1, 3, 5), (15,)))


def main(out: Path) -> None:
    torch.set_num_threads(1)
    with launched(MESHES["sharded"], CPU) as world:
        first = not (out / "killed").exists()
        if first:
            for name, mesh in MESHES.items():
                made = loop(out / name, among(mesh, CPU))
                made.run()
            with made.average.applied(made.networks["model"]):
                export(made.networks["model"], out / "exported", made.world)
            split_equals_whole(among(MESHES["tokens"], CPU), (4, 6))  # rows divide
            split_equals_whole(among(MESHES["tokens"], CPU), (6, 4))  # only columns do
            said = refusals(among(MESHES["tokens"], CPU))
            if world.rank == 0:
                (out / "said.json").write_text(json.dumps(said))
        interrupted(out, world, first)


def interrupted(out: Path, world: World, first: bool) -> None:
    """A rank is killed once, while the save of step KILLED is written; torchrun starts all of them again."""
    made = loop(out / "interrupted", world)
    began = made.step

    def stop() -> bool:
        if made.step == KILLED and first:
            (out / "killed").touch()
            made._save(None)
            if world.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            dist.barrier()
        return False

    made.run(stop=stop)
    if world.rank == 0:
        (out / "continued.json").write_text(json.dumps({"began": began}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
