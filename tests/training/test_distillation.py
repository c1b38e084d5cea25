"""A student learns its guided teacher's steps, at the points that it visits itself."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from torch import Tensor, nn

from blockvid.attention.attend import Cached
from blockvid.attention.cache import ChunkMemory, KVCache, MemoryWriter
from blockvid.attention.policies import Window, recalls, similarity
from blockvid.attention.rope import grid_positions
from blockvid.batch import Batch
from blockvid.errors import InputError
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.sampling.denoiser import Guided, VelocityDenoiser
from blockvid.sampling.noise import Start
from blockvid.sampling.plans import Chunkwise
from blockvid.sampling.sampler import Condition, Finished, sample
from blockvid.sampling.solvers import Euler, UniPC
from blockvid.training.distillation import Distillation
from training.made_batches import EMPTY, FRAMES, SIDE, batch, model, oracle


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def networks(student: BlockDiT | None = None) -> dict[str, nn.Module]:
    return {"model": student or model(), "teacher": model().requires_grad_(False)}


def test_a_teacher_of_one_unguided_step_has_nothing_to_teach() -> None:
    """UniPC's first step is Euler's, so its own copy is already as it is; one that differs is not."""
    alike = Distillation(guidance=1.0, substeps=1, chunks=2)
    found = alike(networks(), batch(), EMPTY, 0, chance())
    assert found.due["model"].item() < 1e-8
    other = networks()
    with torch.no_grad():
        next(iter(other["model"].parameters())).add_(0.5)
    assert alike(other, batch(), EMPTY, 0, chance()).due["model"].item() > 1e-3


@pytest.mark.parametrize("change", [{"guidance": 3.0}, {"substeps": 3}], ids=str)
def test_guidance_and_smaller_steps_are_what_is_taught(change: dict) -> None:
    objective = Distillation(**({"guidance": 1.0, "substeps": 1} | change))
    assert objective(networks(), batch(), EMPTY, 0, chance()).due["model"].item() > 1e-4


def test_who_knows_the_data_has_nothing_to_learn() -> None:
    """Whatever the guidance and however many substeps: all paths lead straight to the data."""
    data = batch((2,), rows=1)
    made = {"model": oracle(data.latents), "teacher": oracle(data.latents)}
    assert Distillation(substeps=4)(made, data, EMPTY, 0, chance()).due["model"].item() < 1e-8


@torch.no_grad()
def generated(solver: Euler | UniPC, steps: int, guidance: float, data: Batch, noise: Tensor) -> Tensor:
    """One row's chunks by the sampler that makes videos."""
    network, chunks = model(), len(data.frames)
    rows = 1 if guidance == 1 else 2
    cache = KVCache(recalls(Window(), similarity(data.pooled[0])), network.rope)
    starts = (0, *accumulate(data.frames))

    def condition(active: tuple[int, ...]) -> Condition:
        (c,) = active
        positions = grid_positions(data.frames[c], SIDE // 2, SIDE // 2)
        writer = MemoryWriter(ChunkMemory(c, starts[c], data.frames[c], positions, ()), network.rope, chance(), None)
        assert data.text.mask is not None and EMPTY.mask is not None
        tokens = torch.cat([data.text.tokens[:, [c]], EMPTY.tokens])[:rows]
        mask = torch.cat([data.text.mask[:, [c]], EMPTY.mask])[:rows]
        denoiser = Guided(VelocityDenoiser(network), guidance)
        seen = Cached(network.rope, cache.recall(c, starts[c]), positions)
        return Condition(denoiser, TextContext(tokens, (data.frames[c],), mask), seen, writer)

    first = noise.split(data.frames, dim=2)
    begin = lambda c: Start.after(None, first[c])  # noqa: E731
    events = sample(Chunkwise(), solver, solver.grid(steps, 4.0), range(chunks), begin, condition, cache.append)
    return torch.cat([event.latents for event in events if isinstance(event, Finished)], dim=2)


def test_its_steps_are_those_of_generation() -> None:
    """From the same noise a student descends, chunk after chunk, bit for bit as `Euler` samples it without guidance."""
    data, objective = batch((3, 2), rows=1), Distillation(chunks=2)
    visited: list[Tensor] = []

    class Watched(Distillation):
        def _descend(self, ours, theirs, x):
            made, errors = super()._descend(ours, theirs, x)
            visited.append(made)
            return made, errors

    Watched(chunks=2)(networks(), data, EMPTY, 0, chance(5))
    drawn = chance(5)
    noise = torch.cat([torch.randn(1, 4, frames, SIDE, SIDE, generator=drawn) for frames in data.frames], dim=2)
    expected = generated(Euler(), objective.steps, 1.0, data, noise)
    torch.testing.assert_close(torch.cat(visited, dim=2), expected, rtol=0, atol=1e-5)


def test_its_teacher_is_the_guided_sampler() -> None:
    """A student of one step is taught where UniPC takes noise in `substeps` guided ones."""
    data, objective = batch((3,), rows=1), Distillation(steps=1, substeps=6, guidance=3.0)
    noise = torch.randn(1, 4, 3, SIDE, SIDE, generator=chance(5))
    end = generated(UniPC(), 6, 3.0, data, noise)
    student = networks()
    found = objective(student, data, EMPTY, 0, chance(5)).due["model"]
    sigma = objective.levels[0]
    unguided = generated(Euler(), 1, 1.0, data, noise)
    torch.testing.assert_close(found, ((unguided - end) / sigma).square().mean(), rtol=1e-4, atol=0)


def test_only_the_student_learns() -> None:
    made, objective = networks(), Distillation(chunks=2)
    losses = objective(made, batch(), EMPTY, 0, chance())
    assert losses.due.keys() == {"model"}
    losses.due["model"].backward()
    assert all(p.grad is None for p in made["teacher"].parameters())
    assert any(p.grad is not None and p.grad.any() for p in made["model"].parameters())
    assert not any(value.requires_grad for value in losses.logged.values())


def test_it_learns() -> None:
    """A hundred steps of a tiny student take most of the error away, also under noise that it has not seen."""
    made, objective, data = networks(), Distillation(steps=2, guidance=2.0, chunks=1), batch((2,), rows=2)
    optimiser = torch.optim.Adam(made["model"].parameters(), lr=3e-3)

    @torch.no_grad()
    def error() -> float:
        return sum(objective(made, data, EMPTY, i, chance(10_000 + i)).due["model"].item() for i in range(4))

    before = error()
    for step in range(100):
        objective(made, data, EMPTY, step, chance(step)).due["model"].backward()
        optimiser.step()
        optimiser.zero_grad()
    assert error() < 0.5 * before


def test_what_is_generated_is_a_function_of_the_step() -> None:
    """Openings and later chunks alike, after no more than `history` given ones."""
    objective, data = Distillation(history=2, chunks=2), batch(FRAMES)
    shown = [objective._shown(data, step) for step in range(40)]
    assert shown[7][1] == objective._shown(batch(seed=3), 7)[1]
    assert {given for _, given in shown} == {0, 1, 2}
    assert all(len(part.frames) == given + 2 for part, given in shown)
    assert {part.frames[-1] for part, _ in shown} == {2, 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps 0"),
        ({"substeps": 0}, "substeps 0"),
        ({"history": -1}, "history of -1 chunks is below 0"),
        ({"guidance": -1.0}, "guidance -1.0 is outside 0 to 100"),
        ({"shift": 0.0}, "shift 0.0"),
    ],
)
def test_what_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Distillation(**settings)


def test_windows_too_short_are_refused() -> None:
    with pytest.raises(InputError, match="6 chunks are not generated from windows of 5; use --chunks 6 or more"):
        Distillation(chunks=6)(networks(), batch(), EMPTY, 0, chance())
