"""Metrics as sums of statistics: equal to scikit-learn's on all examples and on every resample of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from transferscope.errors import InputError
from transferscope.metrics import METRICS, metric

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


def test_one_class_alone_correlates_with_nothing() -> None:
    assert metric("matthews").of([1, 1, 1], [1, 1, 1]) == 0.0


def test_an_unknown_metric_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="accuracy"):
        metric("acuracy")
