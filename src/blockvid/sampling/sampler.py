"""The loop, once: a plan's steps, a denoiser's predictions, a solver's updates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from blockvid.attention.attend import Attend, Recording
from blockvid.attention.cache import ChunkMemory, MemoryWriter
from blockvid.model.dit import TextContext
from blockvid.sampling.denoiser import Denoiser
from blockvid.sampling.noise import ContextNoise, Start
from blockvid.sampling.plans import Commit, PlanProtocol, Step
from blockvid.sampling.solvers import SolverProtocol


@dataclass(frozen=True)
class Condition:
    """Who predicts the active chunks, what text they read, what their tokens see, and who writes down a finished one,
    and how noisy."""

    denoiser: Denoiser
    text: TextContext
    attend: Attend
    writer: MemoryWriter
    context: ContextNoise = ContextNoise()


@dataclass(frozen=True)
class Progress:
    """A step is done: `updates` of `steps` for each active chunk."""

    chunks: tuple[int, ...]
    updates: tuple[int, ...]
    steps: int


@dataclass(frozen=True)
class Finished:
    """A chunk is clean and in memory."""

    chunk: int
    latents: Float[Tensor, "b c f h w"]


@dataclass(frozen=True)
class _Moving:
    x: Float[Tensor, "b c f h w"]
    known: Bool[Tensor, " f"]
    state: Any  # the solver's own, opaque here
    overlap: int
    updates: int = 0

    def levels(self, sigma: float) -> Float[Tensor, "b f"]:
        """Sigma per frame, 0 where the frame is known. On the CPU, in float64: see solvers."""
        return torch.where(self.known, 0.0, torch.tensor(sigma, dtype=torch.float64)).expand(self.x.shape[0], -1)


@torch.no_grad()
def sample(
    plan: PlanProtocol,
    solver: SolverProtocol[Any],
    grid: Sequence[float],
    chunks: Sequence[int],
    begin: Callable[[int], Start],
    condition: Callable[[tuple[int, ...]], Condition],
    commit: Callable[[ChunkMemory], None],
) -> Iterator[Progress | Finished]:
    """Makes the chunks, yielding after every step and every finished chunk.

    `begin(chunk)` is asked before a chunk's first step, and `condition(chunks)` whenever the active chunks or the
    memory have changed, so its cost (retrieval, rotation of keys) is paid per chunk and not per step. `commit(memory)`
    gets what the writer made of the last pass under the chunk's own condition; the cache is the caller's.
    """
    moving: dict[int, _Moving] = {}
    seen: Condition | None = None
    active: tuple[int, ...] = ()
    for move in plan(chunks, grid):
        if move.chunks != active:
            seen = None  # frees the old context before the new one is made
        if seen is None:
            active, seen = move.chunks, condition(move.chunks)
        if isinstance(move, Commit):
            done = moving.pop(move.chunk)
            commit(_last_pass(done.x, seen))
            seen = None
            yield Finished(move.chunk, done.x[:, :, done.overlap :])
        else:
            for chunk in [chunk for chunk in move.chunks if chunk not in moving]:
                start = begin(chunk)
                moving[chunk] = _Moving(start.x, start.known.cpu(), solver.start(start.seed), start.overlap)
            moving |= _advance(move, [moving[chunk] for chunk in move.chunks], solver, seen)
            yield Progress(move.chunks, tuple(moving[chunk].updates for chunk in move.chunks), len(grid) - 1)


def _advance(step: Step, active: Sequence[_Moving], solver: SolverProtocol[Any], seen: Condition) -> dict[int, _Moving]:
    """One forward pass over all active chunks, then one solver update of each."""
    before = [chunk.levels(sigma) for chunk, sigma in zip(active, step.sigma, strict=True)]
    after = [chunk.levels(sigma) for chunk, sigma in zip(active, step.sigma_next, strict=True)]
    x = torch.cat([chunk.x for chunk in active], dim=2)
    x0 = seen.denoiser(x, _beside(x, torch.cat(before, dim=1)), seen.text, seen.attend)
    moved: dict[int, _Moving] = {}
    pieces = x0.split([chunk.x.shape[2] for chunk in active], dim=2)
    for index, chunk, piece, sigma, sigma_next in zip(step.chunks, active, pieces, before, after, strict=True):
        x_next, state = solver(chunk.x, piece, sigma, sigma_next, chunk.state)
        moved[index] = replace(chunk, x=x_next, state=state, updates=chunk.updates + 1)
    return moved


def _last_pass(x: Float[Tensor, "b c f h w"], seen: Condition) -> ChunkMemory:
    """The chunk as later chunks will see it: its keys and values, clean or as noisy as `context` says."""
    x, sigma = seen.context(x)
    seen.denoiser(x, _beside(x, sigma), seen.text, Recording(seen.attend, seen.writer))
    return seen.writer.memory()


def _beside(x: Float[Tensor, "b c f h w"], sigma: Float[Tensor, "b f"]) -> Float[Tensor, "b f"]:
    """Levels on x's device, never below float32: bfloat16 cannot tell timestep 998 from 1000."""
    return sigma.to(x.device, torch.promote_types(x.dtype, torch.float32))
