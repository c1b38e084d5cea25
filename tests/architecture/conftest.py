"""The package's source as the architecture tests read it: parsed, never imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "blockvid"


@dataclass(frozen=True)
class Module:
    """One source file."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        """The path inside the package."""
        return self.path.relative_to(SOURCE).as_posix()

    def at(self, node: ast.expr | ast.stmt | ast.excepthandler) -> str:
        """file:line, as an editor opens it."""
        return f"{self.name}:{node.lineno}"

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Every function and method, nested ones too."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node

    def imports(self) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
        """Every absolute import, also those inside functions, as (statement, dotted name)."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.fixture(scope="session")
def modules() -> list[Module]:
    """All source files of the package."""
    found = sorted(SOURCE.rglob("*.py"))
    assert found, f"no source under {SOURCE}"
    texts = [path.read_text(encoding="utf-8") for path in found]
    return [Module(path, text, ast.parse(text)) for path, text in zip(found, texts, strict=True)]
