"""Signatures: equal to slow loops over raw hooks, example by example; and what is kept of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_neurons as slow
import tiny
import torch
from numpy.typing import NDArray

from transferscope import attachment
from transferscope.encoding import encode, from_token_ids
from transferscope.errors import (
    PromptError,
    SignatureError,
    StoreError,
    StudyError,
    TaskError,
    TemplateError,
)
from transferscope.models import wrap
from transferscope.prompts import Head, SoftPrompt
from transferscope.signatures import (
    NeuronMeasurement,
    Signature,
    extract,
    extract_without_data,
    load_signature,
    measure,
    measure_neurons,
    save_signature,
    stimulate,
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


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # these models are too small for more
    yield
    torch.set_num_threads(before)


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


# Signatures over trials.


def prompts(seeds: Sequence[int], rows: int = 2, width: int = 16, **fields: Any) -> list[SoftPrompt]:
    made = []
    for seed in seeds:
        values = 0.3 * np.random.default_rng(seed).standard_normal((rows, width))
        scores = {"scores": {"dev": seed / 10}}
        made.append(
            SoftPrompt(
                values.astype(np.float32),
                "t",
                seed,
                **({"template": "mask-first", "provenance": scores} | fields),
            )
        )
    return made


@pytest.fixture(scope="module")
def backbone() -> Any:
    return wrap(tiny.model("bert"), tiny.tokenizer("bert"), "tiny")


@pytest.mark.parametrize("classes", [2, 3])
def test_extract_is_one_measurement_a_prompt_in_their_order(backbone: Any, classes: int) -> None:
    data = task(classes=classes, type="sentiment")
    several = prompts([5, 2, 9])
    steps: list[tuple[int, int, str]] = []
    signature = extract(backbone, data, several, progress=lambda *what: steps.append(what))
    assert signature.seeds == (5, 2, 9)
    assert steps == [(1, 3, "t seed 5"), (2, 3, "t seed 2"), (3, 3, "t seed 9")]
    assert (signature.task, signature.model) == ("t", backbone.fingerprint)
    subtasks = 1 if classes == 2 else 3
    assert signature.predictivity is not None
    assert signature.baseline is not None
    assert signature.features is not None
    assert signature.predictivity.shape == (3, subtasks, 2, 24)
    assert signature.baseline.shape == (3, 2, 3, 24)
    assert signature.features.shape == (3, classes, 16)
    for trial, prompt in enumerate(several):
        attached = attachment.attach(backbone, prompt)
        one = measure(attached, *(encode(backbone, s, prompt_rows=3) for s in (data.train, data.dev)))
        np.testing.assert_array_equal(signature.prompts[trial], prompt.rows)
        np.testing.assert_array_equal(signature.predictivity[trial], one.predictivity)
        np.testing.assert_array_equal(signature.stimulation[trial], one.stimulation)
        np.testing.assert_array_equal(signature.active[trial], one.active)
        np.testing.assert_array_equal(signature.features[trial], one.features)
    assert signature.provenance["scores"] == [{"dev": 0.5}, {"dev": 0.2}, {"dev": 0.9}]
    assert signature.provenance["prompts"] == [prompt.fingerprint for prompt in several]
    assert (signature.provenance["type"], signature.provenance["active_means"]) == ("sentiment", "value > 0")


def test_a_gated_model_says_what_active_means() -> None:
    llama = wrap(tiny.model("llama"), tiny.tokenizer("causal"))
    signature = extract(llama, task(), prompts([0], template="suffix"))
    assert signature.provenance["active_means"] == "gate > 0"


def test_means_are_over_the_trials_where_a_cell_is_defined() -> None:
    nan = np.nan
    trials = np.array([[[[0.5, 0.7, nan]], [[0.9, nan, nan]]], [[[0.7, nan, nan]], [[0.5, 0.6, nan]]]])
    empty = np.zeros((2, 1, 3))
    signature = Signature("t", (0, 1), "m", empty, empty, empty > 0, trials)
    np.testing.assert_allclose(signature.subtask_predictivity, [[[0.6, 0.7, nan]], [[0.7, 0.6, nan]]])
    np.testing.assert_allclose(signature.mean_predictivity, [[0.65, 0.65, nan]])
    # One neuron of each subtask, united.
    np.testing.assert_array_equal(signature.skill_mask(0.34), [[True, True, False]])


def test_a_model_with_no_language_model_head(backbone: Any) -> None:
    headless = wrap(tiny.model("bert", head=False), tiny.tokenizer("bert"), "headless")
    assert not headless.has_lm_head
    head = Head(np.ones((2, 16), np.float32), np.zeros(2, np.float32))
    signature = extract(headless, replace(task(), words=None), prompts([0, 1], head=head))
    assert signature.predictivity is not None
    assert np.isfinite(signature.predictivity).all()
    assert signature.skill_mask(0.25).sum(axis=1).tolist() == [6, 6]


def test_without_data_there_are_rows_and_stimulation(backbone: Any) -> None:
    several = prompts([3, 4])
    signature, whole = (
        extract_without_data(backbone, "t", several),
        extract(backbone, task(), several),
    )
    assert (signature.predictivity, signature.baseline, signature.features) == (None, None, None)
    for name in ("prompts", "stimulation", "active"):
        np.testing.assert_array_equal(getattr(signature, name), getattr(whole, name))
    assert (signature.seeds, signature.model) == (whole.seeds, whole.model)
    for needs in (lambda: signature.mean_predictivity, lambda: signature.skill_mask(0.1)):
        with pytest.raises(SignatureError, match="'t' has no predictivity"):
            needs()


def test_what_extract_refuses(backbone: Any) -> None:
    data = task()
    with pytest.raises(SignatureError, match="no prompts for 't'"):
        extract(backbone, data, [])
    with pytest.raises(SignatureError, match=r"differ in shape or template: .*\(2, 16\).*\(3, 16\)"):
        extract(backbone, data, [*prompts([0]), *prompts([1], rows=3)])
    with pytest.raises(SignatureError, match=r"mask-first.*prefix"):
        extract_without_data(backbone, "t", [*prompts([0]), *prompts([1], template="prefix")])
    with pytest.raises(PromptError, match="16 wide"):
        extract(backbone, data, prompts([0], width=15))
    one_class = replace(data, dev=tuple(e for e in data.dev if e.label == 0))
    with pytest.raises(TaskError, match=r"dev has \[8, 0\] examples"):
        extract(backbone, one_class, prompts([0]))
    with pytest.raises(TaskError, match="no room for text"):
        extract(backbone, data, prompts([0], rows=61))


# On disk.


@pytest.mark.parametrize("with_data", [True, False])
def test_saved_and_loaded_is_the_same(backbone: Any, tmp_path: Path, with_data: bool) -> None:
    several = prompts([5, 2])
    made = (
        extract(backbone, task(classes=3), several)
        if with_data
        else extract_without_data(backbone, "t", several)
    )
    if with_data:
        made.predictivity[0, 0, 0, 0] = np.nan  # type: ignore[index]
    file = tmp_path / "signatures" / "t.safetensors"
    save_signature(made, file, fingerprint="abc")
    read = load_signature(file)
    assert (read.task, read.seeds, read.model) == (made.task, made.seeds, made.model)
    assert dict(read.provenance) == dict(made.provenance)
    for name in ("prompts", "stimulation", "active", "predictivity", "baseline", "features"):
        one, other = getattr(made, name), getattr(read, name)
        data_only = name in ("predictivity", "baseline", "features")
        assert (one is None) == (other is None) == (not with_data and data_only)
        if one is not None:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
    first = file.read_bytes()
    save_signature(read, file, fingerprint="abc")
    assert file.read_bytes() == first


def test_a_damaged_file_is_refused(backbone: Any, tmp_path: Path) -> None:
    file = tmp_path / "t.safetensors"
    with pytest.raises(StudyError, match="not found"):
        load_signature(file)
    save_signature(extract_without_data(backbone, "t", prompts([0])), file)
    whole = file.read_bytes()
    for damaged in (whole[:-7], b"no", whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"t\.safetensors"):
            load_signature(file)


def test_other_arrays_are_not_a_signature(tmp_path: Path) -> None:
    from transferscope import store

    file = tmp_path / "t.safetensors"
    for meta in ({}, {"task": "t", "seeds": [0], "model": "m", "provenance": {}}):
        store.save_arrays(file, {"prompts": np.ones((1, 2, 3), np.float32)}, meta)
        with pytest.raises(StoreError, match="is not a signature"):
            load_signature(file)
