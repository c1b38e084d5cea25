"""Which videos of a folder are to be encoded, and what each of them shows when."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from blockvid import lvbench
from blockvid.data.index import stem
from blockvid.errors import InputError
from blockvid.geometry import Geometry
from blockvid.storyboard import FORMS, MAX_SECONDS, Storyboard
from blockvid.video import ENDINGS


@dataclass(frozen=True)
class Clip:
    """A video with its captions."""

    id: str
    path: Path
    storyboard: Storyboard
    seconds: float
    """How much of the video the captions describe; what follows is not trained on."""

    def prompt(self, chunk: int, geometry: Geometry) -> str:
        """The caption that is shown for the longest part of a chunk; of equals, the first."""
        size = geometry.chunk_frames
        span = geometry.pixels(1 + size * chunk if chunk else 0, 1 + size * (chunk + 1))
        begin, end = span.start / geometry.fps, span.stop / geometry.fps
        longest, prompt, until = -1.0, "", 0.0
        for number, shot in enumerate(self.storyboard.shots, 1):
            since = until
            until = since + shot.seconds if number < len(self.storyboard.shots) else max(self.seconds, since)
            if min(until, end) - max(since, begin) > longest:
                longest, prompt = min(until, end) - max(since, begin), shot.prompt
        return prompt


@dataclass(frozen=True)
class Refusal:
    """What cannot be encoded, and why."""

    id: str
    reason: str


def find_clips(folder: Path, captions: Path | None = None, part: lvbench.Part = "train") -> tuple[Clip | Refusal, ...]:
    """The videos directly in `folder` in the order of their ids, each with its captions or the reason it is left out.

    `captions` is a file in any form of docs/lvbench.md whose ids are the names of the videos; entries of the other
    part are passed over. Without it each video has a storyboard beside it, of the same name and any form. Raises
    InputError if there are no videos, names clash, or the captions cannot be read.
    """
    videos = _videos(folder)
    found = _beside(videos) if captions is None else _listed(videos, captions, part)
    return tuple(sorted(found, key=lambda clip: clip.id))


def _videos(folder: Path) -> dict[str, Path]:
    """By id."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.is_file())
    except OSError as error:
        raise InputError(f"{folder} cannot be listed ({error.strerror}); name a folder of videos") from None
    videos: dict[str, Path] = {}
    taken: dict[str, Path] = {}
    for path in (path for path in paths if not path.name.startswith(".")):
        id = unicodedata.normalize("NFC", path.stem)  # some file systems hand names back decomposed
        other = taken.setdefault(stem(id).casefold(), path)
        if other != path:
            raise InputError(f"{other} and {path.name} would have one name in the shards; rename one")
        videos[id] = path
    if not videos:
        raise InputError(f"{folder} holds no video (mp4, mkv, webm ...); name another folder")
    return videos


def _beside(videos: Mapping[str, Path]) -> Iterator[Clip | Refusal]:
    for id, video in videos.items():
        sidecars = [path for ending in FORMS if (path := video.with_suffix(ending)).is_file()]
        if len(sidecars) != 1:
            names = " and ".join(path.name for path in sidecars)
            repair = f"has captions in {names}; keep one" if sidecars else f"has no captions; write {video.stem}.txt"
            yield Refusal(id, f"{video} {repair}")
            continue
        try:
            storyboard = Storyboard.read(sidecars[0])
        except InputError as error:
            yield Refusal(id, str(error))
            continue
        alone = len(storyboard.shots) == 1  # the one caption of a video describes all of it
        yield Clip(id, video, storyboard, MAX_SECONDS if alone else storyboard.seconds)


def _listed(videos: Mapping[str, Path], captions: Path, part: lvbench.Part) -> Iterator[Clip | Refusal]:
    entries = {unicodedata.normalize("NFC", entry.id): entry for entry in lvbench.read(captions)}
    for id, entry in entries.items():
        if entry.split not in (None, part):
            continue
        if id in videos:
            yield Clip(id, videos[id], entry.storyboard(), entry.duration)
        else:
            yield Refusal(id, f"{id} has captions in {captions.name} but no video; add {id}.mp4 or remove its line")
    for id in videos.keys() - entries.keys():
        yield Refusal(id, f"{videos[id]} has no captions in {captions.name}; add a line with its id {id}")
