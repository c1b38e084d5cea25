"""Whether the subject is still the one of the first segment (Eq. 25), and whether the background stands still (Eq. 24).

Both need to know where the subject is (`masks`). Frames without a subject are compared as wholes, with whole frames:
a crop and a whole frame of the same scene are less alike than a crop and one of another subject. subject_found says
how many frames had a crop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool

from blockvid.evaluation.masks import Mask, Masking, ResidualMotion
from blockvid.evaluation.metric import Metric, Tier
from blockvid.evaluation.scorers.consistency import (
    BLOCK,
    Dino,
    EfficientNet,
    Embeddings,
    Flag,
    Similarity,
    exact_cosines,
    fingerprint,
    unusable,
)
from blockvid.evaluation.scorers.motion import SMALLEST, flow
from blockvid.evaluation.scorers.opencv import opencv
from blockvid.evaluation.scorers.spans import frames, mean_of, pairs
from blockvid.evaluation.series import Footage, Picture, Reader, Rows, Series, Window
from blockvid.evaluation.weights import Found

OPENING = 10
"""One n-th of a video that nobody cut is its first segment."""


@dataclass(frozen=True)
class Crops:
    """The subject of each frame in a square of its own, embedded alone.

    crop: the embedding, nan where no subject was found; found: whether one was.
    """

    whole: Dino | EfficientNet
    """Whose network it is."""
    masking: Masking

    @property
    def name(self) -> str:
        """One per network."""
        return f"subject-{self.whole.name}"

    @property
    def identity(self) -> str:
        """The weights and the masks."""
        return f"{self.name} 1 {self.whole.weights.sha256} {self.masking.identity}"

    def open(self, footage: Footage, device: torch.device) -> Reader:  # noqa: ARG002
        """Load the network and what masks need. Raises InputError."""
        masks, embed = self.masking.open(), self.whole.embedder(device)

        def read(window: Window) -> Rows:
            found = masks(window)
            boxes = [mask.box(*p.pixels.shape[:2]) for mask, p in zip(found, window.wanted, strict=True)]
            crops = [box.of(p.pixels) for box, p in zip(boxes, window.wanted, strict=True) if box]
            rows = np.full((len(found), self.whole.width), np.nan, dtype=np.float32)
            if crops:
                rows[[box is not None for box in boxes]] = embed(crops)
            return {"crop": rows, "found": np.array([mask.found for mask in found], dtype=np.float32)}

        return Reader(read, self.masking.before, self.masking.after)


@dataclass(frozen=True)
class Identity:
    """A score that can be sent to another process: cosine to the mean embedding of the first segment (Eq. 25)."""

    crops: str
    """The name of an extractor of crops."""
    whole: str
    """Rows of whole frames by the same network."""

    def __call__(self, series: Series, span: range, footage: Footage) -> float:
        """Of a span; nan where `measured` has a flag."""
        return self.measured(series, span, footage).value

    def measured(self, series: Series, span: range, footage: Footage) -> Similarity:
        """The mean over frames of the cosine of their crop to the mean crop of the first segment.

        Frames without a crop are compared as wholes with the mean whole frame, and so are all if the first segment has
        no crop. The first segment is a tenth of the video unless the footage says otherwise.
        """
        if not len(span):
            return Similarity(math.nan, ("no frames",))
        crops, wholes = series[f"{self.crops}.crop"], series[self.whole]
        found = np.asarray(series[f"{self.crops}.found"]) > 0
        first = footage.first or range(max(len(wholes) // OPENING, 1))
        if not found[first.start : first.stop].any():
            found = np.zeros_like(found)
        sums = [_cosines(rows, has, span, first) for rows, has in ((crops, found), (wholes, ~found))]
        if flags := sums[0][1] or sums[1][1]:
            return Similarity(math.nan, flags)
        return Similarity(sum(total for total, _ in sums) / len(span))


def _cosines(
    rows: Embeddings, has: Bool[np.ndarray, " t"], span: range, first: range
) -> tuple[float, tuple[Flag, ...]]:
    """The sum of the cosines of the rows of a span that count, to the mean of those of the first segment."""
    if not has[span.start : span.stop].any():
        return 0.0, ()
    counts = has if has[first.start : first.stop].any() else np.ones_like(has)  # whole frames: there always are some
    reference = np.zeros((1, rows.shape[1]))
    for block in _blocks(rows, counts, first):
        reference += block.sum(axis=0, dtype=np.float64)
    flags, total = unusable(reference), 0.0
    for block in _blocks(rows, has, span):
        if flags := flags or unusable(block):
            return math.nan, flags
        total += float(exact_cosines(block, reference).sum())
    return total, flags


def _blocks(rows: Embeddings, has: Bool[np.ndarray, " t"], span: range) -> Iterator[Embeddings]:
    """The rows of a span that count, some at a time."""
    for start in range(span.start, span.stop, BLOCK):
        part = slice(start, min(start + BLOCK, span.stop))
        yield np.asarray(rows[part])[has[part]]


@dataclass(frozen=True)
class Static:
    """What the masks say, and whether the background stands still.

    still: the share of the background of frame t-1 that flow to frame t moves by at most `tau` (phi_t of Eq. 24), where
    the background is what is not the subject's; nan for the first frame. found: whether frame t has a subject; area:
    its share of the frame, or nan.
    """

    masking: Masking
    tau: float = 0.2
    """In % of the short side: 0.96 px at 480p. The paper gives no number."""
    camera: ResidualMotion | None = None
    """None: all flow, the camera's included, as in the paper. Otherwise what it leaves; nan where it cannot say."""
    name: str = "static"

    @property
    def identity(self) -> str:
        """The settings, the masks and those of the flow."""
        rest = self.camera.identity if self.camera else f"opencv {opencv().__version__}"
        return f"static 1 {self.tau:g} {self.masking.identity} {rest}"

    def open(self, footage: Footage, device: torch.device) -> Reader:  # noqa: ARG002
        """Load what masks need; works on the CPU."""
        masks = self.masking.open()
        small = min(footage.width, footage.height) < SMALLEST

        def read(window: Window) -> Rows:
            first = max(window.start - 1, 0)
            found = masks(Window(window.pictures, first, window.stop))
            shares = [
                math.nan
                if small
                else self._share(window.pictures[index], window.pictures[index + 1], found[index - first])
                for index in range(first, window.stop - 1)
            ]
            wanted = found[window.start - first :]
            return {
                # A video's first frame has none before it, and is in no pair.
                "still": np.array([*[math.nan] * (len(wanted) - len(shares)), *shares], dtype=np.float32),
                "found": np.array([mask.found for mask in wanted], dtype=np.float32),
                "area": np.array([mask.area for mask in wanted], dtype=np.float32),
            }

        return Reader(read, self.masking.before + 1, self.masking.after)

    def _share(self, start: Picture, end: Picture, mask: Mask) -> float:
        steps = flow(start, end)
        height, width = steps.shape[:2]
        cv2 = opencv()
        if self.camera is None:
            lengths = cv2.magnitude(steps[..., 0], steps[..., 1]) * (100 / min(height, width))
        elif (lengths := self.camera.residual(steps)) is None:
            return math.nan
        background = 1 - cv2.resize(mask.soft, (width, height), interpolation=cv2.INTER_LINEAR)
        total = background.sum(dtype=np.float64)
        return float(background[lengths <= self.tau].sum(dtype=np.float64) / total) if total > 0 else math.nan


