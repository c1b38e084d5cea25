"""Few-step generation that can be learned from: chunk after chunk with the cache of generation, differentiable at the
end of each (Self Forcing, arXiv 2506.08009, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from blockvid.attention.attend import Attend, Cached, Recording, Rowwise
from blockvid.attention.cache import ChunkMemory, KVCache, MemoryWriter, Placement
from blockvid.attention.policies import KeyValuePolicy, Recall, Window, recalls, similarity
from blockvid.attention.salience import Salience
from blockvid.batch import Batch
from blockvid.errors import InputError
from blockvid.flow import TIMESTEPS, noised, shift_sigma
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.sampling.denoiser import Denoiser, Guided, VelocityDenoiser

Exits = Literal["shared", "independent"]
"""At which step chunks end. shared: all chunks of a roll-out at the same random one; independent: each at its own."""


@dataclass(frozen=True)
class Rolled:
    """What a roll-out made."""

    latents: Float[Tensor, "b c f h w"]
    """Of the generated chunks; only those of the last `gradient_chunks` require a gradient."""
    forwards: int
    """How often the model ran: (exit + 1) + 1 for a generated chunk, 1 for a given one."""


@dataclass(frozen=True)
class Rollout:
    """Each chunk descends the few levels up to its exit: predict x0, noise it anew to the next level, and so on.

    The prediction at the exit is the chunk, and the only one with a gradient; a clean pass at sigma = 0, without one,
    then writes its keys and values, as generation does. So no gradient crosses chunks, and only the last
    `gradient_chunks` chunks have any: memory is that of so many forwards, or of their inputs with `checkpointed`.

    Every row of a batch recalls by its own prompts and keeps its own tokens, as if it were alone.
    Raises InputError unless `timesteps` fall strictly within (0, 1000].
    """

    timesteps: tuple[float, ...] = (1000, 750, 500, 250)
    """Before the shift; at 5 they become 1000, 937.5, 833.3 and 625."""
    shift: float = 5.0
    policy: KeyValuePolicy = field(default_factory=Window)
    placement: Placement = "compact"
    exits: Exits = "shared"
    gradient_chunks: int = 4
    checkpointed: bool = False
    """Recompute the forward of the exit step in the backward pass instead of keeping its activations."""

    def __post_init__(self) -> None:
        falling = all(a > b for a, b in pairwise((*self.timesteps, 0.0)))
        if not (self.timesteps and falling and self.timesteps[0] <= TIMESTEPS):
            raise InputError(f"timesteps {self.timesteps} do not fall within (0, 1000]; use (1000, 750, 500, 250)")
        if self.exits not in get_args(Exits):
            raise InputError(f"exits {self.exits!r} is unknown; use {', '.join(get_args(Exits))}")
        if self.gradient_chunks < 1:
            raise InputError(f"{self.gradient_chunks} chunks with a gradient teach nothing; use 1 or more")

    @property
    def levels(self) -> tuple[float, ...]:
        """Sigma of every step."""
        return tuple(shift_sigma(t / TIMESTEPS, self.shift) for t in self.timesteps)

    def draw_exits(self, chunks: int, generator: torch.Generator) -> tuple[int, ...]:
        """The step at which each chunk ends, uniform."""
        drawn = torch.randint(len(self.timesteps), (chunks,), generator=generator).tolist()
        return tuple(drawn[:1] * chunks if self.exits == "shared" else drawn)

    def __call__(
        self, model: BlockDiT, batch: Batch, exits: Sequence[int], noise: Sequence[Tensor], generator: torch.Generator
    ) -> Rolled:
        """Generate the last len(exits) chunks of the batch after its other ones, which are given to the cache clean.

        `noise[i]` (b c f h w, f frames of the generated chunks) is what step i starts from or is noised with anew; as
        many as the largest exit needs. `generator` draws the probes of a policy that thins. There is no gradient at all
        where none is enabled.
        """
        given, starts = len(batch.frames) - len(exits), (0, *accumulate(batch.frames))
        past = Past.of(model, batch, self.policy, self.placement)
        made, forwards = [], 0
        for c in range(len(batch.frames)):
            see = past.view(c)
            x = batch.latents[:, :, starts[c] : starts[c + 1]]
            if c >= given:
                span = slice(starts[c] - starts[given], starts[c + 1] - starts[given])
                learned = torch.is_grad_enabled() and c >= len(batch.frames) - self.gradient_chunks
                x = self._denoised(see, [eps[:, :, span].to(x) for eps in noise[: exits[c - given] + 1]], learned)
                made.append(x)
                forwards += exits[c - given] + 1
            past.remember(see, x, generator)
            forwards += 1
        return Rolled(torch.cat(made, dim=2), forwards)

    def _denoised(self, see: View, noise: Sequence[Float[Tensor, "b c f h w"]], learned: bool) -> Tensor:
        """x0 at the last of as many levels as there is noise, with a gradient if it is to be learned from."""
        x, levels = noise[0], self.levels[: len(noise)]
        with torch.no_grad():
            for sigma, lower, eps in zip(levels, levels[1:], noise[1:], strict=False):
                x = noised(see(x, sigma), eps, _level(lower, x))
        with torch.set_grad_enabled(learned):
            if learned and self.checkpointed:
                return checkpoint(see, x, levels[-1], use_reentrant=False, preserve_rng_state=False)
            return see(x, levels[-1])


@dataclass(frozen=True)
class View:
    """How one chunk is denoised: by whom, reading which text, seeing what."""

    memory: ChunkMemory
    """The chunk's own, still empty."""
    denoiser: Denoiser
    text: TextContext
    recalled: list[Cached]
    """What the chunk's tokens see in each group of rows: what its rows recall, and themselves."""
    attend: Attend

    def __call__(self, x: Float[Tensor, "b c f h w"], sigma: float) -> Float[Tensor, "b c f h w"]:
        """x0 behind x, all of whose frames are at `sigma`."""
        return self.denoiser(x, _level(sigma, x), self.text, self.attend)


