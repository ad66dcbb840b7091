"""Greedy decoding: what transformers' own generate writes, example by example, and what no cache would."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch

from tests.test_text_cache import CAUSAL
from tests.test_text_cache import backbone as causal
from transferscope import decoding, templates
from transferscope.attachment import Attached, attach
from transferscope.decoding import generate, generate_ids, greedy
from transferscope.encoding import Encoded, Prepared, batches, encode, in_order, prepared
from transferscope.interventions import Edit, intervene
from transferscope.models import Backbone, wrap
from transferscope.tasks import Example

CASES = [
    ("t5", "prefix"),
    ("t5-gated", "prefix"),
    ("gpt2", "prefix"),
    ("gpt2", "suffix"),
    ("llama", "prefix"),
    ("llama", "suffix"),
]
MOST = 9
TEXTS = [
    "movie",
    "the film was very good and the actor was not bad",
    "cat dog red blue green",
    "small old new",
    "food service",
    "we like the music so so much but the price was big",
]


def attached(name: str, template: str, seed: int = 6) -> Attached:
    # Stock generate makes T5's cache as deep as its encoder, so the two are given the same depth here.
    depth = {"num_decoder_layers": 2} if name.startswith("t5") else {}
    model = tiny.model(name, seed=seed, **depth)
    backbone = wrap(model, tiny.tokenizer(tiny.tokenizer_kind(name)))
    rows = torch.randn(3, backbone.embedding_size, generator=torch.Generator().manual_seed(seed))
    return attach(backbone, rows, template)


def split(prompt: Attached) -> Encoded:
    examples = [Example(text, None, -1, ("good",)) for text in TEXTS]
    return encode(prompt.backbone, examples, prompt_rows=prompt.rows, max_new_tokens=MOST)


def together(prompt: Attached) -> Prepared:
    """All texts in one batch, in data order: as much padding as can be."""
    data = split(prompt)
    groups = tuple(in_order(len(data), len(data)))
    return Prepared(data, prompt.rows, groups, tuple(batches(prompt.backbone, data, groups)))


def ends(backbone: Backbone, rows: list[np.ndarray]) -> list[int]:
    """Tokens that end some of these texts before they are full, and not all at once."""
    third = [int(row[2]) for row in rows[:3]]
    return list(dict.fromkeys(third))


def stock(prompt: Attached, data: Encoded, stops: list[int]) -> list[list[int]]:
    """The model's own generate, one example at a time, no padding."""
    written = []
    for i in range(len(data)):
        batch = next(batches(prompt.backbone, data, [np.array([i])]))
        placed = prompt.place(batch)
        found: Any = prompt.backbone.model.generate(
            inputs_embeds=placed.embeds,
            attention_mask=placed.mask,
            max_new_tokens=MOST,
            do_sample=False,
            eos_token_id=stops,
            pad_token_id=0,
        )
        row = found[0].tolist()
        row = row[1:] if prompt.backbone.architecture.kind == "encoder-decoder" else row  # the start token
        written.append(row)
    return written


def without_cache(prompt: Attached, data: Encoded, stops: list[int]) -> list[list[int]]:
    """Everything again for each token, by the forward pass that tuning uses."""
    backbone, written = prompt.backbone, []
    for i in range(len(data)):
        batch = next(batches(backbone, data, [np.array([i])]))
        placed, row = prompt.place(batch), []
        while len(row) < MOST and not (row and row[-1] in stops):
            new = backbone.embed(torch.tensor([row], dtype=torch.int64))
            if backbone.architecture.kind == "encoder-decoder":
                before = torch.cat([backbone.decoder_start(1), new], dim=1)
                hidden = backbone.hidden(placed.embeds, placed.mask, None, before)
            else:
                hidden = backbone.hidden(*templates.follow(placed, new, torch.ones(1, len(row)).long()))
            row.append(int(backbone.vocabulary_logits(hidden[:, -1]).argmax()))
        written.append(row)
    return written


@pytest.mark.parametrize(("name", "template"), CASES)
def test_it_writes_what_stock_generate_writes_alone_and_what_no_cache_writes(
    name: str, template: str
) -> None:
    prompt = attached(name, template)
    data = together(prompt)
    stops = ends(prompt.backbone, generate_ids(prompt, data, max_new_tokens=MOST))
    tokens = greedy(prompt, data.batches[0], stops, MOST).tolist()
    expected = stock(prompt, data.data, stops)
    assert expected == without_cache(prompt, data.data, stops)
    # The texts end at different places, and differ.
    assert len({len(row) for row in expected}) > 1
    assert len({tuple(row) for row in expected}) > 2
    for found, wanted in zip(tokens, expected, strict=True):
        assert found[: len(wanted)] == wanted
        if len(wanted) < len(found):
            assert wanted[-1] in stops
            assert set(found[len(wanted) :]) == {stops[0]}


