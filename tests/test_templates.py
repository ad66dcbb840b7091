"""Templates: where rows stand and which are read and probed, against one example at a time; label words."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from tests import tiny
from transferscope import templates
from transferscope.errors import TemplateError

FITTING = [(name, kind) for name, kinds in templates.TEMPLATES.items() for kind in kinds]
WIDTH, ROWS = 3, 2
LENGTHS = (4, 1, 6, 3)


def texts(lengths: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Prompt [P, E], text [B, T, E] of rows that are all different, mask and types [B, T]."""
    prompt = torch.arange(ROWS * WIDTH).reshape(ROWS, WIDTH).float()
    longest = max(lengths)
    text = 100.0 + torch.arange(len(lengths) * longest * WIDTH).reshape(len(lengths), longest, WIDTH)
    mask = torch.tensor([[int(t < length) for t in range(longest)] for length in lengths])
    types = torch.tensor([[int(t >= length / 2) for t in range(longest)] for length in lengths]) * mask
    return prompt, text, mask, types


def slowly(
    template: str, kind: str, prompt: Tensor, text: Tensor, types: list[int]
) -> tuple[list[Tensor], list[int], list[int], int]:
    """One example without padding: its rows, their types, the prompt's row numbers, the readout row."""
    before, words = list(prompt), list(text)
    if template == "suffix":
        at = list(range(len(words), len(words) + len(before)))
        return words + before, types + [0] * len(before), at, len(words) + len(before) - 1
    readout = 0  # the mask row, or the start of the decoder
    if template == "prefix" and kind == "encoder":
        readout = len(before)
    if template == "prefix" and kind == "decoder":
        readout = len(before) + len(words) - 1
    return before + words, [0] * len(before) + types, list(range(len(before))), readout


@pytest.mark.parametrize(("template", "kind"), FITTING)
@pytest.mark.parametrize("lengths", [LENGTHS, (5,), (3, 3)])
@pytest.mark.parametrize("typed", [True, False])
def test_rows_stand_as_in_one_example_alone(
    template: str, kind: str, lengths: tuple[int, ...], typed: bool
) -> None:
    prompt, text, mask, types = texts(lengths)
    placed = templates.place(template, kind, prompt, text, mask, types if typed else None)
    assert placed.embeds.shape == (len(lengths), ROWS + max(lengths), WIDTH)
    picked = placed.prompt if isinstance(placed.prompt, Tensor) else torch.arange(99)[placed.prompt]
    for i, length in enumerate(lengths):
        rows, kinds, at, readout = slowly(
            template, kind, prompt, text[i, :length], types[i, :length].tolist()
        )
        assert torch.equal(placed.embeds[i, : len(rows)], torch.stack(rows))
        assert placed.mask[i].tolist() == [1] * len(rows) + [0] * (max(lengths) - length)
        if typed:
            assert placed.types is not None
            assert placed.types[i, : len(kinds)].tolist() == kinds
        assert (picked[i] if picked.ndim == 2 else picked).tolist() == at
        assert int(placed.readout[i]) == readout
    assert typed or placed.types is None


def test_an_empty_text_is_read_at_the_last_prompt_row_of_a_decoder() -> None:
    prompt, text, mask, _ = texts((2, 2))
    mask[1] = 0
    for template in ("prefix", "suffix"):
        placed = templates.place(template, "decoder", prompt, text, mask, None)
        assert placed.readout.tolist() == [3, 1]
        assert torch.equal(placed.embeds[1, :ROWS], prompt)
        assert placed.mask[1].tolist() == [1, 1, 0, 0]


def test_the_prompt_takes_the_dtype_of_the_text_and_gets_its_gradient() -> None:
    prompt, text, mask, _ = texts(LENGTHS)
    prompt.requires_grad_(True)
    for template, kind in FITTING:
        placed = templates.place(template, kind, prompt, text.to(torch.bfloat16), mask, None)
        assert placed.embeds.dtype == torch.bfloat16
        (gradient,) = torch.autograd.grad(placed.embeds.float().sum(), prompt)
        assert torch.equal(gradient, torch.full_like(prompt, len(LENGTHS)))


@pytest.mark.parametrize(("template", "kind"), FITTING)
def test_fitting_templates_pass(template: str, kind: str) -> None:
    assert templates.check(template, kind) == template


