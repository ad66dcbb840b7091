"""Slow versions of baseline, Acc and Pred, written like the formulas of Wang et al. (EMNLP 2022).

Plain loops over nested lists: activations by example, ``acts[i][l][p][n]``, and a list of class ids. Nothing
here is from the package.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

Activations = Sequence[Sequence[Sequence[Sequence[float]]]]
Table = list[list[list[float]]]


def per_cell(
    acts: Activations, function: Callable[[list[float], int, int, int], Any]
) -> list[list[list[Any]]]:
    """``function(values over examples, l, p, n)`` for each cell, as nested lists [L][P][N]."""
    return [
        [
            [function([example[i][p][n] for example in acts], i, p, n) for n in range(len(row))]
            for p, row in enumerate(layer)
        ]
        for i, layer in enumerate(acts[0])
    ]


def baseline(train: Activations) -> Table:
    """a_bsl(l, p, n) = 1/|train| sum over x of a(l, p, n; x)."""
    return per_cell(train, lambda values, i, p, n: math.fsum(values) / len(values))


def varies(train: Activations, least: float = 1e-5) -> list[list[list[bool]]]:
    """Whether the standard deviation over train is at least ``least``."""

    def spread(values: list[float], i: int, p: int, n: int) -> bool:
        mean = math.fsum(values) / len(values)
        return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values)) >= least

    return per_cell(train, spread)


def accuracy(train: Activations, dev: Activations, labels: Sequence[int], positive: int = 1) -> Table:
    """Acc(l, p, n) = 1/|dev| sum over (x, y) of 1[ 1[a > a_bsl] = y ], y = 1 for the class ``positive``."""
    threshold = baseline(train)

    def share(values: list[float], i: int, p: int, n: int) -> float:
        right = 0
        for value, label in zip(values, labels, strict=True):
            right += int((value > threshold[i][p][n]) == (label == positive))
        return right / len(labels)

    return per_cell(dev, share)


def balanced_accuracy(train: Activations, dev: Activations, labels: Sequence[int], positive: int) -> Table:
    """One-vs-rest: the mean of the share of ``positive`` above the baseline and of the rest not above it."""
    threshold = baseline(train)

    def share(values: list[float], i: int, p: int, n: int) -> float:
        above = [value > threshold[i][p][n] for value in values]
        inside = [fired for fired, label in zip(above, labels, strict=True) if label == positive]
        outside = [fired for fired, label in zip(above, labels, strict=True) if label != positive]
        return (sum(inside) / len(inside) + (len(outside) - sum(outside)) / len(outside)) / 2

    return per_cell(dev, share)


def subtask_baseline(
    train: Activations,
    labels: Sequence[int],
    sides: tuple[Sequence[int], Sequence[int]],
    *,
    balanced: bool,
) -> Table:
    """The mean over the examples of a subtask (positive, negative classes); balanced: half of each side's."""
    groups = [[i for i, label in enumerate(labels) if label in side] for side in sides]

    def mean(values: list[float], i: int, p: int, n: int) -> float:
        first, second = ([values[i] for i in group] for group in groups)
        if balanced:
            return (math.fsum(first) / len(first) + math.fsum(second) / len(second)) / 2
        return math.fsum(first + second) / len(first + second)

    return per_cell(train, mean)


def subtask_accuracy(
    threshold: Table,
    dev: Activations,
    labels: Sequence[int],
    sides: tuple[Sequence[int], Sequence[int]],
    *,
    balanced: bool,
) -> Table:
    """Acc over the examples of a subtask alone; balanced: the mean of the shares of its two sides."""
    positive, negative = sides

    def share(values: list[float], i: int, p: int, n: int) -> float:
        right: dict[bool, list[bool]] = {True: [], False: []}
        for value, label in zip(values, labels, strict=True):
            if label in positive or label in negative:
                side = label in positive
                right[side].append((value > threshold[i][p][n]) == side)
        if balanced:
            return sum(sum(side) / len(side) for side in right.values()) / 2
        return sum(map(sum, right.values())) / sum(map(len, right.values()))

    return per_cell(dev, share)


