"""Scores that take each class for a Gaussian: GBC with diagonal and spherical covariances, SFDA."""

from __future__ import annotations

import math

import numpy as np

from indicators.inputs import ArrayLike, Float, choice
from indicators.label_inputs import Examples, centred, class_means, examples, log_softmax
from indicators.registry import indicator

FLOOR = 1e-4
ADAPTIVE = 5.0  # the rate at which SFDA's regularisation falls with the largest variance within classes
LEAST = 1e-10

PANDY = "Pándy et al., CVPR 2022, eqs. (2) to (4)"
GBC_SUM = "- sum over ordered pairs of classes i != j of exp(-B_ij)"
FLOORED = (
    "the floor of a variance is 1e-4 of the dimension's own over all examples, not 1e-4 whatever the scale"
)


@indicator(
    "gbc",
    family="label_scores",
    needs=("features", "labels"),
    convention="score",
    symmetric=False,
    bounds=(-math.inf, 0.0),
    chance="near -K (K - 1) for many examples of each class, which is also the lowest; above it for few",
    self_value=None,
    zero_value=-2.0,
    degenerate="-K (K - 1) for constant features; constant ones are left out; InvalidInput for one class",
    formula=(
        f"{GBC_SUM}, B = sum over dimensions of (mu_i - mu_j)^2 / (8 v) + ln(v / sqrt(v_i v_j)) / 2, "
        "v = (v_i + v_j) / 2, v_i the variances (1/n) of class i"
    ),
    source=f"{PANDY}, diagonal, without their PCA to 64 dimensions; {FLOORED}",
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
)
def gbc(features: ArrayLike, labels: ArrayLike) -> float:
    """Gaussian Bhattacharyya coefficient of features [S, D] for class ids [S]: how little classes overlap.

    >>> round(gbc([[0.0], [2.0], [4.0], [6.0]], [0, 0, 1, 1]), 6)
    -0.270671
    """
    return _overlap(examples(features, labels), spherical=False)


@indicator(
    "gbc_spherical",
    family="label_scores",
    needs=("features", "labels"),
    convention="score",
    symmetric=False,
    bounds=(-math.inf, 0.0),
    chance="near -K (K - 1) for many examples of each class, which is also the lowest; above it for few",
    self_value=None,
    zero_value=-2.0,
    degenerate="-K (K - 1) for constant features; InvalidInput for one class",
    formula=(
        f"{GBC_SUM}, B = |mu_i - mu_j|^2 / (8 v) + D ln(v / sqrt(v_i v_j)) / 2, v = (v_i + v_j) / 2, "
        "v_i the mean over dimensions of the variances (1/n) of class i"
    ),
    source=f"{PANDY}, spherical; the public code leaves out the factor D of the logarithm; {FLOORED}",
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
)
def gbc_spherical(features: ArrayLike, labels: ArrayLike) -> float:
    """Gaussian Bhattacharyya coefficient of features [S, D] for class ids [S], one variance for each class.

    >>> round(gbc_spherical([[0.0, 0.0], [2.0, 2.0], [4.0, 0.0], [6.0, 2.0]], [0, 0, 1, 1]), 6)
    -0.270671
    """
    return _overlap(examples(features, labels), spherical=True)


def _overlap(data: Examples, spherical: bool) -> float:
    array, classes, counts, _ = data
    array = centred(array)
    array = array[:, array.any(axis=0)] if not spherical else array
    means = class_means(array, classes, counts)
    variances = class_means((array - means[classes]) ** 2, classes, counts)
    # Classes that do not vary are as narrow as is allowed; where nothing varies at all none is apart.
    variances = np.maximum(variances, FLOOR * (array**2).mean(axis=0))
    width = 1
    if spherical:
        width, variances = variances.shape[1], variances.mean(axis=1, keepdims=True)
        variances = np.where(variances > 0, variances, 1.0)
    total = 0.0
    for i in range(len(counts)):
        middle = (variances + variances[i]) / 2.0  # [K, D] or [K, 1]
        apart = ((means - means[i]) ** 2 / middle).sum(axis=1) / 8.0
        unlike = np.log(middle) - (np.log(variances) + np.log(variances[i])) / 2.0
        total += float(np.delete(np.exp(-apart - width * unlike.sum(axis=1) / 2.0), i).sum())
    return -total


