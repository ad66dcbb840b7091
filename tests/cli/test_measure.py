"""transferscope measure and tune --init-from on a real (tiny) study: tables, keys, files, refusals."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from tests.test_pipeline import write_study
from transferscope import store
from transferscope.cli import main
from transferscope.pipeline import open_study
from transferscope.prompts import load_prompt


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_study(tmp_path_factory.mktemp("tuned") / "study")
    open_study(folder).extract()
    open_study(folder).measure()
    return folder


@pytest.fixture
def study(tuned: Path, tmp_path: Path) -> Path:
    shutil.copytree(tuned, tmp_path / "study")
    return tmp_path / "study"


def call(*args: Any) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_the_table_has_controls_relative_values_errors_and_means(study: Path) -> None:
    result = call("measure", "--study", study)
    assert result.exit_code == 0, result.output
    for line in ("Measured transfer, zero-shot", "(none)", "(random)", "Relative to the target's own prompt",
                 "Standard error over seeds", "different types", "metric"):  # fmt: skip
        assert line in result.stdout


def test_json_has_its_documented_keys_and_the_matrix_s_values(study: Path) -> None:
    document = json.loads(call("measure", "--study", study, "--format", "json").stdout)
    assert set(document) == {
        "protocol", "sources", "targets", "metrics", "seeds", "values", "relative", "standard_errors",
        "controls", "by_type", "notes",
    }  # fmt: skip
    matrix = open_study(study).measure()
    assert document["values"] == matrix.values.tolist()
    assert document["controls"]["random"] == matrix.controls["random"].tolist()
    assert (document["by_type"]["same_cells"], document["by_type"]["different_cells"]) == (2, 4)


def test_csv_is_the_long_table(study: Path) -> None:
    result = call("measure", "--study", study, "--target", "food", "--source", "pets", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert {row["source"] for row in rows} == {"food", "pets", "none", "random"}
    assert {row["target"] for row in rows} == {"food"}
    assert list(rows[0]) == ["protocol", "source", "target", "seed", "metric", "value"]


def test_init_compares_starts_by_number_of_shots(study: Path) -> None:
    result = call(
        "measure", "--study", study, "--protocol", "init", "--target", "films", "--source", "food",
        "--shots", "4", "--shots", "8", "--learning-rate", "0.01", "--format", "json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["comparisons"]
    assert [one["shots"] for one in found] == [4, 8]
    for one in found:
        assert {start["start"] for start in one["starts"]} == {"scratch", "food", "random"}
        assert one["recommended"] == one["starts"][0]
        assert {"learning_rate", "convergence_speedup", "comparable_speedup", "untouched", "dev"} <= set(
            one["starts"][0]
        )
        assert len(one["runs"]) == 3 * 2


def test_init_without_sources_takes_those_that_rank_first(study: Path) -> None:
    result = call(
        "measure", "--study", study, "--protocol", "init", "--target", "films", "--learning-rate", "0.01",
        "--format", "csv",
    )  # fmt: skip
    starts = {row["start"] for row in csv.DictReader(io.StringIO(result.stdout))}
    assert starts == {"scratch", "random", "food", "pets"}


def test_tune_starts_from_the_best_and_saves_a_peft_folder(study: Path, tmp_path: Path) -> None:
    first = open_study(study).rank("films").sources[0].source
    out = tmp_path / "mine"
    result = call(
        "tune", "films", "--study", study, "--init-from", "best", "--learning-rate", "0.01",
        "--out", out, "--format", "json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)["comparisons"]
    assert {start["start"] for start in found["starts"]} == {"scratch", first}
    assert f"the best prompt is in {out}" in result.stderr
    saved = load_prompt(out)
    assert saved.task == "films"
    assert saved.provenance["scores"]["validation"] == max(
        run["validation"] for run in found["runs"] if run["start"] == found["recommended"]["start"]
    )


def test_what_does_not_go_together_is_a_usage_error(study: Path) -> None:
    for arguments, hint in (
        (("measure", "--study", study, "--shots", "4"), "--protocol init"),
        (("measure", "--study", study, "--protocol", "init"), "needs --target"),
        (("tune", "films", "--study", study, "--shots", "4"), "--init-from"),
        (("tune", "--study", study, "--init-from", "food"), "exactly one task"),
        (("measure", "--study", study, "--target", "flims"), "films"),
        (("tune", "films", "--study", study, "--init-from", "fod"), "food"),
    ):
        result = call(*arguments)
        assert result.exit_code == 2
        assert hint in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("measure", "--protocol", "init", "--target", "films", "--source", "food"),
        ("tune", "films", "--init-from", "food"),
    ],
    ids=["measure", "tune"],
)
def test_a_process_of_its_own_knows_how_to_show_starts(study: Path, arguments: tuple[str, ...]) -> None:
    words = [sys.executable, "-m", "transferscope", *arguments, "--study", str(study)]
    done = subprocess.run(
        [*words, "--learning-rate", "0.02", "--format", "csv"],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {row["start"] for row in csv.DictReader(io.StringIO(done.stdout))} >= {"scratch", "food"}


def test_tune_says_where_there_is_nothing_to_tune(study: Path) -> None:
    settings = yaml.safe_load((study / "study.yaml").read_text())
    settings["tasks"]["pets"] = {"prompts": "prompts/pets"}
    store.write_text(study / "study.yaml", yaml.safe_dump(settings))
    result = call("tune", "--study", study)
    assert result.exit_code == 0
    assert "pets: its prompts are given" in result.stderr
    assert "films: its prompts" not in result.stderr
