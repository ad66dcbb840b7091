"""The table of architectures: finding rows, adding one, and what a missing one tells; and each row's neurons.

What the rows make the hooks see is compared with a recomputation from the weights, whose module names are
written here once more, by hand: a wrong row and a wrong expectation cannot be the same mistake.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from transferscope import architectures
from transferscope.architectures import Architecture, Stack
from transferscope.errors import ArchitectureError
from transferscope.models import Backbone, wrap

PROMPT, TOLERANCE = 4, 1e-5


def relu(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


# per stack: (FFN of layer {}, linear that makes the pre-activation, linear it is multiplied with, activation)
# "name[0]": the first half of what that linear gives
FFN: dict[str, list[tuple[str, str, str | None, Callable[[Tensor], Tensor]]]] = {
    "bert": [("bert.encoder.layer.{}", "intermediate.dense", None, gelu)],
    "roberta": [("roberta.encoder.layer.{}", "intermediate.dense", None, gelu)],
    "xlm-roberta": [("roberta.encoder.layer.{}", "intermediate.dense", None, gelu)],
    "distilbert": [("distilbert.transformer.layer.{}", "ffn.lin1", None, gelu)],
    "electra": [("electra.encoder.layer.{}", "intermediate.dense", None, gelu)],
    "deberta-v2": [("deberta.encoder.layer.{}", "intermediate.dense", None, gelu)],
    "deberta-v2-new-head": [("deberta.encoder.layer.{}", "intermediate.dense", None, gelu)],
    "t5": [
        ("encoder.block.{}.layer.1.DenseReluDense", "wi", None, relu),
        ("decoder.block.{}.layer.2.DenseReluDense", "wi", None, relu),
    ],
    "t5-gated": [
        ("encoder.block.{}.layer.1.DenseReluDense", "wi_0", "wi_1", gelu_tanh),
        ("decoder.block.{}.layer.2.DenseReluDense", "wi_0", "wi_1", gelu_tanh),
    ],
    "gpt2": [("transformer.h.{}.mlp", "c_fc", None, gelu_tanh)],
    "llama": [("model.layers.{}.mlp", "gate_proj", "up_proj", silu)],
    "mpnet": [("mpnet.encoder.layer.{}", "intermediate.dense", None, gelu)],
    "albert": [("albert.encoder.albert_layer_groups.{}.albert_layers.0", "ffn", None, gelu_tanh)],
    "modernbert": [("model.layers.{}.mlp", "Wi[0]", "Wi[1]", gelu)],
    "mt5": [
        ("encoder.block.{}.layer.1.DenseReluDense", "wi_0", "wi_1", gelu_tanh),
        ("decoder.block.{}.layer.2.DenseReluDense", "wi_0", "wi_1", gelu_tanh),
    ],
    "bart": [
        ("model.encoder.layers.{}", "fc1", None, gelu),
        ("model.decoder.layers.{}", "fc1", None, gelu),
    ],
    "gpt_neox": [("gpt_neox.layers.{}.mlp", "dense_h_to_4h", None, gelu)],
    "opt": [("model.decoder.layers.{}", "fc1", None, gelu)],
    "opt-projected": [("model.decoder.layers.{}", "fc1", None, gelu)],
    "bloom": [("transformer.h.{}.mlp", "dense_h_to_4h", None, gelu_tanh)],
    "falcon": [("transformer.h.{}.mlp", "dense_h_to_4h", None, gelu)],
    "mistral": [("model.layers.{}.mlp", "gate_proj", "up_proj", silu)],
    "qwen2": [("model.layers.{}.mlp", "gate_proj", "up_proj", silu)],
    "qwen3": [("model.layers.{}.mlp", "gate_proj", "up_proj", silu)],
    "gemma2": [("model.layers.{}.mlp", "gate_proj", "up_proj", gelu_tanh)],
    "gemma3_text": [("model.layers.{}.mlp", "gate_proj", "up_proj", gelu_tanh)],
    "olmo2": [("model.layers.{}.mlp", "gate_proj", "up_proj", silu)],
    "granite": [("model.layers.{}.mlp", "gate_proj", "up_proj", silu)],
    "smollm3": [("model.layers.{}.mlp", "gate_proj", "up_proj", silu)],
    "phi3": [("model.layers.{}.mlp", "gate_up_proj[0]", "gate_up_proj[1]", silu)],
}
CAUSAL = tuple(name for name, stacks in FFN.items() if tiny.tokenizer_kind(name) == "causal")


@cache
def backbone(model_type: str) -> Backbone:
    return wrap(tiny.model(model_type))


def prompted(made: Backbone, lengths: tuple[int, ...], where: str) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings [S, T, E], mask [S, T], prompt positions [S, P] of examples of these lengths, padded right.

    The i-th example is the same, whatever stands beside it.
    """
    rows = torch.randn(PROMPT, made.embedding_size, generator=torch.Generator().manual_seed(1))
    width = PROMPT + max(lengths)
    padding = made.embed(torch.tensor([made.pad_id]))
    embeds, mask, positions = [], torch.zeros(len(lengths), width, dtype=torch.long), []
    for number, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(100 + length)
        text = made.embed(torch.randint(5, 60, (length,), generator=generator))
        whole = torch.cat([rows, text] if where == "before" else [text, rows])
        embeds.append(torch.cat([whole, padding.expand(width - len(whole), -1)]))
        mask[number, : len(whole)] = 1
        positions.append(torch.arange(PROMPT) + (0 if where == "before" else length))
    return torch.stack(embeds), mask, torch.stack(positions)


