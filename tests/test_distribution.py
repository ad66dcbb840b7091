"""A study spread over processes: the files of a serial run, byte for byte, whatever dies on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import executor_work
from tests.test_pipeline import contents, write_study
from transferscope import distribution, pipeline, store, units, workspace
from transferscope.distribution import DistributedPipeline, open_study
from transferscope.errors import InputError, StudyError, WorkerError
from transferscope.executors import make
from transferscope.executors.processes import Processes
from transferscope.executors.scheduling import Death, Outcome, Pool, attempt


class Here:
    """An executor in this process that says it is not: what is spread can be watched."""

    workers, here = 2, False

    def __init__(self) -> None:
        self.units: list[Any] = []

    def map(self, function: Any, given: Any, *, report: Any = None) -> Iterator[Any]:
        for unit in reversed(given):  # any order must do
            self.units.append(unit)
            yield unit, function(unit)

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("untouched") / "study")


@pytest.fixture(scope="module")
def serial(untouched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study after a serial run."""
    folder = tmp_path_factory.mktemp("serial") / "study"
    shutil.copytree(untouched, folder)
    pipeline.open_study(folder).run()
    return folder


@pytest.fixture
def study(untouched: Path, tmp_path: Path) -> Path:
    shutil.copytree(untouched, tmp_path / "study")  # with its times, by which a model is known again
    return tmp_path / "study"


def names(given: list[Any]) -> list[str]:
    return sorted(map(str, given))


def test_no_executor_or_one_that_works_here_is_the_pipeline_itself(study: Path) -> None:
    assert type(open_study(study)) is pipeline.Pipeline
    assert type(open_study(study, executor=make("serial"))) is pipeline.Pipeline
    assert type(open_study(study, executor=Here())) is DistributedPipeline


def test_the_stages_are_spread_and_the_files_are_those_of_a_serial_run(
    study: Path, serial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, lines, steps = Here(), list[str](), list[tuple[Any, ...]]()
    opened = open_study(study, executor=executor, report=lines.append, progress=lambda *a: steps.append(a))
    monkeypatch.setattr(DistributedPipeline, "backbone", property(lambda self: pytest.fail("not in a unit")))
    opened.run()
    assert contents(study) == contents(serial)
    kinds = [type(unit).__name__ for unit in executor.units]
    assert {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)} == {
        "Preparation": 1,
        "Tuning": 6,
        "Extraction": 3,
        "Measurement": 9,  # 15 sources and controls in blocks of two, none across targets
    }
    assert "tuning pets seed 1" in names(executor.units)
    assert "extracting food" in names(executor.units)
    assert "measuring zero-shot on films, from none, random" not in names(executor.units)
    assert lines.count("loading model") == 1
    assert sum(line.startswith("tuned ") for line in lines) == 6
    assert ("extract", 3, 3, "extracting films") in steps


