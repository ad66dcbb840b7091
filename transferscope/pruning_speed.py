"""What a pruned model saves: parameters, bytes, matrix-product FLOPs, and seconds measured side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from transferscope.errors import InputError
from transferscope.loading import attention
from transferscope.models import Backbone
from transferscope.pruned import blocks, module_at, stored

MIN_REPEATS, MAX_REPEATS = 5, 50
ENOUGH_SECONDS = 1.0  # of each model at each batch size, where so many repeats are too short


@dataclass(frozen=True)
class Size:
    """Parameters (each once, however often it is used), those of the FFN blocks, and bytes of the weights.

    The bytes are those of the file that `transferscope.pruned.save_pruned` writes, less its header.
    """

    parameters: int
    ffn_parameters: int
    bytes: int


@dataclass(frozen=True)
class Speed:
    """Forward passes of ``batch`` texts of ``rows`` rows, without the language-model head.

    ``before`` and ``after`` are median seconds, ``speedup`` the median ratio of two passes in turn with its
    quartiles ``low`` and ``high``; ``limit`` is what the FLOPs of the matrix products allow.
    """

    batch: int
    rows: int
    before: float
    after: float
    speedup: float
    low: float
    high: float
    limit: float
    repeats: int


def size(backbone: Backbone) -> Size:
    """The size of a model, pruned or not."""
    model = backbone.model
    linears = [
        module_at(model.base_model, path)
        for block in blocks(model, backbone.architecture)
        for path in (*block.ups, block.down)
    ]
    parameters = list(model.parameters())
    return Size(
        parameters=sum(p.numel() for p in parameters),
        ffn_parameters=sum(p.numel() for linear in linears for p in linear.parameters()),
        bytes=sum(p.numel() * stored(p).element_size() for p in parameters),
    )


def flops(backbone: Backbone, rows: int) -> int:
    """FLOPs of all matrix products of one text of ``rows`` rows, attention included, without the head.

    Counted from the shapes of the products, under eager attention: it computes what other implementations
    do, as plain products.
    """
    counter = FlopCounterMode(display=False)
    with attention(backbone.model, "eager"), torch.no_grad(), counter:
        backbone.hidden(*_input(backbone, 1, rows, 0))
    return int(counter.get_total_flops())


def measure_speed(
    before: Backbone,
    after: Backbone,
    *,
    batches: Sequence[int] = (1, 8, 32),
    rows: int = 128,
    seed: int = 0,
    progress: Any = None,
) -> tuple[Speed, ...]:
    """Time both models on the same rows in turns, so that what disturbs the machine disturbs both.

    ``rows`` is cut to what the model has positions for. Raises InputError for a batch or rows below 1.
    """
    if min(batches, default=0) < 1 or rows < 1:
        raise InputError(f"batch sizes and rows should be at least 1, found {list(batches)} and {rows}")
    rows = min(rows, before.max_positions or rows)
    limit = flops(before, rows) / flops(after, rows)
    found = []
    for number, batch in enumerate(batches):
        if progress is not None:
            progress(number, len(batches), f"batch {batch}")
        found.append(_timed(before, after, batch, rows, limit, seed))
    return tuple(found)


def _timed(before: Backbone, after: Backbone, batch: int, rows: int, limit: float, seed: int) -> Speed:
    given = _input(before, batch, rows, seed)
    first = [_seconds(model, given) for model in (before, after) for _ in range(2)]  # the first one warms up
    repeats = int(np.clip(np.ceil(ENOUGH_SECONDS / first[1]), MIN_REPEATS, MAX_REPEATS))
    pairs = np.array([_pair(before, after, given, turn) for turn in range(repeats)])  # [repeats, 2]
    ratios = pairs[:, 0] / pairs[:, 1]
    low, speedup, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    slow, fast = np.median(pairs, axis=0)
    return Speed(
        batch, rows, float(slow), float(fast), float(speedup), float(low), float(high), limit, repeats
    )


def _pair(before: Backbone, after: Backbone, given: Any, turn: int) -> tuple[float, float]:
    """Seconds of both; which one is first changes from turn to turn."""
    if turn % 2:
        fast = _seconds(after, given)
        return _seconds(before, given), fast
    return _seconds(before, given), _seconds(after, given)


def _seconds(backbone: Backbone, given: Any) -> float:
    start = time.perf_counter()
    with torch.inference_mode():
        backbone.hidden(*given)
        if backbone.device.type != "cpu":
            torch.accelerator.synchronize(backbone.device)
    return time.perf_counter() - start


def _input(backbone: Backbone, batch: int, rows: int, seed: int) -> Any:
    """Embeddings [batch, rows, E] of random words, and a mask without padding."""
    generator = torch.Generator().manual_seed(seed)
    words = len(backbone.model.get_input_embeddings().weight)
    ids = torch.randint(words, (batch, rows), generator=generator).to(backbone.device)
    with torch.inference_mode():
        return backbone.embed(ids), torch.ones_like(ids)
