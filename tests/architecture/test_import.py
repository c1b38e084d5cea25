"""Importing blockvid is cheap and its public face is small."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import blockvid

HEAVY = ("transformers", "diffusers")
PUBLIC_NAMES = 15
ROOT = Path(__file__).parents[2]
ARCHITECTURE, SOURCE = ROOT / "ARCHITECTURE.md", ROOT / "src" / "blockvid"


@pytest.mark.parametrize("module", ["blockvid", "blockvid.cli"])
def test_import_leaves_the_heavy_dependencies_alone(module):
    program = f"import sys, {module}; print(*sorted({set(HEAVY)!r} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout.strip(), ran.stderr) == (0, "", "")


def test_public_names_are_few_and_exist():
    public = getattr(blockvid, "__all__", ())
    assert len(public) <= PUBLIC_NAMES
    assert [name for name in public if not hasattr(blockvid, name)] == []


def test_the_layout_in_architecture_md_is_true():
    """Everything it names exists, and every module and folder at the top of the package is named."""
    block = re.search(r"```text\nsrc/blockvid/\n(.*?)```", ARCHITECTURE.read_text(encoding="utf-8"), re.DOTALL)
    assert block, "ARCHITECTURE.md has no layout block that begins with src/blockvid/"
    named, folder = set(), ""
    for line in block[1].splitlines():
        indent, entry = len(line) - len(line.lstrip()), line.split()[0]
        folder = entry if indent == 2 and entry.endswith("/") else folder
        named.add(entry if indent == 2 else folder + entry)
    assert {name for name in named if not (SOURCE / name).exists()} == set()
    tops = {path.name + "/" * path.is_dir() for path in SOURCE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert {top for top in tops - {"__pycache__/"} if top not in named} == set()
