"""Laws of stored rows: they survive a kill at any moment, and what survived is not computed again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from blockvid.evaluation.rows import MOST_STILLS, Facts, RowFiles, Shelf, StillFiles, StorageError, Store
from tiny_metrics import Brightness, Colour, ramp

FACTS = Facts(width=8, height=6, fps=8.0, frames=3, seconds=0.375, variable=False)
in_a_folder = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def rows(start: int, stop: int) -> dict[str, np.ndarray]:
    numbers = np.arange(start, stop)
    return {
        "level": numbers.astype(np.float32),
        "seconds": numbers / 3,
        "vector": np.stack([numbers, -numbers], axis=1).astype(np.float32),
    }


def stored(folder: Path, count: int, batch: int = 4) -> RowFiles:
    files = RowFiles(folder)
    for start in range(files.done(batch), count, batch):
        files.append(rows(start, min(start + batch, count)))
    return files


@pytest.mark.parametrize("count", [1, 4, 11])
def test_rows_in_pieces_are_rows_whole_and_mapped_not_read(tmp_path: Path, count: int):
    files = stored(tmp_path, count)
    assert not files.complete
    files.finish()
    assert RowFiles(tmp_path).complete
    series = RowFiles(tmp_path).series()
    for name, expected in rows(0, count).items():
        assert isinstance(series[name], np.memmap)
        assert series[name].dtype == expected.dtype
        assert np.array_equal(series[name], expected)


@in_a_folder
@given(st.integers(1, 30), st.integers(1, 7), st.data())
def test_files_torn_anywhere_go_on_from_the_last_whole_batch(
    tmp_path_factory: pytest.TempPathFactory, count: int, batch: int, data: st.DataObject
):
    folder = tmp_path_factory.mktemp("rows")
    stored(folder, count, batch)
    whole = []
    for name, size in (("level", 4), ("seconds", 8), ("vector", 8)):
        file = folder / f"{name}.rows"
        left = data.draw(st.integers(0, file.stat().st_size), label=name)
        os.truncate(file, left)
        whole.append(left // size)
    assert RowFiles(folder).done(batch) == min(whole) // batch * batch
    again = stored(folder, count, batch)
    again.finish()
    for name, expected in rows(0, count).items():
        assert np.array_equal(again.series()[name], expected)


def test_rows_that_lost_something_are_not_complete(tmp_path: Path):
    stored(tmp_path, 11).finish()
    os.truncate(tmp_path / "seconds.rows", 10 * 8)
    assert not RowFiles(tmp_path).complete
    (tmp_path / "vector.rows").unlink()
    assert RowFiles(tmp_path).done(4) == 0
    stored(tmp_path, 11).finish()
    (tmp_path / "rows.json").write_text("{")
    assert not RowFiles(tmp_path).complete
    assert RowFiles(tmp_path).done(4) == 0
    assert not tmp_path.exists() or not list(tmp_path.iterdir()), "rows of an unknown shape are of no use"


# The process dies at its n-th file operation, for every n; then another one carries on.
KILLED = """
import os, signal, sys
from pathlib import Path
from test_rows import stored
base = Path(sys.argv[1])
for n in range(1, 1000):
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
        stored(base / str(n), 11).finish()
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        print(n)
        break
"""


def run(code: str, *arguments: object) -> str:
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(here), str(here.parent)))}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_killed_at_any_file_operation_rows_go_on_as_if_nothing_had_happened(tmp_path: Path):
    kills = int(run(KILLED, tmp_path)) - 1
    assert kills > 12
    for n in range(1, kills + 1):
        files = RowFiles(tmp_path / str(n))
        done = files.done(4) if not files.complete else 11
        assert done in (0, 4, 8, 11)
        if not files.complete:
            files = stored(tmp_path / str(n), 11)
            files.finish()
        for name, expected in rows(0, 11).items():
            assert np.array_equal(files.series()[name], expected)


def test_rows_depend_on_the_identity_and_the_stride(tmp_path: Path):
    shelf = Store(tmp_path).video("ab" * 32)
    of = {
        shelf.rows(Brightness(), 1).folder,
        shelf.rows(Brightness(), 2).folder,
        shelf.rows(Brightness(identity="2"), 1).folder,
        shelf.rows(Colour(), 1).folder,
    }
    assert len(of) == 4
    assert shelf.rows(Brightness(log=tmp_path), 1).folder in of, "what rows do not depend on"
    assert shelf.folder == tmp_path / "ab" / ("ab" * 32)


COUNTED = """
import sys, time
from pathlib import Path
from blockvid.evaluation.rows import Shelf
folder = Path(sys.argv[1])
for _ in range(40):
    with Shelf(folder).locked():
        counter = folder / "counter"
        number = int(counter.read_text()) if counter.exists() else 0
        time.sleep(0.005)
        counter.write_text(str(number + 1))
