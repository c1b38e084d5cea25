"""Laws of the split: disjoint, complete, blind to order and to other entries, near 8:2, and fixed once written."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockvid.errors import InputError
from blockvid.lvbench import Entry, Split, split


def entry(id: str, source: str | None = None, source_id: str | None = None) -> Entry:
    segments = [{"start": 0, "end": 4, "caption": "a lamp"}]
    return Entry.parse({"id": id, "source": source, "source_id": source_id, "duration": 4, "segments": segments})


MANY = [entry(f"clip{n:05d}") for n in range(2_000)]
GOLDEN = ("clip00005", "clip00016", "clip00031", "clip00037")


def test_every_entry_is_in_one_part_and_the_share_is_near_eight_in_ten() -> None:
    made = split(MANY)
    assert sorted(made.train + made.eval) == [e.id for e in MANY]
    assert not set(made.train) & set(made.eval)
    assert 0.773 < len(made.train) / len(MANY) < 0.827, "three standard deviations"


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 5))
def test_the_order_does_not_matter(chance: random.Random, seed: int) -> None:
    shuffled = MANY[:50]
    chance.shuffle(shuffled)
    assert split(shuffled, seed) == split(MANY[:50], seed)


@settings(max_examples=30, deadline=None)
@given(st.sets(st.sampled_from(range(200))), st.sets(st.sampled_from(range(200))))
def test_adding_entries_moves_none(first: set[int], added: set[int]) -> None:
    before = split(MANY[n] for n in first)
    after = split(MANY[n] for n in first | added)
    assert set(before.train) <= set(after.train)
    assert set(before.eval) <= set(after.eval)


def test_what_was_cut_from_one_video_stays_together() -> None:
    cuts = [entry(f"v{video}_{cut}", "pier", f"video {video}") for video in range(60) for cut in range(4)]
    made = split(cuts)
    assert made.train and made.eval
    assert not {id.split("_")[0] for id in made.train} & {id.split("_")[0] for id in made.eval}


def test_a_seed_makes_another_split() -> None:
    assert split(MANY, seed=1).train != split(MANY, seed=0).train


def test_the_rule_never_changes() -> None:
    """Written down when the rule was made: a changed rule would mix what was trained on into the evaluation."""
    assert split(MANY[:40]).eval == GOLDEN


def test_the_file_carries_the_split(tmp_path: Path) -> None:
    made = split(MANY)
    made.write(tmp_path / "split.json")
    assert Split.read(tmp_path / "split.json") == made


def test_a_written_split_grows_and_never_changes(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    split(MANY[:50]).write(path)
    split(MANY[:80]).write(path)
    assert Split.read(path) == split(MANY[:80])
    with pytest.raises(InputError, match=r"is fixed, and 'clip.*' would move from train out of both parts; write to"):
        split(MANY[:50]).write(path)
    with pytest.raises(InputError, match=r"is fixed, and 'clip.*' would move from train to eval"):
        Split(rule="by hand", train=(), eval=tuple(e.id for e in MANY[:80])).write(path)
    assert Split.read(path) == split(MANY[:80])


def test_entries_get_the_part_that_the_file_says() -> None:
    made = Split(rule="by hand", train=("clip00001",), eval=("clip00000",))
    assert [e.split for e in made.assigned(MANY[:2])] == ["eval", "train"]
    with pytest.raises(InputError, match="entry 'clip00002' is in neither part of the split"):
        made.assigned(MANY[:3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is refused"),
        ('{"version": 2, "rule": "", "train": [], "eval": []}', "version is refused"),
        ('{"rule": "", "train": ["a"], "eval": ["A"]}', "id 'A' stands twice"),
        ('{"rule": "", "train": ["a/b"], "eval": []}', r"train\.0 is refused"),
        ('{"rule": "", "train": []}', "eval is refused"),
    ],
)
def test_what_is_no_split_is_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "split.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message) as raised:
        Split.read(path)
    assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)


def test_a_split_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        Split.read(tmp_path / "none.json")
