"""Budget curves: what is lost when only the first k sources of an ordering are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from transferscope import adaptive as gaussian_process
from transferscope import agreement, agreement_tables, resampling
from transferscope.errors import InputError, suggest
from transferscope.evidence import Kind, Known, Measured, Ordering, OwnPrompt, Scope, gather

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
    adaptive: Sequence[str] = (),
) -> BudgetReport:
    """Regret of the best of the first k measured, k = 1 .. `largest`, for each indicator and baseline.

    A curve ends where every source of every target is measured. Ties are averaged over their orders and the
    random order is its expectation. `adaptive` names indicators that also get a curve gp(NAME): the order in
    which a Gaussian process with this kernel chooses (`adaptive.order`); targets without a measured own
    prompt have none. Arguments and errors as `correlation.correlate`; InputError for `largest` < 1, and for
    an adaptive order with the own prompt among the sources.
    """
    if largest < 1:
        raise InputError(f"the largest budget is {largest}; at least one source is measured")
    known = Known(types, sizes, text_embedding, zero_shot)
    measured, orderings = gather(matrices, transfer, known, baselines)
    values = measured.versions(seed, redrawn=over_seeds and len(measured.per_seed) > 1)
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
    for name in adaptive:
        if own_prompt == "included":
            raise InputError(
                "an adaptive order starts from the own prompt's value: leave it out of the sources"
            )
        regrets = _adaptive(_named(matrices, name), measured, values, cells, last)  # [1 + Q, T, last]
        one = Ordering(f"gp({name})", "indicator", None)
        points += [_point(one, k, regrets[:, :, k - 1], seed, expanded) for k in budgets]
    return BudgetReport(measured.protocol, own_prompt, measured.targets, tuple(points), expanded)


def _named(matrices: Sequence[IndicatorMatrix], name: str) -> IndicatorMatrix:
    by_name = {matrix.indicator: matrix for matrix in matrices}
    if name not in by_name:
        raise InputError(f"no indicator {name!r} for an adaptive order. {suggest(name, by_name)}")
    return by_name[name]


def _adaptive(
    matrix: IndicatorMatrix,
    measured: Measured,
    values: agreement.Floats,
    cells: NDArray[np.bool_],
    last: int,
) -> agreement.Floats:
    """Regret of an adaptive order under each version of the measured values [V, S, T]: [V, T, last]."""
    correlations = gaussian_process.kernel(matrix)
    place = [matrix.tasks.index(source) for source in measured.sources]
    found = np.full((len(values), len(measured.targets), last), np.nan)
    for t, target in enumerate(measured.targets):
        row = measured.sources.index(target) if target in measured.sources else None
        candidates = np.flatnonzero(cells[:, t])
        if row is None or len(candidates) < 2:
            continue
        for version, column in enumerate(values[:, :, t]):
            if not column[row] > 0:  # also where it is not known
                continue
            relative = {place[s]: float(column[s] / column[row]) for s in candidates}
            order = gaussian_process.order(
                correlations, place[row], list(relative), relative.__getitem__, budget=last
            )
            reached = np.maximum.accumulate([relative[s] for s in order]) * column[row]
            lost = column[candidates].max() - reached
            found[version, t, : len(lost)] = lost
            found[version, t, len(lost) :] = 0.0
    return found


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
