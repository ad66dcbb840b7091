"""Single neurons: rows, levels by class, texts, words and histograms, against loops over raw hooks."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference_neurons as slow
import tiny
import torch
from by_hand import CASES, Case, case, task

from transferscope import neuron_tables
from transferscope.errors import InputError, SignatureError
from transferscope.exporters import export
from transferscope.models import Backbone, wrap
from transferscope.neuron_view import NeuronView, choose, view
from transferscope.prompts import SoftPrompt
from transferscope.signatures import Signature, extract
from transferscope.task_spec import Subtask
from transferscope.word_promotion import output_vectors, promoted_words


def looked(made: Case, neurons: Any, **options: Any) -> tuple[Signature, NeuronView]:
    signature = extract(made.backbone, made.task, [made.prompt], token_budget=64)
    return signature, view(
        made.backbone, made.task, [made.prompt], signature, neurons, **({"token_budget": 64} | options)
    )


def sure(made: Case, count: int) -> list[tuple[int, int]]:
    """Neurons that vary at some row, in all of whose cells no rounding decides; of every layer."""
    train, dev = made.activations
    varies, near = slow.varies(train), slow.ties(train, dev, closer=2e-6)
    found = []
    for layer, rows in enumerate(varies):
        clear = [
            n for n in range(24) if any(row[n] for row in rows) and not any(row[n] for row in near[layer])
        ]
        found += [(layer, n) for n in clear[:count]]
    return found


@pytest.mark.parametrize(("model_type", "template"), CASES)
def test_a_neuron_at_its_most_predictive_row(model_type: str, template: str) -> None:
    made = case(model_type, template)
    neurons = sure(made, 3)
    assert len(neurons) >= 4
    signature, found = looked(made, neurons, bins=4, examples=3)
    train, dev = made.activations
    accuracy, varies, base = (f(train, *more) for f, more in (
        (slow.accuracy, (dev, made.labels)), (slow.varies, ()), (slow.baseline, ())))  # fmt: skip
    assert signature.predictivity is not None
    for card, (layer, n) in zip(found.neurons, neurons, strict=True):
        assert (card.layer, card.neuron) == (layer, n)
        known = [p for p in range(len(accuracy[layer])) if varies[layer][p][n]]
        best = {p: max(accuracy[layer][p][n], 1 - accuracy[layer][p][n]) for p in known}
        assert best[card.row] == pytest.approx(max(best.values()))
        right = accuracy[layer][card.row][n]
        assert card.accuracy == pytest.approx(right)
        assert card.baseline == pytest.approx(base[layer][card.row][n], abs=1e-6)
        assert (
            card.predictivity == signature.predictivity[0, 0, layer, n] == pytest.approx(max(best.values()))
        )
        if right != 0.5:
            assert card.fires_for == made.task.labels[int(right > 0.5)]
        values = [example[layer][card.row][n] for example in dev]
        check_values(made, card, values)


def check_values(made: Case, card: Any, values: list[float]) -> None:
    for k, one in enumerate(card.classes):
        group = [value for value, label in zip(values, made.labels, strict=True) if label == k]
        assert (one.label, one.examples) == (made.task.labels[k], len(group))
        assert one.mean == pytest.approx(statistics.fmean(group), abs=1e-5)
        assert one.sd == pytest.approx(statistics.stdev(group), abs=1e-5)
    for end, sign in ((card.most, -1), (card.least, 1)):
        order = sorted(range(len(values)), key=lambda i: sign * values[i])
        assert [one.value for one in end] == pytest.approx([values[i] for i in order[:3]], abs=1e-5)
        for one in end:
            example = made.task.dev[one.index]
            assert (one.text, one.pair) == (example.text, example.pair)
            assert one.label == made.task.labels[example.label]
            assert one.value == pytest.approx(values[one.index], abs=1e-5)
    edges = card.histogram.edges
    assert (len(edges), edges[0], edges[-1]) == (5, card.least[0].value, card.most[0].value)
    assert [sum(counts) for counts in card.histogram.counts] == [one.examples for one in card.classes]
    # Of the values themselves, in order: how many lie in each bin.
    for k, counts in enumerate(card.histogram.counts):
        inside = [value for value, label in zip(values, made.labels, strict=True) if label == k]
        for low, high, count in zip(edges[1:], edges[2:], counts[1:], strict=False):
            middle = sum(low + 1e-5 < value < high - 1e-5 for value in inside)
            assert (
                middle
                <= count
                <= middle + sum(min(abs(value - low), abs(value - high)) <= 1e-5 for value in inside)
            )


def test_three_classes_are_three_subtasks() -> None:
    made = case("bert", "prefix", 3)
    neurons = sure(made, 8)
    _, found = looked(made, neurons)
    train, dev = made.activations
    tables = [slow.balanced_accuracy(train, dev, made.labels, c) for c in range(3)]
    varies, seen = slow.varies(train), set()
    for card in found.neurons:
        layer, n = card.layer, card.neuron
        best = [
            max(max(t[layer][p][n], 1 - t[layer][p][n]) for p in range(3) if varies[layer][p][n])
            for t in tables
        ]
        assert card.predictivity == pytest.approx(max(best))
        subtask = best.index(max(best))
        assert card.accuracy == pytest.approx(tables[subtask][layer][card.row][n])
        label = f"class {subtask}"
        if card.accuracy != 0.5:
            assert card.fires_for == (label if card.accuracy > 0.5 else f"not {label}")
        seen.add(str(card.fires_for)[:3])
        assert len(card.classes) == 3
    assert seen == {"cla", "not"}


@pytest.mark.parametrize("balanced", [True, False])
def test_given_subtasks_have_baselines_of_their_own(balanced: bool) -> None:
    made = case("bert", "mask-first", 3)
    given = (Subtask((0,), (2,), "0 against 2"), Subtask((1,), (0, 2), "1 against the rest"))
    data = replace(made.task, subtasks=given)
    signature = extract(made.backbone, data, [made.prompt], balanced=balanced)
    neurons = [(layer, n) for layer in range(2) for n in range(24)]
    found = view(made.backbone, data, [made.prompt], signature, neurons, balanced=balanced)
    close, names = 0, set()
    for card in found.neurons:
        if card.predictivity is None or card.accuracy is None:
            continue
        close += abs(max(card.accuracy, 1 - card.accuracy) - card.predictivity) < 1e-9
        names.add(card.fires_for)
    assert close >= 46  # rounding may decide for a few
    assert names >= {"class 0", "class 2", "class 1", "not class 1"}


def test_neurons_that_do_not_vary_have_no_predictivity() -> None:
    """Of T5's ReLU, dead at all rows."""
    made = case("t5", "prefix")
    signature = extract(made.backbone, made.task, [made.prompt])
    assert signature.predictivity is not None
    dead = np.argwhere(np.isnan(signature.predictivity[0, 0]))
    assert len(dead)
    one = (int(dead[0][0]), int(dead[0][1]))
    found = view(made.backbone, made.task, [made.prompt], signature, [one], bins=3)
    card = found.neurons[0]
    assert (card.predictivity, card.rank, card.accuracy, card.fires_for) == (None, None, None, None)
    assert "-" in export(found, "table")
    assert json.loads(export(found, "json"))["neurons"][0]["predictivity"] is None
    assert one not in choose(signature, top=10_000)


