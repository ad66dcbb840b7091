"""LogME: values of public implementations, and the cases where the popular one is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from indicators import InvalidInput
from indicators.label_evidence import logme

Shared = Callable[..., Path]


def popular_logme(features: np.ndarray, labels: np.ndarray, *, full: bool, steps: int = 11) -> float:
    """The fixed-point iteration in wide use; with `full` its evidence has ln(alpha) of all D dimensions."""
    rows, width = features.shape
    left, values, _ = np.linalg.svd(features, full_matrices=False)
    squares = values**2
    evidences = []
    for k in np.unique(labels):
        y = (labels == k).astype(float)
        inside = (left.T @ y) ** 2
        outside = y @ y - inside.sum()
        alpha = beta = 1.0
        for _ in range(steps):
            ratio = alpha / beta
            gamma = (squares / (squares + ratio)).sum()
            norm = (squares * inside / (ratio + squares) ** 2).sum()
            residual = (inside / (1 + squares / ratio) ** 2).sum() + outside
            alpha, beta = gamma / (norm + 1e-5), (rows - gamma) / (residual + 1e-5)
            if abs(alpha / beta - ratio) / ratio <= 1e-3:
                break
        logs = width * math.log(alpha) + rows * math.log(beta) - np.log(alpha + beta * squares).sum()
        logs -= (width - len(squares)) * math.log(alpha) if full else 0.0
        evidences.append((logs - beta * residual - alpha * norm - rows * math.log(2 * math.pi)) / 2 / rows)
    return float(np.mean(evidences))


@pytest.fixture(scope="module")
def golden(shared: Shared) -> dict[str, Any]:
    return json.loads(shared("golden", "indicators", "golden.json").read_text())


@pytest.fixture(scope="module")
def data(shared: Shared) -> dict[str, np.ndarray]:
    with np.load(shared("golden", "indicators", "fixture.npz")) as arrays:
        return {name: arrays[name] for name in ("X", "y", "yr", "P")}


def task(seed: int, count: int = 100, width: int = 8, number: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Features [count, width] that say something of `number` balanced classes."""
    rng = np.random.default_rng([60, seed])
    labels = np.arange(count) % number
    return rng.normal(size=(number, width))[labels] + rng.normal(size=(count, width)), labels


def test_logme_of_public_implementations(golden: dict[str, Any], data: dict[str, np.ndarray]) -> None:
    X, y = data["X"], data["y"]
    for key in (
        "logme_cls (tllib, exact)",
        "logme_cls (thuml/LogME LogME.py fixed point)",
        "logme_cls_icml (thuml _fit_icml)",
    ):
        assert logme(X, y) == pytest.approx(golden[key], abs=1e-4)
    assert logme(X, data["yr"]) == pytest.approx(golden["logme_reg (thuml, yr)"], abs=1e-4)


def test_logme_with_fewer_examples_than_dimensions(
    golden: dict[str, Any], data: dict[str, np.ndarray]
) -> None:
    """The popular version adds (D - S)/2 ln(alpha); the corrected one stops below the maximum."""
    X, y = data["X"][:10], data["y"][:10]
    wrong = popular_logme(X, y, full=False)
    stopped = popular_logme(X, y, full=True)
    assert wrong == pytest.approx(golden["logme_wide N<D (X[:10])"], abs=1e-4)
    assert stopped == pytest.approx(golden["logme_wide exact (tllib, X[:10])"], abs=1e-4)
    best = logme(X, y)
    assert stopped < best < stopped + 0.02
    assert popular_logme(X, y, full=True, steps=100_000) < best
    assert wrong - best > 1.0


