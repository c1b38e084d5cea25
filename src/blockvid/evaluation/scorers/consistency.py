"""Whether the subject and the background stay what they were, by VBench's formula over embeddings of frames.

At tier vbench the subject is DINO's class token of the whole frame and the background CLIP's embedding of its middle:
neither is masked. At tier light one EfficientNet gives both: the subject is the mean of its features over the whole
frame, the background their mean over what does not move by itself.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from blockvid.errors import InputError
from blockvid.evaluation.masks import Masking, ResidualMotion
from blockvid.evaluation.metric import Metric, Tier
from blockvid.evaluation.networks.checkpoints import load_clip, load_dino, load_efficientnet
from blockvid.evaluation.networks.efficientnet import HEAD, pooled, pooled_under
from blockvid.evaluation.networks.preprocess import CLIP_PICTURE, DINO_PICTURE, EFFICIENTNET_PICTURE, Frame
from blockvid.evaluation.networks.vit import CLIP_B32, CLIP_B32_DIM, DINO_B16, ViTSizes
from blockvid.evaluation.series import Extractor, Footage, Reader, Rows, Series, Window
from blockvid.evaluation.weights import Found

BLOCK = 1024
"""Rows that are in memory at once."""

Flag = Literal["no frames", "no caption", "fewer than two frames", "feature is zero", "feature is not finite"]
Precision = Literal["float32", "vbench-cuda"]
"""vbench-cuda: features, their lengths and cosines rounded to half precision, as CLIP's are on VBench's GPUs."""
Embeddings = Float[np.ndarray, "t d"]
Embedder = Callable[[Sequence[Frame]], Embeddings]
"""From frames of one size, or squares of any size cut from them, to their embeddings."""


@dataclass(frozen=True)
class Similarity:
    """How alike frames are."""

    value: float
    """At most 1; nan where a flag says why."""
    flags: tuple[Flag, ...] = ()


@dataclass(frozen=True)
class Consistency:
    """A score that can be sent to another process: `consistency` of the rows `key`."""

    key: str
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise InputError(f"precision {self.precision!r} is unknown; use {', '.join(get_args(Precision))}")

    def __call__(self, series: Series, span: range, footage: Footage) -> float:  # noqa: ARG002
        """Of a span; nan where `measured` has a flag."""
        return self.measured(series, span).value

    def measured(self, series: Series, span: range) -> Similarity:
        """With the reason where there is no value."""
        return consistency(series[self.key], span, self.precision)


def consistency(rows: Embeddings, span: range, precision: Precision = "float32") -> Similarity:
    """VBench's formula over the frames a .. b-1 of a span.

    The mean over t = a+1 .. b-1 of (max(0, cos(f_t, f_t-1)) + max(0, cos(f_t, f_a))) / 2. A feature of length 0 or
    that is not finite has no cosine: the value is nan, and a flag says so. Rows are read a block at a time.
    """
    if len(span) < 2:
        return Similarity(math.nan, ("fewer than two frames",))
    first, total = np.asarray(rows[span.start : span.start + 1]), 0.0
    cosines = half_cosines if precision == "vbench-cuda" else exact_cosines
    for start in range(span.start, span.stop - 1, BLOCK):
        block = np.asarray(rows[start : min(start + BLOCK + 1, span.stop)])
        if flags := unusable(block):
            return Similarity(math.nan, flags)
        for other in (block[:-1], first):
            total += float(np.maximum(cosines(block[1:], other), 0).sum())
    return Similarity(total / 2 / (len(span) - 1))


def unusable(rows: Embeddings) -> tuple[Flag, ...]:
    """Why some of these rows have no cosine; empty if all have one."""
    if not np.isfinite(rows).all():
        return ("feature is not finite",)
    return () if rows.any(axis=1).all() else ("feature is zero",)


def exact_cosines(a: Embeddings, b: Float[np.ndarray, "t|1 d"]) -> Float[np.ndarray, " t"]:
    """cos of rows with rows, in float64."""
    a, b = (rows.astype(np.float64) for rows in (a, b))
    a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a, b))
    return (a * b).sum(axis=1)


def half_cosines(a: Embeddings, b: Float[np.ndarray, "t|1 d"]) -> Float[np.ndarray, " t"]:
    """cos of rows with rows in half precision: steps of about 0.0005 near 1."""
    x, y = (F.normalize(torch.from_numpy(np.array(rows)).half(), dim=-1) for rows in (a, b))
    return F.cosine_similarity(x, y).double().numpy()


@dataclass(frozen=True)
class Dino:
    """subject: DINO ViT-B/16's class token of the whole frame, its short side at 224 (VBench)."""

    weights: Found
    sizes: ViTSizes = DINO_B16
    name: str = "dino"

    @property
    def identity(self) -> str:
        """The weights; version 1 of everything else."""
        return f"dino 1 {self.weights.sha256}"

    @property
    def width(self) -> int:
        """Numbers in an embedding."""
        return self.sizes.width

    def embedder(self, device: torch.device) -> Embedder:
        """Load the network. Raises InputError."""
        network = load_dino(self.weights.path, device, self.sizes)
        return lambda frames: row(network(torch.stack([DINO_PICTURE(pixels) for pixels in frames]).to(device)))

    def open(self, footage: Footage, device: torch.device) -> Reader:  # noqa: ARG002
        """Load the network. Raises InputError."""
        embed = self.embedder(device)
        return Reader(lambda window: {"subject": embed([p.pixels for p in window.wanted])})


