"""blockvid train: a recipe, until it is done or asked to stop."""

from __future__ import annotations

import dataclasses
import logging
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.table import Table
from rich.text import Text

from blockvid.cli.arguments import parsed
from blockvid.cli.console import out, quiet_libraries, say
from blockvid.cli.options import default
from blockvid.errors import InputError

if TYPE_CHECKING:
    from blockvid.recipes.storybook import TransformerRun


@dataclass(frozen=True)
class Common:
    """Options of every recipe."""

    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"]), default("runs/RECIPE", "FOLDER")] = None
    """Folder for data, checkpoints and exported weights. Over an earlier run, that run goes on."""
    threads: Annotated[int | None, default("all", "N")] = None
    """CPU threads."""
    dry_run: bool = False
    """Print parameters, memory a rank, tokens a step. Nothing is trained, and no weights are loaded."""


@dataclass(frozen=True)
class StorybookOptions:
    """What the recipes of the embedded model leave open."""

    steps: Annotated[int | None, default("the recipe's", "N")] = None
    """Length of the run."""
    takes: Annotated[int | None, default("the recipe's", "N")] = None
    """Rendered takes of 20 s that windows of chunks are learned from, a multiple of 10; storybook_base."""
    skip: Annotated[int | None, default("none", "N")] = None
    """Takes to leave out, the first ones, which the weights to begin with have learned: a multiple of 10;
    storybook_base."""
    openings: Annotated[int | None, default("the recipe's", "N")] = None
    """Further takes, of 4 s, that single chunks are learned from, a multiple of 40; storybook_base."""
    stills: Annotated[int | None, default("the recipe's", "N")] = None
    """Snippets of 2 s that stills are learned from, a multiple of 16; storybook_stills and storybook_base. What the
    autoencoder or the probe learned from, in the same folder, is not rendered again."""
    scale: int = 1
    """Samples of a step, times the recipe's, which are sized for two CPU cores."""
    peak: float = 1.0
    """Highest learning rates, times the recipe's."""
    fall: Annotated[float | None, default("the recipe's", "SHARE")] = None
    """Last share of the run, over which learning rates fall to zero."""
    schedule: Annotated[
        Literal["naive", "linear", "cosine", "sigmoid"] | None, default("the recipe's", "naive|linear|cosine|sigmoid")
    ] = None
    """Noise levels along the chunks of a sample (Eqs. 11, 26, 27); storybook_base."""
    device: str = "auto"
    """cpu or cuda; auto is CUDA where there is one."""
    compile: bool = False
    """Compile the transformer: a minute or more before the first steps, and faster ones then; storybook_stills and
    storybook_base."""


@dataclass(frozen=True)
class Train:
    """Run a training recipe; run it again to go on after a stop. Ctrl-C saves and exits 0.

    Recipes: storybook_autoencoder, storybook_stills, storybook_base (the embedded model, from nothing);
    storybook_decoder and storybook_sharpen (a better decoder of the same latents, by errors of pixels and against a
    critic); storybook_probe (the scorecard's classifier), storybook_direction (its part that reads directions);
    storybook_stage1, storybook_stage2, wan_1_3b_stage1, wan_1_3b_stage2 (post-training); storybook_distill,
    wan_1_3b_distill (fewer steps, no guidance); debug. `blockvid train RECIPE
    --help` has the options of each. On several GPUs: torchrun --nproc-per-node N --no-python blockvid train RECIPE ...
    """

    recipe: tyro.conf.Positional[str]
    """One of those above; its options follow."""

    def __call__(self) -> None:
        raise InputError(f"--{self.recipe} is no recipe; the recipe comes first, as in blockvid train debug")


def train(recipe: str, arguments: Sequence[str]) -> None:
    """The recipe with the options that follow its name."""
    from blockvid.recipes import RECIPES

    if recipe not in RECIPES:
        raise InputError(f"recipe {recipe!r} is unknown; use one of {', '.join(RECIPES)}")
    made: Any = RECIPES[recipe]()
    common, run = _configured(recipe, made, arguments)
    if common.threads is not None:
        import torch

        torch.set_num_threads(common.threads)
    if common.dry_run:
        _preview(recipe, run)
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    quiet_libraries()
    folder = common.out or Path("runs") / recipe
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}); name another folder by --out") from None
    run(folder, _interruptible())
    say(out, f"{folder} holds the run; the same command goes on, or generate with --model {folder}")


