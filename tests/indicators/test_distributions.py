"""Distances of samples: closed forms, values by hand, sample sizes, identity, scale, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

import indicators
from indicators import InvalidInput
from indicators.distributions import (
    firing_wasserstein,
    frechet,
    gaussian_distance,
    mmd,
    proxy_a,
    sliced_wasserstein,
)
from tests import reference_distances as loops

SAMPLES = ("mmd", "proxy_a", "frechet", "sliced_wasserstein")
each = pytest.mark.parametrize("name", SAMPLES)


def normal(seed: int, rows: int, width: int = 3, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width)) + shift


def expected_mmd(shift: np.ndarray, bandwidth: float) -> float:
    """Of N(0, I) and N(m, I): 2 (s^2 / (s^2 + 2))^(D/2) (1 - exp(-|m|^2 / (2 (s^2 + 2))))."""
    spread = bandwidth**2 + 2
    level = (bandwidth**2 / spread) ** (len(shift) / 2)
    return 2 * level * (1 - math.exp(-float(shift @ shift) / (2 * spread)))


def test_mmd_of_shifted_gaussians() -> None:
    shift = np.array([1.0, 0.5, 0.0])
    values = [mmd(normal(2 * i, 200), normal(2 * i + 1, 200) + shift, bandwidth=1.5) for i in range(30)]
    error = np.std(values) / np.sqrt(len(values))
    assert np.mean(values) == pytest.approx(expected_mmd(shift, 1.5), abs=4 * error)
    assert error < 0.01


@pytest.mark.parametrize("rows", [(3, 3), (3, 40)])
def test_mmd_is_unbiased_whatever_the_number_of_rows(rows: tuple[int, int]) -> None:
    shift = np.array([1.0, 0.5, 0.0])
    values = [
        mmd(normal(2 * i, rows[0]), normal(2 * i + 1, rows[1]) + shift, bandwidth=1.5) for i in range(1000)
    ]
    error = np.std(values) / np.sqrt(len(values))
    assert np.mean(values) == pytest.approx(expected_mmd(shift, 1.5), abs=4 * error)
    same = [mmd(normal(2 * i, rows[0]), normal(2 * i + 1, rows[1])) for i in range(300)]
    assert np.mean(same) == pytest.approx(0.0, abs=4 * np.std(same) / np.sqrt(len(same)))
    assert min(same) < 0


def test_mmd_of_a_sample_with_itself_is_at_most_zero() -> None:
    x = normal(1, 8)
    kernel = [math.exp(-loops.squared(a, b) / 2) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    assert mmd(x, x, bandwidth=1.0) == pytest.approx(2 / 8 * (np.mean(kernel) - 1))


def test_mmd_with_many_equal_rows_takes_another_bandwidth() -> None:
    x = np.append(np.zeros(9), 1.0)[:, None]
    y = np.append(np.zeros(9), 3.0)[:, None]
    # Distances above 0: nine of 1 within x, nine of 3 within y, nine of each between, and 2.
    assert mmd(x, y) == pytest.approx(mmd(x, y, bandwidth=2.0))
    assert mmd(x, y) == pytest.approx(loops.mmd(x.tolist(), y.tolist()))


def test_mmd_far_from_the_origin_and_of_nearly_equal_rows() -> None:
    x, y = normal(1, 6), normal(2, 5)
    assert mmd(x + 1e6, y + 1e6) == pytest.approx(mmd(x, y), abs=1e-8)
    twice = np.repeat(x, 2, axis=0)
    assert mmd(twice, y) == pytest.approx(loops.mmd(twice.tolist(), y.tolist()), abs=1e-12)


def test_proxy_a_of_what_is_apart_and_of_what_is_not() -> None:
    assert proxy_a(normal(1, 60), normal(2, 40, shift=20.0)) == 2.0
    values = [proxy_a(normal(2 * i, 80), normal(2 * i + 1, 80)) for i in range(30)]
    assert abs(np.mean(values)) < 0.2
    # Bayes' error of two normal distributions 2 apart is .1587.
    x, y = normal(1, 3000, 1), normal(2, 3000, 1, shift=2.0)
    assert proxy_a(x, y) == pytest.approx(2 * (1 - 2 * 0.158655), abs=0.05)


def test_proxy_a_counts_both_sides_alike() -> None:
    values = [proxy_a(normal(2 * i, 400), normal(2 * i + 1, 40)) for i in range(30)]
    assert abs(np.mean(values)) < 0.2, "one that says 'source' always would be right on 10 of 11 rows"
    wide = [proxy_a(normal(2 * i, 400, 1), normal(2 * i + 1, 40, 1, shift=2.0)) for i in range(20)]
    assert np.mean(wide) == pytest.approx(2 * (1 - 2 * 0.158655), abs=0.1)


def test_proxy_a_with_more_dimensions_than_rows() -> None:
    values = [proxy_a(normal(2 * i, 20, 100), normal(2 * i + 1, 20, 100)) for i in range(20)]
    assert abs(np.mean(values)) < 0.4
    assert proxy_a(normal(1, 20, 100), normal(2, 20, 100, shift=1.0)) == 2.0


def test_proxy_a_of_a_sample_and_the_same_in_another_order() -> None:
    x = normal(1, 30)
    assert proxy_a(x, np.random.default_rng(0).permutation(x)) == 0.0
    assert proxy_a(x, x, folds=2, ridge=1e-3) == 0.0
    same_means = np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([[0.0, 5.0], [0.0, -5.0]])
    assert proxy_a(*same_means) <= 0.0


def test_frechet_of_gaussians() -> None:
    # Commuting covariances: |m1 - m2|^2 + sum of (s1 - s2)^2 over the common axes.
    x = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    y = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]]) + np.array([[4.0, 3.0]])
    spread = (math.sqrt(4.5) - math.sqrt(0.5)) ** 2 + (math.sqrt(0.5) - math.sqrt(2.0)) ** 2
    assert frechet(x, y) == pytest.approx(math.sqrt(25 + spread), abs=1e-12)


def test_frechet_of_covariances_that_do_not_commute() -> None:
    from scipy.linalg import sqrtm

    mix = np.random.default_rng(3).normal(size=(2, 4, 4))
    x, y = normal(1, 50, 4) @ mix[0], normal(2, 70, 4) @ mix[1] + 1.0
    c1, c2 = np.cov(x.T, bias=True), np.cov(y.T, bias=True)
    root = np.real(sqrtm(c1))
    inner = np.real(sqrtm(root @ c2 @ root))
    squared = ((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum() + np.trace(c1 + c2 - 2 * inner)
    assert frechet(x, y) == pytest.approx(math.sqrt(squared), rel=1e-9)


def test_frechet_with_fewer_rows_than_dimensions_and_with_one() -> None:
    x, y = normal(1, 5, 30), normal(2, 9, 30, shift=0.5)
    assert frechet(x, y) == pytest.approx(loops.frechet(x.tolist(), y.tolist()), abs=1e-12)
    assert frechet(x[:1], y[:1]) == pytest.approx(np.linalg.norm(x[0] - y[0]))
    assert frechet(x, x + 2.0) == pytest.approx(2 * math.sqrt(30), abs=1e-12)
    turned = x @ np.linalg.qr(normal(4, 30, 30))[0]
    assert frechet(turned, turned) == pytest.approx(0.0, abs=1e-14)


def test_frechet_is_at_most_the_wasserstein_distance_of_the_rows() -> None:
    """Gelbrich's bound; it needs the covariances of the rows themselves, divided by S."""
    for seed in range(20):
        x, y = normal(seed, 4, 2) ** 3, normal(seed + 50, 6, 2)
        exact = math.sqrt(loops.transported(loops.squared, x.tolist(), y.tolist()))
        assert frechet(x, y) <= exact + 1e-12


