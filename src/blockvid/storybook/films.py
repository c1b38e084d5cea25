"""Films: chunks of takes, cut together. What a storyboard tells is seldom one take."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from blockvid.storyboard import Storyboard
from blockvid.storybook.captions import caption, full_prompt
from blockvid.storybook.subjects import CACHE
from blockvid.storybook.takes import CHUNK_SECONDS, Take, sample_take
from blockvid.storybook.world import render

Told = tuple[tuple[Take, int], ...]
"""By chunk: a take, and which of its chunks."""


@dataclass(frozen=True)
class Film:
    """Some seconds, chunk by chunk."""

    told: Told

    def opens(self, chunk: int) -> bool:
        """Whether the film is cut before `chunk`; it is before the first."""
        take, index = self.told[chunk]
        return chunk == 0 or self.told[chunk - 1] != (take, index - 1)

    def captions(self) -> tuple[str, ...]:
        """A sentence for each chunk, as of a take; one after a cut names everything."""
        rng = np.random.default_rng([self.told[0][0].seed, 104729])
        return tuple(caption(take, index, rng, self.opens(chunk)) for chunk, (take, index) in enumerate(self.told))

    def storyboard(self, title: str) -> Storyboard:
        """Its plain captions, four seconds each."""
        shots = [{"prompt": full_prompt(take, chunk), "seconds": CHUNK_SECONDS} for take, chunk in self.told]
        return Storyboard.model_validate({"title": title, "shots": shots})

    def render(
        self, width: int, height: int, fps: float, late: int = 0, cache_dir: Path = CACHE
    ) -> tuple[UInt8[Tensor, "t h w 3"], UInt8[Tensor, "t h w"]]:
        """Frames and the subject's mask (0 or 1); every chunk begins `late` frames after its take's caption does.

        With `late` the film has so many frames more, at its beginning: an autoencoder's first frame stands alone.
        """
        frames = round(CHUNK_SECONDS * fps)
        cuts = [chunk for chunk in range(len(self.told)) if self.opens(chunk)]
        clips = []
        for first, after in pairwise((*cuts, len(self.told))):
            take, index = self.told[first]
            start, stop = (at * frames + late for at in (index, index + after - first))
            start = start if first else start - late
            clips.append(render(take, width, height, fps, start, stop, cache_dir=cache_dir))
        return torch.cat([clip.frames for clip in clips]), torch.cat([clip.mask for clip in clips])


def sample_film(seed: int, seconds: float) -> Film:
    """A film of pairs seen in training: half of them one take, the others cut to another, and half of those back again.

    Half of the cuts follow the same subject to another scene. What comes back goes on from where it was left.
    """
    take, rng = sample_take(seed, seconds), np.random.default_rng([seed, 6151])
    count = len(take.segments)
    if count < 2 or rng.random() < 0.5:
        return Film(tuple((take, index) for index in range(count)))
    other = _other(take, seconds, rng)
    cut = int(rng.integers(1, count))
    back = int(rng.integers(cut + 1, count)) if rng.random() < 0.5 and cut + 1 < count else count
    away = back - cut
    return Film(
        (
            *((take, index) for index in range(cut)),
            *((other, index) for index in range(away)),
            *((take, index) for index in range(cut, count - away)),
        )
    )


def _other(take: Take, seconds: float, rng: np.random.Generator) -> Take:
    """A take elsewhere; every subject is seen in training in several scenes."""
    follow = rng.random() < 0.5
    while True:
        other = sample_take(int(rng.integers(2**31)), seconds, subject=take.subject if follow else None)
        if other.scene != take.scene:
            return other
