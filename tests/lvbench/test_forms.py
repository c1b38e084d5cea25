"""Laws of the forms: what is written is read again, as far as the form carries it; what is no such form is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockvid.errors import InputError
from blockvid.lvbench import CLASSES, Entry, Form, read, write
from blockvid.lvbench.forms import MAX_BYTES
from blockvid.storyboard import Storyboard

ROOT = Path(__file__).parents[2]
ALPHABET = st.characters(exclude_categories=["Cc", "Cs"])
WORDS = st.text(ALPHABET, min_size=1, max_size=30).map(lambda text: " ".join(text.split())).filter(bool)
MAYBE = st.none() | WORDS
FOLDER = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def entries(draw: st.DrawFn) -> tuple[Entry, ...]:
    ids = draw(st.lists(st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), min_size=1, max_size=4, unique=True))
    return tuple(draw(entry(id)) for id in ids)


@st.composite
def entry(draw: st.DrawFn, id: str) -> Entry:
    times = sorted(draw(st.sets(st.integers(0, 3_600_000), min_size=2, max_size=8)))
    segments = [
        {
            "start": start / 1e3,
            "end": end / 1e3,
            "caption": draw(WORDS),
            "annotators": draw(st.lists(WORDS, max_size=2)),
        }
        for start, end in zip(times[::2], times[1::2], strict=False)
    ]
    return Entry.parse(
        {
            "id": id,
            "split": draw(st.sampled_from([None, "train", "eval"])),
            "source": draw(MAYBE),
            "source_id": draw(MAYBE),
            "class": draw(st.none() | st.sampled_from(CLASSES)),
            "fps": draw(st.none() | st.floats(1, 120)),
            "duration": times[-1] / 1e3,
            "segments": segments,
            "global_prompt": draw(MAYBE),
            "dimensions": draw(st.lists(WORDS, max_size=2)),
        }
    )


def untimed(id: str, captions: list[str], seconds: float, rest: dict[str, Any] | None = None) -> Entry:
    segments = [{"start": n * seconds, "end": (n + 1) * seconds, "caption": text} for n, text in enumerate(captions)]
    return Entry.parse({"id": id, "duration": len(captions) * seconds, "segments": segments} | (rest or {}))


def again(found: tuple[Entry, ...], path: Path, form: Form, seconds: float = 10.0) -> tuple[Entry, ...]:
    write(found, path, form)
    assert read(path, form, seconds) == read(path, "auto", seconds), "the form is told by ending and content"
    return read(path, form, seconds)


@FOLDER
@given(entries())
def test_the_own_form_carries_everything(tmp_path: Path, found: tuple[Entry, ...]) -> None:
    assert again(found, tmp_path / "bench.jsonl", "lvbench") == found


@FOLDER
@given(st.lists(st.tuples(WORDS, st.integers(1, 9)), min_size=1, max_size=6))
def test_the_papers_form_carries_ids_captions_and_whole_seconds(tmp_path: Path, shots: list[tuple[str, int]]) -> None:
    storyboard = Storyboard.model_validate({"shots": [{"prompt": p, "seconds": s} for p, s in shots]})
    found = (Entry.of(storyboard, "lamp"),)
    assert again(found, tmp_path / "captions", "captions") == found


@FOLDER
@given(st.lists(st.lists(WORDS, min_size=1, max_size=4), min_size=1, max_size=4), st.sampled_from([2.5, 5.0, 10.0]))
def test_interactive_prompts_carry_the_captions(tmp_path: Path, scripts: list[list[str]], seconds: float) -> None:
    found = tuple(untimed(f"long_{n:04d}", script, seconds) for n, script in enumerate(scripts, 1))
    assert again(found, tmp_path / "long.jsonl", "prompts", seconds) == found


@FOLDER
@given(st.lists(WORDS.filter(lambda text: text[0] not in "#\ufeff"), min_size=1, max_size=4))
def test_plain_text_carries_one_prompt_a_video(tmp_path: Path, prompts: list[str]) -> None:
    found = tuple(untimed(f"movie_{n:04d}", [prompt], 5.0) for n, prompt in enumerate(prompts, 1))
    assert again(found, tmp_path / "movie.txt", "text", 5.0) == found


@FOLDER
@given(st.lists(st.tuples(WORDS, st.lists(WORDS, max_size=2)), min_size=1, max_size=4))
def test_vbench_carries_prompts_and_dimensions(tmp_path: Path, items: list[tuple[str, list[str]]]) -> None:
    found = tuple(untimed(f"v_{n:04d}", [p], 5.0, {"dimensions": d}) for n, (p, d) in enumerate(items, 1))
    assert again(found, tmp_path / "v.json", "vbench", 5.0) == found


@FOLDER
@given(st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)), min_size=1, max_size=4))
def test_storyeval_carries_ids_prompts_events_and_class(tmp_path: Path, items: list[tuple[str, list[str]]]) -> None:
    found = tuple(
        untimed(f"video_{n}", events, 2.0, {"global_prompt": prompt, "class": CLASSES[n % 3]})
        for n, (prompt, events) in enumerate(items)
    )
    assert again(found, tmp_path / "stories.json", "storyeval", 2.0) == found


# Reading what others write

PASTED = '{"captions": ["A lamp glows (00s - 03s).", “A gull lands(04s–07s).”, "Rain falls (08s—12s)."]}'


def test_the_papers_disorder_is_read_as_half_open_seconds(tmp_path: Path) -> None:
    path = tmp_path / "at the pier.json"
    path.write_text(PASTED, encoding="utf-8")
    (found,) = read(path)
    assert found.id == "at_the_pier"
    assert [(s.start, s.end, s.caption) for s in found.segments] == [
        (0, 4, "A lamp glows."),
        (4, 8, "A gull lands."),
        (8, 13, "Rain falls."),
    ]
    assert found.duration == 13


def test_what_the_peers_add_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "all.json"
    item = {"prompt_en": "a lamp", "dimension": ["color"], "auxiliary_info": {"color": {"color": "red"}}}
    path.write_text(json.dumps([item]), encoding="utf-8")
    assert [(e.prompt, e.dimensions) for e in read(path)] == [("a lamp", ("color",))]
    story = {"a_lamp.mp4": {"prompt": "a lamp", "event_list": ["it glows"], "class": ["hard", "animal", "3_events"]}}
    path.write_text(json.dumps(story), encoding="utf-8")
    assert [(e.id, e.object_class) for e in read(path)] == [("a_lamp", "animal")]


def test_comments_and_blank_lines_are_no_prompts(tmp_path: Path) -> None:
    path = tmp_path / "m.txt"
    path.write_text("# a pier\r\n\r\n  A lamp.  \r\nA gull.\r\n", encoding="utf-8")
    assert [(e.id, e.prompt) for e in read(path)] == [("m_0001", "A lamp."), ("m_0002", "A gull.")]


def test_a_video_that_only_captions_describe_has_no_one_prompt(tmp_path: Path) -> None:
    found = (untimed("pier", ["A lamp.", "A gull."], 4.0),)
    for form in ("text", "vbench", "storyeval"):
        with pytest.raises(InputError, match="pier: 2 captions are not one prompt; give it a global_prompt"):
            write(found, tmp_path / "x", form)
    assert list(tmp_path.iterdir()) == []


# Refusals

LINE = '{"id": "a", "duration": 4, "segments": [{"start": 0, "end": 4, "caption": "a lamp"}]}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("b.jsonl", "", "holds no entries; write at least one"),
        ("b.jsonl", LINE + "\n" + LINE, "line 3: id 'a' is taken by line 1, whatever its case; rename one"),
        ("b.jsonl", LINE + LINE.replace('"a"', '"A"'), "line 2: id 'A' is taken by line 1"),
        ("b.jsonl", LINE + "{", "line 2, column 2: '{' is not JSON .*; correct it there"),
        ("b.jsonl", LINE + '{"id": "b", "id": "c"}', "line 2: key 'id' stands twice in one object; keep one"),
        ("b.jsonl", LINE.replace("4,", "NaN,", 1), "line 1: NaN is not a JSON number; give a finite one"),
        ("b.jsonl", LINE + "9" * 5000, "line 2: "),
        ("b.jsonl", LINE + "[" * 100_000, "line 2: is nested too deeply; flatten it"),
        ("b.jsonl", LINE + "[]", r"line 2: \[\] is not a set of keys"),
        ("b.jsonl", LINE + LINE.replace('"a"', '"b/c"'), "line 2: id 'b/c' is not safe as a file name"),
        ("b.jsonl", LINE + LINE.replace('"a"', '"b"').replace("4, ", "3, ", 1), "line 2: segment 1 ends at 4 s, after"),
        ("p.jsonl", '{"prompts": ["a"]}\n{"prompts": []}', r"line 2: \[\] is not a list of prompts"),
        ("p.jsonl", '{"prompts": ["a"]}\n{"prompts": "b"}', "line 2: 'b' is not a list of prompts"),
        ("p.jsonl", '{"prompts": ["a", 4]}', "line 1: segment 2: caption 4 is not text; put it in quotes"),
        ("p.jsonl", '{"prompts": ["a"]}\n{"captions": ["a (4s-7s)"]}', "line 2: caption 1 .* does not begin at 0 s"),
        ("p.jsonl", json.dumps({"prompts": ["a"] * 361}), "line 1: 361 prompts of 10 s exceed 3600 s; shorten or"),
        ("c.json", '{"captions": ["a (0s-3s)", "b (5s-8s)"]}', "caption 2 .* leaves a gap after caption 1"),
        ("v.json", '[{"prompt_en": "a"}, {"prompt": "b"}]', "item 2: {'prompt': 'b'} has no key 'prompt_en'; add it"),
        ("v.json", '[{"prompt_en": "a", "dimension": "color"}]', "item 1: dimensions 'color' is not a list"),
        ("s.json", '{"a.mp4": {"prompt": "b"}}', "key 'a.mp4': .* has no key 'event_list'"),
        ("s.json", "4", "holds 4, not keys"),
        ("m.txt", "a\nb\0c\n", r"line 2: segment 1: caption: control character '\\x00' is not text"),
        ("m.csv", "a", r"ending '\.csv' is no benchmark form; use \.jsonl, \.json or \.txt, or name the form"),
    ],
)
def test_refusals_are_one_line_with_file_place_and_repair(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: {message}") as raised:
        read(path)
    assert "\n" not in str(raised.value)


def test_bytes_that_are_no_text_are_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "m.txt"
    path.write_bytes(b"a lamp\na g\xfcll\n")
    with pytest.raises(InputError, match="line 2: byte 0xfc is not UTF-8; save"):
        read(path)


def test_what_is_not_there_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl: cannot be read \(No such file"):
        read(tmp_path / "none.jsonl")
    with (tmp_path / "huge.jsonl").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(InputError, match="is larger than 100 MB"):
        read(tmp_path / "huge.jsonl")
    with pytest.raises(InputError, match="is a folder, and form text is a file"):
        read(tmp_path, "text")
    with pytest.raises(InputError, match="0 seconds per prompt is not above 0"):
        read(tmp_path / "none.txt", "text", 0)


def test_captions_count_whole_seconds_from_zero(tmp_path: Path) -> None:
    whole = untimed("a", ["A lamp.", "A gull."], 2.0)
    half = untimed("a", ["A lamp.", "A gull."], 2.5)
    late = whole.model_copy(update={"segments": whole.segments[1:]})
    for found, message in ((half, "is not in whole seconds"), (late, r"leaves a gap from 0 s")):
        with pytest.raises(InputError, match=f"a: segment 1 .* {message}.*; use form lvbench"):
            write([found], tmp_path / "x", "captions")
    (tmp_path / "b.json").touch()
    with pytest.raises(InputError, match=r"holds b\.json, which would be read as one more entry; use an empty folder"):
        write([whole], tmp_path, "captions")


def test_writing_refuses_what_could_not_be_read(tmp_path: Path) -> None:
    one = untimed("a", ["# a lamp"], 4.0)
    with pytest.raises(InputError, match="begins with '#', which text does not keep"):
        write([one], tmp_path / "m.txt", "text")
    with pytest.raises(InputError, match="entry 2: id 'a' is taken by entry 1"):
        write([one, one], tmp_path / "b.jsonl")
    with pytest.raises(InputError, match="holds no entries"):
        write([], tmp_path / "b.jsonl")
    with pytest.raises(InputError, match="choose a folder that exists and is writable"):
        write([one], tmp_path / "no" / "b.jsonl")


# What is shipped


def test_the_example_is_read_generated_and_split() -> None:
    found = read(ROOT / "examples" / "bench.jsonl")
    assert len(found) == 3
    assert {e.object_class for e in found} == set(CLASSES)
    assert all(e.storyboard().seconds == e.duration for e in found)


SNIPPETS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "docs" / "lvbench.md").read_text(encoding="utf-8"), re.M | re.S)
ENDINGS = {"json": ".json", "jsonl": ".jsonl", "text": ".txt"}


@pytest.mark.parametrize(("language", "text"), [snippet for snippet in SNIPPETS if snippet[0] in ENDINGS])
def test_the_documents_benchmarks_are_read(tmp_path: Path, language: str, text: str) -> None:
    path = tmp_path / f"bench{ENDINGS[language]}"
    path.write_text(text, encoding="utf-8")
    assert all("lamp" in e.segments[0].caption.lower() for e in read(path))


def test_the_documents_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "generated").mkdir()
    monkeypatch.chdir(tmp_path)
    blocks = [text for language, text in SNIPPETS if language == "python"]
    assert blocks
    for block in blocks:
        exec(compile(block, "docs/lvbench.md", "exec"), {})
