"""Chunks scored while they are made: as they would be alone, and the same after a stop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blockvid.errors import InputError
from blockvid.evaluation.results import value
from blockvid.evaluation.series import Footage, extract
from blockvid.evaluation.watch import FILE, JUMP, Rule, Watch, watched

FPS = 8.0


def chunks(count: int, blur: int = 0) -> list[np.ndarray]:
    """A texture that slides by a pixel a frame, darker by 10 % a chunk."""
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 255, (12, 30, 3)), np.ones((8, 8, 1)))
    frames = [[np.roll(texture, 8 * c + t, axis=1) * 0.9**c for t in range(8)] for c in range(count)]
    return [np.stack(chunk).astype(np.uint8) for chunk in frames]


def test_a_chunk_is_scored_as_it_would_be_alone() -> None:
    watch, made = Watch(), chunks(3)
    found = [watch.push(index, frames, FPS) for index, frames in enumerate(made)]
    for chunk, frames in zip(found, made, strict=True):
        footage = Footage(frames.shape[2], frames.shape[1], FPS)
        for metric in watched():
            if metric.key != JUMP:
                series = extract(frames, metric.extractors, FPS)
                assert value(chunk.scores[metric.key]) == pytest.approx(
                    metric.score(series, range(len(frames)), footage), nan_ok=True
                )


def test_drift_is_relative_to_the_first_chunk_and_signed() -> None:
    watch = Watch()
    first, *_, last = [watch.push(index, frames, FPS) for index, frames in enumerate(chunks(4))]
    assert set(first.drift.values()) <= {0.0, None}
    assert value(last.drift["exposure@core"]) == pytest.approx(0.9**3 - 1, abs=0.01)
    assert first.scores[JUMP] is None and value(last.scores[JUMP]) < 4


def test_rules_warn_and_stop() -> None:
    rules = (Rule.parse("exposure=0.15", "warn"), Rule.parse("exposure=0.25", "stop"))
    watch = Watch(rules)
    found = [watch.push(index, frames, FPS) for index, frames in enumerate(chunks(4))]
    assert [len(chunk.broken) for chunk in found] == [0, 0, 1, 2]
    assert [chunk.stop for chunk in found] == [False, False, False, True]
    assert found[3].broken[1] == "its exposure is -27% from the first chunk's (limit 0.25)"


@pytest.mark.parametrize("text", ["sharpness=1", "clarity", "clarity=", "clarity=-1", "clarity=nan", "=1"])
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="; use "):
        Rule.parse(text, "warn")


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resumed_is_uninterrupted(tmp_path: Path, stop: int) -> None:
    made = chunks(4)
    whole = Watch()
    for index, frames in enumerate(made):
        whole.push(index, frames, FPS)
    first = Watch()
    for index, frames in enumerate(made[: stop + 1]):  # the last one was written and then not journaled
        first.push(index, frames, FPS)
        first.write(tmp_path)
    again = Watch.resumed(tmp_path, (), stop)
    for index in range(stop, 4):
        again.push(index, made[index], FPS)
    assert again.chunks == whole.chunks


def test_a_run_that_was_not_watched_cannot_be_from_its_middle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 chunks were made and 0 of them watched"):
        Watch.resumed(tmp_path, (), 3)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        Watch.resumed(tmp_path, (), 3)
    assert Watch.resumed(tmp_path, (), 0).chunks == []
