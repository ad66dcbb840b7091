"""A target's data under a source's prompt: against the stock model, one example at a time, no padding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import by_hand, tiny
from transferscope import attachment, store
from transferscope.errors import StoreError, StudyError
from transferscope.models import Backbone, wrap
from transferscope.pair_features import (
    Extractor,
    PairFeatures,
    class_readout,
    load_features,
    sample,
    save_features,
    source_readout,
)
from transferscope.prompts import Head, SoftPrompt
from transferscope.tasks import Example, Task

CASES = [
    ("bert", "mask-first"),
    ("bert", "prefix"),
    ("t5", "prefix"),
    ("t5-gated", "prefix"),
    ("llama", "prefix"),
    ("llama", "suffix"),
    ("gpt2", "suffix"),
]
WORD_IDS = ("good", "bad", "maybe")


def backbone_of(model_type: str, **options: Any) -> Backbone:
    kind = tiny.tokenizer_kind(model_type)
    return wrap(tiny.model(model_type, **options), tiny.tokenizer(kind), model_type)


def prompt_for(backbone: Backbone, template: str, rows: int = 3, seed: int = 7) -> SoftPrompt:
    generator = np.random.default_rng(seed)
    values = 0.3 * generator.standard_normal((rows, backbone.embedding_size))
    return SoftPrompt(values.astype(np.float32), "s", 0, template)


def stock(
    backbone: Backbone, template: str, prompt: SoftPrompt, example: Example
) -> tuple[np.ndarray, np.ndarray]:
    """The whole Hugging Face model on one example: its readout row after each layer [L, D], logits [V]."""
    table, tokenizer = backbone.model.get_input_embeddings().weight, backbone.tokenizer
    tokens = tokenizer(example.text, example.pair)
    text, rows = table[torch.tensor(tokens["input_ids"])], torch.from_numpy(prompt.rows)
    if template == "mask-first":
        rows = torch.cat([table[tokenizer.mask_token_id][None], rows])
    embeds = torch.cat([text, rows] if template == "suffix" else [rows, text])[None]
    options: dict[str, Any] = {}
    if backbone.config.model_type == "bert":
        options["token_type_ids"] = torch.tensor([[0] * len(rows) + tokens["token_type_ids"]])
    if backbone.config.model_type == "t5":
        options["decoder_input_ids"] = torch.tensor([[0]])
    with torch.no_grad():
        output = backbone.model(inputs_embeds=embeds, output_hidden_states=True, **options)
    states, place = output.get("decoder_hidden_states") or output.hidden_states, -1
    if backbone.config.model_type == "bert":
        place = 0 if template == "mask-first" else len(rows)
    layers = np.stack([state[0, place].numpy() for state in states[1:]])  # without the embeddings
    return layers, output.logits[0, place].numpy()


@pytest.mark.parametrize(("model_type", "template"), CASES)
def test_all_is_as_the_stock_model_has_it_one_example_at_a_time(model_type: str, template: str) -> None:
    backbone, task = backbone_of(model_type), by_hand.task(classes=3, pairs=True)
    prompt = prompt_for(backbone, template)
    found = Extractor(backbone, task, token_budget=64).extract(prompt, layers=True)
    assert found.layers is not None
    assert found.logits is not None
    assert found.probabilities is not None
    words = backbone.tokenizer.convert_tokens_to_ids(list(WORD_IDS))
    for i, example in enumerate(task.train):
        layers, logits = stock(backbone, template, prompt, example)
        np.testing.assert_allclose(found.layers[:, i], layers, atol=2e-5)
        np.testing.assert_allclose(found.features[i], layers[-1], atol=2e-5)
        np.testing.assert_allclose(found.logits[i], logits[words], atol=5e-5)
        shares = np.exp(logits[words].astype(np.float64))
        np.testing.assert_allclose(found.probabilities[i], shares / shares.sum(), atol=1e-5)
    assert found.labels is not None
    assert found.labels.tolist() == [example.label for example in task.train]
    assert {array.dtype for array in (found.features, found.layers, found.logits, found.probabilities)} == {
        np.dtype(np.float32)
    }


def test_one_forward_pass_a_batch_gives_all() -> None:
    backbone, task = backbone_of("bert"), by_hand.task()
    extractor, prompt = Extractor(backbone, task, token_budget=64), prompt_for(backbone, "mask-first")
    passes: list[int] = []
    handle = backbone.base.register_forward_hook(lambda *_: passes.append(1))
    extractor.extract(prompt, layers=True, head=class_readout(backbone, task))
    assert len(passes) == len(extractor.batches(4).batches) > 1
    handle.remove()
    assert extractor.batches(4) is extractor.batches(4)  # batched once for all prompts of this length
    assert all(not module._forward_hooks for module in backbone.base.modules())


def test_a_text_is_tokenised_once_for_prompts_that_leave_it_the_same_room() -> None:
    extractor = Extractor(backbone_of("bert"), by_hand.task(), max_length=8)
    assert extractor.batches(3).data is extractor.batches(4).data


def test_dev_is_never_read() -> None:
    backbone, task = backbone_of("bert"), by_hand.task()
    other = replace(task, dev=tuple(replace(example, text="new", label=0) for example in task.dev))
    prompt = prompt_for(backbone, "mask-first")
    one, two = (Extractor(backbone, each).extract(prompt) for each in (task, other))
    np.testing.assert_array_equal(one.features, two.features)
    assert len(one.features) == len(task.train)
    changed = replace(task, train=(replace(task.train[0], text="new"), *task.train[1:]))
    three = Extractor(backbone, changed).extract(prompt)
    assert not np.allclose(one.features[0], three.features[0])


def test_a_sample_is_drawn_by_class_nested_and_in_the_order_of_the_split() -> None:
    train = tuple(Example(f"text {i}", None, int(i % 10 == 0)) for i in range(200))
    task = Task("t", train, train[:4], ("a", "b"))
    few, more = sample(task, 20), sample(task, 60)
    assert [sum(example.label for example in chosen) for chosen in (few, more)] == [2, 6]
    assert set(few) < set(more)
    assert [train.index(example) for example in few] == sorted(train.index(example) for example in few)
    assert sample(task, 20) == few != sample(task, 20, seed=1)
    assert sample(task, 500) == train


def test_what_there_is_none_of_is_none() -> None:
    task = by_hand.task()
    headless = backbone_of("bert", head=False)
    found = Extractor(headless, task).extract(prompt_for(headless, "mask-first"))
    assert found.logits is found.probabilities is found.source_logits is found.layers is None
    backbone = backbone_of("bert")
    wordless = Extractor(backbone, replace(task, words=None)).extract(prompt_for(backbone, "mask-first"))
    assert wordless.probabilities is None
    np.testing.assert_allclose(found.features, wordless.features, atol=1e-6)


def test_a_generation_task_has_features_and_no_labels() -> None:
    backbone = backbone_of("t5")
    train = tuple(Example(f"the {word}", None, -1, ("yes",)) for word in ("cat", "dog", "film"))
    task = Task("g", train, train, (), metric="exact_match")
    found = Extractor(backbone, task).extract(prompt_for(backbone, "prefix"))
    assert found.features.shape == (3, 16)
    assert found.labels is found.probabilities is None


def test_the_source_s_head_is_its_classifier_or_its_own_label_words() -> None:
    backbone, target = backbone_of("bert"), by_hand.task()
    source = replace(by_hand.task(classes=3), words=("yes", "no", "maybe"))
    prompt = prompt_for(backbone, "mask-first")
    extractor = Extractor(backbone, target)
    found = extractor.extract(prompt, head=source_readout(backbone, prompt, source))
    itself = Extractor(backbone, replace(source, train=target.train)).extract(prompt)
    assert found.source_logits is not None
    assert itself.logits is not None
    np.testing.assert_allclose(found.source_logits, itself.logits, atol=1e-6)
    shares = found.get("probabilities", head="source")
    assert shares is not None
    assert shares.shape == (18, 3)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-6)
    assert found.get("probabilities") is found.probabilities

    weight = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    tuned = replace(prompt, head=Head(weight, np.ones(4, np.float32)))
    classified = extractor.extract(tuned, head=source_readout(backbone, tuned, source))
    np.testing.assert_allclose(classified.source_logits, found.features @ weight.T + 1, atol=1e-5)
    assert source_readout(backbone, prompt, None) is None


def test_indicators_names_of_the_arrays() -> None:
    features, layers = np.zeros((2, 3), np.float32), np.zeros((4, 2, 3), np.float32)
    assert PairFeatures(features).get("representation") is features
    assert PairFeatures(features, layers=layers).get("representation") is layers
    assert PairFeatures(features).get("labels") is None
    assert PairFeatures(features).get("inputs") is None
    assert PairFeatures(features).get("probabilities", head="source") is None


def test_kept_and_read_again_bit_for_bit(tmp_path: Path) -> None:
    backbone = backbone_of("llama")
    found = Extractor(backbone, by_hand.task()).extract(prompt_for(backbone, "suffix"), layers=True)
    save_features(found, tmp_path / "a.safetensors", {"inputs": {"model": "m"}})
    again, provenance = load_features(tmp_path / "a.safetensors")
    for name in ("features", "labels", "probabilities", "logits", "layers"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    assert again.source_logits is None
    assert provenance["inputs"] == {"model": "m"}


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(StudyError, match="not found"):
        load_features(path)
    store.save_arrays(path, {"stimulation": np.zeros((2, 3))}, {})
    with pytest.raises(StoreError, match=r"does not hold the features \[S, D\].*stimulation \[2, 3\]"):
        load_features(path)
    store.save_arrays(path, {"features": np.zeros((2, 3)), "layers": np.zeros((2, 1, 3))}, {})
    with pytest.raises(StoreError, match=r"layers \[2, 1, 3\] does not fit 2 examples"):
        load_features(path)
    path.write_bytes(b"half")
    with pytest.raises(StoreError):
        load_features(path)


def test_a_prompt_of_another_width_is_refused() -> None:
    backbone = backbone_of("bert")
    narrow = SoftPrompt(np.zeros((2, 5), np.float32), "s", 0, "prefix")
    with pytest.raises(attachment.PromptError, match="16 wide"):
        Extractor(backbone, by_hand.task()).extract(narrow)