def test_a_finished_study_is_spread_no_more(
    serial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(serial, folder)
    monkeypatch.setattr(workspace, "load_backbone", lambda *a, **k: pytest.fail("the model was loaded"))
    executor = Here()
    open_study(folder, executor=executor).run()
    assert executor.units == []
    assert contents(folder) == contents(serial)


def test_only_what_is_missing_or_stale_is_spread(serial: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(serial, folder)
    shutil.rmtree(folder / "prompts" / "pets" / "1")
    (folder / "signatures" / "food.safetensors").unlink()
    cells = folder / "transfer" / "zero-shot" / "films.json"
    record = json.loads(cells.read_text())
    record["cells"] = [cell for cell in record["cells"] if cell["source"] != "random"]
    cells.write_text(json.dumps(record))
    executor = Here()
    open_study(folder, executor=executor).run()
    assert names(executor.units) == [
        "checking films, food, pets",
        "extracting food",
        "measuring zero-shot on films, from random",
        "tuning pets seed 1",
    ]
    again, lines = Here(), list[str]()
    with (folder / "food" / "train.jsonl").open("a") as file:
        file.write('\n{"text": "the food sees", "label": 1}')
    open_study(folder, executor=again, report=lines.append).extract(["food"])
    assert names(again.units) == [
        "checking food",
        "extracting food",
        "tuning food seed 0",
        "tuning food seed 1",
    ]
    assert sum("tuning food seed 0 again: task: was" in line for line in lines) == 1


def test_the_linear_probe_and_sources_by_name(serial: Path, tmp_path: Path) -> None:
    plain, spread = tmp_path / "plain", tmp_path / "spread"
    for folder in (plain, spread):
        shutil.copytree(serial, folder)
    asked: dict[str, Any] = {"targets": ["films", "pets"], "sources": ["food"]}
    pipeline.open_study(plain).measure("linear-probe", **asked)
    executor = Here()
    open_study(spread, executor=executor).measure("linear-probe", **asked)
    assert {unit.sources for unit in executor.units} == {("food", "films"), ("food", "pets")}
    assert contents(spread) == contents(plain)


def test_blocks_of_a_killed_run_are_taken_over_by_a_serial_one(serial: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(serial, folder)
    (folder / "transfer" / "zero-shot" / "films.json").unlink()
    (folder / "transfer.csv").unlink()
    unit = units.Measurement(
        str(folder), "x", "zero-shot", "films", ("films", "food", "pets"), ("pets", "none")
    )
    units.perform(unit)
    blocks = folder / "transfer" / "zero-shot" / "films.blocks"
    assert len(list(blocks.iterdir())) == 1
    assert not (folder / "transfer" / "zero-shot" / "films.json").exists()
    seen: list[str] = []
    opened = pipeline.open_study(folder, progress=lambda *a: seen.append(a[3]))
    before = contents(blocks)
    units.perform(unit)
    assert contents(blocks) == before
    opened.measure()
    assert contents(folder) == contents(serial)


def test_a_block_of_another_model_is_not_taken_over(serial: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(serial, folder)
    whole = folder / "transfer" / "zero-shot" / "films.json"
    record = json.loads(whole.read_text())
    record["inputs"]["model"] = "another"
    record["cells"] = [{**cell, "value": 0.123} for cell in record["cells"]]
    store.write_text(whole.parent / "films.blocks" / "0123.json", json.dumps(record))
    whole.unlink()
    pipeline.open_study(folder).measure()
    assert contents(folder) == contents(serial)


def test_mistakes_are_said_as_in_a_serial_run(study: Path) -> None:
    raw = yaml.safe_load((study / "study.yaml").read_text())
    raw["tasks"]["pets"]["words"] = ["no", "unheardof"]
    raw["tasks"]["food"]["dev"] = "food/nowhere.jsonl"
    store.write_text(study / "study.yaml", yaml.safe_dump(raw))
    errors = []
    for executor in (None, Here()):
        with pytest.raises(InputError) as caught:
            open_study(study, executor=executor).run()
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]
    assert "nowhere" in errors[0][1]
    assert "unheardof" in errors[0][1]
    assert not (study / "prompts").exists()
    with pytest.raises(StudyError, match="no task 'petz'"):
        open_study(study, executor=Here()).measure(targets=["petz"])


def test_a_worker_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="all workers need the study's folder under the same name"):
        units.perform(units.Extraction(str(tmp_path / "elsewhere"), "x", "films"))


@pytest.mark.parametrize(
    ("named", "seen", "taken"),
    [
        ("auto", 1, "auto"),
        ("cpu", 1, "cpu"),
        ("cuda", 1, "cuda"),
        ("cuda:3", 1, "cuda:0"),
        ("cuda:3", 4, "cuda:3"),
    ],
)
def test_the_device_of_a_worker(named: str, seen: int, taken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: seen)
    assert units.own_device(named) == taken


def test_the_device_is_in_nothing_that_is_written(serial: Path, study: Path) -> None:
    opened = pipeline.open_study(study)
    opened.device = "cpu"  # where the settings say "auto"
    opened.tune(["films"])
    assert str(opened.backbone.device) == "cpu"
    made = contents(study)
    assert {name: made[name] for name in made} == {name: contents(serial)[name] for name in made}


def test_processes_that_are_killed_leave_the_files_of_a_serial_run(
    study: Path, serial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distribution, "perform", executor_work.perform_dying)
    (study.parent / "died-Extraction").touch()
    lines: list[str] = []
    with Processes(2) as pool:
        open_study(study, executor=pool, report=lines.append).run()
    died = [
        line
        for line in lines
        if line.endswith("was killed by SIGKILL (as a system that runs out of memory does); doing it again")
    ]
    assert [line.split()[0] for line in died] == ["tuning", "measuring"]
    store.Study(study).clean()
    assert contents(study) == contents(serial)


class Deadly(Pool):
    """A pool of this process, whose worker dies of some units, however often it is replaced."""

    def give(self, place: int, function: Any, unit: Any) -> None:
        self.doing = function, unit

    def take(self) -> tuple[int, Outcome | Death]:
        function, unit = self.doing
        return 0, Death("fell over") if "food" in getattr(unit, "block", ()) else attempt(function, unit)

    def stop(self) -> None: ...


def test_a_unit_that_always_dies_is_named_and_what_was_finished_is_kept(
    serial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distribution, "PARTS", 15)  # a unit for each source
    folder = tmp_path / "study"
    shutil.copytree(serial, folder)
    shutil.rmtree(folder / "transfer")
    (folder / "transfer.csv").unlink()
    message = "measuring zero-shot on films, from food: the process that did it died 3 times"
    with pytest.raises(WorkerError, match=message):
        open_study(folder, executor=Deadly(1)).measure()
    kept = contents(folder)
    assert sum("films.blocks" in name for name in kept) == 1
    open_study(folder, executor=Here()).measure()
    assert contents(folder) == contents(serial)


INTERRUPTED = """
import sys
from transferscope.distribution import open_study
from transferscope.executors import make
if __name__ == "__main__":
    show = lambda *a: print(*a, flush=True)
    open_study(sys.argv[1], executor=make("processes", workers=1), progress=show).run()
"""


@pytest.mark.slow
def test_killed_whole_and_started_again_ends_the_same(study: Path, serial: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(INTERRUPTED)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(study)],
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("tune 2 6"):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (study / "indicators.csv").exists()
    executor = Here()
    open_study(study, executor=executor).run()
    assert len([unit for unit in executor.units if isinstance(unit, units.Tuning)]) <= 4
    store.Study(study).clean()
    assert contents(study) == contents(serial)
