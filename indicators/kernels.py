"""The few formulas that several indicators share: unit vectors, common neurons, overlap of sets, ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from indicators.inputs import Array, Bool, Float

T = TypeVar("T")
R = TypeVar("R")

# float32 holds every integer up to here, so counts by a float32 matrix product are exact below it.
EXACT_FLOAT32 = 2**24


def both(read: Callable[[Sequence[T], str], R], sources: Sequence[T], targets: Sequence[T]) -> tuple[R, R]:
    """What `read(items, side)` makes of each side, once where both are the same: all pairs of one list.

    The result is then the same list twice, which what follows can see, too.
    """
    left = read(sources, "source")
    return left, left if targets is sources else read(targets, "target")


def unit(rows: Float) -> Float:
    """Each last axis divided by its norm; zero where it is zero."""
    peak = np.abs(rows).max(axis=-1, keepdims=True)
    # By the largest entry first: the squares then neither overflow nor vanish.
    scaled = rows / np.where(peak > 0, peak, 1.0)
    norm = np.sqrt((scaled * scaled).sum(axis=-1, keepdims=True))
    return np.asarray(scaled / np.where(norm > 0, norm, 1.0))


def flat(sets: Sequence[Bool]) -> Array:
    """Sets of neurons as 0/1 rows [items, cells] of a float type in which counts of cells are exact."""
    exact = np.float32 if sets[0].size < EXACT_FLOAT32 else np.float64
    return np.stack([item.ravel() for item in sets]).astype(exact)


def common(left: Array, right: Array) -> Float:
    """How many cells each pair has in common, [S, T], from 0/1 rows [S, cells] and [T, cells]."""
    return np.asarray((left @ right.T).astype(float))


def counts(sources: Sequence[Bool], targets: Sequence[Bool]) -> tuple[Float, Float, Float]:
    """|A and B| [S, T], |A| [S, 1] and |B| [1, T] of all pairs of sets."""
    left = flat(sources)
    # One array with itself is half the work: BLAS then makes one triangle.
    right = left if targets is sources else flat(targets)
    return common(left, right), _sizes(sources)[:, None], _sizes(targets)[None, :]


def ochiai(shared: Float, left: Float, right: Float) -> Float:
    """|A and B| / sqrt(|A| |B|), the cosine of two binary vectors; 0 where a set is empty."""
    norm = np.sqrt(left * right)
    return np.asarray(shared / np.where(norm > 0, norm, 1.0))


def jaccard(shared: Float, left: Float, right: Float) -> Float:
    """|A and B| / |A or B|; 0 where both sets are empty."""
    union = left + right - shared
    return np.asarray(shared / np.where(union > 0, union, 1.0))


def average_ranks(values: Float) -> Float:
    """Ranks 1..n of a vector; ties share their average."""
    _, inverse, repeats = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(repeats)
    return np.asarray((last - (repeats - 1) / 2.0)[inverse.reshape(-1)])


def _sizes(sets: Sequence[Bool]) -> Float:
    return np.array([int(item.sum()) for item in sets], float)
