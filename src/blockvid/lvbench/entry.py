"""The schema: a captioned video, as one line of JSON and as a storyboard."""

from __future__ import annotations

import json
import reprlib
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from blockvid.errors import InputError
from blockvid.storyboard import MAX_SECONDS, MAX_SHOTS, Prompt, Storyboard

SAFE_NAME = r"^[A-Za-z0-9_]([A-Za-z0-9_.+=-]{0,198}[A-Za-z0-9_])?$"

ObjectClass = Literal["human", "animal", "environment"]
Part = Literal["train", "eval"]
CLASSES: tuple[ObjectClass, ...] = get_args(ObjectClass)


def _microseconds(value: float) -> float:
    """Rounded, so that lengths and sums of lengths give the same times back."""
    return round(value, 6)


Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS, strict=True, allow_inf_nan=False), AfterValidator(_microseconds)]
Id = Annotated[str, StringConstraints(pattern=SAFE_NAME)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Segment(_Record):
    """What the video shows in ``[start, end)``."""

    start: Seconds = Field(description="Where it begins, in seconds, included.")
    end: Seconds = Field(description="Where it ends, in seconds, not included.")
    caption: Prompt = Field(description="What it shows.")
    annotators: tuple[Prompt, ...] = Field(default=(), description="Who has written or checked the caption.")

    @model_validator(mode="after")
    def _runs_forward(self) -> Self:
        if self.end <= self.start:
            raise InputError(f"ends at {self.end:g} s, not after its start {self.start:g} s; correct one of them")
        return self


class Entry(_Record):
    """One captioned video."""

    id: Id = Field(description="Unique in the file, and the name of the video's file.")
    split: Part | None = Field(default=None, description="The part it belongs to, where that is decided.")
    source: Prompt | None = Field(default=None, description="The data set it was taken from.")
    source_id: Prompt | None = Field(
        default=None, description="The video it was cut from, as the source calls it; without it the id stands for it."
    )
    object_class: ObjectClass | None = Field(
        default=None,
        validation_alias="class",
        serialization_alias="class",
        description="What the video is mostly about.",
    )
    fps: float | None = Field(
        default=None, gt=0, le=1_000, strict=True, allow_inf_nan=False, description="Frames per second, where known."
    )
    duration: Seconds = Field(description="Length of the video in seconds.")
    segments: tuple[Segment, ...] = Field(
        min_length=1, max_length=MAX_SHOTS, description="Captions in order of time; gaps are allowed, overlaps are not."
    )
    global_prompt: Prompt | None = Field(default=None, description="One prompt for the whole video.")
    dimensions: tuple[Prompt, ...] = Field(
        default=(), description="The VBench dimensions that the prompt was written for."
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        end, before = 0.0, ""
        for number, segment in enumerate(self.segments, 1):
            if segment.start < end:
                raise InputError(
                    f"segment {number} starts at {segment.start:g} s, before {before} ends at {end:g} s; "
                    f"segments are in order and do not overlap, so start it at {end:g} s or later"
                )
            end, before = segment.end, f"segment {number}"
        if end > self.duration:
            raise InputError(
                f"{before} ends at {end:g} s, after the video, whose duration is {self.duration:g} s; cut it"
            )
        return self

    @property
    def prompt(self) -> str | None:
        """The one prompt of the video: the global one, else the only caption, else None."""
        if self.global_prompt is None and len(self.segments) == 1:
            return self.segments[0].caption
        return self.global_prompt

    def storyboard(self) -> Storyboard:
        """What to generate: a segment is shown until the next begins, the first from 0 and the last to the end."""
        cuts = [0.0, *(segment.start for segment in self.segments[1:]), self.duration]
        shots = [
            {"prompt": segment.caption, "seconds": _microseconds(cuts[n + 1] - cuts[n])}
            for n, segment in enumerate(self.segments)
        ]
        return Storyboard.model_validate({"title": self.id, "shots": shots})

    @classmethod
    def of(cls, storyboard: Storyboard, id: str) -> Self:
        """The storyboard as an entry: its prompts and times, not its images, seeds, guidance or negative prompt."""
        segments: list[dict[str, object]] = []
        end = 0.0
        for shot in storyboard.shots:
            start, end = end, _microseconds(end + shot.seconds)
            segments.append({"start": start, "end": end, "caption": shot.prompt})
        return cls.parse({"id": id, "duration": end, "segments": segments})

    @classmethod
    def parse(cls, document: object) -> Self:
        """The entry in a value from JSON. Raises InputError, one line."""
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise InputError(_refusal(error)) from None


def schema_text() -> str:
    """The JSON Schema of one line of the own form, as shipped in lvbench.schema.json."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Entry.model_json_schema()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


# Refusals

_REPAIRS = {
    "missing": "is missing; add it",
    "extra_forbidden": "is no key of this form; the keys are those of docs/lvbench.md",
    "string_pattern_mismatch": "is not safe as a file name; use letters, digits, _ and, between them, . + = -",
    "float_type": "is not a number; give one such as 4.0",
    "finite_number": "is not a finite number; give one such as 4.0",
    "string_type": "is not text; put it in quotes",
    "string_too_short": "is empty; write something",
    "too_short": "is empty; give at least one",
    "model_type": "is not a set of keys; write {...}",
    "tuple_type": "is not a list; write [...]",
}


def _refusal(error: ValidationError) -> str:
    """The first of pydantic's findings, unknown keys before the rest, as value, rule and repair."""
    findings = error.errors(include_url=False)
    finding = next((f for f in findings if f["type"] == "extra_forbidden"), findings[0])
    kind, location = finding["type"], list(finding["loc"])
    owner = ""
    if location[:1] == ["segments"] and len(location) > 1:
        owner, location = f"segment {int(location[1]) + 1}: ", location[2:]
    key = ".".join(str(step) for step in location)
    if kind == "value_error":
        return f"{owner}{key and key + ': '}{finding.get('ctx', {}).get('error')}"
    if kind in ("missing", "extra_forbidden"):
        return f"{owner}{reprlib.repr(key)} {_REPAIRS[kind]}"
    rule = _REPAIRS.get(kind) or f"is refused ({finding['msg']}); correct it"
    return f"{owner}{key and key + ' '}{reprlib.repr(finding['input'])} {rule}"
