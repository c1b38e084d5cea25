"""One generation on disk: an mp4 that grows chunk by chunk, and a run folder from which a killed run goes on."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from enum import Enum
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from blockvid.attention.cache import ChunkMemory
from blockvid.attention.policies import needed
from blockvid.errors import InputError
from blockvid.evaluation.watch import ChunkDrift, Rule, Watch
from blockvid.files import RESUME
from blockvid.journal import Determining, Informative, Journal, Manifest, made
from blockvid.pipeline import Clip, Pipeline, Settings, State, Take, to_uint8
from blockvid.sampling.sampler import Progress
from blockvid.sheet import Still, contact_sheet
from blockvid.storyboard import Storyboard
from blockvid.trace.record import FILE, ChunkTrace, Trace
from blockvid.video import GrowingVideo, check_target, read_frames


class Existing(Enum):
    """What to do with an earlier run under the same name."""

    REFUSE = "refuse"
    RESUME = "resume"
    OVERWRITE = "overwrite"


@dataclass(frozen=True)
class Event:
    """Where a generation is: `done` of `chunks` finished, and how far the one in flight has come."""

    chunk: int
    chunks: int
    step: int
    steps: int
    frames: int
    """Pixel frames made by this process."""
    elapsed: float
    """Seconds since this process began its first chunk."""
    finished: bool
    """The chunk was just written."""
    drift: ChunkDrift | None = None
    """How far it is from the first chunk, where that is watched."""

    @property
    def fraction(self) -> float:
        """Share of this video's solver steps that are done."""
        return (self.chunk + (1.0 if self.finished else self.step / (self.steps + 1))) / self.chunks


class DriftError(Exception):
    """A rule said to stop; the video ends with the chunk that broke it, and can be resumed."""


def run_folder(out: Path) -> Path:
    """Where a video's run is kept: clip.mp4 -> clip.run."""
    return out.with_suffix(".run")


def generate(
    pipe: Pipeline,
    storyboard: Storyboard,
    out: Path,
    settings: Settings,
    existing: Existing = Existing.REFUSE,
    watch: Callable[[Event], None] = lambda _: None,
    trace: bool = False,
    rules: Sequence[Rule] | None = None,
) -> Path:
    """Make the video at `out`, returning the path of its contact sheet.

    After every chunk `out` is a complete, playable mp4 and the run folder can resume. `trace` also writes trace.json
    there: what each chunk recalled and why. `rules`, even none of them, also write watch.json: how far each chunk is
    from the first. Raises DriftError where one of them stops the run, and InputError, before any work, for what cannot
    be read, written or resumed.
    """
    out = out.absolute()
    check_target(out, RESUME)
    take = pipe.take(storyboard, settings)  # refuses what it must before an earlier run is discarded
    manifest = Manifest(determining=_determining(take, storyboard), informative=Informative.here())
    folder = run_folder(out)
    if existing is Existing.OVERWRITE:
        Journal.discard(folder)
    else:
        _check_ours(out, folder)
    resuming = existing is Existing.RESUME and (folder / "manifest.json").exists()
    with Journal.resume(folder, manifest) if resuming else Journal.create(folder, manifest) as journal:
        geometry = take.geometry
        video = GrowingVideo(out, journal.segments, geometry.fps, geometry.width, geometry.height)
        live = None if rules is None else Watch.resumed(folder, rules, journal.finished)
        _Run(take, journal, video, watch, trace, live).go()
        if journal.manifest.informative.finished is None:
            journal.finish()
    return folder / "contact_sheet.png"


def _check_ours(out: Path, folder: Path) -> None:
    """InputError if `out` is a video that no run in `folder` made: not even --resume may replace that one."""
    if out.exists() and not made(folder):
        raise InputError(f"{out} exists and was not made by a run here; pass --overwrite or another output name")


