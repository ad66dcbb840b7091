"""A prompt attached to each architecture: padding, peft, a run by hand, gradients, initial rows."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import tiny
from transferscope import attachment, templates
from transferscope.architectures import resolve
from transferscope.attachment import Attached, attach, attach_rows, classifier, initial_rows, verbalizer
from transferscope.encoding import collate, encode
from transferscope.errors import PromptError, TemplateError
from transferscope.models import Backbone, wrap
from transferscope.prompts import Head, SoftPrompt, save_prompt
from transferscope.tasks import Example
from transferscope.templates import Batch

TEXTS = ("the movie was great", "bad", "we see two small red cats and a very old dog", "no")
EXAMPLES = tuple(Example(text, None, i % 2) for i, text in enumerate(TEXTS))
WORDS = (9, 20, 12)
KINDS = {name: resolve(tiny.model(name, head=False).config).kind for name in tiny.ALL}
FITTING = [
    (name, template)
    for name, kind in KINDS.items()
    for template, kinds in templates.TEMPLATES.items()
    if kind in kinds
]
PEFT = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@cache
def backbone(name: str) -> Backbone:
    return wrap(tiny.model(name), tiny.tokenizer(tiny.tokenizer_kind(name)), name)


def prompt_rows(made: Backbone, rows: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 0.5 * torch.randn(rows, made.embedding_size, generator=generator)


def batch(made: Backbone, which: tuple[int, ...] = (0, 1, 2, 3)) -> Batch:
    return collate(made, encode(made, EXAMPLES, prompt_rows=4), np.array(which))


def test_every_row_of_the_table_is_tried() -> None:
    assert len(tiny.MODEL_TYPES) == 11
    assert len(tiny.ALL) == 31
    assert len(FITTING) == 10 * 2 + 4 * 1 + 17 * 2


@pytest.mark.parametrize(("name", "template"), FITTING)
def test_padding_changes_nothing_at_the_readout_row(name: str, template: str) -> None:
    made = backbone(name)
    attached = attach(made, prompt_rows(made), template)
    with torch.no_grad():
        together = attached.forward(attached.place(batch(made)))
        alone = [attached.forward(attached.place(batch(made, (i,))))[0] for i in range(len(TEXTS))]
    assert together.shape == (len(TEXTS), made.readout_size)
    assert (together - torch.stack(alone)).abs().max() < 1e-5
    assert torch.pdist(together).min() > 1e-2  # the text reaches the row, so equality says something


@pytest.mark.parametrize(("name", "template"), FITTING)
def test_gradient_reaches_every_prompt_row_and_no_parameter(name: str, template: str) -> None:
    made = backbone(name)
    prompt = prompt_rows(made).requires_grad_(True)
    attached = attach(made, prompt, template)
    verbalizer(made, WORDS).logits(attached.forward(attached.place(batch(made)))).square().sum().backward()
    assert prompt.grad is not None
    assert (prompt.grad.abs().amax(dim=1) > 1e-6).all()
    assert all(parameter.grad is None for parameter in made.model.parameters())


@PEFT
@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "t5", "gpt2", "llama"])
def test_prefix_is_what_peft_computes(name: str, tmp_path: Path) -> None:
    from peft import PeftModel

    made = backbone(name)
    prompt = SoftPrompt(prompt_rows(made).numpy(), "task", template="prefix")
    attached, inputs = attach(made, prompt), batch(made)
    save_prompt(prompt, tmp_path, kind=KINDS[name])
    theirs = PeftModel.from_pretrained(tiny.model(name), tmp_path).eval()
    start: dict[str, Any] = {"decoder_input_ids": torch.zeros(4, 1, dtype=torch.long)} if name == "t5" else {}
    with torch.no_grad():
        placed = attached.place(inputs)
        ours = verbalizer(made, WORDS).logits(attached.forward(placed))
        full = theirs(input_ids=inputs.ids, attention_mask=inputs.mask, **start).logits
    expected = full[torch.arange(4), placed.readout][:, list(WORDS)]
    assert full.shape[1] == (1 if name == "t5" else placed.embeds.shape[1])
    assert (ours - expected).abs().max() < 1e-5


@pytest.mark.parametrize(("name", "template"), [pair for pair in FITTING if pair[1] != "prefix"])
def test_other_templates_are_the_rows_put_together_by_hand(name: str, template: str) -> None:
    made = backbone(name)
    prompt = prompt_rows(made)
    attached, inputs = attach(made, prompt, template), batch(made)
    scale = 16**0.5 if "gemma" in name else 1.0  # what it looks up is multiplied
    table = scale * made.model.get_input_embeddings().weight
    with torch.no_grad():
        ours = verbalizer(made, WORDS).logits(attached.forward(attached.place(inputs)))
        for i in range(len(TEXTS)):
            text = table[inputs.ids[i, : int(inputs.mask[i].sum())]]
            mask = [] if template == "suffix" else [table[[made.tokenizer.mask_token_id]]]
            rows = torch.cat([text, prompt] if template == "suffix" else [*mask, prompt, text])
            logits = made.model(inputs_embeds=rows[None]).logits[0]
            expected = logits[-1 if template == "suffix" else 0, list(WORDS)]
            assert (ours[i] - expected).abs().max() < 1e-5


def test_the_two_texts_of_a_pair_keep_their_token_types_behind_the_prompt() -> None:
    made = backbone("bert")
    pairs = [Example("the cat sees", "a dog", 0), Example("no", "yes it was", 1)]
    attached = attach(made, prompt_rows(made), "prefix")
    inputs = collate(made, encode(made, pairs, prompt_rows=3), np.array([0, 1]))
    placed = attached.place(inputs)
    with torch.no_grad():
        expected = made.base(
            inputs_embeds=torch.cat([prompt_rows(made), made.embed(inputs.ids[:1])[0]])[None],
            token_type_ids=torch.tensor([[0, 0, 0] + [0] * 5 + [1] * 3]),
        )[0][0, 3]
        ours = attached.forward(placed)[0]
        untyped = made.hidden(placed.embeds, placed.mask)[0, 3]
    assert (ours - expected).abs().max() < 1e-5
    assert (ours - untyped).abs().max() > 1e-3


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind == "encoder"])
def test_the_mask_row_is_the_mask_tokens_embedding(name: str) -> None:
    made = backbone(name)
    attached = attach(made, SoftPrompt(prompt_rows(made).numpy(), "task", template="mask-first"))
    table = made.model.get_input_embeddings().weight
    assert attached.mask_row is not None
    assert torch.equal(
        attached.mask_row, table[made.tokenizer.mask_token_id : made.tokenizer.mask_token_id + 1]
    )
    assert attached.rows == 4
    placed = attached.place(batch(made))
    assert torch.equal(placed.embeds[1, 0], attached.mask_row[0])
    assert torch.equal(placed.embeds[1, 1:4], prompt_rows(made))
    assert placed.prompt == slice(0, 4)
    # all rows given at once stand the same
    whole = attach_rows(made, torch.cat([attached.mask_row, prompt_rows(made)]), "mask-first")
    assert torch.equal(whole.place(batch(made)).embeds, placed.embeds)
    assert whole.rows == 4


def test_a_prompts_own_template_is_used_unless_another_is_given() -> None:
    made = backbone("gpt2")
    prompt = SoftPrompt(prompt_rows(made).numpy(), "task", template="suffix")
    assert attach(made, prompt).template == "suffix"
    assert attach(made, prompt, "prefix").template == "prefix"
    defaults = {"bert": "mask-first", "gpt2": "prefix", "t5": "prefix"}
    for name, template in defaults.items():
        assert attach(backbone(name), prompt_rows(backbone(name))).template == template


def test_what_cannot_be_attached() -> None:
    made = backbone("bert")
    for rows in (torch.zeros(3, 12), torch.zeros(16)):
        with pytest.raises(PromptError, match=r"shape \((3, 12|16,)\) do not fit 'bert'.*are 16 wide"):
            attach(made, rows)
    with pytest.raises(TemplateError, match="'suffix' does not fit"):
        attach(made, prompt_rows(made), "suffix")
    without = wrap(tiny.model("bert"), name="nameless")
    with pytest.raises(TemplateError, match="needs a mask token, and the tokenizer of 'nameless' has none"):
        attach(without, prompt_rows(made), "mask-first")


def test_a_classifier_is_a_linear_layer_on_the_readout_row() -> None:
    made = backbone("electra")
    rng = np.random.default_rng(0)
    head = Head(rng.normal(size=(3, 16)).astype(np.float32), np.array([1.0, 0.0, -1.0], np.float32))
    rows = torch.randn(5, 16)
    ours = classifier(made, head).logits(rows)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), rows.numpy() @ head.weight.T + head.bias, atol=1e-5)


# initial rows


def tokens(made: Backbone, rows: Tensor) -> list[int]:
    """Which token's embedding each row is."""
    table = made.model.get_input_embeddings().weight
    matches = (rows[:, None] == table[None]).all(dim=2)
    assert (matches.sum(dim=1) == 1).all()
    return matches.int().argmax(dim=1).tolist()


