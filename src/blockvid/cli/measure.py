"""blockvid eval, compare, gate, doctor, weights: how far videos drift, and whether one set of them is better."""

from __future__ import annotations

import dataclasses
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.table import Table
from rich.text import Text

from blockvid.cli.console import Bar, clock, err, out, quiet_libraries, say
from blockvid.cli.options import default
from blockvid.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blockvid.evaluation.bench import Generated
    from blockvid.evaluation.evaluate import Evaluation, Progress
    from blockvid.evaluation.results import Results
    from blockvid.evaluation.series import Caption
    from blockvid.evaluation.weights import Row, Sources

TierName = Literal["core", "light", "vbench"]


@dataclass(frozen=True)
class Weights:
    """Where the weights of networks are: named files, a folder of yours, VBench's and torch's caches, the hub."""

    model_file: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=PATH ...")] = ()
    """Files to use as they are; the names are those of `blockvid weights ls`."""
    model_folder: Annotated[Path | None, default("$BLOCKVID_WEIGHTS", "FOLDER")] = None
    """A folder with files under their published names."""
    offline: bool = False
    """Fetch nothing."""

    def sources(self) -> Sources:
        from blockvid.evaluation.networks.published import REGISTRY
        from blockvid.evaluation.weights import Sources

        named: dict[str, Path] = {}
        for text in self.model_file:
            name, equals, path = text.partition("=")
            if not (equals and path):
                raise InputError(f"--model-file {text!r} is not NAME=PATH; write it like clip_b32=ViT-B-32.pt")
            if name not in REGISTRY:
                raise InputError(f"--model-file {text!r} names no weights; use one of {', '.join(REGISTRY)}")
            named[name] = Path(path)
        folder = self.model_folder or _path("BLOCKVID_WEIGHTS")
        home = Path.home() / ".cache"
        return Sources(
            explicit=named,
            folder=folder,
            vbench_cache=_path("VBENCH_CACHE_DIR") or home / "vbench",
            torch_home=_path("TORCH_HOME") or (_path("XDG_CACHE_HOME") or home) / "torch",
            cache=_cache() / "weights",
            offline=self.offline or os.environ.get("HF_HUB_OFFLINE") == "1",
            clip_cache=home / "clip",
        )