def record(modules: list[nn.Module], run: Callable[[], object]) -> list[Tensor]:
    """What entered each module during `run()`."""
    seen: dict[int, Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda _, inputs, key=number: seen.__setitem__(key, inputs[0].clone())
        )
        for number, module in enumerate(modules)
    ]
    run()
    for hook in hooks:
        hook.remove()
    return [seen[number] for number in range(len(modules))]


def linear(module: nn.Module, x: Tensor) -> Tensor:
    weight = module.weight if type(module).__name__ == "Conv1D" else module.weight.T
    return x @ weight + (0 if module.bias is None else module.bias)


def made_by(block: nn.Module, name: str, x: Tensor) -> Tensor:
    """What a linear of the table above gives for x, or the half of it that is meant."""
    name, _, half = name.partition("[")
    whole = linear(block.get_submodule(name), x)
    size = whole.shape[-1] // 2
    return {"": whole, "0]": whole[..., :size], "1]": whole[..., size:]}[half]


def placements() -> list[tuple[str, str]]:
    before = [(model_type, "before") for model_type in FFN]
    return before + [(model_type, "after") for model_type in CAUSAL]


def test_every_family_is_written_out() -> None:
    assert {*FFN, "mixtral"} == {*tiny.ALL}  # whose experts are in tests/test_experts.py


@pytest.mark.parametrize(("model_type", "where"), placements())
def test_neurons_are_what_the_weights_give(model_type: str, where: str) -> None:
    made = backbone(model_type)
    embeds, mask, _ = prompted(made, (5, 3, 9), where)
    blocks = [
        (made.model.get_submodule(path.format(layer)), first, second, activation)
        for stack, (path, first, second, activation) in enumerate(FFN[model_type])
        for layer in range(tiny.layers(model_type)[stack])
    ]
    downs = [module for _, _, module in made.down_projections()]
    ups = [block.get_submodule(first.partition("[")[0]) for block, first, _, _ in blocks]
    assert len(downs) == len(ups) == made.layers
    with torch.no_grad():
        seen = record(downs + ups, lambda: made.hidden(embeds, mask))
        for (block, first, second, activation), neurons, x in zip(
            blocks, seen[: len(downs)], seen[len(downs) :], strict=True
        ):
            expected = activation(made_by(block, first, x))
            if second:
                expected = expected * made_by(block, second, x)
            assert neurons.ndim == 3
            assert neurons.shape[-1] == made.neurons == tiny.neurons(model_type)
            assert (neurons - expected).abs().max() < TOLERANCE
            assert 0.05 < (neurons > 0).double().mean() < 0.95  # the test sees neurons on and off


@pytest.mark.parametrize(("model_type", "where"), placements())
def test_padding_changes_nothing(model_type: str, where: str) -> None:
    made = backbone(model_type)
    downs = made.down_projections()
    lengths = (5, 3, 9)
    with torch.no_grad():
        embeds, mask, positions = prompted(made, lengths, where)
        together = record([module for _, _, module in downs], lambda: made.hidden(embeds, mask))
        for number, length in enumerate(lengths):
            embeds, mask, alone_at = prompted(made, (length,), where)
            alone = record([module for _, _, module in downs], lambda e=embeds, m=mask: made.hidden(e, m))
            for (stack, _, _), ours, theirs in zip(downs, alone, together, strict=True):
                rows, padded = (alone_at[0], positions[number]) if stack.rows == "prompt" else ([0], [0])
                assert (ours[0, rows] - theirs[number, padded]).abs().max() < TOLERANCE


