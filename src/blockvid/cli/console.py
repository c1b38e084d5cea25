"""What commands print with, and how they keep libraries quiet."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from rich.console import Console

out = Console()
err = Console(stderr=True)


def say(console: Console, text: str) -> None:
    """Text as it is: file names may hold brackets, and lines are for grep."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def memory_note() -> str:
    """The most memory that this process has had."""
    return f"{_peak() / 1e9:.1f} GB at most"


def _peak() -> float:
    """In bytes. Linux counts the parent's memory in `ru_maxrss` of a new process, and has the truth in /proc."""
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
