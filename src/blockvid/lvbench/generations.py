"""Which video in a folder was generated for which entry, by the names in use."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from blockvid.errors import InputError
from blockvid.lvbench.entry import Entry

_NUMBERED = re.compile(r"(.+)-(\d{1,6})", re.DOTALL)


@dataclass(frozen=True)
class Generations:
    """The videos of a folder by entry."""

    found: Mapping[str, tuple[Path, ...]]
    """Per id, its samples in order of their number; only entries that have one."""
    missing: tuple[str, ...]
    """Ids without a video that is theirs alone."""
    extra: tuple[Path, ...]
    """Videos that belong to no entry."""
    ambiguous: Mapping[Path, tuple[str, ...]]
    """Videos that could be of several entries, or that are the same sample of one entry as another video; the ids."""


def find_generations(folder: str | Path, entries: Iterable[Entry]) -> Generations:
    """Match the mp4 files directly in ``folder`` to entries: ID.mp4, ID-0.mp4, or VBench's PROMPT-0.mp4.

    A name without a number is sample 0. Hidden files, folders and other endings are passed over. InputError if
    ``folder`` cannot be listed.
    """
    entries = tuple(entries)
    owners: dict[str, set[str]] = {}
    for entry in entries:
        for name in {entry.id, _normal(entry.prompt or entry.id)}:
            owners.setdefault(name, set()).add(entry.id)
    claims: dict[tuple[str, int], list[Path]] = {}
    extra: list[Path] = []
    ambiguous: dict[Path, tuple[str, ...]] = {}
    for path in _videos(Path(folder)):
        claimed = _claims(_normal(path.stem), owners)
        if not claimed:
            extra.append(path)
        elif len(claimed) > 1:
            ambiguous[path] = tuple(sorted(claimed))
        else:
            claims.setdefault(next(iter(claimed.items())), []).append(path)
    ambiguous |= {path: (id,) for (id, _), paths in claims.items() if len(paths) > 1 for path in paths}
    found: dict[str, tuple[Path, ...]] = {}
    for (id, _), paths in sorted(claims.items()):
        if len(paths) == 1:
            found[id] = (*found.get(id, ()), paths[0])
    missing = tuple(entry.id for entry in entries if entry.id not in found)
    return Generations(found, missing, tuple(extra), ambiguous)


def _claims(stem: str, owners: Mapping[str, set[str]]) -> dict[str, int]:
    """The ids that a file's name can mean, each with the number of the sample."""
    claims: dict[str, int] = {}
    if numbered := _NUMBERED.fullmatch(stem):
        claims |= dict.fromkeys(owners.get(numbered[1], ()), int(numbered[2]))
    return claims | dict.fromkeys(owners.get(stem, ()), 0)


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)  # some file systems hand names back decomposed


def _videos(folder: Path) -> list[Path]:
    try:
        found = [path for path in folder.iterdir() if path.suffix.lower() == ".mp4" and path.is_file()]
    except OSError as error:
        raise InputError(f"{folder} cannot be listed ({error.strerror}); name a folder of videos") from None
    return sorted(path for path in found if not path.name.startswith("."))
