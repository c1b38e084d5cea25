"""An exported network is the old one or the new one, whole, whenever the export was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from blockvid.training.export import exported

# A child dies at its n-th file operation of replacing zeros by ones, for every n; then another takes up.
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from blockvid.model.dit import BlockDiT
from blockvid.training.export import exported, save_network
from training.ranks import tiny

def filled(value):
    network = tiny()
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, value)
    return network

def survives(folder, left):
    child = os.fork()
    if child == 0:
        def hook(event, arguments):
            nonlocal left
            if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "os.scandir"):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        save_network(ones, folder)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0

zeros, ones, found, n = filled(0.0), filled(1.0), [], 1
while True:
    folder = Path(sys.argv[1]) / str(n) / "transformer"
    save_network(zeros, folder)
    survived = survives(folder, n)
    assert exported(folder)
    values = {float(value) for p in BlockDiT.from_pretrained(folder).parameters() for value in (p.min(), p.max())}
    found.append(*values)
    save_network(ones, folder)
    assert [path.name for path in folder.parent.iterdir()] == ["transformer"]
    if survived:
        break
    n += 1
print(found)
"""


def test_an_export_killed_anywhere_leaves_the_old_weights_or_the_new(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [float(value) for value in done.stdout.strip()[1:-1].split(",")]
    assert found == sorted(found) and set(found) == {0.0, 1.0}


def test_what_was_never_exported_is_not_there(tmp_path: Path) -> None:
    assert not exported(tmp_path / "transformer") and not list(tmp_path.iterdir())
