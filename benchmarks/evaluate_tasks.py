"""What `benchmarks/evaluate.py` measures, each function in a process of its own, so that its peak memory is its own."""

from __future__ import annotations

import functools
import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from safetensors.torch import save_file

from blockvid.evaluation import catalogue, masks, profiles
from blockvid.evaluation.catalogue import Models
from blockvid.evaluation.evaluate import Evaluation
from blockvid.evaluation.metric import Tier
from blockvid.evaluation.networks.efficientnet import EfficientNetLite0
from blockvid.evaluation.networks.musiq import MUSIQ
from blockvid.evaluation.networks.preprocess import CentreCrop, LongSide, ShortSide
from blockvid.evaluation.networks.raft import RAFT
from blockvid.evaluation.networks.vit import (
    CLIP_B32,
    CLIP_B32_DIM,
    CLIP_L14,
    CLIP_L14_DIM,
    DINO_B16,
    AestheticHead,
    ClipViT,
    DinoViT,
)
from blockvid.evaluation.results import VideoRecord
from blockvid.evaluation.rows import RowFiles, StillFiles
from blockvid.evaluation.scorers import motion
from blockvid.evaluation.scoring import Scoring
from blockvid.evaluation.series import Footage, Reader
from blockvid.evaluation.sources import Source
from blockvid.evaluation.weights import Sources
from blockvid.video import probe, write_video

WIDTH, HEIGHT, FPS = 854, 480, 16.0
CHUNK = 32  # frames between the borders that boundary_jump is told
Numbers = dict[str, Any]


