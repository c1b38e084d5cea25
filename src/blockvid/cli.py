"""The command line: thin, and the only file that prints or reads environment variables."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from blockvid.errors import InputError

if TYPE_CHECKING:
    from blockvid.generate import Event
    from blockvid.pipeline import Pipeline, Settings
    from blockvid.storyboard import Storyboard

out = Console()
err = Console(stderr=True)


@dataclass(frozen=True)
class Model:
    """Which model, and at what size."""

    model: Annotated[str, tyro.conf.arg(metavar="NAME|FOLDER|HUB-ID")] = "storybook"
    """The embedded "storybook" model, a model folder (Wan 2.1, SkyReels-V2-DF, or exported here), or a hub id."""
    device: str = "auto"
    """auto, cpu or cuda."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the transformer; auto is bfloat16 where the processor has it."""
    width: int | None = None
    """Pixels; the model's own by default, as for height, fps and chunk-frames."""
    height: int | None = None
    fps: float | None = None
    chunk_frames: int | None = None
    """Longest chunk in latent frames (four pixel frames each)."""

    def load(self) -> Pipeline:
        import torch

        from blockvid.pipeline import Pipeline

        dtype = None if self.dtype == "auto" else getattr(torch, self.dtype)
        size = (self.width, self.height, self.fps, self.chunk_frames)
        return Pipeline.from_pretrained(self.model, self.device, dtype, *size)


@dataclass(frozen=True)
class Generate:
    """Turn a storyboard into a video, chunk by chunk.

    The mp4 is complete and playable after every chunk. Stop with Ctrl-C (or lose power) and continue with --resume:
    the frames are the same as if nothing had happened.
    """

    storyboard: tyro.conf.Positional[Path]
    """Storyboard file: .toml, .yaml or .json (shots), the paper's captions, .jsonl, or .txt with one prompt a line."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("out.mp4")
    """The video to write; its run folder (manifest, journal, contact sheet) is named after it: out.run."""
    image: Path | None = None
    """First frame: start from this picture."""
    seed: int = 0
    """The same seed, storyboard, model and machine make the same frames."""
    steps: int | None = None
    """Solver steps a chunk; the model's own by default."""
    guidance: float | None = None
    """How strongly prompts are followed; 1 is no guidance and half the time. The model's own by default."""
    shift: float | None = None
    """Warp of the noise levels: larger spends more steps at high noise."""
    solver: Literal["unipc", "euler"] | None = None
    """The model's own by default."""
    keep: Literal["window", "full"] = "window"
    """What the cache keeps of past chunks: the last --window chunks, or all of them."""
    window: int = 2
    """Past chunks that a chunk can see, with --keep window."""
    negative_prompt: str | None = None
    """What to stay away from; needs guidance above 1."""
    index: int = 0
    """Which storyboard of a .jsonl file, from 0."""
    resume: bool = False
    """Continue the run of this name after its last finished chunk; without one, begin."""
    overwrite: bool = False
    """Begin again, discarding an earlier run of this name."""
    dry_run: bool = False
    """Print frames, chunks, tokens, and the memory and time to expect; generate nothing."""
    choice: tyro.conf.OmitArgPrefixes[Model] = dataclasses.field(default_factory=Model)

    def __call__(self) -> None:
        from blockvid.storyboard import Storyboard

        storyboard = Storyboard.read(self.storyboard, self.index)
        if self.resume and self.overwrite:
            raise InputError("--resume keeps an earlier run and --overwrite discards it; give one of them")
        if self.dry_run:
            self._preview(storyboard)
            return
        from blockvid.generate import Existing, generate, run_folder
        from blockvid.video import check_target

        check_target(self.out.absolute())
        quiet_libraries()
        pipe = self.choice.load()
        existing = Existing.RESUME if self.resume else Existing.OVERWRITE if self.overwrite else Existing.REFUSE
        began = time.perf_counter()
        with _Display() as display:
            try:
                sheet = generate(pipe, storyboard, self.out, self._settings(), existing, display.show)
            except KeyboardInterrupt:
                display.stop()
                err.print(f"stopped; {self.out} plays up to the last finished chunk; continue with --resume")
                raise
        seconds = storyboard.seconds
        out.print(f"{self.out}: {seconds:g} s of video in {time.perf_counter() - began:.0f} s", highlight=False)
        out.print(f"contact sheet: {sheet}\nrun folder: {run_folder(self.out)}", highlight=False, soft_wrap=True)

    def _settings(self) -> Settings:
        from blockvid.attention.policies import Full, Window
        from blockvid.pipeline import SOLVERS, Settings

        return Settings(
            seed=self.seed,
            steps=self.steps,
            guidance=self.guidance,
            shift=self.shift,
            solver=None if self.solver is None else SOLVERS[self.solver],
            policy=Full() if self.keep == "full" else Window(self.window),
            negative_prompt=self.negative_prompt,
            image=self.image,
        )

    def _preview(self, storyboard: Storyboard) -> None:
        from blockvid.estimate import estimate

        quiet_libraries()
        pipe = self.choice.load()
        settings = self._settings().resolved(pipe.models, storyboard)
        table = Table("", "", show_header=False, box=None)
        for name, value in estimate(pipe.models, storyboard, settings).rows():
            table.add_row(name, value)
        out.print(table)


