"""Block Forcing: the identities between its targets, and a reference that is history and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from blockvid.attention.policies import similarity
from blockvid.errors import InputError
from blockvid.flow import over_frames, velocity
from blockvid.model.dit import BlockDiT
from blockvid.training.densities import CleanPrefix, Independent
from blockvid.training.objectives import BlockForcing, FlowMatching
from blockvid.training.objectives.block_forcing import Target
from blockvid.training.objectives.flow_matching import mean_over_targets, squared
from blockvid.training.objectives.reference import SemanticReference
from blockvid.training.objectives.visibility import Example, TeacherForcing
from training.made_batches import EMPTY, FRAMES, batch, model, oracle

FLOW = FlowMatching(Independent(), shift=3.0)
every_gamma = pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0])


def step(objective: FlowMatching | BlockForcing, network: BlockDiT) -> Tensor:
    """The loss; its gradients are on the network."""
    network.zero_grad()
    made = objective({"model": network}, batch(), EMPTY, 0, torch.Generator().manual_seed(0)).due["model"]
    made.backward()
    return made.detach()


def gradients(network: BlockDiT) -> Tensor:
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


class Parts:
    """What the losses are made of, for one fixed draw: mean square distances, and the velocity's gradients."""

    def __init__(self, gamma: float, target: Target, time_weight: float = 0.0) -> None:
        objective = BlockForcing(gamma, target=target, flow=FLOW, time_weight=time_weight)
        given = batch()
        self.example: Example = FLOW.example(given, EMPTY, torch.Generator().manual_seed(0))
        self.x_cond, self.found = objective.reference(given.latents, FRAMES, given.pooled)
        generator = torch.Generator().manual_seed(1)
        self.v = torch.randn(given.latents.shape, generator=generator).requires_grad_()
        self.weight = 0.5 + torch.rand(given.weight.shape, generator=generator)
        self.loss = self.mean(objective.error(self.v, self.example, self.x_cond, self.found))
        level = gamma * self.example.sigma**time_weight * self.found
        self.gamma = over_frames(self.example.per_frame(level))

    def mean(self, error: Tensor) -> Tensor:
        return mean_over_targets(error, self.example, self.weight)

    def to(self, x: Tensor) -> Tensor:
        """Square distance of v from the velocity towards `x`."""
        return squared(self.v, velocity(x, self.example.eps))

    def gradient(self, loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, self.v, retain_graph=True)[0]


@every_gamma
@pytest.mark.parametrize("time_weight", [0.0, 2.0])
def test_blended_is_the_two_parts_less_a_constant(gamma: float, time_weight: float) -> None:
    made = Parts(gamma, "blended", time_weight)
    x0, g = made.example.x0, made.gamma
    two_parts = made.mean((1 - g) * made.to(x0) + g * made.to(made.x_cond))
    constant = made.mean(g * (1 - g) * (x0 - made.x_cond).square())
    torch.testing.assert_close(made.loss + constant, two_parts, rtol=1e-5, atol=0)
    torch.testing.assert_close(made.gradient(made.loss), made.gradient(two_parts), rtol=1e-4, atol=1e-7)
    assert (constant > 0) == (0 < gamma < 1) or time_weight


@every_gamma
def test_additive_is_blended_with_a_smaller_gamma(gamma: float) -> None:
    """gamma / (1 + gamma), and (1 + gamma) times the gradient."""
    additive = Parts(gamma, "additive")
    blended = Parts(gamma / (1 + gamma), "blended")
    expected = blended.gradient(blended.mean((1 + additive.gamma) * blended.to(_toward(blended))))
    torch.testing.assert_close(additive.gradient(additive.loss), expected, rtol=1e-4, atol=1e-7)


def _toward(made: Parts) -> Tensor:
    return torch.lerp(made.example.x0, made.x_cond, made.gamma)


@every_gamma
def test_literal_is_equation_5_and_the_sum_halves_the_data(gamma: float) -> None:
    """Where there is history. 2 |v - (eps - (x + gamma x_cond) / 2)|^2 has the gradients of flow matching + literal."""
    literal, both = Parts(gamma, "literal"), Parts(gamma, "fm_plus_literal")
    past = literal.example.per_frame(literal.found.float())[:, None, :, None, None]
    torch.testing.assert_close(
        literal.gradient(literal.loss) * past, literal.gradient(literal.mean(literal.to(gamma * literal.x_cond))) * past
    )
    halved = both.gradient(both.mean(2 * both.to((both.example.x0 + gamma * both.x_cond) / 2)))
    torch.testing.assert_close(both.gradient(both.loss) * past, halved * past, rtol=1e-4, atol=1e-7)
    assert past[:, :, FRAMES[0] :].all() and not past[:, :, : FRAMES[0]].any()