def metrics(
    efficientnet: Found | None = None,
    dino: Found | None = None,
    masking: Masking | None = None,
    tau: float = 0.2,
    camera: ResidualMotion | None = None,
) -> tuple[Metric, ...]:
    """background_static and subject_found of tier light; identity of light and vbench for the weights that are given.

    `masking` is residual motion unless said otherwise; `tau` and `camera` are those of `Static`.
    """
    masking = masking or ResidualMotion()
    found = list(_of_masks(Static(masking, tau, camera)))
    if efficientnet is not None:
        crops = Crops(EfficientNet(efficientnet, masking), masking)
        found.append(_identity("light", "EfficientNet-Lite0", crops, fingerprint(efficientnet, masking)))
    if dino is not None:
        crops = Crops(Dino(dino), masking)
        found.append(_identity("vbench", "DINO ViT-B/16", crops, fingerprint(dino, masking)))
    return tuple(found)


def _of_masks(static: Static) -> tuple[Metric, Metric]:
    moved = "residual flow" if static.camera else "DIS flow, the camera's included,"
    still = Metric(
        name="background_static",
        tier="light",
        title="Static background",
        formula=f"share of the background with {moved} <= {static.tau:g} % of the short side (Eq. 24)",
        extractors=(static,),
        score=mean_of("static.still", pairs),
        better="higher",
        bounds=(0, 1),
        model=static.masking.model,
        curve="static.still",
    )
    found = replace(
        still,
        name="subject_found",
        title="Subject found",
        formula="share of frames in which something moves by itself; the others are compared as wholes",
        score=mean_of("static.found", frames),
        better=None,
        curve="static.found",
    )
    return still, found


def _identity(tier: Tier, network: str, crops: Crops, model: str) -> Metric:
    return Metric(
        name="identity",
        tier=tier,
        title="Identity",
        formula=f"mean cos of the subject's crop ({network}) to the mean crop of segment 1 (Eq. 25)",
        extractors=(crops.whole, crops),
        score=Identity(crops.name, f"{crops.whole.name}.subject"),
        better="higher",
        bounds=(-1, 1),
        model=model,
    )
