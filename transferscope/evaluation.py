"""A prompt's score on a task: logits at the readout row, then accuracy, macro-F1 or Matthews correlation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from transferscope.attachment import Attached, Readout
from transferscope.encoding import Encoded, batches, buckets
from transferscope.errors import InputError, suggest

METRICS = {
    "accuracy": accuracy_score,
    "macro_f1": lambda labels, predictions: f1_score(labels, predictions, average="macro", zero_division=0),
    # One class alone correlates with nothing: 0 by convention, and scikit-learn warns.
    "matthews": lambda labels, found: matthews_corrcoef(labels, found) if len({*labels, *found}) > 1 else 0.0,
}
TOKEN_BUDGET = 8192


@dataclass(frozen=True)
class Evaluation:
    """A score: value of the metric, mean cross-entropy (nats), S examples, their logits [S, K] float32."""

    metric: str
    value: float
    loss: float
    examples: int
    logits: np.ndarray


def evaluate(
    attached: Attached,
    readout: Readout,
    data: Encoded,
    *,
    metric: str = "accuracy",
    token_budget: int = TOKEN_BUDGET,
) -> Evaluation:
    """Score a prompt on an encoded split. ``logits`` are in the order of the split."""
    rows: list[torch.Tensor] = []
    groups = buckets(data, prompt_rows=attached.rows, token_budget=token_budget)
    with torch.inference_mode():
        for batch in batches(attached.backbone, data, groups):
            rows.append(readout.logits(attached.forward(attached.place(batch))).float())
        logits = torch.cat(rows).cpu().numpy()
    ordered = np.empty_like(logits)
    ordered[np.concatenate(groups)] = logits
    return evaluation(ordered, data.labels, metric)


def evaluation(logits: np.ndarray, labels: np.ndarray, metric: str) -> Evaluation:
    """The score of logits [S, K] against class ids [S]."""
    if metric not in METRICS:
        raise InputError(f"unknown metric {metric!r}. {suggest(metric, METRICS)}")
    wide = torch.from_numpy(logits.astype(np.float64))
    loss = float(torch.nn.functional.cross_entropy(wide, torch.from_numpy(labels)))
    value = float(METRICS[metric](labels, logits.argmax(axis=1)))
    return Evaluation(metric, value, loss, len(labels), logits)
