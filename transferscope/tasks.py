"""Task: texts in two splits, each with its class or with the text to be written; and how one is loaded."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from transferscope.errors import TaskError
from transferscope.files import AnyPath, Place, inside, place
from transferscope.fingerprints import fingerprint
from transferscope.metrics import metric as find_metric
from transferscope.task_files import Table, is_file_name, nearest, read_file, read_hub, read_saved, read_split
from transferscope.task_spec import (
    KINDS,
    MAX_NEW_TOKENS,
    Metric,
    Subtask,
    TaskSpec,
    find_subtasks,
    metric_problem,
    parse_spec,
    subtask_problem,
)

DEV_FRACTION = 0.1
DEV_SPLITS = ("validation", "dev")  # looked for in this order where a data set's dev split is not named
NO_CLASS = -1  # the class id of an example whose label is a text


@dataclass(frozen=True, slots=True)
class Example:
    """One text, or a pair of texts, and its class id; or -1 and the texts that are right (``references``)."""

    text: str
    pair: str | None
    label: int
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """Two splits of examples of K classes. The index of a label name or a label word is the class id.

    A task without labels is a generation task: each example has one or more references, the first of which is
    what tuning learns to write; at most ``max_new_tokens`` tokens are written. ``metric`` must be given then.

    ``subtasks`` say what neurons are to tell apart; none: one-vs-rest.
    Raises TaskError where the parts do not fit: words, labels and class ids, single texts among pairs,
    references, a metric of the other kind.
    """

    name: str
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    labels: tuple[str, ...]
    words: tuple[str, ...] | None = None
    type: str | None = None
    metric: Metric = "accuracy"
    source: str = ""
    max_new_tokens: int = MAX_NEW_TOKENS
    subtasks: tuple[Subtask, ...] = ()

    def __post_init__(self) -> None:
        examples = self.train + self.dev
        if self.words is not None and len(self.words) != self.classes:
            raise TaskError(f"task {self.name!r}: {len(self.words)} words for {self.classes} labels")
        if problem := metric_problem(self.kind, self.metric) or subtask_problem(self.subtasks, self.classes):
            raise TaskError(f"task {self.name!r}: {problem}")
        if any(bool(e.references) is bool(self.labels) for e in examples):
            raise TaskError(
                f"task {self.name!r}: a generation task has no labels and references (one text or more) with "
                f"each example, a classification task labels alone; found {self.classes} labels and "
                f"{sum(bool(e.references) for e in examples)} of {len(examples)} examples with references"
            )
        allowed = range(self.classes) if self.labels else (NO_CLASS,)
        wrong = next((e.label for e in examples if e.label not in allowed), None)
        if wrong is not None:
            among = f"0 to {self.classes - 1}" if self.labels else f"{NO_CLASS} alone (a generation task)"
            raise TaskError(f"task {self.name!r}: class id {wrong}, allowed are {among}")
        if any((e.pair is None) is self.is_pair for e in examples):
            raise TaskError(f"task {self.name!r}: single texts and pairs of texts are mixed")

    @property
    def kind(self) -> Literal["classification", "generation"]:
        """What the model is to give: a class or a text."""
        return "classification" if self.labels else "generation"

    @property
    def classes(self) -> int:
        """K, the number of classes; 0 for a generation task."""
        return len(self.labels)

    @property
    def is_pair(self) -> bool:
        """Whether each example is a pair of texts."""
        return any(e.pair is not None for e in (self.train or self.dev)[:1])

    @property
    def majority(self) -> float:
        """What a blind guess scores on dev: the share of the most frequent class.

        Of a generation task, the score (by the task's metric) of writing the most frequent reference always
        (of several, the one that comes first). Raises TaskError where dev is empty.
        """
        if not self.dev:
            raise TaskError(f"task {self.name!r}: the dev split is empty")
        if self.labels:
            return max(Counter(e.label for e in self.dev).values()) / len(self.dev)
        blind = Counter(text for e in self.dev for text in dict.fromkeys(e.references)).most_common(1)[0][0]
        return find_metric(self.metric).of([e.references for e in self.dev], [blind] * len(self.dev))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what prompts are made from: splits, labels, words, metric; not name, type, subtasks."""
        if not self.labels:
            texts = [[[e.text, e.pair, *e.references] for e in split] for split in (self.train, self.dev)]
            return fingerprint("generation task", texts, self.metric, self.max_new_tokens)
        splits = [[[e.text, e.pair, e.label] for e in split] for split in (self.train, self.dev)]
        return fingerprint("task", splits, list(self.labels), self.words and list(self.words), self.metric)


def load_task(name: str, spec: TaskSpec | Mapping[str, Any], *, folder: AnyPath = ".") -> Task:
    """Read a task; relative paths in `spec` are relative to `folder`.

    Same data and spec, same task: samples (`max_train`, `max_dev`) and the automatic dev split are stratified
    by class, drawn by a numpy Generator from `seed`, and keep the order of the data.

    Raises TaskError: one line that names the task, the file and line (or split and row) or the field.
    """
    checked = parse_spec(name, spec)
    try:
        return _load(name, checked, place(folder))
    except TaskError as error:
        raise TaskError(f"task {name!r}: {error}") from error


def _load(name: str, spec: TaskSpec, folder: Place) -> Task:
    if not re.fullmatch(r"[^\s./\\]([^/\\]*[^\s/\\])?", name):
        raise TaskError("a task's name becomes a folder's: no slashes, no dot or blank in front, not empty")
    train, dev = _tables(spec, folder)
    for table in (train, dev):
        if table is not None and table.size == 0:
            raise TaskError(f"{table.where}: no examples")
    labels, found = _classified(spec, train, dev) if spec.answer is None else _unclassified(train, dev)
    train_ids = found[0]
    if dev is None:
        train_rows, dev_rows = _split(train, train_ids, labels, spec)
        dev, dev_ids = train, train_ids
        share = f"{len(dev_rows)} examples of train set aside, as there is no dev split (seed {spec.seed})"
    else:
        dev_ids = found[1]
        train_rows, dev_rows, share = np.arange(train.size), np.arange(dev.size), dev.where
    kept = _cap("max_train", spec.max_train, train_ids, train_rows, spec.seed, 1)
    kept_dev = _cap("max_dev", spec.max_dev, dev_ids, dev_rows, spec.seed, 2)
    examples = _examples(train, spec, kept, train_ids), _examples(dev, spec, kept_dev, dev_ids)
    return Task(
        name=name,
        train=examples[0],
        dev=examples[1],
        labels=labels,
        words=_words(spec, labels),
        type=spec.type,
        metric=spec.metric,
        source=f"train: {train.where}{_of(kept, train_rows)}; dev: {share}{_of(kept_dev, dev_rows)}"
        + _in_both(*examples),
        max_new_tokens=spec.max_new_tokens,
        subtasks=find_subtasks(spec.subtasks, labels),
    )


def _classified(spec: TaskSpec, train: Table, dev: Table | None) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """The label names, and the class ids of each table."""
    tables = [table for table in (train, dev) if table is not None]
    seen = [_raw_labels(table, spec.label) for table in tables]
    labels, ids = _label_ids(spec, train, seen)
    train_ids = _class_ids(train, seen[0], ids)
    _check_classes(train.where, train_ids, labels)
    return labels, [train_ids, *(_class_ids(dev, values, ids) for values in seen[1:] if dev is not None)]


def _unclassified(train: Table, dev: Table | None) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """No label names, and class -1 for each row: samples are drawn as from one class."""
    return (), [np.full(table.size, NO_CLASS) for table in (train, dev) if table is not None]


def _tables(spec: TaskSpec, folder: Place) -> tuple[Table, Table | None]:
    """The splits as they were found; None where the dev split is to be taken from train."""
    fields = (*spec.texts, spec.gold)
    named = [name for name in (spec.train, spec.dev) if name is not None]
    file = next((name for name in named if is_file_name(name)), None)
    if file is not None and spec.given:
        raise TaskError(f"expected {KINDS}, found {spec.given} and the file {file!r}")
    if spec.dataset is not None:
        source = f"dataset {spec.dataset!r}" + (f" ({spec.config})" if spec.config else "")
        splits = read_hub(spec.dataset, spec.config, spec.revision)
    elif spec.path is not None:
        saved = inside(folder, spec.path)
        source, splits = str(saved), read_saved(saved)
    else:
        files = [read_file(inside(folder, name), fields) for name in named]
        return files[0], files[1] if len(files) > 1 else None
    train = spec.train or "train"
    dev = spec.dev
    if dev is None and spec.dev_fraction is None:
        dev = next((split for split in DEV_SPLITS if split in splits and split != train), None)
    table = read_split(splits, train, source, fields)
    return table, None if dev is None else read_split(splits, dev, source, fields)


def _raw_labels(table: Table, field: str) -> list[str]:
    """The label of each row as a string: a name, or the decimal digits of an integer."""
    known = table.names.get(field, ())
    labels = []
    for row, value in enumerate(table.column(field)):
        if value is None or value != value or (isinstance(value, str) and not value.strip()):
            raise TaskError(f"{table.at(row)}: no label in the field {field!r}")
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, str | int):
            found = f"{value!r:.40}"
            raise TaskError(f"{table.at(row)}: the label {found} is not a class (a name or an integer)")
        if known and not 0 <= int(value) < len(known):
            hint = "-1 marks rows without a label" if value == -1 else f"allowed are 0 to {len(known) - 1}"
            raise TaskError(f"{table.at(row)}: label {value} in the field {field!r}; {hint}")
        labels.append(
            known[int(value)] if known else str(int(value) if isinstance(value, bool) else value).strip()
        )
    return labels


