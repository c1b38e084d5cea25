"""Tables 4 and 6 in small: python benchmarks/posttraining.py [--steps 100] [--boards 3].

Every row is a run of `blockvid train storybook_stage1` from the shipped model, all of one length on the same takes, and
is judged by the velocity error on held-out takes, beside the shipped model's on the same ones, and by minutes made from
held-out storyboards. Models that Self Forcing trained are sampled as they were trained, in four steps without guidance;
the others in ten steps with it; the shipped model in both ways. Writes benchmarks/posttraining.md and
docs/images/posttraining.png. Runs and videos stay in --runs, so that a stopped benchmark goes on.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from storybook_score import Score, conditions, identity, made_by, say, score
from tyro.extras import literal_type_from_choices

from blockvid.evaluation.metric import Tier
from blockvid.evaluation.results import value
from blockvid.evaluation.statistics import Bootstrap
from blockvid.model.load import Models
from blockvid.pipeline import Pipeline, Settings
from blockvid.recipes.forcing import FEW_STEPS
from storybook import LEVELS, TrueTake, chosen, held_out, measured, velocity_errors

ROWS: dict[str, str] = {
    "Naive": "--loss naive",
    "Velocity Forcing, contexts of its own": "--loss rollout-velocity",
    "Velocity Forcing, as Block Forcing alone": "--loss velocity",
    "Block Forcing": "--loss block",
    "Block Forcing, naive noise": "--loss block --schedule naive",
    "Block Forcing, linear noise": "--loss block --schedule linear",
    "Block Forcing, sigmoid noise": "--loss block --schedule sigmoid",
    "Self Forcing, GAN": "--loss self --adversary gan",
    "Ours, GAN": "--loss ours --adversary gan",
    "Ours, DMD": "--loss ours --adversary dmd",
    "Ours, SiD": "--loss ours --adversary sid",
}
"""What a row passes to the recipe; noise schedules are cosine where none is named."""
Row = literal_type_from_choices(ROWS)
MANY_STEPS = Settings(steps=10)
SAMPLERS = {"10 steps, guided": MANY_STEPS, "4 steps": FEW_STEPS}


@dataclass(frozen=True)
class Options:
    """How much to train and to measure."""

    steps: int = 100
    batch: int = 1
    """Takes in a step, five chunks each."""
    ratio: int = 2
    """Of `blockvid train`: the student of a short run has to have its turn more often than every fifth time."""
    only: tuple[Row, ...] = tuple(ROWS)
    """Rows."""
    clips: int = 20
    """Held-out takes for the velocity error."""
    boards: int = 3
    tier: Tier = "light"
    runs: Path = Path("runs/posttraining")
    out: Path = Path("benchmarks/posttraining.md")
    images: Path = Path("docs/images")


@dataclass(frozen=True)
class Found:
    """Of one model, sampled in one way."""

    name: str
    sampler: str
    seconds: float | None
    """A step of training, median."""
    errors: np.ndarray
    """Of velocity, (levels, clips)."""
    score: Score
    probe: list[tuple[int, float]]
    """The loss on takes that are not learned from, along the run."""


def command(options: Options, name: str) -> list[str]:
    """How the row's model is trained."""
    sizes = f"--steps {options.steps} --batch {options.batch} --every 1 --ratio {options.ratio}"
    cadence = f"--save {max(1, options.steps // 5)} --log {max(1, options.steps // 10)} --keep 1"
    return ["blockvid", "train", "storybook_stage1", *f"{ROWS[name]} {sizes} {cadence}".split()]


def folder_of(options: Options, name: str) -> Path:
    """Of the row's run."""
    return options.runs / "-".join(part for part in ROWS[name].split() if not part.startswith("--"))


def trained(options: Options, name: str) -> Path:
    """The folder of the row's finished run; all runs share one set of takes."""
    folder, takes = folder_of(options, name), options.runs / "takes"
    if any(line["step"] == options.steps for line in lines_of(folder / "log.jsonl")) and (folder / "vae").exists():
        return folder
    for made in (folder, takes):
        made.mkdir(parents=True, exist_ok=True)
    if not (folder / "takes").exists():
        (folder / "takes").symlink_to(takes.resolve(), target_is_directory=True)
    say(f"{name}: {shlex.join(command(options, name))}")
    program, *arguments = command(options, name)
    subprocess.run([Path(sys.executable).with_name(program), *arguments, "--out", folder], check=True)
    return folder