def _configured(recipe: str, made: Any, arguments: Sequence[str]) -> tuple[Common, Any]:
    """The options of every recipe, and the recipe's run with its own."""
    described = (type(made).__doc__ or "").splitlines()[0]
    if not hasattr(made, "rows"):
        both = parsed(_with(StorybookOptions), f"blockvid train {recipe}", arguments, description=described)
        return both.common, _storybook(recipe, made, both.run)
    both = parsed(_with(type(made)), f"blockvid train {recipe}", arguments, _with(type(made))(run=made), described)
    return both.common, both.run


def _with(kind: type) -> Any:
    """Common options beside those of `kind`."""
    fields = [
        ("common", tyro.conf.OmitArgPrefixes[Common], dataclasses.field(default_factory=Common)),
        ("run", tyro.conf.OmitArgPrefixes[kind], dataclasses.field(default_factory=kind)),
    ]
    return dataclasses.make_dataclass("Options", fields, frozen=True)


def _storybook(recipe: str, run: Any, options: StorybookOptions) -> Any:
    from blockvid.recipes.storybook import TransformerRun
    from blockvid.training.sharding import native_precision

    plan = run.plan
    fall = plan.rate.fall if options.fall is None else options.fall
    rate = dataclasses.replace(plan.rate, peak=options.peak, fall=fall)
    steps = plan.steps if options.steps is None else options.steps
    precision = native_precision(options.device)
    plan = dataclasses.replace(plan, steps=steps, rate=rate, precision=precision)
    run = dataclasses.replace(run, plan=plan, device=options.device)
    if options.scale < 1:
        raise InputError(f"a scale of {options.scale} leaves no sample in a step; use 1 or more")
    if isinstance(run, TransformerRun):
        return _transformer(recipe, run, options)
    for name in ("takes", "skip", "openings", "stills", "schedule", "compile"):
        given = getattr(options, name)
        if given is not None and given is not False:
            raise InputError(f"--{name} {given} is for recipes that learn from takes; {recipe} does not, leave it out")
    return dataclasses.replace(run, batch=run.batch * options.scale)


def _transformer(recipe: str, run: TransformerRun, options: StorybookOptions) -> TransformerRun:
    from blockvid.flow import ChunkSchedule
    from blockvid.recipes.storybook import SIZES, Windows
    from blockvid.training.densities import continuing

    for name, size in {"skip": SIZES["takes"], **SIZES}.items():
        count = getattr(options, name)
        if count is not None:
            if count < size or count % size:
                raise InputError(f"--{name} {count} is no multiple of {size}, by which they are made; use {10 * size}")
            run = dataclasses.replace(run, **{name: count // size})
    run = dataclasses.replace(run, compile=options.compile)
    lessons = [dataclasses.replace(lesson, batch=lesson.batch * options.scale) for lesson in run.lessons]
    if options.schedule is not None:
        windows = [i for i, lesson in enumerate(lessons) if isinstance(lesson, Windows) and lesson.chunks > 1]
        if not windows:
            raise InputError(f"--schedule {options.schedule} is for windows of chunks; {recipe} shows none")
        density = continuing(ChunkSchedule(options.schedule))
        for i in windows:
            objective = dataclasses.replace(lessons[i].objective, density=density)
            lessons[i] = dataclasses.replace(lessons[i], objective=objective)
    return dataclasses.replace(run, lessons=tuple(lessons))


def _preview(recipe: str, run: Any) -> None:
    if not hasattr(run, "rows"):
        raise InputError(f"--dry-run is for post-training; {recipe} says in its model card what it takes")
    table = Table("", "", show_header=False, box=None)
    for row in run.rows():
        table.add_row(*map(Text, row))
    out.print(table)


def _interruptible() -> Callable[[], bool]:
    """A question that turns true at the first Ctrl-C (or SIGTERM); the second one kills as usual."""
    asked: list[int] = []

    def ask(number: int, _frame: object) -> None:
        asked.append(number)
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)
    return lambda: bool(asked)
