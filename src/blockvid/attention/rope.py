"""Three-axis rotary embedding by explicit position.

Positions are data, never counters: a cached key carries its (t, h, w) and is rotated when it is used, so windows,
sinks, retrieval and re-indexing are bookkeeping on integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from blockvid.errors import InputError

MAX_POSITION = 1024  # length of the rotary table of the Wan checkpoints, per axis


def grid_positions(frames: int, height: int, width: int, start: int = 0) -> Int[Tensor, "s 3"]:
    """(t, h, w) of every token of a `frames` x `height` x `width` grid in token order, t counting from `start`."""
    axes = torch.arange(start, start + frames), torch.arange(height), torch.arange(width)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)


@dataclass(frozen=True)
class Rope:
    """Interleaved-pair rotary embedding of Wan 2.1, its channels split over (t, h, w) with the remainder going to t."""

    head_dim: int
    theta: float = 10000.0

    @property
    def split(self) -> tuple[int, int, int]:
        """Channels given to t, h and w."""
        side = 2 * (self.head_dim // 6)
        return self.head_dim - 2 * side, side, side

    def phases(self, positions: Int[Tensor, "s 3"]) -> tuple[Float[Tensor, "s pairs"], Float[Tensor, "s pairs"]]:
        """Cosine and sine of every channel pair, computed in float64 as Wan does, returned in float32."""
        if positions.numel() and int(positions.max()) >= MAX_POSITION:
            raise InputError(
                f"position {int(positions.max())} is past the rotary table of {MAX_POSITION}; "
                "use a bounded window or re-index positions"
            )
        angles = [
            positions[:, axis, None].double()
            * self.theta ** -(torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / dim)
            for axis, dim in enumerate(self.split)
        ]
        angle = torch.cat(angles, dim=1)
        return angle.cos().float(), angle.sin().float()

    def rotate(
        self, x: Float[Tensor, "b s heads d"], phases: tuple[Float[Tensor, "s pairs"], Float[Tensor, "s pairs"]]
    ) -> Float[Tensor, "b s heads d"]:
        """Multiply the channel pairs (0, 1), (2, 3), ... of every token, as complex numbers, by their phase."""
        cos, sin = (phase[:, None, :] for phase in phases)
        pairs = torch.view_as_complex(x.float().contiguous().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * torch.complex(cos, sin)).flatten(-2).type_as(x)
