"""transferscope correlate by layer, rate and trials, and over several backbones."""

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

from tests.test_pipeline import write_study
from transferscope.cli import main
from transferscope.pipeline import open_study

TASKS = ("a", "b", "c", "d")


def call(*args: Any) -> Result:
    return CliRunner().invoke(main, ["correlate", *map(str, args)])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks on a tiny model, two seeds; correlated once, so that all that is slow is there."""
    folder = write_study(tmp_path_factory.mktemp("parts") / "study")
    open_study(folder).correlate()
    return folder


@pytest.mark.parametrize(
    ("arguments", "name", "labels"),
    [
        (["--by", "layer", "--indicator", "on"], "on", ["0", "1", "all"]),
        (["--by", "layer-group", "--group", "2", "--indicator", "skill_on"], "skill_on", ["0-1", "all"]),
        (["--by", "rate"], "skill_overlap", ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5"]),
        (["--by", "trials", "--indicator", "prompt_cosine_concat"], "prompt_cosine_concat", ["1", "2"]),
    ],
)
def test_by_parts(study: Path, arguments: list[str], name: str, labels: list[str]) -> None:
    result = call("--study", study, *arguments, "--metric", "kendall", "--format", "json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["by"], document["metric"], document["own_prompt"]) == (
        arguments[1],
        "kendall",
        "excluded",
    )
    (curve,) = (one for one in document["curves"] if one["indicator"] == name)
    assert [point["label"] for point in curve["points"]] == labels
    assert {"random", "same_type"} <= {one["name"] for one in document["baselines"]}


def test_the_whole_network_is_the_indicator_itself(study: Path) -> None:
    def rows(*arguments: str) -> list[dict[str, str]]:
        result = call("--study", study, "--metric", "spearman", "--format", "csv", *arguments)
        assert result.exit_code == 0, result.output
        return list(csv.DictReader(io.StringIO(result.stdout)))

    (whole,) = (row for row in rows("--by", "layer") if (row["name"], row["label"]) == ("on", "all"))
    (plain,) = (row for row in rows() if (row["name"], row["aggregate"]) == ("on", "per-target"))
    for key in ("mean", "low", "high", "n_targets"):
        assert whole[key] == plain[key]


def tables(folder: Path, seed: int, tasks: tuple[str, ...] = TASKS) -> list[Path]:
    """Two indicators and measured transfer as CSV files."""
    rng = np.random.default_rng(seed)
    pairs = [(s, t) for s in tasks for t in tasks]
    lines = [f"{name},{s},{t},{rng.random()}" for name in ("on", "cos") for s, t in pairs]
    cells = [f"zero-shot,{s},{t},{r},accuracy,{rng.random()}" for r in (0, 1) for s, t in pairs]
    folder.mkdir()
    (folder / "values.csv").write_text("\n".join(["indicator,source,target,value", *lines]) + "\n")
    header = "protocol,source,target,seed,metric,value"
    (folder / "transfer.csv").write_text("\n".join([header, *cells]) + "\n")
    return [folder / "values.csv", folder / "transfer.csv"]


@pytest.fixture
def two(tmp_path: Path) -> list[Any]:
    files = [tables(tmp_path / "bert", 0), tables(tmp_path / "t5", 1, (*TASKS, "e"))]
    types = tmp_path / "types.csv"
    types.write_text("task,type\n" + "".join(f"{t},{'u' if t in 'ab' else 'v'}\n" for t in (*TASKS, "e")))
    pairs = [["--indicators", values, "--transfer", transfer] for values, transfer in files]
    return [*pairs[0], *pairs[1], "--types", types]


def test_several_pairs_of_files_are_combined(two: list[Any]) -> None:
    result = call(*two, "--metric", "spearman", "--against", "same_type", "--format", "json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["backbones"] == ["bert/values", "t5/values"]
    assert document["tasks"] == 5
    combined = {score["name"]: score for score in document["scores"]}
    assert combined["on"]["n_targets"] == 9
    for one, count in zip(document["backbones"], (4, 5), strict=True):
        at = two.index("--indicators") if count == 4 else len(two) - 1 - two[::-1].index("--indicators")
        single = call(*two[at : at + 4], "--types", two[-1], "--metric", "spearman", "--format", "json")
        own = {s["name"]: s for s in json.loads(single.stdout)["scores"] if s["aggregate"] == "per-target"}
        assert {s["name"]: s for s in document["alone"][one]} == own
    assert {one["against"] for one in document["differences"]} == {"same_type"}


def test_several_studies_are_combined(study: Path, tmp_path: Path, shared: Callable[..., Path]) -> None:
    folders = {}
    for backbone in ("Roberta", "T5Small"):
        folders[backbone] = tmp_path / backbone
        words = ["import", "prompt-transferability", shared("published"), "--backbone", backbone]
        words += ["--out", folders[backbone]]
        assert CliRunner().invoke(main, list(map(str, words))).exit_code == 0
    arguments = [word for folder in folders.values() for word in ("--study", folder)]
    result = call(*arguments, "--metric", "spearman", "--format", "csv")
    assert result.exit_code == 0, result.output
    rows = {(row["backbone"], row["name"]): row for row in csv.DictReader(io.StringIO(result.stdout))}
    names = list(dict.fromkeys(backbone for backbone, _ in rows))
    assert len(names) == 3
    mean, first, second = (float(rows[name, "prompt_cosine_average"]["mean"]) for name in names)
    assert (first, second) == pytest.approx((0.40, 0.43), abs=0.01)
    assert mean == pytest.approx((14 * first + 17 * second) / 31)
    assert rows["all", "same_type"]["n_targets"] == "31"
    # A study of prompts alone has no layers.
    assert "no indicator has a curve by layer here" in call(*arguments[:2], "--by", "layer").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by", "layer"], "--by goes with one --study"),
        (["--indicator", "on"], "--indicator goes with --by"),
        (["--aggregate", "pooled"], "several backbones are combined per target"),
        (["--budget"], "--budget goes with one study or one pair of files"),
        (["--adaptive", "on"], "--adaptive goes with --budget"),
        (["--transfer", "FILE"], "give --study DIR, or --indicators FILE with --transfer FILE"),
        (["--types", "FILE", "--types", "FILE"], "3 --types and 2 --indicators: give one, or as many"),
    ],
)
def test_what_is_refused_of_files(two: list[Any], arguments: list[str], message: str) -> None:
    result = call(*two, *(two[-1] if word == "FILE" else word for word in arguments))
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by", "layer", "--against", "on"], "--by goes with one --scope and one --metric"),
        (["--by", "layer", "--metric", "kendall", "--metric", "mrr"], "--by goes with one --scope and one"),
        (["--by", "layer", "--aggregate", "per-target"], "with neither --against nor --aggregate"),
        (["--by", "rate", "--indicator", "on"], "'on' has no curve by rate"),
        (["--by", "layer", "--budget"], "and not with --by"),
        (["--by", "layers"], "'layers' is not one of"),
    ],
)
def test_what_is_refused_of_a_study(study: Path, arguments: list[str], message: str) -> None:
    result = call("--study", study, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_an_adaptive_order_beside_the_budget_curves(two: list[Any]) -> None:
    result = call(*two[:4], "--budget", "--adaptive", "on", "--format", "csv")
    assert result.exit_code == 0, result.output
    assert "gp(on)" in {row["name"] for row in csv.DictReader(io.StringIO(result.stdout))}