@dataclass(frozen=True)
class Past:
    """What is remembered of the chunks of a batch so far, by one who denoises them: a cache for each group of rows that
    recall and keep the same."""

    model: BlockDiT
    denoiser: Denoiser
    batch: Batch
    text: TextContext
    """The batch's, with as many rows of no prompt behind for one who is guided."""
    caches: list[tuple[list[int], KVCache]]
    salience: Salience | None

    @classmethod
    def of(cls, model: BlockDiT, batch: Batch, policy: KeyValuePolicy, placement: Placement = "compact") -> Past:
        """Nothing yet."""
        groups = _alike([recalls(policy, similarity(prompts)) for prompts in batch.pooled.cpu()], policy)
        device, dtype = batch.latents.device, model.dtype
        caches = [(rows, KVCache(plan, model.rope, device, dtype, placement)) for plan, rows in groups]
        return cls(model, VelocityDenoiser(model), batch, batch.text, caches, policy.salience)

    def guided(self, scale: float, empty: TextContext) -> Past:
        """The same of one who is led away from `empty`, one chunk of no prompt. Nothing may be remembered yet."""
        if scale == 1:
            return self
        count = len(self.batch.latents)
        caches = [([*rows, *(count + row for row in rows)], cache) for rows, cache in self.caches]
        text = self.text.above(empty.spread(count, self.text.frames))
        return replace(self, denoiser=Guided(self.denoiser, scale), text=text, caches=caches)

    def view(self, index: int) -> View:
        """Of a chunk, when all before it are remembered."""
        frames, start = self.batch.frames[index], sum(self.batch.frames[:index])
        latents = self.batch.latents
        positions = self.model.positions(frames, *latents.shape[-2:]).to(latents.device)
        recalled = [Cached(self.model.rope, cache.recall(index, start), positions) for _, cache in self.caches]
        memory = ChunkMemory(index, start, frames, positions, ())
        return View(memory, self.denoiser, self.text.chunks(index, index + 1), recalled, self._together(recalled))

    @torch.no_grad()
    def remember(self, see: View, x: Float[Tensor, "b c f h w"], generator: torch.Generator) -> None:
        """The finished chunk's keys and values, by a clean pass; `generator` draws probes for a policy that thins."""
        writers = [MemoryWriter(see.memory, self.model.rope, generator, self.salience) for _ in self.caches]
        recording = [Recording(*pair) for pair in zip(see.recalled, writers, strict=True)]
        replace(see, attend=self._together(recording))(x.detach(), 0.0)
        for (_, cache), writer in zip(self.caches, writers, strict=True):
            memory = writer.memory()
            cache.dtype = memory.layers[0].keys.data.dtype  # of the pass: below the weights' under autocast
            cache.append(memory)

    def _together(self, attends: Sequence[Attend]) -> Attend:
        """One for each group, as one for all rows."""
        if len(attends) == 1:
            return attends[0]
        return Rowwise([(rows, attend) for (rows, _), attend in zip(self.caches, attends, strict=True)])


def _alike(plans: Sequence[tuple[Recall, ...]], policy: KeyValuePolicy) -> list[tuple[tuple[Recall, ...], list[int]]]:
    """Rows that recall the same, together; each alone where a policy thins, for what is kept is each row's own."""
    groups: dict[tuple[Recall, ...] | int, list[int]] = {}
    for row, plan in enumerate(plans):
        groups.setdefault(plan if policy.salience is None else row, []).append(row)
    return [(plans[rows[0]], rows) for rows in groups.values()]


def _level(sigma: float, x: Tensor) -> Float[Tensor, "b f"]:
    """One level for every frame, never below float32: bfloat16 cannot tell timestep 998 from 1000."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.full((x.shape[0], x.shape[2]), sigma, dtype=dtype, device=x.device)
