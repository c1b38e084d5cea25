"""How noisy each chunk of a training sample is: one frozen dataclass per density.

A density answers sigma per chunk, and 1 where the chunk is a target or 0 where it is context that carries no loss.
`shift` warps uniform levels as the sampling grid is warped; the levels of context are not warped. Draws are on the CPU
and their number does not depend on their outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from blockvid.errors import InputError
from blockvid.flow import ChunkSchedule, sample_sigma

Levels = tuple[Float[Tensor, "b n"], Float[Tensor, "b n"]]


def check_share(name: str, value: float) -> None:
    """Raises InputError unless `value` is in [0, 1]."""
    if not 0 <= value <= 1:
        raise InputError(f"{name} {value} is not a number from 0 to 1; use 0 to switch it off")


def check_zero_based(schedule: ChunkSchedule) -> None:
    """Raises InputError for a schedule that counts from 1."""
    if schedule.one_based:
        raise InputError(f"a one-based {schedule.kind} schedule is for audits only; use one_based=False")


@runtime_checkable
class Density(Protocol):
    """Draws the levels of (samples, chunks)."""

    def __call__(self, shape: tuple[int, int], shift: float, generator: torch.Generator) -> Levels:
        """sigma in [0, 1], and 1 for targets, 0 for context."""
        ...


@dataclass(frozen=True)
class Shared:
    """One level for all chunks of a sample: plain diffusion of the whole window."""

    def __call__(self, shape: tuple[int, int], shift: float, generator: torch.Generator) -> Levels:
        return sample_sigma((shape[0], 1), shift, generator).repeat(1, shape[1]), torch.ones(shape)


@dataclass(frozen=True)
class Independent:
    """A level for every chunk (Diffusion Forcing). With probability `clean` it is context in [0, `noise`]."""

    clean: float = 0.0
    noise: float = 0.1

    def __post_init__(self) -> None:
        check_share("clean", self.clean)
        check_share("noise", self.noise)

    def __call__(self, shape: tuple[int, int], shift: float, generator: torch.Generator) -> Levels:
        sigma, context = sample_sigma(shape, shift, generator), self.noise * torch.rand(shape, generator=generator)
        is_context = torch.rand(shape, generator=generator) < self.clean
        return torch.where(is_context, context, sigma), (~is_context).float()


@dataclass(frozen=True)
class CleanPrefix:
    """The chunks before a random one are context, as they are in generation; from there on `rest` decides.

    Context is uniform in [0, `noise`], so that generation survives its own small errors; 0 makes it clean.
    """

    rest: Density = Independent()
    noise: float = 0.1

    def __post_init__(self) -> None:
        check_share("noise", self.noise)

    def __call__(self, shape: tuple[int, int], shift: float, generator: torch.Generator) -> Levels:
        sigma, target = self.rest(shape, shift, generator)
        prefix = torch.arange(shape[1]) < torch.randint(shape[1], (shape[0], 1), generator=generator)
        context = self.noise * torch.rand(shape, generator=generator)
        return torch.where(prefix, context, sigma), torch.where(prefix, 0.0, target)


@dataclass(frozen=True)
class Scheduled:
    """t_c = eps_c t_b: one shifted t_b for a sample, the eps_c of as many chunks as it has (Eqs. 11, 26, 27).

    With probability `independent` a sample has levels of its own per chunk, or early chunks would never be learned from
    noise. Raises InputError for a one-based schedule, whose levels may exceed 1.
    """

    schedule: ChunkSchedule = ChunkSchedule("cosine")
    independent: float = 0.25

    def __post_init__(self) -> None:
        check_zero_based(self.schedule)
        check_share("independent", self.independent)

    def __call__(self, shape: tuple[int, int], shift: float, generator: torch.Generator) -> Levels:
        shared, own = sample_sigma((shape[0], 1), shift, generator), sample_sigma(shape, shift, generator)
        scheduled = self.schedule.levels(shape[1]).to(shared) * shared
        independent = torch.rand(shape[0], 1, generator=generator) < self.independent
        return torch.where(independent, own, scheduled), torch.ones(shape)


@dataclass(frozen=True)
class Mixture:
    """Each sample has one of `parts`, with probability in proportion to its share."""

    parts: Sequence[Density]
    shares: Sequence[float]

    def __post_init__(self) -> None:
        if not self.parts or len(self.parts) != len(self.shares):
            raise InputError(f"{len(self.parts)} densities and {len(self.shares)} shares; give a share for each")
        if min(self.shares) < 0 or not sum(self.shares) > 0:
            raise InputError(f"shares {tuple(self.shares)} are not probabilities; use numbers from 0, not all 0")

    def __call__(self, shape: tuple[int, int], shift: float, generator: torch.Generator) -> Levels:
        drawn = [part(shape, shift, generator) for part in self.parts]
        weights = torch.tensor(self.shares, dtype=torch.float64)
        picked = torch.multinomial(weights, shape[0], replacement=True, generator=generator)
        sigma, target = (torch.stack(each)[picked, torch.arange(shape[0])] for each in zip(*drawn, strict=True))
        return sigma, target


def continuing(schedule: ChunkSchedule | None = None) -> Mixture:
    """Half of the samples continue clean chunks, as generation does; in the others any chunk may be noisy.

    Noisy chunks have levels of their own, or those of `schedule`. Raises InputError for a one-based schedule.
    """
    if schedule is None:
        return Mixture((CleanPrefix(), Independent(clean=0.25)), (0.5, 0.5))
    return Mixture((CleanPrefix(Scheduled(schedule)), Scheduled(schedule)), (0.5, 0.5))
