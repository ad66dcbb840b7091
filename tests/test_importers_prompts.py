"""Single prompts of other tools into a study: names, trials, templates, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from transferscope.errors import InputError, PromptError, StudyError
from transferscope.importers.prompt_files import import_prompts
from transferscope.importers.study_file import kind_of, write_tasks
from transferscope.prompts import CONFIG, Head, SoftPrompt, load_prompt, save_prompt
from transferscope.settings import read_settings
from transferscope.store import Study

ROWS = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)


def npy(path: Path, rows: np.ndarray = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, rows)
    return path


def take(*paths: Path, **options: Any) -> tuple[Any, Study]:
    report = import_prompts(paths, **options)
    return report, Study(report.study)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study that a person wrote, with one task of its own and its prompt."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "study.yaml").write_text(
        "# my study\nmodel: org/roberta-base  # the base\ntasks:\n  sst2:  # films\n"
        "    train: a.jsonl\n\n  # later\n  mnli:\n    train: b.jsonl\nseeds: [0]\n"
    )
    save_prompt(SoftPrompt(ROWS, "sst2", 0, "mask-first"), folder / "prompts" / "sst2" / "0")
    return folder


def test_a_new_study_of_several_formats(tmp_path: Path) -> None:
    torch.save({"prompt": torch.from_numpy(ROWS)[None], "pos": [1, 2]}, tmp_path / "best-backbone")
    folder = tmp_path / "imdb"
    folder.mkdir()
    os.rename(tmp_path / "best-backbone", folder / "best-backbone")
    spot = npy(tmp_path / "cola.npy", ROWS + 1)
    adapter = save_prompt(
        SoftPrompt(ROWS + 2, "rte", provenance={"model": "x/roberta-base"}), tmp_path / "adapter"
    )
    (adapter / "transferscope.json").unlink()
    report, made = take(folder / "best-backbone", spot, adapter, out=tmp_path / "study", model="roberta-base")
    assert report.tasks == ("imdb", "cola", "adapter")
    assert (report.prompts, report.problems) == (3, ())
    read = {task: load_prompt(made.prompt_folder(task, 0)) for task in report.tasks}
    assert [prompt.template for prompt in read.values()] == ["mask-first", "prefix", "prefix"]
    for number, prompt in enumerate(read.values()):
        assert np.array_equal(prompt.rows, ROWS + number)
        assert prompt.provenance["model"] == "roberta-base"
    assert read["imdb"].provenance == {
        "format": "skill-neuron",
        "model": "roberta-base",
        "imported_from": "imdb/best-backbone",
    }
    settings = read_settings(made.path("study.yaml"))
    assert (settings.model.name, settings.template, settings.seeds) == ("roberta-base", "mask-first", (0,))
    assert {name: spec.prompts for name, spec in settings.tasks.items()} == {
        name: f"prompts/{name}" for name in report.tasks
    }


def test_several_paths_with_a_name_are_its_trials(tmp_path: Path) -> None:
    paths = [npy(tmp_path / f"{i}.npy", ROWS + i) for i in range(3)]
    report, made = take(*paths, out=tmp_path / "study", model="t5-small", task="a", seed=5)
    assert (report.tasks, made.prompts()) == (("a",), [("a", 5), ("a", 6), ("a", 7)])
    assert np.array_equal(load_prompt(made.prompt_folder("a", 7)).rows, ROWS + 2)
    assert read_settings(made.path("study.yaml")).seeds == (5, 6, 7)
    config = json.loads((made.prompt_folder("a", 5) / CONFIG).read_text())
    assert config["task_type"] == "SEQ_2_SEQ_LM"


def test_the_same_command_again_adds_and_gives_the_same_bytes(tmp_path: Path) -> None:
    options = {"out": tmp_path / "study", "model": "gpt2"}
    _, made = take(npy(tmp_path / "a.npy"), **options)
    before = {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    take(tmp_path / "a.npy", **options)
    assert {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()} == before
    take(npy(tmp_path / "b.npy", ROWS + 1), **options)
    assert [*read_settings(made.path("study.yaml")).tasks] == ["a", "b"]
    take(npy(tmp_path / "a.npy", ROWS + 3), **options)  # it was imported, so a newer one may replace it
    assert np.array_equal(load_prompt(made.prompt_folder("a", 0)).rows, ROWS + 3)
    with pytest.raises(StudyError, match=r"holds another import: .*model gpt2"):
        take(tmp_path / "a.npy", out=tmp_path / "study", model="gpt2-xl")


def test_into_a_study_that_a_person_wrote(study: Path, tmp_path: Path) -> None:
    report, made = take(npy(tmp_path / "mnli.npy"), npy(tmp_path / "new.npy"), study=study / "study.yaml")
    assert (report.tasks, report.model) == (("mnli", "new"), "org/roberta-base")
    text = (study / "study.yaml").read_text()
    assert [line for line in text.splitlines() if "#" in line] == [
        "# my study",
        "model: org/roberta-base  # the base",
        "  sst2:  # films",
        "  # later",
    ]
    tasks = read_settings(study / "study.yaml").tasks
    assert [*tasks] == ["sst2", "mnli", "new"]
    assert (tasks["mnli"].train, tasks["mnli"].prompts, tasks["new"].prompts) == (
        "b.jsonl",
        "prompts/mnli",
        "prompts/new",
    )
    assert made.prompts() == [("mnli", 0), ("new", 0), ("sst2", 0)]


def test_a_prompt_that_was_tuned_here_is_not_overwritten(study: Path, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"tuned in this study; choose another --task or --seed"):
        take(npy(tmp_path / "sst2.npy", ROWS + 1), study=study)
    assert np.array_equal(load_prompt(study / "prompts" / "sst2" / "0").rows, ROWS)
    take(tmp_path / "sst2.npy", study=study, seed=1)
    assert np.array_equal(load_prompt(study / "prompts" / "sst2" / "1").rows, ROWS + 1)


def test_our_own_folders_keep_what_their_record_says(tmp_path: Path) -> None:
    head = Head(np.eye(2, 8, dtype=np.float32), np.zeros(2, np.float32))
    known = {"model": "m", "scores": {"dev": 0.5}, "inputs": {"task": "x"}}
    for seed in (3, 4):
        save_prompt(
            SoftPrompt(ROWS + seed, "sst2", seed, "mask-first", head, known), tmp_path / "p" / str(seed)
        )
    report, made = take(tmp_path / "p", out=tmp_path / "study", model="org/m")
    assert (report.tasks, made.prompts(), report.problems) == (("sst2",), [("sst2", 3), ("sst2", 4)], ())
    read = load_prompt(made.prompt_folder("sst2", 4))
    assert np.array_equal(read.rows, ROWS + 4)
    assert read.head is not None
    assert (read.template, read.provenance["scores"]) == ("mask-first", {"dev": 0.5})
    assert "inputs" not in read.provenance
    assert read_settings(made.path("study.yaml")).head == "classifier"


def test_a_template_may_be_said(tmp_path: Path) -> None:
    _, made = take(npy(tmp_path / "a.npy"), out=tmp_path / "s", model="gpt2", template="suffix")
    assert load_prompt(made.prompt_folder("a", 0)).template == "suffix"
    with pytest.raises(InputError, match=r"unknown template 'sufix'\. Did you mean 'suffix'"):
        take(tmp_path / "a.npy", out=tmp_path / "s", model="gpt2", template="sufix")


def test_the_folder_of_a_published_prompt(tmp_path: Path) -> None:
    (tmp_path / "SST2").mkdir()
    torch.save(torch.from_numpy(ROWS), tmp_path / "SST2" / "task_prompt")
    report, _ = take(tmp_path / "SST2", out=tmp_path / "s", model="gpt2")
    assert report.tasks == ("SST2",)


def test_another_backbone_is_told_or_refused(study: Path, tmp_path: Path) -> None:
    adapter = save_prompt(SoftPrompt(ROWS, "a", provenance={"model": "org/bert-base"}), tmp_path / "a")
    report, _ = take(adapter, study=study)
    assert report.problems == (
        f"{adapter}: says that it is of org/bert-base, and is imported as one of org/roberta-base",
    )
    with pytest.raises(InputError, match=r"of the model 'org/roberta-base', not 'gpt2'"):
        take(adapter, study=study, model="gpt2")
    with pytest.raises(InputError, match=r"wide\.npy' is 9 wide and the study's prompt a 8"):
        take(npy(tmp_path / "wide.npy", np.ones((2, 9), np.float32)), study=study)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "give one of --out STUDY"),
        ({"out": "s", "study": "s"}, "give one of --out STUDY"),
        ({"out": "s"}, "needs --model"),
        ({"out": "s", "model": "m", "seed": -1}, "seed should be at least 0"),
        ({"out": "s", "model": "m", "task": "random"}, "'random' stands for a control"),
        ({"out": "s", "model": "m", "task": "a/b"}, "cannot name a file.*say another name with --task"),
        ({"out": "s", "model": "m", "task_id": 1}, "only a multitask prompt of PEFT has a task id"),
        ({"out": "s", "model": "m", "key": "x"}, "an array has no key"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, options: dict[str, Any], why: str) -> None:
    given = {name: tmp_path / value if name in ("out", "study") else value for name, value in options.items()}
    path = npy(tmp_path / "a.npy")
    with pytest.raises(InputError, match=why):
        take(path, **given)
    assert not (tmp_path / "s").exists()


def test_two_prompts_of_one_name(tmp_path: Path) -> None:
    paths = [npy(tmp_path / place / "a.npy") for place in ("x", "y")]
    with pytest.raises(InputError, match=r"are both task 'a', seed 0; import them one by one"):
        take(*paths, out=tmp_path / "s", model="m")
    with pytest.raises(InputError, match="no file or folder was given"):
        take(out=tmp_path / "s", model="m")
    assert not (tmp_path / "s").exists()


def test_a_folder_with_something_else_is_not_made_a_study(study: Path, tmp_path: Path) -> None:
    with pytest.raises(
        StudyError, match=r"not made by this import; choose another --out, or add to it with --study"
    ):
        take(npy(tmp_path / "a.npy"), out=study, model="org/roberta-base")
    assert not (study / "import.json").exists()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("model: m\ntasks:\n  a:\n    train: x  # hm\n", True),
        ("model: m\ntasks:\n    a:   # hm\n        train: x", True),
        ("tasks:\n- x\n", None),
        ("model: m\ntasks: {a: {train: x}}  # hm\n", False),
        ("model: m\ntasks:\n  a: {train: x}  # hm\n", False),
        ("model: m\ntasks:\n  'a':\n    train: x  # hm\n", False),
    ],
)
def test_study_files_are_edited_in_place_where_they_can_be(
    tmp_path: Path, text: str, kept: bool | None
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(text)
    fields = {"prompts": "prompts/x", "type": "on"}
    if kept is None:
        with pytest.raises(StudyError):
            write_tasks(Study(tmp_path), {"a": fields}, {}, "")
        assert file.read_text() == text
        return
    assert write_tasks(Study(tmp_path), {"a": fields, "no": fields, "é: 1": fields}, {}, "")
    after = yaml.safe_load(file.read_text())
    assert after == {"model": "m", "tasks": {"a": {"train": "x", **fields}, "no": fields, "é: 1": fields}}
    assert ("# hm" in file.read_text()) == kept
    assert not write_tasks(Study(tmp_path), {"a": fields}, {}, "")


def test_an_edit_that_makes_no_valid_study_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("model: m\ntasks:\n  a:\n    train: x\n")
    with pytest.raises(StudyError, match="unknown field 'odd'"):
        write_tasks(Study(tmp_path), {"b": {"odd": 1}}, {}, "")
    assert "odd" not in file.read_text()
    with pytest.raises(StudyError, match="expected one of a dataset"):
        write_tasks(Study(tmp_path / "new"), {"b": {}}, {"model": "m"}, "")
    assert not (tmp_path / "new").exists()


def test_kind_of_a_model(tmp_path: Path) -> None:
    names = [
        "roberta-base",
        "t5-small",
        "google/flan-t5-xl",
        "openai-community/gpt2",
        "meta-llama/Llama-3",
        "odd",
    ]
    assert [kind_of(name) for name in names] == [
        "encoder",
        "encoder-decoder",
        "encoder-decoder",
        "decoder",
        "decoder",
        "encoder",
    ]
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert kind_of(str(tmp_path)) == "decoder"
