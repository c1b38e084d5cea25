"""Laws of encoding: the same bytes however often it was killed, and no broken video stops the others."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from blockvid.data.encode import Options, Progress, encode
from blockvid.data.footage import latent_chunks, steady
from blockvid.data.index import stem
from blockvid.data.ledger import Ledger, Outcome, alone
from blockvid.data.shards import Shards
from blockvid.errors import InputError
from blockvid.model.load import Models, load_encoders, load_models
from blockvid.video import write_video
from data.made_clips import PROMPTS, captions, clip, contents, pictures

if TYPE_CHECKING:
    from tiny_models import Tiny

pytest_plugins = ["tiny_models"]
SMALL = Options(shard_bytes=100)


@pytest.fixture(scope="module")
def models(storybook: Tiny) -> Models:
    return load_models(str(storybook.folder))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    clip(folder, "a", 25, (1.0, 2.0))
    clip(folder, "bb", 16, (2.0,))
    (folder / "broken.mp4").write_bytes((folder / "a.mp4").read_bytes()[:300])
    (folder / "broken.txt").write_text("A fox.")
    clip(folder, "ccc", 33, (2.0, 1.0))
    clip(folder, "dddd", 9, (1.0,))
    return folder


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from blockvid.data.encode import Options, encode
from blockvid.model.load import load_models
videos, model, base, every = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
models = load_models(model)
text = models.text_encoder()
type(models).text_encoder = lambda self: text  # loaded once for all
for n in range(1, 1000, every):
    out = base / str(n)
    child = os.fork()
    if child == 0:
        left = n
        def hook(event, arguments):
            global left
            if event in ("open", "os.rename", "os.remove", "os.mkdir") and str(arguments[0]).startswith(str(out)):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        encode(videos, out, models, Options(shard_bytes=100))
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
    encode(videos, out, models, Options(shard_bytes=100))
"""


def test_killed_at_any_file_operation_and_resumed_it_is_the_same(storybook: Tiny, models: Models, tmp_path: Path):
    videos, out, whole = tmp_path / "videos", tmp_path / "out", tmp_path / "out" / "whole"
    videos.mkdir()
    for name in ("a", "c"):
        clip(videos, name, 9, (1.0,))
    (videos / "broken.mp4").write_bytes(b"")
    (videos / "broken.txt").write_text("A fox.")
    encode(videos, whole, models, SMALL)
    command = [sys.executable, "-c", KILLED, str(videos), str(storybook.folder), str(out), "3"]
    ran = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    killed = [folder for folder in out.iterdir() if folder.name != "whole"]
    assert len(killed) > 12
    assert len(list((whole / "shards").iterdir())) > 1
    for folder in killed:
        assert contents(folder) == contents(whole), folder.name


def test_latents_are_those_of_the_video_and_prompts_those_that_are_shown(videos: Path, models: Models, tmp_path: Path):
    summary = encode(videos, tmp_path, models, Options(latents="float32"))
    assert (summary.done, summary.chunks) == (4, 3 + 2 + 3 + 1)
    shards = Shards.open(tmp_path)
    shards.dataset.check(models)
    index = shards.index
    for number, video in enumerate(index.videos):
        whole = list(
            latent_chunks(steady(videos / f"{video}.mp4", models.geometry), models.autoencoder, models.geometry)
        )
        rows = [row for row in range(len(shards)) if index.video[row] == number]
        for row, latents in zip(rows, whole, strict=False):
            assert torch.equal(shards.read(row)["latents"], latents)
    facts = {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()}
    text = b"".join(facts.values()).decode("latin-1")
    assert text.count(PROMPTS[0]) == 1 + 2 + 2 + 1 and text.count(PROMPTS[1]) == 2 + 0 + 1


def test_encoding_needs_no_weights_of_a_transformer(videos: Path, storybook: Tiny, models: Models, tmp_path: Path):
    bare = tmp_path / "bare"
    shutil.copytree(storybook.folder, bare)
    (weights,) = (bare / "transformer").glob("*.safetensors")
    weights.unlink()
    encode(videos, tmp_path / "with", replace(models, name=str(bare)), SMALL)
    encode(videos, tmp_path / "without", load_encoders(str(bare)), SMALL)
    assert contents(tmp_path / "with") == contents(tmp_path / "without")


