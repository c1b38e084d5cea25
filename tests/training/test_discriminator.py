"""A new discriminator has no opinion, its penalties measure steepness, and features are those of the forward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from blockvid.attention.attend import Full
from blockvid.attention.rope import grid_positions
from blockvid.model.dit import TextContext
from blockvid.training.discriminator import Discriminator, Exact, FiniteDifference, Penalty, Verdict
from training.made_batches import FRAMES, SIDE, batch, model

every_penalty = pytest.mark.parametrize("penalty", [FiniteDifference(), Exact()], ids=repr)


def opinionated(scope="video") -> Discriminator:
    made = Discriminator(model(), scope)
    nn.init.normal_(made.logit.weight, std=0.5, generator=torch.Generator().manual_seed(1))
    return made


def judged(network: Discriminator) -> tuple[Verdict, Tensor]:
    data = batch()
    sigma = torch.full((2, sum(FRAMES)), 0.3)
    return lambda x: network(x, sigma[: len(x)], data.text), data.latents


@pytest.mark.parametrize(("scope", "logits"), [("video", 1), ("chunk", len(FRAMES))])
def test_a_new_discriminator_has_no_opinion(scope, logits: int) -> None:
    verdict, x = judged(Discriminator(model(), scope))
    assert torch.equal(verdict(x), torch.zeros(2, logits))


@pytest.mark.parametrize(("scope", "logits"), [("video", 1), ("chunk", len(FRAMES))])
def test_latents_level_and_text_reach_the_logits_and_every_part_learns(scope, logits: int) -> None:
    network, data = opinionated(scope), batch()
    sigma = torch.full((2, sum(FRAMES)), 0.3)
    found = network(data.latents, sigma, data.text)
    assert found.shape == (2, logits) and found.std() > 0.01
    others = (
        network(data.latents.flip(0), sigma, data.text),
        network(data.latents, sigma + 0.5, data.text),
        network(data.latents, sigma, batch(seed=1).text),
    )
    assert all((found - other).abs().max() > 1e-3 for other in others)
    found.square().sum().backward()
    unused = ("proj_out", "trunk.scale_shift_table")  # the head that predicts velocities
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert [name for name in idle if not any(part in name for part in unused)] == []


def test_the_base_stays_as_it_is() -> None:
    base = model()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    network = Discriminator(base)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    assert all(torch.equal(before[name], tensor) for name, tensor in base.state_dict().items())


def test_equal_seeds_make_equal_discriminators() -> None:
    torch.manual_seed(3)
    one = Discriminator(model())
    torch.manual_seed(4)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), Discriminator(model()).parameters(), strict=True))


@torch.no_grad()
def test_features_are_what_the_forward_goes_through() -> None:
    """The head on the last block's features is the prediction; asking for fewer changes none."""
    network, data = model(), batch()
    timestep = torch.full((2, sum(FRAMES)), 300.0)
    see = Full(network.rope, grid_positions(sum(FRAMES), SIDE // 2, SIDE // 2))
    first, last = network.features(data.latents, timestep, data.text, see, (0, 1))
    assert torch.equal(first, network.features(data.latents, timestep, data.text, see, (0,))[0])
    e, _ = network.condition_embedder.time(timestep, torch.float32)
    shift, scale = (network.scale_shift_table + e[:, :, None]).split(1, dim=2)
    tokens = network.proj_out(network.norm_out(last) * (1 + scale) + shift)
    expected = network(data.latents, timestep, data.text, see)
    assert torch.equal(tokens[0, 0, 0].unflatten(0, (2, 2, -1)).permute(2, 0, 1), expected[0, :, 0, :2, :2])


@every_penalty
def test_a_constant_verdict_is_not_steep(penalty: Penalty) -> None:
    verdict, x = judged(Discriminator(model()))
    assert penalty(verdict, x, torch.Generator()) == 0


@every_penalty
def test_the_steepness_of_a_plane(penalty: Penalty) -> None:
    """Its squared slope; of several logits, that of their sum."""
    slope = torch.randn(2, 1, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plane = lambda x: torch.stack([(x * each).flatten(1).sum(1) for each in slope], dim=1)  # noqa: E731
    x = torch.zeros(20000, 1, 1, 2, 2, dtype=torch.float64)
    expected = slope.sum(0).square().sum().item()
    assert float(penalty(plane, x, torch.Generator().manual_seed(1))) == pytest.approx(expected, rel=0.05)


def test_finite_differences_estimate_the_exact_steepness() -> None:
    network, data = opinionated().double(), batch((2,))
    sigma, rows = torch.full((512, 2), 0.3, dtype=torch.float64), slice(0, 1)
    assert data.text.mask is not None
    text = TextContext(
        data.text.tokens[rows].double().expand(512, -1, -1, -1), (2,), data.text.mask[rows].expand(512, -1, -1)
    )
    x = data.latents[rows].double().expand(512, -1, -1, -1, -1)

    def verdict(x: Tensor) -> Tensor:
        rows = slice(0, len(x))
        assert text.mask is not None
        return network(x, sigma[rows], TextContext(text.tokens[rows], text.frames, text.mask[rows]))

    with torch.no_grad():
        found = FiniteDifference(1e-3)(verdict, x, torch.Generator().manual_seed(0))
    exact = Exact()(verdict, x[:1], torch.Generator()).item()
    assert exact > 1e-6
    assert found.item() == pytest.approx(exact, rel=0.2)


@every_penalty
def test_steepness_can_be_learned_away(penalty: Penalty) -> None:
    network = opinionated()
    verdict, x = judged(network)
    penalty(verdict, x, torch.Generator().manual_seed(0)).backward()
    assert network.trunk.patch_embedding.weight.grad is not None
    assert network.trunk.patch_embedding.weight.grad.any() and network.logit.weight.grad.any()
