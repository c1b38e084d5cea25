"""blockvid train: a recipe, until it is done or asked to stop."""

from __future__ import annotations

import dataclasses
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from blockvid.cli.console import quiet_libraries
from blockvid.cli.options import default
from blockvid.errors import InputError


@dataclass(frozen=True)
class Train:
    """Run a training recipe; run it again to continue after a stop. Ctrl-C saves and exits 0."""

    recipe: tyro.conf.Positional[str]
    """storybook_autoencoder or storybook_base."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("runs/storybook")
    """Folder for data, checkpoints and exported weights."""
    steps: Annotated[int | None, default("the recipe's", "N")] = None
    """Length of the run."""
    schedule: Annotated[
        Literal["naive", "linear", "cosine", "sigmoid"] | None, default("the recipe's", "naive|linear|cosine|sigmoid")
    ] = None
    """Noise levels along the chunks of a sample (Eqs. 11, 26, 27); storybook_base."""
    threads: Annotated[int | None, default("all", "N")] = None
    """CPU threads."""

    def __call__(self) -> None:
        import torch

        from blockvid.flow import ChunkSchedule
        from blockvid.recipes import RECIPES
        from blockvid.recipes.storybook import BaseRun

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
        quiet_libraries()
        if self.recipe not in RECIPES:
            raise InputError(f"recipe {self.recipe!r} is unknown; use one of {', '.join(RECIPES)}")
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        run = RECIPES[self.recipe]()
        if self.steps is not None:
            run = dataclasses.replace(run, optimisation=dataclasses.replace(run.optimisation, steps=self.steps))
        if self.schedule is not None:
            if not isinstance(run, BaseRun):
                raise InputError(f"--schedule {self.schedule} is for transformers; {self.recipe} takes none")
            schedule = ChunkSchedule(self.schedule)
            run = dataclasses.replace(run, objective=dataclasses.replace(run.objective, schedule=schedule))
        self.out.mkdir(parents=True, exist_ok=True)
        run(self.out, _interruptible())


def _interruptible() -> Callable[[], bool]:
    """A question that turns true at the first Ctrl-C (or SIGTERM); the second one kills as usual."""
    asked: list[int] = []

    def ask(number: int, _frame: object) -> None:
        asked.append(number)
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)
    return lambda: bool(asked)
