"""--plot on the commands: drawn beside the result, its ending checked before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import plot_records as made
import pytest
from click.testing import CliRunner, Result

from transferscope import comparison, store, transfer
from transferscope.cli import main
from transferscope.cli.options import emit, output_options, plot_option
from transferscope.exporters import Table

WITH_PLOTS = (
    "choose", "compare", "correlate", "graph", "measure", "neurons", "origin", "perturb", "project", "prune",
    "rank",
)  # fmt: skip

FILES = ("--indicators", "{indicators}", "--transfer", "{transfer}")
ONE = ("--metric", "spearman", "--aggregate", "per-target")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """CSV files of an indicator, of transfer and of types."""
    n = 6
    store.write_csv(tmp_path / "indicators.csv", comparison.COLUMNS, comparison.to_rows([made.indicator(n)]))
    store.write_csv(tmp_path / "transfer.csv", transfer.COLUMNS, transfer.to_rows(made.transfer(n)))
    store.write_csv(tmp_path / "types.csv", ("task", "type"), made.types(n).items())
    return {name: str(tmp_path / f"{name}.csv") for name in ("indicators", "transfer", "types")}


def run(*words: Any) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.parametrize("name", WITH_PLOTS)
def test_commands_have_the_option(name: str) -> None:
    assert "--plot FILE.png|svg|pdf" in run(name, "--help").output


@pytest.mark.parametrize(
    "words",
    [
        ("compare", "--indicators", "{indicators}"),
        ("rank", "x", "--indicators", "{indicators}", "--types", "{types}"),
        ("graph", "--transfer", "{transfer}", "--types", "{types}", "--nearest", "2"),
        ("choose", "-k", "2", "--transfer", "{transfer}"),
        ("choose", "-k", "2", "--transfer", "{transfer}", "--plot-kind", "serves"),
        (
            "correlate",
            "--indicators",
            "{indicators}",
            "--transfer",
            "{transfer}",
            *ONE,
            "--plot-kind",
            "scatter",
        ),
        ("correlate", *FILES, "--budget"),
    ],
    ids=" ".join,
)
def test_the_result_is_printed_and_drawn(
    tmp_path: Path, files: dict[str, str], words: tuple[str, ...]
) -> None:
    plain = [word.format(**files) for word in words]
    path = tmp_path / "plot.svg"
    result = run(*plain, "--format", "json", "--plot", path)
    assert result.exit_code == 0, result.output
    assert path.read_bytes().startswith(b"<?xml")
    assert f"wrote {path}" in result.stderr
    kind = plain.index("--plot-kind") if "--plot-kind" in plain else len(plain)
    assert result.stdout == run(*plain[:kind], "--format", "json").stdout


def test_a_wrong_ending_is_said_before_any_work(tmp_path: Path) -> None:
    result = run("compare", "--study", tmp_path / "no-such-study", "--plot", tmp_path / "a.jpg")
    assert result.exit_code == 2
    assert "the ending .jpg" in result.stderr
    assert "Available: pdf, png, svg" in result.stderr


def test_another_kind_is_refused_with_those_there_are(tmp_path: Path, files: dict[str, str]) -> None:
    words = ("correlate", "--indicators", files["indicators"], "--transfer", files["transfer"], *ONE)
    result = run(*words, "--plot", tmp_path / "a.png", "--plot-kind", "scater")
    assert result.exit_code == 2
    assert "Did you mean 'scatter'? Available: forest, scatter." in result.stderr
    assert not (tmp_path / "a.png").exists()
    result = run(*words, "--plot-kind", "scatter")
    assert result.exit_code == 2
    assert "--plot-kind goes with --plot" in result.stderr


def test_a_record_without_a_plot_is_printed_and_the_plot_refused(tmp_path: Path) -> None:
    @click.command("bare")
    @output_options
    @plot_option
    def bare(format_: str, output: Path | None) -> None:
        emit(Table(("a",), ((1,),)), format_, output)

    result = CliRunner().invoke(bare, ["--plot", str(tmp_path / "a.png"), "--format", "json"])
    assert '"a": 1' in result.stdout
    assert "there is no plot of a Table" in str(result.exception)
    assert not (tmp_path / "a.png").exists()
