"""The training loop over named networks: it knows no objective, and resumes bit for bit.

A step is a pure function of the weights, its number and the seed. Its data are `microbatches`, numbered through the
run; each is computed by one data-parallel rank, so that what is learned does not depend on how many there are.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blockvid.batch import Source
from blockvid.errors import InputError
from blockvid.training import checkpoint
from blockvid.training.checkpoint import Checkpoints, Tensors
from blockvid.training.cost import Cost
from blockvid.training.ema import Average
from blockvid.training.objective import Losses, Objective
from blockvid.training.optimisation import AdamW, Optimiser, Rate, Stepwise
from blockvid.training.sharding import ALONE, Precision, World, autocast, whole
from blockvid.training.tracking import JSONLines, Tracker, Tracking

log = logging.getLogger(__name__)

Loss = Callable[[int, int, torch.Generator], Losses]
"""(step, microbatch, generator) -> the losses of one microbatch."""
Seen = Callable[[int, nn.Module], None]
"""(step, "model" with its averaged weights): exports, previews, measures. Every rank calls it."""


@dataclass(frozen=True)
class Plan:
    """What decides the weights that a run ends with. The defaults are the paper's where it has them (section 5.1)."""

    steps: int
    microbatches: int = 1
    """Of a step, over all ranks; each is one batch of the source."""
    optimiser: Optimiser = AdamW()
    others: Mapping[str, Optimiser] = field(default_factory=dict)
    """Of networks beside "model", where theirs differs."""
    rate: Rate = Stepwise()
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"{self.steps} training steps is not a run; use 1 or more")
        if self.microbatches < 1:
            raise InputError(f"{self.microbatches} microbatches a step train nothing; use 1 or more")


@dataclass(frozen=True)
class Cadence:
    """How often, in steps, a run writes, says and shows something; none of it changes the weights."""

    save: int = 200
    log: int = 20
    preview: int = 0
    """0 is never."""
    keep: int = 2
    """Checkpoints."""


