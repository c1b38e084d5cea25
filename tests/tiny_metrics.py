"""Extractors and metrics that take no time, and extractors that misbehave; importable in processes that tests start."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from blockvid.errors import InputError
from blockvid.evaluation.metric import Metric
from blockvid.evaluation.scorers.spans import frames, mean_of, pairs, triples
from blockvid.evaluation.series import Footage, Reader, Rows, Window


@dataclass(frozen=True)
class Brightness:
    """level: mean of all pixels. path: the mean of the frame before, itself and the next but one, where there are."""

    log: Path | None = None
    """Gets a line for every row that is computed."""
    name: str = "brightness"
    identity: str = "1"

    def open(self, footage: Footage, device: torch.device) -> Reader:
        return Reader(self._read, before=1, after=2)

    def _read(self, window: Window) -> Rows:
        levels = np.array([picture.once(_mean) for picture in window.pictures])
        wanted = range(window.start, window.stop)
        around = [[i for i in (n - 1, n, n + 2) if 0 <= i < len(levels)] for n in wanted]
        if self.log:
            with self.log.open("a") as file:
                file.writelines(f"{picture.number}\n" for picture in window.wanted)
        path = np.array([levels[indices].mean() for indices in around], dtype=np.float32)
        return {"level": levels[window.start : window.stop].astype(np.float32), "path": path}


@dataclass(frozen=True)
class Colour:
    """rgb: the mean colour, as a vector of three and a constant."""

    name: str = "colour"
    identity: str = "1"

    def open(self, footage: Footage, device: torch.device) -> Reader:
        return Reader(_colour)


@dataclass(frozen=True)
class Faulty:
    """Does `fault` at frames whose first pixel is pure red; `name` keeps kinds apart."""

    fault: Callable[[], None]
    name: str = "faulty"
    identity: str = "1"

    def open(self, footage: Footage, device: torch.device) -> Reader:
        return Reader(self._read)

    def _read(self, window: Window) -> Rows:
        if any(picture.pixels[0, 0].tolist() == [255, 0, 0] for picture in window.wanted):
            self.fault()
        return {"zero": np.zeros(len(window.wanted), np.float32)}


@dataclass(frozen=True)
class Unready:
    """Lacks its weights."""

    name: str = "unready"
    identity: str = "1"

    def open(self, footage: Footage, device: torch.device) -> Reader:
        raise InputError("weights of unready are nowhere; fetch them")


def _mean(pixels: np.ndarray) -> float:
    return float(pixels.mean())


def _colour(window: Window) -> Rows:
    means = [[*picture.pixels.mean(axis=(0, 1)), 1.0] for picture in window.wanted]
    return {"rgb": np.array(means, dtype=np.float32)}


def tiny(log: Path | None = None) -> tuple[Metric, ...]:
    """`clarity` is the level, `exposure` its path over triples; and colour, as an embedding."""
    brightness = Brightness(log)
    level = mean_of("brightness.level", frames)
    return (
        Metric("clarity", "core", "Level", "mean", (brightness,), level, "higher", curve="brightness.level"),
        Metric("exposure", "core", "Path", "mean", (brightness,), mean_of("brightness.path", triples)),
        Metric(
            "motion_smoothness",
            "light",
            "Colour",
            "mean",
            (Colour(), brightness),
            mean_of("brightness.path", pairs),
            model="0123456789abcdef",
            embedding="colour.rgb",
        ),
    )


def with_fault(fault: Callable[[], None]) -> tuple[Metric, ...]:
    """`tiny`, and a metric that fails at red."""
    return (*tiny(), Metric("fault", "core", "Fault", "0", (Faulty(fault),), mean_of("faulty.zero", frames)))


def refuse() -> None:
    """As a scorer that cannot handle a video."""
    raise InputError("red is not scored; use another colour")


def miscalculate() -> None:
    """As a scorer with a mistake in it."""
    raise IndexError("index 3 is out of bounds")


def violate() -> None:
    """As a scorer that finds a mistake in itself."""
    raise AssertionError("this cannot be")


def die() -> None:
    """As when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def ramp(count: int, height: int = 6, width: int = 8, start: int = 0) -> np.ndarray:
    """Frames that all differ, none of them red."""
    levels = (start + 5 * np.arange(count)) % 200 + 10
    noise = np.random.default_rng(count).integers(0, 40, (count, height, width, 3))
    return (levels[:, None, None, None] + noise).astype(np.uint8)


def red(count: int) -> np.ndarray:
    """Frames that `Faulty` stumbles over."""
    return np.tile(np.array([255, 0, 0], np.uint8), (count, 6, 8, 1))