@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "t5", "gpt2", "llama"])
@pytest.mark.parametrize("init", attachment.INITS)
def test_initial_rows_follow_the_seed_alone(name: str, init: str) -> None:
    made = backbone(name)

    def start(seed: int) -> Tensor:
        return initial_rows(made, 6, init=init, word_ids=WORDS, seed=seed)

    first = start(3)
    torch.manual_seed(99)  # the global generator plays no part
    assert torch.equal(first, start(3))
    assert not torch.equal(first, start(4))
    assert first.shape == (6, made.embedding_size)
    assert first.dtype == torch.float32
    assert not first.requires_grad


def test_vocabulary_rows_are_different_candidates_and_never_padding() -> None:
    made = backbone("roberta")
    assert made.pad_id == 1
    for seed in range(20):
        found = tokens(made, initial_rows(made, 5, candidates=[1, 7, 8, 9, 7, 30, 40], seed=seed))
        assert sorted(found) == [7, 8, 9, 30, 40]
    everything = tokens(made, initial_rows(made, tiny.VOCAB - 1, seed=0))
    assert sorted(everything) == sorted({*range(tiny.VOCAB)} - {1})


def test_label_words_come_first_and_once() -> None:
    made = backbone("bert")
    candidates = [0, *WORDS, 50, 51, 52]
    found = tokens(made, initial_rows(made, 6, init="label-words", word_ids=WORDS, candidates=candidates))
    assert found[:3] == list(WORDS)
    assert sorted(found[3:]) == [50, 51, 52]
    assert tokens(made, initial_rows(made, 2, init="label-words", word_ids=WORDS)) == list(WORDS[:2])


