"""How the embedded model is made: its autoencoder, then its transformer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from blockvid.batch import Source
from blockvid.data.takes import StillSource, TakeSource
from blockvid.errors import InputError
from blockvid.geometry import Geometry
from blockvid.model.autoencoder import to_pixels, to_unit
from blockvid.model.device import pick_device
from blockvid.model.dit import BlockDiT
from blockvid.model.load import Defaults, save_blockvid_json
from blockvid.model.storybook_vae import StorybookVAE
from blockvid.recipes.previews import ProbeLoss
from blockvid.storybook.corpus import (
    RENDERED,
    STILLS,
    TENSORS,
    EncodedSnippets,
    EncodedTakes,
    Shards,
    Snippets,
    build,
)
from blockvid.storybook.takes import CHUNK_SECONDS
from blockvid.training.densities import Shared, check_share
from blockvid.training.export import begins_from, exported, save_network
from blockvid.training.loop import Cadence, Loop, Loss, Plan, losses_of
from blockvid.training.objective import Losses
from blockvid.training.objectives import FlowMatching, Reconstruction, Resampling
from blockvid.training.objectives.visibility import RandomlyRecalling
from blockvid.training.optimisation import AdamW, MuonAdamW, WarmHoldFall
from blockvid.training.patch_gan import PatchGAN
from blockvid.training.sharding import Sharding, World, native_precision, place

GEOMETRY = Geometry(width=160, height=96, fps=8, chunk_frames=8)
DEFAULTS = Defaults(steps=10, guidance=3.5, shift=4.0, negative_prompt="", solver="unipc")
# Extra loss weight where the subject is: the smallest part of the picture and the one looked at. The transformer learns
# identity last: at 2, after 3,000 steps, every subject began as the same pink average (docs/log.md).
DETAIL_WEIGHT = 2.0
SUBJECT_WEIGHT = 6.0


@dataclass(frozen=True)
class AutoencoderRun:
    """Trains a `StorybookVAE` on rendered snippets, from `out/vae` where there is one; writes `out/vae`.

    Or its decoder alone, from `out/vae`: latents stay as they are, and what a transformer has learned of them holds.
    """

    plan: Plan
    name: str
    """Of its folder in `out`: checkpoints and log."""
    part: Literal["autoencoder", "decoder"] = "autoencoder"
    geometry: Geometry = GEOMETRY
    shards: int = 560
    batch: int = 4
    width: int = 64
    latent_width: int = 192
    latent_blocks: int = 4
    """More than `out/vae` has begin as identities."""
    objective: Reconstruction = Reconstruction()
    adversary: PatchGAN | None = None
    keep: float = 0.0
    """Share that the decoder as it was before the run has in what is exported (network interpolation, Wang et al. 2018,
    arXiv 1809.00219): what a critic asks for is detail and grain, and a mean has most of the detail."""
    workers: int = 2
    device: str = "auto"

    def __post_init__(self) -> None:
        check_share("keep", self.keep)

    def __call__(self, out: Path, stop: Callable[[], bool] = lambda: False) -> None:
        """Run to the end or until `stop`; over an earlier `out` it continues."""
        world, adversary = World(pick_device(self.device)), self.adversary
        model = self.model(out)
        networks: dict[str, nn.Module] = {"model": model} | (adversary.networks() if adversary else {})
        snippets = Snippets(self.geometry)
        build(out / "snippets", range(self.shards), snippets, self.workers)
        place(networks, world, Sharding())
        data = Shards.read(out / "snippets", range(self.shards), RENDERED)

        def losses(step: int, index: int, generator: torch.Generator) -> Losses:
            rows = data.rows(index, self.batch)
            frames = to_unit(data.tensors["frames"][rows].to(world.device))
            weight = 1 + DETAIL_WEIGHT * (data.tensors["mask"][rows, None].to(world.device) > 0).float()
            found = self.objective(model, frames, weight, generator)
            logged = {"pixels_loss": found.loss.detach(), "psnr": found.psnr}
            if adversary is None:
                return Losses({"model": found.loss}, logged)
            heard = adversary(networks["critic"], found.frames, frames, weight, step, generator)
            return Losses({**heard.due, "model": found.loss + heard.due["model"]}, {**logged, **heard.logged})

        def export(_step: int, average: nn.Module) -> None:
            assert isinstance(average, StorybookVAE)
            shown = self._mixed(average, out) if self.keep else average
            save_network(shown, out / "vae")
            _reconstructions(shown, data, out / "reconstructions.png")

        loop = Loop(networks, losses, self.plan, out / self.name, world, cadence=Cadence(save=250))
        loop.run(on_save=export, stop=stop)

    def model(self, out: Path) -> StorybookVAE:
        """What is trained; where that is the decoder, the encoder of `out/vae`, frozen, comes with it."""
        if self.part == "autoencoder":
            torch.manual_seed(0)
            model = StorybookVAE(width=self.width, latent_width=self.latent_width, latent_blocks=self.latent_blocks)
            if begins_from(out / "vae", out / self.name):
                model.become(StorybookVAE.from_pretrained(out / "vae"))
            return model
        model = StorybookVAE.from_pretrained(self._began(out)).float().train()
        for part in (model.frame_in, model.frame_encoder, model.group_in, model.encoder, model.to_latent):
            part.requires_grad_(False)
        return model

    def _began(self, out: Path) -> Path:
        """A copy of what `out/vae` was before the run."""
        kept = out / self.name / "began"
        if not kept.exists():
            fresh = shutil.copytree(autoencoder_of(out), kept.with_suffix(".new"), dirs_exist_ok=True)
            fresh.rename(kept)
        return kept

    @torch.no_grad()
    def _mixed(self, trained: StorybookVAE, out: Path) -> StorybookVAE:
        mixed = StorybookVAE.from_pretrained(self._began(out)).float()
        for ours, theirs in zip(mixed.parameters(), trained.parameters(), strict=True):
            ours.lerp_(theirs.cpu().float(), 1 - self.keep)
        return mixed


def autoencoder_of(out: Path) -> Path:
    """The trained autoencoder's folder in a run's. Raises InputError if there is none."""
    if not exported(out / "vae"):
        raise InputError(f"{out / 'vae'} is missing; run `blockvid train storybook_autoencoder --out {out}` first")
    return out / "vae"


@torch.no_grad()
def _reconstructions(vae: StorybookVAE, data: Shards, path: Path) -> None:
    """Originals above what the autoencoder makes of them."""
    frames = data.tensors["frames"][:8]
    latents, _ = vae.encode(to_unit(frames.to(vae.latents_mean.device)))
    decoded, _ = vae.decode(latents)
    shown = to_pixels(decoded).cpu()
    rows = [torch.cat(list(clip[:, 8]), dim=1) for clip in (frames[:4], shown[:4], frames[4:], shown[4:])]
    Image.fromarray(torch.cat(rows).numpy().astype(np.uint8)).save(path)


Corpus = Literal["takes", "openings", "stills"]
"""Films of 20 s (`takes`), the first chunks of many more takes, or the autoencoder's snippets of 2 s, encoded: a
rendered second teaches more names the shorter its take is."""
SIZES: dict[Corpus, int] = {"takes": 10, "openings": 40, "stills": Snippets(GEOMETRY).clips}
"""How many are in a shard."""


@dataclass(frozen=True)
class Stills:
    """Single latent frames, each of another snippet: what captions name."""

    batch: int = 128
    objective: FlowMatching = FlowMatching(Shared(), shift=3.0)  # a frame has an eighth of a chunk's redundancy
    name: str = "stills"
    every: int = 1
    """Taught at each step that this divides."""

    @property
    def corpus(self) -> Corpus:
        return "stills"

    def source(self, learned: Shards, _geometry: Geometry) -> Source:
        return StillSource(learned, self.batch, SUBJECT_WEIGHT)

    def frames(self, _geometry: Geometry) -> int:
        """Latent frames of a step."""
        return self.batch


@dataclass(frozen=True)
class Windows:
    """Consecutive chunks of takes: how pictures move and go on."""

    batch: int = 8
    chunks: int = 5
    objective: FlowMatching = FlowMatching(visibility=RandomlyRecalling())
    name: str = "windows"
    every: int = 1
    """As of `Stills`."""

    @property
    def corpus(self) -> Corpus:
        return "takes" if self.chunks > 1 else "openings"

    def source(self, learned: Shards, geometry: Geometry) -> Source:
        return TakeSource(learned, geometry, self.chunks, self.batch, SUBJECT_WEIGHT)

    def frames(self, geometry: Geometry) -> int:
        """Latent frames of a step, image latents not counted."""
        return self.batch * self.chunks * geometry.chunk_frames


@dataclass(frozen=True)
class TransformerRun:
    """Trains a `BlockDiT` on encoded takes, by flow matching of the `lessons` of each step; writes `out/transformer`.

    Long windows alone hardly teach what captions name: a step shows few subjects, and its later chunks copy them from
    earlier ones. And few takes are learned by heart (docs/log.md), so the loss on a shard of each corpus that is not
    learned from is written at the start and with every checkpoint, to `out/name/unseen-*.jsonl`.
    """

    plan: Plan
    name: str
    """Of its folder in `out`: checkpoints and log."""
    lessons: tuple[Stills | Windows, ...]
    geometry: Geometry = GEOMETRY
    takes: int = 100
    """Shards of them, as of the following."""
    openings: int = 150
    stills: int = 560
    skip: int = 0
    """The first shards of takes, left out: what the weights to begin with have learned."""
    heads: int = 4
    head_dim: int = 64
    layers: int = 8
    workers: int = 2
    device: str = "auto"
    compile: bool = False

    def __call__(self, out: Path, stop: Callable[[], bool] = lambda: False) -> None:
        """Run to the end or until `stop`; over an earlier `out` it continues. Needs `out/vae`.

        It begins with the weights of `out/transformer` where there are some.
        """
        autoencoder_of(out)
        learned, unseen = self._corpora(out)
        world = World(pick_device(self.device))
        torch.manual_seed(0)
        model = self.model()
        if begins_from(out / "transformer", out / self.name):
            model.load_state_dict(BlockDiT.from_pretrained(out / "transformer").state_dict())
        networks = {"model": model}
        place(networks, world, Sharding(compile=("model",) if self.compile else ()))

        def export(_step: int, average: nn.Module) -> None:
            save_network(average, out / "transformer")
            save_blockvid_json(out, self.geometry, DEFAULTS, "minilm")

        looks = [self._look(lesson, unseen[lesson.corpus], world, out / self.name) for lesson in self.lessons]

        def looked(step: int, average: nn.Module) -> None:
            for look in looks:
                look(step, average)

        cadence, losses = Cadence(save=200, preview=200), self._losses(learned, networks, world)
        loop = Loop(networks, losses, self.plan, out / self.name, world, cadence=cadence)
        if loop.step == 0:
            looked(0, model)
        loop.run(on_save=export, preview=looked, stop=stop)

    def _corpora(self, out: Path) -> tuple[dict[Corpus, Shards], dict[Corpus, Shards]]:
        """What is learned from, and the shard after it, of every corpus that a lesson reads; made where missing."""
        g, vae = self.geometry, out / "vae"
        takes = EncodedTakes(g, vae, SIZES["takes"])
        openings = EncodedTakes(g, vae, SIZES["openings"], round(CHUNK_SECONDS), 2_000_000)
        stills = EncodedSnippets(Snippets(g, SIZES["stills"]), out / "snippets", vae)
        makes: dict[Corpus, tuple[range, Callable[[int], dict[str, Tensor]], tuple[str, ...]]] = {
            "takes": (range(self.skip, self.skip + self.takes), takes, TENSORS),
            "openings": (range(self.openings), openings, TENSORS),
            "stills": (range(self.stills), stills, STILLS),
        }
        read = {lesson.corpus for lesson in self.lessons}
        learned, unseen = {}, {}
        for corpus, (numbers, make, names) in makes.items():
            if corpus not in read:
                continue
            after = range(numbers.stop, numbers.stop + 1)
            build(out / corpus, range(numbers.start, after.stop), make, self.workers)
            learned[corpus] = Shards.read(out / corpus, numbers, names)
            unseen[corpus] = Shards.read(out / corpus, after, names)
        return learned, unseen

    def _look(self, lesson: Stills | Windows, unseen: Shards, world: World, folder: Path) -> ProbeLoss:
        few = replace(lesson, batch=min(lesson.batch, len(unseen)))
        objective = replace(lesson.objective, text_dropout=0.0, resampling=None)
        file = folder / f"unseen-{lesson.name}.jsonl"
        return ProbeLoss(few.source(unseen, self.geometry), True, world, file, objective)

    def _losses(self, learned: Mapping[Corpus, Shards], networks: Mapping[str, nn.Module], world: World) -> Loss:
        """The mean over all latent frames of a step."""
        taught: list[tuple[Stills | Windows, Loss]] = []
        for lesson in self.lessons:
            source = lesson.source(learned[lesson.corpus], self.geometry)
            taught.append((lesson, losses_of(lesson.objective, source, networks, world.device)))

        def losses(step: int, index: int, generator: torch.Generator) -> Losses:
            due = [(lesson, loss) for lesson, loss in taught if step % lesson.every == 0]
            frames = torch.tensor([float(lesson.frames(self.geometry)) for lesson, _ in due], device=world.device)
            found = torch.stack([loss(step, index // lesson.every, generator).due["model"] for lesson, loss in due])
            named = {f"{lesson.name}_loss": loss for (lesson, _), loss in zip(due, found.detach(), strict=True)}
            return Losses({"model": (frames * found).sum() / frames.sum()}, named)

        return losses

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


def storybook_autoencoder() -> AutoencoderRun:
    """The autoencoder: a quarter of an hour on two cores for these steps; it goes on improving for hours."""
    adam = AdamW(lr=2e-3, weight_decay=0.0, betas=(0.9, 0.98))
    plan = Plan(1500, optimiser=adam, rate=WarmHoldFall(fall=0.4), ema=0.995, precision=native_precision())
    return AutoencoderRun(plan, "autoencoder", objective=Reconstruction(motion=0.5), workers=os.cpu_count() or 1)


def storybook_decoder() -> AutoencoderRun:
    """The decoder of a trained autoencoder, further: at any time, for latents stay as they are."""
    adam = AdamW(lr=1e-3, weight_decay=0.0, betas=(0.9, 0.98))
    plan = Plan(3000, optimiser=adam, rate=WarmHoldFall(fall=0.8), ema=0.995, precision=native_precision())
    objective = Reconstruction(noise=0.1, momentum=0.0)
    return AutoencoderRun(plan, "decoder", "decoder", objective=objective, workers=os.cpu_count() or 1)


def storybook_sharpen() -> AutoencoderRun:
    """The decoder again, against a critic: details that errors of pixels alone would blur. Latents stay as they are."""
    adam = AdamW(lr=2e-4, weight_decay=0.0, betas=(0.5, 0.95))
    critic = AdamW(lr=5e-4, weight_decay=0.0, betas=(0.5, 0.95))
    rate = WarmHoldFall(warmup=30, fall=0.6)
    plan = Plan(2200, optimiser=adam, others={"critic": critic}, rate=rate, ema=0.99, precision=native_precision())
    objective = Reconstruction(noise=0.1, motion=0.5, momentum=0.0)
    return AutoencoderRun(
        plan,
        "sharpen",
        "decoder",
        batch=2,
        objective=objective,
        adversary=PatchGAN(),
        keep=0.3,
        workers=os.cpu_count() or 1,
    )


def storybook_stills() -> TransformerRun:
    """The transformer's first lesson: pictures and what captions call them. `storybook_base` goes on from it."""
    muon = MuonAdamW(lr=1e-3, matrix_lr=3e-3)
    plan = Plan(4000, optimiser=muon, rate=WarmHoldFall(fall=0.2), ema=0.99, precision=native_precision())
    return TransformerRun(plan, "stills", (Stills(),), workers=os.cpu_count() or 1)


def storybook_base() -> TransformerRun:
    """Motion, and chunks that go on from chunks; single chunks and stills keep what was learned before."""
    muon = MuonAdamW(lr=1e-3, matrix_lr=3e-3)
    plan = Plan(4000, optimiser=muon, rate=WarmHoldFall(fall=0.35), ema=0.99, precision=native_precision())
    resampling = Resampling(guidance=DEFAULTS.guidance)
    windows = Windows(1, objective=FlowMatching(visibility=RandomlyRecalling(), resampling=resampling))
    single = Windows(6, 1, FlowMatching(Shared()), "chunks")
    return TransformerRun(plan, "base", (windows, single, Stills(48)), workers=os.cpu_count() or 1)
