"""The adaptive order: against the Gaussian formulas written out, kernels of all kinds, and errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from transferscope.adaptive import Process, kernel, order, posterior
from transferscope.comparison import IndicatorMatrix
from transferscope.errors import InputError

RNG = np.random.default_rng(3)
TASKS = tuple("abcde")


def similar(seed: int = 0, n: int = 5) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, 4)) + 0.8
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


def matrix(values: np.ndarray) -> IndicatorMatrix:
    return IndicatorMatrix("on", TASKS[: len(values)], values)


def test_the_posterior_is_that_of_a_joint_normal() -> None:
    """By the density itself: p(x, y) / p(y) is a normal with the mean and sd that are given."""
    process, correlations, seen, y = Process(), similar(), [0, 2], [1.0, 0.7]
    mean, sd = posterior(correlations, seen, y, [3], process)
    joint = np.array(
        [
            [
                process.sd**2 * (process.share * correlations[i, j] + (1 - process.share) * (i == j))
                + (process.noise**2 if i == j and i in seen else 0.0)
                for j in (3, *seen)
            ]
            for i in (3, *seen)
        ]
    )
    prior = np.full(3, process.mean)
    given = multivariate_normal(prior[1:], joint[1:, 1:]).pdf(y)
    for x in (0.2, 0.6, 0.9):
        density = multivariate_normal(prior, joint).pdf([x, *y]) / given
        expected = math.exp(-(((x - mean[0]) / sd[0]) ** 2) / 2) / (sd[0] * math.sqrt(2 * math.pi))
        assert density == pytest.approx(expected, rel=1e-9)


def test_the_first_choice_is_the_indicators_own() -> None:
    for seed in range(20):
        correlations = similar(seed)
        first = order(correlations, 0, [1, 2, 3, 4], lambda s: 0.5, budget=1)
        assert first == [1 + int(np.argmax(correlations[0, 1:]))]


def test_what_was_measured_moves_the_choice() -> None:
    """1 and 2 are alike, 3 is not: after a bad 1 the next is 3, after a good one it is 2."""
    correlations = np.eye(4)
    for i, j, value in [(0, 1, 0.6), (0, 2, 0.55), (1, 2, 0.9), (0, 3, 0.4)]:
        correlations[i, j] = correlations[j, i] = value
    for reached, second in [(0.2, 3), (0.95, 2)]:
        assert order(correlations, 0, [1, 2, 3], lambda s, y=reached: y)[:2] == [1, second]  # type: ignore[misc]


def test_all_sources_once_and_no_more_than_the_budget() -> None:
    asked: list[int] = []
    found = order(similar(1), 2, [0, 1, 3, 4], lambda s: asked.append(s) or 0.5)  # type: ignore[func-returns-value]
    assert sorted(found) == [0, 1, 3, 4]
    assert asked == found
    assert len(order(similar(1), 2, [0, 1, 3, 4], lambda s: 0.5, budget=2)) == 2
    with pytest.raises(InputError, match="at least one"):
        order(similar(1), 2, [0, 1], lambda s: 0.5, budget=0)


def test_kernels_are_correlations() -> None:
    similarity, distance = RNG.uniform(-0.4, 1, (5, 5)), -RNG.gamma(2, 3, (5, 5))
    for values in (similar(), similarity, distance):
        found = kernel(matrix(values))
        assert np.allclose(found, found.T)
        assert np.allclose(np.diag(found), 1)
        assert np.linalg.eigvalsh(found)[0] > -1e-9
    assert np.allclose(kernel(matrix(similar())), similar())
    far = -np.array([[0.0, 1, 4], [1, 0, 4], [4, 4, 0]])
    assert kernel(matrix(far))[0, 1] == pytest.approx(math.exp(-1 / 4))


def test_what_is_no_kernel_is_refused() -> None:
    holes = similar()
    holes[0, 1] = np.nan
    with pytest.raises(InputError, match="no value"):
        kernel(matrix(holes))
    with pytest.raises(InputError, match="similarity in"):
        kernel(matrix(RNG.normal(0, 30, (5, 5))))
