"""Sentences that say what a chunk of a take shows."""

from __future__ import annotations

import numpy as np

from blockvid.errors import InputError
from blockvid.storybook.scenes import scene_named
from blockvid.storybook.subjects import Subject, subject_named
from blockvid.storybook.takes import CHUNK_SECONDS, Segment, Take

TIMES: dict[str, tuple[str, ...]] = {
    "dawn": ("at dawn", "at sunrise", "early in the morning", "at daybreak"),
    "day": ("by day", "in the daytime", "on a bright day", "at midday"),
    "dusk": ("at dusk", "at sunset", "in the evening", "in the evening glow"),
    "night": ("at night", "by night", "under the night sky", "in the dark of night"),
}
TIMES_COVERED = {
    "day": ("by day", "in the daytime", "at midday"),
    "night": ("at night", "by night"),
    "dusk": ("at dusk", "in the evening"),
}
CHANGES: dict[tuple[str, str], tuple[str, ...]] = {
    ("night", "dawn"): ("as dawn breaks", "as night turns to dawn"),
    ("dawn", "day"): ("as dawn turns to day", "as the day begins"),
    ("day", "dusk"): ("as the day turns to dusk", "as the sun goes down"),
    ("dusk", "night"): ("as night falls", "as dusk turns to night"),
}
WEATHER: dict[str, tuple[str, ...]] = {
    "rain": ("in the rain", "while rain is falling", "on a rainy day"),
    "snow": ("in falling snow", "while it is snowing", "in the snowfall"),
    "fog": ("in the fog", "in thick mist", "on a foggy day"),
}
ONSET: dict[str, tuple[str, ...]] = {
    "rain": ("as it begins to rain", "as rain starts to fall"),
    "snow": ("as it begins to snow", "as snow starts to fall"),
    "fog": ("as fog rolls in", "as mist gathers"),
}
CAMERA: dict[str, tuple[str, ...]] = {
    "still": ("the camera is still", "the camera stays still", "in a static shot"),
    "follow": ("the camera follows", "the camera moves along", "in a tracking shot"),
    "pan_left": ("the camera pans left", "the camera pans to the left"),
    "pan_right": ("the camera pans right", "the camera pans to the right"),
    "zoom_in": ("the camera zooms in", "in a slow zoom in"),
    "zoom_out": ("the camera zooms out", "in a slow zoom out"),
}
ON_THE_SPOT: dict[str, tuple[str, ...]] = {
    "hop": ("hops in place", "bounces up and down", "hops up and down"),
    "jump": ("jumps into the air", "jumps high", "leaps up"),
    "stand": ("stays where it is", "rests", "stays still", "waits"),
    "turn": ("turns around", "turns to the {way}"),
    "sway": ("sways from side to side", "dances", "rocks from side to side"),
    "approach": ("comes closer", "approaches the camera", "comes nearer"),
    "recede": ("goes away from the camera", "moves away into the distance", "goes farther away"),
}
STANDING = {
    "ground": ("stands still", "stands"),
    "water": ("floats still", "floats on the water"),
    "air": ("hovers", "hovers in the air"),
}


def captions(take: Take) -> tuple[str, ...]:
    """One sentence per chunk of 4 seconds; the wording is drawn from the take's seed."""
    rng = np.random.default_rng([take.seed, 104729])
    return tuple(caption(take, index, rng) for index in range(len(take.segments)))


