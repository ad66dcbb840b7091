"""Rows that go through the model at once where the settings leave it open: by the memory that is free."""

from __future__ import annotations

import torch

from transferscope.encoding import TOKEN_BUDGET
from transferscope.models import Backbone

SHARE = 4  # a quarter of what is free: sums, gradients and the allocator's own gaps need room too
MOST = 131_072  # more fills no GPU better, and few splits have it
# Values a row at the widest place of a layer: hidden states (residual, norm, query, key, value, context and
# copies), and neurons (gate, up, their product, the recorded rows in float32 and in float64, comparisons).
HIDDEN, NEURONS = 8, 12


def of_memory(free: int, *, hidden: int, neurons: int, vocabulary: int, itemsize: int) -> int:
    """Rows in one forward pass for ``free`` bytes: a power of two from 8192 to 131072.

    A row costs itemsize * (8 D + 12 N + V) bytes. The number of layers does not enter: without gradients no
    layer's rows outlive it. V (0 without a language-model head) is for generation tasks, which read logits
    over the whole vocabulary.
    """
    row = itemsize * (HIDDEN * hidden + NEURONS * neurons + vocabulary)
    budget = TOKEN_BUDGET
    while budget < MOST and 2 * budget * row <= free // SHARE:
        budget *= 2
    return budget


def automatic(backbone: Backbone, device: torch.device | None = None, weights: int = 0) -> int:
    """The budget for a backbone where it lies: by free memory on CUDA, 8192 elsewhere.

    ``device``: where it will lie, and then take ``weights`` bytes.
    """
    device = backbone.device if device is None else device
    if device.type != "cuda":
        return TOKEN_BUDGET
    return of_memory(
        _free(device) - weights,
        hidden=backbone.hidden_size,
        neurons=max(backbone.widths),
        vocabulary=len(backbone.model.get_input_embeddings().weight) if backbone.has_lm_head else 0,
        itemsize=backbone.dtype.itemsize,
    )


def _free(device: torch.device) -> int:
    """Bytes that this process can still have: what the device has left, and what our allocator holds idle."""
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + idle
