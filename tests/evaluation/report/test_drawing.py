"""Numbers, axes and paths: what is drawn is where it should be, and nothing breaks markup."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockvid.evaluation.report import numbers, svg
from blockvid.evaluation.report.charts import thinned
from blockvid.evaluation.report.markup import Html, breakable, element, escaped, joined
from evaluation.report.document import Document

finite = st.floats(-1e6, 1e6)


@given(st.text(), st.text())
def test_any_text_comes_back_from_elements_and_attributes(words: str, hint: str):
    node = Document(element("p", {"title": hint}, words)).root.all("p")[0]
    assert node.text == _kept(words)
    assert node.attributes["title"] == _kept(hint)


def _kept(text: str) -> str:
    return str(Document(escaped(text)).root.text)


def test_markup_is_escaped_once_and_only_if_it_was_made_elsewhere():
    inner = element("b", None, "<")
    assert element("p", None, inner, "<") == "<p><b>&lt;</b>&lt;</p>"
    assert element("p", None, f"{inner}") == "<p>&lt;b&gt;&amp;lt;&lt;/b&gt;</p>"
    assert isinstance(joined([inner, "&"]), Html)
    assert breakable("a@b:c") == "a<wbr>@b<wbr>:c"


@pytest.mark.parametrize(
    ("x", "told"),
    [
        (math.nan, "–"), (math.inf, "∞"), (-math.inf, "−∞"), (0, "0"), (-0.0, "0"), (0.0119, "0.0119"),
        (-3.456, "−3.46"), (412.3, "412"), (1e-9, "0.0000"),
    ],
)  # fmt: skip
def test_numbers_have_as_many_digits_as_mean_something(x: float, told: str):
    assert numbers.short(x) == told


@given(finite, st.integers(0, 4))
def test_a_negative_zero_is_never_shown(x: float, places: int):
    assert float(numbers.fixed(x, places).replace(numbers.MINUS, "-")) == pytest.approx(x, abs=0.51 * 10**-places)
    assert numbers.fixed(-(10.0**-9), places).lstrip("0.") == ""


def test_times_spans_and_lists():
    assert [numbers.clock(s) for s in (0, 4.5, 59.96, 64, 3600)] == ["0:00", "0:04.5", "1:00", "1:04", "60:00"]
    assert [numbers.listed(words) for words in ([], ["a"], ["a", "b", "c"])] == ["", "a", "a, b and c"]
    assert numbers.signed(0.5) == "+50\u202f%" and numbers.signed(-0.001) == "−0.10\u202f%"


@given(st.lists(finite, min_size=1), st.booleans())
def test_ticks_are_on_the_axis_and_tell_apart(values: list[float], log: bool):
    array = np.array(values)
    axis = svg.logarithmic(array, 0, 100) if log else svg.linear(array, 0, 100)
    ticks = axis.ticks()
    assert all(-0.01 <= axis(t) <= 100.01 for t in ticks) and len(ticks) >= 1
    if not log and len(ticks) > 1 and ticks[1] - ticks[0] > 1e-5:
        told = [numbers.fixed(t, numbers.exact(ticks[1] - ticks[0])) for t in ticks]
        assert len(set(told)) == len(told)
        assert [float(t.replace(numbers.MINUS, "-")) for t in told] == pytest.approx(list(ticks))


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=30))
def test_paths_hold_no_gaps_in_words(values: list[float]):
    ys = np.where(np.isfinite(values), np.clip(values, -1e3, 1e3), values)
    xs = np.arange(len(ys), dtype=np.float64)
    axis = svg.Axis(-1, 1, 100, 0)
    drawn = svg.curve(xs, ys, axis, axis) + svg.band(xs, ys, np.ones(len(ys)), axis, axis)
    assert not set(drawn) - set("MLZ-. 0123456789")


@given(st.integers(1, 400), st.integers(1, 240))
def test_thinning_keeps_the_mean_of_equal_parts_and_the_limit(count: int, most: int):
    values = np.random.default_rng(count).normal(size=count)
    kept = thinned(values, most)
    assert len(kept) == min(count, most)
    if count % most == 0:
        assert kept.mean() == pytest.approx(values.mean())
