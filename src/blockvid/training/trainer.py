"""One resumable training loop: a model, a loss, a batch for every step number.

A batch is a pure function of the step, so the data cursor is the step itself and a resumed run sees what the
uninterrupted one would have seen.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blockvid.errors import InputError

log = logging.getLogger(__name__)

Loss = Callable[[int, torch.Generator], Mapping[str, Tensor]]
"""(step, generator) -> named scalars, of which "loss" is minimised."""


@dataclass(frozen=True)
class Optimisation:
    """Muon on hidden matrices, AdamW on the rest; constant rate after a warm-up, then a linear fall to zero.

    The constant phase lets a later run continue from any checkpoint before the fall with a larger `steps`.
    """

    steps: int
    lr: float = 1e-3
    matrix_lr: float = 4e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    warmup: int = 100
    fall: float = 0.3
    ema: float = 0.999

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"{self.steps} training steps is not a run; use 1 or more")

    def scale(self, step: int) -> float:
        """Learning-rate factor at `step`."""
        fall_steps = max(1, round(self.fall * self.steps))
        return min(1.0, (step + 1) / self.warmup, max(0.0, (self.steps - step) / fall_steps))


def optimizers(
    model: nn.Module, settings: Optimisation, matrices: Callable[[str, nn.Parameter], bool]
) -> list[torch.optim.Optimizer]:
    """Muon for the parameters that `matrices` picks, AdamW for the others."""
    picked = [p for name, p in model.named_parameters() if matrices(name, p)]
    others = [p for name, p in model.named_parameters() if not matrices(name, p)]
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay)
    ]
    if picked:
        made.append(
            torch.optim.Muon(
                picked, lr=settings.matrix_lr, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        )
    for optimizer in made:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return made


class Trainer:
    """Runs `loss` to `settings.steps`, checkpointing to `folder`; made again over the same folder it continues."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        settings: Optimisation,
        folder: Path,
        matrices: Callable[[str, nn.Parameter], bool] = lambda _name, _parameter: False,
        seed: int = 0,
    ) -> None:
        self.model, self.loss, self.settings, self.folder, self.seed = model, loss, settings, folder, seed
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.optimizers = optimizers(model, settings, matrices)
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "checkpoint.pt").exists():
            self._load()

    def run(
        self,
        save_every: int = 200,
        log_every: int = 20,
        on_save: Callable[[int, nn.Module], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train to the end, or until `stop` says so; either way the state is on disk when this returns."""
        began, first, totals = time.perf_counter(), self.step, {}
        while self.step < self.settings.steps and not stop():
            for name, value in self._advance().items():
                totals[name] = totals.get(name, 0.0) + value / log_every
            if self.step % log_every == 0:
                rate = (time.perf_counter() - began) / (self.step - first)
                self._record({"step": self.step, **totals, "seconds_per_step": rate})
                left = rate * (self.settings.steps - self.step)
                shown = " ".join(f"{name} {value:.4f}" for name, value in totals.items())
                log.info(
                    "step %d of %d  %s  %.2f s a step  %.0f min left",
                    self.step,
                    self.settings.steps,
                    shown,
                    rate,
                    left / 60,
                )
                totals = {}
            if self.step % save_every == 0:
                self._save()
                if on_save is not None:
                    on_save(self.step, self.average)
        self._save()

    def _advance(self) -> dict[str, float]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        losses = self.loss(self.step, generator)
        losses["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * self.settings.scale(self.step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(self.settings.ema, self.step / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
            for kept, buffer in zip(self.average.buffers(), self.model.buffers(), strict=True):
                kept.copy_(buffer)
        return {name: float(value.detach()) for name, value in losses.items()} | {"grad_norm": float(norm)}

    def _record(self, row: Mapping[str, float]) -> None:
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def _save(self) -> None:
        state: dict[str, Any] = {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        fresh = self.folder / "checkpoint.pt.new"
        torch.save(state, fresh)
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.rename(self.folder / "checkpoint.pt")

    def _load(self) -> None:
        state = torch.load(self.folder / "checkpoint.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            base = [group["base_lr"] for group in optimizer.param_groups]
            optimizer.load_state_dict(saved)
            for group, lr in zip(optimizer.param_groups, base, strict=True):
                group["base_lr"] = lr
        self.step = state["step"]
        log.info("continuing from step %d", self.step)
