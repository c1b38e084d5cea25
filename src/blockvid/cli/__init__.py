"""The command line: thin, and the only place that prints or reads environment variables."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Annotated

import tyro

from blockvid.cli.arguments import parsed
from blockvid.cli.console import err, say
from blockvid.cli.data import DataCommand
from blockvid.cli.generate import Generate, TraceCommand
from blockvid.cli.measure import Compare, Doctor, Eval, Gate, WeightsCommand
from blockvid.cli.storyboards import StoryboardCommand
from blockvid.cli.train import Train, train
from blockvid.errors import InputError

Command = (
    Annotated[Generate, tyro.conf.subcommand("generate", prefix_name=False)]
    | Annotated[StoryboardCommand, tyro.conf.subcommand("storyboard", prefix_name=False)]
    | Annotated[TraceCommand, tyro.conf.subcommand("trace", prefix_name=False)]
    | Annotated[Train, tyro.conf.subcommand("train", prefix_name=False)]
    | Annotated[DataCommand, tyro.conf.subcommand("data", prefix_name=False)]
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


def _parsed() -> Callable[[], None]:
    """What was asked for; the options of a recipe follow its name, and are its own."""
    if sys.argv[1:2] == ["train"] and len(sys.argv) > 2 and not sys.argv[2].startswith("-"):
        return partial(train, sys.argv[2], sys.argv[3:])
    return parsed(
        Command,  # pyright: ignore[reportArgumentType]
        "blockvid",
        description="A storyboard becomes a minute-long video, chunk by chunk; and how long videos drift.",
    )
