"""The painters of the twelve landscapes: each turns random numbers into layers, back to front."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from blockvid.storybook.paint import (
    Colour,
    Layer,
    Panorama,
    cactus,
    house,
    lamp,
    mix,
    palm,
    pine,
    ridge,
    round_tree,
    shade,
    tower,
)

SUBJECT_ROW = 0.86


@dataclass(frozen=True)
class Site:
    """What a painter works with: its random numbers, texels per frame height, the horizon's row, the shore's row."""

    rng: np.random.Generator
    resolution: float
    horizon: float
    shore: float

    def canvas(self, period: float, top: float, bottom: float, detail: float = 1.0) -> Panorama:
        return Panorama(period, top, bottom, self.resolution * detail)

    def depth(self, row: float) -> float:
        return ground_parallax(row, self.horizon)

    def scatter(self, period: float, spacing: float) -> list[float]:
        """Positions about `spacing` apart, irregular."""
        count = max(1, round(period / spacing))
        return [float((k + self.rng.uniform(0.1, 0.9)) * period / count) for k in range(count)]

    def tint(self, colour: Colour, spread: float = 0.06) -> Colour:
        return tuple(min(255, round(c * self.rng.uniform(1 - spread, 1 + spread))) for c in colour)  # type: ignore[return-value]


@dataclass(frozen=True)
class Strokes:
    """The pictures a painter returns."""

    back: tuple[Layer, ...]
    ground: Layer
    props: tuple[Layer, ...]
    front: Layer


def ground_parallax(row: float, horizon: float) -> float:
    """Speed and scale of the ground at a row: 0.5 at the horizon, 1 at the subject's usual row."""
    return 0.5 + 0.5 * (row - horizon) / (SUBJECT_ROW - horizon)


def _hills(
    site: Site, colour: Colour, level: float, swing: float, parallax: float, haze: float, period: float
) -> Layer:
    canvas = site.canvas(period, level - 2.2 * swing - 0.02, site.horizon + 0.03)
    curve = ridge(site.rng, period, ((period / 3, swing), (period / 8, swing * 0.4)))
    canvas.hills(lambda x: level + curve(x), site.tint(colour))
    return canvas.layer(parallax, haze)


def _peaks(
    site: Site, rock: Colour, cap: Colour | None, heights: tuple[float, float], parallax: float, haze: float
) -> Layer:
    period = 6.0
    base = site.horizon + 0.03
    canvas = site.canvas(period, site.horizon - heights[1] - 0.03, base)
    for x in sorted(site.scatter(period, 0.55), key=lambda _: site.rng.random()):
        h = site.rng.uniform(*heights)
        half, top = h * site.rng.uniform(0.9, 1.25), site.horizon - h
        lean = site.rng.uniform(-0.1, 0.1) * half
        peak = (x + lean, top)
        canvas.polygon([(x - half, base), peak, (x + half, base)], rock)
        canvas.polygon([peak, (x + half, base), (x + lean + half * 0.15, base)], shade(rock, 0.86))
        if cap is not None:
            y = top + h * 0.42
            w = half * 0.42
            zigzag = [(x + lean + w * k, y + h * 0.09 * (-1) ** j) for j, k in enumerate((-0.9, -0.45, 0, 0.45, 0.9))]
            canvas.polygon([peak, *zigzag], cap)
            canvas.polygon([peak, (x + lean + w * 0.1, y - h * 0.02), (x + lean + w * 0.9, y)], shade(cap, 0.9))
    return canvas.layer(parallax, haze)


def _ground(
    site: Site, base: Colour, marks: tuple[Colour, ...], spacing: float, size: float, top: float | None = None
) -> Panorama:
    """The floor in perspective: bands that darken towards the viewer, and marks that grow towards the viewer."""
    period, start = 12.0, site.horizon if top is None else top
    canvas = site.canvas(period, start - 0.01, 1.2, 0.75)
    canvas.box(0, start, period, 1.3 - start, mix(base, (255, 255, 255), 0.1))
    for k in range(1, 5):
        row = start + (1.1 - start) * (k / 5) ** 1.3
        curve = ridge(site.rng, period, ((3.0, 0.008), (1.3, 0.005)))
        canvas.hills(
            lambda x, row=row, curve=curve: row + curve(x), shade(mix(base, (255, 255, 255), 0.1), 1 - 0.045 * k), 1.3
        )
    for x in site.scatter(period, spacing) if marks else ():
        row = float(start + 0.03 + (1.16 - start) * site.rng.random())
        s = size * (row - site.horizon + 0.1) * site.rng.uniform(0.7, 1.3)
        colour = marks[int(site.rng.integers(len(marks)))]
        canvas.disc(x, row, s, s * 0.38, colour)
    return canvas


