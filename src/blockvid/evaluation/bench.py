"""A benchmark's entries and the videos that were generated for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blockvid.errors import InputError
from blockvid.evaluation.results import Results, Warn
from blockvid.evaluation.series import Caption
from blockvid.lvbench import Entry, find_generations
from blockvid.storyboard import Storyboard


@dataclass(frozen=True)
class Generated:
    """Videos by name, and the entry of each."""

    bench: str
    videos: Mapping[str, Path]
    """Named by id, with the number of the sample where an entry has several: "pier", "lake-0", "lake-1"."""
    entries: Mapping[str, Entry]
    """By name of video."""
    missing: tuple[str, ...]
    """Ids without a video."""
    extra: tuple[Path, ...]
    """Videos that are of no entry, or could be of several."""

    @property
    def captions(self) -> dict[str, tuple[Caption, ...]]:
        """What each video should show."""
        return {
            name: tuple(Caption(segment.start, segment.end, segment.caption) for segment in entry.segments)
            for name, entry in self.entries.items()
        }

    def labelled(self, results: Results) -> Results:
        """Results of these videos, saying which entry each is of and which have none.

        A video that is shorter or longer than its entry by more than half a second is warned of: entries' captions
        then do not meet it, and lengths differ between systems.
        """
        videos = []
        for video in results.videos:
            entry = self.entries[video.name]
            off = video.seconds - entry.duration
            warnings = video.warnings
            if video.status == "scored" and abs(off) > 0.5:
                text = f"It lasts {video.seconds:.1f} s, and its entry {entry.duration:.1f} s."
                warnings = (*warnings, Warn(kind="duration", text=text))
            videos.append(video.model_copy(update={"entry": entry.id, "warnings": warnings}))
        configuration = results.configuration.model_copy(update={"bench": self.bench})
        update = {"videos": tuple(videos), "configuration": configuration, "missing": self.missing}
        return results.model_copy(update=update)


def generated(folder: Path, entries: Sequence[Entry], bench: str) -> Generated:
    """The videos of `folder` by the entries that name them; see `lvbench.find_generations` for names.

    Raises InputError if the folder cannot be listed or holds no video of any entry.
    """
    found = find_generations(folder, entries)
    by_id = {entry.id: entry for entry in entries}
    videos: dict[str, Path] = {}
    owners: dict[str, Entry] = {}
    for id, paths in found.found.items():
        for number, path in enumerate(paths):
            name = id if len(paths) == 1 else f"{id}-{number}"
            videos[name], owners[name] = path, by_id[id]
    if not videos:
        example = entries[0].id if entries else "ID"
        raise InputError(f"{folder} holds no video of {bench}'s {len(entries)} entries; name them like {example}.mp4")
    return Generated(bench, videos, owners, found.missing, (*found.extra, *found.ambiguous))


def shown(storyboard: Storyboard) -> tuple[Caption, ...]:
    """A storyboard's prompts and when each is shown."""
    captions, start = [], 0.0
    for shot in storyboard.shots:
        captions.append(Caption(start, start + shot.seconds, shot.prompt))
        start += shot.seconds
    return tuple(captions)
