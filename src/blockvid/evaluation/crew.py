"""Videos one after the other in this process, or several at once in processes that may die and spoil nothing else."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import shutil
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch
from av.error import FFmpegError

from blockvid.evaluation.results import Still, VideoRecord
from blockvid.evaluation.rows import StorageError, Store, storing
from blockvid.evaluation.scan import Scan
from blockvid.evaluation.scorers.opencv import opencv
from blockvid.evaluation.scoring import Facets, Scoring
from blockvid.evaluation.sources import Source

MALFUNCTIONS = (ArithmeticError, FFmpegError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)
"""What decoders, networks and arithmetic raise at a video they cannot handle; InputError is a ValueError."""
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
Tick = Callable[[int, int], None]
"""Told a job's number, and how many of its frames were read since last told."""
Finished = Callable[[int, VideoRecord], None]


@dataclass(frozen=True, eq=False)
class Job:
    """One video to do."""

    source: Source
    video: VideoRecord
    """What is known so far: name, path, sha256."""
    facets: Facets


@dataclass(frozen=True)
class Work:
    """What is done with every video; can be sent to another process."""

    scan: Scan
    scoring: Scoring
    store: Path
    stills: Path | None = None
    """A folder that gets small pictures of each."""

    def __call__(self, job: Job, tick: Callable[[int], None]) -> VideoRecord:
        """Its record, a failed one if anything is wrong with it. Raises StorageError if the disk refuses."""
        try:
            return self._scored(job, tick)
        except StorageError:
            raise
        except (*MALFUNCTIONS, opencv().error) as error:
            return failed(job.video, error)

    def _scored(self, job: Job, tick: Callable[[int], None]) -> VideoRecord:
        assert job.video.sha256 is not None
        shelf = Store(self.store).video(job.video.sha256)
        self.scan(job.source, shelf, tick)
        facts, series = shelf.facts, shelf.series(self.scan.extractors, self.scan.stride)
        assert facts is not None
        video = self.scoring(job.video, facts, series, job.facets)
        if self.stills is None:
            return video
        return video.model_copy(update={"stills": _copied(shelf.stills.all(), self.stills, video)})


def failed(video: VideoRecord, error: Exception) -> VideoRecord:
    """The record of a video that could not be scored."""
    reason = " ".join(str(error).split())
    kind = "" if type(error).__module__.startswith("blockvid") and reason else f"{type(error).__name__}: "
    return video.model_copy(update={"status": "failed", "reason": (kind + reason).removesuffix(": ")})


def run(work: Work, jobs: Sequence[Job], workers: int, threads: int, tick: Tick, finished: Finished) -> None:
    """Do all jobs; `finished` is told of each, in any order.

    One worker is this process. With more, each is a process of its own with `threads` threads of torch, and one that is
    killed costs its video only. Raises StorageError, and whatever `tick` and `finished` raise; what was stored by then
    is kept.
    """
    if workers > 1:
        _together(work, jobs, workers, threads, tick, finished)
        return
    with _threads(threads):
        for index, job in enumerate(jobs):
            finished(index, work(job, partial(tick, index)))


def _together(work: Work, jobs: Sequence[Job], workers: int, threads: int, tick: Tick, finished: Finished) -> None:
    waiting = deque(range(len(jobs)))
    crew: dict[Connection, _Hand] = {}
    try:
        while waiting or any(hand.index is not None for hand in crew.values()):
            while len(crew) < min(workers, len(jobs)) and waiting:
                hand = _Hand(work, threads)
                crew[hand.connection] = hand
            for hand in crew.values():
                if hand.index is None and waiting:
                    hand.give(waiting.popleft(), jobs)
            for connection in wait(list(crew)):
                assert isinstance(connection, Connection)
                _hear(crew, connection, jobs, tick, finished)
    finally:
        for hand in crew.values():
            hand.dismiss()


def _hear(
    crew: dict[Connection, _Hand], connection: Connection, jobs: Sequence[Job], tick: Tick, finished: Finished
) -> None:
    hand = crew[connection]
    index = hand.index
    try:
        message = connection.recv()
    except (EOFError, ConnectionResetError):
        del crew[connection]
        code = hand.dismiss()
        if index is not None:
            finished(index, failed(jobs[index].video, _DeathError(code)))
        return
    assert index is not None
    if isinstance(message, StorageError):
        raise message
    if isinstance(message, int):
        tick(index, message)
        return
    hand.index = None
    if isinstance(message, _Last):
        del crew[connection]
        hand.dismiss()
        sys.stderr.write(message.traceback)
        message = message.video
    finished(index, message)


@dataclass(frozen=True)
class _Last:
    """The last record that a process will make: it ends with a mistake of ours, which is shown."""

    video: VideoRecord
    traceback: str


@dataclass(frozen=True)
class _Confessing:
    """Says what ends this process, and lets it end: a mistake of ours costs its video, and is not hidden."""

    connection: Connection
    video: VideoRecord

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            self.connection.send(_Last(failed(self.video, error), "".join(traceback.format_exception(error))))
            raise SystemExit(1)


class _DeathError(Exception):
    """A process ended before its video did."""

    def __init__(self, code: int | None) -> None:
        """With the exit code of the process, negative for a signal."""
        killed = code is not None and code < 0
        how = f"was killed by signal {-code}" if code is not None and killed else f"ended with status {code}"
        why = " (out of memory?)" if code == -signal.SIGKILL else ""
        super().__init__(f"its process {how}{why}; run again with fewer workers")


class _Hand:
    """A process that does jobs; forked from a server that has imported all this once, so that it is there at once."""

    def __init__(self, work: Work, threads: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "torch"])
        self.connection, theirs = context.Pipe()
        self.process: ForkServerProcess = context.Process(target=_serve, args=(theirs, work, threads), daemon=True)
        self.process.start()
        theirs.close()
        self.index: int | None = None

    def give(self, index: int, jobs: Sequence[Job]) -> None:
        """The next job; a process that is gone is noticed when it is listened to."""
        self.index = index
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(jobs[index])

    def dismiss(self) -> int | None:
        """End it, whatever it does; its exit code."""
        self.connection.close()
        self.process.join(5 if self.index is None else 0)  # an idle one ends by itself
        self.process.terminate()
        self.process.join()
        return self.process.exitcode


def _serve(connection: Connection, work: Work, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process decides what an interrupt means
    with contextlib.suppress(EOFError, BrokenPipeError), _threads(threads):
        while True:
            job: Job = connection.recv()
            with _Confessing(connection, job.video):
                try:
                    connection.send(work(job, connection.send))
                except StorageError as error:
                    connection.send(error)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many for torch; OpenCV has one, as its own would compete with other workers'."""
    opencv()
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _copied(stills: Mapping[Path, float], folder: Path, video: VideoRecord) -> tuple[Still, ...]:
    """The pictures below `folder`, which is beside results.json, in a folder of the video's own."""
    assert video.sha256 is not None
    own = folder / f"{NOT_IN_NAMES.sub('_', video.name)[-60:]}-{video.sha256[:8]}"
    with storing(own):
        own.mkdir(parents=True, exist_ok=True)
        for file in stills:
            shutil.copyfile(file, own / file.name)
    return tuple(Still(seconds=moment, file=f"{folder.name}/{own.name}/{file.name}") for file, moment in stills.items())


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
