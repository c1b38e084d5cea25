"""x_cond, the semantic reference of Block Forcing: what the chunks with the most similar prompts looked like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from blockvid.attention.policies import Recall, Semantic, similarity
from blockvid.errors import InputError

Resample = Literal["linear", "nearest"]
Average = Literal["uniform", "softmax"]


@dataclass(frozen=True)
class SemanticReference:
    """The average of the `top_l` past chunks whose prompts are closest, resampled to the chunk's length (Section 3.3).

    The `recent` latest chunks do not compete, as in retrieval; where no other is left, any past chunk does.
    resample  "linear": interpolated in time. "nearest": frames are repeated or dropped.
    average   "uniform"; "softmax": weighted by exp(cosine / temperature).
    """

    top_l: int = 2
    recent: int = 2
    resample: Resample = "linear"
    average: Average = "uniform"
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.top_l < 1:
            raise InputError(f"a reference of the {self.top_l} most similar chunks is none; use 1 or more, or gamma 0")
        if self.resample not in get_args(Resample):
            raise InputError(f"resample {self.resample!r} is unknown; use {', '.join(get_args(Resample))}")
        if self.average not in get_args(Average):
            raise InputError(f"average {self.average!r} is unknown; use {', '.join(get_args(Average))}")
        if not self.temperature > 0:
            raise InputError(f"temperature {self.temperature} is not above 0; use 0.1, or average='uniform'")

    def weights(self, pooled: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
        """Row c: how much each past chunk counts in the reference of chunk c. Sums to 1, or 0 where nothing is past."""
        similar = similarity(pooled)
        weights = torch.zeros(similar.shape)
        for chunk in range(1, len(similar)):
            picked = self.picked(chunk, similar)
            scores = (
                similar[chunk, picked] / self.temperature if self.average == "softmax" else torch.zeros(len(picked))
            )
            weights[chunk, picked] = scores.softmax(0).float()
        return weights

    def picked(self, chunk: int, similar: Float[Tensor, "n n"]) -> list[int]:
        """The chunks that are averaged, ascending."""
        return _similar(Semantic(self.top_l, self.recent).recall(chunk, similar)) or _similar(
            Semantic(self.top_l, 0).recall(chunk, similar)
        )

    @torch.no_grad()
    def __call__(
        self, latents: Float[Tensor, "b c f h w"], frames: tuple[int, ...], pooled: Float[Tensor, "b n d"]
    ) -> tuple[Float[Tensor, "b c f h w"], Bool[Tensor, "b n"]]:
        """x_cond of every chunk, zero where there is none, and True where there is one. No gradient."""
        weights = torch.stack([self.weights(row) for row in pooled.cpu()]).to(latents)
        chunks, made = latents.split(frames, dim=2), []
        for chunk, count in enumerate(frames):
            reference = torch.zeros_like(chunks[chunk])
            for past in range(chunk):
                share = weights[:, chunk, past, None, None, None, None]
                if share.any():
                    reference = reference + share * self.resampled(chunks[past], count)
            made.append(reference)
        return torch.cat(made, dim=2), weights.sum(2) > 0

    def resampled(self, chunk: Float[Tensor, "b c f h w"], frames: int) -> Float[Tensor, "b c g h w"]:
        """The chunk in `frames` latent frames, each covering an equal part of its time."""
        if chunk.shape[2] == frames:
            return chunk
        series = rearrange(chunk, "b c f h w -> b (c h w) f")
        if self.resample == "linear":
            series = F.interpolate(series, frames, mode="linear")
        else:
            series = F.interpolate(series, frames, mode="nearest-exact")
        return rearrange(series, "b (c h w) f -> b c f h w", c=chunk.shape[1], h=chunk.shape[3])


def _similar(recall: Recall) -> list[int]:
    return [index for index, why in recall if why == "similar"]
