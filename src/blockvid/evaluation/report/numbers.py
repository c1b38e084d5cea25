"""Numbers as people read them: as many digits as mean something, real minus signs, infinity and gaps by name."""

from __future__ import annotations

import math
from collections.abc import Iterable

NONE = "–"
INFINITE = "∞"
MINUS = "\u2212"
THIN = "\u202f"
"""A narrow space that does not break, between a number and its unit."""
MOST = 4
"""Decimals."""


def decimals(values: Iterable[float], digits: int = 2) -> int:
    """How many decimals give the smallest value, zero left aside, so many significant digits; 0 to 4."""
    sizes = [abs(x) for x in values if math.isfinite(x) and x]
    return min(max(digits - 1 - math.floor(math.log10(min(sizes))), 0), MOST) if sizes else 0


def exact(step: float) -> int:
    """How many decimals multiples of a round step need."""
    return next((places for places in range(8) if abs(round(step, places) - step) < 1e-6 * step), 8)


def fixed(x: float, places: int) -> str:
    """With so many decimals."""
    if math.isnan(x):
        return NONE
    if math.isinf(x):
        return INFINITE if x > 0 else MINUS + INFINITE
    text = f"{x:.{places}f}"
    return MINUS + text[1:] if text.startswith("-") and float(text) else text.removeprefix("-")


def short(x: float, digits: int = 3) -> str:
    """With so many significant digits, and never more than 4 decimals."""
    return fixed(x, decimals([x], digits))


def percent(share: float, places: int = 0) -> str:
    """A share as a percentage."""
    text = fixed(100 * share, places)
    return f"{text}{THIN}%" if math.isfinite(share) else text


def signed(share: float, digits: int = 2) -> str:
    """A relative change as a percentage, with its sign."""
    text = percent(share, decimals([100 * share], digits))
    return f"+{text}" if share > 0 else text


def interval(low: float, high: float, places: int) -> str:
    """From low to high."""
    if math.isnan(low) or math.isnan(high):
        return NONE
    if math.isinf(low) or math.isinf(high):
        return "no interval"
    return f"{fixed(low, places)} to {fixed(high, places)}"


def clock(seconds: float) -> str:
    """Minutes and seconds: 1:04, and tenths where there are any: 0:04.5."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    return f"{minutes}:{rest // 10:02d}" + (f".{rest % 10}" if rest % 10 else "")


def span(start: float, end: float) -> str:
    """A part of a video."""
    return f"{clock(start)}–{clock(end)}"


def count(number: int, one: str, several: str | None = None) -> str:
    """3 videos, 1 video."""
    return f"{number} {one if number == 1 else several or one + 's'}"


def listed(words: Iterable[str]) -> str:
    """a, b and c."""
    *most, last = list(words) or [""]
    return f"{', '.join(most)} and {last}" if most else last
