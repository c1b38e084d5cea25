"""A roll-out is generation, and what can be learned from it is its exits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from torch import Tensor

from blockvid.attention.attend import Attend, Cached, Recording
from blockvid.attention.cache import ChunkMemory, KVCache, MemoryWriter
from blockvid.attention.policies import DynamicSparse, KeyValuePolicy, Semantic, SinkWindow, Window, recalls, similarity
from blockvid.attention.policies import Full as Everything
from blockvid.attention.rope import grid_positions
from blockvid.attention.salience import Salience
from blockvid.batch import Batch
from blockvid.errors import InputError
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.sampling.denoiser import VelocityDenoiser
from blockvid.sampling.noise import Start, base_noise, fresh_noise
from blockvid.sampling.plans import Chunkwise
from blockvid.sampling.sampler import Condition, Finished, sample
from blockvid.sampling.solvers import Renoise
from blockvid.training.rollout import Rolled, Rollout
from tiny_models import transformer
from training.made_batches import SIDE, batch, model

FRAMES = (3, 2, 2, 2)
THIN = Salience(tau=0.6, multiple=1)
POLICIES = [Window(1), Everything(), SinkWindow(1, 1), DynamicSparse(2, THIN), Semantic(1, 1, THIN)]
every_policy = pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)


class Spy(BlockDiT):
    """Notes what it was given, and whether a gradient was enabled."""

    def watched(self) -> Spy:
        self.asked: list[tuple[Tensor, Tensor, TextContext, Attend, bool]] = []
        return self

    def forward(self, latents: Tensor, timestep: Tensor, text: TextContext, attend: Attend) -> Tensor:
        self.asked.append((latents, timestep, text, attend, torch.is_grad_enabled()))
        return super().forward(latents, timestep, text, attend)


class Oracle(Spy):
    """Knows the data of every chunk, which it tells apart by their texts: v = (x_sigma - x0) / sigma."""

    def knows(self, data: Batch) -> Oracle:
        self.data = data
        return self

    def forward(self, latents: Tensor, timestep: Tensor, text: TextContext, attend: Attend) -> Tensor:
        super().forward(latents, timestep, text, attend)
        pieces = zip(self.data.text.tokens.unbind(1), self.data.latents.split(self.data.frames, dim=2), strict=True)
        (x0,) = [piece for tokens, piece in pieces if torch.equal(tokens, text.tokens[:, 0])]
        sigma = (timestep / 1000)[:, None, :, None, None]
        return torch.where(sigma > 0, (latents - x0) / sigma, 0.0)


def spy() -> Spy:
    return transformer(Spy, 8, in_channels=4, out_channels=4).watched()


def noise(data: Batch, chunks: int, levels: int = 4, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    frames = sum(data.frames[len(data.frames) - chunks :])
    shape = (len(data.latents), 4, frames, SIDE, SIDE)
    return [torch.randn(shape, generator=generator) for _ in range(levels)]


def roll(network: BlockDiT, rollout: Rollout, data: Batch, exits: Sequence[int], seed: int = 0) -> Rolled:
    return rollout(network, data, exits, noise(data, len(exits), seed=seed), torch.Generator())


def gradients(network: BlockDiT, loss: Tensor) -> dict[str, Tensor]:
    named = dict(network.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: slope for name, slope in zip(named, found, strict=True) if slope is not None}


def test_the_levels_are_the_warped_step_list() -> None:
    assert Rollout().levels == pytest.approx((1.0, 0.9375, 5 / 6, 0.625))
    assert (*Rollout().levels, 0.0) == Renoise().grid(4, 5.0)


@pytest.mark.parametrize("exits", [(0, 0, 0, 0), (3, 3, 3, 3), (0, 2, 3, 1), (2, 1), (3,)], ids=str)
def test_the_number_of_forwards(exits: tuple[int, ...]) -> None:
    network, data = spy(), batch(FRAMES)
    rolled = roll(network, Rollout(), data, exits)
    assert rolled.forwards == len(network.asked) == sum(e + 1 for e in exits) + len(FRAMES)
    assert rolled.latents.shape[2] == sum(FRAMES[len(FRAMES) - len(exits) :])


@every_policy
@pytest.mark.parametrize("exits", [(3, 3, 3, 3), (0, 2, 1), (1, 1)], ids=str)
def test_an_oracle_returns_the_data(policy: KeyValuePolicy, exits: tuple[int, ...]) -> None:
    data = batch(FRAMES)
    network = transformer(Oracle, 8, in_channels=4, out_channels=4).watched().knows(data)
    made = roll(network, Rollout(policy=policy), data, exits).latents
    torch.testing.assert_close(made, data.latents[:, :, -made.shape[2] :], rtol=0, atol=1e-5)


def sampling_noise(data: Batch, levels: int = 4) -> list[Tensor]:
    """What the sampler starts chunk c of seed c from, then what `Renoise` noises it with after each step."""
    shapes = [(1, 4, frames, SIDE, SIDE) for frames in data.frames]
    first = [base_noise(0, c, shape) for c, shape in enumerate(shapes)]
    later = [[fresh_noise(c, step, shape) for c, shape in enumerate(shapes)] for step in range(levels - 1)]
    return [torch.cat(eps, dim=2) for eps in (first, *later)]


@torch.no_grad()
def generated(network: BlockDiT, policy: KeyValuePolicy, data: Batch) -> Tensor:
    """One row, by the sampler that makes videos."""
    first = sampling_noise(data)[0].split(data.frames, dim=2)
    cache = KVCache(recalls(policy, similarity(data.pooled[0])), network.rope)
    starts = (0, *accumulate(data.frames))

    def condition(chunks: tuple[int, ...]) -> Condition:
        (c,) = chunks
        positions = grid_positions(data.frames[c], SIDE // 2, SIDE // 2)
        empty = ChunkMemory(c, starts[c], data.frames[c], positions, ())
        writer = MemoryWriter(empty, network.rope, torch.Generator(), policy.salience)
        assert data.text.mask is not None
        text = TextContext(data.text.tokens[:, [c]], (data.frames[c],), data.text.mask[:, [c]])
        seen = Cached(network.rope, cache.recall(c, starts[c]), positions)
        return Condition(VelocityDenoiser(network), text, seen, writer)

    begin = lambda c: Start.after(None, first[c], seed=c)  # noqa: E731
    grid = Renoise().grid(4, 5.0)
    events = sample(Chunkwise(), Renoise(), grid, range(len(data.frames)), begin, condition, cache.append)
    return torch.cat([event.latents for event in events if isinstance(event, Finished)], dim=2)


@every_policy
def test_without_gradient_it_is_generation(policy: KeyValuePolicy) -> None:
    """Few-step generation by `sample` under the same noise, bit for bit; with a gradient the numbers are no others."""
    network, data = model(), batch(FRAMES, rows=1)
    rollout = Rollout(policy=policy)
    expected = generated(network, policy, data)
    made = rollout(network, data, (3, 3, 3, 3), sampling_noise(data), torch.Generator()).latents
    assert made.requires_grad
    assert torch.equal(made, expected)
    with torch.no_grad():
        again = rollout(network, data, (3, 3, 3, 3), sampling_noise(data), torch.Generator())
        assert torch.equal(again.latents, expected)


def test_real_chunks_are_context_as_rolled_ones_are() -> None:
    """Given what it made of the first chunks, the roll-out goes on as before; given others, it does not."""
    network, data = model(), batch(FRAMES)
    whole = roll(network, Rollout(), data, (1, 1, 1, 1)).latents.detach()
    rest = [eps[:, :, 5:] for eps in noise(data, 4)]
    replayed = Rollout()(network, replace(data, latents=whole), (1, 1), rest, torch.Generator())
    assert torch.equal(replayed.latents, whole[:, :, 5:])
    other = Rollout()(network, data, (1, 1), rest, torch.Generator())
    assert (other.latents - whole[:, :, 5:]).abs().max() > 1e-2


@every_policy
def test_rows_know_nothing_of_each_other(policy: KeyValuePolicy) -> None:
    network, data = model(), batch(FRAMES)
    both = roll(network, Rollout(policy=policy), data, (1, 1, 1, 1)).latents
    for row in range(2):
        mine = slice(row, row + 1)
        assert data.text.mask is not None
        text = TextContext(data.text.tokens[mine], FRAMES, data.text.mask[mine])
        alone = Batch(data.latents[mine], FRAMES, text, data.pooled[mine], data.weight[mine])
        eps = [each[mine] for each in noise(data, 4)]
        made = Rollout(policy=policy)(network, alone, (1, 1, 1, 1), eps, torch.Generator()).latents
        torch.testing.assert_close(made, both[mine], rtol=0, atol=1e-4)


@every_policy
def test_caches_and_inputs_require_no_gradient(policy: KeyValuePolicy) -> None:
    network = spy()
    roll(network, Rollout(policy=policy), batch(FRAMES, rows=1), (1, 1, 1, 1))
    seen = [attend for *_, attend, _ in network.asked if isinstance(attend, Cached)]
    written = [attend for *_, attend, _ in network.asked if isinstance(attend, Recording)]
    assert len(seen) == 8 and len(written) == 4
    remembered = [tensor for attend in seen for layer in attend.context.ready for tensor in layer]
    assert remembered and not any(tensor.requires_grad for tensor in remembered)
    assert not any(latents.requires_grad for latents, *_ in network.asked)


@pytest.mark.parametrize("window", [1, 2])
def test_the_gradient_is_that_of_the_exits_of_the_last_chunks(window: int) -> None:
    """Equal to differentiating those forwards alone, on the inputs and contexts that they had."""
    network, data = spy(), batch(FRAMES)
    made = roll(network, Rollout(gradient_chunks=window), data, (2, 2, 2, 2)).latents
    weight = torch.randn(made.shape, generator=torch.Generator().manual_seed(5))
    found = gradients(network, (made * weight).sum())
    learned = [(x, t, text, attend) for x, t, text, attend, enabled in network.asked if enabled]
    assert len(learned) == window
    alone = [x - t[:, None, :, None, None] / 1000 * network(x, t, text, attend) for x, t, text, attend in learned]
    last = torch.cat(alone, dim=2)
    expected = gradients(network, (last * weight[:, :, -last.shape[2] :]).sum())
    assert found.keys() == expected.keys() and len(found) > 20
    for name, slope in expected.items():
        torch.testing.assert_close(found[name], slope, rtol=1e-4, atol=1e-5)


def test_earlier_chunks_teach_nothing() -> None:
    network, data = model(), batch(FRAMES)
    made = roll(network, Rollout(gradient_chunks=1), data, (1, 1, 1, 1)).latents
    assert all(not slope.any() for slope in gradients(network, made[:, :, :-2].square().sum()).values())


@every_policy
def test_recomputing_changes_no_gradient(policy: KeyValuePolicy) -> None:
    network, data = model(), batch(FRAMES)
    plain, again = (
        gradients(
            network, roll(network, Rollout(policy=policy, checkpointed=on), data, (1,) * 4).latents.square().sum()
        )
        for on in (False, True)
    )
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_low_precision_keeps_every_gradient() -> None:
    """Weights that autocast has cast in a pass without gradient are cast anew for the exit."""
    network, data = model(), batch(FRAMES)
    full = gradients(network, roll(network, Rollout(), data, (1, 1, 1, 1)).latents.square().sum())
    with torch.autocast("cpu", torch.bfloat16):
        made = roll(network, Rollout(), data, (1, 1, 1, 1)).latents
    half = gradients(network, made.square().sum())
    assert half.keys() == full.keys()
    for name, slope in full.items():
        assert torch.cosine_similarity(slope.flatten(), half[name].flatten(), dim=0) > 0.9, name


def test_exits_are_shared_or_not() -> None:
    generator = torch.Generator().manual_seed(0)
    shared = [Rollout().draw_exits(3, generator) for _ in range(50)]
    assert {exits[0] for exits in shared} == {0, 1, 2, 3} and all(len(set(exits)) == 1 for exits in shared)
    own = [Rollout(exits="independent").draw_exits(3, generator) for _ in range(50)]
    assert all(len(exits) == 3 for exits in own) and any(len(set(exits)) > 1 for exits in own)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"timesteps": (500.0, 750.0)}, r"timesteps \(500.0, 750.0\) do not fall"),
        ({"timesteps": ()}, "do not fall within"),
        ({"timesteps": (1001.0, 5.0)}, "do not fall within"),
        ({"timesteps": (1000.0, 0.0)}, "do not fall within"),
        ({"gradient_chunks": 0}, "use 1 or more"),
    ],
)
def test_what_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Rollout(**settings)
