"""Ridge in closed form, against the normal equations and against leaving groups out for real."""

from __future__ import annotations

import numpy as np
import pytest

from transferscope.ridge import STRENGTHS, ridge

CASES = [
    (12, 5, 3, 4),
    (9, 20, 4, 3),
    (8, 30, 40, 8),
    (10, 9, 2, 2),
    (6, 4, 1, 6),
]  # n, inputs, outputs, groups


def data(n: int, inputs: int, outputs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, inputs))
    y = x @ rng.normal(size=(inputs, outputs)) + rng.normal(size=(n, outputs))
    return x - x.mean(axis=0), y - y.mean(axis=0)


def slow(x: np.ndarray, y: np.ndarray, alpha: float) -> np.ndarray:
    """The normal equations, one column of y at a time."""
    gram = x.T @ x + alpha * np.eye(x.shape[1])
    return np.stack([np.linalg.solve(gram, x.T @ column) for column in y.T], axis=1)


def left_out(x: np.ndarray, y: np.ndarray, groups: np.ndarray, alpha: float) -> float:
    """Mean squared distance of groups that a regression with an intercept has really not seen."""
    total = 0.0
    for group in set(groups.tolist()):
        rest = groups != group
        mean_x, mean_y = x[rest].mean(axis=0), y[rest].mean(axis=0)
        weights = slow(x[rest] - mean_x, y[rest] - mean_y, alpha)
        for row in np.flatnonzero(~rest):
            total += float(((y[row] - mean_y - (x[row] - mean_x) @ weights) ** 2).sum())
    return total / len(x)


@pytest.mark.parametrize(("n", "inputs", "outputs", "groups"), CASES)
@pytest.mark.parametrize("strength", [1e-4, 1.0])
def test_weights_solve_the_normal_equations(
    n: int, inputs: int, outputs: int, groups: int, strength: float
) -> None:
    x, y = data(n, inputs, outputs)
    found = ridge(x, y, np.arange(n) % groups, strengths=[strength])
    np.testing.assert_allclose(found.down @ found.up, slow(x, y, found.alpha), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("n", "inputs", "outputs", "groups"), CASES)
@pytest.mark.parametrize("strength", [1e-2, 1.0, 100.0])
def test_the_error_is_that_of_leaving_each_group_out(
    n: int, inputs: int, outputs: int, groups: int, strength: float
) -> None:
    x, y = data(n, inputs, outputs)
    members = np.arange(n) % groups
    found = ridge(x, y, members, strengths=[strength])
    assert found.error == pytest.approx(left_out(x, y, members, found.alpha), rel=1e-6)


def test_rows_that_appear_again_are_left_out_together() -> None:
    x, y = data(6, 10, 3)
    x, y = np.repeat(x, 3, axis=0), np.repeat(y, 3, axis=0) + np.random.default_rng(1).normal(size=(18, 3))
    y -= y.mean(axis=0)
    members = np.repeat(np.arange(6), 3)
    found = ridge(x, y, members, strengths=[0.1])
    assert found.error == pytest.approx(left_out(x, y, members, found.alpha), rel=1e-6)


def test_the_penalty_with_the_least_error_is_taken() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(15, 40))
    noise = rng.normal(size=(15, 3))
    x, noise = x - x.mean(axis=0), noise - noise.mean(axis=0)
    scale = float(np.mean(np.linalg.svd(x, compute_uv=False)[:14] ** 2))
    assert ridge(x, noise, range(15)).alpha == pytest.approx(max(STRENGTHS) * scale)
    exact = np.linalg.svd(x)[2][:14].T  # 14 directions are all that 15 centred rows have
    few = x @ exact[:, :5]
    assert ridge(few, few @ rng.normal(size=(5, 3)), range(15)).alpha < 1e-6 * scale


def test_what_does_not_vary_predicts_the_mean() -> None:
    y = data(4, 2, 3)[1]
    found = ridge(np.zeros((4, 5)), y, range(4))
    assert (found.down @ found.up == 0).all()
    assert found.down.shape == (5, 0)
    assert np.isnan(found.error)


def test_one_group_cannot_be_left_out() -> None:
    x, y = data(6, 3, 2)
    found = ridge(x, y, [0] * 6)
    assert np.isnan(found.error)
    np.testing.assert_allclose(found.down @ found.up, slow(x, y, 0.0), rtol=1e-5, atol=1e-6)
