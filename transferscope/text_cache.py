"""Causal models: texts that go through the model once, and then any number of prompts that stand behind them.

A causal text attends only to itself. Under ``suffix`` its keys and values are so the same for all prompts:
they are computed once, and of each prompt its own P rows are all that goes through the model.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from transferscope.masks import Counted, counted
from transferscope.models import Backbone
from transferscope.templates import Batch, Placed

# Rotations that change with the number of rows in a pass: keys of a text alone are not those of the whole.
_CHANGING_ROTATIONS = ("dynamic", "longrope")


@dataclass(frozen=True)
class ReadText:
    """Texts that the model has read: mask [B, T] (1 = text, padding on the left), keys and values by layer.

    Memory: 2 L x (key-value heads) x (width of a head) numbers of the model's dtype for each of the B T
    tokens. Padding stands on the left so that a prompt follows its text without a gap: windows of attention
    and biases by distance, which count columns, are then those of the example alone.
    """

    mask: Tensor
    cache: Cache


@dataclass(frozen=True)
class AfterText(Placed):
    """A prompt behind texts that were read: ``embeds`` [B, P, E] are its rows alone, ``mask`` is [B, T + P].

    ``prompt`` and ``readout`` are rows of ``embeds``, as everywhere.
    """

    text: ReadText


class _Kept(DynamicLayer):
    """Keys and values [B, H, T, d] of a text in one layer, which no pass changes.

    What follows joins them for its own pass alone: that needs no cropping behind it,
    and holds one layer's joined copy at a time.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


def shares(backbone: Backbone, template: str, rows: int) -> bool:
    """Whether texts can be read once for prompts of P rows in this template.

    Under ``suffix``, for the model types whose row says so (`Architecture.text_alone`), unless their rotary
    positions depend on how long a pass is.
    """
    known = template == "suffix" and rows > 0 and backbone.architecture.text_alone
    return known and not _rotations(backbone.config).intersection(_CHANGING_ROTATIONS)


def read(backbone: Backbone, batch: Batch) -> ReadText:
    """One pass over the texts of a batch (T > 0), without a prompt and without gradients."""
    order = torch.sort(batch.mask, dim=1, stable=True).indices  # padding first, then the text in its order
    mask = _counted(batch.mask.gather(1, order), batch.mask)
    cache = DynamicCache()  # without a configuration: windows are the mask's matter, and all rows are kept
    with torch.no_grad():
        embeds = backbone.embed(batch.ids.gather(1, order))
        _run(backbone, embeds, mask, cache, (mask.cumsum(dim=1) - 1).clamp(min=0))
    return ReadText(mask, Cache(layers=[_Kept(layer.keys, layer.values) for layer in cache.layers]))


def follow(text: ReadText, prompt: Tensor) -> AfterText:
    """Prompt rows [P, E], or [B, P, E] where they differ by example, behind each of B texts."""
    size, rows = len(text.mask), prompt.shape[-2]
    mask = _counted(torch.cat([text.mask, text.mask.new_ones(size, rows)], dim=1), text.mask, size * rows)
    embeds = prompt.expand(size, -1, -1)
    return AfterText(embeds, mask, None, slice(0, rows), mask.new_full((size,), rows - 1), text)


def hidden(backbone: Backbone, placed: AfterText) -> Tensor:
    """The last hidden states of the prompt's rows, [B, P, D], with gradients to these rows."""
    rows = torch.arange(placed.embeds.shape[1], device=placed.mask.device)
    positions = placed.text.mask.sum(dim=1, keepdim=True) + rows  # [B, P]
    embeds = placed.embeds.to(backbone.dtype)
    return _run(backbone, embeds, placed.mask, placed.text.cache, positions)


def _counted(mask: Tensor, before: Tensor, more: int = 0) -> Tensor:
    """A mask with ``more`` ones than the one it was made from, where the host knows how many those are."""
    return counted(mask, before.ones + more) if isinstance(before, Counted) else mask


def _run(backbone: Backbone, embeds: Tensor, mask: Tensor, cache: Cache, positions: Tensor) -> Tensor:
    # BLOOM has no positions to be told: it counts the mask, as it does without a cache.
    told = "position_ids" in inspect.signature(backbone.base.forward).parameters
    options = {"position_ids": positions} if told else {}
    with backbone.rounding():
        found = backbone.base(
            inputs_embeds=embeds, attention_mask=mask, past_key_values=cache, use_cache=True, **options
        )[0]
    return found.to(backbone.device)


def _rotations(config: Any) -> set[str]:
    """The types of a configuration's rotary positions; some have one for each type of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    several = [one for one in parameters.values() if isinstance(one, Mapping)] or [parameters]
    return {str(one.get("rope_type", "default")) for one in several}
