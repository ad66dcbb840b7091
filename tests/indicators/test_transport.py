"""Optimal transport of labelled data sets: closed forms, labels, POT's own distances, scale, errors."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest

import indicators
from indicators import InvalidInput
from indicators.distributions import frechet, gaussian_distance
from indicators.transport import otdd, otdd_gaussian
from tests import reference_distances as loops

both = pytest.mark.parametrize("function", [otdd, otdd_gaussian])


def data(seed: int, rows: int = 12, classes: int = 3, width: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(rows) % classes)
    return rng.normal(size=(rows, width)) + 2.0 * rng.normal(size=(classes, width))[labels], labels


@both
def test_a_data_set_moved_by_a_vector(function: Any) -> None:
    """Features and classes are all moved by v, and no plan moves the means by less: sqrt((1 + 1) |v|^2)."""
    (x, labels), v = data(1), np.array([3.0, -1.0, 0.5, 2.0])
    expected = math.sqrt(2) * float(np.linalg.norm(v))
    assert function(x, x + v, labels, labels) == pytest.approx(expected, rel=1e-12)
    half = function(x, x + v, labels, labels, feature_weight=0.5)
    assert half == pytest.approx(math.sqrt(1.5) * float(np.linalg.norm(v)), rel=1e-12)


@both
def test_identity_even_where_rows_are_few_equal_or_in_another_order(function: Any) -> None:
    (x, labels), order = data(1, rows=20, width=30), np.random.default_rng(0).permutation(20)
    assert function(x, x, labels, labels) == pytest.approx(0.0, abs=1e-13)
    assert function(x, x[order], labels, labels[order]) == pytest.approx(0.0, abs=1e-12)
    ones = np.ones((4, 3))
    assert function(ones, ones, [0, 0, 1, 1], [5, 6, 6, 6]) == 0.0


@both
def test_what_classes_are_called_does_not_matter_but_which_rows_they_hold(function: Any) -> None:
    (x, left), (y, right) = data(1), data(2, rows=9, classes=2)
    plain = function(x, y, left, right)
    assert function(x, y, 7 * left - 100, 5 - right) == pytest.approx(plain, abs=1e-13)
    assert abs(function(x, y, np.roll(left, 1), right) - plain) > 1e-3
    assert function(x, x, left, np.roll(left, 1)) > 0.1


@both
def test_one_class_each_is_a_distance_of_samples_and_of_classes(function: Any) -> None:
    (x, _), (y, _) = data(1), data(2, rows=8)
    of_rows = loops.transported(loops.squared, x.tolist(), y.tolist())
    of_classes = of_rows if function is otdd else frechet(x, y) ** 2
    value = function(x, y, np.zeros(12, int), np.zeros(8, int))
    assert value == pytest.approx(math.sqrt(of_rows + of_classes), rel=1e-12)


@both
def test_every_row_a_class(function: Any) -> None:
    """Classes are points: both terms are the distance of the rows."""
    (x, _), (y, _) = data(1), data(2)
    of_rows = loops.transported(loops.squared, x.tolist(), y.tolist())
    value = function(x, y, np.arange(12), np.arange(12))
    assert value == pytest.approx(math.sqrt(2 * of_rows), rel=1e-12)


def test_the_gaussian_form_is_never_above_the_exact_one() -> None:
    for seed in range(10):
        (x, left), (y, right) = data(seed), data(seed + 20, rows=10, classes=2)
        assert otdd_gaussian(x, y, left, right) <= otdd(x, y, left, right) + 1e-12


def test_gaussian_distance_is_that_of_the_solver_library() -> None:
    import ot

    (x, _), (y, _) = data(1, rows=40), data(2, rows=30)
    theirs = ot.gaussian.bures_wasserstein_distance(
        x.mean(axis=0), y.mean(axis=0), np.cov(x.T, bias=True), np.cov(y.T, bias=True)
    )
    assert gaussian_distance(x, y) == pytest.approx(float(theirs), rel=1e-9)


@both
@pytest.mark.parametrize("factor", [1e-200, 1e200])
def test_tiny_and_huge_data(function: Any, factor: float) -> None:
    (x, left), (y, right) = data(1), data(2, rows=9)
    value = function(factor * x, factor * y, left, right)
    assert value == pytest.approx(factor * function(x, y, left, right), rel=1e-12)


@both
def test_constant_duplicated_and_collinear_features(function: Any) -> None:
    (x, left), (y, right) = data(1), data(2, rows=9)
    plain = function(x, y, left, right)
    constant = np.hstack([x, np.full((12, 1), 7.0)]), np.hstack([y, np.full((9, 1), 7.0)])
    assert function(*constant, left, right) == pytest.approx(plain, abs=1e-12)
    doubled = np.hstack([x, x]), np.hstack([y, y])
    assert function(*doubled, left, right) == pytest.approx(math.sqrt(2) * plain, rel=1e-12)


@both
def test_some_hundred_rows_are_solved_exactly(function: Any) -> None:
    (x, labels), v = data(1, rows=300, classes=10, width=20), np.full(20, 0.5)
    assert function(x, x + v, labels, labels) == pytest.approx(math.sqrt(10), rel=1e-9)


@both
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            np.zeros(11, int),
            r"target labels is \[11\] and target inputs is \[12, 4\]: one label for each row",
        ),
        (np.zeros(12), "target labels holds float64: integers are needed"),
        (np.array(["a"] * 12), "target labels holds <U1"),
        (np.zeros((12, 1), int), r"target labels is \[12, 1\]"),
        ([], "target labels"),
    ],
)
def test_labels_that_do_not_fit(function: Any, labels: Any, message: str) -> None:
    x, right = data(1)
    with pytest.raises(InvalidInput, match=message):
        function(x, x, right, labels)


@both
@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
def test_weights_that_make_no_sense(function: Any, weight: float) -> None:
    x, labels = data(1)
    with pytest.raises(InvalidInput, match=f"feature_weight={weight}"):
        function(x, x, labels, labels, feature_weight=weight)


@pytest.mark.parametrize("name", ["otdd", "otdd_gaussian"])
def test_without_the_library_the_error_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    x, labels = data(1)
    with pytest.raises(
        InvalidInput, match=rf"{name} needs the library POT: pip install 'transferscope\[ot\]'"
    ):
        indicators.get(name).function(x, x, labels, labels)


def test_what_the_solver_gave_up_on_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    import ot

    def give_up(*arguments: Any, **options: Any) -> tuple[float, dict[str, str]]:
        return 1.0, {"warning": "numItermax reached before optimality"}

    monkeypatch.setattr(ot, "emd2", give_up)
    x, labels = data(1)
    with pytest.raises(InvalidInput, match=r"otdd_gaussian on \[12, 12\] rows was not solved: numItermax"):
        otdd_gaussian(x, x, labels, labels)
