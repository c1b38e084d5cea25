"""What became of each video, a line each: the reason why work once done, or found impossible, is not done again."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from blockvid.errors import InputError
from blockvid.files import BusyError, locked, refused, replacing


class Outcome(BaseModel):
    """A line of the ledger."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    state: Literal["done", "failed"]
    digest: str
    """Of what the outcome follows from: the captions and the size of the file."""
    chunks: int = 0
    reason: str = ""
    """Why it failed."""


class Ledger:
    """ledger.jsonl: appended to line by line; the last line of a video counts."""

    def __init__(self, folder: Path) -> None:
        """Of a folder that exists; a line that a kill has torn is dropped. Raises InputError if it is damaged."""
        self.path = folder / "ledger.jsonl"
        whole, torn = b"", b""
        if self.path.exists():
            whole, newline, torn = self.path.read_bytes().rpartition(b"\n")
            whole += newline
        try:
            lines = [Outcome.model_validate_json(line) for line in whole.splitlines()]
        except ValidationError as error:
            raise InputError(
                f"{self.path} is damaged ({error.error_count()} faults); encode into a new folder"
            ) from None
        if torn:
            with replacing(self.path) as part:
                part.write_bytes(whole)
        self.outcomes: dict[str, Outcome] = {}
        for outcome in lines:
            self._count(outcome)

    def append(self, outcome: Outcome) -> None:
        """Add a line, durably. Raises InputError if the disk refuses."""
        try:
            with self.path.open("ab") as file:
                file.write(outcome.model_dump_json(exclude_defaults=True).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise refused(self.path, error) from error
        self._count(outcome)

    def _count(self, outcome: Outcome) -> None:
        self.outcomes.pop(outcome.id, None)  # so that the order is that of the last lines
        self.outcomes[outcome.id] = outcome


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make the folder and hold its lock. Raises InputError if another process does, or it is not writable."""
    path = folder / "lock"
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(path, wait=False))
        except BusyError as error:
            raise InputError(f"another process encodes into {folder}; wait for it or use another folder") from error
        except OSError as error:
            raise refused(path, error) from error
        yield
