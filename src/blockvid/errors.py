"""The one exception a person's input can cause."""

from __future__ import annotations


class InputError(ValueError):
    """Something the caller gave cannot be used.

    The message is one line that names the value, the rule and the repair:
    ``97 frames do not divide into chunks of 24; use 96 or 120``. The command line prints it and exits with status 2.
    """


def at_least_one(settings: object, *names: str) -> None:
    """Raises InputError at the first of the named fields that is below 1."""
    for name in names:
        if getattr(settings, name) < 1:
            raise InputError(f"{name} {getattr(settings, name)} is less than 1; use 1 or more")
