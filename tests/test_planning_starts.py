"""Plans of starts: the tunings of a grid to the last row, without those that are there; what comes before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.test_counting import causal_study
from tests.test_pipeline import write_study
from tests.test_planning import RATE, counted, work
from transferscope.cli import main
from transferscope.errors import StudyError
from transferscope.pipeline import Pipeline, open_study
from transferscope.planning import Plan
from transferscope.planning_starts import UNRANKED, plan_starts

TUNING = {"rows": 3, "steps": 3, "evaluate_every": 2, "batch_size": 8}
RATES = [0.01, 0.02]  # the second is the study's own


def everything(found: Plan) -> tuple[int, int]:
    return int(found.total("passes")), int(found.total("rows"))


def by_stage(found: Plan, stage: str) -> list[tuple[str, int, int]]:
    return [(one.task, one.units, one.done) for one in found.work if one.stage == stage]


def start(study: Pipeline, *args: Any, **options: Any) -> tuple[int, int]:
    """What comparing starts really sends through the model."""
    with counted(study) as rows:
        study.compare_starts(*args, **options)
    return len(rows), sum(rows)


@pytest.mark.parametrize("shots", [None, 8])
@pytest.mark.parametrize("kind", ["encoder", "suffix"])
def test_a_grid_is_that_of_the_run(kind: str, shots: int | None, tmp_path: Path) -> None:
    """First nothing is there, then one learning rate, then all."""
    made = causal_study if kind == "suffix" else write_study
    template = {"template": "suffix"} if kind == "suffix" else {}
    folder = made(tmp_path, tuning=TUNING, **template)
    options: dict[str, Any] = {"shots": [shots], "learning_rates": RATES, "rate": RATE}

    def planned() -> Plan:
        return plan_starts(open_study(folder), ["food"], ["pets"], **options)

    before = planned()
    grid = 3 * 2 * 2  # scratch, the source and a random prompt; two rates, two seeds
    name = "food" if shots is None else "food, 8 shots"
    assert by_stage(before, "tune") == [("pets", 2, 0)]
    assert by_stage(before, "init") == [(name, grid, 0)]
    assert by_stage(before, "measure") == [("food", 2, 0)]
    assert not (tmp_path / "init").exists()
    assert not (tmp_path / "prompts").exists()
    run: dict[str, Any] = {"shots": shots}
    done = start(open_study(folder), "food", ["pets"], learning_rates=RATES[:1], **run)
    half = planned()
    assert by_stage(half, "init") == [(name, grid, grid // 2)]
    rest = start(open_study(folder), "food", ["pets"], learning_rates=RATES, **run)
    assert rest == everything(half)
    assert (done[0] + rest[0], done[1] + rest[1]) == everything(before)
    assert everything(planned()) == (0, 0)


def test_sources_that_a_ranking_chooses_are_counted_before_they_are_known(tmp_path: Path) -> None:
    folder = write_study(tmp_path, tuning=TUNING)
    before = plan_starts(open_study(folder), ["food"], learning_rates=RATES, rate=RATE)
    assert UNRANKED in before.notes
    assert {one.task for one in before.work if one.stage == "extract"} == {"films", "food", "pets"}
    # from scratch at the study's own rate: the prompts that are tuned before the ranking
    assert by_stage(before, "init") == [("food", 4 * 2 * 2 - 2, 0)]
    study = open_study(folder)
    assert start(study, "food", learning_rates=RATES) == everything(before)
    after = plan_starts(open_study(folder), ["food"], learning_rates=RATES, rate=RATE)
    assert UNRANKED not in after.notes
    assert everything(after) == (0, 0)
    assert after.total("done") == after.total("units") == before.total("units")


def test_the_best_source_and_a_folder(tmp_path: Path) -> None:
    """A folder's prompt keeps its number of rows, and texts get the room that it leaves."""
    folder = write_study(tmp_path / "study", tuning=TUNING, seeds=1)
    other = write_study(tmp_path / "other", tuning=TUNING | {"rows": 5}, seeds=1)
    open_study(other).tune(["films"])
    given = str(other / "prompts" / "films" / "0")
    options: dict[str, Any] = {"learning_rates": RATES, "with_random": False}
    for source in ("best", given):
        before = plan_starts(open_study(folder), ["food"], [source], rate=RATE, **options)
        assert work(before, "init")[0] > 0
        assert start(open_study(folder), "food", [source], **options) == everything(before), source
        assert everything(plan_starts(open_study(folder), ["food"], [source], rate=RATE, **options)) == (0, 0)


def test_names_that_are_neither_task_nor_folder_are_refused(tmp_path: Path) -> None:
    study = open_study(write_study(tmp_path, tuning=TUNING))
    with pytest.raises(StudyError, match="Did you mean 'food'"):
        plan_starts(study, ["fod"], ["pets"], rate=RATE)
    with pytest.raises(StudyError, match="Did you mean 'pets'"):
        plan_starts(study, ["food"], ["pet"], rate=RATE)


def call(*args: Any) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_the_commands_plan_the_same(tmp_path: Path) -> None:
    folder = write_study(tmp_path, tuning=TUNING)
    beside = ("--study", folder, "--learning-rate", 0.01, "--dry-run", "--format", "json")
    measured = call("measure", "--protocol", "init", "--target", "food", "--source", "pets", *beside)
    assert measured.exit_code == 0, measured.output
    stages = [(one["stage"], one["units"]) for one in json.loads(measured.stdout)["work"]]
    assert stages == [("tune", 2), ("init", 6), ("measure", 2)]
    tuned = call("tune", "food", "--init-from", "pets", "--shots", 8, *beside)
    assert tuned.exit_code == 0, tuned.output
    found = {one["task"]: one["units"] for one in json.loads(tuned.stdout)["work"] if one["stage"] == "init"}
    assert found == {"food, 8 shots": 4}  # no random prompt
    assert not (tmp_path / "prompts").exists()
    no_target = call("measure", "--protocol", "init", "--study", folder, "--dry-run")
    assert (no_target.exit_code, "--target" in no_target.output) == (2, True)
    no_task = call("tune", "--init-from", "pets", "--study", folder, "--dry-run")
    assert (no_task.exit_code, "exactly one task" in no_task.output) == (2, True)