@dataclass
class _Run:
    take: Take
    journal: Journal
    video: GrowingVideo
    watch: Callable[[Event], None]
    trace: bool
    live: Watch | None

    def go(self) -> None:
        """Take up after the last chunk that is both journaled and encoded, and make the rest."""
        chunks = len(self.take.chunks)
        start = min(self.journal.finished, chunks)
        if self.video.chunks < start:
            self._encode_again(start)
        self.video.keep(start)
        if start == chunks:
            self.video.rebuild()
            self._write_trace()
        else:
            self._make(start)
        self._picture()

    def _make(self, start: int) -> None:
        chunks, steps = len(self.take.chunks), self.take.settings.steps
        began, frames = time.perf_counter(), 0

        def progress(event: Progress) -> None:
            (chunk,), (done,) = event.chunks, event.updates
            self.watch(Event(chunk, chunks, done, steps, frames, time.perf_counter() - began, False))

        self._forget(start)
        last = began
        for clip in self.take.clips(start, self._state(start), progress):
            index = clip.chunk.index
            self.video.append(index, clip.frames)
            drift = self._drift(clip)  # before the journal counts the chunk, or a kill between would lose its scores
            now = time.perf_counter()
            self.journal.commit(index, _files(clip), now - last, clip.trace.model_dump(mode="json"))
            self._write_trace()
            self._forget(index + 1)
            last, frames = now, frames + len(clip.frames)
            self.watch(Event(index, chunks, steps, steps, frames, now - began, True, drift))
            if drift is not None and drift.stop and index + 1 < chunks:
                raise DriftError(f"chunk {index + 1}: {'; '.join(drift.broken)}")

    def _drift(self, clip: Clip) -> ChunkDrift | None:
        if self.live is None:
            return None
        drift = self.live.push(clip.chunk.index, clip.frames, self.take.geometry.fps)
        self.live.write(self.journal.folder)
        return drift

    def _write_trace(self) -> None:
        if self.trace:
            chunks = tuple(ChunkTrace.model_validate(facts) for facts in self.journal.facts)
            policy, storage = f"Recalled: {self.take.settings.policy}", str(self.take.settings.storage)
            Trace(policy=policy, storage=storage, chunks=chunks).write(self.journal.folder / FILE)

    def _state(self, start: int) -> State:
        """What chunk `start` needs of those before it."""
        if start == 0:
            return State()
        take = self.take
        device = take.device if take.settings.storage.place == "device" else "cpu"
        memories = (ChunkMemory.from_tensors(self.journal.load(i, "memory")) for i in sorted(needed(take.plan, start)))
        latents = self.journal.load(start - 1, "latents")["latents"].to(take.device)
        return State(tuple(m.to(device) for m in memories), self.journal.load(start - 1, "decoder"), latents)

    def _forget(self, start: int) -> None:
        """Drop state that resuming at `start`, or one chunk earlier, would not read."""
        spare, plan = max(0, start - 1), self.take.plan
        self.journal.forget("memory", set(range(start)) - needed(plan, start) - needed(plan, spare))
        self.journal.forget("decoder", set(range(max(0, spare - 1))))

    def _encode_again(self, stop: int) -> None:
        """Segments were lost: decode the journaled latents from the beginning and write the missing ones."""
        take, missing = self.take, self.video.chunks
        decoder = take.models.autoencoder.decoder()
        for chunk in take.chunks[:stop]:
            pixels = to_uint8(decoder.push(self.journal.load(chunk.index, "latents")["latents"].to(take.device)))
            if chunk.index >= missing:
                self.video.append(chunk.index, pixels[: len(take.pixels(chunk))])

    def _picture(self) -> None:
        """The contact sheet: the middle frame of every chunk, as written, above its prompt unless that goes on."""
        take, geometry, stills, first = self.take, self.take.geometry, [], 0
        spans = [take.pixels(chunk) for chunk in take.chunks]
        prompts = pairwise(("", *(chunk.prompt for chunk in take.chunks)))
        captions = ["" if prompt == last else prompt for last, prompt in prompts]
        wanted = [(span[len(span) // 2], caption) for span, caption in zip(spans, captions, strict=True)]
        for block in read_frames(self.video.path):
            here = range(first, first + len(block))
            stills += [Still(i / geometry.fps, block[i - first], caption) for i, caption in wanted if i in here]
            first += len(block)
        contact_sheet(stills, 5, self.journal.folder / "contact_sheet.png")


def _files(clip: Clip) -> dict[str, dict[str, torch.Tensor]]:
    return {"latents": {"latents": clip.latents}, "memory": clip.memory.tensors(), "decoder": clip.decoder}


def _plain(value: Any) -> Any:
    """A setting as JSON: a component by its kind and fields."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            "kind": type(value).__name__,
            **{field.name: _plain(getattr(value, field.name)) for field in fields(value)},
        }
    return value


def _determining(take: Take, storyboard: Storyboard) -> Determining:
    models, settings = take.models, take.settings
    chosen = {name: _plain(value) for name, value in vars(settings).items() if name not in ("seed", "image")}
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in take.anchors.values()]
    return Determining(
        model=models.name,
        fingerprint=models.fingerprint,
        storyboard=storyboard.model_dump(mode="json", exclude={"title"}),
        geometry={**asdict(models.geometry), "patch": list(models.geometry.patch)},
        seed=settings.seed,
        settings=chosen,
        image_sha256="+".join(hashes) or None,
        dtype=str(models.dit.dtype).removeprefix("torch."),
        device=take.device.type,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        diffusers=version("diffusers"),
        blockvid=version("blockvid"),
    )
