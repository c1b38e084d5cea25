"""The quoted tables are whole, say what the paper says, and cannot pass for measurements."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from blockvid.errors import InputError
from blockvid.evaluation.reference import Published, Row, published

VDE = ["vde_subject", "vde_background", "vde_motion", "vde_aesthetic", "vde_clarity"]
TABLE = published()


def row(table: str, method: str) -> Row:
    (found,) = [one for one in TABLE.rows if (one.table, one.method) == (table, method)]
    return found


def test_every_method_and_value_is_there():
    by_table = {table: [one for one in TABLE.rows if one.table == table] for table in {one.table for one in TABLE.rows}}
    counts = {table: (len(rows), sum(len(one.values) for one in rows)) for table, rows in by_table.items()}
    assert counts == {"Table 2": (6, 60), "Table 3": (8, 48), "LV-Bench comparison": (2, 10)}
    assert (len(TABLE.of("LV-Bench")), len(TABLE.of("VBench"))) == (8, 8)


@pytest.mark.parametrize(
    ("table", "method", "values"),
    [
        ("Table 2", "MAGI-1", [0.3090, 0.5000, 0.0243, 3.8286, 2.7225]),
        ("Table 2", "Self Forcing", [0.3716, 1.6108, 0.1549, 3.4683, 3.0798]),
        ("Table 2", "PAVDM", [1.8292, 0.9323, 0.0461, 2.8957, 1.9503]),
        ("Table 2", "FramePack", [4.3984, 5.9421, 0.0387, 1.4751, 4.2513]),
        ("Table 2", "SkyReels-V2-DF-1.3B", [0.1085, 0.3179, 0.0195, 1.2083, 0.9365]),
        ("Table 2", "BlockVid-1.3B", [0.0844, 0.2945, 0.0119, 0.9618, 0.7551]),
        ("LV-Bench comparison", "LongLive", [0.0825, 0.3016, 0.0104, 1.1452, 0.8529]),
        ("LV-Bench comparison", "WorldAttention", [0.0792, 0.2850, 0.0095, 0.9462, 0.7390]),
    ],
)
def test_drift_errors_as_printed(table: str, method: str, values: list[float]):
    assert [row(table, method).values[metric] for metric in VDE] == values


def test_what_the_paper_says_of_its_tables_holds():
    """Its abstract and section 5.2, in numbers."""
    ours, skyreels = row("Table 2", "BlockVid-1.3B").values, row("Table 2", "SkyReels-V2-DF-1.3B").values
    gains = [1 - ours[metric] / skyreels[metric] for metric in ("vde_subject", "vde_clarity")]
    assert gains == pytest.approx([0.222, 0.194], abs=5e-4)
    table_2 = [one for one in TABLE.rows if one.table == "Table 2"]
    assert all(ours[metric] == min(one.values[metric] for one in table_2) for metric in VDE)
    assert [ours[metric] for metric in ("subject_consistency", "background_consistency", "motion_smoothness")] == [
        0.9597,
        0.9588,
        0.9956,
    ]
    vbench = row("Table 3", "BlockVid-1.3B").values
    assert list(vbench.values()) == [0.9410, 0.9650, 0.9870, 0.7720, 0.5839, 0.6527]
    assert row("Table 3", "MoC").values["background_consistency"] == 0.9670
    best = {metric for metric in vbench if vbench[metric] == max(one.values[metric] for one in TABLE.of("VBench"))}
    assert set(vbench) - best == {"background_consistency"}


def test_every_metric_has_a_direction_and_is_used():
    assert {metric for one in TABLE.rows for metric in one.values} == set(TABLE.metrics)
    for metric in TABLE.metrics:
        assert TABLE.direction(metric) == ("lower" if metric.startswith("vde_") else "higher")
    with pytest.raises(InputError, match="'fid' has no published values; use one of vde_subject"):
        TABLE.direction("fid")


def test_values_are_in_their_range():
    for one in TABLE.rows:
        assert all(0 < value < (10 if metric.startswith("vde_") else 1) for metric, value in one.values.items())


def test_rows_are_quoted_and_cannot_be_changed():
    assert not any(one.measured for one in TABLE.rows)
    assert all("Quoted" in TABLE.sources[one.source].note for one in TABLE.rows)
    with pytest.raises(ValidationError, match="frozen"):
        TABLE.rows[0].measured = True  # type: ignore[assignment]
    with pytest.raises(TypeError):
        TABLE.rows[0].values["vde_subject"] = 0.0  # type: ignore[index]


def test_tables_survive_json():
    assert Published.model_validate_json(TABLE.model_dump_json()) == TABLE


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"measured": True}, "Input should be False"),
        ({"source": "rumour"}, "source 'rumour' is not among the sources"),
        ({"values": {"fid": 1.0}}, "have no direction"),
        ({"values": {}}, "at least 1"),
        ({"method": "Self Forcing"}, "twice in a table"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(change: dict[str, object], problem: str):
    document = json.loads(TABLE.model_dump_json())
    document["rows"][0] |= change
    with pytest.raises(ValidationError, match=problem):
        Published.model_validate(document)
