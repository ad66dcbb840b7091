"""Slow versions of the indicators, written like their formulas: loops over plain floats, no array kernels.

`REFERENCE` maps an indicator's name (or the template of a parametric name) to its loop. Every one takes the
same arrays as the indicator, in the order of the registry's convention, and has its defaults for the options.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.reference_distances import DISTANCES
from tests.reference_representations import REPRESENTATIONS
from tests.reference_scores import SCORES

Vector = Sequence[float]
Rows = Sequence[Vector]


def dot(x: Vector, y: Vector) -> float:
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def cosine(x: Vector, y: Vector) -> float:
    norm = math.sqrt(dot(x, x) * dot(y, y))
    return dot(x, y) / norm if norm > 0 else 0.0


def distance(x: Vector, y: Vector) -> float:
    return math.sqrt(math.fsum((a - b) ** 2 for a, b in zip(x, y, strict=True)))


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def concatenated(rows: Rows) -> list[float]:
    return [value for row in rows for value in row]


def mean_token(rows: Rows) -> list[float]:
    return [mean([row[d] for row in rows]) for d in range(len(rows[0]))]


def listed(array: Any) -> Any:
    """Nested lists of Python floats."""
    return np.asarray(array, float).tolist()


# Prompts, [P, D].


def prompt_cosine_concat(x: Rows, y: Rows) -> float:
    return cosine(concatenated(x), concatenated(y))


def prompt_cosine_average(x: Rows, y: Rows) -> float:
    return mean([cosine(a, b) for a in x for b in y])


def prompt_cosine_mean_token(x: Rows, y: Rows) -> float:
    return cosine(mean_token(x), mean_token(y))


def prompt_cosine_position(x: Rows, y: Rows) -> float:
    return mean([cosine(a, b) for a, b in zip(x, y, strict=True)])


def prompt_cosine_maxsim(x: Rows, y: Rows) -> float:
    return mean([max(cosine(a, b) for a in x) for b in y])


def prompt_euclidean_concat(x: Rows, y: Rows) -> float:
    return 1 / (1 + distance(concatenated(x), concatenated(y)))


def prompt_euclidean_average(x: Rows, y: Rows) -> float:
    return 1 / (1 + mean([distance(a, b) for a in x for b in y]))


def prompt_cosine_whitened(x: Rows, y: Rows, pool: Sequence[Rows] | None = None, ridge: float = 0.3) -> float:
    width = len(x[0])
    covariance = [[0.0] * width for _ in range(width)]
    tokens = 0
    for prompt in pool if pool is not None else [x, y]:
        centre = mean_token(prompt)
        for row in prompt:
            tokens += 1
            for i in range(width):
                for j in range(width):
                    covariance[i][j] += (row[i] - centre[i]) * (row[j] - centre[j])
    covariance = [[value / tokens for value in row] for row in covariance]
    scale = sum(covariance[i][i] for i in range(width)) / width
    system = [
        [covariance[i][j] / scale + (ridge if i == j else 0.0) for j in range(width)] for i in range(width)
    ]
    m, n = mean_token(x), mean_token(y)
    white_m, white_n = solve(system, m), solve(system, n)
    return dot(white_m, n) / math.sqrt(dot(white_m, m) * dot(white_n, n))


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


# Stimulations, [L, N].


def active(rows: Rows) -> set[tuple[int, int]]:
    return {(layer, n) for layer, row in enumerate(rows) for n, value in enumerate(row) if value > 0}


def set_cosine(a: set[Any], b: set[Any]) -> float:
    return len(a & b) / math.sqrt(len(a) * len(b)) if a and b else 0.0


def set_jaccard(a: set[Any], b: set[Any]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def on(x: Rows, y: Rows) -> float:
    return set_cosine(active(x), active(y))


def on_layers(x: Rows, y: Rows, first: int, stop: int) -> float:
    return set_cosine(active(x[first:stop]), active(y[first:stop]))


def on_jaccard(x: Rows, y: Rows) -> float:
    return set_jaccard(active(x), active(y))


def on_raw(x: Rows, y: Rows) -> float:
    return mean([cosine(a, b) for a, b in zip(x, y, strict=True)])


# Predictivities, [C, L, N] or [L, N].


def subtasks(array: Any) -> Any:
    values = np.asarray(array, float)
    return (values if values.ndim == 3 else values[None]).tolist()


def skills(array: Any, rate: float = 0.2) -> set[tuple[int, int]]:
    chosen = set()
    for subtask in subtasks(array):
        for layer, row in enumerate(subtask):
            defined = [n for n in range(len(row)) if not math.isnan(row[n])]
            best = sorted(defined, key=lambda n, row=row: row[n], reverse=True)  # type: ignore[misc]
            chosen |= {(layer, n) for n in best[: int(rate * len(row))]}
    return chosen


def skill_jaccard(x: Any, y: Any) -> float:
    return set_jaccard(skills(x), skills(y))


def skill_overlap(x: Any, y: Any) -> float:
    """Cohen's kappa of two raters who judge each neuron, with chance agreement layer by layer."""
    a, b = skills(x), skills(y)
    layers, neurons = len(subtasks(x)[0]), len(subtasks(x)[0][0])
    cells = [(layer, n) for layer in range(layers) for n in range(neurons)]
    agreement = sum((cell in a) == (cell in b) for cell in cells) / len(cells)
    by_chance = 0.0
    for layer in range(layers):
        p = sum((layer, n) in a for n in range(neurons)) / neurons
        q = sum((layer, n) in b for n in range(neurons)) / neurons
        by_chance += (p * q + (1 - p) * (1 - q)) / layers
    return (agreement - by_chance) / (1 - by_chance)


