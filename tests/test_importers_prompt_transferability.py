"""The layout of thunlp/Prompt-Transferability: the published files, and a made-up clone with odd ones."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from transferscope import cells, comparison, transfer
from transferscope.errors import InputError, StoreError, StudyError
from transferscope.importers import ImportReport
from transferscope.importers import prompt_transferability as layout
from transferscope.importers.prompt_transferability import import_prompt_transferability as run
from transferscope.importers.prompt_transferability import read_result, read_types
from transferscope.prompts import load_prompt
from transferscope.settings import read_settings
from transferscope.store import Study, read_csv


def put_prompt(root: Path, name: str, rows: Any) -> Path:
    folder = root / "task_prompt_emb" / name
    folder.mkdir(parents=True)
    torch.save(rows, folder / "task_prompt")
    return folder


def put_result(root: Path, folder: str, name: str, text: str | float) -> None:
    path = root / "result" / folder / f"result_{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(json.dumps({"acc": text})) if isinstance(text, float) else text)


def rows(seed: int, width: int = 8) -> torch.Tensor:
    return torch.randn(5, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Two tasks of backbone Roberta with all their results, and a third backbone whose name starts alike."""
    root = tmp_path / "clone" / "Prompt-Transferability-1.0"
    for number, task in enumerate(("a", "b")):
        put_prompt(root, f"{task}PromptRoberta", rows(number))
        put_prompt(root, f"{task}PromptRobertaLarge", rows(10 + number, 16))
        for source in ("a", "b"):
            put_result(
                root,
                f"{task}PromptRoberta",
                f"{source}PromptRoberta",
                0.5 + number / 10 + (task == source) / 5,
            )
            put_result(root, f"{task}PromptRobertaLarge", f"{source}PromptRobertaLarge", 0.9)
        put_result(root, f"{task}PromptRoberta", "random", 0.25 + number / 10)
    return root.parent


def root_of(clone: Path) -> Path:
    return clone / "Prompt-Transferability-1.0"


def take(clone: Path, **options: Any) -> tuple[ImportReport, Study]:
    out = clone.parent / "study"
    return run(clone, out=out, **{"backbone": "Roberta", **options}), Study(out)


def table(study: Study, name: str = "transfer.csv") -> list[dict[str, Any]]:
    return read_csv(study.path(name), transfer.COLUMNS, numbers={"seed", "value"})


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(("backbone", "tasks", "width"), [("Roberta", 14, 768), ("T5Small", 17, 512)])
def test_the_published_files(
    shared: Callable[..., Path], tmp_path: Path, backbone: str, tasks: int, width: int
) -> None:
    root = shared("published", "Prompt-Transferability-1.0")
    report = run(shared("published"), backbone=backbone, out=tmp_path / "study")
    assert (len(report.tasks), report.cells, report.random) == (tasks, tasks**2, tasks)
    assert (report.missing, report.problems) == (0, ())
    study = Study(tmp_path / "study")
    # Read here once more, without the importer: the folder is the target, the file the source.
    expected = {}
    for file in sorted((root / "result").glob(f"*Prompt{backbone}/result_*.json")):
        source = file.stem.removeprefix("result_")
        if source == "random" or (source.endswith(f"Prompt{backbone}") and "transfer" not in source):
            target = file.parent.name.removesuffix(f"Prompt{backbone}")
            expected[source.removesuffix(f"Prompt{backbone}"), target] = json.loads(
                json.loads(file.read_text())
            )["acc"]
    assert len(expected) == tasks * (tasks + 1)
    found = table(study)
    assert {(row["source"], row["target"]): row["value"] for row in found} == expected
    assert {(row["protocol"], row["seed"]) for row in found} == {("zero-shot", 0)}
    texts = {row["target"] for row in found if row["metric"] == "bleu"}
    assert texts == ({"squad", "nq_open", "multi_news", "samsum"} if backbone == "T5Small" else set())
    assert {row["metric"] for row in found} <= {"accuracy", "bleu"}
    (matrix,) = transfer.from_rows(cells.read_table(study))
    assert (len(matrix.sources), len(matrix.targets), np.isfinite(matrix.values).all()) == (
        tasks,
        tasks,
        True,
    )
    files = len(list((root / "result").glob(f"*Prompt{backbone}/*.json")))
    assert report.apart == files - len(expected)
    for task in report.tasks:
        prompt = load_prompt(study.prompt_folder(task, 0))
        raw = torch.load(
            root / "task_prompt_emb" / f"{task}Prompt{backbone}" / "task_prompt", weights_only=True
        )
        assert np.array_equal(prompt.rows, raw.numpy())
        assert prompt.rows.shape == (100, width)
        assert prompt.provenance["scores"]["dev"] == expected[task, task]
    settings = read_settings(study.path("study.yaml"))
    types = {
        row["task"]: row["type"] for row in read_csv(shared("published", "task_types.csv"), ("task", "type"))
    }
    assert {name: spec.type for name, spec in settings.tasks.items()} == {
        name: types[name] for name in report.tasks
    }


