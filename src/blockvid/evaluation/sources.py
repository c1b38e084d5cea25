"""Where frames come from: files, folders of files, and arrays in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt8
from pydantic import ValidationError

from blockvid.errors import InputError
from blockvid.geometry import Geometry
from blockvid.journal import Manifest
from blockvid.storyboard import Storyboard
from blockvid.video import ENDINGS, VideoInfo, probe, read_timed

READABLE = ENDINGS | {".3gp", ".ogv", ".gif", ".y4m", ".h264", ".h265"}
"""What counts as a video in a folder."""
Array = tuple[UInt8[np.ndarray, "t h w 3"], float]
"""Frames and their rate."""
Videos = str | Path | Sequence[str | Path] | Mapping[str, str | Path | Array]


@dataclass(frozen=True, eq=False)
class Source:
    """One video, not yet looked at."""

    name: str
    path: Path | None
    """None: `frames` it is."""
    frames: UInt8[np.ndarray, "t h w 3"] | None = None
    fps: float = 0.0
    """Of `frames`."""

    def sha256(self) -> str:
        """Of the file, or of rate, shape and bytes of the frames. Raises InputError if it cannot be read."""
        if self.path is not None:
            try:
                with self.path.open("rb") as file:
                    return hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise InputError(f"{self.path} cannot be read ({error.strerror}); check its permissions") from None
        assert self.frames is not None
        digest = hashlib.sha256(f"{self.frames.shape} {self.fps!r}".encode())
        for frame in self.frames:
            digest.update(np.ascontiguousarray(frame).data)
        return digest.hexdigest()

    def info(self) -> VideoInfo:
        """What it says of itself. Raises InputError if there is no frame in it."""
        if self.path is not None:
            return probe(self.path)
        assert self.frames is not None
        if len(self.frames) == 0:
            raise InputError(f"{self.name} has 0 frames; give at least one")
        count, height, width, _ = self.frames.shape
        return VideoInfo(width, height, self.fps, count, count / self.fps)

    def read(self, batch: int) -> Iterator[tuple[UInt8[np.ndarray, "t h w 3"], Float64[np.ndarray, " t"]]]:
        """Frames and their seconds, `batch` at a time."""
        if self.path is not None:
            yield from read_timed(self.path, batch)
            return
        assert self.frames is not None
        for start in range(0, len(self.frames), batch):
            frames = self.frames[start : start + batch]
            yield frames, np.arange(start, start + len(frames)) / self.fps


def sources(videos: Videos) -> tuple[Source, ...]:
    """The videos meant: of a folder all at any depth, in order of name, without hidden files and those in run folders.

    They are named by their path below what was given, by more of it where that is the same. Raises InputError for what
    does not exist or is no uint8 array (t h w 3), a folder without a video, and two names that are one.
    """
    if isinstance(videos, Mapping):
        return tuple(_named(name, video) for name, video in videos.items())
    given = [videos] if isinstance(videos, str | Path) else videos
    found: dict[Path, Path] = {}
    """Absolute path to the part of it that was asked for."""
    for path in map(Path, given):
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if _is_video(file, path))
            if not inside:
                raise InputError(f"{path} holds no video (mp4, mkv, webm ...); name another folder")
            found |= {file.absolute(): file.relative_to(path) for file in inside}
        else:
            _check_exists(path)
            found[path.absolute()] = Path(path.name)
    if not found:
        raise InputError("no video was named; give files or folders")
    return tuple(Source(name, path) for path, name in _distinct(found).items())


def borders(path: Path) -> tuple[int, ...]:
    """The frames with which chunks begin, the first left out, of a video that was generated here; else none.

    clip.mp4 has its run in clip.run. A run that cannot be understood counts as none.
    """
    manifest = path.with_suffix(".run") / "manifest.json"
    try:
        determining = Manifest.model_validate_json(manifest.read_bytes()).determining
        storyboard = Storyboard.model_validate(determining.storyboard)
        sizes = {**determining.geometry, "patch": tuple(determining.geometry["patch"])}  # type: ignore[arg-type]
        geometry = Geometry(**sizes)  # type: ignore[arg-type]
        frames = storyboard.frames(geometry)
        starts = [geometry.pixel_frames(chunk.start) for chunk in storyboard.chunks(geometry)[1:]]
    except (OSError, ValidationError, InputError, KeyError, TypeError):
        return ()
    return tuple(start for start in starts if start < frames)


def _named(name: str, video: str | Path | Array) -> Source:
    if isinstance(video, str | Path):
        _check_exists(Path(video))
        return Source(name, Path(video).absolute())
    frames, fps = video
    if not (isinstance(frames, np.ndarray) and frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[3] == 3):
        what = f"{frames.dtype} {frames.shape}" if isinstance(frames, np.ndarray) else type(frames).__name__
        raise InputError(f"{name}: {what} is no uint8 array (t h w 3); convert the frames")
    if not fps > 0:
        raise InputError(f"{name}: {fps} frames a second is no rate; use a number above 0, such as 24")
    return Source(name, None, frames, float(fps))


def _check_exists(path: Path) -> None:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {what}; give the path of a video")


def _is_video(file: Path, folder: Path) -> bool:
    if file.suffix.lower() not in READABLE or not file.is_file():
        return False
    below = file.relative_to(folder)
    if any(part.startswith(".") for part in below.parts):
        return False
    return not any(_is_run(parent) for parent in file.parents if parent.is_relative_to(folder))


def _is_run(folder: Path) -> bool:
    return folder.suffix == ".run" and (folder / "manifest.json").exists()


def _distinct(found: Mapping[Path, Path]) -> dict[Path, str]:
    """Each file's name: the part asked for, with as many folders before it as it takes to tell all apart."""
    names = {path: asked.as_posix() for path, asked in found.items()}
    extra = 0
    while len(set(names.values())) < len(names):
        extra += 1
        counts: dict[str, int] = {}
        for name in names.values():
            counts[name] = counts.get(name, 0) + 1
        for path, asked in found.items():
            if counts[names[path]] > 1:
                names[path] = Path(*path.parts[-(len(asked.parts) + extra) :]).as_posix()
    return names
