"""What the chunks of a training sample see of each other: how the model is run on noised chunks.

Recalled chunks stand where they stand in generation, one after the other before the chunk that sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from blockvid.attention.attend import Attend, BlockCausal, CleanThenNoisy, Full, Recalling, Rowwise
from blockvid.attention.policies import Full as Everything
from blockvid.attention.policies import Policy, Recall, Window, recalls, similarity
from blockvid.flow import TIMESTEPS, noised
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.training.densities import check_share

Plan = TypeVar("Plan", bound=Hashable)


@dataclass(frozen=True)
class Example:
    """A batch with its noise: everything that a forward pass and its loss need."""

    x0: Float[Tensor, "b c f h w"]
    context: Float[Tensor, "b c f h w"]
    """What chunks are when they are context: x0, or what a model made of them."""
    eps: Float[Tensor, "b c f h w"]
    sigma: Float[Tensor, "b n"]
    target: Float[Tensor, "b n"]
    """1 where a chunk is to be predicted, 0 where it is context."""
    alone: Bool[Tensor, "b n"]
    """True where a chunk sees nothing before it; on the CPU."""
    text: TextContext
    pooled: Float[Tensor, "b n d"]

    @property
    def frames(self) -> tuple[int, ...]:
        return self.text.frames

    def per_frame(self, values: Float[Tensor, "b n"]) -> Float[Tensor, "b f"]:
        """One value per chunk, repeated for its latent frames."""
        spread = torch.repeat_interleave(torch.arange(len(self.frames)), torch.tensor(self.frames))
        return values[:, spread.to(values.device)]

    @property
    def noisy(self) -> Float[Tensor, "b c f h w"]:
        """x_sigma of targets from x0, of context from `context` (Eq. 2)."""
        clean = self.x0
        if self.context is not self.x0:
            clean = torch.where(self.per_frame(self.target)[:, None, :, None, None] > 0, self.x0, self.context)
        return noised(clean, self.eps, self.per_frame(self.sigma))


@runtime_checkable
class Visibility(Protocol):
    """Runs the model on an example."""

    def __call__(self, model: BlockDiT, example: Example, generator: torch.Generator) -> Float[Tensor, "b c f h w"]:
        """The velocity it predicts of every chunk."""
        ...


@dataclass(frozen=True)
class Causal:
    """A chunk sees itself and, of those before it, what `policy` recalls: retrieval as generation has it.

    Similarities are those of each row's own prompts. Tokens are not thinned: salience belongs to generation.
    `Causal(Window(2))` is block-causal attention, `Causal(Semantic())` retrieval.
    """

    policy: Policy = Window(2)

    def __call__(
        self,
        model: BlockDiT,
        example: Example,
        generator: torch.Generator,  # noqa: ARG002
    ) -> Float[Tensor, "b c f h w"]:
        positions, tokens = grid(model, example.frames, example.x0)
        windowed = isinstance(self.policy, Window | Everything)
        if windowed and not example.alone.any():
            window = self.policy.chunks if isinstance(self.policy, Window) else None
            return run(model, example, BlockCausal(model.rope, positions, tokens, window))
        attend = rowwise(plans(self.policy, example), lambda plan: Recalling(model.rope, positions, tokens, plan))
        return run(model, example, attend)


@dataclass(frozen=True)
class RandomlyRecalling:
    """A window, and each chunk before it with probability `older`, drawn once for the batch.

    So retrieval, and positions that skip chunks, are learned whatever the prompts are.
    """

    window: int = 2
    older: float = 0.5

    def __post_init__(self) -> None:
        check_share("older", self.older)

    def __call__(self, model: BlockDiT, example: Example, generator: torch.Generator) -> Float[Tensor, "b c f h w"]:
        chunks = len(example.frames)
        retrieved = (torch.rand(chunks, chunks, generator=generator) < self.older).tolist()
        plan: list[Recall] = []
        for c in range(chunks):
            older = [i for i in range(max(0, c - self.window)) if retrieved[c][i]]
            plan.append((*((i, "similar") for i in older), *Window(self.window).recall(c, torch.empty(0, 0))))
        positions, tokens = grid(model, example.frames, example.x0)
        attend = rowwise(
            [forgetting(plan, row) for row in example.alone.tolist()],
            lambda plan: Recalling(model.rope, positions, tokens, plan),
        )
        return run(model, example, attend)


@dataclass(frozen=True)
class Bidirectional:
    """Every chunk sees every chunk; one that is alone cuts the sample, and neither side sees the other."""

    def __call__(
        self,
        model: BlockDiT,
        example: Example,
        generator: torch.Generator,  # noqa: ARG002
    ) -> Float[Tensor, "b c f h w"]:
        positions, tokens = grid(model, example.frames, example.x0)
        if not example.alone[:, 1:].any():
            return run(model, example, Full(model.rope, positions))
        stops = tuple(accumulate(tokens))

        def cut(alone: tuple[bool, ...]) -> Attend:
            ends = [stop for stop, after in zip(stops, (*alone[1:], True), strict=True) if after]
            pieces = tuple(stop - start for start, stop in zip((0, *ends), ends, strict=False))
            return BlockCausal(model.rope, positions, pieces, window=0)

        return run(model, example, rowwise([(False, *row[1:]) for row in example.alone.tolist()], cut))


@dataclass(frozen=True)
class TeacherForcing:
    """clean || noisy in one forward: a noisy chunk sees itself and, clean, the chunks that `policy` recalls.

    That is what a chunk sees in generation, but for the errors of those before it; the forward has twice the tokens.
    Both halves have the same positions, and the noisy one is answered. The clean half is at levels uniform in
    [0, `noise`].
    """

    policy: Policy = Window(2)
    noise: float = 0.0

    def __post_init__(self) -> None:
        check_share("noise", self.noise)

    def __call__(self, model: BlockDiT, example: Example, generator: torch.Generator) -> Float[Tensor, "b c f h w"]:
        positions, tokens = grid(model, example.frames, example.x0)
        attend = rowwise(plans(self.policy, example), lambda plan: CleanThenNoisy(model.rope, positions, tokens, plan))
        clean, level = example.context, torch.zeros_like(example.sigma)
        if self.noise:
            level = self.noise * torch.rand(level.shape, generator=generator).to(level)
            fresh = torch.randn(clean.shape, generator=generator).to(clean)
            clean = noised(clean, fresh, example.per_frame(level))
        sigma = torch.cat((example.per_frame(level), example.per_frame(example.sigma)), 1)
        twice, text = torch.cat((clean, example.noisy), 2), example.text.before(example.text)
        predicted = model(twice, TIMESTEPS * sigma, text, attend)
        return predicted[:, :, sum(example.frames) :]


def run(model: BlockDiT, example: Example, attend: Attend) -> Float[Tensor, "b c f h w"]:
    return model(example.noisy, TIMESTEPS * example.per_frame(example.sigma), example.text, attend)


def grid(
    model: BlockDiT, frames: Sequence[int], latents: Float[Tensor, "b c f h w"]
) -> tuple[Int[Tensor, "s 3"], tuple[int, ...]]:
    """Positions of the tokens, and how many tokens each chunk has, of chunks of so many latent frames."""
    positions = model.positions(sum(frames), *latents.shape[-2:]).to(latents.device)
    return positions, tuple(count * (len(positions) // sum(frames)) for count in frames)


def plans(policy: Policy, example: Example) -> list[tuple[Recall, ...]]:
    """What every chunk of every row recalls."""
    rows = [recalls(policy, similarity(pooled)) for pooled in example.pooled.cpu()]
    return [forgetting(plan, alone) for plan, alone in zip(rows, example.alone.tolist(), strict=True)]


def forgetting(plan: Sequence[Recall], alone: Sequence[bool]) -> tuple[Recall, ...]:
    """The plan in which the chunks that are alone recall nothing."""
    return tuple(() if forgets else recall for recall, forgets in zip(plan, alone, strict=True))


def rowwise(keys: Sequence[Plan], make: Callable[[Plan], Attend]) -> Attend:
    """The `Attend` of each row's key, made once for rows of the same key."""
    groups: dict[Plan, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    if len(groups) == 1:
        return make(keys[0])
    return Rowwise([(rows, make(key)) for key, rows in groups.items()])
