"""The division into training and evaluation: made once by a rule, then kept as a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from blockvid.errors import InputError
from blockvid.files import replacing
from blockvid.lvbench.entry import Entry, Id, Part

TRAIN_SHARE = (8, 10)
"""The paper's 8:2 (section 4)."""


class Split(BaseModel):
    """Which entries are trained on and which are evaluated, by id: data, and no longer a rule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    rule: str = Field(description="How it was made; for people, nothing computes with it.")
    train: tuple[Id, ...]
    eval: tuple[Id, ...]

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        seen: set[str] = set()
        for id in (*self.train, *self.eval):
            if id.casefold() in seen:
                raise InputError(f"id {id!r} stands twice, and an entry is in one part once; remove one")
            seen.add(id.casefold())
        return self

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The split in a file. InputError, one line that begins with the path."""
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from None
        except ValidationError as error:
            finding = error.errors(include_url=False)[0]
            place = ".".join(map(str, finding["loc"])) or "the file"
            why = " ".join(finding["msg"].removeprefix("Value error, ").split())
            raise InputError(f"{path}: {place} is refused ({why}); correct it or make the split anew") from None

    def write(self, path: str | Path) -> None:
        """Write the split; where the file holds one already, entries may be added but none may change its part.

        Raises InputError for an entry that would move: what has been trained on would be evaluated.
        """
        path = Path(path)
        if path.exists():
            before, now = type(self).read(path)._parts(), self._parts()
            moved = next((id for id, part in before.items() if now.get(id) != part), None)
            if moved is not None:
                change = f"to {now[moved]}" if moved in now else "out of both parts"
                raise InputError(
                    f"{path} is fixed, and {moved!r} would move from {before[moved]} {change}; write to another file"
                )
        with replacing(path) as part:
            part.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    def assigned(self, entries: Iterable[Entry]) -> tuple[Entry, ...]:
        """The entries with their part filled in; InputError for one that is in neither."""
        parts = self._parts()
        assigned: list[Entry] = []
        for entry in entries:
            if entry.id not in parts:
                raise InputError(f"entry {entry.id!r} is in neither part of the split; make the split of all entries")
            assigned.append(entry.model_copy(update={"split": parts[entry.id]}))
        return tuple(assigned)

    def _parts(self) -> dict[str, Part]:
        train: dict[str, Part] = dict.fromkeys(self.train, "train")
        evaluation: dict[str, Part] = dict.fromkeys(self.eval, "eval")
        return train | evaluation


def split(entries: Iterable[Entry], seed: int = 0) -> Split:
    """Divide entries 8:2 by a hash of the video they were cut from, whatever ``split`` they carry.

    A part depends on nothing but (seed, source, source_id or id): neither order nor other entries move an entry, and
    all entries of one video are together. The share is 0.8 in expectation, not in count.
    """
    train: list[str] = []
    evaluation: list[str] = []
    for entry in entries:
        (train if _hashed(entry, seed) < _limit() else evaluation).append(entry.id)
    rule = (
        f"train where the first 8 bytes, big-endian, of the sha256 of 'blockvid split 1', '{seed}', source, and "
        f"source_id or else id, joined by newlines, are below {TRAIN_SHARE[0]}/{TRAIN_SHARE[1]} of 2**64"
    )
    return Split(rule=rule, train=tuple(sorted(train)), eval=tuple(sorted(evaluation)))


def _hashed(entry: Entry, seed: int) -> int:
    key = ("blockvid split 1", str(seed), entry.source or "", entry.source_id or entry.id)
    return int.from_bytes(hashlib.sha256("\n".join(key).encode()).digest()[:8], "big")


def _limit() -> int:
    return 2**64 * TRAIN_SHARE[0] // TRAIN_SHARE[1]
