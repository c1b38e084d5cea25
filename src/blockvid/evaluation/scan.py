"""One video, decoded once: what is missing of its rows and stills is computed and stored as frames go by."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64

from blockvid.errors import InputError
from blockvid.evaluation.metric import Metric
from blockvid.evaluation.rows import Facts, RowFiles, Shelf
from blockvid.evaluation.series import Extractor, Footage, Pass, Reader, Rows, Window
from blockvid.evaluation.sources import Source
from blockvid.video import READ

SECONDS = "frame.seconds"
"""The series of every video: when each frame is shown, float64."""
ROUNDING = 0.0015
"""Seconds by which containers that count milliseconds can misstate the time between two frames."""


@dataclass(frozen=True)
class Clock:
    """The times of frames, as an extractor: stored and resumed like any other rows."""

    name: str = "frame"
    identity: str = "1"

    def open(self, footage: Footage, device: torch.device) -> Reader:  # noqa: ARG002
        """Needs nothing."""
        return Reader(_seconds)


def _seconds(window: Window) -> Rows:
    return {"seconds": np.array([picture.seconds for picture in window.wanted])}


def extractors(metrics: tuple[Metric, ...]) -> dict[str, Extractor]:
    """All that the metrics need, and the clock, each once, by name. Raises InputError for two of one name."""
    found: dict[str, Extractor] = {"frame": Clock()}
    for extractor in (extractor for metric in metrics for extractor in metric.extractors):
        other = found.setdefault(extractor.name, extractor)
        if other.identity != extractor.identity:
            raise InputError(
                f"metrics want the extractor {extractor.name} both as {other.identity!r} and as "
                f"{extractor.identity!r}; leave one of them out"
            )
    return found


@dataclass(frozen=True)
class Scan:
    """How videos are passed over; can be sent to another process."""

    extractors: Mapping[str, Extractor]
    stride: int = 1
    """Every so many frames are looked at."""
    batch: int = 8
    """Rows that are computed together."""
    device: str = "cpu"

    def check(self) -> None:
        """Raises InputError if an extractor lacks weights or a package."""
        for extractor in self.extractors.values():
            extractor.open(Footage(64, 64, 8.0), torch.device(self.device))

    def __call__(self, source: Source, shelf: Shelf, tick: Callable[[int], None]) -> None:
        """Fill the shelf; `tick` is told how many frames were read since it was last told.

        What is stored is not computed again, and nothing is decoded if nothing is missing. Waits while another process
        is at the same video. Raises InputError for what cannot be decoded or stored.
        """
        if shelf.has(self.extractors, self.stride):
            return
        with shelf.locked():
            if not shelf.has(self.extractors, self.stride):
                self._fill(source, shelf, tick)

    def _fill(self, source: Source, shelf: Shelf, tick: Callable[[int], None]) -> None:
        info = source.info()
        footage = Footage(info.width, info.height, info.fps / self.stride)
        files = {name: shelf.rows(extractor, self.stride) for name, extractor in self.extractors.items()}
        lacking = {name: file for name, file in files.items() if not file.complete}
        stills = None if shelf.stills.complete else shelf.stills
        readers = {name: self.extractors[name].open(footage, torch.device(self.device)) for name in lacking}
        done = {name: file.done(self.batch) for name, file in lacking.items()}
        running = Pass(readers, lambda name, rows: lacking[name].append(rows), self.batch, done)
        clock = array("d")
        for frames, seconds in source.read(READ):
            if stills:
                stills.offer(frames, seconds)
            first = -len(clock) % self.stride
            clock.extend(seconds)
            running.push(frames[first :: self.stride], seconds[first :: self.stride])
            tick(len(frames))
        if not clock:
            raise InputError(f"{source.name} has no frame that can be decoded; give an intact copy")
        running.finish()
        _finish(lacking)
        if stills:
            stills.finish()
        shelf.set_facts(_facts(info.width, info.height, info.fps, np.array(clock)))


def _finish(files: Mapping[str, RowFiles]) -> None:
    for file in files.values():
        file.finish()


def _facts(width: int, height: int, fps: float, seconds: Float64[np.ndarray, " t"]) -> Facts:
    gaps = np.diff(seconds)
    usual = float(np.median(gaps)) if len(gaps) else 1 / fps
    variable = bool((np.abs(gaps - usual) > usual / 10 + ROUNDING).any())
    length = float(seconds[-1]) + usual
    return Facts(width=width, height=height, fps=fps, frames=len(seconds), seconds=length, variable=variable)