def skill_on(a: Rows, b: Rows, x: Any, y: Any, mask: str = "target") -> float:
    chosen = skills(y) if mask == "target" else skills(x) | skills(y)
    return set_cosine(active(a) & chosen, active(b) & chosen)


def mean_subtask(array: Any) -> list[list[float]]:
    many = subtasks(array)
    return [
        [sum(task[i][j] for task in many) / len(many) for j in range(len(row))]
        for i, row in enumerate(many[0])
    ]


def spearman(x: Vector, y: Vector) -> float:
    both = [(a, b) for a, b in zip(x, y, strict=True) if not (math.isnan(a) or math.isnan(b))]
    if len(both) < 3 or len({a for a, _ in both}) == 1 or len({b for _, b in both}) == 1:
        return float("nan")
    p, q = ranks([a for a, _ in both]), ranks([b for _, b in both])
    return cosine([r - mean(p) for r in p], [r - mean(q) for r in q])


def ranks(values: Vector) -> list[float]:
    """Rank = how many are smaller, plus half of how many others are equal, plus 1."""
    return [1 + sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]


def predictivity_spearman(x: Any, y: Any) -> float:
    return spearman(concatenated(mean_subtask(x)), concatenated(mean_subtask(y)))


def predictivity_spearman_layers(x: Any, y: Any) -> float:
    layers = [spearman(a, b) for a, b in zip(mean_subtask(x), mean_subtask(y), strict=True)]
    defined = [value for value in layers if not math.isnan(value)]
    return mean(defined) if defined else float("nan")


# Updates, {module: (A [r, in], B [out, r])}.


def differences(update: Any) -> dict[str, list[list[float]]]:
    """W = B A of each module, in full."""
    return {
        name: [[dot(row, column) for column in zip(*listed(a), strict=True)] for row in listed(b)]
        for name, (a, b) in update.items()
    }


def both_flat(x: Any, y: Any) -> tuple[list[float], list[float]]:
    """The two weight differences as vectors, with zeros for a module that one of them does not change."""
    left, right = differences(x), differences(y)
    flat: tuple[list[float], list[float]] = ([], [])
    for name in {**left, **right}:
        known = concatenated(left.get(name) or right[name])
        for side, vector in zip((left, right), flat, strict=True):
            vector += concatenated(side[name]) if name in side else [0.0] * len(known)
    return flat


def update_cosine(x: Any, y: Any) -> float:
    return cosine(*both_flat(x, y))


def update_euclidean(x: Any, y: Any) -> float:
    return 1 / (1 + distance(*both_flat(x, y)))


def column_space(rows: Rows) -> list[list[float]]:
    """Orthonormal vectors that span the columns of a matrix: Gram and Schmidt, longest first."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    longest = max(math.sqrt(dot(c, c)) for c in columns)
    basis: list[list[float]] = []
    while columns:
        column = max(columns, key=lambda c: dot(c, c))
        norm = math.sqrt(dot(column, column))
        if norm <= 1e-9 * longest:
            break
        unit = [value / norm for value in column]
        basis.append(unit)
        columns = [[v - dot(c, unit) * u for v, u in zip(c, unit, strict=True)] for c in columns]
    return basis


def update_subspace(x: Any, y: Any) -> float:
    left, right = differences(x), differences(y)
    overlaps = []
    for name in left:
        if name in right:
            u, v = column_space(left[name]), column_space(right[name])
            if u and v:
                overlaps.append(sum(dot(a, b) ** 2 for a in u for b in v) / min(len(u), len(v)))
    return mean(overlaps) if overlaps else float("nan")


def _on_lists(function: Callable[..., float]) -> Callable[..., float]:
    def loop(*arrays: Any, **options: Any) -> float:
        return function(*(listed(array) for array in arrays), **options)

    return loop


REFERENCE: dict[str, Callable[..., float]] = {
    "prompt_cosine_concat": _on_lists(prompt_cosine_concat),
    "prompt_cosine_average": _on_lists(prompt_cosine_average),
    "prompt_cosine_mean_token": _on_lists(prompt_cosine_mean_token),
    "prompt_cosine_position": _on_lists(prompt_cosine_position),
    "prompt_cosine_maxsim": _on_lists(prompt_cosine_maxsim),
    "prompt_cosine_whitened": _on_lists(prompt_cosine_whitened),
    "prompt_euclidean_concat": _on_lists(prompt_euclidean_concat),
    "prompt_euclidean_average": _on_lists(prompt_euclidean_average),
    "on": _on_lists(on),
    "on_layers_A_B": _on_lists(on_layers),
    "on_raw": _on_lists(on_raw),
    "on_jaccard": _on_lists(on_jaccard),
    "skill_jaccard": skill_jaccard,
    "skill_overlap": skill_overlap,
    "skill_on": _on_lists(skill_on),
    "predictivity_spearman": predictivity_spearman,
    "predictivity_spearman_layers": predictivity_spearman_layers,
    "update_cosine": update_cosine,
    "update_euclidean": update_euclidean,
    "update_subspace": update_subspace,
    **REPRESENTATIONS,
    **DISTANCES,
    **SCORES,
}