def _front(site: Site, draw: Callable[[Panorama, float], None], spacing: float) -> Layer:
    period = 9.0
    canvas = site.canvas(period, 0.82, 1.2)
    for x in site.scatter(period, spacing):
        draw(canvas, x)
    return canvas.layer(1.4, 0.0)


def _grass(colour: Colour, height: float, blossoms: tuple[Colour, ...] = ()) -> Callable[[Panorama, float], None]:
    def draw(canvas: Panorama, x: float) -> None:
        for k in range(5):
            lean = (k - 2) * height * 0.22
            root = x + (k - 2) * height * 0.1
            tip = 1.02 - height * (1 - 0.12 * abs(k - 2))
            canvas.polygon([(root - 0.02, 1.2), (root + 0.02, 1.2), (root + lean, tip)], shade(colour, 0.85 + 0.07 * k))
        if blossoms:
            canvas.disc(x, 1.0 - height, 0.022, 0.022, blossoms[round(x * 97) % len(blossoms)])

    return draw


def _stones(colour: Colour) -> Callable[[Panorama, float], None]:
    def draw(canvas: Panorama, x: float) -> None:
        r = 0.05 + 0.04 * ((x * 7.3) % 1)
        canvas.disc(x, 1.05, r * 1.7, r, colour)
        canvas.disc(x - r * 0.3, 1.02, r, r * 0.5, shade(colour, 1.12))

    return draw


def _row(
    site: Site,
    draw: Callable[[Panorama, float], None],
    row: float,
    height: float,
    period: float,
    spacing: float,
    haze: float,
) -> Layer:
    """Things standing on the ground at `row`, with the parallax of that row."""
    canvas = site.canvas(period, row - height, row + 0.02)
    for x in site.scatter(period, spacing):
        draw(canvas, x)
    return canvas.layer(site.depth(row), haze)


def meadow(site: Site) -> Strokes:
    rng, h = site.rng, site.horizon
    green = site.tint((128, 200, 86))
    flowers: tuple[Colour, ...] = ((250, 240, 120), (250, 250, 250), (240, 130, 150), (150, 120, 220))

    def tree(canvas: Panorama, x: float) -> None:
        round_tree(canvas, x, h + 0.05, rng.uniform(0.24, 0.36), site.tint((84, 160, 70)))

    return Strokes(
        (
            _hills(site, (150, 196, 178), h - 0.11, 0.045, 0.1, 0.5, 6.0),
            _hills(site, (118, 186, 100), h - 0.045, 0.03, 0.28, 0.22, 8.0),
        ),
        _ground(site, green, (*flowers, shade(green, 0.9)), 0.05, 0.055).layer(1.0, 0.0),
        (_row(site, tree, h + 0.05, 0.45, 11.0, 1.5, 0.1),),
        _front(site, _grass((86, 160, 60), 0.09, flowers), 0.55),
    )


def lake(site: Site) -> Strokes:
    rng, h = site.rng, site.horizon

    def tree(canvas: Panorama, x: float) -> None:
        pine(canvas, x, h + 0.005, rng.uniform(0.1, 0.19), site.tint((62, 124, 96)))

    return Strokes(
        (
            _peaks(site, site.tint((126, 152, 190)), (236, 242, 250), (0.2, 0.36), 0.07, 0.4),
            _hills(site, (104, 158, 128), h - 0.03, 0.02, 0.2, 0.25, 7.0),
        ),
        _ground(site, (132, 186, 92), ((108, 166, 76), (168, 160, 140)), 0.08, 0.06, site.shore).layer(1.0, 0.0),
        (_row(site, tree, h + 0.005, 0.22, 9.0, 0.16, 0.12),),
        _front(site, _grass((80, 140, 84), 0.13, ((140, 92, 60),)), 0.8),
    )