def caption(take: Take, chunk: int, rng: np.random.Generator, opens: bool = False) -> str:
    """A sentence for one chunk, in words drawn from `rng`.

    One that does not open a take, or a film's part (`opens`), sometimes says "it" or leaves out the scene.
    """
    _in_take(take, chunk)
    subject, segment = subject_named(take.subject), take.segments[chunk]
    later = chunk > 0 and not opens
    terse = later and rng.random() < 0.1
    pronoun = terse and rng.random() < 0.5 and segment.action != "absent"
    name = _pronoun(subject) if pronoun else _name(subject, rng, "the " if later and rng.random() < 0.3 else None)
    deed = _deed(take, chunk, rng)
    place = "" if terse and not pronoun else _place(take, rng)
    when, weather = _when(take, chunk, rng), _weather(take, chunk, rng)
    camera = _camera(segment, rng) if rng.random() < 0.75 else ""
    if segment.action == "absent":
        return _sentence(_absent(take, name, rng), when, weather, camera)
    order = rng.random()
    if order < 0.5:
        return _sentence(f"{name} {deed}", place, when, weather, camera)
    if order < 0.65:
        return (
            _sentence(f"{when}, {name} {deed}", place, weather, camera)
            if not when.startswith("as ")
            else _sentence(f"{name} {deed}", place, when, weather, camera)
        )
    if order < 0.8 and place:
        return _sentence(f"{place}, {name} {deed}", when, weather, camera)
    if order < 0.9 and camera.startswith("the camera"):
        return _sentence(f"{camera} as {name} {deed}", place, when, weather)
    return _sentence(f"{name} {deed}", when, place, weather, camera)


def full_prompt(take: Take, chunk: int) -> str:
    """The plain caption that states everything in the first words of every list: for storyboards and for measuring."""
    _in_take(take, chunk)
    subject, segment = subject_named(take.subject), take.segments[chunk]
    scene = scene_named(take.scene)
    when = TIMES[take.time_of_day((chunk + 0.5) * CHUNK_SECONDS)][0]
    weather = "" if _level(take, chunk) < 0.5 else WEATHER[take.weather.kind][0]
    place = f"{scene.preposition} {_a(scene.noun) if scene.key != 'moon' else 'the moon'}"
    if segment.action == "absent":
        return _sentence(f"{place} without {_a(subject.noun)}", when, weather, CAMERA[segment.camera][0])
    return _sentence(f"{_a(subject.noun)} {_verbs(take, chunk)[0]}", place, when, weather, CAMERA[segment.camera][0])


def _in_take(take: Take, chunk: int) -> None:
    if not 0 <= chunk < len(take.segments):
        raise InputError(f"chunk {chunk} is not in this take; use 0 to {len(take.segments) - 1}")


