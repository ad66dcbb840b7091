"""Reduced precision and what it costs neurons: comparisons with the baseline that rounding turns over.

A comparison is 1[a > a_bsl], which predictivity counts. Source of the comparison: Wang et al., EMNLP 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transferscope.activations import Probe, float32_floor
from transferscope.attachment import Attached
from transferscope.encoding import TOKEN_BUDGET, Encoded, Prepared, prepared
from transferscope.errors import InputError
from transferscope.layer_devices import empty_moments, layer_devices
from transferscope.layer_sums import take_in_placed
from transferscope.models import Backbone
from transferscope.templates import Placed

EXAMPLES = 64  # of the probe, of each split
FLIP_BOUND = 1e-2  # above this share of flipped comparisons, what is read of neurons comes with a warning
_SMALL = (torch.bfloat16, torch.float16)
_ALL = np.full(1, 255, dtype=np.uint8)  # eight bits that are set


@dataclass(frozen=True)
class FlipRate:
    """The share of comparisons that differ between float32 and a reduced precision, on a probe.

    ``rate`` is over all defined cells (those that vary in float32) and examples, ``layers`` [L] by layer
    (None where no cell is defined). ``dtype`` is the reduced precision, ``examples`` how many were compared,
    drawn with ``seed``; ``comparisons`` how many comparisons that were. In a mixture of experts these are of
    the rows that either side sends to a cell's expert; where one side alone does, they differ.
    """

    rate: float
    layers: tuple[float | None, ...]
    dtype: str
    examples: int
    comparisons: int
    seed: int

    def record(self) -> dict[str, Any]:
        """As it is kept in provenance."""
        return {**vars(self), "layers": list(self.layers)}


def flip_rate(
    attached: Attached,
    train: Encoded,
    dev: Encoded,
    *,
    autocast: torch.dtype | None = torch.bfloat16,
    examples: int = EXAMPLES,
    seed: int = 0,
    token_budget: int = TOKEN_BUDGET,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> FlipRate:
    """How many comparisons a reduced precision flips: each side with its own baselines, as in an extraction.

    Baselines are means over ``examples`` of train, comparisons are of as many of dev; both drawn without
    replacement with ``seed`` (all where there are fewer). The reduced side is ``autocast`` over a model in
    float32. A model that was loaded in bfloat16 or float16 runs as it is, against its own weights in float32:
    that shows what the arithmetic does, not what the rounding of the weights did.

    ``around`` is entered for the reduced side alone: with ``autocast`` None, for a precision that is switched
    on elsewhere. Raises InputError where both sides would be the same, or a split is empty.
    """
    backbone = attached.backbone
    loaded = backbone.dtype in _SMALL
    if autocast is None and not loaded and around is nullcontext:
        raise InputError(f"{backbone.name!r} is in float32 on both sides: give autocast=torch.bfloat16")
    if not len(train) or not len(dev):
        raise InputError(f"flips need examples, found {len(train)} of train and {len(dev)} of dev")
    splits = [
        prepared(backbone, _draw(data, examples, seed), prompt_rows=attached.rows, token_budget=token_budget)
        for data in (train, dev)
    ]
    low = None if loaded else autocast
    with around():
        rounded = _comparisons(_at(attached, low), *splits)
    with upcast(backbone.model):
        exact = _comparisons(_at(attached, None), *splits)
    dtype = backbone.dtype if loaded else autocast
    return _compared(exact, rounded, name_of(dtype), len(splits[1]), seed)


def name_of(dtype: torch.dtype | None) -> str:
    """The name of a dtype as settings have it: "bfloat16"; None is "float32"."""
    return str(dtype or torch.float32).removeprefix("torch.")


@contextmanager
def upcast(model: nn.Module) -> Iterator[None]:
    """While open, what a model has in bfloat16 or float16 is in float32: the same values, and back again.

    Takes two bytes more for each such weight; both ways are exact.
    """
    held = [t for t in chain(model.parameters(), model.buffers()) if t.dtype in _SMALL]
    before = [tensor.dtype for tensor in held]
    try:
        for tensor in held:
            tensor.data = tensor.data.float()
        yield
    finally:  # also those that were not reached, where there was no memory for all: for them it does nothing
        for tensor, dtype in zip(held, before, strict=True):
            tensor.data = tensor.data.to(dtype)


def tf32() -> bool:
    """Whether this process has TF32 on for float32 matrix products. Nothing here switches it on."""
    matmul = torch.backends.cuda.matmul
    # The older names raise where the process has used the newer ones.
    newer = getattr(matmul, "fp32_precision", None)
    return bool(newer == "tf32" if newer is not None else matmul.allow_tf32)


def arithmetic(attached: Attached, train: Encoded, dev: Encoded) -> dict[str, Any]:
    """What predictivity is computed in, for provenance: ``dtype``, ``tf32``; ``flips`` where dtype rounds.

    ``flips`` is `FlipRate.record`, or a text that says why they could not be measured.
    """
    dtype = attached.backbone.dtype
    found: dict[str, Any] = {"dtype": name_of(dtype), "tf32": tf32()}
    if dtype in _SMALL:
        try:
            found["flips"] = flip_rate(attached, train, dev).record()
        except torch.OutOfMemoryError:
            found["flips"] = "not measured: there is no memory for the weights in float32"
    return found


def flips_of(provenance: Mapping[str, Any]) -> float | None:
    """The flip rate that a signature's provenance has; None: float32, or not measured."""
    found = (provenance.get("precision") or {}).get("flips")
    return float(found["rate"]) if isinstance(found, Mapping) else None


