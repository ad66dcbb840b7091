"""From examples to length-bucketed batches of token ids; truncation is counted and never cuts prompt rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from transferscope.errors import TaskError, TemplateError
from transferscope.models import Backbone
from transferscope.tasks import Example
from transferscope.templates import Batch


@dataclass(frozen=True)
class Encoded:
    """A split as token ids: one int64 array an example, its segment ids (or None), labels [S] int64.

    ``truncated`` is how many of the S texts were longer than ``limit`` tokens.
    """

    ids: tuple[np.ndarray, ...]
    types: tuple[np.ndarray, ...] | None
    labels: np.ndarray
    truncated: int = 0
    limit: int | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens an example, [S] int64."""
        return np.array([len(ids) for ids in self.ids], dtype=np.int64)

    def take(self, index: Sequence[int] | np.ndarray) -> Encoded:
        """The examples at these positions, in this order."""
        types = None if self.types is None else tuple(self.types[i] for i in index)
        return Encoded(
            tuple(self.ids[i] for i in index), types, self.labels[list(index)], self.truncated, self.limit
        )


def encode(
    backbone: Backbone, examples: Sequence[Example], *, prompt_rows: int, max_length: int | None = None
) -> Encoded:
    """Tokenise a split. Texts get what room the prompt's P rows leave (and at most ``max_length`` tokens).

    A pair is shortened at its longer text. Raises TaskError where there is no room for a text at all.
    """
    tokenizer = backbone.tokenizer
    if tokenizer is None:
        raise TemplateError(
            f"{backbone.name!r} has no tokenizer: give token ids, or load the model with its tokenizer"
        )
    limit = room(backbone, prompt_rows, max_length)
    texts = [example.text for example in examples]
    pairs = (
        [example.pair or "" for example in examples] if any(e.pair is not None for e in examples) else None
    )
    with_types = "token_type_ids" in tokenizer.model_input_names
    if limit is None:
        cut = full = tokenizer(texts, pairs, return_token_type_ids=with_types, verbose=False)
    else:
        full = tokenizer(
            texts, pairs, return_token_type_ids=False, return_attention_mask=False, verbose=False
        )
        cut = tokenizer(texts, pairs, return_token_type_ids=with_types, truncation=True, max_length=limit)
    truncated = 0 if limit is None else sum(len(ids) > limit for ids in full["input_ids"])
    ids = tuple(np.array(row, dtype=np.int64) for row in cut["input_ids"])
    types = tuple(np.array(row, dtype=np.int64) for row in cut["token_type_ids"]) if with_types else None
    labels = np.array([example.label for example in examples], dtype=np.int64)
    return Encoded(ids, types, labels, truncated, limit)


def from_token_ids(pairs: Sequence[tuple[Sequence[int], int]]) -> Encoded:
    """A split given as (token ids, label), specials included."""
    if not pairs:
        raise TaskError("no examples: expected a sequence of (token_ids, label)")
    ids = tuple(np.asarray(tokens, dtype=np.int64) for tokens, _ in pairs)
    return Encoded(ids, None, np.array([label for _, label in pairs], dtype=np.int64))


def empty_text(backbone: Backbone) -> Encoded:
    """The empty input of a stimulation: the model's first special token alone (CLS or BOS; EOS for T5)."""
    tokenizer, config = backbone.tokenizer, backbone.model.config
    candidates = [
        getattr(tokenizer, "cls_token_id", None),
        getattr(tokenizer, "bos_token_id", None),
        getattr(config, "bos_token_id", None),
        getattr(tokenizer, "eos_token_id", None),
        getattr(config, "eos_token_id", None),
    ]
    known = [
        token[0] if isinstance(token, list) else token for token in candidates if token not in (None, [])
    ]
    if not known:
        raise TemplateError(
            f"{backbone.name!r} has no CLS, BOS or EOS token to stand for an empty text: give its token ids"
        )
    return from_token_ids([([known[0]], 0)])


def room(backbone: Backbone, prompt_rows: int, max_length: int | None) -> int | None:
    """How many text tokens fit beside P prompt rows; None where nothing limits them.

    Raises TaskError below 4.
    """
    places = [] if backbone.max_positions is None else [backbone.max_positions - prompt_rows]
    if max_length is not None:
        places.append(max_length)
    if not places:
        return None
    if min(places) < 4:
        positions = "no limit of" if backbone.max_positions is None else backbone.max_positions
        raise TaskError(
            f"no room for text: {backbone.name!r} has {positions} positions, the prompt takes {prompt_rows} "
            f"and max_length is {max_length}, and a text needs at least 4; "
            "use fewer prompt rows or a larger max_length"
        )
    return min(places)


def buckets(encoded: Encoded, *, prompt_rows: int, token_budget: int) -> list[np.ndarray]:
    """Positions of the examples by batch: sorted by length, within a budget of rows (prompt rows counted).

    Similar lengths stand together, so little is computed on padding. Longest first: what does not fit fails
    at once.
    """
    lengths = encoded.lengths
    order = np.argsort(-lengths, kind="stable")
    groups: list[np.ndarray] = []
    start = 0
    while start < len(order):
        size = max(1, token_budget // (int(lengths[order[start]]) + prompt_rows))
        groups.append(order[start : start + size])
        start += size
    return groups


def in_order(count: int, size: int) -> list[np.ndarray]:
    """Positions in data order, ``size`` a batch: what the reference procedures do."""
    return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]


def batches(backbone: Backbone, encoded: Encoded, groups: Sequence[np.ndarray]) -> Iterator[Batch]:
    """The batches of these groups on the backbone's device, right-padded to the longest of each."""
    for group in groups:
        yield collate(backbone, encoded, group)


def collate(backbone: Backbone, encoded: Encoded, group: np.ndarray) -> Batch:
    """One batch of the examples at positions ``group``."""
    width = max(len(encoded.ids[i]) for i in group)
    ids = np.full((len(group), width), backbone.pad_id, dtype=np.int64)
    mask = np.zeros((len(group), width), dtype=np.int64)
    types = None if encoded.types is None else np.zeros((len(group), width), dtype=np.int64)
    for row, i in enumerate(group):
        size = len(encoded.ids[i])
        ids[row, :size], mask[row, :size] = encoded.ids[i], 1
        if types is not None:
            types[row, :size] = encoded.types[i]  # type: ignore[index]
    device = backbone.device
    return Batch(
        ids=torch.from_numpy(ids).to(device),
        mask=torch.from_numpy(mask).to(device),
        types=None if types is None else torch.from_numpy(types).to(device),
        labels=torch.from_numpy(encoded.labels[group]).to(device),
        index=tuple(int(i) for i in group),
    )
