"""Flat painting on panoramas that close on themselves: the brushes that the scenes are made with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

Colour = tuple[int, int, int]
SUPERSAMPLE = 2


@dataclass(frozen=True)
class Layer:
    """A periodic picture at one depth.

    `image` is premultiplied (r g b a light); `light` is what lamps and windows give at night. The picture covers
    `period` units of x and the rows `top`..`bottom`, in frame heights; its last column repeats the first so that it can
    be interpolated across the seam. `parallax` is its speed on the screen relative to the subject's ground (1.0);
    `haze` how much of the air's colour lies before it.
    """

    image: Float[Tensor, "5 h w"]
    period: float
    top: float
    bottom: float
    parallax: float
    haze: float


def shade(colour: Colour, factor: float) -> Colour:
    """The colour, darker (below 1) or lighter (above 1)."""
    return tuple(min(255, max(0, round(value * factor))) for value in colour)  # type: ignore[return-value]


def mix(a: Colour, b: Colour, amount: float) -> Colour:
    return tuple(round(x + (y - x) * amount) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def ridge(rng: np.random.Generator, period: float, waves: Sequence[tuple[float, float]]) -> Callable[[float], float]:
    """A smooth periodic height: waves of (wave length, amplitude) with random phases."""
    terms = [
        (
            max(1, round(period / length)) * math.tau / period,
            amplitude * rng.uniform(0.7, 1.2),
            rng.uniform(0, math.tau),
        )
        for length, amplitude in waves
    ]
    return lambda x: sum(amplitude * math.sin(frequency * x + phase) for frequency, amplitude, phase in terms)


class Panorama:
    """A canvas of `period` units that wraps around; y is in frame heights from the top of the frame, downwards."""

    def __init__(self, period: float, top: float, bottom: float, resolution: float) -> None:
        self.period, self.top, self.bottom = period, top, bottom
        self.columns = max(8, round(period * resolution))
        self.rows = max(4, round((bottom - top) * resolution))
        size = (self.columns * SUPERSAMPLE, self.rows * SUPERSAMPLE)
        self.picture, self.light = Image.new("RGBA", size), Image.new("L", size)
        self.pen, self.light_pen = ImageDraw.Draw(self.picture), ImageDraw.Draw(self.light)

    def _pixels(self, points: Sequence[tuple[float, float]], shift: float) -> list[tuple[float, float]]:
        sx = self.columns * SUPERSAMPLE / self.period
        sy = self.rows * SUPERSAMPLE / (self.bottom - self.top)
        return [((x + shift) * sx, (y - self.top) * sy) for x, y in points]

    def _shifts(self, points: Sequence[tuple[float, float]]) -> list[float]:
        low, high = min(x for x, _ in points), max(x for x, _ in points)
        return [
            k * self.period for k in (-1, 0, 1) if high + k * self.period >= 0 and low + k * self.period <= self.period
        ]

    def polygon(self, points: Sequence[tuple[float, float]], colour: Colour, light: int | None = 0) -> None:
        for shift in self._shifts(points):
            pixels = self._pixels(points, shift)
            self.pen.polygon(pixels, fill=(*colour, 255))
            self.light_pen.polygon(pixels, fill=light)

    def box(self, x: float, y: float, width: float, height: float, colour: Colour, light: int = 0) -> None:
        """A rectangle with its upper left corner at (x, y)."""
        self.polygon([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], colour, light)

    def disc(self, x: float, y: float, rx: float, ry: float, colour: Colour, light: int = 0) -> None:
        points = [(x - rx, y - ry), (x + rx, y + ry)]
        for shift in self._shifts(points):
            (left, upper), (right, lower) = self._pixels(points, shift)
            self.pen.ellipse((left, upper, right, lower), fill=(*colour, 255))
            self.light_pen.ellipse((left, upper, right, lower), fill=light)

    def hills(self, height: Callable[[float], float], colour: Colour, bottom: float | None = None) -> None:
        """Fill from the curve y = height(x) down to `bottom` (the canvas' own if not given)."""
        steps = self.columns
        xs = [self.period * k / steps for k in range(-1, steps + 2)]
        floor = self.bottom + 0.01 if bottom is None else bottom
        self.polygon([*((x, height(x)) for x in xs), (xs[-1], floor), (xs[0], floor)], colour)

    def layer(self, parallax: float, haze: float) -> Layer:
        pixels = np.asarray(self.picture, dtype=np.float32) / 255
        light = np.asarray(self.light, dtype=np.float32)[..., None] / 255
        stacked = np.concatenate([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:], light], axis=-1)
        fine = rearrange(torch.from_numpy(stacked), "h w c -> 1 c h w")
        image = torch.nn.functional.avg_pool2d(fine, SUPERSAMPLE)[0]
        image = torch.cat([image, image[..., :1]], dim=-1)
        return Layer(image.contiguous(), self.period, self.top, self.bottom, parallax, haze)


