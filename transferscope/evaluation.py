"""A prompt's score on a task: class logits at the readout row, the loss, and the task's metric."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from transferscope.attachment import Attached, Readout
from transferscope.encoding import Encoded, batches, buckets
from transferscope.metrics import metric as find_metric
from transferscope.models import Backbone
from transferscope.templates import Batch

TOKEN_BUDGET = 8192


@dataclass(frozen=True)
class Evaluation:
    """A score: value of the metric, mean cross-entropy (nats), S examples, their logits [S, K] float32."""

    metric: str
    value: float
    loss: float
    examples: int
    logits: np.ndarray

    @property
    def predictions(self) -> np.ndarray:
        """The class found for each example, int64 [S]."""
        return self.logits.argmax(axis=1)


@dataclass(frozen=True)
class Prepared:
    """An encoded split as batches on the device: made once, run by every prompt with this number of rows.

    ``groups`` are the positions of the examples of each batch.
    """

    data: Encoded
    rows: int
    groups: tuple[np.ndarray, ...]
    batches: tuple[Batch, ...]

    def __len__(self) -> int:
        return len(self.data)


def prepared(
    backbone: Backbone, data: Encoded, *, prompt_rows: int, token_budget: int = TOKEN_BUDGET
) -> Prepared:
    """Bucket a split by length for prompts of P rows (the mask row counted) and put it on the device."""
    groups = tuple(buckets(data, prompt_rows=prompt_rows, token_budget=token_budget))
    return Prepared(data, prompt_rows, groups, tuple(batches(backbone, data, groups)))


def evaluate(
    attached: Attached,
    readout: Readout,
    data: Encoded | Prepared,
    *,
    metric: str = "accuracy",
    token_budget: int = TOKEN_BUDGET,
) -> Evaluation:
    """Score a prompt on a split. ``logits`` are in the order of the split."""
    if isinstance(data, Encoded):
        data = prepared(attached.backbone, data, prompt_rows=attached.rows, token_budget=token_budget)
    with torch.inference_mode():
        rows = [readout.logits(attached.forward(attached.place(batch))).float() for batch in data.batches]
        logits = torch.cat(rows).cpu().numpy()  # the only wait for the device
    ordered = np.empty_like(logits)
    ordered[np.concatenate(data.groups)] = logits
    return evaluation(ordered, data.data.labels, metric)


def evaluation(logits: np.ndarray, labels: np.ndarray, metric: str) -> Evaluation:
    """The score of logits [S, K] against class ids [S]."""
    scored = find_metric(metric)
    wide = torch.from_numpy(logits.astype(np.float64))
    loss = float(torch.nn.functional.cross_entropy(wide, torch.from_numpy(labels)))
    return Evaluation(metric, scored.of(labels, logits.argmax(axis=1)), loss, len(labels), logits)
