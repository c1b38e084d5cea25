"""What docs/data.md shows is true of a folder that was encoded."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from blockvid.data.encode import encode
from blockvid.data.index import COLUMNS
from data.made_clips import clip

if TYPE_CHECKING:
    from tiny_models import Tiny

pytest_plugins = ["tiny_models"]
PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_page_is_true(storybook: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "clips").mkdir()
    clip(tmp_path / "clips", "fox", 25)
    encode(tmp_path / "clips", tmp_path / "shards", storybook.pipeline().models)
    monkeypatch.chdir(tmp_path)
    example = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    exec(compile(example, "docs/data.md", "exec"), {})
    (checks,) = re.findall(r"## Checking with tar\n\n```sh\n(.*?)```", PAGE, re.DOTALL)
    subprocess.run(["sh", "-ec", checks], check=True, capture_output=True)
    facts = json.loads((tmp_path / "out" / "fox.00000.json").read_text())
    (row,) = re.findall(r"\| `fox.00003.json` \| (.*) \|", PAGE)
    assert re.findall(r"`(\w+)`", row) == list(facts)
    (tree,) = re.findall(r"```text\nshards/\n(.*?)```", PAGE, re.DOTALL)
    named = [line.split()[0] for line in tree.splitlines()]
    assert [name for name in named if not (tmp_path / "shards" / name).exists()] == []


def test_the_columns_are_those_of_the_index():
    table = PAGE.partition("The columns of the index")[2].partition("So a chunk")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == list(COLUMNS)
