"""A prompt's score on a task: class logits at the readout row or written texts, the loss, and the metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transferscope.attachment import Attached, placements
from transferscope.decoding import generate
from transferscope.encoding import TOKEN_BUDGET, Encoded, Prepared, prepared
from transferscope.errors import InputError, suggest
from transferscope.metrics import Metric, names
from transferscope.metrics import metric as find_metric
from transferscope.readouts import AnyReadout, TextReadout
from transferscope.templates import Batch

__all__ = [
    "Evaluation",
    "Prepared",
    "evaluate",
    "evaluate_several",
    "evaluation",
    "fitting_metric",
    "prepared",
]


@dataclass(frozen=True)
class Evaluation:
    """A score: value of the metric, mean cross-entropy (nats), S examples, their logits [S, K] float32.

    Of a generation task the cross-entropy is the mean over target tokens, there are no logits, and ``texts``
    are what was written, S of them.
    """

    metric: str
    value: float
    loss: float
    examples: int
    logits: np.ndarray | None
    texts: tuple[str, ...] | None = None

    @property
    def predictions(self) -> Any:
        """The class found for each example, int64 [S], or the texts: what the metric's statistics take."""
        return self.texts if self.logits is None else self.logits.argmax(axis=1)


def evaluate(
    attached: Attached,
    readout: AnyReadout,
    data: Encoded | Prepared,
    *,
    metric: str = "accuracy",
    token_budget: int = TOKEN_BUDGET,
) -> Evaluation:
    """Score a prompt on a split: its classes, or the texts that it writes. Both in the order of the split.

    Raises InputError for a metric that is not for what the readout gives.
    """
    if isinstance(data, Encoded):
        data = prepared(attached.backbone, data, prompt_rows=attached.rows, token_budget=token_budget)
    scored = fitting_metric(metric, readout)
    if isinstance(readout, TextReadout):
        return _written(attached, readout, data, scored)
    fitting, beside = attached.backbone.fitting, attached.rows

    def read(batch: Batch) -> Tensor:
        return readout.logits(attached.forward(attached.place(batch))).float()

    with torch.inference_mode():
        rows = [
            one for batch in data.batches for one in fitting.run("evaluation", batch, read, beside=beside)
        ]
        logits = torch.cat(rows).cpu().numpy()  # the only wait for the device
    ordered = np.empty_like(logits)
    ordered[np.concatenate(data.groups)] = logits
    return evaluation(ordered, data.data.labels, metric)


def evaluate_several(
    several: Sequence[Attached], readout: AnyReadout, data: Prepared, *, metric: str = "accuracy"
) -> list[Evaluation]:
    """Score prompts on a split, batch by batch: texts that they can share are read once for all of them.

    The numbers are those of `evaluate` up to rounding. Memory: the keys and values of one batch. A generation
    task is scored prompt by prompt. Raises InputError as `evaluate` does.
    """
    fitting_metric(metric, readout)
    if isinstance(readout, TextReadout):
        return [evaluate(one, readout, data, metric=metric) for one in several]
    found = rows_of(several, data, readout.logits)
    return [evaluation(logits, data.data.labels, metric) for logits in found]


def rows_of(
    several: Sequence[Attached], data: Prepared, read: Callable[[Tensor], Tensor]
) -> list[np.ndarray]:
    """What ``read`` makes of the readout rows [B, D] under each prompt: float32 [S, ...], in split order."""
    fitting, beside = several[0].backbone.fitting, several[0].rows

    def read_all(batch: Batch) -> list[Tensor]:
        placed = placements(several, batch)
        return [read(one.forward(rows)).float() for one, rows in zip(several, placed, strict=True)]

    with torch.inference_mode():
        found = [
            one for batch in data.batches for one in fitting.run("evaluation", batch, read_all, beside=beside)
        ]
        rows = [torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True)]  # the only wait
    order = np.argsort(np.concatenate(data.groups), kind="stable")
    return [one[order] for one in rows]


def evaluation(logits: np.ndarray, labels: np.ndarray, metric: str) -> Evaluation:
    """The score of logits [S, K] against class ids [S]."""
    scored = find_metric(metric)
    wide = torch.from_numpy(logits.astype(np.float64))
    loss = float(torch.nn.functional.cross_entropy(wide, torch.from_numpy(labels)))
    return Evaluation(metric, scored.of(labels, logits.argmax(axis=1)), loss, len(labels), logits)


def fitting_metric(metric: str, readout: AnyReadout) -> Metric:
    """The metric of this name. Raises InputError where it is not for what the readout gives."""
    scored = find_metric(metric)
    kind = "generation" if isinstance(readout, TextReadout) else "classification"
    if scored.kind != kind:
        raise InputError(
            f"the metric {metric!r} is for {scored.kind}, and this readout is for {kind}. "
            f"{suggest(metric, names(kind))}"  # type: ignore[arg-type]
        )
    scored.require()
    return scored


def _written(attached: Attached, readout: TextReadout, data: Prepared, scored: Metric) -> Evaluation:
    """The score of the texts that are written, and the loss on those that should have been."""
    fitting, beside = attached.backbone.fitting, attached.rows

    def read(batch: Batch) -> Tensor:
        return torch.stack(readout.surprise(attached, batch))

    with torch.inference_mode():
        sums = torch.stack(
            [one for batch in data.batches for one in fitting.run("evaluation", batch, read, beside=beside)]
        )
        total, count = sums.double().sum(dim=0).tolist()
    texts = tuple(generate(attached, data, max_new_tokens=readout.max_new_tokens))
    return Evaluation(scored.name, scored.of(data.data.gold, texts), total / count, len(data), None, texts)
