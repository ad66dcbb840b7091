"""The linear-probe protocol: a source's prompt frozen, a regularised linear head fitted on the target.

For any backbone, with or without a language-model head. Head and regularisation see the train split alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from transferscope import attachment
from transferscope.attachment import Attached
from transferscope.encoding import encode, room
from transferscope.errors import InputError, suggest
from transferscope.evaluation import Evaluation, Prepared, prepared, rows_of
from transferscope.metrics import metric as find_metric
from transferscope.models import Backbone
from transferscope.prompts import SoftPrompt
from transferscope.tasks import Example, Task, stratified

EXAMPLES = 2000
FOLDS = 5


def _ridge(labels: np.ndarray) -> Any:
    # Closed form: the leave-one-out error of every strength follows from one decomposition.
    return RidgeClassifierCV(alphas=np.logspace(-2, 5, 15))


def _logistic(labels: np.ndarray) -> Any:
    folds = min(FOLDS, int(np.bincount(labels)[np.unique(labels)].min()))
    if folds < 2:
        raise InputError(
            "a logistic probe chooses its regularisation by cross-validation, which needs two examples of "
            "each class; use probe: ridge"
        )
    strengths = {"C": np.logspace(-4, 2, 7)}
    return GridSearchCV(LogisticRegression(max_iter=5000), strengths, cv=folds)


PROBES: dict[str, Callable[[np.ndarray], Any]] = {"ridge": _ridge, "logistic": _logistic}


class LinearProbe:
    """One target's train and dev split, tokenised once, in batches made once for each number of rows."""

    def __init__(
        self,
        backbone: Backbone,
        target: Task,
        *,
        max_length: int | None = None,
        token_budget: int = 8192,
        probe: str = "ridge",
        examples: int = EXAMPLES,
    ) -> None:
        """``probe``: "ridge" (closed form, strength by leave-one-out) or "logistic" (5-fold).

        At most ``examples`` of the train split are used, drawn by class. Raises InputError.
        """
        if probe not in PROBES:
            raise InputError(f"unknown probe {probe!r}. {suggest(probe, PROBES)}")
        if target.kind == "generation":
            raise InputError(
                f"task {target.name!r} is a generation task, and a linear probe finds classes: use zero-shot"
            )
        self.backbone, self.target, self.probe = backbone, target, probe
        self.max_length, self.token_budget = max_length, token_budget
        self._train = sample_of_train(target.train, examples)
        self._prepared: dict[tuple[int | None, int], tuple[Prepared, Prepared]] = {}

    def score(self, prompt: SoftPrompt) -> Evaluation:
        """The score on dev of a head fitted on train features under this prompt.

        ``logits`` [S, K] are the head's decision values (two columns for two classes).
        """
        return self.score_several([prompt])[0]

    def score_several(self, prompts: Sequence[SoftPrompt]) -> list[Evaluation]:
        """`score` of prompts with equally many rows; texts that they can share go through the model once.

        Memory: R S D floats of features.
        """
        several = [attachment.attach(self.backbone, prompt) for prompt in prompts]
        rows = several[0].rows
        train, dev = (rows_of(several, split, lambda read: read) for split in self._splits(rows))
        return [self._fitted(*both, *self._labels(rows)) for both in zip(train, dev, strict=True)]

    def _fitted(
        self, train: np.ndarray, dev: np.ndarray, labels: np.ndarray, truth: np.ndarray
    ) -> Evaluation:
        """The score of a head that is fitted on train features [S, D]."""
        head = make_pipeline(StandardScaler(), PROBES[self.probe](labels)).fit(train, labels)
        logits = _decisions(head, dev, self.target.classes)
        value = find_metric(self.target.metric).of(truth, logits.argmax(axis=1))
        wide = torch.from_numpy(logits.astype(np.float64))
        loss = float(torch.nn.functional.cross_entropy(wide, torch.from_numpy(truth)))
        return Evaluation(self.target.metric, value, loss, len(truth), logits)

    def _labels(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        train, dev = self._splits(rows)
        return train.data.labels, dev.data.labels

    def _splits(self, rows: int) -> tuple[Prepared, Prepared]:
        key = room(self.backbone, rows, self.max_length), rows
        if key not in self._prepared:
            train, dev = (
                prepared(
                    self.backbone,
                    encode(self.backbone, split, prompt_rows=rows, max_length=self.max_length),
                    prompt_rows=rows,
                    token_budget=self.token_budget,
                )
                for split in (self._train, self.target.dev)
            )
            self._prepared[key] = train, dev
        return self._prepared[key]


def features(attached: Attached, data: Prepared) -> np.ndarray:
    """The last hidden states at the readout row under a prompt, float32 [S, D], in the order of the split."""
    return rows_of([attached], data, lambda read: read)[0]


def sample_of_train(examples: tuple[Example, ...], most: int) -> tuple[Example, ...]:
    """At most so many examples of a train split, drawn by class."""
    if len(examples) <= most:
        return examples
    labels = np.array([example.label for example in examples])
    return tuple(examples[i] for i in stratified(labels, most, np.random.default_rng(0)))


def _decisions(head: Any, rows: np.ndarray, classes: int) -> np.ndarray:
    """Decision values [S, K]; a class that train lacks is never chosen."""
    found: np.ndarray = np.asarray(head.decision_function(rows), dtype=np.float32)
    if found.ndim == 1:
        found = np.stack([-found, found], axis=1) * np.float32(0.5)
    known = np.asarray(head[-1].classes_, dtype=np.int64)
    full = np.full((len(rows), classes), np.finfo(np.float32).min, dtype=np.float32)
    full[:, known] = found
    return full
