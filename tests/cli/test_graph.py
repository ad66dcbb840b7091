"""transferscope graph: from tables, each format read back, views, and what is refused."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from transferscope import graph_formats
from transferscope.cli import main
from transferscope.cli.graph import FORMATS

TASKS = ("a", "b", "ü c")


def call(*args: Any) -> Result:
    return CliRunner().invoke(main, ["graph", *(str(arg) for arg in args)])


@pytest.fixture
def tables(tmp_path: Path) -> list[Any]:
    """--indicators, --transfer and --types: two indicators and two protocols of three tasks."""
    lines = ["indicator,source,target,value"]
    for name, scale in (("on", 1.0), ("logme", 10.0)):
        lines += [
            f"{name},{s},{t},{scale * (i + 2 * j)}" for i, s in enumerate(TASKS) for j, t in enumerate(TASKS)
        ]
    (tmp_path / "indicators.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines = ["protocol,source,target,seed,metric,value"]
    for name, base in (("zero-shot", 0.5), ("linear-probe", 0.7)):
        lines += [
            f"{name},{s},{t},0,accuracy,{base + 0.01 * (3 * i + j)}"
            for i, s in enumerate(TASKS)
            for j, t in enumerate(TASKS)
        ]
    (tmp_path / "transfer.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "types.csv").write_text("task,type\na,NLI\nb,NLI\nü c,SA\n", encoding="utf-8")
    names = ("indicators", "transfer", "types")
    return [part for name in names for part in (f"--{name}", tmp_path / f"{name}.csv")]


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_to_stdout_and_to_a_file(format_: str, tables: list[Any], tmp_path: Path) -> None:
    result = call(*tables, "--format", format_)
    assert result.exit_code == 0, result.stderr
    assert "ü c" in html.unescape(result.stdout)  # XML has it as &#252;
    out = tmp_path / "out"
    assert call(*tables, "--format", format_, "--output", out).exit_code == 0
    assert out.read_text(encoding="utf-8").split() == result.stdout.split()
    if format_ in graph_formats.READERS:
        found = graph_formats.read(out.read_text(encoding="utf-8"), format_)
        assert set(found) == set(TASKS)
        assert sum(w for *_, w in found.edges(data="weight")) == pytest.approx(6 * 0.5 + 0.01 * 24)


def test_all_formats_are_offered() -> None:
    assert set(FORMATS) == {"table", "json", *graph_formats.WRITERS}


def test_all_that_is_known_is_on_an_edge(tables: list[Any]) -> None:
    found = json.loads(call(*tables, "--indicator", "on", "--communities", "--format", "json").stdout)
    (edge,) = [one for one in found["edges"] if (one["source"], one["target"]) == ("a", "b")]
    assert (edge["weight"], edge["shown"], edge["logme"], edge["zero-shot"]) == (2.0, "on", 20.0, 0.51)
    assert edge["linear-probe relative"] == pytest.approx(0.71 / 0.74)
    assert found["nodes"][0] == {"task": "a", "type": "NLI", "own": 0.5, "community": 0}
    assert found["measures"]["linear-probe"] == "measured"
    assert found["communities"]["agreement"]["permutations"] == 999


def test_views_and_several_measures(tables: list[Any]) -> None:
    def edges(*args: Any) -> list[tuple[str, str, str]]:
        result = call(*tables, *args, "--format", "json")
        assert result.exit_code == 0, result.stderr
        return [(e["source"], e["target"], e["shown"]) for e in json.loads(result.stdout)["edges"]]

    assert set(edges("--indicator", "on", "--threshold", 4.5)) == {("b", "ü c", "on")}
    assert set(edges("--indicator", "on", "--nearest", 1)) == {
        ("b", "ü c", "on"),
        ("ü c", "b", "on"),
        ("ü c", "a", "on"),
    }
    assert len(edges("--indicator", "on", "--nearest", 1, "--mutual")) == 2
    assert len(edges("--indicator", "on", "--tree")) == 2
    assert len(edges("--tree=undirected", "--indicator", "on")) == 4
    # The chance of two edges' shares is 1 - share: below .4 at either end of these four.
    assert len(edges("--indicator", "on", "--backbone", 0.4)) == 4
    both = edges("--indicator", "on", "--measured", "zero-shot relative", "--nearest", 1)
    assert {shown for *_, shown in both} == {"on", "zero-shot relative"}
    assert len(both) == 6


def test_the_table_says_what_was_done(tables: list[Any]) -> None:
    text = call(*tables, "--nearest", 1, "--communities").stdout
    for words in (
        "3 tasks by zero-shot",
        "for each target its 1 best sources",
        "communities (Louvain",
        "needs",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        ([], 2, "give --study DIR, or"),
        (["TABLES", "--study", "x"], 2, "give --study DIR, or"),
        (["TABLES", "--indicator", "logmee"], 2, "Did you mean 'logme'"),
        (["TABLES", "--measured", "init"], 2, "no measure 'init'"),
        (["TABLES", "--mutual"], 2, "say how many"),
        (["TABLES", "--nearest", "0"], 2, "at least one"),
        (["TABLES", "--backbone", "2"], 2, "below 1"),
        (
            ["TABLES", "--indicator", "on", "--measured", "zero-shot", "--format", "adjacency"],
            2,
            "one measure",
        ),
    ],
)
def test_what_is_refused(args: list[str], status: int, words: str, tables: list[Any]) -> None:
    result = call(*(one for arg in args for one in (tables if arg == "TABLES" else [arg])))
    assert result.exit_code == status
    assert words in " ".join(result.stderr.split())


def test_help_has_an_example() -> None:
    assert "transferscope graph --study" in call("--help").stdout