# Which neurons, which trial.


def signature_of(values: list[list[list[list[float]]]]) -> Signature:
    """[R][C][L][N]."""
    table = np.array(values)
    empty = np.zeros((len(table), *table.shape[2:]), np.float32)
    return Signature("t", tuple(range(len(table))), "m", empty, empty, empty > 0, table)


def test_the_top_and_the_skill_neurons() -> None:
    nan = math.nan
    signature = signature_of([[[[0.6, 0.9, nan, 0.7], [0.8, 0.7, 0.95, 0.7]]]])
    assert choose(signature, top=4) == [(1, 2), (0, 1), (1, 0), (0, 3)]
    assert len(choose(signature, top=100)) == 7
    assert choose(signature, rate=0.5) == [(1, 2), (0, 1), (1, 0), (0, 3)]
    assert choose(signature, rate=0.3) == [(1, 2), (0, 1)]
    assert choose(signature, rate=0.5, by="network") == [(1, 2), (0, 1), (1, 0), (0, 3)]
    assert choose(signature, rate=0.3, by="network") == [(1, 2), (0, 1)]
    subtasks = signature_of([[[[0.6, 0.7, 0.5]], [[0.6, 0.5, 0.9]]]])
    assert choose(subtasks, top=2) == [(0, 2), (0, 1)]
    with pytest.raises(InputError, match="at least 1"):
        choose(signature, top=0)
    with pytest.raises(InputError, match="takes none of 4"):
        choose(signature, rate=0.2)


