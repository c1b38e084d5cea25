"""What tells a roll-out that it is not yet like the data: a discriminator, or the difference of two scores.

Each trains a network of its own against the student, and gives the student a gradient through its roll-out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from blockvid.errors import InputError
from blockvid.flow import noised, sample_sigma, velocity, x0_from_velocity
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.training.discriminator import Discriminator, FiniteDifference, Penalty, Scope, Verdict
from blockvid.training.objective import Losses
from blockvid.training.objectives.visibility import Bidirectional, Example, Visibility

Pairing = Literal["separate", "relativistic"]
"""Whether a logit is for a sample alone, or for how much more real a real sample is than a generated one."""

LEAST, MOST = 0.02, 0.98  # levels at which samples are judged: all of them noisy, none of them noise alone


@dataclass(frozen=True)
class Scene:
    """A roll-out, and the real latents of the same chunks under the same prompts."""

    rolled: Float[Tensor, "b c f h w"]
    real: Float[Tensor, "b c f h w"]
    text: TextContext
    pooled: Float[Tensor, "b n d"]
    empty: TextContext

    @property
    def unprompted(self) -> TextContext:
        """No prompt for every chunk."""
        return self.empty.spread(len(self.rolled), self.text.frames)


@runtime_checkable
class Adversary(Protocol):
    """Who judges roll-outs. `ratio`: roll-outs from one update of the student to the next; the judge learns at each."""

    @property
    def ratio(self) -> int: ...

    def networks(self, base: BlockDiT) -> dict[str, nn.Module]:
        """The one it trains, and frozen ones."""
        ...

    def for_model(self, networks: Mapping[str, nn.Module], scene: Scene, generator: torch.Generator) -> Losses:
        """The student's loss, differentiable in scene.rolled and in nothing else."""
        ...

    def for_judge(self, networks: Mapping[str, nn.Module], scene: Scene, generator: torch.Generator) -> Losses:
        """The loss of the network it trains, differentiable in that network and in nothing else."""
        ...


@dataclass(frozen=True)
class GAN:
    """Non-saturating: softplus(-f) for the student, softplus(-r) + softplus(f) for the discriminator (Eq. 1).

    "relativistic" pairs each real sample with a generated one: softplus(r - f) and softplus(f - r) (Jolicoeur-Martineau
    2018, arXiv 1807.00734). Both are judged at one random level and under one noise. `r1` and `r2` weigh half the
    steepness at real and at generated samples. Raises InputError for a negative weight.
    """

    pairing: Pairing = "separate"
    weight: float = 0.01
    """Of the student's loss."""
    r1: float = 0.0
    r2: float = 0.0
    penalty: Penalty = FiniteDifference()
    scope: Scope = "video"
    shift: float = 5.0
    ratio: int = 5

    def __post_init__(self) -> None:
        if self.pairing not in get_args(Pairing):
            raise InputError(f"pairing {self.pairing!r} is unknown; use {', '.join(get_args(Pairing))}")
        if min(self.weight, self.r1, self.r2) < 0:
            raise InputError(f"weight {self.weight}, r1 {self.r1}, r2 {self.r2}: one is negative; use 0 for none")
        _check_ratio(self.ratio)

    def networks(self, base: BlockDiT) -> dict[str, nn.Module]:
        """A discriminator that starts from the base."""
        return {"discriminator": Discriminator(base, self.scope)}

    def for_model(self, networks: Mapping[str, nn.Module], scene: Scene, generator: torch.Generator) -> Losses:
        judged = _Judged.of(networks["discriminator"], scene, self.shift, generator)

        def loss(rolled: Tensor) -> Tensor:
            return F.softplus(-self._lead(judged(rolled), real)).mean()

        with torch.no_grad():
            real = judged(scene.real) if self.pairing == "relativistic" else torch.zeros(())
        return Losses({"model": self.weight * through(loss, scene.rolled)}, {})

    def for_judge(self, networks: Mapping[str, nn.Module], scene: Scene, generator: torch.Generator) -> Losses:
        judged = _Judged.of(networks["discriminator"], scene, self.shift, generator)
        rolled = scene.rolled.detach()
        real, fake = judged(scene.real), judged(rolled)
        if self.pairing == "relativistic":
            loss = F.softplus(fake - real).mean()
        else:
            loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        logged = {"real_logit": real.detach().mean(), "fake_logit": fake.detach().mean()}
        for name, weight, latents in (("r1", self.r1, scene.real), ("r2", self.r2, rolled)):
            if weight:
                steepness = self.penalty(judged.verdict, judged.noisy(latents), generator)
                loss = loss + 0.5 * weight * steepness
                logged[name] = steepness.detach()
        return Losses({"discriminator": loss}, logged)

    def _lead(self, fake: Tensor, real: Tensor) -> Tensor:
        return fake - real if self.pairing == "relativistic" else fake