@pytest.mark.parametrize("model_type", FFN)
def test_gates_are_the_linears_under_the_activation(model_type: str) -> None:
    made = backbone(model_type)
    expected = [
        made.model.get_submodule(f"{block.format(layer)}.{first.partition('[')[0]}") if second else None
        for stack, (block, first, second, _) in enumerate(FFN[model_type])
        for layer in range(tiny.layers(model_type)[stack])
    ]
    assert len(made.gates()) == len(expected)
    assert all(ours is theirs for ours, theirs in zip(made.gates(), expected, strict=True))


def test_bert_neurons_from_scratch() -> None:
    """One layer of BERT written out: embeddings, attention without the padding, norm, FFN matrix, GELU."""
    made = wrap(tiny.model("bert", num_hidden_layers=1))
    embeds, mask, _ = prompted(made, (5, 3), "before")
    w = made.model.state_dict()

    def norm(x: Tensor, name: str) -> Tensor:
        x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-12)
        return x * w[f"bert.{name}.weight"] + w[f"bert.{name}.bias"]

    def dense(x: Tensor, name: str) -> Tensor:
        return x @ w[f"bert.encoder.layer.0.{name}.weight"].T + w[f"bert.encoder.layer.0.{name}.bias"]

    with torch.no_grad():
        [neurons] = record([made.down_projections()[0][2]], lambda: made.hidden(embeds, mask))
        for number, size in enumerate(mask.sum(1).tolist()):
            x = embeds[number, :size] + w["bert.embeddings.token_type_embeddings.weight"][0]
            x = norm(x + w["bert.embeddings.position_embeddings.weight"][:size], "embeddings.LayerNorm")
            q, k, v = (dense(x, f"attention.self.{name}") for name in ("query", "key", "value"))
            heads = [
                torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(8), -1) @ v[:, part]
                for part in (slice(0, 8), slice(8, 16))
            ]
            attended = dense(torch.cat(heads, -1), "attention.output.dense")
            x = norm(x + attended, "encoder.layer.0.attention.output.LayerNorm")
            assert (neurons[number, :size] - gelu(dense(x, "intermediate.dense"))).abs().max() < TOLERANCE


