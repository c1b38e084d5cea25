"""Laws of plans and of the loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from einops import rearrange
from torch import Tensor

from blockvid.attention.attend import Attend, Recording
from blockvid.attention.cache import ChunkMemory, MemoryWriter
from blockvid.attention.rope import Rope, grid_positions
from blockvid.flow import over_frames, sigma_grid
from blockvid.model.dit import TextContext
from blockvid.sampling.noise import ContextNoise, Start, base_noise
from blockvid.sampling.plans import Chunkwise, Commit, PlanProtocol, Step
from blockvid.sampling.sampler import Condition, Finished, Progress, sample
from blockvid.sampling.solvers import Euler, Solver, UniPC

FRAMES = (4, 3, 3, 2)  # the first chunk has the video's extra frame
GRID = sigma_grid(5, 5.0)
STEPS = len(GRID) - 1


@dataclass(frozen=True)
class Staggered:
    """The plan of MAGI-1 in small: a chunk starts `lag` steps after the one before it, all share a forward."""

    lag: int

    def __call__(self, chunks: Sequence[int], grid: Sequence[float]) -> Iterator[Step | Commit]:
        steps = len(grid) - 1
        for now in range(steps + self.lag * (len(chunks) - 1)):
            at = {chunk: now - self.lag * order for order, chunk in enumerate(chunks)}
            active = tuple(chunk for chunk, step in at.items() if 0 <= step < steps)
            yield Step(active, tuple(grid[at[c]] for c in active), tuple(grid[at[c] + 1] for c in active))
            for chunk in active:
                if at[chunk] == steps - 1:
                    yield Commit(chunk)


PLANS = [Chunkwise(), Staggered(lag=2), Staggered(lag=STEPS)]
SOLVERS = [Euler(), UniPC(), UniPC(order=1), UniPC(corrector=False)]
every_plan = pytest.mark.parametrize("plan", PLANS, ids=repr)
every_solver = pytest.mark.parametrize("solver", SOLVERS, ids=repr)


def attend_to_itself(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return v


def writer(chunk: int) -> MemoryWriter:
    empty = ChunkMemory(chunk, 0, FRAMES[chunk], grid_positions(FRAMES[chunk], 2, 2), ())
    return MemoryWriter(empty, Rope(16), torch.Generator())


def shape(chunk: int) -> tuple[int, ...]:
    return (2, 3, FRAMES[chunk], 2, 2)


def truth(chunk: int) -> Tensor:
    return base_noise(1, chunk, shape(chunk))


@dataclass
class World:
    """Everything `sample` asks of its caller, and the order in which it asked."""

    oracle: bool
    known: int = 0
    context: ContextNoise = ContextNoise()
    calls: list[str] = field(default_factory=list)
    levels: list[Tensor] = field(default_factory=list)
    memory: list[tuple[int, Tensor]] = field(default_factory=list)

    def begin(self, chunk: int) -> Start:
        self.calls.append(f"begin {chunk}")
        noise = base_noise(0, chunk, shape(chunk))
        return Start.after(truth(0)[:, :, : self.known] if chunk == 0 and self.known else None, noise)

    def condition(self, chunks: tuple[int, ...]) -> Condition:
        self.calls.append(f"condition {chunks}")

        def denoise(x: Tensor, sigma: Tensor, text: TextContext, attend: Attend) -> Tensor:
            tokens = rearrange(x, "b c f h w -> b (f h w) 1 c")
            attend(0, tokens, tokens, tokens)
            if not isinstance(attend, Recording):
                self.levels.append(sigma)
                self.calls.append(f"denoise {chunks}")
            if self.oracle:
                return torch.cat([truth(chunk) for chunk in chunks], dim=2)
            return torch.sin(2 * x) * (1 - over_frames(sigma)) + 0.3 * x

        text = TextContext(torch.zeros(2, len(chunks), 1, 1), tuple(FRAMES[chunk] for chunk in chunks))
        return Condition(denoise, text, attend_to_itself, writer(chunks[0]), self.context)

    def commit(self, memory: ChunkMemory) -> None:
        self.calls.append(f"commit {memory.index}")
        self.memory.append((memory.index, memory.layers[0].keys.data))

    def run(self, plan: PlanProtocol, solver: Solver, chunks: Sequence[int]) -> list[Progress | Finished]:
        return list(sample(plan, solver, GRID, chunks, self.begin, self.condition, self.commit))


def videos(events: list[Progress | Finished]) -> dict[int, Tensor]:
    return {event.chunk: event.latents for event in events if isinstance(event, Finished)}


@every_plan
@every_solver
def test_an_oracle_gets_its_video_through_every_plan_and_solver(plan: PlanProtocol, solver: Solver) -> None:
    made = videos(World(oracle=True).run(plan, solver, range(4)))
    assert list(made) == [0, 1, 2, 3]
    assert all(torch.equal(latents, truth(chunk)) for chunk, latents in made.items())


@every_plan
@every_solver
def test_chunks_that_do_not_look_at_each_other_come_out_the_same_in_any_plan(
    plan: PlanProtocol, solver: Solver
) -> None:
    reference = videos(World(oracle=False).run(Chunkwise(), solver, range(4)))
    made = videos(World(oracle=False).run(plan, solver, range(4)))
    for chunk in range(4):
        torch.testing.assert_close(made[chunk], reference[chunk], atol=1e-6, rtol=1e-5)


@every_plan
@pytest.mark.parametrize("chunks", [range(1), range(4), range(2, 4)], ids=str)
def test_a_chunk_descends_the_grid_and_is_committed_once_in_order(plan: PlanProtocol, chunks: range) -> None:
    moves = list(plan(chunks, GRID))
    assert [move.chunk for move in moves if isinstance(move, Commit)] == list(chunks)
    for chunk in chunks:
        mine = [move for move in moves if chunk in move.chunks]
        assert isinstance(mine[-1], Commit)
        taken = [
            (move.sigma[move.chunks.index(chunk)], move.sigma_next[move.chunks.index(chunk)])
            for move in mine
            if isinstance(move, Step)
        ]
        assert taken == list(pairwise(GRID))


@every_plan
def test_progress_counts_every_update_of_every_chunk(plan: PlanProtocol) -> None:
    counts: dict[int, list[int]] = {chunk: [] for chunk in range(4)}
    for event in World(oracle=True).run(plan, Euler(), range(4)):
        if isinstance(event, Progress):
            assert event.steps == STEPS
            for chunk, updates in zip(event.chunks, event.updates, strict=True):
                counts[chunk].append(updates)
    assert counts == {chunk: list(range(1, STEPS + 1)) for chunk in range(4)}


def test_chunkwise_asks_for_conditions_once_a_chunk_and_after_the_commit_before() -> None:
    world = World(oracle=True)
    world.run(Chunkwise(), UniPC(), range(2))
    assert world.calls == [
        line
        for chunk in (0, 1)
        for line in (
            f"condition ({chunk},)",
            f"begin {chunk}",
            *[f"denoise ({chunk},)"] * STEPS,
            f"commit {chunk}",
        )
    ]


@every_plan
def test_memory_is_written_from_the_finished_chunk(plan: PlanProtocol) -> None:
    world = World(oracle=False)
    made = videos(world.run(plan, UniPC(), range(4)))
    assert [chunk for chunk, _ in world.memory] == [0, 1, 2, 3]
    for chunk, keys in world.memory:
        assert torch.equal(keys, rearrange(made[chunk], "b c f h w -> b (f h w) 1 c"))


@every_plan
def test_context_noise_is_in_memory_and_not_in_the_video(plan: PlanProtocol) -> None:
    context = ContextNoise(0.25, seed=3)
    world, clean = World(oracle=False, context=context), World(oracle=False)
    made = videos(world.run(plan, UniPC(), range(4)))
    assert all(torch.equal(made[c], latents) for c, latents in videos(clean.run(plan, UniPC(), range(4))).items())
    for chunk, keys in world.memory:
        noisy, sigma = context(made[chunk])
        assert torch.equal(keys, rearrange(noisy, "b c f h w -> b (f h w) 1 c"))
        assert torch.equal(sigma, torch.full((2, FRAMES[chunk]), 0.25))
        eps = (noisy - 0.75 * made[chunk]) / 0.25
        assert abs(float(eps.mean())) < 0.5 and 0.6 < float(eps.std()) < 1.4


def test_context_noise_is_one_thing_for_one_seed() -> None:
    x = torch.zeros(1, 2, 3, 4, 4)
    assert torch.equal(ContextNoise(0.1, 1)(x)[0], ContextNoise(0.1, 1)(x)[0])
    assert not torch.equal(ContextNoise(0.1, 1)(x)[0], ContextNoise(0.1, 2)(x)[0])
    assert not torch.equal(ContextNoise(0.1, 1)(x)[0] / 0.1, base_noise(1, 0, x.shape))


def test_a_chunk_is_in_memory_when_it_is_handed_out_and_no_later_one_was_begun() -> None:
    world = World(oracle=False)
    for event in sample(Chunkwise(), UniPC(), GRID, range(3), world.begin, world.condition, world.commit):
        if isinstance(event, Finished):
            assert world.calls[-1] == f"commit {event.chunk}"
            assert world.memory[-1][0] == event.chunk


def test_a_video_does_not_depend_on_what_follows_and_can_be_taken_up_again() -> None:
    """With nothing in memory, resuming is making the chunks that are left."""
    whole = videos(World(oracle=False).run(Chunkwise(), UniPC(), range(4)))
    short = videos(World(oracle=False).run(Chunkwise(), UniPC(), range(2)))
    rest = videos(World(oracle=False).run(Chunkwise(), UniPC(), range(2, 4)))
    assert all(torch.equal(latents, whole[chunk]) for chunk, latents in (short | rest).items())


@every_plan
@every_solver
@pytest.mark.parametrize("known", [1, 2])
def test_known_frames_are_clean_throughout_and_returned_bit_for_bit(
    plan: PlanProtocol, solver: Solver, known: int
) -> None:
    world = World(oracle=False, known=known)
    made = videos(world.run(plan, solver, range(2)))
    assert torch.equal(made[0][:, :, :known], truth(0)[:, :, :known])
    with_chunk_0 = [sigma for sigma in world.levels if sigma.shape[1] != FRAMES[1]]
    assert len(with_chunk_0) == STEPS
    assert all((sigma[:, :known] == 0).all() and (sigma[:, known:] > 0).all() for sigma in with_chunk_0)


def test_sampling_takes_no_gradients_and_leaves_the_callers_mode_alone() -> None:
    world = World(oracle=False)
    with torch.enable_grad():
        for event in sample(Chunkwise(), Euler(), GRID, range(1), world.begin, world.condition, world.commit):
            assert torch.is_grad_enabled()
            assert isinstance(event, Progress) or not event.latents.requires_grad
