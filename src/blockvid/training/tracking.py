"""Where a run's numbers go: always a file of JSON lines, and TensorBoard or Weights & Biases if asked.

Trackers work on a thread of their own, so that a slow one delays nothing and a failing one stops nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, runtime_checkable

from blockvid.errors import InputError
from blockvid.files import replacing

log = logging.getLogger(__name__)

CLOSING_SECONDS = 60.0


@runtime_checkable
class Tracker(Protocol):
    """Keeps rows of named numbers."""

    def log(self, step: int, row: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class JSONLines:
    """`{"step": ..., name: value, ...}`, a line a row. Rows after `step` are dropped: that run will be made again."""

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
            if kept != lines:
                with replacing(path) as part:
                    part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def log(self, step: int, row: Mapping[str, object]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")

    def close(self) -> None:
        pass


class TensorBoard:
    """Event files in `folder`. Raises InputError where tensorboard is not installed."""

    def __init__(self, folder: Path) -> None:
        _require("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))

    def log(self, step: int, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """A run of Weights & Biases, continued under the same `name`. Raises InputError where wandb is not installed."""

    def __init__(self, project: str, name: str, config: Mapping[str, object], folder: Path) -> None:
        _require("wandb")
        import wandb  # pyright: ignore[reportMissingImports]

        self.run = wandb.init(project=project, name=name, id=name, resume="allow", config=dict(config), dir=str(folder))

    def log(self, step: int, row: Mapping[str, float]) -> None:
        self.run.log(dict(row), step=step)

    def close(self) -> None:
        self.run.finish()


def _require(package: str) -> None:
    if find_spec(package) is None:
        raise InputError(f"{package} is not installed; run pip install 'blockvid[track]', or track without it")


class Tracking:
    """Hands rows to every tracker, in order, in the background; one that fails is named once and left out."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = list(trackers)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tracking")
        self._last: list[Future[None]] = []

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Returns at once."""
        row = dict(row)
        self._last = [self._submit(tracker, lambda t=tracker: t.log(step, row)) for tracker in self.trackers]

    def close(self) -> None:
        """What was logged is written when this returns, or a minute has passed."""
        closing = [self._submit(tracker, tracker.close) for tracker in self.trackers]
        late = wait_for([*self._last, *closing], CLOSING_SECONDS).not_done
        if late:
            log.warning("a tracker has not finished in %.0f s; training is complete without it", CLOSING_SECONDS)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _submit(self, tracker: Tracker, work: Callable[[], None]) -> Future[None]:
        future = self._thread.submit(self._run, tracker, work)
        future.add_done_callback(lambda done: self._judge(tracker, done))
        return future

    def _run(self, tracker: Tracker, work: Callable[[], None]) -> None:
        if tracker in self.trackers:
            work()

    def _judge(self, tracker: Tracker, done: Future[None]) -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None and tracker in self.trackers:
            self.trackers.remove(tracker)
            log.warning("%s failed and is left out from here on: %r", type(tracker).__name__, error)