class _Display:
    """Live progress on a terminal; a line per chunk where there is none."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
        self.bar = Progress(*columns, console=err, disable=not err.is_terminal, transient=True)
        self.task = self.bar.add_task("loading", total=1.0, note="")
        self.first: float | None = None

    def __enter__(self) -> _Display:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def stop(self) -> None:
        self.bar.stop()

    def show(self, event: Event) -> None:
        if self.first is None:
            self.first = event.chunk / event.chunks
        done = event.fraction - self.first
        left = event.elapsed / done * (1 - event.fraction) if done > 0 else 0.0
        rate = f"{event.frames / event.elapsed:.1f} frames/s, " if event.frames else ""
        note = f"{rate}{_clock(left)} left, {_memory()}"
        where = f"chunk {event.chunk + 1} of {event.chunks}"
        self.bar.update(
            self.task, completed=event.fraction, description=f"{where}, step {event.step} of {event.steps}", note=note
        )
        if event.finished and not err.is_terminal:
            err.print(f"{where} written, {note}", highlight=False)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _memory() -> str:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"{peak / 1e9:.1f} GB at most"


@dataclass(frozen=True)
class Check:
    """Check a storyboard file and print its shots and chunks."""

    file: tyro.conf.Positional[Path]
    """The storyboard."""
    index: int = 0
    """Which storyboard of a .jsonl file, from 0."""
    fps: float = 8.0
    """Frame rate to cut chunks for (the embedded model's by default)."""
    chunk_frames: int = 8
    """Longest chunk in latent frames."""

    def __call__(self) -> None:
        from blockvid.geometry import Geometry
        from blockvid.storyboard import Storyboard

        storyboard = Storyboard.read(self.file, self.index)
        geometry = Geometry(width=160, height=96, fps=self.fps, chunk_frames=self.chunk_frames)
        chunks = storyboard.chunks(geometry)
        table = Table("chunk", "shot", "seconds", "latent frames", "prompt", box=None)
        for chunk in chunks:
            first = geometry.pixel_frames(chunk.start) if chunk.start else 0
            last = min(geometry.pixel_frames(chunk.stop), storyboard.frames(geometry))
            span = f"{first / self.fps:.2f} - {last / self.fps:.2f}"
            table.add_row(str(chunk.index), str(chunk.shot + 1), span, str(chunk.frames), chunk.prompt)
        out.print(table)
        frames = storyboard.frames(geometry)
        out.print(
            f"{len(storyboard.shots)} shots, {len(chunks)} chunks, {storyboard.seconds:g} s, "
            f"{frames} frames at {self.fps:g} fps",
            highlight=False,
        )


@dataclass(frozen=True)
class Schema:
    """Print the JSON Schema of blockvid's own storyboard form."""

    def __call__(self) -> None:
        from blockvid.storyboard import schema_text

        sys.stdout.write(schema_text())


@dataclass(frozen=True)
class StoryboardCommand:
    """Look into storyboard files."""

    command: tyro.conf.OmitArgPrefixes[
        Annotated[Check, tyro.conf.subcommand("check", prefix_name=False)]
        | Annotated[Schema, tyro.conf.subcommand("schema", prefix_name=False)]
    ]

    def __call__(self) -> None:
        self.command()


@dataclass(frozen=True)
class Train:
    """Run a training recipe; run it again to continue after a stop. Ctrl-C saves and exits 0."""

    recipe: tyro.conf.Positional[str]
    """storybook_autoencoder or storybook_base."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("runs/storybook")
    """Folder for data, checkpoints and exported weights."""
    steps: int | None = None
    """Length of the run; the recipe's by default."""
    threads: int | None = None
    """CPU threads; all by default."""

    def __call__(self) -> None:
        import torch

        from blockvid.recipes import RECIPES

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
        quiet_libraries()
        if self.recipe not in RECIPES:
            raise InputError(f"recipe {self.recipe!r} is unknown; use one of {', '.join(RECIPES)}")
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        run = RECIPES[self.recipe]()
        if self.steps is not None:
            run = dataclasses.replace(run, optimisation=dataclasses.replace(run.optimisation, steps=self.steps))
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


def quiet_libraries() -> None:
    """No progress bars or advice from the libraries underneath; our own errors say what matters."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import transformers

    transformers.utils.logging.disable_progress_bar()


Command = (
    Annotated[Generate, tyro.conf.subcommand("generate", prefix_name=False)]
    | Annotated[StoryboardCommand, tyro.conf.subcommand("storyboard", prefix_name=False)]
    | Annotated[Train, tyro.conf.subcommand("train", prefix_name=False)]
)


def main() -> None:
    """Entry point of the `blockvid` command: exit status 0, 2 for unusable input, 130 for Ctrl-C."""
    try:
        command = tyro.cli(
            Command,
            prog="blockvid",
            description="A storyboard becomes a minute-long video, chunk by chunk.",
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.CascadeSubcommandArgs),
        )
        command()
    except InputError as error:
        err.print(f"blockvid: {error}", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
