"""A file is the old one or the new one, a lock ends with its process, and a refusal names a repair that there is."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from blockvid.errors import InputError
from blockvid.files import RESUME, BusyError, locked, refused, replacing


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "numbers"
    for text in ("old", "new"):
        with replacing(path) as part:
            part.write_text(text)
            assert not path.exists() if text == "old" else path.read_text() == "old"
    with pytest.raises(KeyError), replacing(path) as part:
        part.write_text("half")
        raise KeyError
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_repaired_as_the_caller_says(tmp_path: Path):
    full = OSError(errno.ENOSPC, "No space left on device")
    again = f"{tmp_path} cannot be written (No space left on device); free space there and run again"
    assert str(refused(tmp_path, full)) == again
    for write, message in ((replacing(tmp_path), again), (replacing(tmp_path, RESUME), f"{again} with --resume")):
        with pytest.raises(InputError) as caught, write:
            raise full
        assert str(caught.value) == message
    with (
        pytest.raises(InputError, match=r"choose a folder that exists"),
        replacing(tmp_path / "no" / "file", RESUME) as x,
    ):
        x.write_text("")


HOLDING = """
import os, sys
from pathlib import Path
from blockvid.files import locked
with locked(Path(sys.argv[1]), wait=False) as descriptor:
    os.write(descriptor, b"somebody")
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_held_by_one_process_until_it_ends_however_it_ends(tmp_path: Path):
    command = [sys.executable, "-c", HOLDING, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match=r"^somebody$"), locked(tmp_path / "lock", wait=False):
            pass
        other.kill()
        with locked(tmp_path / "lock", wait=True), pytest.raises(BusyError), locked(tmp_path / "lock", wait=False):
            pass
    with locked(tmp_path / "lock", wait=False):
        pass
