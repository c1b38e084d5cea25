"""Drift while a video is being made: every chunk is scored when it is finished, and compared with the first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from pydantic import ValidationError

from blockvid.errors import InputError
from blockvid.evaluation.metric import Metric
from blockvid.evaluation.results import Number, Record, value
from blockvid.evaluation.scorers import boundary, luma, motion
from blockvid.evaluation.series import Footage, extract
from blockvid.files import RESUME, replacing

FILE = "watch.json"
"""Beside the journal of a run."""
JUMP = "boundary_jump@core"


@dataclass(frozen=True)
class Rule:
    """What to do when a chunk has moved too far from the first."""

    metric: str
    """A name such as "clarity"."""
    limit: float
    """Largest |m - m_1| / |m_1|, at least 0; of boundary_jump, the largest jump itself."""
    action: Literal["warn", "stop"] = "warn"

    @classmethod
    def parse(cls, text: str, action: Literal["warn", "stop"]) -> Self:
        """From "clarity=0.5". Raises InputError."""
        name, _, number = text.partition("=")
        known = [metric.name for metric in watched()]
        if name not in known:
            raise InputError(f"{name!r} in {text!r} is not watched; use one of {', '.join(known)}, as in clarity=0.5")
        try:
            limit = float(number)
        except ValueError:
            limit = math.nan
        if not limit >= 0:
            raise InputError(f"{number!r} in {text!r} is no limit; use a relative change of at least 0, such as 0.5")
        return cls(name, limit, action)


class ChunkDrift(Record):
    """One chunk: its scores, and how far they are from the first chunk's."""

    chunk: int
    scores: dict[str, Number]
    """By metric key."""
    drift: dict[str, Number]
    """(m - m_1) / |m_1| by metric key; positive where it rose."""
    broken: tuple[str, ...] = ()
    """One sentence for each rule that it breaks."""
    stop: bool = False
    """One of them says to stop."""


class _File(Record):
    version: Literal[1] = 1
    chunks: tuple[ChunkDrift, ...]


def watched() -> tuple[Metric, ...]:
    """The metrics of a chunk: they need no model, and about as long as encoding it."""
    return (*luma.metrics(), *motion.metrics(), *boundary.metrics())


class Watch:
    """Scores chunks in the order in which they are made."""

    def __init__(
        self,
        rules: Sequence[Rule] = (),
        known: Sequence[ChunkDrift] = (),
        last: UInt8[np.ndarray, "h w 3"] | None = None,
    ) -> None:
        """`known` chunks were scored before, as in a run that goes on; `last` is the frame that they ended with."""
        self.rules = tuple(rules)
        self.chunks = list(known)
        self._last = last

    @classmethod
    def resumed(cls, folder: Path, rules: Sequence[Rule], chunks: int) -> Self:
        """With the first `chunks` chunks of the run in `folder`. Raises InputError if they cannot be read.

        A run that was not watched from the beginning has no first chunk to compare with, and is refused.
        """
        known: tuple[ChunkDrift, ...] = ()
        file, picture = folder / FILE, folder / _picture(chunks - 1)
        if chunks and file.exists():
            try:
                known = _File.model_validate_json(file.read_text(encoding="utf-8")).chunks
            except (OSError, ValidationError) as error:
                raise InputError(f"{file} cannot be read ({type(error).__name__}); delete it") from None
        if len(known) < chunks:
            raise InputError(
                f"{chunks} chunks were made and {len(known)} of them watched; go on without --watch, and use "
                "`blockvid eval` on the video"
            )
        return cls(rules, known[:chunks], _pixels(picture) if chunks else None)

    def push(self, chunk: int, frames: UInt8[np.ndarray, "t h w 3"], fps: float) -> ChunkDrift:
        """Score the next chunk."""
        context = () if self._last is None else (self._last[None],)
        shown = np.concatenate([*context, frames])
        self._last = frames[-1]
        begin = len(context)
        footage = Footage(shown.shape[2], shown.shape[1], fps, borders=(begin,) if begin else ())
        metrics = watched()
        extractors = {e.name: e for metric in metrics for e in metric.extractors}
        series = extract(shown, tuple(extractors.values()), fps)
        # A jump is a matter of both sides of the border; everything else is of this chunk alone.
        spans = {m.key: range(0 if m.key == JUMP else begin, len(shown)) for m in metrics}
        scores = {m.key: m.score(series, spans[m.key], footage) for m in metrics}
        first = {key: value(number) for key, number in (self.chunks[0].scores if self.chunks else scores).items()}
        drift = {key: _relative(score, first.get(key, math.nan)) for key, score in scores.items() if key != JUMP}
        found = ChunkDrift.model_validate({"chunk": chunk, "scores": scores, "drift": drift})
        broken = [(rule, text) for rule in self.rules if (text := _broken(rule, found))]
        found = found.model_copy(
            update={
                "broken": tuple(text for _, text in broken),
                "stop": any(rule.action == "stop" for rule, _ in broken),
            }
        )
        self.chunks.append(found)
        return found

    def write(self, folder: Path) -> None:
        """All chunks so far, and the last frame; each file is replaced in one step, so a kill leaves them usable."""
        assert self._last is not None
        with replacing(folder / _picture(len(self.chunks) - 1), RESUME) as part:
            Image.fromarray(self._last).save(part, "PNG")
        with replacing(folder / FILE, RESUME) as part:
            part.write_text(_File(chunks=tuple(self.chunks)).model_dump_json(indent=1) + "\n", encoding="utf-8")


def _picture(chunk: int) -> str:
    """Two names in turn: while one chunk's last frame is written, the one before is still there to resume from."""
    return f"watch-{chunk % 2}.png"


def _pixels(file: Path) -> UInt8[np.ndarray, "h w 3"]:
    try:
        with Image.open(file) as picture:
            return np.array(picture.convert("RGB"))
    except OSError:
        raise InputError(f"{file} cannot be read, and holds the frame to go on from; go on without --watch") from None


def _relative(score: float, first: float) -> float:
    if score == first:
        return 0.0
    return (score - first) / abs(first) if first else math.copysign(math.inf, score - first)


def _broken(rule: Rule, found: ChunkDrift) -> str | None:
    key = f"{rule.metric}@core"
    if key == JUMP:
        moved, what = value(found.scores[key]), "jumps by {:.2f} times its own motion"
    else:
        moved, what = value(found.drift[key]), "is {:+.0%} from the first chunk's"
    if not abs(moved) > rule.limit:
        return None
    name = "its beginning" if key == JUMP else f"its {rule.metric}"
    return f"{name} {what.format(moved)} (limit {rule.limit:g})"
