"""Pruning: which neurons stay, where the others are held, and that folding them is exact, for every row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import test_benchmarks, tiny
from transferscope import attachment, pruning, pruning_speed
from transferscope.encoding import batches, encode
from transferscope.errors import BackboneError, InputError, SignatureError
from transferscope.models import Backbone, wrap
from transferscope.pruned import blocks
from transferscope.tasks import Example

TEMPLATES = {"gpt2": "prefix", "llama": "suffix", "t5": "prefix", "t5-gated": "prefix"}


def made(model_type: str, **overrides: Any) -> Backbone:
    kind = tiny.tokenizer_kind(model_type)
    return wrap(tiny.model(model_type, **overrides), tiny.tokenizer(kind), model_type)


def drawn(backbone: Backbone, keep: float = 0.25, from_layer: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (backbone.layers, backbone.neurons)
    kept = pruning.choose(backbone, rng.random((1, *shape)), keep=keep, from_layer=from_layer)
    return kept, rng.normal(size=shape)


def rows_of(backbone: Backbone) -> tuple[Tensor, Tensor]:
    """Three examples with padding: embeddings [3, 9, E] and mask."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(5, 60, (3, 9), generator=generator)
    mask = (torch.arange(9) < torch.tensor([[9], [4], [6]])).long()
    return backbone.embed(ids), mask


