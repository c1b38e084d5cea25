"""What a chunk starts from: its noise, and the frames of it that are given."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def chunk_seed(seed: int, chunk: int) -> int:
    """A 64-bit seed of its own for every (seed, chunk): neighbouring seeds and chunks share nothing."""
    digest = hashlib.blake2b(f"{seed}:{chunk}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def base_noise(
    seed: int,
    chunk: int,
    shape: Sequence[int],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "b c f h w"]:
    """Standard normal noise (b c f h w) of one chunk, a function of its arguments alone.

    It does not depend on how many chunks follow, so a longer video begins as the shorter one did. It is drawn in
    float32 on the CPU, so one seed means one video on every device.
    """
    generator = torch.Generator("cpu").manual_seed(chunk_seed(seed, chunk))
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32).to(device, dtype)


@dataclass(frozen=True)
class Start:
    """A chunk before its first step: noise, and already clean latents in the frames that are known."""

    x: Float[Tensor, "b c f h w"]
    known: Bool[Tensor, " f"]

    @classmethod
    def after(cls, clean: Float[Tensor, "b c k h w"] | None, noise: Float[Tensor, "b c f h w"]) -> Start:
        """Noise whose first k frames are given: the image latent of text + image to video. None: nothing is given."""
        given = 0 if clean is None else clean.shape[2]
        x = noise if clean is None else torch.cat([clean.to(noise), noise[:, :, given:]], dim=2)
        return cls(x, known=torch.arange(noise.shape[2]) < given)
