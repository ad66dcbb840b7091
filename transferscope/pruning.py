"""Pruning: keep the skill neurons of the upper layers, fold the others at their baseline into a bias.

Source: Wang et al., EMNLP 2022, section 6.1 (network pruning): 2 % of the neurons of the top 9 of 12 layers
are kept, the others are fixed at their baseline activation and merged into the bias.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from indicators.predictivity import skill_mask
from transferscope.activations import Probe, wide_dtype
from transferscope.attachment import Attached
from transferscope.encoding import Encoded, prepared
from transferscope.errors import BackboneError, InputError, SignatureError
from transferscope.layer_sums import on_host, take_in_placed, zeros
from transferscope.models import Backbone, wrap
from transferscope.placement import place_of
from transferscope.pruned import Block, blocks, inputs, module_at, outputs, replace_module, resized
from transferscope.templates import Placed

BASELINES = ("prompt-rows", "all-rows")
# How far the folded model may be from the clamped one, as a share of the largest hidden value.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
HALF_TOLERANCE = 0.1


def choose(backbone: Backbone, predictivity: np.ndarray, *, keep: float, from_layer: int) -> np.ndarray:
    """The neurons that stay: bool [L, N], from predictivities [C, L, N] (or [L, N]) of C subtasks.

    Layers are numbered from 0 in each stack: those below ``from_layer`` stay whole, so 3 prunes the layers 3
    to 11 of 12. Of each other layer the int(keep N) neurons of highest predictivity stay, at least one; with
    C subtasks so many of each, united. Raises InputError for a share or a layer that is none.
    """
    pruned = _pruned_layers(backbone, from_layer)
    if not 0 < keep <= 1:
        raise InputError(f"keep should be a share of the neurons above 0 and at most 1, found {keep}")
    neurons = backbone.neurons
    values = np.asarray(predictivity, dtype=np.float64).reshape(-1, backbone.layers, neurons)
    # skill_mask takes int(rate N): half a neuron more, so that rounding takes none away.
    kept = skill_mask(values, min(1.0, (max(1, int(keep * neurons)) + 0.5) / neurons))
    kept[~kept.any(axis=1), 0] = True  # where nothing varies, one neuron is as good as another
    kept[~pruned] = True
    return np.asarray(kept)


def random_choice(kept: np.ndarray, seed: int) -> np.ndarray:
    """As many neurons of each layer [L, N], drawn at random: the control of `choose`."""
    rng = np.random.default_rng(seed)
    return rng.permuted(kept, axis=1)


def _pruned_layers(backbone: Backbone, from_layer: int) -> np.ndarray:
    """Which of the L layers are pruned: those from ``from_layer`` on, in each stack for itself."""
    places = np.array([block.place for block in blocks(backbone.model, backbone.architecture)])
    if not 0 <= from_layer <= places.max():
        raise InputError(
            f"from-layer {from_layer}: {backbone.name!r} has the layers 0 to {places.max()}"
            f"{' in its longest stack' if len(backbone.architecture.stacks) > 1 else ''}, and at least one "
            "must be pruned"
        )
    return np.asarray(places >= from_layer)


def prompt_rows_baseline(attached: Attached, baseline: np.ndarray) -> np.ndarray:
    """Mean activation [L, N] over trials and probed rows, from a signature's baseline [R, L, P, N].

    A bias is one for all rows, so the rows are averaged, as in the authors' code. Raises SignatureError.
    """
    exists = Probe.of(attached).exists  # the readout is one row, whatever P is elsewhere
    if baseline.shape[1:3] != exists.shape:
        raise SignatureError(
            f"a baseline of {baseline.shape[1]} layers and {baseline.shape[2]} rows does not fit "
            f"{exists.shape[0]} layers and {exists.shape[1]} probed rows"
        )
    weights = exists / exists.sum(axis=1, keepdims=True)
    return np.asarray(np.einsum("rlpn,lp->ln", baseline.astype(np.float64), weights) / len(baseline))


def all_rows_baseline(trials: Sequence[Attached], data: Encoded, *, token_budget: int = 8192) -> np.ndarray:
    """Mean activation [L, N] over all rows that are not padding, prompt and text alike, and over trials.

    One pass over the data for each attached prompt; the sums are kept where each layer is. In the decoder of
    an encoder-decoder it is the row where decoding starts.
    """
    backbone = trials[0].backbone
    sums, counts = zeros(backbone, backbone.neurons), zeros(backbone, 1)
    batches = prepared(backbone, data, prompt_rows=trials[0].rows, token_budget=token_budget)
    decoder = _decoder_layers(backbone)

    def take(layer: int, values: Tensor, placed: Placed) -> None:
        mask = values.new_ones(values.shape[:2]) if decoder[layer] else placed.mask.to(values.device)
        count, total = mask.float().sum(), torch.einsum("bq,bqn->n", mask.float(), values.float())
        sums[layer] += total.to(sums[layer].dtype)
        counts[layer] += count

    for attached in trials:
        take_in_placed(attached, batches.batches, take)
    return on_host(sums) / on_host(counts)


def _decoder_layers(backbone: Backbone) -> list[bool]:
    """Which layers see the decoder's rows, of an encoder-decoder model."""
    both = backbone.architecture.kind == "encoder-decoder"
    return [both and stack.rows == "readout" for stack, _, _ in backbone.down_projections()]


