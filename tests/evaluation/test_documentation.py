"""What docs/evaluation.md shows in Python is true, and the metrics it lists are those there are."""

from __future__ import annotations

import re
from pathlib import Path

from blockvid.evaluation.catalogue import metrics

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_the_example_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(block, "docs/evaluation.md", "exec"), {})


def test_every_metric_is_listed() -> None:
    assert not [metric.name for metric in metrics("light") if f"`{metric.name}`" not in PAGE]
