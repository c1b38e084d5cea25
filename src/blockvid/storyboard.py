"""What to show and when: the storyboard, every file form it is read from, and its cut into chunks.

The forms are described in docs/storyboards.md. Nothing here needs torch.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
import reprlib
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from blockvid.errors import InputError

MAX_BYTES = 10_000_000
MAX_SHOTS = 1_000
MAX_SECONDS = 3_600
MAX_PROMPT = 10_000
SHOT_SECONDS = 4.0
"""Length of a shot that states none: the paper's storyboards caption four seconds at a time."""

Form = Literal["json", "toml", "yaml", "text", "jsonl"]
FORMS: Mapping[str, Form] = {
    ".json": "json",
    ".toml": "toml",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".txt": "text",
    ".jsonl": "jsonl",
}


class Timeline(Protocol):
    """The part of ``Geometry`` that cuts time (a protocol because siblings do not import each other)."""

    @property
    def fps(self) -> float: ...
    @property
    def chunk_frames(self) -> int: ...
    @property
    def temporal_stride(self) -> int: ...
    def latent_frames(self, pixel_frames: int) -> int: ...


@dataclass(frozen=True)
class Chunk:
    """One unit of autoregression: latent frames ``start`` to ``stop`` of the video, all showing one prompt."""

    index: int
    shot: int
    start: int
    stop: int
    prompt: str
    seed: int | None = None
    guidance: float | None = None
    image: Path | None = None
    """The shot's anchor image, on the first chunk of a shot that has one."""

    @property
    def frames(self) -> int:
        """Latent frames in this chunk."""
        return self.stop - self.start


def _one_line(text: str) -> str:
    control = next((c for c in text if unicodedata.category(c) == "Cc" and not c.isspace()), None)
    if control is not None:
        raise InputError(f"control character {control!r} is not text; remove it")
    return " ".join(text.split())


Words = Annotated[str, StringConstraints(max_length=MAX_PROMPT), AfterValidator(_one_line)]
Prompt = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_PROMPT), AfterValidator(_one_line)
]


def _with_schema_key(schema: dict[str, Any]) -> None:
    """Let a JSON file name its schema under "$schema", as editors expect; reading drops the key."""
    schema["properties"]["$schema"] = {"type": "string"}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"


