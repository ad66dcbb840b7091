"""transferscope import: one command for each importer, made from its function."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from transferscope import importers
from transferscope.cli import main
from transferscope.importers import ImportReport, registry
from transferscope.store import Study


def call(*args: Any) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.mark.parametrize("name", importers.names())
def test_help_has_an_example_and_every_option(name: str) -> None:
    result = call("import", name, "--help")
    assert result.exit_code == 0
    assert f"transferscope import {name}" in result.output
    for option, text in importers.get(name).help.items():
        assert f"--{option.replace('_', '-')}" in result.output
        assert text.split()[0] in result.output
    assert name in call("import", "--help").output


def test_the_published_clone(shared: Callable[..., Path], tmp_path: Path) -> None:
    clone = shared("published")
    out = tmp_path / "study"
    result = call(
        *("import", "prompt-transferability", clone, "--backbone", "T5Small"),
        "--out",
        out,
        "--format",
        "json",
    )
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (len(found["tasks"]), found["prompts"], found["cells"], found["random"]) == (17, 17, 289, 17)
    assert found["problems"] == []
    assert len(Study(out).prompts()) == 17


def test_prompts_and_a_table_of_transfer(tmp_path: Path) -> None:
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.ones((2, 4), np.float32))
    study = tmp_path / "study"
    result = call(
        "import", "prompts", tmp_path / "a.npy", tmp_path / "b.npy", "--out", study, "--model", "gpt2"
    )
    assert result.exit_code == 0, result.stderr
    assert "prompts read" in result.stdout
    (tmp_path / "t.csv").write_text("protocol,source,target,value\nzero-shot,a,b,0.5\n")
    result = call(
        "import", "transfer", tmp_path / "t.csv", "--study", study, "--output", tmp_path / "report.txt"
    )
    assert result.exit_code == 0, result.stderr
    assert "results in transfer.csv" in (tmp_path / "report.txt").read_text()
    assert (study / "transfer.csv").read_text().endswith("zero-shot,a,b,0,accuracy,0.5\n")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("import", "prompt"), "Did you mean 'prompts'"),
        (("import", "prompts"), "Missing argument 'PATH...'"),
        (("import", "transfer", "x.csv"), "Missing option '--study'"),
        (("import", "transfer", "x.csv", "--study", "none"), "Error: no study file"),
        (("import", "prompts", "x.npy", "--out", "s", "--model", "m", "--seed", "x"), "not a valid integer"),
        (("import", "prompt-transferability", "none", "--backbone", "T5", "--out", "s"), "is no clone of"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    args: tuple[str, ...], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*args)
    assert result.exit_code == 2
    assert text in result.stderr
    assert "Traceback" not in result.stderr
    assert not [*tmp_path.iterdir()]


def test_the_importer_that_the_documentation_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_IMPORTERS", dict(registry._IMPORTERS))
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    exec(page.partition("```python\n")[2].partition("```")[0], {})
    result = call("import", "my-layout", "somewhere", "--out", "study")
    assert result.exit_code == 0, result.stderr
    assert "Imported into study, model the/model" in result.stdout
    for name in importers.names():
        assert name == "my-layout" or f"transferscope import {name} " in page


def test_an_importer_is_one_function(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "_IMPORTERS", dict(registry._IMPORTERS))
    seen: dict[str, Any] = {}

    @importers.importer("mine", size="How many.")
    def mine(places: tuple[Path, ...], *, size: int = 3) -> ImportReport:
        """My own."""
        seen.update(places=places, size=size)
        return ImportReport("mine", "s", "m")

    assert call("import", "mine", "a", "b", "--size", "4").exit_code == 0
    assert seen == {"places": (Path("a"), Path("b")), "size": 4}
    assert "[default: 3]" in call("import", "mine", "--help").output
    assert "PLACE..." in call("import", "mine", "--help").output
