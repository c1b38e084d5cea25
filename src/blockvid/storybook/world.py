"""The renderer: a take becomes frames, at any size and frame rate, any part of it on its own."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from blockvid.errors import InputError
from blockvid.storybook.paint import Layer, Panorama
from blockvid.storybook.scenes import HELD_OUT, Landscape, ground_parallax, paint
from blockvid.storybook.subjects import CACHE, load_sprite, subject_named
from blockvid.storybook.takes import Clock, Motion, Segment, Take, Weather, make_take, motion, sample_take

__all__ = ["HELD_OUT", "Clip", "Clock", "Segment", "Take", "Weather", "make_take", "render", "sample_take"]

FOCUS = 0.7  # the row that zooming leaves where it is
BATCH = 16
LAMPLIGHT = (1.0, 0.82, 0.45)
# hour: sky top, sky at the horizon (None: the scene's own day), tint of what is lit, how dark (stars, lamps)
HOURS = (0.0, 4.4, 5.8, 6.7, 8.6, 16.0, 17.9, 19.0, 20.9, 24.0)
NAMES = ("night", "night", "dawn", "dawn", "day", "day", "dusk", "dusk", "night", "night")
LIGHT = {
    "night": ((12, 18, 54), (46, 62, 116), (0.40, 0.48, 0.76), 1.0),
    "dawn": ((122, 144, 210), (255, 198, 178), (0.94, 0.82, 0.88), 0.12),
    "day": (None, None, (1.0, 1.0, 1.0), 0.0),
    "dusk": ((88, 70, 150), (255, 142, 84), (0.96, 0.68, 0.58), 0.3),
}
OVERCAST = {"clear": (0, 0, 0), "rain": (140, 152, 170), "snow": (206, 214, 226), "fog": (214, 218, 222)}


@dataclass(frozen=True)
class Clip:
    """Rendered frames, the subject's mask (0 or 1), and the truth per frame.

    `camera`: world x of the frame's centre and zoom; `subject`: world x, its offset from the frame's centre in frame
    heights (beyond about 1.1 it is out of sight), and its nearness.
    """

    frames: UInt8[Tensor, "t h w 3"]
    mask: UInt8[Tensor, "t h w"]
    camera: Float[Tensor, "t 2"]
    subject: Float[Tensor, "t 3"]


def render(
    take: Take,
    width: int = 160,
    height: int = 96,
    fps: float = 8.0,
    start: int = 0,
    stop: int | None = None,
    device: torch.device | str = "cpu",
    cache_dir: Path = CACHE,
) -> Clip:
    """Frames `start`..`stop` of a take; frame i shows the instant i / fps (stop: the end of the take)."""
    last = round(take.seconds * fps) if stop is None else stop
    if last <= start or start < 0:
        raise InputError(f"frames {start}..{last} are none; stop must lie after start, and start at 0 or later")
    seconds = np.arange(start, last) / fps
    stage = _stage(take.scene, take.seed, take.subject, height, str(device), cache_dir)
    parts = [_Shot(take, stage, seconds[i : i + BATCH], width, height).draw() for i in range(0, len(seconds), BATCH)]
    state = motion(take, seconds)
    offset = _offset(state, stage)
    return Clip(
        torch.cat([frames for frames, _ in parts]),
        torch.cat([mask for _, mask in parts]),
        torch.from_numpy(np.stack([state.camera, state.zoom], -1)).float(),
        torch.from_numpy(np.stack([state.x, offset, state.scale], -1)).float(),
    )


@dataclass(frozen=True)
class _Stage:
    """Everything a take's frames share: landscape and sprite on the device, the sprite's size, weather's tiles."""

    land: Landscape
    sprite: Float[Tensor, "4 h w"]
    draught: float  # share of the sprite's height that is under water
    size: tuple[float, float]  # height and width of the subject in frame heights at nearness 1
    rain: Layer
    snow: Layer


