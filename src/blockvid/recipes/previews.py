"""What a run looks at on the way: a loss that compares along the run, and a video with its drift."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from blockvid.batch import Source
from blockvid.evaluation.drift import Drift
from blockvid.evaluation.results import value
from blockvid.evaluation.watch import Watch
from blockvid.model.dit import BlockDiT
from blockvid.model.load import Models, load_encoders
from blockvid.model.text import Prompts
from blockvid.pipeline import Settings, Take
from blockvid.storyboard import Storyboard
from blockvid.training.densities import Independent
from blockvid.training.loop import losses_of
from blockvid.training.objective import Objective
from blockvid.training.objectives import FlowMatching
from blockvid.training.objectives.visibility import Causal
from blockvid.training.sharding import World
from blockvid.training.tracking import JSONLines
from blockvid.video import write_video

PROBES = 4
"""Batches that the loss is measured on, with the same noise each time."""


PLAIN = FlowMatching(Independent(), Causal(), text_dropout=0.0)


class ProbeLoss:
    """The loss of the averaged weights on the same few batches and noises, a line of `file` each time."""

    def __init__(
        self,
        source: Source,
        unseen: bool,
        world: World,
        file: Path,
        objective: Objective = PLAIN,
        beside: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """`unseen`: whether nothing of the source is learned from; `beside` are the objective's networks."""
        self.unseen, self.world, self.file, self.beside = unseen, world, file, dict(beside or {})
        self.losses = partial(losses_of, objective, source, device=world.device)

    @torch.no_grad()
    def __call__(self, step: int, network: nn.Module) -> None:
        """All ranks must call."""
        losses = self.losses(self.beside | {"model": network})
        found = [losses(i, i, torch.Generator().manual_seed(i)).due["model"].float() for i in range(PROBES)]
        if self.world.rank == 0:
            row = {"loss": float(torch.stack(found).mean()), "unseen": self.unseen}
            JSONLines(self.file, step - 1).log(step, row)


class Preview:
    """A storyboard's video by the averaged weights, and how far its chunks drift from the first, each time.

    `folder` gets STEP.mp4 and a line of drift.jsonl: VDE (Eqs. 17-19, linear weights) of the metrics that `--watch`
    shows, with the chunks as segments. Compare lines of one run only: N is the number of chunks.
    """

    def __init__(self, models: Models, storyboard: Storyboard, settings: Settings, folder: Path, world: World) -> None:
        """`models` lends what is not trained. Raises InputError for settings or a storyboard that it cannot take."""
        if world.device.type != "cpu":
            models = replace(models, autoencoder=load_encoders(models.name, world.device).autoencoder)
        self.models, self.storyboard, self.settings = models, storyboard, settings.resolved(models, storyboard)
        self.prompts = Prompts(models.text_encoder)  # which reads the text encoder once
        self.folder, self.world = folder, world

    def __call__(self, step: int, network: nn.Module) -> None:
        """All ranks must call: each makes the video, the first one keeps it."""
        assert isinstance(network, BlockDiT)
        watch, frames = Watch(), []
        models = replace(self.models, dit=network)
        for clip in Take(models, self.prompts, self.storyboard, self.settings).clips():
            frames.append(clip.frames)
            if self.world.rank == 0:
                watch.push(clip.chunk.index, clip.frames, self.models.geometry.fps)
        if self.world.rank == 0:
            self.folder.mkdir(exist_ok=True)
            write_video(self.folder / f"{step:06d}.mp4", np.concatenate(frames), self.models.geometry.fps)
            JSONLines(self.folder / "drift.jsonl", step - 1).log(step, {"vde": _vde(watch)})


def _vde(watch: Watch) -> dict[str, float]:
    """By metric; borders, which the first chunk has none of, are left out."""
    keys = [key for key, first in watch.chunks[0].scores.items() if first is not None]
    return {key: Drift()(np.array([value(chunk.scores[key]) for chunk in watch.chunks])).vde for key in keys}
