"""blockvid train and blockvid data, as a person uses them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from blockvid.attention.policies import Semantic, Window
from blockvid.recipes import RECIPES
from blockvid.recipes.forcing import Forcing, Loss
from blockvid.training.objectives import BlockForcing, FlowMatching, Sum, VelocityForcing
from blockvid.training.self_forcing import SelfForcing
from blockvid.video import probe, read_frames, write_video
from command_line import PROGRAM, Run, interruptible, refused

if TYPE_CHECKING:
    from tiny_models import Tiny

pytest_plugins = ["tiny_models"]


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runs go to the current folder."""
    monkeypatch.chdir(tmp_path)


def lines(file: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_sixty_steps_lower_the_loss_of_what_was_not_learned_from(run: Run, tmp_path: Path) -> None:
    assert run("train", "debug")[0] == 0
    unseen = lines(tmp_path / "runs" / "debug" / "probe.jsonl")
    assert [row["step"] for row in unseen] == [0, 20, 40, 60] and all(row["unseen"] for row in unseen)
    assert unseen[-1]["loss"] < 0.8 * unseen[0]["loss"]
    assert (tmp_path / "runs" / "debug" / "transformer" / "config.json").exists()


def test_stopped_goes_on_as_if_nothing_had_happened(run: Run, tmp_path: Path) -> None:
    options = ["--steps", "40", "--save", "1000", "--log", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*PROGRAM, "train", "debug", "-o", "stopped", *options]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, preexec_fn=interruptible, **pipes)
    log, limit = tmp_path / "stopped" / "log.jsonl", time.monotonic() + 60
    while time.monotonic() < limit and not (log.exists() and log.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0, "Ctrl-C saves, and is no failure"
    assert len(lines(log)) < 40
    for folder in ("stopped", "whole"):
        assert run("train", "debug", "-o", folder, *options)[0] == 0
    stopped, whole = ([row["loss"] for row in lines(tmp_path / n / "log.jsonl")] for n in ("stopped", "whole"))
    assert stopped == whole and len(whole) == 40


@pytest.mark.parametrize(
    ("arguments", "offending"),
    [
        (["paint"], "'paint' is unknown; use one of storybook_autoencoder"),
        (["debug", "--steps", "0"], "steps 0"),
        (["debug", "--stps", "3"], "use --steps"),
        (["debug", "--device", "tpu"], "'tpu'"),
        (["debug", "--dp-shard", "3"], "start it with torchrun"),
        (["debug", "-o", "/proc/run"], "/proc/run"),
        (["storybook_base", "--dry-run"], "--dry-run is for post-training"),
        (["storybook_autoencoder", "--schedule", "linear"], "--schedule linear is for recipes that learn from takes"),
        (["storybook_stills", "--schedule", "linear"], "storybook_stills shows none"),
        (["storybook_probe", "--takes", "20"], "--takes 20 is for recipes that learn from takes"),
        (["storybook_probe", "--compile"], "--compile True is for recipes that learn from takes"),
        (["storybook_base", "--takes", "15"], "--takes 15"),
        (["storybook_base", "--openings", "50"], "--openings 50"),
        (["storybook_base", "--scale", "0"], "a scale of 0"),
        (["storybook_base", "--fall", "2"], "a fall over 2.0"),
        (["storybook_base", "--peak", "0"], "a peak of 0.0"),
        (["storybook_stage1", "--gamma", "2"], "blockvid: gamma 2"),
        (["storybook_stage1", "--loss", "hope"], "--loss"),
        (["storybook_stage1", "--start", "nowhere", "--dry-run"], "'nowhere' is no model"),
        (["storybook_stage1", "--data", "nowhere"], "nowhere holds no training shards"),
        (["storybook_stage1", "--lr", "0"], "blockvid: lr 0.0"),
        (["storybook_stage1", "--fall", "2"], "a fall over 2.0"),
        (["storybook_distill", "--student-steps", "0"], "student_steps 0"),
        (["storybook_distill", "--start", "storybook-fast", "--lora", "16", "--dry-run"], "of rank 32, not 16"),
        (["storybook_distill", "--data", "nowhere", "--teacher-guidance", "-1"], "guidance -1.0 is outside 0 to 100"),
        (["storybook_stage1", "--previews", "nowhere.toml"], "nowhere.toml"),
        (["storybook_stage1", "--previews", "a.toml", "--sp", "2"], "leave out --previews"),
        (["storybook_stage1", "--track", "paper"], "--track"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_unusable_options(run: Run, arguments: list[str], offending: str) -> None:
    refused(run("train", *arguments), offending)


def test_a_run_without_a_checkpoint_writes_no_row_twice(run: Run, tmp_path: Path) -> None:
    """It was killed before its first one, say, and begins anew."""
    command = ("train", "debug", "--steps", 2, "-o", "run")
    assert run(*command)[0] == 0
    probed = lines(tmp_path / "run" / "probe.jsonl")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert run(*command)[0] == 0
    assert lines(tmp_path / "run" / "probe.jsonl") == probed


def test_a_run_under_another_configuration_is_refused(run: Run) -> None:
    assert run("train", "debug", "--steps", 2, "-o", "run")[0] == 0
    status, _, err = run("train", "debug", "--steps", 4, "--batch", 3, "-o", "run")
    assert status == 2 and "batch" in err, err


def test_a_dry_run_says_what_it_takes(run: Run, tmp_path: Path) -> None:
    status, out, _ = run("train", "storybook_stage1", "--dry-run")
    assert status == 0 and "9,131,328" in out and "discriminator" in out and "tokens" in out
    status, out, _ = run("train", "storybook_distill", "--fall", 0.25, "--dry-run")
    assert status == 0 and "lr 0.001, falling to 0 from step 750" in " ".join(out.split())
    assert "distill: 5 steps, of 2 each of the teacher" in " ".join(out.split())
    assert list(tmp_path.iterdir()) == []


def test_every_row_of_table_6_is_an_option_away() -> None:
    kinds = {loss: type(Forcing(loss=loss).objective()) for loss in ("naive", "velocity", "rollout-velocity", "block")}
    assert list(kinds.values()) == [FlowMatching, BlockForcing, VelocityForcing, BlockForcing]
    for loss, beside in (("self", FlowMatching), ("ours", BlockForcing)):
        for adversary in ("gan", "dmd", "sid"):
            objective = Forcing(loss=loss, adversary=adversary).objective()
            assert isinstance(objective, Sum)
            assert [type(part) for part in objective.objectives] == [SelfForcing, beside]
    assert all(callable(recipe) for recipe in RECIPES.values())


@pytest.mark.parametrize("loss", ["naive", "ours", "self"])
def test_a_model_is_looked_at_as_it_learned_to_see(loss: Loss) -> None:
    assert Forcing(loss).sampling.policy == Semantic(2) and Forcing(loss, similar=0).sampling.policy == Window()


def test_from_a_folder_of_clips_to_a_model(run: Run, storybook: Tiny, tmp_path: Path) -> None:
    """The three commands of the README, with a small model."""
    small = str(storybook.folder)
    (tmp_path / "clips").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        frames = np.kron(rng.integers(0, 255, (33, 2, 2, 3)), np.ones((1, 16, 16, 1))).astype(np.uint8)
        write_video(tmp_path / "clips" / f"{name}.mp4", frames, 8)
        (tmp_path / "clips" / f"{name}.txt").write_text("a red ball rolls")
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "clips" / "broken.txt").write_text("nothing")
    status, out, err = run("data", "encode", "clips", "-o", "shards", "--model", small)
    assert status == 0 and "2 videos" in out and "skipped broken" in err, err
    assert run("data", "ls", "shards")[1].startswith("2 videos, ")
    options = ("--data", "shards", "--chunks", 1, "--batch", 1, "--steps", 2, "--loss", "block", "--device", "cpu")
    (tmp_path / "board.txt").write_text("a red ball\n")
    looks = ("--previews", "board.txt", "--unseen", "shards", "--save", 2)
    assert run("train", "storybook_stage1", "--start", small, *options, *looks, "-o", "stage1")[0] == 0
    assert probe(tmp_path / "stage1" / "previews" / "000002.mp4").frames == 32
    (drift,) = lines(tmp_path / "stage1" / "previews" / "drift.jsonl")
    assert drift["step"] == 2 and "clarity@core" in str(drift)
    before, after = lines(tmp_path / "stage1" / "probe.jsonl")
    assert (before["step"], after["step"]) == (0, 2) and after["unseen"] and after["loss"] > 0
    assert run("train", "storybook_stage2", "--start", "stage1", *options, "-o", "stage2")[0] == 0
    shutil.rmtree(tmp_path / "stage1")
    assert run("generate", "board.txt", "--model", "stage2", "--steps", 1, "-o", "ball.mp4")[0] == 0


def test_a_model_takes_on_the_sizes_of_its_data(run: Run, storybook: Tiny, tmp_path: Path) -> None:
    """Else it would learn 16 frames a second, and be sampled at 8."""
    small = str(storybook.folder)
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "a.mp4", np.zeros((33, 32, 32, 3), np.uint8), 8)
    (tmp_path / "clips" / "a.txt").write_text("a red ball rolls")
    sizes = ("--width", 16, "--fps", 16, "--chunk-frames", 6)
    assert run("data", "encode", "clips", "-o", "shards", "--model", small, *sizes)[0] == 0
    assert run("data", "encode", "clips", "-o", "usual", "--model", small)[0] == 0
    usual = ("--start", small, "--chunks", 1, "--batch", 1, "--steps", 1, "--loss", "block", "--device", "cpu")
    options = ("train", "storybook_stage1", *usual, "--data", "shards", "-o", "mine")
    with_other = run(*options, "--unseen", "usual")
    refused(with_other, "the shards are of 32 x 32 at 8 fps, 2 latent frames a chunk")
    assert run(*options)[0] == 0
    card = json.loads((tmp_path / "mine" / "blockvid.json").read_text())
    assert card["geometry"] == {"width": 16, "height": 32, "fps": 16.0, "chunk_frames": 6}
    tokens = [run("train", "storybook_stage1", *usual, "--data", data, "--dry-run")[1] for data in ("usual", "shards")]
    assert "8 tokens" in tokens[0] and "12 tokens" in tokens[1], tokens


def distil(run: Run, start: str, out: str, *more: object) -> tuple[int, str, str]:
    """A student of three steps, taught for two on `shards`."""
    data, length = ("--data", "shards", "--chunks", 2, "--device", "cpu"), ("--steps", 2, "--save", 2)
    student = ("--student-steps", 3, "--student-shift", "2.5", "--history", 1, "--lora", 2, "--lr", "0.1")
    return run("train", "storybook_distill", "--start", start, *data, *length, *student, "-o", out, *more)


@pytest.fixture
def student(run: Run, storybook: Tiny, tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "a.mp4", np.zeros((33, 32, 32, 3), np.uint8), 8)
    (tmp_path / "clips" / "a.txt").write_text("a red ball rolls")
    assert run("data", "encode", "clips", "-o", "shards", "--model", storybook.folder)[0] == 0
    (tmp_path / "board.txt").write_text("a red ball\n")
    assert distil(run, str(storybook.folder), "student", "--previews", "board.txt")[0] == 0
    return tmp_path / "student"


def test_a_student_is_made_of_a_teacher(run: Run, storybook: Tiny, student: Path, tmp_path: Path) -> None:
    """What is written knows how it is sampled, as a model and as adapters of its teacher, and both make one video."""
    small, g = str(storybook.folder), ("--device", "cpu", "--dtype", "float32")
    before, after = lines(student / "probe.jsonl")
    assert (before["step"], after["step"]) == (0, 2)
    assert probe(student / "previews" / "000002.mp4").frames > 0
    videos = []
    for name, model in (("student", "student"), ("adapter", "student/adapter"), ("teacher", small)):
        assert run("generate", "board.txt", "--model", model, *g, "-o", f"{name}.mp4")[0] == 0
        videos.append(np.concatenate(list(read_frames(tmp_path / f"{name}.mp4"))))
        manifest = json.loads((tmp_path / f"{name}.run" / "manifest.json").read_text())
        steps, guidance = (3, 1.0) if name != "teacher" else (2, 3.0)
        assert f'"steps": {steps}' in json.dumps(manifest) and f'"guidance": {guidance}' in json.dumps(manifest)
    merged, adapter, teacher = videos
    assert np.abs(merged.astype(int) - adapter).max() <= 2
    assert np.abs(merged.astype(int) - teacher).max() > 2
    card = json.loads((storybook.folder / "blockvid.json").read_text())
    assert card["defaults"]["steps"] == 2, "the teacher's card is not written over"


def test_a_student_that_is_adapters_goes_on_learning_from_what_they_are_for(
    run: Run, storybook: Tiny, student: Path, tmp_path: Path
) -> None:
    """It begins where it was, under the same teacher, whether its adapters go on or their sum with the base does."""
    left_at = lines(student / "probe.jsonl")[-1]["loss"]
    for out, lora in (("further", 2), ("whole", 0)):
        assert distil(run, "student/adapter", out, "--lora", lora)[0] == 0
        begun_at, after = (line["loss"] for line in lines(tmp_path / out / "probe.jsonl"))
        assert begun_at == pytest.approx(left_at, rel=1e-4) != pytest.approx(after, rel=1e-4)
    assert json.loads((tmp_path / "further" / "adapter" / "blockvid.json").read_text())["base"] == str(storybook.folder)
    assert run("generate", "board.txt", "--model", "further/adapter", "--device", "cpu", "-o", "a.mp4")[0] == 0
    refused(
        distil(run, "student/adapter", "wider", "--lora", 3), "has adapters of rank 2, not 3; use --lora 2, or --lora 0"
    )
    assert not list((tmp_path / "wider").glob("transformer*"))
