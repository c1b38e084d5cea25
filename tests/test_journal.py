"""Laws of the run folder: what was committed survives any kill, nothing else is trusted, resumed = uninterrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from blockvid.errors import InputError
from blockvid.journal import Determining, Informative, Journal, Manifest

CHUNKS = 5


def manifest(seed: int = 7, prompt: str = "a fox wakes", steps: int = 4) -> Manifest:
    determining = Determining(
        model="storybook",
        fingerprint="ab12",
        storyboard={"title": "", "shots": [{"prompt": prompt, "seconds": 4.0}, {"prompt": "it runs", "seconds": 2.0}]},
        geometry={"width": 64, "height": 48, "fps": 8.0},
        seed=seed,
        settings={"steps": steps, "guidance": 3.0, "policy": {"window": 2}},
        image_sha256=None,
        dtype="float32",
        device="cpu",
        threads=2,
        torch=torch.__version__,
        diffusers="0.42.1",
        blockvid="0.1.0",
    )
    return Manifest(determining=determining, informative=Informative.here())


def opened(folder: Path) -> Journal:
    if (folder / "manifest.json").exists():
        return Journal.resume(folder, manifest())
    return Journal.create(folder, manifest())


def generate(folder: Path, chunks: int = CHUNKS) -> None:
    """A stand-in for generation: every chunk is a function of the state after the one before it."""
    with opened(folder) as journal:
        start = journal.finished
        journal.forget("state", range(max(0, start - 1)))  # in case the kill fell between commit and forget
        state = journal.load(start - 1, "state")["value"] if start else torch.zeros(3)
        for index in range(start, chunks):
            latents, state = chunk(index, state)
            journal.commit(index, {"chunks": {"latents": latents}, "state": {"value": state}}, seconds=1.5)
            journal.forget("state", range(index))
        journal.finish()


def chunk(index: int, state: Tensor) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(index)
    latents = state[0] + torch.randn(2, 3, generator=generator)
    return latents, 0.5 * state + latents.sum()


def result(folder: Path) -> dict[str, bytes]:
    """Every file by name, but those that say when and where."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name not in ("lock", "manifest.json")}


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    generate(tmp_path / "whole")
    return tmp_path / "whole"


def test_what_is_committed_is_loaded_bit_for_bit(tmp_path: Path):
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "view": base[1:],
        "turned": base.T,
        "same": base,
        "again": base,
        "half": base.to(torch.bfloat16),
        "scalar": torch.tensor(3),
        "none": torch.zeros(0, 2),
        "nothing": torch.zeros(0),
        "mask": base > 3,
        "learned": base.clone().requires_grad_(),
    }
    with Journal.create(tmp_path / "run", manifest()) as journal:
        journal.commit(0, {"chunks": tensors}, seconds=0.25)
        with_own = journal.load(0, "chunks")
    with Journal.resume(tmp_path / "run", manifest()) as journal:
        assert journal.seconds == (0.25,)
        for loaded in (with_own, journal.load(0, "chunks")):
            assert loaded.keys() == tensors.keys()
            for name, tensor in tensors.items():
                assert loaded[name].dtype == tensor.dtype
                assert torch.equal(loaded[name], tensor)


# The process dies at its n-th file operation, for every n, and perhaps once more while it resumes. The audit hook sits
# in the interpreter, so the code under test is the code that runs.
KILLED = """
import os, signal, sys
from pathlib import Path
from test_journal import generate
def survives(folder, left):
    child = os.fork()
    if child == 0:
        def hook(event, arguments):
            nonlocal left
            if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.listdir", "os.scandir", "fcntl.flock"):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        generate(folder, chunks=3)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0
base, again = Path(sys.argv[1]), sys.argv[2] == "again"
n = 1
while not survives(base / str(n), n):
    if again:
        survives(base / str(n), 1 + 7 * n % 30)
    n += 1
print(n)
"""