@pytest.mark.parametrize(
    ("template", "kind", "message"),
    [
        (
            "mask-first",
            "decoder",
            "'mask-first' does not fit .*'decoder'.*for encoder models.*Use prefix or suffix",
        ),
        ("mask-first", "encoder-decoder", "for encoder models.*Use prefix"),
        (
            "suffix",
            "encoder",
            "'suffix' does not fit .*'encoder'.*for decoder models.*Use mask-first or prefix",
        ),
        ("suffix", "encoder-decoder", "for decoder models.*Use prefix"),
        ("sufix", "decoder", "unknown template 'sufix'.*Did you mean 'suffix'.*mask-first, prefix, suffix"),
    ],
)
def test_templates_that_do_not_fit_are_refused(template: str, kind: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        templates.check(template, kind)


def test_each_kind_of_model_has_a_default_that_fits() -> None:
    for kind in ("encoder", "decoder", "encoder-decoder"):
        assert templates.check(templates.DEFAULTS[kind], kind)


@pytest.mark.parametrize("rows", ["prompt", "readout"])
def test_the_readout_is_probed_where_prompt_rows_do_not_see_the_text(rows: str) -> None:
    assert templates.probed("prefix", "decoder", rows) == "readout"
    assert templates.probed("suffix", "decoder", rows) == rows
    assert templates.probed("mask-first", "encoder", rows) == rows
    assert templates.probed("prefix", "encoder-decoder", rows) == rows


def fast(backend: Tokenizer, unknown: str | None) -> Any:
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=unknown)


def byte_level() -> Any:
    """GPT-2's and RoBERTa's kind: "great" and "bad" are one token also after a space, "good" only without."""
    merges: list[tuple[str, str]] = []
    for word in ("great", "bad", "good"):
        merges += [(word[:end], word[end]) for end in range(1, len(word))]
    merges += [("Ġ", "great"), ("Ġ", "bad")]
    tokens = [*"Ġabcdefghijklmnopqrstuvwxyz", *(left + right for left, right in merges)]
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return fast(backend, None)


def sentencepiece() -> Any:
    """T5's and XLM-R's kind: a blank before the word is the letter ▁, and each text begins with one."""
    pieces = [("<unk>", 0.0), ("▁great", -1.0), ("▁bad", -1.0), ("▁", -2.0), ("go", -3.0), ("od", -3.0)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return fast(backend, "<unk>")


def ids(tokenizer: Any, *words: str, labels: tuple[str, ...] = ("neg", "pos")) -> list[int]:
    return templates.label_word_ids(tokenizer, words, labels[: len(words)], "sst2")


def test_byte_level_words_are_taken_as_they_follow_a_space() -> None:
    tokenizer = byte_level()
    assert tokenizer.convert_ids_to_tokens(ids(tokenizer, "bad", "great")) == ["Ġbad", "Ġgreat"]
    assert tokenizer.convert_ids_to_tokens(ids(tokenizer, "good")) == ["good"]


def test_a_word_with_its_own_leading_space_is_taken_exactly_so() -> None:
    tokenizer = byte_level()
    assert ids(tokenizer, " great") == ids(tokenizer, "great")
    with pytest.raises(TemplateError, match=r"' good' of 'neg' is \d tokens"):
        ids(tokenizer, " good")


def test_sentencepiece_words_carry_their_space() -> None:
    tokenizer = sentencepiece()
    assert tokenizer.convert_ids_to_tokens(ids(tokenizer, "bad", "great")) == ["▁bad", "▁great"]


@pytest.mark.parametrize("kind", ["bert", "roberta", "causal", "t5"])
def test_word_level_words(kind: str) -> None:
    tokenizer = tiny.tokenizer(kind)
    assert tokenizer.convert_ids_to_tokens(ids(tokenizer, "terrible", "great")) == ["terrible", "great"]


def test_a_vocabulary_that_splits_nothing_knows_a_word_with_or_without_its_space() -> None:
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "great": 1, " bad": 2}, unk_token="<unk>"))
    assert ids(fast(backend, "<unk>"), "bad", "great") == [2, 1]


@pytest.mark.parametrize(
    ("tokenizer", "word", "pieces"),
    [
        (byte_level, "greed", r"3 tokens \('gre' \+ 'e' \+ 'd'\)"),
        (sentencepiece, "good", r"3 tokens \('▁' \+ 'go' \+ 'od'\)"),
    ],
)
def test_a_word_of_several_tokens_is_refused_with_its_pieces(tokenizer: Any, word: str, pieces: str) -> None:
    message = rf"'sst2': the label word '{word}' of 'neg' is {pieces}; .*choose another word"
    with pytest.raises(TemplateError, match=message):
        ids(tokenizer(), word, "great")


def test_an_unknown_word_is_refused() -> None:
    with pytest.raises(TemplateError, match="'zyzzyva' of 'pos' is not in the model's vocabulary"):
        ids(tiny.tokenizer("bert"), "great", "zyzzyva")


@pytest.mark.parametrize("words", [("great", "great"), ("great", " great")])
def test_two_classes_with_the_same_token_are_refused(words: tuple[str, str]) -> None:
    with pytest.raises(
        TemplateError, match="label words of 'neg' and 'pos' are the same token \\('Ġgreat'\\)"
    ):
        ids(byte_level(), *words)


@pytest.mark.parametrize("word", ["", "  "])
def test_an_empty_word_is_refused(word: str) -> None:
    with pytest.raises(TemplateError, match="label word of 'neg' is empty"):
        ids(byte_level(), word, "great")
