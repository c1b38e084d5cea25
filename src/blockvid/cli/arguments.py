"""Arguments to settings, by tyro; what cannot be understood is refused in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from blockvid.errors import InputError

Settings = TypeVar("Settings")


def parsed(
    kind: type[Settings],
    program: str,
    arguments: Sequence[str] | None = None,
    default: Settings | None = None,
    description: str | None = None,
) -> Settings:
    """`kind` from the command line's arguments, or from those given. Raises InputError."""
    given = Counter(argument.split("=")[0] for argument in (sys.argv[1:] if arguments is None else arguments))
    for option in sorted(option for option, times in given.items() if option.startswith("--") and times > 1):
        if option in _lists(kind):  # of which only the last would count
            raise InputError(f"{option} is given twice; write all of its values after one {option}")
    refusal = io.StringIO()
    try:
        with contextlib.redirect_stderr(refusal):
            return tyro.cli(
                kind,
                prog=program,
                args=arguments,
                default=tyro.MISSING_NONPROP if default is None else default,
                description=description,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.CascadeSubcommandArgs),
            )
    except SystemExit:
        if box := refusal.getvalue():
            raise InputError(_one_line(box)) from None
        raise


def _lists(kind: Any) -> Iterator[str]:
    """The options of several values among those of `kind`, a dataclass or a union of some."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        for name, hint in get_type_hints(kind).items():
            if get_origin(hint) is tuple and get_args(hint)[-1] is ...:
                yield f"--{name.replace('_', '-')}"
            yield from _lists(hint)
    else:
        for part in get_args(kind):
            yield from _lists(part)


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
    wrong = re.sub(r"Error parsing run(\.\w+)?: ", "", wrong)
    wrong = re.sub(r"invalid choice '(.*?)' for argument '(.*?)'\. Expected one of \((.*)\)", _choices, wrong)
    return "; ".join(part for part in (wrong.rstrip("."), repair, see) if part)


def _choices(found: re.Match[str]) -> str:
    """Without the None that leaves a choice to the model, which nobody can type."""
    choices = sorted(set(re.findall(r"'(.*?)'", found[3])) - {"None"})
    return f"{found[2]} {found[1]} is unknown; use {', '.join(choices)}"
