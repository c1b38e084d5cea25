"""A trace as a picture: a row per chunk, a column per past chunk, the memory below."""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from blockvid.errors import InputError
from blockvid.files import replacing
from blockvid.trace.record import Trace, clock, megabytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind people tell apart; "all" never meets another.
COLOURS: dict[str, str] = {"similar": "#d55e00", "recent": "#0072b2", "sink": "#009e73", "all": "#4c5fa8"}
MEANINGS: dict[str, str] = {
    "similar": "recalled: a similar prompt",
    "recent": "recalled: recent",
    "sink": "recalled: the opening (sink)",
    "all": "recalled: every past chunk",
}
INK, MUTED, OWN = "#1f2933", "#66717f", "#39424e"
SIMILARITY, KEPT = ("#f6f7f9", "#8493a8"), ("#f1ecf7", "#4b2e83")
FALLBACKS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei"),
    *("WenQuanYi Micro Hei", "Droid Sans Fallback", "Microsoft YaHei", "PingFang SC", "Arial Unicode MS"),
)
DOTS = 200  # per inch
CROWD = 64  # chunks, from which on cells are pixels in an SVG too


def draw(trace: Trace, path: Path) -> None:
    """Draw who looked at whom as a PNG or SVG: a row per chunk, a column per past chunk, the memory below.

    InputError for another suffix, without matplotlib, and where the disk refuses.
    """
    form = path.suffix.lower().removeprefix(".")
    if form not in ("png", "svg"):
        raise InputError(f"{path} ends in neither .png nor .svg, the pictures drawn; use {path.with_suffix('.png')}")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError('drawing needs matplotlib, which is not here; pip install "blockvid[plots]"') from error
    dense = all(share == 1 for chunk in trace.chunks for share in chunk.kept)
    layout = _Layout(len(trace.chunks), len(trace.chunks[0].kept), dense)
    texts = "".join((string.printable, trace.policy, trace.storage, *(chunk.prompt for chunk in trace.chunks)))
    figure = Figure((layout.width, layout.height), dpi=DOTS, facecolor="white")
    page = _Page(figure, layout, _Type.installed(texts))
    _draw_title(page, trace)
    matrix = page.axes(layout.left, layout.matrix_top, layout.side, layout.rows * layout.cell)
    matrix.set(xlim=(-0.5, layout.columns - 0.5), ylim=(layout.rows - 0.5, -0.5))
    _draw_similarity(matrix, trace)
    _draw_recalled(matrix, trace, layout)
    _draw_prompts(page, trace)
    _draw_legend(page, trace)
    if not layout.dense:
        _draw_kept(page, trace)
    _draw_bank(page, trace)
    with replacing(path) as part:
        page.figure.savefig(part, format=form, metadata={"Date": None} if form == "svg" else None)


@dataclass(frozen=True)
class _Layout:
    """Where things go, in inches from the top left corner, for so many chunks and layers."""

    chunks: int
    layers: int
    dense: bool

    margin = 0.3
    left = 5.0
    matrix_top = 0.98
    legend_width = 2.35
    bank_height = 0.75

    @property
    def cell(self) -> float:
        return min(7.6 / self.chunks, 0.37)

    @property
    def columns(self) -> float:
        """Of the matrix; with few chunks it has more, for the legend."""
        return max(self.chunks, 5.0 / self.cell)

    @property
    def rows(self) -> float:
        return max(self.chunks, (1.6 if self.dense else 1.85) / self.cell)

    @property
    def side(self) -> float:
        return self.columns * self.cell

    @property
    def font(self) -> float:
        """Points of a row's text."""
        points = 72 * self.cell
        return min(points / 2.6, 8.5) if self.lines == 2 else float(np.clip(0.58 * points, 4.5, 7))

    @property
    def lines(self) -> int:
        """Of a row's text."""
        return 2 if 72 * self.cell > 17 else 1

    def every(self, points: float) -> int:
        """Which cells can have a text that takes so much room: each, every second, ..."""
        return math.ceil(points / (72 * self.cell))

    @property
    def kept_top(self) -> float:
        return self.matrix_top + self.rows * self.cell + 0.14

    @property
    def kept_height(self) -> float:
        return 0.0 if self.dense else float(np.clip(0.07 * self.layers, 0.55, 1.4))

    @property
    def bank_top(self) -> float:
        return self.kept_top + (self.kept_height + 0.2 if self.kept_height else 0.06)

    @property
    def width(self) -> float:
        return self.left + self.side + self.margin

    @property
    def height(self) -> float:
        return self.bank_top + self.bank_height + 0.55


