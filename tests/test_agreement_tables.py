"""Tables of metrics: the quick way to the null distribution equals renaming the tasks one by one."""

from __future__ import annotations

import numpy as np
import pytest

from transferscope import agreement, agreement_tables, resampling
from transferscope.evidence import Measured, Ordering

SOURCES, TARGETS = ("a", "b", "c", "d", "e", "x"), ("d", "a", "c", "y", "b")
NAMES = list(agreement.METRICS)


@pytest.mark.parametrize("missing", [False, True])
def test_null_means_equal_renaming(missing: bool) -> None:
    rng = np.random.default_rng(0)
    values = np.round(rng.uniform(0.1, 1, (6, 5)), 1)
    several = [np.round(rng.random((6, 5)), 1), rng.random((6, 5)), np.ones((6, 5))]
    if missing:
        values[1, 0] = several[0][4, 3] = several[1][2, 2] = np.nan
    kinds = ("indicator", "indicator", "baseline")
    orderings = [Ordering(str(i), kind, x) for i, (kind, x) in enumerate(zip(kinds, several, strict=True))]
    measured = Measured("z", SOURCES, TARGETS, values, values[None])
    cells = measured.cells("excluded", "all", None)
    renamed = resampling.relabellings(SOURCES, TARGETS, 40, 0)
    found = agreement_tables.null_means(orderings, measured, cells, renamed, NAMES)
    for b, (rows, columns) in enumerate(zip(*renamed, strict=True)):
        moved = [Ordering(o.name, o.kind, o.values[np.ix_(rows, columns)]) for o in orderings]  # type: ignore[index]
        tables = agreement_tables.per_target(moved, values[None], cells, NAMES)
        for name, table in tables.items():
            for i in range(3):
                defined = table[i, 0][np.isfinite(table[i, 0])]
                expected = defined.mean() if len(defined) else np.nan
                np.testing.assert_allclose(found[name][i, b], expected, atol=1e-12, err_msg=name)


def test_a_constant_baseline_is_a_random_order_and_a_constant_indicator_is_not() -> None:
    values = np.random.default_rng(0).random((1, 6, 5))
    cells = np.ones((6, 5), dtype=bool)
    orderings = [Ordering("random", "baseline", None), Ordering("x", "indicator", np.ones((6, 5)))]
    found = agreement_tables.per_target(orderings, values, cells, ["spearman", "regret@1"])
    assert (found["spearman"][0] == 0).all()
    assert np.isnan(found["spearman"][1]).all()
    # A tie of all sources is a random order where ties are averaged.
    np.testing.assert_allclose(found["regret@1"][0], found["regret@1"][1])
