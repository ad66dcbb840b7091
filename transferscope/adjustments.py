"""What a few architectures need before neurons can be read layer by layer: changes of a loaded model.

Neither the weights nor what the model computes change, and a model that is wrapped twice is changed once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import Tensor, nn

from transferscope import expertise
from transferscope.architectures import Adjust


def adjust(base: Any, name: Adjust) -> None:
    """Make a change of the table's column ``adjust`` to a base model, in place."""
    _ADJUSTMENTS[name](base)


def _unshare(base: Any) -> None:
    """ALBERT: a module for each of the L layers, where one module is called L times.

    A hook so belongs to one layer. The parameters stay shared, and are named and counted once.
    """
    encoder = base.encoder
    layers, groups = encoder.config.num_hidden_layers, list(encoder.albert_layer_groups)
    if len(groups) == layers:
        return
    used: set[int] = set()
    separate = []
    for layer in range(layers):
        group = groups[layer * len(groups) // layers]
        separate.append(_twin(group) if id(group) in used else group)
        used.add(id(group))
    encoder.albert_layer_groups = nn.ModuleList(separate)
    encoder.config = copy.copy(encoder.config)  # the model's own configuration keeps its groups
    encoder.config.num_hidden_groups = layers


def _twin(module: nn.Module) -> nn.Module:
    """A copy of the modules with the same parameters, buffers and configuration in them."""
    kept: list[Any] = [*module.parameters(), *module.buffers()]
    kept += [part.config for part in module.modules() if hasattr(part, "config")]
    return copy.deepcopy(module, {id(one): one for one in kept})


def _unflatten(base: Any) -> None:
    """OPT: feed-forward blocks that see the rows by example, [B, T, D]; stock ones see [B T, D]."""
    for layer in base.decoder.layers:
        # where accelerate has put a forward of its own in front, the layer's own has this name
        name = "_old_forward" if hasattr(layer, "_old_forward") else "forward"
        setattr(layer, name, MethodType(_opt_layer, layer))


def _opt_layer(layer: Any, hidden_states: Tensor, attention_mask: Any = None, **options: Any) -> Tensor:
    """OPTDecoderLayer.forward of transformers 5 without dropout, with rows in their examples."""
    first = layer.do_layer_norm_before
    rows = layer.self_attn_layer_norm(hidden_states) if first else hidden_states
    options.pop("use_cache", None)  # the layer takes it and does not pass it on
    attended, _ = layer.self_attn(hidden_states=rows, attention_mask=attention_mask, **options)
    rows = hidden_states + attended
    rows = rows if first else layer.self_attn_layer_norm(rows)
    inner = layer.final_layer_norm(rows) if first else rows
    rows = rows + layer.fc2(layer.activation_fn(layer.fc1(inner)))
    return rows if first else layer.final_layer_norm(rows)


def _separate(base: Any) -> None:
    """Mixtral: what each expert's neurons are in each row passes through a module, example by example."""
    for layer in base.layers:
        expertise.separate(layer.mlp)


_ADJUSTMENTS: dict[Adjust, Callable[[Any], None]] = {
    "unshare": _unshare,
    "unflatten": _unflatten,
    "separate": _separate,
}
