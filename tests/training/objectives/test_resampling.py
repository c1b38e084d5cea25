"""Context with the model's own faults: what has none is the data, and what has some is seen but not aimed at."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from blockvid.batch import Batch
from blockvid.errors import InputError
from blockvid.flow import noised, velocity
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.training.densities import CleanPrefix, Shared
from blockvid.training.objectives import BlockForcing, FlowMatching, Resampling
from training.made_batches import EMPTY, batch, model, oracle

NOTHING = TextContext(torch.zeros(2, 5, 5, 8), (3, 2, 2, 2, 1), EMPTY.mask.expand(2, 5, 5))


def resampled(how: Resampling, network: BlockDiT, given: Batch, seed: int = 0) -> Tensor:
    return how(network, given, NOTHING, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_an_oracle_leads_back_to_the_data(steps: int, guidance: float) -> None:
    given = batch()
    made = resampled(Resampling(steps=steps, guidance=guidance), oracle(given.latents), given)
    torch.testing.assert_close(made, given.latents, atol=1e-5, rtol=0)


def test_what_the_model_believes_in_is_what_becomes_of_the_data() -> None:
    given = batch()
    torch.testing.assert_close(
        resampled(Resampling(), oracle(given.latents + 1), given), given.latents + 1, atol=1e-5, rtol=0
    )


def test_levels_fall_from_one_drawn_in_between_and_are_a_rows_own() -> None:
    given = batch(rows=2)
    knows = oracle(given.latents)
    resampled(Resampling(lowest=0.4, highest=0.8, steps=4, guidance=1.0), knows, given)
    levels = torch.stack([timestep / 1000 for _, timestep, _, _ in knows.asked])
    assert levels.shape[0] == 4 and (levels[:-1] > levels[1:]).all() and (levels[-1] > 0).all()
    assert (levels[0] >= 0.4).all() and (levels[0] <= 0.8).all()
    assert torch.equal(levels, levels[..., :1].expand_as(levels)) and levels[0, 0, 0] != levels[0, 1, 0]


def test_guidance_leads_away_from_the_negative_prompt() -> None:
    given, network = batch(), model()
    one, none, three = (resampled(Resampling(steps=1, guidance=scale), network, given) for scale in (1.0, 0.0, 3.0))
    assert not torch.allclose(one, none)
    torch.testing.assert_close(three, none + 3 * (one - none), atol=1e-4, rtol=1e-4)


def test_chunks_see_what_came_before_and_nothing_later() -> None:
    given, network = batch(), model()
    how = Resampling(steps=1)
    before = resampled(how, network, given)
    changed = given.latents.clone()
    changed[:, :, 5:7] += 1  # the third of five chunks
    after = resampled(how, network, replace(given, latents=changed))
    moved = (before - after).abs().amax((0, 1, 3, 4)) > 1e-6
    assert moved.tolist() == [False] * 5 + [True] * 5


def test_flow_matching_shows_it_and_aims_at_the_data() -> None:
    """Chunks that are context are the resampled ones; the loss of the rest is of the data's velocity."""
    given, network = batch(), model()
    how = Resampling(share=1.0)
    flow = FlowMatching(CleanPrefix(Shared(), noise=0.0), resampling=how)
    loss = flow({"model": network}, given, EMPTY, 0, torch.Generator().manual_seed(3)).due["model"]
    generator = torch.Generator().manual_seed(3)
    torch.rand((), generator=generator)
    context = how(network, given, NOTHING, generator)
    example = flow.example(given, EMPTY, generator, context)
    clean = example.per_frame(example.target)[:, None, :, None, None] == 0
    assert 0 < clean.float().mean() < 1
    of = torch.where(clean, context, given.latents)
    assert torch.equal(example.noisy, noised(of, example.eps, example.per_frame(example.sigma)))
    error = (flow.predict({"model": network}, example, generator) - velocity(given.latents, example.eps)).square()
    torch.testing.assert_close(loss, error.masked_select(~clean).mean(), rtol=1e-5, atol=0)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_block_forcing_shows_it_too() -> None:
    """Without history in its target it is flow matching, to the bit."""
    given, network = batch(), model()
    flow = FlowMatching(CleanPrefix(Shared(), noise=0.0), resampling=Resampling(share=1.0))
    plain, block, forced = (
        objective({"model": network}, given, EMPTY, 0, torch.Generator().manual_seed(3)).due["model"]
        for objective in (replace(flow, resampling=None), flow, BlockForcing(gamma=0.0, flow=flow))
    )
    assert torch.equal(block, forced) and not torch.equal(block, plain)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_as_many_batches_are_resampled_as_asked(share: float) -> None:
    given = batch()
    forwards = []
    for seed in range(100):
        knows = oracle(given.latents)
        flow = FlowMatching(resampling=Resampling(share, guidance=1.0, steps=1))
        flow({"model": knows}, given, EMPTY, 0, torch.Generator().manual_seed(seed))
        forwards.append(len(knows.asked))
    assert set(forwards) <= {1, 2} and forwards.count(2) == pytest.approx(100 * share, abs=15)


def test_what_cannot_be_resampled_is_said() -> None:
    with pytest.raises(InputError, match=r"levels from 0.9 to 0.3 are not within \(0, 1\); use 0.3 to 0.9"):
        Resampling(lowest=0.9, highest=0.3)
    with pytest.raises(InputError, match="steps 0 is less than 1"):
        Resampling(steps=0)
    with pytest.raises(InputError, match="share 2"):
        Resampling(share=2.0)
