"""How a finished chunk joins the one shown before it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from blockvid.errors import InputError


@dataclass(frozen=True)
class Dissolve:
    """What a chunk draws anew comes in over its first latent frames, wherever it is nearly what was shown before.

    z'_t = z'_{t-1} + g (z_t - z'_{t-1}) with g = d^4 / (d^4 + tau_t^4), d the root mean square over channels of
    z_t - z'_{t-1}, and tau_t = tau / 2^t at the chunk's latent frame t; z'_{-1} is the last latent frame shown before.
    So what differs by more than `tau` (motion, a cut) is shown as it is, details that were only drawn a little
    differently fade in, and after a few frames nothing is held back. A recursive filter over time whose gain is the
    change itself, as against noise in film; by this schedule it acts on seams alone. `tau` is in units of normalised
    latents, whose standard deviation is about 1. Raises InputError unless it is finite and at least 0; 0 is no effect.
    """

    tau: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.tau < float("inf"):
            raise InputError(f"a dissolve of {self.tau} is not a finite number of at least 0; use 0 for none, or 0.8")

    def __call__(
        self, latents: Float[Tensor, "1 c f h w"], before: Float[Tensor, "1 c k h w"]
    ) -> Float[Tensor, "1 c f h w"]:
        """A chunk as it is shown after the latents `before`, of which the last frame counts."""
        if self.tau == 0:
            return latents
        shown = before[:, :, -1].to(latents)
        frames = []
        for t, frame in enumerate(latents.unbind(dim=2)):
            change = frame - shown
            steepness = change.float().square().mean(dim=1, keepdim=True).square()
            gain = steepness / (steepness + (self.tau / 2**t) ** 4)
            shown = shown + gain.nan_to_num(1.0).to(change) * change  # 0 / 0: no change, and a tau that has run out
            frames.append(shown)
        return torch.stack(frames, dim=2)
