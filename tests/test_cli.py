"""The command line as its user meets it: what works, what is said, and how everything else is refused in one line."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from blockvid.attention.policies import Full
from blockvid.attention.storage import Storage
from blockvid.estimate import estimate
from blockvid.model.load import describe_models
from blockvid.pipeline import Settings
from blockvid.storyboard import Storyboard
from blockvid.trace.record import FILE, HEADINGS
from blockvid.video import probe
from command_line import PROGRAM, Run, interruptible, refused

if TYPE_CHECKING:
    from tiny_models import Tiny

pytest_plugins = ["tiny_models"]

SHOTS = ["a fox runs", "a red ball [rolls]", "the green hill"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """Three chunks of a second."""
    path = tmp_path / "board.toml"
    path.write_text("".join(f"[[shots]]\nprompt = {json.dumps(prompt)}\nseconds = 1.0\n" for prompt in SHOTS))
    return path


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "60"}
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, env=environment, preexec_fn=interruptible, **pipes)


def check_refusal(result: tuple[int, str, str], offending: str, left: Path) -> None:
    """Refused, and nothing was written."""
    refused(result, offending)
    assert list(left.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["storyboard", "check", "--help"]])
def test_help_is_quick(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['blockvid', *{arguments}]\nfrom blockvid.cli import main\ntry: main()\n"
        "finally: assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    assert "usage: blockvid" in done.stdout and "None" not in done.stdout


def test_generate_from_a_shell(tiny: Tiny, board: Path, place: Path) -> None:
    process = start("generate", board, *tiny.options, "--steps", 2, "-o", "a[b].mp4", cwd=place)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    found = probe(place / "a[b].mp4")
    assert (found.frames, found.fps, found.seconds, found.width, found.height) == (24, 8, 3, 32, 32)
    assert (place / "a[b].run" / "contact_sheet.png").is_file()
    assert out.splitlines()[0].startswith("a[b].mp4: 3 s of video in ")
    assert out.splitlines()[1:] == [f"contact sheet: {place}/a[b].run/contact_sheet.png", "run folder: a[b].run"]
    assert [line[:22] for line in err.splitlines()] == [f"chunk {n} of 3 written, "[:22] for n in (1, 2, 3)]
    manifest = json.loads((place / "a[b].run" / "manifest.json").read_text())
    assert manifest["informative"]["finished"] and len(manifest["informative"]["seconds"]) == 3


def test_resume_and_overwrite(storybook: Tiny, board: Path, place: Path, run: Run) -> None:
    command = ("generate", board, *storybook.options, "-o", "clip.mp4")
    assert run(*command)[0] == 0
    video = (place / "clip.mp4").read_bytes()
    status, _, err = run(*command)
    assert status == 2 and "already holds a finished run of 3 chunks; pass --resume" in err
    for option, value, name in (("--seed", 1, "seed is 1 but 0"), ("--steps", 3, "steps is 3 but 2")):
        status, _, err = run(*command, "--resume", option, value)
        assert status == 2 and name in err and len(err.splitlines()) == 1
    (place / "clip.mp4").unlink()
    status, _, err = run(*command, "--resume")
    assert (status, err) == (0, "") and (place / "clip.mp4").read_bytes() == video
    assert run(*command, "--overwrite", "--seed", 1)[0] == 0
    assert (place / "clip.mp4").read_bytes() != video


def test_ctrl_c_leaves_a_playable_video_and_says_how_to_go_on(
    storybook: Tiny, board: Path, place: Path, run: Run
) -> None:
    command = ("generate", board, *storybook.options, "--steps", 300, "-o", "clip.mp4")
    process = start(*command, cwd=place)
    assert process.stderr is not None and process.stderr.readline().startswith("chunk 1 of 3 written")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    last = err.splitlines()[-1]
    assert last == "stopped; clip.mp4 plays up to chunk 1; to continue, give the same command with --resume"
    assert probe(place / "clip.mp4").frames == 9
    status, _, err = run(*command, "--resume")
    assert status == 0 and [line[:7] for line in err.splitlines()] == ["chunk 2", "chunk 3"]
    assert probe(place / "clip.mp4").frames == 24


def test_ctrl_c_before_the_first_chunk(storybook: Tiny, board: Path, place: Path) -> None:
    process = start("generate", board, *storybook.options, "--steps", 1000, "-o", "clip.mp4", cwd=place)
    until = time.monotonic() + 60
    while not (place / "clip.run/manifest.json").exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "no chunk was finished yet" in err and "Traceback" not in err


def test_dry_run_tells_the_cost_and_leaves_nothing(tiny: Tiny, board: Path, place: Path, run: Run) -> None:
    status, out, err = run("generate", board, *tiny.options, "--steps", 2, "--dry-run")
    assert (status, err, list(place.iterdir())) == (0, "", [])
    text = " ".join(out.split())
    for part in ("24 frames, 3 s at 8 fps, 32x32", "chunks 3, 2 steps each, 9 transformer calls", "tokens 12 in"):
        assert part in text
    assert re.search(r"peak memory about [\d.]+ GB .* time about [\d.]+ s", text)


STORYBOARDS: dict[str, tuple[str, bytes | None, str]] = {
    "missing": ("absent.toml", None, "absent.toml: no such file"),
    "binary": ("board.toml", bytes(range(256)), "is binary"),
    "empty": ("board.toml", b"", "is empty"),
    "no seconds": ("board.toml", b"[[shots]]\nprompt = 'x'\nseconds = 0.0\n", "0"),
    "negative": ("board.toml", b"[[shots]]\nprompt = 'x'\nseconds = -3.0\n", "-3"),
    "too short": ("board.toml", b"[[shots]]\nprompt = 'x'\nseconds = 0.1\n", "0.1 s"),
    "many": ("board.txt", b"a fox\n" * 10_000, "1000"),
    "unknown key": ("board.toml", b"[[shots]]\nprompt = 'x'\nsecnds = 1.0\n", "secnds"),
    "ending": ("board.doc", b"a fox", "'.doc'"),
    "no image": ("board.toml", b"[[shots]]\nprompt = 'x'\nimage = 'gone.png'\n", "gone.png"),
    "bad image": ("board.toml", b"[[shots]]\nprompt = 'x'\nimage = 'board.toml'\n", "board.toml is not a picture"),
}


@pytest.mark.parametrize("case", STORYBOARDS)
def test_unusable_storyboards(storybook: Tiny, tmp_path: Path, place: Path, run: Run, case: str) -> None:
    name, content, offending = STORYBOARDS[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    check_refusal(run("generate", tmp_path / name, *storybook.options), offending, place)


def test_a_folder_is_no_storyboard(storybook: Tiny, tmp_path: Path, place: Path, run: Run) -> None:
    check_refusal(run("generate", tmp_path, *storybook.options), "is a folder", place)


@pytest.mark.parametrize(
    ("options", "offending"),
    [
        (["--guidance", "-1"], "guidance -1.0"),
        (["--guidance", "nan"], "guidance nan"),
        (["--steps", "0"], "0 steps"),
        (["--steps", "5000"], "5000 steps"),
        (["--shift", "0"], "0"),
        (["--window", "-1"], "window of -1"),
        (["--shuffle-window", "-1"], "shuffle window of -1"),
        (["--keep", "sink-window", "--sink", "-1"], "sink of -1"),
        (["--tau", "0"], "tau 0.0"),
        (["--tau", "1.5"], "tau 1.5"),
        (["--tau", "nan"], "tau nan"),
        (["--similar", "-1"], "recalling -1 similar"),
        (["--salience-layer", "-1"], "layer -1"),
        (
            ["--keep", "semantic", "--salience-layer", "99"],
            "layer 99 cannot choose: the model has 2 layers; use 0 to 1",
        ),
        (["--schedule", "linear", "--eps-min", "0"], "eps_min 0.0"),
        (["--schedule", "linear", "--eps-max", "1.5"], "eps_max 1.5"),
        (["--schedule", "sigmoid", "--alpha", "0"], "alpha 0.0"),
        (["--max-memory", "much"], "--max-memory 'much' is no size"),
        (["--max-memory=-5GB"], "--max-memory '-5GB' is no size"),
        (["--max-memory", "0"], "0.00 GB"),
        (["--max-memory", "1MB"], "0.00 GB"),
        (["--max-memory", "1MB", "--store", "int8"], "--store int8 needs"),
        (["--overlap", "-1"], "an overlap of -1 latent frames"),
        (["--dissolve", "-1"], "a dissolve of -1.0 is not"),
        (["--overlap", "3"], "an overlap of 3 latent frames"),
        (["--seed", "-1"], "seed -1"),
        (["--seed", str(10**30)], f"seed {10**30}"),
        (["--width", "100"], "width 100"),
        (["--width", "-16"], "width -16"),
        (["--fps", "0"], "fps 0"),
        (["--fps", "nan"], "fps nan"),
        (["--chunk-frames", "0"], "chunk_frames 0"),
        (["--resume", "--overwrite"], "--resume"),
        (["--device", "tpu"], "device 'tpu'"),
        (["--device", "cuda:99"], "device cuda:99"),
        (["--model", "no such model"], "'no such model'"),
        (["--image", "absent.png"], "absent.png"),
        (["--image", "/"], "/ is a folder"),
        (["--image", __file__], "test_cli.py is not a picture"),
        (["--index", "3"], "index 3"),
        (["-o", "absent/clip.mp4"], "absent does not exist"),
        (["-o", "/"], "/"),
        (["-o", "clip.avi"], "clip.avi"),
        (["-o", "/proc/clip.mp4"], "/proc/clip.mp4"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("dry", [False, True], ids=["", "dry"])
def test_unusable_options(
    storybook: Tiny, board: Path, place: Path, run: Run, options: list[str], offending: str, dry: bool
) -> None:
    if dry and options[0] in ("-o", "--image"):
        pytest.skip("a dry run neither reads pictures nor writes")
    check_refusal(run("generate", board, *storybook.options, *options, *["--dry-run"] * dry), offending, place)


def test_a_folder_in_the_place_of_the_video(
    storybook: Tiny, board: Path, tmp_path: Path, place: Path, run: Run
) -> None:
    (tmp_path / "folder.mp4").mkdir()
    result = run("generate", board, *storybook.options, "-o", tmp_path / "folder.mp4")
    check_refusal(result, "folder.mp4 is a folder", place)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
@pytest.mark.parametrize("cut", [None, 200, 0])
def test_unusable_weights(
    wan: Tiny, board: Path, tmp_path: Path, place: Path, run: Run, part: str, cut: int | None
) -> None:
    folder = shutil.copytree(wan.folder, tmp_path / "model")
    (path,) = (folder / part).glob("*.safetensors")
    path.unlink() if cut is None else path.write_bytes(path.read_bytes()[:cut])
    offending = f"{path} is missing" if cut is None else f"{path} is not a whole safetensors file"
    check_refusal(run("generate", board, *wan.options, "--model", folder), offending, place)


@pytest.mark.parametrize("name", ["tokenizer/tokenizer_config.json", "text_encoder/config.json", "vae/config.json"])
def test_unusable_model_folders(wan: Tiny, board: Path, tmp_path: Path, place: Path, run: Run, name: str) -> None:
    folder = shutil.copytree(wan.folder, tmp_path / "model")
    (folder / name).unlink()
    check_refusal(run("generate", board, *wan.options, "--model", folder), name.split("/")[1], place)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seed", "abc"],
        ["--solver", "magic"],
        ["--colour", "red"],
        ["--keep", "half"],
        ["--store", "disk"],
        ["--schedule", "steep"],
        ["--shuffle", "all"],
    ],
    ids=lambda value: value[0],
)
def test_unknown_arguments_are_refused(board: Path, place: Path, run: Run, arguments: list[str]) -> None:
    check_refusal(run("generate", board, *arguments), arguments[0], place)


@pytest.mark.parametrize(
    ("arguments", "offending"),
    [
        (["paint"], "use one of generate, "),
        ([], "Expected one of {generate, "),
        (["generate"], "Missing from blockvid generate: PATH"),
        (["generate", "board.toml", "--stps", "3"], "--stps, 3; use --steps"),
        (["generate", "board.toml", "--steps", "x"], "--steps x is no INT"),
        (["generate", "board.toml", "--guidance-rule", "none"], "--guidance-rule none is unknown; use cfg, cfg-zero;"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_commands_are_refused(place: Path, run: Run, arguments: list[str], offending: str) -> None:
    check_refusal(run(*arguments), offending, place)


def test_a_refusal_from_a_shell_is_one_line(storybook: Tiny, board: Path, place: Path) -> None:
    """Libraries that write to stderr themselves are heard here, unlike in one process with the tests."""
    for options, offending in ((["--image", __file__], "not a picture"), (["--device", "cuda:99"], "cuda:99")):
        process = start("generate", board, *storybook.options, *options, cwd=place)
        out, err = process.communicate(timeout=60)
        check_refusal((process.returncode, out, err), offending, place)


def test_a_limit_on_file_sizes_keeps_the_finished_chunks(
    storybook: Tiny, tmp_path: Path, place: Path, run: Run
) -> None:
    """The disk refuses once the video outgrows it, after some chunks; what was finished plays and continues."""
    board = tmp_path / "long.txt"
    board.write_text("a fox runs\n" * 3)
    command = ["generate", str(board), *storybook.options, "-o", "clip.mp4"]
    done = subprocess.run(
        [*PROGRAM, *command], cwd=place, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)),
    )  # fmt: skip
    *written, last = done.stderr.splitlines()
    assert done.returncode == 2 and "cannot be written (File too large); free space" in last
    assert 0 < len(written) < 12 and all("written" in line for line in written)
    assert probe(place / "clip.mp4").frames == 1 + 8 * len(written)
    status, _, err = run(*command, "--resume")
    assert status == 0 and len(err.splitlines()) == 12 - len(written)


def test_a_picture_opens_the_video(storybook: Tiny, board: Path, place: Path, tmp_path: Path, run: Run) -> None:
    Image.new("RGB", (64, 48), "red").save(tmp_path / "red.png")
    assert run("generate", board, *storybook.options, "--image", tmp_path / "red.png")[0] == 0
    manifest = json.loads((place / "out.run/manifest.json").read_text())
    assert len(manifest["determining"]["image_sha256"]) == 64


KEPT = [
    ("window", "auto", "naive", "local"),
    ("sink-window", "host", "linear", "joint"),
    ("dynamic-sparse", "int8", "cosine", "freenoise"),
    ("semantic", "host-int8", "sigmoid", "local"),
    ("full", "device", "naive", "joint"),
]


@pytest.mark.parametrize(("keep", "store", "schedule", "shuffle"), KEPT)
def test_what_is_remembered_and_how_is_in_the_manifest(
    storybook: Tiny, board: Path, place: Path, run: Run, keep: str, store: str, schedule: str, shuffle: str
) -> None:
    chosen = ["--keep", keep, "--store", store, "--schedule", schedule, "--shuffle", shuffle, "--shuffle-window", 1]
    status, _, err = run("generate", board, *storybook.options, *chosen, "--noise", "shared", "--tau", 0.7)
    assert status == 0, err
    assert probe(place / "out.mp4").frames == 24
    settings = json.loads((place / "out.run/manifest.json").read_text())["determining"]["settings"]
    assert settings["policy"]["kind"] == "".join(word.capitalize() for word in keep.split("-"))
    if "salience" in settings["policy"]:
        assert settings["policy"]["salience"]["tau"] == 0.7
    assert settings["storage"]["place"] == ("host" if "host" in store else "device")
    assert settings["storage"]["precision"] == ("int8" if "int8" in store else "native")
    assert settings["schedule"]["kind"] == schedule
    noise = settings["noise"]
    assert (noise["base"], noise["shuffle"], noise["window"]) == ("shared", shuffle, 1)


def peak(model: Tiny, board: Path, settings: Settings) -> float:
    """Bytes that the estimate of a video at the tests' sizes comes to."""
    models = describe_models(str(model.folder), torch.float32, 32, 32, 8.0, 2)
    storyboard = Storyboard.read(board)
    return estimate(models, storyboard, settings.resolved(models, storyboard), torch.device("cpu")).memory.peak


