"""A stopped and continued run is the uninterrupted one; schedules, average and refusals are what they say."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from blockvid.errors import InputError
from blockvid.training.cost import Cost
from blockvid.training.loop import Cadence, Loop, Plan, losses_of
from blockvid.training.objective import Losses
from blockvid.training.optimisation import AdamW, MuonAdamW, Stepwise, WarmHoldFall
from blockvid.training.sharding import Mesh, Sharding, World, launched, place
from training.ranks import TinyAdversarial, TinySource, loop, rows, tiny

LINEAR = Plan(30, optimiser=MuonAdamW(matrices=lambda name, p: name == "0.weight"), rate=WarmHoldFall(3))

SELDOM = Cadence(save=1000, log=5)


def problem() -> tuple[nn.Module, Callable[[int, int, torch.Generator], Losses]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(0.1), nn.Linear(8, 1))

    def loss(_step: int, _index: int, generator: torch.Generator) -> Losses:
        x = torch.randn(16, 6, generator=generator)
        return Losses({"model": (model(x) - x.sum(1, keepdim=True)).square().mean()}, {})

    return model, loss


def linear(folder: Path, plan: Plan = LINEAR, cadence: Cadence = SELDOM) -> Loop:
    model, loss = problem()
    return Loop({"model": model}, loss, plan, folder, cadence=cadence)


def same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())


@pytest.mark.parametrize("plan", [LINEAR, Plan(30, microbatches=2)], ids=["muon", "adam, two microbatches"])
def test_stopped_and_continued_is_uninterrupted(tmp_path: Path, plan: Plan) -> None:
    """Weights, averages, optimisers and every number logged, with dropout, and stops between two reports."""
    linear(tmp_path / "whole", plan).run()
    for until in (4, 17, 30):
        made = linear(tmp_path / "pieces", plan)
        made.run(stop=lambda m=made, n=until: m.step >= n)
        assert made.step == until
    assert same(linear(tmp_path / "pieces", plan)._tensors(), linear(tmp_path / "whole", plan)._tensors())
    assert rows(tmp_path / "pieces") == rows(tmp_path / "whole")


def test_networks_that_take_turns_continue_too(tmp_path: Path) -> None:
    """The model is due every second step, its critic at each; saves come before the model's second update."""
    loop(tmp_path / "whole", World()).run()
    made = loop(tmp_path / "pieces", World())
    made.run(stop=lambda: made.step >= 1)
    loop(tmp_path / "pieces", World()).run()
    assert rows(tmp_path / "pieces") == rows(tmp_path / "whole")
    assert same(loop(tmp_path / "pieces", World())._tensors(), loop(tmp_path / "whole", World())._tensors())


def test_a_network_that_is_not_due_stays(tmp_path: Path) -> None:
    """... and no gradient waits for its turn."""
    made = loop(tmp_path, World())
    made.run(stop=lambda: made.step >= 1)
    before = {name: p.clone() for name, p in made.networks["model"].named_parameters()}
    made._advance()
    assert same(before, dict(made.networks["model"].named_parameters()))
    assert all(p.grad is None for network in made.networks.values() for p in network.parameters())


def test_the_average_is_its_formula(tmp_path: Path) -> None:
    made = linear(tmp_path, Plan(30, ema=0.5))
    kept = {name: p.detach().double() for name, p in made.networks["model"].named_parameters()}
    for n in range(1, 16):
        made._advance()
        d = min(0.5, n / (n + 10))
        for name, p in made.networks["model"].named_parameters():
            kept[name] = d * kept[name] + (1 - d) * p.detach().double()
    for name, averaged in made.average.weights.items():
        torch.testing.assert_close(averaged.double(), kept[name], rtol=1e-5, atol=1e-6)


def test_hooks_see_the_average_and_leave_no_trace(tmp_path: Path) -> None:
    """Randomness used in a preview changes no loss, and the weights come back."""
    linear(tmp_path / "plain").run()
    made, seen = linear(tmp_path / "shown", cadence=Cadence(save=1000, log=5, preview=4)), []

    def preview(step: int, model: nn.Module) -> None:
        torch.rand(7)
        seen.append(step)
        assert same(dict(model.named_parameters()), before[step])

    before: dict[int, dict[str, Tensor]] = {}

    advance = made._advance

    def watched() -> None:
        advance()
        before[made.step] = {name: tensor.clone() for name, tensor in made.average.weights.items()}

    made._advance = watched  # type: ignore[method-assign]
    made.run(preview=preview)
    assert seen == [4, 8, 12, 16, 20, 24, 28]
    assert rows(tmp_path / "shown") == rows(tmp_path / "plain")


def test_microbatches_are_numbered_and_averaged(tmp_path: Path) -> None:
    model, seen = nn.Linear(1, 1), []

    def loss(step: int, index: int, _generator: torch.Generator) -> Losses:
        seen.append((step, index))
        return Losses({"model": model(torch.full((1, 1), float(index))).sum()}, {})

    made = Loop({"model": model}, loss, Plan(2, microbatches=3, clip=1e9), tmp_path, cadence=Cadence(log=1))
    made.run()
    assert seen == [(0, 0), (0, 1), (0, 2), (1, 3), (1, 4), (1, 5)]
    norms = [row["grad_norm"] for row in rows(tmp_path)]
    assert norms == pytest.approx([(1**2 + 1) ** 0.5, (4**2 + 1) ** 0.5])


