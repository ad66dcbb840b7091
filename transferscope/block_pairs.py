"""All pairs of a library's tasks, block by block: the upper triangle is computed, the lower is its mirror."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transferscope import packed, sketches
from transferscope.errors import InputError
from transferscope.files import TEMPORARY_PREFIX, TEMPORARY_SUFFIX
from transferscope.sketches import Measure
from transferscope.stacked import Column, task_means, with_itself
from transferscope.stored import Stored

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Result = NDArray[np.float32]
Progress = Callable[[str, int, int, str], None]

ROWS = 2048  # of a block: large enough for a matrix product, small enough for many in memory


@dataclass(frozen=True)
class AllPairs:
    """``values`` [n, n] float32 of all pairs of ``tasks``, memory-mapped where they are in a file.

    ``kernel`` is what counted the neurons that two tasks share.
    """

    indicator: str
    tasks: tuple[str, ...]
    values: Result
    kernel: str


def all_pairs(
    stored: Stored,
    indicator: str,
    *,
    out: Path | None = None,
    kernel: str | None = None,
    rows: int = ROWS,
    progress: Progress | None = None,
) -> AllPairs:
    """`library.Library.all_pairs`, on one reading of a library; memory is that of a block of `rows` rows with
    another, and of the result if it is not written to a file.
    """
    measure = sketches.measure(indicator)
    column = stored.column_for(indicator, measure.column, measure.need)
    if kernel is None:
        sample = column.stack.take(column.rows(column.known[: packed.SAMPLE])[: packed.SAMPLE])
        kernel = "gemm" if sample.dtype.kind == "f" else packed.fastest(sample)  # type: ignore[arg-type]
    size = (len(column.known), len(column.known))
    blocks = _Blocks(stored, column, measure, kernel, rows, progress)
    if out is None:
        values: Result = np.empty(size, np.float32)
        blocks.fill(values)
    else:
        values = _written(out, size, blocks.fill)
    return AllPairs(indicator, tuple(stored.entries[place].task for place in column.known), values, kernel)


def _written(out: Path, size: tuple[int, int], fill: Callable[[Result], None]) -> Result:
    """What `fill` makes as a .npy file, which is whole or not there; mapped."""
    if out.suffix != ".npy":
        raise InputError(f"the pairs are written to a .npy file, and {str(out)!r} is none")
    out.parent.mkdir(parents=True, exist_ok=True)
    mark = f"{TEMPORARY_PREFIX}pairs-{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    temporary = out.parent / mark
    try:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=size)
        fill(array)
        array.flush()
        del array
        os.replace(temporary, out)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    mapped: Result = np.load(out, mmap_mode="r", allow_pickle=False)
    return mapped


@dataclass(frozen=True)
class _Blocks:
    """How all pairs of the tasks that have rows in a column are computed."""

    stored: Stored
    column: Column
    measure: Measure
    kernel: str
    rows: int
    progress: Progress | None

    def fill(self, values: Result) -> None:
        """Write means over pairs of trials to values [n, n]. Raises StoreError: not finite."""
        tasks = self.column.known
        blocks = list(_cut(self.column.count[tasks], self.rows))
        done, total = 0, len(blocks) * (len(blocks) + 1) // 2
        for i, one in enumerate(blocks):
            left = _Rows(self.column, tasks[one])
            for other in blocks[i:]:
                right = left if other is one else _Rows(self.column, tasks[other])
                means = self._values(left, right)
                if not np.isfinite(means).all():
                    raise self.stored.not_finite()
                values[one, other] = means
                if other is not one:
                    values[other, one] = means.T
                done += 1
                if self.progress is not None:
                    self.progress("pairs", done, total, "blocks")

    def _values(self, left: _Rows, right: _Rows) -> Floats:
        """Means over pairs of trials [S, T] of two blocks."""
        if left.rows.dtype.kind == "f":
            shared: Floats = left.rows.astype(np.float64) @ right.rows.astype(np.float64).T
        else:
            shared = packed.shared(left.rows, right.rows, self.kernel).astype(np.float64)
        values = self.measure.value(shared, left.sizes, right.sizes, self.stored.known.neurons)
        if (left.count == 1).all() and (right.count == 1).all():
            return values
        means = task_means(values, left.count, right.count)
        if right is left:
            ends = np.cumsum(left.count)
            for place in np.flatnonzero(left.count > 1):
                own = slice(ends[place] - left.count[place], ends[place])
                means[place, place] = with_itself(values[own, own])
        return means


class _Rows:
    """The rows of some tasks, the sizes of their sets, and how many rows each task has."""

    def __init__(self, column: Column, tasks: Integers) -> None:
        rows = column.rows(tasks)
        self.count = column.count[tasks]
        self.rows: Any = column.stack.take(rows)
        self.sizes = column.sizes(rows)


def _cut(counts: Integers, rows: int) -> Iterator[slice]:
    """Tasks that follow each other, of at most so many rows together; one task at least."""
    first, held = 0, 0
    for place, count in enumerate(counts):
        if held and held + count > rows:
            yield slice(first, place)
            first, held = place, 0
        held += int(count)
    yield slice(first, len(counts))