def beach(site: Site) -> Strokes:
    rng, h = site.rng, site.horizon
    sand = site.tint((246, 222, 162), 0.03)

    def island(canvas: Panorama, x: float) -> None:
        w = rng.uniform(0.2, 0.4)
        canvas.disc(x, h + 0.02, w, 0.09, (104, 176, 130))
        palm(canvas, x, h - 0.05, 0.12, rng.uniform(-0.3, 0.3))

    def tree(canvas: Panorama, x: float) -> None:
        if site.shore > 0.8:  # a strip of sand in front of the subject: palms there would hide it
            return
        palm(canvas, x, site.shore + 0.02, rng.uniform(0.42, 0.6), rng.uniform(-0.25, 0.25))

    back = site.canvas(8.0, h - 0.2, h + 0.02)
    for x in site.scatter(8.0, 2.2):
        island(back, x)
    foam = ridge(rng, 12.0, ((1.5, 0.008), (0.6, 0.004)))
    shore = _ground(
        site, sand, ((250, 236, 200), (232, 150, 120), (255, 250, 240), shade(sand, 0.92)), 0.09, 0.05, site.shore
    )
    shore.hills(lambda x: site.shore + 0.004 + foam(x), (250, 252, 250), site.shore + 0.03)
    shore.hills(lambda x: site.shore + 0.022 + foam(x), shade(sand, 0.93), site.shore + 0.05)
    return Strokes(
        (back.layer(0.15, 0.25),),
        shore.layer(1.0, 0.0),
        (_row(site, tree, site.shore + 0.02, 0.8, 12.0, 1.9, 0.0),),
        _front(site, _stones((226, 196, 140)), 1.4),
    )


def desert(site: Site) -> Strokes:
    rng, h = site.rng, site.horizon
    sand = site.tint((248, 208, 128), 0.03)

    def plant(canvas: Panorama, x: float) -> None:
        cactus(canvas, x, h + 0.04, rng.uniform(0.14, 0.28))

    return Strokes(
        (
            _hills(site, (236, 184, 134), h - 0.08, 0.06, 0.1, 0.35, 6.0),
            _hills(site, (242, 190, 104), h - 0.03, 0.045, 0.28, 0.12, 8.0),
        ),
        _ground(site, sand, (shade(sand, 0.93), shade(sand, 0.88), (214, 170, 110)), 0.12, 0.13).layer(1.0, 0.0),
        (_row(site, plant, h + 0.04, 0.34, 11.0, 1.1, 0.05),),
        _front(site, _stones((214, 160, 92)), 1.2),
    )


def snow(site: Site) -> Strokes:
    rng, h = site.rng, site.horizon

    def tree(canvas: Panorama, x: float) -> None:
        pine(canvas, x, h + 0.04, rng.uniform(0.2, 0.34), site.tint((76, 128, 128)), (240, 246, 255))

    return Strokes(
        (
            _peaks(site, site.tint((134, 150, 190)), (250, 252, 255), (0.3, 0.5), 0.07, 0.3),
            _hills(site, (214, 226, 244), h - 0.03, 0.03, 0.25, 0.1, 8.0),
        ),
        _ground(site, (236, 243, 252), ((218, 230, 246), (250, 253, 255)), 0.12, 0.13).layer(1.0, 0.0),
        (_row(site, tree, h + 0.04, 0.4, 11.0, 0.8, 0.05),),
        _front(site, _stones((226, 236, 250)), 0.9),
    )


