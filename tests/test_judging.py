"""Groups of orderings and clusters of targets: as `correlate` where there are none, else by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from transferscope import resampling
from transferscope.agreement import METRICS
from transferscope.comparison import IndicatorMatrix
from transferscope.correlation import correlate
from transferscope.evidence import Known, gather
from transferscope.judging import bench, judge
from transferscope.transfer import TransferMatrix

TASKS = tuple("abcdefg")
RNG = np.random.default_rng(0)
VALUES = RNG.random((7, 7))
SEEDS = VALUES + RNG.normal(0, 0.2, (3, 7, 7))
TRANSFER = TransferMatrix("zero-shot", TASKS, TASKS, SEEDS.mean(axis=0), SEEDS)
MATRICES = [IndicatorMatrix(name, TASKS, VALUES + RNG.normal(0, 0.5, (7, 7))) for name in ("x", "y", "z")]
TYPES = dict(zip(TASKS, "uuuuvvv", strict=True))


@pytest.mark.parametrize("scope", ["all", "same-type"])
@pytest.mark.parametrize("over_seeds", [False, True])
def test_groups_of_one_are_judged_as_correlate_does(scope: str, over_seeds: bool) -> None:
    options = {"scope": scope, "seed": 3, "over_seeds": over_seeds, "expanded": True, "permutations": 199}
    measured, orderings = gather(MATRICES, TRANSFER, Known(TYPES))
    on = bench(measured, TYPES, **options)  # type: ignore[arg-type]
    judged = judge(on, [[one] for one in orderings], list(METRICS))
    scopes = {"scopes": [options.pop("scope")]}
    report = correlate(MATRICES, TRANSFER, types=TYPES, **options, **scopes)  # type: ignore[arg-type]
    assert on.over_seeds is over_seeds
    assert len(report.scores) == len(orderings) * len(METRICS)
    for metric in METRICS:
        for one, found in zip(orderings, judged.estimates[metric], strict=True):
            expected = report.get(one.name, metric, scope=scope)
            for key in ("mean", "low", "high", "p", "n_targets", "n_skipped"):
                assert getattr(found, key) == getattr(expected, key), (one.name, metric, key)


def test_a_group_counts_as_the_mean_of_its_members() -> None:
    measured, orderings = gather(MATRICES, TRANSFER, Known(), [])
    on = bench(measured, None, permutations=199)
    judged = judge(on, [orderings[:2], orderings[2:]], ["spearman"])
    by_hand = np.array(
        [
            [
                spearmanr(np.delete(m.values[:, t], t), np.delete(TRANSFER.values[:, t], t))[0]
                for t in range(7)
            ]
            for m in MATRICES
        ]
    )
    pair, alone = judged.estimates["spearman"]
    np.testing.assert_allclose(judged.tables["spearman"][:, 0], [by_hand[:2].mean(axis=0), by_hand[2]])
    assert pair.mean == pytest.approx(by_hand[:2].mean())
    assert pair.spread == pytest.approx(by_hand[:2].mean(axis=1).std(ddof=1))
    assert (pair.low, pair.high) == pytest.approx(resampling.bootstrap_mean(by_hand[:2].mean(axis=0), 0)[1:])
    assert alone.spread is None
    assert pair.p is not None
    # Members are renamed alike: of a group of equals p is that of one of them.
    twice = judge(on, [[orderings[0]] * 3], ["spearman"]).estimates["spearman"][0]
    once = judge(on, [[orderings[0]]], ["spearman"]).estimates["spearman"][0]
    assert twice.p == once.p
    assert twice.spread == pytest.approx(0, abs=1e-12)


def test_holm_counts_groups_of_indicators_and_no_baselines() -> None:
    measured, orderings = gather(MATRICES, TRANSFER, Known(TYPES), ["random", "same_type"])
    on = bench(measured, TYPES, permutations=199)
    together = judge(on, [[one] for one in orderings], ["spearman"]).estimates["spearman"]
    alone = [judge(on, [[one]], ["spearman"]).estimates["spearman"][0].p for one in orderings]
    assert [one.p for one in together[:3]] == resampling.holm(alone[:3])
    assert together[3].p is None
    assert together[4].p == alone[4]


def test_clusters_are_drawn_whole() -> None:
    measured, orderings = gather(MATRICES, TRANSFER, Known(), [])
    plain = bench(measured, None, permutations=0)
    clusters = ("u", "u", "u", "v", "v", "w", "w")
    judged = judge(replace(plain, clusters=clusters), [[orderings[0]]], ["spearman"])
    found = judged.estimates["spearman"][0]
    values = judged.tables["spearman"][0, 0]
    expected = resampling.bootstrap_mean(values, 0, clusters=clusters)
    assert (found.mean, found.low, found.high) == expected
    assert found.p is None
    apart = judge(plain, [[orderings[0]]], ["spearman"]).estimates["spearman"][0]
    assert (apart.mean, apart.p) == (found.mean, None)
    assert (apart.low, apart.high) != (found.low, found.high)
