"""Rows of frames on disk, so that no frame is looked at twice: whatever was stored survives a kill and is not redone.

::

    CACHE/3f/3f0a.../                one folder a video, named by the sha256 of its content
      lock                           held while a process adds to it
      facts.json                     size, rate and length, written when all of it was decoded
      luma-91c0d2e41b6f07a8/         one folder an extractor: its name, and a hash of all that its rows depend on
        rows.json                    the type and shape of a row of each series; how many, when they are all there
        laplacian.rows               the numbers themselves, one row after the other
      stills/000012500.jpg           small pictures by millisecond; stills.json, written last, lists them
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from blockvid.errors import InputError
from blockvid.evaluation.series import Extractor, Rows, Series
from blockvid.files import locked, swapping, sync

FORMAT = "1"
"""Raised when what is stored changes its meaning."""
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
STILL_SECONDS, STILL_WIDTH, STILL_QUALITY, MOST_STILLS = 0.5, 160, 80, 240


class StorageError(InputError):
    """The disk refuses: no fault of a video, and nothing goes on without it."""


class Facts(BaseModel):
    """What is known of a video once all of it was decoded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int
    height: int
    fps: float
    """Frames a second, as the container has it."""
    frames: int
    seconds: float
    """To the end of the last frame."""
    variable: bool
    """Whether frames last differently long."""


