"""blockvid generate: a storyboard becomes a video. blockvid trace: what its chunks looked at."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.table import Table
from rich.text import Text

from blockvid.cli.console import Bar, clock, err, memory_note, out, quiet_libraries, say
from blockvid.cli.options import Memory, Model, Noise, Watching, default
from blockvid.errors import InputError

if TYPE_CHECKING:
    from blockvid.evaluation.watch import ChunkDrift
    from blockvid.generate import Event
    from blockvid.pipeline import Settings
    from blockvid.storyboard import Storyboard


@dataclass(frozen=True)
class Generate:
    """Turn a storyboard into a video, chunk by chunk.

    The mp4 is complete and playable after every chunk. Stop with Ctrl-C (or lose power) and give the same command with
    --resume: the frames are the same as if nothing had happened.
    """

    storyboard: tyro.conf.Positional[Path]
    """Storyboard file: .toml, .yaml, .json or .jsonl, or .txt with one prompt a line (see docs/storyboards.md)."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("out.mp4")
    """The video to write. Its manifest, journal and contact sheet go to a folder beside it: out.mp4 has out.run."""
    image: Annotated[Path | None, default("none", "PATH")] = None
    """Picture that the video starts from."""
    seed: int = 0
    """The same seed, storyboard, model and machine make the same frames."""
    steps: Annotated[int | None, default("the model's", "N")] = None
    """Solver steps for each chunk: more take longer and are finer."""
    guidance: Annotated[float | None, default("the model's", "SCALE")] = None
    """How strongly prompts are followed, about 3 to 8; 1 is not at all beyond what the model learned, in half the
    time."""
    guidance_rule: Annotated[Literal["cfg", "cfg-zero"] | None, default("the model's", "cfg|cfg-zero")] = None
    """cfg is classifier-free guidance; cfg-zero (CFG-Zero*) first gives the negative prompt's velocity its best length,
    which costs nothing and lets the scale be larger."""
    shift: Annotated[float | None, default("the model's", "NUMBER")] = None
    """Warp of the noise levels: larger spends more steps at high noise."""
    solver: Annotated[Literal["unipc", "euler", "renoise"] | None, default("the model's", "unipc|euler|renoise")] = None
    """unipc needs fewer steps; euler is the plainest there is; renoise is for few-step students (Self Forcing)."""
    overlap: Annotated[int | None, default("the model's", "FRAMES")] = None
    """Last latent frames of a chunk that the next one is denoised beside, clean, so that it goes on from them more
    smoothly; each takes as long as one of its own."""
    dissolve: Annotated[float | None, default("the model's", "NUMBER")] = None
    """Where a new chunk differs by less than this from what was shown before it (in latents, of standard deviation 1),
    the difference comes in over its first latent frames; 0 shows every chunk as it was made."""
    negative_prompt: Annotated[str | None, default("the storyboard's, else the model's", "TEXT")] = None
    """What to stay away from, when guidance is not 1."""
    index: int = 0
    """Which storyboard of a .jsonl file, from 0."""
    resume: bool = False
    """Continue the run of this name after its last finished chunk; begin, if there is none."""
    overwrite: bool = False
    """Begin again, discarding an earlier run or video of this name."""
    dry_run: bool = False
    """Print the frames, chunks and tokens, and the memory and time to expect. Nothing is generated or written, and no
    weights are loaded."""
    trace: bool = False
    """Write trace.json to the run folder: what each chunk recalled and why. `blockvid trace` draws it."""
    memory: tyro.conf.OmitArgPrefixes[Memory] = dataclasses.field(default_factory=Memory)
    noise: tyro.conf.OmitArgPrefixes[Noise] = dataclasses.field(default_factory=Noise)
    drift: tyro.conf.OmitArgPrefixes[Watching] = dataclasses.field(default_factory=Watching)
    model: tyro.conf.OmitArgPrefixes[Model] = dataclasses.field(default_factory=Model)

    def __call__(self) -> None:
        from blockvid.storyboard import Storyboard

        if self.resume and self.overwrite:
            raise InputError("--resume keeps an earlier run and --overwrite discards it; give one of them")
        storyboard = Storyboard.read(self.storyboard, self.index)
        quiet_libraries()
        settings, rules = self._fitted(storyboard, self._settings()), self.drift.rules()
        if self.dry_run:
            self._preview(storyboard, settings)
            return
        from blockvid.files import RESUME
        from blockvid.generate import DriftError, Existing, generate, run_folder
        from blockvid.video import check_target

        check_target(self.out.absolute(), RESUME)
        existing = Existing.RESUME if self.resume else Existing.OVERWRITE if self.overwrite else Existing.REFUSE
        began = time.perf_counter()
        with Bar(f"loading {self.model.name}") as bar:
            display = _Display(bar)
            try:
                pipe = self.model.load()
                sheet = generate(pipe, storyboard, self.out, settings, existing, display.show, self.trace, rules)
            except DriftError as reason:
                bar.stop()
                say(
                    err,
                    f"stopped: {reason}; {display.written(self.out)}; to go on, give --resume and another --stop-at",
                )
                sys.exit(1)
            except KeyboardInterrupt:
                bar.stop()
                say(err, f"stopped; {display.written(self.out)}; to continue, give the same command with --resume")
                raise
        say(out, f"{self.out}: {storyboard.seconds:g} s of video in {time.perf_counter() - began:.0f} s")
        say(out, f"contact sheet: {sheet}\nrun folder: {run_folder(self.out)}")

    def _settings(self) -> Settings:
        from blockvid.pipeline import SOLVERS, Settings

        return Settings(
            seed=self.seed,
            steps=self.steps,
            guidance=self.guidance,
            guidance_rule=self.guidance_rule,
            shift=self.shift,
            solver=None if self.solver is None else SOLVERS[self.solver],
            policy=self.memory.policy(),
            storage=self.memory.storage(),
            placement=self.memory.placement,
            noise=self.noise.boundary(),
            schedule=self.noise.levels(),
            context_noise=self.noise.context_noise,
            overlap=self.overlap,
            dissolve=self.dissolve,
            negative_prompt=self.negative_prompt,
            image=self.image,
        )

    def _fitted(self, storyboard: Storyboard, settings: Settings) -> Settings:
        """Stored so that --max-memory is kept."""
        budget = self.memory.budget()
        if budget is None:
            return settings
        from blockvid.estimate import fit, memory

        models, device = self.model.describe()
        resolved = settings.resolved(models, storyboard)
        if self.memory.store == "auto":
            return dataclasses.replace(settings, storage=fit(models, storyboard, resolved, device, budget).storage)
        peak = memory(models, storyboard, resolved, device).peak
        if peak > budget:
            raise InputError(
                f"a memory of {budget / 1e9:.2f} GB is less than the {peak / 1e9:.2f} GB that --store "
                f"{self.memory.store} needs; leave --store out to have one chosen that fits"
            )
        return settings

    def _preview(self, storyboard: Storyboard, settings: Settings) -> None:
        from blockvid.estimate import estimate

        models, device = self.model.describe()
        table = Table("", "", show_header=False, box=None)
        for row in estimate(models, storyboard, settings.resolved(models, storyboard), device).rows():
            table.add_row(*row)
        out.print(table)


