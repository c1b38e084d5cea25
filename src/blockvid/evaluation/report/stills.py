"""Stills as part of a page, smaller where there are many: a report of 200 videos must stay below 10 MB."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from blockvid.evaluation.report.markup import data_uri
from blockvid.evaluation.report.readings import scored
from blockvid.evaluation.results import Results, Still, VideoRecord

BUDGET = 4_000_000
"""Characters that all stills of a page may take."""
BASE64 = 4 / 3
"""Characters a byte."""
WIDTHS = (240, 192, 160, 128, 96)
BYTES_PER_PIXEL = 0.13
"""Of a JPEG of the quality below, for choosing a width."""
HEADER = 620
QUALITY = 60
JPEG = b"\xff\xd8"
AT_MOST = 12
"""Of a video that is not cut into segments."""


class Album:
    """The stills of a run, each as the address of its own content; holds to the budget."""

    def __init__(self, results: Results, folder: Path, budget: int = BUDGET) -> None:
        """`folder` is where results.json lies, or would."""
        self._folder = folder.resolve()
        chosen = [s for v in scored(results) for s in of_segments(v) if s]
        sizes = [path.stat().st_size for s in chosen if (path := self._path(s))]
        self._width = None if sum(sizes) * BASE64 <= budget else _width(budget / BASE64 / len(sizes))
        self._left = budget
        self.dropped = 0
        """How many did not fit."""

    def address(self, still: Still) -> str | None:
        """A data URI; None where the file is not there, is no JPEG, or the page is full."""
        path = self._path(still)
        if path is None:
            return None
        content = path.read_bytes()
        if not content.startswith(JPEG):
            return None
        if self._width:
            smaller = _shrunk(content, self._width)
            content = smaller if smaller and len(smaller) < len(content) else content
        address = data_uri("image/jpeg", content)
        if len(address) > self._left:
            self.dropped += 1
            return None
        self._left -= len(address)
        return address

    def _path(self, still: Still) -> Path | None:
        """A file below the folder; results may come from anywhere, and must not fetch what lies elsewhere."""
        path = (self._folder / still.file).resolve()
        return path if path.is_relative_to(self._folder) and path.is_file() else None


def of_segments(video: VideoRecord) -> tuple[Still | None, ...]:
    """The still nearest to the middle of each segment, None where there is none in it; a few, if there are none."""
    if not video.segments:
        step = max(1, -(-len(video.stills) // AT_MOST))
        return video.stills[::step]
    return tuple(_nearest(video.stills, start, end) for start, end in video.segments)


def _nearest(stills: Sequence[Still], start: float, end: float) -> Still | None:
    inside = [s for s in stills if start <= s.seconds < end]
    return min(inside, key=lambda s: abs(s.seconds - (start + end) / 2), default=None)


def _width(size: float) -> int:
    """The largest width of which a still takes about so many bytes."""
    return next((w for w in WIDTHS if HEADER + BYTES_PER_PIXEL * w * w * 9 / 16 <= size), WIDTHS[-1])


def _shrunk(content: bytes, width: int) -> bytes | None:
    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.draft("RGB", (width, width))
            small = picture.convert("RGB")
            small.thumbnail((width, width), Image.Resampling.BILINEAR)
    except (OSError, UnidentifiedImageError, ValueError):
        return None
    out = io.BytesIO()
    small.save(out, format="JPEG", quality=QUALITY, optimize=True)
    return out.getvalue()