@pytest.mark.parametrize("where", ["before", "after"])
def test_llama_neurons_from_scratch(where: str) -> None:
    """One layer of Llama written out: RMS norm, rotary causal attention, one key head for two, gated FFN."""
    made = wrap(tiny.model("llama", num_hidden_layers=1))
    embeds, mask, _ = prompted(made, (5, 3), where)
    w = {key.removeprefix("model.layers.0."): value for key, value in made.model.state_dict().items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return x / torch.sqrt((x**2).mean(-1, keepdim=True) + made.config.rms_norm_eps) * w[f"{name}.weight"]

    def rotate(x: Tensor) -> Tensor:  # [T, 8]: pairs (i, i + 4) turned by position * 10000 ** (-i / 4)
        angle = torch.arange(len(x))[:, None] * 10000.0 ** (-torch.arange(4) / 4)
        left, right = x[:, :4], x[:, 4:]
        return torch.cat(
            [left * angle.cos() - right * angle.sin(), right * angle.cos() + left * angle.sin()], -1
        )

    with torch.no_grad():
        [neurons] = record([made.down_projections()[0][2]], lambda: made.hidden(embeds, mask))
        for number, size in enumerate(mask.sum(1).tolist()):
            x = embeds[number, :size]
            q, k, v = (norm(x, "input_layernorm") @ w[f"self_attn.{name}_proj.weight"].T for name in "qkv")
            future = torch.full((size, size), -torch.inf).triu(1)
            heads = [
                torch.softmax(rotate(q[:, part]) @ rotate(k).T / math.sqrt(8) + future, -1) @ v
                for part in (slice(0, 8), slice(8, 16))
            ]
            x = norm(x + torch.cat(heads, -1) @ w["self_attn.o_proj.weight"].T, "post_attention_layernorm")
            expected = silu(x @ w["mlp.gate_proj.weight"].T) * (x @ w["mlp.up_proj.weight"].T)
            assert (neurons[number, :size] - expected).abs().max() < TOLERANCE


def test_the_rows_there_are() -> None:
    assert set(architectures.names()) >= {
        *("bert", "roberta", "xlm-roberta", "distilbert", "electra", "deberta-v2", "t5", "gpt2", "llama"),
        *("modernbert", "albert", "mpnet", "bart", "mt5", "gpt_neox", "opt", "bloom", "falcon", "phi3"),
        *("mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "olmo2", "granite", "smollm3"),
    }
    assert len(architectures.names()) == len(set(architectures.names()))


def test_every_row_has_a_tiny_model() -> None:
    assert {tiny.model(name, head=False).config.model_type for name in tiny.ALL} == set(architectures.names())


@pytest.mark.parametrize("model_type", tiny.ALL)
def test_every_tiny_model_has_its_row(model_type: str) -> None:
    config = tiny.model(model_type).config
    row = architectures.resolve(config)
    assert row.model_type == config.model_type
    assert row.when is None or getattr(config, row.when[0]) == row.when[1]


def test_t5_is_two_stacks_and_its_gate_depends_on_the_configuration() -> None:
    plain = architectures.resolve(SimpleNamespace(model_type="t5", is_gated_act=False))
    gated = architectures.resolve(SimpleNamespace(model_type="t5", is_gated_act=True))
    assert [stack.rows for stack in plain.stacks] == ["prompt", "readout"]
    assert [stack.gate for stack in plain.stacks] == [None, None]
    assert [stack.gate for stack in gated.stacks] == [
        "layer.1.DenseReluDense.wi_0",
        "layer.2.DenseReluDense.wi_0",
    ]


def test_unknown_model_type_lists_the_rows_and_shows_how_to_add_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArchitectureError) as caught:
        architectures.get("distilbrt")
    text = str(caught.value)
    assert "'distilbrt'" in text
    assert "Did you mean 'distilbert'?" in text
    assert all(name in text for name in architectures.names())
    monkeypatch.setattr(architectures, "_TABLE", list(architectures._TABLE))
    exec(text[text.index("from transferscope") :], {})  # the example in the message is code that runs
    assert architectures.get("distilbrt").stacks[0].down == "output.dense"


@pytest.mark.parametrize(
    ("model_type", "fields", "message"),
    [
        ("albert", {"inner_group_num": 2}, "for inner_group_num=1; this configuration has inner_group_num=2"),
        ("bloom", {"slow_but_exact": True}, "for slow_but_exact=False; .* has slow_but_exact=True"),
        ("mt5", {}, "is_gated_act=None"),
    ],
)
def test_configurations_whose_neurons_would_not_be_seen(
    model_type: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArchitectureError, match=message):
        architectures.resolve(SimpleNamespace(model_type=model_type, **fields))


def test_configuration_that_no_row_is_for() -> None:
    with pytest.raises(
        ArchitectureError, match=r"is_gated_act=False, is_gated_act=True.*has is_gated_act=None"
    ):
        architectures.resolve(SimpleNamespace(model_type="t5"))


def test_a_registered_row_is_used_and_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "_TABLE", list(architectures._TABLE))
    attention = Architecture("bert", "encoder", (Stack("encoder.layer", "attention.output.dense"),))
    architectures.register(attention)
    assert architectures.get("bert") is attention
    assert wrap(tiny.model("bert")).neurons == 16  # the width of the attention output
    before = len(architectures._TABLE)
    architectures.register(attention)
    assert len(architectures._TABLE) == before


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (Architecture("x", "encodr", (Stack("a", "b"),)), "Did you mean 'encoder'"),  # type: ignore[arg-type]
        (Architecture("x", "encoder", (Stack("a", "b", rows="promt"),)), "Did you mean 'prompt'"),  # type: ignore[arg-type]
        (Architecture("x", "encoder", ()), "needs at least one"),
        (Architecture("x", "encoder", (Stack("a", "b", gate_part="frst"),)), "Did you mean 'first'"),  # type: ignore[arg-type]
        (Architecture("x", "encoder", (Stack("a", "b"),), adjust="unshar"), "Did you mean 'unshare'"),  # type: ignore[arg-type]
    ],
)
def test_a_row_that_cannot_be(row: Architecture, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        architectures.register(row)
