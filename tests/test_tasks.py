"""Tasks: labels, words, samples and splits from every kind of source, and what is said of each mistake."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transferscope.errors import TaskError
from transferscope.task_spec import Subtask
from transferscope.tasks import Example, Task, load_task, stratified

Rows = list[tuple[Any, Any]]
TWO: Rows = [("a", 0), ("b", 1), ("c", 0), ("d", 1)]


def _jsonl(folder: Path, **splits: Rows) -> None:
    for name, rows in splits.items():
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")


def _load(folder: Path, train: Rows = TWO, dev: Rows | None = TWO, **spec: Any) -> Task:
    _jsonl(folder, train=train, **({} if dev is None else {"dev": dev}))
    files = {"train": "train.jsonl"} | ({} if dev is None else {"dev": "dev.jsonl"})
    return load_task("films", files | spec, folder=folder)


def test_the_record() -> None:
    train = (Example("a", "b", 0), Example("c", "d", 1))
    task = Task("t", train, (*train, Example("e", "f", 1)), ("no", "yes"))
    assert (task.classes, task.is_pair, task.majority) == (2, True, 2 / 3)
    with pytest.raises(FrozenInstanceError):
        task.name = "u"  # type: ignore[misc]


def test_parts_that_do_not_fit() -> None:
    one, pair = Example("a", None, 0), Example("a", "b", 1)
    with pytest.raises(TaskError, match="task 't': 1 words for 2 labels"):
        Task("t", (one,), (one,), ("no", "yes"), words=("no",))
    with pytest.raises(TaskError, match="class id 2, allowed are 0 to 1"):
        Task("t", (one,), (Example("a", None, 2),), ("no", "yes"))
    with pytest.raises(TaskError, match="single texts and pairs of texts are mixed"):
        Task("t", (one,), (pair,), ("no", "yes"))
    with pytest.raises(TaskError, match=r"unknown metric 'f1'\. .*Available: accuracy, macro_f1, matthews"):
        Task("t", (one,), (one,), ("no", "yes"), metric="f1")  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="task 't': subtask 's': class id 2, allowed are 0 to 1"):
        Task("t", (one,), (one,), ("no", "yes"), subtasks=(Subtask((2,), (0,), "s"),))
    with pytest.raises(TaskError, match=r"task 't': subtask 's': .* no class may stand there twice"):
        Task("t", (one,), (one,), ("no", "yes"), subtasks=(Subtask((1,), (1, 0), "s"),))
    with pytest.raises(TaskError, match="the dev split is empty"):
        _ = Task("t", (one,), (), ("no", "yes")).majority


def test_the_fingerprint_follows_what_numbers_are_made_from() -> None:
    examples = (Example("a", None, 0), Example("b", None, 1))
    task = Task("t", examples, examples, ("no", "yes"))
    assert task.fingerprint == replace(task, name="u", type="film", source="elsewhere").fingerprint
    # Prompts do not depend on them: what neurons are asked is an input of the signature alone.
    assert task.fingerprint == replace(task, subtasks=(Subtask((0,), (1,)),)).fingerprint
    changed = [
        replace(task, train=examples[::-1]),
        replace(task, dev=examples[:1]),
        replace(task, train=examples[:1], dev=(examples[1], *examples)),
        replace(task, labels=("yes", "no")),
        replace(task, words=("no", "yes")),
        replace(task, metric="matthews"),
        replace(task, train=(Example("a", None, 1), examples[1])),
    ]
    assert len({task.fingerprint, *(other.fingerprint for other in changed)}) == 1 + len(changed)


def test_jsonl_to_task(tmp_path: Path) -> None:
    task = _load(tmp_path, labels=["bad", "good"], words={"good": "great", "bad": "awful"}, type="sentiment")
    assert task.train[1] == Example("b", None, 1)
    assert (task.labels, task.words, task.type) == (("bad", "good"), ("awful", "great"), "sentiment")
    assert f"train: {tmp_path / 'train.jsonl'}; dev: {tmp_path / 'dev.jsonl'}" in task.source
    assert task.source.endswith("; 4 of the dev examples are in train too")


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_pairs_from_tables(tmp_path: Path, suffix: str, delimiter: str) -> None:
    rows = [("a", "b", "gold"), ("x", "y", "no"), ("z", "", "yes")]
    (tmp_path / f"t.{suffix}").write_text("\n".join(delimiter.join(row) for row in rows), encoding="utf-8")
    spec = {"train": f"t.{suffix}", "dev": f"t.{suffix}.gz", "text": ["a", "b"], "label": "gold"}
    (tmp_path / f"t.{suffix}.gz").write_bytes(gzip.compress((tmp_path / f"t.{suffix}").read_bytes()))
    task = load_task("nli", spec, folder=tmp_path)
    assert task.train == task.dev == (Example("x", "y", 0), Example("z", "", 1))
    assert task.is_pair
    assert task.labels == ("no", "yes")


LABELS: list[tuple[list[Any], list[str] | None, tuple[str, ...], list[int]]] = [
    ([1, 0], None, ("0", "1"), [1, 0]),
    (["10", "9", "-1"], None, ("-1", "9", "10"), [2, 1, 0]),  # numbers, so not in the order of strings
    (["pos", " neg "], None, ("neg", "pos"), [1, 0]),
    ([True, False], None, ("0", "1"), [1, 0]),
    ([1.0, 0.0], None, ("0", "1"), [1, 0]),
    ([1, 0], ["neg", "pos"], ("neg", "pos"), [1, 0]),
    (["1", "0"], ["neg", "pos"], ("neg", "pos"), [1, 0]),
    (["pos", 0], ["neg", "pos"], ("neg", "pos"), [1, 0]),
    ([1, 2], ["2", "1"], ("2", "1"), [1, 0]),  # the names themselves
    ([1, 0], ["1", "2"], ("1", "2"), [1, 0]),  # not the names, so indices
    ([1, 0], ["1", "0"], ("1", "0"), [0, 1]),
]


@pytest.mark.parametrize(("values", "labels", "names", "ids"), LABELS)
def test_label_values(
    tmp_path: Path, values: list[Any], labels: list[str] | None, names: tuple[str, ...], ids: list[int]
) -> None:
    rows = [("x", value) for value in values]
    task = _load(tmp_path, rows, rows, labels=labels)
    assert task.labels == names
    assert [example.label for example in task.train] == [example.label for example in task.dev] == ids


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"train": []}, r"train\.jsonl: no examples"),
    ({"dev": []}, r"dev\.jsonl: no examples"),
    ({"train": [("a", 0), ("b", 0)]}, r"train\.jsonl: one class only \('0'\); a task needs two or more"),
    ({"labels": ["n", "z", "p"]}, r"train\.jsonl: no example of 'p' \(labels: n, z, p\)"),
    ({"dev": [("a", 0), ("b", 7)]}, r"dev\.jsonl, line 2: unknown label '7'\. Available: 0, 1\."),
    (
        {"train": [("a", "good"), ("b", "bad")], "dev": [("c", "goood")]},
        r"dev\.jsonl, line 1: unknown label 'goood'\. Did you mean 'good'\? Available: bad, good\.",
    ),
    ({"train": [("a", 0), ("b", 3)], "labels": ["1", "2"]}, r"train\.jsonl, line 1: unknown label '0'\."),
    ({"train": [("a", 0), ("b", None)]}, r"train\.jsonl, line 2: no label in the field 'label'"),
    ({"train": [("a", 0), ("b", "  ")]}, r"train\.jsonl, line 2: no label in the field 'label'"),
    ({"train": [("a", 0), ("b", float("nan"))]}, r"train\.jsonl, line 2: no label in the field 'label'"),
    ({"train": [("a", 0), ("b", 3.8)]}, r"train\.jsonl, line 2: the label 3\.8 is not a class"),
    ({"train": [("a", 0), ("b", [1])]}, r"train\.jsonl, line 2: the label \[1\] is not a class"),
    ({"train": [(None, 0), ("b", 1)]}, r"train\.jsonl, line 1: the field 'text' holds None, not a text"),
    ({"dev": [("a", 0), (5, 1)]}, r"dev\.jsonl, line 2: the field 'text' holds 5, not a text"),
    ({"dev": [("a\ud800", 0)]}, r"dev\.jsonl, line 1: the field 'text' is not valid Unicode: surrogates"),
    ({"text": "txt"}, r"train\.jsonl, line 1: no field 'txt'\. Did you mean 'text'\? Available: label, text"),
    ({"words": ["x"]}, r"words: 1 words \(x\) for 2 labels \(0, 1\)"),
    ({"words": {"0": "x"}}, r"words: no word for '1' \(labels: 0, 1\)"),
    (
        {"labels": ["neg", "pos"], "words": {"neg": "x", "poss": "y"}},
        r"words: unknown label 'poss'\. Did you mean 'pos'\? Available: neg, pos\.",
    ),
    (
        {"labels": ["neg", "pos"], "subtasks": [{"positive": "poss", "negative": "neg"}]},
        r"subtasks: unknown label 'poss'\. Did you mean 'pos'\? Available: neg, pos\.",
    ),
    (
        {"subtasks": "poles-and-neutral"},
        r"is for three classes, one of them called 'neutral'; the labels are 0, 1",
    ),
    ({"max_train": 1}, r"max_train: 1 examples cannot hold 2 classes"),
    ({"max_dev": 1}, r"max_dev: 1 examples cannot hold 2 classes"),
    (
        {"train": [("a", 0), ("b", 0), ("c", 1)], "dev": None},
        r"train\.jsonl: too few examples to set a dev split aside \(1 of '1'\); give dev",
    ),
    ({"metric": "f1"}, r"metric: unknown value 'f1'\."),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_errors_name_the_task_and_the_place(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message) as caught:
        _load(tmp_path, **change)
    assert str(caught.value).startswith("task 'films': ")
    assert str(caught.value).count("films") == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".a", " a", "a ", "a\\b"])
def test_names_that_cannot_be_folders(tmp_path: Path, name: str) -> None:
    with pytest.raises(TaskError, match="no slashes"):
        load_task(name, {"train": "train.jsonl"}, folder=tmp_path)


UNEVEN: Rows = [(f"text {i}", 0 if i % 10 else 1 if i % 20 else 2) for i in range(200)]  # 180, 10, 10


def test_caps_keep_proportions_and_order(tmp_path: Path) -> None:
    task = _load(tmp_path, UNEVEN, UNEVEN, max_train=40, max_dev=20, seed=3)
    assert Counter(example.label for example in task.train) == {0: 36, 1: 2, 2: 2}
    assert Counter(example.label for example in task.dev) == {0: 18, 1: 1, 2: 1}
    numbers = [int(example.text.split()[1]) for example in task.train]
    assert numbers == sorted(numbers)
    assert "train.jsonl (40 of 200)" in task.source
    assert "dev.jsonl (20 of 200)" in task.source


def test_subtasks_are_read_by_the_names_of_the_classes(tmp_path: Path) -> None:
    rows: Rows = [("a", 0), ("b", 1), ("c", 2)]
    labels = ["neutral", "neg", "pos"]
    task = _load(tmp_path, rows, rows, labels=labels, subtasks="poles-and-neutral")
    assert [(one.positive, one.negative) for one in task.subtasks] == [((2,), (1,)), ((0,), (1, 2))]
    assert _load(tmp_path, rows, rows, labels=labels).subtasks == ()
    given = [{"positive": "pos", "negative": ["neg", "neutral"]}]
    task = _load(tmp_path, rows, rows, labels=labels, subtasks=given)
    assert task.subtasks == (Subtask((2,), (1, 0), "pos against neg or neutral"),)


def test_the_seed_decides(tmp_path: Path) -> None:
    first, again, other = (_load(tmp_path, UNEVEN, None, max_train=40, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert set(first.dev) != set(other.dev)


def test_a_cap_that_does_not_bind_changes_nothing(tmp_path: Path) -> None:
    assert _load(tmp_path, max_train=4, max_dev=100).fingerprint == _load(tmp_path).fingerprint


def test_a_dev_split_is_set_aside(tmp_path: Path) -> None:
    task = _load(tmp_path, UNEVEN, None)
    assert Counter(example.label for example in task.dev) == {0: 18, 1: 1, 2: 1}
    assert sorted(example.text for example in task.train + task.dev) == sorted(text for text, _ in UNEVEN)
    assert "20 examples of train set aside, as there is no dev split (seed 0)" in task.source
    assert len(_load(tmp_path, UNEVEN, None, dev_fraction=0.3).dev) == 60


@given(
    ids=st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array),
    share=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_stratified_samples(ids: np.ndarray, share: float, seed: int) -> None:
    classes = np.unique(ids)
    count = len(classes) + round(share * (len(ids) - len(classes)))
    chosen = stratified(ids, count, np.random.default_rng(seed))
    assert len(set(chosen.tolist())) == count
    assert (np.diff(chosen) > 0).all()
    for label in classes:
        fair = count * (ids == label).mean()
        # Each class has one at least, which may cost the others up to one each.
        assert max(1, fair - len(classes)) <= (ids[chosen] == label).sum() <= fair + len(classes)
    smaller = stratified(ids, len(classes), np.random.default_rng(seed))
    assert set(smaller) <= set(chosen)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Write splits of (text, label) rows with `save_to_disk`; `names` make the label a ClassLabel."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    def write(names: list[str] | None = None, **splits: Rows) -> Path:
        label = ClassLabel(names=names) if names else Value("int64")
        features = Features({"text": Value("string"), "label": label})
        made = {
            split: Dataset.from_dict(
                {"text": [t for t, _ in rows], "label": [y for _, y in rows]}, features=features
            )
            for split, rows in splits.items()
        }
        DatasetDict(made).save_to_disk(tmp_path / "saved")
        return tmp_path

    return write


def test_a_saved_folder(saved: Callable[..., Path]) -> None:
    folder = saved(names=["neg", "pos"], train=TWO, validation=TWO[:3])
    task = load_task("films", {"path": "saved"}, folder=folder)
    assert (task.labels, len(task.train), len(task.dev)) == (("neg", "pos"), 4, 3)
    assert "saved, split 'train'; dev: " in task.source
    capped = load_task("films", {"path": "saved", "max_train": 2, "dev_fraction": 0.5}, folder=folder)
    assert (len(capped.train), len(capped.dev)) == (2, 2)  # dev_fraction wins over the split that is there
    with pytest.raises(
        TaskError, match=r"task 'films': .*saved: no split 'test'\. Available: train, validation\."
    ):
        load_task("films", {"path": "saved", "dev": "test"}, folder=folder)
    with pytest.raises(TaskError, match=r"expected one of .*, found path 'saved' and the file 'dev\.csv'"):
        load_task("films", {"path": "saved", "dev": "dev.csv"}, folder=folder)


def test_a_split_is_never_both_train_and_dev(saved: Callable[..., Path]) -> None:
    task = load_task(
        "films", {"path": "saved", "train": "validation"}, folder=saved(validation=TWO, test=TWO)
    )
    assert (len(task.train), len(task.dev)) == (2, 2)
    assert "in train too" not in task.source


def test_class_names_may_be_reordered_or_replaced(saved: Callable[..., Path]) -> None:
    folder = saved(names=["2", "1"], train=TWO, dev=TWO)
    assert (
        load_task("t", {"path": "saved"}, folder=folder).train[0].label == 0
    )  # an index although a name is "0"
    turned = load_task("t", {"path": "saved", "labels": ["1", "2"]}, folder=folder)
    assert [example.label for example in turned.train] == [1, 0, 1, 0]
    renamed = load_task("t", {"path": "saved", "labels": ["neg", "pos"]}, folder=folder)
    assert [example.label for example in renamed.train] == [0, 1, 0, 1]
    with pytest.raises(TaskError, match=r"labels \['a', 'b', 'c'\] do not rename those of .*: \['2', '1'\]"):
        load_task("t", {"path": "saved", "labels": ["a", "b", "c"]}, folder=folder)
    with pytest.raises(TaskError, match=r"labels \['neg', '2'\] do not rename"):
        load_task("t", {"path": "saved", "labels": ["neg", "2"]}, folder=folder)


def test_rows_without_a_label_and_classes_without_rows(saved: Callable[..., Path]) -> None:
    folder = saved(names=["neg", "pos", "neutral"], train=TWO, test=[("a", -1)])
    with pytest.raises(
        TaskError, match=r"saved, split 'train': no example of 'neutral' \(labels: neg, pos, neutral"
    ):
        load_task("t", {"path": "saved"}, folder=folder)
    with pytest.raises(
        TaskError, match=r"split 'test', row 0: label -1 in the field 'label'; -1 marks rows without"
    ):
        load_task("t", {"path": "saved", "dev": "test"}, folder=folder)


def test_a_data_set_of_the_hub(saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    folder = saved(train=TWO * 5, test=TWO)
    asked: list[Any] = []

    def stand_in(*args: Any, **options: Any) -> Any:
        asked.append((args, options))
        return datasets.load_from_disk(str(folder / "saved"))

    monkeypatch.setattr(datasets, "load_dataset", stand_in)
    spec = {"dataset": "glue", "config": "sst2", "revision": "abc", "labels": ["neg", "pos"]}
    task = load_task("films", spec)
    assert asked == [(("glue", "sst2"), {"revision": "abc"})]  # and never trust_remote_code
    assert (task.labels, len(task.train), len(task.dev)) == (("neg", "pos"), 18, 2)
    assert "dataset 'glue' (sst2), split 'train'; dev: 2 examples of train set aside" in task.source
    assert len(load_task("films", spec | {"train": "test", "dev": "train"}).dev) == 20
    with pytest.raises(TaskError, match=r"found dataset 'glue' and the file 'x\.csv'"):
        load_task("films", spec | {"train": "x.csv"})
    assert len(asked) == 2  # that was said before anything was fetched


ANSWERS: Rows = [
    ("q1", "red cat"),
    ("q2", ["dog", "a dog", "dog"]),
    ("q3", {"text": ["x", "y"], "start": [1, 2]}),
]


def _written(folder: Path, rows: Rows, **spec: Any) -> Task:
    return _load(folder, rows, rows if "dev_fraction" not in spec else None, answer="label", **spec)


def test_answers_to_a_generation_task(tmp_path: Path) -> None:
    task = _written(tmp_path, ANSWERS, metric="rouge_l", max_new_tokens=9, type="qa")
    assert (task.kind, task.labels, task.classes, task.words) == ("generation", (), 0, None)
    assert (task.metric, task.max_new_tokens, task.type) == ("rouge_l", 9, "qa")
    assert [example.references for example in task.train] == [("red cat",), ("dog", "a dog"), ("x", "y")]
    assert {example.label for example in task.train + task.dev} == {-1}
    assert _written(tmp_path, ANSWERS).metric == "token_f1"
    assert _load(tmp_path).kind == "classification"


def test_samples_of_a_generation_task(tmp_path: Path) -> None:
    rows: Rows = [(f"q{i}", f"a{i}") for i in range(40)]
    task = _written(tmp_path, rows, dev_fraction=0.25, max_train=12, max_dev=5)
    assert (len(task.train), len(task.dev)) == (12, 5)
    assert not {e.text for e in task.train} & {e.text for e in task.dev}
    assert task == _written(tmp_path, rows, dev_fraction=0.25, max_train=12, max_dev=5)
    more = _written(tmp_path, rows, dev_fraction=0.25, max_train=20, max_dev=5)
    assert set(task.train) < set(more.train)
    assert [e.text for e in task.train] == sorted(
        (e.text for e in task.train), key=lambda text: int(text[1:])
    )


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "line 2: the field 'label' holds None, not a text or a list of them"),
        (3, "holds 3, not a text or a list"),
        (["x", 3], "the field 'label' holds 3, not a text"),
        ([], "no answer in the field 'label'"),
        (["", "  "], "no answer in the field"),
        ({"text": []}, "no answer in the field"),
        ({"start": 1}, "not a text or a list of them"),
        ("\ud800", "not valid Unicode"),
    ],
)
def test_what_is_no_answer(tmp_path: Path, answer: object, message: str) -> None:
    with pytest.raises(TaskError, match=f"^task 'films': .*{message}"):
        _written(tmp_path, [("q1", "fine"), ("q2", answer)])


def test_one_example_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="too few examples to set a dev split aside"):
        _written(tmp_path, [("q1", "a")], dev_fraction=0.5)


def test_references_and_classes_do_not_mix() -> None:
    text, label = Example("a", None, -1, ("x",)), Example("a", None, 0)
    with pytest.raises(TaskError, match="found 0 labels and 1 of 2 examples with references"):
        Task("t", (text,), (label,), (), metric="bleu")
    with pytest.raises(TaskError, match="found 2 labels and 1 of 1 examples with references"):
        Task("t", (replace(text, label=0),), (), ("no", "yes"))
    with pytest.raises(TaskError, match=r"class id 0, allowed are -1 alone"):
        Task("t", (replace(text, label=0),), (), (), metric="bleu")
    with pytest.raises(TaskError, match=r"'accuracy' is not for a generation task. .*exact_match"):
        Task("t", (text,), (text,), ())
    with pytest.raises(TaskError, match=r"'bleu' is not for a classification task. .*accuracy"):
        Task("t", (label,), (label,), ("no", "yes"), metric="bleu")


def test_the_blind_answer_is_the_most_frequent_reference() -> None:
    answers = [("red cat",), ("dog", "cat"), ("old cat", "cat")]
    dev = tuple(Example(f"q{i}", None, -1, texts) for i, texts in enumerate(answers))
    task = Task("t", dev, dev, (), metric="exact_match")
    assert task.majority == pytest.approx(2 / 3)  # "cat"
    assert replace(task, metric="token_f1").majority == pytest.approx((2 / 3 + 1 + 1) / 3)
    with pytest.raises(TaskError, match="the dev split is empty"):
        _ = replace(task, dev=()).majority


def test_the_fingerprint_of_a_generation_task() -> None:
    example = Example("a", None, -1, ("x", "y"))
    task = Task("t", (example,), (example,), (), metric="bleu")
    assert task.fingerprint == replace(task, name="u", type="qa", source="elsewhere").fingerprint
    changed = [
        replace(task, metric="rouge_l"),
        replace(task, max_new_tokens=5),
        replace(task, dev=(replace(example, references=("y", "x")),)),
        replace(task, train=(replace(example, text="b"),)),
        replace(task, train=(example, example)),
    ]
    assert len({task.fingerprint, *(other.fingerprint for other in changed)}) == 6


def test_the_fingerprint_of_classes_is_as_it_was() -> None:
    """Stored studies stay current: this number was taken before there were generation tasks."""
    train = (Example("x y", None, 0), Example("z", None, 1))
    task = Task("a", train, (Example("u", None, 1),), ("no", "yes"), ("bad", "good"))
    assert task.fingerprint == "7e9722050830a2768379d2b6fdc420f3"


def test_importing_tasks_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'pandas', 'sklearn'}"
    code = f"import sys, transferscope.tasks; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


REAL = {  # classes, train, dev, label names where the data set has them
    "amazon_uci": (2, 732, 183, None),
    "cola": (2, 4000, 821, ["unacceptable", "acceptable"]),
    "ethics_commonsense": (2, 2109, 1000, None),
    "ethics_justice": (2, 4000, 1000, None),
    "imdb": (2, 4000, 1000, None),
    "mpqa": (2, 3857, 970, None),
    "mr": (2, 4000, 1000, None),
    "mrpc": (2, 3318, 1000, ["not_paraphrase", "paraphrase"]),
    "qnli": (2, 4000, 1000, None),
    "rte": (2, 2487, 277, ["entailment", "not_entailment"]),
    "sst2": (2, 4000, 872, ["negative", "positive"]),
    "subj": (2, 4000, 1000, None),
    "trec": (6, 3414, 500, ["description", "entity", "abbreviation", "human", "location", "numeric"]),
    "tweet_emotion": (4, 2827, 901, None),
    "tweet_hate": (2, 4000, 927, None),
    "tweet_sentiment": (3, 3999, 978, ["negative", "neutral", "positive"]),
}


@pytest.mark.parametrize("name", REAL)
def test_real_tasks(shared: Callable[..., Path], name: str) -> None:
    classes, train, dev, labels = REAL[name]
    folder = shared("realworld", "tasks", name)
    text = ["text_a", "text_b"] if name in {"mrpc", "qnli", "rte"} else "text"
    spec = {"train": "train.jsonl", "dev": "dev.jsonl", "text": text, "labels": labels}
    task = load_task(name, spec, folder=folder)
    assert (task.classes, len(task.train), len(task.dev)) == (classes, train, dev)
    assert task.labels == tuple(labels or map(str, range(classes)))
    assert task.is_pair == isinstance(text, list)
    assert 1 / classes <= task.majority < 0.65
    last = json.loads((folder / "dev.jsonl").read_text(encoding="utf-8").strip().split("\n")[-1])
    assert task.dev[-1] == Example(last.get("text", last.get("text_a")), last.get("text_b"), last["label"])
    assert len(load_task(name, spec | {"max_train": 100, "max_dev": 50}, folder=folder).train) == 100
