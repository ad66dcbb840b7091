"""Models that are changed before their neurons are read: nothing else about them changes."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import tiny
from transferscope.activations import capture
from transferscope.models import Backbone, wrap

TYPES = ("albert", "opt", "opt-projected")


def ids_and_mask() -> tuple[Tensor, Tensor]:
    ids = torch.randint(5, 60, (3, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[1, 4:] = 0
    return ids, mask


def logits(model: Any) -> Tensor:
    ids, mask = ids_and_mask()
    with torch.no_grad():
        found: Tensor = model(input_ids=ids, attention_mask=mask).logits
    return found


def neurons(made: Backbone) -> list[Tensor]:
    ids, mask = ids_and_mask()
    found: list[Tensor] = []
    with torch.no_grad(), capture(made, lambda layer, values, gate: found.append(values.clone())):
        made.hidden(made.embed(ids), mask)
    return found


def stock_neurons(model: Any, down: str) -> list[Tensor]:
    """What enters the modules of that name in a model that was never wrapped, call after call."""
    ids, mask = ids_and_mask()
    found: list[Tensor] = []
    for name, module in model.named_modules():
        if name.endswith(down):
            module.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].clone()))
    with torch.no_grad():
        model(input_ids=ids, attention_mask=mask)
    return found


@pytest.mark.parametrize("model_type", TYPES)
def test_the_model_computes_the_same_bits(model_type: str) -> None:
    stock, made = tiny.model(model_type), wrap(tiny.model(model_type))
    assert torch.equal(logits(made.model), logits(stock))


@pytest.mark.parametrize("model_type", TYPES)
def test_weights_their_names_and_the_configuration_stay(model_type: str) -> None:
    stock, made = tiny.model(model_type), wrap(tiny.model(model_type))
    assert made.config.to_dict() == stock.config.to_dict()
    ours, theirs = dict(made.model.named_parameters()), dict(stock.named_parameters())
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("model_type", TYPES)
def test_wrapping_again_changes_nothing(model_type: str) -> None:
    made = wrap(tiny.model(model_type))
    names, print_ = [name for name, _ in made.model.named_modules()], made.fingerprint
    again = wrap(made.model)
    assert [name for name, _ in again.model.named_modules()] == names
    assert again.fingerprint == print_
    copied = wrap(copy.deepcopy(made.model))
    assert copied.fingerprint == print_
    assert torch.equal(logits(copied.model), logits(made.model))


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_albert_layers_are_the_calls_of_the_stock_model_in_their_order(groups: int) -> None:
    sizes = {"num_hidden_layers": 6, "num_hidden_groups": groups}
    expected = stock_neurons(tiny.model("albert", **sizes), "ffn_output")
    made = wrap(tiny.model("albert", **sizes))
    found = neurons(made)
    assert made.layers == len(found) == len(expected) == 6
    assert all(map(torch.equal, found, expected))
    assert min(float((a - b).abs().max()) for a, b in itertools.pairwise(found)) > 1e-3
    assert len({id(down) for _, _, down in made.down_projections()}) == 6
    assert len({id(down.weight) for _, _, down in made.down_projections()}) == groups


def test_albert_attention_is_switched_in_all_layers() -> None:
    made = wrap(tiny.model("albert"))
    made.model.set_attn_implementation("eager")
    layers = [group.albert_layers[0].attention for group in made.base.encoder.albert_layer_groups]
    assert [layer.config._attn_implementation for layer in layers] == ["eager"] * 3


@pytest.mark.parametrize("model_type", ["opt", "opt-projected"])
def test_opt_rows_are_those_of_the_stock_model_by_example(model_type: str) -> None:
    expected = stock_neurons(tiny.model(model_type), "fc2")
    found = neurons(wrap(tiny.model(model_type)))
    assert [values.shape for values in expected] == [(21, 24)] * 2  # transformers has no examples here
    assert [values.shape for values in found] == [(3, 7, 24)] * 2
    assert all(torch.equal(ours.flatten(0, 1), theirs) for ours, theirs in zip(found, expected, strict=True))
