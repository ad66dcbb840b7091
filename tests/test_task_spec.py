"""TaskSpec: what is accepted, and the one line said of each wrong description."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from transferscope.errors import TaskError
from transferscope.task_spec import (
    Subtask,
    SubtaskSpec,
    TaskSpec,
    default_subtasks,
    find_subtasks,
    parse_spec,
)


def test_defaults_and_shapes() -> None:
    spec = parse_spec(
        "t", {"train": "a.jsonl", "text": ["a", "b"], "labels": [0, 1], "words": {0: "no", 1: "yes"}}
    )
    assert spec.texts == ("a", "b")
    assert spec.labels == ("0", "1")
    assert spec.words == {"0": "no", "1": "yes"}
    assert (spec.label, spec.metric, spec.seed, spec.dev_fraction) == ("label", "accuracy", 0, None)
    assert parse_spec("t", {"train": "a.jsonl", "text": ["only"]}).texts == ("only",)
    assert parse_spec("t", spec) is spec


def test_a_dump_describes_the_same_task() -> None:
    spec = TaskSpec(dataset="glue", config="sst2", text="sentence", words=("bad", "good"), max_train=100)
    assert TaskSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_a_text_in_place_of_a_class() -> None:
    spec = parse_spec("t", {"train": "a.jsonl", "text": "q", "answer": "a", "max_new_tokens": 8})
    assert (spec.kind, spec.gold, spec.metric, spec.max_new_tokens) == ("generation", "a", "token_f1", 8)
    assert parse_spec("t", {"train": "a.jsonl", "answer": "a", "metric": "bleu"}).metric == "bleu"
    assert TaskSpec.model_validate(spec.model_dump(mode="json")) == spec
    classes = parse_spec("t", {"train": "a.jsonl"})
    assert (classes.kind, classes.gold) == ("classification", "label")


def test_subtasks_are_a_scheme_or_sides() -> None:
    assert parse_spec("t", {"train": "a.jsonl"}).subtasks == "one-vs-rest"
    given = [{"positive": "a", "negative": ["b", 3]}, {"negative": ["a"], "positive": ["b"]}]
    spec = parse_spec("t", {"train": "a.jsonl", "subtasks": given})
    assert spec.subtasks == (
        SubtaskSpec(positive=("a",), negative=("b", "3")),
        SubtaskSpec(positive=("b",), negative=("a",)),
    )
    assert TaskSpec.model_validate(spec.model_dump(mode="json")) == spec
    found = find_subtasks(spec.subtasks, ["a", "b", "3"])
    assert found == (Subtask((0,), (1, 2), "a against b or 3"), Subtask((1,), (0,), "b against a"))


def test_the_named_schemes() -> None:
    labels = ["entailment", "Neutral", "contradiction"]
    assert find_subtasks("one-vs-rest", labels) == ()
    assert find_subtasks("poles-and-neutral", labels) == (
        Subtask((2,), (0,), "contradiction against entailment"),
        Subtask((1,), (0, 2), "Neutral against entailment or contradiction"),
    )
    # Wherever it stands: label names that are read from data are in alphabetical order.
    assert [(one.positive, one.negative) for one in find_subtasks("poles-and-neutral", sorted(labels))] == [
        ((2,), (1,)),
        ((0,), (1, 2)),
    ]
    for wrong in (["no", "neutral", "yes", "maybe"], ["0", "1", "2"], ["neutral", "no"]):
        with pytest.raises(
            TaskError, match=r"three classes, one of them called 'neutral'; the labels are " + wrong[0]
        ):
            find_subtasks("poles-and-neutral", wrong)
    assert default_subtasks(["no", "yes"]) == (Subtask((1,), (0,), "yes against no"),)
    assert default_subtasks(["a", "b", "c"])[1] == Subtask((1,), (0, 2), "b against the rest")


FILE = {"train": "a.jsonl"}
SIDES = {"positive": ["a"], "negative": ["b"]}
KINDS = (
    "expected one of a dataset (Hub id), a path (folder of save_to_disk) or train (a file; dev, another), "
)
WRONG: list[tuple[Any, str]] = [
    (
        FILE | {"lable": "y"},
        "unknown field 'lable'. Did you mean 'label'? Available: answer, config, dataset,",
    ),
    (FILE | {"metric": "acuracy"}, "metric: unknown value 'acuracy'. Did you mean 'accuracy'?"),
    (
        FILE | {"seed": "x"},
        "seed: input should be a valid integer, unable to parse string as an integer, found 'x'",
    ),
    (FILE | {"max_train": 0}, "max_train: input should be greater than or equal to 1, found 0"),
    (FILE | {"dev_fraction": 1.5}, "dev_fraction: input should be less than 1, found 1.5"),
    (
        FILE | {"text": ["a", "b", "c"]},
        "text: expected the name of one text field, or of two as [a, b], found ['a', ",
    ),
    (FILE | {"text": ["a", "a"]}, "text: the two fields of a pair must differ, found ['a', 'a']"),
    (FILE | {"text": "y", "label": "y"}, "the field 'y' cannot be both text and label"),
    (FILE | {"labels": ["a"]}, "labels: a task needs two classes or more, found ['a']"),
    (FILE | {"labels": ["a", "a"]}, "labels: 'a' stands there twice"),
    (
        FILE | {"labels": [False, True]},
        "labels: False is not a name: YAML reads a bare yes, no, on or off so",
    ),
    (FILE | {"words": {"a": "x", "b": "x"}}, "words: 'x' stands there twice"),
    (FILE | {"words": ["x", " "]}, "words: ' ' is not a name"),
    (FILE | {"words": ["x", None]}, "words: None is not a name"),
    (FILE | {"answer": "a", "labels": ["x", "y"]}, "give answer ('a': the label is a text) or labels (it is"),
    (FILE | {"answer": "a", "words": ["x", "y"]}, "or words (it is a class), not both"),
    (FILE | {"answer": "a", "label": "y"}, "or label (it is a class), not both"),
    (FILE | {"answer": "text"}, "the field 'text' cannot be both text and answer"),
    (FILE | {"answer": "a", "metric": "accuracy"}, "the metric 'accuracy' is not for a generation task."),
    (FILE | {"metric": "rouge_l"}, "the metric 'rouge_l' is not for a classification task."),
    (FILE | {"answer": "a", "metric": "blue"}, "metric: unknown value 'blue'. Did you mean 'bleu'?"),
    (FILE | {"max_new_tokens": 8}, "max_new_tokens goes with answer"),
    (FILE | {"answer": "a", "max_new_tokens": 0}, "max_new_tokens: input should be greater than or equal"),
    (
        FILE | {"subtasks": "one_vs_rest"},
        "subtasks: unknown scheme 'one_vs_rest'. Did you mean 'one-vs-rest'?",
    ),
    (FILE | {"subtasks": []}, "subtasks: expected one-vs-rest or poles-and-neutral, or a list of {positive"),
    (
        FILE | {"subtasks": SIDES},
        "subtasks: expected one-vs-rest or poles-and-neutral, or a list of {positive",
    ),
    (
        FILE | {"subtasks": ["a"]},
        "subtasks: subtask 1: expected {positive: [names], negative: [names]}, found 'a'",
    ),
    (
        FILE | {"subtasks": [SIDES | {"positve": ["c"]}]},
        "subtasks: subtask 1: unknown side 'positve'. Did you mean 'positive'? Available: negative, positiv",
    ),
    (FILE | {"subtasks": [SIDES, {"positive": ["a"]}]}, "subtasks: subtask 2: no class is negative"),
    (FILE | {"subtasks": [SIDES | {"positive": []}]}, "subtasks: subtask 1: no class is positive"),
    (FILE | {"subtasks": [SIDES | {"negative": ["c", "a"]}]}, "subtasks: subtask 1: 'a' is on both sides"),
    (FILE | {"subtasks": [SIDES | {"negative": ["c", "c"]}]}, "subtasks: 'c' stands there twice"),
    (
        FILE | {"subtasks": [SIDES | {"positive": True}]},
        "subtasks: True is not a name: YAML reads a bare yes",
    ),
    (
        FILE | {"subtasks": [SIDES, {"positive": ["b"], "negative": ["a"]}]},
        "subtasks: numbers 1 and 2 tell the same classes apart",
    ),
    (FILE | {"answer": "a", "subtasks": [SIDES]}, "or subtasks (it is a class), not both"),
    ({}, KINDS + "found none"),
    ({"dev": "a.jsonl"}, KINDS + "found dev 'a.jsonl' without train"),
    ({"dataset": "d", "path": "p"}, KINDS + "found dataset 'd' and path 'p'"),
    (FILE | {"dev": "a.jsonl"}, "dev is the same as train ('a.jsonl'); leave dev out"),
    ({"dataset": "d", "dev": "train"}, "dev is the same as train ('train'); leave dev out"),
    (FILE | {"dev": "b.jsonl", "dev_fraction": 0.2}, "give dev ('b.jsonl') or dev_fraction (0.2), not both"),
    (FILE | {"config": "sst2"}, "config goes with dataset, found train 'a.jsonl'"),
    ({"path": "p", "revision": "main"}, "revision goes with dataset, found path 'p'"),
    (FILE | {"seed": -1, "max_dev": 0}, "found 0 (and 1 more)"),
    ("a.jsonl", "expected fields with values, found 'a.jsonl'"),
]


@pytest.mark.parametrize(("spec", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_one_line_of_what_is_wrong(spec: Any, message: str) -> None:
    with pytest.raises(TaskError) as caught:
        parse_spec("films", spec)
    said = str(caught.value)
    assert said.startswith("task 'films': ")
    assert message in said
    assert "\n" not in said
    assert "pydantic" not in said


def test_built_directly_it_is_pydantics_error() -> None:
    with pytest.raises(ValidationError):
        TaskSpec()


def test_every_field_is_explained() -> None:
    page = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text(encoding="utf-8")
    explained = {name for line in page.splitlines() for name in re.findall(r"`(\w+)`", line.split(" | ")[0])}
    assert set(TaskSpec.model_fields) <= explained


def test_the_pages_example_is_a_description() -> None:
    page = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text(encoding="utf-8")
    tasks = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])["tasks"]
    assert [parse_spec(name, spec).labels for name, spec in tasks.items()] == [("negative", "positive"), None]
