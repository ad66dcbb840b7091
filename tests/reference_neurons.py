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
