"""Scores of a head's probabilities: what public copies have wrong, columns, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import indicators
from indicators import InvalidInput

Shared = Callable[..., Path]


def value(name: str, *given: Any, **options: Any) -> float:
    return indicators.get(name).function(*given, **options)


@pytest.fixture(scope="module")
def golden(shared: Shared) -> dict[str, Any]:
    return json.loads(shared("golden", "indicators", "golden.json").read_text())


@pytest.fixture(scope="module")
def data(shared: Shared) -> dict[str, np.ndarray]:
    with np.load(shared("golden", "indicators", "fixture.npz")) as arrays:
        return {name: arrays[name] for name in ("X", "y", "yr", "P")}


def test_leep_without_the_logarithm_is_another_order() -> None:
    """Copies with the mean of p(y | x) itself prefer a source that is sure, and sometimes quite wrong."""
    labels = np.array([0] * 50 + [1] * 50)
    says = np.array([0] * 45 + [1] * 55)
    sure, fair = np.eye(2)[says], np.where(np.eye(2)[labels] > 0, 0.947, 0.053)

    def mean_probability(theta: np.ndarray) -> float:
        joint = np.eye(2)[labels].T @ theta
        return float((theta @ (joint / joint.sum(axis=0)).T)[np.arange(100), labels].mean())

    assert mean_probability(sure) > mean_probability(fair)
    assert value("leep", sure, labels) < value("leep", fair, labels)


def test_leep_leaves_dead_columns_out() -> None:
    rng = np.random.default_rng(64)
    theta, labels = rng.dirichlet(np.ones(3), 20), rng.integers(0, 2, 20)
    wide = np.hstack([theta, np.zeros((20, 2))])
    assert value("leep", wide, labels) == pytest.approx(value("leep", theta, labels), abs=1e-12)
    assert value("nce", wide, labels) == value("nce", theta, labels)


def test_nce_adds_nothing_to_the_counts(golden: dict[str, Any], data: dict[str, np.ndarray]) -> None:
    assert abs(value("nce", data["P"], data["y"]) - golden["nce (parc, eps 1e-5)"]) > 1e-4
    assert value("nce", np.eye(2)[[0, 0, 1, 1]], [7, 7, 3, 3]) == 0.0


def test_probabilities_are_checked() -> None:
    good = np.array([[0.5, 0.5], [0.2, 0.8]])
    assert value("leep", good.astype(np.float16), [0, 1]) < 0  # coarse sums are made exact
    with pytest.raises(InvalidInput, match=r"probabilities holds -0\.1 at \[1, 0\]: none may be negative"):
        value("leep", [[0.5, 0.5], [-0.1, 1.1]], [0, 1])
    with pytest.raises(InvalidInput, match=r"probabilities sums to 0\.7 in row 1"):
        value("nce", [[0.5, 0.5], [0.5, 0.2]], [0, 1])


def test_energy_of_a_candidate_does_not_depend_on_the_others() -> None:
    """Scaled to 0..1 over the pool, as in the public code, a value changes with who else is ranked."""
    logits = [np.random.default_rng([65, i]).normal(i, 1, size=(30, 4)) for i in range(4)]
    values = np.array([value("etran_energy", one) for one in logits])

    def pooled(pool: np.ndarray) -> np.ndarray:
        return np.asarray((pool - pool.min()) / np.ptp(pool))

    assert abs(pooled(values)[1] - pooled(values[:3])[1]) > 0.1
    assert values[1] == value("etran_energy", logits[1])
    assert value("etran_energy", [[1000.0, 1000.0]]) == pytest.approx(1000 + math.log(2))


def test_zero_shot_reads_columns() -> None:
    theta = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    assert value("zero_shot_accuracy", theta, [0, 1, 0]) == pytest.approx(2 / 3)
    assert value("zero_shot_loss", theta, [0, 1, 0]) == pytest.approx(-np.log([0.7, 0.8, 0.3]).mean())
    # A class that is missing does not shift the others.
    assert value("zero_shot_accuracy", theta, [0, 0, 2]) == pytest.approx(2 / 3)
    assert value("zero_shot_accuracy", theta, [5, 9, 5], classes=[5, 9, 2]) == pytest.approx(2 / 3)
    with pytest.raises(InvalidInput, match=r"labels holds 5, which is no column.*\[0, 1, 2\].*classes="):
        value("zero_shot_loss", theta, [0, 5, 0])
    with pytest.raises(InvalidInput, match=r"classes=\[0, 0, 1\]: 3 different ids"):
        value("zero_shot_loss", theta, [0, 1, 0], classes=[0, 0, 1])
    assert value("zero_shot_loss", [[1.0, 0.0]], [1]) == math.inf
    assert value("zero_shot_accuracy", [[0.4, 0.4, 0.2]], [1]) == 0.5