def ties(train: Activations, dev: Activations, closer: float) -> list[list[list[bool]]]:
    """Cells where a dev activation is so near its baseline that rounding may decide the comparison.

    Equal is not near: a neuron that is 0 in all examples (ReLU) is above no baseline, whoever adds up.
    """
    threshold = baseline(train)
    return per_cell(
        dev, lambda values, i, p, n: any(0 < abs(v - threshold[i][p][n]) < closer for v in values)
    )


def predictivity(trials: Sequence[Table]) -> list[list[float]]:
    """Pred(l, n) = 1/|trials| sum over trials of max over p of max(Acc, 1 - Acc), [L][N]."""
    layers, neurons = len(trials[0]), len(trials[0][0][0])
    result = []
    for i in range(layers):
        row = []
        for n in range(neurons):
            best = [max(max(acc[i][p][n], 1 - acc[i][p][n]) for p in range(len(acc[i]))) for acc in trials]
            row.append(math.fsum(best) / len(best))
        result.append(row)
    return result


# Sets of skill neurons, and what they have in common.

Neuron = tuple[int, int]


def skill_set(table: Sequence[Sequence[float]], rate: float) -> set[Neuron]:
    """The int(rate N) highest of each layer; of equal values the first ones, NaN never."""
    chosen = set()
    for layer, row in enumerate(table):
        known = [n for n, value in enumerate(row) if not math.isnan(value)]
        best = sorted(known, key=lambda n: -row[n])[: int(rate * len(row))]
        chosen |= {(layer, n) for n in best}
    return chosen


def in_common(a: set[Neuron], b: set[Neuron], layers: int, neurons: int) -> dict[str, float]:
    """Share and Jaccard, and both of the number that random sets of these sizes in these layers share."""
    expected = 0.0
    for layer in range(layers):
        expected += sum(i == layer for i, _ in a) * sum(i == layer for i, _ in b) / neurons
    mean = (len(a) + len(b)) / 2
    return {
        "share": len(a & b) / mean,
        "jaccard": len(a & b) / len(a | b),
        "share_chance": expected / mean,
        "jaccard_chance": expected / (len(a) + len(b) - expected),
    }


def rank(values: Sequence[float]) -> list[float]:
    """1 + how many are smaller + half of how many others are equal."""
    return [
        1 + sum(v < value for v in values) + (sum(v == value for v in values) - 1) / 2 for value in values
    ]


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Pearson's correlation of the ranks, over the places where both are numbers."""
    both = [(a, b) for a, b in zip(x, y, strict=True) if not (math.isnan(a) or math.isnan(b))]
    a, b = rank([one for one, _ in both]), rank([one for _, one in both])
    mean_a, mean_b = math.fsum(a) / len(a), math.fsum(b) / len(b)
    product = math.fsum((i - mean_a) * (j - mean_b) for i, j in zip(a, b, strict=True))
    squares = math.fsum((i - mean_a) ** 2 for i in a) * math.fsum((j - mean_b) ** 2 for j in b)
    return product / math.sqrt(squares)


def pairs_drawn(
    values: Sequence[Sequence[float]], member: Sequence[Sequence[bool]], drawn: Sequence[int]
) -> float:
    """Mean over the pairs of a draw of tasks (``drawn[i]`` times task i), a task not paired with itself."""
    tasks = [i for i, times in enumerate(drawn) for _ in range(times)]
    found = [values[i][j] for i in tasks for j in tasks if i != j and member[i][j]]
    return math.fsum(found) / len(found) if found else math.nan


# Rows.


def best_rows(trials: Sequence[Table], rows: Sequence[int]) -> list[list[float]]:
    """Mean over trials of the best of these rows' max(Acc, 1 - Acc), where defined; NaN where nowhere."""
    layers, neurons = len(trials[0]), len(trials[0][0][0])
    table = [[math.nan] * neurons for _ in range(layers)]
    for i in range(layers):
        for n in range(neurons):
            best = []
            for acc in trials:
                known = [max(acc[i][p][n], 1 - acc[i][p][n]) for p in rows if not math.isnan(acc[i][p][n])]
                best += [max(known)] if known else []
            if best:
                table[i][n] = sum(best) / len(best)
    return table


# Words.


def dots(table: Sequence[Sequence[float]], vector: Sequence[float]) -> list[float]:
    """E . v, a word at a time."""
    return [math.fsum(a * b for a, b in zip(row, vector, strict=True)) for row in table]
