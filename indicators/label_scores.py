"""Scores from second moments of the features and the target's labels: H-score, TransRate."""

from __future__ import annotations

import math

import numpy as np

from indicators.inputs import ArrayLike, Float, InvalidInput
from indicators.label_inputs import centred, class_means, examples, thin
from indicators.registry import indicator

DISTORTION = 1e-4
RATE = "R(Z) = ln|I + Z'Z / (n eps)| / 2, Z centred as a whole, eps = 1e-4"


@indicator(
    "h_score",
    needs=("features", "labels"),
    convention="score",
    symmetric=False,
    bounds=(0.0, math.inf),
    chance="(K - 1) r / (S - 1), r the rank of the features; at most min(K - 1, r)",
    self_value=None,
    zero_value=0.0,
    degenerate=(
        "0 for constant features; K - 1 where the rank is S - 1 (fewer examples than dimensions), whatever "
        "the labels: take the shrinkage form there; InvalidInput for one class"
    ),
    formula="tr(cov(f)^+ cov(E[f | y])), cov^+ the pseudo-inverse",
    source=(
        "Bao et al., ICIP 2019, definition 2; by the spectrum of the features, so that collinear ones count "
        "once; a product by entries in place of the matrix product, as in one public copy, is another number"
    ),
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
)
def h_score(features: ArrayLike, labels: ArrayLike) -> float:
    """H-score of features [S, D] for class ids [S]: how much of unit variances lies between classes.

    >>> round(h_score([[0.0], [1.0], [4.0], [5.0]], [0, 0, 1, 1]), 6)
    0.941176
    """
    array, classes, counts, _ = examples(features, labels)
    left = thin(array).left
    return float((counts[:, None] * class_means(left, classes, counts) ** 2).sum())


@indicator(
    "h_score_shrinkage",
    needs=("features", "labels"),
    convention="score",
    symmetric=False,
    bounds=(0.0, math.inf),
    chance="below that of `h_score`, the more so the fewer examples",
    self_value=None,
    zero_value=0.0,
    degenerate="0 for constant features; InvalidInput for one class",
    formula=(
        "tr(cov_a(f)^-1 (1 - a) cov(E[f | y])), cov_a = (1 - a) cov(f) + a tr(cov(f))/D I, a by Ledoit & Wolf"
    ),
    source=(
        "Ibrahim et al., ECML-PKDD 2022, eq. (8), with cov(f) divided by S and cov(E[f | y]) by S - 1 as in "
        "public code; a depends on the data, so compare only on the same examples"
    ),
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
)
def h_score_shrinkage(features: ArrayLike, labels: ArrayLike) -> float:
    """H-score of features [S, D] and class ids [S] with a covariance shrunk to a multiple of the identity.

    >>> round(h_score_shrinkage([[0.0], [1.0], [4.0], [5.0]], [0, 0, 1, 1]), 6)
    1.254902
    """
    array, classes, counts, _ = examples(features, labels)
    (rows, width), (left, values) = array.shape, thin(array)
    if not len(values):
        return 0.0
    variances = values**2 / rows  # of cov(f), the other D - r are 0
    mean = variances.sum() / width
    shrinkage = _ledoit_wolf(((left * values) ** 2).sum(axis=1), variances, width)
    between = (counts[:, None] * class_means(left, classes, counts) ** 2).sum(axis=0) * values**2 / (rows - 1)
    return float(((1 - shrinkage) * between / ((1 - shrinkage) * variances + shrinkage * mean)).sum())


def _ledoit_wolf(norms: Float, variances: Float, width: int) -> float:
    """The shrinkage in [0, 1] of Ledoit & Wolf 2004, from |x|^2 of centred rows and the nonzero variances."""
    mean = variances.sum() / width
    squares = (variances**2).sum()
    delta = squares - width * mean**2
    beta = ((norms**2).mean() - squares) / len(norms)
    return float(np.clip(beta / delta, 0.0, 1.0)) if delta > 1e-14 * squares else 0.0


@indicator(
    "transrate",
    needs=("features", "labels"),
    convention="score",
    symmetric=False,
    bounds=(0.0, math.inf),
    chance="above 0: it grows with D K / S, so compare only features of one width on the same examples",
    self_value=None,
    zero_value=0.0,
    degenerate="0 for constant features; InvalidInput for one class",
    formula=f"R(Z) - sum over classes of n_c/n R(Z_c), {RATE}",
    source=(
        "Huang et al., ICML 2022, eqs. (4) to (6); eps is given, not chosen for each data set as in the "
        "authors' code, which also divides by the rank"
    ),
    requires_equal_rows=True,
    rows="aligned",
    scale="none",
)
def transrate(features: ArrayLike, labels: ArrayLike, *, eps: float = DISTORTION) -> float:
    """TransRate of features [S, D] for class ids [S]: coding rate of all less that within classes.

    >>> round(transrate([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0], [0.0, -2.0]], [0, 0, 1, 1], eps=1.0), 6)
    0.293893
    """
    total, rates, counts = _rates(features, labels, eps)
    return max(total - float((counts * rates).sum() / counts.sum()), 0.0)


@indicator(
    "transrate_classes",
    needs=("features", "labels"),
    convention="score",
    symmetric=False,
    bounds=(-math.inf, math.inf),
    chance="that of `transrate` for balanced classes; for others even below that of shuffled labels",
    self_value=None,
    zero_value=0.0,
    degenerate="0 for constant features; InvalidInput for one class",
    formula=f"R(Z) - mean over the K classes of R(Z_c), {RATE}",
    source="the variant of Huang et al., ICML 2022, in public code (tllib): a class weighs 1/K, not n_c/n",
    requires_equal_rows=True,
    rows="aligned",
    scale="none",
)
def transrate_classes(features: ArrayLike, labels: ArrayLike, *, eps: float = DISTORTION) -> float:
    """TransRate of features [S, D] for class ids [S] with the same weight for each class.

    >>> features = [[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0], [0.0, -2.0]]
    >>> round(transrate_classes(features, [0, 0, 1, 1], eps=1.0), 6)
    0.293893
    """
    total, rates, _ = _rates(features, labels, eps)
    return total - float(rates.mean())


def _rates(features: ArrayLike, labels: ArrayLike, eps: float) -> tuple[float, Float, Float]:
    """R of all examples, R of each class [K], and the sizes of the classes [K]."""
    if not (math.isfinite(eps) and eps > 0):
        raise InvalidInput(f"eps={eps!r}: a positive number is needed")
    array, classes, counts, exponent = examples(features, labels)
    array = centred(array)
    parts = [array[classes == k] for k in range(len(counts))]
    rates = [_coding_rate(part, eps, exponent) for part in (array, *parts)]
    return rates[0], np.array(rates[1:]), counts


def _coding_rate(rows: Float, eps: float, exponent: int) -> float:
    """ln|I + Z'Z / (n eps)| / 2, Z = 2**exponent rows; by logarithms, so that no square overflows."""
    values = np.linalg.svd(rows, compute_uv=False)
    logs = 2.0 * (np.log(values[values > 0]) + exponent * math.log(2.0)) - math.log(len(rows) * eps)
    return float(0.5 * np.logaddexp(0.0, logs).sum())
