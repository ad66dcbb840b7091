"""Budget curves: by hand, the random order's expectation, where they end, and errors."""

from __future__ import annotations

import csv
import io
import json
from itertools import combinations

import numpy as np
import pytest

from transferscope import adaptive
from transferscope.budget import BudgetReport, budget_curves
from transferscope.comparison import IndicatorMatrix
from transferscope.correlation import correlate
from transferscope.errors import InputError
from transferscope.exporters import export
from transferscope.transfer import TransferMatrix

TASKS = tuple("abcdef")
RNG = np.random.default_rng(0)
PER_SEED = RNG.uniform(0.3, 1, (3, 6, 6))
TRANSFER = TransferMatrix("zero-shot", TASKS, TASKS, PER_SEED.mean(axis=0), PER_SEED)
MATRIX = IndicatorMatrix("on", TASKS, RNG.random((6, 6)))


@pytest.fixture(scope="module")
def report() -> BudgetReport:
    return budget_curves([MATRIX], TRANSFER)


def test_a_curve_is_the_regret_of_the_best_of_the_first_k(report: BudgetReport) -> None:
    for point in report.curve("on"):
        lost = []
        for t in range(6):
            others = sorted((s for s in range(6) if s != t), key=lambda s: -MATRIX.values[s, t])
            y = TRANSFER.values[others, t]
            lost.append(y.max() - y[: point.k].max())
        assert point.mean == pytest.approx(np.mean(lost))
        assert point.n_targets == 6


def test_a_random_order_is_its_expectation(report: BudgetReport) -> None:
    for point in report.curve("random"):
        lost = []
        for t in range(6):
            y = [TRANSFER.values[s, t] for s in range(6) if s != t]
            lost.append(max(y) - np.mean([max(few) for few in combinations(y, point.k)]))
        assert point.mean == pytest.approx(np.mean(lost))


def test_curves_fall_to_zero_when_all_is_measured(report: BudgetReport) -> None:
    for name in report.names:
        curve = report.curve(name)
        assert [point.k for point in curve] == [1, 2, 3, 4, 5]
        means = [point.mean or 0.0 for point in curve]
        assert means == sorted(means, reverse=True)
        assert means[-1] == 0
        assert curve[0].low is not None
        assert curve[0].low <= means[0] <= curve[0].high  # type: ignore[operator]
    assert [point.k for point in budget_curves([MATRIX], TRANSFER, largest=2).curve("on")] == [1, 2]


def test_k_1_is_the_reports_regret(report: BudgetReport) -> None:
    score = correlate([MATRIX], TRANSFER, permutations=0).get("on", "regret@1")
    first = report.curve("on")[0]
    assert (first.mean, first.low, first.high) == (score.mean, score.low, score.high)


def test_seeds_and_few_targets_widen(report: BudgetReport) -> None:
    plain, wide = report.curve("on")[0], budget_curves([MATRIX], TRANSFER, expanded=True).curve("on")[0]
    assert wide.low < plain.low  # type: ignore[operator]
    assert budget_curves([MATRIX], TRANSFER, over_seeds=True).curve("on")[0].low != plain.low


def test_exports(report: BudgetReport) -> None:
    rows = list(csv.DictReader(io.StringIO(export(report, "csv"))))
    assert len(rows) == 5 * len(report.names)
    assert list(rows[0])[:5] == ["protocol", "own_prompt", "name", "kind", "k"]
    assert json.loads(export(report, "json"))["points"][0]["name"] == "on"
    assert "k = 5" in export(report, "table")
    assert "\\toprule" in export(report, "latex")
    assert "own prompt excluded" in export(report, "md")


def test_errors(report: BudgetReport) -> None:
    with pytest.raises(InputError, match="the largest budget is 0"):
        budget_curves([MATRIX], TRANSFER, largest=0)
    with pytest.raises(InputError, match="no budget curve of 'onn': there are on, random"):
        report.curve("onn")
    with pytest.raises(
        InputError, match="scope 'same-type' needs the type of every task; not known of: a, b"
    ):
        budget_curves([MATRIX], TRANSFER, scope="same-type")


def test_an_adaptive_curve_is_the_regret_of_its_own_order() -> None:
    rows = np.random.default_rng(5).normal(size=(6, 3)) + 1
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    alike = IndicatorMatrix("on", TASKS, rows @ rows.T)
    found = budget_curves([alike], TRANSFER, adaptive=["on"], over_seeds=True)
    lost: list[list[float]] = []
    for t in range(6):
        others = [s for s in range(6) if s != t]
        y = TRANSFER.values[:, t]
        path = adaptive.order(adaptive.kernel(alike), t, others, lambda s, y=y, t=t: y[s] / y[t])  # type: ignore[misc]
        lost.append([y[others].max() - y[path[:k]].max() for k in range(1, 6)])
    for point, means in zip(found.curve("gp(on)"), np.mean(lost, axis=0), strict=True):
        assert point.mean == pytest.approx(means)
        assert point.n_targets == 6
    assert found.curve("gp(on)")[0].mean == pytest.approx(found.curve("on")[0].mean)
    with pytest.raises(InputError, match="no indicator 'onn'"):
        budget_curves([alike], TRANSFER, adaptive=["onn"])
    with pytest.raises(InputError, match="own prompt"):
        budget_curves([alike], TRANSFER, adaptive=["on"], own_prompt="included")