class _Display:
    """How far a generation is, and what there is to see of it."""

    def __init__(self, bar: Bar) -> None:
        self.bar = bar
        self.begun: float | None = None
        self.finished = 0

    def written(self, video: Path) -> str:
        """What there is to see so far."""
        if self.finished:
            return f"{video} plays up to chunk {self.finished}"
        return f"{video} is as it was before" if video.exists() else "no chunk was finished yet"

    def show(self, event: Event) -> None:
        if self.begun is None:
            self.begun = event.chunk / event.chunks
        done = event.fraction - self.begun
        left = event.elapsed / done * (1 - event.fraction) if done > 0 else 0.0
        rate = f"{event.frames / event.elapsed:.1f} frames/s, " if event.frames else ""
        note = f"{rate}{clock(left)} left, {memory_note()}"
        where = f"chunk {event.chunk + 1} of {event.chunks}"
        written = f"{where} written, {note}" if event.finished else None
        if event.finished:  # before it is said: an interrupt may follow at once
            self.finished = event.chunk + 1
        self.bar.show(f"{where}, step {event.step} of {event.steps}", note, event.fraction, written)
        if event.drift is not None:
            say(err, f"chunk {event.chunk + 1}: {_drift(event.drift)}")


def _drift(drift: ChunkDrift) -> str:
    """What was measured of the chunk, against the first; then what is too much."""
    from blockvid.evaluation.results import value
    from blockvid.evaluation.watch import JUMP

    changes = [f"{key.split('@')[0]} {value(change):+.0%}" for key, change in drift.drift.items() if change is not None]
    jump = value(drift.scores[JUMP])
    seam = [] if math.isnan(jump) else [f"boundary jump {jump:.2f}"]
    said = ["the first: " + ", ".join(_score(drift))] if drift.chunk == 0 else [", ".join(changes + seam)]
    return "; ".join(said + [f"WARNING: {text}" for text in drift.broken])


def _score(drift: ChunkDrift) -> list[str]:
    from blockvid.evaluation.results import value

    return [f"{key.split('@')[0]} {value(score):.3g}" for key, score in drift.scores.items() if score is not None]


@dataclass(frozen=True)
class TraceCommand:
    """Draw which chunk looked at which, and print it as a table."""

    file: tyro.conf.Positional[Path]
    """The run folder (or its trace.json) of a generation with --trace."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"]), default("trace.png beside it", "PATH")] = None
    """The picture, .png or .svg."""

    def __call__(self) -> None:
        from blockvid.trace.picture import draw
        from blockvid.trace.record import HEADINGS, Trace, summary

        trace = Trace.read(self.file)
        table = Table(*HEADINGS, box=None)
        for row in summary(trace):
            table.add_row(*map(Text, row))
        out.print(table)
        folder = self.file if self.file.is_dir() else self.file.parent
        picture = self.out or folder / "trace.png"
        draw(trace, picture)
        say(out, str(picture))