@dataclass(frozen=True)
class _Type:
    """Fonts, each for the characters that those before it lack, and how wide the characters are."""

    families: tuple[str, ...]
    widths: Mapping[str, float]
    """In units of the font's size; what is not in it cannot be drawn."""

    @classmethod
    def installed(cls, letters: Iterable[str]) -> _Type:
        """matplotlib's own font, then what this machine has for Chinese and Japanese."""
        from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
        from matplotlib.ft2font import LoadFlags

        names = set(fontManager.get_font_names())
        families = ("DejaVu Sans", *(name for name in FALLBACKS if name in names))
        widths: dict[str, float] = {}
        for font in (get_font(findfont(FontProperties(family=name))) for name in families):
            font.set_size(100, 72)
            for letter in {*letters, *"…□"} - widths.keys():
                if font.get_char_index(ord(letter)):
                    widths[letter] = font.load_char(ord(letter), LoadFlags.NO_HINTING).linearHoriAdvance / 6553600
        return cls(families, widths)

    def fitted(self, text: str, inches: float, size: float, lines: int = 1) -> str:
        """`text` cut to `lines` lines of that width at `size` points; characters that no font has become boxes."""
        rest = "".join(letter if letter in self.widths else "□" for letter in " ".join(text.split()))
        done, room = [], 0.95 * 72 * inches / size  # hinting widens letters by up to 4 %
        for _ in range(lines - 1):
            fits = self._fits(rest, room)
            space = rest.rfind(" ", 0, fits + 1)
            cut = len(rest) if fits == len(rest) else space if space > 0 else fits
            done.append(rest[:cut])
            rest = rest[cut:].lstrip()
        if (fits := self._fits(rest, room)) < len(rest):
            rest = rest[: max(fits - 1, 0)].rstrip(" ,.;") + "…"
        return "\n".join([*done, rest]).rstrip()

    def _fits(self, text: str, width: float) -> int:
        """How many leading characters of `text` are no wider than that."""
        ends = itertools.accumulate(self.widths[letter] for letter in text)
        return sum(1 for _ in itertools.takewhile(lambda end: end <= width, ends))


@dataclass(frozen=True)
class _Page:
    """A figure that is addressed in inches from its top left corner."""

    figure: Figure
    layout: _Layout
    type: _Type

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """An empty plot area."""
        across, down = self.layout.width, self.layout.height
        axes = self.figure.add_axes((x / across, 1 - (y + height) / down, width / across, height / down))
        axes.set_axis_off()
        return axes

    def say(self, x: float, y: float, text: str, size: float = 8.5, colour: str = INK, align: str = "left") -> None:
        """Text whose middle line is at y."""
        x, y, fonts = x / self.layout.width, 1 - y / self.layout.height, self.type.families
        self.figure.text(x, y, text, size=size, color=colour, ha=align, va="center", family=fonts, parse_math=False)

    def scale(self, x: float, y: float, colours: tuple[str, str], ends: tuple[str, str]) -> None:
        """A bar of colours with the values of its ends."""
        axes = self.axes(x, y - 0.055, 0.9, 0.11)
        axes.imshow(np.linspace(0, 1, 64)[None], cmap=_colormap(colours), aspect="auto")
        self.say(x - 0.06, y, ends[0], 7.5, MUTED, "right")
        self.say(x + 0.96, y, ends[1], 7.5, MUTED)


def _colormap(colours: tuple[str, str]) -> Colormap:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("blockvid", colours)


