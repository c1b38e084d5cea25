"""What commands print with, and how they keep libraries quiet."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Self

from rich.console import Console

out = Console()
err = Console(stderr=True)


def say(console: Console, text: str) -> None:
    """Text as it is: file names may hold brackets, and lines are for grep."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


class Bar:
    """Live progress on a terminal; where there is none, `show` prints lines that are worth one."""

    def __init__(self, first: str) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[note]}"))
        self._bar = Progress(*columns, console=err, disable=not err.is_terminal, transient=True)
        self._task = self._bar.add_task(first, total=None, note="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave the terminal to others."""
        self._bar.stop()

    def show(self, where: str, note: str, share: float | None, line: str | None = None) -> None:
        """`share` of the work is done, None: unknown; `line` is printed if there is no terminal."""
        self._bar.update(self._task, completed=share or 0.0, total=share and 1.0, description=where, note=note)
        if line is not None and not err.is_terminal:
            say(err, line)


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def memory_note() -> str:
    """The most memory that this process has had."""
    return f"{peak_memory() / 1e9:.1f} GB at most"


def peak_memory() -> float:
    """The most resident memory that this process has had, in bytes.

    Linux counts the parent's memory in `ru_maxrss` of a new process, and has the truth in /proc.
    """
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def quiet_libraries() -> None:
    """No progress bars or advice from the libraries underneath; our own errors say what matters."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import transformers

    transformers.utils.logging.disable_progress_bar()
