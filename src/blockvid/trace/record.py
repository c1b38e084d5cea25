"""Which chunk looked at which, and why: the record that a generation leaves, as JSON and as a table."""

from __future__ import annotations

import itertools
import reprlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from blockvid.errors import InputError
from blockvid.files import RESUME, replacing

if TYPE_CHECKING:
    pass

Why = Literal["recent", "similar", "sink", "all"]
Cosine = Annotated[float, Field(ge=-1.001, le=1.001)]  # float32 oversteps 1 a little
Share = Annotated[float, Field(gt=0, le=1)]

FILE = "trace.json"
"""Its name in a run folder."""

HEADINGS = ("chunk", "time", "recalled (similarity)", "tokens attended", "kept", "memory")
"""Of the columns of `summary`."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Recalled(_Record):
    """A past chunk that a chunk attends to."""

    chunk: Annotated[int, Field(ge=0)]
    why: Why
    similarity: Cosine | None
    """Cosine of its prompt's embedding with that of the chunk that recalls it; None where no policy asked."""
    tokens: Annotated[float, Field(ge=0)]
    """How many of its tokens are attended to, mean over layers."""


class ChunkTrace(_Record):
    """One chunk: what it looked at, and what it left behind for later ones."""

    chunk: Annotated[int, Field(ge=0)]
    prompt: str
    seconds: tuple[float, float]
    """Where in the video it begins and ends."""
    recalled: tuple[Recalled, ...]
    similarities: tuple[Cosine, ...]
    """Cosine of its prompt's embedding with that of every earlier chunk."""
    tokens: Annotated[int, Field(gt=0)]
    """Its own."""
    kept: Annotated[tuple[Share, ...], Field(min_length=1)]
    """Share of its tokens that is remembered, per layer; 1 is dense."""
    bank_bytes: Annotated[int, Field(ge=0)]
    """Size of the whole memory after this chunk."""

    @model_validator(mode="after")
    def _only_the_past(self) -> Self:
        if len(self.similarities) != self.chunk:
            raise ValueError(f"{len(self.similarities)} similarities for the {self.chunk} chunks before it")
        indices = [recalled.chunk for recalled in self.recalled]
        if any(index >= self.chunk for index in indices):
            raise ValueError(f"chunk {self.chunk} recalls chunk {max(indices)}, which is not before it")
        if len(set(indices)) < len(indices):
            raise ValueError(f"chunk {self.chunk} recalls a chunk twice")
        if not 0 <= self.seconds[0] <= self.seconds[1]:
            raise ValueError(f"chunk {self.chunk} lasts from {self.seconds[0]:g} s to {self.seconds[1]:g} s")
        return self

    @property
    def attended(self) -> float:
        """Tokens that the chunk attends to, its own included; mean over layers."""
        return self.tokens + sum(recalled.tokens for recalled in self.recalled)


class Trace(_Record):
    """All chunks of a video, and the policy that chose for them."""

    version: Literal[1] = 1
    policy: str
    storage: str
    chunks: Annotated[tuple[ChunkTrace, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for position, chunk in enumerate(self.chunks):
            if chunk.chunk != position:
                raise ValueError(f"chunk {chunk.chunk} stands in place {position}")
            if len(chunk.kept) != len(self.chunks[0].kept):
                raise ValueError(f"chunk {position} has {len(chunk.kept)} layers, chunk 0 {len(self.chunks[0].kept)}")
        return self

    @classmethod
    def read(cls, path: Path) -> Trace:
        """The trace of a JSON file, or of a run folder; InputError, with the first problem, for anything else."""
        path = path / FILE if path.is_dir() else path
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise InputError(f"{path} does not exist; generate with --trace to have a trace") from None
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
        except ValidationError as error:
            raise InputError(f"{path} {_refusal(error)}; generate with --trace to have one that is") from None

    def write(self, path: Path) -> None:
        """Write the JSON file, whole or not at all; InputError if the disk refuses."""
        with replacing(path, RESUME) as part:
            part.write_text(self.model_dump_json() + "\n", encoding="utf-8")


def _refusal(error: ValidationError) -> str:
    finding = error.errors(include_url=False)[0]
    what = " ".join(str(finding["msg"]).split())
    if finding["type"] == "json_invalid":
        return f"is not JSON ({what})"
    where = ".".join(map(str, finding["loc"])) or "the file"
    value = "" if finding["type"] in ("missing", "value_error") else f" {reprlib.repr(finding['input'])}"
    return f"is not a trace ({where}{value}: {what})"


# As a table


def summary(trace: Trace) -> list[tuple[str, ...]]:
    """A row of texts per chunk, under `HEADINGS`: memory in MB of 10^6 bytes, kept as the mean over layers."""
    return [
        (
            str(chunk.chunk),
            f"{clock(chunk.seconds[0])}–{clock(chunk.seconds[1])}",
            _recall(chunk.recalled) or "–",
            f"{chunk.attended:.0f}",
            f"{np.mean(chunk.kept):.0%}",
            megabytes(chunk.bank_bytes),
        )
        for chunk in trace.chunks
    ]


def _recall(recalled: Sequence[Recalled]) -> str:
    """similar 3 (0.91), 7 (0.88); recent 12 (0.64), 13 (0.70)."""
    groups: dict[str, list[Recalled]] = {}
    for one in recalled:
        groups.setdefault(one.why, []).append(one)
    return "; ".join(f"{why} {', '.join(map(_span, _runs(group)))}" for why, group in groups.items())


def _runs(group: Sequence[Recalled]) -> Iterator[list[Recalled]]:
    """Three or more neighbours together, others each alone."""
    ordered = sorted(group, key=lambda one: one.chunk)
    for _, pairs in itertools.groupby(enumerate(ordered), key=lambda pair: pair[1].chunk - pair[0]):
        run = [one for _, one in pairs]
        yield from [run] if len(run) > 2 else [[one] for one in run]


def _span(run: Sequence[Recalled]) -> str:
    known = [one.similarity for one in run if one.similarity is not None]
    cosines = dict.fromkeys(f"{cosine:.2f}" for cosine in (min(known), max(known))) if known else ()
    span = "–".join(dict.fromkeys((str(run[0].chunk), str(run[-1].chunk))))
    return f"{span} ({' to '.join(cosines)})" if cosines else span


def clock(seconds: float) -> str:
    """Minutes, seconds and tenths if there are any: 0:48 or 0:04.1."""
    tenths = round(10 * seconds)
    rest = f".{tenths % 10}" if tenths % 10 else ""
    return f"{tenths // 600}:{tenths // 10 % 60:02d}{rest}"


def megabytes(size: int) -> str:
    """A size in MB, as shown."""
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e6:.0f} MB"
