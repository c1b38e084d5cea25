"""blockvid storyboard check, blockvid storyboard schema."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table
from rich.text import Text

from blockvid.cli.console import out, say


@dataclass(frozen=True)
class Check:
    """Check a storyboard file and print its shots and chunks."""

    file: tyro.conf.Positional[Path]
    """The storyboard."""
    index: int = 0
    """Which storyboard of a .jsonl file, from 0."""
    fps: float = 8.0
    """Frame rate to cut chunks for (the embedded model's by default)."""
    chunk_frames: int = 8
    """Longest chunk in latent frames."""

    def __call__(self) -> None:
        from blockvid.geometry import Geometry
        from blockvid.storyboard import Storyboard

        storyboard = Storyboard.read(self.file, self.index)
        geometry = Geometry(width=160, height=96, fps=self.fps, chunk_frames=self.chunk_frames)
        chunks, frames = storyboard.chunks(geometry), storyboard.frames(geometry)
        table = Table("chunk", "shot", "seconds", "latent frames", "prompt", box=None)
        for chunk in chunks:
            shown = geometry.pixels(chunk.start, chunk.stop, frames)
            span = f"{shown.start / self.fps:.2f} - {shown.stop / self.fps:.2f}"
            table.add_row(str(chunk.index), str(chunk.shot + 1), span, str(chunk.frames), Text(chunk.prompt))
        out.print(table)
        counts = f"{len(storyboard.shots)} shots, {len(chunks)} chunks, {storyboard.seconds:g} s"
        say(out, f"{counts}, {frames} frames at {self.fps:g} fps")


@dataclass(frozen=True)
class Schema:
    """Print the JSON Schema of blockvid's own storyboard form."""

    def __call__(self) -> None:
        from blockvid.storyboard import schema_text

        sys.stdout.write(schema_text())


@dataclass(frozen=True)
class StoryboardCommand:
    """Look into storyboard files."""

    command: tyro.conf.OmitArgPrefixes[
        Annotated[Check, tyro.conf.subcommand("check", prefix_name=False)]
        | Annotated[Schema, tyro.conf.subcommand("schema", prefix_name=False)]
    ]

    def __call__(self) -> None:
        self.command()
