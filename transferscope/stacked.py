"""Rows of several arrays as if they were one, memory-mapped and read piece by piece; which are whose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from transferscope import packed

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Array = NDArray[np.generic]


class Stack:
    """Arrays [n_i, W] one below the other; nothing is read before `take`."""

    def __init__(self, parts: Sequence[Array]) -> None:
        self.parts = tuple(parts)
        self.ends = np.cumsum([len(part) for part in self.parts], dtype=np.int64)

    def take(self, rows: Integers) -> Array:
        """These rows [m, W], in this order; with no copy where they follow each other in one part."""
        of = np.searchsorted(self.ends, rows, side="right")
        inside = rows - (self.ends - [len(part) for part in self.parts])[of]
        if len(rows) and (of == of[0]).all() and (np.diff(inside) == 1).all():
            return self.parts[of[0]][inside[0] : inside[-1] + 1]
        found = np.empty((len(rows), self.parts[0].shape[1]), self.parts[0].dtype)
        for number in np.unique(of):
            found[of == number] = self.parts[number][inside[of == number]]
        return found


@dataclass(frozen=True)
class Column:
    """What a library holds of n tasks under one name: the rows of task i are first[i] .. first[i]+count[i]-1.

    ``groups`` [rows, G] are the sizes of the sets in the rows, by group of neurons, or None: they are counted
    then, and G is 1. Rows that are no sets have sizes of 0.
    """

    stack: Stack
    first: Integers
    count: Integers
    groups: Stack | None = None

    @cached_property
    def known(self) -> Integers:
        """The places of the tasks that have rows here."""
        return np.flatnonzero(self.count)

    def rows(self, tasks: Integers) -> Integers:
        """All rows of these tasks, task by task."""
        return _ranges(self.first[tasks], self.count[tasks])

    @cached_property
    def _counted(self) -> Floats:
        """The sizes of all rows of packed sets, counted once: float64 [rows, 1]."""
        found = [packed.sizes(part) for part in self.stack.parts]  # type: ignore[arg-type]
        return np.concatenate(found)[:, None]

    def sizes(self, rows: Integers) -> Floats:
        """The sizes of the sets in these rows, float64 [m, G]."""
        if self.groups is None:
            return self._counted[rows]
        return self.groups.take(rows).astype(np.float64)


def _ranges(first: Integers, count: Integers) -> Integers:
    """first[0], first[0] + 1, ... (count[0] of them), then those of first[1], and so on."""
    ends = np.cumsum(count)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(first - (ends - count), count)


def task_means(values: Floats, left: Integers, right: Integers) -> Floats:
    """Means [S, T] of the blocks of values [sum left, sum right], `left` and `right` rows a task."""
    starts = [np.cumsum(count) - count for count in (left, right)]
    summed = np.add.reduceat(np.add.reduceat(values, starts[0], axis=0), starts[1], axis=1)
    return np.asarray(summed / np.outer(left, right))


def with_itself(block: Floats) -> float:
    """Mean of one task's own pairs [R, R]: those of different trials, where there are some."""
    if len(block) > 1:
        block = block[~np.eye(len(block), dtype=bool)]
    return float(block.mean())
