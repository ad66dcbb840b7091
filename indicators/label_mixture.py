"""NLEEP: LEEP of the clusters of the features, for sources that have no head of their own."""

from __future__ import annotations

import math
import warnings

import numpy as np

from indicators.inputs import Array, ArrayLike, Float, InvalidInput
from indicators.label_inputs import EPS, centred, examples, matrix, one_hot
from indicators.label_probabilities import mean_log_expected
from indicators.registry import indicator

ENERGY = 0.8  # the share of the variance that the principal components keep
PER_CLASS = 5  # Gaussians for each class
MOST = 32  # principal components, at most: a full covariance of more is not to be had from a few examples
STEPS, TOLERANCE, RIDGE = 100, 1e-3, 1e-6  # of EM
DIGITS = 6


def principal(features: Float, energy: float = ENERGY, most: int = MOST) -> Float:
    """Scores [S, d] of the first principal components: that pass `energy` of the variance, d <= most."""
    left, values, _ = np.linalg.svd(centred(features), full_matrices=False)
    variance = values**2
    if not variance.any():
        return np.zeros((len(features), 1))
    kept = int(np.searchsorted(np.cumsum(variance) / variance.sum(), energy, side="right")) + 1
    kept = min(kept, most, int((values > 1e-10 * values[0]).sum()))
    return np.asarray(left[:, :kept] * values[:kept])


def mixture_posterior(scores: ArrayLike, components: int, *, seed: int = 0) -> Float:
    """p(z | x) [S, Z] of a Gaussian mixture with full covariances, by EM from k-means on scores [S, d].

    The start, the steps and their end are those of scikit-learn's GaussianMixture, `seed` its random_state.
    Each step is two matrix products with the squares and products of the scores [S, d (d + 1) / 2].
    """
    array = centred(matrix(scores, "scores", "S, d"))
    pairs = np.triu_indices(array.shape[1])
    squares = array[:, pairs[0]] * array[:, pairs[1]]
    shares = one_hot(_k_means(array, components, seed), components)
    before = -math.inf
    for _ in range(STEPS):
        shares, likelihood = _posterior(_log_joint(array, squares, pairs, shares))
        if abs(likelihood - before) < TOLERANCE:
            break
        before = likelihood
    return _posterior(_log_joint(array, squares, pairs, shares))[0]


def _posterior(logs: Float) -> tuple[Float, float]:
    """p(z | x) [S, Z] from ln p(z) p(x | z), and the mean of ln p(x)."""
    peak = logs.max(axis=1, keepdims=True)
    shares = np.exp(logs - peak)
    total = shares.sum(axis=1, keepdims=True)
    return shares / total, float((peak + np.log(total)).mean())


def _k_means(array: Float, components: int, seed: int) -> Array:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # Fewer different points than clusters: a fair start all the same.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return np.asarray(KMeans(n_clusters=components, n_init=1, random_state=seed).fit(array).labels_)


def _log_joint(array: Float, squares: Float, pairs: tuple[Array, Array], shares: Float) -> Float:
    """ln p(z) p(x | z) [S, Z] with the moments that the shares p(z | x) [S, Z] give each Gaussian."""
    width = array.shape[1]
    weights = shares.sum(axis=0) + 10 * EPS
    means = shares.T @ array / weights[:, None]
    covariances = np.empty((len(weights), width, width))
    covariances[:, pairs[0], pairs[1]] = covariances[:, pairs[1], pairs[0]] = (
        shares.T @ squares / weights[:, None]
    )
    covariances -= means[:, :, None] * means[:, None, :]
    covariances[:, np.arange(width), np.arange(width)] += RIDGE
    factors = np.linalg.cholesky(covariances)
    inverse = np.linalg.inv(factors)  # lower triangular
    precisions = inverse.transpose(0, 2, 1) @ inverse
    linear = np.einsum("zij,zj->zi", precisions, means)
    quadratic = precisions[:, pairs[0], pairs[1]] * np.where(pairs[0] == pairs[1], 1.0, 2.0)
    logs = squares @ quadratic.T - 2.0 * array @ linear.T + (linear * means).sum(axis=1)
    determinants = np.log(factors[:, np.arange(width), np.arange(width)]).sum(axis=1)  # ln |C| / 2
    return np.asarray(
        -0.5 * (logs + width * math.log(2.0 * math.pi)) - determinants + np.log(weights / weights.sum())
    )


@indicator(
    "nleep",
    family="label_scores",
    needs=("features", "labels"),
    convention="score",
    symmetric=False,
    bounds=(-math.inf, 0.0),
    chance="above -H(Y), the entropy of the target's classes, the more so the fewer examples a Gaussian has",
    self_value=None,
    zero_value=-math.log(2.0),
    degenerate=(
        "-H(Y) for constant features; as many Gaussians as there are different examples, at most, and then "
        "near 0; InvalidInput for one class"
    ),
    formula=(
        "LEEP of p(z | x), z the Gaussians of a mixture (full covariances, 5 for each class) fitted to the "
        "principal components that hold 80 % of the variance (32 at most)"
    ),
    source=(
        "Li et al., CVPR 2021 (N-LEEP), with the logarithm that public copies leave out; at most 32 "
        "components, scores divided by their spread and rounded to 6 digits, examples sorted first: their "
        "scale and order do not matter"
    ),
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
)
def nleep(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    per_class: int = PER_CLASS,
    energy: float = ENERGY,
    most: int = MOST,
    seed: int = 0,
) -> float:
    """LEEP of labels [S] given the clusters of features [S, D]; `seed` is that of k-means.

    >>> features = [[0.0, 0.0], [0.1, 0.0], [9.0, 9.0], [9.0, 9.1], [9.1, 9.0], [0.0, 0.1]]
    >>> round(nleep(features, [1, 1, 5, 5, 1, 1], per_class=1), 6)
    -0.318257
    """
    if per_class < 1 or most < 1 or not 0 < energy <= 1:
        raise InvalidInput(
            f"per_class={per_class}, most={most}, energy={energy}: at least 1, at least 1, and in (0, 1]"
        )
    array, classes, counts, _ = examples(features, labels)
    order = np.lexsort((classes, *array.T[::-1]))
    array, classes = array[order], classes[order]
    scores = principal(array, energy, most)
    spread = math.sqrt((scores**2).sum(axis=1).mean())
    # The start by k-means is often decided between equals: rounded, so that no last digit decides.
    scores = (scores / spread if spread > 0 else scores).round(DIGITS)
    components = min(per_class * len(counts), len(np.unique(scores, axis=0)))
    return mean_log_expected(mixture_posterior(scores, components, seed=seed), classes, counts)