class _Layout(BaseModel):
    """rows.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    series: dict[str, tuple[str, tuple[int, ...]]]
    """Type and shape of one row."""
    rows: int | None = None
    """None while they grow."""


class RowFiles:
    """The rows of one extractor on one video; who appends holds the video's lock."""

    def __init__(self, folder: Path) -> None:
        """Of a folder that need not exist yet."""
        self.folder = folder
        self._layout = _read_layout(folder / "rows.json")

    @property
    def complete(self) -> bool:
        """Whether the rows of all frames are there."""
        layout = self._layout
        return layout is not None and layout.rows is not None and self._counts() == {layout.rows}

    def done(self, batch: int) -> int:
        """Rows of whole batches that are there; what a kill left beyond them is cut off."""
        if self._layout is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            return 0
        rows = min(self._counts(), default=0) // batch * batch
        for name in self._layout.series:
            with contextlib.suppress(FileNotFoundError):
                os.truncate(self._file(name), rows * self._size(name))
        return rows

    def append(self, rows: Rows) -> None:
        """Add rows after those that are there. Raises StorageError if the disk refuses."""
        with storing(self.folder):
            if self._layout is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._set(_Layout(series={name: (v.dtype.str, v.shape[1:]) for name, v in rows.items()}))
            assert self._layout is not None and set(rows) == set(self._layout.series), (self.folder, set(rows))
            for name, values in rows.items():
                assert NAME.fullmatch(name), name
                assert (values.dtype.str, values.shape[1:]) == self._layout.series[name], (name, values.shape)
                with self._file(name).open("ab") as file:
                    file.write(np.ascontiguousarray(values).data)

    def finish(self) -> None:
        """All rows are there."""
        assert self._layout is not None and len(self._counts()) == 1, self.folder
        with storing(self.folder):
            for name in self._layout.series:
                sync(self._file(name))
            self._set(_Layout(series=self._layout.series, rows=self._counts().pop()))

    def series(self) -> dict[str, np.ndarray]:
        """By name, memory-mapped."""
        assert self._layout is not None and self._layout.rows, self.folder
        return {
            name: np.memmap(self._file(name), dtype, "r", shape=(self._layout.rows, *shape))
            for name, (dtype, shape) in self._layout.series.items()
        }

    def _set(self, layout: _Layout) -> None:
        with swapping(self.folder / "rows.json") as part:
            part.write_text(layout.model_dump_json() + "\n", encoding="utf-8")
        self._layout = layout

    def _counts(self) -> set[int]:
        assert self._layout is not None
        counts = set()
        for name in self._layout.series:
            file = self._file(name)
            counts.add(file.stat().st_size // self._size(name) if file.exists() else 0)
        return counts

    def _size(self, name: str) -> int:
        assert self._layout is not None
        dtype, shape = self._layout.series[name]
        return np.dtype(dtype).itemsize * int(np.prod(shape, dtype=int))

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.rows"


class StillFiles:
    """Small pictures of one video: the first frame of every half second, or of every 1, 2, 4 ... if it is long."""

    def __init__(self, folder: Path) -> None:
        """Of a folder that need not exist yet."""
        self.folder = folder
        self._index = folder / "stills.json"
        self._spacing = STILL_SECONDS
        self._kept: dict[int, float] = {}

    @property
    def complete(self) -> bool:
        """Whether they were all made."""
        return self._index.exists()

    def offer(self, frames: UInt8[np.ndarray, "t h w 3"], seconds: Float64[np.ndarray, " t"]) -> None:
        """Keep those of the next frames that are wanted. Raises StorageError if the disk refuses."""
        with storing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for pixels, moment in zip(frames, map(float, seconds), strict=True):
                part = int((moment + 1e-3) / self._spacing)  # containers round times to milliseconds
                if part not in self._kept:
                    self._kept[part] = moment
                    _still(pixels).save(self.folder / _still_name(moment), format="JPEG", quality=STILL_QUALITY)
                    self._thin()

    def finish(self) -> None:
        """There are no more frames."""
        with storing(self.folder):
            names = {_still_name(moment): moment for moment in self._kept.values()}
            for stray in set(self.folder.glob("*.jpg")) - {self.folder / name for name in names}:
                stray.unlink()
            with swapping(self._index) as part:
                part.write_text(json.dumps(names, indent=0) + "\n", encoding="utf-8")

    def all(self) -> dict[Path, float]:
        """Files and their seconds, in order of time; none if they are not complete."""
        try:
            names = TypeAdapter(dict[str, float]).validate_json(_bytes(self._index))
        except ValidationError:
            return {}
        return {self.folder / name: moment for name, moment in names.items()}

    def _thin(self) -> None:
        while len(self._kept) > MOST_STILLS:
            halved: dict[int, float] = {}
            for part, moment in self._kept.items():
                if halved.setdefault(part // 2, moment) != moment:
                    (self.folder / _still_name(moment)).unlink()
            self._kept, self._spacing = halved, 2 * self._spacing


class Shelf:
    """What is stored of one video."""

    def __init__(self, folder: Path) -> None:
        """Of a folder that need not exist yet."""
        self.folder = folder
        self.stills = StillFiles(folder / "stills")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Alone in adding to it: another process waits, and then finds what this one has stored."""
        with contextlib.ExitStack() as held:
            with storing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(self.folder / "lock", wait=True))
            yield

    @property
    def facts(self) -> Facts | None:
        """None before it was decoded to its end."""
        try:
            return Facts.model_validate_json(_bytes(self.folder / "facts.json"))
        except ValidationError:
            return None

    def set_facts(self, facts: Facts) -> None:
        """Raises StorageError if the disk refuses."""
        with storing(self.folder), swapping(self.folder / "facts.json") as part:
            part.write_text(facts.model_dump_json() + "\n", encoding="utf-8")

    def rows(self, extractor: Extractor, stride: int) -> RowFiles:
        """Those of an extractor that sees every `stride`-th frame."""
        assert NAME.fullmatch(extractor.name), extractor.name
        depends = "\n".join((FORMAT, _decoder(), str(stride), extractor.identity))
        return RowFiles(self.folder / f"{extractor.name}-{hashlib.sha256(depends.encode()).hexdigest()[:16]}")

    def has(self, extractors: Mapping[str, Extractor], stride: int) -> bool:
        """Whether nothing is missing that these extractors would say."""
        stored = all(self.rows(extractor, stride).complete for extractor in extractors.values())
        return stored and self.facts is not None and self.stills.complete

    def series(self, extractors: Mapping[str, Extractor], stride: int) -> Series:
        """All rows, by "extractor.name"."""
        return {
            f"{extractor.name}.{name}": values
            for extractor in extractors.values()
            for name, values in self.rows(extractor, stride).series().items()
        }


class Store:
    """A folder of videos' rows, which may be shared by processes and by evaluations of any kind."""

    def __init__(self, folder: Path) -> None:
        """Raises StorageError if it cannot be made."""
        self.folder = folder
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def video(self, sha256: str) -> Shelf:
        """What is stored of the video with that content."""
        return Shelf(self.folder / sha256[:2] / sha256)


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """StorageError in place of the system's refusal to write below `path`."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise StorageError(
            f"{path} cannot be written ({why}); free space there or name another cache, and run again"
        ) from error


def _decoder() -> str:
    return " ".join(f"{name} {av.library_versions[name]}" for name in ("libavcodec", "libswscale"))


def _read_layout(path: Path) -> _Layout | None:
    try:
        return _Layout.model_validate_json(_bytes(path))
    except ValidationError:
        return None


def _bytes(path: Path) -> bytes:
    """What a file holds; nothing if it is not there. Raises StorageError for what is there and cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({error.strerror}); name another cache, and run again") from error


def _still(pixels: UInt8[np.ndarray, "h w 3"]) -> Image.Image:
    height, width = pixels.shape[:2]
    small = min(STILL_WIDTH, width)
    size = (small, max(1, round(height * small / width)))
    return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, reducing_gap=2)


def _still_name(moment: float) -> str:
    return f"{round(1000 * moment):09d}.jpg"