@indicator(
    "sfda",
    family="label_scores",
    needs=("features", "labels"),
    convention="score",
    symmetric=False,
    bounds=(-math.inf, 0.0),
    chance="at most -H(Y), the entropy of the target's classes, for many examples; near 0 where S < D",
    self_value=None,
    zero_value=-math.log(2.0),
    degenerate=(
        "-H(Y) for constant features; near 0 where the examples do not vary within classes, or are fewer "
        "than the dimensions; InvalidInput for one class"
    ),
    formula=(
        "mean over examples of ln p2(y | x'): p1 the posterior of linear discriminants with covariance "
        "(1 - a) S_w + a tr(S_w)/D I, a = exp(-5 times its largest eigenvalue), at least 1e-10; "
        "q = softmax(p1); x' = q_y x + (1 - q_y) times the mean of the other classes' means; "
        "p2 the posterior refitted on x'"
    ),
    source=(
        "Shao et al., ECCV 2022, with the logarithm, which the public code leaves out (average='probability' "
        "gives its number); the largest eigenvalue is exact, and the features are not written over"
    ),
    requires_equal_rows=True,
    rows="aligned",
    scale="none",
)
def sfda(features: ArrayLike, labels: ArrayLike, *, average: str = "log") -> float:
    """Self-challenging Fisher discriminant score of features [S, D] for class ids [S].

    `average="probability"` is the mean of p2(y | x') itself, in (0, 1], as in the public code.

    >>> features, labels = [[0.0], [1.0], [2.0], [3.0]], [5, 8, 5, 8]
    >>> sfda(features, labels) < sfda(features, sorted(labels)) < 0
    True
    """
    choice(average, "average", ("log", "probability"))
    array, classes, counts, exponent = examples(features, labels)
    means = class_means(array, classes, counts)
    within = _within(array - means[classes])
    with np.errstate(over="ignore"):  # no regularisation but the least
        largest = float(np.ldexp(np.linalg.eigvalsh(within)[-1], 2 * exponent))
    shrinkage = max(math.exp(-ADAPTIVE * max(largest, 0.0)), LEAST)
    first = np.exp(_log_posterior(array, means, within, counts, shrinkage))
    trust = np.exp(log_softmax(first))[np.arange(len(array)), classes][:, None]
    others = (means.sum(axis=0) - means) / (len(counts) - 1)
    mixed = trust * array + (1.0 - trust) * others[classes]
    means = class_means(mixed, classes, counts)
    second = _log_posterior(mixed, means, _within(mixed - means[classes]), counts, shrinkage)
    own = second[np.arange(len(array)), classes]
    return float(own.mean() if average == "log" else np.exp(own).mean())


def _within(rows: Float) -> Float:
    """The covariance within classes, [D, D], from rows without their class's mean."""
    return np.asarray(rows.T @ rows / len(rows))


def _log_posterior(array: Float, means: Float, within: Float, counts: Float, shrinkage: float) -> Float:
    """ln p(k | x) [S, K] of linear discriminants with the covariance shrunk to a multiple of the identity."""
    width, middle = len(within), array.mean(axis=0)
    scale = np.trace(within) / width
    if (
        scale <= LEAST * ((array - middle) ** 2).mean()
    ):  # classes without any variance, as far as rounding tells
        scale, within = LEAST * ((array - middle) ** 2).mean(), np.zeros_like(within)
    if scale == 0:
        return np.tile(np.log(counts / counts.sum()), (len(array), 1))
    shrunk = (1.0 - shrinkage) * within + shrinkage * scale * np.eye(width)
    if not within.any():
        shrunk = scale * np.eye(width)
    weights = np.linalg.solve(shrunk, (means - middle).T)  # [D, K]
    constant = -0.5 * ((means - middle) * weights.T).sum(axis=1) + np.log(counts / counts.sum())
    return log_softmax((array - middle) @ weights + constant)
