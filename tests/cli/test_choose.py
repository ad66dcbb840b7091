"""transferscope choose: from tables, with costs, weights and limits, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from transferscope.cli import main

VALUES = {"a": (0.9, 0.2, 0.1), "b": (0.3, 0.8, 0.6), "c": (0.2, 0.7, 0.65)}


def call(*args: Any) -> Result:
    return CliRunner().invoke(main, ["choose", *(str(arg) for arg in args)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = ["protocol,source,target,seed,metric,value"]
    for protocol, shift in (("zero-shot", 0.0), ("linear-probe", 0.1)):
        for source, values in VALUES.items():
            lines += [
                f"{protocol},{source},{t},0,accuracy,{v + shift * (source == 'c')}"
                for t, v in zip(VALUES, values, strict=True)
            ]
    (tmp_path / "transfer.csv").write_text("\n".join(lines) + "\n")
    lines = ["indicator,source,target,value"]
    lines += [f"on,{s},{t},{v}" for s, values in VALUES.items() for t, v in zip(VALUES, values, strict=True)]
    (tmp_path / "indicators.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "cost.csv").write_text("task,cost\na,1\nb,5\nc,2\n")
    (tmp_path / "weights.csv").write_text("task,weight\na,9\n")
    return tmp_path


def found(*args: Any) -> dict[str, Any]:
    result = call(*args, "--format", "json")
    assert result.exit_code == 0, result.stderr
    choice: dict[str, Any] = json.loads(result.stdout)
    return choice


def test_two_sources_and_the_curve(folder: Path) -> None:
    report = found("-k", 2, "--transfer", folder / "transfer.csv")
    assert report["measure"] == "zero-shot"
    assert report["choice"]["sources"] == ["b", "a"]
    assert report["choice"]["serves"] == {"a": "a", "b": "b", "c": "b"}
    assert [one["sources"] for one in report["curve"]] == [["b"], ["b", "a"]]
    text = call("-k", 2, "--transfer", folder / "transfer.csv").stdout
    for words in ("97.9% of the best achievable", "Which source serves which target", "The curve"):
        assert words in text
    csv = call("-k", 2, "--transfer", folder / "transfer.csv", "--format", "csv").stdout
    assert csv.splitlines() == ["target,source,value", "a,a,0.9", "b,b,0.8", "c,b,0.6"]


def test_options(folder: Path) -> None:
    def sources(*args: Any, table: str = "transfer") -> list[str]:
        chosen: list[str] = found(*args, f"--{table}", folder / f"{table}.csv")["choice"]["sources"]
        return chosen

    assert sources("-k", 1) == ["b"]
    assert sources("-k", 1, "--measured", "linear-probe") == ["c"]
    assert sources("-k", 1, "--weights", folder / "weights.csv") == ["a"]
    assert sources("-k", 1, "--must", "c") == ["c"]
    assert sources("-k", 1, "--without", "b") == ["c"]
    assert sources("--cost", folder / "cost.csv", "--budget", 3) == ["c", "a"]
    assert sources("-k", 2, "--method", "greedy") == ["b", "a"]
    assert sources("-k", 1, "--indicator", "on", table="indicators") == ["b"]
    report = found("-k", 1, "--relative", "--transfer", folder / "transfer.csv")
    assert report["choice"]["values"]["a"] == pytest.approx(0.3 / 0.9)
    others = found("-k", 3, "--others-only", "--transfer", folder / "transfer.csv")
    assert others["choice"]["serves"] == {"a": "b", "b": "c", "c": "b"}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["-k", "1"], "give one of --study"),
        (["T"], "a number, or costs and a budget"),
        (["T", "-k", "0"], "at least one must be chosen"),
        (["T", "-k", "1", "--must", "x"], "'x' is not among them"),
        (["T", "-k", "1", "--measured", "init"], "has no protocol 'init'"),
        (["T", "-k", "1", "--measured", "init", "--indicator", "on"], "exclude each other"),
    ],
)
def test_what_is_refused(args: list[str], words: str, folder: Path) -> None:
    table = ["--transfer", str(folder / "transfer.csv")]
    result = call(*(one for arg in args for one in (table if arg == "T" else [arg])))
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


def test_a_cost_given_twice_is_refused(folder: Path) -> None:
    (folder / "cost.csv").write_text("task,cost\na,1\na,2\n")
    result = call("-k", 1, "--transfer", folder / "transfer.csv", "--cost", folder / "cost.csv")
    assert (result.exit_code, "'a' is given twice" in result.stderr) == (2, True)


def test_help_has_an_example() -> None:
    assert "transferscope choose -k 3 --study" in call("--help").stdout
