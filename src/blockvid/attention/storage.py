"""In what form a chunk is remembered between its making and its use: where, and with how many bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Storage:
    """Where remembered keys and values wait, and in what precision. Composes with every policy.

    Host memory changes no bit of the result. int8 halves the bytes: a key is rounded to 1/254 of its channel's range
    over the chunk, a value to 1/254 of its token's range over the head (keys have outlier channels, values do not).
    """

    place: Literal["device", "host"] = "device"
    precision: Literal["native", "int8"] = "native"
    ahead: int = 1
    """1: what the next chunk recalls is copied from host memory to the GPU while this one is made; 0: afterwards."""

    def __str__(self) -> str:
        return f"{self.precision} precision on the {self.place}"

    def keys(self, x: Float[Tensor, "b s heads d"]) -> Packed:
        """Keys in the form in which they are kept."""
        return self._put(pack(x, axis=1) if self.precision == "int8" else Packed(x))

    def values(self, x: Float[Tensor, "b s heads d"]) -> Packed:
        """Values in the form in which they are kept."""
        return self._put(pack(x, axis=3) if self.precision == "int8" else Packed(x))

    def bytes_per_number(self, native: int, head_dim: int) -> float:
        """Of `native` bytes each, how many remain, with the values' scales; the keys' are few."""
        return 1 + 2 / head_dim if self.precision == "int8" else native

    def _put(self, packed: Packed) -> Packed:
        return packed.to("cpu", pin=torch.cuda.is_available()) if self.place == "host" else packed


@dataclass(frozen=True)
class Packed:
    """A tensor as it is, or int8 with a float32 scale that broadcasts over it."""

    data: Shaped[Tensor, "b s heads d"]
    scale: Float[Tensor, "b s_or_1 heads d_or_1"] | None = None

    def unpack(self, dtype: torch.dtype) -> Float[Tensor, "b s heads d"]:
        """The numbers again."""
        return self.data.to(dtype) if self.scale is None else (self.data * self.scale).to(dtype)

    def to(self, device: torch.device | str, pin: bool = False) -> Packed:
        """On another device; to a GPU without waiting if the data is pinned. `pin`: in page-locked host memory."""

        def move(x: Tensor) -> Tensor:
            moved = x.to(device, non_blocking=x.is_pinned())
            return moved.pin_memory() if pin else moved

        return Packed(move(self.data), None if self.scale is None else move(self.scale))

    @property
    def nbytes(self) -> int:
        """Bytes of data and scale."""
        return self.data.nbytes + (0 if self.scale is None else self.scale.nbytes)


def pack(x: Float[Tensor, "b s heads d"], axis: int) -> Packed:
    """int8 by the largest magnitude along `axis`, symmetric; the error is at most half a step, scale / 2."""
    scale = x.float().abs().amax(dim=axis, keepdim=True).clamp(min=1e-12) / 127
    return Packed((x.float() / scale).round().to(torch.int8), scale)
