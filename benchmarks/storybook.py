"""How good the embedded model is: python benchmarks/storybook.py [--model storybook] [--out benchmarks/storybook.md].

Held-out means subject-scene pairs that no training take shows. Measured: the autoencoder's PSNR on held-out renders,
the velocity error on them by noise level with true context, and a contact sheet for each of the first seeds: what the
world's renderer shows for the captions, above what the model generates from the captions alone.
"""

from __future__ import annotations

import datetime
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

from blockvid.attention.attend import BlockCausal
from blockvid.attention.rope import grid_positions
from blockvid.flow import noised, velocity
from blockvid.model.dit import TextContext
from blockvid.model.load import Models
from blockvid.pipeline import Pipeline, Settings
from blockvid.storyboard import Storyboard
from blockvid.storybook.captions import captions
from blockvid.storybook.corpus import encode_clip, to_unit
from blockvid.storybook.world import Take, render, sample_take

LEVELS = (0.2, 0.5, 0.8, 0.95)


@dataclass(frozen=True)
class Options:
    """What to measure."""

    model: str = "storybook"
    out: Path = Path("benchmarks/storybook.md")
    images: Path = Path("docs/images")
    clips: int = 40
    """Held-out clips for the autoencoder and for the velocity error."""
    seeds: int = 3
    """Held-out one-minute storyboards to generate, seeds 0, 1, ..."""
    chunks: int = 15
    """Chunks of each generated storyboard."""


def interval(values: list[float]) -> str:
    """Mean and 95 % bootstrap interval over clips."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, size=(2000, len(values))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{np.mean(values):.3f} [{low:.3f}, {high:.3f}]"


def clip_of(models: Models, take: Take, frames: int) -> torch.Tensor:
    """The first `frames` frames of a take, uint8 (t h w 3)."""
    g = models.geometry
    return render(take, width=g.width, height=g.height, fps=g.fps, start=0, stop=frames).frames


def reconstruction(models: Models, clips: int) -> list[float]:
    """PSNR in dB of each of `clips` held-out clips of 33 frames through the autoencoder."""
    found = []
    for seed in range(clips):
        frames = clip_of(models, sample_take(10_000 + seed, seconds=8, split="heldout"), 33)
        stream, back = models.autoencoder.encoder(), models.autoencoder.decoder()
        decoded = back.push(stream.push(to_unit(frames)[None]))
        error = (decoded[0].clamp(-1, 1) - to_unit(frames)).square().mean() / 4
        found.append(float(-10 * error.log10()))
    return found


@torch.no_grad()
def velocity_error(models: Models, clips: int) -> dict[float, list[float]]:
    """Mean squared velocity error of a chunk given two true chunks before it, by the chunk's noise level."""
    embed, found = models.text_encoder(), {level: [] for level in LEVELS}
    g, sizes = models.geometry, (models.geometry.chunk_frames + 1, *[models.geometry.chunk_frames] * 2)
    positions = grid_positions(sum(sizes), g.latent_height // 2, g.latent_width // 2)
    attend = BlockCausal(models.dit.rope, positions, tuple(k * g.tokens_per_frame for k in sizes), 2)
    for seed in range(clips):
        take = sample_take(20_000 + seed, seconds=12, split="heldout")
        latents = encode_clip(models.autoencoder.vae, clip_of(models, take, 97))[None]
        prompt = embed(captions(take)[:3])
        text = TextContext(prompt.tokens[None].to(models.dit.dtype), sizes, prompt.mask[None])
        eps = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
        for level in LEVELS:
            sigma = torch.zeros(1, sum(sizes))
            sigma[:, -sizes[-1] :] = level
            v = models.dit(noised(latents, eps, sigma).to(models.dit.dtype), 1000 * sigma, text, attend)
            error = (v.float() - velocity(latents, eps))[:, :, -sizes[-1] :]
            found[level].append(float(error.square().mean()))
    return found


def minute(pipe: Pipeline, seed: int, chunks: int, folder: Path) -> tuple[str, float]:
    """Generate a held-out storyboard from its captions alone; saves the sheet, returns a caption line and seconds."""
    g = pipe.models.geometry
    take = sample_take(seed, seconds=4 * chunks, split="heldout")
    words = captions(take)[:chunks]
    storyboard = Storyboard.model_validate({"shots": [{"prompt": p, "seconds": 4} for p in words]})
    began = time.perf_counter()
    made = pipe(storyboard, Settings(seed=seed))
    seconds = time.perf_counter() - began
    true = clip_of(pipe.models, take, len(made)).numpy()
    stills = [(true[i], made[i]) for i in range(int(2 * g.fps), len(made), int(4 * g.fps))]
    rows = [
        np.concatenate([np.concatenate(pair) for pair in stills[i : i + 5]], axis=1) for i in range(0, len(stills), 5)
    ]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 6), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    Image.fromarray(np.concatenate(padded)).save(folder / f"heldout-{seed}.png")
    return f"{take.subject} in {take.scene}: {words[0]}", seconds


def main(options: Options) -> None:
    """Measure and write the table."""
    pipe = Pipeline.from_pretrained(options.model)
    options.images.mkdir(parents=True, exist_ok=True)
    psnr = reconstruction(pipe.models, options.clips)
    errors = velocity_error(pipe.models, options.clips)
    made = [minute(pipe, seed, options.chunks, options.images) for seed in range(options.seeds)]
    lines = [
        "# The embedded model, measured",
        "",
        f"{datetime.date.today()}, `python benchmarks/storybook.py`, weights {pipe.models.fingerprint[:12]}, "
        f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads, {pipe.models.dit.dtype}.",
        f"Means with 95 % bootstrap intervals over {options.clips} held-out clips.",
        "",
        "| measure | value |",
        "|---|---|",
        f"| autoencoder PSNR, dB | {interval(psnr)} |",
        *(f"| velocity error at sigma {level}, true context | {interval(errors[level])} |" for level in LEVELS),
        "",
        "| seed | held-out storyboard | seconds to generate |",
        "|---|---|---|",
        *(f"| {seed} | {words} | {seconds:.0f} |" for seed, (words, seconds) in enumerate(made)),
        "",
    ]
    options.out.write_text("\n".join(lines), encoding="utf-8")
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(tyro.cli(Options))
