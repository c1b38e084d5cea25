"""Laws of the trace: a file holds exactly what was recorded or is refused, and the picture shows what was recalled."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from blockvid.attention import policies
from blockvid.errors import InputError
from blockvid.trace.picture import COLOURS, draw
from blockvid.trace.record import FILE, HEADINGS, ChunkTrace, Recalled, Trace, Why, summary

LAYERS, TOKENS = 4, 100
PROMPT = "A red-brown fox walks to the right across a green meadow at dawn while the camera follows it for a while."


def chunk(index: int, recalled: dict[int, Why], prompt: str = PROMPT, share: float = 0.5) -> ChunkTrace:
    cosines = tuple(round(0.3 + 0.1 * ((other + index) % 7), 3) for other in range(index))
    return ChunkTrace(
        chunk=index,
        prompt=prompt,
        seconds=(4.0 * index, 4.0 * index + 4),
        recalled=tuple(
            Recalled(chunk=other, why=why, similarity=cosines[other], tokens=share * TOKENS)
            for other, why in recalled.items()
        ),
        similarities=cosines,
        tokens=TOKENS,
        kept=(share,) * LAYERS,
        bank_bytes=(index + 1) * 1_500_000,
    )


def semantic(count: int, prompts: tuple[str, ...] = (PROMPT,), share: float = 0.5) -> Trace:
    """The two latest chunks, and as similar ones two earlier ones."""
    chunks = []
    for index in range(count):
        recalled: dict[int, Why] = {other: "similar" for other in (index // 4, index // 3) if other < index - 2}
        recalled |= dict.fromkeys(range(max(0, index - 2), index), "recent")
        chunks.append(chunk(index, recalled, prompts[index % len(prompts)], share))
    return Trace(policy="Semantic(similar=2, recent=2)", storage="bfloat16", chunks=tuple(chunks))


# Files


@given(st.floats(-1, 1), st.floats(0, 1, exclude_min=True), st.text(max_size=20))
def test_a_trace_survives_its_file(tmp_path_factory: pytest.TempPathFactory, cosine: float, kept: float, text: str):
    prompt = text.encode(errors="replace").decode()
    first, second = chunk(0, {}, prompt, kept), chunk(1, {0: "similar"}, share=kept)
    second = second.model_copy(update={"similarities": (cosine,)})
    trace = Trace(policy="Full()", storage="float32", chunks=(first, second))
    path = tmp_path_factory.mktemp("trace") / "any name"
    trace.write(path)
    assert Trace.read(path) == trace


def test_a_run_folder_stands_for_the_trace_in_it(tmp_path: Path):
    semantic(3).write(tmp_path / FILE)
    assert Trace.read(tmp_path) == semantic(3)
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE]


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as raised:
        Trace.read(path)
    message = str(raised.value)
    assert "\n" not in message and str(path) in message
    return message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not JSON"),
        (b'{"version": 1, "policy": "Fu', "is not JSON"),
        (b"\xff\xd8\xff\xe0 a picture", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "the file []"),
        (b'{"version": 2, "policy": "Full()", "storage": "", "chunks": []}', "version 2: Input should be 1"),
        (b'{"policy": "Full()", "storage": "", "chunks": []}', "chunks []"),
        (b'{"policy": "Full()", "storage": ""}', "chunks: Field required"),
    ],
)
def test_what_is_no_trace_is_refused_in_one_line(tmp_path: Path, content: bytes, problem: str):
    path = tmp_path / "trace.json"
    path.write_bytes(content)
    assert problem in refusal(path)


def test_what_is_missing_or_unreadable_is_refused(tmp_path: Path):
    assert "does not exist" in refusal(tmp_path / "none.json")
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match=r"trace\.json does not exist; generate with --trace"):
        Trace.read(tmp_path / "run")
    with pytest.raises(InputError, match="cannot be written"):
        semantic(1).write(tmp_path / "nowhere" / "trace.json")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "cannot be read" in refusal(tmp_path / "loop")


@pytest.mark.parametrize(
    ("where", "value", "problem"),
    [
        (("chunks", 2, "similarities"), [0.5], "chunks.2: Value error, 1 similarities for the 2 chunks before it"),
        (("chunks", 2, "similarities"), [0.5, 1.5], "chunks.2.similarities.1 1.5"),
        (("chunks", 2, "kept"), [0.5] * 3, "chunk 2 has 3 layers, chunk 0 4"),
        (("chunks", 2, "kept"), [0.5, 0.5, 0.5, 0], "chunks.2.kept.3 0"),
        (("chunks", 2, "kept"), [], "chunks.2.kept []"),
        (("chunks", 2, "chunk"), 1, "chunks.2"),
        (("chunks", 2, "seconds"), [8, 4], "lasts from 8 s to 4 s"),
        (("chunks", 2, "tokens"), 0, "chunks.2.tokens 0"),
        (("chunks", 2, "recalled", 0, "chunk"), 2, "chunk 2 recalls chunk 2, which is not before it"),
        (("chunks", 2, "recalled", 0, "chunk"), 1, "chunk 2 recalls a chunk twice"),
        (("chunks", 2, "recalled", 0, "why"), "luck", "chunks.2.recalled.0.why 'luck'"),
        (("chunks", 2, "guidance"), 3.0, "chunks.2.guidance 3.0"),
    ],
)
def test_a_trace_that_contradicts_itself_is_refused(
    tmp_path: Path, where: tuple[str, ...], value: object, problem: str
):
    document = json.loads(semantic(3).model_dump_json())
    place = document
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    assert problem in refusal(path)


def test_chunks_stand_in_order():
    with pytest.raises(ValidationError, match="chunk 1 stands in place 0"):
        Trace(policy="", storage="", chunks=(semantic(2).chunks[1],))


# Table


def test_the_table_says_what_was_recalled_and_why():
    rows = summary(semantic(13))
    assert all(len(row) == len(HEADINGS) for row in rows)
    assert rows[0] == ("0", "0:00–0:04", "–", "100", "50%", "1.5 MB")
    cosines = semantic(13).chunks[12].similarities
    recalled = "similar 3 ({3:.2f}), 4 ({4:.2f}); recent 10 ({10:.2f}), 11 ({11:.2f})".format(*cosines)
    assert rows[12] == ("12", "0:48–0:52", recalled, "300", "50%", "19.5 MB")


def test_neighbours_are_told_as_one_span():
    chunks = [chunk(index, dict.fromkeys(range(index), "all")) for index in range(60)]
    row = summary(Trace(policy="Full()", storage="", chunks=tuple(chunks)))[59]
    low, high = min(chunks[59].similarities), max(chunks[59].similarities)
    assert row[2] == f"all 0–58 ({low:.2f} to {high:.2f})"


# Picture


def pixels(trace: Trace, path: Path) -> np.ndarray:
    draw(trace, path)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def amount(image: np.ndarray, colour: str) -> int:
    """How many pixels have exactly that colour."""
    return int((image == np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)).all(-1).sum())


@pytest.mark.parametrize("count", [1, 15, 60])
def test_pictures_are_readable_files(tmp_path: Path, count: int):
    image = pixels(semantic(count), tmp_path / "trace.png")
    assert min(image.shape[:2]) > 600 and image.std() > 10
    draw(semantic(count), tmp_path / "trace.svg")
    assert ElementTree.parse(tmp_path / "trace.svg").getroot().tag.endswith("svg")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["trace.png", "trace.svg"]


@pytest.mark.parametrize("count", [15, 60])
def test_prompts_end_before_the_matrix_begins(tmp_path: Path, count: int):
    prompts = (PROMPT * 5, "m" * 500, "W i " * 200, "1, " * 300)
    image = pixels(semantic(count, prompts), tmp_path / "trace.png")
    assert (image[180:, 982:998] == 255).all()  # below the title, a gap of 0.08 inch at 200 dots an inch


def test_each_reason_has_its_colour(tmp_path: Path):
    for why, colour in COLOURS.items():
        chunks = (chunk(0, {}), chunk(1, {0: why}, share=1))
        image = pixels(Trace(policy="", storage="", chunks=chunks), tmp_path / "trace.png")
        assert amount(image, colour) > 1000
        assert all(amount(image, other) == 0 for other in COLOURS.values() if other != colour)


def test_a_mark_is_filled_to_the_share_of_the_tokens(tmp_path: Path):
    def filled(share: float) -> int:
        return amount(pixels(semantic(15, share=share), tmp_path / "trace.png"), COLOURS["similar"])

    quarter, half, three_quarters = filled(0.25), filled(0.5), filled(0.75)
    assert half - quarter == pytest.approx(three_quarters - half, rel=0.05)
    assert half - quarter > 10_000


def test_any_prompt_can_be_drawn(tmp_path: Path):
    prompts = ("costs $5, not $6 or \\frac{1}{2}", "一只狐狸在草地上" * 20, "🦊\nfox\x00\x1b[0m", "x" * 500, "", "שועל")
    draw(semantic(6, prompts), tmp_path / "trace.png")
    draw(semantic(6, prompts), tmp_path / "trace.svg")
    assert ElementTree.parse(tmp_path / "trace.svg").getroot() is not None


def test_equal_prompts_and_an_empty_memory_can_be_drawn(tmp_path: Path):
    alike = semantic(3).model_copy(
        update={
            "chunks": tuple(
                one.model_copy(update={"similarities": (1.0,) * one.chunk, "bank_bytes": 0, "recalled": ()})
                for one in semantic(3).chunks
            )
        }
    )
    draw(alike, tmp_path / "trace.png")


def test_other_formats_and_missing_folders_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"neither \.png nor \.svg.*trace\.png"):
        draw(semantic(1), tmp_path / "trace.pdf")
    with pytest.raises(InputError, match="cannot be written"):
        draw(semantic(1), tmp_path / "nowhere" / "trace.png")


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r'pip install "blockvid\[plots\]"'):
        draw(semantic(1), tmp_path / "trace.png")


def test_reasons_are_those_of_the_policies() -> None:
    assert get_args(Why) == get_args(policies.Why)