@lru_cache(maxsize=8)
def _stage(scene: str, seed: int, subject: str, height: int, device: str, cache_dir: Path) -> _Stage:
    member = subject_named(subject)
    land = paint(scene, seed, member.medium, 1.15 * height)
    picture = load_sprite(subject, cache_dir)
    aspect = picture.shape[2] / picture.shape[1]
    tall = min(0.62, 0.52 * member.size * aspect**-0.45)
    size = (tall, tall * aspect)
    # fine enough for the usual nearness; at most twice too fine when far away, which bilinear lookup still averages
    rows = max(8, round(tall * height * 1.2))
    small = functional.interpolate(
        picture[None], (rows, max(8, round(rows * aspect))), mode="bilinear", antialias=True
    )[0].clamp(0, 1)
    if member.faces == "right":
        small = small.flip(-1)
    land = replace(
        land,
        back=tuple(_to(layer, device) for layer in land.back),
        ground=_to(land.ground, device),
        props=tuple(_to(layer, device) for layer in land.props),
        front=_to(land.front, device),
        clouds=_to(land.clouds, device),
        stars=_to(land.stars, device),
    )
    draught = _draught(picture) if member.motion == "sail" else 0.09
    sprite = functional.pad(small, (1, 1, 1, 1)).to(device)
    rain, snow = _tiles(1.15 * height)
    return _Stage(land, sprite, draught, size, _to(rain, device), _to(snow, device))


def _draught(picture: Float[Tensor, "4 h w"]) -> float:
    """The share of a boat's picture, from below, that shows the water drawn with it (mostly blue rows)."""
    red, _, blue, alpha = picture
    wet = ((blue > red + 0.2) & (alpha > 0.5)).sum(-1) > 0.6 * (alpha > 0.5).sum(-1)
    dry = torch.nonzero(~wet)
    return min(0.45, 1 - float(dry.max() + 1) / picture.shape[1]) + 0.03


def _to(layer: Layer, device: str) -> Layer:
    return replace(layer, image=layer.image.to(device))


def _tiles(resolution: float) -> tuple[Layer, Layer]:
    """Rain and snow as tiles of 2 x 1 that repeat in both directions."""
    rng = np.random.default_rng(5)
    rain, snow = Panorama(2.0, 0.0, 1.0, resolution), Panorama(2.0, 0.0, 1.0, resolution)
    for _ in range(110):
        x, y, long = rng.uniform(0, 2), rng.uniform(0, 1), rng.uniform(0.05, 0.1)
        for dy in (-1, 0, 1):
            rain.polygon(
                [(x, y + dy), (x + 0.007, y + dy), (x - 0.018, y + dy + long), (x - 0.023, y + dy + long)],
                (228, 236, 248),
            )
    for _ in range(90):
        x, y, r = rng.uniform(0, 2), rng.uniform(0, 1), rng.uniform(0.005, 0.012)
        for dy in (-1, 0, 1):
            snow.disc(x, y + dy, r, r, (255, 255, 255))
    tiles = (rain.layer(1.2, 0.0), snow.layer(1.2, 0.0))
    return tuple(  # type: ignore[return-value]
        Layer(torch.cat([t.image, t.image[:, :1]], 1), t.period, 0.0, 1.0, t.parallax, 0.0) for t in tiles
    )


def _nearness_row(scale: np.ndarray | float, horizon: float) -> np.ndarray | float:
    return horizon + (0.86 - horizon) * scale


def _offset(state: Motion, stage: _Stage) -> np.ndarray:
    """Where the subject is on screen, in frame heights right of the centre."""
    parallax = ground_parallax(_nearness_row(state.scale, stage.land.horizon), stage.land.horizon)  # type: ignore[arg-type]
    return (state.x - state.camera) * parallax * state.zoom


