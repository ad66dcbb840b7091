"""A whole study on a tiny model: stages write what they should, are skipped when current, survive a kill."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests import tiny
from transferscope import files, pipeline, store, workspace
from transferscope.errors import StudyError, TaskError, TemplateError
from transferscope.exporters import export
from transferscope.pipeline import open_study

TASKS = {
    "films": ("film", "bad", "good"),
    "food": ("food", "terrible", "great"),
    "pets": ("cat", "no", "yes"),
}


def write_study(folder: Path, **settings: Any) -> Path:
    """Three small tasks and a tiny random BERT in a folder."""
    model = tiny.model("bert")
    model.save_pretrained(folder / "model")
    tiny.tokenizer("bert").save_pretrained(folder / "model")
    tasks: dict[str, Any] = {}
    for name, (subject, negative, positive) in TASKS.items():
        rng = random.Random(name)
        for split, size in (("train", 40), ("dev", 20)):
            lines = []
            for i in range(size):
                word = rng.choice(["hates", "small", "old"] if i % 2 == 0 else ["likes", "big", "new"])
                lines.append(
                    json.dumps(
                        {"text": f"the {subject} {word} {rng.choice(['a', 'an', 'it'])}", "label": i % 2}
                    )
                )
            store.write_text(folder / name / f"{split}.jsonl", "\n".join(lines))
        tasks[name] = {
            "train": f"{name}/train.jsonl",
            "dev": f"{name}/dev.jsonl",
            "text": "text",
            "label": "label",
            "words": [negative, positive],
            "type": "animals" if name == "pets" else "things",
        }
    base = {
        "model": "model",
        "seeds": 2,
        "tasks": tasks,
        "tuning": {"rows": 3, "steps": 6, "evaluate_every": 3, "batch_size": 8},
    }
    store.write_text(folder / "study.yaml", yaml.safe_dump(base | settings))
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path / "study")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_run_writes_the_documented_layout(study: Path) -> None:
    summary = open_study(study).run()
    assert [task.task for task in summary.tasks] == list(TASKS)
    for task in TASKS:
        for seed in ("0", "1"):
            folder = study / "prompts" / task / seed
            assert {path.name for path in folder.iterdir()} == {
                "adapter_config.json",
                "adapter_model.safetensors",
                "transferscope.json",
            }
        assert (study / "signatures" / f"{task}.safetensors").is_file()
    transfer = store.read_csv(study / "transfer.csv", pipeline.transfer.COLUMNS, numbers={"value"})
    assert len(transfer) == 3 * (3 * 2 + 4)  # with no prompt, and three random ones
    values = store.read_csv(
        study / "indicators.csv", ("indicator", "source", "target", "value"), numbers={"value"}
    )
    assert {row["indicator"] for row in values} >= {
        "on",
        "prompt_cosine_mean_token",
        "predictivity_spearman",
        "skill_on",
    }
    assert json.loads((study / "correlation.json").read_text())["own_prompt"] == "excluded"


def test_own_performance_is_on_the_diagonal_of_measured_transfer(study: Path) -> None:
    pipe = open_study(study)
    prompts, measured = pipe.tune(), pipe.measure()
    for task, several in prompts.items():
        own = [prompt.provenance["scores"]["dev"] for prompt in several]
        assert measured.value(task, task) == pytest.approx(np.mean(own))


def test_a_second_run_changes_nothing_and_loads_no_model(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_study(study).run()
    before = contents(study)
    monkeypatch.setattr(workspace, "load_backbone", lambda *a, **k: pytest.fail("the model was loaded again"))
    monkeypatch.setattr(workspace, "tune", lambda *a, **k: pytest.fail("a prompt was tuned again"))
    monkeypatch.setattr(pipeline, "extract", lambda *a, **k: pytest.fail("a signature was extracted again"))
    open_study(study).run()
    assert contents(study) == before


def test_what_changed_is_said_and_only_that_is_done_again(study: Path) -> None:
    open_study(study).run()
    before = contents(study)
    with (study / "pets" / "train.jsonl").open("a") as file:
        file.write('\n{"text": "the cat sees", "label": 1}')
    lines: list[str] = []
    open_study(study, report=lines.append).run()
    after = contents(study)
    assert any("tuning pets seed 0 again: task: was" in line for line in lines)
    assert not any("films" in line for line in lines)
    untouched = [
        name for name in before if name.startswith(("prompts/films", "prompts/food", "signatures/f"))
    ]
    assert len(untouched) == 2 * (3 * 2 + 1)
    assert all(after[name] == before[name] for name in untouched)
    assert after["signatures/pets.safetensors"] != before["signatures/pets.safetensors"]
    assert (
        after["transfer.csv"] != before["transfer.csv"] or after["indicators.csv"] != before["indicators.csv"]
    )


def test_other_subtasks_are_extracted_again_and_not_tuned(study: Path) -> None:
    open_study(study).extract(["films"])
    before = contents(study / "prompts")
    raw = yaml.safe_load((study / "study.yaml").read_text())
    raw["tasks"]["films"]["subtasks"] = [{"positive": [0], "negative": [1]}]
    store.write_text(study / "study.yaml", yaml.safe_dump(raw))
    for again in (True, False):
        lines: list[str] = []
        signature = open_study(study, report=lines.append).extract(["films"])["films"]
        said = [line for line in lines if "extracting films again: subtasks: new, [[[" in line]
        assert bool(said) is again
        assert signature.provenance["subtasks"] == [
            {"name": "0 against 1", "positive": ["0"], "negative": ["1"]}
        ]
    assert contents(study / "prompts") == before
    del raw["tasks"]["films"]["subtasks"]
    store.write_text(study / "study.yaml", yaml.safe_dump(raw))
    signature = open_study(study).extract(["films"])["films"]
    assert [one["name"] for one in signature.provenance["subtasks"]] == ["1 against 0"]


def test_changed_tuning_names_the_setting(study: Path) -> None:
    open_study(study).tune(["films"])
    raw = yaml.safe_load((study / "study.yaml").read_text())
    raw["tuning"]["steps"] = 9
    store.write_text(study / "study.yaml", yaml.safe_dump(raw))
    lines: list[str] = []
    open_study(study, report=lines.append).tune(["films"])
    assert any("tuning.steps: was 6, now 9" in line for line in lines)


def test_seeds_tuned_together_are_those_tuned_singly_and_none_goes_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = {"rows": 3, "steps": 6, "evaluate_every": 3, "batch_size": 8}
    alone, joint = (
        write_study(tmp_path / name, tuning=tuning | {"together": name == "joint"}, seeds=3)
        for name in ("alone", "joint")
    )
    lines: list[str] = []
    singly = open_study(alone).tune(["films"])["films"]
    together = open_study(joint, report=lines.append).tune(["films"])["films"]
    for one, other in zip(together, singly, strict=True):
        np.testing.assert_allclose(one.rows, other.rows, atol=1e-4)
        assert one.provenance["inputs"] == other.provenance["inputs"]
        assert one.provenance["tuned_together"] == [0, 1, 2]
    assert [line[:19] for line in lines if "films" in line] == [f"tuned films seed {i}:" for i in range(3)]
    monkeypatch.setattr(workspace, "tune", lambda *a, **k: pytest.fail("a prompt was tuned again"))
    monkeypatch.setattr(workspace, "tune_together", lambda *a, **k: pytest.fail("tuned again"))
    before = contents(alone)
    (alone / "study.yaml").write_text((joint / "study.yaml").read_text())
    open_study(alone).tune(["films"])
    assert contents(alone) == before | {"study.yaml": (joint / "study.yaml").read_bytes()}


def test_only_the_seeds_that_lack_a_current_prompt_are_tuned_together(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_study(study).tune(["films"])
    text = (study / "study.yaml").read_text()
    (study / "study.yaml").write_text(
        text.replace("seeds: 2", "seeds: 4").replace("rows: 3", "rows: 3\n  together: true")
    )
    taken: list[Any] = []
    joint = workspace.tune_together

    def counting(*args: Any, **options: Any) -> Any:
        taken.append(options["seeds"])
        return joint(*args, **options)

    monkeypatch.setattr(workspace, "tune_together", counting)
    steps: list[tuple[int, int]] = []
    open_study(study, progress=lambda stage, done, total, _: steps.append((done, total))).tune(["films"])
    assert taken == [[2, 3]]
    assert max(steps) == (24, 24)
    (study / "study.yaml").write_text((study / "study.yaml").read_text().replace("steps: 6", "steps: 3"))
    lines: list[str] = []
    open_study(study, report=lines.append).tune(["films"])
    assert taken == [[2, 3], [0, 1, 2, 3]]
    assert sum("again: tuning.steps: was 6, now 3" in line for line in lines) == 4


def test_seeds_are_tuned_singly_on_a_cpu_unless_the_study_says_so(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace, "tune_together", lambda *a, **k: pytest.fail("tuned together"))
    assert len(open_study(study).tune(["films"])["films"]) == 2


def test_another_model_in_the_same_folder_is_noticed(study: Path) -> None:
    open_study(study).tune(["films"])
    before = (study / "prompts/films/0/adapter_model.safetensors").read_bytes()
    time.sleep(0.02)
    tiny.model("bert", seed=1).save_pretrained(study / "model")
    lines: list[str] = []
    open_study(study, report=lines.append).tune(["films"])
    assert any("again: model: was" in line for line in lines)
    assert (study / "prompts/films/0/adapter_model.safetensors").read_bytes() != before


def test_rank_does_what_is_missing_and_orders_by_score(study: Path) -> None:
    ranking = open_study(study).rank("films", indicator="on")
    assert {source.source for source in ranking.sources} == {"food", "pets"}
    scores = [source.score for source in ranking.sources]
    assert scores == sorted(scores, reverse=True)
    assert all(source.measured is None for source in ranking.sources)
    open_study(study).measure()
    again = open_study(study).rank("films", indicator="on")
    assert all(source.measured is not None for source in again.sources)


KILLED = """
import sys
from transferscope.pipeline import open_study
open_study(sys.argv[1], progress=lambda *a: print(*a, flush=True)).run()
"""


def test_killed_anywhere_and_started_again_ends_the_same(tmp_path: Path) -> None:
    whole, broken = write_study(tmp_path / "whole"), write_study(tmp_path / "broken")
    open_study(whole).run()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    for lines in (4, 25):  # in the first tuning, and in a later one
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(broken)], stdout=subprocess.PIPE, env=environment, text=True
        )
        assert process.stdout is not None
        for _ in range(lines):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert not (broken / "correlation.json").exists()
    open_study(broken).run()
    store.Study(broken).clean()
    same = [name for name in contents(whole) if name.endswith((".safetensors", ".csv"))]
    assert len(same) > 10
    for name in same:
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name


def test_errors_are_one_clear_line(study: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no study"):
        open_study(tmp_path / "nowhere")
    with pytest.raises(StudyError, match=r"no task 'film'. Did you mean 'films'"):
        open_study(study).rank("film")
    with pytest.raises(StudyError, match="no task 'petz'"):
        open_study(study).tune(["petz"])


def test_a_broken_last_task_is_said_before_any_work(study: Path) -> None:
    (study / "pets" / "dev.jsonl").unlink()
    with pytest.raises(TaskError, match="pets"):
        open_study(study).run()
    assert not (study / "prompts").exists()


def test_words_missing_for_a_verbalizer_are_said_before_any_work(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study")
    raw = yaml.safe_load((study / "study.yaml").read_text())
    raw["tasks"]["pets"]["words"] = ["no", "unheardof"]
    store.write_text(study / "study.yaml", yaml.safe_dump(raw))
    with pytest.raises(TemplateError, match="pets"):
        open_study(study).run()
    assert not (study / "prompts").exists()


def test_a_classifier_head_needs_no_words_and_is_measured_by_a_probe(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", head="classifier", template="prefix")
    summary = open_study(study).run()
    assert summary.correlation is not None
    assert summary.correlation.protocol == "linear-probe"
    assert (study / "prompts/films/0/head.safetensors").is_file()
    assert open_study(study).rank("films").sources


def test_truncation_is_reported(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", max_length=5)
    lines: list[str] = []
    open_study(study, report=lines.append).tune(["films"])
    assert any("60 of 60 texts of films were longer than 5 tokens and were cut" in line for line in lines)


def test_leftovers_of_a_killed_process_are_removed(study: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    name = f"{files.TEMPORARY_PREFIX}{files._HOST}-{dead.pid}-0{files.TEMPORARY_SUFFIX}"
    (study / name).write_bytes(b"half")
    open_study(study)
    assert not (study / name).exists()


def test_prompts_at_the_majority_class_are_named(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", seeds=1)  # six steps on a random model teach nothing
    pipe = open_study(study)
    summary = pipe.run()
    weak = [task.task for task in summary.tasks if task.weak]
    assert weak
    for task in summary.tasks:
        assert task.weak == (task.score < 0.5 + 2 * (0.25 / 20) ** 0.5)
    for text in (export(summary, "table"), "\n".join(pipe.rank("films").notes)):
        assert f"of which little can be said: {', '.join(weak)}" in " ".join(text.split())


def test_tasks_with_many_flips_are_noted(study: Path) -> None:
    summary = open_study(study).run()
    assert [task.flip_rate for task in summary.tasks] == [None] * len(summary.tasks)
    assert "reduced precision" not in export(summary, "table")
    flipped = replace(summary, tasks=tuple(replace(task, flip_rate=0.25) for task in summary.tasks))
    text = " ".join(export(flipped, "table").split())
    assert "flips more than 1% of the comparisons behind predictivity" in text
    assert f"{summary.tasks[0].task} (25.0%)" in text


def test_a_rounding_dtype_is_said(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", seeds=1, model={"name": "model", "dtype": "bfloat16"})
    lines: list[str] = []
    signatures = open_study(study, report=lines.append).extract(["films"])
    assert np.isfinite(signatures["films"].mean_predictivity).any()
    rate = signatures["films"].provenance["precision"]["flips"]["rate"]
    assert 0 < rate < 0.5
    assert sum(f"bfloat16: rounding flips {rate:.2%} of the comparisons" in line for line in lines) == 1


def test_a_run_computes_the_indicators_once(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = pipeline.comparison.compare_materials, []

    def compare(signatures: Any, names: Any = None) -> Any:
        calls.append(names)
        return real(signatures, names)

    monkeypatch.setattr(pipeline.comparison, "compare_materials", compare)
    pipe = open_study(study)
    pipe.run()
    assert calls == [None]
    assert [matrix.indicator for matrix in pipe.compare(["on"])] == [
        "on"
    ]  # others by name are not the kept ones
    assert calls == [None, ["on"]]
