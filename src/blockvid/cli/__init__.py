"""The command line: thin, and the only place that prints or reads environment variables."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from typing import Annotated

import tyro

from blockvid.cli.console import err, say
from blockvid.cli.generate import Generate, TraceCommand
from blockvid.cli.measure import Compare, Doctor, Eval, Gate, WeightsCommand
from blockvid.cli.storyboards import StoryboardCommand
from blockvid.cli.train import Train
from blockvid.errors import InputError

Command = (
    Annotated[Generate, tyro.conf.subcommand("generate", prefix_name=False)]
    | Annotated[StoryboardCommand, tyro.conf.subcommand("storyboard", prefix_name=False)]
    | Annotated[TraceCommand, tyro.conf.subcommand("trace", prefix_name=False)]
    | Annotated[Train, tyro.conf.subcommand("train", prefix_name=False)]
    | Annotated[Eval, tyro.conf.subcommand("eval", prefix_name=False)]
    | Annotated[Compare, tyro.conf.subcommand("compare", prefix_name=False)]
    | Annotated[Gate, tyro.conf.subcommand("gate", prefix_name=False)]
    | Annotated[Doctor, tyro.conf.subcommand("doctor", prefix_name=False)]
    | Annotated[WeightsCommand, tyro.conf.subcommand("weights", prefix_name=False)]
)


def main() -> None:
    """Entry point of the `blockvid` command: exit status 0, 1 for a gate that does not pass, 2 for unusable input, 130
    for Ctrl-C."""
    try:
        _parsed()()
    except InputError as error:
        say(err, f"blockvid: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _parsed() -> Command:
    refusal = io.StringIO()
    try:
        with contextlib.redirect_stderr(refusal):
            return tyro.cli(
                Command,
                prog="blockvid",
                description="A storyboard becomes a minute-long video, chunk by chunk; and how long videos drift.",
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.CascadeSubcommandArgs),
            )
    except SystemExit:
        if box := refusal.getvalue():
            raise InputError(_one_line(box)) from None
        raise


def _one_line(box: str) -> str:
    """tyro's framed explanation of a wrong argument: what is wrong, what may have been meant, where to read on."""
    text = " ".join(re.sub(r"[│╭╮╰╯]", " ", box).split())
    _heading, wrong, *more = (section.strip() for section in re.split(r"[─-]{4,}", text))
    advice = " ".join(more)
    meant = re.search(r"Perhaps you meant: (--[\w-]+)", advice)
    known = re.search(r"Available subcommands: ([\w, ]+?)(?: For full|$)", advice)
    repair = f"use {meant[1]}" if meant else f"use one of {known[1].strip()}" if known else ""
    commands = re.findall(r"(?:run|see):? (blockvid[\w -]*? --help)", text)
    see = f"see {commands[-1] if commands else 'blockvid --help'}"
    typed = r"Error parsing (\S+): no type matching (?:\{None\}\|)?(.*?) could be instantiated from \['(.*?)'\].*"
    wrong = re.sub(typed, r"\1 \3 is no \2", wrong)
    return "; ".join(part for part in (wrong.rstrip("."), repair, see) if part)
