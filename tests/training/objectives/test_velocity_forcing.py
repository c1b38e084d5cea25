"""Velocity Forcing: the data's velocity after the model's own history."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blockvid.attention.policies import Window, recalls
from blockvid.batch import Batch
from blockvid.model.dit import BlockDiT
from blockvid.training.densities import CleanPrefix, Shared
from blockvid.training.objectives import FlowMatching, VelocityForcing
from blockvid.training.objectives.visibility import TeacherForcing
from training.made_batches import EMPTY, batch, from_cache, model, oracle


@dataclass(frozen=True)
class Scaled:
    """A history that is the data times `factor`, and takes a draw."""

    factor: float

    def __call__(self, model: BlockDiT, batch: Batch, generator: torch.Generator) -> Tensor:
        torch.rand(1, generator=generator)
        assert not torch.is_grad_enabled()
        return self.factor * batch.latents


def outcome(objective, network: BlockDiT, seed: int = 0) -> tuple[Tensor, list[Tensor]]:
    network.zero_grad()
    made = objective({"model": network}, batch(), EMPTY, 0, torch.Generator().manual_seed(seed))
    made.due["model"].backward()
    return made.due["model"].detach(), [p.grad.clone() for p in network.parameters() if p.grad is not None]


def test_a_perfect_history_is_teacher_forcing() -> None:
    """But for the draw of the history."""
    flow, network = FlowMatching(Shared(), TeacherForcing()), model()
    forced = VelocityForcing(Scaled(1.0), flow)
    generator = torch.Generator().manual_seed(0)
    torch.rand(1, generator=generator)
    plain = flow({"model": network}, batch(), EMPTY, 0, generator).due["model"]
    torch.testing.assert_close(outcome(forced, network)[0], plain.detach())


def test_chunks_see_the_history_and_are_asked_for_the_data() -> None:
    """The prediction is the cache's after clean passes over the history; the target is the data's velocity."""
    given, network, history = batch(), model(), Scaled(-1.0)
    flow = FlowMatching(Shared(), TeacherForcing(Window(1)))
    forced = VelocityForcing(history, flow)
    generator = torch.Generator().manual_seed(0)
    torch.rand(1, generator=generator)
    example = flow.example(given, EMPTY, generator)
    plan = recalls(Window(1), torch.eye(5))
    with torch.no_grad():
        v = from_cache(network, example, [plan, plan], clean=-given.latents)
    expected = (v - (example.eps - given.latents)).square().mean()
    torch.testing.assert_close(outcome(forced, network)[0], expected, rtol=1e-5, atol=0)
    made = forced({"model": oracle(given.latents)}, given, EMPTY, 0, torch.Generator().manual_seed(0))
    assert made.due["model"] < 1e-6
    torch.testing.assert_close(made.logged["drift"], 4 * given.latents.square().mean())


def test_in_one_stream_context_chunks_are_the_history() -> None:
    given = batch()
    flow = FlowMatching(CleanPrefix(Shared(), noise=0.0))
    knows = oracle(given.latents)
    forced = VelocityForcing(Scaled(-1.0), flow)
    made = forced({"model": knows}, given, EMPTY, 0, torch.Generator().manual_seed(0))
    latents, timestep, _, _ = knows.asked[0]
    clean = (timestep == 0)[:, None, :, None, None]
    assert 0 < clean.float().mean() < 1
    assert torch.equal(torch.where(clean, latents, 0), torch.where(clean, -given.latents, 0))
    assert made.due["model"] < 1e-6


def test_no_gradient_crosses_the_history() -> None:
    """They are those of teacher forcing on the same context as a constant."""
    network, flow = model(), FlowMatching(Shared(), TeacherForcing())
    _, through = outcome(VelocityForcing(Scaled(2.0), flow), network)
    generator = torch.Generator().manual_seed(0)
    torch.rand(1, generator=generator)
    network.zero_grad()
    given = batch()
    example = flow.example(given, EMPTY, generator, 2.0 * given.latents)
    v = flow.predict({"model": network}, example, generator)
    (v - (example.eps - example.x0)).square().mean().backward()
    for ours, parameter in zip(through, network.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad)
