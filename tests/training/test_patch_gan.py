"""A critic of small pieces of clips."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from blockvid.errors import InputError
from blockvid.training.objective import Losses
from blockvid.training.patch_gan import PatchCritic, PatchGAN

SETTINGS = PatchGAN(alone=0, width=4)


def clips(seed: int) -> torch.Tensor:
    return torch.rand(2, 3, 9, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def judged(settings: PatchGAN, critic: PatchCritic, made: torch.Tensor, real: torch.Tensor, step: int = 0) -> Losses:
    return settings(critic, made, real, torch.ones_like(real[:, :1]), step, torch.Generator().manual_seed(0))


def test_each_loss_has_gradients_in_its_own_network_alone() -> None:
    torch.manual_seed(0)
    critic, made = PatchCritic(4), clips(0).requires_grad_()
    losses = judged(SETTINGS, critic, made, clips(1))
    losses.due["model"].backward()
    assert made.grad is not None and made.grad.abs().min() > 0
    assert all(p.grad is None for p in critic.parameters())
    made.grad = None
    losses.due["critic"].backward()
    assert made.grad is None
    assert all(p.grad is not None and p.grad.any() for p in critic.parameters())


def test_a_critic_without_opinion_costs_log_two() -> None:
    critic = PatchCritic(4)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.zero_()
    found = judged(replace(SETTINGS, weight=0.3), critic, clips(0), clips(1))
    assert found.due["critic"].item() == pytest.approx(0.6931, abs=1e-4)
    assert found.due["model"].item() == pytest.approx(0.3 * 0.6931, abs=1e-4)
    assert found.logged["told_apart"] == 0


def test_features_of_the_same_clips_are_at_no_distance() -> None:
    torch.manual_seed(0)
    critic, settings = PatchCritic(4), PatchGAN(weight=0.0, features=1.0, alone=0)
    assert judged(settings, critic, clips(0), clips(0)).due["model"] == 0
    assert judged(settings, critic, clips(1), clips(0)).due["model"] > 0


def test_the_critic_is_not_listened_to_while_it_is_alone() -> None:
    torch.manual_seed(0)
    critic = PatchCritic(4)
    made = [judged(PatchGAN(alone=5), critic, clips(0), clips(1), step).due["model"].item() for step in (4, 5)]
    assert made[0] == 0 and made[1] > 0


def test_a_steep_verdict_is_dear_at_every_lazy_step() -> None:
    torch.manual_seed(0)
    critic = PatchCritic(4)
    found = [
        judged(replace(SETTINGS, steepness=weight, lazy=3), critic, clips(0), clips(1), step)
        for weight, step in ((0.0, 3), (2.0, 3), (2.0, 4))
    ]
    free, dear, between = (each.due["critic"].item() for each in found)
    slope = found[1].logged["steepness"].item()
    assert slope > 0 and dear == pytest.approx(free + 3 * 2.0 * slope, rel=1e-5)
    assert between == free and "steepness" not in found[2].logged


def test_the_slope_is_the_mean_of_single_logits() -> None:
    """Of a critic whose every logit is 3 times one number of the clip: 9, however many there are."""
    critic = PatchCritic(1)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.zero_()
        for layer in critic.layers:
            assert isinstance(layer, torch.nn.Conv3d)
            layer.weight[0, 0, 1, 1, 1] = 1.0
        critic.logit.weight.fill_(3.0)
    bright = torch.full((4, 3, 16, 64, 64), 5.0)  # so that every layer passes it on as it is
    assert judged(SETTINGS, critic, bright, bright).logged["steepness"].item() == pytest.approx(9.0, rel=0.05)


def test_a_logit_sees_26_pixels_and_12_frames() -> None:
    torch.manual_seed(0)
    critic, x = PatchCritic(4), torch.randn(1, 3, 33, 64, 64, requires_grad=True)
    logits, _ = critic(x)
    assert logits.shape == (1, 1, 16, 16, 16)
    logits[0, 0, 8, 8, 8].backward()
    assert x.grad is not None
    seen = x.grad[0].abs().sum(0) > 0
    spans = [seen.flatten(1).any(1).sum(), seen.any(0).any(1).sum(), seen.any(0).any(0).sum()]
    assert [int(span) for span in spans] == [12, 26, 26]


def test_it_learns_to_tell_a_blur_and_asks_for_detail() -> None:
    torch.manual_seed(0)
    critic = PatchCritic(8)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=3e-3)

    def pair(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        real = clips(seed)
        return real, F.avg_pool3d(real, (1, 3, 3), 1, (0, 1, 1))

    for seed in range(30):
        real, blurred = pair(seed)
        optimizer.zero_grad()
        judged(SETTINGS, critic, blurred, real).due["critic"].backward()
        optimizer.step()
    real, blurred = pair(100)
    blurred.requires_grad_()
    losses = judged(replace(SETTINGS, features=0.0), critic, blurred, real)
    assert losses.logged["told_apart"] > 0.95
    losses.due["model"].backward()
    assert blurred.grad is not None
    with torch.no_grad():
        moved = blurred - 0.5 * blurred.grad / blurred.grad.std()

    def detail(x: torch.Tensor) -> float:
        return x.diff(dim=-1).abs().mean().item()

    assert detail(moved) > 1.2 * detail(blurred)


def test_refuses_what_is_no_weight() -> None:
    with pytest.raises(InputError, match="weight -1 is negative; use 0 for none"):
        PatchGAN(weight=-1)
    with pytest.raises(InputError, match="width 0 is less than 1"):
        PatchGAN(width=0)
