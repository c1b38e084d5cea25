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
from blockvid.model.autoencoder import to_unit
from blockvid.model.storybook_vae import StorybookVAE
from blockvid.model.text import MiniLMText
from blockvid.storybook.captions import captions
from blockvid.storybook.films import sample_film
from blockvid.storybook.takes import CHUNK_SECONDS, Split
from blockvid.storybook.world import Take, render, sample_take

log = logging.getLogger(__name__)

TAKE_SECONDS = 20
RENDERED = ("frames", "mask")
"""What a shard of snippets holds."""
TENSORS = ("latents", "coverage", "tokens", "mask")
"""What a shard of encoded takes holds."""
STILLS = (*TENSORS, "chunk")
"""What a shard of encoded snippets holds."""


def build(folder: Path, numbers: range, make: Callable[[int], dict[str, Tensor]], workers: int = 2) -> None:
    """Write the shards `numbers` that `folder` lacks, `workers` processes at a time; progress goes to the log."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [index for index in numbers if not _path(folder, index).exists()]
    if not missing:
        return
    began = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for done, _ in enumerate(pool.imap_unordered(_Writer(folder, make), missing), start=1):
            left = (time.perf_counter() - began) / done * (len(missing) - done)
            log.info("%s: shard %d of %d, %.0f min left", folder.name, done, len(missing), left / 60)


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
    split: Split = "train"

    def moments(self, index: int) -> list[tuple[Take, int]]:
        """The take and the first frame of each clip of shard `index`."""
        rng, found = np.random.default_rng((1, index)), []
        for _ in range(self.clips):
            take = sample_take(int(rng.integers(2**31)), seconds=TAKE_SECONDS, split=self.split)
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
class EncodedSnippets:
    """Shards of snippets as latents that stand alone, each with the prompt of its moment.

    Their first latent, an image's, is left out: a video has one.
    """

    snippets: Snippets
    rendered: Path
    """A folder of shards of `snippets`; one that is not there is rendered, and not kept."""
    autoencoder: Path

    def __call__(self, index: int) -> dict[str, Tensor]:
        """latents f16 (clips c f h w), coverage f16 (clips f h w), of shard `index`, and the prompts of each clip.

        tokens f16 (clips 2 l d) and mask (clips 2 l) are of two chunks; `chunk` uint8 (clips f) is which of them shows.
        """
        shown = _path(self.rendered, index)
        clips = load_file(shown) if shown.exists() else self.snippets(index)
        vae, embed = StorybookVAE.from_pretrained(self.autoencoder).eval(), MiniLMText()
        per = round(CHUNK_SECONDS * self.snippets.geometry.fps)
        rows: dict[str, list[Tensor]] = {name: [] for name in STILLS}
        for number, (take, first) in enumerate(self.snippets.moments(index)):
            latents = encode_clip(vae, clips["frames"][number])[:, 1:]
            # A latent frame shows four frames; the second of them says which chunk it is of.
            chunks = (first + 4 * torch.arange(latents.shape[1]) + 1) // per
            told = captions(take)[int(chunks[0]) :][:2]
            prompt = embed([told[0], told[-1]])
            rows["latents"].append(latents.half())
            rows["coverage"].append(coverage(clips["mask"][number])[1:].half())
            rows["tokens"].append(prompt.tokens.half())
            rows["mask"].append(prompt.mask)
            rows["chunk"].append((chunks - chunks[0]).byte())
        return {name: torch.stack(values) for name, values in rows.items()}


@dataclass(frozen=True)
class EncodedTakes:
    """Shards of films as latents, prompt states and subject weight; a film of one chunk is the opening of a take."""

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
        rows: dict[str, list[Tensor]] = {name: [] for name in TENSORS}
        for number in range(self.takes):
            film = sample_film(self.first + index * self.takes + number, self.seconds)
            frames, mask = film.render(g.width, g.height, g.fps, late=1)
            rows["latents"].append(encode_clip(vae, frames).half())
            rows["coverage"].append(coverage(mask).half())
            prompt = embed(film.captions())
            rows["tokens"].append(prompt.tokens.half())
            rows["mask"].append(prompt.mask)
        return {name: torch.stack(values) for name, values in rows.items()}


@torch.no_grad()
def encode_clip(vae: StorybookVAE, frames: UInt8[Tensor, "t h w 3"]) -> Float[Tensor, "c f y x"]:
    """Latents of a whole clip of 1 + 4k frames, encoded in pieces of bounded memory."""
    memory, out = None, []
    for piece in (frames[:1], *frames[1:].split(32)):
        latents, memory = vae.encode(to_unit(piece)[None], memory)
        out.append(latents)
    return torch.cat(out, dim=2)[0]


def coverage(mask: UInt8[Tensor, "t h w"]) -> Float[Tensor, "f h8 w8"]:
    """The share of each latent cell that the subject covers, for 1 + 4k frames."""
    share = F.avg_pool2d((mask > 0).float()[:, None], 8)[:, 0]
    return torch.cat((share[:1], share[1:].unflatten(0, (-1, 4)).mean(1)))


@dataclass(frozen=True)
class Shards:
    """Finished shards of a folder, read whole into memory."""

    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, folder: Path, numbers: range, names: tuple[str, ...] = TENSORS) -> Shards:
        """Concatenate the named tensors of the shards `numbers`, in order."""
        parts = [load_file(_path(folder, index)) for index in numbers]
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