@pytest.mark.parametrize("template", ["prefix", "suffix"])
@pytest.mark.parametrize("name", CAUSAL)
def test_every_causal_family_writes_what_no_cache_writes(name: str, template: str) -> None:
    made = causal(name)
    rows = torch.randn(3, made.embedding_size, generator=torch.Generator().manual_seed(6))
    prompt = attach(made, rows, template)
    data = together(prompt)
    expected = without_cache(prompt, data.data, [-1])
    assert len({tuple(row) for row in expected}) > 1
    assert greedy(prompt, data.batches[0], [-1], MOST).tolist() == expected


@pytest.mark.parametrize("template", ["prefix", "suffix"])
def test_rows_that_were_moved_are_edited(template: str) -> None:
    prompt = attached("llama", template)
    neurons = np.ones((prompt.backbone.layers, prompt.backbone.neurons), dtype=bool)
    alone = prepared(prompt.backbone, split(prompt), prompt_rows=prompt.rows, token_budget=1)
    found = []
    for data in (alone, together(prompt)):
        with intervene(prompt.backbone, Edit(neurons, "zero"), attached=prompt) as edited:
            found.append([row.tolist() for row in generate_ids(edited, data, max_new_tokens=MOST)])
    assert found[0] == found[1]
    plain = [row.tolist() for row in generate_ids(prompt, alone, max_new_tokens=MOST)]
    assert found[0] != plain


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["t5", "gpt2", "llama"])
def test_batches_change_nothing(name: str, attention: str) -> None:
    prompt = attached(name, "prefix", seed=3)
    prompt.backbone.model.set_attn_implementation(attention)
    alone = prepared(prompt.backbone, split(prompt), prompt_rows=prompt.rows, token_budget=1)
    assert len(alone.batches) == len(TEXTS)
    small = prepared(prompt.backbone, split(prompt), prompt_rows=prompt.rows, token_budget=40)
    expected = [row.tolist() for row in generate_ids(prompt, alone, max_new_tokens=MOST)]
    assert len({tuple(row) for row in expected}) > 1
    for data in (small, together(prompt)):
        assert [row.tolist() for row in generate_ids(prompt, data, max_new_tokens=MOST)] == expected


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_a_token_costs_one_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = attached(name, "prefix")
    data = together(prompt)
    base, widths, heads = prompt.backbone.base, [], []
    stack = base.get_decoder() if name == "t5" else base

    def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        widths.append(kwargs["inputs_embeds"].shape[1])

    logits = Backbone.vocabulary_logits

    def counted(backbone: Backbone, rows: torch.Tensor) -> torch.Tensor:
        heads.append(tuple(rows.shape[:-1]))
        return logits(backbone, rows)

    monkeypatch.setattr(Backbone, "vocabulary_logits", counted)
    handle = stack.register_forward_pre_hook(note, with_kwargs=True)
    encoder = []
    if name == "t5":
        base.get_encoder().register_forward_pre_hook(lambda *_: encoder.append(1))
    greedy(prompt, data.batches[0], [-1], 6)
    handle.remove()
    first = 1 if name == "t5" else data.batches[0].ids.shape[1] + prompt.rows
    assert widths == [first, 1, 1, 1, 1, 1]
    assert heads == [(len(TEXTS),)] * 6
    assert len(encoder) == (name == "t5")


def test_it_stops_soon_after_all_have_ended() -> None:
    prompt = attached("gpt2", "prefix")
    data = together(prompt)
    everything = list(range(tiny.VOCAB))
    assert greedy(prompt, data.batches[0], everything, 100 * decoding.LOOK).shape[1] == decoding.LOOK
    assert all(len(row) == 0 for row in _with_stops(prompt, data, everything))


def _with_stops(prompt: Attached, data: Prepared, stops: list[int]) -> list[np.ndarray]:
    prompt.backbone.config.eos_token_id = stops
    return generate_ids(prompt, data, max_new_tokens=12)


def test_texts_are_words_without_special_tokens() -> None:
    prompt = attached("llama", "prefix")
    data = together(prompt)
    rows = generate_ids(prompt, data, max_new_tokens=4)
    texts = generate(prompt, data, max_new_tokens=4)
    tokenizer = prompt.backbone.tokenizer
    words = [tokenizer.convert_ids_to_tokens(row.tolist()) for row in rows]
    special = {*tokenizer.all_special_tokens, None}
    assert texts == [" ".join(word for word in row if word not in special) for row in words]
    assert any(texts)
