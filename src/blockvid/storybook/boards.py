"""The scorecard's storyboards: twenty minutes of pairs that no training take shows, and what each chunk should show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, pairwise
from typing import Literal

from blockvid.storyboard import Storyboard
from blockvid.storybook.films import Film
from blockvid.storybook.probe import CLASSES, NOBODY, time_class
from blockvid.storybook.takes import CHUNK_SECONDS, Take, sample_take

CHUNKS = 15
FIRST_SEED = 900_000
Kind = Literal["plain", "change", "return"]
"""One subject in one scene; a cut to another scene half-way; a subject that is away for two chunks and comes back."""
SHARES: dict[Kind, int] = {"plain": 10, "change": 5, "return": 5}


@dataclass(frozen=True)
class Board:
    """A film of a minute, to be told and asked about."""

    name: str
    kind: Kind
    film: Film

    @property
    def storyboard(self) -> Storyboard:
        return self.film.storyboard(self.name)

    def expected(self, chunk: int) -> dict[str, str | None]:
        """The answer that a chunk should give to each question of the probe; None where it is asked nothing."""
        take, index = self.film.told[chunk]
        segment = take.segments[index]
        begin = index * CHUNK_SECONDS
        time = time_class(take, begin, begin + CHUNK_SECONDS)
        coming = segment.action in ("leave", "return")
        gone = segment.action == "absent"
        return {
            "subject": NOBODY if gone else None if coming else take.subject,
            "scene": take.scene,
            "time": None if time < 0 else CLASSES["time"][time],
            "direction": segment.direction if segment.direction != "none" else None,
        }


def boards(first: int = FIRST_SEED) -> tuple[Board, ...]:
    """The twenty, always the same: of each kind the first that the seeds from `first` on give, no subject twice."""
    return _boards(first)


@lru_cache(maxsize=2)  # by the seed itself: a default that is left out would be another key
def _boards(first: int) -> tuple[Board, ...]:
    found: dict[Kind, list[Board]] = {kind: [] for kind in SHARES}
    for take in _takes(first):
        kind = _kind(take)
        if kind is None:
            continue
        told = tuple((take, index) for index in range(CHUNKS))
        if kind == "plain" and len(found["plain"]) == SHARES["plain"]:
            kind, cut = "change", _elsewhere(take)
            told = (*told[: CHUNKS // 2], *((cut, index) for index in range(CHUNKS // 2, CHUNKS)))
        told_before = {board.film.told[0][0].subject for board in found[kind]}
        if len(found[kind]) < SHARES[kind] and take.subject not in told_before:
            found[kind].append(Board(f"{kind}-{len(found[kind])}", kind, Film(told)))
        if all(len(found[each]) == share for each, share in SHARES.items()):
            break
    return tuple(board for kind in SHARES for board in found[kind])


def _takes(first: int) -> Iterator[Take]:
    """Held-out minutes, endlessly."""
    for seed in count(first):
        yield sample_take(seed, CHUNKS * CHUNK_SECONDS, "heldout")


def _kind(take: Take) -> Kind | None:
    """None for a take with an absence of one chunk, which is neither."""
    actions = [segment.action for segment in take.segments]
    if "absent" not in actions:
        return "plain"
    twice = any(a == b == "absent" for a, b in pairwise(actions))
    return "return" if twice and actions[0] != "absent" else None


def _elsewhere(take: Take) -> Take:
    """Another take of the same subject, in another scene; a held-out one if there is any."""
    seed = take.seed + 1
    while True:
        for split in ("heldout", "train"):
            other = sample_take(seed, CHUNKS * CHUNK_SECONDS, split, subject=take.subject)  # held-out scenes are few
            if other.scene != take.scene and all(segment.action != "absent" for segment in other.segments):
                return other
        seed += 1
