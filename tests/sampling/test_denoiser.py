"""Laws of denoisers around denoisers."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from blockvid.attention.attend import Attend
from blockvid.errors import InputError
from blockvid.flow import noised, over_frames, velocity
from blockvid.model.dit import TextContext
from blockvid.sampling.denoiser import GuidanceRule, Guided, VelocityDenoiser


def unseen(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """An Attend for models without attention."""
    return v


def draw(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, 3, 4, 2, 2, generator=torch.Generator().manual_seed(seed))


def words(rows: int) -> TextContext:
    return TextContext(torch.randn(rows, 1, 5, 3, generator=torch.Generator().manual_seed(9)), frames=(4,))


@dataclass
class Told:
    """A denoiser that reads: x pulled towards its row's text, more so at high levels. Counts the rows it was given."""

    rows: list[int] = field(default_factory=list)

    def __call__(self, x: Tensor, sigma: Tensor, text: TextContext, attend: Attend) -> Tensor:
        self.rows.append(len(x))
        wish = text.tokens.mean(dim=(1, 2))[:, :, None, None, None]
        return x + over_frames(sigma) * (wish - x.sin())


@dataclass
class Path:
    """A model that knows the velocity, and what it was asked."""

    v: Tensor
    dtype: torch.dtype = torch.float32
    asked: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __call__(self, latents: Tensor, timestep: Tensor, text: TextContext, attend: Attend) -> Tensor:
        self.asked.append((latents, timestep))
        return self.v.to(self.dtype)


def test_a_velocity_model_is_asked_at_timesteps_and_answers_with_data() -> None:
    x0, eps, sigma = draw(2), draw(2, seed=1), torch.tensor([[0.0, 0.1, 0.5, 1.0]] * 2)
    model = Path(velocity(x0, eps))
    predicted = VelocityDenoiser(model)(noised(x0, eps, sigma), sigma, words(2), unseen)
    torch.testing.assert_close(predicted, x0)
    _, timestep = model.asked[0]
    torch.testing.assert_close(timestep[0], torch.tensor([0.0, 100.0, 500.0, 1000.0]))


def test_a_clean_frame_is_its_own_prediction() -> None:
    x = draw(1)
    assert torch.equal(VelocityDenoiser(Path(draw(1, seed=1)))(x, torch.zeros(1, 4), words(1), unseen), x)


def test_a_half_precision_model_leaves_latents_and_timesteps_in_full() -> None:
    x, model = draw(1), Path(draw(1, seed=1), dtype=torch.bfloat16)
    predicted = VelocityDenoiser(model)(x, torch.full((1, 4), 0.9987), words(1), unseen)
    latents, timestep = model.asked[0]
    assert (predicted.dtype, latents.dtype, timestep.dtype) == (torch.float32, torch.bfloat16, torch.float32)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, 7.0])
@pytest.mark.parametrize("rows", [1, 2])
def test_guidance_is_its_formula(scale: float, rows: int) -> None:
    x, sigma, text = draw(rows), torch.full((rows, 4), 0.7), words(2 * rows)
    told = Told()
    guided = Guided(told, scale)(x, sigma, text, unseen)
    cond, uncond = (Told()(x, sigma, TextContext(half, (4,)), unseen) for half in text.tokens.chunk(2))
    torch.testing.assert_close(guided, uncond + scale * (cond - uncond))
    assert told.rows == [2 * rows]


@pytest.mark.parametrize("rows", [1, 2])
def test_scale_one_is_the_conditional_exactly_and_without_negative_rows_costs_no_more(rows: int) -> None:
    x, sigma = draw(rows), torch.full((rows, 4), 0.7)
    text = words(2 * rows)
    conditional = TextContext(text.tokens[:rows], text.frames)
    alone = Told()(x, sigma, conditional, unseen)
    told = Told()
    assert torch.equal(Guided(told, 1.0)(x, sigma, conditional, unseen), alone)
    assert torch.equal(Guided(told, 1.0)(x, sigma, text, unseen), alone)
    assert told.rows == [rows, 2 * rows]


@pytest.mark.parametrize("rule", ["cfg", "cfg-zero"])
def test_guidance_leaves_clean_frames_alone(rule: GuidanceRule) -> None:
    """And what a clean frame holds says nothing about how far the others go."""
    x, clean = draw(1), torch.tensor([[0.0, 0.7, 0.7, 0.7]])
    assert torch.equal(Guided(Told(), 6.0, rule)(x, torch.zeros(1, 4), words(2), unseen), x)
    found = Guided(Told(), 6.0, rule)(x, clean, words(2), unseen)
    assert torch.equal(found[:, :, 0], x[:, :, 0])
    other = torch.cat((5 + x[:, :, :1], x[:, :, 1:]), dim=2)
    torch.testing.assert_close(Guided(Told(), 6.0, rule)(other, clean, words(2), unseen)[:, :, 1:], found[:, :, 1:])


@pytest.mark.parametrize("rows", [1, 2])
def test_cfg_zero_guides_from_the_multiple_of_the_negative_velocity_that_is_nearest(rows: int) -> None:
    """By least squares of velocities; and one that only goes on further in its own direction is not led anywhere."""
    x, sigma, text = draw(rows), torch.full((rows, 4), 0.7), words(2 * rows)
    guided = Guided(Told(), 3.0, "cfg-zero")(x, sigma, text, unseen)
    halves = [TextContext(half, (4,)) for half in text.tokens.chunk(2)]
    cond, uncond = ((x - Told()(x, sigma, half, unseen)) / 0.7 for half in halves)
    for row in range(rows):
        c, u = cond[row].flatten(), uncond[row].flatten()
        nearest = torch.linalg.lstsq(u[:, None], c[:, None]).solution.squeeze() * u
        torch.testing.assert_close(guided[row].flatten(), x[row].flatten() - 0.7 * torch.lerp(nearest, c, 3.0))
    v = draw(1)
    parallel = Guided(VelocityDenoiser(Path(torch.cat((2 * v, v)))), 5.0, "cfg-zero")
    torch.testing.assert_close(parallel(x[:1], sigma[:1], words(2), unseen), x[:1] - 0.7 * 2 * v)


def test_guidance_without_negative_rows_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"1 text rows for 1 latents at guidance 5\.0: .* add the negative rows"):
        Guided(Told(), 5.0)(draw(1), torch.ones(1, 4), words(1), unseen)
