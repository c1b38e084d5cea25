"""Where a page finds a video."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote


def of_file(path: str, folder: Path) -> str | None:
    """The address of a file from a page in a folder: relative where it can be; None where there is no such file."""
    file = Path(path)
    if not file.is_file():
        return None
    try:
        return quote(Path(os.path.relpath(file.resolve(), folder.resolve())).as_posix())
    except ValueError:  # another drive
        return file.resolve().as_uri()
