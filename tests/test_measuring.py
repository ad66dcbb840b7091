"""The measuring stage: cell by cell, killed and gone on with; sources without data; starts compared."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.test_pipeline import contents, write_study
from transferscope import cells, measuring, store, transfer
from transferscope.errors import InputError, StudyError, TaskError
from transferscope.pipeline import Pipeline, open_study
from transferscope.prompts import load_prompt


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose prompts are tuned and whose zero-shot transfer is measured."""
    folder = write_study(tmp_path_factory.mktemp("whole") / "study")
    open_study(folder).measure()
    return folder


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "study")
    return tmp_path / "study"


def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is really measured from now on: the tasks of the prompts, in order."""
    seen: list[str] = []
    for name, make in transfer.PROTOCOLS.items():

        def wrapped(*args: Any, make: Any = make, **options: Any) -> Any:
            scorer = make(*args, **options)
            score = scorer.score

            def counting(prompt: Any) -> Any:
                seen.append(prompt.task)
                return score(prompt)

            scorer.score = counting
            return scorer

        monkeypatch.setitem(transfer.PROTOCOLS, name, wrapped)
    return seen


def test_the_matrix_has_own_prompts_and_controls_in_the_study_s_order(finished: Path) -> None:
    matrix = open_study(finished).measure()
    assert matrix.sources == matrix.targets == ("films", "food", "pets")
    assert matrix.seeds == (0, 1)
    assert np.isfinite(matrix.per_seed).all()
    assert {name: values.shape for name, values in matrix.controls.items()} == {
        "none": (1, 3),
        "random": (3, 3),
    }
    for name in matrix.targets:
        own = [load_prompt(finished / "prompts" / name / str(r)).provenance["scores"]["dev"] for r in (0, 1)]
        assert matrix.value(name, name) == pytest.approx(np.mean(own))


def test_nothing_is_measured_twice(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = scored(monkeypatch)
    before = contents(study)
    open_study(study).measure()
    assert seen == []
    assert contents(study) == before


def test_a_part_is_measured_alone_and_the_rest_stays(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("films", "food", "pets"):
        (study / "transfer" / "zero-shot" / f"{name}.json").unlink()
    (study / "transfer.csv").unlink()
    seen = scored(monkeypatch)
    part = open_study(study).measure(targets=["food"], sources=["pets"])
    assert (part.sources, part.targets) == (("food", "pets"), ("food",))  # its own prompt beside it
    assert set(seen) == {"food", "pets", "none", "random"}
    seen.clear()
    whole = open_study(study).measure()
    assert seen.count("pets") == 2 * 2
    assert whole.value("pets", "food") == part.value("pets", "food")


def test_a_prompt_tuned_again_is_measured_again_and_nothing_else(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(study / "prompts" / "pets" / "1")
    settings = yaml.safe_load((study / "study.yaml").read_text())
    open_study(study).tune()  # the same bytes: nothing is stale
    seen = scored(monkeypatch)
    open_study(study).measure()
    assert seen == []
    settings["tasks"]["pets"]["words"] = ["yes", "no"]
    store.write_text(study / "study.yaml", yaml.safe_dump(settings))
    open_study(study).measure()
    # pets is another task now: its column is measured, and its prompts on the others.
    assert seen.count("pets") == 2 * 3
    assert (seen.count("films"), seen.count("food"), seen.count("random")) == (2, 2, 3)


def test_fewer_random_draws_leave_the_table_but_the_cells_stay(study: Path) -> None:
    settings = yaml.safe_load((study / "study.yaml").read_text())
    store.write_text(study / "study.yaml", yaml.safe_dump(settings | {"transfer": {"random_draws": 1}}))
    assert open_study(study).measure().controls["random"].shape == (1, 3)
    store.write_text(study / "study.yaml", yaml.safe_dump(settings | {"transfer": {"random_draws": 0}}))
    assert set(open_study(study).measure().controls) == {"none"}


def test_the_linear_probe_stands_beside_zero_shot(study: Path) -> None:
    probed = open_study(study).measure("linear-probe")
    assert probed.protocol == "linear-probe"
    assert np.isfinite(probed.values).all()
    rows = cells.read_table(store.Study(study))
    assert {row["protocol"] for row in rows} == {"zero-shot", "linear-probe"}
    assert open_study(study).known_transfer("linear-probe") is not None
    again = open_study(study).measure()
    assert again.protocol == "zero-shot"


def test_a_classifier_study_is_measured_by_the_probe(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study", head="classifier", seeds=1)
    summary = open_study(folder).run()
    assert summary.correlation is not None
    assert summary.correlation.protocol == "linear-probe"


KILLED = """
import sys
from transferscope.pipeline import open_study
def progress(stage, *a):
    if stage == "measure":
        print(stage, *a, flush=True)
