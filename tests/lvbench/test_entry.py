"""Laws of the schema: what an entry is, what is refused, and how it becomes a storyboard and comes back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from blockvid import lvbench
from blockvid.errors import InputError
from blockvid.lvbench import Entry, schema_text
from blockvid.storyboard import Shot, Storyboard

CUTS = st.lists(st.integers(1, 60_000_000), min_size=1, max_size=12)


def tiled(lengths: list[int]) -> Entry:
    """An entry whose segments last so many microseconds each and leave no gap."""
    ends = [sum(lengths[: n + 1]) / 1e6 for n in range(len(lengths))]
    segments = [
        {"start": start, "end": end, "caption": f"scene {n}"}
        for n, (start, end) in enumerate(zip([0.0, *ends], ends, strict=False))
    ]
    return Entry.parse({"id": "a", "duration": ends[-1], "segments": segments})


@settings(max_examples=50, deadline=None)
@given(CUTS)
def test_an_entry_without_gaps_is_its_storyboard(lengths: list[int]) -> None:
    entry = tiled(lengths)
    assert Entry.of(entry.storyboard(), entry.id) == entry


@settings(max_examples=50, deadline=None)
@given(CUTS)
def test_a_storyboard_of_prompts_and_times_is_its_entry(lengths: list[int]) -> None:
    shots = tuple(Shot(prompt=f"scene {n}", seconds=length / 1e6) for n, length in enumerate(lengths))
    storyboard = Storyboard(title="a", shots=shots)
    assert Entry.of(storyboard, "a").storyboard() == storyboard


def test_a_segment_is_shown_until_the_next_begins() -> None:
    segments = [{"start": 1, "end": 2, "caption": "a lamp"}, {"start": 4.5, "end": 6, "caption": "a gull"}]
    storyboard = Entry.parse({"id": "a", "duration": 8, "segments": segments}).storyboard()
    assert [(shot.prompt, shot.seconds) for shot in storyboard.shots] == [("a lamp", 4.5), ("a gull", 3.5)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=4), st.integers(1, 40))
def test_segments_are_accepted_where_they_tile_a_part_of_the_video(spans: list[tuple[int, int]], duration: int) -> None:
    """The rule, said another way: the times in the order written, with the duration, never go back."""
    times = [time for span in spans for time in span]
    lawful = [*times, duration] == sorted([*times, duration]) and all(start < end for start, end in spans)
    segments = [{"start": start, "end": end, "caption": "a lamp"} for start, end in spans]
    document = {"id": "a", "duration": duration, "segments": segments}
    if lawful:
        assert len(Entry.parse(document).segments) == len(spans)
    else:
        with pytest.raises(InputError, match="segment"):
            Entry.parse(document)


SEGMENT = {"start": 0, "end": 4, "caption": "a lamp"}
GOOD = {"id": "a", "duration": 4, "segments": [SEGMENT]}


@pytest.mark.parametrize("id", ["a", "_x", "0001", "dancetrack0001", "a-b.c_d", "A_man_opens_a_jar", "x" * 200])
def test_ids_name_files(id: str) -> None:
    assert Entry.parse(GOOD | {"id": id}).id == id


@pytest.mark.parametrize("id", ["", "a/b", "a\\b", "..", ".a", "-a", "a.", "a b", "a\n", "a:b", "ä", "a\0", "x" * 201])
def test_ids_that_cannot_name_files_are_refused(id: str) -> None:
    with pytest.raises(InputError, match=r"id .* is not safe as a file name; use letters"):
        Entry.parse(GOOD | {"id": id})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segments": [SEGMENT | {"end": 0}]}, "segment 1: ends at 0 s, not after its start 0 s"),
        ({"segments": [SEGMENT | {"end": 5}]}, "segment 1 ends at 5 s, after the video, whose duration is 4 s; cut it"),
        ({"segments": [SEGMENT, SEGMENT]}, "segment 2 starts at 0 s, before segment 1 ends at 4 s"),
        ({"segments": [SEGMENT | {"start": -1}]}, "segment 1: start -1 is refused"),
        ({"segments": [SEGMENT | {"end": float("nan")}]}, "segment 1: end nan is not a finite number"),
        ({"segments": [SEGMENT | {"end": "4"}]}, "segment 1: end '4' is not a number; give one"),
        ({"segments": [SEGMENT | {"end": True}]}, "segment 1: end True is not a number"),
        ({"segments": [SEGMENT | {"caption": " "}]}, "segment 1: caption ' ' is empty; write something"),
        ({"segments": [SEGMENT | {"caption": "a\0b"}]}, r"segment 1: caption: control character '\\x00' is not text"),
        ({"segments": [SEGMENT | {"text": "a"}]}, "segment 1: 'text' is no key"),
        ({"segments": []}, r"segments \[\] is empty; give at least one"),
        ({"segments": 4}, "segments 4 is not a list"),
        ({"class": "robot"}, "class 'robot' is refused .*'human', 'animal' or 'environment'"),
        ({"split": "test"}, "split 'test' is refused .*'train' or 'eval'"),
        ({"fps": 0}, "fps 0 is refused"),
        ({"duration": 3601}, "duration 3601 is refused"),
        ({"durations": 4}, "'durations' is no key of this form"),
    ],
)
def test_what_cannot_be_used_is_refused_by_value_rule_and_repair(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        Entry.parse(GOOD | change)


@pytest.mark.parametrize("key", ["id", "duration", "segments"])
def test_what_every_entry_needs(key: str) -> None:
    with pytest.raises(InputError, match=f"^'{key}' is missing; add it"):
        Entry.parse({name: value for name, value in GOOD.items() if name != key})


@pytest.mark.parametrize("document", [4, None, [], "a"])
def test_other_values_are_no_entries(document: object) -> None:
    with pytest.raises(InputError, match=r"^.* is not a set of keys"):
        Entry.parse(document)


def test_class_is_called_class_in_json() -> None:
    entry = Entry.parse(GOOD | {"class": "animal"})
    assert entry.object_class == "animal"
    assert entry.model_dump(mode="json", by_alias=True)["class"] == "animal"
    assert Entry.parse(GOOD | {"object_class": "animal"}) == entry


def test_the_prompt_is_the_global_one_or_the_only_caption() -> None:
    two = [SEGMENT, {"start": 4, "end": 5, "caption": "a gull"}]
    assert Entry.parse(GOOD).prompt == "a lamp"
    assert Entry.parse(GOOD | {"global_prompt": "a pier"}).prompt == "a pier"
    assert Entry.parse(GOOD | {"duration": 5, "segments": two}).prompt is None


def test_an_entry_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Entry.parse(GOOD).id = "b"


def test_the_shipped_schema_is_current() -> None:
    shipped = Path(lvbench.__file__).with_name("lvbench.schema.json").read_text(encoding="utf-8")
    assert shipped == schema_text(), "write it anew with the command at the foot of docs/lvbench.md"
    assert set(json.loads(shipped)["properties"]) == set(Entry.parse(GOOD).model_dump(by_alias=True))
