"""One pass over a split: the probed rows of every layer go into the statistics of each prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from transferscope import attachment
from transferscope.activations import FireCounts, Moments, Probe, capture, onehot, wide_dtype
from transferscope.attachment import Attached
from transferscope.encoding import Encoded, batches, buckets, in_order, on_device
from transferscope.halving import Ledger
from transferscope.layer_devices import ByDevice, empty_moments
from transferscope.models import Backbone
from transferscope.task_spec import Subtask
from transferscope.templates import Batch, Placed

Statistics = ByDevice[Moments] | ByDevice[FireCounts]
COMPAT_BATCH = 16  # the reference procedure's batch size
TOGETHER_BYTES = 2**30  # statistics of prompts that are measured in one pass
# On a CPU larger batches leave the cache: they cost time and memory, and gain nothing.
CPU_TOKENS = 1024


@dataclass(frozen=True)
class How:
    """What the measurements of all prompts have in common."""

    backbone: Backbone
    probe: Probe
    classes: int
    subtasks: tuple[Subtask, ...]
    balanced: bool
    shared: bool
    compat: bool
    token_budget: int

    def empty(self, classes: int) -> ByDevice[Moments]:
        """Moments of no examples, where the layers are."""
        return empty_moments(self.backbone, classes, self.probe.rows)


def within_cache(device: torch.device, token_budget: int) -> int:
    """The rows in one pass of an extraction: the budget, or what stays in the cache of a CPU."""
    return min(token_budget, CPU_TOKENS) if device.type == "cpu" else token_budget


def in_one_pass(cells: int, classes: int, subtasks: int, *, experts: bool) -> int:
    """How many prompts have statistics of at most TOGETHER_BYTES in all; ``cells`` are L P N."""
    # float64 sums and counts by class, squares; of each subtask those of two sides; of experts, who was sent
    each = 2 * classes + 2 + 6 * subtasks + (classes + 2 * subtasks) * experts
    return max(1, TOGETHER_BYTES // (8 * cells * each))


@dataclass(frozen=True)
class Pass:
    """One prompt in a pass over a split: the statistics that its probed rows go into.

    And those of each of ``parts``, the examples of its subtask alone, by side [K] (0, 1, or -1: left out).
    """

    attached: Attached
    statistics: Statistics
    parts: Sequence[tuple[np.ndarray, Statistics]]

    def deeds(
        self, layer: int, picked: Tensor, labels: Tensor, inside: Sequence[tuple[Tensor, Tensor]]
    ) -> Iterator[Callable[[], None]]:
        """What takes in one layer of a batch [B, P', N]; ``inside``: each part's examples and their sides."""
        yield partial(self.statistics.add, layer, picked, labels)
        for (_, part), (index, sides) in zip(self.parts, inside, strict=True):
            own = index.to(picked.device)
            yield partial(part.add, layer, picked[own], sides) if len(index) else _nothing


def _nothing() -> None:
    """A batch without an example of a subtask."""


class _Enough(Exception):
    """Ends a forward pass when the last layer's neurons are known and nothing behind them is asked for."""


def stream(passes: Sequence[Pass], data: Encoded, how: How, *, readouts: bool = True) -> list[Tensor]:
    """One pass: the probed rows of every layer go into the statistics of each prompt.

    Returns the sums of each prompt's readout rows by class, [K, D]; zeros without ``readouts``, and then a
    forward pass ends before the last down projection. Nothing grows with the examples. A batch that does not
    fit is run in halves; the ledger sees to it that each layer takes in each example once.
    """
    backbone, rows, ledger = how.backbone, passes[0].attached.rows, Ledger()
    groups = buckets(data, prompt_rows=rows, token_budget=how.token_budget)
    if how.compat:
        groups = in_order(len(data), COMPAT_BATCH)
    classes, device = len(passes[0].statistics.parts[0].counts), backbone.device
    size = (classes, backbone.readout_size)
    sums = [torch.zeros(*size, dtype=wide_dtype(device), device=device) for _ in passes]
    of_layer = 1 + len(passes[0].parts)
    of_prompt = backbone.layers * of_layer + 1  # deeds, with that of the sums
    now: list[tuple[int, Placed, Tensor, list[tuple[Tensor, Tensor]]]] = []
    # A model whose layers are moved about (accelerate) has to come to its end to put them back.
    last = None if readouts or hasattr(backbone.model, "hf_device_map") else backbone.layers - 1

    def sink(layer: int, values: Tensor, gate: Tensor | None) -> None:
        if not now:  # texts are being read, without a prompt
            return
        i, placed, labels, inside = now[0]
        picked = how.probe.pick(layer, values, placed)
        first = i * of_prompt + layer * of_layer
        for number, deed in enumerate(passes[i].deeds(layer, picked, labels, inside), start=first):
            ledger.once(number, deed)
        if layer == last:
            raise _Enough

    def step(batch: Batch) -> None:
        now.clear()
        labels = data.labels[list(batch.index)]  # on the host: asked there, the device would be waited for
        inside = [_inside(side, labels, batch.labels.device) for side, _ in passes[0].parts]
        members = onehot(batch.labels, sums[0])
        for i, placed in enumerate(_placed([one.attached for one in passes], batch, how.shared)):
            now[:] = [(i, placed, batch.labels, inside)]
            with suppress(_Enough):
                hidden = passes[i].attached.forward(placed)
            now.clear()
            if readouts:
                added = members @ hidden.to(members.dtype)
                ledger.once((i + 1) * of_prompt - 1, partial(sums[i].add_, added))

    with torch.inference_mode(), capture(backbone, sink, missing=True):
        for batch in batches(backbone, data, groups):
            backbone.fitting.run("extraction", batch, step, beside=rows, ledger=ledger)
    return sums


def _placed(several: Sequence[Attached], batch: Batch, shared: bool) -> Iterator[Placed]:
    return attachment.placements(several, batch) if shared else (one.place(batch) for one in several)


def sides_of(subtask: Subtask, classes: int) -> np.ndarray:
    """The side of each class in a subtask, [K] int64: 0 negative, 1 positive, -1 left out."""
    sides = np.full(classes, -1, dtype=np.int64)
    sides[list(subtask.negative)] = 0
    sides[list(subtask.positive)] = 1
    return sides


def _inside(sides: np.ndarray, labels: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which examples of a batch a subtask has, and their sides, both on the device."""
    found = sides[labels]
    index = np.flatnonzero(found >= 0)
    return on_device(index, device), on_device(found[index], device)
