"""Generation on disk: what is left behind, what a kill costs, and what is refused."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from blockvid.attention.policies import DynamicSparse, Full, Semantic, SinkWindow, Window
from blockvid.attention.salience import Salience
from blockvid.attention.storage import Storage
from blockvid.errors import InputError
from blockvid.evaluation import watch as watching
from blockvid.evaluation.watch import Rule
from blockvid.flow import ChunkSchedule
from blockvid.generate import DriftError, Event, Existing, generate, run_folder
from blockvid.journal import Journal, Manifest
from blockvid.pipeline import Pipeline, Settings
from blockvid.sampling.noise import BoundaryNoise
from blockvid.storyboard import Storyboard
from blockvid.trace.record import FILE, Trace
from blockvid.video import probe, read_frames

if TYPE_CHECKING:
    from tiny_models import Tiny

pytest_plugins = ["tiny_models"]

BOARD = Storyboard.model_validate({"shots": [{"prompt": f"a fox runs {n}", "seconds": 1.0} for n in range(4)]})
FAST = Settings(steps=2)
THIN = Salience(tau=0.6, multiple=1)
LATENTS = [f"latents/{index:05d}.safetensors" for index in range(4)]

# For each number of events: a child made by fork is killed after so many.
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from blockvid.generate import Existing, generate
from blockvid.pipeline import Pipeline, Settings
from blockvid.storyboard import Storyboard

folder, board, place = Path(sys.argv[1]), Storyboard.model_validate_json(sys.argv[2]), Path(sys.argv[3])
torch.set_num_threads(1)
pipe = Pipeline.from_pretrained(folder, "cpu", torch.float32)
pipe.take(board)  # no child has to read the prompts

for kill in map(int, sys.argv[4:]):
    seen = []

    def watch(event):
        seen.append(event)
        if len(seen) == kill:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        generate(pipe, board, place / f"{kill}.mp4", Settings(steps=2), watch=watch)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
"""

# For each settings of a pickle: a child made by fork is killed in chunk 2, and this process goes on.
VICTIMS = """
import os, pickle, signal, sys
from pathlib import Path
import torch
from blockvid.generate import Existing, generate
from blockvid.pipeline import Pipeline
from blockvid.storyboard import Storyboard

folder, board, place = Path(sys.argv[1]), Storyboard.model_validate_json(sys.argv[2]), Path(sys.argv[3])
torch.set_num_threads(1)
pipe = Pipeline.from_pretrained(folder, "cpu", torch.float32)
pipe.take(board)  # no child has to read the prompts

def watch(event):
    if event.chunk == 2 and event.step == 1:
        os.kill(os.getpid(), signal.SIGKILL)

for number, settings in enumerate(pickle.loads((place / "settings.pickle").read_bytes())):
    child = os.fork()
    if child == 0:
        generate(pipe, board, place / f"{number}.mp4", settings, watch=watch)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    print(len((place / f"{number}.run" / "journal.jsonl").read_text().split('"sha256"')) - 1)
    generate(pipe, board, place / f"{number}.mp4", settings, Existing.RESUME)
"""


def frames(path: Path) -> np.ndarray:
    return np.concatenate(list(read_frames(path)))


def journaled(out: Path) -> int:
    lines = (run_folder(out) / "journal.jsonl").read_text().splitlines()
    return sum("index" in json.loads(line) for line in lines)


