"""The stored tasks nearest to a signature, to a stored task, or to an array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from transferscope import needs, packed, sketches
from transferscope.errors import InputError
from transferscope.sketches import Measure
from transferscope.stacked import Column, task_means, with_itself
from transferscope.stored import Stored

if TYPE_CHECKING:
    from transferscope.signatures import Signature

Array = NDArray[Any]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

ROWS_AT_ONCE = 4096  # stored rows that a query reads at a time


@dataclass(frozen=True)
class Match:
    """One stored task and its value for what was asked; larger is closer."""

    rank: int
    task: str
    value: float
    type: str | None
    trials: int
    source: str


@dataclass(frozen=True)
class Nearest:
    """The stored tasks nearest to ``target``, best first, of ``compared`` that could be compared."""

    target: str
    model: str
    indicator: str
    compared: int
    matches: tuple[Match, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Asked:
    """A query: its rows, the sizes of their sets [R, G], and the place of its stored copy if there is one."""

    name: str
    rows: Array
    sizes: Floats
    copy: int | None = None


def nearest(
    stored: Stored, query: Signature | str | Array, k: int, indicator: str, *, itself: bool = False
) -> Nearest:
    """`library.Library.query`, on one reading of a library."""
    if k < 1:
        raise InputError(f"the {k} nearest tasks are asked for: at least one is needed")
    measure, index = sketches.measure(indicator), stored.known
    column = stored.column_for(indicator, measure.column, measure.need)
    asked = _asked(stored, column, query, indicator, measure)
    values = _values(column, measure, asked, index.neurons)
    if asked.copy is not None and itself:
        values[column.known == asked.copy] = _own(column, measure, asked.copy, index.neurons)
    if not np.isfinite(values).all():
        raise stored.not_finite()
    others = np.full(len(values), True) if itself else column.known != asked.copy
    matches = _best(stored, values[others], column.known[others], k)
    without = len(stored.entries) - len(column.known)
    notes = (f"{without} stored tasks have no {measure.need} and are left out.",) if without else ()
    return Nearest(asked.name, index.model, indicator, int(others.sum()), matches, notes)


def _asked(stored: Stored, column: Column, query: Any, indicator: str, measure: Measure) -> _Asked:
    """Raises IndicatorInputError (the query has not what is read), SignatureError (it does not fit)."""
    record, index = needs.record(indicator), stored.known
    if isinstance(query, str):
        place = stored.place(query)
        rows = column.rows(np.array([place]))
        if not len(rows):
            raise needs.refuse(record, query, "classification", [measure.need])
        return _Asked(query, column.stack.take(rows), column.sizes(rows), place)
    if isinstance(query, np.ndarray):
        return _Asked("the query", *sketches.rows_of_array(query, measure, index))
    sketch = sketches.of_signature(query)
    sketches.check_fits(sketch, index)
    found = sketch.columns[measure.column]
    if not len(found):
        kind = str(query.provenance.get("kind") or "classification")
        raise needs.refuse(record, query.task, kind, [measure.need])
    same = (i for i, one in enumerate(stored.entries) if one.fingerprint == sketch.entry.fingerprint)
    return _Asked(query.task, found, sketches.sizes(sketch, measure), next(same, None))


def _values(column: Column, measure: Measure, asked: _Asked, neurons: int) -> Floats:
    """The value of each task that has rows: the mean over pairs of trials, float64 [tasks]."""
    every = column.rows(column.known)
    found = np.empty((len(asked.rows), len(every)))
    for first in range(0, len(every), ROWS_AT_ONCE):
        part = every[first : first + ROWS_AT_ONCE]
        shared = _shared(asked.rows, column.stack.take(part))
        found[:, first : first + len(part)] = measure.value(shared, asked.sizes, column.sizes(part), neurons)
    return task_means(found, np.array([len(asked.rows)]), column.count[column.known])[0]


def _shared(rows: Array, stored: Array) -> Floats:
    """How many neurons they share; of directions, the inner product."""
    if stored.dtype.kind == "f":
        return np.asarray(rows.astype(np.float64) @ stored.astype(np.float64).T)
    return packed.shared_with(rows, stored)


def _own(column: Column, measure: Measure, place: int, neurons: int) -> float:
    """The value of a stored task with itself."""
    rows = column.rows(np.array([place]))
    taken, sizes = column.stack.take(rows), column.sizes(rows)
    return with_itself(measure.value(_shared(taken, taken), sizes, sizes, neurons))


def _best(stored: Stored, values: Floats, places: Integers, k: int) -> tuple[Match, ...]:
    """The k highest; of equal ones the first by name, so that the order of storing does not matter."""
    k = min(k, len(values))
    if not k:
        return ()
    least = np.partition(values, len(values) - k)[len(values) - k]
    chosen = [(-values[i], stored.entries[places[i]]) for i in np.flatnonzero(values >= least)]
    chosen.sort(key=lambda one: (one[0], one[1].task))
    return tuple(
        Match(rank, entry.task, float(-value), entry.type, entry.trials, entry.source)
        for rank, (value, entry) in enumerate(chosen[:k], start=1)
    )
