"""transferscope correlate: on CSV files and on a study, in every format, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from transferscope.cli import main

TASKS = ("a", "b", "c", "d", "e")
RNG = np.random.default_rng(0)
VALUES, NOISE = RNG.random((5, 5)), RNG.normal(0, 0.05, (2, 5, 5))


def call(*args: Any) -> Result:
    return CliRunner().invoke(main, ["correlate", *map(str, args)])


def write(path: Path, header: str, rows: list[tuple[Any, ...]]) -> Path:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Any]:
    """Two indicators (one follows transfer), two protocols with two seeds each, types."""
    pairs = [(i, j) for i in range(5) for j in range(5)]
    table = [("good", TASKS[i], TASKS[j], VALUES[i, j]) for i, j in pairs]
    table += [("text_embedding", TASKS[i], TASKS[j], -VALUES[i, j]) for i, j in pairs]
    cells = [
        (protocol, TASKS[i], TASKS[j], seed, "accuracy", VALUES[i, j] + NOISE[seed, i, j])
        for protocol in ("linear-probe", "zero-shot")
        for seed in (0, 1)
        for i, j in pairs
    ]
    return [
        "--indicators",
        write(tmp_path / "i.csv", "indicator,source,target,value", table),
        "--transfer",
        write(tmp_path / "t.csv", "protocol,source,target,seed,metric,value", cells),
        "--types",
        write(tmp_path / "types.csv", "task,type", list(zip(TASKS, "xxxyy", strict=True))),
    ]


def test_json_of_bare_files(files: list[Any]) -> None:
    result = call(*files, "--format", "json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert list(found) == ["protocol", "own_prompt", "targets", "scores"]
    assert (found["protocol"], found["own_prompt"], found["targets"]) == (
        "linear-probe",
        "excluded",
        [*TASKS],
    )
    rows = {(s["name"], s["aggregate"], s["metric"]): s for s in found["scores"]}
    assert rows["good", "per-target", "spearman"]["mean"] > 0.8
    assert rows["good", "pooled", "spearman"]["mean"] > 0.8
    kinds = {s["name"]: s["kind"] for s in found["scores"]}
    assert {name for name, kind in kinds.items() if kind == "baseline"} == {
        *("random", "same_type", "own_performance", "mean_transfer", "text_embedding", "zero_shot")
    }
    metrics = {metric for _, aggregate, metric in rows if aggregate == "per-target"}
    assert {
        "spearman",
        "kendall",
        "weighted_tau",
        "pearson",
        "regret@1",
        "regret@5",
        "ndcg",
        "mrr",
    } <= metrics


def test_options(files: list[Any]) -> None:
    options = ["--protocol", "zero-shot", "--metric", "spearman", "--own-prompt", "included"]
    options += ["--scope", "same-type", "--aggregate", "per-target", "--against", "random"]
    found = json.loads(call(*files, *options, "--format", "json").stdout)
    assert (found["protocol"], found["own_prompt"]) == ("zero-shot", "included")
    assert {(s["scope"], s["aggregate"], s["metric"]) for s in found["scores"]} == {
        ("same-type", "per-target", "spearman")
    }
    assert {one["against"] for one in found["differences"]} == {"random"}
    assert "zero_shot" not in {s["name"] for s in found["scores"]}


@pytest.mark.parametrize(
    ("format_", "expected"),
    [
        ("table", "Own prompt excluded; 5 targets; 95 % bootstrap over targets and seeds"),
        ("md", "| good | indicator |"),
        ("latex", "good & indicator & "),
        ("csv", "linear-probe,excluded,good,indicator,all,per-target,spearman,"),
    ],
)
def test_formats(files: list[Any], format_: str, expected: str, tmp_path: Path) -> None:
    result = call(*files, "--metric", "spearman", "--format", format_, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert expected in " ".join((tmp_path / "out").read_text().split()).replace("\n", " ")


def test_budget(files: list[Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(call(*files, "--budget", "--format", "csv").stdout)))
    good = [float(row["mean"]) for row in rows if row["name"] == "good"]
    assert len(good) == 4
    assert good[-1] == 0
    assert good[0] < float(next(row["mean"] for row in rows if row["name"] == "random"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --study DIR, or --indicators FILE with --transfer FILE"),
        (["--budget", "--metric", "spearman"], "--budget goes with one --scope"),
        (["--protocol", "zero-shoot"], "has no protocol 'zero-shoot'. Did you mean 'zero-shot'?"),
        (["--metric", "spearmann"], "unknown metric 'spearmann'. Did you mean 'spearman'?"),
        (["--against", "god"], "no indicator or baseline 'god' here. Did you mean 'good'?"),
    ],
)
def test_what_is_refused(files: list[Any], arguments: list[str], message: str) -> None:
    result = call(*(files if arguments else []), *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_a_study_of_published_results(shared: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "roberta"
    words = [
        "import",
        "prompt-transferability",
        shared("published"),
        "--backbone",
        "Roberta",
        "--out",
        folder,
    ]
    assert CliRunner().invoke(main, list(map(str, words))).exit_code == 0
    result = call("--study", folder, "--metric", "spearman", "--format", "json")
    assert result.exit_code == 0, result.output
    rows = {s["name"]: s for s in json.loads(result.stdout)["scores"] if s["aggregate"] == "per-target"}
    expected = {
        "prompt_cosine_average": 0.40,
        "prompt_cosine_mean_token": 0.32,
        "prompt_cosine_concat": 0.16,
        "prompt_euclidean_concat": -0.03,
        "same_type": 0.55,
        "mean_transfer": 0.34,
    }
    for name, value in expected.items():
        assert rows[name]["mean"] == pytest.approx(value, abs=0.01)
        assert rows[name]["low"] < value < rows[name]["high"]
    assert call("--study", folder, "--types", folder / "study.yaml").exit_code == 2
    assert "neither data to measure on" in call("--study", folder, "--protocol", "linear-probe").stderr