@dataclass(frozen=True)
class Eval:
    """Score videos, measure how they drift, and write a report.

    Every frame is decoded and looked at once. Stop whenever you like: the same command goes on, nothing is done twice.
    """

    videos: tyro.conf.Positional[tuple[Path, ...]]
    """Videos, or folders of them."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("run")
    """Folder for results.json, results.csv and report.html."""
    tier: TierName = "light"
    """core: no model. light: subjects and backgrounds by a small network that comes with blockvid[eval]. vbench: the
    networks of VBench, as LV-Bench is published; fetched if they are not there (`blockvid weights`)."""
    profile: Literal["release", "paper", "robust"] = "release"
    """How drift is measured. release: as the published tables were computed. paper: Eqs. 16 to 25 as printed. robust:
    not dominated by an odd beginning."""
    segments: int = 10
    """Parts that a video is cut into."""
    weights: Annotated[
        Literal["linear", "log", "uniform", "increasing"] | None,
        default("linear; uniform with robust", "linear|log|uniform|increasing"),
    ] = None
    """How much each part counts; linear and log favour early ones, and increasing is for robust."""
    remainder: Annotated[
        Literal["trim", "spread", "time"] | None, default("trim with release, else time", "trim|spread|time")
    ] = None
    """Frames that are left over: dropped, spread, or parts of equal duration."""
    motion: Annotated[Literal["energy", "smoothness"] | None, default("energy", "energy|smoothness")] = None
    """What moves in profile paper."""
    name: Annotated[str | None, default("the folder's", "TEXT")] = None
    """What the report calls these videos."""
    bench: Annotated[str | None, default("none", "lvbench|FILE")] = None
    """Videos are generations of a benchmark's entries, named by id. lvbench: the entries are in lvbench.jsonl beside
    them or in $BLOCKVID_LVBENCH. Any other file of docs/lvbench.md does as well."""
    part: Literal["eval", "train", "all"] = "eval"
    """Of a benchmark that is divided: whose entries are asked for. Those of no part always are."""
    prompts: Annotated[Path | None, default("none", "STORYBOARD")] = None
    """What all the videos should show, for text alignment."""
    text_model: Annotated[Path | None, default("none", "FOLDER")] = None
    """A CLIP model as transformers saves it, to score how well captions are followed."""
    segmenter: Annotated[Path | None, default("none", "FILE.onnx")] = None
    """Finds the subject, instead of motion; needs blockvid[segment]."""
    amt: Annotated[Path | None, default("none", "FOLDER")] = None
    """Your checkout of AMT, for VBench's own motion smoothness (its licence is non-commercial)."""
    stride: int = 1
    """Score every so many frames only. Not comparable with published numbers."""
    workers: int = 1
    """Videos at a time, each in a process of its own."""
    threads: Annotated[int | None, default("processors / workers", "N")] = None
    """Of each."""
    device: str = "auto"
    """Where networks run: cpu, cuda, cuda:1; auto is a GPU where there is one."""
    cache: Annotated[Path | None, default("~/.cache/blockvid/rows", "FOLDER")] = None
    """Where what was seen of each frame is kept."""
    files: tyro.conf.OmitArgPrefixes[Weights] = dataclasses.field(default_factory=Weights)

    def __call__(self) -> None:
        from blockvid.evaluation.report import write_report

        if not self.videos:
            raise InputError("no video is named; give videos, or folders of them")
        quiet_libraries()
        generated, captions = self._bench(), self._captions()
        evaluation = self._evaluation()
        with Bar("looking") as bar:
            watch = partial(_show, bar)
            try:
                if generated is None:
                    results = evaluation(list(self.videos), captions, watch=watch)
                else:
                    results = generated.labelled(evaluation(generated.videos, generated.captions, watch=watch))
            except KeyboardInterrupt:
                bar.stop()
                say(err, "stopped; what was seen of each frame is kept, and the same command goes on")
                raise
        results.write(self.out)
        report = write_report(results, self.out)
        _print(results)
        say(out, f"report: {report}")
        failed = [video for video in results.videos if video.status == "failed"]
        for video in failed:
            say(err, f"{video.name}: {video.reason}")
        if len(failed) == len(results.videos):
            sys.exit(1)

    def _bench(self) -> Generated | None:
        if self.bench is None:
            return None
        from blockvid import lvbench
        from blockvid.evaluation.bench import generated

        if len(self.videos) != 1:
            raise InputError(f"--bench is for one folder of generations, and {len(self.videos)} paths were given")
        if self.prompts is not None:
            raise InputError("--bench brings the captions of its entries; leave --prompts out")
        folder = self.videos[0]
        file = folder / "lvbench.jsonl"
        if self.bench != "lvbench":
            file = Path(self.bench)
        elif not file.exists():
            file = _path("BLOCKVID_LVBENCH") or file
        if not file.exists():
            raise InputError(f"{file} does not exist; give the entries by --bench FILE (docs/lvbench.md)")
        asked = [entry for entry in lvbench.read(file) if self.part == "all" or entry.split in (self.part, None)]
        if not asked:
            raise InputError(f"{file} has no entry of part {self.part}; give --part all")
        found = generated(folder, asked, self.bench if self.bench == "lvbench" else file.name)
        for path in found.extra:
            say(err, f"{path} is of no entry that is asked for, or could be of several; passed over")
        return found

    def _captions(self) -> dict[str, tuple[Caption, ...]] | None:
        """The same for all videos."""
        if self.prompts is None:
            return None
        from blockvid.evaluation.bench import shown
        from blockvid.evaluation.sources import sources
        from blockvid.storyboard import Storyboard

        captions = shown(Storyboard.read(self.prompts))
        return {source.name: captions for source in sources(list(self.videos))}

    def _evaluation(self) -> Evaluation:
        from blockvid.evaluation.catalogue import Models, metrics
        from blockvid.evaluation.evaluate import Evaluation
        from blockvid.evaluation.masks import Segmenter
        from blockvid.evaluation.profiles import profile
        from blockvid.evaluation.scorers.text import TextImage
        from blockvid.model.device import pick_device

        models = Models(
            self.files.sources(),
            masking=None if self.segmenter is None else Segmenter.of(self.segmenter),
            text=None if self.text_model is None else TextImage.of(self.text_model),
            amt=self.amt,
        )
        return Evaluation(
            profile=profile(self.profile, self.segments, self.weights, self.remainder, self.motion),
            tier=self.tier,
            metrics=metrics(self.tier, models),
            stride=self.stride,
            name=self.name or self.videos[0].resolve().stem,
            cache=self.cache or _cache() / "rows",
            stills=self.out / "stills",
            workers=self.workers,
            threads=self.threads,
            device=str(pick_device(self.device)),
        )


