"""Does a place come back? python benchmarks/recall.py [--films 20].

Films of eight chunks, of pairs that no training take shows: a place, another for two chunks, a third for three, and
then the second again, going on where it was left. Every film is generated under each policy from its captions alone,
with the same noise. The last picture before the cut and the first after the return are the same one in the renders, but
for an eighth of a second; how alike they are in a generated film says what its cache remembered of the place. The
window of two chunks has nothing of it, so what it scores is what the caption alone brings back.

Videos stay in --videos, so that a stopped run goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path

import numpy as np
import tyro
from PIL import Image
from storybook_score import LATE, SETTINGS, conditions, filmed, identity, say
from tyro.extras import literal_type_from_choices

from blockvid.evaluation.statistics import Bootstrap
from blockvid.pipeline import Pipeline
from blockvid.storybook.films import Film
from blockvid.storybook.takes import CHUNK_SECONDS, Take, sample_take
from blockvid.video import read_frames, write_video
from storybook import interval

LEFT, BACK = 3, 6
"""The chunks before which the place is left, and before which it comes back."""
Way = literal_type_from_choices(SETTINGS)


@dataclass(frozen=True)
class Options:
    """What to measure."""

    model: str = "storybook"
    out: Path = Path("benchmarks/recall.md")
    images: Path = Path("docs/images")
    films: int = 20
    settings: tuple[Way, ...] = ("window", "sink-window", "dynamic-sparse", "semantic", "full")
    """Of `storybook_score.SETTINGS`; the others are compared with the first, film by film."""
    videos: Path = Path("runs/recall")


def films() -> Iterator[Film]:
    """Endlessly: places and subjects that differ, and nobody away."""
    shown = (take for take in map(_take, count(700_000)) if all(s.action != "absent" for s in take.segments))
    while True:
        before, place, between = islice(shown, 3)
        if len({t.scene for t in (before, place, between)}) == len({t.subject for t in (before, place, between)}) == 3:
            yield Film((
                (before, 0), (place, 0), (place, 1), (between, 0), (between, 1), (between, 2), (place, 2), (place, 3),
            ))  # fmt: skip


def _take(seed: int) -> Take:
    return sample_take(seed, 4 * CHUNK_SECONDS, "heldout")


def likeness(frames: np.ndarray, per: int) -> float:
    """Correlation of the last picture before the place is left with the first after it comes back, colours apart."""
    last, first = (frames[at].astype(float).reshape(-1, 3) for at in (LEFT * per + LATE - 1, BACK * per + LATE))
    a, b = (picture - picture.mean(0) for picture in (last, first))
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


def made(pipe: Pipeline, options: Options) -> dict[str, list[np.ndarray]]:
    """The frames of every film, by way."""
    told = list(islice(films(), options.films))
    found = {"renders": [filmed(film, pipe.models.geometry) for film in told]}
    for way in options.settings:
        folder = options.videos / identity(pipe.models) / way
        folder.mkdir(parents=True, exist_ok=True)
        found[way] = []
        for seed, film in enumerate(told):
            path = folder / f"{seed:02d}.mp4"
            if not path.exists():
                say(f"{way}: film {seed + 1} of {len(told)}")
                frames = pipe(film.storyboard(f"film {seed}"), replace(SETTINGS[way], seed=seed))
                write_video(path, frames, pipe.models.geometry.fps)
            found[way].append(np.concatenate(list(read_frames(path))))
    return found


def sheet(found: dict[str, list[np.ndarray]], per: int, path: Path, shown: int = 3) -> None:
    """The first films, a row for each way: the place until it is left, what lies between, and the place come back."""
    rows = []
    for number in range(shown):
        for frames in (videos[number] for videos in found.values()):
            at = (2 * per, LEFT * per + LATE - 1, 5 * per, BACK * per + LATE, BACK * per + per // 2)
            rows.append(np.concatenate([frames[i] for i in at], axis=1))
        rows.append(np.full((6, rows[-1].shape[1], 3), 255, np.uint8))
    Image.fromarray(np.concatenate(rows)).save(path)


def main(options: Options) -> None:
    """Measure and write the table."""
    pipe = Pipeline.from_pretrained(options.model)
    found = made(pipe, options)
    per = len(found["renders"][0]) // 8
    scores = {way: np.array([likeness(frames, per) for frames in videos]) for way, videos in found.items()}
    base, rows = scores[options.settings[0]], []
    for way, values in scores.items():
        d = Bootstrap()(values - base)
        beside = f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]" if way in options.settings[1:] else ""
        rows.append(f"| {way} | {interval(list(values))} | {beside} |")
    options.images.mkdir(parents=True, exist_ok=True)
    sheet(found, per, options.images / "recall.png", min(3, options.films))
    lines = [
        "# Does a place come back?",
        "",
        f"{conditions(pipe.models)}. {options.films} films, seeds 0, 1, ...; correlation of the last "
        "picture before a place is left with the first after it comes back, three chunks later; means with 95 % "
        "bootstrap intervals over films.",
        "",
        f"| way | likeness | beside {options.settings[0]}, paired |",
        "|---|---|---|",
        *rows,
        "",
    ]
    options.out.write_text("\n".join(lines), encoding="utf-8")
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(tyro.cli(Options))
