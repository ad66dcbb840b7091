"""Slow versions of distances, task embeddings and neuron scores, written like their formulas.

Plain loops over floats. Optimal transport is by copying the rows until both sides have equally many, and the
best one-to-one assignment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

Vector = Sequence[float]
Rows = Sequence[Vector]


def listed(array: Any) -> Any:
    return np.asarray(array, float).tolist()


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def dot(x: Vector, y: Vector) -> float:
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def cosine(x: Vector, y: Vector) -> float:
    norm = math.sqrt(dot(x, x)) * math.sqrt(dot(y, y))
    return dot(x, y) / norm if norm > 0 else 0.0


def squared(x: Vector, y: Vector) -> float:
    return math.fsum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def mean_row(rows: Rows) -> list[float]:
    return [mean(column) for column in zip(*rows, strict=True)]


def minus(x: Vector, y: Vector) -> list[float]:
    return [a - b for a, b in zip(x, y, strict=True)]


def flat(rows: Any) -> list[float]:
    return [value for row in rows for value in row] if isinstance(rows[0], list) else list(rows)


# Distances of samples, [S, D].


def mmd(x: Rows, y: Rows, bandwidth: float | None = None) -> float:
    everyone = [*x, *y]
    gaps = [math.sqrt(squared(a, b)) for i, a in enumerate(everyone) for j, b in enumerate(everyone) if i < j]
    width = bandwidth or median(gaps) or median([gap for gap in gaps if gap > 0] or [1.0])

    def kernel(a: Vector, b: Vector) -> float:
        return math.exp(-squared(a, b) / (2 * width**2))

    within = [
        mean([kernel(a, b) for i, a in enumerate(side) for j, b in enumerate(side) if i != j])
        for side in (x, y)
    ]
    return within[0] + within[1] - 2 * mean([kernel(a, b) for a in x for b in y])


def median(values: Vector) -> float:
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def covariance(rows: Rows) -> list[list[float]]:
    centre = mean_row(rows)
    width = range(len(centre))
    return [
        [mean([(row[i] - centre[i]) * (row[j] - centre[j]) for row in rows]) for j in width] for i in width
    ]


def solve(matrix: Rows, right: Vector) -> list[float]:
    """Gaussian elimination, for a positive definite matrix."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    size = len(rows)
    for i in range(size):
        for k in range(i + 1, size):
            factor = rows[k][i] / rows[i][i]
            rows[k] = [b - factor * a for a, b in zip(rows[i], rows[k], strict=True)]
    solution = [0.0] * size
    for i in reversed(range(size)):
        rest = sum(rows[i][k] * solution[k] for k in range(i + 1, size))
        solution[i] = (rows[i][size] - rest) / rows[i][i]
    return solution


def proxy_a(x: Rows, y: Rows, folds: int = 5, ridge: float = 0.1) -> float:
    """Each row is classified by a discriminant that was fitted without the row's fold."""
    centre = [(a + b) / 2 for a, b in zip(mean_row(x), mean_row(y), strict=True)]
    number = min(folds, len(x), len(y))
    sides = []
    for side in (x, y):
        order = sorted(range(len(side)), key=lambda i, side=side: squared(side[i], centre))  # type: ignore[misc]
        sides.append({row: place % number for place, row in enumerate(order)})
    errors: tuple[list[float], list[float]] = ([], [])
    for s, side in enumerate((x, y)):
        for i, row in enumerate(side):
            fold = sides[s][i]
            left = [r for j, r in enumerate(x) if sides[0][j] != fold]
            right = [r for j, r in enumerate(y) if sides[1][j] != fold]
            score = discriminant(row, left, right, ridge) * (1 if s == 0 else -1)
            errors[s].append(1.0 if score < 0 else 0.0 if score > 0 else 0.5)
    error = (mean(errors[0]) + mean(errors[1])) / 2
    return 2 * (1 - 2 * error)


