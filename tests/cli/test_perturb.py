"""transferscope perturb: tables, keys of JSON and columns of CSV, marks and refusals."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.test_pipeline import write_study
from transferscope.cli import main
from transferscope.perturbation_plan import PerturbationSettings
from transferscope.perturbing import perturb
from transferscope.pipeline import open_study

OPTIONS = ("--mode", "zero", "--rates", "0.25,.5", "--draws", "2", "--layers", "1-")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_study(tmp_path_factory.mktemp("whole") / "study")
    result = call("perturb", "--study", folder, *OPTIONS, "--across")
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def study(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "study")
    return tmp_path / "study"


def call(*args: Any) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_tables_have_areas_curves_drops_and_marks(study: Path) -> None:
    result = call("perturb", "--study", study, *OPTIONS, "--across")
    assert result.exit_code == 0, result.output
    for line in ("area between the two curves", "food: accuracy by the share of neurons", "95 % of random",
                 "Drop at rate 0.5", "Drop beyond that of as many random neurons", "layers 1 to the last",
                 "no better than the majority class, so nothing to lose:"):  # fmt: skip
        assert line in result.stdout
    alone = call("perturb", "pets", "--study", study, *OPTIONS, "--format", "md").stdout
    assert "| pets | accuracy | 2 |" in alone
    assert "food" not in alone


def test_json_is_the_library_s_record(study: Path) -> None:
    result = call("perturb", "--study", study, *OPTIONS, "--across", "--format", "json")
    document = json.loads(result.stdout)
    settings = PerturbationSettings("zero", rates=(0.25, 0.5), draws=2, layers=(1, None))
    report = perturb(open_study(study), None, settings, across=True)
    assert set(document) == {"model", "settings", "tasks", "across", "notes"}
    assert document["settings"]["rates"] == [0.0, 0.25, 0.5]
    assert [task["unperturbed"] for task in document["tasks"]] == [one.unperturbed for one in report.tasks]
    assert set(document["tasks"][0]["points"][0]) == {
        "condition", "rate", "neurons", "mean", "low", "high", "values",
    }  # fmt: skip
    assert {"condition", "mean", "low", "high", "p", "p_holm", "pairs"} <= set(
        document["tasks"][0]["areas"][0]
    )
    assert report.across is not None
    assert document["across"]["drops"] == report.across.drops.tolist()
    assert set(document["across"]) >= {"rate", "tasks", "random", "beyond", "low", "high", "relative"}


def test_csv_is_long(study: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    result = call("perturb", "--study", study, *OPTIONS, "--across", "--format", "csv", "--output", file)
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    assert list(rows[0]) == ["task", "neurons_of", "what", "rate", "neurons", "value", "low", "high"]
    assert {row["what"] for row in rows} == {
        "skill", "random", "bottom", "area of skill", "area of bottom", "drop", "drop beyond random",
    }  # fmt: skip
    assert len([row for row in rows if row["what"] == "drop"]) == 9
    first = next(row for row in rows if row["what"] == "skill" and row["rate"] == "0.5")
    assert first["neurons"] == "12"  # of one layer of 24


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("filmz",), "Did you mean 'films'"),
        (("films", "--layers", "5-"), "the model has 2, numbered from 0"),
        (("films", "--layers", "one"), "layers 'one': write 3-"),
        (("films", "--rates", "20%"), "rates '20%'"),
        (("films", "--rates", "1.5"), "rates must be shares from 0 to 1"),
        (("films", "--mode", "nose"), "Invalid value for '--mode'"),
        (("films", "--across"), "across tasks at least two are needed"),
    ],
)
def test_mistakes_are_one_line_and_status_2(study: Path, args: tuple[str, ...], complaint: str) -> None:
    result = call("perturb", *args, "--study", study)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr
