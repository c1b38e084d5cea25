"""Context as generation has it: the data with the faults that the model's own hand would give it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from blockvid.attention.attend import BlockCausal
from blockvid.batch import Batch
from blockvid.errors import InputError, at_least_one
from blockvid.flow import TIMESTEPS, noised, over_frames, shift_sigma
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.training.densities import check_share
from blockvid.training.objectives.visibility import grid


@dataclass(frozen=True)
class Resampling:
    """Noise the data to a level and let the model itself lead it back (Resampling Forcing, arXiv 2512.15702).

    A row's level is uniform in [`lowest`, `highest`]: low ones draw detail anew, high ones contents. From there it
    takes `steps` Euler steps on a grid that `shift` warps, every chunk seeing itself and the `window` chunks before it.
    Unlike that paper's, all chunks descend together, not each on its finished predecessors; and they are guided (by the
    rule "cfg"), for what guidance overdoes adds up along a video. `share` of the batches are resampled.
    """

    share: float = 0.3
    lowest: float = 0.3
    highest: float = 0.9
    steps: int = 3
    guidance: float = 3.0
    shift: float = 8.0
    window: int = 2

    def __post_init__(self) -> None:
        check_share("share", self.share)
        at_least_one(self, "steps", "window")
        if not 0 < self.lowest <= self.highest < 1:
            raise InputError(f"levels from {self.lowest} to {self.highest} are not within (0, 1); use 0.3 to 0.9")

    @torch.no_grad()
    def __call__(
        self, model: BlockDiT, batch: Batch, negative: TextContext, generator: torch.Generator
    ) -> Float[Tensor, "b c f h w"]:
        """What `batch` becomes; `negative` is the text that guidance leads away from."""
        x0 = batch.latents.float()
        b, frames = len(x0), sum(batch.frames)
        drawn = self.lowest + (self.highest - self.lowest) * torch.rand(b, 1, generator=generator)
        eps = torch.randn(x0.shape, generator=generator).to(x0.device)
        begin = shift_sigma(drawn.expand(b, frames).to(x0.device), 1 / self.shift)
        levels = [shift_sigma(begin * (1 - step / self.steps), self.shift) for step in range(self.steps + 1)]
        positions, tokens = grid(model, batch.frames, x0)
        attend = BlockCausal(model.rope, positions, tokens, self.window)
        x = noised(x0, eps, levels[0])
        for sigma, lower in pairwise(levels):
            v = model(x, TIMESTEPS * sigma, batch.text, attend).float()
            if self.guidance != 1:
                v = torch.lerp(model(x, TIMESTEPS * sigma, negative, attend).float(), v, self.guidance)
            x = x + over_frames(lower - sigma) * v
        return x
