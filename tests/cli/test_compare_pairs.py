"""`compare` and `rank` by indicators that read targets' data or tasks' texts, on a study and on folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.test_pipeline import TASKS, write_study
from transferscope.cli import main
from transferscope.comparison import from_rows
from transferscope.pipeline import open_study


def call(*args: Any) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_study(tmp_path_factory.mktemp("study") / "study", seeds=1)
    open_study(folder).tune()
    return folder


def test_a_study_by_names(study: Path) -> None:
    result = call(
        "compare", "--study", study, "--indicator", "logme", "--indicator", "cka_linear", "--format", "json"
    )
    assert result.exit_code == 0
    expected = open_study(study).compare(["logme", "cka_linear"])
    found = json.loads(result.stdout)["indicators"]
    assert [row["indicator"] for row in found] == ["logme", "cka_linear"]
    for row, matrix in zip(found, expected, strict=True):
        assert tuple(row["tasks"]) == matrix.tasks == tuple(TASKS)
        np.testing.assert_allclose(row["values"], matrix.values)
    table = call("compare", "--study", study, "--indicator", "mmd", "--format", "csv")
    lines = [line.split(",") for line in table.stdout.splitlines()]
    (mmd,) = from_rows(dict(zip(lines[0], line, strict=True)) for line in lines[1:])
    np.testing.assert_allclose(mmd.values, open_study(study).compare(["mmd"])[0].values)


def test_what_was_done_is_said_on_stderr_once(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "study", ignore=shutil.ignore_patterns("features", "profiles"))
    command = (
        "compare",
        "--study",
        tmp_path / "study",
        "--indicator",
        "nce",
        "--indicator",
        "vocabulary_overlap",
    )
    first, second = call(*command), call(*command)
    assert first.exit_code == second.exit_code == 0
    assert "extracted the features of films under 3 prompts" in first.stderr
    assert "profiled pets: texts" in first.stderr
    assert second.stderr == ""
    assert first.stdout == second.stdout


def test_rank_by_a_label_score(study: Path) -> None:
    result = call("rank", "pets", "--study", study, "--indicator", "logme", "--format", "json")
    assert result.exit_code == 0
    ranking = json.loads(result.stdout)
    assert ranking["indicator"] == "logme"
    assert {source["source"] for source in ranking["sources"]} == {"films", "food"}
    assert ranking["notes"][0].startswith("Indicator logme: asked for.")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("logme", "has no features and no labels: features comes from `transferscope compare --study DIR"),
        ("cka_linear", "has no representation: representation comes from `transferscope compare --study"),
        ("prompt_fisher", "under its own prompt, read by its label words or classifier"),
        ("vocabulary_overlap", "the task's train split"),
        ("logm", "Did you mean 'logme'"),
    ],
)
def test_folders_of_prompts_alone_are_told_what_is_missing(study: Path, name: str, text: str) -> None:
    folders = [study / "prompts" / task / "0" for task in TASKS]
    result = call("compare", "--indicator", name, "--prompts", *folders)
    assert result.exit_code == 2
    assert text in result.stderr
    assert len(result.stderr.splitlines()) == 1
