"""Slow versions of the label scores, written like the formulas of their papers: loops over examples.

Matrices are inverted by numpy, and a mixture is fitted by scikit-learn; nothing here is from the package.
`SCORES` maps an indicator's name to its loop, which takes what the indicator takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Row = Sequence[float]
LN_2_PI = math.log(2 * math.pi)


def rows_of(array: Any) -> list[list[float]]:
    return np.asarray(array, float).tolist()


def indices(labels: Any) -> list[int]:
    """Class ids as 0, 1, ... in the order of the ids."""
    ids = [int(label) for label in np.asarray(labels)]
    order = sorted(set(ids))
    return [order.index(label) for label in ids]


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def mean_row(rows: Sequence[Row]) -> list[float]:
    return [mean(column) for column in zip(*rows, strict=True)]


def centre(rows: Sequence[Row]) -> list[list[float]]:
    middle = mean_row(rows)
    return [[value - m for value, m in zip(row, middle, strict=True)] for row in rows]


def members(rows: Sequence[Row], classes: Sequence[int], k: int) -> list[Row]:
    return [row for row, label in zip(rows, classes, strict=True) if label == k]


def dot(x: Row, y: Row) -> float:
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


# Evidence.


def evidence(X: np.ndarray, y: np.ndarray, ratio: float) -> float:
    """Eq. (4) of LogME over S, with alpha = ratio * beta and the beta that is best for this ratio."""
    S, D = X.shape
    m = np.linalg.solve(X.T @ X + ratio * np.eye(D), X.T @ y)
    beta = S / (((y - X @ m) ** 2).sum() + ratio * (m @ m))
    alpha = ratio * beta
    _, determinant = np.linalg.slogdet(alpha * np.eye(D) + beta * X.T @ X)
    value = S / 2 * math.log(beta) + D / 2 * math.log(alpha) - determinant / 2
    value -= beta / 2 * ((y - X @ m) ** 2).sum() + alpha / 2 * (m @ m) + S / 2 * LN_2_PI
    return float(value / S)


def best_evidence(X: np.ndarray, y: np.ndarray) -> float:
    from scipy.optimize import minimize_scalar

    scale = np.linalg.norm(X, 2) ** 2
    grid = np.linspace(math.log(1e-10), math.log(1e8), 200)
    values = [evidence(X, y, scale * math.exp(point)) for point in grid]
    at = int(np.argmax(values))
    bounds = grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)]
    found = minimize_scalar(
        lambda point: -evidence(X, y, scale * math.exp(point)), bounds=bounds, method="bounded"
    )
    no_weights = (math.log(len(y) / (y @ y)) - 1 - LN_2_PI) / 2
    return float(max(-found.fun, max(values), no_weights))


def logme(features: Any, labels: Any) -> float:
    X, targets = np.asarray(features, float), np.asarray(labels)
    if targets.ndim == 2 or (targets.dtype.kind == "f" and any(t != int(t) for t in targets)):
        return mean([best_evidence(X, column) for column in targets.reshape(len(X), -1).T])
    classes = np.array(indices(labels))
    return mean([best_evidence(X, (classes == k).astype(float)) for k in range(classes.max() + 1)])


# Probabilities.


def leep(probabilities: Any, labels: Any) -> float:
    theta, classes = rows_of(probabilities), indices(labels)
    total = 0.0
    for row, label in zip(theta, classes, strict=True):
        expected = 0.0
        for z, value in enumerate(row):
            joint = math.fsum(other[z] for other, k in zip(theta, classes, strict=True) if k == label)
            marginal = math.fsum(other[z] for other in theta)
            expected += joint / marginal * value if marginal > 0 else 0.0
        total += math.log(expected)
    return total / len(theta)


def nce(probabilities: Any, labels: Any) -> float:
    theta, classes = rows_of(probabilities), indices(labels)
    says = [row.index(max(row)) for row in theta]
    pairs = list(zip(classes, says, strict=True))
    return mean([math.log(pairs.count((k, z)) / says.count(z)) for k, z in pairs])


def etran_energy(logits: Any) -> float:
    return mean([math.log(math.fsum(math.exp(value) for value in row)) for row in rows_of(logits)])


def zero_shot_loss(probabilities: Any, labels: Any) -> float:
    own = [row[int(label)] for row, label in zip(rows_of(probabilities), labels, strict=True)]
    return -mean([math.log(value) if value > 0 else -math.inf for value in own])


def zero_shot_accuracy(probabilities: Any, labels: Any) -> float:
    points = []
    for row, label in zip(rows_of(probabilities), labels, strict=True):
        points.append((row[int(label)] == max(row)) / row.count(max(row)))
    return mean(points)


# Second moments.


def covariance(rows: Sequence[Row], divide: int) -> np.ndarray:
    moved = centre(rows)
    columns = list(zip(*moved, strict=True))
    return np.array([[dot(x, y) / divide for y in columns] for x in columns])


def expected_rows(rows: Sequence[Row], classes: Sequence[int]) -> list[list[float]]:
    """E[f | y] for each example."""
    return [mean_row(members(rows, classes, k)) for k in classes]


def h_score(features: Any, labels: Any) -> float:
    rows, classes = rows_of(features), indices(labels)
    inverse = np.linalg.pinv(covariance(rows, len(rows) - 1), rcond=1e-12, hermitian=True)
    return float(np.trace(inverse @ covariance(expected_rows(rows, classes), len(rows) - 1)))


def h_score_shrinkage(features: Any, labels: Any) -> float:
    """Ledoit and Wolf 2004, lemma 3.2 to theorem 3.1: m, d^2, b^2; |A|^2 is the sum of squares over D."""
    rows, classes = rows_of(features), indices(labels)
    S, D = len(rows), len(rows[0])
    cov, moved = covariance(rows, S), centre(rows)
    m = math.fsum(cov[i][i] for i in range(D)) / D
    d2 = math.fsum((cov[i][j] - m * (i == j)) ** 2 for i in range(D) for j in range(D)) / D
    b2 = 0.0
    for row in moved:
        b2 += math.fsum((row[i] * row[j] - cov[i][j]) ** 2 for i in range(D) for j in range(D)) / D
    a = min(b2 / S**2, d2) / d2 if d2 > 0 else 0.0
    if not cov.any():
        return 0.0
    shrunk = (1 - a) * cov + a * m * np.eye(D)
    between = covariance(expected_rows(rows, classes), S - 1)
    return float(np.trace(np.linalg.inv(shrunk) @ ((1 - a) * between)))


def coding_rate(rows: Sequence[Row], eps: float) -> float:
    Z = np.array(rows)
    return float(np.linalg.slogdet(np.eye(Z.shape[1]) + Z.T @ Z / (len(Z) * eps))[1] / 2)


def transrate(features: Any, labels: Any, eps: float = 1e-4) -> float:
    rows, classes = centre(rows_of(features)), indices(labels)
    parts = [members(rows, classes, k) for k in range(max(classes) + 1)]
    return coding_rate(rows, eps) - sum(len(p) / len(rows) * coding_rate(p, eps) for p in parts)


def transrate_classes(features: Any, labels: Any, eps: float = 1e-4) -> float:
    rows, classes = centre(rows_of(features)), indices(labels)
    parts = [members(rows, classes, k) for k in range(max(classes) + 1)]
    return coding_rate(rows, eps) - mean([coding_rate(part, eps) for part in parts])


# Gaussians.


def bhattacharyya_sum(features: Any, labels: Any, spherical: bool) -> float:
    rows, classes = rows_of(features), indices(labels)
    D, K = len(rows[0]), max(classes) + 1

    def variance(part: Sequence[Row], d: int) -> float:
        middle = mean([row[d] for row in part])
        return mean([(row[d] - middle) ** 2 for row in part])

    whole = [variance(rows, d) for d in range(D)]
    parts = [members(rows, classes, k) for k in range(K)]
    means = [mean_row(part) for part in parts]
    variances = [[max(variance(part, d), 1e-4 * whole[d]) for d in range(D)] for part in parts]
    if spherical:
        variances = [[mean(values)] * D for values in variances]
    total = 0.0
    for i in range(K):
        for j in range(K):
            distance = 0.0
            for d in range(D):
                vi, vj = variances[i][d], variances[j][d]
                if vi > 0 and vj > 0:
                    v = (vi + vj) / 2
                    distance += (means[i][d] - means[j][d]) ** 2 / (8 * v) + math.log(
                        v / math.sqrt(vi * vj)
                    ) / 2
            total += math.exp(-distance) if i != j else 0.0
    return -total


def gbc(features: Any, labels: Any) -> float:
    return bhattacharyya_sum(features, labels, spherical=False)


def gbc_spherical(features: Any, labels: Any) -> float:
    return bhattacharyya_sum(features, labels, spherical=True)


def softmax(values: Sequence[float]) -> list[float]:
    powers = [math.exp(value - max(values)) for value in values]
    return [power / math.fsum(powers) for power in powers]


def within_scatter(rows: Sequence[Row], classes: Sequence[int]) -> np.ndarray:
    parts = [members(rows, classes, k) for k in range(max(classes) + 1)]
    return sum(len(part) / len(rows) * covariance(part, len(part)) for part in parts)  # type: ignore[return-value]


def discriminant(rows: Sequence[Row], classes: Sequence[int], shrinkage: float) -> list[list[float]]:
    """p(k | x) of linear discriminant analysis."""
    scatter = within_scatter(rows, classes)
    D = len(scatter)
    shrunk = (1 - shrinkage) * scatter + shrinkage * np.trace(scatter) / D * np.eye(D)
    inverse = np.linalg.inv(shrunk)
    result = []
    for row in rows:
        scores = []
        for k in range(max(classes) + 1):
            part = members(rows, classes, k)
            m = np.array(mean_row(part))
            scores.append(float(row @ inverse @ m - m @ inverse @ m / 2) + math.log(len(part) / len(rows)))
        result.append(softmax(scores))
    return result


def sfda(features: Any, labels: Any, average: str = "log") -> float:
    rows, classes = rows_of(features), indices(labels)
    largest = np.linalg.eigvalsh(within_scatter(rows, classes)).max()
    shrinkage = max(math.exp(-5 * largest), 1e-10)
    K = max(classes) + 1
    means = [mean_row(members(rows, classes, k)) for k in range(K)]
    mixed = []
    for row, label, posterior in zip(rows, classes, discriminant(rows, classes, shrinkage), strict=True):
        q = softmax(posterior)[label]
        outer = mean_row([means[k] for k in range(K) if k != label])
        mixed.append([q * a + (1 - q) * b for a, b in zip(row, outer, strict=True)])
    final = discriminant(mixed, classes, shrinkage)
    own = [posterior[label] for posterior, label in zip(final, classes, strict=True)]
    return mean([math.log(p) for p in own] if average == "log" else own)


# Pairs of examples.


def knn_loo(features: Any, labels: Any, k: int = 1) -> float:
    rows, classes = rows_of(features), indices(labels)
    points = []
    for i, row in enumerate(rows):
        others = [(math.dist(row, rows[j]), classes[j]) for j in range(len(rows)) if j != i]
        last = sorted(distance for distance, _ in others)[min(k, len(others)) - 1]
        votes = [0.0] * (max(classes) + 1)
        closer = [label for distance, label in others if distance < last]
        tied = [label for distance, label in others if distance == last]
        for label in closer:
            votes[label] += 1
        for label in tied:
            votes[label] += (min(k, len(others)) - len(closer)) / len(tied)
        best = [label for label, vote in enumerate(votes) if vote > max(votes) - 1e-9]
        points.append((classes[i] in best) / len(best))
    return mean(points)


def correlation(x: Row, y: Row) -> float:
    a, b = [value - mean(x) for value in x], [value - mean(y) for value in y]
    norm = math.sqrt(dot(a, a) * dot(b, b))
    return dot(a, b) / norm if norm > 0 else 0.0


def ranks(values: Sequence[float]) -> list[float]:
    """Mean ranks, values within 1e-11 of each other being equal."""
    result = []
    for value in values:
        below = sum(other < value - 1e-11 for other in values)
        equal = sum(abs(other - value) <= 1e-11 for other in values)
        result.append(below + (equal + 1) / 2)
    return result


def parc(features: Any, labels: Any) -> float:
    columns = []
    for column in zip(*centre(rows_of(features)), strict=True):
        deviation = math.sqrt(mean([value**2 for value in column]))
        columns.append([value / deviation if deviation > 0 else 0.0 for value in column])
    rows, classes = list(zip(*columns, strict=True)), indices(labels)
    hot = [[float(k == label) for k in range(max(classes) + 1)] for label in classes]
    pairs = [(i, j) for i in range(len(rows)) for j in range(i + 1, len(rows))]
    left = ranks([1 - correlation(rows[i], rows[j]) for i, j in pairs])
    right = ranks([1 - correlation(hot[i], hot[j]) for i, j in pairs])
    return 100 * correlation(left, right)


# A probe and a mixture.


def linear_probe_cv(features: Any, labels: Any) -> float:
    """Ridge regression fitted anew without each example."""
    X, classes = np.array(centre(rows_of(features))), indices(labels)
    K = max(classes) + 1
    share = [classes.count(k) / len(classes) for k in range(K)]
    Y = np.array([[(k == label) - share[k] for k in range(K)] for label in classes])
    eigenvalues = [value for value in np.linalg.eigvalsh(X.T @ X) if value > 1e-12 * np.trace(X.T @ X)]
    best: tuple[float, list[np.ndarray]] = (math.inf, [])
    for power in range(-4, 4):
        a = 10.0**power * (mean(eigenvalues) if eigenvalues else 1.0)
        guesses = []
        for i in range(len(X)):
            rest = [j for j in range(len(X)) if j != i]
            weights = np.linalg.solve(X[rest].T @ X[rest] + a * np.eye(X.shape[1]), X[rest].T @ Y[rest])
            guesses.append(X[i] @ weights)
        error = sum(((guess - y) ** 2).sum() for guess, y in zip(guesses, Y, strict=True))
        if error < best[0]:
            best = error, guesses
    points = []
    for guess, label in zip(best[1], classes, strict=True):
        votes = [share[k] + guess[k] for k in range(K)]
        top = [k for k in range(K) if votes[k] > max(votes) - 1e-9]
        points.append((label in top) / len(top))
    return mean(points)


def nleep(features: Any, labels: Any) -> float:
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    both = sorted(zip(rows_of(features), indices(labels), strict=True))
    rows, classes = [row for row, _ in both], [label for _, label in both]
    if all(row == rows[0] for row in rows):
        return leep([[1.0] for _ in rows], classes)
    scores = PCA(0.8, svd_solver="full").fit_transform(rows)
    scores = (scores / math.sqrt(mean([dot(score, score) for score in scores.tolist()]))).round(6)
    components = min(5 * (max(classes) + 1), len({tuple(score) for score in scores.round(9).tolist()}))
    mixture = GaussianMixture(components, random_state=0).fit(scores)
    return leep(mixture.predict_proba(scores), classes)


SCORES: dict[str, Callable[..., float]] = {
    "logme": logme,
    "leep": leep,
    "nce": nce,
    "etran_energy": etran_energy,
    "zero_shot_loss": zero_shot_loss,
    "zero_shot_accuracy": zero_shot_accuracy,
    "h_score": h_score,
    "h_score_shrinkage": h_score_shrinkage,
    "transrate": transrate,
    "transrate_classes": transrate_classes,
    "gbc": gbc,
    "gbc_spherical": gbc_spherical,
    "sfda": sfda,
    "knn_loo": knn_loo,
    "parc": parc,
    "linear_probe_cv": linear_probe_cv,
    "nleep": nleep,
}
