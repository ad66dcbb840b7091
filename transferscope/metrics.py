"""Metrics as functions of sums of per-example statistics, so that subsets and resamples are one product.

`value(counts @ statistics)` is the metric on a resample in which example i stands `counts[i]` times. Each of
these sums is additive over batches and machines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from transferscope.errors import InputError, suggest

Floats = NDArray[np.float64]
Kind = Literal["classification", "generation"]


class Metric(ABC):
    """One metric; larger is better.

    ``statistics(gold, predictions)`` has a row of C numbers for each of S examples, float64 [S, C];
    ``value(sums)`` turns sums of such rows [..., C] into the metric [...]. ``classes`` (K) fixes C where it
    depends on the classes: give it where statistics of several calls are to be put together.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]

    @abstractmethod
    def statistics(self, gold: Any, predictions: Any, classes: int | None = None) -> Floats:
        """What each example adds, [S, C]."""

    @abstractmethod
    def value(self, sums: Floats) -> Floats:
        """The metric of sums [..., C] of statistics, [...]; NaN where no example is in the sum."""

    def of(self, gold: Any, predictions: Any) -> float:
        """The metric on all examples."""
        return float(self.value(self.statistics(gold, predictions).sum(axis=0)))


class Accuracy(Metric):
    """Share of examples whose class was found."""

    name, kind = "accuracy", "classification"

    def statistics(self, gold: Any, predictions: Any, classes: int | None = None) -> Floats:
        right = np.asarray(gold) == np.asarray(predictions)
        return np.stack([right, np.ones_like(right)], axis=1).astype(np.float64)

    def value(self, sums: Floats) -> Floats:
        return _ratio(sums[..., 0], sums[..., 1])


class Confusion(Metric):
    """A metric of the confusion matrix; the statistics of an example are its cell of [K, K], flattened."""

    kind = "classification"

    def statistics(self, gold: Any, predictions: Any, classes: int | None = None) -> Floats:
        truth, found = np.asarray(gold, dtype=np.int64), np.asarray(predictions, dtype=np.int64)
        classes = classes or int(max(truth.max(initial=0), found.max(initial=0))) + 1
        cells = np.zeros((len(truth), classes * classes))
        cells[np.arange(len(truth)), truth * classes + found] = 1.0
        return cells

    def value(self, sums: Floats) -> Floats:
        classes = round(sums.shape[-1] ** 0.5)
        return self.of_matrix(sums.reshape(*sums.shape[:-1], classes, classes))

    @abstractmethod
    def of_matrix(self, matrix: Floats) -> Floats:
        """The metric of confusion matrices [..., gold K, predicted K]."""


class MacroF1(Confusion):
    """Mean F1 over the classes that are there, in gold or predicted; a class never found has F1 0."""

    name = "macro_f1"

    def of_matrix(self, matrix: Floats) -> Floats:
        right = np.diagonal(matrix, axis1=-2, axis2=-1)
        there = matrix.sum(axis=-1) + matrix.sum(axis=-2)  # gold + predicted, [..., K]
        f1 = np.divide(2 * right, there, out=np.zeros_like(there), where=there > 0)
        return _ratio(f1.sum(axis=-1), (there > 0).sum(axis=-1).astype(np.float64))


class Matthews(Confusion):
    """Matthews correlation of K classes (Gorodkin 2004); 0 where one side has one class alone."""

    name = "matthews"

    def of_matrix(self, matrix: Floats) -> Floats:
        right, total = np.trace(matrix, axis1=-2, axis2=-1), matrix.sum(axis=(-2, -1))
        gold, found = matrix.sum(axis=-1), matrix.sum(axis=-2)
        covariance = right * total - (gold * found).sum(axis=-1)
        spread = (total**2 - (gold**2).sum(axis=-1)) * (total**2 - (found**2).sum(axis=-1))
        value = np.divide(covariance, np.sqrt(spread), out=np.zeros_like(covariance), where=spread > 0)
        return np.where(total > 0, value, np.nan)


def _ratio(part: Floats, whole: Floats) -> Floats:
    nothing = np.full(np.shape(whole), np.nan)
    return np.divide(part, whole, out=nothing, where=np.asarray(whole) > 0)


METRICS: Mapping[str, Metric] = {metric.name: metric for metric in (Accuracy(), MacroF1(), Matthews())}


def metric(name: str) -> Metric:
    """The metric of this name; InputError with the nearest one if there is none."""
    if name not in METRICS:
        raise InputError(f"unknown metric {name!r}. {suggest(name, METRICS)}")
    return METRICS[name]
