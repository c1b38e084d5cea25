"""blockvid data: videos into training shards."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from blockvid.cli.console import Bar, clock, err, out, quiet_libraries, say
from blockvid.cli.options import Model, default
from blockvid.errors import InputError

if TYPE_CHECKING:
    from blockvid.data.encode import Progress


@dataclass(frozen=True)
class Encode:
    """Turn a folder of captioned videos into training shards (docs/data.md).

    A video's captions are a storyboard beside it under its name (clip.mp4, clip.txt), or entries of --captions. Stop
    and give the same command to go on; what cannot be read is recorded and skipped.
    """

    videos: tyro.conf.Positional[Path]
    """Folder of videos."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("data/shards")
    """Folder for shards, their index and the ledger."""
    captions: Annotated[Path | None, default("beside each video", "FILE")] = None
    """A file in a form of docs/lvbench.md, with entries named as the videos."""
    part: Literal["train", "eval"] = "train"
    """Which part of a divided file of captions is taken."""
    latents: Literal["float16", "bfloat16", "float32"] = "float16"
    """How latents are stored."""
    shard_bytes: int = 1_000_000_000
    """Size from which a new shard is begun."""
    retry: bool = False
    """Try again what failed before."""
    model: tyro.conf.OmitArgPrefixes[Model] = dataclasses.field(default_factory=Model)

    def __call__(self) -> None:
        from blockvid.data.encode import Options, encode

        quiet_libraries()
        if not self.videos.is_dir():
            raise InputError(f"{self.videos} is no folder; name one that holds captioned videos")
        models = self.model.load_encoders()
        options = Options(self.captions, self.part, self.latents, self.shard_bytes, self.retry)
        try:
            with Bar("reading") as bar:
                done = encode(self.videos, self.out, models, options, _Display(bar).show)
        except KeyboardInterrupt:
            say(err, "stopped; finished videos are kept, and the same command goes on")
            raise
        for refusal in done.failed:
            say(err, f"skipped {refusal.id}: {refusal.reason}")
        say(out, f"{self.out}: {done.done} videos, {done.chunks} chunks, {len(done.failed)} skipped")


@dataclass(frozen=True)
class Ls:
    """What is in a folder of shards; every byte is read and checked."""

    shards: tyro.conf.Positional[Path]
    """Folder that `blockvid data encode` wrote."""

    def __call__(self) -> None:
        from blockvid.data.shards import Shards

        shards = Shards.open(self.shards)
        for row in range(len(shards)):
            shards.read(row)
        index, dataset = shards.index, shards.dataset
        geometry = dataset.geometry
        megabytes = index.size.sum() / 1e6
        size = (
            f"{geometry.width}x{geometry.height} at {geometry.fps:g} fps, {geometry.chunk_frames} latent frames a chunk"
        )
        say(out, f"{len(index.videos)} videos, {len(index)} chunks, {len(index.shards)} shards, {megabytes:.1f} MB")
        say(out, f"{size}; encoded with {dataset.model}, text by {dataset.text}; sound")


class _Display:
    """Chunks stored and the time to go; a line per video where there is no terminal."""

    def __init__(self, bar: Bar) -> None:
        self.bar, self.finished = bar, 0

    def show(self, progress: Progress) -> None:
        left = "" if progress.seconds_left is None else f", {clock(progress.seconds_left)} left"
        where, note = f"{progress.finished} of {progress.videos} videos", f"{progress.chunks} chunks{left}"
        line = f"{where}, {note}: {progress.video}" if progress.finished > self.finished else None
        self.bar.show(where, note, progress.finished / progress.videos, line)
        self.finished = progress.finished


@dataclass(frozen=True)
class DataCommand:
    """Training data."""

    command: tyro.conf.OmitArgPrefixes[
        Annotated[Encode, tyro.conf.subcommand("encode", prefix_name=False)]
        | Annotated[Ls, tyro.conf.subcommand("ls", prefix_name=False)]
    ]

    def __call__(self) -> None:
        self.command()
