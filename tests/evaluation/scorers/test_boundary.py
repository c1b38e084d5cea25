"""Laws of the seam: 1 for none, more for a jump, and only the borders count."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockvid.evaluation.scorers.boundary import boundary_jump, jumps, metrics
from blockvid.evaluation.series import Footage, extract

relaxed = settings(deadline=None)
CHUNKED = Footage(64, 48, 16.0, borders=(8, 16, 24))
WHOLE = range(32)


def series(changes: dict[int, float], base: float = 2.0) -> dict[str, np.ndarray]:
    values = np.full(32, base, dtype=np.float32)
    values[0] = np.nan
    for t, change in changes.items():
        values[t] = change
    return {"change.difference": values}


def test_equal_changes_have_no_seam():
    assert boundary_jump(series({}), WHOLE, CHUNKED) == 1


@relaxed
@given(st.floats(0.1, 50), st.floats(1, 20))
def test_a_jump_is_told_by_its_factor(base: float, factor: float):
    made = series(dict.fromkeys(CHUNKED.borders, base * factor), base)
    assert boundary_jump(made, WHOLE, CHUNKED) == pytest.approx(factor, rel=1e-5)


def test_bursts_inside_do_not_hide_a_seam():
    burst = {3: 90.0, 6: 50.0, 11: 70.0, 20: 40.0, 28: 99.0}
    seams = dict.fromkeys(CHUNKED.borders, 6.0)
    assert boundary_jump(series({**burst, **seams}), WHOLE, CHUNKED) == 3


def test_a_seam_is_compared_with_the_motion_around_it():
    quick_half = dict.fromkeys(range(12, 21), 20.0)
    assert boundary_jump(series(quick_half), WHOLE, CHUNKED) == 1


def test_only_borders_inside_the_span_count():
    made = series({8: 8.0, 16: 4.0})
    assert boundary_jump(made, range(16), CHUNKED) == 4
    assert boundary_jump(made, range(8, 16), CHUNKED) != boundary_jump(made, range(7, 16), CHUNKED)
    assert math.isnan(boundary_jump(made, range(8, 16), CHUNKED))  # its first frame has no pair
    assert math.isnan(boundary_jump(made, WHOLE, replace(CHUNKED, borders=())))
    assert [border for border, _, _ in jumps(made, range(9, 30), CHUNKED)] == [16, 24]


def test_a_frozen_video_has_no_seam_unless_it_jumps():
    assert boundary_jump(series({}, base=0.0), WHOLE, CHUNKED) == 1
    assert boundary_jump(series({16: 3.0}, base=0.0), WHOLE, CHUNKED) == math.inf


def test_chunks_of_one_frame_have_nothing_to_compare_with():
    assert math.isnan(boundary_jump(series({}), WHOLE, replace(CHUNKED, borders=tuple(range(1, 32)))))


def test_a_made_seam_is_seen_in_pixels():
    pytest.importorskip("cv2")
    y, x = np.mgrid[:48, :64]
    smooth = [128 + 60 * np.sin((x + 2 * t) / 9) + 40 * np.cos(y / 7) for t in range(32)]
    seamed = [frame + 12 * (t // 8) for t, frame in enumerate(smooth)]
    (metric,) = metrics()
    made = [np.repeat(np.stack(v).clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1) for v in (smooth, seamed)]
    plain, jumped = (metric.score(extract(v, metric.extractors, 16.0), WHOLE, CHUNKED) for v in made)
    assert plain == pytest.approx(1, abs=0.1)
    assert jumped > 1.3