def _palette(take: Take, land: Landscape, seconds: np.ndarray) -> dict[str, np.ndarray]:
    """Colours in [0, 1] per frame: sky top and bottom, tint, and the numbers dark (lamps, stars), dim (weather)."""
    rows = {"top": [], "bottom": [], "tint": [], "dark": [], "weather": []}
    for second in seconds:
        hour = take.hour(float(second))
        k = max(i for i, edge in enumerate(HOURS[:-1]) if hour >= edge)
        w = (hour - HOURS[k]) / (HOURS[k + 1] - HOURS[k])
        w = w * w * (3 - 2 * w)
        for field, name in enumerate(("top", "bottom", "tint", "dark")):
            a, b = (np.asarray(_light(NAMES[j], field, land), dtype=np.float64) for j in (k, k + 1))
            rows[name].append(a + (b - a) * w)
        rows["weather"].append(take.weather.level(float(second)))
    out = {name: np.asarray(values) for name, values in rows.items()}
    level = out["weather"][:, None]
    lit = out["tint"].mean(-1, keepdims=True)
    grey = np.asarray(OVERCAST[take.weather.kind]) / 255 * (0.35 + 0.65 * lit) * out["tint"] ** 0.5
    for name, amount in (("top", 0.75), ("bottom", 0.65)):
        out[name] = out[name] + (grey - out[name]) * amount * level
    out["fog"] = grey
    out["tint"] = out["tint"] * (1 - level * {"rain": 0.2, "snow": 0.06, "fog": 0.05, "clear": 0.0}[take.weather.kind])
    return out


def _light(name: str, field: int, land: Landscape):
    value = LIGHT[name][field]
    if field > 1:
        return value
    own = np.asarray(land.sky[field]) / 255
    if value is None:
        return own
    shown = np.asarray(value) / 255
    return (
        own + (shown - own) * (0.05, 0.5)[field] if land.space and name != "night" else (own if land.space else shown)
    )


