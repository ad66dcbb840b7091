"""What label scores accept and share: features, class ids and probabilities, checked; sizes, spectra, ties.

Letters: S examples, D hidden size, K classes of the target, Z columns of a source's head, r rank.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from indicators.inputs import Array, ArrayLike, Float, InvalidInput, numbers

EPS = float(np.finfo(float).eps)
ROW_SUM = 1e-2  # a softmax in bfloat16 is off by up to about this
TIED = 1e-9  # what is nearer than this to the best is as good as the best


class Examples(NamedTuple):
    """Features [S, D] float64, divided by 2**exponent so that the largest is about one; classes 0..K-1 [S].

    `counts` [K] has the number of examples of each class. The order of the classes is that of their ids.
    """

    features: Float
    classes: Array
    counts: Float
    exponent: int


class Thin(NamedTuple):
    """Centred features as U diag(s) V': U [S, r] orthonormal, s [r] > 0 descending; V is not kept."""

    left: Float
    values: Float


def examples(features: ArrayLike, labels: ArrayLike) -> Examples:
    """Features [S, D] and class ids [S], checked. Raises InvalidInput, also where all have one class."""
    array = matrix(features, "features")
    classes, counts = class_ids(labels, len(array), "features")
    if len(counts) < 2:
        raise InvalidInput(f"labels holds one class for all {len(array)} examples: at least two are needed")
    array, exponent = sized(array)
    return Examples(array, classes, counts, exponent)


def matrix(item: ArrayLike, label: str, axes: str = "S, D") -> Float:
    """A checked float64 array of two axes; InvalidInput otherwise."""
    return np.asarray(numbers(item, label, axes, (2,)), float)


def class_ids(labels: ArrayLike, rows: int, what: str) -> tuple[Array, Float]:
    """Class ids [S], any whole numbers, re-indexed to 0..K-1, and how many examples each class has [K]."""
    ids = whole(labels, rows, what)
    _, classes, counts = np.unique(ids, return_inverse=True, return_counts=True)
    return classes.reshape(-1), counts.astype(float)


def whole(labels: ArrayLike, rows: int, what: str) -> Array:
    """Class ids [S] as they came; InvalidInput unless they are whole numbers, one for each row of `what`."""
    ids = numbers(labels, "labels", "S", (1,))
    if len(ids) != rows:
        raise InvalidInput(f"labels is {list(ids.shape)} and {what} has {rows} rows: one label for each row")
    broken = ids != np.floor(ids) if ids.dtype.kind == "f" else np.zeros(rows, bool)
    if broken.any():
        place = int(np.argmax(broken))
        raise InvalidInput(f"labels holds {ids[place]} at [{place}]: class ids are whole numbers")
    return ids


def distributions(probabilities: ArrayLike) -> Float:
    """Probabilities [S, Z] as float64 rows that sum to one.

    Rows that are off by what a coarse softmax rounds are divided by their sum; InvalidInput for others.
    """
    array = matrix(probabilities, "probabilities", "S, Z")
    if (array < 0).any():
        row, column = (int(i) for i in np.argwhere(array < 0)[0])
        raise InvalidInput(
            f"probabilities holds {array[row, column]} at [{row}, {column}]: none may be negative"
        )
    with np.errstate(over="ignore"):
        total = array.sum(axis=1, keepdims=True)
    off = np.abs(total[:, 0] - 1.0) > ROW_SUM
    if off.any():
        place = int(np.argmax(off))
        raise InvalidInput(
            f"probabilities sums to {total[place, 0]:.4g} in row {place}: each row must sum to 1 "
            "(softmax of the logits, over the classes of the head)"
        )
    return np.asarray(array / total)


def sized(array: Float) -> tuple[Float, int]:
    """The array divided by a power of two that brings its largest entry to about 1, and the power."""
    exponent = int(np.frexp(np.abs(array).max())[1])
    return np.ldexp(array, -exponent), exponent


def centred(array: Float) -> Float:
    """Each column without its mean; exactly zero where it does not vary but for rounding."""
    moved = array - array.mean(axis=0)
    flat = np.abs(moved).max(axis=0) <= 16 * EPS * np.abs(array).max(axis=0)
    return np.asarray(np.where(flat, 0.0, moved))


def thin(array: Float) -> Thin:
    """The spectrum of the centred columns, without what the rounding of the columns adds to their rank."""
    left, values, _ = np.linalg.svd(centred(array), full_matrices=False)
    kept = values > max(array.shape) * EPS * np.linalg.norm(array)
    return Thin(left[:, kept], values[kept])


def one_hot(classes: Array, number: int) -> Float:
    """Indicators of the classes, float64 [S, K]."""
    return np.asarray((classes[:, None] == np.arange(number)).astype(float))


def class_means(array: Float, classes: Array, counts: Float) -> Float:
    """Mean row of each class, [K, D]."""
    sums = one_hot(classes, len(counts)).T @ array
    return np.asarray(sums / counts[:, None])


def share_of_best(votes: Float, classes: Array) -> float:
    """Accuracy of the column with most votes [S, K]; of m equal columns each counts as 1/m."""
    best = votes >= votes.max(axis=1, keepdims=True) - TIED
    own = best[np.arange(len(votes)), classes]
    return float(np.mean(own / best.sum(axis=1)))


def log_softmax(scores: Float) -> Float:
    """Logarithms of the softmax of each row."""
    moved = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(moved - np.log(np.exp(moved).sum(axis=1, keepdims=True)))