def test_indicators_of_the_published_prompts(shared: Callable[..., Path], tmp_path: Path) -> None:
    run(shared("published"), backbone="Roberta", out=tmp_path / "study")
    (matrix,) = comparison.compare_folders([tmp_path / "study" / "prompts"], ["prompt_cosine_mean_token"])
    reference = read_csv(
        shared("published", "reference_indicators.csv"),
        ("backbone", "indicator", "source", "target", "value"),
        numbers={"value"},
    )
    known = {
        (row["source"], row["target"]): row["value"]
        for row in reference
        if row["backbone"] == "Roberta" and row["indicator"] == "C_meantoken"
    }
    found = {
        (s, t): matrix.values[i, j] for i, s in enumerate(matrix.tasks) for j, t in enumerate(matrix.tasks)
    }
    assert found.keys() == known.keys()
    np.testing.assert_allclose([found[pair] for pair in known], [*known.values()], atol=1e-6)


def test_the_built_in_types_are_those_of_the_published_table(shared: Callable[..., Path]) -> None:
    assert read_types(shared("published", "task_types.csv")) == layout.TYPES


def test_a_whole_clone(clone: Path) -> None:
    report, study = take(clone)
    assert (report.tasks, report.prompts, report.cells, report.random, report.apart) == (
        ("a", "b"),
        2,
        4,
        2,
        0,
    )
    assert (report.missing, report.problems, report.model) == (0, (), "roberta-base")
    found = {(row["source"], row["target"]): row["value"] for row in table(study)}
    assert found == {
        ("a", "a"): 0.7,
        ("b", "a"): 0.5,
        ("a", "b"): 0.6,
        ("b", "b"): 0.8,
        ("random", "a"): 0.25,
        ("random", "b"): 0.35,
    }
    prompt = load_prompt(study.prompt_folder("b", 0))
    assert np.array_equal(prompt.rows, rows(1).numpy())
    assert (prompt.template, prompt.task, prompt.seed) == ("mask-first", "b", 0)
    assert prompt.provenance == {
        "model": "roberta-base",
        "imported_from": "task_prompt_emb/bPromptRoberta/task_prompt",
        "replaced_by_mask": 0,
        "scores": {"metric": "accuracy", "dev": 0.8},
    }
    settings = read_settings(study.path("study.yaml"))
    assert (settings.model.name, settings.seeds, settings.template) == ("roberta-base", (0,), "mask-first")
    assert {name: spec.prompts for name, spec in settings.tasks.items()} == {
        "a": "prompts/a",
        "b": "prompts/b",
    }
    assert not study.path("cross-model.csv").exists()


@pytest.mark.parametrize("place", [".", "Prompt-Transferability-1.0"])
def test_the_clone_or_its_folder(clone: Path, place: str) -> None:
    assert take(clone / place, backbone="RobertaLarge")[0].cells == 4


