"""Takes: who is where, what happens in each chunk, and the motion that follows from it as functions of time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from blockvid.errors import InputError
from blockvid.storybook.scenes import HELD_OUT, SCENES, scene_named
from blockvid.storybook.subjects import SUBJECTS, subject_named

CHUNK_SECONDS = 4.0
RATE = 60  # steps per second of the motion's simulation; frames interpolate, so no frame rate is special

Direction = Literal["left", "right", "none"]
Split = Literal["train", "heldout", "every"]
"""Pairs of a subject and a scene: those that generators are trained on, those kept from them, or all."""
TimeName = Literal["dawn", "day", "dusk", "night"]
ACTIONS = ("walk", "run", "hop", "jump", "stand", "turn", "sway", "approach", "recede", "leave", "absent", "return")
DIRECTED = ("walk", "run", "leave", "return")
CAMERAS = ("still", "follow", "pan_left", "pan_right", "zoom_in", "zoom_out")
HOURS: dict[TimeName, float] = {"dawn": 6.2, "day": 12.0, "dusk": 18.5, "night": 23.5}


@dataclass(frozen=True)
class Segment:
    """One chunk of a take; `speed` in frame heights per second (walk and run only)."""

    action: str
    direction: Direction = "none"
    speed: float = 0.0
    camera: str = "follow"


@dataclass(frozen=True)
class Weather:
    """clear, rain, snow or fog, growing for three seconds from `onset` (0: from the very start)."""

    kind: str = "clear"
    onset: float = 0.0

    def level(self, seconds: float) -> float:
        if self.kind == "clear":
            return 0.0
        return 1.0 if self.onset <= 0 else float(smoothstep((seconds - self.onset) / 3.0))


@dataclass(frozen=True)
class Clock:
    """The hour of the day: `hour` at the start, then `rate` hours per second."""

    hour: float = 12.0
    rate: float = 0.0


@dataclass(frozen=True)
class Take:
    """One continuous shot of a subject in a scene; everything that is seen follows from these fields."""

    seed: int
    scene: str
    subject: str
    segments: tuple[Segment, ...]
    clock: Clock = Clock()
    weather: Weather = Weather()
    facing: Literal["left", "right"] = "right"

    def __post_init__(self) -> None:
        scene, subject = scene_named(self.scene), subject_named(self.subject)
        if subject.medium not in scene.media:
            raise InputError(f"{self.subject} moves in {subject.medium}, which {self.scene} lacks; use another scene")
        if not self.segments:
            raise InputError("a take of 0 segments shows nothing; give one segment for every 4 seconds")
        for segment in self.segments:
            _check(segment)

    @property
    def seconds(self) -> float:
        return CHUNK_SECONDS * len(self.segments)

    def segment_at(self, seconds: float) -> Segment:
        return self.segments[min(max(0, int(seconds / CHUNK_SECONDS)), len(self.segments) - 1)]

    def hour(self, seconds: float) -> float:
        return (self.clock.hour + self.clock.rate * seconds) % 24

    def time_of_day(self, seconds: float) -> TimeName:
        return time_at(self.hour(seconds))


def time_at(hour: float) -> TimeName:
    """What a caption calls an hour of the day."""
    if 5.0 <= hour < 7.6:
        return "dawn"
    if 7.6 <= hour < 17.0:
        return "day"
    return "dusk" if 17.0 <= hour < 20.2 else "night"


def _check(segment: Segment) -> None:
    if segment.action not in ACTIONS:
        raise InputError(f"action {segment.action!r} is unknown; use one of {', '.join(ACTIONS)}")
    if segment.camera not in CAMERAS:
        raise InputError(f"camera {segment.camera!r} is unknown; use one of {', '.join(CAMERAS)}")
    if (segment.action in DIRECTED) != (segment.direction in ("left", "right")):
        raise InputError(
            f"{segment.action} with direction {segment.direction!r} does not fit; "
            f"{', '.join(DIRECTED)} go left or right, all others have direction none"
        )


def smoothstep(x: np.ndarray | float) -> np.ndarray:
    """From 0 to 1, both held beyond, with no corner."""
    x = np.clip(np.asarray(x), 0.0, 1.0)
    return x * x * (3 - 2 * x)


@dataclass(frozen=True)
class Motion:
    """The state at some times, one entry per time (float64).

    x: subject in the world (frame heights); scale: nearness, 1 usual; facing: -1 left .. 1 right; speed: signed;
    travelled: signed distance; lift: height above the ground; tilt: radians, positive clockwise; squash: height factor;
    camera: world x at the centre of the frame; zoom.
    """

    x: np.ndarray
    scale: np.ndarray
    facing: np.ndarray
    speed: np.ndarray
    travelled: np.ndarray
    lift: np.ndarray
    tilt: np.ndarray
    squash: np.ndarray
    camera: np.ndarray
    zoom: np.ndarray


SIGN = {"left": -1.0, "right": 1.0, "none": 0.0}
NEAR, FAR, NEARNESS = 1.3, 0.74, 1.36
ZOOM_STEP, ZOOM_RANGE = 1.28, (0.85, 1.35)


@dataclass
class _Body:
    """What the simulation carries from step to step."""

    x: float = 0.0
    v: float = 0.0
    scale: float = 1.0
    facing: float = 1.0
    camera: float = 0.0
    camera_v: float = 0.0
    zoom: float = 1.0


@dataclass(frozen=True)
class _Goal:
    """What a segment aims at, fixed when it starts."""

    velocity: float
    scale: tuple[float, float]
    zoom: tuple[float, float]
    facing: tuple[float, float]


def _goal(segment: Segment, body: _Body, facing: float) -> _Goal:
    sign = SIGN[segment.direction]
    velocity = sign * segment.speed
    if segment.action == "leave":
        velocity = (body.camera + sign * 1.55 / body.zoom - body.x) / 3.4
    elif segment.action == "return":
        velocity = (body.camera - body.x) / 3.7
    scale = {"approach": min(NEAR, body.scale * NEARNESS), "recede": max(FAR, body.scale / NEARNESS)}
    zoom = {"zoom_in": min(ZOOM_RANGE[1], body.zoom * ZOOM_STEP), "zoom_out": max(ZOOM_RANGE[0], body.zoom / ZOOM_STEP)}
    ahead = sign or facing
    return _Goal(
        velocity,
        (body.scale, scale.get(segment.action, body.scale)),
        (body.zoom, zoom.get(segment.camera, body.zoom)),
        (ahead, -ahead if segment.action == "turn" else ahead),
    )


def _play(segment: Segment, body: _Body, facing: float) -> tuple[np.ndarray, _Body, float]:
    """One segment from a state: the rows x, scale, facing, v, camera, zoom, the state after it and the way it faces."""
    goal, steps = _goal(segment, body, facing), round(CHUNK_SECONDS * RATE)
    local = np.arange(steps) / RATE
    ease = smoothstep((local - 0.1) / 3.6)
    scale, zoom = (
        np.append(now, begin + (end - begin) * ease)
        for now, (begin, end) in ((body.scale, goal.scale), (body.zoom, goal.zoom))
    )
    x, facings, v, camera, camera_v = np.array(list(_walk(segment, body, goal, local.tolist()))).T
    rows = np.stack((x, scale, facings, v, camera, zoom), axis=1)
    after = _Body(*(float(column[-1]) for column in (x, v, scale, facings, camera, camera_v, zoom)))
    return rows[:-1], after, goal.facing[1]


def _walk(
    segment: Segment, body: _Body, goal: _Goal, local: Sequence[float]
) -> Iterator[tuple[float, float, float, float, float]]:
    """x, facing, v, camera and its speed, before the first of the moments `local` and after each."""
    x, v, facing, camera, camera_v = body.x, body.v, body.facing, body.camera, body.camera_v
    dt = 1 / RATE
    speeding, turning, omega = min(1.0, 6 * dt), min(1.0, 7 * dt), 2.6
    velocity, facings = goal.velocity, goal.facing
    pan = {"still": 0.0, "pan_left": -0.14, "pan_right": 0.14}.get(segment.camera)
    yield x, facing, v, camera, camera_v
    for moment in local:
        v += (velocity - v) * speeding
        x += v * dt
        facing += (facings[moment > 1.5] - facing) * turning
        if pan is not None:
            camera_v += (pan - camera_v) * 4 * dt
        else:
            lead = x + 0.08 * facing
            camera_v += (omega**2 * (lead - camera) + 2 * omega * (v - camera_v)) * dt
        camera += camera_v * dt
        yield x, facing, v, camera, camera_v


@lru_cache(maxsize=32)
def _simulate(take: Take) -> np.ndarray:
    """Columns x, scale, facing, v, camera, zoom at RATE steps per second."""
    first = take.segments[0].direction
    facing = SIGN[take.facing if first == "none" else first]
    body, table = _Body(facing=facing), []
    for segment in take.segments:
        rows, body, facing = _play(segment, body, facing)
        table.append(rows)
    table.append(np.array([(body.x, body.scale, body.facing, body.v, body.camera, body.zoom)]))
    return np.concatenate(table)


def motion(take: Take, seconds: np.ndarray) -> Motion:
    """The take's state at the given times; times past the end hold the last state."""
    table = _simulate(take)
    clock = np.arange(len(table)) / RATE
    x, scale, facing, v, camera, zoom = (np.interp(seconds, clock, column) for column in table.T)
    lift, tilt, squash = _gesture(take, seconds, x, v)
    return Motion(x, scale, facing, v, x - table[0, 0], lift, tilt, squash, camera, zoom)


