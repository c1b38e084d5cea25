"""Where the subject of a frame is: what moves against the camera, or what a segmenter says.

Camera motion is a homography fitted to optical flow; what does not follow it is the subject. A frame in which nothing
moves by itself, or nearly everything does, has no mask: that is a value, not a guess. Parallax of a moving camera looks
like independent motion and cannot be told from it here.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from jaxtyping import Float32, UInt8

from blockvid.errors import InputError
from blockvid.evaluation.scorers.motion import SHORT, SMALLEST, flow, reduced
from blockvid.evaluation.scorers.opencv import opencv
from blockvid.evaluation.series import Picture, Window

HALF = 0.5
"""Softness above which a cell counts as the subject's."""
COARSE = 4
"""Reduced pixels a side of one cell of a mask made from flow."""
INSIDE = (0.02, 0.98)
"""Quantiles of the subject's rows and columns between which its box lies, so that specks do not widen it."""

Soft = Float32[np.ndarray, "y x"]
"""0 to 1, the subject's share, in cells that divide a frame evenly."""


@dataclass(frozen=True)
class Box:
    """Rows [top, bottom) and columns [left, right) of a frame."""

    top: int
    bottom: int
    left: int
    right: int

    def of(self, pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "y x 3"]:
        """What is inside."""
        return pixels[self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True, eq=False)
class Mask:
    """The subject of one frame."""

    soft: Soft
    """0 everywhere where no subject was found."""
    area: float
    """Share of the frame that counts as the subject's, above 0; nan where none was found."""

    @property
    def found(self) -> bool:
        """Whether there is a subject."""
        return not math.isnan(self.area)

    def box(self, height: int, width: int, margin: float = 0.15) -> Box | None:
        """A square around the subject, inside a frame of that size; None without a subject.

        `margin` is added on each side, as a share of the subject's longer side. A subject longer than the frame's short
        side is cut off, about its middle.
        """
        if not self.found:
            return None
        middles, lengths = [], []
        for cells, count, pixels in zip(np.nonzero(self.soft > HALF), self.soft.shape, (height, width), strict=True):
            low, high = np.quantile(cells, INSIDE)
            middles.append((low + high + 1) / 2 * pixels / count)
            lengths.append((high + 1 - low) * pixels / count)
        side = min(math.ceil(max(lengths) * (1 + 2 * margin)), height, width)
        top, left = (
            min(max(round(middle - side / 2), 0), limit - side)
            for middle, limit in zip(middles, (height, width), strict=True)
        )
        return Box(top, top + side, left, left + side)


def mask(soft: Soft, smallest: float, largest: float) -> Mask:
    """A mask with a subject if its share is within these limits, without one otherwise."""
    area = float((soft > HALF).mean())
    if area > 0 and smallest <= area <= largest:
        return Mask(soft, area)
    return Mask(np.zeros_like(soft), math.nan)


class Masking(Protocol):
    """A way to find subjects; a frozen dataclass that can be sent to another process."""

    @property
    def identity(self) -> str:
        """All that masks depend on besides frames."""
        ...

    @property
    def model(self) -> str | None:
        """sha256 of the weights it uses; None without."""
        ...

    @property
    def before(self) -> int:
        """How many earlier frames it wants to see."""
        ...

    @property
    def after(self) -> int:
        """How many later ones."""
        ...

    def open(self) -> Callable[[Window], list[Mask]]:
        """What gives the masks of the wanted pictures of a window. Raises InputError for what cannot be loaded."""
        ...


# By motion


