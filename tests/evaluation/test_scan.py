"""Laws of one pass over one video: what is stored is not computed again, and length costs no memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockvid.errors import InputError
from blockvid.evaluation.rows import Shelf
from blockvid.evaluation.scan import SECONDS, Scan, extractors
from blockvid.evaluation.series import Series
from blockvid.evaluation.sources import Source, sources
from blockvid.video import VideoInfo
from tiny_metrics import Brightness, Unready, ramp, tiny

in_a_folder = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


class StopError(Exception):
    """The process ends here."""


def scanned(folder: Path, source: Source, scan: Scan, stop: int | None = None) -> Series:
    """Rows, from a pass that ends for good when `stop` frames were read."""
    read = 0

    def tick(frames: int) -> None:
        nonlocal read
        read += frames
        if stop is not None and read >= stop:
            raise StopError

    shelf = Shelf(folder)
    scan(source, shelf, tick)
    return shelf.series(scan.extractors, scan.stride)


def scan_of(log: Path | None = None, stride: int = 1, batch: int = 8) -> Scan:
    return Scan(extractors(tiny(log)), stride, batch)


def film(count: int) -> Source:
    (source,) = sources({"film": (ramp(count), 8.0)})
    return source


def same(one: Series, other: Series) -> bool:
    return set(one) == set(other) and all(np.array_equal(one[key], other[key]) for key in one)


@in_a_folder
@given(st.integers(1, 60), st.lists(st.integers(1, 60), max_size=3), st.integers(1, 9), st.integers(1, 4))
def test_stopped_anywhere_and_taken_up_again_rows_are_the_same_and_computed_once(
    tmp_path_factory: pytest.TempPathFactory, count: int, stops: list[int], batch: int, stride: int
):
    folder, whole = tmp_path_factory.mktemp("often"), tmp_path_factory.mktemp("once")
    log = folder / "log"
    scan = scan_of(log, stride, batch)
    for stop in stops:
        try:
            scanned(folder / "shelf", film(count), scan, stop)
        except StopError:
            continue
    resumed = scanned(folder / "shelf", film(count), scan)
    assert same(resumed, scanned(whole / "shelf", film(count), scan_of(None, stride)))
    rows = -(-count // stride)
    assert Counter(log.read_text().split()) == {str(number): 1 for number in range(rows)}


# The process dies at its n-th file operation; then another one carries on. Each n-th only, for time.
KILLED = """
import os, signal, sys
from pathlib import Path
from test_scan import film, scan_of, scanned
base, step = Path(sys.argv[1]), int(sys.argv[2])
for n in range(1, 10000, step):
    child = os.fork()
    if child == 0:
        left = n
        def hook(event, arguments):
            global left
            if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.truncate"):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        scanned(base / str(n), film(20), scan_of())
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


def test_killed_at_any_file_operation_the_video_is_taken_up_where_it_was(tmp_path: Path):
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(here), str(here.parent)))}
    command = [sys.executable, "-c", KILLED, str(tmp_path), "3"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    whole = scanned(tmp_path / "whole", film(20), scan_of())
    killed = [folder for folder in tmp_path.iterdir() if folder.name != "whole"]
    assert len(killed) > 12
    for folder in killed:
        log = tmp_path / f"{folder.name}.log"
        assert same(scanned(folder, film(20), scan_of(log)), whole)
        shelf, again = Shelf(folder), len(log.read_text().split()) if log.exists() else 0
        assert again <= 20 and list(shelf.stills.all().values()) == [0.0, 0.5, 1.0, 1.5, 2.0]
        assert set(shelf.stills.all()) == set((folder / "stills").glob("*.jpg"))


@pytest.mark.parametrize("stride", [1, 3])
def test_times_and_rows_are_of_the_frames_that_are_looked_at(tmp_path: Path, stride: int):
    series = scanned(tmp_path, film(20), scan_of(stride=stride))
    assert series[SECONDS].tolist() == [n / 8 for n in range(0, 20, stride)]
    assert series[SECONDS].dtype == np.float64, "two hours to the microsecond"
    assert series["brightness.level"] == pytest.approx(ramp(20)[::stride].mean(axis=(1, 2, 3)), rel=1e-6)


def test_a_stored_video_is_not_read(tmp_path: Path):
    scanned(tmp_path, film(20), scan_of())
    scanned(tmp_path, film(20), scan_of(batch=3), stop=0)
    with pytest.raises(StopError):
        scanned(tmp_path, film(20), scan_of(stride=2), stop=1)


def test_only_what_is_missing_is_computed(tmp_path: Path):
    log = tmp_path / "log"
    scanned(tmp_path / "shelf", film(20), Scan({"brightness": Brightness(log)}))
    more = scanned(tmp_path / "shelf", film(20), scan_of(log))
    assert len(log.read_text().split()) == 20
    assert "colour.rgb" in more


@pytest.mark.parametrize(
    ("seconds", "variable"),
    [
        ([0, 0.125, 0.25, 0.375], False),
        ([0, 0.042, 0.083, 0.125, 0.167], False),  # 24 a second, in milliseconds
        ([0, 0.125, 0.375, 0.5, 0.625], True),
        ([0.0], False),
    ],
)
def test_a_rate_is_variable_if_frames_last_differently_long(tmp_path: Path, seconds: list[float], variable: bool):
    scan_of()(Film(len(seconds), np.array(seconds)), Shelf(tmp_path), lambda _: None)  # type: ignore[arg-type]
    facts = Shelf(tmp_path).facts
    assert facts is not None
    assert (facts.variable, facts.frames) == (variable, len(seconds))
    usual = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 0.125
    assert facts.seconds == pytest.approx(seconds[-1] + usual)


class Film:
    """Frames that are made while they are read, as those of a file that fits no memory."""

    name = "film"

    def __init__(self, count: int, seconds: np.ndarray | None = None, size: int = 8) -> None:
        self.count, self.size = count, size
        self.seconds = np.arange(count) / 8 if seconds is None else seconds

    def info(self) -> VideoInfo:
        return VideoInfo(self.size, self.size, 8.0, None, self.count / 8)

    def read(self, batch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, self.count, batch):
            seconds = self.seconds[start : start + batch]
            yield np.full((len(seconds), self.size, self.size, 3), start % 251, np.uint8), seconds


def test_a_film_of_any_length_takes_the_memory_of_a_few_frames(tmp_path: Path):
    held = {}
    for minutes in (2, 10):
        tracemalloc.start()
        scan_of()(Film(minutes * 480, size=96), Shelf(tmp_path / str(minutes)), lambda _: None)  # type: ignore[arg-type]
        held[minutes] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    frame = 96 * 96 * 3
    assert held[10] < 100 * frame < 0.1 * 4800 * frame
    assert held[10] - held[2] < 10 * frame


def test_a_stream_without_a_frame_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="film has no frame that can be decoded"):
        scan_of()(Film(0), Shelf(tmp_path), lambda _: None)  # type: ignore[arg-type]


def test_what_an_extractor_lacks_is_said_before_any_work():
    with pytest.raises(InputError, match="weights of unready are nowhere"):
        Scan({"unready": Unready()}).check()
    scan_of().check()


def test_two_extractors_of_one_name_are_refused():
    one, _, other = tiny()
    assert list(extractors((one, other))) == ["frame", "brightness", "colour"]
    with pytest.raises(InputError, match="extractor brightness both as '1' and as '2'"):
        extractors((one, replace(one, name="x", extractors=(Brightness(identity="2"),))))
