"""Contact sheets: a video at a glance, still by still, each above what was asked for."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from blockvid.errors import InputError
from blockvid.files import RESUME, replacing

WIDTHS = (240, 320)
"""Least and greatest width of a still, in pixels: small videos are enlarged until captions fit under them."""
GAP, LINES, LINE = 4, 4, 15
DASHES = str.maketrans("\u2012\u2013\u2014\u2212", "----")


class Still(NamedTuple):
    """A frame, when it is shown, and the words to put under it."""

    seconds: float
    frame: UInt8[np.ndarray, "h w 3"]
    caption: str = ""


def contact_sheet(stills: Sequence[Still], columns: int, path: Path) -> None:
    """Lay out stills of one size row by row in one PNG, each labelled min:sec.

    Captions get four lines, the last ending in an ellipsis where that is too few. Pillow's own font is all that draws
    them, so that sheets are alike everywhere: accents are dropped, and captions in other scripts left out.
    Raises InputError for no stills.
    """
    if not stills:
        raise InputError("0 frames make no contact sheet; give at least one")
    full_height, full_width = stills[0].frame.shape[:2]
    width = min(max(full_width, WIDTHS[0]), WIDTHS[1])
    height = round(full_height * width / full_width)
    captions = [_lines(still.caption, width - 4) for still in stills]
    columns = min(columns, len(stills))
    rows = [range(len(stills))[start : start + columns] for start in range(0, len(stills), columns)]
    heights = [height + LINE * max(len(captions[n]) for n in row) for row in rows]
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, sum(heights) + GAP * (len(rows) + 1)), "white")
    y = GAP
    for row, tall in zip(rows, heights, strict=True):
        for column, n in enumerate(row):
            tile = Image.new("RGB", (width, tall), "white")  # of its own, so that no word reaches the next
            tile.paste(Image.fromarray(stills[n].frame).resize((width, height), Image.Resampling.LANCZOS))
            draw = ImageDraw.Draw(tile)
            _label(draw, stills[n].seconds)
            for i, words in enumerate(captions[n]):
                draw.text((1, height + i * LINE), words, fill="black", font=_font())
            sheet.paste(tile, (GAP + column * (width + GAP), y))
        y += tall + GAP
    with replacing(path, RESUME) as part:
        sheet.save(part, format="PNG")


def _label(draw: ImageDraw.ImageDraw, seconds: float) -> None:
    minutes, rest = divmod(round(seconds, 1), 60)
    at, label = (4, 3), f"{minutes:.0f}:{rest:04.1f}"
    left, top, right, bottom = draw.textbbox(at, label, font=_font())
    draw.rectangle((left - 3, top - 3, right + 3, bottom + 3), fill="black")
    draw.text(at, label, fill="white", font=_font())


def _lines(caption: str, width: int) -> list[str]:
    """The caption in as few lines as it fits in, at most `LINES`; none where the font lacks a character of it."""
    plain = unicodedata.normalize("NFKD", caption.translate(DASHES))
    words = "".join(c for c in plain if not unicodedata.combining(c)).split()
    if not all(_drawable(c) for word in words for c in word):
        return []
    font = _font()
    lines: list[str] = []
    for word in words:
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > LINES:
        lines = lines[:LINES]
        while font.getlength(f"{lines[-1]} \u2026") > width and " " in lines[-1]:
            lines[-1] = lines[-1].rsplit(" ", 1)[0]
        lines[-1] += " \u2026"
    return lines


@cache
def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(12)


@cache
def _drawable(character: str) -> bool:
    """Whether the font has it: what it lacks looks like what no font has."""
    return _glyph(character) != _glyph("\uffff")


@cache
def _glyph(character: str) -> bytes:
    picture = Image.new("1", (24, 24))
    ImageDraw.Draw(picture).text((4, 4), character, fill=1, font=_font())
    return picture.tobytes()
