"""Who is due when, on which chunks, and that roll-outs come nearer to the data."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from blockvid.attention.policies import Semantic, Window
from blockvid.batch import Batch
from blockvid.errors import InputError
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.training.adversaries import DMD, GAN, Adversary, Scores, SiD
from blockvid.training.rollout import Rollout
from blockvid.training.self_forcing import SelfForcing
from training.made_batches import EMPTY, FRAMES, batch, model

EVERY = [GAN(ratio=1), DMD(ratio=1), SiD(ratio=1)]
every_adversary = pytest.mark.parametrize("adversary", EVERY, ids=lambda adversary: type(adversary).__name__)


def networks(objective: SelfForcing) -> dict[str, nn.Module]:
    """Student and adversaries, no two alike."""
    made = {"model": model()} | objective.networks(model())
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for network in made.values():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return made


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_who_is_due() -> None:
    """Judges at each roll-out, the student at each third one; before it, its judge has learned twice."""
    objective = SelfForcing(GAN(ratio=3), every=2)
    made, data = networks(objective), batch((1, 1))
    due = [set(objective(made, data, EMPTY, step, chance()).due) for step in range(12)]
    judge, both, none = {"discriminator"}, {"discriminator", "model"}, set()
    assert due == [judge, none, judge, none, both, none] * 2


@every_adversary
def test_each_loss_reaches_its_network_alone(adversary: Adversary) -> None:
    objective = SelfForcing(adversary)
    made = networks(objective)
    losses = objective(made, batch(), EMPTY, 0, chance())
    assert len(losses.due) == 2
    for due, loss in losses.due.items():
        loss.backward(retain_graph=True)
        learned = {name for name, network in made.items() for p in network.parameters() if p.grad is not None}
        assert learned == {due}
        made[due].zero_grad(set_to_none=True)
    assert not any(value.requires_grad for value in losses.logged.values())


@every_adversary
def test_a_step_is_a_pure_function(adversary: Adversary) -> None:
    objective = SelfForcing(adversary, Rollout(policy=Semantic(1, 1)))
    made, data = networks(objective), batch()

    def losses(step: int, seed: int) -> list[float]:
        torch.manual_seed(seed + step)  # has no say
        return [loss.item() for loss in objective(made, data, EMPTY, step, chance(seed)).due.values()]

    assert losses(3, 0) == losses(3, 0)
    assert all(a != b for a, b in zip(losses(3, 0), losses(3, 1), strict=True))


def test_all_batches_of_a_step_take_as_many_forwards() -> None:
    """Ranks that share parameters wait for each other at every forward."""
    objective = SelfForcing(GAN(), chunks=2)
    made = networks(objective)
    counts = [
        {objective(made, batch(seed=seed), EMPTY, step, chance(seed)).logged["forwards"].item() for seed in range(2)}
        for step in range(5)
    ]
    assert all(len(count) == 1 for count in counts)
    # two generated chunks at a shared exit, after three given ones or none
    possible = {2.0 * (e + 1) + chunks for e in range(4) for chunks in (2, 5)}
    assert set.union(*counts) <= possible and len(set.union(*counts)) > 1


@pytest.mark.parametrize(("history", "judged"), [(0.0, slice(0, 5)), (1.0, slice(7, 10))], ids=["start", "end"])
def test_what_is_rolled_out(history: float, judged: slice) -> None:
    """The first chunks without a history, the last ones with it: only their real latents are looked at."""
    objective = SelfForcing(GAN(ratio=1), chunks=2, history=history)
    made, data = networks(objective), batch()

    def real_logit(latents: torch.Tensor) -> torch.Tensor:
        moved = Batch(latents, data.frames, data.text, data.pooled, data.weight)
        return objective(made, moved, EMPTY, 0, chance()).logged["real_logit"]

    before = real_logit(data.latents)
    others = torch.ones(sum(FRAMES), dtype=torch.bool)
    others[judged] = False
    changed = data.latents.clone()
    changed[:, :, others] += 1
    assert real_logit(changed) == before
    assert real_logit(data.latents + 1) != before


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="4 chunks every 0 steps"):
        SelfForcing(GAN(), every=0)
    with pytest.raises(InputError, match=r"history 1\.5 is no probability"):
        SelfForcing(GAN(), history=1.5)


class Gaussian(BlockDiT):
    """Exact for independent N(mean, s^2): x0 = mean + a s^2 (x - a mean) / (a^2 s^2 + sigma^2), a = 1 - sigma."""

    mean, std = 1.5, 0.3

    def forward(self, latents, timestep, text, attend):
        sigma = (timestep / 1000)[:, None, :, None, None]
        a, variance = 1 - sigma, self.std**2
        x0 = self.mean + a * variance * (latents - a * self.mean) / (a**2 * variance + sigma**2)
        return (latents - x0) / sigma


def tiny(cls: type[BlockDiT] = BlockDiT) -> BlockDiT:
    made = cls(
        num_attention_heads=2, attention_head_dim=16, in_channels=2, out_channels=2, text_dim=8, freq_dim=16,
        ffn_dim=32, num_layers=2,
    )  # fmt: skip
    made.initialize(torch.Generator().manual_seed(0))
    return made


@pytest.mark.parametrize(
    ("adversary", "lr"),
    [(DMD(Scores(guidance=1.0), ratio=2), 5e-3), (GAN(weight=1.0, ratio=1), 5e-3)],
    ids=["DMD", "GAN"],
)
def test_rollouts_come_nearer_to_the_data(adversary: Adversary, lr: float) -> None:
    """40 roll-outs of two chunks: from N(0, 1) towards N(1.5, 0.3^2), of which DMD's teacher knows the score."""
    frames = (1, 1)
    text = TextContext(torch.zeros(8, 2, 1, 8), frames)
    empty = TextContext(torch.zeros(1, 1, 1, 8), (1,))
    objective = SelfForcing(adversary, Rollout(timesteps=(1000, 500), policy=Window(1)))
    torch.manual_seed(0)
    student = tiny()
    made = {"model": student} | objective.networks(copy.deepcopy(student))
    if "teacher" in made:
        made["teacher"] = tiny(Gaussian)
    trained = {name: network for name, network in made.items() if name != "teacher"}
    optimizers = {
        name: torch.optim.Adam(network.parameters(), lr=lr, betas=(0.0, 0.99)) for name, network in trained.items()
    }
    distances = []
    for step in range(40):
        latents = Gaussian.mean + Gaussian.std * torch.randn(8, 2, 2, 2, 2, generator=chance(1000 + step))
        data = Batch(latents, frames, text, torch.zeros(8, 2, 8), torch.ones(8, 1, 2, 2, 2))
        for name, loss in objective(made, data, empty, step, chance(step)).due.items():
            optimizers[name].zero_grad()
            loss.backward(retain_graph=True)
            optimizers[name].step()
        if step in (0, 39):
            eps = [torch.randn(8, 2, 2, 2, 2, generator=chance(7)) for _ in range(2)]
            with torch.no_grad():
                rolled = objective.rollout(student, data, (1, 1), eps, chance()).latents
            distances.append(abs(rolled.mean().item() - Gaussian.mean) + abs(rolled.std().item() - Gaussian.std))
    assert distances[1] < 0.5 * distances[0]
