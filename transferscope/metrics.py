"""Metrics as functions of sums of per-example statistics, so that subsets and resamples are one product.

`value(counts @ statistics)` is the metric on a resample in which example i stands `counts[i]` times. Each of
these sums is additive over batches and machines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from transferscope import text_metrics
from transferscope.errors import InputError, suggest

Floats = NDArray[np.float64]
Kind = Literal["classification", "generation"]


class Metric(ABC):
    """One metric; larger is better.

    ``statistics(gold, predictions)`` has a row of C numbers for each of S examples, float64 [S, C];
    ``value(sums)`` turns sums of such rows [..., C] into the metric [...]. ``classes`` (K) fixes C where it
    depends on the classes: give it where statistics of several calls are to be put together.

    ``gold`` and ``predictions`` are class ids [S] for a metric of classification; for one of generation they
    are the S examples' references (one or more texts each) and the S texts that were written.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]

    @abstractmethod
    def statistics(self, gold: Any, predictions: Any, classes: int | None = None) -> Floats:
        """What each example adds, [S, C]."""

    @abstractmethod
    def value(self, sums: Floats) -> Floats:
        """The metric of sums [..., C] of statistics, [...]; NaN where no example is in the sum."""

    def require(self) -> None:  # noqa: B027 - most metrics need nothing
        """Raises InputError where a library is missing: to be asked before hours of work begin."""

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


class TextMean(Metric):
    """The mean over examples of a score of one text against its references."""

    kind = "generation"

    def statistics(self, gold: Any, predictions: Any, classes: int | None = None) -> Floats:
        scores = [self.score(text, texts) for texts, text in zip(gold, predictions, strict=True)]
        return np.stack([np.array(scores, dtype=np.float64), np.ones(len(scores))], axis=1)

    def value(self, sums: Floats) -> Floats:
        return _ratio(sums[..., 0], sums[..., 1])

    @abstractmethod
    def score(self, text: str, references: Sequence[str]) -> float:
        """0 to 1."""


class ExactMatch(TextMean):
    """Share of texts that equal a reference after SQuAD's normalisation."""

    name = "exact_match"

    def score(self, text: str, references: Sequence[str]) -> float:
        return text_metrics.exact(text, references)


class TokenF1(TextMean):
    """Mean over texts of the F1 of words with the best reference, after SQuAD's normalisation."""

    name = "token_f1"

    def score(self, text: str, references: Sequence[str]) -> float:
        return text_metrics.token_f1(text, references)


class RougeL(TextMean):
    """Mean over texts of ROUGE-L's F1 with the best reference (library rouge-score)."""

    name = "rouge_l"

    def score(self, text: str, references: Sequence[str]) -> float:
        return text_metrics.rouge_l(text, references)

    def require(self) -> None:
        text_metrics.require_rouge()


class Bleu(Metric):
    """Corpus BLEU, 0 to 1 (library sacrebleu): not a mean over texts, but a function of summed counts."""

    name, kind = "bleu", "generation"

    def statistics(self, gold: Any, predictions: Any, classes: int | None = None) -> Floats:
        pairs = zip(gold, predictions, strict=True)
        rows = [[*text_metrics.bleu_counts(text, texts), 1.0] for texts, text in pairs]
        return np.array(rows, dtype=np.float64).reshape(len(rows), text_metrics.BLEU_COUNTS + 1)

    def value(self, sums: Floats) -> Floats:
        rows = np.reshape(sums, (-1, text_metrics.BLEU_COUNTS + 1))
        values = [text_metrics.bleu(row[:-1].tolist()) if row[-1] > 0 else np.nan for row in rows]
        return np.reshape(np.array(values, dtype=np.float64), np.shape(sums)[:-1])

    def require(self) -> None:
        text_metrics.require_bleu()


def _ratio(part: Floats, whole: Floats) -> Floats:
    nothing = np.full(np.shape(whole), np.nan)
    return np.divide(part, whole, out=nothing, where=np.asarray(whole) > 0)


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (Accuracy(), MacroF1(), Matthews(), ExactMatch(), TokenF1(), RougeL(), Bleu())
}


def metric(name: str) -> Metric:
    """The metric of this name; InputError with the nearest one if there is none."""
    if name not in METRICS:
        raise InputError(f"unknown metric {name!r}. {suggest(name, METRICS)}")
    return METRICS[name]


def names(kind: Kind) -> list[str]:
    """The metrics of tasks of this kind."""
    return [name for name, known in METRICS.items() if known.kind == kind]