def forest(site: Site) -> Strokes:
    rng, h = site.rng, site.horizon

    def trees(colour: Colour, low: float, high: float, row: float) -> Callable[[Panorama, float], None]:
        return lambda canvas, x: pine(canvas, x, row, rng.uniform(low, high), site.tint(colour))

    far = site.canvas(6.0, h - 0.5, h + 0.03)
    far.box(0, h - 0.05, 6.0, 0.1, (108, 160, 146))
    for x in site.scatter(6.0, 0.13):
        trees((122, 170, 160), 0.25, 0.4, h + 0.02)(far, x)
    middle = site.canvas(8.0, h - 0.6, h + 0.03)
    middle.box(0, h - 0.012, 8.0, 0.1, (84, 138, 96))
    for x in site.scatter(8.0, 0.22):
        trees((70, 134, 108), 0.35, 0.52, h + 0.02)(middle, x)
    return Strokes(
        (far.layer(0.12, 0.45), middle.layer(0.3, 0.2)),
        _ground(site, (98, 140, 76), ((82, 122, 62), (150, 116, 76), (206, 80, 62)), 0.1, 0.06).layer(1.0, 0.0),
        (_row(site, trees((42, 104, 70), 0.55, 0.75, h + 0.07), h + 0.07, 0.85, 12.0, 0.75, 0.0),),
        _front(site, _grass((48, 104, 58), 0.12), 0.6),
    )


WALLS: tuple[Colour, ...] = (
    (226, 138, 112),
    (240, 202, 128),
    (150, 178, 204),
    (206, 160, 182),
    (164, 196, 162),
    (222, 214, 200),
)


def city(site: Site) -> Strokes:
    rng, h = site.rng, site.horizon
    far = site.canvas(6.0, 0.05, h + 0.02)
    for x in site.scatter(6.0, 0.2):
        tower(far, x, h + 0.02, rng.uniform(0.16, 0.26), rng.uniform(0.25, 0.5), (150, 176, 208), rng)
    period = 11.0
    near = site.canvas(period, 0.0, h + 0.05)
    x = 0.0
    while x < period - 0.35:
        width = min(float(rng.uniform(0.4, 0.62)), period - x)
        tower(near, x, h + 0.04, width * 0.96, rng.uniform(0.25, 0.46), WALLS[int(rng.integers(6))], rng)
        near.box(x + width * 0.06, h - 0.02, width * 0.84, 0.045, (112, 140, 160), 255)
        near.box(x + width * 0.02, h - 0.035, width * 0.92, 0.02, WALLS[int(rng.integers(6))])
        x += width
    street = _ground(site, (196, 196, 204), (), 3.0, 0.05)
    street.box(0, h + 0.13, 12.0, 0.012, (236, 236, 240))
    street.box(0, h + 0.142, 12.0, 0.5, (112, 116, 128))
    for k in range(16):
        street.box(k * 0.75, 0.915, 0.4, 0.022, (246, 240, 214))
    return Strokes(
        (far.layer(0.12, 0.4), near.layer(site.depth(h + 0.04), 0.0)),
        street.layer(1.0, 0.0),
        (_row(site, lambda c, x: lamp(c, x, h + 0.11, 0.4), h + 0.11, 0.45, 12.0, 1.7, 0.0),),
        _front(site, lambda _c, _x: None, 9.0),
    )


def harbour(site: Site) -> Strokes:
    rng, h = site.rng, site.horizon
    town = site.canvas(9.0, h - 0.4, h + 0.02)
    curve = ridge(rng, 9.0, ((3.0, 0.04), (1.2, 0.01)))
    town.hills(lambda x: h - 0.1 + curve(x), (122, 168, 132))
    for x in site.scatter(9.0, 0.24):
        house(town, x, h + 0.015, rng.uniform(0.14, 0.19), WALLS[int(rng.integers(6))], (196, 92, 76))
    for x in site.scatter(9.0, 4.5):
        for k in range(5):
            town.box(
                x + 0.006 * k,
                h - 0.34 + 0.066 * k,
                0.1 - 0.012 * (4 - k),
                0.068,
                ((236, 76, 70), (248, 248, 244))[k % 2],
            )
        town.disc(x + 0.035, h - 0.35, 0.03, 0.03, (255, 236, 160), 255)
    deck = _ground(site, (188, 142, 98), (), 3.0, 0.05, site.shore)
    for k in range(40):
        deck.box(k * 0.3, site.shore, 0.012, 0.5, (150, 108, 72))
    deck.box(0, site.shore, 12.0, 0.018, (146, 104, 70))

    def post(canvas: Panorama, x: float) -> None:
        canvas.box(x - 0.035, 0.95, 0.07, 0.3, (120, 86, 60))
        canvas.disc(x, 0.95, 0.035, 0.014, (160, 120, 84))

    return Strokes((town.layer(0.22, 0.12),), deck.layer(1.0, 0.0), (), _front(site, post, 1.5))


