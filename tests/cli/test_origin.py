"""transferscope origin on a real (tiny) study: tables, long csv, documented keys, refusals."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.test_pipeline import write_study
from transferscope.cli import main


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("origin") / "study", seeds=1)


def call(*args: Any) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_all_formats_of_one_study(study: Path, tmp_path: Path) -> None:
    options = ("origin", "films", "--study", study, "--method", "lora", "--rates", "0.1,0.25", "--draws", 2)
    result = call(*options, "--format", "json")
    assert result.exit_code == 0, result.output
    (document,) = json.loads(result.stdout)["studies"]
    assert set(document) == {
        "task", "model", "metric", "majority", "plan", "performances", "effects", "predictivities",
        "overlaps", "words", "notes",
    }  # fmt: skip
    assert document["plan"] == {"rates": [0.1, 0.25], "draws": 2, "sd": 0.1}
    assert len(document["effects"]) == 5 * 2
    table = call(*options)
    assert table.exit_code == 0, table.output
    for words in ("with nothing perturbed", "Chosen neurons against random ones", "tuned by", "lora",
                  "random-initialised", "found with random prompts", "word-selective", "promotes",
                  "by chance"):  # fmt: skip
        assert words in table.stdout
    file = tmp_path / "origin.csv"
    assert call(*options, "--format", "csv", "--output", file).exit_code == 0
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    assert len(rows) == 5 * 2  # one seed
    assert {row["subject"] for row in rows} == {"prompt", "lora", "prompt, random-initialised model"}
    first = document["effects"][0]["seeds"][0]
    assert float(rows[0]["drop"]) == pytest.approx(first["drop"])
    for kind in ("effects", "overlap"):
        drawn = call(*options, "--plot", tmp_path / f"{kind}.svg", "--plot-kind", kind)
        assert drawn.exit_code == 0, drawn.output
        assert (tmp_path / f"{kind}.svg").read_bytes().startswith(b"<?xml")


def test_without_controls_the_tables_are_two(study: Path) -> None:
    result = call("origin", "films", "--study", study, "--method", "lora", "--no-controls", "--rates", "0.1",
                  "--draws", 1, "--format", "md")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "word-selective" not in result.stdout
    assert result.stdout.count("| tuned by") == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["film"], "Did you mean 'films'"),
        (["films", "--method", "lore"], "Did you mean 'lora'"),
        (["films", "--rates", "a,b"], "no list of shares"),
        (["films", "--rates", "2"], "at most 1"),
        (["films", "--method", "lora", "--rates", "0.01"], "is none"),
    ],
)
def test_what_the_user_got_wrong_is_said_in_one_line(study: Path, options: list[str], words: str) -> None:
    result = call("origin", *options, "--study", study)
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert "Traceback" not in result.stderr