@pytest.fixture(scope="module")
def whole(pipe: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The video made in one go."""
    out = tmp_path_factory.mktemp("whole") / "clip.mp4"
    generate(pipe, BOARD, out, FAST)
    return out


@pytest.fixture(scope="module")
def made(pipe: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Settings], Path]:
    """The video made in one go with some settings, traced; each once."""
    found: dict[str, Path] = {}

    def make(settings: Settings) -> Path:
        if repr(settings) not in found:
            found[repr(settings)] = tmp_path_factory.mktemp("made") / "whole.mp4"
            generate(pipe, BOARD, found[repr(settings)], settings, trace=True)
        return found[repr(settings)]

    return make


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A finished run of its own."""
    shutil.copytree(whole.parent, tmp_path / "copy")
    return tmp_path / "copy" / "clip.mp4"


def same_video(a: Path, b: Path) -> bool:
    """The same latents to the bit, and the same pictures: x264 gives other bytes once in a few hundred encodings."""
    parts = [(run_folder(out) / name).read_bytes() for name in LATENTS for out in (a, b)]
    return parts[::2] == parts[1::2] and same_frames(frames(a), frames(b))


def same_frames(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.abs(a.astype(int) - b).mean() < 2


def test_a_video_its_contact_sheet_and_its_manifest(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "clip.mp4"
    sheet = generate(tiny.pipeline(), BOARD, out, FAST)
    found = probe(out)
    assert (found.width, found.height, found.fps, found.frames, found.seconds) == (32, 32, 8, 32, 4.0)
    assert len(frames(out)) == 32
    assert sheet == tmp_path / "clip.run" / "contact_sheet.png"
    with Image.open(sheet) as picture:
        assert picture.width == 4 * (240 + 4) + 4  # a still of every chunk
        assert picture.height > 240 + 8  # and its prompt
    manifest = json.loads((tmp_path / "clip.run" / "manifest.json").read_text())
    fixed, loose = manifest["determining"], manifest["informative"]
    assert (fixed["model"], len(fixed["fingerprint"]), fixed["seed"]) == (str(tiny.folder), 64, 0)
    assert fixed["geometry"] | {"width": 32, "height": 32, "fps": 8, "chunk_frames": 2} == fixed["geometry"]
    assert [shot["prompt"] for shot in fixed["storyboard"]["shots"]] == [shot.prompt for shot in BOARD.shots]
    settings = fixed["settings"]
    assert settings["steps"] == 2 and settings.pop("schedule") is None and None not in settings.values()
    assert settings["policy"] == {"kind": "Window", "chunks": 2}
    assert settings["solver"]["kind"] in ("UniPC", "Euler")
    assert all(fixed[name] for name in ("torch", "diffusers", "blockvid", "dtype", "device", "threads"))
    assert len(loose["seconds"]) == 4 and all(second > 0 for second in loose["seconds"])
    assert loose["created"] < loose["finished"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "clip.run"]


def test_events_only_go_forward_and_miss_no_step(pipe: Pipeline, tmp_path: Path) -> None:
    events: list[Event] = []
    generate(pipe, BOARD, tmp_path / "clip.mp4", replace(FAST, steps=3), watch=events.append)
    places = [(event.chunk, event.step, event.finished) for event in events]
    steps = [(1, False), (2, False), (3, False), (3, True)]
    assert places == [(chunk, step, done) for chunk in range(4) for step, done in steps]
    assert all(0 < event.fraction <= 1 for event in events) and events[-1].fraction == 1
    for before, after in pairwise(events):
        assert before.fraction < after.fraction
        assert before.elapsed <= after.elapsed and before.frames <= after.frames
    assert events[-1].frames == 32 and {(event.chunks, event.steps) for event in events} == {(4, 3)}


def interrupted(pipe: Pipeline, out: Path, whole: Path, settings: Settings, chunks: int) -> None:
    """The video at `whole` again, by a run that stopped after `chunks` chunks, in the next, and was then taken up."""

    class StoppedError(Exception):
        pass

    def stop(event: Event) -> None:
        if event.chunk == chunks:
            raise StoppedError

    with pytest.raises(StoppedError):
        generate(pipe, BOARD, out, settings, watch=stop, trace=True)
    assert out.exists() == (chunks > 0)
    if chunks:
        assert same_frames(frames(out), frames(whole)[: 1 + 8 * chunks])
    generate(pipe, BOARD, out, settings, Existing.RESUME, trace=True)


@pytest.mark.parametrize("chunks", [0, 1, 3])
@pytest.mark.parametrize("policy", [Window(0), Window(1), Full()], ids=repr)
def test_an_interrupted_run_continues_as_if_nothing_had_happened(
    pipe: Pipeline, made: Callable[[Settings], Path], tmp_path: Path, policy: Window | Full, chunks: int
) -> None:
    settings, out = replace(FAST, policy=policy), tmp_path / "clip.mp4"
    interrupted(pipe, out, made(settings), settings, chunks)
    assert same_video(out, made(settings))


REMEMBERED = {
    "sink, in host memory": replace(FAST, policy=SinkWindow(1, 1), storage=Storage("host")),
    "window in 8 bits": replace(FAST, storage=Storage(precision="int8")),
    "sparse in 8 bits": replace(FAST, policy=DynamicSparse(2, THIN), storage=Storage("host", "int8")),
    "semantic": replace(FAST, policy=Semantic(1, 1, THIN)),
    "semantic in 8 bits": replace(FAST, policy=Semantic(1, 1, THIN), storage=Storage(precision="int8")),
    "one layer chooses": replace(FAST, policy=Semantic(1, 1, replace(THIN, layer=1)), placement="absolute"),
    "context noise": replace(FAST, context_noise=0.2),
    "warm start": replace(FAST, schedule=ChunkSchedule("cosine")),
    "overlap": replace(FAST, overlap=1),
    "dissolve": replace(FAST, dissolve=2.0),
    "overlap, sparse": replace(FAST, overlap=2, policy=DynamicSparse(2, THIN)),
    "shared noise": replace(FAST, policy=DynamicSparse(1, THIN), noise=BoundaryNoise("shared", "joint", 1)),
}


@pytest.mark.parametrize("name", REMEMBERED)
def test_resuming_is_exact_whatever_is_remembered(
    pipe: Pipeline, made: Callable[[Settings], Path], tmp_path: Path, name: str
) -> None:
    settings, out = REMEMBERED[name], tmp_path / "clip.mp4"
    whole = made(settings)
    interrupted(pipe, out, whole, settings, 2)
    assert same_video(out, whole)
    assert (run_folder(out) / FILE).read_bytes() == (run_folder(whole) / FILE).read_bytes()
    trace = Trace.read(run_folder(out))
    plan = pipe.take(BOARD, settings).plan
    assert tuple(tuple((past.chunk, past.why) for past in chunk.recalled) for chunk in trace.chunks) == plan


def test_killed_and_resumed_whatever_is_remembered(
    storybook: Tiny, made: Callable[[Settings], Path], tmp_path: Path
) -> None:
    (tmp_path / "settings.pickle").write_bytes(pickle.dumps(list(REMEMBERED.values())))
    command = [sys.executable, "-c", VICTIMS, str(storybook.folder), BOARD.model_dump_json(), str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (ran.returncode, ran.stdout.split()) == (0, ["2"] * len(REMEMBERED)), ran.stderr
    for number, settings in enumerate(REMEMBERED.values()):
        assert same_video(tmp_path / f"{number}.mp4", made(settings))


def test_a_trace_is_left_on_demand_and_grows_with_the_video(pipe: Pipeline, tmp_path: Path, copy: Path) -> None:
    assert not (run_folder(copy) / FILE).exists()
    generate(pipe, BOARD, copy, FAST, Existing.RESUME, trace=True)  # nothing is made for it
    known: list[int] = []

    def watch(event: Event) -> None:
        if event.finished:
            known.append(len(Trace.read(run_folder(tmp_path / "clip.mp4")).chunks))

    generate(pipe, BOARD, tmp_path / "clip.mp4", FAST, watch=watch, trace=True)
    assert known == [1, 2, 3, 4]
    assert Trace.read(run_folder(tmp_path / "clip.mp4")) == Trace.read(run_folder(copy))


def test_the_journal_forgets_what_no_later_chunk_recalls(pipe: Pipeline, tmp_path: Path) -> None:
    """Chunk 0 is last recalled by chunk 2, chunk 2 by chunk 3, chunk 1 by chunk 4: the files stay for a chunk more."""
    fox, ball = "a fox runs", "a red ball"
    shots = [{"prompt": prompt, "seconds": 1.0} for prompt in (fox, ball, fox, ball, ball)]
    story, settings = Storyboard.model_validate({"shots": shots}), replace(FAST, policy=Semantic(1, 1, THIN))
    plan = pipe.take(story, settings).plan
    assert [[index for index, _ in recall] for recall in plan] == [[], [0], [0, 1], [1, 2], [1, 3]]
    memories = run_folder(tmp_path / "clip.mp4") / "memory"
    left: list[list[int]] = []

    def watch(event: Event) -> None:
        if event.finished:
            left.append(sorted(int(path.stem) for path in memories.iterdir()))

    generate(pipe, story, tmp_path / "clip.mp4", settings, watch=watch)
    assert left == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [1, 3]]


KILLS = (1, 6, 12)
"""Three events a chunk (two steps, and written): in chunk 0, between chunks, after the last one."""


def test_killed_at_any_moment_and_resumed(storybook: Tiny, pipe: Pipeline, whole: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(storybook.folder), BOARD.model_dump_json(), str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run([*command, *map(str, KILLS)], capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr
    for kill in KILLS:
        out, finished = tmp_path / f"{kill}.mp4", kill // 3
        if finished:
            assert journaled(out) == finished
            assert len(frames(out)) == min(32, 1 + 8 * finished)
        events: list[Event] = []
        generate(pipe, BOARD, out, FAST, Existing.RESUME, events.append)
        assert len(events) == 3 * (4 - finished)  # only the chunk in flight was made twice
        assert same_video(out, whole) and journaled(out) == 4


def test_resuming_a_finished_run_makes_nothing_but_the_file_that_is_gone(
    pipe: Pipeline, copy: Path, whole: Path
) -> None:
    manifest = run_folder(copy) / "manifest.json"
    before = manifest.read_bytes()
    copy.unlink()
    (run_folder(copy) / "contact_sheet.png").unlink()
    events: list[Event] = []
    for _ in range(2):
        assert generate(pipe, BOARD, copy, FAST, Existing.RESUME, events.append).exists()
        assert not events and same_video(copy, whole) and manifest.read_bytes() == before


@pytest.mark.parametrize("damage", ["segments", "segments/00001.mp4", "latents/00003.safetensors", "journal.jsonl"])
def test_damage_to_the_run_is_repaired(pipe: Pipeline, copy: Path, whole: Path, damage: str) -> None:
    path = run_folder(copy) / damage
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    generate(pipe, BOARD, copy, FAST, Existing.RESUME)
    assert same_video(copy, whole)


def test_damage_before_what_is_still_remembered_is_refused(pipe: Pipeline, copy: Path, whole: Path) -> None:
    (run_folder(copy) / "latents/00001.safetensors").unlink()
    with pytest.raises(InputError, match="was already removed; begin again with --overwrite"):
        generate(pipe, BOARD, copy, FAST, Existing.RESUME)
    assert copy.read_bytes() == whole.read_bytes()


def test_a_torn_journal_costs_the_chunk_that_was_torn(pipe: Pipeline, copy: Path, whole: Path) -> None:
    journal = run_folder(copy) / "journal.jsonl"
    chunks = [line for line in journal.read_text().splitlines(keepends=True) if "index" in json.loads(line)]
    journal.write_text("".join(chunks[:3]) + chunks[3][:20])
    (run_folder(copy) / "decoder/00003.safetensors").unlink()
    events: list[Event] = []
    try:
        generate(pipe, BOARD, copy, FAST, Existing.RESUME, events.append)
    except InputError as error:
        pytest.fail(str(error))
    assert same_video(copy, whole)


def test_resuming_what_does_not_exist_begins_it(pipe: Pipeline, tmp_path: Path, whole: Path) -> None:
    generate(pipe, BOARD, tmp_path / "clip.mp4", FAST, Existing.RESUME)
    assert same_video(tmp_path / "clip.mp4", whole)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (replace(FAST, seed=1), "seed is 1 but 0 in the run"),
        (replace(FAST, steps=3), "settings.steps is 3 but 2 in the run"),
        (replace(FAST, policy=Full()), "settings.policy"),
        (replace(FAST, storage=Storage(precision="int8")), 'settings.storage.precision is "int8" but "native"'),
        (replace(FAST, placement="zero"), 'settings.placement is "zero" but "compact"'),
        (replace(FAST, noise=BoundaryNoise("shared")), 'settings.noise.base is "shared" but "independent"'),
        (replace(FAST, schedule=ChunkSchedule("cosine")), "settings.schedule"),
        (replace(FAST, negative_prompt="red"), 'settings.negative_prompt is "red" but "blurry"'),
    ],
)
def test_another_video_is_not_continued(pipe: Pipeline, copy: Path, settings: Settings, message: str) -> None:
    with pytest.raises(InputError, match=message):
        generate(pipe, BOARD, copy, settings, Existing.RESUME)


def test_another_model_storyboard_or_picture_does_not_continue(
    pipe: Pipeline, copy: Path, wan: Tiny, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"model is .* but .* in the run"):
        generate(wan.pipeline(), BOARD, copy, FAST, Existing.RESUME)
    shots = (*BOARD.shots[:3], BOARD.shots[3].model_copy(update={"prompt": "a red ball"}))
    with pytest.raises(InputError, match=r"prompt is .a red ball. but"):
        generate(pipe, BOARD.model_copy(update={"shots": shots}), copy, FAST, Existing.RESUME)
    Image.new("RGB", (32, 32)).save(tmp_path / "black.png")
    with pytest.raises(InputError, match="image_sha256"):
        generate(pipe, BOARD, copy, replace(FAST, image=tmp_path / "black.png"), Existing.RESUME)


def test_an_earlier_video_is_only_lost_on_demand(pipe: Pipeline, copy: Path, whole: Path) -> None:
    with pytest.raises(InputError, match="already holds a finished run of 4 chunks"):
        generate(pipe, BOARD, copy, FAST)
    assert same_video(copy, whole)
    with pytest.raises(InputError, match="does not exist"):  # refused before the earlier run is discarded
        generate(pipe, BOARD, copy, replace(FAST, image=copy.parent / "absent.png"), Existing.OVERWRITE)
    assert same_video(copy, whole)
    generate(pipe, BOARD, copy, replace(FAST, seed=1), Existing.OVERWRITE)
    assert not same_video(copy, whole) and journaled(copy) == 4


@pytest.mark.parametrize("existing", [Existing.REFUSE, Existing.RESUME])
def test_a_video_from_elsewhere_is_not_touched(pipe: Pipeline, tmp_path: Path, existing: Existing) -> None:
    out = tmp_path / "holiday.mp4"
    out.write_bytes(b"precious")
    run_folder(out).mkdir()
    for _ in range(2):
        with pytest.raises(InputError, match="exists and was not made by a run here"):
            generate(pipe, BOARD, out, FAST, existing)
        assert out.read_bytes() == b"precious"
        run_folder(out).rmdir() if run_folder(out).exists() else None


def test_a_refusal_leaves_nothing_behind(pipe: Pipeline, wan: Tiny, tmp_path: Path) -> None:
    folder = shutil.copytree(wan.folder, tmp_path / "model")
    shutil.rmtree(folder / "text_encoder")  # found late: the text encoder is loaded for the first chunk
    late = Pipeline(replace(wan.pipeline().models, folder=folder))
    with pytest.raises(InputError, match="text_encoder"):
        generate(late, BOARD, tmp_path / "clip.mp4", FAST)
    with pytest.raises(InputError, match="is not a picture"):
        generate(pipe, BOARD, tmp_path / "clip.mp4", replace(FAST, image=Path(__file__)))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_a_run_that_another_process_began_meanwhile_is_left_to_it(
    pipe: Pipeline, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    """The other is quicker, if only by the lock in a folder that is ours, and has not come as far as a chunk."""
    out, make = tmp_path / "clip.mp4", os.mkdir
    manifest = Manifest.model_validate_json((run_folder(copy) / "manifest.json").read_bytes())

    with contextlib.ExitStack() as other:

        def late(path: Path, *arguments: int) -> None:
            monkeypatch.undo()
            if whose == "ours":
                make(path, *arguments)
            other.enter_context(Journal.create(run_folder(out), manifest))
            if whose == "theirs":
                make(path, *arguments)

        monkeypatch.setattr(os, "mkdir", late)
        with pytest.raises(InputError, match="is being written by process"):
            generate(pipe, BOARD, out, FAST)
        assert sorted(path.name for path in run_folder(out).iterdir()) == ["lock", "manifest.json"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for the first chunks of `BOARD` only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=136k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_the_finished_chunks(pipe: Pipeline, whole: Path, small_disk: Path) -> None:
    out = small_disk / "clip.mp4"
    with pytest.raises(InputError, match=r"cannot be written .* free space there and run again with --resume"):
        generate(pipe, BOARD, out, FAST)
    done = journaled(out)
    assert 0 < done < 4
    made = frames(out)
    assert len(made) >= 1 + 8 * done and same_frames(made, frames(whole)[: len(made)])
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    events: list[Event] = []
    generate(pipe, BOARD, out, FAST, Existing.RESUME, events.append)
    assert same_video(out, whole) and events[0].chunk == done


def test_a_refused_overwrite_leaves_the_earlier_run_alone(pipe: Pipeline, copy: Path, whole: Path) -> None:
    """Positions past the rotary table are only known once the plan is made; nothing may be gone by then."""
    long = Storyboard.model_validate({"shots": [{"prompt": "a fox runs", "seconds": 3000.0}]})
    with pytest.raises(InputError, match="would stand at latent frame"):
        generate(pipe, long, copy, replace(FAST, placement="absolute"), Existing.OVERWRITE)
    assert copy.read_bytes() == whole.read_bytes()
    generate(pipe, BOARD, copy, FAST, Existing.RESUME)
    assert same_video(copy, whole)


def test_a_watched_run_stops_where_a_rule_says_and_goes_on_as_if_it_had_not(pipe: Pipeline, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole.mp4", tmp_path / "stopped.mp4"
    generate(pipe, BOARD, whole, FAST, rules=())
    with pytest.raises(DriftError, match=r"^chunk 2: its exposure is .* \(limit 0\)$"):
        generate(pipe, BOARD, stopped, FAST, rules=(Rule.parse("exposure=0", "stop"),))
    assert journaled(stopped) == 2
    generate(pipe, BOARD, stopped, FAST, Existing.RESUME, rules=())
    assert same_video(stopped, whole)
    seen = [json.loads((run_folder(out) / watching.FILE).read_text())["chunks"] for out in (whole, stopped)]
    assert [c["scores"] for c in seen[0]] == [c["scores"] for c in seen[1]] and len(seen[0]) == journaled(whole)