def test_gaussian_distance_is_that_of_collinear_rows() -> None:
    x = np.outer([1.0, 2.0, 6.0], [1.0, 1.0, 0.0])
    y = np.outer([0.0, 0.0, 3.0], [1.0, 1.0, 0.0])
    (a, b), (s, t) = (3.0, 1.0), (np.std([1.0, 2.0, 6.0]), np.std([0.0, 0.0, 3.0]))
    assert gaussian_distance(x, y) == pytest.approx(math.sqrt(2 * ((a - b) ** 2 + (s - t) ** 2)))


def test_sliced_wasserstein_of_a_shift() -> None:
    x = normal(1, 40, 5)
    shift = np.array([1.0, -2.0, 0.5, 0.0, 3.0])
    # Mean over directions of (u . shift)^2 is |shift|^2 / D.
    expected = np.linalg.norm(shift) / math.sqrt(5)
    assert sliced_wasserstein(x, x + shift, directions=20_000) == pytest.approx(expected, rel=0.02)
    seeds = [sliced_wasserstein(x, x + shift, seed=seed) for seed in range(5)]
    assert 0 < np.ptp(seeds) < 0.3 * expected
    assert seeds[0] == sliced_wasserstein(x, x + shift)


@pytest.mark.parametrize("rows", [(7, 7), (4, 6), (5, 3), (1, 4)])
def test_sliced_wasserstein_on_the_line_is_by_sorting(rows: tuple[int, int]) -> None:
    x, y = normal(1, rows[0], 1), normal(2, rows[1], 1)
    expected = loops.line_distance(x[:, 0].tolist(), y[:, 0].tolist(), 2)
    assert sliced_wasserstein(x, y) ** 2 == pytest.approx(expected, abs=1e-14)


