"""The twelve scenes of the storybook world, and which pairs of subject and scene are held out from training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from blockvid.errors import InputError
from blockvid.storybook import landscapes
from blockvid.storybook.landscapes import Site, Strokes, ground_parallax
from blockvid.storybook.paint import Colour, Layer
from blockvid.storybook.subjects import SUBJECTS, Medium

__all__ = ["HELD_OUT", "SCENES", "Landscape", "Scene", "ground_parallax", "paint", "scene_named"]


@dataclass(frozen=True)
class Landscape:
    """What a seed made of a scene; layers from back to front.

    `water` is the last row of open water under the horizon, or None; what lies below it is the `ground` picture.
    """

    scene: str
    horizon: float
    sky: tuple[Colour, Colour]
    back: tuple[Layer, ...]
    ground: Layer
    props: tuple[Layer, ...]
    front: Layer
    clouds: Layer
    stars: Layer
    water: tuple[Colour, Colour] | None
    shore: float
    space: bool


@dataclass(frozen=True)
class Scene:
    """A kind of landscape: where its horizon lies, the sky of its day, who can be there and which weather it has."""

    key: str
    noun: str
    synonyms: tuple[str, ...]
    preposition: str
    horizon: float
    sky: tuple[Colour, Colour]
    media: frozenset[Medium]
    weather: tuple[str, ...]
    paint: Callable[[Site], Strokes]
    water: tuple[Colour, Colour] | None = None
    shore: float = 1.0


_LAND: frozenset[Medium] = frozenset({"ground", "air"})
_ALL: frozenset[Medium] = frozenset({"ground", "air", "water"})
_BLUE: tuple[Colour, Colour] = ((88, 172, 240), (206, 236, 252))
_ANY = ("clear", "rain", "snow", "fog")

SCENES: dict[str, Scene] = {
    scene.key: scene
    for scene in (
        Scene(
            "meadow",
            "meadow",
            ("green meadow", "flowery meadow", "grassy field"),
            "in",
            0.6,
            _BLUE,
            _LAND,
            _ANY,
            landscapes.meadow,
        ),
        Scene(
            "lake",
            "mountain lake",
            ("lake", "calm lake"),
            "at",
            0.5,
            ((98, 170, 232), (214, 234, 248)),
            _ALL,
            _ANY,
            landscapes.lake,
            ((70, 140, 178), (46, 104, 150)),
            0.73,
        ),
        Scene(
            "beach",
            "beach",
            ("sandy beach", "tropical beach"),
            "on",
            0.46,
            ((70, 180, 240), (200, 242, 252)),
            _ALL,
            ("clear", "rain", "fog"),
            landscapes.beach,
            ((70, 206, 206), (24, 150, 184)),
            0.7,
        ),
        Scene(
            "desert",
            "desert",
            ("sandy desert", "desert with cacti"),
            "in",
            0.58,
            ((110, 190, 236), (254, 238, 204)),
            _LAND,
            ("clear", "fog"),
            landscapes.desert,
        ),
        Scene(
            "snowy_mountains",
            "snowy mountains",
            ("snow-covered mountains", "snowy mountain landscape"),
            "in",
            0.62,
            ((104, 164, 228), (224, 236, 248)),
            _LAND,
            ("clear", "snow", "fog"),
            landscapes.snow,
        ),
        Scene(
            "pine_forest",
            "pine forest",
            ("forest", "dark pine forest"),
            "in",
            0.62,
            ((120, 186, 222), (214, 236, 226)),
            _LAND,
            _ANY,
            landscapes.forest,
        ),
        Scene(
            "city_street",
            "city street",
            ("street in the city", "busy city street"),
            "on",
            0.6,
            ((108, 176, 234), (222, 234, 246)),
            _LAND,
            _ANY,
            landscapes.city,
        ),
        Scene(
            "harbour",
            "harbour",
            ("harbor", "seaside harbour"),
            "at",
            0.5,
            ((90, 170, 236), (220, 238, 248)),
            _ALL,
            _ANY,
            landscapes.harbour,
            ((58, 128, 176), (32, 88, 140)),
            0.73,
        ),
        Scene(
            "autumn_park",
            "autumn park",
            ("park in autumn", "park with autumn leaves"),
            "in",
            0.6,
            ((126, 182, 226), (246, 232, 208)),
            _LAND,
            ("clear", "rain", "fog"),
            landscapes.autumn,
        ),
        Scene(
            "village",
            "village",
            ("little village", "country village"),
            "in",
            0.58,
            ((100, 178, 240), (216, 238, 250)),
            _LAND,
            _ANY,
            landscapes.village,
        ),
        Scene(
            "canyon",
            "red canyon",
            ("canyon", "rocky red canyon"),
            "in",
            0.6,
            ((78, 160, 228), (244, 222, 196)),
            _LAND,
            ("clear", "rain", "fog"),
            landscapes.canyon,
        ),
        Scene(
            "moon",
            "moon",
            ("surface of the moon", "grey moon"),
            "on",
            0.62,
            ((10, 12, 30), (36, 38, 66)),
            _LAND,
            ("clear",),
            landscapes.moon,
        ),
    )
}


def scene_named(key: str) -> Scene:
    """The scene with this key; InputError if there is none."""
    if key not in SCENES:
        raise InputError(f"scene {key!r} is not painted; use one of {', '.join(SCENES)}")
    return SCENES[key]


def _held_out() -> frozenset[tuple[str, str]]:
    pairs = [(s.key, c.key) for s in SUBJECTS for c in SCENES.values() if s.medium in c.media]
    chosen = [p for p in pairs if int.from_bytes(hashlib.sha256("|".join(p).encode()).digest()[:4]) % 100 < 8]
    # a subject of three scenes only must keep two of them for training
    kept: dict[str, int] = {s.key: sum(p[0] == s.key for p in pairs) - 2 for s in SUBJECTS}
    result = []
    for pair in chosen:
        kept[pair[0]] -= 1
        if kept[pair[0]] >= 0:
            result.append(pair)
    return frozenset(result)


HELD_OUT: frozenset[tuple[str, str]] = _held_out()


def _clouds(site: Site) -> Layer:
    canvas = site.canvas(7.0, 0.0, 0.46)
    for x in site.scatter(7.0, 0.7):
        y, s = site.rng.uniform(0.07, 0.34), site.rng.uniform(0.7, 1.3)
        for dx, dy, r in ((-0.12, 0.01, 0.045), (-0.04, -0.02, 0.06), (0.05, -0.01, 0.055), (0.13, 0.012, 0.04)):
            canvas.disc(x + dx * s, y + dy * s, r * 1.25 * s, r * 0.75 * s, (255, 255, 255))
        canvas.disc(x, y + 0.03 * s, 0.18 * s, 0.02 * s, (238, 243, 250))
    return canvas.layer(0.04, 0.0)


def _stars(site: Site) -> Layer:
    canvas = site.canvas(4.0, 0.0, 0.6)
    for x in site.scatter(4.0, 0.035):
        r = float(site.rng.uniform(0.003, 0.0075))
        canvas.disc(x, float(site.rng.uniform(0.0, 0.6) ** 1.2), r, r, (255, 250, 230))
    return canvas.layer(0.01, 0.0)


def paint(key: str, seed: int, medium: Medium, resolution: float) -> Landscape:
    """The landscape of a scene and a seed, at `resolution` texels per frame height, laid out for a subject's medium."""
    scene = scene_named(key)
    rng = np.random.default_rng([seed, list(SCENES).index(key)])
    shore = scene.shore if medium == "ground" or scene.water is None else (0.9 if key == "beach" else 0.95)
    site = Site(rng, resolution, scene.horizon, shore)
    strokes = scene.paint(site)
    sky = (site.tint(scene.sky[0], 0.03), site.tint(scene.sky[1], 0.02))
    return Landscape(
        key,
        scene.horizon,
        sky,
        strokes.back,
        strokes.ground,
        strokes.props,
        strokes.front,
        _clouds(site),
        _stars(site),
        scene.water,
        shore,
        key == "moon",
    )
