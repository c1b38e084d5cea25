"""Two ranks find the gradients of one: parameters sharded, or tokens split, with everything recomputed that can be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_two_ranks_learn_what_one_does(tmp_path: Path) -> None:
    """Through roll-outs, caches and adversaries. float32: gradients may differ by 1e-4 of the largest."""
    script = Path(__file__).parent / "rollout_ranks.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": str(script.parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(script), str(tmp_path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    far = json.loads((tmp_path / "far.json").read_text())
    assert len(far) == 2
    assert all(distance < 1e-4 for distance in far.values()), far
