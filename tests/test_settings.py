"""The study file: what is read from it, and what is said of each thing that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from transferscope.errors import StudyError
from transferscope.settings import StudySettings, TuningSettings, parse_settings, read_settings

TASKS = {"a": {"train": "a.jsonl"}}


def parse(**fields: Any) -> StudySettings:
    return parse_settings({"model": "m", "tasks": TASKS} | fields, "study.yaml")


def written(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    text = """
    model: {name: some/model, dtype: bfloat16, attention: eager}
    template: suffix
    head: classifier
    seeds: [3, 1]
    max_length: 64
    tuning: {rows: 4, learning_rate: 1.e-2, patience: 3}
    signatures: {compat: true}
    tasks:
      sst2: {dataset: glue, config: sst2, text: sentence, words: [terrible, great]}
    """
    read = read_settings(written(tmp_path, text))
    assert (read.model.name, read.model.dtype, read.model.attention) == ("some/model", "bfloat16", "eager")
    assert (read.template, read.head, read.seeds, read.max_length) == ("suffix", "classifier", (3, 1), 64)
    assert (read.tuning.rows, read.tuning.learning_rate, read.tuning.patience) == (4, 0.01, 3)
    assert read.signatures.compat is True
    assert read.tasks["sst2"].words == ("terrible", "great")


def test_a_model_may_be_its_name_alone() -> None:
    assert parse(model="some/model").model == parse(model={"name": "some/model"}).model
    assert parse(model="some/model").model.name == "some/model"


def test_defaults_are_three_seeds_and_no_template() -> None:
    assert parse().seeds == (0, 1, 2)
    assert parse().template is None


@pytest.mark.parametrize(("given", "seeds"), [(1, (0,)), (4, (0, 1, 2, 3)), ([7], (7,)), ([5, 0], (5, 0))])
def test_seeds_are_a_list_or_how_many(given: object, seeds: tuple[int, ...]) -> None:
    assert parse(seeds=given).seeds == seeds


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1, 2, 1], r"study\.yaml: seeds must differ, got \[1, 2, 1\]"),
        ([0, -1], r"study\.yaml: seeds must not be negative, got \[0, -1\]"),
        ([], r"seeds: .*at least 1 item"),
        (0, r"seeds as a number says how many trials, 1 to 100; for one seed write \[0\]"),
        (20240101, r"for one seed write \[20240101\]"),
        (True, r"seeds: .*found True"),
        ("three", r"seeds: .*found 'three'"),
    ],
)
def test_seeds_that_cannot_be_used(given: object, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        parse(seeds=given)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tunning": {}}, r"unknown setting 'tunning'\. Did you mean 'tuning'\?"),
        ({"model": {"name": "m", "revison": "x"}}, r"'model\.revison'\. Did you mean 'revision'\? .*dtype"),
        ({"tuning": {"step": 3}}, r"unknown setting 'tuning\.step'\. Did you mean 'steps'\?"),
        ({"signatures": {"compatt": True}}, r"'signatures\.compatt'\. Did you mean 'compat'\?"),
        ({"tasks": {"a": {"trian": "x.csv"}}}, r"task 'a': unknown field 'trian'\. Did you mean 'train'\?"),
    ],
)
def test_an_unknown_setting_is_answered_with_the_nearest_of_its_section(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(StudyError, match=rf"^study\.yaml: .*{message}"):
        parse(**fields)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"tasks": TASKS}, "'model' is missing"),
        ({"model": {"dtype": "float32"}, "tasks": TASKS}, r"'model\.name' is missing"),
        ({"model": "m"}, "'tasks' is missing"),
        ({"model": "m", "tasks": {}}, "tasks: .*at least 1 item"),
        ({"model": "m", "tasks": ["a"]}, r"tasks: .*valid dictionary \(found \['a'\]\)"),
        ({"model": "m", "tasks": TASKS, "template": "infix"}, r"template: .*'mask-first'.*\(found 'infix'\)"),
        (
            {"model": "m", "tasks": TASKS, "tuning": {"warmup": 1}},
            r"tuning\.warmup: .*less than 1 \(found 1\)",
        ),
        ({"model": "m", "tasks": TASKS, "max_length": 3}, r"max_length: .*at least|max_length: .*equal to 4"),
        ({"model": "m", "tasks": {"a": {}}}, "task 'a': expected one of a dataset"),
    ],
)
def test_what_is_missing_or_out_of_range_is_named(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        parse_settings(raw)


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(StudyError, match=r"'model' is missing; .*'tunning'"):
        parse_settings({"tasks": TASKS, "tunning": {}})


def test_a_long_wrong_value_is_shortened() -> None:
    with pytest.raises(StudyError) as caught:
        parse(model=["x" * 40] * 1000)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "should hold a mapping with 'model' and 'tasks', found list"),
        ("", "should hold a mapping.*found NoneType"),
        ("just words", "found str"),
        ("model: [", "cannot be read as YAML: .*line"),
        ("model: m\nday: 2024-13-45\n", "cannot be read as YAML: month must be in 1..12"),
        ("[" * 5000, "cannot be read as YAML"),
    ],
)
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        read_settings(written(tmp_path, text))
    assert "study.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir", "!!python/object:pathlib.Path"])
def test_yaml_that_makes_objects_is_refused_and_not_run(tmp_path: Path, tag: str) -> None:
    made = tmp_path / "made"
    with pytest.raises(StudyError, match=r"cannot be read as YAML.*could not determine a constructor"):
        read_settings(written(tmp_path, f"model: {tag} [{str(made)!r}]\n"))
    assert not made.exists()


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"no study file .*none\.yaml"):
        read_settings(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"model: \xff\xfe\n")
    with pytest.raises(StudyError, match=r"bytes\.yaml' cannot be read as YAML"):
        read_settings(tmp_path / "bytes.yaml")
    with pytest.raises(StudyError, match="cannot be read as YAML"):
        read_settings(tmp_path)


@pytest.mark.parametrize(("given", "found"), [("auto", "auto"), (True, True), (False, False)])
def test_tuning_together_is_no_part_of_what_a_prompt_is_made_from(given: object, found: object) -> None:
    tuning = parse(tuning={"together": given}).tuning
    assert tuning.together == found
    assert tuning.model_dump() == TuningSettings().model_dump()
    assert "together" not in tuning.model_dump()


def test_tuning_together_is_said_where_it_cannot_be() -> None:
    with pytest.raises(StudyError, match=r"tuning\.together.*found 'often'"):
        parse(tuning={"together": "often"})