class Shot(BaseModel):
    """One prompt and how long it is shown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Prompt = Field(description="What the shot shows.")
    seconds: float = Field(
        SHOT_SECONDS, gt=0, le=MAX_SECONDS, strict=True, allow_inf_nan=False, description="Length of the shot."
    )
    seed: int | None = Field(None, ge=0, lt=2**63, strict=True, description="Seed of this shot's noise.")
    guidance: float | None = Field(
        None, ge=0, strict=True, allow_inf_nan=False, description="Guidance scale of this shot."
    )
    image: Path | None = Field(None, description="Anchor image, relative to the storyboard's folder.")


class Storyboard(BaseModel):
    """The shots of one video, in order."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_with_schema_key)

    title: Words = Field("", description="Name of the video; not shown to the model.")
    negative_prompt: Words = Field("", description="What no shot should show; empty: the model's own.")
    image: Path | None = Field(None, description="First frame, relative to the storyboard's folder.")
    shots: tuple[Shot, ...] = Field(min_length=1, max_length=MAX_SHOTS, description="The shots in order.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.seconds > MAX_SECONDS:
            raise InputError(
                f"the shots last {self.seconds:g} s together, the limit is {MAX_SECONDS} s; split the storyboard into "
                "several files and start each with the last frame before it as its image"
            )
        anchor = self.shots[0].image
        if self.image is not None and anchor is not None and self.image != anchor:
            raise InputError(f"image {self.image} and shot 1's image {anchor} both claim the first frame; keep one")
        return self

    @classmethod
    def read(cls, path: str | Path, index: int = 0) -> Storyboard:
        """The storyboard in a file of any accepted form, chosen by the file's ending.

        ``index`` picks a line of a ``.jsonl`` file. Relative images are taken from the file's folder and must exist.
        Raises InputError, one line that begins with the path.
        """
        path = Path(path)
        try:
            form = _form(path)
            return cls.parse(_text(path), form, index)._with_images(path.parent)
        except InputError as error:
            raise InputError(" ".join(f"{path}: {error}".split())) from None

    @classmethod
    def parse(cls, text: str, form: Form, index: int = 0) -> Storyboard:
        """The storyboard in ``text``; images stay as written. ``index`` picks a line of form ``jsonl``."""
        if not text.strip():
            raise InputError("the storyboard is empty; write at least one prompt")
        if form != "jsonl" and index != 0:
            raise InputError(f"index {index} asks for another storyboard, but form {form} holds one; use 0")
        document = _document(text, form, index)
        try:
            return cls.model_validate(_with_shots(document))
        except ValidationError as error:
            raise InputError(_refusal(error)) from None

    @property
    def seconds(self) -> float:
        """Length of the video."""
        return math.fsum(shot.seconds for shot in self.shots)

    def frames(self, geometry: Timeline) -> int:
        """Pixel frames of the video; what the last chunk decodes beyond them is trimmed."""
        return _nearest(sum(_exact(shot.seconds) for shot in self.shots) * _exact(geometry.fps))

    def chunks(self, geometry: Timeline) -> tuple[Chunk, ...]:
        """The video cut at every change of shot, and longer shots into near-equal pieces of at most a native chunk.

        The chunks tile ``[0, latent frames)``. Latent frame 0 is the image latent, one frame extra in chunk 0. Raises
        InputError for a shot shorter than one latent frame.
        """
        rate = _exact(geometry.fps) / geometry.temporal_stride
        elapsed = Fraction(0)
        start = 0
        chunks: list[Chunk] = []
        for number, shot in enumerate(self.shots):
            length = _exact(shot.seconds)
            if length * rate < 1:
                raise InputError(
                    f"shot {number + 1} lasts {shot.seconds:g} s, shorter than one latent frame "
                    f"({float(1 / rate):g} s at {geometry.fps:g} fps); lengthen it or merge it with its neighbour"
                )
            elapsed += length
            stop = 1 + _nearest(elapsed * rate)
            if number == len(self.shots) - 1:
                # Rounding may stop short of the last wanted pixel frame; the decoded surplus is trimmed instead.
                stop = max(stop, geometry.latent_frames(self.frames(geometry)))
            for cut, end in _pieces(start, stop, geometry.chunk_frames):
                chunks.append(
                    Chunk(
                        index=len(chunks),
                        shot=number,
                        start=cut,
                        stop=end,
                        prompt=shot.prompt,
                        seed=shot.seed,
                        guidance=shot.guidance,
                        image=shot.image if cut == start else None,
                    )
                )
            start = stop
        return tuple(chunks)

    def _with_images(self, folder: Path) -> Storyboard:
        shots = tuple(
            shot if shot.image is None else shot.model_copy(update={"image": _image(folder, shot.image, f"shot {n}: ")})
            for n, shot in enumerate(self.shots, 1)
        )
        image = None if self.image is None else _image(folder, self.image, "")
        return self.model_copy(update={"shots": shots, "image": image})


def schema_text() -> str:
    """The JSON Schema of the own form, as shipped in storyboard.schema.json."""
    return json.dumps(Storyboard.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


# Time: exact arithmetic, so that equal shots are cut equally and ties do not depend on what came before.


def _exact(value: float) -> Fraction:
    return Fraction(value).limit_denominator(1_000_000)


def _nearest(value: Fraction) -> int:
    """Nearest whole number, halves up: unlike halves to even, a step of 1 always moves the result by 1."""
    return math.floor(value + Fraction(1, 2))


def _pieces(start: int, stop: int, longest: int) -> list[tuple[int, int]]:
    first = max(start, 1)  # the image latent rides on chunk 0 and is not counted
    count = -(-(stop - first) // longest)
    cuts = [start] + [first + (stop - first) * piece // count for piece in range(1, count + 1)]
    return list(itertools.pairwise(cuts))


# Files


def _form(path: Path) -> Form:
    try:
        if path.is_dir():
            raise InputError("is a folder, not a storyboard; name a file in it")
        if not path.exists():
            raise InputError("no such file; check the path")
        if not path.is_file():
            raise InputError("is not a regular file; save the storyboard to one")
    except OSError as error:
        raise InputError(f"cannot be reached ({error.strerror}); check the path and its permissions") from None
    form = FORMS.get(path.suffix.lower())
    if form is None:
        raise InputError(f"ending {path.suffix!r} is no storyboard form; use one of {', '.join(FORMS)}")
    return form


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror}); check the path and its permissions") from None
    if len(content) > MAX_BYTES:
        raise InputError(f"is larger than {MAX_BYTES // 1_000_000} MB, the limit of a storyboard; split it")
    if b"\0" in content:
        raise InputError("is binary or UTF-16, not UTF-8 text; save the storyboard as UTF-8 text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"byte {content[error.start]:#04x} at offset {error.start} is not UTF-8; save the file as UTF-8 text"
        ) from None


def _image(folder: Path, image: Path, owner: str) -> Path:
    try:
        resolved = (folder / image).resolve()
        found = resolved.is_file()
    except (OSError, ValueError) as error:  # too long, a loop of links, a null character
        raise InputError(f"{owner}image {_shown(str(image))} is no usable path ({error}); correct it") from None
    if not found:
        raise InputError(f"{owner}image {image} is no file; its path counts from the storyboard's folder")
    return resolved


# Forms


def _document(text: str, form: Form, index: int) -> object:
    if form == "text":
        lines = [line.strip() for line in text.split("\n")]
        return {"prompts": [line for line in lines if line and not line.startswith("#")]}
    if form != "jsonl":
        return _loaded(text, form)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not 0 <= index < len(lines):
        valid = "only 0 is valid" if len(lines) == 1 else f"use 0 to {len(lines) - 1}"
        raise InputError(f"index {index} is out of range, the file holds {len(lines)} storyboard(s); {valid}")
    number, line = lines[index]
    try:
        return _loaded(line, "json")
    except InputError as error:
        raise InputError(f"line {number}: {error}") from None


def _loaded(text: str, form: Form) -> object:
    try:
        if form == "toml":
            return tomllib.loads(text)
        if form == "yaml":
            return yaml.safe_load(text)
        return json.loads(text)
    except RecursionError:
        raise InputError(f"is nested too deeply to be a storyboard in {form.upper()}; flatten it") from None
    except (ValueError, yaml.YAMLError) as error:
        if form == "json" and (opening := _CAPTIONS.match(text)):
            return {"captions": _quoted_items(text, opening.end())}
        why = " ".join(str(error).split())
        raise InputError(f"is not valid {form.upper()}: {why}; correct it there") from None


def _with_shots(document: object) -> dict[str, Any]:
    """The document with its captions or prompts turned into shots."""
    if not isinstance(document, dict):
        raise InputError(f"holds {_shown(document)}, not a set of keys; write shots, captions or prompts")
    given = [key for key in ("shots", "captions", "prompts") if key in document]
    if not given:
        stray = next((key for key in document if key not in Storyboard.model_fields and key != "$schema"), None)
        if stray is not None:
            raise InputError(f"unknown key {_shown(stray)}; {_nearest_key(stray, _TOP_KEYS)}")
        raise InputError("has no shots; write shots, captions or prompts")
    if len(given) > 1:
        raise InputError(f"has {' and '.join(given)}, of which only one may be given; keep one")
    rest = {key: value for key, value in document.items() if key not in (given[0], "$schema")}
    shots = document[given[0]]
    return {**rest, "shots": shots if given[0] == "shots" else _captioned(shots, given[0])}


# Captions with time stamps, as the paper prints them

_QUOTE = '["“”„]'
# Possessive quantifiers (*+) keep megabytes of blanks from costing quadratic time.
_CAPTIONS = re.compile(rf"\s*+(?:\{{\s*+)?{_QUOTE}captions{_QUOTE}\s*+:\s*+\[\s*+")
_ITEM = re.compile(rf"({_QUOTE})(.*?)(?<!\\){_QUOTE}\s*+(?:,\s*+(?={_QUOTE}|\])|(?=\]))", re.DOTALL)
_END = re.compile(r"\]\s*+(?:,\s*+)?(?:\}\s*+)?$")
_TIME = r"(\d{1,6}(?::\d{1,2}){0,2}(?:\.\d{1,9})?) ?(?:seconds|secs?|s)?"
_SPAN = rf"[(\[] ?{_TIME} ?(?:[-‐-―−~]|to) ?{_TIME} ?[)\]]"
_STAMP_LAST = re.compile(rf" ?{_SPAN} ?([.!?,;:…]*)$", re.IGNORECASE)
_STAMP_FIRST = re.compile(rf"^{_SPAN} ?[-‐-―−:.,]? ?", re.IGNORECASE)


def _quoted_items(text: str, position: int) -> list[str]:
    """The items of a caption list that is no JSON because of curly quotes or a trailing comma."""
    items: list[str] = []
    while item := _ITEM.match(text, position):
        body = item[2]
        if item[1] == '"':
            try:
                body = str(json.loads(f'"{body}"', strict=False))
            except ValueError:
                raise InputError(
                    f"caption {len(items) + 1} {_shown(body)} has a stray quote or backslash; put a comma between "
                    "captions, and a backslash before a straight quote inside one"
                ) from None
        items.append(body)
        position = item.end()
    if not _END.match(text, position):
        line = text.count("\n", 0, position) + 1
        raise InputError(f"caption {len(items) + 1} (line {line}) is not a quoted text followed by , or ]; correct it")
    return items


def _captioned(captions: object, key: str) -> list[dict[str, object]]:
    """Shots from bare prompts, timed by their stamps when they have them."""
    name = key.removesuffix("s")
    if not isinstance(captions, list):
        raise InputError(f"{key} {_shown(captions)} is not a list; write a list of texts")
    stamped: list[tuple[str, tuple[int, int] | None]] = []
    for number, caption in enumerate(captions, 1):
        if not isinstance(caption, str):
            raise InputError(f"{name} {number} is {_shown(caption)}, not text; put it in quotes")
        stamped.append(_split_stamp(caption, f"{name} {number}"))
    spans = [span for _, span in stamped if span is not None]
    if not spans:
        return [{"prompt": prompt} for prompt, _ in stamped]
    if len(spans) < len(stamped):
        bare = next(number for number, (_, span) in enumerate(stamped, 1) if span is None)
        raise InputError(f"{name} {bare} has no time stamp but others have; give all of them one, or none")
    lengths = _lengths(spans, name)
    return [{"prompt": prompt, "seconds": s} for (prompt, _), s in zip(stamped, lengths, strict=True)]


def _split_stamp(caption: str, name: str) -> tuple[str, tuple[int, int] | None]:
    caption = " ".join(caption.split())
    if re.fullmatch("“[^“”]*”", caption):
        caption = caption[1:-1].strip()
    if last := _STAMP_LAST.search(caption):
        prompt = caption[: last.start()].strip()
        ended = not prompt or prompt[-1] in ".!?…"
        return (prompt if ended else prompt + last[3]), (_whole(last[1], name), _whole(last[2], name))
    if first := _STAMP_FIRST.match(caption):
        return caption[first.end() :], (_whole(first[1], name), _whole(first[2], name))
    return caption, None


def _whole(time: str, name: str) -> int:
    if "." in time:
        raise InputError(f"{name}: time {time} is not a whole second, as stamps are; write shots with seconds instead")
    seconds = 0
    for part in time.split(":"):
        seconds = 60 * seconds + int(part)
    return seconds


def _lengths(spans: Sequence[tuple[int, int]], name: str) -> list[float]:
    """Seconds of each caption. Both ends of a stamp count: 00s - 03s and 04s - 07s are [0, 4) and [4, 8)."""
    due = 0
    for number, (first, last) in enumerate(spans, 1):
        stamp = f"{name} {number} ({first}s - {last}s)"
        if last < first:
            raise InputError(f"{stamp} ends before it begins; swap its times")
        if first != due and number == 1:
            raise InputError(f"{stamp} is the first but does not begin at 0 s; begin it at 0 s")
        if first != due:
            before = f"{name} {number - 1} ({spans[number - 2][0]}s - {spans[number - 2][1]}s)"
            kind = "leaves a gap after" if first > due else "overlaps"
            raise InputError(f"{stamp} {kind} {before}, whose last second is included; begin it at {due} s")
        due = last + 1
    return [float(last - first + 1) for first, last in spans]


# Refusals

_SHOT_KEYS = tuple(Shot.model_fields)
_TOP_KEYS = (*Storyboard.model_fields, "captions", "prompts")
_UNKNOWN = ("extra_forbidden", "invalid_key")
_RULES = {
    "string_too_short": "is empty; say what the shot shows",
    "string_too_long": f"is longer than {MAX_PROMPT} characters; shorten it",
    "string_unicode": "is not valid Unicode text; retype it",
    "greater_than": "is not above {gt:g}; give a larger number, such as 4",
    "greater_than_equal": "is below {ge:g}; give at least {ge:g}",
    "less_than": "is not below {lt}; give a smaller one",
    "less_than_equal": "is above the limit {le:g}; give a smaller one, or split the shot or the storyboard",
    "finite_number": "is not a finite number; give one such as 4",
    "string_type": "is not text; put it in quotes",
    "float_type": "is not a number; give one such as 4",
    "int_type": "is not a whole number; give one such as 7",
    "path_type": "is not a path; give the name of an image file in quotes",
    "tuple_type": "is not a list; write a list of shots",
    "model_type": "is not a set of keys; write it with prompt and seconds",
}


def _refusal(error: ValidationError) -> str:
    """One of pydantic's findings as value, rule and repair: an unknown key (it explains a missing one) or the first."""
    findings = error.errors(include_url=False)
    finding = next((f for f in findings if f["type"] in _UNKNOWN), findings[0])
    location, kind, value = finding["loc"], finding["type"], finding["input"]
    in_shot = len(location) > 1
    owner = f"shot {int(location[1]) + 1}: " if in_shot else ""
    key = "" if len(location) in (0, 2) else str(location[-1])
    context = finding.get("ctx", {})
    if kind in _UNKNOWN:
        return f"{owner}unknown key {_shown(key)}; {_nearest_key(key, _SHOT_KEYS if in_shot else _TOP_KEYS)}"
    if kind == "missing":
        return f"{owner}{key} is missing; add it"
    if kind == "too_long":
        count = context.get("actual_length") or "more"
        return f"{count} shots are over the limit of {MAX_SHOTS}; split the storyboard into several files"
    if kind == "too_short":
        return "the storyboard has no shots; write at least one"
    if kind == "value_error":
        return f"{owner}{key}: {context['error']}".removeprefix(": ")
    rule = _RULES[kind].format(**context) if kind in _RULES else f"is refused: {finding['msg']}; correct it"
    return f"{owner}{key} {_shown(value)} {rule}".replace(":  ", ": ")


def _nearest_key(key: object, valid: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(key)[:100], valid, 1, 0.5)
    return f"did you mean {close[0]!r}?" if close else f"the keys are {', '.join(valid)}"


def _shown(value: object) -> str:
    return reprlib.repr(value)
