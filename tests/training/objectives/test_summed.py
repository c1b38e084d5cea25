"""A sum is the sum of its parts, asked one after the other, and owns what they own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from blockvid.batch import Batch
from blockvid.errors import InputError
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.training.densities import Shared
from blockvid.training.objective import Losses, Objective
from blockvid.training.objectives import BlockForcing, FlowMatching, Sum
from training.made_batches import EMPTY, batch, model


@dataclass(frozen=True)
class Alternating:
    """Trains a scale of its own at even steps, the model at odd ones."""

    name: str = "critic"

    def networks(self, base: BlockDiT) -> dict[str, nn.Module]:
        return {self.name: nn.Linear(1, 1)}

    def __call__(
        self,
        networks: Mapping[str, nn.Module],
        batch: Batch,
        empty: TextContext,
        step: int,
        generator: torch.Generator,
    ) -> Losses:
        own = self.name if step % 2 == 0 else "model"
        parameter = next(networks[own].parameters())
        return Losses({own: parameter.square().sum()}, {"step": torch.tensor(float(step))})


def made(objective: Objective, networks: Mapping[str, nn.Module], step: int = 0) -> Losses:
    return objective(networks, batch(), EMPTY, step, torch.Generator().manual_seed(0))


def test_a_sum_of_one_is_that_one() -> None:
    networks = {"model": model()}
    one, alone = made(Sum((BlockForcing(),)), networks), made(BlockForcing(), networks)
    assert torch.equal(one.due["model"], alone.due["model"]) and one.due.keys() == {"model"}
    assert {f"BlockForcing.{key}" for key in (*alone.logged, "model")} == one.logged.keys()


def test_parts_are_weighed_and_draw_in_turn() -> None:
    networks, generator = {"model": model()}, torch.Generator().manual_seed(0)
    parts = (FlowMatching(), FlowMatching(Shared()))
    first, second = (part(networks, batch(), EMPTY, 0, generator).due["model"] for part in parts)
    summed = made(Sum(parts, (2.0, 0.5)), networks)
    torch.testing.assert_close(summed.due["model"], 2 * first + 0.5 * second)
    assert summed.logged.keys() == {"FlowMatching.model", "FlowMatching2.model"}
    assert torch.equal(summed.logged["FlowMatching2.model"], second.detach())
    assert not any(value.requires_grad for value in summed.logged.values())


def test_only_what_is_due_is_asked_for() -> None:
    objective = Sum((Alternating(), FlowMatching()), (10.0, 1.0))
    networks = {"model": model(), **objective.networks(model())}
    even, odd = made(objective, networks), made(objective, networks, 1)
    assert even.due.keys() == {"critic", "model"} and odd.due.keys() == {"model"}
    weight = next(networks["critic"].parameters())
    assert torch.equal(even.due["critic"], weight.square().sum())  # weights are of the model's losses
    plain = made(FlowMatching(), networks).due["model"]
    assert torch.equal(even.due["model"], plain)
    extra = 10 * next(networks["model"].parameters()).square().sum()
    torch.testing.assert_close(odd.due["model"], plain + extra)
    assert made(Sum((Alternating(),)), networks).due.keys() == {"critic"}
    even.due["critic"].backward()
    assert all(p.grad is None for p in networks["model"].parameters())


def test_networks_have_one_owner() -> None:
    assert Sum((Alternating(), Alternating("judge"), FlowMatching())).networks(model()).keys() == {"critic", "judge"}
    with pytest.raises(InputError, match="two objectives own a network named 'critic'"):
        Sum((Alternating(), Alternating())).networks(model())


def test_sums_that_cannot_be() -> None:
    with pytest.raises(InputError, match="a sum of no objectives trains nothing"):
        Sum(())
    with pytest.raises(InputError, match="1 objectives and 2 weights; give one for each"):
        Sum((FlowMatching(),), (1.0, 2.0))
