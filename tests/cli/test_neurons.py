"""transferscope neurons: its three reports on a tiny study, what it keeps, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from tests.test_pipeline import TASKS, write_study
from transferscope import neuron_study, store
from transferscope.cli import main
from transferscope.errors import TaskError
from transferscope.pipeline import open_study
from transferscope.prompt_rows import load_rows


def call(*args: Any) -> Result:
    return CliRunner().invoke(main, ["neurons", *(str(arg) for arg in args)])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_study(tmp_path_factory.mktemp("study") / "study")
    open_study(folder).extract()
    return folder


def found(*args: Any) -> dict[str, Any]:
    result = call(*args, "--format", "json")
    assert result.exit_code == 0, result.stderr
    record: dict[str, Any] = json.loads(result.stdout)
    return record


def test_between_tasks(study: Path) -> None:
    record = found("--study", study)
    report = neuron_study.compare_tasks(open_study(study))
    assert record["tasks"] == list(TASKS)
    assert (record["rate"], record["by"], record["trials"]) == (0.2, "layer", [2, 2, 2])
    assert record["types"] == ["things", "things", "animals"]
    for one, expected in zip(record["measures"], report.measures, strict=True):
        np.testing.assert_allclose(one["values"], expected.values)
    assert {one["group"] for one in record["groups"]} >= {
        "same type",
        "different types",
        "trials of one task",
    }
    network = found("--study", study, "--rate", 0.5, "--by", "network", "--seed", 3)
    assert (network["rate"], network["by"]) == (0.5, "network")
    assert network["layer_expected"] == [12.0] * 3
    assert "Are skill neurons a task's own?" in call("--study", study).stdout


def test_the_top_neurons_of_a_task(study: Path) -> None:
    record = found("films", "--study", study, "--top", 3, "--examples", 2, "--words", 4, "--trial", 1)
    expected = neuron_study.look(open_study(study), "films", top=3, examples=2, words=4, shown=1)
    assert record == json.loads(json.dumps(store.json_ready(expected)))
    assert (record["shown"], len(record["neurons"]), record["labels"]) == (1, 3, ["0", "1"])
    for card in record["neurons"]:
        assert (len(card["most"]), len(card["least"]), len(card["promotes"])) == (2, 2, 4)
        assert card["histogram"] is None
    assert len(found("films", "--study", study)["neurons"]) == 10
    at_rate = found("films", "--study", study, "--rate", 0.1)
    assert sorted(card["layer"] for card in at_rate["neurons"]) == [0, 0, 1, 1]
    csv = call("films", "--study", study, "--top", 3, "--format", "csv").stdout.splitlines()
    assert len(csv) == 1 + 3 * 2


def test_one_neuron_has_a_histogram(study: Path) -> None:
    record = found("pets", "--study", study, "--neuron", "1:7", "--neuron", "0:2", "--bins", 6)
    assert [(card["layer"], card["neuron"]) for card in record["neurons"]] == [(1, 7), (0, 2)]
    for card in record["neurons"]:
        assert len(card["histogram"]["edges"]) == 7
        assert [sum(counts) for counts in card["histogram"]["counts"]] == [10, 10]
    assert "Activations of 1:7 at row" in call("pets", "--study", study, "--neuron", "1:7").stdout


def test_rows_are_measured_once(study: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(study, tmp_path / "study"))
    first, second = (call("food", "--study", folder, "--where", "--format", "json") for _ in range(2))
    assert first.exit_code == second.exit_code == 0
    assert first.stdout == second.stdout
    assert "measured the rows of food: 2 trials" in first.stderr
    assert second.stderr == ""  # neither measured again nor a model loaded
    record = json.loads(first.stdout)
    assert [one["row"] for one in record["rows"]] == [0, 1, 2, 3]
    rows = load_rows(folder / "rows" / "food.safetensors")
    assert rows.accuracy.shape == (2, 1, 2, 4, 24)
    (signature,) = open_study(folder).extract(["food"]).values()
    best = np.where(np.isfinite(rows.by_row), rows.by_row, -np.inf).max(axis=3)
    np.testing.assert_array_equal(np.where(np.isfinite(best), best, np.nan), signature.predictivity)
    settings = yaml.safe_load((folder / "study.yaml").read_text())
    store.write_text(folder / "study.yaml", yaml.safe_dump(settings | {"signatures": {"balanced": True}}))
    third = call("food", "--study", folder, "--where")
    assert third.exit_code == 0
    assert "measuring the rows of food again: signatures.balanced: was null, now true" in third.stderr


def test_a_damaged_file_of_rows_is_said_to_be_so(study: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(study, tmp_path / "study"))
    store.save_arrays(folder / "rows" / "food.safetensors", {"accuracy": np.zeros(3)}, {"kind": "rows"})
    result = call("food", "--study", folder, "--where")
    assert result.exit_code == 1
    assert "has no accuracies by row" in result.stderr


def test_a_generation_task_has_no_rows_of_its_own(study: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(study, tmp_path / "study"))
    pipeline = open_study(folder)
    task = pipeline.task("food")
    text = [type(task.dev[0])("a", None, -1, ("b",))]
    pipeline._tasks["food"] = type(task)("food", tuple(text), tuple(text), (), metric="exact_match")
    with pytest.raises(TaskError, match="'food' is a generation task"):
        neuron_study.where(pipeline, "food")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--top", "3"], "--top needs a TASK"),
        (["--neuron", "0:1"], "--neuron needs a TASK"),
        (["--where"], "--where needs a TASK"),
        (["films", "--where", "--examples", "3"], "--examples does not go with --where"),
        (["films", "--top", "3", "--neuron", "0:1"], "give one of --top, --rate, --neuron"),
        (["films", "--top", "3", "--rate", "0.1"], "give one of --top, --rate, --neuron"),
        (["films", "--bins", "3"], "--bins goes with --neuron"),
        (["films", "--neuron", "3"], "is no neuron: give layer and number"),
        (["films", "--neuron", "9:0"], "no neuron 9:0: the model has layers 0 to 1"),
        (["films", "--trial", "5"], "no prompt of seed 5: there are 0, 1"),
        (["film"], "no task 'film'. Did you mean 'films'"),
        (["--rate", "0.001"], "takes none of 24"),
        (["--rate", "0"], "0.0 is not in the range"),
    ],
)
def test_what_is_refused(study: Path, args: list[str], words: str) -> None:
    result = call(*args, "--study", study)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


def test_help_has_examples() -> None:
    text = call("--help").stdout
    for example in ("transferscope neurons --study my-study", "--neuron 3:117", "--where --format json"):
        assert example in text
