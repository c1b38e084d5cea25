"""The few shapes that the report's charts are made of, as inline SVG."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from blockvid.evaluation.report.markup import Attributes, Html, element

Values = Float[np.ndarray, " n"]
STEPS = (1, 2, 2.5, 5, 10)
"""Distances of ticks, times a power of ten."""


@dataclass(frozen=True)
class Axis:
    """Where values from `low` to `high` stand between the coordinates `start` and `stop`."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, x: float) -> float:
        """The coordinate of a finite value; values outside stand at the ends where the axis is logarithmic."""
        if not self.log:
            return self.start + (x - self.low) / (self.high - self.low) * (self.stop - self.start)
        share = math.log(max(x, self.low) / self.low) / math.log(self.high / self.low)
        return self.start + min(share, 1) * (self.stop - self.start)

    def ticks(self, count: int = 4) -> tuple[float, ...]:
        """About so many round values on it."""
        if self.log:
            exponents = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            every = max(1, math.ceil(len(exponents) / (count + 1)))
            return tuple(10.0**e for e in exponents[::every])
        raw = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(s * power for s in STEPS if s * power >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return tuple(n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1))


def linear(values: Values, start: float, stop: float, pad: float = 0.06) -> Axis:
    """An axis that holds all finite values, with some room."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    room = pad * (high - low) if high > low else 0.5 * abs(low) or 1.0
    return Axis(low - room, high + room, start, stop)


def logarithmic(values: Values, start: float, stop: float, decades: float = 4) -> Axis:
    """An axis of powers of ten that holds the positive values; those `decades` below the largest stand at its end."""
    known = values[np.isfinite(values) & (values > 0)]
    high = float(known.max()) if len(known) else 1.0
    low = max(float(known.min()) if len(known) else 0.1, high / 10**decades)
    bottom, top = math.floor(math.log10(low) * 2) / 2, math.ceil(math.log10(high) * 2 + 1e-9) / 2
    return Axis(10**bottom, 10 ** max(top, bottom + 1), start, stop, log=True)


def number(x: float) -> str:
    """A coordinate, to a tenth."""
    return f"{x:.1f}".removesuffix(".0")


def outline(points: Sequence[tuple[float, float]]) -> str:
    """The `d` of a path through the points; nan interrupts it."""
    parts = []
    pen = "M"
    for x, y in points:
        if math.isnan(x) or math.isnan(y):
            pen = "M"
            continue
        parts.append(f"{pen}{number(x)} {number(y)}")
        pen = "L"
    return "".join(parts)


def curve(xs: Values, ys: Values, horizontal: Axis, vertical: Axis) -> str:
    """The `d` of a path through the values; those that are not finite interrupt it."""
    return outline(
        [(horizontal(x), vertical(y) if math.isfinite(y) else math.nan) for x, y in zip(xs, ys, strict=True)]
    )


def band(xs: Values, low: Values, high: Values, horizontal: Axis, vertical: Axis) -> str:
    """The `d` of the area between two curves, where both are finite."""
    parts = []
    known = np.isfinite(low) & np.isfinite(high)
    for there, run in itertools.groupby(range(len(xs)), key=lambda i: bool(known[i])):
        if there:
            indices = list(run)
            upper = [(horizontal(xs[i]), vertical(high[i])) for i in indices]
            lower = [(horizontal(xs[i]), vertical(low[i])) for i in reversed(indices)]
            parts.append(outline([*upper, *lower]) + "Z")
    return "".join(parts)


def text(x: float, y: float, content: str, css: str = "", anchor: str | None = None) -> Html:
    """Words at a point."""
    return element("text", {"x": number(x), "y": number(y), "class": css or None, "text-anchor": anchor}, content)


def line(start: tuple[float, float], stop: tuple[float, float], css: str) -> Html:
    """A straight line."""
    (x1, y1), (x2, y2) = start, stop
    return element("path", {"d": f"M{number(x1)} {number(y1)}L{number(x2)} {number(y2)}", "class": css})


def dot(x: float, y: float, radius: float, css: str, hint: str | None = None) -> Html:
    """A filled circle."""
    given: Attributes = {"cx": number(x), "cy": number(y), "r": number(radius), "class": css}
    return element("circle", given, *([element("title", None, hint)] if hint else []))


def picture(width: float, height: float, title: str, description: str, content: Sequence[str], css: str = "") -> Html:
    """A drawing with a name and a description for those who do not see it."""
    attributes = {"viewBox": f"0 0 {number(width)} {number(height)}", "role": "img", "class": css or None}
    told = [element("title", None, title)] + ([element("desc", None, description)] if description else [])
    return element("svg", attributes, *told, *content)
