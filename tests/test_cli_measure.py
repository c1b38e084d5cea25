"""What a person gets who has videos: blockvid eval, compare, gate, doctor, weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from blockvid.evaluation.results import Results
from blockvid.video import write_video
from command_line import PROGRAM, Run, interruptible, refused


def moving(count: int, seed: int = 0, fade: float = 0.0) -> np.ndarray:
    """A texture that slides, and loses contrast."""
    texture = np.kron(np.random.default_rng(seed).integers(0, 255, (8, 12, 3)), np.ones((8, 8, 1)))
    frames = [128 + (np.roll(texture, 2 * t, axis=1) - 128) * (1 - fade * t / count) for t in range(count)]
    return np.stack(frames).astype(np.uint8)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Rows of no other run, and tables that are not cut."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("BLOCKVID_LVBENCH", raising=False)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Two steady videos, one that fades, and one that is none."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name, fade, seed in (("a", 0.0, 0), ("b", 0.0, 1), ("fading", 0.9, 2)):
        write_video(folder / f"{name}.mp4", moving(40, seed, fade), 8)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def test_a_folder_becomes_a_report(run: Run, videos: Path, tmp_path: Path) -> None:
    status, out, err = run("eval", videos, "--tier", "core", "-o", tmp_path / "run")
    assert status == 0 and "vde_clarity@core" in out and "broken.mp4" in err
    results = Results.read(tmp_path / "run")
    drift = results.values("vde_clarity@core")
    assert drift["fading.mp4"] > 5 * max(drift["a.mp4"], drift["b.mp4"])
    assert [video.status for video in results.videos].count("failed") == 1
    page = (tmp_path / "run" / "report.html").read_text()
    assert "fading.mp4" in page and "http://" not in page.replace("http://www.w3.org", "")
    assert len((tmp_path / "run" / "results.csv").read_text().splitlines()) == 5


def test_another_number_of_segments_decodes_nothing(run: Run, videos: Path, tmp_path: Path) -> None:
    run("eval", videos / "a.mp4", "--tier", "core", "-o", tmp_path / "run")
    began = time.perf_counter()
    _, _, err = run("eval", videos / "a.mp4", "--tier", "core", "--segments", 5, "-o", tmp_path / "five")
    assert "frames/s" not in err and time.perf_counter() - began < 30
    assert Results.read(tmp_path / "five").configuration.segments == 5


def test_all_broken_is_a_failure(run: Run, videos: Path, tmp_path: Path) -> None:
    status, _, err = run("eval", videos / "broken.mp4", "--tier", "core", "-o", tmp_path / "run")
    assert status == 1 and "broken.mp4" in err
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(
    ("options", "offending"),
    [
        (["--segments", "0"], "0 segments"),
        (["--profile", "robust", "--weights", "log"], "'log'"),
        (["--profile", "release", "--motion", "energy"], "motion 'energy'"),
        (["--stride", "0"], "stride 0"),
        (["--workers", "0"], "workers 0"),
        (["--device", "tpu"], "tpu"),
        (["--model-file", "nothing"], "'nothing' is not NAME=PATH"),
        (["--model-file", "nobody=a.pth"], "names no weights"),
        (["--tier", "vbench", "--offline"], "dino_vitbase16"),
        (["--segmenter", "absent.onnx"], "absent.onnx"),
        (["--text-model", "absent"], "absent"),
        (["--prompts", "absent.txt"], "absent.txt"),
        (["--bench", "lvbench"], "lvbench.jsonl does not exist"),
        (["-o", "/proc/run"], "/proc/run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_unusable_options(run: Run, videos: Path, tmp_path: Path, options: list[str], offending: str) -> None:
    tier = [] if "--tier" in options else ["--tier", "core"]
    refused(run("eval", videos, *tier, "-o", tmp_path / "run", *options), offending)
    assert not (tmp_path / "run").exists()


def test_no_videos(run: Run, tmp_path: Path) -> None:
    refused(run("eval", tmp_path / "absent.mp4"), "does not exist")
    (tmp_path / "empty").mkdir()
    refused(run("eval", tmp_path / "empty"), "holds no video")


def test_generations_are_named_by_their_entries(run: Run, videos: Path, tmp_path: Path) -> None:
    lines = [
        {"id": name, "duration": seconds, "segments": [{"start": 0.0, "end": seconds, "caption": f"a thing {name}"}]}
        for name, seconds in (("a", 5.0), ("b", 9.0), ("nowhere", 5.0))
    ]
    (videos / "lvbench.jsonl").write_text("\n".join(map(json.dumps, lines)))
    status, _, err = run("eval", "--bench", "lvbench", videos, "--tier", "core", "-o", tmp_path / "run")
    assert status == 0 and "fading.mp4 is of no entry that" in err and "1 entries have no video: nowhere" in err
    results = Results.read(tmp_path / "run")
    assert [video.entry for video in results.videos] == ["a", "b"] and results.missing == ("nowhere",)
    assert results.videos[0].prompts == ("a thing a",) and results.configuration.bench == "lvbench"
    assert [[w.kind for w in video.warnings].count("duration") for video in results.videos] == [0, 1]


def test_entries_to_train_on_are_not_asked_for(run: Run, videos: Path, tmp_path: Path) -> None:
    """The paper measures on the fifth that is left (section 4)."""
    segments = [{"start": 0.0, "end": 5.0, "caption": "a thing"}]
    parts = {"a": "train", "b": "eval", "nowhere": "train"}
    lines = [{"id": name, "duration": 5.0, "segments": segments, "split": part} for name, part in parts.items()]
    file = videos / "divided.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    command = ("eval", "--bench", file, videos, "--tier", "core")
    assert run(*command, "-o", tmp_path / "run")[0] == 0
    results = Results.read(tmp_path / "run")
    assert [video.entry for video in results.videos] == ["b"] and results.missing == ()
    assert run(*command, "--part", "all", "-o", tmp_path / "all")[0] == 0
    results = Results.read(tmp_path / "all")
    assert [video.entry for video in results.videos] == ["a", "b"] and results.missing == ("nowhere",)
    file.write_text(json.dumps(lines[0]))
    refused(run(*command, "-o", tmp_path / "none"), "has no entry of part eval")


def test_a_limit_is_not_lost_to_another(run: Run, tmp_path: Path) -> None:
    refused(run("gate", tmp_path, "--max", "a=1", "--max", "b=2"), "--max is given twice")
    refused(run("generate", "a.txt", "--stop-at", "a=1", "--stop-at=b=2"), "--stop-at is given twice")
    refused(run("eval", "a.mp4", "--model-file", "a=b", "--model-file", "c=d"), "--model-file is given twice")
    refused(run("train", "storybook_stage1", "--track", "wandb", "--track", "tensorboard"), "--track is given twice")


def test_compare_and_gate(run: Run, tmp_path: Path) -> None:
    for system, fade in (("steady", 0.0), ("fading", 0.9)):
        (tmp_path / system).mkdir()
        for seed in range(8):
            write_video(tmp_path / system / f"{seed}.mp4", moving(20, seed, fade), 8)
        assert run("eval", tmp_path / system, "--tier", "core", "-o", tmp_path / f"{system}.eval")[0] == 0
    runs = [tmp_path / "steady.eval", tmp_path / "fading.eval"]
    status, out, _ = run("compare", *runs, "-o", tmp_path / "comparison")
    assert status == 0 and "vde_clarity@core" in out
    assert (tmp_path / "comparison" / "compare.html").exists()
    differences = json.loads((tmp_path / "comparison" / "comparison.json").read_text())["differences"]
    clarity = next(d for d in differences if d["key"] == "vde_clarity@core")
    assert clarity["win_rate"] == 1.0 and clarity["p"] < 0.01
    drift = [np.mean(list(Results.read(path).values("vde_clarity@core").values())) for path in runs]
    limit = f"vde_clarity={drift[0] + 0.1}"
    assert run("gate", runs[0], "--max", limit)[0] == 0
    status, out, _ = run("gate", runs[1], "--max", limit)
    assert status == 1 and out.startswith("FAIL  ")
    refused(run("gate", runs[0], "--max", "vde_clarity"), "vde_clarity")
    refused(run("gate", tmp_path, "--max", limit), "results.json")
    refused(run("compare", runs[0]), "1 run")


def test_the_doctor_finds_nothing(run: Run) -> None:
    status, out, _ = run("doctor", "--tier", "core")
    assert status == 0 and ", 0 not, " in out and "FAIL" not in out


def test_weights_are_listed_and_verified(run: Run, tmp_path: Path) -> None:
    status, out, _ = run("weights", "ls", "--offline")
    assert status == 0 and "dino_vitbase16" in out and "missing" in out and "verified" in out
    assert run("weights", "verify", "efficientnet_lite0")[0] == 0
    assert run("weights", "verify", "dino_vitbase16")[0] == 1
    (tmp_path / "dino_vitbase16_pretrain.pth").write_bytes(b"something else")
    assert run("weights", "verify", "dino_vitbase16", "--model-folder", tmp_path)[0] == 1
    refused(run("weights", "fetch", "dino_vitbase16", "--offline"), "offline")
    refused(run("weights", "verify", "nobody"), "'nobody'")


def test_stopped_goes_on(videos: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of a video: what was seen is kept, and the end is as if nothing had happened."""
    write_video(videos / "long.mp4", np.tile(moving(50), (12, 1, 1, 1)), 8)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = ["eval", str(videos / "long.mp4"), "--tier", "core", "-o", str(tmp_path / "run")]
    process = subprocess.Popen(
        [*PROGRAM, *command], env=environment, preexec_fn=interruptible, stderr=subprocess.PIPE, text=True
    )
    rows = tmp_path / "cache" / "blockvid" / "rows"
    limit = time.monotonic() + 60
    while time.monotonic() < limit and not any(
        file.stat().st_size > 4000 for file in rows.rglob("*") if file.is_file()
    ):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in err and "Traceback" not in err
    assert not (tmp_path / "run" / "results.json").exists()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert run(*command)[0] == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert run(*command[:-1], tmp_path / "whole")[0] == 0
    again, whole = (Results.read(tmp_path / name).videos[0] for name in ("run", "whole"))
    assert again.scores == whole.scores and again.drift == whole.drift
