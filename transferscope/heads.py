"""The language-model head behind the last hidden state, step by step, for the words that are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from transferscope.architectures import Architecture
from transferscope.errors import ArchitectureError
from transferscope.placement import place_of, tensor_of

Step = Callable[[Tensor], Tensor]
Find = Callable[[str], nn.Module]  # a module of the LM model, by its dotted name


@dataclass(frozen=True, eq=False)
class LMHead:
    """Steps ``before`` the output embedding ``weight`` [V, E] (``bias`` [V]), and steps ``behind`` it.

    They are done where the weight lies; the logits come back to ``home``, the device of the inputs.
    """

    before: tuple[Step, ...]
    weight: Tensor
    bias: Tensor | None
    behind: tuple[Step, ...]
    home: torch.device

    def label_logits(self, rows: Tensor, word_ids: Tensor) -> Tensor:
        """Rows [B, D] in the model's dtype and words [K] -> float32 logits [B, K]."""
        words = word_ids.to(self.weight.device)
        bias = None if self.bias is None else self.bias[words].float()
        logits = nn.functional.linear(self._before(rows).float(), self.weight[words].float(), bias)
        return _through(self.behind, logits).to(self.home)

    def vocabulary_logits(self, rows: Tensor) -> Tensor:
        """Rows [B, D] in the model's dtype -> float32 logits [B, V], the product in the model's dtype."""
        logits = nn.functional.linear(self._before(rows), self.weight, self.bias)
        return _through(self.behind, logits.float()).to(self.home)

    def _before(self, rows: Tensor) -> Tensor:
        return _through(self.before, rows.to(self.weight.device)).to(self.weight.device)


def head_of(model: Any, row: Architecture, find: Find) -> LMHead:
    """The head of a model that has one, as its row of the table has it.

    Raises:
        ArchitectureError: the row names a step that there is not. What ``find`` raises.
    """
    module = find(row.output) if row.output else model.get_output_embeddings()
    own = tensor_of(module, "bias") if isinstance(getattr(module, "bias", None), Tensor) else None
    bias = _tensor(find, row.output_bias) if row.output_bias else own
    weight = tensor_of(module, "weight")
    return LMHead(
        before=tuple(_before(step, model.config, find) for step in row.transform),
        weight=weight,
        bias=None if bias is None else bias.reshape(-1).to(weight.device),  # BART's is [1, V]
        behind=tuple(_behind(step, model.config) for step in row.logits),
        home=place_of(model.get_input_embeddings()),
    )


def _through(steps: tuple[Step, ...], values: Tensor) -> Tensor:
    for step in steps:
        values = step(values)
    return values


def _before(step: str, config: Any, find: Find) -> Step:
    kind, _, argument = step.partition(":")
    field = getattr(config, argument.removeprefix("config."), None)
    if kind == "act":
        activation = field if argument.startswith("config.") else argument
        return activation if callable(activation) else ACT2FN[activation]
    if kind == "scale":
        factor = config.hidden_size**-0.5 if field else 1.0
        return lambda rows: rows * factor
    return find(step)


def _behind(step: str, config: Any) -> Step:
    kind, _, argument = step.partition(":")
    number = getattr(config, argument.removeprefix("config."), None)
    if kind == "softcap":
        return lambda logits: logits if number is None else torch.tanh(logits / number) * number
    if kind == "divide" and number is not None:
        return lambda logits: logits / number
    raise ArchitectureError(
        f"The step {step!r} of logits cannot be made from this configuration. Available: "
        "softcap:config.FIELD, divide:config.FIELD with a field that is a number."
    )


def _tensor(find: Find, path: str) -> Tensor:
    """A parameter or a buffer by its dotted name."""
    parent, _, name = path.rpartition(".")
    return tensor_of(find(parent), name)