def discriminant(row: Vector, left: Rows, right: Rows, ridge: float) -> float:
    """(row - middle)' (C + ridge tr(C) / D I)^-1 (mean of left - mean of right)."""
    a, b = mean_row(left), mean_row(right)
    gap = minus(a, b)
    if not any(gap):
        return 0.0
    p, q = covariance(left), covariance(right)
    width = range(len(a))
    pooled = [[(p[i][j] + q[i][j]) / 2 for j in width] for i in width]
    level = ridge * (sum(pooled[i][i] for i in width) / len(a) or 1.0)
    weights = solve([[pooled[i][j] + level * (i == j) for j in width] for i in width], gap)
    return dot([v - (m + n) / 2 for v, m, n in zip(row, a, b, strict=True)], weights)


def frechet(x: Rows, y: Rows) -> float:
    """|m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1^(1/2) C2 C1^(1/2))^(1/2)).

    The last trace is the sum of the singular values of the rows' inner products: X' X and Y' Y are S1 C1 and
    S2 C2 for centred rows. Roots of singular covariances would cost half of the digits.
    """
    m, n = mean_row(x), mean_row(y)
    left, right = [minus(row, m) for row in x], [minus(row, n) for row in y]
    inner = np.linalg.svd([[dot(a, b) for b in right] for a in left], compute_uv=False).sum()
    traces = mean([dot(a, a) for a in left]) + mean([dot(b, b) for b in right])
    return math.sqrt(max(squared(m, n) + traces - 2 * float(inner) / math.sqrt(len(x) * len(y)), 0.0))


