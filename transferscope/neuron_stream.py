"""A few chosen neurons as a split streams by: their most predictive rows, and their activations there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from transferscope.activations import FireCounts, Moments, Probe, capture, wide_dtype
from transferscope.attachment import Attached
from transferscope.encoding import Prepared
from transferscope.skill_sets import Floats
from transferscope.task_spec import Subtask
from transferscope.templates import Batch, Placed
from transferscope.word_promotion import Neuron


class Picked:
    """The activations of k chosen neurons under an attached prompt, at its P probed rows.

    Nothing else is kept of a pass; 0 stands where a layer lacks a row.
    """

    def __init__(self, attached: Attached, neurons: Sequence[Neuron]) -> None:
        self.attached, self.neurons = attached, tuple(neurons)
        self.probe, self.device = Probe.of(attached), attached.backbone.device
        self._by_layer: dict[int, tuple[Tensor, Tensor]] = {}
        for layer in {layer for layer, _ in neurons}:
            places = [i for i, one in enumerate(neurons) if one[0] == layer]
            columns = [neurons[i][1] for i in places]
            self._by_layer[layer] = (
                torch.tensor(places, device=self.device),
                torch.tensor(columns, device=self.device),
            )

    def stream(self, data: Prepared) -> Iterator[tuple[Batch, Tensor]]:
        """One pass: each batch with its activations [B, P, k], float32."""
        now: list[tuple[Placed, Tensor]] = []

        def sink(layer: int, values: Tensor, gate: Tensor | None) -> None:
            if layer in self._by_layer:
                places, columns = self._by_layer[layer]
                placed, into = now[0]
                rows = self.probe.pick(layer, values, placed)[..., columns.to(values.device)]
                into[:, : rows.shape[1], places] = rows.float().to(into.device)  # [B, P', columns]

        def step(batch: Batch) -> tuple[Batch, Tensor]:
            placed = self.attached.place(batch)
            into = torch.zeros(len(batch.labels), self.probe.rows, len(self.neurons), device=self.device)
            now[:] = [(placed, into)]
            self.attached.forward(placed)
            return batch, into

        fitting, beside = self.attached.backbone.fitting, self.attached.rows
        with torch.inference_mode(), capture(self.attached.backbone, sink):
            for batch in data.batches:
                yield from fitting.run("extraction", batch, step, beside=beside)


def baselines(picked: Picked, signature: np.ndarray, subtasks: int) -> Floats:
    """The baseline of a signature's trial, [L, P, N] float32, as [C, P, k]: the same for C subtasks."""
    at = np.array(picked.neurons)
    cells = signature[at[:, 0], :, at[:, 1]].T.astype(np.float64)  # [P, k]
    return np.broadcast_to(cells, (subtasks, *cells.shape))


def subtask_baselines(
    picked: Picked, train: Prepared, subtasks: Sequence[Subtask], classes: int, *, balanced: bool
) -> Floats:
    """The baselines of C given subtasks, [C, P, k] float64: each over its own examples, as `measure` has it.

    One pass over train. ``balanced``: half of each side, so that the sides count alike.
    """
    shape = (1, picked.probe.rows, len(picked.neurons))
    parts = [Moments.zeros(2, shape, picked.device) for _ in subtasks]
    sides = [_sides(one, classes, picked.device) for one in subtasks]
    for batch, values in picked.stream(train):
        for part, side in zip(parts, sides, strict=True):
            _add(part, values, side[batch.labels])
    found = [
        (part.sums / part.counts[:, None, None, None]).mean(0) if balanced else part.mean for part in parts
    ]
    return np.stack([one[0].cpu().double().numpy() for one in found])


def best_rows(
    picked: Picked,
    dev: Prepared,
    thresholds: Floats,
    subtasks: Sequence[Subtask],
    classes: int,
    *,
    balanced: bool,
) -> tuple[np.ndarray, Floats]:
    """For each of C subtasks and k neurons the most predictive row [C, k], and Acc there [C, k] float64.

    One pass over dev, against ``thresholds`` [C, P, k]. Cells that do not vary over the subtask's examples of
    dev are left out (a signature leaves out those that do not over train); Acc is NaN where none does.
    """
    cells = torch.from_numpy(np.array(thresholds)).to(wide_dtype(picked.device)).to(picked.device)
    fired = [FireCounts.above(one.unsqueeze(0), 2) for one in cells]
    parts = [Moments.zeros(2, (1, *one.shape), picked.device) for one in cells]
    sides = [_sides(one, classes, picked.device) for one in subtasks]
    for batch, values in picked.stream(dev):
        for side, counts, part in zip(sides, fired, parts, strict=True):
            _add(counts, values, side[batch.labels])
            _add(part, values, side[batch.labels])
    accuracy = np.stack([one.accuracy(1, balanced=balanced)[0].cpu().double().numpy() for one in fired])
    varies = np.stack([one.varies[0].cpu().numpy() for one in parts])  # [C, P, k]
    level = np.where(varies, np.maximum(accuracy, 1 - accuracy), -np.inf)
    rows = level.argmax(axis=1)
    at = np.take_along_axis(accuracy, rows[:, None], axis=1)[:, 0]
    return rows, np.where(varies.any(axis=1), at, np.nan)


def at_rows(picked: Picked, data: Prepared, rows: np.ndarray) -> np.ndarray:
    """Each neuron's activation at its row [k], [S, k] float32, in the order of the split. One pass."""
    index = torch.from_numpy(rows).to(picked.device)
    columns = torch.arange(len(rows), device=picked.device)
    kept = torch.zeros(len(data), len(rows), device=picked.device)
    for batch, values in picked.stream(data):
        kept[torch.tensor(batch.index, device=picked.device)] = values[:, index, columns]
    return kept.cpu().numpy()


def _sides(subtask: Subtask, classes: int, device: torch.device) -> Tensor:
    """The side of each class, [K]: 1 positive, 0 negative, -1 in neither."""
    names = [1 if k in subtask.positive else 0 if k in subtask.negative else -1 for k in range(classes)]
    return torch.tensor(names, device=device)


def _add(statistics: Moments | FireCounts, values: Tensor, sides: Tensor) -> None:
    """Take in the examples of a batch that are on a side; the k neurons stand for one layer."""
    index = (sides >= 0).nonzero()[:, 0]
    if len(index):
        statistics.add(0, values[index], sides[index])
