"""A stopped and continued run is the uninterrupted one; the schedule and the average are what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from blockvid.errors import InputError
from blockvid.training.trainer import Optimisation, Trainer


def problem() -> tuple[nn.Module, object]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 1))

    def loss(_step: int, generator: torch.Generator) -> dict[str, Tensor]:
        x = torch.randn(16, 6, generator=generator)
        return {"loss": (model(x) - x.sum(1, keepdim=True)).square().mean()}

    return model, loss


def trained(folder: Path, steps: int, pieces: list[int]) -> nn.Module:
    """The averaged model after `steps`, made by processes that stop at each of `pieces`."""
    for until in pieces:
        model, loss = problem()
        trainer = Trainer(
            model,
            loss,
            Optimisation(steps, warmup=3),
            folder,
            matrices=lambda name, p: name == "0.weight" and p.ndim == 2,
        )
        trainer.run(log_every=5, save_every=1000, stop=lambda t=trainer, n=until: t.step >= n)
        assert trainer.step == until
    return trainer.average


def test_stopped_and_continued_is_uninterrupted(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", 30, [30])
    pieces = trained(tmp_path / "pieces", 30, [4, 17, 30])
    for a, b in zip(whole.parameters(), pieces.parameters(), strict=True):
        assert torch.equal(a, b)


def test_training_learns_and_logs(tmp_path: Path) -> None:
    model, loss = problem()
    before = float(loss(0, torch.Generator().manual_seed(9))["loss"].detach())
    Trainer(model, loss, Optimisation(150, lr=2e-2), tmp_path).run(log_every=50)
    assert float(loss(0, torch.Generator().manual_seed(9))["loss"].detach()) < before / 2
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3


def test_rate_rises_holds_and_falls_to_zero() -> None:
    schedule = Optimisation(steps=100, warmup=10, fall=0.2)
    assert schedule.scale(0) == pytest.approx(0.1)
    assert schedule.scale(50) == 1.0
    assert schedule.scale(90) == pytest.approx(0.5)
    assert schedule.scale(100) == 0.0


def test_no_steps_are_refused() -> None:
    with pytest.raises(InputError, match="0 training steps"):
        Optimisation(steps=0)
