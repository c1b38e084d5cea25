"""Which tokens of a finished chunk are worth remembering: probe attention, importance, the smallest covering set.

Everything is computed from the chunk's own queries and keys in the clean pass that writes the cache (Eqs. 6 and 7,
Algorithm 2), so it knows nothing of the chunk's place in the video.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from blockvid.errors import InputError


@dataclass(frozen=True)
class Salience:
    """How a chunk's tokens are scored and how many are kept. The defaults are those of docs/equations.md.

    Algorithm 2 to the letter is `mask="token"`, `mean="cumulative"`, `multiple=1`.
    """

    tau: float = 0.98
    """Share of the attention mass that the kept tokens cover, in (0, 1]; 1 keeps every token (Eq. 7)."""
    recent: int = 64
    """Probe queries from the end of the chunk."""
    random: int = 64
    """Probe queries drawn from the tokens before those."""
    probes: Literal["literal", "stratified", "all"] = "literal"
    """literal: as above; stratified: as many, evenly spread over the chunk; all: every token."""
    mask: Literal["none", "token"] = "none"
    """none: a probe sees the whole chunk, as the model does; token: only tokens up to itself."""
    mean: Literal["mean", "cumulative"] = "mean"
    """mean: over the heads and probes that may see a token; cumulative: running mean along the token order."""
    layer: int | None = None
    """None: every layer keeps its own tokens; k: all layers keep those that layer k chose."""
    multiple: int = 32
    """The number kept is rounded up to a multiple of this; 1 is Eq. 7 to the token. Contexts of ever new lengths cost
    time and make resident memory grow over a video (docs/log.md)."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tau) and 0 < self.tau <= 1):
            raise InputError(f"tau {self.tau} is outside (0, 1]; use 1 to keep every token, 0.9 to 0.98 to drop some")
        if self.recent < 0 or self.random < 0 or self.recent + self.random == 0:
            raise InputError(
                f"{self.recent} recent and {self.random} random probes are no probes; use 64 of each, or more"
            )
        if self.layer is not None and self.layer < 0:
            raise InputError(f"layer {self.layer} is negative; leave it out for a choice per layer, or use 0, 1, ...")
        if self.multiple < 1:
            raise InputError(f"a multiple of {self.multiple} tokens cannot be kept; use 1 or more, such as 32")

    def probe_indices(self, tokens: int, generator: torch.Generator) -> Int[Tensor, " p"]:
        """The tokens that vote, ascending. All of them if the chunk is no larger than the number of probes."""
        wanted = self.recent + self.random
        if self.probes == "all" or tokens <= wanted:
            return torch.arange(tokens)
        if self.probes == "stratified":
            return torch.linspace(0, tokens - 1, wanted, dtype=torch.float64).round().long()
        earlier = tokens - self.recent
        drawn = torch.randperm(earlier, generator=generator)[: self.random].sort().values
        return torch.cat((drawn, torch.arange(earlier, tokens)))

    def importance(
        self, q: Float[Tensor, "s heads d"], k: Float[Tensor, "s heads d"], generator: torch.Generator
    ) -> Float[Tensor, " s"]:
        """Importance of each token of one layer (Eq. 6), from rotated queries and keys of one row. float32.

        With the defaults it sums to 1. Only the probes' rows of the attention matrix are computed.
        """
        probes = self.probe_indices(len(q), generator).to(q.device)
        seen = None if self.mask == "none" else torch.arange(len(q), device=q.device) <= probes[:, None]
        received = probe_attention(q[probes], k, seen)
        voters = torch.full_like(received, len(probes)) if seen is None else seen.sum(dim=0)
        if self.mean == "cumulative":
            return received.cumsum(0) / torch.arange(1, len(q) + 1, device=q.device)
        return received / (voters * q.shape[1]).clamp(min=1)

    def select(self, importance: Float[Tensor, " s"]) -> Int[Tensor, " m"]:
        """The kept tokens, ascending: the fewest whose importance covers tau of the total (Eq. 7), then `multiple`."""
        order = importance.argsort(descending=True, stable=True)
        count = cover_count(importance[order], self.tau)
        return order[: math.ceil(count / self.multiple) * self.multiple].sort().values


def probe_attention(
    q: Float[Tensor, "p heads d"], k: Float[Tensor, "s heads d"], seen: Bool[Tensor, "p s"] | None
) -> Float[Tensor, " s"]:
    """Attention that each token receives, summed over heads and probes, in float32."""
    q, k = (rearrange(x, "s heads d -> heads s d") for x in (q, k))
    scores = (q @ k.transpose(1, 2)).float() * q.shape[-1] ** -0.5
    if seen is not None:
        scores = scores.masked_fill(~seen, -math.inf)
    return scores.softmax(-1).sum(dim=(0, 1))


def cover_count(descending: Float[Tensor, " s"], tau: float) -> int:
    """The smallest M such that the first M of `descending` sum to at least tau of all; all of them for tau = 1."""
    if tau >= 1:
        return len(descending)
    mass = descending.double().cumsum(0)
    return 1 + int((mass < tau * mass[-1]).sum().clamp(max=len(descending) - 1))
