"""Measuring one prompt: equal to slow loops over raw hooks, example by example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference_neurons as slow
import tiny
import torch
from by_hand import CASES, ROWS, WORDS, Case, agree, all_rows, by_hand, case, padded, task

from transferscope import attachment
from transferscope.encoding import encode, from_token_ids
from transferscope.errors import (
    PromptError,
    TaskError,
    TemplateError,
)
from transferscope.models import wrap
from transferscope.prompts import SoftPrompt
from transferscope.signatures import (
    extract,
    measure,
    measure_neurons,
    stimulate,
)
from transferscope.task_spec import Subtask
from transferscope.tasks import Example, Task

# Measurements are those of the formulas.


@pytest.mark.parametrize(("model_type", "template"), CASES)
def test_measurement_is_the_slow_loops_over_raw_hooks(model_type: str, template: str) -> None:
    made = case(model_type, template)
    train, dev = made.activations
    found = made.found
    rows = 1 if (model_type in ("gpt2", "llama") and template == "prefix") else made.attached.rows
    layers = 5 if model_type.startswith("t5") else 2
    assert found.baseline.shape == found.accuracy.shape == (layers, rows, 24)
    baseline = padded(slow.baseline(train), found.baseline.shape)
    here = np.isfinite(baseline)
    np.testing.assert_allclose(found.baseline[here], baseline[here], rtol=0, atol=1e-6)
    agree(found.accuracy, slow.accuracy(train, dev, made.labels), train, dev)
    np.testing.assert_array_equal(found.defined, padded(slow.varies(train), found.defined.shape))
    assert found.defined.mean() > 0.3  # the test is of something


@pytest.mark.parametrize(("model_type", "template"), CASES)
def test_predictivity_is_the_best_row(model_type: str, template: str) -> None:
    made = case(model_type, template)
    cells = np.where(made.found.defined, made.found.accuracy, 0.5)
    rows = [layer[:1] if kept == 1 else layer for layer, kept in zip(cells, rows_of(made), strict=True)]
    expected = np.array(slow.predictivity([[layer.tolist() for layer in rows]]))
    undefined = ~made.found.defined.any(axis=1)
    np.testing.assert_allclose(made.found.predictivity[0][~undefined], expected[~undefined], atol=1e-12)
    assert np.isnan(made.found.predictivity[0][undefined]).all()


def rows_of(made: Case) -> list[int]:
    return [len(layer) for layer in made.activations[0][0]]


@pytest.mark.parametrize(("model_type", "template"), CASES)
def test_features_are_class_means_at_the_readout_row(model_type: str, template: str) -> None:
    made = case(model_type, template)
    for label in (0, 1):
        rows = [
            hand.hidden[0, hand.readout[-1]].numpy()
            for hand, e in zip(made.dev, made.task.dev, strict=True)
            if e.label == label
        ]
        np.testing.assert_allclose(made.found.features[label], np.mean(rows, axis=0), rtol=1e-5, atol=1e-5)
    assert (made.found.features.dtype, made.found.features.shape) == (np.float32, (2, 16))


@pytest.mark.parametrize(("model_type", "template"), CASES)
def test_stimulation_is_a_run_on_the_empty_text(model_type: str, template: str) -> None:
    made = case(model_type, template)
    first = {"bert": 2, "roberta": 0, "causal": 1, "t5": 1}[tiny.tokenizer_kind(model_type)]
    hand = by_hand(made.backbone, model_type, template, all_rows(made.attached), [first], None)
    values, active = stimulate(made.attached)
    expected = torch.stack([hand.down[i][row] for i, row in enumerate(hand.readout)])
    gates = [
        values_ if gate is None else gate[hand.readout[i]]
        for i, (values_, gate) in enumerate(zip(expected, hand.gate, strict=True))
    ]
    assert all((gate is None) != (model_type in ("llama", "t5-gated")) for gate in hand.gate)
    assert (values.dtype, active.dtype) == (np.float32, np.bool_)
    np.testing.assert_allclose(values, expected.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(active, torch.stack(gates).numpy() > 0)
    np.testing.assert_array_equal(made.found.stimulation, values)
    np.testing.assert_array_equal(made.found.active, active)
    if model_type in ("llama", "t5-gated"):
        assert (active != (values > 0)).any()  # here the two meanings differ


@pytest.mark.parametrize(("model_type", "template"), CASES)
def test_the_token_budget_changes_nothing(model_type: str, template: str) -> None:
    made = case(model_type, template)
    train, dev = (encode(made.backbone, s, prompt_rows=4) for s in (made.task.train, made.task.dev))
    acts = made.activations
    for options in ({"token_budget": 1}, {"token_budget": 100_000}, {"compat": True}):
        other = measure(made.attached, train, dev, **options)
        np.testing.assert_allclose(other.baseline, made.found.baseline, rtol=0, atol=1e-6)
        np.testing.assert_allclose(other.features, made.found.features, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(other.defined, made.found.defined)
        agree(other.accuracy, slow.accuracy(*acts, made.labels), *acts)


# More classes than two.


@pytest.mark.parametrize("model_type", ["bert", "t5-gated"])
def test_three_classes_are_three_binary_subtasks(model_type: str) -> None:
    made = case(model_type, "prefix", 3)
    train, dev = (encode(made.backbone, s, prompt_rows=ROWS) for s in (made.task.train, made.task.dev))
    acts = made.activations
    assert made.found.subtask_accuracy.shape[0] == 3
    for positive in range(3):
        one, rest = (
            replace(data, labels=(data.labels == positive).astype(np.int64)) for data in (train, dev)
        )
        for balanced in (True, False):
            binary = measure(made.attached, one, rest, balanced=balanced)
            whole = measure(made.attached, train, dev, balanced=balanced)
            np.testing.assert_array_equal(whole.subtask_accuracy[positive], binary.accuracy)
            np.testing.assert_array_equal(whole.predictivity[positive], binary.predictivity[0])
        agree(
            made.found.subtask_accuracy[positive],
            slow.balanced_accuracy(*acts, made.labels, positive),
            *acts,
        )
        unbalanced = measure(made.attached, train, dev, balanced=False).subtask_accuracy[positive]
        agree(unbalanced, slow.accuracy(*acts, made.labels, positive), *acts)


SUBTASKS = (Subtask((2,), (0,)), Subtask((1,), (0, 2)), Subtask((0, 1), (2,)))


@pytest.mark.parametrize(("model_type", "balanced"), [("bert", True), ("bert", False), ("t5-gated", True)])
def test_given_subtasks_are_the_slow_loops_over_their_examples(model_type: str, balanced: bool) -> None:
    made = case(model_type, "prefix", 3)
    split = [encode(made.backbone, s, prompt_rows=ROWS) for s in (made.task.train, made.task.dev)]
    found, whole = (measure(made.attached, *split, balanced=balanced, subtasks=s) for s in (SUBTASKS, ()))
    train, dev = made.activations
    train_labels = [example.label for example in made.task.train]
    moved = 0
    for accuracy, subtask in zip(found.subtask_accuracy, SUBTASKS, strict=True):
        sides = subtask.positive, subtask.negative
        inside = [a for a, label in zip(train, train_labels, strict=True) if label in sides[0] + sides[1]]
        varies = padded(slow.varies(inside), accuracy.shape)
        np.testing.assert_array_equal(np.isfinite(accuracy), varies)
        threshold = slow.subtask_baseline(train, train_labels, sides, balanced=balanced)
        slowly = slow.subtask_accuracy(threshold, dev, made.labels, sides, balanced=balanced)
        # Where an activation is as near as rounding to its baseline, neither is right or wrong.
        gap = np.min(
            [np.abs(padded(one, accuracy.shape) - padded(threshold, accuracy.shape)) for one in dev], 0
        )
        sure = varies & (gap > 2e-6)
        assert sure.sum() > 0.9 * varies.sum()
        np.testing.assert_allclose(accuracy[sure], padded(slowly, accuracy.shape)[sure], rtol=0, atol=1e-12)
        plain = slow.subtask_accuracy(slow.baseline(train), dev, made.labels, sides, balanced=balanced)
        moved += int((padded(plain, accuracy.shape)[sure] != accuracy[sure]).sum())
    assert moved > 30  # the baseline of all examples would give other numbers
    np.testing.assert_array_equal(found.baseline, whole.baseline)
    np.testing.assert_array_equal(found.features, whole.features)


def test_one_vs_rest_may_be_written_out() -> None:
    made = case("bert", "prefix", 3)
    split = [encode(made.backbone, s, prompt_rows=ROWS) for s in (made.task.train, made.task.dev)]
    given = [Subtask((k,), tuple({0, 1, 2} - {k})) for k in range(3)]
    found, usual = (measure(made.attached, *split, balanced=False, subtasks=s) for s in (given, ()))
    np.testing.assert_allclose(found.predictivity, usual.predictivity, rtol=0, atol=1e-12)
    reverse = [Subtask(one.negative, one.positive) for one in given]
    other = measure(made.attached, *split, balanced=False, subtasks=reverse)
    np.testing.assert_allclose(other.subtask_accuracy, 1 - found.subtask_accuracy, rtol=0, atol=1e-12)
    np.testing.assert_allclose(other.predictivity, found.predictivity, rtol=0, atol=1e-12)


def test_subtasks_of_token_ids_leave_out_what_does_not_vary_in_them() -> None:
    made = case("bert", "mask-first")
    three = [([2, 5, 9, 3], 0), ([2, 5, 9, 3], 1), ([2, 7, 3], 2), ([2, 8, 11, 3], 2)] * 3
    both = Subtask((1,), (0,)), Subtask((2,), (0, 1))
    rows = all_rows(made.attached)
    found = measure_neurons(made.backbone.model, rows, three, three, subtasks=both)
    # Classes 0 and 1 have the same text: nothing varies among them, whatever it does over all.
    assert found.defined.mean() > 0.3
    assert np.isnan(found.predictivity[0]).all()
    assert np.isfinite(found.predictivity[1]).mean() > 0.9
    for wrong, message in (
        (Subtask((3,), (0,), "a"), r"subtask 'a': class id 3, allowed are 0 to 2"),
        (Subtask((1,), (), "b"), r"subtask 'b': each side needs a class"),
        (Subtask((1,), (0, 1), "c"), r"subtask 'c': .*positive \[1\], negative \[0, 1\]"),
    ):
        with pytest.raises(TaskError, match=message):
            measure_neurons(made.backbone.model, rows, three, three, subtasks=[wrong])


def test_two_classes_are_not_balanced_unless_asked_for() -> None:
    made = case("bert", "prefix")
    uneven = replace(made.task, dev=made.task.dev[:1] + tuple(e for e in made.task.dev if e.label == 1))
    train, dev = (encode(made.backbone, s, prompt_rows=ROWS) for s in (uneven.train, uneven.dev))
    plain, balanced = (measure(made.attached, train, dev, balanced=b) for b in (None, True))
    hands = [made.dev[0], *(h for h, e in zip(made.dev, made.task.dev, strict=True) if e.label == 1)]
    acts = made.activations[0], [hand.probed() for hand in hands]
    labels = [example.label for example in uneven.dev]
    agree(plain.accuracy, slow.accuracy(*acts, labels), *acts)
    agree(balanced.accuracy, slow.balanced_accuracy(*acts, labels, 1), *acts)
    assert not np.allclose(plain.accuracy, balanced.accuracy)


# A neuron that is known to tell the classes.


def test_a_planted_neuron_is_found() -> None:
    backbone = wrap(tiny.model("bert"), tiny.tokenizer("bert"), "planted")
    rng = np.random.default_rng(0)

    def split(count: int) -> tuple[Example, ...]:
        made = []
        for i in range(count):
            words = [str(word) for word in rng.choice(WORDS, 2)]
            words.insert(int(rng.integers(3)), ("hates", "likes")[i % 2])
            made.append(Example(" ".join(words), None, i % 2))
        return tuple(made)

    likes, hates = backbone.tokenizer.convert_tokens_to_ids(["likes", "hates"])
    table = backbone.model.get_input_embeddings().weight
    with torch.no_grad():
        table[hates] = -table[likes]
        attention = backbone.base.encoder.layer[0].attention.self  # each row sees all rows alike
        attention.query.weight.zero_()
        attention.query.bias.zero_()
    data = Task("planted", split(120), split(60), ("neg", "pos"), ("bad", "good"))
    prompt = SoftPrompt((0.3 * rng.standard_normal((1, 16))).astype(np.float32), "planted", 0, "mask-first")
    plant(backbone, prompt, data.train, layer=0, neuron=5)
    signature = extract(backbone, data, [prompt])
    found = signature.mean_predictivity[0]
    assert found[5] > 0.9
    assert np.sort(found)[-2] < found[5] - 0.05
    expected = np.zeros(24, bool)
    expected[5] = True
    np.testing.assert_array_equal(signature.skill_mask(1 / 24)[0], expected)


def plant(backbone: Any, prompt: SoftPrompt, train: Sequence[Example], *, layer: int, neuron: int) -> None:
    """Set one neuron to the line that best divides the classes; hide the way between them from the others."""
    attached = attachment.attach(backbone, prompt)
    up = backbone.base.encoder.layer[layer].intermediate.dense
    seen: list[np.ndarray] = []
    handle = up.register_forward_pre_hook(lambda _, given: seen.append(given[0][0, 0].numpy().copy()))
    for example in train:
        ids = torch.tensor([backbone.tokenizer(example.text)["input_ids"]])
        rows = torch.cat([all_rows(attached), backbone.embed(ids)[0]]).unsqueeze(0)
        with torch.no_grad():
            backbone.hidden(rows, torch.ones(rows.shape[:2], dtype=torch.long))
    handle.remove()
    design = np.column_stack([np.array(seen), np.ones(len(seen))])
    sides = np.array([2.0 * example.label - 1 for example in train])
    line = np.linalg.lstsq(design, sides, rcond=None)[0]
    way = design[sides > 0, :-1].mean(axis=0) - design[sides < 0, :-1].mean(axis=0)
    unit = torch.from_numpy(way / np.linalg.norm(way)).float()
    with torch.no_grad():
        up.weight -= torch.outer(up.weight @ unit, unit)
        up.weight[neuron] = 3 * torch.from_numpy(line[:-1])
        up.bias[neuron] = 3 * float(line[-1])


def test_a_neuron_that_does_not_vary_is_undefined_and_never_a_skill_neuron() -> None:
    model = tiny.model("bert")
    with torch.no_grad():
        model.bert.encoder.layer[0].intermediate.dense.weight[3] = 0.0
    backbone = wrap(model, tiny.tokenizer("bert"))
    prompt = SoftPrompt(np.ones((2, 16), np.float32), "t", 0, "mask-first")
    signature = extract(backbone, task(), [prompt])
    undefined = np.zeros((2, 24), bool)
    undefined[0, 3] = True
    np.testing.assert_array_equal(np.isnan(signature.mean_predictivity), undefined)
    mask = signature.skill_mask(1.0)
    np.testing.assert_array_equal(mask, ~undefined)


# measure_neurons, the entry on token ids.

PAIRS = [([2, 5 + i, 9 + i % 3, 3], i % 2) for i in range(12)]


def test_measure_neurons_is_measure() -> None:
    made = case("bert", "mask-first")
    rows = all_rows(made.attached)
    data = from_token_ids(PAIRS)
    found = measure(made.attached, data, data, blank=from_token_ids([([2], 0)]))
    readonly = rows.numpy().copy()
    readonly.setflags(write=False)
    wanting = rows.clone().requires_grad_(True)
    for given in (rows, readonly, wanting, rows.tolist()):
        other = measure_neurons(made.backbone.model, given, PAIRS, PAIRS)
        for name in ("baseline", "accuracy", "stimulation", "active", "defined", "features"):
            np.testing.assert_array_equal(getattr(found, name), getattr(other, name), err_msg=name)
    other = measure_neurons(made.backbone.model, rows, PAIRS, PAIRS, empty=[2, 3])
    assert (other.stimulation != found.stimulation).any()
    np.testing.assert_array_equal(other.accuracy, found.accuracy)


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_measure_neurons_leaves_the_model_as_it_was(
    compat: bool, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.model("bert").train()
    model.bert.embeddings.requires_grad_(False)
    model.bert.encoder.layer[0].eval()
    model.set_attn_implementation("sdpa")

    def state() -> list[Any]:
        modules, parameters = list(model.modules()), list(model.parameters())
        return [
            model.config._attn_implementation,
            [module.training for module in modules],
            [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in modules],
            [
                (parameter.requires_grad, parameter.grad, float(parameter.detach().sum()))
                for parameter in parameters
            ],
        ]

    before = state()
    if fails:
        monkeypatch.setattr("transferscope.measurement.stimulate", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            measure_neurons(model, np.ones((2, 16)), PAIRS, PAIRS, compat=compat)
    else:
        measure_neurons(model, np.ones((2, 16)), PAIRS, PAIRS, compat=compat)
    assert state() == before


def test_compat_is_eager_attention_in_data_order(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model("bert")
    seen: list[tuple[str, int]] = []
    model.bert.register_forward_pre_hook(
        lambda module, _, options: seen.append(
            (module.config._attn_implementation, len(options["inputs_embeds"]))
        ),
        with_kwargs=True,
    )
    pairs = [([2, *([7] * (i % 5)), 3], i % 2) for i in range(20)]
    measure_neurons(model, np.ones((2, 16)), pairs, pairs, compat=True)
    assert seen == [("eager", 16), ("eager", 4), ("eager", 16), ("eager", 4), ("eager", 1)]
    seen.clear()
    measure_neurons(model, np.ones((2, 16)), pairs, pairs)
    assert seen == [("sdpa", 20), ("sdpa", 20), ("sdpa", 1)]


def test_what_measure_neurons_refuses() -> None:
    model = tiny.model("bert")
    rows = np.ones((2, 16))
    with pytest.raises(PromptError, match=r"shape \(2, 15\).*16 wide"):
        measure_neurons(model, rows[:, :15], PAIRS, PAIRS)
    with pytest.raises(PromptError, match=r"shape \(16,\)"):
        measure_neurons(model, rows[0], PAIRS, PAIRS)
    with pytest.raises(TemplateError, match="Did you mean 'mask-first'"):
        measure_neurons(model, rows, PAIRS, PAIRS, template="mask_first")
    with pytest.raises(TemplateError, match="does not fit a model of kind 'encoder'"):
        measure_neurons(model, rows, PAIRS, PAIRS, template="suffix")
    with pytest.raises(TaskError, match="no examples"):
        measure_neurons(model, rows, [], PAIRS)
    with pytest.raises(TaskError, match="start with different tokens"):
        measure_neurons(model, rows, [([2, 3], 0), ([4, 3], 1)], PAIRS)
    one = [(ids, 0) for ids, _ in PAIRS]
    with pytest.raises(TaskError, match="at least two classes"):
        measure_neurons(model, rows, one, one)
    with pytest.raises(TaskError, match=r"dev has \[12, 0\] examples"):
        measure_neurons(model, rows, PAIRS, one)
    with pytest.raises(TaskError, match=r"train has \[6, 6, 0\] examples"):
        measure_neurons(model, rows, PAIRS, [*PAIRS, ([2], 2)])
    with pytest.raises(TaskError, match="numbered from 0"):
        measure_neurons(model, rows, [(ids, label - 1) for ids, label in PAIRS], PAIRS)
    with pytest.raises(TaskError, match=r"a text of 63 tokens does not fit.*room for 62"):
        measure_neurons(model, rows, [*PAIRS, ([2] * 63, 0)], PAIRS)
