"""How alike two models are in what they make of the same tasks: their matrices of tasks, their neurons.

Plain functions of whole matrices, not indicators of a pair of tasks. Both compare with what is left when the
tasks of one model are shuffled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations as orders

import numpy as np

from indicators.inputs import Array, ArrayLike, Float, InvalidInput
from indicators.kernels import average_ranks, unit
from indicators.representations import centred

DIGITS = 12  # as in `rsa`: what rounding alone parts is a tie


@dataclass(frozen=True)
class MatrixSimilarity:
    """Two models' task-similarity matrices compared over all pairs of different tasks.

    `p_value` is that of the Spearman correlation (Mantel test, one-sided: as large by shuffling the tasks).
    `exact` says that all orders of the tasks were tried, `permutations` how many orders were.
    """

    spearman: float
    pearson: float
    p_value: float
    tasks: int
    permutations: int
    exact: bool


@dataclass(frozen=True)
class NeuronAlignment:
    """Each neuron of a source model with its counterpart in a target model.

    `mapping` [N1] int64 is the target's neuron, -1 where there is none (N1 > N2); `correlations` [N1] float64
    that of the two profiles, NaN where there is none; `correlation` their mean. The baseline is the mean
    correlation of the best alignment after the target's tasks are shuffled: only what exceeds it is shared.
    """

    mapping: Array
    correlations: Float
    correlation: float
    baseline_mean: float
    baseline_std: float
    p_value: float
    permutations: int
    exact: bool


def matrix_similarity(
    source: ArrayLike, target: ArrayLike, *, permutations: int = 9999, seed: int = 0
) -> MatrixSimilarity:
    """Spearman and Pearson correlation of two matrices [T, T] of the same T tasks, with a Mantel test.

    The matrices need not be symmetric (a measured transfer is not); their diagonals are not read. All T!
    orders are tried where they are no more than `permutations`, else that many random ones. p = (1 + how many
    reach the value) / (1 + permutations), or the share of all orders.

    Source: Mantel, Cancer Research 1967; on ranks, Dietz, Systematic Zoology 1983. Raises InvalidInput (other
    shapes, fewer than 3 tasks, undefined values, values that are all equal).

    >>> a = [[0, 1, 2, 3], [1, 0, 4, 5], [2, 4, 0, 6], [3, 5, 6, 0]]
    >>> result = matrix_similarity(a, a)
    >>> result.spearman, round(result.p_value, 6), result.exact
    (1.0, 0.041667, True)
    """
    left, right = (_square(item, side) for item, side in ((source, "source"), (target, "target")))
    if left.shape != right.shape:
        raise InvalidInput(
            f"the source's matrix is {list(left.shape)} and the target's is {list(right.shape)}: "
            "both must be of the same tasks in the same order"
        )
    tasks = len(left)
    ranked, other = _ranked(left, "source"), _ranked(right, "target")
    value = float(np.clip(np.vdot(ranked, other), -1.0, 1.0))
    pearson = float(np.clip(np.vdot(_direction(left), _direction(right)), -1.0, 1.0))
    drawn = _shuffled(
        lambda order: float(np.vdot(ranked, other[np.ix_(order, order)])), tasks, permutations, seed
    )
    return MatrixSimilarity(value, pearson, _p_value(value, *drawn), tasks, len(drawn[0]), drawn[1])


def align_neurons(
    source: ArrayLike, target: ArrayLike, *, permutations: int = 19, seed: int = 0
) -> NeuronAlignment:
    """The one-to-one mapping of neurons whose profiles [T, N1] and [T, N2] over T tasks correlate best.

    A profile is what a neuron does in each task (its predictivity, its firing rate, ...). The mapping has the
    largest sum of Pearson correlations; each order that is tried costs one assignment, some seconds at
    N = 3,072. With few tasks the best of many neurons correlates by chance: read the value beside the
    baseline. A constant profile correlates 0 with all. Orders and p as in `matrix_similarity`.

    Source: Li et al., ICLR 2016 (convergent learning), section 3, there over inputs in place of tasks. Raises
    InvalidInput (other shapes, other tasks, fewer than 3, undefined values).

    >>> target = [[5, 2, 0], [4, 1, 1], [4, 0, 2], [3, 2, 3]]
    >>> aligned = align_neurons([[0, 4], [1, 2], [2, 0], [3, 4]], target)
    >>> aligned.mapping.tolist(), round(aligned.correlation, 6)
    ([2, 1], 1.0)
    """
    left, right = (_profiles(item, side) for item, side in ((source, "source"), (target, "target")))
    if len(left) != len(right):
        raise InvalidInput(
            f"the source's profiles are {list(left.shape)} and the target's are {list(right.shape)}: "
            "the tasks T (the rows) must agree"
        )
    a, b = unit(centred(left).T), unit(centred(right).T)  # [N, T]
    mapping, found = _assigned(a, b)

    def by_chance(order: Array) -> float:
        return float(np.nanmean(_assigned(a, b[:, order])[1]))

    values, exact = _shuffled(by_chance, len(left), permutations, seed)
    value = float(np.nanmean(found))
    others = values[1:] if exact else values  # the first of all orders is the one that was given
    spread = float(others.mean()), float(others.std())
    return NeuronAlignment(mapping, found, value, *spread, _p_value(value, values, exact), len(values), exact)


def _assigned(a: Float, b: Float) -> tuple[Array, Float]:
    """The best mapping of the rows of a [N1, T] to those of b [N2, T], both of norm 1 or 0; correlations."""
    from scipy.optimize import linear_sum_assignment  # here: importing it takes longer than all else

    correlations = np.clip(a @ b.T, -1.0, 1.0)
    rows, columns = linear_sum_assignment(correlations, maximize=True)
    mapping, found = np.full(len(a), -1, dtype=np.int64), np.full(len(a), np.nan)
    mapping[rows], found[rows] = columns, correlations[rows, columns]
    return mapping, found


def _shuffled(
    statistic: Callable[[Array], float], tasks: int, permutations: int, seed: int
) -> tuple[Float, bool]:
    """The statistic of each order of the tasks that is tried, and whether these are all."""
    if permutations < 1:
        raise InvalidInput(f"permutations={permutations!r}: at least 1 is needed")
    exact = math.factorial(tasks) <= permutations
    tried = _all(tasks) if exact else _some(tasks, permutations, seed)
    return np.array([statistic(order) for order in tried]), exact


def _all(tasks: int) -> Iterator[Array]:
    return (np.array(order) for order in orders(range(tasks)))


def _some(tasks: int, number: int, seed: int) -> Iterator[Array]:
    rng = np.random.default_rng(seed)
    return (rng.permutation(tasks) for _ in range(number))


def _p_value(value: float, shuffled: Float, exact: bool) -> float:
    reached = int((shuffled >= value - 10.0**-DIGITS).sum())
    return reached / len(shuffled) if exact else (1 + reached) / (1 + len(shuffled))


def _square(item: ArrayLike, side: str) -> Float:
    """A matrix as float64 [T, T] with a diagonal of 0."""
    array = np.asarray(item, float)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or len(array) < 3:
        raise InvalidInput(
            f"the {side}'s matrix is {list(array.shape)}: [T, T] of at least 3 tasks is needed"
        )
    array = array.copy()
    np.fill_diagonal(array, 0.0)
    _refuse_undefined(array, f"{side}'s matrix")
    return array


def _profiles(item: ArrayLike, side: str) -> Float:
    array = np.asarray(item, float)
    if array.ndim != 2 or array.size == 0 or len(array) < 3:
        raise InvalidInput(
            f"the {side}'s profiles are {list(array.shape)}: [T, N] of at least 3 tasks is needed"
        )
    _refuse_undefined(array, f"{side}'s profiles")
    return array


def _refuse_undefined(array: Float, what: str) -> None:
    bad = ~np.isfinite(array)
    if bad.any():
        place = [int(i) for i in np.argwhere(bad)[0]]
        raise InvalidInput(f"the {what} hold {array[tuple(place)]} at {place}: leave out what is undefined")


def _direction(matrix: Float) -> Float:
    """The entries off the diagonal, centred, the whole of norm 1, [T, T] with a diagonal of 0."""
    off = ~np.eye(len(matrix), dtype=bool)
    result = np.zeros_like(matrix)
    result[off] = unit(centred(matrix[off][:, None])[:, 0])
    return result


def _ranked(matrix: Float, side: str) -> Float:
    """`_direction` of the ranks of the entries off the diagonal."""
    off = ~np.eye(len(matrix), dtype=bool)
    values = matrix[off] / (np.abs(matrix).max() or 1.0)
    if not _direction(matrix).any():
        raise InvalidInput(f"the {side}'s matrix is constant off its diagonal: it orders no pairs of tasks")
    ranks = np.zeros_like(matrix)
    ranks[off] = average_ranks(np.asarray(np.round(values, DIGITS), float))
    return _direction(ranks)
