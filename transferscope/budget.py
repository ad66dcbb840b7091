"""Budget curves: what is lost when only the first k sources of an ordering are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from transferscope import agreement, agreement_tables, resampling
from transferscope.errors import InputError
from transferscope.evidence import Kind, Known, Ordering, OwnPrompt, Scope, gather

if TYPE_CHECKING:
    from transferscope.comparison import IndicatorMatrix
    from transferscope.transfer import TransferMatrix

LARGEST = 10


@dataclass(frozen=True)
class BudgetPoint:
    """Mean regret over targets of the best among the first k of one ordering, with its 95 % interval."""

    name: str
    kind: Kind
    k: int
    mean: float | None
    low: float | None
    high: float | None
    n_targets: int


@dataclass(frozen=True)
class BudgetReport:
    """Budget curves of all orderings against one protocol: one point for each ordering and k."""

    protocol: str
    own_prompt: OwnPrompt
    targets: tuple[str, ...]
    points: tuple[BudgetPoint, ...]
    expanded: bool = False

    def curve(self, name: str) -> tuple[BudgetPoint, ...]:
        """The points of one ordering, k ascending; InputError if it is not there."""
        found = tuple(point for point in self.points if point.name == name)
        if not found:
            raise InputError(f"no budget curve of {name!r}: there are {', '.join(self.names)}")
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The orderings, as they were given."""
        return tuple(dict.fromkeys(point.name for point in self.points))


def budget_curves(
    matrices: Sequence[IndicatorMatrix],
    transfer: TransferMatrix,
    *,
    types: Mapping[str, str] | None = None,
    own_prompt: OwnPrompt = "excluded",
    scope: Scope = "all",
    baselines: Sequence[str] | None = None,
    largest: int = LARGEST,
    seed: int = 0,
    over_seeds: bool = False,
    expanded: bool = False,
    sizes: Mapping[str, int] | None = None,
    text_embedding: IndicatorMatrix | None = None,
    zero_shot: TransferMatrix | None = None,
) -> BudgetReport:
    """Regret of the best of the first k measured, k = 1 .. `largest`, for each indicator and baseline.

    A curve ends where every source of every target is measured. Ties are averaged over their orders and the
    random order is its expectation. Arguments and errors as `correlation.correlate`; InputError for
    `largest` < 1.
    """
    if largest < 1:
        raise InputError(f"the largest budget is {largest}; at least one source is measured")
    known = Known(types, sizes, text_embedding, zero_shot)
    measured, orderings = gather(matrices, transfer, known, baselines)
    values = measured.values[None]
    if over_seeds and len(measured.per_seed) > 1:
        values = np.concatenate([values, resampling.redrawn(measured.per_seed, seed)])
    cells = measured.cells(own_prompt, scope, types)
    last = min(largest, int(cells.sum(axis=0).max()))
    budgets = range(1, last + 1)
    metrics = [agreement.regret_metric(k) for k in budgets]
    tables = agreement_tables.per_target(orderings, values, cells, metrics)
    points = [
        _point(one, k, tables[metric.name][i], seed, expanded)
        for i, one in enumerate(orderings)
        for k, metric in zip(budgets, metrics, strict=True)
    ]
    return BudgetReport(measured.protocol, own_prompt, measured.targets, tuple(points), expanded)


def _point(one: Ordering, k: int, table: agreement.Floats, seed: int, expanded: bool) -> BudgetPoint:
    """From regrets [1 + Q, T], as measured and under redrawn seeds."""
    defined = np.isfinite(table[0])
    mean, low, high = resampling.bootstrap_mean(
        table[0, defined],
        seed,
        replicates=table[1:, defined] if len(table) > 1 else None,
        expanded=expanded,
    )
    return BudgetPoint(one.name, one.kind, k, mean, low, high, int(defined.sum()))
