"""Laws of the chunk noise schedules (Eqs. 11, 26, 27)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blockvid.errors import InputError
from blockvid.flow import ChunkSchedule, ScheduleKind

EXACT = [
    ChunkSchedule("linear"),
    ChunkSchedule("cosine"),
    ChunkSchedule("sigmoid", normalised=True),
]
RISING = [*EXACT, ChunkSchedule("sigmoid")]
LOW, HIGH = 0.1, 0.997
rising = pytest.mark.parametrize("schedule", RISING, ids=repr)
KINDS = st.sampled_from(["linear", "cosine", "sigmoid"])


@pytest.mark.parametrize("schedule", EXACT, ids=repr)
@pytest.mark.parametrize("chunks", [2, 3, 15])
def test_schedules_run_from_eps_min_to_eps_max(schedule: ChunkSchedule, chunks: int) -> None:
    levels = schedule.levels(chunks)
    assert levels.shape == (chunks,)
    assert levels.dtype == torch.float64
    assert (levels[0], levels[-1]) == (LOW, HIGH)


@rising
@pytest.mark.parametrize("chunks", [2, 3, 4, 15, 100])
def test_schedules_rise(schedule: ChunkSchedule, chunks: int) -> None:
    assert (schedule.levels(chunks).diff() > 0).all()


@rising
@pytest.mark.parametrize("chunks", [3, 5, 15])
def test_all_meet_in_the_middle_and_are_symmetric_about_it(schedule: ChunkSchedule, chunks: int) -> None:
    levels = schedule.levels(chunks)
    assert levels[chunks // 2].item() == pytest.approx((LOW + HIGH) / 2)
    torch.testing.assert_close(levels + levels.flip(0), torch.full_like(levels, LOW + HIGH))


def test_values_of_five_chunks() -> None:
    """By hand from the equations; cosine: 0.1 + 0.897 (1 - cos(pi/4)) / 2, sigmoid: 0.1 + 0.897 / (1 + e^2.5)."""
    for kind, second in (("linear", 0.32425), ("cosine", 0.2313628), ("sigmoid", 0.1680439)):
        assert ChunkSchedule(kind).levels(5)[1].item() == pytest.approx(second, abs=1e-6)


def test_the_literal_sigmoid_misses_its_ends() -> None:
    levels = ChunkSchedule("sigmoid").levels(15)
    assert [levels[0].item(), levels[-1].item()] == pytest.approx([0.106, 0.991], abs=5e-4)


def test_a_steeper_sigmoid_moves_more_in_the_middle() -> None:
    jumps = [ChunkSchedule("sigmoid", alpha=a, normalised=True).levels(4).diff()[1].item() for a in (1, 10, 100, 1e6)]
    assert jumps == sorted(set(jumps))
    assert jumps[-1] == pytest.approx(HIGH - LOW)


def test_counting_from_one_leaves_the_range_or_turns_back() -> None:
    """The reason for counting from 0: c = n is past the end of the curve."""
    linear = ChunkSchedule("linear", one_based=True).levels(15)
    assert linear[-1].item() == pytest.approx(1.061, abs=5e-4)
    cosine = ChunkSchedule("cosine", one_based=True).levels(15)
    assert cosine[-2] == HIGH
    assert cosine[-1] < HIGH
    for kind in ("linear", "cosine", "sigmoid"):
        literal, ours = ChunkSchedule(kind, one_based=True).levels(15), ChunkSchedule(kind).levels(15)
        torch.testing.assert_close(literal[:-1], ours[1:])


def test_naive_treats_no_chunk_differently() -> None:
    assert torch.equal(ChunkSchedule().levels(4), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("one_based", [False, True])
@rising
def test_a_single_chunk_has_eps_max(schedule: ChunkSchedule, one_based: bool) -> None:
    alone = ChunkSchedule(schedule.kind, normalised=schedule.normalised, one_based=one_based)
    assert alone.levels(1).tolist() == [HIGH]


@given(KINDS, st.integers(1, 60), st.floats(1e-6, 1), st.floats(1e-6, 1), st.floats(1e-3, 1e3), st.booleans())
def test_levels_never_leave_their_range(
    kind: ScheduleKind, chunks: int, a: float, b: float, alpha: float, normalised: bool
) -> None:
    low, high = sorted((a, b))
    levels = ChunkSchedule(kind, low, high, alpha, normalised=normalised).levels(chunks)
    assert (levels >= low).all()
    assert (levels <= high).all()
    assert (levels.diff() >= -1e-12).all()


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.9), (-0.1, 0.9), (0.9, 0.1), (0.1, 1.1), (math.nan, 0.9)])
def test_impossible_ends_are_an_input_error(low: float, high: float) -> None:
    with pytest.raises(InputError, match=r"^eps_min .* use 0.1 and 0.997$"):
        ChunkSchedule("cosine", low, high)


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.inf, math.nan])
def test_an_impossible_steepness_is_an_input_error(alpha: float) -> None:
    with pytest.raises(InputError, match=f"alpha {alpha} .* use 10"):
        ChunkSchedule("sigmoid", alpha=alpha)


def test_an_unknown_kind_and_no_chunks_are_input_errors() -> None:
    schedule = ChunkSchedule()
    object.__setattr__(schedule, "kind", "square")  # the tests' own check of signatures would refuse it first
    with pytest.raises(InputError, match="'square' is unknown; use naive, linear, cosine, sigmoid"):
        schedule.__post_init__()
    with pytest.raises(InputError, match=r"0 chunks .* use 1 or more"):
        ChunkSchedule("cosine").levels(0)