def autumn(site: Site) -> Strokes:
    rng, h = site.rng, site.horizon
    leaves: tuple[Colour, ...] = ((226, 120, 48), (214, 74, 52), (240, 178, 62), (188, 92, 44))

    def tree(row: float, low: float, high: float) -> Callable[[Panorama, float], None]:
        return lambda c, x: round_tree(c, x, row, rng.uniform(low, high), leaves[int(rng.integers(4))], (104, 72, 56))

    far = site.canvas(7.0, h - 0.4, h + 0.03)
    for x in site.scatter(7.0, 0.2):
        tree(h + 0.02, 0.18, 0.28)(far, x)
    lawn = _ground(site, (196, 178, 88), leaves, 0.045, 0.06)
    lawn.box(0, 0.8, 12.0, 0.14, (232, 210, 168))
    for x in site.scatter(12.0, 0.2):
        lawn.disc(x, rng.uniform(0.8, 0.94), 0.03, 0.01, leaves[int(rng.integers(4))])

    def lamps_and_benches(canvas: Panorama, x: float) -> None:
        lamp(canvas, x, h + 0.1, 0.34)
        canvas.box(x + 0.35, h + 0.04, 0.3, 0.02, (132, 84, 56))
        canvas.box(x + 0.35, h + 0.07, 0.3, 0.018, (132, 84, 56))
        canvas.box(x + 0.38, h + 0.07, 0.02, 0.035, (90, 62, 48))
        canvas.box(x + 0.6, h + 0.07, 0.02, 0.035, (90, 62, 48))

    return Strokes(
        (_hills(site, (206, 160, 130), h - 0.1, 0.03, 0.08, 0.45, 6.0), far.layer(0.26, 0.25)),
        lawn.layer(1.0, 0.0),
        (
            _row(site, tree(h + 0.05, 0.42, 0.58), h + 0.05, 0.7, 11.0, 1.0, 0.0),
            _row(site, lamps_and_benches, h + 0.1, 0.4, 13.0, 2.4, 0.0),
        ),
        _front(site, _grass((168, 140, 60), 0.07, leaves), 0.6),
    )


def village(site: Site) -> Strokes:
    rng, h = site.rng, site.horizon
    far = site.canvas(8.0, h - 0.3, h + 0.03)
    curve = ridge(rng, 8.0, ((2.7, 0.03), (1.0, 0.012)))
    far.hills(lambda x: h - 0.08 + curve(x), (132, 190, 132))
    for x in site.scatter(8.0, 0.6):
        house(far, x, h - 0.03 + curve(x) * 0.5, rng.uniform(0.09, 0.13), (240, 228, 206), (204, 110, 90))

    def home(canvas: Panorama, x: float) -> None:
        roof = ((206, 82, 66), (178, 96, 70), (110, 126, 168))[int(rng.integers(3))]
        round_tree(canvas, x - 0.16, h + 0.05, rng.uniform(0.2, 0.28), site.tint((96, 168, 84)))
        house(
            canvas,
            x,
            h + 0.055,
            rng.uniform(0.32, 0.42),
            ((250, 238, 214), (252, 222, 180), (232, 232, 236))[int(rng.integers(3))],
            roof,
        )

    lane = _ground(site, (144, 200, 104), ((250, 240, 150), (126, 184, 92)), 0.08, 0.05)
    lane.box(0, 0.79, 12.0, 0.16, (216, 196, 168))
    for x in site.scatter(12.0, 0.07):
        lane.disc(x, rng.uniform(0.8, 0.94), 0.035, 0.011, (198, 176, 148))

    def fence(canvas: Panorama, x: float) -> None:
        for k in range(5):
            canvas.box(x + k * 0.07, h + 0.045, 0.025, 0.075, (250, 246, 238))
        canvas.box(x - 0.01, h + 0.065, 0.33, 0.016, (250, 246, 238))

    return Strokes(
        (_hills(site, (160, 196, 190), h - 0.12, 0.04, 0.1, 0.45, 6.0), far.layer(0.25, 0.2)),
        lane.layer(1.0, 0.0),
        (_row(site, home, h + 0.055, 0.6, 11.0, 0.95, 0.0), _row(site, fence, h + 0.12, 0.12, 13.0, 0.65, 0.0)),
        _front(site, _grass((96, 168, 72), 0.07, ((240, 100, 120), (250, 220, 90))), 0.7),
    )