def test_repeating_all_rows_changes_no_distance_of_distributions() -> None:
    x, y = normal(1, 5), normal(2, 4)
    for function in (frechet, sliced_wasserstein):
        twice = np.repeat(x, 3, axis=0)
        assert function(twice, y) == pytest.approx(function(x, y), abs=1e-13)


def test_firing_rates_by_hand() -> None:
    x = [[0.1, 0.5, 0.9], [0.0, 0.0, 1.0]]
    y = [[0.9, 0.2, 0.7], [0.0, 1.0, 1.0]]
    assert firing_wasserstein(x, y) == pytest.approx(((0.1 + 0.2 + 0.0) / 3 + 1 / 3) / 2)
    assert firing_wasserstein(x, [row[::-1] for row in x]) == 0.0, "which neurons fire is not asked"
    assert firing_wasserstein(np.zeros((2, 3)), np.ones((2, 3))) == 1.0
    with pytest.raises(InvalidInput, match=r"target firing holds 1\.5 at \[0, 1\]: numbers from 0 to 1"):
        firing_wasserstein([[0.0, 1.0]], [[0.0, 1.5]])


@each
@pytest.mark.parametrize("factor", [1e-200, 1e200, 2.0**-1040])
def test_tiny_and_huge_samples(name: str, factor: float) -> None:
    x, y = np.round(normal(1, 6), 3), np.round(normal(2, 7, shift=0.4), 3)
    function = indicators.get(name).function
    scale = factor if indicators.get(name).scale == "value" else 1.0
    # 2**-1040 leaves few digits in each number.
    assert function(factor * x, factor * y) == pytest.approx(
        scale * function(x, y), rel=1e-3 if factor < 1e-300 else 1e-12
    )


@each
def test_constant_duplicated_and_collinear_features(name: str) -> None:
    function, low = indicators.get(name).function, indicators.get(name).bounds[0]
    x, y = normal(1, 12), normal(2, 10, shift=1.0)
    for change in (
        lambda rows: np.hstack([rows, np.full((len(rows), 2), 5.0)]),
        lambda rows: np.hstack([rows, rows]),
        lambda rows: np.hstack([rows, rows.sum(axis=1, keepdims=True)]),
        lambda rows: rows[:, :1],
    ):
        a, b = change(x), change(y)
        assert function(a, b) == pytest.approx(loops.DISTANCES[name](a, b), abs=1e-9)
        assert function(a, b) >= low
    same = np.ones((3, 4))
    assert function(same, same) == 0.0
    assert function(same, 3 * same) > 0.0


@pytest.mark.parametrize(("name", "side"), [("mmd", "source"), ("proxy_a", "target")])
def test_one_row_is_refused_where_it_says_nothing(name: str, side: str) -> None:
    arrays = [np.ones((1, 3)), np.ones((4, 3))]
    with pytest.raises(InvalidInput, match=rf"{side} inputs is \[1, 3\]: {name} needs at least 2 rows"):
        indicators.get(name).function(*(arrays if side == "source" else arrays[::-1]))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mmd", {"bandwidth": 0.0}, r"bandwidth=0\.0"),
        ("mmd", {"bandwidth": math.inf}, "bandwidth=inf"),
        ("proxy_a", {"folds": 1}, "folds=1"),
        ("proxy_a", {"ridge": 0.0}, r"ridge=0\.0"),
        ("proxy_a", {"ridge": math.nan}, "ridge=nan"),
        ("sliced_wasserstein", {"directions": 0}, "directions=0"),
    ],
)
def test_options_that_make_no_sense(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        indicators.get(name).function(np.eye(3), np.eye(3), **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mmd", {"bandwidth": 0.7}),
        ("proxy_a", {"folds": 3, "ridge": 2.0}),
        ("sliced_wasserstein", {"seed": 5}),
    ],
)
def test_options_agree_with_the_loops(name: str, options: dict[str, float]) -> None:
    x, y = normal(1, 9), normal(2, 8, shift=0.5)
    expected = loops.DISTANCES[name](x, y, **options)
    assert indicators.get(name).function(x, y, **options) == pytest.approx(expected, abs=1e-12)
    assert indicators.get(name).function(x, y) != pytest.approx(expected, abs=1e-6)