def _draw_title(page: _Page, trace: Trace) -> None:
    margin, wide = page.layout.margin, page.layout.width - 2 * page.layout.margin
    how = "Each row is a chunk being made; its marks are the past chunks that it looked at."
    count = f"{len(trace.chunks)} {'chunk' if len(trace.chunks) == 1 else 'chunks'}"
    facts = f"{count}, {clock(trace.chunks[-1].seconds[1])} min of video, memory in {trace.storage}."
    page.say(margin, 0.3, page.type.fitted(trace.policy, wide, 14), 14)
    page.say(margin, 0.56, page.type.fitted(f"{how} {facts}", wide, 8.5), 8.5, MUTED)


def _lowest(trace: Trace) -> float:
    """Where the shades of similarity begin: the smallest cosine, rounded down, but not at 1, where they end."""
    return min([0.9, *(math.floor(10 * cosine) / 10 for chunk in trace.chunks for cosine in chunk.similarities)])


def _draw_similarity(matrix: Axes, trace: Trace) -> None:
    count = len(trace.chunks)
    cosines = np.full((count, count), np.nan)
    for chunk in trace.chunks:
        cosines[chunk.chunk, : chunk.chunk] = chunk.similarities
    edges = np.arange(count + 1) - 0.5
    mesh = matrix.pcolormesh(
        edges, edges, np.ma.masked_invalid(cosines), cmap=_colormap(SIMILARITY), vmin=_lowest(trace), vmax=1
    )
    mesh.set(edgecolor="white", linewidth=0.5 if count <= CROWD else 0, rasterized=count > CROWD)


def _draw_recalled(matrix: Axes, trace: Trace, layout: _Layout) -> None:
    """Frames in the colour of the reason, filled from below to the share of the chunk's tokens that is attended to."""
    for why, colour in COLOURS.items():
        cells = [
            (recalled.chunk, chunk.chunk, recalled.tokens / trace.chunks[recalled.chunk].tokens)
            for chunk in trace.chunks
            for recalled in chunk.recalled
            if recalled.why == why
        ]
        _add_marks(matrix, np.array(cells).reshape(-1, 3), colour, 72 * layout.cell)
    own = np.array([(index, index, 1.0) for index in range(layout.chunks)])
    _add_marks(matrix, own, OWN, 72 * layout.cell)
    for index in range(layout.chunks) if layout.every(layout.font) == 1 else ():
        matrix.text(index, index, str(index), color="white", fontsize=0.8 * layout.font, ha="center", va="center")


def _add_marks(axes: Axes, cells: Float[np.ndarray, "n 3"], colour: str, points: float) -> None:
    """Marks at (x, y, share), in axes whose unit measures so many points."""
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgb

    x, y, share = cells[:, 0], cells[:, 1], cells[:, 2].clip(0, 1)
    half = 0.38 if points > 6 else 0.5
    corners = np.array([(-half, half), (half, half), (half, -half), (-half, -half)])
    frames = corners + np.stack([x, y], 1)[:, None]
    fills = frames.copy()
    fills[:, 2:, 1] = (y + half - 2 * half * share)[:, None]
    width, pale = min(1.2, 0.06 * points), [0.85 + 0.15 * part for part in to_rgb(colour)]
    axes.add_collection(PolyCollection([*frames], facecolor=pale, edgecolor=colour, linewidth=width))
    axes.add_collection(PolyCollection([*fills], facecolor=colour, linewidth=0))


def _draw_prompts(page: _Page, trace: Trace) -> None:
    """Number, time and prompt of each row; a prompt that goes on is not repeated."""
    layout, size = page.layout, page.layout.font
    number, time, prompt = (layout.margin + size * inches for inches in (0.026, 0.094, 0.11))
    before = None
    for chunk in trace.chunks[:: layout.every(1.25 * size)]:
        y = layout.matrix_top + (chunk.chunk + 0.5) * layout.cell
        page.say(number, y, str(chunk.chunk), size, INK, "right")
        page.say(time, y, clock(chunk.seconds[0]), size, MUTED, "right")
        text = page.type.fitted(chunk.prompt, layout.left - 0.12 - prompt, size, layout.lines)
        page.say(prompt, y, "″" if chunk.prompt == before else text, size)
        before = chunk.prompt


