"""The mean and the standard deviation of each neuron under a prompt: on its probed rows, or on all rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from transferscope.activations import Moments, Probe, to_numpy
from transferscope.attachment import Attached
from transferscope.encoding import Prepared
from transferscope.layer_devices import empty_moments, layer_devices
from transferscope.layer_sums import take_in_placed
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
    of values, not by one less. The sums are kept where each layer is.
    """
    return _by_row(attached, data) if rows == "prompt" else _over_all(attached, data)


def _by_row(attached: Attached, data: Prepared) -> Levels:
    probe = Probe.of(attached)
    found = empty_moments(attached.backbone, 1, probe.rows)

    def take(layer: int, values: Tensor, placed: Placed) -> None:
        chosen = probe.pick(layer, values, placed)
        found.add(layer, chosen, _one_class(chosen))

    take_in_placed(attached, data.batches, take)
    return Levels(to_numpy(found.merged().mean), _sd(found.merged()))


def _over_all(attached: Attached, data: Prepared) -> Levels:
    """Each layer has sums of its own, of one row of cells: a stack may see other rows than the first."""
    backbone = attached.backbone
    found = [Moments.zeros(1, (1, 1, backbone.neurons), device) for device in layer_devices(backbone)]
    written = [_is_decoder(attached, stack) for stack, _, _ in backbone.down_projections()]

    def take(layer: int, values: Tensor, placed: Placed) -> None:
        rows = placed.mask.bool().to(values.device)
        real = values.flatten(0, 1) if written[layer] else values[rows]  # [rows, N]
        found[layer].add(0, real.unsqueeze(1), _one_class(real))

    take_in_placed(attached, data.batches, take)
    mean = np.concatenate([to_numpy(one.mean)[0] for one in found])  # [L, N]
    return Levels(mean, np.concatenate([_sd(one)[0] for one in found]))


def _sd(moments: Moments) -> np.ndarray:
    return to_numpy((moments.squares / moments.counts.sum()).sqrt())


def _one_class(values: Tensor) -> Tensor:
    return torch.zeros(len(values), dtype=torch.int64, device=values.device)


def _is_decoder(attached: Attached, stack: object) -> bool:
    """The decoder of an encoder-decoder: its rows are not the texts', and it has no padding."""
    architecture = attached.backbone.architecture
    return architecture.kind == "encoder-decoder" and stack == architecture.stacks[-1]
