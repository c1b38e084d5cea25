"""Evaluation as `benchmarks/evaluate.py` compares it with: whole clips as float32 in memory, once for every metric.

So VBench does it. What is computed is each metric's own formula by the same functions, so that the scores must agree;
the peer gets the advantage where there is a choice: a clip is allocated once and filled, nothing else of it is kept,
only rows that the metric needs are computed, products that they share are made once, and no segment is scored.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from evaluate_tasks import Numbers, borders, models, resident
from jaxtyping import Float32

from blockvid.evaluation import catalogue
from blockvid.evaluation.masks import ResidualMotion
from blockvid.evaluation.metric import Metric
from blockvid.evaluation.scorers import change, motion
from blockvid.evaluation.scorers.consistency import EfficientNet
from blockvid.evaluation.scorers.identity import Crops, Static
from blockvid.evaluation.scorers.luma import luma
from blockvid.evaluation.scorers.opencv import opencv
from blockvid.evaluation.series import Footage, Pass, Picture, Reader, Rows, Window
from blockvid.video import probe, read_frames

CPU = torch.device("cpu")
Clip = Float32[np.ndarray, "t h w 3"]
Of = Callable[..., Any]
"""A number of the pictures that it is given, or several."""


def naive(path: Path, key: str, threads: int, folder: Path) -> Numbers:
    """One metric of one clip: seconds, those of them until the clip is there, memory in MB and the score."""
    (metric,) = (metric for metric in catalogue.metrics("light", models(folder)) if metric.key == key)
    torch.set_num_threads(threads)
    opencv()
    before, began = resident("VmRSS"), time.perf_counter()
    clip, info = whole(path), probe(path)
    decoded = time.perf_counter() - began
    footage = Footage(info.width, info.height, info.fps, borders(path))
    score = metric.score(series(clip, readers(metric, footage), footage), range(len(clip)), footage)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "decode": decoded, "before": before, "peak": resident("VmHWM"), "score": score}


def whole(path: Path) -> Clip:
    """All pixels, 0..255."""
    info = probe(path)
    clip, count = np.empty((info.frames or 0, info.height, info.width, 3), np.float32), 0
    for block in read_frames(path, batch=8):
        clip[count : count + len(block)] = block
        count += len(block)
    assert count == len(clip), (count, len(clip))
    return clip


def series(clip: Clip, of: Mapping[str, Reader], footage: Footage) -> dict[str, np.ndarray]:
    """The rows of a clip in memory."""
    rows: dict[str, list[np.ndarray]] = {}

    def keep(name: str, new: Rows) -> None:
        for key, values in new.items():
            rows.setdefault(f"{name}.{key}", []).append(values)

    running = Pass(of, keep)
    for index, pixels in enumerate(clip):
        running.push(pixels[None].astype(np.uint8), [index / footage.fps])
    running.finish()
    return {key: np.concatenate(parts) for key, parts in rows.items()}


def readers(metric: Metric, footage: Footage) -> dict[str, Reader]:
    """What one metric needs of a clip, by the extractor that has it in blockvid; networks are loaded for it alone."""
    (first, *_), name = metric.extractors, metric.name
    if name in FRAMES:
        return {first.name: reader(FRAMES[name])}
    if name in PAIRS:
        return {first.name: reader(PAIRS[name], before=1)}
    if name == "motion_smoothness":  # of odd frames only
        return {"motion": reader({"even": motion._evenness}, before=1, after=1, every=2, start=1)}
    if name == "dynamic_degree":
        step = motion.interval(footage.fps)
        sampled: Of = lambda *pictures: motion.magnitude(pictures[0], pictures[-1])[1]  # noqa: E731
        return {"motion": reader({"sampled": sampled}, before=step, every=step)}
    if name == "subject_found":
        assert isinstance(first, Static)
        return {"static": masks_alone(first)}
    if name in ("background_static", "background_consistency"):
        return {first.name: first.open(footage, CPU)}
    assert name in ("subject_consistency", "identity") and isinstance(first, EfficientNet), name
    crops = {e.name: e.open(footage, CPU) for e in metric.extractors if isinstance(e, Crops)}
    return {first.name: frames_alone(first), **crops}


def reader(of: Mapping[str, Of], before: int = 0, after: int = 0, every: int = 1, start: int = 0) -> Reader:
    """Rows of the pictures start, start + every, ... with so many around each; nan where these are missing."""

    def row(window: Window, index: int, value: Of) -> Any:
        inside = index >= before and index + after < len(window.pictures)
        if not inside or (window.pictures[index].number - start) % every:
            return np.nan
        return value(*window.pictures[index - before : index + after + 1])

    def read(window: Window) -> Rows:
        wanted = range(window.start, window.stop)
        return {
            key: np.array([row(window, index, value) for index in wanted], dtype=np.float32)
            for key, value in of.items()
        }

    return Reader(read, before, after)


def masks_alone(extractor: Static) -> Reader:
    """Whether there is a subject, without the background's share that stands still."""
    masks, masking = extractor.masking.open(), extractor.masking
    assert isinstance(masking, ResidualMotion)
    return Reader(
        lambda window: {"found": np.array([mask.found for mask in masks(window)], dtype=np.float32)},
        masking.before,
        masking.after,
    )


