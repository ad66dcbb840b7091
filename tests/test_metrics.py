"""Metrics as sums of statistics: equal to scikit-learn's on all examples and on every resample of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from transferscope import task_spec
from transferscope.errors import InputError
from transferscope.metrics import METRICS, Kind, metric, names
from transferscope.text_metrics import normalised

REFERENCES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy_score,
    "macro_f1": lambda gold, found: f1_score(gold, found, average="macro", zero_division=0),
    "matthews": matthews_corrcoef,
}
CLASSIFICATION = [name for name, known in METRICS.items() if known.kind == "classification"]


@pytest.mark.parametrize("name", CLASSIFICATION)
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_it_is_scikit_learns_on_all_examples_and_on_resamples(name: str, classes: int) -> None:
    rng = np.random.default_rng(classes)
    gold, found = rng.integers(classes, size=(2, 60))
    known = metric(name)
    statistics = known.statistics(gold, found, classes)
    assert known.of(gold, found) == pytest.approx(REFERENCES[name](gold, found), abs=1e-12)
    picks = rng.integers(60, size=(20, 60))
    counts = np.stack([np.bincount(pick, minlength=60) for pick in picks])  # [B, S]
    values = known.value(counts @ statistics)
    expected = [REFERENCES[name](gold[pick], found[pick]) for pick in picks]
    np.testing.assert_allclose(values, expected, atol=1e-12)


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_sums_of_parts_are_the_sum_of_the_whole(name: str) -> None:
    rng = np.random.default_rng(0)
    gold, found = rng.integers(4, size=(2, 50))
    known = metric(name)
    parts = sum(known.statistics(gold[i : i + 7], found[i : i + 7], 4).sum(axis=0) for i in range(0, 50, 7))
    assert known.value(np.asarray(parts)) == pytest.approx(known.of(gold, found), abs=1e-12)


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_no_example_is_no_value(name: str) -> None:
    sums = metric(name).statistics([0, 1], [1, 1], 2).sum(axis=0) * 0
    assert np.isnan(metric(name).value(sums))


WORDS = ["red", "blue", "cat", "dog", "old", "new", "sat", "ran", "the"]


def written(count: int, seed: int) -> tuple[list[list[str]], list[str]]:
    """References (one to three a text) and texts, some of them right."""
    rng = np.random.default_rng(seed)
    gold = [
        [" ".join(rng.choice(WORDS, size=rng.integers(1, 9))) for _ in range(rng.integers(1, 4))]
        for _ in range(count)
    ]
    wrong = [" ".join(rng.choice(WORDS, size=rng.integers(1, 9))) for _ in range(count)]
    return gold, [rng.choice(g) if rng.random() < 0.5 else w for g, w in zip(gold, wrong, strict=True)]


def slow_f1(text: str, reference: str) -> float:
    left, found = normalised(reference).split(), normalised(text).split()
    if not left or not found:
        return float(left == found)
    both, total = 0, len(left) + len(found)
    for word in found:
        if word in left:
            left.remove(word)
            both += 1
    return 2 * both / total


def corpus_bleu(gold: Sequence[Sequence[str]], texts: Sequence[str]) -> float:
    streams = [[one[i] if i < len(one) else None for one in gold] for i in range(3)]
    return sacrebleu.corpus_bleu(texts, streams).score / 100


ROUGE = RougeScorer(["rougeL"])
WRITTEN: dict[str, Callable[[Sequence[Sequence[str]], Sequence[str]], float]] = {
    "exact_match": lambda gold, texts: np.mean(
        [any(normalised(t) == normalised(g) for g in one) for one, t in zip(gold, texts, strict=True)]
    ),
    "token_f1": lambda gold, texts: np.mean(
        [max(slow_f1(t, g) for g in one) for one, t in zip(gold, texts, strict=True)]
    ),
    "rouge_l": lambda gold, texts: np.mean(
        [max(ROUGE.score(g, t)["rougeL"].fmeasure for g in one) for one, t in zip(gold, texts, strict=True)]
    ),
    "bleu": corpus_bleu,
}


@pytest.mark.parametrize("name", names("generation"))
def test_a_metric_of_texts_is_its_definition_on_all_on_subsets_and_on_resamples(name: str) -> None:
    gold, texts = written(40, seed=1)
    known, rng = metric(name), np.random.default_rng(0)
    statistics = known.statistics(gold, texts)
    expected = WRITTEN[name](gold, texts)
    assert 0.05 < expected < 0.95
    assert known.of(gold, texts) == pytest.approx(expected, abs=1e-12)
    subsets = [rng.permutation(40)[:size] for size in (3, 10, 25)]
    picks = [*subsets, *rng.integers(40, size=(5, 40))]
    counts = np.stack([np.bincount(pick, minlength=40) for pick in picks])  # [B, S]
    slow = [WRITTEN[name]([gold[i] for i in pick], [texts[i] for i in pick]) for pick in picks]
    np.testing.assert_allclose(known.value(counts @ statistics), slow, atol=1e-12)


@pytest.mark.parametrize("name", names("generation"))
def test_no_text_is_no_value_and_shapes_are_kept(name: str) -> None:
    sums = metric(name).statistics([["cat"]], ["cat"]).sum(axis=0)
    values = metric(name).value(np.stack([sums, sums * 0]).reshape(1, 2, -1))
    assert values.shape == (1, 2)
    assert np.isnan(values[0, 1])
    assert np.isfinite(values[0, 0])


def test_the_metrics_of_a_task_file_are_these() -> None:
    kinds: list[Kind] = ["classification", "generation"]
    assert {kind: list(names) for kind, names in task_spec.METRICS.items()} == {k: names(k) for k in kinds}


def test_one_class_alone_correlates_with_nothing() -> None:
    assert metric("matthews").of([1, 1, 1], [1, 1, 1]) == 0.0


def test_an_unknown_metric_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="accuracy"):
        metric("acuracy")
