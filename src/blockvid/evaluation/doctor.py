"""Proof that metrics measure what they say: videos made with a known fault, and what must be found in each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from blockvid.errors import InputError
from blockvid.evaluation import catalogue
from blockvid.evaluation.drift import Drift, Weights, weights
from blockvid.evaluation.evaluate import Evaluation
from blockvid.evaluation.metric import TIERS, Metric, Tier
from blockvid.evaluation.results import DriftRecord, Results, VideoRecord, value
from blockvid.evaluation.scorers.opencv import opencv

WIDTH, HEIGHT, FRAMES, FPS = 192, 112, 160, 16.0
BORDERS = tuple(range(16, FRAMES, 16))
"""Of chunks that are as long as segments."""
CUT = 80
LEARNED = ("clean", "morph")
"""The videos that networks look at, since they take their time."""
PAN = 2
"""Pixels a frame that the scene moves by."""


@dataclass(frozen=True)
class Check:
    """One expectation and what came of it."""

    name: str
    video: str
    """Name of the made video; empty where none was needed."""
    expected: str
    """Such as "0 to 0.05"."""
    measured: float
    passed: bool | None
    """None: it could not run."""
    reason: str = ""
    """Why it could not."""


# Made videos


def videos() -> dict[str, tuple[UInt8[np.ndarray, "t h w 3"], float]]:
    """Ten seconds each, with their rate: a scene that pans behind a circling ball, and what can go wrong with it."""
    cv2 = opencv()
    clean, u = _scene(0), np.linspace(0, 1, FRAMES)
    blurred = [cv2.GaussianBlur(frame, (0, 0), 0.3 + 4 * share) for frame, share in zip(clean, u, strict=True)]
    glaring = [128 + (frame - 128.0) * (1 + 0.8 * share) + 50 * share for frame, share in zip(clean, u, strict=True)]
    opening = [cv2.GaussianBlur(frame, (0, 0), 2) for frame in clean[: FRAMES // 10]]
    flicker = clean + 4.0 * (-1.0) ** np.arange(FRAMES)[:, None, None, None]
    steps = np.array([0, 6, -5, 4, -6, 5, -4, 6, -5, 3])[np.arange(FRAMES) * 10 // FRAMES]
    made = {
        "clean": clean,
        "frozen": np.repeat(clean[:1], FRAMES, axis=0),
        "blur": np.stack(blurred),
        "colour": np.stack(glaring),
        "opening": np.concatenate([opening, clean[FRAMES // 10 :]]),
        "cut": np.concatenate([clean[:CUT], _scene(1)[CUT:]]),
        "morph": _scene(0, becomes=5),
        "flicker": flicker,
        "duplicates": clean[np.arange(FRAMES) // 2 * 2],
        "seams": clean + 3.0 * steps[:, None, None, None],
    }
    return {name: (_pixels(frames), FPS) for name, frames in made.items()}


def _scene(seed: int, becomes: int | None = None) -> Float[np.ndarray, "t h w 3"]:
    """A textured wall that moves to the left, and a textured ball that may become another at a constant pace."""
    wall = _texture(WIDTH + PAN * FRAMES, HEIGHT, 2 * seed)
    ball, other = _skin(seed), _skin(seed if becomes is None else becomes)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    frames = np.empty((FRAMES, HEIGHT, WIDTH, 3), dtype=np.float32)
    for t in range(FRAMES):
        angle = 2 * math.pi * t / 16  # once in each segment, so that all move alike
        across, down = round(6 * math.cos(angle)), round(6 * math.sin(angle))
        skin = np.roll(ball + (other - ball) * (t / FRAMES), (down, across), axis=(0, 1))
        depth = HEIGHT / 3.5 - np.hypot(x - WIDTH / 2 - across, y - HEIGHT / 2 - down)
        cover = np.clip(depth / 4 + 0.5, 0, 1)[..., None]  # a soft edge: a sharp one would be most of the sharpness
        frames[t] = wall[:, PAN * t : PAN * t + WIDTH] * (1 - cover) + skin * cover
    return frames


def _texture(width: int, height: int, seed: int) -> Float[np.ndarray, "h w 3"]:
    """Around a colour of its own, detail at several scales, alike everywhere."""
    cv2, rng = opencv(), np.random.default_rng(seed)
    total = np.empty((height, width, 3), dtype=np.float32)
    total[:] = rng.uniform(90, 150, 3)
    for size in (32, 16, 8, 4, 2):
        grid = rng.uniform(-1, 1, (height // size + 2, width // size + 2, 3)).astype(np.float32)
        total += 4 * math.sqrt(size) * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(total, 10, 245)


def _skin(seed: int) -> Float[np.ndarray, "h w 3"]:
    """Stripes of two strong colours, in a direction and a width of their own."""
    rng = np.random.default_rng(100 + seed)
    light, dark = rng.uniform(140, 245, 3), rng.uniform(10, 110, 3)
    angle, width = rng.uniform(0, math.pi), rng.uniform(3, 6)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    share = np.sin((x * math.cos(angle) + y * math.sin(angle)) / width)[..., None] / 2 + 0.5
    return dark + (light - dark) * share


def _pixels(frames: Float[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "t h w 3"]:
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


# What must be found


@dataclass(frozen=True)
class _Found:
    """The evaluations of the made videos."""

    core: Results
    learned: Results | None
    """Of some of them, by higher tiers too."""
    reason: str = ""
    """Why there is none."""

    def score(self, video: str, metric: str) -> float:
        return value(_video(self.core, video).scores[f"{metric}@core"])

    def segments(self, video: str, metric: str) -> Float[np.ndarray, " n"]:
        return _segments(self.core, video, f"{metric}@core")

    def learned_segments(self, video: str, metric: str) -> Float[np.ndarray, " n"]:
        """By the metric of this name in the highest tier that was run."""
        assert self.learned is not None
        found = [m for m in self.learned.metrics if m.name == metric]
        return _segments(self.learned, video, max(found, key=lambda m: TIERS.index(m.tier)).key)

    def drift(self, video: str, quantity: str) -> DriftRecord:
        return _video(self.core, video).drift[f"{quantity}@core"]

    def vde(self, video: str, quantity: str) -> float:
        return value(self.drift(video, quantity).vde)

    def slope(self, video: str, quantity: str) -> float:
        """The highest trend that its interval allows, relative, per segment."""
        return value(self.drift(video, quantity).robust.slope_high)

    def warnings(self, video: str) -> float:
        return float(len(_video(self.core, video).warnings))

    def warned(self, video: str, kind: str) -> float:
        return float(any(warn.kind == kind for warn in _video(self.core, video).warnings))


def _video(results: Results, name: str) -> VideoRecord:
    found = next(video for video in results.videos if video.name == name)
    if found.status == "failed":
        raise InputError(f"the made video {name} could not be scored: {found.reason}")
    return found


def _segments(results: Results, video: str, key: str) -> Float[np.ndarray, " n"]:
    return np.array([value(score) for score in _video(results, video).segment_scores[key]])


@dataclass(frozen=True)
class _Expected:
    """A number that must be in a range."""

    name: str
    video: str
    measure: Callable[[_Found], float]
    low: float
    high: float
    needs: str = ""
    """A metric of a higher tier; where it is not run, nothing is said."""

    def check(self, found: _Found) -> Check:
        if self.needs:
            known = set() if found.learned is None else {metric.name for metric in found.learned.metrics}
            if self.needs not in known:
                reason = found.reason or f"{self.needs} is not measured at this tier"
                return Check(self.name, self.video, self._range(), math.nan, None, reason)
        measured = self.measure(found)
        return Check(self.name, self.video, self._range(), measured, self.low <= measured <= self.high)

    def _range(self) -> str:
        if self.low == self.high:
            return f"{self.low:g}"
        if self.high == math.inf:
            return f"at least {self.low:g}"
        return f"at most {self.high:g}" if self.low == -math.inf else f"{self.low:g} to {self.high:g}"


def _drop(scores: Float[np.ndarray, " n"]) -> float:
    """How much less the last tenth has than the first, relative."""
    return float(1 - scores[-1] / scores[0])


def _lost(video: str, found: _Found) -> float:
    """Of identity; crops hold some of the background, so a little is lost wherever that moves on."""
    return _drop(found.learned_segments(video, "identity"))


def _warns(video: str, kind: str) -> _Expected:
    return _Expected(f"a warning: {kind}", video, lambda found: found.warned(video, kind), 1, 1)


EXPECTED: tuple[_Expected, ...] = (
    _Expected("a sound video has no warnings", "clean", lambda f: f.warnings("clean"), 0, 0),
    _Expected("a pan is dynamic", "clean", lambda f: f.score("clean", "dynamic_degree"), 1, 1),
    _Expected("its sharpness stays", "clean", lambda f: abs(_drop(f.segments("clean", "clarity"))), 0, 0.15),
    _Expected("no drift of clarity", "frozen", lambda f: f.vde("frozen", "vde_clarity"), 0, 0),
    _Expected("no drift of motion", "frozen", lambda f: f.vde("frozen", "vde_motion"), 0, 0),
    _Expected("nothing moves", "frozen", lambda f: f.score("frozen", "dynamic_degree"), 0, 0),
    _Expected("all of it is frozen", "frozen", lambda f: f.score("frozen", "freeze"), 1, 1),
    _warns("frozen", "frozen"),
    _Expected("clarity falls throughout", "blur", lambda f: f.slope("blur", "vde_clarity"), -math.inf, -0.01),
    _Expected("its clarity is lost", "blur", lambda f: _drop(f.segments("blur", "clarity")), 0.6, 1),
    _Expected("exposure grows", "colour", lambda f: -_drop(f.segments("colour", "exposure")), 0.2, math.inf),
    _Expected("saturation grows", "colour", lambda f: -_drop(f.segments("colour", "saturation")), 0.2, math.inf),
    _warns("colour", "exposure"),
    _warns("opening", "first segment"),
    _Expected("one cut", "cut", lambda f: f.score("cut", "cuts"), 1, 1),
    _Expected("no cut where all moves", "clean", lambda f: f.score("clean", "cuts"), 0, 0),
    _warns("cut", "cuts"),
    _Expected("identity is lost", "morph", lambda f: _lost("morph", f) - _lost("clean", f), 0.03, 1, "identity"),
    _Expected(
        "within a segment it is kept",
        "morph",
        lambda f: abs(_drop(f.learned_segments("morph", "subject_consistency"))),
        0,
        0.05,
        "subject_consistency",
    ),
    _Expected("8 levels of flicker", "flicker", lambda f: f.score("flicker", "flicker"), 5, 9),
    _Expected("motion is no flicker", "clean", lambda f: f.score("clean", "flicker"), 0, 1.5),
    _warns("flicker", "flicker"),
    _Expected("every second frame repeats", "duplicates", lambda f: f.score("duplicates", "duplicate"), 0.49, 0.51),
    _warns("duplicates", "duplicates"),
    _Expected("chunks jump", "seams", lambda f: f.score("seams", "boundary_jump"), 1.3, math.inf),
    _Expected("chunks do not jump", "clean", lambda f: f.score("clean", "boundary_jump"), 0.8, 1.2),
)


def checks(tier: Tier = "core", metrics: Callable[[Tier], tuple[Metric, ...]] = catalogue.metrics) -> tuple[Check, ...]:
    """Evaluate the made videos and compare with what must be found; what cannot run says why.

    `metrics` gives those of a tier, with the weights to use. All videos are scored by tier core, and some by the whole
    of a higher one; an InputError of that one, such as for weights that lack, is the reason of checks that cannot run.
    Raises InputError where OpenCV is not installed.
    """
    made = videos()
    core = Evaluation(metrics=metrics("core"))(made, borders={"clean": BORDERS, "seams": BORDERS})
    found = _Found(core, None, "tier core has no features; use --tier light")
    if tier != "core":
        try:
            higher = Evaluation(tier=tier, metrics=metrics(tier))
            found = _Found(core, higher({name: made[name] for name in LEARNED}))
        except InputError as error:
            found = _Found(core, None, str(error))
    return (*_arithmetic(), *(expected.check(found) for expected in EXPECTED), _features(found))


def _features(found: _Found) -> Check:
    """All-zero or equal features are what VBench gives where a library does not fit."""
    name, expected = "features differ and none is zero", "0"
    if found.learned is None:
        return Check(name, "", expected, math.nan, None, found.reason)
    warns = [warn for name in LEARNED for warn in _video(found.learned, name).warnings if warn.kind == "features"]
    return Check(name, ", ".join(LEARNED), expected, float(len(warns)), not warns)


# Arithmetic


def _arithmetic() -> tuple[Check, ...]:
    """Weights and VDE of ten segments, by hand (Eqs. 17-19)."""
    ramp = np.linspace(1, 0.5, 10)
    golden = (
        ("VDE of a last segment that halves", {"linear": 0.5, "log": 0.0}, _but(9, 0.5)),
        ("VDE of a second segment that halves", {"linear": 4.5, "log": 1.098612}, _but(1, 0.5)),
        ("VDE of a ramp to one half", {"linear": 9.166667, "log": 2.720072}, ramp),
        ("VDE of a fall after the first segment", {"linear": 22.5, "log": 6.400914}, np.array([1] + [0.5] * 9)),
        ("VDE of a bad first segment", {"linear": 45.0, "log": 12.801827}, _but(0, 0.5)),
        ("VDE of a constant", {"linear": 0.0, "log": 0.0}, np.full(10, 0.7)),
    )
    kinds: tuple[Weights, ...] = ("linear", "log")
    vector = weights("linear", 10)
    off = float(np.abs(vector - np.arange(9, 0, -1)).max())
    made = [Check("linear weights are 9, 8, ..., 1", "", "0", off, off == 0)]
    for name, expected, scores in golden:
        for kind in kinds:
            vde = Drift(kind)(scores).vde
            passed = math.isclose(vde, expected[kind], abs_tol=1e-6)
            made.append(Check(f"{name}, {kind} weights", "", f"{expected[kind]:g}", vde, passed))
    return tuple(made)


def _but(segment: int, score: float) -> Float[np.ndarray, " n"]:
    scores = np.ones(10)
    scores[segment] = score
    return scores
