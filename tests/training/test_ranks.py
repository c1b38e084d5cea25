"""Two ranks learn what one learns, however they share the work; a killed one changes nothing; shards suit any number.

One torchrun makes everything (ranks.py), while this process trains alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from blockvid.model.dit import BlockDiT
from blockvid.training.loop import Loop
from blockvid.training.sharding import World
from training.ranks import KILLED, MESHES, SAVED, STEPS, loop, rows

every_mesh = pytest.mark.parametrize("mesh", MESHES)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a run of each mesh, one that was interrupted, and `single`, made by this process."""
    out = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", "1", "--monitor-interval", "0.2", str(Path(__file__).with_name("ranks.py")), str(out)]
    # The store that torchrun shares by default keeps the addresses of the ranks that died.
    environment = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"}
    with (out / "said.log").open("w") as said:
        ranks = subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT)
        try:
            loop(out / "single", World()).run()
            assert ranks.wait(timeout=300) == 0, (out / "said.log").read_text()[-5000:]
        finally:
            ranks.kill()
    yield out


def learned(made: Loop) -> dict[str, Tensor]:
    return made._tensors()


def comparable(folder: Path) -> list[dict[str, float]]:
    """Rows without what is drawn from the state of each process."""
    return [{name: value for name, value in row.items() if name != "random"} for row in rows(folder)]


@every_mesh
def test_two_ranks_learn_what_one_learns(runs: Path, mesh: str) -> None:
    """Bit for bit on copies. Else float32 sums have another order: 1e-5 of a loss, 1e-5 absolute of the weights."""
    for ours, single in zip(comparable(runs / mesh), comparable(runs / "single"), strict=True):
        assert ours == pytest.approx(single, rel=1e-5, abs=1e-6)
    ours, single = (learned(loop(runs / name, World())) for name in (mesh, "single"))
    assert ours.keys() == single.keys()
    for name, tensor in single.items():
        bits = {"rtol": 0.0, "atol": 0.0} if mesh == "replicated" else {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(ours[name], tensor, **bits, msg=lambda m, n=name: f"{n}: {m}")


def test_two_ranks_go_on_as_one(runs: Path, tmp_path: Path) -> None:
    """From the same weights in other shards: the next loss is equal bit for bit, and so are the averaged weights."""
    folder = tmp_path / "one"
    shutil.copytree(runs / "sharded", folder)
    (folder / "checkpoints" / "LATEST").write_text(f"step-{SAVED}")
    made = loop(folder, World())
    assert made.step == SAVED
    made.run()
    two, one = comparable(runs / "sharded"), comparable(folder)
    assert one[SAVED]["loss"] == two[SAVED]["loss"] and one[SAVED]["critic_loss"] == two[SAVED]["critic_loss"]
    assert one[STEPS - 1] == pytest.approx(two[STEPS - 1], rel=1e-5, abs=1e-6)


def test_a_killed_rank_changes_nothing(runs: Path) -> None:
    """It dies while step KILLED is being saved: all go on from the save before, and repeat the same losses."""
    assert json.loads((runs / "continued.json").read_text())["began"] == SAVED < KILLED
    assert rows(runs / "interrupted") == rows(runs / "sharded")
    ours, whole = (learned(loop(runs / name, World())) for name in ("interrupted", "sharded"))
    assert all(torch.equal(ours[name], tensor) for name, tensor in whole.items())


def test_shards_are_exported_as_one_folder(runs: Path) -> None:
    exported = BlockDiT.from_pretrained(runs / "exported" / "transformer")
    average = loop(runs / "tokens", World()).average.weights
    for name, parameter in exported.named_parameters():
        assert torch.equal(parameter, average[name])


def test_what_does_not_divide_is_refused(runs: Path) -> None:
    said = json.loads((runs / "said.json").read_text())
    assert said["heads"] == "3 heads do not divide over 2 sequence-parallel ranks; use sp 1 or 3"
    assert "4 processes and 2 run" in said["mesh"]
    assert "neither 3 rows nor 5 columns" in said["grid"]
    assert said["other rank"] == "rank 1 objects"
