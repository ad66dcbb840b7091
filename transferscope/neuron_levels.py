"""The mean and the standard deviation of each neuron under a prompt: on its probed rows, or on all rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from transferscope.activations import Moments, Probe, capture, to_numpy
from transferscope.attachment import Attached
from transferscope.encoding import Prepared
from transferscope.templates import Placed


@dataclass(frozen=True)
class Levels:
    """``mean`` and ``sd`` float64, [L, P, N] by probed row, or [L, N] over all rows that are no padding."""

    mean: np.ndarray
    sd: np.ndarray


def levels(attached: Attached, data: Prepared, rows: str = "prompt") -> Levels:
    """What each neuron is on these texts under a prompt, in one forward pass a batch.

    ``rows`` "prompt": at each probed row, over the S texts (sd 0 at rows that a layer has not); "all": over
    every row of every text, prompt rows included and padding left out. Deviations are divided by the number
    of values, not by one less.
    """
    return _by_row(attached, data) if rows == "prompt" else _over_all(attached, data)


def _by_row(attached: Attached, data: Prepared) -> Levels:
    probe, backbone = Probe.of(attached), attached.backbone
    found = Moments.zeros(1, (backbone.layers, probe.rows, backbone.neurons), backbone.device)
    now: list[Placed] = []

    def sink(layer: int, values: Tensor, gate: Tensor | None) -> None:
        chosen = probe.pick(layer, values, now[0])
        found.add(layer, chosen, _one_class(chosen))

    with torch.inference_mode(), capture(backbone, sink):
        for batch in data.batches:
            now[:] = [attached.place(batch)]
            attached.forward(now[0])
    return Levels(to_numpy(found.mean), to_numpy((found.squares / found.counts.sum()).sqrt()))


def _over_all(attached: Attached, data: Prepared) -> Levels:
    """Each layer has sums of its own, of one row of cells: a stack may see other rows than the first."""
    backbone = attached.backbone
    shape = (1, 1, backbone.neurons)
    found = [Moments.zeros(1, shape, backbone.device) for _ in range(backbone.layers)]
    written = [_is_decoder(attached, stack) for stack, _, _ in backbone.down_projections()]
    now: list[Tensor] = []

    def sink(layer: int, values: Tensor, gate: Tensor | None) -> None:
        real = values.flatten(0, 1) if written[layer] else values[now[0]]  # [rows, N]
        found[layer].add(0, real.unsqueeze(1), _one_class(real))

    with torch.inference_mode(), capture(backbone, sink):
        for batch in data.batches:
            placed = attached.place(batch)
            now[:] = [placed.mask.bool()]
            attached.forward(placed)
    mean = np.concatenate([to_numpy(one.mean)[0] for one in found])  # [L, N]
    return Levels(mean, np.concatenate([to_numpy((m.squares / m.counts.sum()).sqrt())[0] for m in found]))


def _one_class(values: Tensor) -> Tensor:
    return torch.zeros(len(values), dtype=torch.int64, device=values.device)


def _is_decoder(attached: Attached, stack: object) -> bool:
    """The decoder of an encoder-decoder: its rows are not the texts', and it has no padding."""
    architecture = attached.backbone.architecture
    return architecture.kind == "encoder-decoder" and stack == architecture.stacks[-1]
