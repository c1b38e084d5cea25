"""Laws of what counts as a video: every file once, under a name of its own, in an order that does not change."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from blockvid.errors import InputError
from blockvid.evaluation.sources import borders, sources
from blockvid.generate import generate, run_folder
from blockvid.pipeline import Pipeline, Settings
from blockvid.storyboard import Storyboard
from tiny_metrics import ramp

pytest_plugins = ["tiny_models"]

FILES = ("b.mp4", "a.MKV", "deep/er/a.mkv", "deep/c.webm", "notes.txt", ".hidden.mp4", ".trash/d.mp4", "z.run/y.mp4")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (*FILES, "clip.run/manifest.json", "clip.run/segments/00000.mp4", "clip.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def names(*arguments: object) -> list[str]:
    (videos,) = arguments
    return [source.name for source in sources(videos)]  # type: ignore[arg-type]


def test_a_folder_is_all_its_videos_in_order_without_hidden_ones_and_segments_of_runs(folder: Path):
    expected = ["a.MKV", "b.mp4", "clip.mp4", "deep/c.webm", "deep/er/a.mkv", "z.run/y.mp4"]
    assert names(folder) == names(str(folder)) == names([folder]) == expected
    assert names(folder / "deep") == ["c.webm", "er/a.mkv"]


def test_a_hidden_folder_that_is_named_is_read(folder: Path):
    assert names(folder / ".trash") == ["d.mp4"]


def test_a_file_is_there_once_and_equal_names_are_told_apart(folder: Path):
    assert names([folder / "b.mp4", folder / "b.mp4", folder]).count("b.mp4") == 1
    for place in ("one/x", "two/x"):
        (folder / place).mkdir(parents=True)
        (folder / place / "b.mp4").write_bytes(b"")
    given = [folder / "one" / "x", folder / "two" / "x", folder / "b.mp4"]
    assert names(given) == ["one/x/b.mp4", "two/x/b.mp4", f"{folder.name}/b.mp4"]


def test_names_can_be_given(folder: Path):
    one, two = sources({"fox": folder / "b.mp4", "owl": (ramp(3), 8.0)})
    assert (one.name, one.path, two.name, two.path) == ("fox", folder / "b.mp4", "owl", None)


def test_content_is_told_apart_by_every_byte_shape_and_rate(folder: Path):
    frames = ramp(4, 6, 8)
    changed = frames.copy()
    changed[3, 5, 7, 2] ^= 1
    kinds = [(frames, 8.0), (changed, 8.0), (frames, 9.0), (frames.reshape(4, 8, 6, 3), 8.0), (frames[:3], 8.0)]
    hashes = [source.sha256() for source in sources({str(n): kind for n, kind in enumerate(kinds)})]
    assert len(set(hashes)) == len(kinds)
    (spread,) = sources({"x": (np.repeat(frames, 2, axis=2)[:, :, ::2], 8.0)})
    assert spread.sha256() == hashes[0], "not the layout in memory"
    shutil.copy(folder / "b.mp4", folder / "copy.mp4")
    b, copy = (source for source in sources(folder) if source.name in ("b.mp4", "copy.mp4"))
    assert b.sha256() == copy.sha256()


def test_frames_in_memory_are_read_as_they_are():
    (source,) = sources({"x": (ramp(11), 4.0)})
    blocks = list(source.read(4))
    assert np.array_equal(np.concatenate([frames for frames, _ in blocks]), ramp(11))
    assert np.concatenate([seconds for _, seconds in blocks]).tolist() == [n / 4 for n in range(11)]
    info = source.info()
    assert (info.width, info.height, info.fps, info.frames, info.seconds) == (8, 6, 4.0, 11, 2.75)


def test_what_is_no_video_is_refused_with_a_repair(folder: Path):
    cases = {
        "does not exist": folder / "none.mp4",
        "holds no video": folder / "clip.run",
        "no video was named": [],
        r"x: float64 \(2, 6, 8, 3\) is no uint8 array": {"x": (ramp(2) / 255, 8.0)},
        r"x: uint8 \(6, 8, 3\) is no": {"x": (ramp(2)[0], 8.0)},
        "x: list is no": {"x": ([], 8.0)},
        "0 frames a second": {"x": (ramp(2), 0)},
        "is a folder": {"x": folder},
    }
    for problem, videos in cases.items():
        with pytest.raises(InputError, match=problem):
            sources(videos)  # type: ignore[arg-type]
    (empty,) = sources({"x": (ramp(0), 8.0)})
    with pytest.raises(InputError, match="x has 0 frames"):
        empty.info()


def test_a_generated_video_says_where_its_chunks_begin(tmp_path: Path, pipe: Pipeline):
    board = Storyboard.model_validate({"shots": [{"prompt": f"a fox runs {n}", "seconds": n} for n in (2.0, 1.0)]})
    video = tmp_path / "clip.mp4"
    generate(pipe, board, video, Settings(steps=1))
    lengths = [len(clip.frames) for clip in pipe.stream(board, Settings(steps=1))]
    assert len(lengths) > 2
    assert borders(video) == tuple(np.cumsum(lengths)[:-1])
    assert [source.name for source in sources(tmp_path)] == ["clip.mp4"]
    assert borders(tmp_path / "other.mp4") == ()
    manifest = run_folder(video) / "manifest.json"
    for broken in ('{"determining": {}}', "", manifest.read_text().replace('"chunk_frames"', '"chunks"')):
        manifest.write_text(broken)
        assert borders(video) == ()
