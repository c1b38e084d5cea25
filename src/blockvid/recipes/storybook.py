"""How the embedded model is made: its autoencoder, then its transformer."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from blockvid.data.takes import TENSORS
from blockvid.errors import InputError
from blockvid.geometry import Geometry
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.model.load import Defaults, save_blockvid_json
from blockvid.model.storybook_vae import StorybookVAE
from blockvid.model.text import MiniLMText
from blockvid.storybook.corpus import TAKE_SECONDS, EncodedTakes, Shards, Snippets, build, to_unit
from blockvid.training.batch import Batch, Losses
from blockvid.training.densities import Shared
from blockvid.training.loop import Cadence, Loop, Plan
from blockvid.training.objectives import DiffusionForcing, FlowMatching, Reconstruction
from blockvid.training.optimisation import AdamW, MuonAdamW, WarmHoldFall

GEOMETRY = Geometry(width=160, height=96, fps=8, chunk_frames=8)
DEFAULTS = Defaults(steps=20, guidance=3.0, shift=8.0, negative_prompt="", solver="unipc")
# Extra loss weight where the subject is: the smallest part of the picture and the one looked at. The transformer learns
# identity last: at 2, after 3,000 steps, every subject began as the same pink average (docs/log.md).
DETAIL_WEIGHT = 2.0
SUBJECT_WEIGHT = 6.0


@dataclass(frozen=True)
class AutoencoderRun:
    """Trains a `StorybookVAE` on rendered snippets; writes `out/vae`."""

    plan: Plan
    geometry: Geometry = GEOMETRY
    shards: int = 280
    batch: int = 4
    width: int = 64
    latent_width: int = 192
    objective: Reconstruction = Reconstruction()
    workers: int = 2

    def __call__(self, out: Path, stop: Callable[[], bool] = lambda: False) -> None:
        """Run to the end or until `stop`; over an earlier `out` it continues."""
        snippets = Snippets(self.geometry)
        build(out / "snippets", self.shards, snippets, self.workers)
        torch.manual_seed(0)
        model = StorybookVAE(width=self.width, latent_width=self.latent_width)
        data = Shards.read(out / "snippets", ("frames", "mask"))

        def losses(_step: int, index: int, generator: torch.Generator) -> Losses:
            rows = data.rows(index, self.batch)
            frames = to_unit(data.tensors["frames"][rows])
            weight = 1 + DETAIL_WEIGHT * (data.tensors["mask"][rows, None] > 0).float()
            return _of_model(self.objective(model, frames, weight, generator))

        def export(_step: int, average: nn.Module) -> None:
            assert isinstance(average, StorybookVAE)
            average.save_pretrained(out / "vae")
            _reconstructions(average, data, out / "reconstructions.png")

        loop = Loop({"model": model}, losses, self.plan, out / "autoencoder", cadence=Cadence(save=250))
        loop.run(on_save=export, stop=stop)


@torch.no_grad()
def _reconstructions(vae: StorybookVAE, data: Shards, path: Path) -> None:
    """Originals above what the autoencoder makes of them."""
    frames = data.tensors["frames"][:8]
    latents, _ = vae.encode(to_unit(frames))
    decoded, _ = vae.decode(latents)
    shown = ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(1, -1)
    rows = [torch.cat(list(clip[:, 8]), dim=1) for clip in (frames[:4], shown[:4], frames[4:], shown[4:])]
    Image.fromarray(torch.cat(rows).numpy().astype(np.uint8)).save(path)


@dataclass(frozen=True)
class BaseRun:
    """Trains a `BlockDiT` by block-causal diffusion forcing on encoded takes; writes `out/transformer`.

    A step reads `batch` windows of takes and `stills` single latent frames of as many other takes. Stills teach what a
    caption names. Windows hardly do: they show few subjects a step, and their later chunks copy them from earlier ones.
    """

    plan: Plan
    name: str = "base"
    """Of its folder in `out`: checkpoints and log."""
    geometry: Geometry = GEOMETRY
    shards: int = 200
    batch: int = 8
    chunks: int = 5
    stills: int = 0
    heads: int = 4
    head_dim: int = 64
    layers: int = 8
    objective: DiffusionForcing = DiffusionForcing(older=0.5)
    stills_objective: FlowMatching = FlowMatching(Shared(), shift=3.0)  # a frame has an eighth of a chunk's redundancy
    workers: int = 2

    def __call__(self, out: Path, stop: Callable[[], bool] = lambda: False) -> None:
        """Run to the end or until `stop`; over an earlier `out` it continues. Needs `out/vae`.

        It begins with the weights of `out/transformer` where there are some.
        """
        if not (out / "vae").exists():
            raise InputError(f"{out / 'vae'} is missing; run `blockvid train storybook_autoencoder --out {out}` first")
        build(out / "takes", self.shards, EncodedTakes(self.geometry, out / "vae"), self.workers)
        torch.manual_seed(0)
        model = self.model()
        if (out / "transformer").exists():
            model.load_state_dict(BlockDiT.from_pretrained(out / "transformer").state_dict())
        data = Shards.read(out / "takes", TENSORS)
        null = MiniLMText()([""])
        empty = TextContext(null.tokens[:, None], (1,), null.mask[:, None])

        def losses(_step: int, index: int, generator: torch.Generator) -> Losses:
            found: list[tuple[int, Tensor]] = []
            if self.batch:
                latents, coverage, text = self.batch_at(data, index, generator)
                weight = 1 + SUBJECT_WEIGHT * coverage[:, None]
                loss = self.objective(model, latents, text.frames, text, empty, weight, generator)["loss"]
                found.append((latents[:, 0, :, 0, 0].numel(), loss))
            if self.stills:
                batch = self.stills_at(data, index, generator)
                loss = self.stills_objective({"model": model}, batch, empty, 0, generator).due["model"]
                found.append((self.stills, loss))
            total = sum(frames * loss for frames, loss in found) / sum(frames for frames, _ in found)
            assert isinstance(total, Tensor)
            return Losses({"model": total}, {"stills_loss": found[-1][1]} if self.stills and self.batch else {})

        def export(_step: int, average: nn.Module) -> None:
            assert isinstance(average, BlockDiT)
            average.save_pretrained(out / "transformer")
            save_blockvid_json(out, self.geometry, DEFAULTS, "minilm")

        Loop({"model": model}, losses, self.plan, out / self.name).run(on_save=export, stop=stop)

    def model(self) -> BlockDiT:
        """A freshly initialised transformer of this run."""
        dim = self.heads * self.head_dim
        model = BlockDiT(
            num_attention_heads=self.heads,
            attention_head_dim=self.head_dim,
            text_dim=384,
            freq_dim=128,
            ffn_dim=4 * dim,
            num_layers=self.layers,
        )
        model.initialize()
        return model

    def stills_at(self, data: Shards, step: int, generator: torch.Generator) -> Batch:
        """Single latent frames, each of another take (takes recur where there are fewer), at random moments."""
        takes = data.order(step).repeat(-(-self.stills // len(data)))[: self.stills]
        moments = torch.randint(data.tensors["latents"].shape[2], (self.stills,), generator=generator)
        chunks = (moments - 1).clamp(min=0) // self.geometry.chunk_frames
        mask = data.tensors["mask"][takes, chunks]
        read = int(mask.sum(-1).max())  # slots that all leave empty are not worth their projections
        text = TextContext(data.tensors["tokens"][takes, chunks, None, :read].float(), (1,), mask[:, None, :read])
        latents = data.tensors["latents"][takes, :, moments, None].float()
        weight = 1 + SUBJECT_WEIGHT * data.tensors["coverage"][takes, moments, None, None].float()
        return Batch(latents, (1,), text, latents.new_zeros(self.stills, 1, 1), weight)

    def batch_at(self, data: Shards, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor, TextContext]:
        """Latents, subject coverage and text of `chunks` consecutive chunks; one starting chunk for the whole batch.

        Windows that open a take carry its image latent, so their first chunk is one frame longer.
        """
        rows = data.rows(step, self.batch)
        size, per_take = self.geometry.chunk_frames, round(TAKE_SECONDS / self.geometry.chunk_seconds)
        first = int(torch.randint(per_take - self.chunks + 1, (1,), generator=generator))
        frames = (size + (first == 0), *[size] * (self.chunks - 1))
        start = first * size + (first > 0)
        span, chunks = slice(start, start + sum(frames)), slice(first, first + self.chunks)
        tensors = data.tensors
        text = TextContext(tensors["tokens"][rows, chunks].float(), frames, tensors["mask"][rows, chunks])
        return tensors["latents"][rows, :, span].float(), tensors["coverage"][rows, span].float(), text


def _of_model(losses: dict[str, Tensor]) -> Losses:
    """What is minimised is called "loss"; the rest is told."""
    return Losses({"model": losses["loss"]}, {name: loss for name, loss in losses.items() if name != "loss"})


def storybook_autoencoder() -> AutoencoderRun:
    """How the shipped autoencoder was trained: about 25 minutes on two cores."""
    adam = AdamW(lr=2e-3, weight_decay=0.0, betas=(0.9, 0.98))
    plan = Plan(1500, optimiser=adam, rate=WarmHoldFall(fall=0.4), ema=0.995, precision="bfloat16")
    return AutoencoderRun(plan, workers=os.cpu_count() or 1)


def storybook_stills() -> BaseRun:
    """The transformer's first lesson: pictures and what captions call them. `storybook_base` goes on from it."""
    muon = MuonAdamW(lr=1e-3, matrix_lr=3e-3)
    plan = Plan(4000, optimiser=muon, rate=WarmHoldFall(fall=0.2), ema=0.99, precision="bfloat16")
    return BaseRun(plan, name="stills", batch=0, stills=128, workers=os.cpu_count() or 1)


def storybook_base() -> BaseRun:
    """The full run, hours on two cores; the shipped transformer is from a shorter one (see its model card)."""
    muon = MuonAdamW(lr=1e-3, matrix_lr=3e-3)
    plan = Plan(4000, optimiser=muon, rate=WarmHoldFall(fall=0.35), ema=0.99, precision="bfloat16")
    return BaseRun(plan, stills=32, workers=os.cpu_count() or 1)