def resident(field: str) -> float:
    """VmRSS (now) or VmHWM (the most so far) of this process in MB; Linux only."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(float(line.split()[1]) / 1e3 for line in lines if line.startswith(field))


# The clip


def make_clip(path: Path, frames: int, seed: int) -> None:
    """A textured subject that moves by itself before a texture that the camera passes over, to and fro."""
    rng = np.random.default_rng(seed)
    ground, cloth = texture(rng, 2 * HEIGHT, 2 * WIDTH), texture(rng, HEIGHT, WIDTH)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    clip = np.empty((frames, HEIGHT, WIDTH, 3), np.uint8)
    for index, seconds in enumerate(np.arange(frames) / FPS):
        right, down = WIDTH / 2 + 200 * np.sin(seconds / 2), HEIGHT / 2 + 60 * np.sin(seconds / 3)
        clip[index] = cv2.getRectSubPix(ground, (WIDTH, HEIGHT), (right + WIDTH / 2, down + HEIGHT / 2))
        middle, height = WIDTH / 2 + 250 * np.cos(seconds / 1.7), HEIGHT / 2 + 40 * np.sin(seconds)
        inside = ((x - middle) / 90) ** 2 + ((y - height) / 140) ** 2 < 1
        shift = np.array([[1, 0, middle - WIDTH / 2], [0, 1, height - HEIGHT / 2]])
        moved = cv2.warpAffine(cloth, shift, (WIDTH, HEIGHT), borderMode=cv2.BORDER_WRAP)
        clip[index][inside] = moved[inside]
    write_video(path, clip, FPS)


def texture(rng: np.random.Generator, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Coloured noise of several grain sizes, the coarser the stronger."""
    total = np.zeros((height, width, 3), np.float32)
    for grain in (4, 8, 16, 32, 64):
        noise = rng.standard_normal((height // grain + 2, width // grain + 2, 3)).astype(np.float32)
        total += grain**0.5 * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return (128 + 45 * total / total.std()).clip(0, 255).astype(np.uint8)


# blockvid


def models(folder: Path) -> Models:
    """The weights that came with a package, and those in a folder."""
    return Models(Sources({}, folder, None, folder, folder / "memo", offline=True))


def borders(path: Path) -> tuple[int, ...]:
    """Frames with which chunks begin, of a made clip."""
    return tuple(range(CHUNK, probe(path).frames or 0, CHUNK))


def evaluation(tier: Tier, threads: int, folder: Path) -> Evaluation:
    """One without a cache."""
    return Evaluation(tier=tier, threads=threads, models=models(folder))


def evaluated(evaluation: Evaluation, *paths: Path) -> tuple[VideoRecord, ...]:
    """The records of clips; stops at one that failed."""
    records = evaluation(paths, borders={path.name: borders(path) for path in paths}).videos
    for record in records:
        assert record.status == "scored", record.reason
    return records


def ours(path: Path, tier: Tier, threads: int, folder: Path) -> Numbers:
    """A tier over one clip: seconds, memory in MB before and at most, and scores."""
    before, began = resident("VmRSS"), time.perf_counter()
    (record,) = evaluated(evaluation(tier, threads, folder), path)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "before": before, "peak": resident("VmHWM"), "scores": record.scores}


def at_once(paths: tuple[Path, ...], tier: Tier, folder: Path) -> float:
    """Seconds for several clips, a worker each with one thread; the start of the workers included."""
    began = time.perf_counter()
    evaluated(replace(evaluation(tier, 1, folder), workers=len(paths)), *paths)
    return time.perf_counter() - began


PROFILES: dict[str, profiles.Profile] = {
    "release, N=10, again": profiles.Release(),
    "release, N=20": profiles.Release(20),
    "release, log weights": profiles.Release(weights="log"),
    "paper": profiles.Paper(),
    "robust": profiles.Robust(),
}


def cached(path: Path, tier: Tier, threads: int, folder: Path) -> dict[str, float]:
    """Median milliseconds of 5 evaluations under each profile, of a video whose rows are stored."""
    stored = replace(evaluation(tier, threads, folder), cache=folder / f"cache-{tier}")
    evaluated(stored, path)
    found = {}
    for name, profile in PROFILES.items():
        taken = []
        for _ in range(5):
            began = time.perf_counter()
            evaluated(replace(stored, profile=profile), path)
            taken.append(1e3 * (time.perf_counter() - began))
        found[name] = statistics.median(taken)
    return found


# Where the time goes


class Clock:
    """Seconds by part; what runs inside another part counts as "outer: inner", and no longer for the outer one."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._parts: list[str] = []
        self._last = 0.0

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """The time of a block."""
        self._turn()
        self._parts.append(f"{self._parts[-1]}: {name}" if self._parts else name)
        try:
            yield
        finally:
            self._turn()
            self._parts.pop()

    def _turn(self) -> None:
        now = time.perf_counter()
        if self._parts:
            part = self._parts[-1]
            self.spent[part] = self.spent.get(part, 0.0) + now - self._last
        self._last = now

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, on the clock."""

        @functools.wraps(function)
        def timed(*arguments: Any) -> Any:
            with self.during(name):
                return function(*arguments)

        return timed

    def watch(self, owner: type, name: str, *methods: str) -> None:
        """Replace methods, for this process, by themselves on the clock."""
        for method in methods:
            setattr(owner, method, self.timed(name, getattr(owner, method)))

    def watch_reader(self, owner: Any) -> None:
        """The loading of an extractor's networks, and its reading under its name."""
        original = owner.open

        def opened(extractor: Any, footage: Footage, device: torch.device) -> Reader:
            with self.during("load"):
                reader: Reader = original(extractor, footage, device)
            return replace(reader, read=self.timed(extractor.name, reader.read))

        owner.open = opened

    def watch_blocks(self, owner: type, name: str, method: str) -> None:
        """What a generator does, without what is done with what it yields."""
        original = getattr(owner, method)

        def blocks(*arguments: Any) -> Iterator[Any]:
            running = original(*arguments)
            while True:
                with self.during(name):
                    block = next(running, None)
                if block is None:
                    return
                yield block

        setattr(owner, method, blocks)


def where(path: Path, tier: Tier, threads: int, folder: Path) -> Numbers:
    """Seconds by part of one evaluation; what extractors share is on the account of the first that asks."""
    clock, made = Clock(), evaluation(tier, threads, folder)
    extractors = {e for metric in catalogue.metrics(tier, made.models) for e in metric.extractors}
    for kind in {type(extractor) for extractor in extractors}:
        clock.watch_reader(kind)
    for network in (EfficientNetLite0, DinoViT, ClipViT, AestheticHead, MUSIQ, RAFT):
        clock.watch(network, "network", "forward")
    for picture in (ShortSide, CentreCrop, LongSide):
        clock.watch(picture, "resizing", "__call__")
    clock.watch(motion._Flow, "DIS flow", "__call__")
    clock.watch(masks._Independent, "camera", "__call__")
    clock.watch(Source, "hash, probe", "sha256", "info")
    clock.watch(StillFiles, "stills", "offer", "finish")
    clock.watch(RowFiles, "rows to disk", "append", "finish", "series")
    clock.watch(Scoring, "scores, drift, warnings", "__call__")
    clock.watch_blocks(Source, "decode", "read")
    before, began = resident("VmRSS"), time.perf_counter()
    evaluated(made, path)
    wall = time.perf_counter() - began
    return {"spent": clock.spent, "wall": wall, "before": before, "peak": resident("VmHWM")}


def save_random_weights(folder: Path) -> None:
    """Checkpoints of the networks that VBench names, with the right shapes and nothing learned."""
    torch.manual_seed(0)
    networks: dict[str, Callable[[], torch.nn.Module]] = {
        "dino_vitbase16": lambda: DinoViT(DINO_B16),
        "clip_b32": lambda: ClipViT(CLIP_B32, CLIP_B32_DIM),
        "clip_l14": lambda: ClipViT(CLIP_L14, CLIP_L14_DIM),
        "laion_linear": lambda: AestheticHead(CLIP_L14_DIM),
        "musiq_spaq": MUSIQ,
        "raft_things": RAFT,
    }
    for name, build in networks.items():
        tensors = build().state_dict()
        # MUSIQ's released names, of which ours are made by replacing parts: here those that would be replaced again.
        names = {key: re.sub(r"^stem\.(conv|gn)_root\.", r"\1_root.", key) for key in tensors}
        save_file({names[key]: tensor for key, tensor in tensors.items()}, folder / f"{name}.safetensors")
