"""A folder of captioned videos into training shards, resumable video by video."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from blockvid.data.clips import Clip, Refusal, find_clips
from blockvid.data.dataset import NAME, Dataset, LatentType, write_empty
from blockvid.data.footage import latent_chunks, steady
from blockvid.data.index import Sample
from blockvid.data.ledger import Ledger, Outcome, alone
from blockvid.data.shards import ShardWriter
from blockvid.errors import InputError
from blockvid.files import replacing
from blockvid.lvbench import Part
from blockvid.model.load import Models
from blockvid.model.text import TextEncoder


@dataclass(frozen=True)
class Options:
    """What to encode, and how it is stored."""

    captions: Path | None = None
    """A file in any form of docs/lvbench.md; None: each video has its storyboard beside it."""
    part: Part = "train"
    """The part of a divided file of captions that is taken; entries that belong to no part are taken too."""
    latents: LatentType = "float16"
    shard_bytes: int = 1_000_000_000
    retry: bool = False
    """Try again what has failed before; a file of another size, or with other captions, is tried in any case."""

    def __post_init__(self) -> None:
        if self.shard_bytes < 1:
            raise InputError(f"shards of {self.shard_bytes} bytes hold nothing; use about 1000000000")


@dataclass(frozen=True)
class Progress:
    """After each chunk and each video."""

    video: str
    finished: int
    """Videos that are encoded or have failed, by this call or an earlier one."""
    videos: int
    failed: int
    chunks: int
    """Stored by this call."""
    seconds_left: float | None
    """At the speed so far, by the size of the files; None before the first video is finished."""


@dataclass(frozen=True)
class Summary:
    """What a folder of shards holds after a call."""

    done: int
    failed: tuple[Refusal, ...]
    chunks: int


class _UnusableError(InputError):
    """One video cannot be used; the others can."""


def encode(
    folder: Path,
    out: Path,
    models: Models,
    options: Options | None = None,
    watch: Callable[[Progress], None] = lambda _: None,
) -> Summary:
    """Encode the captioned videos of `folder` into shards in `out`, or go on where an earlier call stopped.

    After a kill at any moment another call ends with the same bytes as an uninterrupted one, on the same machine. What
    cannot be read is recorded with its reason in `out/ledger.jsonl`, and left out. Raises InputError if there is
    nothing to encode, `out` was made with another model, geometry or options, a video in it has since got other
    captions, or the disk refuses.
    """
    options = options or Options()
    found = find_clips(folder, options.captions, options.part)
    with alone(out):
        ledger = Ledger(out)
        prompts = _Prompts(models)
        _describe(out, models, options, prompts)
        writer = ShardWriter(out, options.shard_bytes)
        for outcome in ledger.outcomes.values():
            if outcome.state == "done" and outcome.id not in writer.stored:
                writer.add(outcome.id)
        pending = [clip for clip in found if _is_pending(clip, ledger, options, out)]
        bench = _Bench(models, prompts, getattr(torch, options.latents))
        failures = sum(outcome.state == "failed" for outcome in ledger.outcomes.values())
        gauge = _Gauge(watch, pending, len(found), failures - sum(clip.id in ledger.outcomes for clip in pending))
        for clip in pending:
            _encode_one(clip, bench, ledger, writer, gauge)
        writer.close()
    outcomes = ledger.outcomes.values()
    failed = tuple(Refusal(outcome.id, outcome.reason) for outcome in outcomes if outcome.state == "failed")
    return Summary(len(outcomes) - len(failed), failed, sum(outcome.chunks for outcome in outcomes))


def _encode_one(clip: Clip | Refusal, bench: _Bench, ledger: Ledger, writer: ShardWriter, gauge: _Gauge) -> None:
    """Store one clip, or record why not."""

    def counted() -> Iterator[Sample]:
        for sample in bench.samples(clip):
            yield sample
            gauge.chunk(clip)

    outcome = Outcome(id=clip.id, state="failed", digest=_digest(clip))
    try:
        outcome = outcome.model_copy(update={"state": "done", "chunks": writer.write(clip.id, counted())})
    except _UnusableError as error:
        outcome = outcome.model_copy(update={"reason": str(error)})
    ledger.append(outcome)
    if outcome.state == "done":
        writer.add(clip.id)
    gauge.video(clip, failed=outcome.state == "failed")


class _Prompts:
    """Embeddings without padding; the encoder is loaded when the first prompt is asked for, and kept."""

    def __init__(self, models: Models) -> None:
        self._models = models

    @cached_property
    def encoder(self) -> TextEncoder:
        return self._models.text_encoder()

    def __call__(self, prompt: str) -> dict[str, Tensor]:
        """tokens (l d), pooled (d), as the encoder gives them."""
        made = self.encoder([prompt])
        return {"tokens": made.tokens[0, made.mask[0]].cpu(), "pooled": made.pooled[0].cpu()}


def _describe(out: Path, models: Models, options: Options, prompts: _Prompts) -> None:
    """Write what the shards mean, or see that it is what they meant."""
    if Dataset.found(out):
        there = Dataset.read(out)
        there.check_same(Dataset.of(models, there.text_slots, options.latents), out)
        return
    write_empty(out, prompts(""))
    with replacing(out / NAME) as part:
        described = Dataset.of(models, prompts.encoder.length, options.latents)
        part.write_text(described.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _is_pending(clip: Clip | Refusal, ledger: Ledger, options: Options, out: Path) -> bool:
    known = ledger.outcomes.get(clip.id)
    if known is None:
        return True
    if known.state == "failed":
        return options.retry or known.digest != _digest(clip)
    if isinstance(clip, Clip) and known.digest != _digest(clip):
        raise InputError(
            f"{clip.path} or its captions changed after it was encoded; encode into another folder than {out}"
        )
    return False


def _digest(clip: Clip | Refusal) -> str:
    if isinstance(clip, Refusal):
        return hashlib.sha256(clip.reason.encode()).hexdigest()
    shown = f"{clip.path.stat().st_size} {clip.seconds} {clip.storyboard.model_dump_json()}"
    return hashlib.sha256(shown.encode()).hexdigest()


class _Gauge:
    """Counts, and tells `watch`."""

    def __init__(
        self, watch: Callable[[Progress], None], pending: list[Clip | Refusal], videos: int, failed: int
    ) -> None:
        self.watch, self.videos, self.failed = watch, videos, failed
        self.finished, self.chunks = videos - len(pending), 0
        self._read, self._left = 0, sum(_size(clip) for clip in pending)
        self._began = time.perf_counter()

    def chunk(self, clip: Clip | Refusal) -> None:
        """One more is stored."""
        self.chunks += 1
        self._tell(clip)

    def video(self, clip: Clip | Refusal, failed: bool) -> None:
        """One more is finished."""
        self.finished += 1
        self.failed += failed
        self._read += 0 if failed else _size(clip)  # a file that failed at once says nothing of the speed
        self._left -= _size(clip)
        self._tell(clip)

    def _tell(self, clip: Clip | Refusal) -> None:
        left = (time.perf_counter() - self._began) / self._read * self._left if self._read else None
        self.watch(Progress(clip.id, self.finished, self.videos, self.failed, self.chunks, left))


def _size(clip: Clip | Refusal) -> int:
    return clip.path.stat().st_size if isinstance(clip, Clip) else 0


@dataclass(frozen=True)
class _Bench:
    """What turns a clip into samples."""

    models: Models
    prompts: _Prompts
    latents: torch.dtype

    def samples(self, clip: Clip | Refusal) -> Iterator[Sample]:
        """The clip's chunks as they are encoded. Raises _UnusableError for what cannot be read, or is too short."""
        if isinstance(clip, Refusal):
            raise _UnusableError(clip.reason)
        g = self.models.geometry
        captioned = g.latent_frames(max(1, round(clip.seconds * g.fps)))
        pictures = islice(steady(clip.path, g), g.pixel_frames(captioned))
        made: dict[str, dict[str, Tensor]] = {}
        chunk = -1
        for chunk, latents in enumerate(_usable(latent_chunks(pictures, self.models.autoencoder, g))):
            prompt = clip.prompt(chunk, g)
            if prompt not in made:
                made = {prompt: self.prompts(prompt)}
            facts = {"prompt": prompt, "file": clip.path.name, "seconds": g.chunk_seconds * chunk, "fps": g.fps}
            tensors = {"latents": latents.to(self.latents), **made[prompt]}
            yield Sample(clip.id, chunk, latents.shape[1], tensors, facts)
        if chunk < 0:
            raise _UnusableError(
                f"{clip.path}, as far as it is captioned, is shorter than one chunk of {g.chunk_seconds:g} s; caption "
                "more of it, encode with shorter chunks or remove it"
            )


def _usable(chunks: Iterator[Tensor]) -> Iterator[Tensor]:
    """What a video's reader refuses concerns that video; what a consumer of the chunks raises does not pass here."""
    try:
        yield from chunks
    except InputError as error:
        raise _UnusableError(str(error)) from error