def frames_alone(extractor: EfficientNet) -> Reader:
    """Embeddings of whole frames, without masks."""
    embed = extractor.embedder(CPU)
    return Reader(lambda window: {"subject": embed([picture.pixels for picture in window.wanted])})


def sharpness(picture: Picture) -> float:
    """Variance of the Laplacian."""
    edges = cv2.Laplacian(luma(picture.pixels), cv2.CV_16S, ksize=1)
    return cv2.meanStdDev(edges)[1].item() ** 2


def exposure(picture: Picture) -> float:
    """Mean luma."""
    return cv2.mean(luma(picture.pixels))[0] / 255


def contrast(picture: Picture) -> float:
    """Standard deviation of luma."""
    return cv2.meanStdDev(luma(picture.pixels))[1].item() / 255


def saturation(picture: Picture) -> float:
    """Share of colour in the brightest channel."""
    red, green, blue = cv2.split(picture.pixels)
    high = cv2.mean(cv2.max(cv2.max(red, green), blue))[0]
    low = cv2.mean(cv2.min(cv2.min(red, green), blue))[0]
    return (high - low) / high if high else 0.0


def difference(before: Picture, picture: Picture) -> float:
    """Mean |change| of all pixels."""
    return cv2.norm(before.pixels, picture.pixels, cv2.NORM_L1) / picture.pixels.size


def look(picture: Picture) -> change._Look:
    """Blocks, colours and cells of a frame."""
    return change._look(picture.once(motion.reduced))


def peak(before: Picture, picture: Picture) -> float:
    """Largest change of a block."""
    return np.abs(look(picture).blocks - look(before).blocks).max()


def histogram(before: Picture, picture: Picture) -> float:
    """Half the distance of the colour histograms."""
    return np.abs(look(picture).colours - look(before).colours).sum() / 2


FRAMES: dict[str, dict[str, Of]] = {
    "clarity": {"sharpness": sharpness},
    "exposure": {"mean": exposure},
    "contrast": {"spread": contrast},
    "saturation": {"saturation": saturation},
    "flicker": {"cells": lambda picture: look(picture).cells},
}
PAIRS: dict[str, dict[str, Of]] = {
    "motion_energy": {"speed": lambda before, picture: motion.magnitude(before, picture)[0]},
    "freeze": {"peak": peak},
    "duplicate": {"peak": peak},
    "temporal_flickering": {"difference": difference},
    "boundary_jump": {"difference": difference},
    "cuts": {"structure": change._structure, "histogram": histogram},
}
