"""How a task's prompt works the FFN neurons on the task's own texts: firing rates, and how classes differ.

An example's activation of a neuron is the mean over the probed rows. Sums are streamed; of single examples at
most a fixed number is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from indicators import neuron_scores
from indicators.neuron_scores import ClassMoments
from transferscope.activations import Probe, capture, onehot, to_numpy, wide_dtype
from transferscope.attachment import Attached
from transferscope.encoding import Prepared
from transferscope.tasks import stratified
from transferscope.templates import Batch, Placed

KEPT = 256  # examples whose activations are kept, for what cannot be had from sums


@dataclass(frozen=True)
class Activity:
    """One prompt on its task's texts, each [L, N] float64.

    ``firing``: the share of examples in which a neuron is active (gate > 0 where the FFN is gated, else value
    > 0), mean over the probed rows. ``mean_difference``, ``point_biserial`` and ``auroc``: see
    `indicators.neuron_scores`; None for a task without classes.
    """

    firing: np.ndarray
    mean_difference: np.ndarray | None = None
    point_biserial: np.ndarray | None = None
    auroc: np.ndarray | None = None


def activity(attached: Attached, data: Prepared, *, kept: int = KEPT) -> Activity:
    """One pass over a task's examples under an attached prompt.

    AUROC is of ``kept`` of the examples, drawn by class with a fixed seed; all else is of all.
    """
    labels = data.data.labels
    stream = _Stream(attached, labels, kept)
    with torch.inference_mode(), capture(attached.backbone, stream.take, gates=True):
        for batch in data.batches:
            placed = stream.begin(batch)
            attached.forward(placed)
    firing = to_numpy(stream.fired / len(labels))
    if not stream.classes:
        return Activity(firing)
    moments = stream.sums.moments()
    return Activity(
        firing,
        neuron_scores.mean_difference(moments),
        neuron_scores.point_biserial(moments),
        neuron_scores.auroc(stream.kept.cpu().numpy(), labels[stream.chosen]),
    )


class _Stream:
    """What is gathered in a pass: ``fired`` [L, N], sums by class, activations ``kept`` [at most S, L, N]."""

    def __init__(self, attached: Attached, labels: np.ndarray, most: int) -> None:
        backbone = attached.backbone
        shape, device = (backbone.layers, backbone.neurons), backbone.device
        self.attached, self.probe = attached, Probe.of(attached)
        self.classes = int(labels.max()) + 1  # 0 for a generation task, whose labels are -1
        self.fired = torch.zeros(shape, dtype=wide_dtype(device), device=device)
        self.sums = _ClassSums.zeros(self.classes, shape, device)
        count = min(most, len(labels)) if self.classes else 0
        self.chosen = stratified(labels, count, np.random.default_rng(0))
        self.kept = torch.zeros(count, *shape, device=device)
        self._slots = np.full(len(labels), -1)
        self._slots[self.chosen] = np.arange(count)

    def begin(self, batch: Batch) -> Placed:
        """The rows of the batch that is to run next."""
        self._placed, self._labels = self.attached.place(batch), batch.labels
        slots = self._slots[list(batch.index)]
        device = batch.labels.device
        self._keep = torch.from_numpy(np.flatnonzero(slots >= 0)).to(device)
        self._into = torch.from_numpy(slots[slots >= 0]).to(device)
        return self._placed

    def take(self, layer: int, values: Tensor, gate: Tensor | None) -> None:
        """Take in one layer: values and gate [B, Q, N]."""
        picked = self.probe.pick(layer, values, self._placed)  # [B, P', N]
        active = picked if gate is None else self.probe.pick(layer, gate, self._placed)
        self.fired[layer] += (active > 0).to(self.fired.dtype).mean(dim=1).sum(dim=0)
        if self.classes:
            level = picked.float().mean(dim=1)  # [B, N]
            self.sums.add(layer, level, self._labels)
            self.kept[self._into, layer] = level[self._keep]


@dataclass
class _ClassSums:
    """Sums over examples by class, ``counts`` [K], ``sums`` and ``squares`` [K, L, N], beside the first one.

    What is summed is the distance from the first example: it is exactly 0 where nothing varies, and nothing
    cancels where a neuron varies little beside its level.
    """

    counts: Tensor
    sums: Tensor
    squares: Tensor
    first: Tensor

    @classmethod
    def zeros(cls, classes: int, shape: tuple[int, int], device: torch.device) -> _ClassSums:
        wide = wide_dtype(device)

        def empty(*size: int) -> Tensor:
            return torch.zeros(size, dtype=wide, device=device)

        return cls(
            empty(classes),
            empty(classes, *shape),
            empty(classes, *shape),
            torch.full_like(empty(*shape), torch.nan),
        )

    def add(self, layer: int, values: Tensor, labels: Tensor) -> None:
        """Take in one layer of a batch: values [B, N], class ids [B]."""
        wide = values.to(self.sums.dtype)
        self.first[layer] = torch.where(self.first[layer].isnan(), wide[0], self.first[layer])
        members, apart = onehot(labels, self.counts), wide - self.first[layer]
        self.sums[:, layer] += members @ apart
        self.squares[:, layer] += members @ apart.square()
        if layer == 0:
            self.counts += members.sum(1)

    def moments(self) -> ClassMoments:
        """Counts, means and variances of the classes that occur."""
        known = self.counts > 0
        counts = self.counts[known][:, None, None]
        apart = self.sums[known] / counts
        variances = (self.squares[known] / counts - apart.square()).clamp_min(0)
        ids = known.nonzero()[:, 0].cpu().numpy()
        sizes = to_numpy(self.counts[known]).astype(np.int64)
        return ClassMoments(ids, sizes, to_numpy(apart + self.first), to_numpy(variances))
