"""How a task's prompt works the FFN neurons on the task's own texts: firing rates, and how classes differ.

An example's activation of a neuron is the mean over the probed rows. Sums are streamed; of single examples at
most a fixed number is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from indicators import neuron_scores
from indicators.neuron_scores import ClassMoments
from transferscope.activations import Probe, onehot, to_numpy, wide_dtype
from transferscope.attachment import Attached
from transferscope.encoding import Prepared
from transferscope.layer_devices import layer_devices
from transferscope.layer_sums import on_host, take_in, zeros
from transferscope.tasks import stratified
from transferscope.templates import Batch

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
    labels, backbone = data.data.labels, attached.backbone
    stream = _Stream(attached, labels, kept)
    take_in(backbone, data.batches, stream.forward, stream.take, beside=attached.rows, gates=True)
    firing = on_host(stream.fired) / len(labels)
    if not stream.classes:
        return Activity(firing)
    moments = _moments(stream.sums)
    few = np.stack([layer.cpu().numpy() for layer in stream.kept], axis=1)  # [S, L, N] of those kept
    return Activity(
        firing,
        neuron_scores.mean_difference(moments),
        neuron_scores.point_biserial(moments),
        neuron_scores.auroc(few, labels[stream.chosen]),
    )


class _Stream:
    """What is gathered in a pass, of each of the L layers where it is.

    ``fired`` [N], sums by class, and activations ``kept`` [at most S, N].
    """

    def __init__(self, attached: Attached, labels: np.ndarray, most: int) -> None:
        backbone = attached.backbone
        neurons, devices = backbone.neurons, layer_devices(backbone)
        self.attached, self.probe = attached, Probe.of(attached)
        self.classes = int(labels.max()) + 1  # 0 for a generation task, whose labels are -1
        self.fired = zeros(backbone, neurons)
        self.sums = [_ClassSums.zeros(self.classes, neurons, device) for device in devices]
        count = min(most, len(labels)) if self.classes else 0
        self.chosen = stratified(labels, count, np.random.default_rng(0))
        self.kept = [torch.zeros(count, neurons, device=device) for device in devices]
        self._slots = np.full(len(labels), -1)
        self._slots[self.chosen] = np.arange(count)

    def forward(self, batch: Batch) -> None:
        """The pass of a batch, whose layers are taken in."""
        self._placed, self._labels = self.attached.place(batch), batch.labels
        slots = self._slots[list(batch.index)]
        device = batch.labels.device
        self._keep = torch.from_numpy(np.flatnonzero(slots >= 0)).to(device)
        self._into = torch.from_numpy(slots[slots >= 0]).to(device)
        self.attached.forward(self._placed)

    def take(self, layer: int, values: Tensor, gate: Tensor | None) -> None:
        """Take in one layer: values and gate [B, Q, N]."""
        picked = self.probe.pick(layer, values, self._placed)  # [B, P', N]
        active = picked if gate is None else self.probe.pick(layer, gate, self._placed)
        fired = (active > 0).to(self.fired[layer].dtype).mean(dim=1).sum(dim=0)
        if self.classes:
            level = picked.float().mean(dim=1)  # [B, N]
            into, keep, labels = (one.to(level.device) for one in (self._into, self._keep, self._labels))
            self.kept[layer][into] = level[keep]  # done again, it would be the same
            self.sums[layer].add(level, labels)
        self.fired[layer] += fired


@dataclass
class _ClassSums:
    """Sums of one layer over examples by class, beside the first one: ``counts`` [K], the others [K, N].

    What is summed is the distance from the first example: it is exactly 0 where nothing varies, and nothing
    cancels where a neuron varies little beside its level.
    """

    counts: Tensor
    sums: Tensor
    squares: Tensor
    first: Tensor

    @classmethod
    def zeros(cls, classes: int, neurons: int, device: torch.device) -> _ClassSums:
        wide = wide_dtype(device)

        def empty(*size: int) -> Tensor:
            return torch.zeros(size, dtype=wide, device=device)

        first = torch.full_like(empty(neurons), torch.nan)
        return cls(empty(classes), empty(classes, neurons), empty(classes, neurons), first)

    def add(self, values: Tensor, labels: Tensor) -> None:
        """Take in a batch, wholly or not at all: values [B, N], class ids [B]."""
        wide = values.to(self.sums.dtype)
        self.first = torch.where(self.first.isnan(), wide[0], self.first)
        members, apart = onehot(labels, self.counts), wide - self.first
        sums, squares, counts = members @ apart, members @ apart.square(), members.sum(1)
        self.sums += sums
        self.squares += squares
        self.counts += counts

    def of(self, known: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Means and variances [K', N] of the classes that occur."""
        chosen = known.to(self.counts.device)
        counts = self.counts[chosen][:, None]
        apart = self.sums[chosen] / counts
        variances = (self.squares[chosen] / counts - apart.square()).clamp_min(0)
        return to_numpy(apart + self.first), to_numpy(variances)


def _moments(layers: Sequence[_ClassSums]) -> ClassMoments:
    """Counts, means and variances of the classes that occur."""
    counts = layers[0].counts.cpu()
    known = counts > 0
    means, variances = zip(*(layer.of(known) for layer in layers), strict=True)
    ids, sizes = known.nonzero()[:, 0].numpy(), to_numpy(counts[known]).astype(np.int64)
    return ClassMoments(ids, sizes, np.stack(means, axis=1), np.stack(variances, axis=1))
