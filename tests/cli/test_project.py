"""`transferscope project` on two tiny studies whose models differ in width."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from tests import tiny
from tests.test_pipeline import write_study
from transferscope import store
from transferscope.cli import main
from transferscope.descent import Descent
from transferscope.descent_state import STATE
from transferscope.projector import load_projector
from transferscope.prompts import load_prompt

KEYS = {
    "source_model", "target_model", "kind", "flatten", "objective", "projector", "trained_on", "tasks",
    "trained", "held_out", "notes",
}  # fmt: skip


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Study a on a BERT of width 16, study b on a RoBERTa of width 24; b lacks the task `pets`."""
    folder = tmp_path_factory.mktemp("studies")
    a, b = write_study(folder / "a"), write_study(folder / "b", seeds=1)
    tiny.model("roberta", hidden_size=24, seed=1).save_pretrained(b / "other")
    tiny.tokenizer("roberta").save_pretrained(b / "other")
    change(b, model="other", tuning={"rows": 2, "steps": 6, "evaluate_every": 3, "batch_size": 8})
    return a, b


def change(study: Path, **settings: Any) -> None:
    known = yaml.safe_load((study / "study.yaml").read_text())
    store.write_text(study / "study.yaml", yaml.safe_dump(known | settings))


def project(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["project", *map(str, arguments)])


def test_prompts_are_projected_measured_and_written(studies: tuple[Path, Path]) -> None:
    a, b = studies
    result = project(a, b, "--format", "json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert set(report) == KEYS
    assert (report["kind"], report["objective"], report["flatten"]) == ("linear", "distance", True)
    assert (report["source_model"], report["target_model"]) == ("model", "other")
    assert {row["task"]: row["held_out"] for row in report["tasks"]} == {
        name: name not in report["trained_on"] for name in ("films", "food", "pets")
    }
    assert len(report["trained_on"]) == 2
    assert report["held_out"]["tasks"] == 1
    assert all(row["own"] is not None and row["seeds"] == [0, 1] for row in report["tasks"])
    folder = b / "projected" / "a"
    projector = load_projector(folder / "projector.safetensors")
    assert projector.fingerprint == report["projector"]
    for name in ("films", "food", "pets"):
        for seed in (0, 1):
            written = load_prompt(folder / "prompts" / name / str(seed))
            expected = projector.project(load_prompt(a / "prompts" / name / str(seed)))
            assert written.rows.tobytes() == expected.rows.tobytes()
            assert written.rows.shape == (2, 24)
            assert written.provenance["held_out"] is (name not in report["trained_on"])
    assert {path.name for path in folder.iterdir()} == {"projector.safetensors", "prompts", "measured.json"}


def test_a_current_projector_is_not_fitted_again(
    studies: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = studies
    out = tmp_path / "out"
    first = project(a, b, "--train-on", "films", "--out", out, "--format", "csv")
    assert first.exit_code == 0, first.output
    rows = [line.split(",") for line in first.stdout.splitlines()]
    assert rows[0][:3] == ["task", "group", "metric"]
    assert {row[0]: row[1] for row in rows[1:]} == {
        "films": "trained on",
        "food": "held out",
        "pets": "held out",
    }

    def fit(*_: Any, **__: Any) -> None:
        raise AssertionError("fitted again")

    (out / STATE).write_bytes(b"left by a command that was killed when the projector was there")
    with monkeypatch.context() as patch:
        patch.setattr("transferscope.projection.fit_distance", fit)
        patch.setattr("transferscope.zero_shot.ZeroShot.score", fit)
        words = ("--format", "csv", "--plot", tmp_path / "projected.svg")
        again = project(a, b, "--train-on", "films", "--out", out, *words)
    assert again.stdout == first.stdout
    assert not (out / STATE).exists()
    assert (tmp_path / "projected.svg").read_bytes().startswith(b"<?xml")
    other = project(a, b, "--train-on", "food", "--out", out, "--format", "csv")
    assert "fitting the projector again" in other.stderr
    assert "food,trained on" in other.stdout


def test_task_objective(studies: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = studies
    result = project(
        a, b, "--objective", "task", "--per-token", "--steps", 2, "--train-on", "films", "--train-on",
        "food", "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "two-layer projector, by token, objective task" in result.stdout
    projector = load_projector(tmp_path / "out" / "projector.safetensors")
    assert projector.trained_on == ("films", "food")
    assert projector.settings.steps == 2
    assert load_prompt(tmp_path / "out" / "prompts" / "pets" / "0").rows.shape == (3, 24)


def test_other_rows_are_another_projector_where_prompts_are_given(
    studies: tuple[Path, Path], tmp_path: Path
) -> None:
    a, b = studies
    assert project(a, b).exit_code == 0  # which tunes what is not there
    given = tmp_path / "given"
    shutil.copytree(b, given)
    tasks = yaml.safe_load((given / "study.yaml").read_text())["tasks"]
    change(given, tasks={name: {**spec, "prompts": f"prompts/{name}"} for name, spec in tasks.items()})
    words = ("--objective", "task", "--steps", 2, "--train-on", "films", "--out", tmp_path / "out")
    assert project(a, given, *words).exit_code == 0
    change(given, tuning={"rows": 4})
    again = project(a, given, *words)
    assert "fitting the projector again: rows: was 2, now 4" in again.stderr
    assert load_prompt(tmp_path / "out" / "prompts" / "pets" / "0").rows.shape == (4, 24)


def test_a_killed_training_goes_on_to_the_same_bytes(
    studies: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = studies
    words = (a, b, "--kind", "two-layer", "--steps", 120, "--train-on", "films", "--train-on", "food")
    assert project(*words, "--out", tmp_path / "whole").exit_code == 0
    update, calls = Descent._update, []

    def counted(self: Descent, loss: Any, step: int) -> None:
        if len(calls) == 70:
            calls.append(-1)
            raise KeyboardInterrupt
        calls.append(step)
        update(self, loss, step)

    monkeypatch.setattr(Descent, "_update", counted)
    assert project(*words, "--out", tmp_path / "out").exit_code != 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == [STATE]
    result = project(*words, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert calls == [*range(70), -1, *range(50, 120)]
    files = [
        sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        for folder in (tmp_path / "whole", tmp_path / "out")
    ]
    assert files[0] == files[1]
    for name in files[0]:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_cannot_be_projected_is_one_line(studies: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = studies
    wrong = project(a, b, "--train-on", "film")
    assert wrong.exit_code == 2
    assert "Did you mean 'films'?" in wrong.stderr
    assert project(a, tmp_path / "none").exit_code == 2
    c = write_study(tmp_path / "c", head="classifier")
    heads = project(a, c)
    assert heads.exit_code == 2
    assert "head: classifier" in heads.stderr
    tasks = yaml.safe_load((c / "study.yaml").read_text())["tasks"]
    change(c, tasks={f"{name}2": spec for name, spec in tasks.items()}, head="verbalizer")
    apart = project(a, c)
    assert apart.exit_code == 2
    assert "no task in common" in apart.stderr


def test_nothing_is_written_outside(studies: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = studies
    out = tmp_path / "out"
    (out / "prompts").mkdir(parents=True)
    (out / "prompts" / "films").symlink_to(tmp_path / "elsewhere")
    result = project(a, b, "--out", out)
    assert result.exit_code == 2
    assert "leads out of the study" in result.stderr
    assert not (tmp_path / "elsewhere").exists()
