"""The command line as the tests use it: in this process, and what a refusal looks like."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import pytest

from blockvid.cli import main

Run = Callable[..., tuple[int, str, str]]
PROGRAM = [sys.executable, "-c", "import sys; from blockvid.cli import main; main()"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process: exit status, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["blockvid", *map(str, arguments)])
        capsys.readouterr()
        status = 0
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return call


def refused(result: tuple[int, str, str], offending: str) -> None:
    """Exit status 2 and one line: the value, the rule, the repair."""
    status, _, err = result
    assert status == 2, err
    assert err.startswith("blockvid: ") and len(err.splitlines()) == 1, err
    assert offending in err and "; " in err, err


def interruptible() -> None:
    """In a new process: a shell lets what runs in the background ignore Ctrl-C, and the tests would pass that on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