def copies(x: Sequence[Any], y: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Both sides repeated, each element equally often, until they have equally many."""
    both = math.lcm(len(x), len(y))
    return [a for a in x for _ in range(both // len(x))], [b for b in y for _ in range(both // len(y))]


def line_distance(x: Vector, y: Vector, power: int) -> float:
    """Mean |x - y|^power of the sorted values: optimal transport on the line, to the power."""
    left, right = copies(sorted(x), sorted(y))
    return mean([abs(a - b) ** power for a, b in zip(left, right, strict=True)])


def sliced_wasserstein(x: Rows, y: Rows, directions: int = 200, seed: int = 0) -> float:
    width = len(x[0])

    def spread(d: int) -> float:
        a, b = [row[d] for row in x], [row[d] for row in y]
        within = mean([(v - mean(a)) ** 2 for v in a]) + mean([(v - mean(b)) ** 2 for v in b])
        return within + (mean(a) - mean(b)) ** 2

    order = sorted(range(width), key=spread)
    drawn = np.random.default_rng(seed).normal(size=(width, directions)).tolist()
    total = []
    for r in range(directions):
        u = [drawn[d][r] for d in range(width)]
        u = [value / math.sqrt(dot(u, u)) for value in u]
        left, right = ([dot([row[d] for d in order], u) for row in side] for side in (x, y))
        total.append(line_distance(left, right, 2))
    return math.sqrt(mean(total))


def firing_wasserstein(x: Rows, y: Rows) -> float:
    return mean([line_distance(a, b, 1) for a, b in zip(x, y, strict=True)])


# Data sets with labels.


def transported(cost: Callable[[Any, Any], float], x: Sequence[Any], y: Sequence[Any]) -> float:
    """The least mean cost of an assignment of the copies."""
    left, right = copies(x, y)
    table = np.array([[cost(a, b) for b in right] for a in left])
    rows, columns = linear_sum_assignment(table)
    return mean([float(table[i, j]) for i, j in zip(rows, columns, strict=True)])


def otdd(
    x: Any, y: Any, labels_x: Any, labels_y: Any, feature_weight: float = 1.0, gaussian: bool = False
) -> float:
    sides = []
    for rows, labels in ((listed(x), np.asarray(labels_x)), (listed(y), np.asarray(labels_y))):
        sides.append([(row, int(label)) for row, label in zip(rows, labels, strict=True)])
    classes = [{c: [row for row, label in side if label == c] for _, c in side} for side in sides]
    between = {
        (a, b): frechet(p, q) ** 2 if gaussian else transported(squared, p, q)
        for a, p in classes[0].items()
        for b, q in classes[1].items()
    }
    return math.sqrt(
        transported(
            lambda p, q: feature_weight * squared(p[0], q[0]) + between[p[1], q[1]], sides[0], sides[1]
        )
    )


# Task embeddings.


def text_embedding(x: Rows, y: Rows, centre: Vector | None = None) -> float:
    origin = centre or [0.0] * len(x[0])
    return cosine(minus(mean_row(x), origin), minus(mean_row(y), origin))


def prompt_fisher(x: Any, y: Any) -> float:
    return cosine(flat(x), flat(y))


def task2vec(x: Any, y: Any) -> float:
    pairs = [(a, b) for a, b in zip(flat(x), flat(y), strict=True) if a + b > 0]
    return cosine([a / (a + b) for a, b in pairs], [b / (a + b) for a, b in pairs])


def task2vec_asymmetric(x: Any, y: Any, trivial: Any = None, alpha: float = 0.15) -> float:
    nothing = [mean(flat(x))] * len(flat(x)) if trivial is None else flat(trivial)
    symmetric, of_source = 1 - task2vec(x, y), 1 - task2vec(flat(x), nothing)
    return 1 - (symmetric - alpha * of_source)


def vocabulary_overlap(x: Any, y: Any) -> float:
    a, b = {int(token) for token in x}, {int(token) for token in y}
    return len(a & b) / len(a | b)


# Neuron scores, [L, N].


def ranks(values: Vector) -> list[float]:
    return [1 + sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]


def pearson(x: Vector, y: Vector) -> float:
    return cosine([a - mean(x) for a in x], [b - mean(y) for b in y])


def spearman(x: Vector, y: Vector) -> float:
    return pearson(ranks(x), ranks(y))


def neuron_spearman(x: Rows, y: Rows, strength: Callable[[float], float] = abs) -> float:
    values = []
    for a, b in zip(x, y, strict=True):
        left, right = [strength(value) for value in a], [strength(value) for value in b]
        if len(left) >= 3 and len(set(left)) > 1 and len(set(right)) > 1:
            values.append(spearman(left, right))
    return mean(values) if values else float("nan")


def strongest(x: Rows, strength: Callable[[float], float], rate: float) -> set[tuple[int, int]]:
    chosen = set()
    for layer, row in enumerate(x):
        order = sorted(range(len(row)), key=lambda n, row=row: -strength(row[n]))  # type: ignore[misc]
        chosen |= {(layer, n) for n in order[: int(rate * len(row))]}
    return chosen


def kappa(a: set[tuple[int, int]], b: set[tuple[int, int]], layers: int, neurons: int) -> float:
    """Cohen's kappa of two raters who judge each neuron, with chance agreement layer by layer."""
    cells = [(layer, n) for layer in range(layers) for n in range(neurons)]
    agreement = mean([float((cell in a) == (cell in b)) for cell in cells])
    by_chance = []
    for layer in range(layers):
        p = sum((layer, n) in a for n in range(neurons)) / neurons
        q = sum((layer, n) in b for n in range(neurons)) / neurons
        by_chance.append(p * q + (1 - p) * (1 - q))
    return (agreement - mean(by_chance)) / (1 - mean(by_chance)) if mean(by_chance) < 1 - 1e-12 else 0.0


def neuron_overlap(x: Rows, y: Rows, strength: Callable[[float], float] = abs, rate: float = 0.2) -> float:
    return kappa(strongest(x, strength, rate), strongest(y, strength, rate), len(x), len(x[0]))


def lape_overlap(x: Rows, y: Rows) -> float:
    a, b = (
        {(layer, n) for layer, row in enumerate(side) for n, value in enumerate(row) if value > 0}
        for side in (x, y)
    )
    return kappa(a, b, len(x), len(x[0]))


def mean_difference(values: Vector, labels: Sequence[int]) -> float:
    """Of one neuron."""
    means = [mean([v for v, y in zip(values, labels, strict=True) if y == c]) for c in sorted(set(labels))]
    return math.fsum(abs(a - b) for i, a in enumerate(means) for b in means[:i])


def point_biserial(values: Vector, labels: Sequence[int]) -> float:
    """Of one neuron: |Pearson's correlation| with each class, averaged."""
    return mean([abs(pearson(values, [float(y == c) for y in labels])) for c in sorted(set(labels))])


def auroc(values: Vector, labels: Sequence[int]) -> float:
    """Of one neuron: the share of pairs in the right order, for each class, averaged."""
    areas = []
    for c in sorted(set(labels)):
        inside = [v for v, y in zip(values, labels, strict=True) if y == c]
        outside = [v for v, y in zip(values, labels, strict=True) if y != c]
        area = mean([1.0 if a > b else 0.5 if a == b else 0.0 for a in inside for b in outside])
        areas.append(max(area, 1 - area))
    return mean(areas)


def lape(firing: Any, rate: float, active: float) -> tuple[Any, Any]:
    """Entropies [L][N] and masks [T][L][N]."""
    tasks, layers, neurons = np.shape(firing)
    every = sorted(float(v) for v in np.ravel(firing))
    bar = every[max(round(active * len(every)), 1) - 1]
    entropies = [[float("nan")] * neurons for _ in range(layers)]
    candidates = []
    for layer in range(layers):
        for n in range(neurons):
            rates = [float(firing[t][layer][n]) for t in range(tasks)]
            shares = [value / sum(rates) for value in rates] if sum(rates) > 0 else []
            if shares:
                entropies[layer][n] = -math.fsum(q * math.log(q) for q in shares if q > 0)
            if any(value > bar for value in rates):
                candidates.append((entropies[layer][n], layer, n))
    best = {(layer, n) for _, layer, n in sorted(candidates)[: round(rate * layers * neurons)]}
    masks = [
        [[(i, n) in best and firing[t][i][n] > bar for n in range(neurons)] for i in range(layers)]
        for t in range(tasks)
    ]
    return entropies, masks


def _on_lists(function: Callable[..., float], **fixed: Any) -> Callable[..., float]:
    def loop(*arrays: Any, **options: Any) -> float:
        return function(*(listed(array) for array in arrays), **fixed, **options)

    return loop


def _from_half(area: float) -> float:
    return round(abs(area - 0.5), 12)


DISTANCES: dict[str, Callable[..., float]] = {
    "mmd": _on_lists(mmd),
    "proxy_a": _on_lists(proxy_a),
    "frechet": _on_lists(frechet),
    "sliced_wasserstein": _on_lists(sliced_wasserstein),
    "firing_wasserstein": _on_lists(firing_wasserstein),
    "otdd": otdd,
    "otdd_gaussian": lambda *arrays, **options: otdd(*arrays, gaussian=True, **options),
    "text_embedding": _on_lists(text_embedding),
    "prompt_fisher": _on_lists(prompt_fisher),
    "task2vec": _on_lists(task2vec),
    "task2vec_asymmetric": _on_lists(task2vec_asymmetric),
    "vocabulary_overlap": vocabulary_overlap,
    "lape": _on_lists(lape_overlap),
    "neuron_spearman_mean_difference": _on_lists(neuron_spearman),
    "neuron_spearman_point_biserial": _on_lists(neuron_spearman),
    "neuron_spearman_auroc": _on_lists(neuron_spearman, strength=_from_half),
    "neuron_spearman_attribution": _on_lists(neuron_spearman),
    "neuron_overlap_mean_difference": _on_lists(neuron_overlap),
    "neuron_overlap_point_biserial": _on_lists(neuron_overlap),
    "neuron_overlap_auroc": _on_lists(neuron_overlap, strength=_from_half),
    "neuron_overlap_attribution": _on_lists(neuron_overlap),
}
