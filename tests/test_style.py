"""No function is long: one that does not fit on a screen has a part with a name of its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = ("transferscope", "indicators", "benchmarks", "examples", "tests")
LONGEST = 50  # lines from "def" to the end, the docstring counted, decorators not


def long_functions(text: str) -> Iterator[tuple[str, int]]:
    """Name and number of lines of each function, methods and inner ones included, that is too long."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > LONGEST:
                yield node.name, lines


def test_no_function_is_too_long() -> None:
    files = [file for folder in FOLDERS for file in sorted((REPOSITORY / folder).rglob("*.py"))]
    found = {
        f"{file.relative_to(REPOSITORY).as_posix()} {name}": lines
        for file in files
        for name, lines in long_functions(file.read_text(encoding="utf-8"))
    }
    assert found == {}


def test_a_long_function_is_found_wherever_it_stands() -> None:
    inner = "def outer():\n    @decorated\n    def inner():\n" + "        x = 1\n" * LONGEST
    assert dict(long_functions(inner)) == {"outer": LONGEST + 3, "inner": LONGEST + 1}
    assert dict(long_functions("async def f():\n" + "    x = 1\n" * LONGEST)) == {"f": LONGEST + 1}
    assert dict(long_functions("def f():\n" + "    x = 1\n" * (LONGEST - 1))) == {}
