"""Distances of what two tasks are made of: embedded texts [S, D], and firing rates of neurons [L, N].

Texts are embedded by the bare model, so no prompt is needed; the sides may differ in their number of rows.
Inputs are brought to a scale of about one first, so that squares neither overflow nor vanish.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from indicators.inputs import ArrayLike, Float, InvalidInput, same_shape, same_width, tables
from indicators.kernels import both
from indicators.registry import indicator

__all__ = [
    "brought_to_one",
    "embedded",
    "firing_wasserstein",
    "frechet",
    "gaussian_distance",
    "mmd",
    "proxy_a",
    "sliced_wasserstein",
]

SAME = 1e-13  # squared distances below this share of the squared norms are rounding: the rows are the same
ROUNDING = 1e-13  # two means of entries of about one that are nearer than this are the same


@indicator(
    "mmd",
    needs="inputs",
    symmetric=True,
    bounds=(-2.0, 2.0),
    higher_is_closer=False,
    chance="0 on average over samples of the same distribution, whatever S1 and S2; also below 0",
    self_value=None,
    zero_value=0.0,
    degenerate=(
        "where half of the distances are 0 the bandwidth is the median of the others; 0 where all rows are "
        "the same; one row on a side is refused"
    ),
    formula=(
        "mean over i != j of k(x_i, x_j) + the same of y - 2 mean over i, j of k(x_i, y_j), "
        "k(x, y) = exp(-|x - y|^2 / (2 s^2)), s the median distance of all pairs of the S1 + S2 rows"
    ),
    source="Gretton et al., JMLR 2012, Lemma 6: the unbiased estimate of the squared distance, not its root",
    requires_equal_rows=False,
    rows="free",
    scale="both",
)
def mmd(source: ArrayLike, target: ArrayLike, *, bandwidth: float | None = None) -> float:
    """Squared maximum mean discrepancy of two samples [S1, D] and [S2, D]: unbiased, so it can be below 0.

    `bandwidth` is s; by default each pair has its own, so pass one to compare pairs in the same units. Holds
    all distances in memory. Raises InvalidInput for a side of one row or a bandwidth that is not above 0.

    >>> round(mmd([[0.0], [1.0]], [[2.0], [3.0]], bandwidth=1.0), 4)
    0.7689
    """
    x, y, power = embedded(source, target)
    _at_least_two(x, y, "mmd")
    if bandwidth is not None and not 0 < bandwidth < np.inf:
        raise InvalidInput(f"bandwidth={bandwidth!r}: a finite number above 0 is needed")
    centre = (x.mean(axis=0) + y.mean(axis=0)) / 2
    x, y = x - centre, y - centre
    squared = [_pairs(_squared(x, x)), _pairs(_squared(y, y)), _squared(x, y).ravel()]
    width = _median_root(squared) if bandwidth is None else float(np.ldexp(bandwidth, -power))
    parts = [float(np.exp(item / (-2 * width**2)).mean()) for item in squared]
    return parts[0] + parts[1] - 2 * parts[2]


@indicator(
    "proxy_a",
    needs="inputs",
    symmetric=True,
    bounds=(-2.0, 2.0),
    higher_is_closer=False,
    chance="about 0, and a little below: a classifier of what cannot be told apart errs on half, or more",
    self_value=0.0,
    zero_value=0.0,
    degenerate="0 where the means of both sides agree; one row on a side is refused",
    formula=(
        "2 (1 - 2 e), e the mean of both sides' shares of rows that a linear classifier of the side gets "
        "wrong in cross-validation; a tie is half an error"
    ),
    source=(
        "Ben-David et al., NIPS 2006, proxy of the A-distance; here the classifier is Fisher's discriminant "
        "with a ridge, and errors are cross-validated, where others take one held-out split"
    ),
    requires_equal_rows=False,
    rows="free",
    scale="both",
)
def proxy_a(source: ArrayLike, target: ArrayLike, *, folds: int = 5, ridge: float = 0.1) -> float:
    """How well a linear classifier tells two samples [S1, D] and [S2, D] apart: 2 if without error.

    Rows are dealt to the folds by their distance from the centre of both sides, so that neither a seed nor
    the order of the rows matters; each side counts for one half whatever its size. `ridge` is a share of the
    mean variance. Raises InvalidInput for a side of one row, folds below 2 or a ridge that is not above 0.

    >>> proxy_a([[0.0], [1.0], [2.0]], [[7.0], [8.0], [9.0]])
    2.0
    """
    x, y, _ = embedded(source, target)
    _at_least_two(x, y, "proxy_a")
    if folds < 2 or not ridge > 0:
        raise InvalidInput(
            f"folds={folds!r}, ridge={ridge!r}: at least 2 folds and a ridge above 0 are needed"
        )
    centre = (x.mean(axis=0) + y.mean(axis=0)) / 2
    x, y = x - centre, y - centre
    number = min(folds, len(x), len(y))
    fold_x, fold_y = _dealt(x, number), _dealt(y, number)
    wrong_x, wrong_y = np.zeros(len(x)), np.zeros(len(y))
    for fold in range(number):
        out_x, out_y = fold_x == fold, fold_y == fold
        weights, middle = _discriminant(x[~out_x], y[~out_y], ridge)
        wrong_x[out_x] = _errors((x[out_x] - middle) @ weights)
        wrong_y[out_y] = _errors((middle - y[out_y]) @ weights)
    return float(2 * (1 - wrong_x.mean() - wrong_y.mean()))


@indicator(
    "frechet",
    needs="inputs",
    symmetric=True,
    bounds=(0.0, float("inf")),
    higher_is_closer=False,
    chance="0 in the limit of many rows of the same distribution; well above 0 where rows are few beside D",
    self_value=0.0,
    zero_value=0.0,
    degenerate="fewer rows than D give a singular covariance, one row a point: both are right, not special",
    formula="sqrt(|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^(1/2) C2 C1^(1/2))^(1/2))), means m and covariances C",
    source=(
        "Dowson and Landau, J. Multivariate Anal. 1982; its square is the Frechet inception distance (Heusel "
        "et al., NIPS 2017), there with covariances divided by S - 1 and here by S, the rows' own"
    ),
    requires_equal_rows=False,
    rows="free",
    scale="value",
)
def frechet(source: ArrayLike, target: ArrayLike) -> float:
    """Wasserstein distance of the Gaussians fitted to two samples [S1, D] and [S2, D]; not its square.

    Biased upwards in small samples: compare pairs of about the same numbers of rows.

    >>> round(frechet([[0.0], [2.0]], [[4.0], [8.0]]), 6)
    5.09902
    """
    x, y, power = embedded(source, target)
    return float(np.ldexp(gaussian_distance(x, y), power))


@indicator(
    "sliced_wasserstein",
    needs="inputs",
    symmetric=True,
    bounds=(0.0, float("inf")),
    higher_is_closer=False,
    chance="0 in the limit of many rows of the same distribution; above 0 in every sample",
    self_value=0.0,
    zero_value=0.0,
    degenerate="one row is a point; at D = 1 it is the Wasserstein distance itself",
    formula="(mean over directions u of W2(x u, y u)^2)^(1/2), W2 of one dimension by sorting",
    source=(
        "Rabin et al., SSVM 2011; Bonneel et al., J. Math. Imaging Vis. 2015. Directions are drawn for the "
        "dimensions in order of their variance, so that renaming the dimensions changes nothing"
    ),
    requires_equal_rows=False,
    rows="free",
    scale="value",
)
def sliced_wasserstein(
    source: ArrayLike, target: ArrayLike, *, directions: int = 200, seed: int = 0
) -> float:
    """Mean Wasserstein distance of two samples [S1, D] and [S2, D] projected to random directions.

    About 1 / sqrt(D) of the Wasserstein distance for two samples that differ by a shift. `seed` gives the
    directions. Raises InvalidInput for directions below 1.

    >>> round(sliced_wasserstein([[0.0], [1.0]], [[2.0], [4.0]]) ** 2, 6)
    6.5
    """
    x, y, power = embedded(source, target)
    if directions < 1:
        raise InvalidInput(f"directions={directions!r}: at least 1 is needed")
    order = np.argsort(x.var(axis=0) + y.var(axis=0) + (x.mean(axis=0) - y.mean(axis=0)) ** 2, kind="stable")
    normal = np.random.default_rng(seed).normal(size=(len(order), directions))
    axes = normal / np.sqrt((normal**2).sum(axis=0))
    squared = _squared_wasserstein(x[:, order] @ axes, y[:, order] @ axes)
    return float(np.ldexp(np.sqrt(squared.mean()), power))


def _firing_pairs(sources: Sequence[ArrayLike], targets: Sequence[ArrayLike]) -> Float:
    left, right = both(_sorted_rates, sources, targets)
    same_shape(left, right, "firing")
    return np.array([[np.abs(a - b).mean() for b in right] for a in left])


@indicator(
    "firing_wasserstein",
    needs="firing",
    symmetric=True,
    bounds=(0.0, 1.0),
    higher_is_closer=False,
    chance="0 for tasks under which as many neurons fire as often: which ones these are is not asked",
    self_value=0.0,
    zero_value=0.0,
    degenerate="none",
    formula="mean over layers of the W1 distance of the N firing rates: mean |a_(n) - b_(n)| of sorted rates",
    source="own: how far the activity of each layer is distributed alike",
    requires_equal_rows=True,
    rows="aligned",
    scale="value",
    pairwise=_firing_pairs,
)
def firing_wasserstein(source: ArrayLike, target: ArrayLike) -> float:
    """Wasserstein distance of a layer's firing rates, mean over layers; rates [L, N] in [0, 1].

    >>> round(firing_wasserstein([[0.1, 0.5, 0.9]], [[0.9, 0.2, 0.7]]), 6)
    0.1
    """
    return float(_firing_pairs([source], [target])[0, 0])


def _sorted_rates(items: Sequence[ArrayLike], side: str) -> list[Float]:
    return [np.sort(item, axis=-1) for item in tables(items, side, "firing", low=0.0, high=1.0)]


def embedded(source: ArrayLike, target: ArrayLike) -> tuple[Float, Float, int]:
    """Two checked samples [S1, D], [S2, D] of "inputs", as `brought_to_one`. Raises InvalidInput."""
    left, right = tables([source], "source", "inputs", "S, D"), tables([target], "target", "inputs", "S, D")
    same_width(left, right, "inputs")
    return brought_to_one(left[0], right[0])


def brought_to_one(x: Float, y: Float) -> tuple[Float, Float, int]:
    """Both arrays with entries of at most one, and the power of two that was taken out of both: exact."""
    power = int(np.frexp(max(np.abs(x).max(), np.abs(y).max()))[1])
    return np.ldexp(x, -power), np.ldexp(y, -power), power


def gaussian_distance(x: Float, y: Float) -> float:
    """W2 distance of the Gaussians with the means and covariances (divided by S) of [S1, D] and [S2, D].

    With C = A' A of each side, that of centred ones is min over rotations Q of |A1 - Q A2|. So no root of a
    matrix and no difference of traces is taken: equal samples are at 0, singular covariances no special case.
    """
    a, b = _root(x), _root(y)
    turn_a, _, turn_b = np.linalg.svd(a @ b.T)
    common = min(len(a), len(b))
    turned = turn_a.T @ a, turn_b @ b  # [k1, D], [k2, D]: the rows beyond the common ones have no partner
    apart = ((turned[0][:common] - turned[1][:common]) ** 2).sum()
    alone = sum((side[common:] ** 2).sum() for side in turned)
    return float(np.sqrt(((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum() + apart + alone))


def _root(x: Float) -> Float:
    """A [k, D] with A' A the covariance of the rows [S, D], k = min(S, D)."""
    centred = (x - x.mean(axis=0)) / np.sqrt(len(x))
    return centred if len(x) <= x.shape[1] else np.asarray(np.linalg.qr(centred, mode="r"))