class Loop:
    """Trains `networks` in place to `plan.steps`; made again over the same folder, it continues.

    Networks are in their final place already (`sharding.place`). Raises InputError if the folder holds the run of
    another configuration or of other networks, or the microbatches do not divide over the ranks.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        losses: Loss,
        plan: Plan,
        folder: Path,
        world: World = ALONE,
        config: Mapping[str, Any] | None = None,
        cadence: Cadence = Cadence(),
    ) -> None:
        if plan.microbatches % world.dp_size:
            below = plan.microbatches - plan.microbatches % world.dp_size
            raise InputError(
                f"{plan.microbatches} microbatches a step do not divide over {world.dp_size} data-parallel ranks; "
                f"use {below + world.dp_size}"
            )
        self.networks, self.losses, self.plan, self.folder = dict(networks), losses, plan, folder
        self.world, self.cadence = world, cadence
        self.config = {"plan": described(plan) | {"steps": None}, "run": described(config or {})}
        self.optimizers = {name: self._made(name) for name in self.networks if _is_trained(self.networks[name])}
        self.average = Average(self.networks["model"], plan.ema)
        self.step, self.updates, self._saved = 0, 0, -1
        self._sums: dict[str, Tensor] = {}
        self.checkpoints = Checkpoints(folder / "checkpoints", world, cadence.keep)
        self._resume()

    def run(
        self,
        trackers: Sequence[Tracker] = (),
        cost: Cost | None = None,
        on_save: Seen | None = None,
        preview: Seen | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train to the end, or until `stop` says so on any rank; either way the state is on disk on return.

        Raises InputError where a loss is no number any more, or the disk is full.
        """
        main = self.world.rank == 0
        tracking = Tracking([JSONLines(self.folder / "log.jsonl", self.step), *trackers] if main else [])
        clock = _Clock(self.step)
        try:
            while self.step < self.plan.steps and not self.world.any(stop()):
                self._advance()
                if self.step % self.cadence.log == 0:
                    self._report(tracking, clock, cost)
                self.checkpoints.settle(wait=False)
                if self.step % self.cadence.save == 0:
                    self._save(on_save)
                if preview is not None and self.cadence.preview and self.step % self.cadence.preview == 0:
                    self._show(preview)
            self._save(on_save)
            self.checkpoints.settle()
        finally:
            tracking.close()

    def _made(self, name: str) -> list[torch.optim.Optimizer]:
        made = self.plan.others.get(name, self.plan.optimiser)(self.networks[name])
        for optimizer in made:
            for group in optimizer.param_groups:
                group["base_lr"] = group["lr"]
        return made

    def _advance(self) -> None:
        plan, world = self.plan, self.world
        turns, due = plan.microbatches // world.dp_size, set[str]()
        for turn in range(turns):
            index = self.step * plan.microbatches + turn * world.dp_size + world.dp_rank
            generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + index)
            with autocast(world.device, plan.precision):
                losses = self.losses(self.step, index, generator)
            if losses.due:
                (torch.stack(list(losses.due.values())).sum() / turns).backward()
            due |= losses.due.keys()
            named = {"loss" if name == "model" else f"{name}_loss": loss for name, loss in losses.due.items()}
            self._count({**named, **losses.logged})
        for name in sorted(due):
            self._update(name)
        for network in self.networks.values():
            network.zero_grad(set_to_none=True)
        self.step += 1
        if "model" in due:
            self.updates += 1
            self.average.update(self.networks["model"], self.updates)

    def _update(self, name: str) -> None:
        norm = nn.utils.clip_grad_norm_(self.networks[name].parameters(), self.plan.clip)
        self._count({"grad_norm" if name == "model" else f"{name}_grad_norm": whole(norm)})
        for optimizer in self.optimizers[name]:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * self.plan.rate(self.step, self.plan.steps)
            optimizer.step()

    def _count(self, values: Mapping[str, Tensor]) -> None:
        """Sums and counts stay on the device: a step waits for no number."""
        for name, value in values.items():
            number = value.detach().double().reshape(())
            seen = torch.stack((number, torch.ones_like(number)))
            self._sums[name] = self._sums[name] + seen if name in self._sums else seen

    def _report(self, tracking: Tracking, clock: _Clock, cost: Cost | None) -> None:
        self._require_numbers()
        names = sorted(self._sums)
        means = [self._sums[name][0] / self._sums[name][1] for name in names]
        row = dict(zip(names, self.world.mean(torch.stack(means)).tolist(), strict=True)) if names else {}
        row["lr"] = self._rate()
        self._sums = {}
        seconds = clock.seconds_per_step(self.step)
        row["seconds_per_step"] = seconds
        if cost is not None:
            row |= cost.rates(self.plan.microbatches, seconds, self.world.size, self.world.device)
        tracking.log(self.step, row)
        if self.world.rank == 0:
            shown = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "seconds_per_step")
            left = seconds * (self.plan.steps - self.step) / 60
            log.info(
                "step %d of %d  %s  %.2f s a step  %.0f min left", self.step, self.plan.steps, shown, seconds, left
            )

    def _require_numbers(self) -> None:
        """Asked before a report and before a save: weights that are no numbers are not kept."""
        if self.world.any(not all(torch.isfinite(pair).all() for pair in self._sums.values())):
            self.checkpoints.settle()
            raise InputError(
                f"a loss or gradient is no number at step {self.step}; lower the learning rate, now {self._rate():g}, "
                f"in a run that starts from {self.checkpoints.newest() or 'the beginning'}"
            )

    def _rate(self) -> float:
        """The learning rate that the model's last step had."""
        return self.optimizers["model"][0].param_groups[0]["base_lr"] * self.plan.rate(self.step - 1, self.plan.steps)

    def _show(self, seen: Seen) -> None:
        """Randomness that is used in showing changes nothing in what is learned."""
        devices = [self.world.device] if self.world.device.type == "cuda" else []
        with torch.random.fork_rng(devices), self.average.applied(self.networks["model"]):
            seen(self.step, self.networks["model"])

    def _save(self, on_save: Seen | None) -> None:
        if self.step == self._saved:
            return
        self._require_numbers()
        record = {"step": self.step, "updates": self.updates, "config": self.config}
        self.checkpoints.save(self.step, {**self._tensors(), **self._own_tensors()}, record)
        self._saved = self.step
        if on_save is not None:
            self._show(on_save)

    def _tensors(self) -> Tensors:
        """Those of all ranks together."""
        made = {f"average.{name}": tensor for name, tensor in self.average.state().items()}
        for name, network in self.networks.items():
            made |= checkpoint.network_tensors(f"networks.{name}.", network)
        for name, optimizers in self.optimizers.items():
            made |= checkpoint.optimizer_tensors(f"optimizers.{name}.", self.networks[name], optimizers)
        return made

    def _own_tensors(self) -> Tensors:
        """Those of this rank: its random state and what it has summed since the last report."""
        made = {f"random.{self.world.rank}": torch.get_rng_state()}
        if self.world.device.type == "cuda":
            made[f"random_cuda.{self.world.rank}"] = torch.cuda.get_rng_state(self.world.device)
        return made | {f"sums.{self.world.rank}.{name}": pair for name, pair in self._sums.items()}

    def _resume(self) -> None:
        newest, single = self.checkpoints.newest(), self.folder / "checkpoint.pt"
        if newest is None:
            if single.exists():
                model, optimizers = self.networks["model"], self.optimizers["model"]
                self.step = self.updates = checkpoint.read_single_file(single, model, self.average.state(), optimizers)
                log.info("beginning at step %d of %s", self.step, single)
            return
        record, sizes = checkpoint.record_of(newest), checkpoint.sizes_of(newest)
        checkpoint.require_same(newest, record["config"], self.config)
        tensors = self._tensors()
        for name, optimizers in self.optimizers.items():
            tensors |= checkpoint.recall_optimizers(f"optimizers.{name}.", self.networks[name], optimizers, sizes)
        rank = self.world.rank
        sums = {name: torch.zeros(2, dtype=torch.float64) for name in sizes if name.startswith(f"sums.{rank}.")}
        states = [name for name in (f"random.{rank}", f"random_cuda.{rank}") if name in sizes]
        random = {name: torch.empty(sizes[name], dtype=torch.uint8) for name in states}
        checkpoint.load(newest, {**tensors, **sums, **random}, self.world)
        self._sums = {name.removeprefix(f"sums.{rank}."): pair.to(self.world.device) for name, pair in sums.items()}
        for name, state in random.items():
            if name.startswith("random."):
                torch.set_rng_state(state)
            elif self.world.device.type == "cuda":
                torch.cuda.set_rng_state(state, self.world.device)
        self.step, self.updates, self._saved = record["step"], record["updates"], record["step"]
        log.info("continuing from %s", newest)


def losses_of(objective: Objective, source: Source, networks: Mapping[str, nn.Module], device: torch.device) -> Loss:
    """The losses of `objective` on microbatches of `source`, of which each has the number that the loop gives it."""
    empty = source.empty.to(device)

    def losses(step: int, index: int, generator: torch.Generator) -> Losses:
        return objective(networks, source.batch(index).to(device), empty, step, generator)

    return losses


def described(value: Any) -> Any:
    """Settings as JSON has them: a dataclass by its name and fields."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: described(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"is": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(name): described(one) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return [described(one) for one in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return getattr(value, "__qualname__", str(value))


def _is_trained(network: nn.Module) -> bool:
    return any(p.requires_grad for p in network.parameters())


class _Clock:
    """Seconds a step since it was last asked."""

    def __init__(self, step: int) -> None:
        self.step, self.time = step, time.perf_counter()

    def seconds_per_step(self, step: int) -> float:
        now = time.perf_counter()
        taken = (now - self.time) / max(1, step - self.step)
        self.step, self.time = step, now
        return taken