"""


def test_processes_at_one_video_take_turns(tmp_path: Path):
    processes = [subprocess.Popen([sys.executable, "-c", COUNTED, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert int((tmp_path / "counter").read_text()) == 120


def test_facts_are_there_when_they_were_set_and_whole(tmp_path: Path):
    shelf = Shelf(tmp_path)
    assert shelf.facts is None
    shelf.set_facts(FACTS)
    assert Shelf(tmp_path).facts == FACTS
    (tmp_path / "facts.json").write_text("{}")
    assert shelf.facts is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_disk_that_refuses_is_named_with_a_repair(tmp_path: Path):
    files = stored(tmp_path / "rows", 4)
    (tmp_path / "rows" / "level.rows").unlink()
    (tmp_path / "rows" / "level.rows").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"cannot be written \(No space left on device\); free space there or name"):
        files.append(rows(4, 8))
    (tmp_path / "file").write_text("")
    for broken in (lambda: Store(tmp_path / "file"), lambda: Shelf(tmp_path / "file" / "x").set_facts(FACTS)):
        with pytest.raises(StorageError, match="name another cache") as caught:
            broken()
        assert "resume" not in str(caught.value)


# Stills


def pictures(folder: Path, seconds: np.ndarray, height: int = 90, width: int = 120) -> StillFiles:
    stills = StillFiles(folder)
    for start in range(0, len(seconds), 16):
        part = seconds[start : start + 16]
        stills.offer(np.zeros((len(part), height, width, 3), np.uint8), part)
    assert not StillFiles(folder).complete
    stills.finish()
    return StillFiles(folder)


def opened(file: Path) -> Image.Image:
    with Image.open(file) as picture:
        return picture.convert("RGB")


def test_two_stills_a_second(tmp_path: Path):
    stills = pictures(tmp_path, np.arange(80) / 16)
    assert stills.complete
    assert list(stills.all().values()) == [n / 2 for n in range(10)]
    assert {opened(file).size for file in stills.all()} == {(120, 90)}
    assert {file.suffix for file in tmp_path.iterdir()} == {".jpg", ".json"}


@pytest.mark.parametrize(("height", "width", "size"), [(720, 1280, (160, 90)), (33, 25, (25, 33)), (1, 999, (160, 1))])
def test_stills_are_small_whatever_the_size(tmp_path: Path, height: int, width: int, size: tuple[int, int]):
    (file,) = pictures(tmp_path, np.zeros(1), height, width).all()
    assert opened(file).size == size


@in_a_folder
@given(st.lists(st.floats(0.01, 4), min_size=1, max_size=1500), st.booleans())
def test_stills_are_bounded_evenly_spread_and_begin_with_the_first_frame(
    tmp_path_factory: pytest.TempPathFactory, gaps: list[float], again: bool
):
    folder = tmp_path_factory.mktemp("stills")
    seconds = np.concatenate([[0.0], np.cumsum(gaps)])
    if again:  # as after a kill: there are pictures, and they are not listed
        StillFiles(folder).offer(np.ones((1, 2, 2, 3), np.uint8), np.array([0.123]))
    stills = pictures(folder, seconds, 2, 2).all()
    kept = list(stills.values())
    assert kept[0] == 0 and kept == sorted(kept) and len(kept) <= MOST_STILLS
    assert set(stills) == set(folder.glob("*.jpg"))
    spacing = next(0.5 * 2**n for n in range(20) if len({int((s + 1e-3) / (0.5 * 2**n)) for s in seconds}) <= 240)
    firsts: dict[int, float] = {}
    for moment in seconds:
        firsts.setdefault(int((moment + 1e-3) / spacing), moment)
    assert kept == list(firsts.values())


def test_the_stills_of_real_frames_show_them(tmp_path: Path):
    stills = StillFiles(tmp_path)
    frames = ramp(3, 32, 32)
    stills.offer(frames, np.array([0.0, 0.6, 1.2]))
    stills.finish()
    for file, frame in zip(stills.all(), frames, strict=True):
        assert np.asarray(opened(file)).mean() == pytest.approx(frame.mean(), abs=3)
