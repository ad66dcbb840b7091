"""Exact gradients of single examples under a task's prompt: attribution of neurons, and diagonal Fishers.

The examples of a batch do not see each other, so the gradient of the sum of their losses with respect to what
belongs to one example is the gradient of its own loss. Each example has its own copy of the input rows and
its own activations: one backward pass gives the gradients of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transferscope.activations import select, to_numpy, wide_dtype
from transferscope.attachment import Attached, Readout
from transferscope.encoding import Prepared
from transferscope.errors import InputError, suggest
from transferscope.expertise import Down
from transferscope.layer_sums import on_host, zeros
from transferscope.models import Backbone
from transferscope.templates import Batch, Placed

LABELS = ("drawn", "given")


@dataclass(frozen=True)
class Gradients:
    """One prompt on its task's examples, float64.

    ``attribution`` [L, N]: mean over examples of |sum over rows of activation x gradient of the loss on the
    given label|, to first order how much the loss changes if the neuron is set to zero. ``prompt_fisher``
    [P', E]: mean over examples of the squared gradient of the log-likelihood with respect to the prompt's
    rows (the mask row, which is not tuned, is left out). ``ffn_fisher`` [L, N]: the same of the down
    projection's weights, mean over the D weights that leave a neuron.
    """

    attribution: np.ndarray
    prompt_fisher: np.ndarray
    ffn_fisher: np.ndarray


@dataclass
class _Tapped:
    """What enters and leaves each down projection in a pass: [B, Q, N] and [B, Q, D], in order of layers.

    ``weighed`` is what multiplies its weights: what enters, of experts times the row's share of each.
    """

    inputs: list[Tensor] = field(default_factory=list)
    weighed: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)


def gradients(
    attached: Attached, readout: Readout, data: Prepared, *, labels: str = "drawn", seed: int = 0
) -> Gradients:
    """One forward pass and at most two backward passes over a task's examples.

    ``labels`` of the Fishers: "drawn" from the model's own predictive distribution, with a seed (the true
    Fisher), or "given" (the empirical one). Draws do not depend on how the examples are batched. Sums of
    layers are kept where each layer is, and a batch that does not fit is run in halves.

    Source: the diagonal Fisher of Achille et al., ICCV 2019 (Task2Vec); their code squares the gradient of a
    batch's mean loss, which is not a Fisher. Raises InputError.
    """
    if labels not in LABELS:
        raise InputError(f"unknown labels {labels!r} of a Fisher. {suggest(labels, LABELS)}")
    backbone, examples = attached.backbone, len(data)
    wide, device = wide_dtype(backbone.device), backbone.device
    attribution, neurons = zeros(backbone, backbone.neurons), zeros(backbone, backbone.neurons)
    prompt = torch.zeros(attached.prompt.shape, dtype=wide, device=device)
    luck = torch.from_numpy(np.random.default_rng(seed).random(examples)).to(device, wide)

    def step(batch: Batch) -> None:
        own = None if labels == "given" else luck[list(batch.index)]
        found = _of_batch(attached, readout, batch, own)
        for total, more in zip([prompt, *neurons, *attribution], found, strict=True):
            total += more  # all that needs memory is done

    backbone.fitting.over("gradients", data.batches, step, beside=attached.rows)
    return Gradients(
        on_host(attribution) / examples, to_numpy(prompt / examples), on_host(neurons) / examples
    )


def _of_batch(attached: Attached, readout: Readout, batch: Batch, luck: Tensor | None) -> list[Tensor]:
    """Sums over a batch: squares of the prompt's gradient [P', E], and of L layers those of the weights' [N].

    Then of L layers the attributions [N]; what is of a layer lies where the layer is. ``luck``: see `_drawn`;
    None: the given labels.
    """
    placed = _own_rows(attached, batch)
    with torch.enable_grad(), _tap(attached.backbone) as tapped:
        logits = readout.logits(attached.forward(placed)).float()
    wanted = batch.labels if luck is None else _drawn(logits, luck)
    found = torch.autograd.grad(_loss(logits, wanted), [placed.embeds, *tapped.outputs], retain_graph=True)
    rows = select(found[0], placed.prompt)[:, -len(attached.prompt) :]  # [B, P', E]
    sums = [rows.to(wide_dtype(rows.device)).square().sum(dim=0)]
    for values, slope in zip(tapped.weighed, found[1:], strict=True):
        sums.append(_squared_columns(values, slope).sum(dim=0))
    slopes = torch.autograd.grad(_loss(logits, batch.labels), tapped.inputs)
    for values, slope in zip(tapped.inputs, slopes, strict=True):
        # A neuron of an expert that a row is not sent to has no value there (NaN), and no effect.
        effect = (
            (values.detach() * slope).nan_to_num(nan=0.0).to(wide_dtype(slope.device)).sum(dim=1)
        )  # [B, N]
        sums.append(effect.abs().sum(dim=0))
    return sums


def _own_rows(attached: Attached, batch: Batch) -> Placed:
    """The placed batch with each example's own copy of the rows as the leaf of the graph."""
    with torch.no_grad():
        placed = attached.place(batch)
    return replace(placed, embeds=placed.embeds.detach().clone().requires_grad_(True))


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")


def _drawn(logits: Tensor, luck: Tensor) -> Tensor:
    """Labels [B] from the distributions of logits [B, K] by numbers in [0, 1) [B]."""
    shares = torch.softmax(logits.detach().to(luck.dtype), dim=1).cumsum(dim=1)
    return (shares <= luck[:, None]).sum(dim=1).clamp_max(logits.shape[1] - 1)


def _squared_columns(values: Tensor, slope: Tensor) -> Tensor:
    """Mean over D of the squared weight gradient of each example and neuron, [B, N].

    The weight's gradient is sum_q slope_q values_q' [D, N]; the squared norm of column n is sum_{q, r}
    values_qn (slope_q . slope_r) values_rn: the Q x Q products of the rows are enough, never [D, N].
    """
    wide = wide_dtype(values.device)
    values, slope = values.to(wide), slope.to(wide)
    products = slope @ slope.transpose(1, 2)  # [B, Q, Q]
    return ((products @ values) * values).sum(dim=1).clamp_min(0) / slope.shape[-1]


@contextmanager
def _tap(backbone: Backbone) -> Iterator[_Tapped]:
    """While open, a forward pass keeps what enters and leaves each down projection, with its graph."""
    tapped = _Tapped()

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        tapped.inputs.append(inputs[0])
        with torch.no_grad():
            tapped.weighed.append(module.weighed(*inputs) if isinstance(module, Down) else inputs[0].detach())
        tapped.outputs.append(output)

    handles = [module.register_forward_hook(hook) for _, _, module in backbone.down_projections()]
    try:
        yield tapped
    finally:
        for handle in handles:
            handle.remove()