def _at_least_two(x: Float, y: Float, name: str) -> None:
    for side, rows in ("source", x), ("target", y):
        if len(rows) < 2:
            raise InvalidInput(
                f"{side} inputs is {list(rows.shape)}: {name} needs at least 2 rows on each side"
            )


def _squared(x: Float, y: Float) -> Float:
    """Squared distances of all rows [S1, S2], of samples that were centred together."""
    size = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None, :]
    squared = x @ y.T
    squared *= -2
    squared += size
    size *= SAME
    squared[squared <= size] = 0.0
    return np.asarray(squared)


def _pairs(square: Float) -> Float:
    """What is above the diagonal of [S, S], as a vector: each pair of rows once."""
    return np.concatenate([row[i + 1 :] for i, row in enumerate(square)])


def _median_root(squared: list[Float]) -> float:
    """The median of the roots; of those above 0 where it is 0; 1 where all are."""
    every = np.concatenate(squared)
    middle = [(len(every) - 1) // 2, len(every) // 2]
    every.partition(middle)
    median = float(np.sqrt(every[middle]).mean())
    if median > 0:
        return median
    above = every[every > 0]
    return _median_root([above]) if len(above) else 1.0


def _dealt(rows: Float, folds: int) -> Float:
    """The fold of each row: 0, 1, ... in turn, by distance from the origin."""
    fold = np.empty(len(rows))
    fold[np.argsort((rows**2).sum(axis=1), kind="stable")] = np.arange(len(rows)) % folds
    return fold


def _discriminant(x: Float, y: Float, ridge: float) -> tuple[Float, Float]:
    """Fisher's direction [D], positive where the rows x are, and the point [D] half way between the means."""
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    spread = ((x - mean_x).T @ (x - mean_x) / len(x) + (y - mean_y).T @ (y - mean_y) / len(y)) / 2
    gap = mean_x - mean_y
    gap[np.abs(gap) < ROUNDING] = 0.0
    level = np.trace(spread) / len(gap)
    spread[np.diag_indices_from(spread)] += ridge * (level if level > 0 else 1.0)
    return np.linalg.solve(spread, gap), (mean_x + mean_y) / 2


def _errors(scores: Float) -> Float:
    """1 where the score is on the wrong side, 1/2 where it is on none."""
    return np.where(scores < 0, 1.0, np.where(scores > 0, 0.0, 0.5))


def _squared_wasserstein(x: Float, y: Float) -> Float:
    """Squared W2 of each column of [S1, R] and [S2, R]: quantile functions are steps, so a finite sum."""
    one, other = len(x), len(y)
    # In whole units of 1 / (S1 S2), so that no rounding parts two steps that coincide.
    ends = np.union1d(np.arange(1, one + 1) * other, np.arange(1, other + 1) * one)
    shares = np.diff(ends, prepend=0) / (one * other)
    gaps = np.sort(x, axis=0)[(ends - 1) // other] - np.sort(y, axis=0)[(ends - 1) // one]
    return np.asarray(shares @ gaps**2)