def test_backbones_are_matched_exactly(clone: Path) -> None:
    report, study = take(clone, backbone="RobertaLarge")
    assert report.model == "roberta-large"
    assert {row["value"] for row in table(study)} == {0.9}
    assert load_prompt(study.prompt_folder("b", 0)).rows.shape == (5, 16)
    with pytest.raises(
        InputError, match=r"'Robert' there\. Did you mean 'Roberta'\? Available: Roberta, RobertaLarge"
    ):
        take(clone, backbone="Robert")


def test_a_t5_prompt_is_a_prefix_of_an_encoder_decoder(clone: Path) -> None:
    put_prompt(root_of(clone), "aPromptT5Small", rows(3))
    _, study = take(clone, backbone="T5Small")
    prompt = load_prompt(study.prompt_folder("a", 0))
    assert prompt.template == "prefix"
    assert "replaced_by_mask" not in prompt.provenance
    config = json.loads((study.prompt_folder("a", 0) / "adapter_config.json").read_text())
    assert (config["task_type"], config["base_model_name_or_path"]) == ("SEQ_2_SEQ_LM", "t5-small")


def test_a_backbone_that_is_not_in_the_table_needs_a_model(clone: Path) -> None:
    put_prompt(root_of(clone), "aPromptT5XXL", rows(3))
    with pytest.raises(InputError, match=r"say it with --model\. Known: Bert \(bert-base-uncased\)"):
        take(clone, backbone="T5XXL")
    assert take(clone, backbone="T5XXL", model="google/t5-v1_1-xxl")[0].model == "google/t5-v1_1-xxl"


def test_results_of_other_backbones_stand_apart(clone: Path) -> None:
    root = root_of(clone)
    put_result(root, "bPromptRoberta", "aPromptBert", 0.1)
    put_result(root, "bPromptRoberta", "bPromptRobertaLarge", 0.2)
    put_result(root, "bPromptRoberta", "model_transfer_aPromptT5", 0.3)
    put_result(root, "bPromptRoberta", "aPrompt_cross_model_T5_to_Roberta", 0.4)
    put_result(root, "bPromptRoberta", "aPrompt_cross_model_T5_to_Bert", 0.5)
    put_result(root, "bPromptRoberta", "aPromptRoberta_proj", 0.6)
    put_result(root, "bPromptRoberta", "task_transfer_aPromptRoberta", 0.7)
    report, study = take(clone)
    assert (report.cells, report.apart) == (4, 4)
    assert {
        (r["protocol"], r["source"], r["target"], r["value"]) for r in table(study, "cross-model.csv")
    } == {
        ("foreign", "a@Bert", "b", 0.1),
        ("foreign", "b@RobertaLarge", "b", 0.2),
        ("projected", "a@T5", "b", 0.3),
        ("projected", "a@T5", "b", 0.4),
    }
    assert not any("@" in row["source"] for row in table(study))
    left_out = [line for line in report.problems if "left out" in line]
    assert [line.partition(":")[0].rpartition("_")[2] for line in left_out] == [
        "proj.json",
        "Bert.json",
        "aPromptRoberta.json",
    ]


def test_two_files_of_random_prompts_are_two_draws(clone: Path) -> None:
    put_result(root_of(clone), "bPromptRoberta", "randomPromptRoberta", 0.15)
    put_prompt(root_of(clone), "randomPromptRoberta", rows(9))
    report, study = take(clone)
    drawn = {
        (row["seed"], row["value"])
        for row in table(study)
        if (row["source"], row["target"]) == ("random", "b")
    }
    assert drawn == {(0, 0.35), (1, 0.15)}
    (matrix,) = transfer.from_rows(cells.read_table(study))
    assert matrix.sources == ("a", "b")
    np.testing.assert_array_equal(matrix.controls["random"], [[0.25, 0.35], [np.nan, 0.15]])
    assert report.tasks == ("a", "b")
    assert report.problems == (
        "task_prompt_emb/randomPromptRoberta/task_prompt: 'random' is no name of a task here; "
        "its results are the control",
    )


