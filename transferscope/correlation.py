"""How well indicators predict measured transfer: IndicatorMatrix x TransferMatrix -> CorrelationReport.

A metric (`agreement.METRICS`) is computed among the sources S of each target, its own prompt left out unless
asked for, and the mean over targets is reported; "pooled" scores put the cells of all targets in one list
instead. A target whose indicator values (or whose measured values) are all equal has no rank correlation: it
is skipped and counted. A baseline that is constant for a target (no source of its type) is a random order
there.

Intervals are 95 % bootstrap intervals over targets (`resampling.bootstrap_mean`). p is one-sided, of renaming
the tasks (`resampling.relabellings`), for scopes by type only within types, and of indicators corrected by
Holm over all of them, for each metric and scope. Baselines: see `evidence`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from transferscope import agreement, agreement_tables, resampling
from transferscope.errors import InputError, suggest
from transferscope.evidence import SCOPES, Kind, Known, Measured, Ordering, OwnPrompt, Scope, gather
from transferscope.resampling import Difference, bootstrap_mean

if TYPE_CHECKING:
    from transferscope.comparison import IndicatorMatrix
    from transferscope.transfer import TransferMatrix

__all__ = ["CorrelationReport", "Score", "bootstrap_mean", "correlate", "regret_at_1", "spearman"]

Floats = NDArray[np.float64]
Aggregate = Literal["per-target", "pooled"]
AGGREGATES: tuple[Aggregate, ...] = ("per-target", "pooled")
# The others need a best source, which cells of several targets do not have.
POOLED_METRICS = ("spearman", "kendall", "pearson", "regret@1", "regret@3", "regret@5")
POOLED_RESAMPLES = 400  # each orders all cells anew


@dataclass(frozen=True)
class Score:
    """One number of the report: one indicator or baseline, one metric, over the targets that have it."""

    name: str
    kind: Kind
    scope: Scope
    aggregate: Aggregate
    metric: str
    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    n_targets: int
    n_skipped: int


@dataclass(frozen=True)
class CorrelationReport:
    """Scores of indicators and baselines against one measured protocol.

    `differences` are paired differences, where one ordering was named to compare all others with. `resampled`
    says what the intervals draw anew, and `expanded` whether they are widened for few targets.
    """

    protocol: str
    own_prompt: OwnPrompt
    targets: tuple[str, ...]
    scores: tuple[Score, ...]
    differences: tuple[Difference, ...] = ()
    resampled: Literal["targets", "targets and seeds"] = "targets"
    expanded: bool = False

    def get(
        self,
        name: str,
        metric: str = "spearman",
        *,
        scope: str = "all",
        aggregate: str = "per-target",
    ) -> Score:
        """The score of one indicator or baseline; InputError with the nearest name if it is not there."""
        wanted = (name, metric, scope, aggregate)
        for score in self.scores:
            if (score.name, score.metric, score.scope, score.aggregate) == wanted:
                return score
        known = [f"{s.name} {s.metric}" for s in self.scores if (s.scope, s.aggregate) == (scope, aggregate)]
        raise InputError(f"the report has no score {name!r} {metric!r}. {suggest(f'{name} {metric}', known)}")


@dataclass(frozen=True)
class _Plan:
    """How scores are computed: one record instead of seven arguments handed down."""

    metrics: tuple[str, ...]
    own_prompt: OwnPrompt
    types: Mapping[str, str] | None
    seed: int
    permutations: int
    expanded: bool
    values: Floats  # [1 + Q, S, T]: as measured, then under redrawn seeds


def correlate(
    matrices: Sequence[IndicatorMatrix],
    transfer: TransferMatrix,
    *,
    types: Mapping[str, str] | None = None,
    own_prompt: OwnPrompt = "excluded",
    baselines: Sequence[str] | None = None,
    seed: int = 0,
    metrics: Sequence[str] | None = None,
    scopes: Sequence[Scope] = ("all",),
    aggregates: Sequence[Aggregate] = ("per-target",),
    against: str | None = None,
    over_seeds: bool = False,
    expanded: bool = False,
    permutations: int = resampling.PERMUTATIONS,
    sizes: Mapping[str, int] | None = None,
    text_embedding: IndicatorMatrix | None = None,
    zero_shot: TransferMatrix | None = None,
) -> CorrelationReport:
    """How well each indicator, and each baseline beside it, orders the sources of a target.

    Sources and targets are those that the transfer matrix and every indicator matrix have in common. `types`
    maps a task to its type (same_type and scopes by type need it); `sizes`, `text_embedding` and `zero_shot`
    are what the baselines of these names read. `baselines` None takes all that can be computed, `metrics`
    None all. `against` names an indicator or baseline that all others are compared with, target by target.
    `over_seeds` redraws measured seeds too, where there are several; `expanded` widens intervals for few
    targets. `permutations` 0 leaves p out.

    Raises InputError: nothing in common, an unknown name, or a baseline or scope without what it needs.
    """
    _check("own_prompt", [own_prompt], ("excluded", "included"))
    _check("scope", scopes, SCOPES)
    _check("aggregate", aggregates, AGGREGATES)
    chosen = tuple(agreement.find(name).name for name in (metrics or agreement.METRICS))
    known = Known(types, sizes, text_embedding, zero_shot)
    measured, orderings = gather(matrices, transfer, known, baselines)
    seeds = over_seeds and len(measured.per_seed) > 1
    values = measured.versions(seed, redrawn=seeds)
    plan = _Plan(chosen, own_prompt, types, seed, permutations, expanded, values)
    scores, differences = _judged(plan, measured, orderings, scopes, aggregates, against)
    resampled: Literal["targets", "targets and seeds"] = "targets and seeds" if seeds else "targets"
    return CorrelationReport(
        measured.protocol,
        own_prompt,
        measured.targets,
        tuple(scores),
        tuple(differences),
        resampled,
        expanded,
    )


def _check(what: str, values: Sequence[str], allowed: Sequence[str]) -> None:
    for value in values:
        if value not in allowed:
            raise InputError(f"{what} is {value!r}. {suggest(value, allowed)}")


def spearman(x: Floats | None, y: Floats) -> float:
    """Rank correlation of x [S] and y [S], ties at average ranks; NaN where one of them is constant.

    x None stands for a random order, whose expectation is exactly 0.
    """
    return _single("spearman", x, y)


def regret_at_1(x: Floats | None, y: Floats) -> float:
    """Best of y [S] minus the mean of y where x [S] is largest; x None: a random order. NaN if S < 2."""
    return _single("regret@1", x, y)


def _single(metric: str, x: Floats | None, y: Floats) -> float:
    if len(y) < 2:
        return float("nan")
    if x is None:
        return float(agreement.chance(y[None], [metric])[metric][0])
    return float(agreement.evaluate(x[None], y[None], [metric])[metric][0, 0])


def _judged(
    plan: _Plan,
    measured: Measured,
    orderings: Sequence[Ordering],
    scopes: Sequence[Scope],
    aggregates: Sequence[Aggregate],
    against: str | None,
) -> tuple[list[Score], list[Difference]]:
    """The scores of every scope and aggregate, and the differences from `against` in the first scope."""
    scores: list[Score] = []
    differences: list[Difference] = []
    for scope in scopes:
        cells = measured.cells(plan.own_prompt, scope, plan.types)
        if "per-target" in aggregates:
            tables = agreement_tables.per_target(orderings, plan.values, cells, plan.metrics)
            scores += _per_target(plan, measured, orderings, cells, scope, tables)
            if against is not None and scope == scopes[0]:
                differences = paired_differences(orderings, against, tables, seed=plan.seed)
        if "pooled" in aggregates:
            scores += _pooled(plan, measured, orderings, cells, scope)
    return scores, differences


def _per_target(
    plan: _Plan,
    measured: Measured,
    orderings: Sequence[Ordering],
    cells: NDArray[np.bool_],
    scope: Scope,
    tables: agreement_tables.Tables,
) -> list[Score]:
    p = _p_values(plan, measured, orderings, cells, scope, tables)
    scores = []
    for i, one in enumerate(orderings):
        for metric in plan.metrics:
            observed, redrawn = tables[metric][i, 0], tables[metric][i, 1:]
            defined = np.isfinite(observed)
            mean, low, high = bootstrap_mean(
                observed[defined],
                plan.seed,
                replicates=redrawn[:, defined] if len(redrawn) else None,
                expanded=plan.expanded,
            )
            n = int(defined.sum())
            scores.append(
                Score(
                    *(one.name, one.kind, scope, "per-target", metric, mean, low, high, p[metric][i]),
                    n_targets=n,
                    n_skipped=len(defined) - n,
                )
            )
    return scores


def _p_values(
    plan: _Plan,
    measured: Measured,
    orderings: Sequence[Ordering],
    cells: NDArray[np.bool_],
    scope: Scope,
    tables: agreement_tables.Tables,
) -> dict[str, list[float | None]]:
    """For each metric one p for each ordering, those of indicators corrected together; none for random."""
    nothing: list[float | None] = [None] * len(orderings)
    if not plan.permutations:
        return dict.fromkeys(plan.metrics, nothing)
    # By type a cell's place says something before any indicator does, so names move only within a type.
    within = dict(plan.types or {}) if scope != "all" else None
    renamed = resampling.relabellings(
        measured.sources, measured.targets, plan.permutations, plan.seed, within=within
    )
    null = agreement_tables.null_means(orderings, measured, cells, renamed, plan.metrics)
    found = {}
    for metric in plan.metrics:
        higher = agreement.METRICS[metric].higher_is_better
        p = list(nothing)
        for i, one in enumerate(orderings):
            observed = tables[metric][i, 0]
            if one.values is not None and np.isfinite(observed).any():
                p[i] = resampling.p_value(
                    float(np.nanmean(observed)), null[metric][i], higher_is_better=higher
                )
        corrected = resampling.holm([v for v, o in zip(p, orderings, strict=True) if o.kind == "indicator"])
        where = [i for i, one in enumerate(orderings) if one.kind == "indicator"]
        for i, value in zip(where, corrected, strict=True):
            p[i] = value
        found[metric] = p
    return found


def _pooled(
    plan: _Plan,
    measured: Measured,
    orderings: Sequence[Ordering],
    cells: NDArray[np.bool_],
    scope: Scope,
) -> list[Score]:
    metrics = [metric for metric in plan.metrics if metric in POOLED_METRICS]
    targets = len(measured.targets)
    rng = np.random.default_rng(plan.seed)
    draws = rng.integers(targets, size=(POOLED_RESAMPLES, targets))
    whole = agreement_tables.pooled(orderings, plan.values[:1], cells, [np.arange(targets)], metrics)
    versions = plan.values[1:] if len(plan.values) > 1 else plan.values
    redrawn = agreement_tables.pooled(
        orderings, versions, cells, list(draws), [metric for metric in metrics if metric != "kendall"]
    )
    n = int(cells.any(axis=0).sum())
    levels = resampling.levels(targets) if plan.expanded and targets > 1 else resampling.LEVELS
    scores = []
    for i, one in enumerate(orderings):
        for metric in metrics:
            value = float(whole[metric][i, 0])
            low, high = None, None
            known = redrawn[metric][i] if metric in redrawn else np.array([])
            known = known[np.isfinite(known)]
            if len(known) and np.isfinite(value) and targets > 1:
                low, high = map(float, np.quantile(known, levels))
            mean = value if np.isfinite(value) else None
            ends = (scope, "pooled", metric, mean, low, high, None, n, targets - n)
            scores.append(Score(one.name, one.kind, *ends))  # type: ignore[arg-type]
    return scores


def paired_differences(
    orderings: Sequence[Ordering],
    against: str,
    tables: Mapping[str, Floats],
    *,
    seed: int,
    clusters: Sequence[Hashable] | None = None,
) -> list[Difference]:
    """Every ordering minus `against`, for every metric, over the targets that both have.

    The targets of one of the `clusters` [T] change signs together (None: every target alone). Raises
    InputError where nothing is called `against`.
    """
    names = [one.name for one in orderings]
    if against not in names:
        raise InputError(f"there is no indicator or baseline {against!r} here. {suggest(against, names)}")
    base = names.index(against)
    return [
        resampling.paired_difference(
            table[i, 0],
            table[base, 0],
            names=(name, against),
            metric=metric,
            seed=seed,
            higher_is_better=agreement.METRICS[metric].higher_is_better,
            clusters=clusters,
        )
        for i, name in enumerate(names)
        for metric, table in tables.items()
        if i != base
    ]
