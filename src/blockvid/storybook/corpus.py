"""The storybook as training data: rendered snippets for the autoencoder, encoded takes for the transformer.

Both are folders of numbered shards, each a pure function of its number, so that an interrupted build continues and two
machines build the same data.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor

from blockvid.geometry import Geometry
from blockvid.model.storybook_vae import StorybookVAE
from blockvid.model.text import MiniLMText
from blockvid.storybook.captions import captions
from blockvid.storybook.world import Take, render, sample_take

log = logging.getLogger(__name__)

TAKE_SECONDS = 20


def build(folder: Path, shards: int, make: Callable[[int], dict[str, Tensor]], workers: int = 2) -> None:
    """Write the shards that `folder` lacks, `workers` processes at a time; progress goes to the log."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [index for index in range(shards) if not _path(folder, index).exists()]
    began = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for done, _ in enumerate(pool.imap_unordered(_Writer(folder, make), missing), start=1):
            left = (time.perf_counter() - began) / done * (len(missing) - done)
            log.info("shard %d of %d, %.0f min left", shards - len(missing) + done, shards, left / 60)


def _path(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.safetensors"


@dataclass(frozen=True)
class _Writer:
    folder: Path
    make: Callable[[int], dict[str, Tensor]]

    def __call__(self, index: int) -> None:
        fresh = self.folder / f"{index:05d}.new"
        save_file(self.make(index), fresh)
        fresh.rename(_path(self.folder, index))


@dataclass(frozen=True)
class Snippets:
    """Shards of short clips at random moments of random takes."""

    geometry: Geometry
    clips: int = 16
    frames: int = 17

    def moments(self, index: int) -> list[tuple[Take, int]]:
        """The take and the first frame of each clip of shard `index`."""
        rng, found = np.random.default_rng((1, index)), []
        for _ in range(self.clips):
            take = sample_take(int(rng.integers(2**31)), seconds=TAKE_SECONDS, split="train")
            found.append((take, int(rng.integers(0, int(TAKE_SECONDS * self.geometry.fps) - self.frames))))
        return found

    def __call__(self, index: int) -> dict[str, Tensor]:
        """frames uint8 (clips t h w 3) and subject mask uint8 (clips t h w) of shard `index`."""
        g = self.geometry
        made = [
            render(take, width=g.width, height=g.height, fps=g.fps, start=start, stop=start + self.frames)
            for take, start in self.moments(index)
        ]
        return {"frames": torch.stack([m.frames for m in made]), "mask": torch.stack([m.mask for m in made])}


@dataclass(frozen=True)
class EncodedTakes:
    """Shards of takes from their beginning on, as latents, prompt states and subject weight."""

    geometry: Geometry
    autoencoder: Path
    takes: int = 10
    seconds: int = TAKE_SECONDS
    first: int = 1_000_000
    """Seed of the first take; each has its own."""

    def __call__(self, index: int) -> dict[str, Tensor]:
        """latents f16 (takes c f h w), coverage f16 (takes f h w), tokens f16 (takes n l d), mask (takes n l)."""
        g = self.geometry
        vae = StorybookVAE.from_pretrained(self.autoencoder).eval()
        embed = MiniLMText()
        rows: dict[str, list[Tensor]] = {"latents": [], "coverage": [], "tokens": [], "mask": []}
        for number in range(self.takes):
            take = sample_take(self.first + index * self.takes + number, seconds=self.seconds, split="train")
            clip = render(take, width=g.width, height=g.height, fps=g.fps, start=0, stop=int(self.seconds * g.fps) + 1)
            rows["latents"].append(encode_clip(vae, clip.frames).half())
            rows["coverage"].append(coverage(clip.mask).half())
            prompt = embed(captions(take))
            rows["tokens"].append(prompt.tokens.half())
            rows["mask"].append(prompt.mask)
        return {name: torch.stack(values) for name, values in rows.items()}


@torch.no_grad()
def encode_clip(vae: StorybookVAE, frames: UInt8[Tensor, "t h w 3"]) -> Float[Tensor, "c f h w"]:
    """Latents of a whole clip of 1 + 4k frames, encoded in pieces of bounded memory."""
    memory, out = None, []
    for piece in (frames[:1], *frames[1:].split(32)):
        latents, memory = vae.encode(to_unit(piece)[None], memory)
        out.append(latents)
    return torch.cat(out, dim=2)[0]


def to_unit(frames: UInt8[Tensor, "*b t h w 3"]) -> Float[Tensor, "*b 3 t h w"]:
    """uint8 frames to channels-first [-1, 1]."""
    return frames.movedim(-1, -4).float() / 127.5 - 1


def coverage(mask: UInt8[Tensor, "t h w"]) -> Float[Tensor, "f h8 w8"]:
    """The share of each latent cell that the subject covers, for 1 + 4k frames."""
    share = F.avg_pool2d((mask > 0).float()[:, None], 8)[:, 0]
    return torch.cat((share[:1], share[1:].unflatten(0, (-1, 4)).mean(1)))


@dataclass(frozen=True)
class Shards:
    """Finished shards of a folder, read whole into memory."""

    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, folder: Path, names: tuple[str, ...], which: slice = slice(None)) -> Shards:
        """Concatenate the named tensors of `which` shards in order."""
        parts = [load_file(path) for path in sorted(folder.glob("*.safetensors"))[which]]
        return cls({name: torch.cat([part[name] for part in parts]) for name in names})

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def order(self, epoch: int) -> Tensor:
        """A permutation of the rows, fixed by `epoch`."""
        return torch.randperm(len(self), generator=torch.Generator().manual_seed(epoch))

    def rows(self, step: int, batch: int) -> Tensor:
        """The rows of batch number `step`: permutation after permutation, no row twice in one."""
        per_epoch = max(1, len(self) // batch)
        start = (step % per_epoch) * batch
        return self.order(step // per_epoch)[start : start + batch]