class Runs:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    ("rows_", "why"),
    [
        (torch.full((5, 8), float("nan")), "NaN or infinite"),
        (torch.zeros(5, 8, dtype=torch.int64), "one tensor int64"),
        ({"a": 1}, "a (no tensor)"),
        (rows(3, 9), "9 wide, most are 8 wide"),
        (None, "not there"),
    ],
)
def test_prompts_that_cannot_be_read_are_reported(clone: Path, rows_: Any, why: str) -> None:
    folder = put_prompt(root_of(clone), "zPromptRoberta", rows_)
    if rows_ is None:
        (folder / "task_prompt").unlink()
    report, study = take(clone)
    assert report.tasks == ("a", "b")
    assert why in report.problems[0]
    assert report.problems[0].startswith("task_prompt_emb/zPromptRoberta/task_prompt: ")
    assert str(clone) not in report.problems[0]
    assert not study.prompt_folder("z", 0).exists()


def test_a_pickled_object_is_refused_and_nothing_runs(clone: Path) -> None:
    trap = clone.parent / "trap"
    put_prompt(root_of(clone), "zPromptRoberta", Runs(trap))
    report, _ = take(clone)
    assert "nothing was executed" in report.problems[0]
    assert not trap.exists()


def test_no_readable_prompt_at_all_is_an_error_and_makes_nothing(clone: Path) -> None:
    put_prompt(root_of(clone), "aPromptBert", {"a": 1})
    with pytest.raises(InputError, match=r"no prompt of Bert .*\n.*aPromptBert/task_prompt: "):
        take(clone, backbone="Bert")
    assert not (clone.parent / "study").exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("{", "cannot be read as JSON"),
        ('"{"', "cannot be read as JSON"),
        ("[" * 100_000, "too many"),
        ("[" * 60_000, "cannot be read as JSON"),
        ('"{\\"acc\\": NaN}"', "acc is nan"),
        ('{"acc": 1e999}', "acc is inf"),
        ('{"acc": 1' + "0" * 400 + "}", "not a finite number"),
        ('{"acc": "0.5"}', "not a finite number"),
        ('{"acc": true}', "acc is True"),
        ("{}", "expected an object"),
        ("[0.5]", "expected an object"),
        ("null", "expected an object"),
    ],
)
def test_results_that_cannot_be_read_are_reported(clone: Path, text: str, why: str) -> None:
    put_result(root_of(clone), "bPromptRoberta", "aPromptRoberta", text)
    report, study = take(clone)
    assert (report.cells, report.missing) == (3, 1)
    assert len(table(study)) == 5
    assert report.problems[0].startswith("result/bPromptRoberta/result_aPromptRoberta.json: ")
    assert why in report.problems[0]
    assert report.problems[1] == "result/bPromptRoberta: no result of a"


def test_other_metrics_keep_their_names(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"pearson": 0.5}')
    (tmp_path / "b.json").write_text('"{\\"total\\": 7, \\"acc\\": 1}"')
    assert read_result(tmp_path / "a.json") == ("pearson", 0.5)
    assert read_result(tmp_path / "b.json") == ("accuracy", 1.0)


def test_folders_without_results_or_without_prompts(clone: Path) -> None:
    root = root_of(clone)
    put_prompt(root, "cPromptRoberta", rows(5))  # no folder of results, and no result of its own
    put_result(root, "aPromptRoberta", "dPromptRoberta", 0.1)  # a source without a prompt
    put_result(root, "ePromptRoberta", "bPromptRoberta", 0.1)  # a target without a prompt
    (root / "result" / "fPromptRoberta").mkdir()
    (root / "result" / "notes.txt").write_text("")
    (root / "task_prompt_emb" / ".DS_Store").write_text("")
    report, study = take(clone)
    assert report.tasks == ("a", "b", "c")
    assert (report.prompts, report.cells, report.random, report.missing) == (3, 6, 2, 3)
    assert report.problems == (
        "result/fPromptRoberta: no result of a prompt of Roberta",
        "result/bPromptRoberta: no result of d",
        "result/ePromptRoberta: no result of a, d, a random prompt",
        "task_prompt_emb/dPromptRoberta/task_prompt: none for d, which has results: it is no task here",
        "task_prompt_emb/ePromptRoberta/task_prompt: none for e, which has results: it is no task here",
        "result/cPromptRoberta: no results with c as target, nor any of its prompt",
    )
    assert ("b", "e") in {(row["source"], row["target"]) for row in table(study)}
    assert "scores" not in load_prompt(study.prompt_folder("c", 0)).provenance


