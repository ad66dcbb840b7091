"""Slow versions of the similarities of representations and models, written like their formulas.

`REPRESENTATIONS` maps names of indicators to loops; a representation [S][D] is one row for each example. The
singular values are those of Jacobi's rotations, so that no routine is shared with what is tested.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Vector = Sequence[float]
Rows = Sequence[Vector]
Lists = list[list[float]]

NAN = float("nan")


def dot(x: Vector, y: Vector) -> float:
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def norm(x: Vector) -> float:
    return math.sqrt(dot(x, x))


def mean(values: Vector) -> float:
    return math.fsum(values) / len(values)


def cosine(x: Vector, y: Vector) -> float:
    size = norm(x) * norm(y)
    return dot(x, y) / size if size > 0 else 0.0


def pearson(x: Vector, y: Vector) -> float:
    return cosine([value - mean(x) for value in x], [value - mean(y) for value in y])


def transposed(rows: Rows) -> Lists:
    return [list(column) for column in zip(*rows, strict=True)]


def flat(rows: Rows) -> list[float]:
    return [value for row in rows for value in row]


def centred(x: Rows) -> Lists:
    """Each feature less its mean over the examples."""
    return transposed([[value - mean(column) for value in column] for column in transposed(x)])


def standardised(x: Rows) -> Lists:
    columns = []
    for column in transposed(centred(x)):
        deviation = math.sqrt(mean([value**2 for value in column]))
        columns.append([value / deviation if deviation > 0 else 0.0 for value in column])
    return transposed(columns)


def ranks(values: Vector) -> list[float]:
    """1 + how many are smaller, + half of how many others are equal."""
    return [
        1 + sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2
        for value in values
    ]


def spearman(x: Vector, y: Vector) -> float:
    a, b = ranks([round(value, 12) for value in x]), ranks([round(value, 12) for value in y])
    return NAN if len(set(a)) == 1 or len(set(b)) == 1 else pearson(a, b)


def singular(rows: Rows) -> tuple[list[float], Lists, Lists]:
    """Singular values, descending, the left vectors times them, and the right ones: one-sided Jacobi.

    Pairs of columns are rotated until all are orthogonal; then their norms are the singular values.
    """
    columns, turned = transposed(rows), transposed(np.eye(len(rows[0])).tolist())
    for _ in range(60):
        largest = 0.0
        for p, q in itertools.combinations(range(len(columns)), 2):
            a, b, c = dot(columns[p], columns[p]), dot(columns[q], columns[q]), dot(columns[p], columns[q])
            if abs(c) <= 1e-16 * math.sqrt(a * b) or a * b == 0:
                continue
            largest = max(largest, abs(c) / math.sqrt(a * b))
            angle = 0.5 * math.atan2(2 * c, a - b)
            for vectors in columns, turned:
                rotate(vectors, p, q, math.cos(angle), math.sin(angle))
        if largest < 1e-15:
            break
    order = sorted(range(len(columns)), key=lambda i: -norm(columns[i]))
    return [norm(columns[i]) for i in order], [columns[i] for i in order], [turned[i] for i in order]


def rotate(vectors: Lists, p: int, q: int, c: float, s: float) -> None:
    x, y = vectors[p], vectors[q]
    vectors[p] = [c * a + s * b for a, b in zip(x, y, strict=True)]
    vectors[q] = [c * b - s * a for a, b in zip(x, y, strict=True)]


# Centred kernel alignment.


def linear_kernel(x: Rows) -> Lists:
    return [[dot(a, b) for b in x] for a in x]


def double_centred(kernel: Rows) -> Lists:
    """H K H with H = I - 1 1' / S."""
    everything = mean(flat(kernel))
    n = len(kernel)
    return [
        [kernel[i][j] - mean(kernel[i]) - mean(kernel[j]) + everything for j in range(n)] for i in range(n)
    ]


def cka(k: Rows, m: Rows, hsic: Callable[[Rows, Rows], float]) -> float:
    own, other = hsic(k, k), hsic(m, m)
    return hsic(k, m) / math.sqrt(own * other) if min(own, other) > 1e-20 else NAN


def biased(k: Rows, m: Rows) -> float:
    return dot(flat(double_centred(k)), flat(double_centred(m)))


def song(k: Rows, m: Rows) -> float:
    """tr(K~ L~) + 1' K~ 1 1' L~ 1 / ((n-1)(n-2)) - 2 / (n-2) 1' K~ L~ 1, K~ with a zero diagonal."""
    n = len(k)
    k, m = ([[row[j] * (i != j) for j in range(n)] for i, row in enumerate(side)] for side in (k, m))
    sums = [math.fsum(row) for row in k], [math.fsum(row) for row in m]
    ends = math.fsum(sums[0]) * math.fsum(sums[1]) / ((n - 1) * (n - 2))
    return dot(flat(k), flat(m)) + ends - 2 / (n - 2) * dot(*sums)