@dataclass(frozen=True)
class Clip:
    """background: CLIP ViT-B/32's embedding of the middle of the frame, whatever is there (VBench)."""

    weights: Found
    sizes: ViTSizes = CLIP_B32
    dim: int = CLIP_B32_DIM
    name: str = "clip-b32"

    @property
    def identity(self) -> str:
        """The weights; version 1 of everything else."""
        return f"clip-b32 1 {self.weights.sha256}"

    def open(self, footage: Footage, device: torch.device) -> Reader:  # noqa: ARG002
        """Load the network. Raises InputError."""
        network = load_clip(self.weights.path, device, self.sizes, self.dim)

        def read(window: Window) -> Rows:
            pictures = torch.stack([p.once(CLIP_PICTURE) for p in window.wanted])
            return {"background": row(network(pictures.to(device)))}

        return Reader(read)


FEW = 2
"""Pictures at a time on a CPU: the activations of more leave its caches, at up to twice the time for equal features."""


@dataclass(frozen=True)
class EfficientNet:
    """Means of EfficientNet-Lite0's features of the whole frame, its short side at 224.

    subject: over all of it; background: over what is not the subject's, each place by its share of it.
    """

    weights: Found
    masking: Masking
    name: str = "efficientnet"

    @property
    def identity(self) -> str:
        """The weights and the masks."""
        return f"efficientnet 1 {self.weights.sha256} {self.masking.identity}"

    @property
    def width(self) -> int:
        """Numbers in an embedding."""
        return HEAD

    def features(self, device: torch.device) -> Callable[[Sequence[Frame]], Float[Tensor, "b 1280 y x"]]:
        """Load the network. Raises InputError."""
        network = load_efficientnet(self.weights.path, device)

        def features(frames: Sequence[Frame]) -> Float[Tensor, "b 1280 y x"]:
            pictures = torch.stack([EFFICIENTNET_PICTURE(pixels) for pixels in frames]).to(device)
            pieces = pictures.contiguous(memory_format=torch.channels_last).split(
                FEW if device.type == "cpu" else len(frames)
            )
            return torch.cat([network(piece) for piece in pieces])

        return features

    def embedder(self, device: torch.device) -> Embedder:
        """Load the network. Raises InputError."""
        features = self.features(device)
        return lambda frames: row(pooled(features(frames)))

    def open(self, footage: Footage, device: torch.device) -> Reader:  # noqa: ARG002
        """Load the network and what masks need. Raises InputError."""
        features, masks = self.features(device), self.masking.open()

        def read(window: Window) -> Rows:
            found = features([p.pixels for p in window.wanted])
            background = torch.from_numpy(np.stack([1 - mask.soft for mask in masks(window)])).to(device)
            return {"subject": row(pooled(found)), "background": row(pooled_under(found, background))}

        return Reader(read, self.masking.before, self.masking.after)


def row(features: Float[Tensor, "b d"]) -> Float[np.ndarray, "b d"]:
    """float32 in memory."""
    return features.float().cpu().numpy()


def fingerprint(weights: Found, masking: Masking) -> str:
    """One sha256 for weights and for those of the masks, if these have any."""
    if masking.model is None:
        return weights.sha256
    return hashlib.sha256(f"{weights.sha256} {masking.model}".encode()).hexdigest()


def metrics(
    efficientnet: Found | None = None,
    dino: Found | None = None,
    clip_b32: Found | None = None,
    masking: Masking | None = None,
    precision: Precision = "float32",
) -> tuple[Metric, ...]:
    """subject_consistency and background_consistency, of tier light and vbench, for the weights that are given.

    `masking` is residual motion unless said otherwise; `precision` is that of CLIP's cosines.
    """
    found = []
    if efficientnet is not None:
        masking = masking or ResidualMotion()
        lite = EfficientNet(efficientnet, masking)
        background = fingerprint(efficientnet, masking)
        found += [
            _metric("subject", "light", "EfficientNet-Lite0, whole frame", lite, efficientnet.sha256),
            _metric("background", "light", "EfficientNet-Lite0 where nothing moves by itself", lite, background),
        ]
    if dino is not None:
        vit = Dino(dino)
        found.append(_metric("subject", "vbench", "DINO ViT-B/16, whole frame", vit, dino.sha256))
    if clip_b32 is not None:
        vit = Clip(clip_b32)
        of = "CLIP ViT-B/32, centre crop" + (", fp16 cosines" if precision == "vbench-cuda" else "")
        found.append(_metric("background", "vbench", of, vit, clip_b32.sha256, precision))
    return tuple(found)


def _metric(
    what: str, tier: Tier, of: str, extractor: Extractor, model: str, precision: Precision = "float32"
) -> Metric:
    key = f"{extractor.name}.{what}"
    return Metric(
        name=f"{what}_consistency",
        tier=tier,
        title=f"{what.capitalize()} consistency",
        formula=f"mean of max(0, cos) to the previous and to the first frame ({of})",
        extractors=(extractor,),
        score=Consistency(key, precision),
        better="higher",
        bounds=(0, 1),
        model=model,
        embedding=key,
    )