def _draw_legend(page: _Page, trace: Trace) -> None:
    """What marks and shades mean, in the corner that the matrix leaves empty."""
    layout, step = page.layout, 0.245
    x, y = layout.left + layout.side - layout.legend_width, layout.matrix_top + 0.1
    reasons = [why for why in COLOURS if any(one.why == why for chunk in trace.chunks for one in chunk.recalled)]
    entries = [(COLOURS[why], MEANINGS[why], 1.0) for why in reasons] + [(OWN, "the chunk itself", 1.0)]
    if reasons and not layout.dense:
        entries.insert(len(reasons), (COLOURS[reasons[0]], "filled part: share of its tokens", 0.4))
    axes = page.axes(x, y, layout.legend_width, step * len(entries))
    axes.set(xlim=(0, layout.legend_width / 0.17), ylim=(step * len(entries) / 0.17, 0))
    for row, (colour, meaning, share) in enumerate(entries):
        _add_marks(axes, np.array([(0.5, (row + 0.5) * step / 0.17, share)]), colour, 72 * 0.17)
        page.say(x + 0.27, y + (row + 0.5) * step, meaning)
    if len(trace.chunks) > 1:
        below = y + step * (len(entries) + 0.6)
        page.say(x, below, "similarity of the prompts", 8.5)
        page.scale(x + 0.3, below + 0.22, SIMILARITY, (f"{_lowest(trace):.1f}", "1"))


def _draw_kept(page: _Page, trace: Trace) -> None:
    layout, right = page.layout, page.layout.left - 0.12
    axes = page.axes(layout.left, layout.kept_top, layout.side, layout.kept_height)
    shares = np.array([chunk.kept for chunk in trace.chunks]).T
    columns, layers = np.arange(layout.chunks + 1) - 0.5, np.arange(layout.layers + 1)
    mesh = axes.pcolormesh(columns, layers, shares, cmap=_colormap(KEPT), vmin=0, vmax=1)
    mesh.set_rasterized(layout.chunks > CROWD)
    axes.set(xlim=(-0.5, layout.columns - 0.5), ylim=(layout.layers, 0))
    middle = layout.kept_top + layout.kept_height / 2
    page.say(right, middle - 0.19, "tokens of each chunk that are kept", 8.5, align="right")
    page.say(right, middle, f"by layer, 0 at the top to {layout.layers - 1}", 7.5, MUTED, "right")
    page.scale(right - 1.25, middle + 0.2, KEPT, ("0", "all"))


def _draw_bank(page: _Page, trace: Trace) -> None:
    """Bars of the memory after each chunk, and the chunks' numbers."""
    layout, right = page.layout, page.layout.left - 0.12
    axes = page.axes(layout.left, layout.bank_top, layout.side, layout.bank_height)
    sizes = [chunk.bank_bytes for chunk in trace.chunks]
    end = "" if sizes[-1] == max(sizes) else f", {megabytes(sizes[-1])} at the end"
    axes.bar(range(len(sizes)), sizes, width=0.86, color=MUTED, linewidth=0)
    axes.set(xlim=(-0.5, layout.columns - 0.5), ylim=(0, 1.02 * max(sizes) or 1))
    middle, bottom = layout.bank_top + layout.bank_height / 2, layout.bank_top + layout.bank_height
    page.say(right, middle - 0.1, "memory held after each chunk", 8.5, align="right")
    page.say(right, middle + 0.1, f"up to {megabytes(max(sizes))}{end}", 7.5, MUTED, "right")
    for index in range(0, len(sizes), layout.every((0.6 * len(str(len(sizes))) + 0.4) * layout.font)):
        x = layout.left + (index + 0.5) * layout.cell
        page.say(x, bottom + 0.12, str(index), 0.85 * layout.font, MUTED, "center")
    page.say(right, bottom + 0.12, "chunk", 7.5, MUTED, "right")