def test_a_budget_that_8_bits_keep_chooses_8_bits(wan: Tiny, board: Path, place: Path, run: Run) -> None:
    whole, packed = (peak(wan, board, Settings(storage=Storage(precision=bits))) for bits in ("native", "int8"))
    command = ("generate", board, *wan.options, "--steps", 1, "--overwrite", "--max-memory")
    for budget, precision in ((whole + 1, "native"), ((whole + packed) / 2, "int8")):
        status, _, err = run(*command, f"{budget:.0f}")
        assert status == 0, err
        manifest = json.loads((place / "out.run/manifest.json").read_text())
        assert manifest["determining"]["settings"]["storage"]["precision"] == precision


def test_a_budget_that_a_window_keeps_is_refused_with_that_advice(
    wan: Tiny, tmp_path: Path, place: Path, run: Run
) -> None:
    board = tmp_path / "long.txt"
    board.write_text("a fox runs\n" * 20)
    window, full = (
        peak(wan, board, Settings()),
        peak(wan, board, Settings(policy=Full(), storage=Storage("device", "int8"))),
    )
    options = ("generate", board, *wan.options, "--keep", "full", "--max-memory", f"{(window + full) / 2:.0f}")
    check_refusal(run(*options), "that this needs at least; --keep window --window 2 would need ", place)