def test_gamma_1_is_equation_5_and_leaves_the_first_chunk_its_data() -> None:
    blended, literal = Parts(1.0, "blended"), Parts(1.0, "literal")
    assert torch.equal(blended.loss, literal.loss)
    toward = torch.cat((blended.example.x0[:, :, : FRAMES[0]], blended.x_cond[:, :, FRAMES[0] :]), 2)
    torch.testing.assert_close(blended.loss, blended.mean(blended.to(toward)))


@pytest.mark.parametrize("target", ["blended", "additive"])
@pytest.mark.parametrize(
    "flow", [FlowMatching(), FLOW, FlowMatching(Independent(), TeacherForcing())], ids=["shipped", "iid", "taught"]
)
def test_gamma_0_is_flow_matching_to_the_bit(target: Target, flow: FlowMatching) -> None:
    network = model()
    plain = step(flow, network)
    expected = gradients(network)
    assert torch.equal(step(BlockForcing(0.0, target=target, flow=flow), network), plain)
    assert torch.equal(gradients(network), expected)
    assert not torch.equal(step(BlockForcing(0.1, target=target, flow=flow), network), plain)


def test_literal_with_gamma_0_asks_for_no_data() -> None:
    """The contradiction of Eq. 5 with Eq. 3: the data do not matter where there is history."""
    made = Parts(0.0, "literal")
    past = made.example.per_frame(made.found.float())[:, None, :, None, None]
    torch.testing.assert_close(made.loss, made.mean(made.to((1 - past) * made.example.x0)))


def test_an_oracle_of_the_blend_has_no_loss() -> None:
    given, objective = batch(), BlockForcing(0.3, flow=FlowMatching(Independent(), shift=20.0))
    x_cond, found = objective.reference(given.latents, FRAMES, given.pooled)
    spread = torch.repeat_interleave(found.float(), torch.tensor(FRAMES), dim=1)

    class Blends(type(oracle(given.latents))):
        def forward(self, latents, timestep, text, attend, fps=None):
            return super().forward(latents, timestep, text, attend) + 0.3 * over_frames(spread) * (self.x0 - x_cond)

    knows = oracle(given.latents)
    knows.__class__ = Blends
    made = objective({"model": knows}, given, EMPTY, 0, torch.Generator().manual_seed(0))
    assert made.due["model"] < 1e-5 < made.logged["fidelity"]
    assert not any(value.requires_grad for value in made.logged.values())


def test_context_has_no_loss_and_logs_are_what_they_say() -> None:
    given = batch()
    flow = FlowMatching(CleanPrefix(Independent()))
    drawn = flow.example(given, EMPTY, torch.Generator().manual_seed(0))
    in_context = drawn.per_frame(1 - drawn.target)[:, None, :, None, None]
    made = [
        BlockForcing(0.1, flow=flow)({"model": oracle(x)}, given, EMPTY, 0, torch.Generator().manual_seed(0))
        for x in (given.latents, given.latents + 3 * in_context)
    ]
    torch.testing.assert_close(made[0].due["model"], made[1].due["model"])
    assert made[0].logged["fidelity"] < 1e-6 < made[0].due["model"] < made[0].logged["semantic"]


# The reference


def test_the_reference_is_of_the_most_similar_past_chunks() -> None:
    """Not of the two latest, unless there are no others; of fewer than asked, all."""
    pooled = torch.eye(6)[[0, 1, 0, 2, 0, 0]] + 0.01 * torch.arange(6)[:, None] * torch.eye(6)[5]
    weights = SemanticReference(2).weights(pooled)
    half, one = 0.5, 1.0
    expected = {1: {0: one}, 2: {0: half, 1: half}, 3: {0: one}, 4: {0: half, 1: half}, 5: {0: half, 2: half}}
    for chunk in range(6):
        assert {i: w for i, w in enumerate(weights[chunk].tolist()) if w} == expected.get(chunk, {})
    assert SemanticReference(1).weights(pooled)[5].tolist() == [0, 0, 1, 0, 0, 0]
    assert SemanticReference(1, recent=0).weights(pooled)[5].tolist() == [0, 0, 0, 0, 1, 0]