def run(code: str, *arguments: object) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("times", ["once", "again"])
def test_killed_at_any_file_operation_and_resumed_a_run_equals_the_uninterrupted_one(tmp_path: Path, times: str):
    generate(tmp_path / "whole", chunks=3)
    kills = int(run(KILLED, tmp_path, times)) - 1
    assert kills > 40
    for n in range(1, kills + 2):
        generate(tmp_path / str(n), chunks=3)
        assert result(tmp_path / str(n)) == result(tmp_path / "whole"), f"killed at operation {n}"


@pytest.mark.parametrize(
    "torn", [b'{"index":3,"sha', b'{"index":3,"sha256":{},"seconds":1.0}', b"\0\0\0\0\n", b"7\n", b"[]\n"]
)
def test_a_torn_line_is_no_line(tmp_path: Path, finished: Path, torn: bytes):
    generate(tmp_path / "run", chunks=3)
    with (tmp_path / "run" / "journal.jsonl").open("ab") as file:
        file.write(torn)
    with Journal.resume(tmp_path / "run", manifest()) as journal:
        assert journal.finished == 3
    generate(tmp_path / "run")
    assert result(tmp_path / "run") == result(finished)


@pytest.mark.parametrize("damage", ["tampered", "cut", "missing"])
@pytest.mark.parametrize("index", [0, 2, CHUNKS - 1])
def test_a_damaged_chunk_ends_what_is_finished(finished: Path, damage: str, index: int):
    path = finished / "chunks" / f"{index:05d}.safetensors"
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if damage == "tampered" else data[:-1])
    with Journal.resume(finished, manifest()) as journal:
        assert journal.finished == index
        assert journal.manifest.informative.finished is None
        left = sorted(path.name for path in (finished / "chunks").iterdir())
        assert left == [f"{kept:05d}.safetensors" for kept in range(index)]
        if index:
            with pytest.raises(InputError, match=r"state.*already removed.*--overwrite"):
                journal.load(index - 1, "state")


def test_damage_is_healed_where_the_state_before_it_is_kept(tmp_path: Path):
    def keep_all(folder: Path) -> None:
        with opened(folder) as journal:
            for index in range(journal.finished, CHUNKS):
                before = journal.load(index - 1, "state")["value"] if index else torch.zeros(3)
                latents, state = chunk(index, before)
                journal.commit(index, {"chunks": {"latents": latents}, "state": {"value": state}}, seconds=1.5)

    keep_all(tmp_path / "whole")
    keep_all(tmp_path / "run")
    (tmp_path / "run" / "chunks" / "00002.safetensors").write_bytes(b"")
    keep_all(tmp_path / "run")
    assert result(tmp_path / "run") == result(tmp_path / "whole")


def test_only_our_own_files_are_swept(tmp_path: Path):
    generate(tmp_path / "run", chunks=2)
    debris = [
        tmp_path / "run" / "chunks" / name for name in ("00002.safetensors", ".00002.safetensors.part", ".tmpQ2x")
    ]
    users = [tmp_path / "run" / "chunks" / "notes.txt", tmp_path / "run" / "segments" / "00004.mp4"]
    users[1].parent.mkdir()
    for path in [*debris, *users]:
        path.write_bytes(b"x")
    Journal.resume(tmp_path / "run", manifest()).close()
    assert not any(path.exists() for path in debris)
    assert all(path.exists() for path in users)


def test_forgotten_files_are_gone_and_not_missed(tmp_path: Path):
    generate(tmp_path / "run", chunks=4)
    assert [path.name for path in (tmp_path / "run" / "state").iterdir()] == ["00003.safetensors"]
    with Journal.resume(tmp_path / "run", manifest()) as journal:
        assert journal.finished == 4
        assert [journal.holds(index, "state") for index in range(5)] == [False, False, False, True, False]
        assert all(journal.holds(index, "chunks") for index in range(4))


def test_another_run_is_not_resumed_and_the_difference_is_named(finished: Path):
    cases: Mapping[str, Manifest] = {
        r"seed is 8 but 7 in the run .*; resume with 7, or begin again with --overwrite": manifest(seed=8),
        r'storyboard\.shots\.0\.prompt is "an owl" but "a fox wakes"': manifest(prompt="an owl"),
        r"seed is 8 but 7 .*\(and 1 more differ\)": manifest(seed=8, steps=5),
        r"settings\.steps is 5 but 4": manifest(steps=5),
    }
    for message, other in cases.items():
        with pytest.raises(InputError, match=message):
            Journal.resume(finished, other)
    Journal.resume(finished, manifest()).close()


