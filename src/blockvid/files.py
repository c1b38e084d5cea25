"""Files that are whole after a kill or a power cut, locks that end with their process, and what the disk refuses."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from blockvid.errors import InputError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
AGAIN = "free space there and run again"
RESUME = "free space there and run again with --resume"


class BusyError(Exception):
    """Another process holds a lock; the message is what it wrote into the file, or "unknown"."""


@contextlib.contextmanager
def replacing(path: Path, repair: str = AGAIN) -> Iterator[Path]:
    """Yield a temporary neighbour of ``path`` that takes its place, durably, when the block ends well.

    After a kill or a power cut at any instant ``path`` holds the old file or the new one, whole. InputError where the
    disk refuses (full, read-only, folder gone); then, as after any exception, the temporary file is removed.
    """
    try:
        with swapping(path) as part:
            yield part
    except OSError as error:
        raise refused(path, error, repair) from error


@contextlib.contextmanager
def swapping(path: Path) -> Iterator[Path]:
    """As ``replacing``, for callers with words of their own: OSError where the disk refuses."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        sync(part)
        part.replace(path)
        sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def sync(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refused(path: Path, error: OSError, repair: str = AGAIN) -> InputError:
    """The InputError for a write that the system refused; ``repair`` is that of a full disk."""
    if error.errno not in DISK_FULL:
        repair = "choose a folder that exists and is writable"
    return InputError(f"{path} cannot be written ({error.strerror}); {repair}")


@contextlib.contextmanager
def locked(path: Path, wait: bool) -> Iterator[int]:
    """Hold the lock of a file, made where missing, and yield its descriptor.

    The system lets go of it when the process ends, however it ends. Where another process holds it, ``wait`` for that
    one or raise BusyError; OSError where the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise BusyError(os.read(descriptor, 32).decode(errors="replace").strip() or "unknown") from None
        yield descriptor
    finally:
        os.close(descriptor)
