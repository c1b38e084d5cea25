"""Laws of finding generations: every video and every entry is accounted for once, and no guess is made."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockvid.errors import InputError
from blockvid.lvbench import Entry, find_generations


def entry(id: str, prompt: str) -> Entry:
    return Entry.parse({"id": id, "duration": 4, "segments": [{"start": 0, "end": 4, "caption": prompt}]})


LAMP, GULL = entry("lamp", "A lamp, lit."), entry("gull", "A gull’s café")


def folder(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).touch()
    return root


def test_the_names_in_use_are_matched_in_order_of_samples(tmp_path: Path) -> None:
    names = ["lamp-10.mp4", "lamp-2.mp4", "lamp.MP4", "A gull’s cafe\u0301-1.mp4", "gull-0.mp4"]
    result = find_generations(folder(tmp_path, names), [LAMP, GULL])
    assert [path.name for path in result.found["lamp"]] == ["lamp.MP4", "lamp-2.mp4", "lamp-10.mp4"]
    assert [path.name for path in result.found["gull"]] == ["gull-0.mp4", "A gull’s cafe\u0301-1.mp4"]
    assert (result.missing, result.extra, result.ambiguous) == ((), (), {})


def test_what_is_missing_and_what_is_extra(tmp_path: Path) -> None:
    names = ["lamp.mp4", "lamp2.mp4", ".gull.mp4", "gull.mp4.part", "gull.txt", "Lamp-1.mp4", "lamp-x.mp4"]
    (tmp_path / "gull-1.mp4").mkdir()
    result = find_generations(folder(tmp_path, names), [LAMP, GULL])
    assert result.missing == ("gull",)
    assert [path.name for path in result.extra] == ["Lamp-1.mp4", "lamp-x.mp4", "lamp2.mp4"]


def test_a_name_that_could_be_two_entries_is_nobodys(tmp_path: Path) -> None:
    twin, numbered = entry("twin", "A lamp, lit."), entry("lamp-1", "rain")
    names = ["A lamp, lit.-0.mp4", "lamp-1.mp4", "twin.mp4"]
    result = find_generations(folder(tmp_path, names), [LAMP, twin, numbered])
    assert {path.name: ids for path, ids in result.ambiguous.items()} == {
        "A lamp, lit.-0.mp4": ("lamp", "twin"),
        "lamp-1.mp4": ("lamp", "lamp-1"),
    }
    assert result.missing == ("lamp", "lamp-1")


def test_one_sample_twice_is_not_chosen_from(tmp_path: Path) -> None:
    result = find_generations(folder(tmp_path, ["lamp.mp4", "lamp-0.mp4", "lamp-1.mp4"]), [LAMP])
    assert {path.name for path in result.ambiguous} == {"lamp.mp4", "lamp-0.mp4"}
    assert [path.name for path in result.found["lamp"]] == ["lamp-1.mp4"]


NAMES = [f"{stem}{number}.mp4" for stem in ("lamp", "gull", "A lamp, lit.", "x") for number in ("", "-0", "-1", "-1-0")]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.sampled_from(NAMES)))
def test_every_video_and_entry_is_accounted_for_once(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    root = folder(tmp_path_factory.mktemp("videos"), sorted(names))
    result = find_generations(root, [LAMP, GULL, entry("lamp-1", "rain")])
    matched = [path for paths in result.found.values() for path in paths]
    assert sorted(path.name for path in [*matched, *result.extra, *result.ambiguous]) == sorted(names)
    assert sorted([*result.found, *result.missing]) == ["gull", "lamp", "lamp-1"]


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none cannot be listed .*; name a folder of videos"):
        find_generations(tmp_path / "none", [LAMP])
