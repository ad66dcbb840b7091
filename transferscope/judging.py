"""Orderings, alone or in groups, against measured values -> of each the mean over targets, interval and p.

What `correlation.correlate` computes of one ordering, for groups of orderings that count as one (an indicator
computed from several subsets of trials), and for targets that are drawn in clusters (one task on several
backbones). Numbers of a group of one, with no clusters, are those of `correlate`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from transferscope import agreement, agreement_tables, resampling
from transferscope.evidence import Measured, Ordering, OwnPrompt, Scope

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]
Integers = NDArray[np.int64]
Group = Sequence[Ordering]


@dataclass(frozen=True)
class Bench:
    """What orderings are judged on.

    ``versions`` [1 + Q, S, T] are the values as measured and under redrawn seeds, ``cells`` [S, T] those that
    are judged, ``renamed`` renamings of the tasks, as `resampling.relabellings` gives them (None: no p),
    ``clusters`` [T] targets that are drawn together (None: every target alone).
    """

    measured: Measured
    versions: Floats
    cells: Booleans
    renamed: tuple[Integers, Integers] | None = None
    clusters: tuple[Hashable, ...] | None = None
    seed: int = 0
    expanded: bool = False

    @property
    def over_seeds(self) -> bool:
        """Whether intervals draw the measured seeds anew, too."""
        return len(self.versions) > 1


@dataclass(frozen=True)
class Estimate:
    """Mean over targets, its 95 % interval, and p; ``spread``: standard deviation of a group's members."""

    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    n_targets: int
    n_skipped: int
    spread: float | None = None


@dataclass(frozen=True)
class Judged:
    """For each metric: ``tables`` [groups, 1 + Q, T] of values by target, and an estimate for each group."""

    tables: Mapping[str, Floats]
    estimates: Mapping[str, tuple[Estimate, ...]]


def bench(
    measured: Measured,
    types: Mapping[str, str] | None,
    *,
    own_prompt: OwnPrompt = "excluded",
    scope: Scope = "all",
    seed: int = 0,
    over_seeds: bool = False,
    expanded: bool = False,
    permutations: int = resampling.PERMUTATIONS,
) -> Bench:
    """The bench of one study, by the rules of `correlation.correlate`.

    Raises InputError: a scope by type where a type is not known.
    """
    values = measured.versions(seed, redrawn=over_seeds and len(measured.per_seed) > 1)
    cells = measured.cells(own_prompt, scope, types)
    renamed = None
    if permutations:
        # By type a cell's place says something before any indicator does: names move only within a type.
        within = dict(types or {}) if scope != "all" else None
        renamed = resampling.relabellings(
            measured.sources, measured.targets, permutations, seed, within=within
        )
    return Bench(measured, values, cells, renamed, None, seed, expanded)


def judge(on: Bench, groups: Sequence[Group], metrics: Sequence[str]) -> Judged:
    """Every group by every metric; a group's value for a target is the mean of those of its members.

    The p of groups of indicators are corrected by Holm over these groups, for each metric; those of
    baselines are not. A random order has none.
    """
    flat = [ordering for group in groups for ordering in group]
    ends = np.cumsum([0, *map(len, groups)])
    places = [slice(first, stop) for first, stop in pairwise(ends)]
    found = agreement_tables.per_target(flat, on.versions, on.cells, metrics)
    null = None
    if on.renamed is not None:
        null = agreement_tables.null_means(flat, on.measured, on.cells, on.renamed, metrics)
    tables, estimates = {}, {}
    for metric in metrics:
        members = [found[metric][place] for place in places]  # each [M, 1 + Q, T]
        tables[metric] = np.array([_mean(one) for one in members])
        p = [
            _p(one[:, 0], null[metric][place], group, metric) if null is not None else None
            for one, place, group in zip(members, places, groups, strict=True)
        ]
        corrected = iter(resampling.holm([v for v, g in zip(p, groups, strict=True) if _is_indicator(g)]))
        p = [next(corrected) if _is_indicator(g) else v for v, g in zip(p, groups, strict=True)]
        estimates[metric] = tuple(
            _estimate(on, table, several[:, 0], value)
            for table, several, value in zip(tables[metric], members, p, strict=True)
        )
    return Judged(tables, estimates)


def _is_indicator(group: Group) -> bool:
    return group[0].kind == "indicator"


def _mean(values: Floats) -> Floats:
    """Mean over the first axis of what is defined; NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)


def _p(observed: Floats, null: Floats, group: Group, metric: str) -> float | None:
    """Of members observed [M, T] with null means [M, B]: all of a group are renamed alike."""
    if any(one.values is None for one in group):
        return None
    value = float(_mean(_mean(observed.T)))
    higher = agreement.METRICS[metric].higher_is_better
    return resampling.p_value(value, _mean(null), higher_is_better=higher)


def _estimate(on: Bench, table: Floats, members: Floats, p: float | None) -> Estimate:
    """From a group's values [1 + Q, T] and those of its members as measured [M, T]."""
    defined = np.isfinite(table[0])
    mean, low, high = resampling.bootstrap_mean(
        table[0, defined],
        on.seed,
        clusters=None if on.clusters is None else [on.clusters[i] for i in np.flatnonzero(defined)],
        replicates=table[1:, defined] if on.over_seeds else None,
        expanded=on.expanded,
    )
    n = int(defined.sum())
    means = _mean(members.T)
    known = means[np.isfinite(means)]
    spread = float(known.std(ddof=1)) if len(known) > 1 else None
    return Estimate(mean, low, high, p, n, len(defined) - n, spread)