def fold(backbone: Backbone, kept: np.ndarray, baseline: np.ndarray) -> Backbone:
    """A copy without the neurons that are not in ``kept`` [L, N], which are held at ``baseline`` [L, N].

    Of each layer the rows of the linears that make the neurons are cut, and the columns of the down
    projection; what the cut neurons gave at their baseline goes into its bias, which is added where there is
    none (T5, Llama). The neurons that stay are not in it (in the authors' code they are, and tuning has to
    undo it). The copy is checked against the clamped original. Raises InputError, BackboneError.
    """
    shape = (backbone.layers, backbone.neurons)
    if kept.shape != shape or baseline.shape != shape:
        raise InputError(f"kept {kept.shape} and baseline {baseline.shape} should be {shape}")
    if not kept.any(axis=1).all() or not np.isfinite(baseline).all():
        raise InputError("each layer must keep at least one neuron, and baselines must be finite")
    model = copy.deepcopy(backbone.model)
    for layer, block in enumerate(blocks(model, backbone.architecture)):
        if not kept[layer].all():
            _fold_block(model.base_model, block, kept[layer], baseline[layer])
    folded = wrap(model, backbone.tokenizer, backbone.name, revision=backbone.revision)
    folded.fitting.report = backbone.fitting.report
    error = difference(backbone, folded, kept, baseline)
    if not error <= TOLERANCE.get(backbone.dtype, HALF_TOLERANCE):
        raise BackboneError(
            f"{backbone.name!r} cannot be pruned: its outputs differ by {error:.2g} of the largest from "
            "those of the model whose other neurons are held fixed; the row "
            f"{backbone.architecture.model_type!r} of the table of architectures may not fit"
        )
    return folded


def _fold_block(base: nn.Module, block: Block, kept: np.ndarray, baseline: np.ndarray) -> None:
    stays = torch.from_numpy(np.flatnonzero(kept))
    goes = torch.from_numpy(np.flatnonzero(~kept))
    for path in block.ups:
        replace_module(base, path, _sliced_outputs(module_at(base, path), stays))
    down = module_at(base, block.down)
    held = torch.from_numpy(baseline)[goes]
    replace_module(base, block.down, _folded_down(down, stays, goes, held))


def _matrix(linear: Any) -> Tensor:
    """The weight of a linear layer as [outputs, inputs]; GPT-2's is stored the other way round."""
    weight: Tensor = linear.weight.detach()
    return weight.T if isinstance(linear, Conv1D) else weight


def _filled(linear: Any, matrix: Tensor, bias: Tensor | None) -> nn.Module:
    with torch.no_grad():
        _matrix(linear).copy_(matrix)
        if bias is not None:
            linear.bias.copy_(bias)
    return linear.requires_grad_(False).eval()


def _sliced_outputs(linear: Any, stays: Tensor) -> nn.Module:
    stays = stays.to(linear.weight.device)
    bias = None if linear.bias is None else linear.bias.detach()[stays]
    new = resized(linear, inputs(linear), len(stays), bias=bias is not None)
    return _filled(new, _matrix(linear)[stays], bias)


def _folded_down(linear: Any, stays: Tensor, goes: Tensor, held: Tensor) -> nn.Module:
    """The down projection of the neurons that stay, with the others' share in its bias."""
    device = linear.weight.device
    matrix, wide = _matrix(linear), wide_dtype(device)
    bias = matrix[:, goes.to(device)].to(wide) @ held.to(device=device, dtype=wide)  # [D]
    if linear.bias is not None:
        bias = bias + linear.bias.detach().to(wide)
    new = resized(linear, len(stays), outputs(linear), bias=True)
    return _filled(new, matrix[:, stays.to(device)], bias.to(matrix.dtype))


@contextmanager
def clamped(backbone: Backbone, kept: np.ndarray, baseline: np.ndarray) -> Iterator[None]:
    """While open, the neurons that are not in ``kept`` [L, N] are at ``baseline`` [L, N] in every row."""
    handles: list[Any] = []
    try:
        for _, layer, down in backbone.down_projections():
            if not kept[layer].all():
                clamp = _clamp(place_of(down), backbone.dtype, kept[layer], baseline[layer])
                handles.append(down.register_forward_pre_hook(clamp))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _clamp(device: torch.device, dtype: torch.dtype, kept: np.ndarray, baseline: np.ndarray) -> Any:
    stays = torch.from_numpy(kept).to(device)
    held = torch.from_numpy(baseline).to(device=device, dtype=dtype)

    def hook(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (torch.where(stays, given[0], held.to(given[0].dtype)), *given[1:])

    return hook


def difference(backbone: Backbone, folded: Backbone, kept: np.ndarray, baseline: np.ndarray) -> float:
    """How far the folded model is from the clamped one on one batch, as a share of the largest value."""
    table = backbone.model.get_input_embeddings().weight
    count = min(16, backbone.max_positions or 16)
    ids = torch.linspace(0, len(table) - 1, 2 * count).long().reshape(2, count).to(backbone.device)
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        with clamped(backbone, kept, baseline):
            expected = backbone.hidden(backbone.embed(ids), mask).float()
        found = folded.hidden(folded.embed(ids), mask).float()
    return float((found - expected).abs().max() / expected.abs().max())


def baseline_of(
    kind: str, trials: Sequence[Attached], data: Encoded, rows: np.ndarray | None, *, token_budget: int = 8192
) -> np.ndarray:
    """The baseline [L, N] of a kind: of all rows of ``data``, or of a signature's probed ``rows``.

    Raises InputError for an unknown kind.
    """
    if kind not in BASELINES:
        raise InputError(f"unknown baseline {kind!r}. Available: {', '.join(BASELINES)}.")
    if kind == "all-rows":
        return all_rows_baseline(trials, data, token_budget=token_budget)
    if rows is None:
        raise SignatureError("this signature has no baseline: extract it with the task's data")
    return prompt_rows_baseline(trials[0], rows)
