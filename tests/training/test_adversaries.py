"""Gradients have their closed forms, vanish where there is nothing to learn, and stay with the network that is due."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from blockvid.attention.policies import Window
from blockvid.errors import InputError
from blockvid.training.adversaries import DMD, GAN, Adversary, Scene, Scores, SiD, through
from blockvid.training.discriminator import Exact
from blockvid.training.objectives.visibility import Causal
from training.made_batches import EMPTY, batch, model, oracle

EVERY = [
    GAN(),
    GAN("relativistic", r1=1.0, r2=1.0),
    GAN(r1=1.0, penalty=Exact(), scope="chunk"),
    DMD(),
    DMD(Scores(visibility=Causal(Window(1)))),
    SiD(),
]
every_adversary = pytest.mark.parametrize("adversary", EVERY, ids=lambda adversary: type(adversary).__name__)
UNGUIDED = Scores(guidance=1.0)


def scene() -> Scene:
    rolled, real = batch(seed=1), batch(seed=0)
    return Scene(rolled.latents.requires_grad_(), real.latents, real.text, real.pooled, EMPTY)


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def disagreeing(adversary: Adversary) -> dict[str, nn.Module]:
    """Its networks, after the judge has learned something."""
    networks = adversary.networks(model())
    judge = networks.get("critic", networks.get("discriminator"))
    assert judge is not None
    with torch.no_grad():
        for parameter in judge.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=chance(9)))
    return networks


def knowing(critic: Tensor, teacher: Tensor) -> dict[str, nn.Module]:
    return {"critic": oracle(critic), "teacher": oracle(teacher).requires_grad_(False)}


def slope(adversary: Adversary, networks: Mapping[str, nn.Module], of: Scene) -> Tensor:
    (found,) = torch.autograd.grad(adversary.for_model(networks, of, chance()).due["model"], of.rolled)
    return found


@every_adversary
def test_a_loss_leaves_no_gradient_in_other_networks(adversary: Adversary) -> None:
    networks, given = disagreeing(adversary), scene()
    due = adversary.for_model(networks, given, chance()).due
    assert list(due) == ["model"]
    due["model"].backward()
    assert given.rolled.grad is not None and given.rolled.grad.abs().sum() > 0
    assert all(p.grad is None for network in networks.values() for p in network.parameters())
    given.rolled.grad = None
    ((judge, loss),) = adversary.for_judge(networks, given, chance()).due.items()
    loss.backward()
    assert given.rolled.grad is None
    learned = {name for name, network in networks.items() for p in network.parameters() if p.grad is not None}
    assert learned == {judge}


@every_adversary
def test_losses_are_pure_in_the_generator(adversary: Adversary) -> None:
    networks, given = disagreeing(adversary), scene()
    for ask in (adversary.for_model, adversary.for_judge):
        one, again, other = (next(iter(ask(networks, given, chance(seed)).due.values())) for seed in (0, 0, 1))
        assert one == again != other


@every_adversary
def test_frozen_networks_are_frozen(adversary: Adversary) -> None:
    networks = adversary.networks(model())
    trained = {name for name, network in networks.items() if any(p.requires_grad for p in network.parameters())}
    assert len(trained) == 1 and trained | {"teacher"} == networks.keys() | {"teacher"}


def test_through_is_the_gradient_alone() -> None:
    linear, x = nn.Linear(3, 1).requires_grad_(True), torch.randn(4, 3, requires_grad=True)
    loss = lambda x: linear(x).square().mean()  # noqa: E731
    made = through(loss, 2 * x)
    assert made == loss(2 * x)
    (found,) = torch.autograd.grad(made, x)
    (expected,) = torch.autograd.grad(loss(2 * x), x)
    torch.testing.assert_close(found, expected)
    assert linear.weight.grad is None


def test_no_opinion_costs_log_two() -> None:
    separate, paired = GAN(weight=1.0), GAN("relativistic", weight=1.0)
    networks, given = separate.networks(model()), scene()
    for adversary, of_judge in ((separate, 2 * math.log(2)), (paired, math.log(2))):
        assert adversary.for_model(networks, given, chance()).due["model"].item() == pytest.approx(math.log(2))
        loss = adversary.for_judge(networks, given, chance()).due["discriminator"]
        assert loss.item() == pytest.approx(of_judge)


def test_penalties_of_no_opinion_are_zero() -> None:
    steep = GAN(r1=3.0, r2=5.0)
    losses = steep.for_judge(steep.networks(model()), scene(), chance())
    assert losses.logged["r1"] == losses.logged["r2"] == 0
    assert losses.due["discriminator"].item() == pytest.approx(2 * math.log(2))


def test_penalties_add_half_their_weight() -> None:
    networks, given = disagreeing(GAN()), scene()
    plain, steep = (each.for_judge(networks, given, chance()) for each in (GAN(), GAN(r1=3.0, r2=5.0)))
    added = 0.5 * (3 * steep.logged["r1"] + 5 * steep.logged["r2"])
    assert added > 0
    torch.testing.assert_close(steep.due["discriminator"], plain.due["discriminator"] + added)


def test_equal_samples_cannot_be_told_apart() -> None:
    """One level and one noise for both: of a pair of equals, neither is the more real."""
    networks, given = disagreeing(GAN()), scene()
    same = replace(given, rolled=given.real)
    loss = GAN("relativistic").for_judge(networks, same, chance()).due["discriminator"]
    assert loss.item() == pytest.approx(math.log(2))


def test_the_gradient_of_dmd() -> None:
    """g / numel, with g normalised for each sample."""
    networks, given = disagreeing(DMD()), scene()
    g = DMD().direction(networks, given, chance())
    torch.testing.assert_close(slope(DMD(), networks, given), g / g.numel(), rtol=1e-4, atol=1e-9)
    critic, teacher = batch(seed=2).latents, batch(seed=3).latents
    distance = (given.rolled - teacher).abs().flatten(1).mean(1)
    expected = (critic - teacher) / distance[:, None, None, None, None]
    found = DMD(UNGUIDED).direction(knowing(critic, teacher), given, chance())
    torch.testing.assert_close(found, expected.detach(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("adversary", [DMD(UNGUIDED), SiD(UNGUIDED)], ids=repr)
def test_nothing_is_learned_when_the_scores_agree(adversary: Adversary) -> None:
    given = scene()
    agreeing = slope(adversary, adversary.networks(model()), given)
    assert agreeing.norm() < 1e-5 * slope(adversary, disagreeing(adversary), given).norm()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_gradient_of_sid(alpha: float) -> None:
    """That of DMD where beliefs do not depend on the sample; the loss has its closed form."""
    given, critic, teacher = scene(), batch(seed=2).latents, batch(seed=3).latents
    networks, sid = knowing(critic, teacher), SiD(UNGUIDED, alpha)
    torch.testing.assert_close(slope(sid, networks, given), slope(DMD(UNGUIDED), networks, given), rtol=1e-3, atol=1e-6)
    d, distance = teacher - critic, (given.rolled - teacher).abs().flatten(1).mean(1)
    terms = (d * ((teacher - given.rolled) - alpha * d)).flatten(1).mean(1) / distance
    torch.testing.assert_close(
        sid.for_model(networks, given, chance()).due["model"], terms.mean(), rtol=1e-3, atol=1e-3
    )


def test_sid_passes_both_networks() -> None:
    """With networks that look at the sample its gradient is not that of DMD."""
    networks, given = disagreeing(SiD(UNGUIDED)), scene()
    a, b = slope(SiD(UNGUIDED), networks, given), slope(DMD(UNGUIDED), networks, given)
    assert (a - b).norm() > 0.01 * b.norm()


def test_guidance_goes_beyond_the_prompt() -> None:
    """x0 = unprompted + scale (prompted - unprompted), so the Self Forcing papers' 3 is our 4."""
    networks, given = Scores().networks(model()), scene()
    example = Scores().noising(given, chance())(given.real)
    with torch.no_grad():
        fake, prompted = UNGUIDED.beliefs(networks, example, given, chance())
        _, unprompted = UNGUIDED.beliefs(networks, replace(example, text=given.unprompted), given, chance())
        _, guided = Scores(4.0).beliefs(networks, example, given, chance())
    assert torch.equal(fake, prompted)
    assert (prompted - unprompted).abs().max() > 1e-2
    torch.testing.assert_close(guided, prompted + 3 * (prompted - unprompted), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("adversary", [DMD(), SiD()], ids=repr)
def test_a_critic_that_knows_the_rollouts_has_nothing_to_learn(adversary: Adversary) -> None:
    given = scene()
    networks = knowing(given.rolled.detach(), batch(seed=3).latents)
    assert adversary.for_judge(networks, given, chance()).due["critic"] < 1e-8
    networks["critic"] = oracle(given.real)
    assert adversary.for_judge(networks, given, chance()).due["critic"] > 0.1


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match=r"r1 -1\.0.*one is negative"):
        GAN(r1=-1.0)
    for kind in (GAN, DMD, SiD):
        with pytest.raises(InputError, match="every 0 roll-outs is never updated"):
            kind(ratio=0)