def round_tree(
    canvas: Panorama, x: float, base: float, height: float, crown: Colour, trunk: Colour = (120, 84, 56)
) -> None:
    r = height * 0.3
    canvas.box(x - height * 0.045, base - height * 0.5, height * 0.09, height * 0.5, trunk)
    for dx, dy, size, tone in (
        (-0.6, 0.0, 0.75, 0.88),
        (0.6, 0.05, 0.75, 0.88),
        (0, -0.5, 0.95, 1.0),
        (-0.2, -0.75, 0.5, 1.1),
    ):
        canvas.disc(x + dx * r, base - height * 0.6 + dy * r, r * size, r * size, shade(crown, tone))


def pine(canvas: Panorama, x: float, base: float, height: float, colour: Colour, snow: Colour | None = None) -> None:
    canvas.box(x - height * 0.035, base - height * 0.2, height * 0.07, height * 0.2, (96, 70, 54))
    for tier in range(3):
        low, half = base - height * (0.13 + 0.25 * tier), height * (0.27 - 0.065 * tier)
        top = low - height * 0.42
        canvas.polygon([(x - half, low), (x + half, low), (x, top)], shade(colour, 0.92 + 0.08 * tier))
        if snow is not None:
            canvas.polygon(
                [(x - half * 0.5, low - height * 0.21), (x + half * 0.5, low - height * 0.21), (x, top)], snow
            )


def palm(canvas: Panorama, x: float, base: float, height: float, lean: float) -> None:
    top = (x + lean * height, base - height)
    w = height * 0.035
    canvas.polygon(
        [(x - w * 1.4, base), (x + w * 1.4, base), (top[0] + w, top[1]), (top[0] - w, top[1])], (158, 112, 70)
    )
    for angle in (-2.9, -2.3, -1.6, -0.8, -0.25, 0.25, 2.85):
        tip = (top[0] + math.cos(angle) * height * 0.42, top[1] + math.sin(angle) * height * 0.22 + height * 0.1)
        middle = (top[0] + math.cos(angle) * height * 0.24, top[1] + math.sin(angle) * height * 0.3 - height * 0.05)
        canvas.polygon([top, (middle[0], middle[1] - w), tip, (middle[0], middle[1] + w * 2.2)], (60, 158, 84))


def cactus(canvas: Panorama, x: float, base: float, height: float) -> None:
    green, w = (76, 150, 90), height * 0.09
    canvas.box(x - w, base - height, 2 * w, height, green)
    canvas.disc(x, base - height, w, w, green)
    for side, low in ((-1, 0.42), (1, 0.55)):
        arm = x + side * w * 3
        canvas.box(min(x, arm), base - height * low, abs(arm - x), w * 1.4, green)
        canvas.box(arm - w * 0.7, base - height * (low + 0.25), w * 1.4, height * 0.25 + w * 1.4, green)
        canvas.disc(arm, base - height * (low + 0.25), w * 0.7, w * 0.7, green)


def house(canvas: Panorama, x: float, base: float, width: float, wall: Colour, roof: Colour) -> None:
    height = width * 0.62
    canvas.box(x, base - height, width, height, wall)
    peak = base - height - width * 0.5
    canvas.polygon([(x - width * 0.1, base - height), (x + width * 1.1, base - height), (x + width * 0.5, peak)], roof)
    canvas.box(x + width * 0.72, peak + width * 0.08, width * 0.12, width * 0.25, shade(roof, 0.7))
    for k in (0.14, 0.64):
        canvas.box(x + width * k, base - height * 0.78, width * 0.22, height * 0.34, (150, 190, 215), 255)
    canvas.box(x + width * 0.42, base - height * 0.55, width * 0.17, height * 0.55, shade(roof, 0.55))


def tower(
    canvas: Panorama, x: float, base: float, width: float, height: float, wall: Colour, rng: np.random.Generator
) -> None:
    """A city building: rows of windows, some of them lit at night."""
    canvas.box(x, base - height, width, height, wall)
    canvas.box(x - width * 0.03, base - height - 0.012, width * 1.06, 0.016, shade(wall, 0.75))
    columns, rows = max(2, round(width / 0.075)), max(2, round(height / 0.095))
    for i in range(columns):
        for j in range(rows):
            lit = 255 if rng.random() < 0.6 else 0
            left, top = x + width * (i + 0.25) / columns, base - height + height * (j + 0.25) / rows
            canvas.box(left, top, width * 0.5 / columns, height * 0.5 / rows, mix(wall, (70, 105, 140), 0.7), lit)


def lamp(canvas: Panorama, x: float, base: float, height: float) -> None:
    canvas.box(x - 0.006, base - height, 0.012, height, (60, 64, 74))
    canvas.disc(x, base - height, height * 0.07, height * 0.07, (250, 236, 190), 255)