@pytest.mark.parametrize("model_type", tiny.MODEL_TYPES)
def test_folding_is_exact(model_type: str) -> None:
    """As the unpruned model whose other neurons are overwritten by hand."""
    backbone = made(model_type)
    kept, held = drawn(backbone)
    folded = pruning.fold(backbone, kept, held)
    names = {
        "distilbert": ("ffn.lin2",), "gpt2": ("mlp.c_proj",), "llama": ("mlp.down_proj",),
        "t5": ("DenseReluDense.wo",), "t5-gated": ("DenseReluDense.wo",),
    }.get(model_type, ("output.dense",))  # fmt: skip
    downs = [
        module
        for name, module in backbone.model.named_modules()
        if name.endswith(names) and ".attention." not in name
    ]
    assert len(downs) == len(kept)

    def overwrite(layer: int) -> Any:
        def hook(module: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            values = given[0].clone()
            for neuron in np.flatnonzero(~kept[layer]):
                values[..., neuron] = float(held[layer, neuron])
            return (values,)

        return hook

    embeds, mask = rows_of(backbone)
    with torch.no_grad():
        plain = backbone.hidden(embeds, mask)
        hooks = [down.register_forward_pre_hook(overwrite(layer)) for layer, down in enumerate(downs)]
        expected = backbone.hidden(embeds, mask)
        for hook in hooks:
            hook.remove()
        found = folded.hidden(embeds, mask)
    valid = mask.bool() if backbone.architecture.kind != "encoder-decoder" else slice(None)
    assert (found - expected)[valid].abs().max() < 1e-5
    assert (plain - expected)[valid].abs().max() > 1e-2  # it does matter what they are held at
    assert folded.widths == tuple(kept.sum(axis=1))
    if folded.has_lm_head:
        words = torch.tensor([7, 9])
        assert folded.label_logits(found[:, 0], words).shape == (3, 2)


@pytest.mark.parametrize("model_type", tiny.MODEL_TYPES)
def test_the_original_is_left_as_it_was(model_type: str) -> None:
    backbone = made(model_type)
    embeds, mask = rows_of(backbone)
    before, print_ = backbone.hidden(embeds, mask), backbone.fingerprint
    kept, held = drawn(backbone)
    folded = pruning.fold(backbone, kept, held)
    with pytest.raises(ZeroDivisionError), pruning.clamped(backbone, kept, held):
        raise ZeroDivisionError
    assert torch.equal(backbone.hidden(embeds, mask), before)
    assert wrap(backbone.model, backbone.tokenizer).fingerprint == print_ != folded.fingerprint
    assert not any(parameter.requires_grad for parameter in folded.model.parameters())


def test_biases_are_added_where_there_are_none_and_only_there_they_are_needed() -> None:
    for model_type in ("t5", "t5-gated", "llama"):
        backbone = made(model_type)
        folded = pruning.fold(backbone, *drawn(backbone))
        biased = [down.bias is not None for _, _, down in folded.down_projections()]
        assert biased == [width < 24 for width in folded.widths]
        assert any(biased)
        assert not all(biased)


def test_chosen_are_the_most_predictive_of_each_upper_layer() -> None:
    backbone = made("bert", num_hidden_layers=3)
    values = np.random.default_rng(1).random((3, 24))
    kept = pruning.choose(backbone, values, keep=0.2, from_layer=1)
    assert kept[0].all()
    for layer in (1, 2):
        assert set(np.flatnonzero(kept[layer])) == set(np.argsort(-values[layer])[:4])


def test_subtasks_are_united_and_at_least_one_neuron_stays() -> None:
    backbone = made("bert")
    values = np.zeros((2, 2, 24))
    values[0, 1, 3] = values[1, 1, 8] = 1.0
    kept = pruning.choose(backbone, values, keep=0.001, from_layer=1)
    assert np.flatnonzero(kept[1]).tolist() == [3, 8]
    values[:, 1] = np.nan  # nothing varies there
    assert pruning.choose(backbone, values, keep=0.5, from_layer=1)[1].sum() == 1


@pytest.mark.parametrize("keep", [1 / 24, 3 / 24, 7 / 24, 0.999, 1.0])
def test_rounding_takes_no_neuron_away(keep: float) -> None:
    backbone = made("bert")
    kept = pruning.choose(backbone, np.random.default_rng(0).random((2, 24)), keep=keep, from_layer=0)
    assert kept.sum(axis=1).tolist() == [int(keep * 24)] * 2


def test_stacks_are_numbered_for_themselves() -> None:
    backbone = made("t5")  # two layers in the encoder, three in the decoder
    kept = pruning.choose(backbone, np.random.default_rng(0).random((5, 24)), keep=0.25, from_layer=1)
    assert kept.sum(axis=1).tolist() == [24, 6, 24, 6, 6]
    kept = pruning.choose(backbone, np.random.default_rng(0).random((5, 24)), keep=0.25, from_layer=2)
    assert kept.sum(axis=1).tolist() == [24, 24, 24, 24, 6]


def test_as_many_random_neurons_in_each_layer() -> None:
    kept, _ = drawn(made("t5"))
    first, second = pruning.random_choice(kept, 0), pruning.random_choice(kept, 1)
    assert (first.sum(axis=1) == kept.sum(axis=1)).all()
    assert (first != kept).any()
    assert (first != second).any()
    assert (first == pruning.random_choice(kept, 0)).all()


def test_what_cannot_be_chosen() -> None:
    backbone = made("bert")
    values = np.random.default_rng(0).random((2, 24))
    for keep in (0.0, -0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match="keep should be a share"):
            pruning.choose(backbone, values, keep=keep, from_layer=0)
    with pytest.raises(InputError, match=r"from-layer 2: 'bert' has the layers 0 to 1, and at least one"):
        pruning.choose(backbone, values, keep=0.5, from_layer=2)
    with pytest.raises(InputError, match="longest stack"):
        pruning.choose(made("t5"), np.ones((5, 24)), keep=0.5, from_layer=3)


def test_what_cannot_be_folded() -> None:
    backbone = made("bert")
    kept, held = drawn(backbone)
    with pytest.raises(InputError, match=r"should be \(2, 24\)"):
        pruning.fold(backbone, kept[:, :5], held)
    with pytest.raises(InputError, match="at least one neuron"):
        pruning.fold(backbone, kept & False, held)
    with pytest.raises(InputError, match="must be finite"):
        pruning.fold(backbone, kept, np.full_like(held, np.nan))


def test_linears_that_do_not_make_the_neurons_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = made("bert", intermediate_size=16)  # as wide as the hidden states: attention fits, too
    kept, held = drawn(backbone)
    assert pruning.fold(backbone, kept, held).widths == (16, 4)
    wrong = [
        type(b)(b.stack, b.place, (f"encoder.layer.{b.place}.attention.self.value",), b.down)
        for b in blocks(backbone.model)
    ]
    monkeypatch.setattr(pruning, "blocks", lambda *_: wrong)
    with pytest.raises((BackboneError, RuntimeError)):
        pruning.fold(backbone, kept, held)
    monkeypatch.setattr(pruning, "_sliced_outputs", lambda linear, stays: linear)
    monkeypatch.setattr(pruning, "_folded_down", lambda linear, *_: linear)
    with pytest.raises(BackboneError, match="cannot be pruned: its outputs differ by"):
        pruning.fold(backbone, kept, held)


def test_a_layer_without_the_linears_before_it() -> None:
    model = tiny.model("bert")
    model.bert.encoder.layer[1].intermediate.dense = torch.nn.Linear(16, 25)
    with pytest.raises(
        BackboneError, match=r"encoder\.layer\.1\.output\.dense has 24 inputs.*cannot be pruned"
    ):
        blocks(model)


TEXTS = ["the cat", "a very good film", "it", "the bad dog likes music and food"]


@pytest.mark.parametrize("model_type", ["bert", "llama", "gpt2", "t5-gated"])
def test_the_baseline_of_all_rows_is_a_mean_over_rows_one_by_one(model_type: str) -> None:
    backbone = made(model_type)
    template = TEMPLATES.get(model_type, "mask-first")
    generator = torch.Generator().manual_seed(4)
    trials = [
        attachment.attach(backbone, torch.randn(3, backbone.embedding_size, generator=generator), template)
        for _ in range(2)
    ]
    examples = [Example(text, None, i % 2, ()) for i, text in enumerate(TEXTS)]
    data = encode(backbone, examples, prompt_rows=trials[0].rows)
    found = pruning.all_rows_baseline(trials, data, token_budget=30)
    total, count = np.zeros_like(found), np.zeros(len(found))
    seen: dict[int, Tensor] = {}
    downs = [down for _, _, down in backbone.down_projections()]
    hooks = [
        down.register_forward_pre_hook(lambda _, given, i=i: seen.__setitem__(i, given[0][0]))
        for i, down in enumerate(downs)
    ]
    for attached in trials:
        for place in range(len(TEXTS)):  # each text alone: no padding anywhere
            alone = data.take([place])
            with torch.no_grad():
                batch = next(batches(backbone, alone, [np.arange(1)]))
                attached.forward(attached.place(batch))
            for layer, values in seen.items():
                total[layer] += values.double().numpy().sum(axis=0)
                count[layer] += len(values)
    for hook in hooks:
        hook.remove()
    assert np.allclose(found, total / count[:, None], atol=1e-5)
    if model_type == "t5-gated":
        assert count[-1] == 2 * len(TEXTS)  # the decoder has one row


def test_the_baseline_of_the_prompt_s_rows_counts_the_rows_there_are() -> None:
    backbone = made("t5")
    attached = attachment.attach(backbone, torch.zeros(3, 16), "prefix")
    baseline = np.random.default_rng(0).random((2, 5, 3, 24)).astype(np.float32)
    found = pruning.prompt_rows_baseline(attached, baseline)
    assert np.allclose(found[:2], baseline[:, :2].mean(axis=(0, 2)))
    assert np.allclose(found[2:], baseline[:, 2:, 0].mean(axis=0))  # decoder: the readout alone
    with pytest.raises(SignatureError, match="does not fit"):
        pruning.prompt_rows_baseline(attached, baseline[:, :4])
    with pytest.raises(InputError, match="unknown baseline 'al-rows'"):
        pruning.baseline_of("al-rows", [attached], None, None)  # type: ignore[arg-type]
    with pytest.raises(SignatureError, match="no baseline"):
        pruning.baseline_of("prompt-rows", [attached], None, None)  # type: ignore[arg-type]


def test_flops_are_those_of_the_matrix_products() -> None:
    backbone, rows, d, n = made("bert"), 10, 16, 24
    attention = 4 * 2 * d * d * rows + 2 * 2 * rows * rows * d
    assert pruning_speed.flops(backbone, rows) == 2 * (attention + 2 * 2 * d * n * rows)
    folded = pruning.fold(backbone, *drawn(backbone))
    assert pruning_speed.flops(folded, rows) == 2 * attention + 2 * 2 * d * (24 + 6) * rows


def test_sizes_and_speed() -> None:
    backbone = made("llama")
    folded = pruning.fold(backbone, *drawn(backbone))
    before, after = pruning_speed.size(backbone), pruning_speed.size(folded)
    assert before.ffn_parameters == 2 * 3 * 16 * 24
    assert after.ffn_parameters == 3 * 16 * 24 + 3 * 16 * 6 + 16
    assert before.parameters - after.parameters == before.ffn_parameters - after.ffn_parameters
    (found,) = pruning_speed.measure_speed(backbone, folded, batches=(2,), rows=500)
    assert (found.batch, found.rows) == (2, 64)  # as many positions as there are
    assert found.low <= found.speedup <= found.high
    flops = [pruning_speed.flops(model, 64) for model in (backbone, folded)]
    assert found.limit == flops[0] / flops[1] > 1
    with pytest.raises(InputError, match="at least 1"):
        pruning_speed.measure_speed(backbone, folded, batches=(0,))


def test_the_benchmark_compares_both_models() -> None:
    bench = test_benchmarks.load("pruning")
    found = bench.compare(bench.backbone_of(4, 32), keep=0.02, from_layer=3, batches=(1, 2), rows=8)
    assert [one["batch"] for one in found["speeds"]] == [1, 2]
    per_neuron = 2 * 32 + 1
    assert found["parameters"][0] - found["parameters"][1] == (128 - 2) * per_neuron
    assert all(one["speedup"] > 0 for one in found["speeds"])
