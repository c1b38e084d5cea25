"""Laws of what is encoded: each video with the captions that are its own, or with the reason why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blockvid.data.clips import Clip, Refusal, find_clips
from blockvid.errors import InputError
from blockvid.geometry import Geometry
from data.made_clips import PROMPTS, captions

GEOMETRY = Geometry(width=32, height=32, fps=8, chunk_frames=2)


def video(folder: Path, name: str, sidecar: str | None = None, text: str = "") -> None:
    (folder / name).write_bytes(b"film")
    if sidecar is not None:
        (folder / sidecar).write_text(text)


def test_videos_come_with_the_storyboard_beside_them_in_any_form(tmp_path: Path):
    video(tmp_path, "b.mp4", "b.json", captions(2, 3))
    video(tmp_path, "a.MOV", "a.txt", "A fox runs.\nA fox sleeps.\n")
    video(tmp_path, "c.mkv", "c.toml", '[[shots]]\nprompt = "A fox."\n')
    video(tmp_path, ".hidden.mp4")
    (tmp_path / "notes.md").write_text("no video")
    found = find_clips(tmp_path)
    assert [(clip.id, clip.seconds) for clip in found if isinstance(clip, Clip)] == [("a", 8), ("b", 5), ("c", 3600)]


def test_a_video_without_captions_of_its_own_is_refused_and_the_others_are_not(tmp_path: Path):
    video(tmp_path, "a.mp4")
    video(tmp_path, "b.mp4", "b.json", "{")
    video(tmp_path, "c.mp4", "c.txt", "A fox.")
    video(tmp_path, "d.mp4", "d.txt", "A fox.")
    (tmp_path / "d.yaml").write_text("prompts: [A fox.]")
    reasons = {clip.id: clip.reason for clip in find_clips(tmp_path) if isinstance(clip, Refusal)}
    assert set(reasons) == {"a", "b", "d"}
    assert "has no captions; write a.txt" in reasons["a"] and "is not valid JSON" in reasons["b"]
    assert "has captions in d.yaml and d.txt; keep one" in reasons["d"]


def test_a_file_of_captions_names_its_videos(tmp_path: Path):
    for name in ("pier.mp4", "lake.webm", "eval.mp4", "stray.mp4"):
        video(tmp_path, name)
    segment = {"start": 0.0, "end": 2.0, "caption": PROMPTS[0]}
    lines = [
        {"id": "pier", "duration": 5.0, "segments": [segment]},
        {"id": "lake", "duration": 2.0, "split": "train", "segments": [segment]},
        {"id": "eval", "duration": 2.0, "split": "eval", "segments": [segment]},
        {"id": "lost", "duration": 2.0, "segments": [segment]},
    ]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = {clip.id: clip for clip in find_clips(tmp_path, tmp_path / "all.jsonl")}
    assert list(found) == ["lake", "lost", "pier", "stray"]
    assert isinstance(pier := found["pier"], Clip) and pier.seconds == 5
    assert isinstance(lost := found["lost"], Refusal) and "no video; add lost.mp4" in lost.reason
    assert isinstance(stray := found["stray"], Refusal) and "no captions in all.jsonl" in stray.reason
    assert "eval" in {clip.id for clip in find_clips(tmp_path, tmp_path / "all.jsonl", "eval")}


def test_a_chunk_has_the_caption_that_is_shown_longest(tmp_path: Path):
    video(tmp_path, "a.mp4", "a.json", captions(1.5, 0.25, 2.25))
    (clip,) = find_clips(tmp_path)
    assert isinstance(clip, Clip)
    assert [clip.prompt(chunk, GEOMETRY) for chunk in range(4)] == [PROMPTS[0], PROMPTS[0], PROMPTS[0], PROMPTS[0]]
    video(tmp_path, "a.mp4", "a.json", captions(1.25, 1.5, 1.25))
    (clip,) = find_clips(tmp_path)
    assert isinstance(clip, Clip)
    assert [clip.prompt(chunk, GEOMETRY) for chunk in range(4)] == [PROMPTS[0], PROMPTS[1], PROMPTS[1], PROMPTS[0]]


@pytest.mark.parametrize("other", ["a.mov", "a!.mp4", "A.mp4"])
def test_names_that_would_clash_in_the_shards_are_refused(tmp_path: Path, other: str):
    video(tmp_path, "a.mp4")
    video(tmp_path, other)
    if other == "a!.mp4":
        video(tmp_path, "a?.mp4")
    with pytest.raises(InputError, match="would have one name in the shards; rename one"):
        find_clips(tmp_path)


def test_a_folder_without_videos_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="holds no video"):
        find_clips(tmp_path)
    with pytest.raises(InputError, match="cannot be listed"):
        find_clips(tmp_path / "none")
