"""TaskSpec: how a task is described, field by field, and what is said of a wrong description."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from transferscope.errors import TaskError, suggest

ClassMetric = Literal["accuracy", "macro_f1", "matthews"]
TextMetric = Literal["exact_match", "token_f1", "rouge_l", "bleu"]
Metric = ClassMetric | TextMetric
METRICS: dict[str, tuple[str, ...]] = {
    "classification": get_args(ClassMetric),
    "generation": get_args(TextMetric),
}
DEFAULT_METRICS: dict[str, Metric] = {"classification": "accuracy", "generation": "token_f1"}
MAX_NEW_TOKENS = 32
SubtaskScheme = Literal["one-vs-rest", "poles-and-neutral"]
SCHEMES: tuple[str, ...] = get_args(SubtaskScheme)
CLASS_FIELDS = ("label", "labels", "words", "subtasks")  # they mean nothing where the label is a text
NEUTRAL = "neutral"  # what the class between the two poles is called
KINDS = "one of a dataset (Hub id), a path (folder of save_to_disk) or train (a file; dev, another)"


@dataclass(frozen=True, slots=True)
class Subtask:
    """Two groups of a task's classes that neurons are to tell apart, as class ids.

    ``negative`` counts as 0, ``positive`` as 1; examples of other classes are left out. ``name`` is for
    people.
    """

    positive: tuple[int, ...]
    negative: tuple[int, ...]
    name: str = ""

    @classmethod
    def of(cls, positive: Iterable[str], negative: Iterable[str], labels: Sequence[str]) -> Subtask:
        """From names of classes. Raises TaskError for a name that is not among the labels."""
        sides = tuple(positive), tuple(negative)
        for label in (label for side in sides for label in side):
            if label not in labels:
                raise TaskError(f"subtasks: unknown label {label!r}. {suggest(label, labels)}")
        first, second = (tuple(labels.index(label) for label in side) for side in sides)
        return cls(first, second, " against ".join(" or ".join(side) for side in sides))


class SubtaskSpec(BaseModel, extra="forbid", frozen=True):
    """A subtask as a task's description has it: by the names of the classes."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]