def test_logme_finds_the_signal_where_the_popular_version_does_not() -> None:
    """12 candidates with more and more signal and a random scale, S = 100, D = 768."""
    popular = []
    for seed in range(3):
        rng = np.random.default_rng([61, seed])
        labels = np.arange(100) % 4
        ours, theirs = [], []
        for signal in range(1, 13):
            features = 0.02 * signal * rng.normal(size=(4, 768))[labels] + rng.normal(size=(100, 768))
            features = features * 10 ** rng.uniform(-1, 1)
            ours.append(logme(features, labels))
            theirs.append(popular_logme(features, labels, full=False))
        assert stats.spearmanr(ours, range(12)).statistic >= 0.9
        popular.append(stats.spearmanr(theirs, range(12)).statistic)
    assert max(popular) < 0.8
    assert np.mean(popular) < 0.5


@pytest.mark.parametrize(("count", "width"), [(100, 8), (30, 60)])
def test_logme_does_not_depend_on_the_scale(count: int, width: int) -> None:
    features, labels = task(0, count, width)
    plain = logme(features, labels)
    shifts = []
    for factor in (1e-3, 1e3):
        assert logme(factor * features, labels) == pytest.approx(plain, abs=1e-12)
        shifts.append(abs(popular_logme(factor * features, labels, full=True) - plain))
    assert max(shifts) > 1e-2


def test_logme_of_class_ids_with_a_gap() -> None:
    """Without re-indexing the ids 0 and 2 make three columns, one of them all 0."""
    features, labels = task(1, number=2)
    assert logme(features, 2 * labels) == logme(features, labels)


def test_logme_of_regression_targets() -> None:
    rng = np.random.default_rng(62)
    features = rng.normal(size=(60, 5))
    good = features @ rng.normal(size=5) + 0.1 * rng.normal(size=60)
    bad = rng.permutation(good)
    assert logme(features, good) > logme(features, bad) + 1
    both = logme(features, np.stack([good, bad], axis=1))
    assert both == pytest.approx((logme(features, good) + logme(features, bad)) / 2)
    # Whole numbers are classes unless it is said that they are targets.
    counts = rng.integers(0, 4, 60)
    as_targets = logme(features, counts, regression=True)
    assert as_targets == pytest.approx(logme(features, counts[:, None].astype(float)))
    assert as_targets != pytest.approx(logme(features, counts), abs=1e-3)
    with pytest.raises(InvalidInput, match="class ids are whole numbers"):
        logme(features, good, regression=False)
    with pytest.raises(InvalidInput, match="column 1 of the regression targets is all 0"):
        logme(features, np.stack([good, 0 * good], axis=1))
    with pytest.raises(InvalidInput, match=r"labels is \[59, 2\] and features has 60 rows"):
        logme(features, np.ones((59, 2)))


def test_logme_of_a_gaussian_is_its_best_log_density() -> None:
    """An independent maximum: the density of y ~ N(0, X X'/alpha + I/beta), searched by a simplex."""
    from scipy.optimize import minimize

    for seed, (count, width) in enumerate([(40, 5), (12, 30)]):
        rng = np.random.default_rng([63, seed])
        features = rng.normal(size=(count, width))
        y = features @ rng.normal(size=width) + rng.normal(size=count)

        def negative(logs: np.ndarray, X: np.ndarray = features, y: np.ndarray = y) -> float:
            covariance = X @ X.T * math.exp(-logs[0]) + math.exp(-logs[1]) * np.eye(len(X))
            return -float(stats.multivariate_normal(np.zeros(len(X)), covariance).logpdf(y)) / len(X)

        found = minimize(negative, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12})
        assert logme(features, y) == pytest.approx(-found.fun, abs=1e-8)


def test_logme_of_labels_without_noise_is_large_and_the_same_at_any_scale() -> None:
    labels = np.arange(40) % 2
    features = np.eye(2)[labels] @ np.array([[1.0, 2.0, 0.5], [-1.0, 0.3, 2.0]])
    plain = logme(features, labels)
    assert 5 < plain < 30
    for factor in (1e-3, 3.0, 1e3):
        assert logme(factor * features, labels) == pytest.approx(plain, abs=1e-6)
