"""Examples of several trials in one batch: each under the prompt, and the classifier, of its own trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from transferscope.attachment import Attached, Readout
from transferscope.decoding import generate
from transferscope.encoding import TOKEN_BUDGET, Encoded, Prepared, batches, buckets
from transferscope.evaluation import Evaluation, evaluation, fitting_metric
from transferscope.metrics import Metric
from transferscope.readouts import AnyReadout, TextReadout
from transferscope.templates import Batch


@dataclass(frozen=True)
class Trial:
    """One of several prompts: attached with P' rows as all of them are, and what its labels are read by."""

    attached: Attached
    readout: AnyReadout


@dataclass(frozen=True)
class Pool:
    """Examples of R trials as one split; ``owner`` [S] int64 says to which trial each example belongs."""

    data: Encoded
    owner: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[Encoded]) -> Pool:
        """The examples of all parts, one a trial, behind one another."""
        first = parts[0]
        data = replace(
            first,
            ids=tuple(row for part in parts for row in part.ids),
            types=None if first.types is None else tuple(row for part in parts for row in part.types or ()),
            labels=np.concatenate([part.labels for part in parts]),
            targets=None
            if first.targets is None
            else tuple(row for part in parts for row in part.targets or ()),
            references=None
            if first.references is None
            else tuple(text for part in parts for text in part.references or ()),
        )
        return cls(data, np.repeat(np.arange(len(parts)), [len(part) for part in parts]))

    def by_trial(self, group: np.ndarray) -> np.ndarray:
        """These positions with the examples of a trial next to each other."""
        return group[np.argsort(self.owner[group], kind="stable")]

    def of_batch(self, trials: Sequence[Trial], batch: Batch) -> Trial:
        """One trial for a batch, or a part of one, with the examples of a trial next to each other."""
        return together(trials, self.owner[list(batch.index)])


def together(trials: Sequence[Trial], owner: np.ndarray) -> Trial:
    """One trial for a batch in which the example b is of the trial owner[b], owners ascending.

    Each prompt is repeated for its own examples and never multiplied with another's, so that a prompt that is
    no longer finite spoils no other, and its gradient is a sum in a fixed order.
    """
    counts = np.bincount(owner, minlength=len(trials)).tolist()
    first = trials[0]
    attached = replace(first.attached, prompt=_spread([t.attached.prompt for t in trials], counts))
    if not isinstance(first.readout, Readout) or first.readout.weight is None:
        return Trial(attached, first.readout)
    weight, bias = (
        _spread([getattr(trial.readout, part) for trial in trials], counts) for part in ("weight", "bias")
    )
    return Trial(attached, replace(first.readout, weight=weight, bias=bias))


def _spread(tensors: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """Each tensor [...] as often as it is counted, [B, ...]."""
    pairs = zip(tensors, counts, strict=True)
    return torch.cat([tensor.expand(count, *tensor.shape) for tensor, count in pairs if count])


def cut_by_budget(
    lengths: np.ndarray, owner: np.ndarray, *, prompt_rows: int, token_budget: int
) -> list[np.ndarray]:
    """Positions [S] sorted by length, in pieces within a budget of rows (prompt rows counted).

    No piece is smaller than the largest batch of one trial, which has to fit in any case.
    """
    order = np.argsort(-lengths, kind="stable")
    least = int(np.bincount(owner).max())
    groups: list[np.ndarray] = []
    start = 0
    while start < len(order):
        size = max(least, token_budget // (int(lengths[order[start]]) + prompt_rows))
        groups.append(order[start : start + size])
        start += size
    return groups


def shares(parts: Sequence[Encoded]) -> np.ndarray:
    """What each example's loss counts, so that their sum is the sum of the trials' mean losses, float32.

    One by the number of its trial's examples; of a generation task, of its trial's target tokens.
    """
    counts = [len(p) if p.targets is None else sum(len(row) for row in p.targets) for p in parts]
    return np.repeat(1.0 / np.array(counts), [len(part) for part in parts]).astype(np.float32)


def evaluate_together(
    trials: Sequence[Trial],
    parts: Sequence[Encoded],
    *,
    metric: str = "accuracy",
    token_budget: int = TOKEN_BUDGET,
) -> list[Evaluation]:
    """What `evaluate` gives for each trial on its part, to rounding, the examples of all in common batches.

    Raises InputError for a metric that is not for what the readout gives.
    """
    pool, readout = Pool.of(parts), trials[0].readout
    scored = fitting_metric(metric, readout)
    if isinstance(readout, TextReadout):
        return _written(trials, parts, pool, scored, readout.max_new_tokens, token_budget)
    data = _prepared(trials, pool, token_budget)

    def read(batch: Batch) -> Tensor:
        pooled = pool.of_batch(trials, batch)
        hidden = pooled.attached.forward(pooled.attached.place(batch))
        return pooled.readout.logits(hidden).float()  # type: ignore[union-attr]

    with torch.inference_mode():
        fitting = trials[0].attached.backbone.fitting
        logits = torch.cat(fitting.over("evaluation", data.batches, read, beside=data.rows)).cpu().numpy()
    ordered = np.empty_like(logits)
    ordered[np.concatenate(data.groups)] = logits
    return [evaluation(ordered[pool.owner == i], part.labels, metric) for i, part in enumerate(parts)]


def _prepared(trials: Sequence[Trial], pool: Pool, token_budget: int) -> Prepared:
    """The examples of all in batches by length and within the budget, those of a trial next to each other."""
    attached = trials[0].attached
    cut = buckets(pool.data, prompt_rows=attached.rows, token_budget=token_budget)
    groups = tuple(pool.by_trial(bucket) for bucket in cut)
    return Prepared(pool.data, attached.rows, groups, tuple(batches(attached.backbone, pool.data, groups)))


def _written(
    trials: Sequence[Trial],
    parts: Sequence[Encoded],
    pool: Pool,
    scored: Metric,
    most: int,
    token_budget: int,
) -> list[Evaluation]:
    """The texts that are written under each trial's prompt, and the loss on those that should have been."""
    first, data = trials[0].attached, _prepared(trials, pool, token_budget)

    def read(batch: Batch) -> Tensor:
        pooled = pool.of_batch(trials, batch)
        return pooled.readout.losses(pooled.attached, batch).double()

    with torch.inference_mode():
        found = first.backbone.fitting.over("evaluation", data.batches, read, beside=first.rows)
        losses = torch.cat(found).cpu().numpy()[np.argsort(np.concatenate(data.groups))]

    def by(batch: Batch) -> Attached:
        return pool.of_batch(trials, batch).attached

    texts = np.array(generate(first, data, max_new_tokens=most, by=by), dtype=object)
    scores = []
    for number, part in enumerate(parts):
        mine = pool.owner == number
        written = tuple(texts[mine].tolist())
        tokens = sum(len(row) for row in part.targets or ())
        value, loss = scored.of(part.gold, written), float(losses[mine].sum()) / tokens
        scores.append(Evaluation(scored.name, value, loss, len(part), None, written))
    return scores
