"""How good frames look: LAION's linear aesthetic predictor on CLIP, and MUSIQ, both as VBench runs them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from blockvid.evaluation.metric import Metric
from blockvid.evaluation.networks.checkpoints import load_aesthetic, load_clip, load_musiq
from blockvid.evaluation.networks.preprocess import CLIP_PICTURE, MUSIQ_PICTURE
from blockvid.evaluation.networks.vit import CLIP_L14, CLIP_L14_DIM, ViTSizes
from blockvid.evaluation.scorers.spans import frames, mean_of
from blockvid.evaluation.series import Footage, Reader, Rows, Window
from blockvid.evaluation.weights import Found


@dataclass(frozen=True)
class Aesthetic:
    """score: LAION's linear head on CLIP ViT-L/14's embedding of the middle of the frame, over 10; not clamped."""

    clip: Found
    head: Found
    sizes: ViTSizes = CLIP_L14
    dim: int = CLIP_L14_DIM
    name: str = "aesthetic"

    @property
    def identity(self) -> str:
        """Both weights; version 1 of everything else."""
        return f"aesthetic 1 {self.clip.sha256} {self.head.sha256}"

    def open(self, footage: Footage, device: torch.device) -> Reader:  # noqa: ARG002
        """Load both networks. Raises InputError."""
        network = load_clip(self.clip.path, device, self.sizes, self.dim)
        head = load_aesthetic(self.head.path, device, self.dim)

        def read(window: Window) -> Rows:
            pictures = torch.stack([p.once(CLIP_PICTURE) for p in window.wanted])
            return {"score": (head(network(pictures.to(device))) / 10).cpu().numpy()}

        return Reader(read)


@dataclass(frozen=True)
class Imaging:
    """score: MUSIQ trained on SPAQ, 0 to 100, of the frame with its long side brought down to 512 where it is more."""

    weights: Found
    name: str = "imaging"

    @property
    def identity(self) -> str:
        """The weights and VBench's mode of resizing."""
        return f"imaging 1 longer {self.weights.sha256}"

    def open(self, footage: Footage, device: torch.device) -> Reader:  # noqa: ARG002
        """Load the network. Raises InputError."""
        network = load_musiq(self.weights.path, device)

        def read(window: Window) -> Rows:
            pictures = torch.stack([MUSIQ_PICTURE(p.pixels) for p in window.wanted])
            return {"score": network(pictures.to(device)).cpu().numpy().astype(np.float32)}

        return Reader(read)


def metrics(
    clip_l14: Found | None = None, laion: Found | None = None, musiq: Found | None = None
) -> tuple[Metric, ...]:
    """aesthetic_quality and imaging_quality of tier vbench, for the weights that are given; the first needs two."""
    found = []
    if clip_l14 is not None and laion is not None:
        found.append(
            Metric(
                name="aesthetic_quality",
                tier="vbench",
                title="Aesthetic quality",
                formula="mean of LAION's linear predictor on CLIP ViT-L/14, over 10",
                extractors=(Aesthetic(clip_l14, laion),),
                score=mean_of("aesthetic.score", frames),
                better="higher",
                bounds=(0, 1),
                model=hashlib.sha256(f"{clip_l14.sha256} {laion.sha256}".encode()).hexdigest(),
                curve="aesthetic.score",
            )
        )
    if musiq is not None:
        found.append(
            Metric(
                name="imaging_quality",
                tier="vbench",
                title="Imaging quality",
                formula="mean of MUSIQ (SPAQ), 0 to 100, long side at most 512",
                extractors=(Imaging(musiq),),
                score=mean_of("imaging.score", frames),
                better="higher",
                bounds=(0, 100),
                model=musiq.sha256,
                curve="imaging.score",
            )
        )
    return tuple(found)