def test_softmax_prefers_the_more_similar() -> None:
    pooled = batch().pooled[0]
    weights = SemanticReference(3, 0, average="softmax", temperature=0.2).weights(pooled)
    torch.testing.assert_close(weights[4].sum(), torch.tensor(1.0))
    picked = weights[4].nonzero()[:, 0]
    cosines = similarity(pooled)[4, picked]
    torch.testing.assert_close(weights[4, picked].log().diff(), (cosines.diff() / 0.2).float())
    cold = SemanticReference(3, 0, average="softmax", temperature=1e-4).weights(pooled)
    torch.testing.assert_close(cold, SemanticReference(1, 0).weights(pooled))


def test_the_reference_is_the_average_of_resampled_chunks() -> None:
    given = batch(rows=3)
    reference = SemanticReference(2, 1)
    x_cond, found = reference(given.latents, FRAMES, given.pooled)
    chunks, made = given.latents.split(FRAMES, 2), x_cond.split(FRAMES, 2)
    assert found.tolist() == [[False, True, True, True, True]] * 3
    assert not made[0].any()
    for row in range(3):
        weights = reference.weights(given.pooled[row])
        for c in range(1, 5):
            expected = sum(weights[c, i] * reference.resampled(chunks[i][row : row + 1], FRAMES[c]) for i in range(c))
            torch.testing.assert_close(made[c][row : row + 1], expected)


@pytest.mark.parametrize("resample", ["linear", "nearest"])
def test_resampling_keeps_time(resample) -> None:
    """A ramp over [0, 1] stays one; the same length is the same chunk; one frame is repeated."""
    reference = SemanticReference(resample=resample)
    ramp = ((torch.arange(8) + 0.5) / 8)[None, None, :, None, None].expand(1, 2, 8, 3, 5)
    assert torch.equal(reference.resampled(ramp, 8), ramp)
    for frames in (4, 9, 16):
        made = reference.resampled(ramp, frames)
        expected = (torch.arange(frames) + 0.5) / frames
        assert made.shape == (1, 2, frames, 3, 5)
        assert (made[0, 0, :, 0, 0] - expected).abs().max() <= 1 / 16 + 1e-6
        assert (made == made[:, :1, :, :1, :1]).all() and (made.diff(dim=2) >= 0).all()
    assert torch.equal(reference.resampled(ramp[:, :, 2:3], 3), ramp[:, :, 2:3].expand(-1, -1, 3, -1, -1))


def test_no_gradient_and_no_future_reach_the_reference() -> None:
    given = batch()
    latents = given.latents.clone().requires_grad_()
    x_cond, _ = SemanticReference()(latents, FRAMES, given.pooled)
    assert not x_cond.requires_grad
    later = given.latents.clone()
    later[:, :, 7:] += 1
    changed, _ = SemanticReference()(later, FRAMES, given.pooled)
    assert torch.equal(changed[:, :, :9], x_cond[:, :, :9])
    moved = given.latents.clone()
    moved[:, :, :3] += 1
    assert not torch.equal(SemanticReference()(moved, FRAMES, given.pooled)[0][:, :, 3:5], x_cond[:, :, 3:5])


def test_the_scale_of_the_prompts_does_not_reach_the_reference() -> None:
    given = batch()
    scaled = replace(given, pooled=7 * given.pooled)
    assert torch.equal(
        SemanticReference()(given.latents, FRAMES, given.pooled)[0],
        SemanticReference()(scaled.latents, FRAMES, scaled.pooled)[0],
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BlockForcing(1.5), "gamma 1.5 is not a number from 0 to 1"),
        (lambda: SemanticReference(0), "a reference of the 0 most similar chunks is none"),
        (lambda: BlockForcing(time_weight=-1.0), "time_weight -1.0 is negative"),
        (lambda: SemanticReference(temperature=0.0), "temperature 0.0 is not above 0"),
    ],
)
def test_what_block_forcing_cannot_be(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("made", "field", "known"),
    [
        (BlockForcing(), "target", "blended, additive, literal, fm_plus_literal"),
        (SemanticReference(), "resample", "linear, nearest"),
        (SemanticReference(), "average", "uniform, softmax"),
    ],
    ids=["target", "resample", "average"],
)
def test_an_unknown_choice_is_an_input_error(made: BlockForcing | SemanticReference, field: str, known: str) -> None:
    odd = replace(made)
    object.__setattr__(odd, field, "both")  # the tests' own check of signatures would refuse it first
    with pytest.raises(InputError, match=f"{field} 'both' is unknown; use {known}"):
        odd.__post_init__()