class _Shot:
    """A few frames of a take on their way through the painter's algorithm, back to front."""

    def __init__(self, take: Take, stage: _Stage, seconds: np.ndarray, width: int, height: int) -> None:
        self.take, self.stage, self.land = take, stage, stage.land
        self.device = stage.sprite.device
        self.frames, self.width, self.height = len(seconds), width, height
        self.state = motion(take, seconds)
        self.seconds = self._column(seconds)
        self.zoom, self.camera = self._column(self.state.zoom), self._column(self.state.camera)
        light = _palette(take, stage.land, seconds)
        self.light = {k: self._column(v) if v.ndim == 1 else self._colour(v) for k, v in light.items()}
        rows = (torch.arange(height, device=self.device) + 0.5) / height
        columns = ((torch.arange(width, device=self.device) + 0.5) / width - 0.5) * width / height
        self.v = FOCUS + (rows[None, :] - FOCUS) / self.zoom[:, :, 0]  # (t, h): rows before zooming
        self.u = columns[None, :] / self.zoom[:, :, 0]  # (t, w)
        self.canvas = torch.zeros(self.frames, 3, height, width, device=self.device)

    def _column(self, values: np.ndarray) -> Float[Tensor, "t 1 1"]:
        return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(self.device)[:, None, None]

    def _colour(self, values: np.ndarray) -> Float[Tensor, "t 3 1 1"]:
        return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(self.device)[:, :, None, None]

    def draw(self) -> tuple[UInt8[Tensor, "t h w 3"], UInt8[Tensor, "t h w"]]:
        land = self.land
        self._sky()
        for layer in land.back:
            self._paste(layer)
        if land.water is not None:
            self._water()
        self._paste(land.ground, floor=True)
        for layer in land.props:
            self._paste(layer)
        mask = self._subject()
        self._paste(land.front)
        self._weather()
        frames = (self.canvas.clamp(0, 1) * 255 + 0.5).to(torch.uint8)
        return rearrange(frames, "t c h w -> t h w c").contiguous().cpu(), mask.to(torch.uint8).cpu()

    def _rows(self, top: float, bottom: float) -> slice:
        """The rows of the frame that any of the frames' views of top..bottom reaches."""
        zooms = self.state.zoom
        edges = [FOCUS + (edge - FOCUS) * z for edge in (top, bottom) for z in (zooms.min(), zooms.max())]
        first, last = math.floor(min(edges) * self.height) - 1, math.ceil(max(edges) * self.height) + 1
        return slice(min(self.height, max(0, first)), max(0, min(self.height, last)))

    def _sample(
        self, layer: Layer, x: Float[Tensor, "t h w"], rows: slice, v: Float[Tensor, "t h w"] | None = None
    ) -> Tensor:
        """The layer's colours at world x (already divided by depth) and the frame's rows, wrapping around in x."""
        _, texels_high, texels_wide = layer.image.shape
        gx = torch.remainder(x, layer.period) * ((texels_wide - 1) / layer.period)
        y = self.v[:, rows, None] if v is None else v
        gy = (y - layer.top) * (texels_high / (layer.bottom - layer.top)) - 0.5
        gx = gx * (2 / (texels_wide - 1)) - 1
        gy = (gy * (2 / (texels_high - 1)) - 1).expand_as(gx)
        image = layer.image[None].expand(self.frames, -1, -1, -1)
        return functional.grid_sample(image, torch.stack([gx, gy], -1), padding_mode="zeros", align_corners=True)

    def _across(self, layer: Layer, rows: slice, floor: bool, shift: Tensor | float = 0.0) -> Float[Tensor, "t h w"]:
        if floor:
            # the texture has the floor's perspective in y already; in x the rows move at the speed of their depth
            depth = ground_parallax(self.v[:, rows, None], self.land.horizon).clamp_min(0.2)  # type: ignore[union-attr]
            return self.camera + self.u[:, None, :] / depth
        x = self.camera * layer.parallax + self.u[:, None, :] + shift
        return x.expand(-1, rows.stop - rows.start, -1)

    def _paste(self, layer: Layer, floor: bool = False) -> None:
        rows = self._rows(layer.top, layer.bottom)
        if rows.stop <= rows.start:
            return
        texels = self._sample(layer, self._across(layer, rows, floor), rows)
        colour, alpha, lamps = texels[:, :3], texels[:, 3:4], texels[:, 4:5]
        haze = self._haze(layer)
        shaded = colour * (self.light["tint"] * (1 - haze)) + alpha * (self.light["bottom"] * haze)
        glow = lamps * (self.light["dark"][:, None] * torch.tensor(LAMPLIGHT, device=self.device)[:, None, None])
        self._over(rows, torch.maximum(shaded, glow), alpha)

    def _haze(self, layer: Layer) -> Float[Tensor, "t 1 1 1"]:
        fog = {"fog": 0.8, "rain": 0.3, "snow": 0.35, "clear": 0.0}[self.take.weather.kind]
        thick = fog * max(0.0, 1 - layer.parallax) * self.light["weather"][:, None]
        return 1 - (1 - layer.haze) * (1 - thick)

    def _over(self, rows: slice, premultiplied: Tensor, alpha: Tensor) -> None:
        part = self.canvas[:, :, rows]
        part.mul_(1 - alpha).add_(premultiplied)

    def _sky(self) -> None:
        land = self.land
        rows = self._rows(-2.0, land.horizon + 0.05)
        w = (self.v[:, None, :, None][:, :, rows] / land.horizon).clamp(0, 1)
        self.canvas[:, :, rows] = self.light["top"] + (self.light["bottom"] - self.light["top"]) * (
            w * w * (3 - 2 * w) * 0.4 + w * 0.6
        )
        clear = 1 - self.light["weather"][:, None]
        dark = torch.ones_like(clear) if land.space else ((self.light["dark"] - 0.2) / 0.8).clamp(0, 1)[:, None]
        if float((dark * clear).max()) > 0:
            stars = self._sample(land.stars, self._across(land.stars, rows, False), rows)
            self.canvas[:, :, rows] += stars[:, :3] * dark * clear
        if land.space:
            return
        self._disc(rows, clear)
        clouds = self._sample(land.clouds, self._across(land.clouds, rows, False, 0.012 * self.seconds), rows)
        lit = 0.55 * self.light["tint"] + 0.45 * self.light["bottom"]
        veil = (0.8 - 0.45 * self.light["dark"][:, None]) * (1 - 0.5 * self.light["weather"][:, None])
        self._over(rows, clouds[:, :3] * lit * veil, clouds[:, 3:4] * veil)

    def _disc(self, rows: slice, clear: Tensor) -> None:
        """The sun by day and the moon by night, crossing the sky from left to right."""
        hours = np.array([self.take.hour(float(s)) for s in self.seconds.flatten()])
        sun = (hours > 4.9) & (hours < 19.9)
        share = np.where(sun, (hours - 4.9) / 15.0, ((hours - 19.9) % 24) / 9.0)
        x, y = (
            self._column(-0.62 + 1.24 * share),
            self._column(self.land.horizon - 0.01 - (self.land.horizon - 0.11) * np.sin(math.pi * share)),
        )
        away = torch.sqrt((self.u[:, None, :] - x) ** 2 + (self.v[:, rows, None] - y) ** 2)
        edge = ((0.06 - away) * self.height + 0.5).clamp(0, 1)[:, None]
        glow = torch.exp(-(away**2) / 0.035)[:, None]
        day = self._column(sun.astype(np.float32))[:, None]
        warm = torch.tensor([1.0, 0.93, 0.66], device=self.device)[:, None, None]
        pale = torch.tensor([0.94, 0.95, 0.88], device=self.device)[:, None, None]
        colour = (warm * day + pale * (1 - day)) * clear
        part = self.canvas[:, :, rows]
        part.add_(colour * glow * (0.3 * day + 0.14 * (1 - day)))
        part.mul_(1 - edge * clear).add_(colour * edge)

    def _water(self) -> None:
        land = self.land
        assert land.water is not None
        rows = self._rows(land.horizon, land.shore + 0.03)
        v = self.v[:, rows, None]
        depth = (v - land.horizon).clamp_min(0)
        x = self._across(land.ground, rows, True)
        wave = torch.sin(x * 7 + v * 90 - 1.3 * self.seconds) + torch.sin(x * 11 - v * 130 + 1.9 * self.seconds)
        mirror = land.horizon - 0.8 * depth + (0.002 + 0.018 * depth) * wave
        sv = FOCUS + (mirror - FOCUS) * self.zoom
        across = self.u[:, None, :] * self.zoom * (2 * self.height / self.width) + (0.004 + 0.03 * depth) * wave
        above = functional.grid_sample(
            self.canvas, torch.stack([across, 2 * sv - 1], -1), padding_mode="border", align_corners=False
        )
        near, far = (torch.tensor(c, device=self.device)[:, None, None] / 255 for c in (land.water[1], land.water[0]))
        body = (far + (near - far) * (depth / 0.4).clamp(0, 1)[:, None]) * self.light["tint"]
        share = (0.62 - 0.9 * depth).clamp(0.22, 1)[:, None]
        sparkle = (wave - 1.35).clamp_min(0)[:, None] * 0.5 * self.light["bottom"]
        edge = ((v - land.horizon) * self.height + 0.5).clamp(0, 1)[:, None]
        self._over(rows, (body * (1 - share) + above * share + sparkle) * edge, edge)

    def _subject(self) -> Float[Tensor, "t h w"]:
        """Shadow or reflection, then the subject; returns where it is seen."""
        member = subject_named(self.take.subject)
        row = self._column(_nearness_row(self.state.scale, self.land.horizon))  # type: ignore[arg-type]
        size = self._column(self.state.scale)
        across = self.u[:, None, :] - self._column(_offset(self.state, self.stage)) / self.zoom
        tall, wide = (side * size for side in self.stage.size)
        sunk = self.stage.draught if member.medium == "water" else 0.0
        lift = self._column(self.state.lift) * size + {"air": 0.12, "water": 0.0, "ground": 0.0}[member.medium] * size
        base = row - lift + sunk * tall
        tint = 1 + (self.light["tint"] - 1) * 0.6
        if member.medium == "water":
            below = self.v[:, :, None] - row
            x = across + (0.004 + 0.05 * below.clamp_min(0)) * torch.sin(90 * below - 2.2 * self.seconds)
            image = self._sprite(x, row - below * 1.1 - base, tall, wide) * (below > 0)[:, None] * 0.45
            self._over(slice(None), image[:, :3] * tint, image[:, 3:])
        else:
            close = (1 - 2.2 * lift).clamp(0.35, 1)
            spot = (
                1 - (across / (0.46 * wide * close)) ** 2 - ((self.v[:, :, None] - row) / (0.075 * tall * close)) ** 2
            )
            self.canvas.mul_(1 - 0.34 * spot.clamp(0, 1).sqrt()[:, None])
        image = self._sprite(across, self.v[:, :, None] - base, tall, wide)
        if member.medium == "water":
            image = image * ((row - self.v[:, :, None]) * self.height + 0.5).clamp(0, 1)[:, None]
        self._over(slice(None), image[:, :3] * tint, image[:, 3:])
        return image[:, 3] > 0.5

    def _sprite(self, x: Tensor, y: Tensor, tall: Tensor, wide: Tensor) -> Float[Tensor, "t 4 h w"]:
        """The sprite around its foot (0, 0), y downwards: turned about its middle if it rolls, else its foot."""
        squash = self._column(self.state.squash)
        facing = self._column(-self.state.facing)
        facing = torch.where(facing < 0, -1.0, 1.0) * facing.abs().clamp_min(0.1)
        tilt = self._column(self.state.tilt)
        cos, sin = torch.cos(tilt), torch.sin(tilt)
        pivot = -0.5 * tall if subject_named(self.take.subject).motion == "roll" else torch.zeros_like(tall)
        y = y - pivot
        x, y = x * cos + y * sin, y * cos - x * sin + pivot
        _, rows, columns = self.stage.sprite.shape
        gx = 2 * x * squash.sqrt() / (wide * facing) * ((columns - 2) / columns)
        gy = 1 + 2 * y / (tall * squash) * ((rows - 2) / rows) - 2 / rows
        image = self.stage.sprite[None].expand(self.frames, -1, -1, -1)
        return functional.grid_sample(image, torch.stack([gx, gy], -1), padding_mode="zeros", align_corners=False)

    def _weather(self) -> None:
        kind, level = self.take.weather.kind, self.light["weather"][:, None]
        if kind == "clear":
            return
        rows = slice(0, self.height)
        if kind == "fog":
            band = torch.exp(-(((self.v - self.land.horizon) / 0.16) ** 2))[:, None, :, None]
            amount = level * (0.14 + 0.3 * band)
            self._over(rows, self.light["fog"] * amount, amount)
            return
        tile, speed, strength = (self.stage.rain, 1.7, 0.32) if kind == "rain" else (self.stage.snow, 0.2, 0.9)
        for scale, drift in ((1.0, 0.0), (0.62, 0.7)):
            sway = 0.05 * torch.sin(0.9 * self.seconds + 5 * drift) if kind == "snow" else 0.25 * self.seconds
            x = (self.u[:, None, :] + self.camera * tile.parallax * scale) / scale + drift + sway
            y = torch.remainder((self.v[:, :, None] - speed * scale * self.seconds) / scale + drift, 1.0)
            y = y * (tile.image.shape[1] - 1) / tile.image.shape[1] + 0.5 / tile.image.shape[1]
            x = x.expand(-1, self.height, -1)
            texels = self._sample(tile, x, rows, y.expand_as(x))
            amount = texels[:, 3:4] * strength * level
            self._over(rows, amount * (0.35 + 0.65 * self.light["tint"]), amount)