def test_a_trace_is_printed_and_drawn(storybook: Tiny, board: Path, place: Path, run: Run) -> None:
    assert run("generate", board, *storybook.options, "--keep", "semantic", "--trace")[0] == 0
    status, out, err = run("trace", "out.run")
    assert (status, err) == (0, "")
    *table, picture = out.splitlines()
    assert all(heading.split()[0] in " ".join(table[:3]) for heading in HEADINGS)
    assert [line.split()[0] for line in table[-3:]] == ["0", "1", "2"]
    assert picture == "out.run/trace.png"
    with Image.open(place / picture) as drawn:
        assert drawn.format == "PNG"
    assert run("trace", place / "out.run" / FILE, "-o", "drawn.svg")[0] == 0
    assert "<svg" in (place / "drawn.svg").read_text()


@pytest.mark.parametrize(
    ("content", "offending"),
    [
        (None, "absent.json does not exist"),
        (b"", "absent.json"),
        (b'{"chunks": []}', "absent.json"),
        (b"\xff", "absent.json"),
    ],
)
def test_unusable_traces(tmp_path: Path, place: Path, run: Run, content: bytes | None, offending: str) -> None:
    path = tmp_path / "absent.json"
    if content is not None:
        path.write_bytes(content)
    check_refusal(run("trace", path), offending, place)
    check_refusal(run("trace", tmp_path), "trace.json does not exist", place)


def test_storyboard_commands(board: Path, run: Run) -> None:
    status, out, _ = run("storyboard", "check", board)
    assert status == 0 and "a red ball [rolls]" in out and "3 shots, 3 chunks, 3 s, 24 frames at 8 fps" in out
    assert json.loads(run("storyboard", "schema")[1])["title"] == "Storyboard"
    status, _, err = run("storyboard", "check", board, "--fps", "0")
    assert status == 2 and "fps 0" in err