@dataclass(frozen=True)
class Scores:
    """A frozen copy of the base that knows the data, and a critic, at first the same, that learns the roll-outs.

    Both predict x0 from a roll-out noised to one level; the teacher is guided. `visibility` should be one that the base
    was trained with; Self Forcing's teachers are bidirectional.
    """

    guidance: float = 4.0
    shift: float = 5.0
    visibility: Visibility = Bidirectional()

    def networks(self, base: BlockDiT) -> dict[str, nn.Module]:
        """The critic and the teacher."""
        return {
            "critic": copy.deepcopy(base).requires_grad_(True),
            "teacher": copy.deepcopy(base).requires_grad_(False),
        }

    def noising(self, scene: Scene, generator: torch.Generator) -> Callable[[Tensor], Example]:
        """Latents at a random level, the same for all their frames, under noise that is drawn once."""
        (rows, chunks), like = scene.text.tokens.shape[:2], scene.real
        sigma = _levels(rows, self.shift, generator).to(like.device)[:, None].expand(rows, chunks)
        eps = torch.randn(like.shape, generator=generator).to(like)
        alone = torch.zeros(rows, chunks, dtype=torch.bool)
        return lambda x: Example(x, x, eps, sigma, torch.ones_like(sigma), alone, scene.text, scene.pooled)

    def beliefs(
        self, networks: Mapping[str, nn.Module], example: Example, scene: Scene, generator: torch.Generator
    ) -> tuple[Float[Tensor, "b c f h w"], Float[Tensor, "b c f h w"]]:
        """x0 as the critic and as the guided teacher see it."""
        fake = self._x0(networks["critic"], example, generator)
        real = self._x0(networks["teacher"], example, generator)
        if self.guidance == 1:
            return fake, real
        unprompted = self._x0(networks["teacher"], replace(example, text=scene.unprompted), generator)
        return fake, torch.lerp(unprompted, real, self.guidance)

    def for_critic(self, networks: Mapping[str, nn.Module], scene: Scene, generator: torch.Generator) -> Losses:
        """Flow matching on roll-outs."""
        example = self.noising(scene, generator)(scene.rolled.detach())
        predicted = self._velocity(networks["critic"], example, generator)
        return Losses({"critic": (predicted - velocity(example.x0, example.eps)).square().mean()}, {})

    def _x0(self, network: nn.Module, example: Example, generator: torch.Generator) -> Tensor:
        v = self._velocity(network, example, generator)
        return x0_from_velocity(example.noisy, v, example.per_frame(example.sigma))

    def _velocity(self, network: nn.Module, example: Example, generator: torch.Generator) -> Tensor:
        assert isinstance(network, BlockDiT)
        return self.visibility(network, example, generator).to(example.x0.dtype)


@dataclass(frozen=True)
class DMD:
    """Distribution matching: 1/2 mean (x - sg(x - g))^2, g = (x0_critic - x0_teacher) / mean |x - x0_teacher|.

    So the gradient is g / numel, x a roll-out (DMD2, Yin et al. 2024, arXiv 2405.14867, as Self Forcing has it).
    """

    scores: Scores = Scores()
    weight: float = 1.0
    ratio: int = 5

    def __post_init__(self) -> None:
        _check_ratio(self.ratio)

    def networks(self, base: BlockDiT) -> dict[str, nn.Module]:
        """The critic and the teacher."""
        return self.scores.networks(base)

    @torch.no_grad()
    def direction(
        self, networks: Mapping[str, nn.Module], scene: Scene, generator: torch.Generator
    ) -> Float[Tensor, "b c f h w"]:
        """g, from what the teacher believes in towards what the critic believes in."""
        example = self.scores.noising(scene, generator)(scene.rolled)
        fake, real = self.scores.beliefs(networks, example, scene, generator)
        return (fake - real) / _distance(scene.rolled, real)

    def for_model(self, networks: Mapping[str, nn.Module], scene: Scene, generator: torch.Generator) -> Losses:
        g = self.direction(networks, scene, generator)
        loss = 0.5 * (scene.rolled - (scene.rolled - g).detach()).square().mean()
        return Losses({"model": self.weight * loss}, {"direction": g.abs().mean()})

    def for_judge(self, networks: Mapping[str, nn.Module], scene: Scene, generator: torch.Generator) -> Losses:
        return self.scores.for_critic(networks, scene, generator)


