"""Mixtures of experts: the neurons of all experts of a layer side by side, NaN where none is computed.

A row of the input is sent to a few of a layer's X experts. The neurons of the others are not zero there: they
do not exist. So a layer has X N neurons, expert by expert, and a cell of an expert that a row is not sent to
is NaN, in what is recorded and in the gate.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn


class Gate(nn.Module):
    """The gates of all experts before their activation, [B, T, X N], pass through here unchanged."""

    def forward(self, values: Tensor) -> Tensor:
        return values


class Down(nn.Module):
    """The down projections of all experts of a layer: their neurons [B, T, X N] enter, [B, T, D] leaves.

    It has no parameters of its own. ``weight`` is a copy of the experts', [D, X N].
    """

    bias = None
    of_experts: Any  # in no list of submodules: it is the parent

    def __init__(self, experts: Any) -> None:
        super().__init__()
        self.__dict__["of_experts"] = experts
        self.in_features = experts.num_experts * experts.intermediate_dim
        self.out_features = experts.hidden_dim

    @property
    def weight(self) -> Tensor:
        weights: Tensor = self.of_experts.down_proj
        return weights.transpose(0, 1).flatten(1)

    def weighed(self, values: Tensor, weights: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        """What multiplies the weights, [B, T, X N]: the neurons times the shares, 0 where there are none."""
        by_expert = shares.new_zeros(len(chosen), len(weights)).scatter(1, chosen, shares)  # [B T, X]
        rows = values.nan_to_num(nan=0.0).flatten(0, 1).unflatten(1, (len(weights), -1))
        return (rows * by_expert.unsqueeze(2)).reshape(values.shape)

    def forward(self, values: Tensor, weights: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        """``weights`` [X, D, N]; ``chosen`` and ``shares`` [B T, k]: each row's experts, and their shares."""
        rows = values.flatten(0, 1).unflatten(1, (len(weights), -1))  # [B T, X, N]
        out = weights.new_zeros(len(rows), weights.shape[1])
        for expert, weight in enumerate(weights):
            sent, place = torch.where(chosen == expert)
            left = nn.functional.linear(rows[sent, expert], weight) * shares[sent, place, None]
            out = out.index_add(0, sent, left.to(out.dtype))
        return out.unflatten(0, values.shape[:2])


def separate(block: Any) -> None:
    """Let the neurons of a Mixtral block pass through modules: ``experts.down``, ``experts.gate``. In place.

    While nothing listens there, the block computes as it does by itself.
    """
    experts = block.experts
    if hasattr(experts, "down"):
        return
    experts.gate, experts.down = Gate().train(experts.training), Down(experts).train(experts.training)
    for module, forward in ((block, _block), (experts, _experts)):
        # where accelerate has put a forward of its own in front, the module's own has this name
        name = "_old_forward" if hasattr(module, "_old_forward") else "forward"
        setattr(module, name, MethodType(forward, module))


def _block(block: Any, hidden_states: Tensor) -> Tensor:
    """MixtralSparseMoeBlock.forward of transformers 5 outside training; tells the experts the examples."""
    rows = hidden_states.flatten(0, 1)
    _, shares, chosen = block.gate(rows)
    found: Tensor = block.experts(rows, chosen, shares, examples=len(hidden_states))
    return found.reshape(hidden_states.shape)


def _experts(
    experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor, examples: int = 1
) -> Tensor:
    if not (experts.down._forward_pre_hooks or experts.down._forward_hooks or experts.gate._forward_hooks):
        stock: Tensor = type(experts).forward(experts, hidden_states, top_k_index, top_k_weights)
        return stock
    shape = len(hidden_states), experts.num_experts, experts.intermediate_dim
    # For its dtype, which under autocast is not the rows' own.
    kind = nn.functional.linear(hidden_states[:0], experts.gate_up_proj[0])
    gates, values = (kind.new_full(shape, torch.nan) for _ in range(2))
    for expert in range(experts.num_experts):
        sent = (top_k_index == expert).any(dim=1).nonzero()[:, 0]
        gate, up = nn.functional.linear(hidden_states[sent], experts.gate_up_proj[expert]).chunk(2, dim=-1)
        gates[sent, expert] = gate
        values[sent, expert] = experts.act_fn(gate) * up
    by_example = (examples, -1, experts.down.in_features)
    experts.gate(gates.reshape(by_example))
    found: Tensor = experts.down(values.reshape(by_example), experts.down_proj, top_k_index, top_k_weights)
    return found.flatten(0, 1)
