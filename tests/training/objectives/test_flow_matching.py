"""Flow matching: an oracle has no loss, and every part does what it says and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from blockvid.attention.policies import Semantic, Window
from blockvid.batch import Batch
from blockvid.errors import InputError
from blockvid.flow import ChunkSchedule, velocity
from blockvid.model.dit import TextContext
from blockvid.training.densities import CleanPrefix, Independent, Scheduled, Shared
from blockvid.training.objective import Objective
from blockvid.training.objectives import BlockForcing, FlowMatching
from blockvid.training.objectives.visibility import Bidirectional, Causal, RandomlyRecalling, TeacherForcing
from training.made_batches import EMPTY, FRAMES, batch, model, oracle

OBJECTIVES = [
    FlowMatching(),
    FlowMatching(Shared(), Bidirectional()),
    FlowMatching(Independent(), TeacherForcing(noise=0.1), context_dropout=0.3),
    FlowMatching(CleanPrefix(Scheduled()), Causal(Semantic(1, 1)), shift=3.0),
    FlowMatching(visibility=RandomlyRecalling(), context_dropout=0.5, text_dropout=0.5),
]
every_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=range(len(OBJECTIVES)))


def loss(objective: Objective, network: torch.nn.Module, given: Batch, seed: int = 0) -> Tensor:
    return objective({"model": network}, given, EMPTY, 0, torch.Generator().manual_seed(seed)).due["model"]


@every_objective
def test_an_oracle_has_no_loss(objective: FlowMatching) -> None:
    given = batch(rows=4)
    assert loss(objective, oracle(given.latents), given) < 1e-6
    assert loss(objective, oracle(given.latents + 1), given) > 0.1


@every_objective
def test_a_step_depends_on_the_generator_alone(objective: FlowMatching) -> None:
    given, network = batch(), model()
    torch.manual_seed(1)
    first = loss(objective, network, given)
    torch.manual_seed(2)
    assert torch.equal(loss(objective, network, given), first)
    assert not torch.equal(loss(objective, network, given, seed=1), first)
    assert objective.networks(network) == {}


@every_objective
def test_every_weight_is_trained(objective: FlowMatching) -> None:
    network = model()
    loss(objective, network, batch()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in network.parameters())


def test_schedule_and_levels_reach_the_model() -> None:
    given = batch(rows=3)
    knows = oracle(given.latents)
    loss(FlowMatching(Scheduled(ChunkSchedule("cosine"), independent=0.0)), knows, given)
    _, timestep, _, _ = knows.asked[0]
    eps = torch.repeat_interleave(ChunkSchedule("cosine").levels(5).float(), torch.tensor(FRAMES))
    shared = timestep / (1000 * eps)
    torch.testing.assert_close(shared, shared[:, :1].expand(-1, sum(FRAMES)))


def test_context_carries_no_loss_and_weights_weigh() -> None:
    """Errors in clean chunks, and where the weight is 0, cost nothing; elsewhere the mean is weighted."""
    given, context = batch(), FlowMatching(Independent(clean=1.0))
    assert loss(context, oracle(given.latents + 1), given) == 0
    prefix = FlowMatching(CleanPrefix(Shared()), text_dropout=0.0)
    drawn = prefix.example(given, EMPTY, torch.Generator().manual_seed(0))
    in_context = drawn.per_frame(1 - drawn.target)[:, None, :, None, None]
    assert 0 < in_context.mean() < 1
    assert loss(prefix, oracle(given.latents + in_context), given) < 1e-6
    weight = torch.ones(2, 1, 10, 4, 4)
    weight[..., 0] = 7
    right = torch.zeros(2, 4, 10, 4, 4)
    right[..., 1:] = 1
    free = replace(given, weight=torch.where(torch.arange(4) == 0, weight, 0.0))
    every = FlowMatching(Shared(), shift=1.0)
    assert loss(every, oracle(given.latents + right), free) < 1e-6
    heavy = replace(given, weight=weight)
    sigma = every.example(given, EMPTY, torch.Generator().manual_seed(0)).sigma[:, 0]
    expected = (3 * (1 / sigma.square())).sum() / (2 * 10)
    torch.testing.assert_close(loss(every, oracle(given.latents + right), heavy), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_prompts_are_dropped_as_often_as_asked(share: float) -> None:
    given = batch(rows=400)
    text = FlowMatching(text_dropout=share).example(given, EMPTY, torch.Generator().manual_seed(0)).text
    assert text.mask is not None and given.text.mask is not None
    dropped = (text.tokens == 0).all(-1).all(-1)
    assert dropped.float().mean().item() == pytest.approx(share, abs=0.04)
    assert torch.equal(text.tokens[~dropped], given.text.tokens[~dropped])
    assert torch.equal(text.mask[~dropped], given.text.mask[~dropped])
    assert (text.mask[dropped] == EMPTY.mask).all()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_context_is_dropped_as_often_as_asked(share: float) -> None:
    given = batch(rows=400)
    plain, drawn = (
        FlowMatching(context_dropout=each).example(given, EMPTY, torch.Generator().manual_seed(0))
        for each in (0.0, share)
    )
    assert drawn.alone.float().mean().item() == pytest.approx(share, abs=0.04)
    assert torch.equal(plain.noisy, drawn.noisy) and torch.equal(plain.text.tokens, drawn.text.tokens)


def test_a_short_empty_prompt_is_padded() -> None:
    """Unpadded prompts of a batch are as long as its longest; the empty one may be of one token."""
    given, network = batch(), model()
    one = TextContext(EMPTY.tokens[:, :, :1], (1,), torch.ones(1, 1, 1, dtype=torch.bool))
    generator = torch.Generator().manual_seed(0)
    short = FlowMatching(text_dropout=1.0)({"model": network}, given, one, 0, generator).due["model"]
    assert torch.equal(short, loss(FlowMatching(text_dropout=1.0), network, given))
    longer = TextContext(torch.zeros(1, 1, 9, 8), (1,), torch.ones(1, 1, 9, dtype=torch.bool))
    kept = given.text.without(torch.zeros(2, 5, dtype=torch.bool), longer)
    assert kept.mask is not None and given.text.mask is not None
    assert torch.equal(kept.mask[..., :5], given.text.mask) and not kept.mask[..., 5:].any()
    unmasked = TextContext(one.tokens, (1,), None)
    with pytest.raises(InputError, match="prompts of 1 and 5 slots without a mask"):
        given.text.without(torch.ones(2, 5, dtype=torch.bool), unmasked)


def test_the_velocity_is_the_target() -> None:
    """A model that predicts zero loses the mean square of eps - x0."""
    given, network = batch(), model()
    torch.nn.init.zeros_(network.proj_out.weight)
    torch.nn.init.zeros_(network.proj_out.bias)
    drawn = FlowMatching(Shared()).example(given, EMPTY, torch.Generator().manual_seed(0))
    expected = velocity(drawn.x0, drawn.eps).square().mean()
    torch.testing.assert_close(loss(FlowMatching(Shared()), network, given), expected)


def test_objectives_are_values() -> None:
    assert FlowMatching(Shared()) == FlowMatching(Shared()) != FlowMatching(Shared(), Causal(Window(3)))
    assert isinstance(FlowMatching(), Objective) and isinstance(BlockForcing(), Objective)
    with pytest.raises(InputError, match="text_dropout 2 is not a number from 0 to 1"):
        FlowMatching(text_dropout=2)