def gaussian_kernel(x: Rows, fraction: float) -> Lists:
    squares = [[math.fsum((p - q) ** 2 for p, q in zip(a, b, strict=True)) for b in x] for a in x]
    ordered = sorted(flat(squares))
    median = (ordered[len(ordered) // 2] + ordered[(len(ordered) - 1) // 2]) / 2
    return [[math.exp(-value / (2 * fraction**2 * median)) for value in row] for row in squares]


def cka_linear(x: Rows, y: Rows) -> float:
    return cka(linear_kernel(x), linear_kernel(y), biased)


def cka_linear_debiased(x: Rows, y: Rows) -> float:
    return cka(linear_kernel(x), linear_kernel(y), song)


def cka_rbf(x: Rows, y: Rows, fraction: float = 0.5) -> float:
    return cka(gaussian_kernel(x, fraction), gaussian_kernel(y, fraction), biased)


# Canonical correlations.


def orthonormal(columns: Lists) -> Lists:
    """Gram and Schmidt, twice, of vectors that are far from dependent."""
    basis: Lists = []
    for column in columns:
        for _ in range(2):
            for known in basis:
                share = dot(column, known)
                column = [value - share * other for value, other in zip(column, known, strict=True)]
        basis.append([value / norm(column) for value in column])
    return basis


def canonical(x: Lists, y: Lists) -> tuple[list[float], Lists]:
    """The correlations of two sets of columns, and the canonical variables of the first."""
    u, v = orthonormal(x), orthonormal(y)
    # Columns of the matrix are the vectors of u, so that its right singular vectors combine these.
    values, _, turned = singular([[dot(b, a) for a in u] for b in v])
    count = min(len(u), len(v))
    variables = [
        [math.fsum(weight * a[s] for weight, a in zip(vector, u, strict=True)) for s in range(len(u[0]))]
        for vector in turned[:count]
    ]
    return values[:count], variables


def cca_mean(x: Rows, y: Rows) -> float:
    return mean(canonical(transposed(centred(x)), transposed(centred(y)))[0])


def principal(x: Rows, variance: float) -> Lists:
    values, directions, _ = singular(centred(x))
    total, reached, kept = math.fsum(v**2 for v in values), 0.0, []
    for value, direction in zip(values, directions, strict=True):
        if reached < variance * total:
            kept.append(direction)
        reached += value**2
    return kept


def svcca(x: Rows, y: Rows, variance: float = 0.99) -> float:
    return mean(canonical(principal(x, variance), principal(y, variance))[0])


def pwcca(x: Rows, y: Rows) -> float:
    columns = transposed(centred(x))
    values, variables = canonical(columns, transposed(centred(y)))
    weights = [math.fsum(abs(dot(h, column)) for column in columns) for h in variables]
    return dot(weights, values) / math.fsum(weights)


# Geometry.


def pairs_of(x: Rows, distance: Callable[[Vector, Vector], float]) -> list[float]:
    return [distance(a, b) for a, b in itertools.combinations(x, 2)]


def rsa(x: Rows, y: Rows, standardise: bool = True) -> float:
    x, y = (standardised(x), standardised(y)) if standardise else (x, y)
    return spearman(*(pairs_of(side, lambda a, b: 1 - pearson(a, b)) for side in (x, y)))


def dds(x: Rows, y: Rows, standardise: bool = True) -> float:
    x, y = (standardised(x), standardised(y)) if standardise else (x, y)
    return cka(*([[1 - cosine(a, b) for b in side] for a in side] for side in (x, y)), song)


def procrustes(x: Rows, y: Rows) -> float:
    x, y = centred(x), centred(y)
    cross = [[dot(a, b) for b in transposed(y)] for a in transposed(x)]
    return 1 - math.fsum(singular(cross)[0]) / (norm(flat(x)) * norm(flat(y)))


def activation_mean_cosine(x: Rows, y: Rows) -> float:
    return cosine([mean(column) for column in transposed(x)], [mean(column) for column in transposed(y)])


def relative_prompt(x: Rows, y: Rows, a: Rows, b: Rows) -> float:
    token, other = [mean(column) for column in transposed(x)], [mean(column) for column in transposed(y)]
    return pearson([cosine(token, anchor) for anchor in a], [cosine(other, anchor) for anchor in b])


# Models.


def mantel(x: Rows, y: Rows) -> tuple[float, float]:
    """The Spearman correlation of two matrices off their diagonals and its p over all orders of the tasks."""
    n = len(x)
    places = [(i, j) for i in range(n) for j in range(n) if i != j]
    here = [x[i][j] for i, j in places]
    values = [
        spearman(here, [y[order[i]][order[j]] for i, j in places])
        for order in itertools.permutations(range(n))
    ]
    return values[0], sum(value >= values[0] - 1e-12 for value in values) / len(values)


def aligned(x: Rows, y: Rows) -> tuple[tuple[int, ...], float]:
    """The best of all one-to-one mappings of the profiles of x [T][N1] to those of y [T][N2], N1 <= N2."""
    a, b = transposed(x), transposed(y)
    best = max(
        itertools.permutations(range(len(b)), len(a)),
        key=lambda mapping: sum(pearson(p, b[n]) for p, n in zip(a, mapping, strict=True)),
    )
    return best, mean([pearson(p, b[n]) for p, n in zip(a, best, strict=True)])


def _layers(function: Callable[..., float]) -> Callable[..., float]:
    """The loop on arrays [S, D] or, over layers, its mean on [L, S, D] where it is defined."""

    def loop(source: Any, target: Any, **options: Any) -> float:
        source, target = np.asarray(source, float), np.asarray(target, float)
        if source.ndim == 2:
            return function(source.tolist(), target.tolist(), **options)
        values = [function(a.tolist(), b.tolist(), **options) for a, b in zip(source, target, strict=True)]
        defined = [value for value in values if not math.isnan(value)]
        return mean(defined) if defined else NAN

    return loop


REPRESENTATIONS: dict[str, Callable[..., float]] = {
    "cka_linear": _layers(cka_linear),
    "cka_linear_debiased": _layers(cka_linear_debiased),
    "cka_rbf": _layers(cka_rbf),
    "cca_mean": _layers(cca_mean),
    "svcca": _layers(svcca),
    "pwcca": _layers(pwcca),
    "rsa": _layers(rsa),
    "dds": _layers(dds),
    "procrustes": _layers(procrustes),
    "activation_mean_cosine": _layers(activation_mean_cosine),
    "relative_prompt": lambda *arrays: relative_prompt(
        *(np.asarray(array, float).tolist() for array in arrays)
    ),
}
