"""Task profiles against slow versions: one example at a time, with the gradients of weights and prompts."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from tests import by_hand
from tests.test_pair_features import backbone_of, prompt_for
from transferscope import attachment, store
from transferscope.errors import InputError, SignatureError, StoreError
from transferscope.gradients import gradients
from transferscope.models import Backbone
from transferscope.pair_features import Extractor, class_readout
from transferscope.profiles import TaskProfile, load_profile, profile, save_profile
from transferscope.prompts import Head, SoftPrompt
from transferscope.tasks import Example, Task, stratified

MODELS = [
    ("bert", "mask-first"),
    ("bert", "prefix"),
    ("t5-gated", "prefix"),
    ("llama", "prefix"),
    ("llama", "suffix"),
    ("gpt2", "suffix"),
]


@cache
def texts_of(model_type: str) -> tuple[Backbone, Task, TaskProfile]:
    backbone, task = backbone_of(model_type), by_hand.task(pairs=True)
    return backbone, task, profile(backbone, task, parts=["texts"], token_budget=64)


@pytest.mark.parametrize("model_type", ["bert", "llama", "t5"])
def test_inputs_are_token_means_of_the_bare_model(model_type: str) -> None:
    backbone, task, found = texts_of(model_type)
    assert found.inputs is not None
    for i, example in enumerate(task.train):
        tokens = backbone.tokenizer(example.text, example.pair, return_tensors="pt")
        with torch.no_grad():
            if model_type == "t5":
                hidden = backbone.model.encoder(**tokens).last_hidden_state
            else:
                hidden = backbone.model.base_model(**tokens).last_hidden_state
        np.testing.assert_allclose(found.inputs[i], hidden[0].mean(dim=0).numpy(), atol=2e-5)
    assert found.items("inputs")[0] is found.inputs
    assert found.labels is not None
    assert found.labels.tolist() == [example.label for example in task.train]
    assert found.firing is None
    assert found.items("firing") == []
    assert found.seeds == ()


def test_a_vocabulary_is_what_the_texts_are_made_of() -> None:
    backbone, task, found = texts_of("bert")
    words = {word for e in task.train for text in (e.text, e.pair or "") for word in text.split()}
    assert found.vocabulary is not None
    assert set(backbone.tokenizer.convert_ids_to_tokens(found.vocabulary.tolist())) == words
    assert (np.diff(found.vocabulary) > 0).all()


@pytest.mark.parametrize(
    ("model_type", "template", "classes"),
    [("bert", "mask-first", 2), ("llama", "prefix", 3), ("llama", "suffix", 2), ("t5-gated", "prefix", 2)],
)
def test_activity_is_that_of_loops_over_examples(model_type: str, template: str, classes: int) -> None:
    case = by_hand.case(model_type, template, classes)
    found = profile(case.backbone, case.task, [case.prompt], parts=["activity"], token_budget=64)
    layers = len(case.train[0].down)
    levels = np.empty((len(case.train), layers, case.backbone.neurons))
    active = np.empty_like(levels)
    for s, hand in enumerate(case.train):
        for layer in range(layers):
            rows = hand.layer_rows[layer]
            values = hand.down[layer][rows].double().numpy()
            gate = hand.gate[layer]
            levels[s, layer] = values.mean(axis=0)
            active[s, layer] = ((values if gate is None else gate[rows].numpy()) > 0).mean(axis=0)
    labels = np.array([example.label for example in case.task.train])
    assert found.firing is not None
    assert found.firing.shape == (1, layers, case.backbone.neurons)
    np.testing.assert_allclose(found.firing[0], active.mean(axis=0), atol=1e-12)

    means = [levels[labels == k].mean(axis=0) for k in range(classes)]
    apart = sum(abs(means[a] - means[b]) for a in range(classes) for b in range(a))
    np.testing.assert_allclose(found.items("mean_difference")[0], apart, atol=2e-5)
    for neuron in range(0, case.backbone.neurons, 5):
        values = levels[:, -1, neuron]
        each = [np.corrcoef(values, labels == k)[0, 1] for k in range(classes)]
        areas = [roc_auc_score(labels == k, values) for k in range(classes)]
        assert found.items("point_biserial")[0][-1, neuron] == pytest.approx(np.abs(each).mean(), abs=1e-4)
        best = np.mean([max(area, 1 - area) for area in areas])
        assert found.items("auroc")[0][-1, neuron] == pytest.approx(best, abs=1e-3)


def test_of_single_examples_only_so_many_are_kept() -> None:
    backbone, task = backbone_of("bert"), by_hand.task()
    prompt = prompt_for(backbone, "mask-first")
    few = profile(backbone, task, [prompt], parts=["activity"], kept=6, token_budget=64)
    labels = np.array([example.label for example in task.train])
    chosen = stratified(labels, 6, np.random.default_rng(0))
    part = replace(task, train=tuple(task.train[i] for i in chosen))
    alone = profile(backbone, part, [prompt], parts=["activity"], token_budget=64)
    np.testing.assert_allclose(few.auroc, alone.auroc, atol=1e-12)
    whole = profile(backbone, task, [prompt], parts=["activity"], token_budget=64)
    np.testing.assert_allclose(few.firing, whole.firing)
    assert not np.allclose(few.auroc, whole.auroc)


def slow_gradients(model_type: str, template: str, labels: str) -> dict[str, np.ndarray]:
    """One example at a time, by autograd: gradients of the prompt, of the weights, and of a gain of 1 on each
    neuron."""
    backbone, task = backbone_of(model_type), by_hand.task(pairs=True)
    rows = torch.from_numpy(prompt_for(backbone, template).rows.copy()).requires_grad_(True)
    attached = attachment.attach(backbone, rows, template)
    readout = class_readout(backbone, task)
    assert readout is not None
    downs = [module for _, _, module in backbone.down_projections()]
    gains = [torch.ones(backbone.neurons, requires_grad=True) for _ in downs]
    for module, gain in zip(downs, gains, strict=True):
        module.weight.requires_grad_(True)
        module.register_forward_pre_hook(lambda _, given, gain=gain: (given[0] * gain,))
    luck = np.random.default_rng(3).random(len(task.train))
    found: dict[str, list[Any]] = {"prompt_fisher": [], "ffn_fisher": [], "attribution": []}
    for i, example in enumerate(task.train):
        one = replace(task, train=(example,))
        (batch,) = Extractor(backbone, one).batches(attached.rows).batches
        log_shares = torch.log_softmax(readout.logits(attached.forward(attached.place(batch)))[0], dim=0)
        drawn = int((log_shares.detach().double().exp().cumsum(0) <= luck[i]).sum())
        label = example.label if labels == "given" else drawn
        weights = [module.weight for module in downs]
        prompt, *each = torch.autograd.grad(log_shares[label], [rows, *weights], retain_graph=True)
        found["prompt_fisher"].append(prompt.double().numpy() ** 2)
        outputs = 1 if model_type == "gpt2" else 0  # its weight is [N, D], not [D, N]
        found["ffn_fisher"].append([(grad.double().numpy() ** 2).mean(axis=outputs) for grad in each])
        slopes = torch.autograd.grad(log_shares[example.label], gains)
        found["attribution"].append([slope.abs().double().numpy() for slope in slopes])
    return {name: np.mean(values, axis=0) for name, values in found.items()}


@pytest.mark.parametrize("labels", ["drawn", "given"])
@pytest.mark.parametrize(("model_type", "template"), MODELS)
def test_gradients_are_exact_for_each_example(model_type: str, template: str, labels: str) -> None:
    backbone, task = backbone_of(model_type), by_hand.task(pairs=True)
    found = profile(
        backbone,
        task,
        [prompt_for(backbone, template)],
        parts=["gradients"],
        token_budget=256,
        fisher_labels=labels,
        seed=3,
    )
    for name, expected in slow_gradients(model_type, template, labels).items():
        (array,) = found.items(name)
        np.testing.assert_allclose(array, expected, rtol=2e-3, atol=1e-6 * expected.max(), err_msg=name)
        assert (expected > 0).mean() > 0.9


def test_draws_do_not_depend_on_batches_and_follow_the_model() -> None:
    backbone, task = backbone_of("bert"), by_hand.task(pairs=True)
    prompt = prompt_for(backbone, "mask-first")
    attached, readout = attachment.attach(backbone, prompt), class_readout(backbone, task)
    assert readout is not None
    runs = {}
    for budget in (32, 4096):
        data = Extractor(backbone, task, token_budget=budget).batches(attached.rows)
        runs[budget] = gradients(attached, readout, data, seed=5)
    np.testing.assert_allclose(runs[32].ffn_fisher, runs[4096].ffn_fisher, rtol=1e-3, atol=1e-12)
    others = [gradients(attached, readout, data, seed=seed).prompt_fisher for seed in range(40)]
    assert not np.allclose(others[0], others[1])
    # The true Fisher: for each example the mean over classes, weighted by what the model gives them.
    shares = Extractor(backbone, task).extract(prompt).probabilities
    assert shares is not None
    expected = np.zeros_like(others[0])
    for label in range(task.classes):
        for i in range(len(task.train)):
            one = replace(task, train=(replace(task.train[i], label=label),))
            alone = gradients(
                attached, readout, Extractor(backbone, one).batches(attached.rows), labels="given"
            )
            expected += shares[i, label] * alone.prompt_fisher / len(task.train)
    assert np.mean(others) == pytest.approx(expected.mean(), rel=0.1)


def test_a_generation_task_has_no_arrays_of_classes() -> None:
    backbone = backbone_of("t5")
    train = tuple(Example(f"the {word}", None, -1, ("yes",)) for word in ("cat", "dog", "film"))
    task = Task("g", train, train, (), metric="exact_match")
    found = profile(backbone, task, [prompt_for(backbone, "prefix")])
    assert found.inputs is not None
    assert found.vocabulary is not None
    assert found.firing is not None
    for name in (
        "labels",
        "mean_difference",
        "point_biserial",
        "auroc",
        "attribution",
        "prompt_fisher",
        "ffn_fisher",
    ):
        assert getattr(found, name) is None


def test_a_classifier_is_read_where_there_are_no_label_words() -> None:
    backbone, task = backbone_of("bert", head=False), replace(by_hand.task(), words=None)
    prompt = prompt_for(backbone, "mask-first")
    assert profile(backbone, task, [prompt], parts=["gradients"]).prompt_fisher is None
    weight = np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32)
    tuned = replace(prompt, head=Head(weight, np.zeros(2, np.float32)))
    found = profile(backbone, task, [tuned], parts=["gradients"])
    assert found.prompt_fisher is not None
    assert found.prompt_fisher.shape == (1, 3, 16)
    assert (found.prompt_fisher > 0).all()


def test_trials_stand_beside_each_other_and_the_sample_is_bounded() -> None:
    backbone, task = backbone_of("bert"), by_hand.task()
    prompts = [replace(prompt_for(backbone, "mask-first", seed=seed), seed=seed) for seed in (4, 9)]
    steps: list[Any] = []
    found = profile(backbone, task, prompts, examples=8, progress=lambda *step: steps.append(step))
    assert found.seeds == (4, 9)
    assert found.inputs is not None
    assert len(found.inputs) == 8
    second = profile(backbone, task, prompts[1:], examples=8)
    for need in ("firing", "auroc", "prompt_fisher", "ffn_fisher"):
        assert len(found.items(need)) == 2
        np.testing.assert_array_equal(found.items(need)[1], second.items(need)[0])
    assert [step[:2] for step in steps] == [(i, 5) for i in range(1, 6)]


def test_what_is_refused() -> None:
    backbone, task = backbone_of("bert"), by_hand.task()
    prompt = prompt_for(backbone, "mask-first")
    with pytest.raises(InputError, match=r"unknown part 'text'.*texts"):
        profile(backbone, task, [prompt], parts=["text"])
    with pytest.raises(SignatureError, match="found none"):
        profile(backbone, task, parts=["activity"])
    with pytest.raises(SignatureError, match="one shape"):
        profile(backbone, task, [prompt, prompt_for(backbone, "mask-first", rows=2)], parts=["gradients"])
    with pytest.raises(InputError, match="unknown labels 'true'"):
        profile(backbone, task, [prompt], parts=["gradients"], fisher_labels="true")


def test_kept_and_read_again_bit_for_bit(tmp_path: Path) -> None:
    backbone, task = backbone_of("bert"), by_hand.task()
    found = replace(profile(backbone, task, [prompt_for(backbone, "mask-first")]), provenance={"parts": {}})
    save_profile(found, tmp_path / "t.safetensors")
    again = load_profile(tmp_path / "t.safetensors")
    assert (again.task, again.seeds, again.provenance) == ("t", (0,), {"parts": {}})
    for name in ("inputs", "labels", "vocabulary", "firing", "auroc", "attribution", "prompt_fisher"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    store.save_arrays(tmp_path / "s.safetensors", {"stimulation": np.zeros(2)}, {"task": "t"})
    with pytest.raises(StoreError, match="not the profile of a task"):
        load_profile(tmp_path / "s.safetensors")


def test_a_prompt_without_rows_has_a_profile() -> None:
    backbone, task = backbone_of("bert"), by_hand.task()
    nothing = SoftPrompt(np.zeros((0, 16), np.float32), "none", 0, "mask-first")
    found = profile(backbone, task, [nothing], parts=["activity", "gradients"])
    assert found.firing is not None
    assert np.isfinite(found.firing).all()
    assert found.prompt_fisher is not None
    assert found.prompt_fisher.shape == (1, 0, 16)