def lines_of(file: Path) -> list[dict[str, float]]:
    """Of a JSON-lines file, none where there is none."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def judged(options: Options, name: str, model: str, sampler: str, folder: Path, takes: list[TrueTake]) -> Found:
    """Measure a model; all share the autoencoder and the text encoder of `takes`."""
    say(f"{name}: {sampler}")
    pipe = Pipeline.from_pretrained(model)
    errors = velocity_errors(pipe.models, takes)
    make = made_by(SAMPLERS[sampler])
    videos = folder / f"{identity(pipe.models)}-{sampler.replace(' ', '-').replace(',', '')}"
    log = [line["seconds_per_step"] for line in lines_of(folder / "log.jsonl")]
    return Found(
        name,
        sampler,
        float(np.median(log)) if log else None,
        np.array([errors[level] for level in LEVELS]),
        score(pipe, None, chosen(options.boards), make, videos, options.tier),
        [(int(line["step"]), line["loss"]) for line in lines_of(folder / "probe.jsonl")],
    )


def change(found: Found, base: Found) -> str:
    """Mean difference to the shipped model's velocity error over levels, with its interval over the same takes."""
    differences = (found.errors - base.errors).mean(0)
    found = Bootstrap()(differences)
    return f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def report(options: Options, founds: Sequence[Found], shipped: Models) -> list[str]:
    """The tables."""
    base = founds[0]
    keys = [f"{name}@core" for name in ("boundary_jump", "dynamic_degree")]
    # The dynamic degree of a still segment is 0, and a VDE from it is none.
    quantities = [q for q in base.score.results.quantities if not q.key.startswith("vde_dynamic")]
    names = [q.key.removeprefix("vde_").partition("@")[0] for q in quantities]
    lines = [
        "# Post-training, measured in small",
        "",
        f"{conditions(shipped)}. "
        f"{options.steps} steps of {options.batch} take(s) of five chunks for every row, AdamW at 1e-4, halved at "
        f"half; a roll-out at each step of Self Forcing, the student's adversarial update at every {options.ratio}. "
        f"Velocity error: mean over levels {', '.join(map(str, LEVELS))} on {options.clips} held-out takes, as the "
        "difference to the shipped model's on the same ones. Videos: "
        f"{options.boards} held-out storyboards of a minute, seeds 0, 1, ...; VDE with N = 10. All remember a "
        "window of two chunks; training recalled two similar ones besides, so this is not quite how the trained ones "
        "are to be used (`--keep semantic`). Intervals are 95 % bootstraps over takes or storyboards. This says "
        "what the objectives do to a small model in minutes of training, not what they do in the paper.",
        "",
        f"| training | sampled in | s a step | velocity error | {' | '.join([*keys, *(f'VDE {n}' for n in names)])} |",
        "|" + "---|" * (4 + len(keys) + len(names)),
    ]
    for found in founds:
        measures = [measured(found.score, key) for key in [*keys, *(q.key for q in quantities)]]
        seconds = "" if found.seconds is None else f"{found.seconds:.2f}"
        error = f"{base.errors.mean():.4f}" if found.seconds is None else change(found, base)
        lines.append(f"| {found.name} | {found.sampler} | {seconds} | {error} | {' | '.join(measures)} |")
    return [
        *lines,
        "",
        "![](../docs/images/posttraining.png)",
        "",
        "| row | command |",
        "|---|---|",
        *(f"| {name} | `{shlex.join(command(options, name))}` |" for name in options.only),
        "",
    ]


def draw(founds: Sequence[Found], path: Path) -> None:
    """The loss on takes that are not learned from, along each run; VDE of the subject at its end."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure, shades = Figure((12, 6.4), dpi=120, layout="constrained"), colormaps["tab20"]
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    subject = founds[0].score.results.quantities[0].key
    for place, found in enumerate(founds):
        mean = found.score.results.summary[subject].mean
        middle, low, high = (value(number) for number in (mean.value, mean.low, mean.high))
        dashed = "--" if found.sampler == "4 steps" else "-"
        color = shades(place - 1) if found.probe else "0.3"
        if found.probe:
            left.plot(*zip(*found.probe, strict=True), dashed, color=color, marker="o", ms=3, label=found.name)
        right.plot([low, high], [place, place], color=color)
        right.plot([middle], [place], "o", color=color)
    left.set(xlabel="step", ylabel="loss of flow matching, takes not learned from")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    right.set(xlabel="VDE of the subject, 95 % interval")
    right.set_yticks(range(len(founds)), [f"{found.name} ({found.sampler})" for found in founds], fontsize=7)
    right.invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(options: Options) -> None:
    """Train, measure, write."""
    many, few = SAMPLERS
    folders = {name: trained(options, name) for name in options.only}
    shipped = Pipeline.from_pretrained("storybook").models
    takes, base = held_out(shipped, options.clips), options.runs / "shipped"
    founds = [judged(options, "shipped", "storybook", sampler, base, takes) for sampler in SAMPLERS]
    for name, folder in folders.items():
        sampler = few if ROWS[name].startswith(("--loss self", "--loss ours")) else many
        founds.append(judged(options, name, str(folder), sampler, folder, takes))
    draw(founds, options.images / "posttraining.png")
    options.out.write_text("\n".join(report(options, founds, shipped)), encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
