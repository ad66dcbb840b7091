"""Mixtures of experts: neurons written out by hand, statistics over the examples sent to an expert."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from tests import tiny
from transferscope import files, routed
from transferscope.activations import FireCounts, Moments, capture
from transferscope.attachment import Attached, attach, attach_rows, verbalizer
from transferscope.encoding import Encoded, collate, from_token_ids, prepared
from transferscope.errors import BackboneError
from transferscope.gradients import gradients
from transferscope.interventions import Edit, intervene
from transferscope.layer_devices import layer_devices
from transferscope.measurement import measure, stimulate
from transferscope.methods import opened
from transferscope.models import Backbone, wrap
from transferscope.outline import Sizes
from transferscope.pipeline import open_study
from transferscope.routed import RoutedFires, RoutedMoments

EXPERTS, SENT, N = 4, 2, 24


@cache
def backbone() -> Backbone:
    return wrap(tiny.model("mixtral"), tiny.tokenizer("causal"), "mixtral")


def split(count: int = 40, seed: int = 0) -> Encoded:
    rng = np.random.default_rng(seed)
    return from_token_ids([(rng.integers(5, 60, rng.integers(1, 7)).tolist(), i % 2) for i in range(count)])


def attached(template: str = "suffix") -> Attached:
    rows = torch.randn(3, 16, generator=torch.Generator().manual_seed(4))
    return attach_rows(backbone(), rows, template)


def by_hand(one: Attached, data: Encoded) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """One text at a time through the stock model: neurons and gates [L][S][Q, X N], and last hidden states.

    Written from the architecture's own code: softmax over the router, the two best experts of each row.
    """
    model = tiny.model("mixtral")  # never wrapped
    table = model.get_input_embeddings().weight
    entered: list[Tensor] = []
    hooks = [
        layer.mlp.register_forward_pre_hook(lambda _, given: entered.append(given[0][0].clone()))
        for layer in model.base_model.layers
    ]
    neurons: list[Any] = [[] for _ in hooks]
    gates: list[Any] = [[] for _ in hooks]
    last = []
    for ids in data.ids:
        text = table[torch.tensor(np.asarray(ids))]
        parts = [text, one.prompt] if one.template == "suffix" else [one.prompt, text]
        entered.clear()
        with torch.no_grad():
            last.append(model.base_model(inputs_embeds=torch.cat(parts)[None])[0][0, -1])
        for number, rows in enumerate(entered):
            block = model.base_model.layers[number].mlp
            found = [torch.full((len(rows), EXPERTS * N), torch.nan) for _ in range(2)]
            for q, row in enumerate(rows):
                shares = torch.softmax(block.gate.weight @ row, dim=0)
                for expert in shares.argsort(descending=True)[:SENT].tolist():
                    gate, up = (block.experts.gate_up_proj[expert] @ row).split(N)
                    place = slice(expert * N, (expert + 1) * N)
                    found[0][q, place] = torch.nn.functional.silu(gate) * up
                    found[1][q, place] = gate
            neurons[number].append(found[0].detach())
            gates[number].append(found[1].detach())
    for hook in hooks:
        hook.remove()
    return neurons, gates, torch.stack(last)


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("template", ["suffix", "prefix"])
def test_neurons_are_what_the_weights_of_the_chosen_experts_give(template: str) -> None:
    one, data = attached(template), split(6)
    neurons, gates, last = by_hand(one, data)
    seen: list[tuple[int, Tensor, Tensor]] = []
    placed = one.place(collate(backbone(), data, np.arange(6)))

    def sink(layer: int, values: Tensor, gate: Tensor | None) -> None:
        assert gate is not None
        seen.append((layer, values, gate))

    with torch.no_grad(), capture(backbone(), sink, gates=True, missing=True):
        close(one.forward(placed), last)
    assert [layer for layer, _, _ in seen] == [0, 1]
    for layer, values, gate in seen:
        assert values.shape == gate.shape == (6, placed.embeds.shape[1], EXPERTS * N)
        for i, (expected, gated) in enumerate(zip(neurons[layer], gates[layer], strict=True)):
            close(values[i, : len(expected)], expected)
            close(gate[i, : len(expected)], gated)
        assert values.isnan().float().mean() == 1 - SENT / EXPERTS
    with torch.no_grad():
        close(one.forward(placed), last)  # with nobody listening


def test_the_model_and_its_gradients_are_the_stock_ones_with_somebody_listening() -> None:
    embeds = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0))
    found = []
    for listening in (False, True):
        entered = embeds.clone().requires_grad_(True)
        made = backbone() if listening else wrap(tiny.model("mixtral"))
        with capture(backbone(), lambda *given: None, missing=True):
            hidden = made.hidden(entered, torch.ones(2, 7, dtype=torch.long))
        found.append((hidden.detach(), torch.autograd.grad(hidden[:, -1].square().sum(), entered)[0]))
    for one, other in zip(*found, strict=True):
        assert other.isfinite().all()
        close(one, other)


def test_under_autocast_the_model_is_the_stock_one_with_somebody_listening() -> None:
    rounded = replace(attached(), backbone=backbone().at(torch.bfloat16))
    placed = rounded.place(collate(backbone(), split(6), np.arange(6)))
    seen: list[Tensor] = []
    with torch.no_grad():
        stock = rounded.forward(placed)
        with capture(backbone(), lambda layer, values, gate: seen.append(values), missing=True):
            found = rounded.forward(placed)
    assert (found.dtype, {values.dtype for values in seen}) == (stock.dtype, {torch.bfloat16})
    exact = attached().forward(placed)
    # Products are rounded, and their sums are not.
    assert 0 < (found - exact).abs().mean() < 1.5 * (stock - exact).abs().mean()


def test_gradients_are_those_of_the_experts_that_a_text_is_sent_to() -> None:
    """Fisher: autograd on the stock experts' weights; attribution: on neurons that are multiplied by ones."""
    one = attached()
    data = prepared(backbone(), split(5), prompt_rows=3)
    readout = verbalizer(backbone(), [7, 9])
    found = gradients(one, readout, data, labels="given")
    fisher = np.zeros((2, EXPERTS * N))
    model = wrap(tiny.model("mixtral"), backbone().tokenizer)
    weights = [layer.mlp.experts.down_proj.requires_grad_(True) for layer in model.base.layers]
    alone = attach_rows(model, one.prompt, "suffix")
    effects = np.zeros_like(fisher)
    for i in range(5):
        batch = collate(model, split(5), np.array([i]))
        loss = verbalizer(model, [7, 9]).loss(alone, batch)
        for layer, slope in enumerate(torch.autograd.grad(loss, weights)):
            fisher[layer] += slope.square().mean(dim=1).flatten().numpy()
        ones = [torch.ones(1, 1, EXPERTS * N, requires_grad=True) for _ in range(2)]
        kept: list[tuple[Tensor, Tensor]] = []

        def doubled(down: Any, inputs: Any) -> Any:
            values = inputs[0] * ones[len(kept)]  # noqa: B023
            kept.append((inputs[0].detach(), values))  # noqa: B023
            return (values, *inputs[1:])

        handles = [down.register_forward_pre_hook(doubled) for _, _, down in model.down_projections()]
        loss = verbalizer(model, [7, 9]).loss(alone, batch)
        for handle in handles:
            handle.remove()
        slopes = torch.autograd.grad(loss, [values for _, values in kept])
        for layer, ((values, _), slope) in enumerate(zip(kept, slopes, strict=True)):
            effects[layer] += np.abs((values * slope)[0].nan_to_num(nan=0.0).sum(dim=0).numpy())
    np.testing.assert_allclose(found.ffn_fisher, fisher / 5, rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(found.attribution, effects / 5, rtol=1e-4, atol=1e-9)
    assert (found.attribution > 0).mean() > 0.5


def test_wrapping_twice_and_copies() -> None:
    model = tiny.model("mixtral")
    names = [name for name, _ in model.named_parameters()]
    first = wrap(model)
    down = first.down_projections()[0][2]
    assert wrap(model).down_projections()[0][2] is down
    assert [name for name, _ in model.named_parameters()] == names
    other = wrap(copy.deepcopy(model))
    with torch.no_grad():
        other.base.layers[0].mlp.experts.down_proj.zero_()
    assert not other.down_projections()[0][2].weight.any()
    assert down.weight.any()
    expected = model.base_model.layers[0].mlp.experts.down_proj
    assert down.weight.shape == (16, EXPERTS * N)
    assert torch.equal(down.weight[:, 2 * N + 5], expected[2, :, 5])


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("template", ["suffix", "prefix"])
def test_a_measurement_is_over_the_examples_sent_to_the_expert(template: str, balanced: bool) -> None:
    one, train, dev = attached(template), split(40), split(30, seed=1)
    found = measure(one, train, dev, blank=from_token_ids([([1], 0)]), balanced=balanced)

    def probed(data: Encoded) -> np.ndarray:
        neurons, _, _ = by_hand(one, data)
        rows = slice(-1, None) if template == "prefix" else slice(-3, None)
        return np.stack([[q[rows].numpy() for q in layer] for layer in neurons])  # [L, S, P, X N]

    values, tested = probed(train), probed(dev)
    known = ~np.isnan(values)
    labels, gold = np.array(train.labels), np.array(dev.labels)
    seen = 0
    for cell in np.ndindex(*found.baseline.shape):
        layer, row, n = cell
        have = known[layer, :, row, n]
        if not have.any():
            assert np.isnan(found.baseline[cell])
            assert not found.defined[cell]
            continue
        mean = values[layer, have, row, n].astype(np.float64).mean()
        assert found.baseline[cell] == pytest.approx(mean, abs=1e-6)
        enough = all((have & (labels == k)).sum() >= 0.25 * (labels == k).sum() for k in (0, 1))
        varies = values[layer, have, row, n].std() > 1e-4
        assert found.defined[cell] == (enough and varies)
        here = tested[layer, :, row, n]
        shown = ~np.isnan(here)
        if not all((shown & (gold == k)).sum() >= 0.25 * (gold == k).sum() for k in (0, 1)):
            assert np.isnan(found.accuracy[cell])
            continue
        if np.abs(here[shown] - mean).min() < 1e-5:
            continue  # rounding decides
        right = (here > mean) == (gold == 1)
        sides = [right[shown & (gold == k)].mean() for k in (0, 1)]
        assert found.accuracy[cell] == pytest.approx(np.mean(sides) if balanced else right[shown].mean())
        seen += 1
    assert seen > 20
    assert np.isnan(found.accuracy).any() == (template == "suffix")  # the readout row is sent to few experts
    assert np.nanmin(found.predictivity) >= 0.5


def test_a_neuron_of_an_expert_that_is_not_asked_is_not_active() -> None:
    one, blank = attached("prefix"), from_token_ids([([1], 0)])
    values, active = stimulate(one, blank)
    [layer], [gates] = (zip(*part, strict=True) for part in by_hand(one, blank)[:2])
    for number in range(2):
        expected, gate = layer[number][-1].numpy(), gates[number][-1].numpy()
        np.testing.assert_allclose(values[number], np.nan_to_num(expected), atol=1e-5)
        assert np.array_equal(active[number], gate > 0)  # NaN is not
        assert not active[number][np.isnan(expected)].any()


def test_a_zero_is_an_edit_of_the_experts_weights() -> None:
    one, batch = attached(), collate(backbone(), split(6), np.arange(6))
    mask = np.random.default_rng(0).random((2, EXPERTS * N)) < 0.3
    other = wrap(copy.deepcopy(backbone().model), backbone().tokenizer)
    for layer in range(2):
        weight = other.base.layers[layer].mlp.experts.down_proj.data
        for n in np.flatnonzero(mask[layer]):
            weight[n // N, :, n % N] = 0
    copied = attach(other, one.prompt, "suffix")
    with torch.inference_mode():
        expected = copied.forward(copied.place(batch))
        plain = one.forward(one.place(batch))
        with intervene(backbone(), Edit(mask, "zero", rows="all")):
            close(one.forward(one.place(batch)), expected)
    assert not torch.allclose(plain, expected, atol=1e-3)


def test_a_row_passes_the_weights_of_its_experts_alone() -> None:
    every, few = (Sizes.of(wrap(tiny.model("mixtral", num_experts_per_tok=k))) for k in (EXPERTS, SENT))
    of_experts = 2 * EXPERTS * 3 * N * 16  # two layers; gate, up and down
    assert every.body - few.body == of_experts * (1 - SENT / EXPERTS)
    assert every.weights == few.weights


def test_a_study_of_a_mixture_is_run(tmp_path: Path) -> None:
    settings = {
        "model": str(tmp_path / "model"),
        "seeds": 2,
        "template": "suffix",
        "tasks": {name: tsv(tmp_path, name, seed) for seed, name in enumerate(("one", "other"))},
        "tuning": {"rows": 3, "steps": 4, "evaluate_every": 2, "batch_size": 8},
    }
    tiny.model("mixtral").save_pretrained(tmp_path / "model")
    tiny.tokenizer("causal").save_pretrained(tmp_path / "model")
    files.write_text(tmp_path / "study.yaml", yaml.safe_dump(settings))
    study = open_study(tmp_path)
    for found in study.extract().values():
        assert found.stimulation.shape == (2, 2, EXPERTS * N)
        assert np.isfinite(found.stimulation).all()
        assert found.predictivity is not None
        kept = found.skill_mask(0.1)
        assert kept.sum() == 2 * 9
        assert np.isfinite(found.predictivity).any(axis=(0, 1))[kept].all()
    ranking = study.rank("one")
    assert [source.source for source in ranking.sources] == ["other"]
    assert np.isfinite(ranking.sources[0].score)


def tsv(folder: Path, name: str, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    for split, count in (("train", 48), ("dev", 32)):
        words = [" ".join(rng.choice(["movie", "film", "the", "a", "very"], 4)) for _ in range(count)]
        lines = [f"{text} {('likes', 'hates')[i % 2]}\t{i % 2}" for i, text in enumerate(words)]
        files.write_text(folder / f"{name}-{split}.tsv", "\n".join(["text\tlabel", *lines]) + "\n")
    paths = {split: f"{name}-{split}.tsv" for split in ("train", "dev")}
    return paths | {"text": "text", "label": "label", "words": ["good", "bad"]}


def test_what_needs_a_value_everywhere_refuses() -> None:
    with (
        pytest.raises(BackboneError, match=r"'mixtral' is a mixture of experts: .*needs all values"),
        capture(backbone(), lambda *given: None),
    ):
        pass


def pieces(values: Tensor, labels: Tensor, cuts: list[int]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(values.tensor_split(cuts), labels.tensor_split(cuts), strict=True))


@pytest.mark.parametrize("cuts", [[], [1], [3, 4, 9]])
def test_statistics_do_not_depend_on_batches_and_are_the_plain_ones_where_nothing_is_missing(
    cuts: list[int],
) -> None:
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(12, 2, 5, generator=generator) + 3
    labels = torch.tensor([0, 1] * 6)
    missing = torch.rand(12, 2, 5, generator=generator) < 0.4
    for holes in (False, True):
        given = values.masked_fill(missing, torch.nan) if holes else values
        moments = RoutedMoments.zeros(2, (1, 2, 5), torch.device("cpu"))
        halves = [RoutedMoments.zeros(2, (1, 2, 5), torch.device("cpu")) for _ in range(2)]
        for i, (part, own) in enumerate(pieces(given, labels, cuts)):
            moments.add(0, part, own)
            halves[i % 2].add(0, part, own)
        both = halves[0] + halves[1]
        for one in (moments, both):
            torch.testing.assert_close(one.mean[0], given.double().nanmean(0), equal_nan=True)
            centred = (given.double() - given.double().nanmean(0)).square().nansum(0)
            torch.testing.assert_close(one.squares[0], centred)
            by_class = torch.stack([given[labels == k].double().nanmean(0) for k in (0, 1)]).mean(0)
            torch.testing.assert_close(one.balanced_mean[0], by_class, equal_nan=True)
            assert torch.equal(one.here[:, 0].sum(0), (~given.isnan()).sum(0).double())
        if not holes:
            plain = Moments.zeros(2, (1, 2, 5), torch.device("cpu"))
            plain.add(0, values, labels)
            torch.testing.assert_close(moments.mean, plain.mean)
            torch.testing.assert_close(moments.squares, plain.squares)
            assert torch.equal(moments.varies, plain.varies)
            counts: list[FireCounts] = [moments.above(moments.mean, 2), FireCounts.above(plain.mean, 2)]
            for one in counts:
                one.add(0, values, labels)
            for balanced in (False, True):
                first, second = (one.accuracy(1, balanced=balanced) for one in counts)
                torch.testing.assert_close(first, second)


def test_too_few_examples_are_not_enough() -> None:
    here = torch.tensor([[8, 2, 8, 1], [8, 8, 1, 1]])
    counts = torch.tensor([8, 8])
    assert routed.enough(here, counts).tolist() == [True, True, False, False]
    assert routed.enough(torch.tensor([[1], [0]]), torch.tensor([4, 0])).tolist() == [False]
    halves = []
    for known in (8, 1):  # of 8 examples of each class
        fires = RoutedFires.above(torch.zeros(1, 1, 1).double(), 2)
        for label in (0, 1):
            values = torch.full((8, 1, 1), torch.nan)
            values[:known] = 2.0 * label - 1
            fires.add(0, values, torch.full((8,), label))
        halves.append(fires)
    assert halves[0].accuracy(1).item() == 1.0
    assert np.isnan(halves[1].accuracy(1).item())
    both = halves[0] + halves[1]
    assert both.accuracy(1).item() == 1.0
    assert both.here.flatten().tolist() == [9, 9]
    merged = RoutedFires.of_layers([halves[0], halves[1]], torch.tensor([1, 0]))
    assert np.isnan(merged.accuracy(1)[0].item())
    assert merged.accuracy(1)[1].item() == 1.0


def test_a_method_leaves_the_model_as_it_was() -> None:
    before = [(name, module.training) for name, module in backbone().model.named_modules()]
    with opened(backbone(), "lora"):
        pass
    assert [(name, module.training) for name, module in backbone().model.named_modules()] == before


def test_a_layer_computes_where_its_experts_lie() -> None:
    made = wrap(tiny.model("mixtral").to("meta"), tiny.tokenizer("causal"))
    assert layer_devices(made) == (torch.device("meta"),) * 2
