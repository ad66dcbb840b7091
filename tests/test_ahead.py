"""What other stages spread: starts, races, data of targets, profiles; the files are those of a serial run."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests import executor_work
from tests.test_distribution import Here
from tests.test_pipeline import contents
from tests.test_raced import tuned
from transferscope import distribution, pipeline, store, workspace
from transferscope.cli import main
from transferscope.distribution import DistributedPipeline, open_study
from transferscope.executors.processes import Processes

__all__ = ["tuned"]  # a fixture

STARTS = {"learning_rates": [0.02, 0.04]}
WORK: dict[str, Callable[[Any], Any]] = {
    "features": lambda study: study.compare(["logme", "cka_linear"]),
    "profiles": lambda study: study.compare(["text_embedding", "prompt_fisher", "lape"]),
    "ranked by pairs": lambda study: study.rank("films", "logme"),
    "a race": lambda study: study.rank("films", race=True),
    "the first": lambda study: study.rank("films", measure=2, protocol="linear-probe"),
    "starts": lambda study: study.compare_starts("food", ["pets", "films"], **STARTS),
    "few shots": lambda study: study.compare_starts("food", ["pets"], shots=4, with_random=False, **STARTS),
}
UNITS = {
    "features": {"features": 9},
    "profiles": {"profile": 9},
    "ranked by pairs": {"features": 2},
    "a race": {"race": 4},
    "the first": {"measure": 2},
    "starts": {"init": 2 * 2 * 4 - 2, "measure": 2},
    "few shots": {"init": 2 * 2 * 2, "measure": 1},
}


@pytest.fixture(scope="module")
def extracted(tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extracted") / "study"
    shutil.copytree(tuned, folder)
    pipeline.open_study(folder).extract()
    return folder


@pytest.fixture
def study(extracted: Path, tmp_path: Path) -> Path:
    shutil.copytree(extracted, tmp_path / "study")
    return tmp_path / "study"


@pytest.mark.parametrize("what", list(WORK))
def test_it_is_spread_and_the_files_are_those_of_a_serial_run(
    what: str, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serial = tmp_path / "serial"
    shutil.copytree(study, serial)
    expected = WORK[what](pipeline.open_study(serial))
    executor = Here()
    with monkeypatch.context() as patch:
        patch.setattr(DistributedPipeline, "backbone", property(lambda self: pytest.fail("not in a unit")))
        found = WORK[what](open_study(study, executor=executor))
    assert repr(found) == repr(expected)
    assert contents(study) == contents(serial)
    stages = Counter(unit.piece.stage for unit in executor.units)
    if what == "a race":  # later rounds have what is left of the sources
        assert stages["race"] >= 4
        assert any("food on films, seed 1: 32 examples" in str(unit) for unit in executor.units)
    else:
        assert stages == UNITS[what]
    monkeypatch.setattr(workspace, "load_backbone", lambda *a, **k: pytest.fail("the model was loaded"))
    again = Here()
    WORK[what](open_study(study, executor=again))
    assert again.units == []
    assert contents(study) == contents(serial)


def test_a_start_from_a_folder_is_not_spread(study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(study / "prompts" / "pets" / "0", folder)
    executor = Here()
    opened = open_study(study, executor=executor)
    opened.compare_starts("food", [str(folder)], learning_rates=[0.04], with_random=False)
    assert {unit.piece.start for unit in executor.units} == {"scratch"}


def test_a_mistake_is_the_one_of_a_serial_run(study: Path) -> None:
    (study / "food" / "dev.jsonl").write_text("")
    errors = []
    for opened in (pipeline.open_study(study), open_study(study, executor=Here())):
        with pytest.raises(Exception, match="food") as caught:
            opened.rank("films", "logme")
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]


@pytest.mark.slow
def test_workers_that_are_killed_leave_the_same_files(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serial = tmp_path / "serial" / "study"
    shutil.copytree(study, serial)
    expected = [WORK[what](pipeline.open_study(serial)) for what in ("features", "a race", "starts")]
    monkeypatch.setattr(distribution, "perform", executor_work.perform_dying)
    lines: list[str] = []
    with Processes(2) as pool:
        opened = open_study(study, executor=pool, report=lines.append)
        found = [WORK[what](opened) for what in ("features", "a race", "starts")]
    assert repr(found) == repr(expected)
    died = [line.split()[0] for line in lines if line.endswith("doing it again")]
    assert died == ["features", "racing", "tuning"]
    store.Study(study).clean()
    assert contents(study) == contents(serial)


@pytest.mark.parametrize("command", [["rank", "films"], ["compare"]], ids=lambda command: command[0])
def test_an_executor_goes_with_a_study(command: list[str], tmp_path: Path) -> None:
    given = [*command, "--prompts", str(tmp_path), "--executor", "processes"]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 2
    assert "--executor goes with --study" in result.output
