"""A pass whose layers go into sums: each takes in each example once, also where a batch is run in halves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from transferscope.activations import Sink, capture, to_numpy, wide_dtype
from transferscope.attachment import Attached
from transferscope.halving import Ledger
from transferscope.layer_devices import layer_devices
from transferscope.models import Backbone
from transferscope.templates import Batch, Placed

WORK = "extraction"  # one kind of work: what fits is the same for all that only looks at the layers


def take_in(
    backbone: Backbone,
    batches: Iterable[Batch],
    forward: Callable[[Batch], object],
    take: Sink,
    *,
    beside: int = 0,
    gates: bool = False,
    missing: bool = False,
) -> None:
    """Run ``forward`` on each batch, or on its halves; ``take`` gets each layer of each example once.

    For what ``take`` is given, and ``missing``, see `activations.capture`; it must happen wholly or not at
    all, so what needs memory comes before the first number is changed. What ``forward`` does behind its pass
    is done once, too. ``beside``: rows of an example beside its tokens (those of the prompt).
    """
    ledger = Ledger()

    def sink(layer: int, values: Tensor, gate: Tensor | None) -> None:
        ledger.once(layer, partial(take, layer, values, gate))

    with torch.inference_mode(), capture(backbone, sink, gates=gates, missing=missing):
        backbone.fitting.over(WORK, batches, forward, beside=beside, ledger=ledger)


def take_in_placed(
    attached: Attached,
    batches: Iterable[Batch],
    take: Callable[[int, Tensor, Placed], None],
    *,
    missing: bool = False,
) -> None:
    """`take_in` under a prompt: ``take(layer, values, placed)`` also gets where the rows of the batch are."""
    now: list[Placed] = []

    def forward(batch: Batch) -> None:
        now[:] = [attached.place(batch)]
        attached.forward(now[0])

    def sink(layer: int, values: Tensor, gate: Tensor | None) -> None:
        take(layer, values, now[0])

    take_in(attached.backbone, batches, forward, sink, beside=attached.rows, missing=missing)


def zeros(backbone: Backbone, *shape: int) -> list[Tensor]:
    """A tensor of zeros for each of the L layers, float64 (see `wide_dtype`), where the layer is."""
    return [torch.zeros(shape, dtype=wide_dtype(one), device=one) for one in layer_devices(backbone)]


def on_host(layers: Sequence[Tensor]) -> np.ndarray:
    """Tensors of L layers, wherever they lie, as one array [L, ...] float64."""
    return np.stack([to_numpy(one) for one in layers])