def canyon(site: Site) -> Strokes:
    rng, h = site.rng, site.horizon

    def mesas(
        colour: Colour, low: float, high: float, period: float, spacing: float, parallax: float, haze: float
    ) -> Layer:
        canvas = site.canvas(period, h - high - 0.03, h + 0.03)
        for x in site.scatter(period, spacing):
            height, half = rng.uniform(low, high), rng.uniform(0.16, 0.34)
            for k in range(5):
                y, flare = h - height + height * k / 5, half * (1 + 0.09 * k)
                box = [(x - flare, y), (x + flare, y), (x + flare * 1.06, h + 0.04), (x - flare * 1.06, h + 0.04)]
                canvas.polygon(box, shade(colour, (1.0, 0.86, 1.06, 0.9, 0.98)[k]))
        return canvas.layer(parallax, haze)

    earth = site.tint((212, 118, 76), 0.04)
    return Strokes(
        (
            mesas((214, 132, 110), 0.16, 0.34, 6.0, 0.7, 0.1, 0.35),
            mesas((200, 92, 62), 0.14, 0.42, 9.0, 0.95, 0.3, 0.08),
        ),
        _ground(site, earth, (shade(earth, 0.88), shade(earth, 0.8), (236, 160, 110)), 0.1, 0.08).layer(1.0, 0.0),
        (
            _row(
                site,
                lambda c, x: c.disc(x, h + 0.06, rng.uniform(0.05, 0.12), rng.uniform(0.03, 0.06), (172, 82, 58)),
                h + 0.06,
                0.1,
                11.0,
                0.6,
                0.0,
            ),
        ),
        _front(site, _stones((168, 78, 54)), 0.9),
    )


def moon(site: Site) -> Strokes:
    rng, h = site.rng, site.horizon
    sky, x = site.canvas(2.4, 0.02, 0.4), float(rng.uniform(0, 2.4))
    sky.disc(x, 0.2, 0.11, 0.11, (84, 150, 224))
    for dx, dy, r in ((-0.03, -0.04, 0.04), (0.04, 0.02, 0.035), (-0.02, 0.06, 0.025)):
        sky.disc(x + dx, 0.2 + dy, r * 1.3, r, (112, 186, 112))
    x = (x + 1.2) % 2.4
    sky.disc(x, 0.14, 0.05, 0.05, (232, 190, 140))
    sky.polygon([(x - 0.1, 0.165), (x + 0.1, 0.115), (x + 0.1, 0.125), (x - 0.1, 0.175)], (250, 224, 180))
    grey = site.tint((198, 198, 210), 0.03)
    floor = _ground(site, grey, (shade(grey, 0.92),), 0.25, 0.1)
    for x in site.scatter(12.0, 0.5):
        row = float(rng.uniform(h + 0.04, 1.12))
        s = (row - h + 0.1) * rng.uniform(0.2, 0.4)
        floor.disc(x, row, s, s * 0.36, shade(grey, 1.12))
        floor.disc(x, row + s * 0.05, s * 0.86, s * 0.28, shade(grey, 0.76))
    return Strokes(
        (
            sky.layer(0.02, 0.0),
            _hills(site, (150, 150, 168), h - 0.07, 0.05, 0.1, 0.1, 6.0),
            _hills(site, (178, 178, 192), h - 0.02, 0.03, 0.28, 0.0, 8.0),
        ),
        floor.layer(1.0, 0.0),
        (
            _row(
                site,
                lambda c, x: c.disc(x, h + 0.05, rng.uniform(0.04, 0.09), rng.uniform(0.03, 0.06), (140, 140, 156)),
                h + 0.05,
                0.1,
                11.0,
                0.7,
                0.0,
            ),
        ),
        _front(site, _stones((150, 150, 166)), 1.0),
    )