def remarks(provenance: Mapping[str, Any]) -> list[str]:
    """What a reader of a signature should know of the arithmetic behind it; nothing for plain float32."""
    how = provenance.get("precision") or {}
    lines = []
    if how.get("tf32"):
        lines.append(
            "  TF32 is on in this process, so float32 products are rounded to 10 bits; predictivity is meant "
            'without: torch.backends.cuda.matmul.fp32_precision = "ieee"'
        )
    if (flips := how.get("flips")) is not None:
        rate, dtype = flips_of(provenance), how["dtype"]
        if rate is None:
            lines.append(f"  {dtype}: predictivity compares rounded activations; flips {flips}")
        else:
            warning = f", more than {FLIP_BOUND:.0%}: use float32" if rate > FLIP_BOUND else ""
            lines.append(
                f"  {dtype}: rounding flips {rate:.2%} of the comparisons that predictivity counts (probe of "
                f"{flips['examples']} examples){warning}"
            )
    return lines


def warnings(rates: Mapping[str, float | None]) -> list[str]:
    """A note on the tasks whose flip rate is above the bound; none where there are none."""
    high = [f"{name} ({rate:.1%})" for name, rate in rates.items() if rate is not None and rate > FLIP_BOUND]
    if not high:
        return []
    return [
        f"reduced precision flips more than {FLIP_BOUND:.0%} of the comparisons behind predictivity, so "
        f"skill neurons are not those of float32: {', '.join(high)}"
    ]


def _draw(data: Encoded, examples: int, seed: int) -> Encoded:
    order = np.random.default_rng(seed).permutation(len(data))
    return data.take(np.sort(order[:examples]))


def _at(attached: Attached, autocast: torch.dtype | None) -> Attached:
    return replace(attached, backbone=attached.backbone.at(autocast))


@dataclass(frozen=True)
class _Comparisons:
    """1[a > a_bsl] of each layer, ``fired``, as packed bits, uint8 [S, P'N / 8]; which cells vary [L, P, N].

    ``there``: of which values; one byte for all of a model without experts.
    """

    fired: list[np.ndarray]
    there: list[np.ndarray]
    varies: Tensor


def _comparisons(attached: Attached, train: Prepared, dev: Prepared) -> _Comparisons:
    backbone, probe = attached.backbone, Probe.of(attached)
    moments = empty_moments(backbone, 1, probe.rows)

    def take_in(layer: int, values: Tensor) -> None:
        moments.add(layer, values, torch.zeros(len(values), dtype=torch.int64, device=values.device))

    _stream(attached, probe, train, take_in)
    found = moments.merged()
    baseline = [
        float32_floor(mean).to(device)
        for mean, device in zip(found.mean, layer_devices(backbone), strict=True)
    ]
    bits: list[list[np.ndarray]] = [[] for _ in range(backbone.layers)]
    there: list[list[np.ndarray]] = [[] for _ in range(backbone.layers)]

    def compare(layer: int, values: Tensor) -> None:
        bits[layer].append(_packed(values.float() > baseline[layer][: values.shape[1]]))
        if backbone.architecture.experts:
            there[layer].append(_packed(~values.isnan()))

    _stream(attached, probe, dev, compare)
    exists = torch.from_numpy(probe.exists).unsqueeze(-1)
    fired, known = ([np.concatenate(parts) if parts else _ALL for parts in each] for each in (bits, there))
    return _Comparisons(fired, known, found.varies.cpu() & exists)


def _packed(cells: Tensor) -> np.ndarray:
    """Of bool [B, P', N] bits, uint8 [B, P'N / 8]."""
    return np.packbits(cells.flatten(1).cpu().numpy(), axis=1)


def _stream(attached: Attached, probe: Probe, data: Prepared, take: Callable[[int, Tensor], None]) -> None:
    """One pass: the probed rows [B, P', N] of every layer."""
    exact = attached.backbone.at(None)

    def picked(layer: int, values: Tensor, placed: Placed) -> None:
        with exact.rounding():  # the model's products are rounded, not our sums
            take(layer, probe.pick(layer, values, placed))

    take_in_placed(attached, data.batches, picked, missing=True)


def _compared(exact: _Comparisons, rounded: _Comparisons, dtype: str, examples: int, seed: int) -> FlipRate:
    """The share of comparisons that differ, among those of cells that vary."""
    flips, counts = [], []
    for layer, (one, other) in enumerate(zip(exact.fired, rounded.fired, strict=True)):
        there, also = exact.there[layer], rounded.there[layer]
        # A layer probed at one row has fewer bits than P rows; the rows it lacks do not vary.
        defined = np.packbits(exact.varies[layer].flatten().numpy())[: one.shape[1]]
        compared = np.broadcast_to((there | also) & defined, one.shape)
        flips.append(int(np.unpackbits((one ^ other | there ^ also) & defined).sum()))
        counts.append(int(np.unpackbits(compared).sum()))
    layers = tuple(flip / count if count else None for flip, count in zip(flips, counts, strict=True))
    total = sum(counts)
    return FlipRate(sum(flips) / total if total else 0.0, layers, dtype, examples, total, seed)


def of_backbone(backbone: Backbone) -> str:
    """The precision that a backbone's forward passes have: its autocast, or the dtype it was loaded in."""
    return name_of(backbone.autocast or backbone.dtype)