def _one(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    """One of the choices, the first (plainest) twice as often as each other."""
    return choices[max(0, int(rng.integers(-1, len(choices))))]


def _a(noun: str) -> str:
    if noun.endswith("mountains") and not noun.endswith("landscape"):
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _name(subject: Subject, rng: np.random.Generator, article: str | None) -> str:
    noun = _one(rng, (subject.noun, *subject.synonyms))
    return _a(noun) if article is None else article + noun


def _pronoun(subject: Subject) -> str:
    if subject.kind != "person":
        return "it"
    return (
        "he"
        if any(word in subject.noun for word in ("man in a blue", "wizard", "prince", "suit", "guard"))
        and "princess" not in subject.noun
        else (
            "she"
            if any(word in subject.noun for word in ("woman", "princess", "dress", "fairy"))
            else "the same person"
        )
    )


def _place(take: Take, rng: np.random.Generator) -> str:
    scene = scene_named(take.scene)
    noun = _one(rng, (scene.noun, *scene.synonyms))
    if scene.key == "moon":
        return f"on the {noun}"
    medium = subject_named(take.subject).medium
    words = [scene.preposition]
    if scene.water is not None:
        words = {
            "water": ["at", "near"],
            "ground": ["on" if scene.key == "beach" else "at", "by"],
            "air": ["above", "over"],
        }[medium]
    elif medium == "air":
        words = [scene.preposition, "above", "over"]
    word = words[int(rng.integers(len(words)))]
    return f"{word} {_a(noun)}"


def _verbs(take: Take, chunk: int) -> tuple[str, ...]:
    subject, segment = subject_named(take.subject), take.segments[chunk]
    slow, fast = subject.gait.slow, subject.gait.fast
    way = segment.direction
    if segment.action == "walk":
        return tuple(
            f"{verb} {tail}"
            for verb in slow
            for tail in (
                f"to the {way}",
                f"slowly to the {way}" if "slow" not in verb else f"to the {way}",
                f"towards the {way}",
            )
        )
    if segment.action == "run":
        return tuple(f"{verb} {tail}" for verb in fast for tail in (f"to the {way}", f"towards the {way}"))
    if segment.action == "leave":
        return tuple(f"{verb} out of the frame to the {way}" for verb in slow)
    if segment.action == "return":
        came = "left" if way == "right" else "right"
        return tuple(
            f"{start}, moving to the {way}"
            for start in (f"comes back into view from the {came}", f"returns from the {came}")
        )
    if segment.action == "stand":
        still = STANDING[subject.medium]
        return (*still, *ON_THE_SPOT["stand"][1:])
    if segment.action == "turn":
        after = "left" if _facing_before(take, chunk) == "right" else "right"
        return tuple(phrase.format(way=after) for phrase in ON_THE_SPOT["turn"])
    if segment.action == "sway" and (subject.kind == "vehicle" or subject.motion == "sail"):
        return ("sways from side to side", "rocks from side to side")
    return ON_THE_SPOT[segment.action]


def _deed(take: Take, chunk: int, rng: np.random.Generator) -> str:
    return "" if take.segments[chunk].action == "absent" else _one(rng, _verbs(take, chunk))


def _facing_before(take: Take, chunk: int) -> str:
    first = take.segments[0].direction
    facing = take.facing if first == "none" else first
    for segment in take.segments[:chunk]:
        if segment.direction != "none":
            facing = segment.direction
        if segment.action == "turn":
            facing = "left" if facing == "right" else "right"
    return facing


def _absent(take: Take, name: str, rng: np.random.Generator) -> str:
    scene = scene_named(take.scene)
    noun = _one(rng, (scene.noun, *scene.synonyms))
    shown = (
        name.replace("an ", "the ", 1)
        if name.startswith("an ")
        else name.replace("a ", "the ", 1)
        if name.startswith("a ")
        else name
    )
    empty = "are empty" if noun.endswith("mountains") else "is empty"
    return _one(
        rng,
        (
            f"the {noun} {empty}, {shown} is out of sight",
            f"{shown} is gone and the {noun} {empty}",
            f"an empty view of the {noun} without {shown}",
        ),
    )


def _when(take: Take, chunk: int, rng: np.random.Generator) -> str:
    start, end = (take.time_of_day((chunk + share) * CHUNK_SECONDS) for share in (0.05, 0.95))
    if (start, end) in CHANGES:
        return _one(rng, CHANGES[start, end])
    time = take.time_of_day((chunk + 0.5) * CHUNK_SECONDS)
    covered = _level(take, chunk) > 0.3 or take.scene == "moon"
    words = TIMES_COVERED.get(time, TIMES[time][:1]) if covered else TIMES[time]
    noon = 10 < take.hour((chunk + 0.5) * CHUNK_SECONDS) < 14
    return _one(rng, words if noon else tuple(word for word in words if word != "at midday"))


def _level(take: Take, chunk: int) -> float:
    return take.weather.level((chunk + 0.5) * CHUNK_SECONDS)


def _weather(take: Take, chunk: int, rng: np.random.Generator) -> str:
    kind, onset = take.weather.kind, take.weather.onset
    if kind == "clear":
        return ""
    if onset > 0 and chunk * CHUNK_SECONDS <= onset + 1.0 < (chunk + 1) * CHUNK_SECONDS:
        return _one(rng, ONSET[kind])
    if _level(take, chunk) < 0.5:
        return ""
    by_day = take.time_of_day((chunk + 0.5) * CHUNK_SECONDS) == "day"
    return _one(
        rng, WEATHER[kind] if by_day else tuple(phrase for phrase in WEATHER[kind] if not phrase.endswith("day"))
    )


def _camera(segment: Segment, rng: np.random.Generator) -> str:
    return _one(rng, CAMERA[segment.camera])


def _sentence(*parts: str) -> str:
    """The parts as one sentence; a clause about the camera is joined with "while"."""
    text = ""
    for part in parts:
        if not part:
            continue
        if part.startswith("the camera") and text:
            text += f" while {part}" if " while " not in text else f", and {part}"
        elif part.startswith("in a ") and part.split()[-1] in ("shot", "in", "out") and text:
            text += f", {part}"
        else:
            text += f" {part}" if text else part
    return text[0].upper() + text[1:] + "."