@pytest.mark.parametrize("rows", [3, 4, 7])
def test_fewer_candidates_than_rows_are_used_again(rows: int) -> None:
    made = backbone("bert")
    for seed in range(5):
        found = tokens(made, initial_rows(made, rows, candidates=[made.pad_id, 8, 9], seed=seed))
        assert len(found) == rows
        assert set(found) == {8, 9}
        assert abs(found.count(8) - found.count(9)) <= 1


def test_random_rows_look_like_embeddings() -> None:
    made = backbone("bert")
    table = made.model.get_input_embeddings().weight
    with torch.no_grad():
        table_shifted = wrap(tiny.model("bert", seed=1))
        table_shifted.model.get_input_embeddings().weight += 5.0
    rows = initial_rows(table_shifted, 4000, init="random")
    shifted = table_shifted.model.get_input_embeddings().weight
    assert (rows.mean(0) - shifted.mean(0)).abs().max() < 0.05
    assert (rows.std(0) / shifted.std(0) - 1).abs().max() < 0.05
    assert not torch.equal(shifted, table)


def test_another_prompt_as_the_start_keeps_its_rows() -> None:
    made = backbone("bert")
    prompt = SoftPrompt(prompt_rows(made, 5).numpy(), "task", template="mask-first")
    rows = initial_rows(made, 2, init=prompt)
    assert np.array_equal(rows.numpy(), prompt.rows)
    rows += 1.0
    assert np.array_equal(prompt.rows, prompt_rows(made, 5).numpy())  # a copy


def test_initial_rows_that_cannot_be_made() -> None:
    made = backbone("bert")
    with pytest.raises(
        PromptError, match="unknown initialisation 'zeros'; use random, label-words, vocabulary or"
    ):
        initial_rows(made, 3, init="zeros")
    with pytest.raises(PromptError, match="'label-words' needs a verbalizer head"):
        initial_rows(made, 3, init="label-words")
    with pytest.raises(PromptError, match=r"needs at least one token that is not padding, found \[0\]"):
        initial_rows(made, 3, candidates=[made.pad_id])
    with pytest.raises(PromptError, match="do not fit"):
        initial_rows(made, 3, init=SoftPrompt(np.zeros((3, 5), np.float32), "task"))


def test_attached_counts_its_rows() -> None:
    made = backbone("bert")
    assert Attached(made, "prefix", torch.zeros(5, 16), None).rows == 5
    assert Attached(made, "mask-first", torch.zeros(5, 16), torch.zeros(1, 16)).rows == 6
