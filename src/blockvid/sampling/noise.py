"""What a chunk starts from: its noise, how noise is arranged around chunk boundaries, and the frames that are given."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor

from blockvid.errors import InputError
from blockvid.flow import noised

Base = Literal["independent", "shared"]
Shuffle = Literal["local", "joint", "freenoise"]


def chunk_seed(seed: int, chunk: int) -> int:
    """A 64-bit seed of its own for every (seed, chunk): neighbouring seeds and chunks share nothing."""
    return _derived(seed, chunk)


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
    return _normal(chunk_seed(seed, chunk), shape).to(device, dtype)


def fresh_noise(seed: int, step: int, shape: Sequence[int]) -> Float[Tensor, "b c f h w"]:
    """What a chunk of this `chunk_seed` is noised with anew after solver step `step`; float32 on the CPU."""
    return _normal(_derived(seed, "step", step), shape)


@dataclass(frozen=True)
class ContextNoise:
    """How noisy a finished chunk is written to memory: at `level` in [0, 1), with noise that is a function of `seed`.

    A model that learned from slightly noisy context (`training.densities.CleanPrefix`) then relies less on the details
    of what it made before, errors among them (Diffusion Forcing; SkyReels-V2 advises 0.02). The chunk that is handed
    out is not touched. Raises InputError for a level outside [0, 1).
    """

    level: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.level < 1:
            raise InputError(f"context noise {self.level} is outside 0 to 1; use 0 for none, or about 0.02 to 0.1")

    def __call__(self, x: Float[Tensor, "b c f h w"]) -> tuple[Float[Tensor, "b c f h w"], Float[Tensor, "b f"]]:
        """What is remembered in place of clean x, and its sigma per frame (on the CPU)."""
        sigma = torch.full((x.shape[0], x.shape[2]), self.level)
        if self.level == 0:
            return x, sigma
        eps = _normal(_derived(self.seed, "context"), x.shape).to(x)
        return noised(x, eps, sigma.to(x)), sigma


@dataclass(frozen=True)
class BoundaryNoise:
    """The noise of every chunk of a video, shuffled around the boundaries between chunks (Eqs. 12 and 13).

    base      "independent": `base_noise`, new noise for every chunk. "shared": noise of one latent frame after another,
              drawn once per seed; every chunk takes the first frames it needs, so equally long chunks start alike.
    window    s, in latent frames, at most half of a chunk. The last s frames of chunk c and the first s of chunk c + 1
              are shuffled; 0: none are. The first chunk's prefix is left alone, and so is the extra first frame of the
              video, which has noise of its own and does not count as part of a chunk here.
    shuffle   "local": the frames of each side among themselves, as printed. "joint": those of both sides pooled.
              "freenoise": the first s frames of chunk c + 1 are a shuffled copy of the shuffled last s of chunk c.

    Permuting independent frames among themselves changes nothing in distribution: "local" and "joint" can matter for
    shared noise only. Noise does not depend on how many chunks follow: the last chunk's suffix is shuffled like any
    other ("joint": with the noise of a further chunk of the same length and seed; this shuffle alone depends on the
    length and seed of the chunk after, where there is one). Raises InputError for an unknown base or shuffle, or a
    window below 0.
    """

    base: Base = "independent"
    shuffle: Shuffle = "local"
    window: int = 0

    def __post_init__(self) -> None:
        for name, value, known in (("base", self.base, Base), ("shuffle", self.shuffle, Shuffle)):
            if value not in get_args(known):
                raise InputError(f"{name} {value!r} is unknown; use {', '.join(get_args(known))}")
        if self.window < 0:
            raise InputError(f"a shuffle window of {self.window} latent frames is below 0; use 0 for none, or 4")

    def __call__(
        self,
        chunk: int,
        seeds: Sequence[int],
        frames: Sequence[int],
        shape: tuple[int, int, int],
        device: torch.device | str = "cpu",
    ) -> Float[Tensor, "1 c f h w"]:
        """Noise of one chunk, of shape (c, h, w) and frames[chunk] latent frames, in float32.

        seeds[i] and frames[i] are those of chunk i of the whole video; frames[0] counts the extra first frame. Drawn on
        the CPU, a function of the arguments alone. Raises InputError for a chunk that is not in the video.
        """
        if not 0 <= chunk < len(frames) == len(seeds):
            raise InputError(f"chunk {chunk} is not among {len(frames)} chunks with {len(seeds)} seeds; give one each")
        video = _Video((*seeds, seeds[-1]), (*frames, max(1, frames[-1] - (len(frames) == 1))), shape)
        prefix, middle, suffix = self._parts(video, chunk)
        if self.window > 0:
            prefix = self._boundary(video, chunk - 1)[1] if chunk > 0 else prefix
            suffix = self._boundary(video, chunk)[0]
        return torch.cat([prefix, middle, suffix], dim=2).to(device)

    def _parts(self, video: _Video, chunk: int) -> Sequence[Float[Tensor, "1 c _ h w"]]:
        """Base noise of a chunk: the prefix to shuffle, what is left alone, the suffix to shuffle."""
        seed, frames, extra = video.seeds[chunk], video.frames[chunk], int(chunk == 0)
        s = min(self.window, (frames - extra) // 2)
        sizes = [0 if extra else s, frames - s - (0 if extra else s), s]
        return self._base(video, seed, chunk).split(sizes, dim=2)

    def _base(self, video: _Video, seed: int, chunk: int) -> Float[Tensor, "1 c f h w"]:
        frames, (c, h, w) = video.frames[chunk], video.shape
        if self.base == "independent":
            return base_noise(seed, chunk, (1, c, frames, h, w))
        first = [_normal(_derived(seed, "first"), (1, c, 1, h, w))] if chunk == 0 else []
        rest = [_normal(_derived(seed, "frame", i), (1, c, 1, h, w)) for i in range(frames - len(first))]
        return torch.cat([*first, *rest], dim=2)

    def _boundary(
        self, video: _Video, chunk: int
    ) -> tuple[Float[Tensor, "1 c suffix h w"], Float[Tensor, "1 c prefix h w"]]:
        """The shuffled suffix of `chunk` and the shuffled prefix of the chunk after it."""
        suffix, prefix = self._parts(video, chunk)[2], self._parts(video, chunk + 1)[0]
        here, there = video.seeds[chunk], video.seeds[chunk + 1]
        if self.shuffle == "joint":
            pool = _shuffled(torch.cat([suffix, prefix], dim=2), _derived(here, chunk, "joint"))
            return pool[:, :, : suffix.shape[2]], pool[:, :, suffix.shape[2] :]
        suffix = _shuffled(suffix, _derived(here, chunk, "suffix"))
        if self.shuffle == "freenoise":
            copied = min(suffix.shape[2], prefix.shape[2])  # less than the prefix where the chunk before is too short
            prefix = torch.cat([suffix[:, :, suffix.shape[2] - copied :], prefix[:, :, copied:]], dim=2)
        return suffix, _shuffled(prefix, _derived(there, chunk + 1, "prefix"))


@dataclass(frozen=True)
class Start:
    """A chunk before its first step: noise, and already clean latents in the frames that are known."""

    x: Float[Tensor, "b c f h w"]
    known: Bool[Tensor, " f"]
    seed: int = 0
    """Of noise that a solver draws on the way."""
    overlap: int = 0
    """Leading frames that are the chunk's before, denoised along and not handed out."""

    @classmethod
    def after(cls, clean: Float[Tensor, "b c k h w"] | None, noise: Float[Tensor, "b c f h w"], seed: int = 0) -> Start:
        """Noise whose first k frames are given: the image latent of text + image to video. None: nothing is given."""
        given = 0 if clean is None else clean.shape[2]
        x = noise if clean is None else torch.cat([clean.to(noise), noise[:, :, given:]], dim=2)
        return cls(x, torch.arange(noise.shape[2]) < given, seed)

    @classmethod
    def warm(
        cls,
        clean: Float[Tensor, "b c k h w"] | None,
        noise: Float[Tensor, "b c f h w"],
        previous: Float[Tensor, "b c p h w"],
        level: float,
        seed: int = 0,
    ) -> Start:
        """The previous chunk's clean latents noised to `level` in (0, 1], where `after` has noise alone.

        Of a longer previous chunk the last frames are taken, of a shorter one the last frame is repeated. Its levels
        must then start at `level` too: see `plans.Chunkwise.starts`. Raises InputError for a level outside (0, 1].
        """
        if not 0 < level <= 1:
            raise InputError(f"a warm start at level {level} is outside (0, 1]; use 1 to start from noise")
        frames = noise.shape[2]
        like = previous.to(noise)[:, :, -frames:]
        still = repeat(like[:, :, -1], "b c h w -> b c f h w", f=frames - like.shape[2])
        at = torch.full((noise.shape[0], frames), level, dtype=noise.dtype, device=noise.device)
        return cls.after(clean, noised(torch.cat([like, still], dim=2), noise, at), seed)

    def overlapping(self, previous: Float[Tensor, "b c k h w"]) -> Start:
        """The same behind the clean last frames of the chunk before: what is denoised beside them goes on from them.

        SkyReels-V2 overlaps its windows so; here it is beside the cache, not instead of it.
        """
        known = torch.cat([torch.ones(previous.shape[2], dtype=torch.bool), self.known.cpu()])
        x = torch.cat([previous.to(self.x), self.x], dim=2)
        return replace(self, x=x, known=known, overlap=self.overlap + previous.shape[2])


@dataclass(frozen=True)
class _Video:
    """Seeds and latent frames of every chunk and of one more, as if a chunk like the last one followed."""

    seeds: tuple[int, ...]
    frames: tuple[int, ...]
    shape: tuple[int, int, int]


def _derived(*parts: int | str) -> int:
    """A 64-bit seed that is a hash of the parts."""
    digest = hashlib.blake2b(":".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _normal(seed: int, shape: Sequence[int]) -> Float[Tensor, "*shape"]:
    """Standard normal, in float32 on the CPU."""
    return torch.randn(tuple(shape), generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float32)


def _shuffled(noise: Float[Tensor, "1 c s h w"], seed: int) -> Float[Tensor, "1 c s h w"]:
    """The frames in a random order."""
    return noise[:, :, torch.randperm(noise.shape[2], generator=torch.Generator("cpu").manual_seed(seed))]