# per way of moving: bounces per frame height travelled, lift, tilt, squash
_GAIT_SHAPE = {
    "stride": (2.6, 0.016, 0.05, 0.01),
    "trot": (2.4, 0.02, 0.05, 0.015),
    "hop": (1.8, 0.09, 0.06, 0.06),
    "creep": (3.0, 0.004, 0.02, 0.045),
    "waddle": (2.4, 0.014, 0.13, 0.01),
    "drive": (4.0, 0.006, 0.012, 0.01),
    "ride": (3.0, 0.006, 0.03, 0.0),
    "roll": (0.0, 0.0, 0.0, 0.0),
    "swim": (1.6, 0.008, 0.07, 0.01),
    "sail": (0.9, 0.008, 0.05, 0.0),
    "fly": (2.2, 0.03, 0.07, 0.05),
    "float": (1.0, 0.02, 0.04, 0.0),
}


def _gesture(
    take: Take, seconds: np.ndarray, x: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lift, tilt and squash: the gait's own bounce, then what the segment's action adds."""
    subject = subject_named(take.subject)
    bounces, lift_by, tilt_by, squash_by = _GAIT_SHAPE[subject.motion]
    effort = np.clip(np.abs(v) / 0.15, 0, 1)
    beat = np.sin(math.pi * bounces * x)
    lift, tilt = lift_by * np.abs(beat) * effort, tilt_by * beat * effort + 0.1 * np.clip(v, -0.6, 0.6)
    squash = 1 + squash_by * (np.abs(beat) - 0.5) * effort + 0.012 * np.sin(2.6 * seconds)
    if subject.medium != "ground" or subject.motion == "float":
        sway = 0.022 if subject.medium == "air" else 0.008
        lift, tilt = lift + sway * np.sin(2.1 * seconds), tilt + 0.03 * np.sin(1.3 * seconds)
    if subject.motion == "roll":
        tilt = x / (0.2 * subject.size)
    index = np.clip((seconds / CHUNK_SECONDS).astype(int), 0, len(take.segments) - 1)
    actions = np.array([segment.action for segment in take.segments])[index]
    local = seconds - index * CHUNK_SECONDS
    window = np.clip(local / 0.4, 0, 1) * np.clip((CHUNK_SECONDS - local) / 0.4, 0, 1)
    hop = np.abs(np.sin(math.pi * 1.5 * local)) * window * (actions == "hop")
    flight = np.clip(np.mod(local, 2.0) - 0.5, 0, 1)
    jump = 4 * flight * (1 - flight) * (actions == "jump")
    dance = np.sin(math.pi * 2 * local / 1.333) * window * (actions == "sway")
    lift = lift + 0.1 * hop + 0.2 * jump + 0.02 * np.abs(dance)
    squash = squash + 0.09 * (hop - 0.4 * window * (actions == "hop")) + 0.08 * jump
    return lift, tilt + (0.1 if subject.kind == "vehicle" or subject.motion == "sail" else 0.26) * dance, squash


def make_take(
    scene: str,
    subject: str,
    segments: tuple[Segment, ...],
    seed: int = 0,
    time: TimeName = "day",
    weather: str = "clear",
) -> Take:
    """A take with chosen content at a constant time of day and in constant weather."""
    if weather not in ("clear", "rain", "snow", "fog"):
        raise InputError(f"weather {weather!r} is unknown; use clear, rain, snow or fog")
    return Take(seed, scene, subject, segments, Clock(HOURS[time]), Weather(weather))


def sample_take(
    seed: int, seconds: float, split: Split = "train", scene: str | None = None, subject: str | None = None
) -> Take:
    """A random take of at least `seconds`, of the pairs in `split`."""
    rng = np.random.default_rng([seed, 7919])
    pair = _pair(rng, split, scene, subject)
    count = max(1, math.ceil(seconds / CHUNK_SECONDS - 1e-6))
    clock, weather = _clock(rng, count * CHUNK_SECONDS), _weather(rng, pair[1], count * CHUNK_SECONDS)
    facing: Literal["left", "right"] = "left" if rng.random() < 0.5 else "right"
    return Take(seed, pair[1], pair[0], _segments(rng, pair[0], count, facing), clock, weather, facing)


def _pair(rng: np.random.Generator, split: Split, scene: str | None, subject: str | None) -> tuple[str, str]:
    """Subject and scene; scenes are drawn first so that each is equally frequent."""
    pairs = _pairs(split, scene, subject)
    if not pairs:
        raise InputError(f"no {split} pair has subject {subject!r} and scene {scene!r}; leave one of them open")
    scenes = sorted(pairs)
    chosen = scenes[int(rng.integers(len(scenes)))]
    subjects = pairs[chosen]
    water = [key for key in subjects if subject_named(key).medium == "water"]
    if water and rng.random() < 0.4:
        subjects = water
    return subjects[int(rng.integers(len(subjects)))], chosen


@lru_cache(maxsize=256)
def _pairs(split: Split, scene: str | None, subject: str | None) -> dict[str, list[str]]:
    """By scene, the subjects that are shown in it."""
    pairs: dict[str, list[str]] = {}
    for s in SUBJECTS:
        for c in SCENES.values():
            wanted = s.medium in c.media and scene in (None, c.key) and subject in (None, s.key)
            of = "heldout" if (s.key, c.key) in HELD_OUT else "train"
            if wanted and split in (of, "every"):
                pairs.setdefault(c.key, []).append(s.key)
    return pairs


def _clock(rng: np.random.Generator, seconds: float) -> Clock:
    if rng.random() < 0.25 and seconds >= 8:
        start, stop = ((4.4, 6.6), (6.0, 9.0), (16.0, 18.6), (18.0, 21.2), (16.2, 21.5), (4.3, 9.2))[
            int(rng.integers(6))
        ]
        return Clock(start, (stop - start) / seconds)
    time: TimeName = ("dawn", "day", "day", "dusk", "night")[int(rng.integers(5))]  # type: ignore[assignment]
    return Clock(HOURS[time] + float(rng.uniform(-0.3, 0.3)))


def _weather(rng: np.random.Generator, scene: str, seconds: float) -> Weather:
    kinds = [kind for kind in SCENES[scene].weather if kind != "clear"]
    if not kinds or rng.random() < 0.72:
        return Weather()
    kind = kinds[int(rng.integers(len(kinds)))]
    late = rng.random() < 0.35 and seconds >= 8
    return Weather(kind, float(rng.uniform(2.0, seconds - 5.0)) if late else 0.0)


def _segments(
    rng: np.random.Generator, subject: str, count: int, looks: Literal["left", "right"]
) -> tuple[Segment, ...]:
    away = rng.random() < 0.15 and count >= 4
    departure = int(rng.integers(1, count - 2)) if away else -1
    segments: list[Segment] = []
    body, facing = _Body(facing=SIGN[looks]), SIGN[looks]
    while len(segments) < count:
        if len(segments) == departure:
            planned = _absence(rng, facing, departure + 3 < count)
        else:
            planned = (_shown(rng, body, facing, subject),)
        for segment in planned:
            _, body, facing = _play(segment, body, facing)
        segments.extend(planned)
    return tuple(segments)


def _absence(rng: np.random.Generator, facing: float, long: bool) -> tuple[Segment, ...]:
    """Leaves the frame, is away for a chunk or two, and comes back from that side."""
    there: Direction = "right" if facing > 0 else "left"
    back: Direction = "left" if facing > 0 else "right"
    absences = 2 if long and rng.random() < 0.4 else 1
    # the camera may look the other way meanwhile, never after the subject
    camera = f"pan_{back}" if rng.random() < 0.35 else "still"
    absent = (Segment("absent", "none", 0.0, camera),) * absences
    return (Segment("leave", there, 0.0, "still"), *absent, Segment("return", back, 0.0, "still"))


def _shown(rng: np.random.Generator, body: _Body, facing: float, subject: str) -> Segment:
    """A segment in which the subject stays in the frame and everything announced can be seen."""
    heading: Direction = "right" if facing > 0 else "left"
    turned: Direction = "left" if facing > 0 else "right"
    member = subject_named(subject)
    pace, jumps = 0.7 if member.motion == "creep" else 1.0, member.kind != "vehicle" and member.motion != "sail"
    for _ in range(20):
        segment = _segment(rng, turned if rng.random() < 0.3 else heading, pace, jumps)
        rows, after, _ = _play(segment, body, facing)
        x, _, _, _, camera, zoom = rows.T
        offset = float((np.abs(x - camera) * zoom).max())
        zoomed = not segment.camera.startswith("zoom") or abs(math.log(after.zoom / body.zoom)) > 0.15
        moved = segment.action not in ("approach", "recede") or abs(math.log(after.scale / body.scale)) > 0.2
        if offset < 0.6 and zoomed and moved:
            return segment
    return Segment("walk", heading, 0.2 * pace, "follow")


def _segment(rng: np.random.Generator, heading: Direction, pace: float, jumps: bool) -> Segment:
    """An ordinary chunk, whether or not it fits where the subject is."""
    draw = rng.random()
    if draw < 0.36:
        pan = f"pan_{heading}"
        camera = ("follow", "follow", "follow", "still", pan, "zoom_in", "zoom_out")[int(rng.integers(7))]
        speed = rng.uniform(0.13, 0.19) if camera in ("still", pan) else rng.uniform(0.18, 0.3)
        return Segment("walk", heading, float(speed) * pace, camera)
    if draw < 0.48:
        return Segment(
            "run",
            heading,
            float(rng.uniform(0.45, 0.65)) * pace,
            ("follow", "follow", "zoom_out")[int(rng.integers(3))],
        )
    actions = ("stand", "stand", "turn", "sway", "approach", "approach", "recede", "recede", *(("hop", "jump") * jumps))
    action = actions[int(rng.integers(len(actions)))]
    cameras = (
        ("still", "still", "follow")
        if action in ("approach", "recede")
        else ("still", "still", "pan_left", "pan_right", "zoom_in", "zoom_out")
    )
    return Segment(action, "none", 0.0, cameras[int(rng.integers(len(cameras)))])
