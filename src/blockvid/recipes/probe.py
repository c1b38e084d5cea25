"""How the scorecard's classifier is made."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from blockvid.geometry import Geometry
from blockvid.model.device import pick_device
from blockvid.recipes.storybook import GEOMETRY
from blockvid.storybook.corpus import RENDERED, Shards, Snippets, build
from blockvid.storybook.probe import APART, CLASSES, DIRECTION, Probe, truth, window
from blockvid.training.export import begins_from, save_network
from blockvid.training.loop import Cadence, Loop, Plan
from blockvid.training.objective import Losses
from blockvid.training.optimisation import AdamW, WarmHoldFall
from blockvid.training.sharding import Sharding, World, native_precision, place

MIRRORED = torch.tensor([1, 0, 2, -1])
"""What left, right, none and "not asked" are in a mirror; -1 indexes the last."""


@dataclass(frozen=True)
class ProbeRun:
    """Trains a `Probe` on snippets of every pair, from `out/probe` where there is one; writes `out/probe`.

    Pairs that generators never see are among them: eyes that have never seen a camel in a street read a tan dog there.
    """

    plan: Plan
    geometry: Geometry = GEOMETRY
    shards: int = 560
    run: str = "probe_run"
    """Folder of the checkpoints, in `out`: runs of other questions go on from each other's `out/probe`, not steps."""
    questions: tuple[str, ...] = tuple(CLASSES)
    """What is learned; the networks of the others stay as they are."""
    batch: int = 64
    width: int = 24
    workers: int = 2
    device: str = "auto"

    def __call__(self, out: Path, stop: Callable[[], bool] = lambda: False) -> None:
        """Run to the end or until `stop`; over an earlier `out` it continues."""
        snippets, folder = Snippets(self.geometry, split="every"), out / "probe_snippets"
        build(folder, range(self.shards), snippets, self.workers)
        data = Shards.read(folder, range(self.shards), RENDERED)
        moments = [moment for index in range(self.shards) for moment in snippets.moments(index)]
        world = World(pick_device(self.device))
        torch.manual_seed(0)
        model = Probe(self.width)
        if begins_from(out / "probe", out / self.run):
            model.load_state_dict(Probe.from_pretrained(out / "probe").state_dict())
        place({"model": model}, world, Sharding())
        fps, apart = self.geometry.fps, round(APART * self.geometry.fps)
        last = snippets.frames - 2 * apart

        def losses(_step: int, index: int, generator: torch.Generator) -> Losses:
            rows = data.rows(index, self.batch)
            starts = torch.randint(last, (len(rows),), generator=generator)
            windows, asked = [], []
            for row, start in zip(rows.tolist(), starts, strict=True):
                take, first = moments[row]
                seen = data.tensors["mask"][row][start + apart * torch.arange(3)].flatten(1).sum(1)
                windows.append(window(data.tensors["frames"][row], start[None], apart))
                asked.append([*truth(take, (first + int(start)) / fps, seen.tolist()).values()])
            wanted = torch.tensor(asked)
            some = (wanted[:, [list(CLASSES).index(name) for name in self.questions]] >= 0).any(1)
            some |= ~some.any()  # not a batch of nothing
            shown, wanted = varied(torch.cat(windows)[some], wanted[some], generator)
            return answered(model(shown.to(world.device), self.questions), wanted.to(world.device))

        loop = Loop({"model": model}, losses, self.plan, out / self.run, world, cadence=Cadence(save=250))
        loop.run(on_save=lambda _, network: save_network(network, out / "probe"), stop=stop)


def varied(windows: Tensor, wanted: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Half of the windows mirrored, all moved by up to six pixels, some blurred or noisy as generated frames may be."""
    mirrored = torch.rand(len(windows), generator=generator) < 0.5
    windows = torch.where(mirrored[:, None, None, None, None], windows.flip(-1), windows)
    direction = list(CLASSES).index(DIRECTION)
    wanted = wanted.clone()
    wanted[mirrored, direction] = MIRRORED[wanted[mirrored, direction]]
    made = []
    for each in windows:
        dy, dx = torch.randint(-6, 7, (2,), generator=generator).tolist()
        each = F.pad(each, (6, 6, 6, 6), mode="replicate")[..., 6 + dy : 6 + dy + 96, 6 + dx : 6 + dx + 160]
        if torch.rand(1, generator=generator) < 0.3:
            each = F.interpolate(F.avg_pool2d(each, 2), scale_factor=2.0, mode="bilinear")
        made.append(each + 0.1 * torch.rand(1, generator=generator) * torch.randn(each.shape, generator=generator))
    return torch.stack(made), wanted


def answered(logits: dict[str, Tensor], wanted: Tensor) -> Losses:
    """Cross-entropy of every question over the windows that are asked it, and how many of those are right."""
    losses, logged = [], {}
    for name, scores in logits.items():
        of = wanted[:, list(CLASSES).index(name)]
        losses.append(F.cross_entropy(scores.float(), of, ignore_index=-1, reduction="sum") / (of >= 0).sum().clamp(1))
        logged[name] = ((scores.argmax(1) == of) & (of >= 0)).sum() / (of >= 0).sum().clamp(1)
    return Losses({"model": torch.stack(losses).sum()}, logged)


def storybook_probe() -> ProbeRun:
    """The scorecard's eyes: about half an hour on two cores."""
    adam = AdamW(lr=2e-3, weight_decay=0.01)
    plan = Plan(6000, optimiser=adam, rate=WarmHoldFall(fall=0.5), ema=0.99, precision=native_precision())
    return ProbeRun(plan, workers=os.cpu_count() or 1)


def storybook_direction() -> ProbeRun:
    """Of the scorecard's eyes those for directions alone."""
    run = storybook_probe()
    plan = replace(run.plan, steps=1200, rate=WarmHoldFall(fall=0.7))
    return replace(run, plan=plan, run="direction_run", questions=(DIRECTION,))