@pytest.fixture(scope="module")
def two_trials() -> tuple[Any, Any, list[SoftPrompt], Signature]:
    backbone, data = wrap(tiny.model("bert"), tiny.tokenizer("bert"), "tiny"), task()
    rows = [np.random.default_rng(seed).standard_normal((2, 16)).astype(np.float32) for seed in range(2)]
    scores = [{"scores": {"validation": score}} for score in (0.4, 0.9)]
    prompts = [
        SoftPrompt(one, "t", seed, "mask-first", provenance=score)
        for one, seed, score in zip(rows, (5, 7), scores, strict=True)
    ]
    return backbone, data, prompts, extract(backbone, data, prompts)


def test_spread_over_trials_and_the_trial_that_is_shown(two_trials: Any) -> None:
    backbone, data, prompts, signature = two_trials
    neurons = choose(signature, top=5)
    best, other = (view(backbone, data, prompts, signature, neurons, shown=s) for s in (None, 5))
    assert (best.shown, other.shown, best.seeds) == (7, 5, (5, 7))
    for trial, found in ((1, best), (0, other)):
        for card, (layer, n) in zip(found.neurons, neurons, strict=True):
            values = signature.predictivity[:, 0, layer, n]
            assert card.by_trial == tuple(values)
            assert card.predictivity == pytest.approx(statistics.fmean(values))
            assert card.sd == pytest.approx(statistics.stdev(values))
            assert max(card.accuracy, 1 - card.accuracy) == pytest.approx(values[trial])
            assert card.baseline == signature.baseline[trial, layer, card.row, n]
    ranks = [card.rank for card in best.neurons]
    assert ranks == sorted(ranks)
    assert ranks[0] == 1
    assert best.neurons[0].most != other.neurons[0].most


def test_what_is_refused(two_trials: Any) -> None:
    backbone, data, prompts, signature = two_trials

    def look(
        *, neurons: Any = ((0, 1),), prompts: Any = prompts, signature: Any = signature, **how: Any
    ) -> Any:
        return view(backbone, data, prompts, signature, neurons, **how)

    with pytest.raises(InputError, match=r"no neuron 2:0: the model has layers 0 to 1 with neurons 0 to 23"):
        look(neurons=[(0, 0), (2, 0)])
    with pytest.raises(InputError, match="no neuron 0:24"):
        look(neurons=[(0, 24)])
    with pytest.raises(InputError, match="at least one is needed"):
        look(neurons=[])
    with pytest.raises(InputError, match="no prompt of seed 6: there are 5, 7"):
        look(shown=6)
    with pytest.raises(SignatureError, match=r"prompts of seeds \[7, 5\]"):
        look(prompts=prompts[::-1])
    with pytest.raises(SignatureError, match="has no predictivity"):
        look(signature=replace(signature, predictivity=None))


def test_hooks_are_gone_and_weights_untouched(two_trials: Any) -> None:
    backbone, data, prompts, signature = two_trials
    before = backbone.fingerprint
    view(backbone, data, prompts, signature, [(0, 0)])
    assert not any(module._forward_pre_hooks for module in backbone.model.modules())
    assert replace(backbone).fingerprint == before


# Words.


def test_batches_and_the_token_budget_change_nothing(two_trials: Any) -> None:
    backbone, data, prompts, signature = two_trials
    one, other = (
        view(backbone, data, prompts, signature, [(0, 3), (1, 4)], token_budget=budget)
        for budget in (1, 9999)
    )
    for a, b in zip(one.neurons, other.neurons, strict=True):
        assert (a.row, a.fires_for) == (b.row, b.fires_for)
        for x, y in zip(a.most, b.most, strict=True):
            assert x.value == pytest.approx(y.value, abs=1e-5)


def head_table(backbone: Backbone, model_type: str) -> torch.Tensor:
    """The output embedding [V, E], from the architectures' own code."""
    model: Any = backbone.model
    if model_type == "deberta-v2-new-head":
        table: torch.Tensor = model.deberta.embeddings.word_embeddings.weight
        return table
    owner = {"electra": "generator_lm_head", "distilbert": "vocab_projector"}
    found: torch.Tensor = getattr(model, owner.get(model_type, ""), None) or model.get_output_embeddings()
    return found.weight  # type: ignore[no-any-return]