def _label_ids(spec: TaskSpec, train: Table, seen: list[list[str]]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The label names, and the class id of each label value that is allowed."""
    known = train.names.get(spec.label)
    if spec.labels is None:
        names = known or _in_order(set(seen[0]))
        return names, {name: i for i, name in enumerate(names)}
    names = spec.labels
    by_name = {name: i for i, name in enumerate(names)}
    values = {value for split in seen for value in split}
    if values <= set(names):
        return names, by_name
    if known is not None:  # other names for the same classes
        moved = [name for name in names if name in known]
        if len(known) != len(names) or any(known.index(name) != by_name[name] for name in moved):
            raise TaskError(f"labels {list(names)} do not rename those of {train.where}: {list(known)}")
        return names, {name: i for i, name in enumerate(known)}
    by_index = {str(i): i for i in range(len(names))}
    if any(_is_integer(name) for name in names):
        # Names that are numbers and indices must not be mixed up: all values are the one or the other.
        return names, by_index if values <= set(by_index) else by_name
    return names, by_index | by_name


def _is_integer(value: str) -> bool:
    return re.fullmatch(r"-?[0-9]+", value) is not None


def _in_order(values: set[str]) -> tuple[str, ...]:
    return tuple(sorted(values, key=int if all(map(_is_integer, values)) else None))


def _class_ids(table: Table, values: list[str], ids: dict[str, int]) -> np.ndarray:
    """Class ids, int64 [S]."""
    wrong = next((row for row, value in enumerate(values) if value not in ids), None)
    if wrong is not None:
        raise TaskError(f"{table.at(wrong)}: unknown label {values[wrong]!r}. {nearest(values[wrong], ids)}")
    return np.array([ids[value] for value in values], dtype=np.int64)


def _check_classes(where: str, ids: np.ndarray, labels: tuple[str, ...]) -> None:
    if len(labels) < 2:
        raise TaskError(f"{where}: one class only ({labels[0]!r}); a task needs two or more")
    missing = [name for i, name in enumerate(labels) if i not in set(ids.tolist())]
    if missing:
        raise TaskError(
            f"{where}: no example of {', '.join(map(repr, missing))} (labels: {', '.join(labels)})"
        )


def _words(spec: TaskSpec, labels: tuple[str, ...]) -> tuple[str, ...] | None:
    """Label words in the order of the labels."""
    words = spec.words
    if words is None:
        return None
    if not isinstance(words, dict):
        if len(words) != len(labels):
            found = f"{len(words)} words ({', '.join(words)}) for {len(labels)} labels ({', '.join(labels)})"
            raise TaskError(f"words: {found}")
        return words
    unknown = next((name for name in words if name not in labels), None)
    if unknown is not None:
        raise TaskError(f"words: unknown label {unknown!r}. {nearest(unknown, labels)}")
    missing = [name for name in labels if name not in words]
    if missing:
        raise TaskError(f"words: no word for {', '.join(map(repr, missing))} (labels: {', '.join(labels)})")
    return tuple(words[name] for name in labels)


def stratified(ids: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of S examples, classes in proportion, at least one of each: sorted indices, int64 [count].

    `ids` are class ids, int [S]. The r-th of a class of n in random order has the key (r + 1/2) / n, and the
    smallest keys are taken (Webster's rounding). So from one seed, the smaller sample is part of the larger.
    """
    keys = np.empty(len(ids))
    for label in np.unique(ids):
        members = rng.permutation(np.flatnonzero(ids == label))
        keys[members] = (np.arange(len(members)) + 0.5) / len(members)
        keys[members[0]] = -1.0
    return np.sort(np.argsort(keys, kind="stable")[:count])


def _split(
    table: Table, ids: np.ndarray, labels: tuple[str, ...], spec: TaskSpec
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of train and of the dev split taken from it; each class is in both."""
    fraction = DEV_FRACTION if spec.dev_fraction is None else spec.dev_fraction
    count = max(len(labels), 1, round(fraction * len(ids)))
    dev = stratified(ids, count, np.random.default_rng([spec.seed, 0]))
    train = np.setdiff1d(np.arange(len(ids)), dev)
    if len(train) == 0:
        raise TaskError(f"{table.where}: too few examples to set a dev split aside ({len(ids)}); give dev")
    for label, name in enumerate(labels):
        if not (ids[train] == label).any():
            found = f"{(ids == label).sum()} of {name!r}"
            raise TaskError(f"{table.where}: too few examples to set a dev split aside ({found}); give dev")
    return train, dev


def _cap(
    field: str, most: int | None, ids: np.ndarray, rows: np.ndarray, seed: int, stream: int
) -> np.ndarray:
    """At most `most` of the rows."""
    if most is None or most >= len(rows):
        return rows
    classes = len(np.unique(ids[rows]))
    if most < classes:
        raise TaskError(f"{field}: {most} examples cannot hold {classes} classes")
    kept: np.ndarray = rows[stratified(ids[rows], most, np.random.default_rng([seed, stream]))]
    return kept


def _of(kept: np.ndarray, rows: np.ndarray) -> str:
    return "" if len(kept) == len(rows) else f" ({len(kept)} of {len(rows)})"


def _in_both(train: tuple[Example, ...], dev: tuple[Example, ...]) -> str:
    """A notice, since such dev examples measure memory."""
    known = {(e.text, e.pair) for e in train}
    count = sum((e.text, e.pair) in known for e in dev)
    return f"; {count} of the dev examples are in train too" if count else ""


def _examples(table: Table, spec: TaskSpec, rows: np.ndarray, ids: np.ndarray) -> tuple[Example, ...]:
    columns = []
    for field in spec.texts:
        columns.append(table.column(field, rows.tolist()))
        for row, value in zip(rows.tolist(), columns[-1], strict=True):
            _check_text(table, row, field, value)
    pairs = columns[1] if len(columns) == 2 else [None] * len(rows)
    answers = [()] * len(rows) if spec.answer is None else _answers(table, spec.answer, rows.tolist())
    found = zip(columns[0], pairs, ids[rows].tolist(), answers, strict=True)
    return tuple(Example(*row) for row in found)


def _answers(table: Table, field: str, rows: list[int]) -> list[tuple[str, ...]]:
    """The references of each row: a text, a list of texts, or {"text": ...} as in SQuAD; each text once."""
    answers = []
    for row, value in zip(rows, table.column(field, rows), strict=True):
        texts = value.get("text") if isinstance(value, dict) else value
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list | tuple):
            found = f"{value!r:.40}"
            raise TaskError(
                f"{table.at(row)}: the field {field!r} holds {found}, not a text or a list of them"
            )
        for text in texts:
            _check_text(table, row, field, text)
        known = tuple(dict.fromkeys(text for text in texts if text.strip()))
        if not known:
            raise TaskError(f"{table.at(row)}: no answer in the field {field!r}; leave such rows out")
        answers.append(known)
    return answers


def _check_text(table: Table, row: int, field: str, value: object) -> None:
    if not isinstance(value, str):
        raise TaskError(f"{table.at(row)}: the field {field!r} holds {value!r:.40}, not a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair; no tokenizer takes it
        raise TaskError(
            f"{table.at(row)}: the field {field!r} is not valid Unicode: {error.reason}"
        ) from error