open_study(sys.argv[1], progress=progress).measure(sys.argv[2])
"""


@pytest.mark.parametrize("protocol", ["zero-shot", "linear-probe"])
def test_killed_anywhere_and_started_again_ends_with_the_same_matrix(
    study: Path, finished: Path, protocol: str
) -> None:
    whole = open_study(finished).measure(protocol)
    table = (finished / "transfer.csv").read_bytes()
    shutil.rmtree(study / "transfer")
    (study / "transfer.csv").unlink()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    found = []
    for lines in (1, 8, 14) if protocol == "zero-shot" else (8,):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(study), protocol],
            stdout=subprocess.PIPE, env=environment, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        for _ in range(lines):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        files = sorted((study / "transfer" / protocol).glob("*.json"))
        found.append(sum(len(json.loads(file.read_text())["cells"]) for file in files))
    assert found == sorted(found)
    assert 8 <= found[-1] < 3 * 10  # what had been found was there, and it was not all
    resumed = open_study(study).measure(protocol)
    np.testing.assert_array_equal(resumed.per_seed, whole.per_seed)
    for name, values in whole.controls.items():
        np.testing.assert_array_equal(resumed.controls[name], values)
    if protocol == "zero-shot":
        assert (study / "transfer.csv").read_bytes() == table


# Sources without data.


@pytest.fixture
def sources_only(finished: Path, tmp_path: Path) -> Path:
    """food and pets have their prompts alone; films has its data."""
    folder = tmp_path / "mixed"
    shutil.copytree(finished, folder)
    for name in ("transfer", "signatures", "prompts/films"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "prompts").rename(folder / "adapters")
    settings = yaml.safe_load((folder / "study.yaml").read_text())
    for name in ("food", "pets"):
        settings["tasks"][name] = {"prompts": f"adapters/{name}", "type": settings["tasks"][name]["type"]}
    store.write_text(folder / "study.yaml", yaml.safe_dump(settings))
    return folder


def test_a_source_needs_no_data(sources_only: Path, finished: Path) -> None:
    pipeline = open_study(sources_only)
    matrix = pipeline.measure()
    assert matrix.targets == ("films",)
    assert matrix.sources == ("films", "food", "pets")
    assert matrix.value("food", "films") == open_study(finished).measure().value("food", "films")
    names = {matrix.indicator for matrix in pipeline.compare()}
    assert {"on", "prompt_cosine_mean_token"} <= names
    assert not any(name.startswith("predictivity") for name in names)
    ranking = pipeline.rank("films")
    assert {source.source for source in ranking.sources} == {"food", "pets"}
    summary = pipeline.run()
    assert [task.task for task in summary.tasks] == ["films", "food", "pets"]


def test_a_source_without_data_is_no_target(sources_only: Path) -> None:
    with pytest.raises(TaskError, match=r"'food' has no data in this study, only prompts \(adapters/food\)"):
        open_study(sources_only).measure(targets=["food"])


def test_a_study_of_prompts_alone_is_compared_without_its_model(sources_only: Path) -> None:
    settings = yaml.safe_load((sources_only / "study.yaml").read_text())
    del settings["tasks"]["films"]
    settings["model"] = "a-model/that-is-nowhere"
    store.write_text(sources_only / "study.yaml", yaml.safe_dump(settings))
    matrices = open_study(sources_only).compare()
    assert {"prompt_cosine_mean_token"} <= {m.indicator for m in matrices}
    assert matrices[0].tasks == ("food", "pets")
    assert (sources_only / "indicators.csv").is_file()
    with pytest.raises(InputError, match="no task of this study has data"):
        open_study(sources_only).measure()


# Transfer by initialisation.


def test_starts_are_compared_at_their_own_learning_rates(study: Path) -> None:
    pipeline = open_study(study)
    found = pipeline.compare_starts("films", ["food"])
    rates = {(run.start, run.learning_rate) for run in found.runs}
    assert rates == {
        (start, factor * 0.02) for start in ("scratch", "food", "random") for factor in (0.25, 0.5, 1.0, 2.0)
    }
    assert {run.seed for run in found.runs} == {0, 1}
    food = next(start for start in found.starts if start.start == "food")
    assert food.untouched == pytest.approx(pipeline.measure().value("food", "films"))
    assert next(run for run in found.runs if run.start == "food").curve.steps == (0, 3, 6)
    best = load_prompt(pipeline.best_run(found))
    assert best.provenance["scores"]["validation"] == max(
        run.validation
        for run in found.runs
        if (run.start, run.learning_rate) == (found.recommended.start, found.recommended.learning_rate)
    )
    stored = {
        (row["source"], row["seed"]): row["value"]
        for row in cells.read_table(store.Study(study))
        if row["protocol"] == "init"
    }
    assert set(stored) == {(start, seed) for start in ("scratch", "food", "random") for seed in (0, 1)}
    assert np.mean([stored["food", 0], stored["food", 1]]) == pytest.approx(food.dev)


def test_runs_that_are_there_are_not_done_again(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_study(study).compare_starts("films", ["food"], learning_rates=[0.01])

    def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("tuned again")

    monkeypatch.setattr("transferscope.workspace.tune", never)
    again = open_study(study).compare_starts("films", ["food"], learning_rates=[0.01])
    assert again == first
    with pytest.raises(AssertionError, match="tuned again"):
        open_study(study).compare_starts("films", ["pets"], learning_rates=[0.01])


def test_scratch_at_the_study_s_rate_is_the_study_s_own_prompt(study: Path) -> None:
    pipeline = open_study(study)
    found = pipeline.compare_starts("films", ["food"], learning_rates=[0.02], with_random=False)
    assert not (study / "init" / "films" / "all" / "scratch").exists()
    own = [load_prompt(study / "prompts" / "films" / str(seed)) for seed in (0, 1)]
    runs = [run for run in found.runs if run.start == "scratch"]
    assert [run.dev for run in runs] == [prompt.provenance["scores"]["dev"] for prompt in own]


def test_few_shots_are_tuned_on_few_examples(study: Path) -> None:
    found = open_study(study).compare_starts("films", ["food"], shots=4, learning_rates=[0.01])
    assert found.shots == 4
    folder = study / "init" / "films" / "4"
    assert load_prompt(folder / "food" / "0.01" / "0").provenance["settings"]["validation"] == 0.5
    assert json.loads((folder / "comparison.json").read_text())["shots"] == 4
    assert not any(row["protocol"] == "init" for row in cells.read_table(store.Study(study)))


def test_best_starts_from_the_first_of_the_ranking_and_a_folder_from_itself(study: Path) -> None:
    pipeline = open_study(study)
    first = pipeline.rank("films").sources[0].source
    found = pipeline.compare_starts("films", ["best"], learning_rates=[0.01], with_random=False)
    assert {start.start for start in found.starts} == {"scratch", first}
    folder = study / "mine"
    shutil.copytree(study / "prompts" / "pets", folder)
    found = pipeline.compare_starts("films", [str(folder)], learning_rates=[0.01], with_random=False)
    assert {start.start for start in found.starts} == {"scratch", "mine"}


def test_what_a_start_may_not_be(study: Path) -> None:
    pipeline = open_study(study)
    with pytest.raises(StudyError, match=r"no task and no folder 'fod' to start from.*food"):
        pipeline.compare_starts("films", ["fod"])
    shutil.copytree(study / "prompts" / "pets", study / "scratch")
    with pytest.raises(StudyError, match="name of a task or a control"):
        pipeline.compare_starts("films", [str(study / "scratch")])
    with pytest.raises(TaskError, match="21 shots need 42 training examples"):
        pipeline.compare_starts("films", ["food"], shots=21)


def test_a_wrong_protocol_is_answered_with_the_nearest(study: Path) -> None:
    with pytest.raises(InputError, match="linear-probe"):
        open_study(study).measure("linear_probe")


def test_the_order_is_the_study_s(finished: Path) -> None:
    matrix = open_study(finished).measure()
    turned = measuring.in_order(matrix, ["pets", "food", "films"])
    assert turned.sources == turned.targets == ("pets", "food", "films")
    assert turned.value("pets", "films") == matrix.value("pets", "films")
    assert isinstance(open_study(finished), Pipeline)


def test_given_prompts_are_never_tuned_over(study: Path) -> None:
    settings = yaml.safe_load((study / "study.yaml").read_text())
    settings["tasks"]["films"]["prompts"] = "prompts/films"  # where an import puts them
    store.write_text(study / "study.yaml", yaml.safe_dump(settings))
    before = contents(study / "prompts")
    open_study(study).compare_starts("films", ["food"], learning_rates=[0.02], with_random=False)
    assert contents(study / "prompts") == before
    assert (study / "init" / "films" / "all" / "scratch" / "0.02" / "0").is_dir()


def test_stale_cells_stay_out_of_the_table_whoever_writes_it(study: Path) -> None:
    stored = cells.TargetCells(store.Study(study), "zero-shot", "films", {})
    assert stored.changed  # other inputs than those of the study: as if the model had changed
    stored.add(transfer.Cell("pets", 0, "accuracy", 0.123, prompt="another"))
    open_study(study).compare_starts("films", ["pets"], learning_rates=[0.01], with_random=False)
    rows = cells.read_table(store.Study(study))
    assert not any(row["value"] == 0.123 for row in rows)