class TaskSpec(BaseModel, extra="forbid", frozen=True):
    """Where a task's data are and how to read them; docs/tasks.md explains each field.

    The data are a data set on the Hub (`dataset`), a folder of `save_to_disk` (`path`) or files (`train` and
    `dev`). A task whose prompts were tuned elsewhere (`prompts`, a PEFT folder) needs none: it is a source
    alone. Built directly, it raises pydantic's ValidationError; `parse_spec` makes that one clear line.

    A task with `answer` in place of `label` is a generation task: its label is a text.
    """

    dataset: str | None = None
    config: str | None = None
    revision: str | None = None
    path: str | None = None
    train: str | None = None
    dev: str | None = None
    dev_fraction: float | None = Field(default=None, gt=0, lt=1)
    prompts: str | None = Field(default=None, min_length=1)
    text: str | tuple[str, str] = "text"
    label: str = "label"
    answer: str | None = Field(default=None, min_length=1)
    max_new_tokens: int = Field(default=MAX_NEW_TOKENS, ge=1, le=4096)
    labels: tuple[str, ...] | None = None
    words: tuple[str, ...] | dict[str, str] | None = None
    subtasks: SubtaskScheme | tuple[SubtaskSpec, ...] = "one-vs-rest"
    type: str | None = None
    metric: Metric = "accuracy"
    max_train: int | None = Field(default=None, ge=1)
    max_dev: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)

    @property
    def texts(self) -> tuple[str, ...]:
        """The names of the one or two text fields."""
        return (self.text,) if isinstance(self.text, str) else self.text

    @property
    def kind(self) -> Literal["classification", "generation"]:
        """What the model is to give: a class or a text."""
        return "classification" if self.answer is None else "generation"

    @property
    def gold(self) -> str:
        """The field with what is right: the label's, or the answer's."""
        return self.label if self.answer is None else self.answer

    @property
    def has_data(self) -> bool:
        """Whether there are texts: to tune on, to measure with, to be a target of transfer."""
        return any(name is not None for name in (self.dataset, self.path, self.train))

    @property
    def given(self) -> str:
        """The data set or folder in words; empty where the data are files."""
        names = {"dataset": self.dataset, "path": self.path}
        return " and ".join(f"{field} {name!r}" for field, name in names.items() if name is not None)

    @model_validator(mode="before")
    @classmethod
    def _usual_metric(cls, value: object) -> object:
        if not isinstance(value, Mapping) or value.get("answer") is None or value.get("metric") is not None:
            return value
        return {**value, "metric": DEFAULT_METRICS["generation"]}

    @field_validator("text", mode="before")
    @classmethod
    def _one_or_two(cls, value: object) -> object:
        names = value if isinstance(value, list | tuple) else [value]
        if not 1 <= len(names) <= 2 or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"expected the name of one text field, or of two as [a, b], found {value!r}")
        return names[0] if len(names) == 1 else tuple(names)

    @field_validator("labels", "words", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        if isinstance(value, Mapping):
            return dict(zip(_name_list(list(value)), _name_list(list(value.values())), strict=True))
        return _name_list(value) if isinstance(value, list | tuple) else value

    @field_validator("subtasks", mode="before")
    @classmethod
    def _scheme_or_sides(cls, value: object) -> object:
        if isinstance(value, str):
            if value not in SCHEMES:
                raise ValueError(f"unknown scheme {value!r}. {suggest(value, SCHEMES)}")
            return value
        return _subtask_list(value)

    @field_validator("labels")
    @classmethod
    def _two_labels(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and len(value) < 2:
            raise ValueError(f"a task needs two classes or more, found {list(value)}")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> TaskSpec:
        problem = _source_problem(self)
        if problem is None and self.gold in self.texts:
            what = "label" if self.answer is None else "answer"
            problem = f"the field {self.gold!r} cannot be both text and {what}"
        if problem is None and len(set(self.texts)) < len(self.texts):
            problem = f"text: the two fields of a pair must differ, found {list(self.texts)}"
        if problem is None and self.dev is not None and self.dev_fraction is not None:
            problem = f"give dev ({self.dev!r}) or dev_fraction ({self.dev_fraction}), not both"
        problem = problem or _kind_problem(self)
        if problem is not None:
            raise ValueError(problem)
        return self


def _name_list(values: Sequence[object]) -> tuple[str, ...]:
    """Names from what YAML makes of them."""
    for value in values:
        if isinstance(value, bool):
            raise ValueError(
                f"{value} is not a name: YAML reads a bare yes, no, on or off so; write it in quotes"
            )
        if not isinstance(value, str | int) or not str(value).strip():
            raise ValueError(f"{value!r} is not a name")
    names = tuple(str(value) for value in values)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} stands there twice")
    return names


def _subtask_list(value: object) -> tuple[SubtaskSpec, ...]:
    """Subtasks from what YAML makes of them; whether the names are labels is known with the data."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(
            f"expected {' or '.join(SCHEMES)}, or a list of {{positive: [names], negative: [names]}}, "
            f"found {value!r}"
        )
    found = tuple(_subtask(one, number) for number, one in enumerate(value, start=1))
    seen: dict[frozenset[frozenset[str]], int] = {}
    for number, one in enumerate(found, start=1):
        before = seen.setdefault(frozenset((frozenset(one.positive), frozenset(one.negative))), number)
        if before < number:
            raise ValueError(f"numbers {before} and {number} tell the same classes apart")
    return found


def _subtask(value: object, number: int) -> SubtaskSpec:
    if isinstance(value, SubtaskSpec):
        value = value.model_dump()
    sides = tuple(SubtaskSpec.model_fields)
    if not isinstance(value, Mapping):
        raise ValueError(
            f"subtask {number}: expected {{positive: [names], negative: [names]}}, found {value!r}"
        )
    unknown = next((str(key) for key in value if key not in sides), None)
    if unknown is not None:
        raise ValueError(f"subtask {number}: unknown side {unknown!r}. {suggest(unknown, sides)}")
    names: dict[str, tuple[str, ...]] = {}
    for side in sides:
        given = value.get(side)
        names[side] = _name_list(
            [] if given is None else given if isinstance(given, list | tuple) else [given]
        )
        if not names[side]:
            raise ValueError(f"subtask {number}: no class is {side}; a side needs one or more")
    both = next((name for name in names["positive"] if name in names["negative"]), None)
    if both is not None:
        raise ValueError(f"subtask {number}: {both!r} is on both sides")
    return SubtaskSpec(**names)


def find_subtasks(given: SubtaskScheme | Sequence[SubtaskSpec], labels: Sequence[str]) -> tuple[Subtask, ...]:
    """The subtasks that a description asks for, with class ids; () for one-vs-rest, as every task has it.

    ``poles-and-neutral`` is the scheme of Wang et al. (EMNLP 2022) for three classes one of which is called
    neutral: the two others against each other, then neutral against both (their published code,
    helper/binarize.py, and there the neutral one is class 1 by position). Raises TaskError.
    """
    if given == "one-vs-rest":
        return ()
    if not isinstance(given, str):
        return tuple(Subtask.of(one.positive, one.negative, labels) for one in given)
    neutral = [label for label in labels if label.lower() == NEUTRAL]
    if len(labels) != 3 or len(neutral) != 1:
        raise TaskError(
            f"subtasks: {given} is for three classes, one of them called {NEUTRAL!r}; the labels are "
            f"{', '.join(labels)}. Name them so, or write subtasks as {{positive: [...], negative: [...]}}"
        )
    low, high = (label for label in labels if label not in neutral)
    return Subtask.of([high], [low], labels), Subtask.of(neutral, [low, high], labels)


def default_subtasks(labels: Sequence[str]) -> tuple[Subtask, ...]:
    """One-vs-rest of K classes: K subtasks, or one (class 1 against class 0) where K is 2."""
    if len(labels) == 2:
        return (Subtask.of(labels[1:], labels[:1], labels),)
    rest = [tuple(k for k in range(len(labels)) if k != one) for one in range(len(labels))]
    return tuple(Subtask((k,), rest[k], f"{label} against the rest") for k, label in enumerate(labels))


def subtask_problem(subtasks: Sequence[Subtask], classes: int) -> str | None:
    """What is wrong with the subtasks of a task of K classes, if anything."""
    for one in subtasks:
        ids = one.positive + one.negative
        wrong = next((k for k in ids if not 0 <= k < classes), None)
        if wrong is not None:
            among = f"0 to {classes - 1}" if classes else "none, as a generation task has no classes"
            return f"subtask {one.name!r}: class id {wrong}, allowed are {among}"
        if not one.positive or not one.negative or len(set(ids)) < len(ids):
            return (
                f"subtask {one.name!r}: each side needs a class and no class may stand there twice, found "
                f"positive {list(one.positive)}, negative {list(one.negative)}"
            )
    return None


def _source_problem(spec: TaskSpec) -> str | None:
    """What is wrong with where the data come from, if anything."""
    if spec.dataset is not None and spec.path is not None:
        return f"expected {KINDS}, found {spec.given}"
    if spec.prompts is not None and not spec.has_data and spec.dev is None:
        return None
    if not spec.given and spec.train is None:
        return f"expected {KINDS}, found {'none' if spec.dev is None else f'dev {spec.dev!r} without train'}"
    if spec.dev is not None and spec.dev == (spec.train or "train"):
        return f"dev is the same as train ({spec.dev!r}); leave dev out to have a part of train set aside"
    extra = next((name for name in ("config", "revision") if getattr(spec, name) is not None), None)
    if extra is not None and spec.dataset is None:
        return f"{extra} goes with dataset, found {spec.given or f'train {spec.train!r}'}"
    return None


def _kind_problem(spec: TaskSpec) -> str | None:
    """Which fields do not go with a task whose label is a class, or a text, if any."""
    # A dump of a description says every field, so what counts is whether one differs from its default.
    fields = type(spec).model_fields
    given = {name for name, field in fields.items() if getattr(spec, name) != field.default}
    if spec.answer is not None:
        classes = next((name for name in CLASS_FIELDS if name in given), None)
        if classes is not None:
            return (
                f"give answer ({spec.answer!r}: the label is a text) or {classes} (it is a class), not both"
            )
    elif "max_new_tokens" in given:
        return "max_new_tokens goes with answer (a task whose label is a text)"
    return metric_problem(spec.kind, spec.metric)


def metric_problem(kind: str, metric: str) -> str | None:
    """What is wrong with the metric of a task of this kind, if anything."""
    if metric in METRICS[kind]:
        return None
    if not any(metric in names for names in METRICS.values()):
        return f"unknown metric {metric!r}. {suggest(metric, METRICS[kind])}"
    return f"the metric {metric!r} is not for a {kind} task. {suggest(metric, METRICS[kind])}"


def parse_spec(name: str, spec: TaskSpec | Mapping[str, Any]) -> TaskSpec:
    """A checked TaskSpec. Raises TaskError: one line with the field, what was found and what is allowed."""
    if isinstance(spec, TaskSpec):
        return spec
    if not isinstance(spec, Mapping):
        raise TaskError(f"task {name!r}: expected fields with values, found {spec!r}")
    try:
        return TaskSpec.model_validate(dict(spec))
    except ValidationError as error:
        raise TaskError(f"task {name!r}: {_explain(error)}") from error


def _explain(error: ValidationError) -> str:
    """The first of pydantic's complaints, in one line."""
    first, *others = error.errors(include_url=False)
    place, found = ".".join(str(part) for part in first["loc"][:1]), first["input"]
    if first["type"] == "extra_forbidden":
        message = f"unknown field {place!r}. {suggest(place, TaskSpec.model_fields)}"
    elif first["type"] == "literal_error":
        message = f"{place}: unknown value {found!r}. {suggest(str(found), sum(METRICS.values(), ()))}"
    elif first["type"] == "value_error":
        message = f"{place}: {first['ctx']['error']}" if place else str(first["ctx"]["error"])
    else:
        message = f"{place}: {first['msg'][0].lower()}{first['msg'][1:]}, found {found!r}"
    return f"{message} (and {len(others)} more)" if others else message
