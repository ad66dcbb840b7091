"""Steps behind the output embedding, and tables that are not what is looked up."""

from __future__ import annotations

import math

import pytest
import torch

from tests import tiny
from transferscope.architectures import Architecture, Stack
from transferscope.attachment import initial_rows
from transferscope.errors import ArchitectureError
from transferscope.heads import head_of
from transferscope.models import wrap

WORDS = torch.tensor([9, 5, 40])
LLAMA = (Stack("layers", "mlp.down_proj"),)


def row(*logits: str) -> Architecture:
    return Architecture("llama", "decoder", LLAMA, logits=logits)


def test_logits_are_capped_and_divided_in_the_order_of_the_row() -> None:
    model = tiny.model("llama")
    model.config.cap, model.config.by = 0.5, 4.0
    rows = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    plain = head_of(model, row(), model.get_submodule).label_logits(rows, WORDS).detach()
    expected = torch.tensor(
        [[0.5 * math.tanh(value / 0.5) / 4.0 for value in line] for line in plain.tolist()]
    )
    for logits in ("label_logits", "vocabulary_logits"):
        head = head_of(
            model.requires_grad_(False), row("softcap:config.cap", "divide:config.by"), model.get_submodule
        )
        found = head.label_logits(rows, WORDS) if logits == "label_logits" else head.vocabulary_logits(rows)
        found = found if logits == "label_logits" else found[:, WORDS]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert (plain.abs() > 0.5).any()  # there was something to cap


def test_no_cap_in_the_configuration_is_no_cap() -> None:
    model = tiny.model("llama")
    model.config.cap = None
    rows = 9 * torch.randn(3, 16)
    plain, capped = (head_of(model, r, model.get_submodule) for r in (row(), row("softcap:config.cap")))
    assert torch.equal(plain.vocabulary_logits(rows), capped.vocabulary_logits(rows))


def test_a_step_that_does_not_exist() -> None:
    model = tiny.model("llama")
    with pytest.raises(
        ArchitectureError, match=r"'halve:config\.by' of logits.*Available: softcap:config\.FIELD"
    ):
        head_of(model, row("halve:config.by"), model.get_submodule)


@pytest.mark.parametrize("model_type", ["bart", "gemma2", "gemma3_text"])
def test_prompts_start_at_the_size_of_the_rows_that_are_looked_up(model_type: str) -> None:
    made = wrap(tiny.model(model_type))
    table = made.model.get_input_embeddings().weight
    assert torch.allclose(made.embeddings, 4 * table)  # the root of the hidden size
    rows = initial_rows(made, 4000, init="random")
    assert (rows.std(0) / (4 * table.std(0)) - 1).abs().max() < 0.1
