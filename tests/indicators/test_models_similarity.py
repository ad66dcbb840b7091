"""Two models compared by what they make of the same tasks: matrices of tasks, neurons."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from indicators import InvalidInput
from indicators.models_similarity import align_neurons, matrix_similarity
from tests.reference_representations import aligned, mantel


def symmetric(rng: np.random.Generator, tasks: int) -> np.ndarray:
    half = rng.normal(size=(tasks, tasks))
    return half + half.T


@pytest.mark.parametrize("ties", [False, True])
def test_matrices_agree_with_the_loop(ties: bool) -> None:
    rng = np.random.default_rng(0)
    for tasks in (3, 4, 5):
        x, y = rng.normal(size=(2, tasks, tasks))  # not symmetric: a measured transfer
        if ties:
            x, y = x.round(), y.round()
        result = matrix_similarity(x, y)
        assert (result.spearman, result.p_value) == pytest.approx(mantel(x.tolist(), y.tolist()), abs=1e-12)
        assert (result.tasks, result.exact) == (tasks, True)


def test_symmetric_matrices_agree_with_scipy_on_their_upper_half() -> None:
    rng = np.random.default_rng(1)
    x = symmetric(rng, 9)
    y = x + symmetric(rng, 9)
    upper = np.triu_indices(9, 1)
    result = matrix_similarity(x, y, permutations=99)
    assert result.spearman == pytest.approx(stats.spearmanr(x[upper], y[upper]).statistic, abs=1e-12)
    assert result.pearson == pytest.approx(stats.pearsonr(x[upper], y[upper]).statistic, abs=1e-12)
    assert (result.exact, result.permutations) == (False, 99)
    assert result.p_value == 0.01


def test_the_diagonal_is_not_read() -> None:
    x, y = np.random.default_rng(2).normal(size=(2, 5, 5))
    plain = matrix_similarity(x, y)
    np.fill_diagonal(x, np.nan)
    np.fill_diagonal(y, 1e9)
    assert matrix_similarity(x, y) == plain


def test_p_values_of_unrelated_models_are_uniform() -> None:
    rng = np.random.default_rng(3)
    p = [
        matrix_similarity(symmetric(rng, 7), symmetric(rng, 7), permutations=99, seed=i).p_value
        for i in range(80)
    ]
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    assert min(p) > 0


def test_the_seed_decides() -> None:
    rng = np.random.default_rng(4)
    x, y = symmetric(rng, 8), symmetric(rng, 8)
    runs = [matrix_similarity(x, y, permutations=50, seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert runs[0] == runs[1]
    assert len({run.p_value for run in runs}) > 1
    assert len({run.spearman for run in runs}) == 1


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((4, 4)), "source's matrix is constant"),
        (np.ones((2, 2)), r"\[2, 2\]: \[T, T\] of at least 3"),
        (np.ones((4, 5)), r"\[4, 5\]: \[T, T\]"),
        (np.arange(25.0).reshape(5, 5), r"is \[5, 5\] and the target's is \[4, 4\]"),
        (np.where(np.arange(4) == 2, np.nan, np.ones((4, 4))), r"hold nan at \[0, 2\]"),
    ],
)
def test_matrices_that_cannot_be_compared(x: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        matrix_similarity(x, np.arange(16.0).reshape(4, 4))


def test_alignment_is_the_best_of_all_mappings() -> None:
    rng = np.random.default_rng(5)
    for _ in range(4):
        x, y = rng.normal(size=(6, 4)), rng.normal(size=(6, 5))
        result = align_neurons(x, y, permutations=3)
        mapping, correlation = aligned(x.tolist(), y.tolist())
        assert tuple(result.mapping) == mapping
        assert result.correlation == pytest.approx(correlation, abs=1e-12)
        assert result.correlations.mean() == pytest.approx(correlation, abs=1e-12)


def test_neurons_that_were_renamed_are_found() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(12, 40))
    order = rng.permutation(40)
    noisy = 3 * x[:, order] + 1 + 0.3 * rng.normal(size=x.shape)
    result = align_neurons(x, noisy, permutations=19, seed=0)
    np.testing.assert_array_equal(order[result.mapping], np.arange(40))
    assert result.correlation > 0.95
    assert 0.2 < result.baseline_mean < result.correlation - 0.1
    assert result.p_value == 0.05


def test_alignment_of_unrelated_neurons_is_at_its_baseline() -> None:
    x, y = np.random.default_rng(7).normal(size=(2, 10, 30))
    result = align_neurons(x, y, permutations=30)
    assert result.correlation > 0.3  # the best of many, by chance alone
    assert abs(result.correlation - result.baseline_mean) < 4 * result.baseline_std
    assert result.p_value > 0.05


def test_neurons_without_a_counterpart() -> None:
    x = np.random.default_rng(8).normal(size=(5, 4))
    result = align_neurons(x, x[:, [2, 0]], permutations=2)
    assert result.mapping.tolist() == [1, -1, 0, -1]
    np.testing.assert_allclose(result.correlations, [1, np.nan, 1, np.nan])
    assert result.correlation == pytest.approx(1.0, abs=1e-12)


def test_constant_profiles_correlate_with_nothing() -> None:
    x = np.random.default_rng(9).normal(size=(6, 3))
    flat = x.copy()
    flat[:, 1] = 0.1
    result = align_neurons(flat, x, permutations=2)
    assert result.mapping.tolist() == [0, 1, 2]
    assert result.correlations[1] == 0.0


def test_all_orders_of_few_tasks_are_tried() -> None:
    x, y = np.random.default_rng(10).normal(size=(2, 3, 4))
    result = align_neurons(x, y, permutations=6)
    assert (result.exact, result.permutations) == (True, 6)
    assert result.p_value in [k / 6 for k in range(1, 7)]


def test_profiles_that_cannot_be_aligned() -> None:
    x = np.random.default_rng(11).normal(size=(5, 4))
    with pytest.raises(InvalidInput, match=r"\[5, 4\] and the target's are \[4, 4\]: the tasks"):
        align_neurons(x, x[:4])
    with pytest.raises(InvalidInput, match="at least 3 tasks"):
        align_neurons(x[:2], x[:2])
    with pytest.raises(InvalidInput, match=r"source's profiles hold nan at \[0, 0\]"):
        align_neurons(np.full((5, 4), np.nan), x)
    with pytest.raises(InvalidInput, match="permutations=0"):
        align_neurons(x, x, permutations=0)
