"""One pass over a video: frames go by once, and every extractor leaves a row of numbers for each.

Whatever a metric needs of the pixels is such a row: of the frame itself, or of a few frames around it. Segments,
weights and profiles are applied to rows later, so that none of them asks for the video again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8

Product = TypeVar("Product")
Rows = Mapping[str, np.ndarray]
"""Per name an array whose first axis counts frames; float32, nan where a frame has no such number."""
Series = Mapping[str, np.ndarray]
"""The rows of a whole video under "extractor.name"; arrays may be memory-mapped."""


@dataclass(frozen=True)
class Caption:
    """What is shown from `start` to before `end`, in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Footage:
    """What is known of a video before its first frame."""

    width: int
    height: int
    fps: float
    """Average rate in frames a second."""
    borders: tuple[int, ...] = ()
    """Frames with which chunks begin, the first chunk's left out; empty where nobody said."""
    captions: tuple[Caption, ...] = ()
    """What it should show, if anybody said."""
    first: range | None = None
    """The frames of its first segment, which identity is compared with; None before the video is cut."""


class Picture:
    """One frame, and what several extractors want of it, each made once."""

    def __init__(self, pixels: UInt8[np.ndarray, "h w 3"], number: int, seconds: float) -> None:
        """`number` counts frames from 0, `seconds` from the first frame."""
        self.pixels, self.number, self.seconds = pixels, number, seconds
        self._made: dict[Hashable, Any] = {}

    def once(self, product: Callable[[UInt8[np.ndarray, "h w 3"]], Product]) -> Product:
        """`product` of the pixels; a hashable, pure function is called once however many ask for it."""
        if product not in self._made:
            self._made[product] = product(self.pixels)
        return self._made[product]


@dataclass(frozen=True)
class Window:
    """Consecutive pictures of which those in start..stop get a row; the others are context."""

    pictures: tuple[Picture, ...]
    start: int
    stop: int

    @property
    def wanted(self) -> tuple[Picture, ...]:
        """The pictures that get a row."""
        return self.pictures[self.start : self.stop]


@dataclass(frozen=True)
class Reader:
    """An extractor at work on one video."""

    read: Callable[[Window], Rows]
    """Rows of the wanted pictures, one each; a pure function of the window."""
    before: int = 0
    """How many earlier frames it wants to see; fewer are there at the video's beginning."""
    after: int = 0
    """How many later ones; fewer at its end."""


class Extractor(Protocol):
    """Something that can be said of every frame; a frozen dataclass that can be sent to another process."""

    @property
    def name(self) -> str:
        """Unique among extractors that are used together; a file name."""
        ...

    @property
    def identity(self) -> str:
        """All that rows depend on besides frames: settings, the sha256 of weights, a version to raise on changes."""
        ...

    def open(self, footage: Footage, device: torch.device) -> Reader:
        """Load what it takes. Raises InputError for weights that are missing or cannot be read."""
        ...


class Pass:
    """Hands frames to readers in windows; holds no more of them than a batch and the largest context.

    Windows begin at multiples of `batch`, however the frames arrive, so rows do not depend on that.
    """

    def __init__(
        self,
        readers: Mapping[str, Reader],
        keep: Callable[[str, Rows], None],
        batch: int = 8,
        done: Mapping[str, int] | None = None,
    ) -> None:
        """`keep` is given each extractor's rows in order; `done` rows, whole batches, are there already."""
        self._readers, self._keep, self._batch = readers, keep, batch
        self._next = {name: (done or {}).get(name, 0) for name in readers}
        self._before = max((reader.before for reader in readers.values()), default=0)
        self._pictures: deque[Picture] = deque()
        self.frames = 0
        """Frames pushed so far."""

    def push(self, frames: UInt8[np.ndarray, "t h w 3"], seconds: Float[np.ndarray, " t"] | Sequence[float]) -> None:
        """The next frames, each with its time from the first."""
        for pixels, moment in zip(frames, seconds, strict=True):
            self._pictures.append(Picture(pixels, self.frames, float(moment)))
            self.frames += 1
            self._advance(last=False)

    def finish(self) -> None:
        """There are no more frames: the rows that waited for later ones."""
        self._advance(last=True)
        self._pictures.clear()

    def _advance(self, last: bool) -> None:
        for name, reader in self._readers.items():
            while (start := self._next[name]) < self.frames:
                stop = min(start + self._batch, self.frames)
                if not last and (stop - start < self._batch or stop + reader.after > self.frames):
                    break
                self._keep(name, reader.read(self._window(start, stop, reader)))
                self._next[name] = stop
        oldest = min(self._next.values(), default=self.frames) - self._before
        while self._pictures and self._pictures[0].number < oldest:
            self._pictures.popleft()

    def _window(self, start: int, stop: int, reader: Reader) -> Window:
        first = self._pictures[0].number
        begin, end = max(start - reader.before, 0), min(stop + reader.after, self.frames)
        pictures = tuple(self._pictures[n - first] for n in range(begin, end))
        return Window(pictures, start - begin, stop - begin)


def extract(
    frames: UInt8[np.ndarray, "t h w 3"],
    extractors: Sequence[Extractor],
    fps: float,
    device: torch.device | None = None,
    batch: int = 8,
) -> dict[str, np.ndarray]:
    """The series of frames in memory."""
    footage = Footage(frames.shape[2], frames.shape[1], fps)
    readers = {e.name: e.open(footage, device or torch.device("cpu")) for e in extractors}
    rows: dict[str, list[np.ndarray]] = {}

    def keep(name: str, new: Rows) -> None:
        for key, values in new.items():
            rows.setdefault(f"{name}.{key}", []).append(values)

    running = Pass(readers, keep, batch)
    running.push(frames, np.arange(len(frames)) / fps)
    running.finish()
    return {key: np.concatenate(parts) for key, parts in rows.items()}
