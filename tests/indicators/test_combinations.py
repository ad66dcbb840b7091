"""Combinations of indicators: values by hand, missing scores, ties, weights that never saw their target."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from indicators import InvalidInput
from indicators.combinations import borda, leave_one_target_out_ridge, reciprocal_rank_fusion, z_mean

NAN = float("nan")
each = pytest.mark.parametrize("function", [z_mean, borda, reciprocal_rank_fusion])


def test_values_by_hand() -> None:
    scores = [[1.0, 2.0, 6.0], [30.0, 10.0, 10.0]]
    first, second = np.array([-2.0, -1.0, 3.0]) / np.sqrt(14 / 3), np.array([2.0, -1.0, -1.0]) / np.sqrt(2)
    np.testing.assert_allclose(z_mean(scores), (first + second) / 2)
    np.testing.assert_allclose(borda(scores), [(0 + 1) / 2, (0.5 + 0.25) / 2, (1 + 0.25) / 2])
    expected = [1 / 63 + 1 / 61, 1 / 62 + 1 / 62.5, 1 / 61 + 1 / 62.5]
    np.testing.assert_allclose(reciprocal_rank_fusion(scores), expected)


@each
def test_targets_are_combined_one_by_one(function: Any) -> None:
    scores = np.random.default_rng(1).normal(size=(3, 4, 6))
    scores[0, 1, 2] = NAN
    together = function(scores)
    assert together.shape == (4, 6)
    assert together.dtype == np.float64
    for target in range(4):
        np.testing.assert_allclose(together[target], function(scores[:, target]))


@each
def test_scale_and_order_of_the_indicators_do_not_matter(function: Any) -> None:
    scores = np.random.default_rng(2).normal(size=(3, 6))
    moved = scores * np.array([[1e-6], [1.0], [1e200]]) + np.array([[5.0], [0.0], [0.0]])
    np.testing.assert_allclose(function(moved), function(scores), atol=1e-8)
    np.testing.assert_allclose(function(scores[::-1]), function(scores))


@each
def test_one_indicator_keeps_its_order(function: Any) -> None:
    scores = np.random.default_rng(3).normal(size=(1, 9))
    np.testing.assert_array_equal(np.argsort(function(scores)), np.argsort(scores[0]))


@each
def test_the_best_and_the_worst_of_all_stay_so(function: Any) -> None:
    scores = np.array([[9.0, 1.0, 5.0, 4.0], [0.9, 0.1, 0.3, 0.7]])
    assert np.argmax(function(scores)) == 0
    assert np.argmin(function(scores)) == 1


def test_missing_scores() -> None:
    scores = [[1.0, 2.0, NAN, NAN], [5.0, 7.0, 6.0, NAN]]
    np.testing.assert_allclose(
        z_mean(scores)[:3], [(-1 - np.sqrt(1.5)) / 2, (1 + np.sqrt(1.5)) / 2, 0.0], atol=1e-12
    )
    np.testing.assert_allclose(borda(scores)[:3], [0.0, 1.0, 0.5])
    np.testing.assert_allclose(
        reciprocal_rank_fusion(scores), [1 / 62 + 1 / 63, 1 / 61 + 1 / 61, 1 / 62, 0.0]
    )
    assert np.isnan(z_mean(scores)[3])
    assert np.isnan(borda(scores)[3])
    np.testing.assert_array_equal(borda([[3.0, NAN]]), [0.5, NAN])


def test_equal_scores_say_nothing() -> None:
    np.testing.assert_array_equal(z_mean([[0.1, 0.1, 0.1]]), [0.0, 0.0, 0.0])
    np.testing.assert_array_equal(borda([[0.1, 0.1, 0.1]]), [0.5, 0.5, 0.5])
    np.testing.assert_allclose(reciprocal_rank_fusion([[0.1, 0.1, 0.1]]), 1 / 62)
    scores = np.array([[0.1, 0.1, 0.1], [3.0, 1.0, 2.0]])
    np.testing.assert_allclose(z_mean(scores), z_mean(scores[1:]) / 2)


@each
@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0, 2.0], r"scores is \[2\]: a non-empty array \[I, S\] or \[I, T, S\]"),
        ([[1.0, np.inf]], "scores holds inf"),
        ([["a"]], "scores holds <U1"),
        (np.ones((0, 3)), r"scores is \[0, 3\]"),
    ],
)
def test_scores_that_are_refused(function: Any, scores: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        function(scores)


def test_a_k_below_zero_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"k=-1"):
        reciprocal_rank_fusion([[1.0, 2.0]], k=-1)


def study(seed: int, targets: int = 8, sources: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Two indicators and a noise [3, T, S]; transfer follows the first, and less the second, per target."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(3, targets, sources))
    transfer = 2.0 * scores[0] + scores[1] + 0.5 * rng.normal(size=(targets, sources))
    level, spread = rng.normal(size=(targets, 1)), rng.uniform(0.1, 9.0, size=(targets, 1))
    return scores, level + spread * transfer


def test_the_weights_are_those_of_the_signal() -> None:
    found = leave_one_target_out_ridge(*study(1), ridge=1e-6)
    assert found.weights.shape == (8, 3)
    assert found.predictions.shape == (8, 12)
    np.testing.assert_allclose(found.weights.mean(axis=0), [0.87, 0.44, 0.0], atol=0.1)
    transfer = study(1)[1]
    held_out = [np.corrcoef(found.predictions[t], transfer[t])[0, 1] for t in range(8)]
    assert np.mean(held_out) > 0.9


def test_it_is_ridge_regression_on_the_other_targets() -> None:
    from sklearn.linear_model import Ridge

    scores, transfer = study(2)
    transfer[3, 4] = NAN
    found = leave_one_target_out_ridge(scores, transfer, ridge=0.3)
    z = (scores - scores.mean(axis=2, keepdims=True)) / scores.std(axis=2, keepdims=True)
    y = (transfer - np.nanmean(transfer, axis=1, keepdims=True)) / np.nanstd(transfer, axis=1, keepdims=True)
    for target in (0, 3):
        used = ~np.isnan(transfer)
        used[target] = False
        model = Ridge(alpha=0.3 * used.sum(), fit_intercept=False).fit(z[:, used].T, y[used])
        np.testing.assert_allclose(found.weights[target], model.coef_, atol=1e-12)
        np.testing.assert_allclose(found.predictions[target], model.predict(z[:, target].T), atol=1e-12)


def test_a_target_is_not_seen_by_its_own_weights() -> None:
    scores, transfer = study(3)
    changed = transfer.copy()
    changed[2] = np.random.default_rng(0).normal(size=12)
    before, after = (leave_one_target_out_ridge(scores, values) for values in (transfer, changed))
    np.testing.assert_array_equal(before.predictions[2], after.predictions[2])
    np.testing.assert_array_equal(before.weights[2], after.weights[2])
    assert np.abs(before.weights[3] - after.weights[3]).max() > 1e-3
    unknown = transfer.copy()
    unknown[2] = NAN
    np.testing.assert_array_equal(
        leave_one_target_out_ridge(scores, unknown).predictions[2], before.predictions[2]
    )


def test_level_and_spread_of_a_target_do_not_matter() -> None:
    scores, transfer = study(4)
    other = transfer * np.arange(1.0, 9.0)[:, None] - 5.0
    one, two = (leave_one_target_out_ridge(scores, values) for values in (transfer, other))
    np.testing.assert_allclose(one.predictions, two.predictions, atol=1e-12)


def test_missing_scores_count_as_the_mean_and_penalties_shrink() -> None:
    scores, transfer = study(5)
    scores[:, 1, 7] = NAN
    found = leave_one_target_out_ridge(scores, transfer)
    assert found.predictions[1, 7] == 0.0
    assert np.isfinite(found.predictions).all()
    strong = leave_one_target_out_ridge(scores, transfer, ridge=1e6)
    assert np.abs(strong.weights).max() < 1e-5 < np.abs(found.weights).max()


def test_collinear_and_constant_indicators() -> None:
    scores, transfer = study(6)
    doubled = np.stack([scores[0], 5 * scores[0] + 1, np.ones_like(scores[0])])
    found = leave_one_target_out_ridge(doubled, transfer)
    np.testing.assert_allclose(found.weights[:, 0], found.weights[:, 1], atol=1e-12)
    np.testing.assert_array_equal(found.weights[:, 2], 0.0)


@pytest.mark.parametrize(
    ("scores", "transfer", "ridge", "message"),
    [
        (np.ones((2, 3, 4)), np.ones((3, 5)), 1.0, r"scores are \[2, 3, 4\] and transfer is \[3, 5\]"),
        (np.ones((2, 3)), np.ones((2, 3)), 1.0, r"scores is \[2, 3\]: a non-empty array \[I, T, S\]"),
        (np.ones((2, 1, 4)), np.ones((1, 4)), 1.0, "fewer than 2 targets"),
        (np.ones((2, 2, 2)), [[1.0, 2.0], [NAN, NAN]], 1.0, "fewer than 2 targets"),
        (np.ones((2, 3, 4)), np.ones((3, 4)), 0.0, r"ridge=0\.0"),
        (np.ones((2, 3, 4)), np.full((3, 4), np.inf), 1.0, "transfer holds inf"),
    ],
)
def test_studies_that_are_refused(scores: Any, transfer: Any, ridge: float, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        leave_one_target_out_ridge(scores, transfer, ridge=ridge)


def test_the_warning_is_there() -> None:
    text = " ".join((leave_one_target_out_ridge.__doc__ or "").split())
    assert "Be careful" in text
    assert "held-out targets only" in text
