"""The rules of CONTRIBUTING.md that no linter states, checked on the syntax tree. A failure lists every violation."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

FORBIDDEN = {"torchvision", "timm", "open_clip", "decord", "flash_attn"}
FILE_LINES, FUNCTION_LINES, FORWARD_LINES, PARAMETERS = 500, 60, 40, 9
DRAWERS = {"util", "utils", "common", "helpers", "misc"}
VAGUE_CLASS = re.compile(r".*(Manager|Wrapper|Helper|Utils?)$")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")


def test_dependencies_that_break_on_a_plain_machine_are_not_imported(modules):
    assert not [f"{m.at(node)} {name}" for m in modules for node, name in m.imports() if top(name) in FORBIDDEN]


def test_files_are_short(modules):
    lengths = {m.name: m.text.count("\n") for m in modules}
    assert not {name: lines for name, lines in lengths.items() if lines > FILE_LINES}


def test_functions_are_short(modules):
    assert not [
        f"{m.at(f)} {f.name} has {length(f)} lines"
        for m in modules
        for f in m.functions()
        if length(f) > (FORWARD_LINES if f.name == "forward" else FUNCTION_LINES)
    ]


def test_functions_take_few_parameters(modules):
    assert not [
        f"{m.at(f)} {f.name} has {len(parameters(f))} parameters"
        for m in modules
        for f in m.functions()
        if len(parameters(f)) > PARAMETERS and not is_configuration(f)
    ]


def test_arguments_are_named(modules):
    assert not [
        f"{m.at(f)} {f.name} takes **{f.args.kwarg.arg}" for m in modules for f in m.functions() if f.args.kwarg
    ]


def test_only_expected_errors_are_caught(modules):
    assert not [
        m.at(node)
        for m in modules
        for node in ast.walk(m.tree)
        if isinstance(node, ast.ExceptHandler) and is_broad(node) and not raises_again(node)
    ]


def test_only_the_command_line_reads_the_environment_and_prints(modules):
    assert not [
        f"{m.at(node)} {what}"
        for m in modules
        if not m.name.startswith("cli/")
        for node, what in [*environment_and_prints(m.tree), *m.imports()]
        if what in ("print", "os.environ", "os.getenv", "os.putenv")
    ]


def test_files_are_named_after_what_they_hold(modules):
    assert not [m.name for m in modules if DRAWERS & set(m.path.with_suffix("").relative_to(m.path.parents[2]).parts)]


def test_classes_are_named_after_what_they_are(modules):
    classes = [(m, node) for m in modules for node in ast.walk(m.tree) if isinstance(node, ast.ClassDef)]
    assert not [f"{m.at(node)} {node.name}" for m, node in classes if VAGUE_CLASS.fullmatch(node.name)]


def test_nothing_is_left_for_later(modules):
    assert not [
        f"{m.name}:{number} {line.strip()}"
        for m in modules
        for number, line in enumerate(m.text.splitlines(), start=1)
        if UNFINISHED.search(line)
    ]


def top(name: str) -> str:
    return name.partition(".")[0]


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the last statement, docstring included."""
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    a = function.args
    return [arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs) if arg.arg not in ("self", "cls")]


def is_configuration(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A model's constructor, whose parameters are the keys of its config.json, is as long as that file."""
    return any(isinstance(d, ast.Name) and d.id == "register_to_config" for d in function.decorator_list)


def is_broad(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    return any(isinstance(n, ast.Name) and n.id in ("Exception", "BaseException") for n in ast.walk(handler.type))


def raises_again(handler: ast.ExceptHandler) -> bool:
    """Cleaning up and passing the error on unchanged hides nothing."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def environment_and_prints(tree: ast.Module) -> Iterator[tuple[ast.expr, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "print":
            yield node, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node, f"{node.value.id}.{node.attr}"
