"""Do the intervals cover what is true, and do the tests reject too often? On simulated tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from transferscope.comparison import IndicatorMatrix
from transferscope.correlation import correlate
from transferscope.transfer import TransferMatrix

TASKS = tuple(f"t{i}" for i in range(17))
N = len(TASKS)


def measured(values: np.ndarray) -> TransferMatrix:
    return TransferMatrix("zero-shot", TASKS, TASKS, values, values[None])


def expected_spearman(r: float, n: int) -> float:
    """Of n pairs from a normal distribution with correlation r (Moran, Biometrika 1948)."""
    return 6 / (math.pi * (n + 1)) * (math.asin(r) + (n - 2) * math.asin(r / 2))


def covered(r: float, seed: int) -> bool:
    rng = np.random.default_rng([seed, int(100 * r)])
    x, noise = rng.normal(size=(2, N, N))
    transfer = measured(r * x + math.sqrt(1 - r**2) * noise)
    report = correlate(
        [IndicatorMatrix("x", TASKS, x)],
        transfer,
        metrics=["spearman"],
        baselines=[],
        permutations=0,
        expanded=True,
        seed=seed,
    )
    score = report.get("x")
    assert score.low is not None
    assert score.high is not None
    return score.low <= expected_spearman(r, N - 1) <= score.high


def rejects(seed: int, indicators: int, permutations: int) -> bool:
    """Whether any of some indicators that say nothing is significant at 5 %.

    Some sources are good everywhere, some indicators are the same for every target or symmetric: the scores
    of targets are not independent, which a test that shuffles each target alone would take for evidence.
    """
    rng = np.random.default_rng([seed, 1])
    transfer = measured(rng.normal(size=(N, N)) + 1.5 * rng.normal(size=(N, 1)) + rng.normal(size=(1, N)))
    matrices = []
    for i in range(indicators):
        values = rng.normal(size=(N, N))
        if i % 3 == 1:
            values = values + values.T
        if i % 3 == 2:
            values = values + 2 * rng.normal(size=(N, 1))
        matrices.append(IndicatorMatrix(f"x{i}", TASKS, values))
    report = correlate(
        matrices, transfer, metrics=["spearman"], baselines=[], permutations=permutations, seed=seed
    )
    p = [score.p for score in report.scores]
    assert len(p) == indicators
    return min(value for value in p if value is not None) <= 0.05


def test_the_known_value_is_right() -> None:
    assert expected_spearman(0, 16) == 0
    assert expected_spearman(1, 16) == pytest.approx(1)


def test_intervals_cover_quick() -> None:
    share = np.mean([covered(0.5, seed) for seed in range(100)])
    assert 0.87 <= share <= 0.995


def test_tests_hold_their_level_quick() -> None:
    assert np.mean([rejects(seed, 3, 199) for seed in range(60)]) <= 0.15


def test_a_real_relation_is_found() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, N))
    matrices = [IndicatorMatrix("x", TASKS, x), IndicatorMatrix("noise", TASKS, rng.normal(size=(N, N)))]
    report = correlate(matrices, measured(0.5 * x + rng.normal(size=(N, N))))
    assert report.get("x").p == pytest.approx(2 / 2000)
    assert report.get("noise").p > 0.05  # type: ignore[operator]


@pytest.mark.slow
@pytest.mark.parametrize("r", [0.0, 0.3, 0.6])
def test_intervals_cover_in_92_to_98_percent(r: float) -> None:
    assert 0.92 <= np.mean([covered(r, seed) for seed in range(500)]) <= 0.98


@pytest.mark.slow
def test_under_no_relation_at_most_7_percent_reject() -> None:
    assert np.mean([rejects(seed, 10, 999) for seed in range(500)]) <= 0.07


def with_seeds(rng: np.random.Generator, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """An indicator, and transfer of three seeds, which differ everywhere and by target: [3, N, N]."""
    x, other = rng.normal(size=(2, N, N))
    scatter = rng.normal(size=(3, N, 1)) + rng.normal(size=(3, N, N))
    return x, 0.6 * x + 0.8 * other + noise * math.sqrt(0.5) * scatter


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.4, 1.0])
def test_intervals_over_seeds_cover_in_92_to_98_percent(noise: float) -> None:
    rng = np.random.default_rng(0)

    def mean(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.mean([spearmanr(x[:, t], y[:, t]).statistic for t in range(N)]))

    many = [(x, per_seed.mean(axis=0)) for x, per_seed in (with_seeds(rng, noise) for _ in range(400))]
    true = np.mean([mean(x, y) for x, y in many])  # 400 tables of 17 columns: to about .003
    options = {"metrics": ["spearman"], "baselines": [], "permutations": 0, "own_prompt": "included"}
    hits = []
    for seed in range(500):
        x, per_seed = with_seeds(rng, noise)
        transfer = TransferMatrix("zero-shot", TASKS, TASKS, per_seed.mean(axis=0), per_seed)
        matrix = IndicatorMatrix("x", TASKS, x)
        report = correlate([matrix], transfer, over_seeds=True, expanded=True, seed=seed, **options)  # type: ignore[arg-type]
        score = report.get("x")
        hits.append(score.low <= true <= score.high)  # type: ignore[operator]
    assert 0.92 <= np.mean(hits) <= 0.98