@dataclass(frozen=True)
class SiD:
    """Score identity distillation: mean d ((x0_teacher - x) - alpha d) / mean |x - x0_teacher|.

    d = x0_teacher - x0_critic, x a roll-out; the gradient passes both networks, the divisor is a constant (Zhou et al.
    2024, arXiv 2404.04057, in x0; as Self Forcing has it).
    """

    scores: Scores = Scores()
    alpha: float = 1.0
    weight: float = 1.0
    ratio: int = 5

    def __post_init__(self) -> None:
        _check_ratio(self.ratio)

    def networks(self, base: BlockDiT) -> dict[str, nn.Module]:
        """The critic and the teacher."""
        return self.scores.networks(base)

    def for_model(self, networks: Mapping[str, nn.Module], scene: Scene, generator: torch.Generator) -> Losses:
        noising = self.scores.noising(scene, generator)

        def loss(rolled: Tensor) -> Tensor:
            fake, real = self.scores.beliefs(networks, noising(rolled), scene, generator)
            d = real - fake
            return (d * ((real - rolled) - self.alpha * d) / _distance(rolled, real)).mean()

        return Losses({"model": self.weight * through(loss, scene.rolled)}, {})

    def for_judge(self, networks: Mapping[str, nn.Module], scene: Scene, generator: torch.Generator) -> Losses:
        return self.scores.for_critic(networks, scene, generator)


def through(loss: Callable[[Tensor], Float[Tensor, ""]], x: Tensor) -> Float[Tensor, ""]:
    """loss(x), differentiable in x alone: the networks that the loss passes get no gradient, frozen or not.

    Their graph is gone when this returns, before the student's is walked.
    """
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        value = loss(leaf)
        (slope,) = torch.autograd.grad(value, leaf)
    return value.detach() + (slope * (x - leaf.detach())).sum()


@dataclass(frozen=True)
class _Judged:
    """A discriminator at one level, noise and text."""

    verdict: Verdict
    sigma: Float[Tensor, "b f"]
    eps: Float[Tensor, "b c f h w"]

    @classmethod
    def of(cls, network: nn.Module, scene: Scene, shift: float, generator: torch.Generator) -> _Judged:
        rows, frames = scene.real.shape[0], scene.real.shape[2]
        sigma = _levels(rows, shift, generator).to(scene.real.device)[:, None].expand(rows, frames)
        eps = torch.randn(scene.real.shape, generator=generator).to(scene.real)
        return cls(lambda noisy: network(noisy, sigma, scene.text), sigma, eps)

    def noisy(self, latents: Tensor) -> Tensor:
        return noised(latents, self.eps, self.sigma)

    def __call__(self, latents: Tensor) -> Float[Tensor, "b m"]:
        return self.verdict(self.noisy(latents))


def _levels(rows: int, shift: float, generator: torch.Generator) -> Float[Tensor, " b"]:
    return sample_sigma((rows,), shift, generator).clamp(LEAST, MOST)


def _distance(x: Tensor, real: Tensor) -> Float[Tensor, "b 1 1 1 1"]:
    """Mean |x - real| of each sample, a constant; never 0."""
    return (x - real).detach().abs().mean(dim=(1, 2, 3, 4), keepdim=True).clamp(min=1e-6)


def _check_ratio(ratio: int) -> None:
    if ratio < 1:
        raise InputError(f"a student updated every {ratio} roll-outs is never updated; use 1 or more")
