"""Scores from distances between the target's examples: kNN leave-one-out, PARC."""

from __future__ import annotations

import numpy as np

from indicators.inputs import Array, ArrayLike, Float, InvalidInput, choice
from indicators.kernels import average_ranks, unit
from indicators.label_inputs import centred, examples, one_hot, share_of_best
from indicators.registry import indicator

BLOCK = 512  # rows of distances in memory at a time
NEAR = 1e-12  # squared distances that differ by less, as a share of the squared norms, are equal


@indicator(
    "knn_loo",
    family="label_scores",
    needs=("features", "labels"),
    convention="score",
    symmetric=False,
    bounds=(0.0, 1.0),
    chance="the sum of squared shares of the classes for k = 1: 1 / K where they are balanced",
    self_value=None,
    zero_value=0.0,
    degenerate=(
        "constant features: the share of the largest class, but 0 where the classes are balanced, since "
        "leaving an example out makes its class the rarer one; InvalidInput for one class"
    ),
    formula=(
        "share of examples whose class has most votes among the k nearest others (Euclidean); those at the "
        "k-th distance share the places left; classes with equal votes share the point"
    ),
    source=(
        "k nearest neighbours as in Bolya et al., NeurIPS 2021, k = 1; an example is excluded by its index, "
        "where the public code drops the nearest row, which may be a duplicate; as a share, not in percent"
    ),
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
)
def knn_loo(features: ArrayLike, labels: ArrayLike, *, k: int = 1) -> float:
    """Leave-one-out accuracy of the k nearest neighbours on features [S, D] and class ids [S].

    >>> knn_loo([[0.0], [1.0], [4.0], [5.0], [5.1]], [0, 0, 1, 1, 0])
    0.6
    """
    if k < 1:
        raise InvalidInput(f"k={k}: at least one neighbour is needed")
    array, classes, counts, _ = examples(features, labels)
    array = centred(array)
    indicators = one_hot(classes, len(counts))
    places = min(k, len(array) - 1)
    votes = np.vstack(
        [
            _nearest(array, start, min(start + BLOCK, len(array)), places) @ indicators
            for start in range(0, len(array), BLOCK)
        ]
    )
    return share_of_best(votes, classes)


def _nearest(array: Float, start: int, stop: int, places: int) -> Float:
    """How much of a vote each example has for the rows start..stop-1, [rows, S]; rows sum to `places`."""
    norms = (array**2).sum(axis=1)
    squared = norms[start:stop, None] + norms - 2.0 * (array[start:stop] @ array.T)
    squared[np.arange(stop - start), np.arange(start, stop)] = np.inf
    last = np.partition(squared, places - 1, axis=1)[:, places - 1 : places]
    equal = NEAR * (norms[start:stop, None] + norms.max())
    closer = squared < last - equal
    tied = ~closer & (squared <= last + equal)
    left = places - closer.sum(axis=1, keepdims=True)
    return np.asarray(closer + tied * (left / tied.sum(axis=1, keepdims=True)))


@indicator(
    "parc",
    family="label_scores",
    needs=("features", "labels"),
    convention="score",
    symmetric=False,
    bounds=(-100.0, 100.0),
    chance="0",
    self_value=None,
    zero_value=0.0,
    degenerate=(
        "0 where all distances of features are alike (constant features, one dimension) or all labels "
        "differ; constant features are left out; InvalidInput for one class"
    ),
    formula=(
        "100 times the Spearman correlation, over pairs of examples, of 1 - corr(f_i, f_j), features "
        "standardised, and 1 - corr of their one-hot labels: whether the classes differ"
    ),
    source=(
        "Bolya et al., NeurIPS 2021, eq. (3), without their PCA to 32 dimensions; distances that agree to "
        "12 digits are ties"
    ),
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
)
def parc(features: ArrayLike, labels: ArrayLike, *, ties: str = "exact") -> float:
    """Pairwise annotation representation comparison of features [S, D] with class ids [S].

    `ties` "published" is what public code computes: two examples of one class are at 0 or, by rounding, at
    2e-16, and are ranked apart, so that the value changes when classes are renamed.

    >>> round(parc([[0.0, 1.0], [0.2, 0.9], [1.0, 0.0], [0.9, 0.1]], [0, 0, 1, 1]), 6)
    100.0
    """
    array, classes, _, _ = examples(features, labels)
    choice(ties, "ties", ("exact", "published"))
    rows = _standardised(array)
    distances, differ = _pairs(rows, classes)
    if ties == "published":
        return 100.0 * _published_parc(distances, classes)
    return 100.0 * _spearman_with_flags(distances, differ)


def _published_parc(distances: Float, classes: Array) -> float:
    """Spearman of the distances with 1 - corr of one-hot labels as they are computed, rounding and all."""
    labels = np.asarray(1.0 - np.corrcoef(np.eye(int(classes.max()) + 1)[classes]))
    ranks = [average_ranks(side) for side in (distances, labels[np.triu_indices(len(classes), 1)])]
    left, right = (unit(side - side.mean()) for side in ranks)
    return float(np.clip(left @ right, -1.0, 1.0))


def _standardised(array: Float) -> Float:
    """Columns of unit variance (0 where constant), then rows without their mean and of unit norm (or 0)."""
    columns = centred(array)
    spread = np.sqrt((columns**2).mean(axis=0))
    columns = columns / np.where(spread > 0, spread, 1.0)
    rows = columns - columns.mean(axis=1, keepdims=True)
    norms = np.sqrt((rows**2).sum(axis=1, keepdims=True))
    alike = norms <= 1e-13 * np.sqrt((columns**2).sum(axis=1, keepdims=True))
    return np.asarray(np.where(alike, 0.0, rows / np.where(alike, 1.0, norms)))


def _pairs(rows: Float, classes: Array) -> tuple[Float, Array]:
    """1 - corr of each pair i < j, rounded so that ties are ties, and whether the classes differ."""
    count = len(rows)
    distances, differ = np.empty(count * (count - 1) // 2), np.empty(count * (count - 1) // 2, bool)
    place = 0
    for start in range(0, count, BLOCK):
        block = rows[start : start + BLOCK] @ rows.T
        for i, row in enumerate(block, start):
            stop = place + count - i - 1
            distances[place:stop] = np.round(1.0 - row[i + 1 :], 12)
            differ[place:stop] = classes[i + 1 :] != classes[i]
            place = stop
    return distances, differ


def _spearman_with_flags(values: Float, flags: Array) -> float:
    """Spearman correlation of values with booleans; 0 where either does not vary. Ties have mean ranks."""
    order = np.argsort(values)
    values, flags = values[order], flags[order]
    starts = np.flatnonzero(np.concatenate([[True], values[1:] > values[:-1]]))
    sizes = np.diff(np.append(starts, len(values))).astype(float)
    ranks = starts + (sizes - 1.0) / 2.0 - (len(values) - 1.0) / 2.0  # of each group of ties, mean 0
    raised = np.add.reduceat(flags.astype(float), starts)
    share = raised.sum() / len(values)
    norm = np.sqrt((sizes * ranks**2).sum() * len(values) * share * (1.0 - share))
    return float(np.clip((ranks * raised).sum() / norm, -1.0, 1.0)) if norm > 0 else 0.0