@dataclass(frozen=True)
class ResidualMotion:
    """The subject is what leaves the camera's motion: a homography fitted to flow by RANSAC, the same on every run.

    Lengths are in % of the short side per frame. Masks are averaged over the frames around, up to a cut on either side,
    so that they do not flicker. Frames with a short side below 32 pixels have none.
    """

    still: float = 0.15
    """Residual flow up to which a pixel is the camera's."""
    moving: float = 0.45
    """Residual flow from which it is the subject's; between the two softly."""
    tolerance: float = 0.3
    """Residual flow with which a point of the grid supports the homography."""
    grid: int = 12
    """Reduced pixels from one such point to the next."""
    agreement: float = 0.4
    """Share of points that must support it; fewer are a cut, or no camera motion that a homography can say."""
    smallest: float = 0.005
    """Share of the frame below which there is no subject."""
    largest: float = 0.6
    """Share of the frame above which it is no subject."""
    neighbours: int = 4
    """Frames on either side that masks are averaged over."""

    @property
    def identity(self) -> str:
        """The settings, those of the flow and OpenCV's version."""
        return f"{self!r} 1 dis-fast {SHORT} opencv {opencv().__version__}"

    @property
    def model(self) -> str | None:
        """None."""
        return None

    @property
    def before(self) -> int:
        """As many as are averaged over."""
        return self.neighbours

    @property
    def after(self) -> int:
        """One more: the motion of a frame is that towards the next."""
        return self.neighbours + 1

    def open(self) -> Callable[[Window], list[Mask]]:
        """Nothing to load."""
        return self._masks

    def _masks(self, window: Window) -> list[Mask]:
        pictures = window.pictures
        if min(pictures[0].pixels.shape[:2]) < SMALLEST:
            return [Mask(np.zeros((1, 1), np.float32), math.nan) for _ in window.wanted]
        moves = [self.independent(*pair) for pair in itertools.pairwise(pictures)]
        return [self._averaged(moves, index, pictures) for index in range(window.start, window.stop)]

    def _averaged(self, moves: Sequence[Soft | None], index: int, pictures: Sequence[Picture]) -> Mask:
        """Over the frames that no cut separates from the one at `index`: moves[i] is from picture i to the next."""
        earlier = _run(moves[max(index - self.neighbours, 0) : index][::-1])
        later = _run(moves[index : index + self.neighbours + 1])
        if not (earlier or later):
            return Mask(np.zeros(_cells(pictures[index]), np.float32), math.nan)
        average = np.stack([*earlier, *later]).mean(axis=0, dtype=np.float32)
        return mask(average, self.smallest, self.largest)

    def independent(self, start: Picture, end: Picture) -> Soft | None:
        """What of `start` moves by itself until `end`; None where the camera's motion cannot be said. Computed once."""
        return start.once(_Independent(self, end.number, flow(start, end)))

    def residual(self, steps: Float32[np.ndarray, "h w 2"]) -> Float32[np.ndarray, "h w"] | None:
        """The length of what is left of flow without the camera's part, in % of the short side; None as above."""
        return residual_flow(steps, self.grid, self.tolerance, self.agreement)


