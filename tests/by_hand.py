"""Forward passes and measurements by hand, from the architectures' own code, one example at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import reference_neurons as slow
import tiny
import torch
from numpy.typing import NDArray

from transferscope import attachment
from transferscope.encoding import encode
from transferscope.models import wrap
from transferscope.prompts import SoftPrompt
from transferscope.signatures import (
    NeuronMeasurement,
    measure,
)
from transferscope.tasks import Example, Task

ROWS = 3
# Written from the architectures' own code, not from the package's table: layers, down projection, gate.
BERT = [("encoder.layer", "output.dense", None)]
PATHS: dict[str, list[tuple[str, str, str | None]]] = {
    "bert": BERT,
    "roberta": BERT,
    "electra": BERT,
    "deberta-v2": BERT,
    "distilbert": [("transformer.layer", "ffn.lin2", None)],
    "gpt2": [("h", "mlp.c_proj", None)],
    "llama": [("layers", "mlp.down_proj", "mlp.gate_proj")],
    "t5": [
        ("encoder.block", "layer.1.DenseReluDense.wo", None),
        ("decoder.block", "layer.2.DenseReluDense.wo", None),
    ],
    "t5-gated": [
        ("encoder.block", "layer.1.DenseReluDense.wo", "layer.1.DenseReluDense.wi_0"),
        ("decoder.block", "layer.2.DenseReluDense.wo", "layer.2.DenseReluDense.wi_0"),
    ],
}
CASES = [
    ("bert", "mask-first"),
    ("bert", "prefix"),
    ("roberta", "mask-first"),
    ("electra", "mask-first"),
    ("deberta-v2", "prefix"),
    ("distilbert", "mask-first"),
    ("gpt2", "suffix"),
    ("gpt2", "prefix"),
    ("llama", "suffix"),
    ("llama", "prefix"),
    ("t5", "prefix"),
    ("t5-gated", "prefix"),
]
WORDS = ["movie", "film", "plot", "story", "food", "the", "a", "was", "very", "quite", "so", "and", "it"]


def examples(count: int, seed: int, *, classes: int = 2, pairs: bool = False) -> tuple[Example, ...]:
    rng = np.random.default_rng(seed)

    def some() -> str:
        return " ".join(rng.choice(WORDS, rng.integers(1, 9)))

    return tuple(Example(some(), some() if pairs else None, i % classes) for i in range(count))


def task(*, classes: int = 2, pairs: bool = False, **fields: Any) -> Task:
    labels = tuple(f"class {k}" for k in range(classes))
    train, dev = (examples(n, n, classes=classes, pairs=pairs) for n in (18, 15))
    return Task("t", train, dev, labels, ("good", "bad", "maybe")[:classes], **fields)


@dataclass
class Hand:
    """One pass of the stock model, no padding: `down`, `gate` [L][Q, N], the last hidden state [1, Q, D]."""

    down: list[torch.Tensor]
    gate: list[torch.Tensor | None]
    hidden: torch.Tensor
    layer_rows: list[slice | list[int]]
    readout: list[int]

    def probed(self) -> list[list[list[float]]]:
        return [values[rows].tolist() for values, rows in zip(self.down, self.layer_rows, strict=True)]


def by_hand(
    backbone: Any, model_type: str, template: str, rows: torch.Tensor, ids: list[int], types: Any
) -> Hand:
    """The whole Hugging Face model on one example; hooks by the paths above."""
    base, encoder_decoder = backbone.model.base_model, model_type.startswith("t5")
    downs: list[torch.Tensor] = []
    gates: dict[int, torch.Tensor] = {}
    handles, counts = [], []
    for layers, down, gate in PATHS[model_type]:
        modules = list(base.get_submodule(layers))
        counts.append(len(modules))
        for module in modules:
            number = len(handles)
            handles.append(
                module.get_submodule(down).register_forward_pre_hook(
                    lambda _, given: downs.append(given[0][0].clone())
                )
            )
            if gate is not None:
                handles[-1] = (handles[-1],)
                place = sum(counts[:-1]) + [id(m) for m in modules].index(id(module))
                hook = module.get_submodule(gate).register_forward_hook(
                    lambda _, __, out, place=place: gates.__setitem__(place, out[0].clone())
                )
                handles[number] = (*handles[number], hook)
    table = backbone.model.get_input_embeddings().weight
    text, prompt = table[torch.tensor(ids)], rows.shape[0]
    embeds = torch.cat([text, rows] if template == "suffix" else [rows, text]).unsqueeze(0)
    options: dict[str, Any] = {"attention_mask": torch.ones(embeds.shape[:2], dtype=torch.long)}
    if types is not None:
        options["token_type_ids"] = torch.tensor([[0] * prompt + list(types)])
    if encoder_decoder:
        options["decoder_input_ids"] = torch.tensor([[0]])
    with torch.no_grad():
        output = base(inputs_embeds=embeds, **options) if not encoder_decoder else _t5(base, embeds, options)
    for handle in handles:
        for one in handle if isinstance(handle, tuple) else (handle,):
            one.remove()
    last, length = embeds.shape[1] - 1, len(ids)
    if encoder_decoder:
        layer_rows: list[Any] = [slice(0, prompt)] * counts[0] + [[0]] * counts[1]
        readout = [0] * sum(counts)
    elif model_type in ("gpt2", "llama"):
        probed = [last] if template == "prefix" else slice(length, length + prompt)
        layer_rows, readout = [probed] * counts[0], [last] * counts[0]
    else:
        layer_rows = [slice(0, prompt)] * counts[0]
        readout = [0 if template == "mask-first" else prompt] * counts[0]
    return Hand(downs, [gates.get(i) for i in range(len(downs))], output[0], layer_rows, readout)


def _t5(model: Any, embeds: torch.Tensor, options: dict[str, Any]) -> tuple[torch.Tensor]:
    output = model(inputs_embeds=embeds, output_hidden_states=True, **options)
    return (output.decoder_hidden_states[-1],)


@dataclass
class Case:
    """A model, a task and a prompt; what was measured, and the same by hand."""

    backbone: Any
    task: Task
    prompt: SoftPrompt
    attached: Any
    found: NeuronMeasurement
    train: list[Hand]
    dev: list[Hand]

    @property
    def labels(self) -> list[int]:
        return [example.label for example in self.task.dev]

    @property
    def activations(self) -> tuple[list[Any], list[Any]]:
        return [hand.probed() for hand in self.train], [hand.probed() for hand in self.dev]


def all_rows(attached: Any) -> torch.Tensor:
    return attached.prompt if attached.mask_row is None else torch.cat([attached.mask_row, attached.prompt])


@cache
def case(model_type: str, template: str, classes: int = 2) -> Case:
    tokenizer = tiny.tokenizer(tiny.tokenizer_kind(model_type))
    backbone = wrap(tiny.model(model_type), tokenizer, model_type)
    data = task(classes=classes, pairs=True)
    generator = np.random.default_rng(7)
    rows = (0.3 * generator.standard_normal((ROWS, backbone.embedding_size))).astype(np.float32)
    prompt = SoftPrompt(rows, "t", 0, template)
    attached = attachment.attach(backbone, prompt)
    encoded = [encode(backbone, split, prompt_rows=attached.rows) for split in (data.train, data.dev)]
    found = measure(attached, *encoded, token_budget=64)

    def hands(split: Sequence[Example]) -> list[Hand]:
        with_types = backbone.model.config.to_dict().get("type_vocab_size", 0) == 2
        ran = []
        for example in split:
            tokens = tokenizer(example.text, example.pair)
            types = tokens["token_type_ids"] if with_types else None
            ran.append(
                by_hand(backbone, model_type, template, all_rows(attached), tokens["input_ids"], types)
            )
        return ran

    return Case(backbone, data, prompt, attached, found, hands(data.train), hands(data.dev))


def padded(table: list[list[list[Any]]], shape: tuple[int, ...]) -> NDArray[Any]:
    """[L][P][N] as an array; rows that a layer does not have are NaN (False for booleans)."""
    result = np.full(shape, np.nan) if not isinstance(table[0][0][0], bool) else np.zeros(shape, bool)
    for number, layer in enumerate(table):
        result[number, : len(layer)] = layer
    return result


def agree(found: NDArray[Any], expected: list[Any], train: list[Any], dev: list[Any]) -> None:
    """Exactly equal, but where rounding may decide; those cells are few."""
    near = padded(slow.ties(train, dev, closer=2e-6), found.shape)
    reference = padded(expected, found.shape)
    sure = ~near & np.isfinite(reference)
    assert near.sum() < 0.02 * near.size
    np.testing.assert_allclose(found[sure], reference[sure], rtol=0, atol=1e-12)