@dataclass(frozen=True)
class Compare:
    """Say which of two or more evaluations is better, and how surely: the same prompts, the same metrics."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of `blockvid eval`."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("comparison")
    """Folder for comparison.json and compare.html."""

    def __call__(self) -> None:
        from blockvid.evaluation.compare import compare, significant
        from blockvid.evaluation.report import write_comparison
        from blockvid.evaluation.report.comparison import verdict
        from blockvid.evaluation.results import Results, value

        runs = [Results.read(path) for path in self.runs]
        comparison = compare(runs)
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.out} cannot be made ({error.strerror}); name another folder") from None
        page = write_comparison(comparison, runs, self.out)
        table = Table("metric", "a", "b", "a - b", "95 %", "p (Holm)", "a wins", box=None)
        for d in comparison.differences:
            numbers = [f"{value(n):.4g}" for n in (d.difference.value, d.difference.low, d.difference.high)]
            row = (d.key, d.a, d.b, numbers[0], f"{numbers[1]} to {numbers[2]}", f"{d.p_holm:.3g}")
            table.add_row(*map(Text, (*row, f"{value(d.win_rate):.0%}")), style="bold" if significant(d) else None)
        out.print(table)
        say(out, f"{verdict(comparison)}\nreport: {page}")


@dataclass(frozen=True)
class Gate:
    """Exit with status 1 unless an evaluation keeps to limits: for scripts and continuous integration."""

    run: tyro.conf.Positional[Path]
    """Folder of `blockvid eval`."""
    max: Annotated[tuple[str, ...], tyro.conf.arg(metavar="METRIC=NUMBER ...")] = ()
    """Largest values, such as vde_clarity=0.9."""
    min: Annotated[tuple[str, ...], tyro.conf.arg(metavar="METRIC=NUMBER ...")] = ()
    """Smallest values, such as dynamic_degree=0.5."""
    statistic: Literal["mean", "median", "trimmed_mean"] = "mean"
    """Over the videos."""

    def __call__(self) -> None:
        from blockvid.evaluation.gate import Limit, gate
        from blockvid.evaluation.results import Results

        limits = [[Limit.parse(text) for text in texts] for texts in (self.max, self.min)]
        verdicts = gate(Results.read(self.run), *limits, statistic=self.statistic)
        for verdict in verdicts:
            say(out, f"{'pass' if verdict.passed else 'FAIL'}  {verdict.why}")
        if not all(verdict.passed for verdict in verdicts):
            sys.exit(1)


@dataclass(frozen=True)
class Doctor:
    """Prove the metrics on made videos: frozen, blurring, cut, morphing and more. Exit status 1 if one fails."""

    tier: TierName = "light"
    files: tyro.conf.OmitArgPrefixes[Weights] = dataclasses.field(default_factory=Weights)

    def __call__(self) -> None:
        from blockvid.evaluation.doctor import checks

        quiet_libraries()
        found = checks(self.tier)
        table = Table("", "check", "video", "expected", "measured", box=None)
        for check in found:
            mark = "skip" if check.passed is None else "ok" if check.passed else "FAIL"
            row = (mark, check.name, check.video, check.expected, check.reason or f"{check.measured:.4g}")
            table.add_row(*map(Text, row))
        out.print(table)
        failed = sum(check.passed is False for check in found)
        skipped = sum(check.passed is None for check in found)
        say(out, f"{len(found) - failed - skipped} as expected, {failed} not, {skipped} could not run")
        if failed:
            sys.exit(1)


@dataclass(frozen=True)
class Ls:
    """What weights there are, under which licence, and where they lie."""

    files: tyro.conf.OmitArgPrefixes[Weights] = dataclasses.field(default_factory=Weights)

    def __call__(self) -> None:
        from blockvid.evaluation.weights import listing

        _weights(listing(self.files.sources()))


@dataclass(frozen=True)
class Fetch:
    """Download weights; without names, all that are free to use."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    files: tyro.conf.OmitArgPrefixes[Weights] = dataclasses.field(default_factory=Weights)

    def __call__(self) -> None:
        from blockvid.evaluation.weights import fetch

        quiet_libraries()
        _weights(fetch(self.names, self.files.sources(), progress=_downloading))


