"""Encoding: what truncation leaves, which examples stand in which batch, what stands for an empty text."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from tests import tiny
from transferscope.attachment import attach
from transferscope.encoding import (
    Encoded,
    batches,
    buckets,
    collate,
    empty_text,
    encode,
    from_token_ids,
    in_order,
    room,
    stop_ids,
)
from transferscope.errors import TaskError, TemplateError
from transferscope.models import Backbone, wrap
from transferscope.tasks import Example

LONG = "the movie was great and " * 40
LIMITED = [name for name in tiny.MODEL_TYPES if not name.startswith("t5")]


@cache
def backbone(name: str) -> Backbone:
    return wrap(tiny.model(name), tiny.tokenizer(tiny.tokenizer_kind(name)), name)


def example(text: str, pair: str | None = None, label: int = 0) -> Example:
    return Example(text, pair, label)


@pytest.mark.parametrize("name", LIMITED)
@pytest.mark.parametrize("prompt_rows", [1, 9])
def test_prompt_and_longest_text_fill_the_positions_and_no_more(name: str, prompt_rows: int) -> None:
    made = backbone(name)
    encoded = encode(made, [example(LONG), example("bad"), example(LONG * 2)], prompt_rows=prompt_rows)
    positions = 62 if "roberta" in name else 64
    assert made.max_positions == positions
    assert encoded.limit == positions - prompt_rows
    assert encoded.lengths.tolist() == [encoded.limit, len(made.tokenizer("bad")["input_ids"]), encoded.limit]
    assert encoded.truncated == 2
    placed = attach(made, torch.zeros(prompt_rows, made.embedding_size), "prefix").place(
        collate(made, encoded, np.array([0, 1, 2]))
    )
    assert placed.embeds.shape[1] == positions
    with torch.no_grad():  # one row more would be an index error
        assert torch.isfinite(made.hidden(placed.embeds, placed.mask, placed.types)).all()


def test_a_model_without_positions_has_room_for_everything() -> None:
    encoded = encode(backbone("t5"), [example(LONG)], prompt_rows=100)
    assert encoded.lengths.tolist() == [201]
    assert (encoded.limit, encoded.truncated) == (None, 0)
    cut = encode(backbone("t5"), [example(LONG), example("bad")], prompt_rows=100, max_length=10)
    assert cut.lengths.tolist() == [10, 2]
    assert (cut.limit, cut.truncated) == (10, 1)


def test_the_tighter_of_positions_and_max_length_counts() -> None:
    made = backbone("bert")
    assert encode(made, [example(LONG)], prompt_rows=4, max_length=12).lengths.tolist() == [12]
    assert encode(made, [example(LONG)], prompt_rows=50, max_length=60).lengths.tolist() == [14]


def test_a_text_of_exactly_the_room_is_not_truncated() -> None:
    made = backbone("bert")
    exact = example(" ".join(["great"] * 8))  # and [CLS], [SEP]
    assert encode(made, [exact], prompt_rows=4, max_length=10).truncated == 0
    assert encode(made, [exact], prompt_rows=4, max_length=9).truncated == 1


@pytest.mark.parametrize("name", ["bert", "roberta", "t5", "gpt2"])
def test_truncation_keeps_the_special_tokens_and_the_start(name: str) -> None:
    made = backbone(name)
    (cut,) = encode(made, [example(LONG)], prompt_rows=4, max_length=9).ids
    whole = made.tokenizer(LONG, verbose=False)["input_ids"]
    ends = {"gpt2": 0}.get(name, 1)
    assert cut.tolist() == whole[: 9 - ends] + whole[len(whole) - ends :]


@pytest.mark.parametrize("name", ["bert", "roberta", "t5", "gpt2"])
def test_a_pair_is_cut_at_its_longer_text(name: str) -> None:
    made = backbone(name)
    short = "cat likes dog"
    for text, pair in ((short, LONG), (LONG, short)):
        (cut,) = encode(made, [example(text, pair)], prompt_rows=4, max_length=20).ids
        words = made.tokenizer.convert_ids_to_tokens(cut.tolist())
        assert len(words) == 20
        assert [word for word in words if word in short.split()] == short.split()


def test_token_types_mark_the_second_text() -> None:
    encoded = encode(backbone("bert"), [example("yes no", "maybe"), example("a", "b c")], prompt_rows=4)
    assert encoded.types is not None
    assert encoded.types[0].tolist() == [0, 0, 0, 0, 1, 1]
    assert [len(types) for types in encoded.types] == encoded.lengths.tolist()
    cut = encode(backbone("bert"), [example("yes", LONG)], prompt_rows=4, max_length=8)
    assert cut.types is not None
    assert cut.types[0].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    single = encode(backbone("bert"), [example("yes no")], prompt_rows=4)
    assert single.types is not None
    assert single.types[0].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("name", ["roberta", "t5", "gpt2", "llama"])
def test_models_without_token_types_get_none(name: str) -> None:
    assert encode(backbone(name), [example("yes", "no")], prompt_rows=4).types is None


def test_labels_and_order_are_the_splits() -> None:
    encoded = encode(backbone("bert"), [example("no", label=2), example("yes no", label=0)], prompt_rows=4)
    assert encoded.labels.tolist() == [2, 0]
    assert encoded.lengths.tolist() == [3, 4]
    assert len(encoded) == 2
    taken = encoded.take([1, 0, 1])
    assert taken.labels.tolist() == [0, 2, 0]
    assert [ids.tolist() for ids in taken.ids] == [encoded.ids[i].tolist() for i in (1, 0, 1)]
    assert taken.types is not None
    assert [len(types) for types in taken.types] == [4, 3, 4]


def test_encoding_needs_a_tokenizer_or_token_ids() -> None:
    nameless = wrap(tiny.model("bert"), name="nameless")
    with pytest.raises(TemplateError, match="'nameless' has no tokenizer: give token ids"):
        encode(nameless, [example("yes")], prompt_rows=4)
    with pytest.raises(TaskError, match=r"no examples: expected a sequence of \(token_ids, label\)"):
        from_token_ids([])
    given_ids = from_token_ids([([2, 9, 3], 1), ((2, 3), 0)])
    assert [ids.tolist() for ids in given_ids.ids] == [[2, 9, 3], [2, 3]]
    assert given_ids.labels.tolist() == [1, 0]
    assert given_ids.types is None


@pytest.mark.parametrize(
    ("name", "token"),
    [("bert", "[CLS]"), ("roberta", "<s>"), ("gpt2", "<s>"), ("llama", "<s>"), ("t5", "</s>")],
)
def test_the_empty_text_is_the_first_special_token(name: str, token: str) -> None:
    made = backbone(name)
    empty = empty_text(made)
    assert [ids.tolist() for ids in empty.ids] == [[made.tokenizer.convert_tokens_to_ids(token)]]


def test_the_empty_text_of_a_model_without_tokenizer_is_of_its_config() -> None:
    def start(**overrides: object) -> list[int]:
        return empty_text(wrap(tiny.model("llama", **overrides), name="m")).ids[0].tolist()

    assert start() == [1]
    assert start(bos_token_id=None) == [2]
    assert start(bos_token_id=None, eos_token_id=[7, 8]) == [7]
    with pytest.raises(TemplateError, match="'m' has no CLS, BOS or EOS token"):
        start(bos_token_id=None, eos_token_id=None)


def test_room() -> None:
    bert, t5 = backbone("bert"), backbone("t5")
    assert [room(bert, 10, None), room(bert, 10, 20), room(bert, 60, 20)] == [54, 20, 4]
    assert [room(t5, 10, None), room(t5, 10, 20)] == [None, 20]


@pytest.mark.parametrize(
    ("name", "rows", "max_length", "message"),
    [
        (
            "bert",
            61,
            None,
            "'bert' has 64 positions, the prompt takes 61 and max_length is None.*fewer prompt rows",
        ),
        ("roberta", 59, 30, "'roberta' has 62 positions, the prompt takes 59 and max_length is 30"),
        ("t5", 5, 3, "'t5' has no limit of positions.*max_length is 3.*a larger max_length"),
    ],
)
def test_no_room_for_a_text(name: str, rows: int, max_length: int | None, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        encode(backbone(name), [example("yes")], prompt_rows=rows, max_length=max_length)


# batches


def of_lengths(lengths: list[int]) -> Encoded:
    return from_token_ids([(list(range(5, 5 + length)), length % 3) for length in lengths])


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=50),
    st.integers(0, 20),
    st.integers(1, 400),
)
def test_buckets_hold_each_example_once_within_the_budget(
    lengths: list[int], prompt_rows: int, budget: int
) -> None:
    groups = buckets(of_lengths(lengths), prompt_rows=prompt_rows, token_budget=budget)
    order = np.concatenate(groups)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    # longest first, equal lengths in the order of the data
    assert order.tolist() == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    for group, following in zip(groups, [*groups[1:], None], strict=True):
        width = max(lengths[i] for i in group) + prompt_rows
        assert len(group) == 1 or len(group) * width <= budget
        if following is not None:  # as full as the budget allows
            assert (len(group) + 1) * width > budget


@pytest.mark.parametrize(("count", "size", "sizes"), [(7, 3, [3, 3, 1]), (6, 3, [3, 3]), (2, 16, [2])])
def test_in_order_is_the_data_in_order(count: int, size: int, sizes: list[int]) -> None:
    groups = in_order(count, size)
    assert [len(group) for group in groups] == sizes
    assert np.concatenate(groups).tolist() == list(range(count))


def test_a_batch_is_padded_on_the_right_to_its_longest() -> None:
    made = backbone("roberta")
    batch = collate(made, of_lengths([2, 9, 4]), np.array([2, 0]))
    assert batch.ids.tolist() == [[5, 6, 7, 8], [5, 6, 1, 1]]
    assert batch.mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.labels.tolist() == [1, 2]
    assert batch.index == (2, 0)
    assert batch.types is None
    typed = collate(
        backbone("bert"),
        encode(backbone("bert"), [example("a", "b"), example("no cat", "dog was")], prompt_rows=1),
        np.array([0, 1]),
    )
    assert typed.types is not None
    assert typed.types.tolist() == [[0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1, 1]]


def test_batches_follow_their_groups() -> None:
    data = of_lengths([2, 9, 4])
    made = list(batches(backbone("bert"), data, [np.array([1]), np.array([2, 0])]))
    assert [batch.index for batch in made] == [(1,), (2, 0)]
    assert [tuple(batch.ids.shape) for batch in made] == [(1, 9), (2, 4)]


def written(text: str, *references: str) -> Example:
    return Example(text, None, -1, references)


@pytest.mark.parametrize("name", ["t5", "gpt2", "llama"])
def test_targets_are_the_first_reference_and_its_end(name: str) -> None:
    made = backbone(name)
    examples = [
        written("movie", "good film", "bad"),
        written("cat dog", " red "),
        written("the", "one two three"),
    ]
    encoded = encode(made, examples, prompt_rows=2, max_new_tokens=3)
    known = made.tokenizer.convert_tokens_to_ids
    expected = [known(row) for row in (["good", "film", "</s>"], ["red", "</s>"], ["one", "two", "three"])]
    assert encoded.targets is not None
    assert [row.tolist() for row in encoded.targets] == expected
    assert encoded.truncated_targets == 1  # the third has no room for its end
    assert encoded.references == (("good film", "bad"), (" red ",), ("one two three",))
    assert encoded.gold == encoded.references
    batch = collate(made, encoded, np.array([2, 1]))
    assert batch.targets is not None
    assert batch.targets.tolist() == [expected[2], [*expected[1], -100]]
    part = encoded.take([1, 0])
    assert part.targets is not None
    assert [row.tolist() for row in part.targets] == [expected[1], expected[0]]
    assert part.references == ((" red ",), ("good film", "bad"))


def test_classes_have_no_targets() -> None:
    examples = [example("movie"), example("cat", label=1)]
    encoded = encode(backbone("t5"), examples, prompt_rows=2, max_new_tokens=3)
    assert encoded.targets is encoded.references is None
    assert collate(backbone("t5"), encoded, np.arange(2)).targets is None
    assert encoded.gold is encoded.labels


def test_a_causal_model_keeps_room_for_what_it_writes() -> None:
    examples = [written(LONG, "good")]
    assert encode(backbone("gpt2"), examples, prompt_rows=4, max_new_tokens=10).limit == 64 - 4 - 10
    assert encode(backbone("t5"), examples, prompt_rows=4, max_new_tokens=10).limit is None
    with pytest.raises(TaskError, match="no room for text"):
        encode(backbone("gpt2"), examples, prompt_rows=4, max_new_tokens=58)


def test_targets_need_a_limit_and_an_end() -> None:
    with pytest.raises(TaskError, match=r"max_new_tokens=task\.max_new_tokens"):
        encode(backbone("t5"), [written("movie", "good")], prompt_rows=2)
    endless = wrap(tiny.model("gpt2", eos_token_id=None), tiny.tokenizer("causal"))
    endless.tokenizer.eos_token = None
    with pytest.raises(TemplateError, match="no token that ends a text"):
        stop_ids(endless)


def test_the_tokens_that_end_a_text() -> None:
    made = wrap(tiny.model("llama", eos_token_id=[9, 2, 11]), tiny.tokenizer("causal"))
    assert stop_ids(made) == [2, 9, 11]  # the tokenizer's own first: the one that targets end with


def test_a_byte_level_vocabulary_goes_on_after_a_blank() -> None:
    """Where a blank and a letter are one token, that token follows a text, and not the letter's own."""
    vocabulary = {token: i for i, token in enumerate(["<e>", "\u0120", "a", "b", "\u0120a", "\u0120b"])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("\u0120", "a"), ("\u0120", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<e>", pad_token="<e>")
    for name, first in (("gpt2", "\u0120b"), ("t5", "b")):
        model = wrap(tiny.model(name), made)
        encoded = encode(model, [written("a", "b")], prompt_rows=2, max_new_tokens=3)
        assert encoded.targets is not None
        assert made.convert_ids_to_tokens(encoded.targets[0].tolist()) == [first, "<e>"]