def test_broken_videos_are_recorded_and_the_others_are_there(videos: Path, models: Models, tmp_path: Path):
    folder, out = tmp_path / "videos", tmp_path / "out"
    folder.mkdir()
    whole = clip(folder, "whole", 33).read_bytes()
    for name, content in {"empty": b"", "cut": whole[: len(whole) // 2], "words": b"A fox runs." * 99}.items():
        (folder / f"{name}.mp4").write_bytes(content)
        (folder / f"{name}.json").write_text(captions(4))
    clip(folder, "short", 5)
    clip(folder, "barely_captioned", 33, (0.25, 0.25))
    (folder / "silent.mp4").write_bytes(whole)
    write_video(folder / "odd.mp4", pictures(33, width=50, height=34), 12)
    (folder / "odd.txt").write_text(PROMPTS[0])
    summary = encode(folder, out, models)
    assert sorted(Shards.open(out).index.videos) == ["odd", "whole"] and summary.done == 2
    reasons = {refusal.id: refusal.reason for refusal in summary.failed}
    assert set(reasons) == {"barely_captioned", "cut", "empty", "short", "silent", "words"}
    assert "is shorter than one chunk of 1 s" in reasons["short"]
    assert "as far as it is captioned, is shorter" in reasons["barely_captioned"]
    assert "is not a video that FFmpeg can open" in reasons["empty"] and "has no captions" in reasons["silent"]
    lines = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    assert {line["id"]: line["reason"] for line in lines if line["state"] == "failed"} == reasons
    before = contents(out)
    encode(folder, out, models)
    assert contents(out) == before, "nothing is tried again"
    encode(folder, out, models, Options(retry=True))
    assert len((out / "ledger.jsonl").read_text().splitlines()) == 8 + 6
    (folder / "silent.json").write_text(captions(4))
    clip(folder, "zz_new", 17)
    assert encode(folder, out, models).done == 4
    assert Shards.open(out).index.videos == ["odd", "whole", "silent", "zz_new"]


def test_progress_is_told_and_ends(videos: Path, models: Models, tmp_path: Path):
    told: list[Progress] = []
    encode(videos, tmp_path, models, SMALL, told.append)
    assert [progress.chunks for progress in told] == sorted(progress.chunks for progress in told)
    assert {progress.videos for progress in told} == {5} and told[0].seconds_left is None
    assert (told[-1].finished, told[-1].failed, told[-1].chunks, told[-1].seconds_left) == (5, 1, 9, 0)
    assert len(told) == 9 + 5


def test_what_does_not_fit_an_earlier_call_is_refused(videos: Path, models: Models, wan: Tiny, tmp_path: Path):
    folder, out = tmp_path / "videos", tmp_path / "out"
    folder.mkdir()
    clip(folder, "a")
    encode(folder, out, models)
    with pytest.raises(InputError, match="holds shards with latents float16, not float32; encode into a new folder"):
        encode(folder, out, models, Options(latents="float32"))
    other = wan.pipeline().models
    with pytest.raises(InputError, match="holds shards with autoencoder"):
        encode(folder, out, other)
    with pytest.raises(InputError, match=r"whose text encoder is minilm, and .* has umt5; encode the videos again"):
        Shards.open(out).dataset.check(other)
    longer = replace(models, geometry=replace(models.geometry, chunk_frames=2 * models.geometry.chunk_frames))
    with pytest.raises(InputError, match=r"latent frames a chunk, and the model is trained at .*; encode the videos"):
        Shards.open(out).dataset.check(longer)
    (folder / "a.json").write_text(captions(1, 3))
    with pytest.raises(InputError, match=r"a.mp4 or its captions changed after it was encoded"):
        encode(folder, out, models)
    with alone(out), pytest.raises(InputError, match="another process encodes into"):
        encode(folder, out, models)
    with pytest.raises(InputError, match="shards of 0 bytes hold nothing"):
        Options(shard_bytes=0)


def test_a_full_disk_is_no_fault_of_a_video(videos: Path, models: Models, tmp_path: Path):
    """A file where a folder belongs stands for any refusal of the system: root may write anywhere."""
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match="cannot be written"):
        encode(videos, tmp_path / "out", models)


def test_a_ledger_forgets_a_torn_line_and_keeps_the_last_word(tmp_path: Path):
    ledger = Ledger(tmp_path)
    for state in ("failed", "done"):
        ledger.append(Outcome(id="a", state=state, digest="1", chunks=2))
        ledger.append(Outcome(id=f"b {state}", state=state, digest="1"))
    with ledger.path.open("ab") as file:
        file.write(b'{"id": "c", "sta')
    again = Ledger(tmp_path)
    assert again.outcomes == ledger.outcomes and list(again.outcomes) == ["b failed", "a", "b done"]
    assert ledger.path.read_bytes().endswith(b"}\n")
    ledger.path.write_bytes(b"{}\n" + ledger.path.read_bytes())
    with pytest.raises(InputError, match=r"ledger.jsonl is damaged"):
        Ledger(tmp_path)


def test_names_are_safe_in_archives():
    assert stem("a.b c/d") == "a_b_c_d"