def test_a_run_of_the_old_trainer_continues(tmp_path: Path) -> None:
    """From its `checkpoint.pt`, bit for bit: the loop that it was, written out, against ours."""
    plan = Plan(20, optimiser=LINEAR.optimiser, rate=WarmHoldFall(3))
    model, loss = problem()
    model[2].p = 0.0
    average = {name: p.detach().clone() for name, p in model.state_dict().items()}
    optimizers = plan.optimiser(model)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    for step in range(20):
        if step == 12:
            state = {"step": 12, "model": model.state_dict(), "average": average}
            torch.save({**state, "optimizers": [o.state_dict() for o in optimizers]}, tmp_path / "checkpoint.pt")
        loss(step, step, torch.Generator().manual_seed(step)).due["model"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * plan.rate(step, 20)
            optimizer.step()
            optimizer.zero_grad()
        decay = min(0.999, (step + 1) / (step + 11))
        torch._foreach_lerp_(list(average.values()), [p.detach() for p in model.parameters()], 1 - decay)
    made = linear(tmp_path, plan)
    made.networks["model"][2].p = 0.0
    assert made.step == 12
    made.run()
    assert same(dict(made.networks["model"].named_parameters()), dict(model.named_parameters()))
    assert same(made.average.weights, average)
    assert linear(tmp_path, plan).step == 20  # its own checkpoint comes first from now on


def test_training_learns(tmp_path: Path) -> None:
    made = linear(tmp_path, Plan(150, optimiser=AdamW(2e-2)), Cadence(log=10))
    made.run(cost=Cost(tokens=16, operations=1.0))
    logged = rows(tmp_path)
    assert logged[-1]["loss"] < logged[0]["loss"] / 2
    assert logged[-1]["tokens_per_second"] > 0 and "mfu" not in logged[-1]  # nobody knows a CPU's peak


def test_adversaries_learn(tmp_path: Path) -> None:
    """Objective, source and two networks through the door that recipes use."""
    networks = {"model": tiny(), **TinyAdversarial().networks(tiny())}
    losses = losses_of(TinyAdversarial(), TinySource(), networks, torch.device("cpu"))
    Loop(networks, losses, Plan(30, optimiser=AdamW(1e-2)), tmp_path, cadence=Cadence(log=10, save=1000)).run()
    assert rows(tmp_path)[-1]["loss"] < 0.9 * rows(tmp_path)[0]["loss"]


def test_rates() -> None:
    stepwise, fall = Stepwise(), WarmHoldFall(warmup=10, fall=0.2)
    assert [stepwise(step, 100) for step in (0, 49, 50, 99)] == [1, 1, 0.5, 0.5]
    assert [fall(step, 100) for step in (0, 50, 90, 100)] == pytest.approx([0.1, 1, 0.5, 0])
    assert stepwise.described(101) == "times 0.5 from step 51" and (stepwise(50, 101), stepwise(51, 101)) == (1, 0.5)
    assert fall.described(100) == "falling to 0 from step 80" and fall(81, 100) < fall(80, 100) == 1


def test_a_loss_that_is_no_number_ends_the_run_before_it_is_saved(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)

    def loss(step: int, _index: int, _generator: torch.Generator) -> Losses:
        return Losses({"model": model(torch.full((1, 1), float("nan") if step == 3 else 1.0)).sum()}, {})

    made = Loop({"model": model}, loss, Plan(9), tmp_path, cadence=Cadence(save=2, log=1))
    with pytest.raises(InputError, match=r"no number at step 4; lower the learning rate, now 0.0001, .*step-2"):
        made.run()
    assert Loop({"model": model}, loss, Plan(9), tmp_path).step == 2


def test_another_configuration_is_refused_by_name(tmp_path: Path) -> None:
    linear(tmp_path).run(stop=lambda: True)
    other = Plan(30, optimiser=MuonAdamW(lr=2e-3, matrices=lambda n, p: n == "0.weight"), rate=WarmHoldFall(3))
    with pytest.raises(InputError, match=r"plan\.optimiser\.lr is 0\.002 and .*step-0 was made with 0\.001; use that"):
        linear(tmp_path, other)
    longer = Plan(60, optimiser=LINEAR.optimiser, rate=LINEAR.rate)
    assert linear(tmp_path, longer).plan.steps == 60  # a run may be made longer


def test_what_cannot_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 training steps"):
        Plan(0)
    with pytest.raises(InputError, match="0 microbatches"):
        Plan(1, microbatches=0)
    model, loss = problem()
    with pytest.raises(InputError, match=r"3 microbatches a step do not divide over 2 data-parallel ranks; use 4"):
        Loop({"model": model}, loss, Plan(1, microbatches=3), tmp_path, World(mesh=Mesh(2, 1, 1)))
    with pytest.raises(InputError, match="sp 0 is no number of ranks"):
        Mesh(sp=0)
    with (
        pytest.raises(InputError, match=r"dp_replicate 1 x dp_shard 1 x sp 2 is 2 processes and 1 run"),
        launched(Mesh(sp=2), torch.device("cpu")),
    ):
        pass
    with pytest.raises(InputError, match="network 'teacher' is none of this run; use model"):
        place({"model": model}, World(), Sharding(recompute=("teacher",)))


def test_lines_of_a_lost_stretch_are_written_again(tmp_path: Path) -> None:
    linear(tmp_path).run(stop=itertools.chain([False] * 10, [True]).__next__)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write(json.dumps({"step": 15, "loss": 1.0}) + '\n{"step": 20, "lo')  # a crash, mid-line
    linear(tmp_path).run()
    assert [row["step"] for row in rows(tmp_path)] == [5, 10, 15, 20, 25, 30]
