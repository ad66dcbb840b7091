"""Texts read once under ``suffix``: the numbers of one pass over text and prompt, in every family."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import by_hand, tiny
from transferscope import architectures, streaming, text_cache, transfer, tuning
from transferscope.activations import Probe, capture
from transferscope.attachment import Attached, attach, placements, verbalizer
from transferscope.encoding import Encoded, buckets, collate, encode, from_token_ids, prepared
from transferscope.evaluation import evaluate, evaluate_several
from transferscope.interventions import Edit, intervene
from transferscope.measurement import measure, measure_several
from transferscope.models import Backbone, wrap
from transferscope.probing import LinearProbe
from transferscope.prompts import SoftPrompt
from transferscope.readouts import TextReadout
from transferscope.settings import TuningSettings
from transferscope.templates import Batch

# a variant of a row, by what differs in its configuration
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon-alibi": ("falcon", {"alibi": True}),
    "falcon-many-heads": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "qwen2-windows": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ),
    "llama-yarn": (
        "llama",
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}},
    ),
}
CAUSAL = [name for name in tiny.ALL if tiny.tokenizer_kind(name) == "causal"] + list(VARIANTS)
LENGTHS = (12, 3, 9, 1, 12)
ROWS = 4


@cache
def backbone(name: str) -> Backbone:
    row, options = VARIANTS.get(name, (name, {}))
    return wrap(tiny.model(row, **options), tiny.tokenizer("causal"), name)


def texts(made: Backbone, lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    data = from_token_ids(
        [(rng.integers(3, tiny.VOCAB, size).tolist(), i % 2) for i, size in enumerate(lengths)]
    )
    return collate(made, data, np.arange(len(lengths)))


def prompt(made: Backbone, seed: int = 0, rows: int = ROWS) -> Attached:
    values = torch.randn(rows, made.embedding_size, generator=torch.Generator().manual_seed(seed))
    return attach(made, values, "suffix")


def neurons(one: Attached, placed: Any) -> tuple[Tensor, list[Tensor]]:
    """The readout rows [B, D] of a pass and the probed rows of each layer, [B, P, N]."""
    probe, found = Probe.of(one), []
    with (
        torch.no_grad(),
        capture(one.backbone, lambda layer, v, _: found.append(probe.pick(layer, v, placed)), missing=True),
    ):
        return one.forward(placed), found


def test_every_decoder_is_tried() -> None:
    rows = {row.model_type for row in architectures._TABLE if row.kind == "decoder"}
    assert rows == {backbone(name).architecture.model_type for name in CAUSAL}
    assert all(row.text_alone == (row.kind == "decoder") for row in architectures._TABLE)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CAUSAL)
def test_a_prompt_behind_a_text_that_was_read_gives_what_one_pass_gives(name: str, attention: str) -> None:
    made = backbone(name)
    before = made.config._attn_implementation
    if attention == "sdpa" and before == "eager":
        pytest.skip(f"{name} has no sdpa attention")
    made.model.set_attn_implementation(attention)
    try:
        for lengths in (LENGTHS, (7, 7)):
            batch = texts(made, lengths)
            several = [prompt(made, seed) for seed in (0, 1)]
            for one, placed in zip(several, placements(several, batch), strict=True):
                assert isinstance(placed, text_cache.AfterText)
                ours, probed = neurons(one, placed)
                theirs, expected = neurons(one, one.place(batch))
                torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)
                for layer, (left, right) in enumerate(zip(probed, expected, strict=True)):
                    torch.testing.assert_close(
                        left, right, atol=2e-5, rtol=1e-5, equal_nan=True, msg=f"layer {layer}"
                    )
    finally:
        made.model.set_attn_implementation(before)


@pytest.mark.parametrize("name", CAUSAL)
def test_the_gradient_to_the_prompt_is_that_of_one_pass(name: str) -> None:
    made = backbone(name)
    found: list[Tensor] = []
    readout, batch = verbalizer(made, [5, 9]), texts(made)
    for shared in (True, False):
        one = prompt(made)
        one.prompt.requires_grad_(True)
        placed = next(placements([one], batch)) if shared else one.place(batch)
        found.append(torch.autograd.grad(readout.loss(one, batch, placed), one.prompt)[0])
    assert found[1].abs().max() > 1e-4
    torch.testing.assert_close(*found, atol=2e-5, rtol=1e-4)


def test_the_text_is_not_changed_by_the_prompts_behind_it() -> None:
    made = backbone("llama")
    text = text_cache.read(made, texts(made))
    kept = [(layer.keys.clone(), layer.values.clone()) for layer in text.cache.layers]
    first = [text_cache.hidden(made, text_cache.follow(text, prompt(made, seed).prompt)) for seed in (0, 1)]
    again = text_cache.hidden(made, text_cache.follow(text, prompt(made, 0).prompt))
    assert torch.equal(first[0], again)
    assert not torch.equal(first[0], first[1])
    for (keys, values), layer in zip(kept, text.cache.layers, strict=True):
        assert torch.equal(keys, layer.keys)
        assert torch.equal(values, layer.values)
        assert keys.shape == (len(LENGTHS), 1, max(LENGTHS), 8)


def test_each_example_may_have_a_prompt_of_its_own() -> None:
    made = backbone("gpt2")
    batch, rows = texts(made), torch.randn(len(LENGTHS), ROWS, 16)
    ours = text_cache.hidden(made, text_cache.follow(text_cache.read(made, batch), rows))
    for i, one in enumerate(rows):
        attached = attach(made, one, "suffix")
        torch.testing.assert_close(
            ours[i, -1], attached.forward(attached.place(batch))[i], atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("llama", {"rope_type": "dynamic", "factor": 2.0}),
        ("phi3", {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}),
    ],
)
def test_rotations_that_change_with_the_length_of_a_pass_are_not_shared(name: str, options: Any) -> None:
    overrides = {"rope_parameters": {"rope_theta": 10000.0, **options}}
    if name == "phi3":
        overrides["original_max_position_embeddings"] = 32
    made = wrap(tiny.model(name, **overrides), tiny.tokenizer("causal"), name)
    assert not prompt(made).shares_texts
    [placed] = placements([prompt(made)], texts(made))
    assert not isinstance(placed, text_cache.AfterText)


def test_what_is_not_shared() -> None:
    made = backbone("llama")
    assert prompt(made).shares_texts
    assert not prompt(made, rows=0).shares_texts  # nothing stands behind the text
    assert not attach(made, prompt(made).prompt, "prefix").shares_texts
    encoder = wrap(tiny.model("bert"), tiny.tokenizer("bert"))
    assert not attach(encoder, torch.zeros(2, 16), "prefix").shares_texts
    edit = Edit(np.ones((made.layers, made.neurons), dtype=bool), "zero", rows="prompt")
    with intervene(made, edit, attached=prompt(made)) as edited:
        assert not edited.shares_texts
    empty = texts(made)
    cut = Batch(empty.ids[:, :0], empty.mask[:, :0], None, empty.labels, empty.index)
    several = [prompt(made)]
    assert not isinstance(next(placements(several, cut)), text_cache.AfterText)


# Who uses it.


@contextmanager
def counting(made: Backbone) -> Iterator[list[int]]:
    """The rows, padding included, of each pass through the first layer."""
    seen: list[int] = []
    down = made.down_projections()[0][2]
    handle = down.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[:-1].numel()))
    try:
        yield seen
    finally:
        handle.remove()


def cells(data: Encoded, budget: int) -> tuple[int, int]:
    """Tokens of all batches, padding included, and examples."""
    groups = buckets(data, prompt_rows=ROWS, token_budget=budget)
    return sum(len(group) * int(data.lengths[group].max()) for group in groups), len(data)


def given(made: Backbone) -> tuple[Any, Encoded, Encoded]:
    task = by_hand.task()
    return task, *(encode(made, split, prompt_rows=ROWS) for split in (task.train, task.dev))


def soft(made: Backbone, seeds: Sequence[int] = (0, 1, 2), template: str = "suffix") -> list[SoftPrompt]:
    return [SoftPrompt(prompt(made, seed).prompt.numpy(), "s", seed, template) for seed in seeds]


def test_evaluations_of_several_prompts_read_the_texts_once() -> None:
    made = backbone("mistral")
    _, _, dev = given(made)
    data, readout = prepared(made, dev, prompt_rows=ROWS, token_budget=80), verbalizer(made, [5, 9])
    several = [prompt(made, seed) for seed in (0, 1, 2)]
    tokens, examples = cells(dev, 80)
    assert len(data.batches) > 2
    with counting(made) as seen:
        found = evaluate_several(several, readout, data)
    assert sum(seen) == tokens + 3 * examples * ROWS
    for one, ours in zip(several, found, strict=True):
        theirs = evaluate(one, readout, data)
        np.testing.assert_allclose(ours.logits, theirs.logits, atol=2e-5)
        assert (ours.value, ours.examples, ours.metric) == (theirs.value, theirs.examples, theirs.metric)


def test_prompts_of_several_templates_are_evaluated_together() -> None:
    made = backbone("gpt2")
    _, _, dev = given(made)
    data, readout = prepared(made, dev, prompt_rows=ROWS), verbalizer(made, [5, 9])
    several = [attach(made, prompt(made, 3).prompt, name) for name in ("suffix", "prefix", "suffix")]
    found = evaluate_several(several, readout, data)
    for one, ours in zip(several, found, strict=True):
        np.testing.assert_allclose(ours.logits, evaluate(one, readout, data).logits, atol=2e-5)


@pytest.mark.parametrize("protocol", [transfer.ZERO_SHOT, transfer.LINEAR_PROBE])
def test_sources_on_a_target_share_its_texts(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, kept = backbone("llama"), list[transfer.Cell]()
    task, train, dev = given(made)
    monkeypatch.setattr(transfer, "TOGETHER", 3)
    sources = {"a": soft(made, (0, 1, 2, 3, 4)), "b": soft(made, (5,), "prefix")}
    with counting(made) as seen:
        found = transfer.column(made, sources, task, protocol=protocol, token_budget=80, keep=kept.append)
    splits = [dev] if protocol == transfer.ZERO_SHOT else [train, dev]
    tokens, examples = (sum(several) for several in zip(*(cells(one, 80) for one in splits), strict=True))
    # five prompts in blocks of three and two; then one that stands in front
    assert sum(seen) == 2 * tokens + 5 * examples * ROWS + tokens + examples * ROWS
    assert kept == found
    assert [cell.seed for cell in found] == [0, 1, 2, 3, 4, 5]
    # going on, in other blocks, gives the same numbers to the bit
    by_seed = {cell.seed: cell for cell in found if cell.seed in (0, 2)}
    again = transfer.column(
        made,
        sources,
        task,
        protocol=protocol,
        token_budget=80,
        known=lambda _, one: by_seed.get(one.seed),
    )
    assert again == found
    if protocol == transfer.ZERO_SHOT:
        monkeypatch.setattr(text_cache, "shares", lambda *_: False)
        for ours, theirs in zip(found, transfer.column(made, sources, task), strict=True):
            assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
            assert ours.value == theirs.value
    else:
        scorer = LinearProbe(made, task, token_budget=80)
        assert scorer.score(sources["a"][3]).value == found[3].value


@pytest.mark.parametrize("together", [2**30, 1])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_trials_are_measured_over_texts_that_are_read_once(
    name: str, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = backbone(name)
    task, train, dev = given(made)
    several = [prompt(made, seed) for seed in (0, 1, 2)]
    monkeypatch.setattr(streaming, "TOGETHER_BYTES", together)
    with counting(made) as seen:
        found = list(measure_several(several, train, dev, token_budget=80, subtasks=task.subtasks))
    tokens, examples = (sum(both) for both in zip(cells(train, 80), cells(dev, 80), strict=True))
    passes = 1 if together > 1 else 3
    assert sum(seen) == passes * tokens + 3 * examples * ROWS + 3 * (1 + ROWS)  # and the empty texts
    for one, ours in zip(several, found, strict=True):
        theirs = measure(one, train, dev, token_budget=80, subtasks=task.subtasks)
        np.testing.assert_allclose(ours.baseline, theirs.baseline, atol=2e-5)
        np.testing.assert_allclose(ours.features, theirs.features, atol=2e-5)
        np.testing.assert_array_equal(ours.stimulation, theirs.stimulation)
        np.testing.assert_array_equal(ours.defined, theirs.defined)
        differ = np.abs(ours.subtask_accuracy - theirs.subtask_accuracy) > 1e-9
        assert differ.mean() < 0.005  # an activation at its baseline, to rounding


def test_the_reference_procedure_reads_texts_with_each_prompt() -> None:
    made = backbone("gpt2")
    _, train, dev = given(made)
    several = [prompt(made, seed) for seed in (0, 1)]
    found = list(measure_several(several, train, dev, compat=True))
    for one, ours in zip(several, found, strict=True):
        np.testing.assert_array_equal(ours.baseline, measure(one, train, dev, compat=True).baseline)


@pytest.mark.parametrize("head", ["verbalizer", "classifier"])
def test_tuning_keeps_the_graph_of_the_prompt_rows_alone(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = backbone("llama")
    task, settings = by_hand.task(), TuningSettings(rows=ROWS, steps=4, evaluate_every=2, batch_size=4)
    graphs: list[tuple[int, bool]] = []
    down = made.down_projections()[0][2]

    def note(module: Any, inputs: Any, output: Tensor) -> None:
        graphs.append((output.shape[1], output.requires_grad))

    handle = down.register_forward_hook(note)
    ours = tuning.tune(made, task, settings=settings, template="suffix", head=head)
    handle.remove()
    assert {rows for rows, tracked in graphs if tracked} == {ROWS}
    assert sum(tracked for _, tracked in graphs) == 4
    monkeypatch.setattr(text_cache, "shares", lambda *_: False)
    theirs = tuning.tune(made, task, settings=settings, template="suffix", head=head)
    moved = np.abs(ours.rows - theirs.rows).max()
    assert moved < 1e-3  # AdamW divides by the size of a gradient, rounding and all
    np.testing.assert_allclose(
        ours.provenance["curve"]["losses"], theirs.provenance["curve"]["losses"], rtol=1e-4
    )


def test_a_text_is_written_prompt_by_prompt() -> None:
    made = backbone("llama")
    examples = by_hand.task().dev[:4]
    written = [type(one)(one.text, None, -1, ("good",)) for one in examples]
    data = prepared(made, encode(made, written, prompt_rows=ROWS, max_new_tokens=3), prompt_rows=ROWS)
    several, readout = [prompt(made, seed) for seed in (0, 1)], TextReadout(made, 3)
    found = evaluate_several(several, readout, data, metric="exact_match")
    assert found == [evaluate(one, readout, data, metric="exact_match") for one in several]