@dataclass(frozen=True)
class Verify:
    """Read weights again and compare them with what was published. Exit status 1 if a file is not that."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    files: tyro.conf.OmitArgPrefixes[Weights] = dataclasses.field(default_factory=Weights)

    def __call__(self) -> None:
        from blockvid.evaluation.weights import verify

        rows = verify(self.names, self.files.sources())
        _weights(rows)
        if any(row.state == "altered" or (self.names and row.state == "missing") for row in rows):
            sys.exit(1)


@dataclass(frozen=True)
class WeightsCommand:
    """The public weights behind tier vbench."""

    command: tyro.conf.OmitArgPrefixes[
        Annotated[Ls, tyro.conf.subcommand("ls", prefix_name=False)]
        | Annotated[Fetch, tyro.conf.subcommand("fetch", prefix_name=False)]
        | Annotated[Verify, tyro.conf.subcommand("verify", prefix_name=False)]
    ]

    def __call__(self) -> None:
        self.command()


def _show(bar: Bar, progress: Progress) -> None:
    """Frames read, videos done and the time to go; a line per video where there is no terminal."""
    left = progress.remaining
    rate = f"{progress.frames / progress.elapsed:.0f} frames/s, " if progress.elapsed and progress.frames else ""
    note = f"{rate}{'' if left is None else clock(left) + ' left'}"
    where, video = f"{progress.done} of {progress.videos} videos", progress.video
    line = None if video is None else f"{where}: {video.name} {video.status}, {note}"
    bar.show(where, note, progress.frames / progress.expected if progress.expected else None, line)


def _print(results: Results) -> None:
    """The summary, and what makes it doubtful."""
    from blockvid.evaluation.results import value

    table = Table("", "mean", "95 %", "videos", box=None)
    quantities = {quantity.key for quantity in results.quantities}
    for key, row in results.summary.items():
        base = key.removesuffix("/weight").removesuffix("/robust")
        if base not in quantities and row.videos == row.missing:
            continue
        interval = f"{value(row.mean.low):.4g} to {value(row.mean.high):.4g}"
        table.add_row(Text(key), f"{value(row.mean.value):.4g}", interval, str(row.videos - row.missing))
    out.print(table)
    for quantity, wanted in results.absent.items():
        say(out, f"{quantity} is not measured at this tier: it needs {wanted}")
    if results.missing:
        say(err, f"{len(results.missing)} entries have no video: {', '.join(results.missing[:5])} ...")
    for video in results.videos:
        for warning in video.warnings:
            if warning.loud:
                say(err, f"WARNING: {video.name}: {warning.text}")


def _weights(rows: Sequence[Row]) -> None:
    table = Table("name", "is", "licence", "MB", "state", "where", box=None)
    for row in rows:
        w = row.weights
        cells = (w.name, w.title, w.licence, f"{w.bytes / 1e6:.0f}", row.state, str(row.path or ""))
        table.add_row(*map(Text, cells))
    out.print(table)


def _downloading(name: str, done: int, total: int | None) -> None:
    if err.is_terminal:
        of = f" of {total / 1e6:.0f}" if total else ""
        err.print(f"{name}: {done / 1e6:.0f}{of} MB", end="\r", highlight=False, markup=False)


def _path(variable: str) -> Path | None:
    """The path in an environment variable, if it is set."""
    text = os.environ.get(variable)
    return Path(text).expanduser() if text else None


def _cache() -> Path:
    """The folder of blockvid's own."""
    return (_path("XDG_CACHE_HOME") or Path.home() / ".cache") / "blockvid"
