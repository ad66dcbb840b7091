"""Bootstrap, renamings, p-values, Holm, paired differences, and how many targets are needed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from transferscope import resampling
from transferscope.errors import InputError
from transferscope.resampling import bootstrap_mean

VALUES = np.random.default_rng(0).normal(0.4, 0.3, size=14)


def test_clusters_of_one_change_nothing_and_real_ones_widen() -> None:
    plain = bootstrap_mean(VALUES, 0)
    assert bootstrap_mean(VALUES, 0, clusters=list("abcdefghijklmn")) == plain
    twice = np.repeat(VALUES, 2)  # every task on two backbones that agree: no more is known than before
    _, low, high = bootstrap_mean(twice, 0, clusters=[i // 2 for i in range(28)])
    assert (low, high) == pytest.approx(plain[1:])
    _, low, high = bootstrap_mean(twice, 0)
    assert high - low < 0.85 * (plain[2] - plain[1])  # type: ignore[operator]
    assert bootstrap_mean(VALUES, 0, clusters=["a"] * 14) == (pytest.approx(VALUES.mean()), None, None)
    with pytest.raises(InputError, match="14 targets and 2 clusters"):
        bootstrap_mean(VALUES, 0, clusters=["a", "b"])


def test_a_cluster_counts_by_its_members() -> None:
    values = np.array([0.0, 0.0, 0.0, 1.0])
    mean, low, high = bootstrap_mean(values, 0, clusters=["a", "a", "a", "b"])
    assert (mean, low, high) == (0.25, 0, 1)


def test_seeds_widen_the_interval() -> None:
    noise = np.random.default_rng(1).normal(0, 0.3, size=(200, 1))
    _, low, high = bootstrap_mean(VALUES, 0)
    _, lower, higher = bootstrap_mean(VALUES, 0, replicates=VALUES + noise)
    assert higher - lower > 1.5 * (high - low)  # type: ignore[operator]
    same = bootstrap_mean(VALUES, 0, replicates=np.tile(VALUES, (5, 1)))
    assert same == pytest.approx(bootstrap_mean(VALUES, 0))


def test_the_expanded_interval_is_as_wide_as_students() -> None:
    _, low, high = bootstrap_mean(VALUES, 0, expanded=True)
    half = student.ppf(0.975, 13) * VALUES.std(ddof=1) / np.sqrt(14)
    assert high - low == pytest.approx(2 * half, rel=0.06)  # type: ignore[operator]
    _, narrow, wide = bootstrap_mean(VALUES, 0)
    assert wide - narrow < high - low  # type: ignore[operator]


def test_seeds_are_redrawn_for_each_source_alone() -> None:
    per_seed = np.arange(2 * 3 * 2, dtype=float).reshape(2, 3, 2)
    per_seed[1, 2, 1] = np.nan
    found = resampling.redrawn(per_seed, 0, 500)
    assert found.shape == (500, 3, 2)
    for s in range(3):
        assert set(np.unique(found[:, s, 0])) == {2.0 * s, 2.0 * s + 3, 2.0 * s + 6}
    assert len(np.unique(found[:, :2, 0], axis=0)) == 9
    # both cells of a source come from the same seeds; one with a single seed keeps its value
    np.testing.assert_allclose(found[:, 0, 1] - found[:, 0, 0], 1)
    np.testing.assert_array_equal(found[:, 2, 1], 5)


def test_renaming_moves_a_task_in_both_roles() -> None:
    sources, targets = ("a", "b", "c", "x"), ("c", "b", "a", "y")
    rows, columns = resampling.relabellings(sources, targets, 200, 0)
    for row, column in zip(rows, columns, strict=True):
        assert sorted(row) == [0, 1, 2, 3]
        assert (row[3], column[3]) == (3, 3)  # x is no target, y no source: neither takes another's place
        for name in "abc":
            new = sources[row[sources.index(name)]]
            assert targets[column[targets.index(name)]] == new
    assert len(np.unique(rows, axis=0)) == 6
    rows, _ = resampling.relabellings(
        sources, targets, 200, 0, within={"a": "1", "b": "1", "c": "2", "x": "3", "y": "3"}
    )
    assert {tuple(row) for row in rows} == {(0, 1, 2, 3), (1, 0, 2, 3)}


def test_p_values() -> None:
    null = np.array([0.1, 0.2, 0.3, 0.4])
    assert resampling.p_value(0.3, null) == pytest.approx(3 / 5)
    assert resampling.p_value(0.3 + 1e-15, null) == pytest.approx(3 / 5)
    assert resampling.p_value(0.9, null) == pytest.approx(1 / 5)
    assert resampling.p_value(0.1, null, higher_is_better=False) == pytest.approx(2 / 5)
    assert resampling.p_value(float("nan"), null) is None
    assert resampling.p_value(0.1, np.full(3, np.nan)) is None


def test_holm_by_hand() -> None:
    assert resampling.holm([0.01, None, 0.04, 0.03]) == [
        pytest.approx(0.03),
        None,
        *[pytest.approx(0.06)] * 2,
    ]
    assert resampling.holm([0.5, 0.9]) == [1, 1]
    assert resampling.holm([]) == []


def test_sign_flips() -> None:
    assert resampling.sign_flip_p(np.ones(5), 0) == pytest.approx(2 / 32)
    assert resampling.sign_flip_p(np.array([1.0, -1.0]), 0) == 1
    found = resampling.sign_flip_p(VALUES, 0)
    assert found == pytest.approx(ttest_1samp(VALUES, 0).pvalue, abs=0.01)


def test_clusters_change_their_signs_together() -> None:
    off, clusters = np.array([1.0, 2, -0.5, 3, 1]), ["a", "b", "a", "c", "b"]
    sums = [0.5, 3, 3]  # a, b, c
    flips = [abs(np.dot(signs, sums)) for signs in itertools.product((1, -1), repeat=3)]
    expected = np.mean(np.array(flips) >= 6.5)
    assert resampling.sign_flip_p(off, 0, clusters=clusters) == expected == 0.25
    assert resampling.sign_flip_p(off, 0) == resampling.sign_flip_p(off, 0, clusters=range(5))
    assert resampling.sign_flip_p(off, 0, clusters=["a"] * 5) == 1
    with pytest.raises(InputError, match="5 targets and 2 clusters"):
        resampling.sign_flip_p(off, 0, clusters=["a", "b"])
    # 14 targets twice are 14: no more is known, and p of drawn signs says the same
    twice = np.repeat(VALUES - 0.3, 2)
    together = resampling.sign_flip_p(twice, 0, clusters=[i // 2 for i in range(28)])
    assert together == resampling.sign_flip_p(VALUES - 0.3, 0)
    assert resampling.sign_flip_p(twice, 0) < together


def test_a_difference_on_two_backbones_is_that_of_its_tasks() -> None:
    other = np.random.default_rng(5).normal(0.2, 0.3, size=14)
    options = {"names": ("a", "b"), "metric": "spearman", "seed": 0}
    plain = resampling.paired_difference(VALUES, other, **options)  # type: ignore[arg-type]
    first, second = np.repeat(VALUES, 2), np.repeat(other, 2)
    twice = resampling.paired_difference(first, second, clusters=[i // 2 for i in range(28)], **options)  # type: ignore[arg-type]
    for key in ("mean", "low", "high", "p"):
        assert getattr(twice, key) == pytest.approx(getattr(plain, key))
    assert plain.minimum_targets is not None
    assert (twice.n_targets, twice.minimum_targets) == (28, 2 * plain.minimum_targets)
    one = resampling.paired_difference(first, second, clusters=["a"] * 28, **options)  # type: ignore[arg-type]
    assert (one.mean, one.low, one.p, one.minimum_targets) == (plain.mean, None, None, None)


def test_the_minimum_number_of_targets() -> None:
    # a half of a standard deviation: 34 by tables of the paired t test (power .8, level .05)
    assert resampling.minimum_targets(1.0, 0.5) in (33, 34)
    assert resampling.minimum_targets(1.0, -0.5) == resampling.minimum_targets(1.0, 0.5)
    assert resampling.minimum_targets(1.0, 0.05) > 3000  # type: ignore[operator]
    assert resampling.minimum_targets(1e-9, 1.0) == 3
    assert resampling.minimum_targets(1.0, 0.0) is None
    assert resampling.minimum_targets(float("nan"), 1.0) is None


def test_that_number_gives_the_power() -> None:
    n = resampling.minimum_targets(1.0, 0.8)
    assert n is not None
    draws = np.random.default_rng(0).normal(0.8, 1, size=(4000, n))
    assert np.mean(ttest_1samp(draws, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.04)


def test_a_paired_difference_uses_the_targets_that_both_have() -> None:
    first, second = np.array([1.0, 2, np.nan, 4]), np.array([0.5, 1, 1, np.nan])
    options = {"names": ("a", "b"), "metric": "regret@1", "seed": 0}
    found = resampling.paired_difference(first, second, higher_is_better=False, **options)  # type: ignore[arg-type]
    assert (found.mean, found.n_targets, found.better) == (0.75, 2, False)
    assert (found.low, found.high) == (0.5, 1)
    alone = resampling.paired_difference(first[:1], second[:1], **options)  # type: ignore[arg-type]
    assert (alone.mean, alone.low, alone.p, alone.minimum_targets) == (0.5, None, None, None)


def test_a_difference_next_to_nothing_needs_targets_without_end() -> None:
    """So many that they are no 64-bit number any more, and still a number."""
    needed = resampling.minimum_targets(1.0, 1e-16)
    assert needed is not None
    assert needed > 10**30