@dataclass(frozen=True)
class _Independent:
    """Independent motion between two pictures, kept with the first."""

    settings: ResidualMotion
    to: int
    steps: np.ndarray = field(compare=False, repr=False)

    def __call__(self, pixels: UInt8[np.ndarray, "h w 3"]) -> Soft | None:  # noqa: ARG002
        residual = self.settings.residual(self.steps)
        if residual is None:
            return None
        cv2 = opencv()
        height, width = residual.shape
        soft = (residual - self.settings.still) / (self.settings.moving - self.settings.still)
        coarse = (max(width // COARSE, 1), max(height // COARSE, 1))
        return cv2.resize(np.clip(soft, 0, 1), coarse, interpolation=cv2.INTER_AREA)


def residual_flow(
    steps: Float32[np.ndarray, "h w 2"], grid: int, tolerance: float, agreement: float
) -> Float32[np.ndarray, "h w"] | None:
    """The length of what is left of flow without the camera's part, in % of the short side.

    None if less than a share of `agreement` of the grid's points follows one homography within `tolerance` (in %).
    """
    cv2 = opencv()
    height, width = steps.shape[:2]
    short = min(height, width)
    here = np.dstack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)))
    there = here + steps
    points = (slice(grid // 2, None, grid), slice(grid // 2, None, grid))
    source, target = here[points].reshape(-1, 2), there[points].reshape(-1, 2)
    if len(source) < 4:
        return None
    camera, support = cv2.findHomography(source, target, cv2.RANSAC, tolerance * short / 100, maxIters=500)
    if camera is None or support.mean() < agreement:
        return None
    carried = cv2.perspectiveTransform(here.reshape(1, -1, 2), camera).reshape(height, width, 2)
    left = there - carried
    return cv2.magnitude(left[..., 0], left[..., 1]) * (100 / short)


def _cells(picture: Picture) -> tuple[int, int]:
    height, width = picture.once(reduced).luma.shape
    return max(height // COARSE, 1), max(width // COARSE, 1)


def _run(moves: Sequence[Soft | None]) -> list[Soft]:
    """Those before the first that is None."""
    found = []
    for move in moves:
        if move is None:
            break
        found.append(move)
    return found


# By a segmenter

Output = Literal["range", "logits"]


@dataclass(frozen=True)
class Segmenter:
    """The subject is what an ONNX model says: one RGB picture in (NCHW), one map of the subject out.

    `Segmenter.of` makes one from a file. onnxruntime runs it, on the CPU.
    """

    path: Path
    sha256: str
    """Of the file."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Taken from pixels of 0..1; ImageNet's, as most salient-object models have it."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    output: Output = "range"
    """range: the map's least value is 0 and its greatest 1, whatever they are; logits: through a sigmoid."""
    side: int = 320
    """Of the square picture, where the model does not say."""
    every: int = 1
    """Frames from one that is segmented to the next; those between have the mask of the last."""

    def __post_init__(self) -> None:
        if self.output not in get_args(Output):
            raise InputError(f"output {self.output!r} is unknown; use {', '.join(get_args(Output))}")
        if self.every < 1:
            raise InputError(f"a mask every {self.every} frames is none; use 1 or more")

    @classmethod
    def of(cls, path: str | Path) -> Segmenter:
        """The model in a file, fingerprinted. Raises InputError if it cannot be read."""
        try:
            with Path(path).open("rb") as file:
                return cls(Path(path), hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}); name an ONNX file") from None

    @property
    def identity(self) -> str:
        """The model and how its picture is made and its map read."""
        return f"onnx 1 {self.sha256} {self.mean} {self.std} {self.output} {self.side} {self.every}"

    @property
    def model(self) -> str | None:
        """That of the file."""
        return self.sha256

    @property
    def before(self) -> int:
        """Back to the last frame that was segmented."""
        return self.every - 1

    @property
    def after(self) -> int:
        """None."""
        return 0

    def open(self, session: Any = None) -> Callable[[Window], list[Mask]]:
        """Load the model, unless an onnxruntime `session` is given. Raises InputError for one that does not fit."""
        network = _Network(self, session or _session(self.path))

        def masks(window: Window) -> list[Mask]:
            first = window.pictures[0].number
            keys = [p.number - p.number % self.every - first for p in window.wanted]
            # A video cut into pieces may begin between two segmented frames: its first frame then stands for them.
            return [window.pictures[max(key, 0)].once(network) for key in keys]

        return masks


@dataclass(frozen=True)
class _Network:
    settings: Segmenter
    session: Any = field(compare=False, repr=False)

    def __call__(self, pixels: UInt8[np.ndarray, "h w 3"]) -> Mask:
        cv2 = opencv()
        name, height, width = _input(self.session, self.settings)
        small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32) / 255
        picture = (small - np.array(self.settings.mean, np.float32)) / np.array(self.settings.std, np.float32)
        found = np.asarray(self.session.run(None, {name: picture.transpose(2, 0, 1)[None]})[0], dtype=np.float32)
        found = found.reshape(found.shape[-2:]) if found.size == math.prod(found.shape[-2:]) else found
        if found.ndim != 2:
            raise InputError(
                f"{self.settings.path} gives {found.shape}, not one map of the subject; use a model with one"
            )
        return mask(_normal(found, self.settings.output), smallest=0.0, largest=1.0)


def _normal(found: Float32[np.ndarray, "y x"], output: Output) -> Soft:
    if output == "logits":
        return 0.5 + 0.5 * np.tanh(found / 2)  # the sigmoid, without overflow
    low, high = float(found.min()), float(found.max())
    return (found - low) / (high - low) if high > low else np.zeros_like(found)


def _input(session: Any, settings: Segmenter) -> tuple[str, int, int]:
    """Name, height and width of the picture that a model wants; dimensions that it leaves open are not integers."""
    declared = session.get_inputs()[0]
    if len(declared.shape) != 4 or (isinstance(declared.shape[1], int) and declared.shape[1] != 3):
        raise InputError(f"{settings.path} takes {declared.shape}, not pictures (1, 3, height, width); use a segmenter")
    height, width = (side if isinstance(side, int) else settings.side for side in declared.shape[2:])
    return declared.name, height, width


def _session(path: Path) -> Any:
    try:
        import onnxruntime
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf, NoSuchFile
    except ImportError as error:
        raise InputError("onnxruntime is not installed; run `pip install 'blockvid[segment]'`") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (Fail, InvalidGraph, InvalidProtobuf, NoSuchFile) as error:
        why = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be loaded by onnxruntime ({why:.120}); export the model again") from None
