"""Laws of the one pass: rows depend on frames alone, and no more frames are held than rows need."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockvid.evaluation.series import Pass, Picture, Reader, Rows, Window, extract
from tiny_metrics import Brightness, Colour, ramp

relaxed = settings(deadline=None)  # a busy machine is no failure


def naive(frames: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of `Brightness`, each from the whole video."""
    levels = frames.reshape(len(frames), -1).mean(axis=1)
    around = [[i for i in (n - 1, n, n + 2) if 0 <= i < len(levels)] for n in range(len(levels))]
    return {"brightness.level": levels, "brightness.path": np.array([levels[i].mean() for i in around])}


@relaxed
@given(st.integers(1, 40), st.integers(1, 12))
def test_rows_in_windows_are_rows_of_the_whole(count: int, batch: int):
    rows = extract(ramp(count), (Brightness(), Colour()), 8.0, batch=batch)
    for key, expected in naive(ramp(count)).items():
        assert rows[key] == pytest.approx(expected, rel=1e-6)
    assert rows["colour.rgb"].shape == (count, 4)


@relaxed
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 40), st.data())
def test_a_pass_that_is_taken_up_again_computes_the_rest_and_nothing_else(
    count: int, batch: int, stored: int, data: st.DataObject
):
    frames = ramp(count)
    done = min(stored, count) // batch * batch
    kept: list[Rows] = []
    numbers: list[int] = []
    reader = Brightness().open(None, None)  # type: ignore[arg-type]

    def read(window: Window) -> Rows:
        numbers.extend(picture.number for picture in window.wanted)
        return reader.read(window)

    running = Pass({"b": Reader(read, 1, 2)}, lambda _, rows: kept.append(rows), batch, {"b": done})
    start = 0
    while start < count:  # arriving in pieces of any size
        stop = min(count, start + data.draw(st.integers(1, 9)))
        running.push(frames[start:stop], np.arange(start, stop) / 8)
        start = stop
    running.finish()
    assert numbers == list(range(done, count))
    if kept:
        levels = np.concatenate([rows["level"] for rows in kept])
        assert levels == pytest.approx(naive(frames)["brightness.level"][done:], rel=1e-6)


@pytest.mark.parametrize("done", [0, 960])
def test_no_more_frames_are_held_than_a_batch_and_its_context(done: int):
    most, alive = 0, weakref.WeakSet[Picture]()

    def read(window: Window) -> Rows:
        alive.update(window.pictures)
        return {"zero": np.zeros(len(window.wanted))}

    running = Pass({"r": Reader(read, 2, 3)}, lambda *_: None, 8, {"r": done})
    for number in range(1000):
        running.push(ramp(1), [number / 8])
        gc.collect(0)
        most = max(most, len(alive), len(running._pictures))
    assert 8 <= most <= 8 + 2 + 3


def test_what_several_want_of_a_frame_is_made_once():
    made: list[int] = []

    def product(pixels: np.ndarray) -> int:
        made.append(1)
        return int(pixels.sum())

    picture = Picture(ramp(1)[0], 0, 0.0)
    assert picture.once(product) == picture.once(product) == int(ramp(1).sum())
    assert len(made) == 1


def test_times_are_of_the_frames():
    seen: list[tuple[int, float]] = []

    def read(window: Window) -> Rows:
        seen.extend((picture.number, picture.seconds) for picture in window.wanted)
        return {}

    running = Pass({"r": Reader(read)}, lambda *_: None, 2)
    running.push(ramp(3), [0.0, 0.5, 2.0])
    running.finish()
    assert seen == [(0, 0.0), (1, 0.5), (2, 2.0)]
