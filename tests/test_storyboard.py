"""Laws of the storyboard: what is read, what is refused, and how it is cut into chunks."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from blockvid import storyboard as module
from blockvid.errors import InputError
from blockvid.geometry import Geometry
from blockvid.storyboard import MAX_BYTES, MAX_PROMPT, MAX_SECONDS, MAX_SHOTS, Chunk, Form, Shot, Storyboard

ROOT = Path(__file__).parent.parent
EIGHT = Geometry(width=128, height=128, fps=8, chunk_frames=8)


def lengths(storyboard: Storyboard) -> list[float]:
    return [shot.seconds for shot in storyboard.shots]


def prompts(storyboard: Storyboard) -> list[str]:
    return [shot.prompt for shot in storyboard.shots]


# Chunks


@st.composite
def cuts(draw: st.DrawFn) -> tuple[Storyboard, Geometry]:
    geometry = Geometry(
        width=64,
        height=64,
        fps=draw(st.sampled_from([8, 12, 16, 23.976, 24, 25, 29.97, 30])),
        chunk_frames=draw(st.integers(1, 21)),
        temporal_stride=draw(st.sampled_from([1, 2, 4, 8])),
    )
    latent = geometry.temporal_stride / geometry.fps
    seconds = st.floats(latent * 1.0001, 20) | st.integers(1, 20) | st.sampled_from([1.25, 2.3, 4.0, 5.55])
    drawn = draw(st.lists(seconds, min_size=1, max_size=25))
    return Storyboard(shots=tuple(Shot(prompt=f"scene {n}", seconds=s) for n, s in enumerate(drawn))), geometry


@given(cuts())
def test_chunks_tile_the_video(case: tuple[Storyboard, Geometry]) -> None:
    storyboard, geometry = case
    chunks = storyboard.chunks(geometry)
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert chunks[0].start == 0
    assert all(left.stop == right.start for left, right in itertools.pairwise(chunks))
    assert all(chunk.frames >= 1 for chunk in chunks)
    assert chunks[0].frames <= geometry.chunk_frames + 1
    assert all(chunk.frames <= geometry.chunk_frames for chunk in chunks[1:])


@given(cuts())
def test_every_shot_is_shown_in_order(case: tuple[Storyboard, Geometry]) -> None:
    storyboard, geometry = case
    chunks = storyboard.chunks(geometry)
    order = [chunk.shot for chunk in chunks]
    assert order == sorted(order)
    assert set(order) == set(range(len(storyboard.shots)))
    assert all(chunk.prompt == f"scene {chunk.shot}" for chunk in chunks)


@given(cuts())
def test_the_chunks_decode_to_the_whole_video_and_hardly_more(case: tuple[Storyboard, Geometry]) -> None:
    storyboard, geometry = case
    frames = storyboard.frames(geometry)
    assert abs(frames - storyboard.seconds * geometry.fps) <= 0.5001
    decoded = geometry.pixel_frames(storyboard.chunks(geometry)[-1].stop)
    assert frames <= decoded <= frames + geometry.temporal_stride


@given(cuts())
def test_cuts_lie_within_half_a_latent_frame_of_the_storyboard(case: tuple[Storyboard, Geometry]) -> None:
    storyboard, geometry = case
    first_of = {chunk.shot: chunk for chunk in reversed(storyboard.chunks(geometry))}
    elapsed = 0.0
    for number, shot in enumerate(storyboard.shots):
        if number:
            wanted = 1 + elapsed * geometry.fps / geometry.temporal_stride
            assert abs(first_of[number].start - wanted) <= 0.5001
        elapsed += shot.seconds


@given(cuts())
def test_pieces_of_a_shot_are_near_equal(case: tuple[Storyboard, Geometry]) -> None:
    storyboard, geometry = case
    pieces: dict[int, list[int]] = {}
    for chunk in storyboard.chunks(geometry):
        pieces.setdefault(chunk.shot, []).append(chunk.frames - (chunk.index == 0))
    assert all(max(frames) - min(frames) <= 1 for frames in pieces.values())


@given(cuts(), st.integers(1, 25))
def test_a_chunk_does_not_depend_on_later_shots(case: tuple[Storyboard, Geometry], kept: int) -> None:
    storyboard, geometry = case
    start = storyboard.model_copy(update={"shots": storyboard.shots[:kept]})
    unaffected = [chunk for chunk in storyboard.chunks(geometry) if chunk.shot < len(start.shots) - 1]
    assert list(start.chunks(geometry)[: len(unaffected)]) == unaffected


def test_a_minute_of_four_second_shots_is_one_chunk_a_shot() -> None:
    storyboard = Storyboard(shots=tuple(Shot(prompt=f"scene {n}") for n in range(15)))
    assert storyboard.seconds == 60
    assert storyboard.frames(EIGHT) == 480
    assert [chunk.frames for chunk in storyboard.chunks(EIGHT)] == [9] + [8] * 14
    assert storyboard.chunks(EIGHT)[-1].stop == 121


def test_chunks_carry_what_their_shot_says() -> None:
    image = Path("gull.png")
    plain = Shot(prompt="a pier", seconds=1)
    storyboard = Storyboard(shots=(plain, Shot(prompt="a gull", seconds=8, seed=7, guidance=2.5, image=image)))
    assert storyboard.chunks(EIGHT) == (
        Chunk(index=0, shot=0, start=0, stop=3, prompt="a pier"),
        Chunk(index=1, shot=1, start=3, stop=11, prompt="a gull", seed=7, guidance=2.5, image=image),
        Chunk(index=2, shot=1, start=11, stop=19, prompt="a gull", seed=7, guidance=2.5),
    )


def test_equal_shots_on_ties_all_get_frames() -> None:
    storyboard = Storyboard(shots=(Shot(prompt="a", seconds=0.75), *[Shot(prompt="b", seconds=0.5)] * 9))
    assert {chunk.frames for chunk in storyboard.chunks(EIGHT)[1:]} == {1}


def test_a_sixth_of_a_second_is_one_latent_frame_at_24_fps() -> None:
    geometry = Geometry(width=64, height=64, fps=24, chunk_frames=1)
    storyboard = Storyboard(shots=tuple(Shot(prompt="a", seconds=geometry.chunk_seconds) for _ in range(60)))
    assert len(storyboard.chunks(geometry)) == 60


def test_a_shot_shorter_than_a_latent_frame_is_refused() -> None:
    storyboard = Storyboard(shots=(Shot(prompt="a"), Shot(prompt="b", seconds=0.3)))
    with pytest.raises(InputError, match=r"shot 2 lasts 0\.3 s, shorter than one latent frame \(0\.5 s at 8 fps\)"):
        storyboard.chunks(EIGHT)


# Captions with time stamps


def captions(*items: str) -> str:
    return json.dumps({"captions": items}, ensure_ascii=False)


def test_both_ends_of_a_stamp_are_included() -> None:
    storyboard = Storyboard.parse(captions("A lamp glows (00s - 03s).", "A gull lands (04s - 08s)."), "json")
    assert lengths(storyboard) == [4, 5]
    assert prompts(storyboard) == ["A lamp glows.", "A gull lands."]


@pytest.mark.parametrize(
    "caption",
    [
        "A lamp glows (00s - 03s).",
        "A lamp glows (00s – 03s).",
        "A lamp glows (00s—03s).",
        "A lamp glows (0s-3s).",
        "A lamp glows(00s−03s).",
        "A lamp glows ( 00 s - 03 s ).",
        "A lamp glows. (00s - 03s)",
        "A lamp glows. (00s - 03s).",
        "A lamp glows (00-03).",
        "A lamp glows (00:00 - 00:03).",
        "A lamp glows (0:00–0:03).",
        "A lamp glows (00:00:00–00:00:03).",
        "A lamp glows [0 sec to 3 seconds].",
        "(00s - 03s) A lamp glows.",
        "(00s - 03s): A lamp glows.",
        "“A lamp glows (00s–03s).”",
        "  A lamp\n glows   (00s - 03s). ",
    ],
)
def test_every_spelling_of_a_stamp_is_read_and_removed(caption: str) -> None:
    storyboard = Storyboard.parse(captions(caption), "json")
    assert prompts(storyboard) == ["A lamp glows."]
    assert lengths(storyboard) == [4]


def test_minutes_are_sixty_seconds() -> None:
    assert lengths(Storyboard.parse(captions("a (0:00-0:59)", "b (1:00-2:04)"), "json")) == [60, 65]


@pytest.mark.parametrize("caption", ["A dog (a beagle) sits.", "Two (2) dogs sit.", "“Sit”, she says, “sit”", "(Dawn)"])
def test_other_brackets_and_quotes_stay(caption: str) -> None:
    assert prompts(Storyboard.parse(captions(caption), "json")) == [caption]


def test_captions_without_stamps_last_four_seconds() -> None:
    assert lengths(Storyboard.parse(captions("A lamp.", "A gull."), "json")) == [4, 4]


DISORDER = [
    '{"captions": ["A lamp, lit (00s - 03s).", “A gull lands (04s–07s).”, "Rain falls (08s - 11s)."]}',
    '{"captions": ["A lamp, lit (00s - 03s).", "A gull lands (04s - 07s).", "Rain falls (08s - 11s).",]}',
    '{"captions": ["A lamp, lit (00s - 03s).",\n\n“A gull lands (04s—07s).”,\n“Rain falls (08s–11s).”,\n],\n}\n',
    '"captions": [ "A lamp, lit (00s - 03s).", "A gull lands (04s - 07s).", "Rain falls (08s - 11s)."]',
    '{“captions”: [“A lamp, lit (00s–03s).”,”A gull lands (04s–07s).”,"Rain falls (08s–11s).”]}',
    '{"captions": ["A lamp, lit (00s - 03s).",“A gull lands (04s–07s).” , "Rain falls (08s - 11s)."] , }',
]


@pytest.mark.parametrize("text", DISORDER)
def test_pasted_captions_are_understood(text: str) -> None:
    storyboard = Storyboard.parse(text, "json")
    assert prompts(storyboard) == ["A lamp, lit.", "A gull lands.", "Rain falls."]
    assert lengths(storyboard) == [4, 4, 4]


def test_quotes_inside_pasted_captions_stay() -> None:
    text = r'{"captions": ["A sign says \"open\", \u00e9 lit", “He says “hello”, and leaves”, "the car’s ’A1’ plate",]}'
    assert prompts(Storyboard.parse(text, "json")) == [
        'A sign says "open", é lit',
        "He says “hello”, and leaves",
        "the car’s ’A1’ plate",
    ]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            ["a (0s-3s)", "b (5s-8s)"],
            r"caption 2 \(5s - 8s\) leaves a gap after caption 1 \(0s - 3s\).*begin it at 4 s",
        ),
        (["a (0s-3s)", "b (3s-7s)"], r"caption 2 \(3s - 7s\) overlaps caption 1 \(0s - 3s\).*begin it at 4 s"),
        (["a (0s-3s)", "b (4s-7s)", "c (0s-3s)"], r"caption 3 \(0s - 3s\) overlaps caption 2"),
        (["a (3s-0s)"], r"caption 1 \(3s - 0s\) ends before it begins; swap"),
        (["a (4s-7s)"], r"caption 1 \(4s - 7s\) is the first but does not begin at 0 s"),
        (["a (0s-3s)", "b"], "caption 2 has no time stamp but others have; give all"),
        (["a (0.0s-3.5s)"], r"caption 1: time 0\.0 is not a whole second.*write shots with seconds"),
        (["(0s-3s)."], "shot 1: prompt '' is empty; say what"),
    ],
)
def test_impossible_times_are_refused_by_caption(items: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Storyboard.parse(captions(*items), "json")


# The other forms

OWN = Storyboard(title="Pier", shots=(Shot(prompt="A lamp.", seconds=2.5, seed=7), Shot(prompt="A gull.", guidance=3)))


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("json", OWN.model_dump_json()),
        ("json", OWN.model_dump_json(exclude_defaults=True)),
        ("yaml", OWN.model_dump_json()),
        (
            "toml",
            'title="Pier"\n[[shots]]\nprompt="A lamp."\nseconds=2.5\nseed=7\n[[shots]]\nprompt="A gull."\nguidance=3',
        ),
        ("yaml", "title: Pier\nshots:\n- {prompt: A lamp., seconds: 2.5, seed: 7}\n- {prompt: A gull., guidance: 3}"),
    ],
)
def test_the_own_form_is_the_same_in_json_toml_and_yaml(form: Form, text: str) -> None:
    assert Storyboard.parse(text, form) == OWN


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("text", "# pier\nA lamp.\r\n\n   \n  A gull.  \n"),
        ("jsonl", '{"prompts": ["A lamp.", "A gull."]}\n'),
        ("json", '{"prompts": ["A lamp.", "A gull."]}'),
        ("toml", 'captions = ["A lamp.", "A gull."]'),
        ("yaml", "captions: [A lamp., A gull.]"),
        ("text", "A lamp (00s - 03s).\nA gull (04s - 07s)."),
    ],
)
def test_bare_prompts_become_four_second_shots(form: Form, text: str) -> None:
    assert Storyboard.parse(text, form).shots == (Shot(prompt="A lamp."), Shot(prompt="A gull."))


def test_titles_may_stand_beside_captions() -> None:
    storyboard = Storyboard.parse('{"title": "Pier", "negative_prompt": "blur", "captions": ["a"]}', "json")
    assert (storyboard.title, storyboard.negative_prompt) == ("Pier", "blur")


def test_index_picks_a_line_of_json_lines() -> None:
    text = '{"prompts": ["a"]}\n\n{"prompts": ["b"]}\nnot json'
    assert prompts(Storyboard.parse(text, "jsonl")) == ["a"]
    assert prompts(Storyboard.parse(text, "jsonl", index=1)) == ["b"]
    with pytest.raises(InputError, match="line 4: is not valid JSON"):
        Storyboard.parse(text, "jsonl", index=2)
    for index in (3, -1):
        with pytest.raises(InputError, match=rf"index {index} is out of range, .* 3 storyboard\(s\); use 0 to 2"):
            Storyboard.parse(text, "jsonl", index=index)
    with pytest.raises(InputError, match="index 1 asks for another storyboard, but form text holds one; use 0"):
        Storyboard.parse("a", "text", index=1)


def test_lines_of_a_prompt_are_joined() -> None:
    assert prompts(Storyboard.parse("shots:\n- prompt: |\n    A lamp\n    glows.\n", "yaml")) == ["A lamp glows."]


# Files


@pytest.mark.parametrize("ending", [".json", ".JSON", ".yaml", ".yml"])
def test_the_ending_chooses_the_form(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"board{ending}"
    path.write_text(OWN.model_dump_json(), encoding="utf-8")
    assert Storyboard.read(path) == Storyboard.read(str(path)) == OWN


def test_a_byte_order_mark_is_no_prompt(tmp_path: Path) -> None:
    path = tmp_path / "board.txt"
    path.write_bytes(b"\xef\xbb\xbfA lamp.\r\n")
    assert prompts(Storyboard.read(path)) == ["A lamp."]


def test_images_count_from_the_storyboards_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / "first.png").touch()
    (tmp_path / "anchor.png").touch()
    text = 'image = "first.png"\n[[shots]]\nprompt = "a"\n[[shots]]\nprompt = "b"\nimage = "../anchor.png"'
    (tmp_path / "boards" / "board.toml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    storyboard = Storyboard.read("boards/board.toml")
    assert storyboard.image == (tmp_path / "boards" / "first.png").resolve()
    assert storyboard.shots[1].image == (tmp_path / "anchor.png").resolve()


def write(name: str, content: bytes | str) -> Callable[[Path], Path]:
    def written(folder: Path) -> Path:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder / name

    return written


BAD_FILES = [
    (lambda folder: folder / "none.toml", "no such file; check the path"),
    (lambda folder: folder, "is a folder, not a storyboard; name a file in it"),
    (lambda folder: folder / ("x" * 300 + ".toml"), "cannot be reached"),
    (write("board", "a"), "ending '' is no storyboard form; use one of .json"),
    (write("board.docx", "a"), "ending '.docx' is no storyboard form"),
    (write("board.txt", bytes(range(256))), "is binary or UTF-16"),
    (write("board.json", "A lamp.".encode("utf-16")), "save the storyboard as UTF-8"),
    (write("board.txt", b"caf\xe9 by night"), "byte 0xe9 at offset 3 is not UTF-8; save the file as UTF-8"),
    (write("board.txt", b"a" * (MAX_BYTES + 1)), "is larger than 10 MB"),
    (write("board.json", ""), "the storyboard is empty; write at least one prompt"),
    (write("board.txt", " \n\n"), "the storyboard is empty"),
    (write("board.txt", "# nothing yet\n"), "the storyboard has no shots; write at least one"),
    (write("board.yaml", "image: none.png\nshots: [{prompt: a}]"), "image none.png is no file; its path counts from"),
    (write("board.yaml", "shots: [{prompt: a, image: no.png}]"), "shot 1: image no.png is no file"),
    (write("board.yaml", "image: ''\nshots: [{prompt: a}]"), "is no file"),
]


@pytest.mark.parametrize(("make", "message"), BAD_FILES)
def test_bad_files_are_refused_in_one_line_that_names_them(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    path = make(tmp_path)
    with pytest.raises(InputError) as refusal:
        Storyboard.read(path)
    text = str(refusal.value)
    assert text.startswith(f"{path}: ")
    assert message in text
    assert "\n" not in text
    assert refusal.value.__suppress_context__


BAD_DOCUMENTS: list[tuple[Form, str, str]] = [
    ("json", "{", "is not valid JSON: Expecting property name"),
    ("json", '{"shots": [{"prompt": “a”}]}', "is not valid JSON"),
    ("json", '{"captions": ["a" "b"]}', "caption 1 'a\" \"b' has a stray quote or backslash; put a comma"),
    ("json", '{"captions": ["a",\n“b]}', "caption 2 (line 2) is not a quoted text"),
    ("json", '{"captions": ["a",], "fps": 8}', "caption 2 (line 1)"),
    ("json", "[" * 100_000, "is nested too deeply to be a storyboard in JSON"),
    ("json", '{"n": ' + "1" * 5000 + "}", "is not valid JSON: Exceeds the limit"),
    ("json", '["a"]', "holds ['a'], not a set of keys; write shots, captions or prompts"),
    ("json", "{}", "has no shots; write shots, captions or prompts"),
    ("json", '{"captions": ["a"], "shots": []}', "has shots and captions, of which only one"),
    ("json", '{"captions": "a"}', "captions 'a' is not a list"),
    ("json", '{"captions": ["a", 3]}', "caption 2 is 3, not text; put it in quotes"),
    ("jsonl", '{"prompts": [null]}', "prompt 1 is None, not text"),
    ("json", '{"captions": []}', "the storyboard has no shots"),
    ("json", '{"captions": ["a"], "fps": 8}', "unknown key 'fps'; the keys are title,"),
    ("json", '{"caption": ["a"]}', "unknown key 'caption'; did you mean 'captions'?"),
    ("json", r'{"captions": ["\ud800"]}', "shot 1: prompt '\\ud800' is not valid Unicode"),
    ("json", r'{"captions": ["a\u0007"]}', r"shot 1: prompt: control character '\x07' is not text; remove it"),
    ("toml", "shots", "is not valid TOML"),
    ("toml", '[[shots]]\npromt = "a"', "shot 1: unknown key 'promt'; did you mean 'prompt'?"),
    ("toml", '[[shot]]\nprompt = "a"', "unknown key 'shot'; did you mean 'shots'?"),
    ("toml", '[[shots]]\nprompt = "a"\nduration = 3', "shot 1: unknown key 'duration'; the keys are prompt, seconds"),
    ("yaml", "shots: [", "is not valid YAML"),
    ("yaml", "when: 2001-13-45", "is not valid YAML: month"),
    ("yaml", "shots: &loop [*loop]", "is not a set of keys; write it with prompt"),
    ("yaml", "shots: [{prompt: a}]\n3: x", "unknown key '3'"),
    ("yaml", "shots: {prompt: a}", "is not a list; write a list of shots"),
    ("yaml", "shots: []", "the storyboard has no shots"),
    ("yaml", "shots: [a lamp]", "shot 1: 'a lamp' is not a set of keys; write it with prompt and seconds"),
    ("yaml", "shots: [{prompt: a}, {seconds: 4}]", "shot 2: prompt is missing; add it"),
    ("yaml", "shots: [{prompt: ' '}]", "shot 1: prompt ' ' is empty; say what the shot shows"),
    ("yaml", "shots: [{prompt: yes}]", "shot 1: prompt True is not text; put it in quotes"),
    ("yaml", "shots: [{prompt: a, seconds: 0}]", "shot 1: seconds 0 is not above 0; give a larger"),
    ("yaml", "shots: [{prompt: a, seconds: -4}]", "shot 1: seconds -4 is not above 0"),
    ("yaml", "shots: [{prompt: a, seconds: .nan}]", "shot 1: seconds nan is not a finite number"),
    ("yaml", "shots: [{prompt: a, seconds: .inf}]", "shot 1: seconds inf is not a finite number"),
    ("json", '{"shots": [{"prompt": "a", "seconds": NaN}]}', "shot 1: seconds nan is not a finite number"),
    ("yaml", "shots: [{prompt: a, seconds: '4'}]", "shot 1: seconds '4' is not a number"),
    ("yaml", "shots: [{prompt: a, seconds: true}]", "shot 1: seconds True is not a number"),
    ("yaml", "shots: [{prompt: a, seconds: 4000}]", "shot 1: seconds 4000 is above the limit 3600"),
    ("yaml", "shots: [{prompt: a, seed: 1.5}]", "shot 1: seed 1.5 is not a whole number"),
    ("yaml", "shots: [{prompt: a, seed: -1}]", "shot 1: seed -1 is below 0; give at least 0"),
    ("yaml", "shots: [{prompt: a, guidance: .inf}]", "shot 1: guidance inf is not a finite number"),
    ("yaml", "shots: [{prompt: a, image: 5}]", "shot 1: image 5 is not a path"),
    ("yaml", "title: [a]\nshots: [{prompt: a}]", "title ['a'] is not text"),
    ("yaml", "image: a.png\nshots: [{prompt: a, image: b.png}]", "both claim the first frame; keep one"),
    ("text", "x" * (MAX_PROMPT + 1), f"is longer than {MAX_PROMPT} characters; shorten it"),
    ("text", "a lamp\n" * 10_000, f"10000 shots are over the limit of {MAX_SHOTS}; split the storyboard"),
    (
        "text",
        "a lamp\n" * MAX_SHOTS,
        f"the shots last 4000 s together, the limit is {MAX_SECONDS} s; split the storyboard",
    ),
]


@pytest.mark.parametrize(("form", "text", "message"), BAD_DOCUMENTS)
def test_bad_documents_are_refused_in_one_line(form: Form, text: str, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        Storyboard.parse(text, form)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400
    assert refusal.value.__cause__ is None


@given(st.text(max_size=200), st.sampled_from(["json", "toml", "yaml", "text", "jsonl"]))
def test_any_text_is_read_or_refused(text: str, form: Form) -> None:
    try:
        assert Storyboard.parse(text, form).shots
    except InputError as refusal:
        assert str(refusal)


@given(st.text('[](){}"“”:,\\ \ncaptions0123s-–', max_size=80))
def test_any_broken_caption_list_is_read_or_refused(text: str) -> None:
    try:
        assert Storyboard.parse('{"captions": ["' + text, "json").shots
    except InputError as refusal:
        assert str(refusal)


@pytest.mark.parametrize("text", ['{"captions": ["a"' + " " * 5_000_000 + "x", " " * 5_000_000 + "x", '"' * 1_000_000])
def test_megabytes_of_rubbish_are_refused_soon(text: str) -> None:
    with pytest.raises(InputError):
        Storyboard.parse(text, "json")


# What is shipped


def test_a_storyboard_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        OWN.title = "Beach"


def test_the_shipped_schema_is_current() -> None:
    shipped = Path(module.__file__).with_name("storyboard.schema.json").read_text(encoding="utf-8")
    assert shipped == module.schema_text(), "write it anew with the command at the foot of docs/storyboards.md"


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("fox.toml", 0),
        ("car.yaml", 0),
        ("sailboat.json", 0),
        ("balloon.txt", 0),
        ("animals.jsonl", 0),
        ("animals.jsonl", 1),
    ],
)
def test_the_examples_are_a_minute_each(name: str, index: int) -> None:
    storyboard = Storyboard.read(ROOT / "examples" / name, index)
    assert storyboard.seconds == 60
    assert len(storyboard.chunks(EIGHT)) == 15
    times = ("dawn", "day", "dusk", "night")
    assert all(any(time in prompt for time in times) and prompt.endswith(".") for prompt in prompts(storyboard))


SNIPPETS = re.findall(
    r"^```(\w+)\n(.*?)^```", (ROOT / "docs" / "storyboards.md").read_text(encoding="utf-8"), re.M | re.S
)
ENDINGS = {"toml": ".toml", "yaml": ".yaml", "json": ".json", "text": ".txt", "jsonl": ".jsonl"}


@pytest.mark.parametrize(("language", "text"), [snippet for snippet in SNIPPETS if snippet[0] in ENDINGS])
def test_the_documents_storyboards_are_read(tmp_path: Path, language: str, text: str) -> None:
    for image in ("harbour.png", "gull.png"):
        (tmp_path / image).touch()
    path = tmp_path / f"board{ENDINGS[language]}"
    path.write_text(text, encoding="utf-8")
    storyboard = Storyboard.read(path)
    assert prompts(storyboard)[0].startswith("A lamp stands on a pier")
    assert storyboard.chunks(EIGHT)


def test_the_documents_code_runs() -> None:
    blocks = [text for language, text in SNIPPETS if language == "python"]
    assert blocks
    for block in blocks:
        exec(compile(block, "docs/storyboards.md", "exec"), {})


def test_the_document_shows_every_form() -> None:
    assert {language for language, _ in SNIPPETS} >= set(ENDINGS)


def test_reading_a_storyboard_needs_no_torch() -> None:
    code = "import sys, blockvid.storyboard, blockvid.geometry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