DOWN = {
    "bert": "bert.encoder.layer.1.output.dense.weight",
    "roberta": "roberta.encoder.layer.1.output.dense.weight",
    "xlm-roberta": "roberta.encoder.layer.1.output.dense.weight",
    "distilbert": "distilbert.transformer.layer.1.ffn.lin2.weight",
    "electra": "electra.encoder.layer.1.output.dense.weight",
    "deberta-v2": "deberta.encoder.layer.1.output.dense.weight",
    "deberta-v2-new-head": "deberta.encoder.layer.1.output.dense.weight",
    "t5": "encoder.block.1.layer.1.DenseReluDense.wo.weight",
    "t5-gated": "encoder.block.1.layer.1.DenseReluDense.wo.weight",
    "gpt2": "transformer.h.1.mlp.c_proj.weight",
    "llama": "model.layers.1.mlp.down_proj.weight",
}


@pytest.mark.parametrize("model_type", tiny.MODEL_TYPES)
def test_words_are_dot_products_with_the_output_vector(model_type: str) -> None:
    tokenizer = tiny.tokenizer(tiny.tokenizer_kind(model_type))
    backbone = wrap(tiny.model(model_type), tokenizer, model_type)
    weight = backbone.model.get_parameter(DOWN[model_type])  # [D, N]; GPT-2's [N, D]
    vectors = [weight[n] if model_type == "gpt2" else weight[:, n] for n in (0, 23)]
    table = head_table(backbone, model_type)
    np.testing.assert_array_equal(output_vectors(backbone, [(1, 0), (1, 23)]), torch.stack(vectors))
    found = promoted_words(backbone, [(1, 0), (1, 23)], 5)
    for vector, words in zip(vectors, found, strict=True):
        if model_type == "electra":
            head = backbone.model.generator_predictions
            with torch.no_grad():
                vector = head(vector[None])[0] - head(torch.zeros(1, 16))[0]
        scores = slow.dots(table.tolist(), vector.tolist())
        special = set(tokenizer.all_special_ids)
        allowed = [i for i in range(len(tokenizer)) if i not in special]
        best = sorted(allowed, key=lambda i: -scores[i])[:5]
        assert [word.word for word in words] == tokenizer.convert_ids_to_tokens(best)
        assert [word.value for word in words] == pytest.approx([scores[i] for i in best], abs=1e-4)


def test_without_a_head_or_words_none_are_promoted() -> None:
    bare = wrap(tiny.model("bert", head=False), tiny.tokenizer("bert"), "bare")
    assert promoted_words(bare, [(0, 0), (0, 1)]) == [(), ()]
    headed = wrap(tiny.model("bert"), tiny.tokenizer("bert"), "tiny")
    assert promoted_words(headed, [(0, 0)], 0) == [()]
    assert len(promoted_words(headed, [(0, 0)], 10_000)[0]) == len(headed.tokenizer) - 5


# As text.


def test_texts_are_cut_for_display_alone(two_trials: Any) -> None:
    backbone, data, prompts, signature = two_trials
    long = "movie " * 30 + "\x1b[2J\nfilm"
    dev = tuple(replace(e, text=long if i == 0 else e.text) for i, e in enumerate(data.dev))
    found = view(backbone, replace(data, dev=dev), prompts, signature, [(1, 4)], examples=15)
    texts = [one["text"] for one in json.loads(export(found, "json"))["neurons"][0]["most"]]
    assert long in texts
    table = export(found, "table")
    assert "\x1b" not in table
    assert "movie movie" in table
    assert "…" in table
    assert long.split("\x1b")[0] not in table
    assert max(map(len, table.splitlines())) < 200
    assert neuron_tables.shown("a\tb", 10) == "a b"
    assert neuron_tables.shown("x" * 10, 5) == "xxxx…"


def test_export(two_trials: Any) -> None:
    backbone, data, prompts, signature = two_trials
    found = view(backbone, data, prompts, signature, [(0, 3), (1, 4)], bins=5, examples=2)
    read = json.loads(export(found, "json"))
    assert set(read) == {
        "task",
        "model",
        "labels",
        "seeds",
        "shown",
        "examples",
        "majority",
        "neurons",
        "notes",
    }
    assert set(read["neurons"][0]) == {
        *("layer", "neuron", "predictivity", "sd", "by_trial", "rank", "row", "baseline", "accuracy"),
        *("fires_for", "classes", "most", "least", "promotes", "histogram"),
    }
    text = export(found, "table")
    for words in (
        "Neurons of t (15 dev texts",
        "0:3",
        "Dev texts that fire them",
        "Activations of 1:4 at row",
    ):
        assert words in text
    lines = export(found, "csv").splitlines()
    assert len(lines) == 1 + 2 * 2
    assert lines[1].startswith("t,7,0,3,")
    assert "histogram" not in export(view(backbone, data, prompts, signature, [(0, 3)], examples=0), "md")