def test_every_determining_field_determines(finished: Path):
    same = manifest()
    for name in Determining.model_fields:
        value = getattr(same.determining, name)
        changed = {**value, "extra": 1} if isinstance(value, dict) else 99 if isinstance(value, int) else "other"
        other = same.determining.model_copy(update={name: changed})
        with pytest.raises(InputError, match=f"^{name}"):
            Journal.resume(finished, Manifest(determining=other, informative=same.informative))


def test_a_run_is_never_written_over_unasked(tmp_path: Path, finished: Path):
    with pytest.raises(InputError, match=r"finished run of 5 chunks; pass --resume .* --overwrite .* another output"):
        Journal.create(finished, manifest())
    generate_one = tmp_path / "one"
    with Journal.create(generate_one, manifest()) as journal:
        journal.commit(0, {"chunks": {"latents": torch.zeros(1)}}, seconds=1.0)
    with pytest.raises(InputError, match="an unfinished run of 1 chunk;"):
        Journal.create(generate_one, manifest())
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"not a run folder, it holds cat\.jpg"):
        Journal.create(photos, manifest())
    with pytest.raises(InputError, match="no run to resume; leave out --resume"):
        Journal.resume(tmp_path / "nowhere", manifest())
    with pytest.raises(InputError, match="cannot be written"):
        Journal.create(tmp_path / "no" / "where", manifest())


def test_a_run_without_a_chunk_gives_way(tmp_path: Path):
    Journal.create(tmp_path / "run", manifest(seed=1)).close()
    Journal.create(tmp_path / "run", manifest(seed=2)).close()
    Journal.resume(tmp_path / "run", manifest(seed=2)).close()


def test_discarding_makes_room_for_a_new_run(finished: Path):
    with Journal.resume(finished, manifest()), pytest.raises(InputError, match="is being written by process"):
        Journal.discard(finished)
    assert len(result(finished)) == CHUNKS + 2
    Journal.discard(finished)
    Journal.discard(finished)
    with Journal.create(finished, manifest(seed=9)) as journal:
        assert journal.finished == 0


HOLDING = """
import sys
from pathlib import Path
from test_journal import opened
journal = opened(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_two_processes_never_write_one_run(tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", HOLDING, str(tmp_path / "run")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        for begin in (Journal.create, Journal.resume):
            with pytest.raises(InputError, match=f"is being written by process {other.pid};"):
                begin(tmp_path / "run", manifest())
        other.kill()
    Journal.resume(tmp_path / "run", manifest()).close()


FULL = """
import resource, sys
from pathlib import Path
import torch
from blockvid.errors import InputError
from test_journal import generate, opened
folder = Path(sys.argv[1])
generate(folder, chunks=3)
with opened(folder) as journal:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    for attempt in range(2):
        try:
            journal.commit(3, {"chunks": {"latents": torch.zeros(int(sys.argv[3]))}}, seconds=1.0)
        except InputError as error:
            print(error)
    assert journal.finished == 3
"""


@pytest.mark.parametrize(("limit", "numbers"), [(2000, 10_000), (620, 1)])
def test_a_full_disk_is_an_input_error_and_the_run_goes_on_later(
    tmp_path: Path, finished: Path, limit: int, numbers: int
):
    messages = run(FULL, tmp_path / "run", limit, numbers).splitlines()
    assert len(messages) == 2
    assert all("cannot be written" in text and "run again with --resume" in text for text in messages)
    assert not [name for name in result(tmp_path / "run") if Path(name).name.startswith(".")]
    generate(tmp_path / "run")
    assert result(tmp_path / "run") == result(finished)


def test_a_finished_run_says_what_it_took(finished: Path):
    written = json.loads((finished / "manifest.json").read_text())
    assert written["informative"]["seconds"] == [1.5] * CHUNKS
    assert written["informative"]["finished"]
    assert written["informative"]["processor"]
    assert Manifest.model_validate(written).determining == manifest().determining