def test_a_clone_with_prompts_alone(tmp_path: Path) -> None:
    put_prompt(tmp_path, "aPromptBert", rows(1))
    report = run(tmp_path, backbone="Bert", out=tmp_path / "study")
    assert (report.tasks, report.cells) == (("a",), 0)
    assert read_settings(tmp_path / "study" / "study.yaml").model.name == "bert-base-uncased"


def test_what_is_no_clone(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    with pytest.raises(InputError, match=r"no folder task_prompt_emb .* found docs"):
        run(tmp_path, backbone="Roberta", out=tmp_path / "study")
    with pytest.raises(InputError, match="found no folder"):
        run(tmp_path / "none", backbone="Roberta", out=tmp_path / "study")


def test_types_from_a_table(clone: Path) -> None:
    types = clone.parent / "types.csv"
    types.write_text("task,type\nb,sentiment\nother,nli\n")
    _, study = take(clone, types=types)
    settings = read_settings(study.path("study.yaml"))
    assert {name: spec.type for name, spec in settings.tasks.items()} == {"a": None, "b": "sentiment"}
    assert load_prompt(study.prompt_folder("b", 0)).provenance["task_type"] == "sentiment"
    types.write_text("name,type\nb,x\n")
    with pytest.raises(StudyError, match="column task missing"):
        take(clone, types=types)


def test_importing_twice_gives_the_same_bytes(clone: Path) -> None:
    put_result(root_of(clone), "bPromptRoberta", "aPromptBert", 0.1)
    first, study = take(clone)
    before = tree(study.folder)
    assert take(clone)[0] == first
    assert tree(study.folder) == before
    other = clone.parent / "elsewhere"
    run(clone, backbone="Roberta", out=other)
    assert tree(other) == before


def test_a_refresh_adds_what_is_new_and_keeps_what_a_person_wrote(clone: Path) -> None:
    _, study = take(clone)
    file = study.path("study.yaml")
    file.write_text(
        file.read_text().replace("  b:\n", "  # mine\n  b:\n    text: sentence\n") + "max_length: 64\n"
    )
    put_prompt(root_of(clone), "cPromptRoberta", rows(7))
    put_result(root_of(clone), "cPromptRoberta", "bPromptRoberta", 0.3)
    put_result(root_of(clone), "bPromptRoberta", "aPromptRoberta", 0.65)
    report, _ = take(clone)
    assert report.tasks == ("a", "b", "c")
    settings = read_settings(file)
    assert [*settings.tasks] == ["a", "b", "c"]
    assert (settings.tasks["b"].text, settings.max_length) == ("sentence", 64)
    assert "  # mine\n" in file.read_text()
    found = {(row["source"], row["target"]): row["value"] for row in table(study)}
    assert (found["b", "c"], found["a", "b"]) == (0.3, 0.65)


def test_another_study_is_not_written_into(clone: Path) -> None:
    _, study = take(clone)
    before = tree(study.folder)
    with pytest.raises(StudyError, match=r"backbone Roberta, .*this one is .*backbone RobertaLarge"):
        take(clone, backbone="RobertaLarge")
    study.path("import.json").write_text("[]")
    with pytest.raises(StoreError, match="should hold an object"):
        take(clone)
    study.path("import.json").unlink()
    with pytest.raises(StudyError, match="was not made by this import"):
        take(clone)
    before.pop("import.json")
    assert tree(study.folder) == before


def test_names_are_those_of_the_library() -> None:
    assert layout.ZERO_SHOT == transfer.ZERO_SHOT
    assert set(layout.RESERVED) == set(transfer.CONTROLS)
    assert layout.RANDOM in transfer.CONTROLS
