"""Metrics of one target: against SciPy, against all tie orders one by one, and by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import kendalltau, pearsonr, spearmanr, weightedtau

from transferscope import agreement
from transferscope.errors import InputError

SCIPY = {"spearman": spearmanr, "kendall": kendalltau, "weighted_tau": weightedtau, "pearson": pearsonr}
Y = np.array([0.9, 0.5, 0.7, 0.1])


def value(name: str, x: list[float], y: np.ndarray = Y) -> float:
    return float(agreement.evaluate(np.array([x], dtype=float), y[None], [name])[name][0, 0])


@pytest.mark.parametrize("name", SCIPY)
@pytest.mark.parametrize("levels", [2, 4, 100])
def test_correlations_equal_scipy(name: str, levels: int) -> None:
    rng = np.random.default_rng(levels)
    x, y = (rng.integers(0, levels, size=(n, 7)).astype(float) for n in (12, 9))
    x, y = x[np.ptp(x, axis=1) > 0], y[np.ptp(y, axis=1) > 0]
    found = agreement.evaluate(x, y, [name])[name]
    expected = [[SCIPY[name](one, other)[0] for other in y] for one in x]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def slow_regret(k: int) -> Callable[[list[float]], float]:
    return lambda y: max(y) - max(y[:k])


def slow_ndcg(y: list[float]) -> float:
    gains = [(v - min(y)) / (max(y) - min(y)) for v in y]

    def dcg(values: list[float]) -> float:
        return sum(gain / math.log2(place + 1) for place, gain in enumerate(values, start=1))

    return dcg(gains) / dcg(sorted(gains, reverse=True))


# What a metric is for measured values in the order of the predictions, without ties among these.
SLOW: dict[str, Callable[[list[float]], float]] = {
    "regret@1": slow_regret(1),
    "regret@3": slow_regret(3),
    "regret@5": slow_regret(5),
    "relative_regret": lambda y: (max(y) - y[0]) / max(y),
    "ndcg": slow_ndcg,
    "mrr": lambda y: 1 / (1 + y.index(max(y))),
    "top_1": lambda y: float(y[0] == max(y)),
    "relative_top_1": lambda y: y[0] / max(y),
}


def test_every_metric_is_checked_here() -> None:
    assert {*SCIPY, *SLOW} == set(agreement.METRICS)


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("levels", [2, 3, 50])
def test_ties_are_averaged_over_all_their_orders(name: str, levels: int) -> None:
    rng = np.random.default_rng(levels)
    x = rng.integers(0, levels, size=(4, 6)).astype(float)
    y = np.concatenate([rng.uniform(0.1, 1, (2, 6)), rng.integers(1, 4, size=(2, 6)) / 4])
    found = agreement.evaluate(x, y, [name])[name]
    for i, j in itertools.product(range(4), range(4)):
        orders = [o for o in itertools.permutations(range(6)) if all(np.diff(x[i][list(o)]) <= 0)]
        expected = np.mean([SLOW[name]([float(v) for v in y[j][list(order)]]) for order in orders])
        assert found[i, j] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", SLOW)
def test_chance_is_the_mean_over_all_orders(name: str) -> None:
    orders = [SLOW[name]([float(v) for v in order]) for order in itertools.permutations(Y)]
    assert agreement.chance(Y[None], [name])[name][0] == pytest.approx(np.mean(orders), abs=1e-12)


@pytest.mark.parametrize("name", SCIPY)
def test_chance_of_a_correlation_is_zero(name: str) -> None:
    x = np.array([[float(v) for v in order] for order in itertools.permutations(range(4))])
    assert np.mean(agreement.evaluate(x, Y[None], [name])[name]) == pytest.approx(0, abs=1e-12)
    assert agreement.chance(Y[None], [name])[name][0] == 0


@pytest.mark.parametrize("name", agreement.METRICS)
def test_the_right_order_is_best_and_monotone_changes_of_scale_are_harmless(name: str) -> None:
    metric = agreement.METRICS[name]
    ideal = 1.0 if metric.higher_is_better else 0.0
    assert value(name, [float(v) for v in Y]) == pytest.approx(ideal)
    worst = value(name, [float(-v) for v in Y])
    assert worst < ideal if metric.higher_is_better else worst > ideal or name == "regret@5"
    assert value(name, [float(3 * v + 7) for v in Y]) == pytest.approx(ideal)


@pytest.mark.parametrize("name", SCIPY)
def test_a_constant_side_has_no_correlation(name: str) -> None:
    assert np.isnan(value(name, [0.1] * 4))  # a mean of .1 leaves rounding errors
    assert np.isnan(value(name, [1, 2, 3, 4], np.full(4, 0.1)))
    assert np.isnan(agreement.chance(np.full((1, 4), 0.1), [name])[name][0])


def test_what_is_not_defined_is_nan() -> None:
    for name in ("ndcg", "mrr", "top_1"):
        assert np.isnan(value(name, [1, 2, 3, 4], np.full(4, 0.3)))
    assert np.isnan(value("relative_regret", [1, 2], np.array([0.0, -0.5])))
    assert value("regret@1", [1, 2, 3, 4], np.full(4, 0.3)) == 0
    for name, found in agreement.evaluate(np.ones((1, 1)), np.ones((2, 1))).items():
        assert np.isnan(found).all(), name
        assert found.shape == (1, 2)


def test_by_hand() -> None:
    assert value("regret@1", [1, 9, 2, 0]) == pytest.approx(0.4)
    assert value("regret@1", [1, 9, 9, 0]) == pytest.approx(0.9 - 0.6)
    assert value("regret@3", [1, 9, 9, 2]) == pytest.approx(0.9 - 0.7)
    assert value("mrr", [1, 9, 9, 2]) == pytest.approx(1 / 4)
    # first .5 (gain .5), then .7 (.75), .9 (1), .1 (0); best order: 1, .75, .5, 0
    dcg = 0.5 + 0.75 / math.log2(3) + 1 / 2
    assert value("ndcg", [2, 9, 3, 1]) == pytest.approx(dcg / (1 + 0.75 / math.log2(3) + 0.5 / 2))


def test_an_unknown_metric() -> None:
    with pytest.raises(InputError, match=r"unknown metric 'spearmann'. Did you mean 'spearman'\?"):
        agreement.evaluate(np.ones((1, 2)), np.ones((1, 2)), ["spearmann"])
