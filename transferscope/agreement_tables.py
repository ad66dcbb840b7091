"""Orderings x measured transfer -> every metric of every target: observed, redrawn, under no relation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transferscope import agreement
from transferscope.evidence import Measured, Ordering

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]
Integers = NDArray[np.int64]
Tables = dict[str, Floats]


@dataclass(frozen=True)
class _Group:
    """Orderings (by index) and versions of the measured values (by index) that have the same sources [S]."""

    orderings: Integers
    versions: Integers
    sources: Booleans


def per_target(
    orderings: Sequence[Ordering],
    values: Floats,
    cells: Booleans,
    metrics: Sequence[str | agreement.Metric],
) -> Tables:
    """Each metric [N, Q, T] of N orderings, of Q versions of the measured values [Q, S, T], in cells [S, T].

    NaN where a metric is not defined for a target. A baseline that is constant among a target's sources
    is a random order there; an indicator that is constant has no rank correlation.
    """
    versions, _, targets = values.shape
    names = [one.name for one in agreement.chosen(metrics)]
    found = {name: np.full((len(orderings), versions, targets), np.nan) for name in names}
    for target in range(targets):
        y = np.where(cells[:, target], values[:, :, target], np.nan)
        for name, table in _one_target(orderings, target, y, metrics).items():
            found[name][:, :, target] = table
    return found


def null_means(
    orderings: Sequence[Ordering],
    measured: Measured,
    cells: Booleans,
    relabelled: tuple[Integers, Integers],
    metrics: Sequence[str | agreement.Metric],
) -> Tables:
    """Each metric's mean over targets [N, B] after B renamings of the tasks of all orderings.

    `relabelled`: what source [B, S] and target [B, T] of the ordering stands in a place
    (`resampling.relabellings`). What moves is the measured values: so an ordering is ranked once a column.
    """
    rows, columns = relabelled
    draws, targets = columns.shape
    y = np.where(cells, measured.values, np.nan)
    back = np.argsort(rows, axis=1)
    names = [one.name for one in agreement.chosen(metrics)]
    total = {name: np.zeros((len(orderings), draws)) for name in names}
    count = {name: np.zeros((len(orderings), draws)) for name in names}
    for target in range(targets):
        place = np.argmax(columns == target, axis=1)
        moved = y[back, place[:, None]]
        for name, table in _one_target(orderings, target, moved, metrics).items():
            defined = np.isfinite(table)
            total[name] += np.where(defined, table, 0.0)
            count[name] += defined
    return {
        name: np.divide(
            total[name], count[name], out=np.full_like(total[name], np.nan), where=count[name] > 0
        )
        for name in names
    }


def pooled(
    orderings: Sequence[Ordering],
    values: Floats,
    cells: Booleans,
    picks: Sequence[Integers],
    metrics: Sequence[str | agreement.Metric],
) -> Tables:
    """Each metric [N, B] over the cells of all drawn targets in one list; `picks`: B lists of targets.

    `values` [Q, S, T]: each draw takes the next version in turn.
    """
    names = [one.name for one in agreement.chosen(metrics)]
    found = {name: np.full((len(orderings), len(picks)), np.nan) for name in names}
    for b, chosen in enumerate(picks):
        y = np.where(cells, values[b % len(values)], np.nan)[:, chosen].T.reshape(1, -1)
        flat = [
            Ordering(
                one.name, one.kind, None if one.values is None else one.values[:, chosen].T.reshape(-1, 1)
            )
            for one in orderings
        ]
        for name, table in _one_target(flat, 0, y, metrics).items():
            found[name][:, b] = table[:, 0]
    return found


def _one_target(
    orderings: Sequence[Ordering], target: int, y: Floats, metrics: Sequence[str | agreement.Metric]
) -> Tables:
    """Each metric [N, Q] in one target's column; y [Q, S] is NaN where a cell is not judged."""
    names = [one.name for one in agreement.chosen(metrics)]
    found = {name: np.full((len(orderings), len(y)), np.nan) for name in names}
    columns = np.array([_column(one, target, y.shape[1]) for one in orderings]).reshape(-1, y.shape[1])
    for group in _groups(np.isfinite(columns), np.isfinite(y)):
        x, measured = columns[group.orderings][:, group.sources], y[group.versions][:, group.sources]
        baseline = np.array([orderings[i].kind == "baseline" for i in group.orderings])
        constant = np.ptp(x, axis=1) == 0 if x.shape[1] else np.ones(len(x), dtype=bool)
        random = baseline & constant
        for name, values in _values(x[~random], measured, metrics).items():
            found[name][np.ix_(group.orderings[~random], group.versions)] = values
        if random.any():
            for name, chances in agreement.chance(measured, metrics).items():
                found[name][np.ix_(group.orderings[random], group.versions)] = chances
    return found


def _values(x: Floats, y: Floats, metrics: Sequence[str | agreement.Metric]) -> Tables:
    return agreement.evaluate(x, y, metrics) if len(x) else {}


def _column(ordering: Ordering, target: int, sources: int) -> Floats:
    return np.zeros(sources) if ordering.values is None else ordering.values[:, target]


def _groups(x: Booleans, y: Booleans) -> Iterator[_Group]:
    """What is defined, x [N, S] and y [Q, S], in groups that are alike in both."""
    left, of_left = _alike(x)
    right, of_right = _alike(y)
    for i, one in enumerate(left):
        for j, other in enumerate(right):
            yield _Group(np.flatnonzero(of_left == i), np.flatnonzero(of_right == j), one & other)


def _alike(rows: Booleans) -> tuple[Booleans, Integers]:
    packed = np.packbits(rows, axis=1)
    first: dict[bytes, int] = {}
    # Far quicker than np.unique of rows, and there are few patterns.
    index = np.array([first.setdefault(row.tobytes(), len(first)) for row in packed], dtype=np.int64)
    patterns = np.array([rows[np.argmax(index == i)] for i in range(len(first))], dtype=bool)
    return patterns.reshape(len(first), rows.shape[1]), index
