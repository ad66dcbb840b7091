"""From examples to length-bucketed batches of token ids; truncation is counted and never cuts prompt rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from transferscope.errors import TaskError, TemplateError
from transferscope.masks import counted
from transferscope.models import Backbone
from transferscope.tasks import Example
from transferscope.templates import Batch

TOKEN_BUDGET = 8192
Made = TypeVar("Made")
NO_TOKEN = -100  # stands behind the end of a target; cross-entropy leaves it out


@dataclass(frozen=True)
class Encoded:
    """A split as token ids: one int64 array an example, its segment ids (or None), labels [S] int64.

    ``truncated`` is how many of the S texts were longer than ``limit`` tokens. A generation task has
    ``references`` (texts, one or more an example) and ``targets``, the tokens of the first one with the token
    that ends it, int64; ``truncated_targets`` of them were longer than what may be written.
    """

    ids: tuple[np.ndarray, ...]
    types: tuple[np.ndarray, ...] | None
    labels: np.ndarray
    truncated: int = 0
    limit: int | None = None
    targets: tuple[np.ndarray, ...] | None = None
    references: tuple[tuple[str, ...], ...] | None = None
    truncated_targets: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens an example, [S] int64."""
        return np.array([len(ids) for ids in self.ids], dtype=np.int64)

    @property
    def gold(self) -> Any:
        """What a metric compares predictions with: the references, or the class ids [S]."""
        return self.labels if self.references is None else self.references

    def take(self, index: Sequence[int] | np.ndarray) -> Encoded:
        """The examples at these positions, in this order."""
        return replace(
            self,
            ids=tuple(self.ids[i] for i in index),
            types=None if self.types is None else tuple(self.types[i] for i in index),
            labels=self.labels[list(index)],
            targets=None if self.targets is None else tuple(self.targets[i] for i in index),
            references=None if self.references is None else tuple(self.references[i] for i in index),
        )


def encode(
    backbone: Backbone,
    examples: Sequence[Example],
    *,
    prompt_rows: int,
    max_length: int | None = None,
    max_new_tokens: int | None = None,
) -> Encoded:
    """Tokenise a split. Texts get what room the prompt's P rows leave (and at most ``max_length`` tokens).

    A pair is shortened at its longer text. Examples with references need ``max_new_tokens`` (the task's):
    targets are cut there, and a causal model keeps as much room for what it writes. Raises TaskError where
    there is no room for a text at all.
    """
    tokenizer = backbone.tokenizer
    if tokenizer is None:
        raise TemplateError(
            f"{backbone.name!r} has no tokenizer: give token ids, or load the model with its tokenizer"
        )
    written = any(example.references for example in examples)
    if written and max_new_tokens is None:
        raise TaskError("examples of a generation task are encoded with max_new_tokens=task.max_new_tokens")
    behind = max_new_tokens if written and backbone.architecture.kind == "decoder" else 0
    limit = room(backbone, prompt_rows + (behind or 0), max_length)
    texts = [example.text for example in examples]
    pairs = (
        [example.pair or "" for example in examples] if any(e.pair is not None for e in examples) else None
    )
    with_types = "token_type_ids" in tokenizer.model_input_names
    options = {"return_token_type_ids": with_types, "return_attention_mask": False, "verbose": False}
    full = tokenizer(texts, pairs, **options)
    ids = [np.array(row, dtype=np.int64) for row in full["input_ids"]]
    types = [np.array(row, dtype=np.int64) for row in full["token_type_ids"]] if with_types else None
    long = [] if limit is None else [i for i, row in enumerate(ids) if len(row) > limit]
    if long:  # these alone are tokenised again, so that the tokenizer decides what is cut
        few = [texts[i] for i in long], None if pairs is None else [pairs[i] for i in long]
        cut = tokenizer(*few, truncation=True, max_length=limit, **options)
        for place, i in enumerate(long):
            ids[i] = np.array(cut["input_ids"][place], dtype=np.int64)
            if types is not None:
                types[i] = np.array(cut["token_type_ids"][place], dtype=np.int64)
    labels = np.array([example.label for example in examples], dtype=np.int64)
    encoded = Encoded(tuple(ids), None if types is None else tuple(types), labels, len(long), limit)
    if not written or max_new_tokens is None:
        return encoded
    return _with_targets(backbone, encoded, [example.references for example in examples], max_new_tokens)


def _with_targets(
    backbone: Backbone, encoded: Encoded, references: list[tuple[str, ...]], most: int
) -> Encoded:
    """A split with the tokens of its first references, each ended, at most ``most`` with the end."""
    end = stop_ids(backbone)[0]
    before = _blank(backbone)
    texts = [before + several[0].strip() for several in references]
    rows = backbone.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)[
        "input_ids"
    ]
    full = [np.array([*row, end], dtype=np.int64) for row in rows]
    return replace(
        encoded,
        targets=tuple(row[:most] for row in full),
        references=tuple(references),
        truncated_targets=sum(len(row) > most for row in full),
    )


def _blank(backbone: Backbone) -> str:
    """What stands between a text and what is written after it.

    A causal model goes on in the same line. Where its vocabulary has tokens for words after a blank, these
    are what follows; where the tokenizer adds the blank by itself, or knows none, nothing is to be done.
    """
    encode = backbone.tokenizer.encode
    after_blank, bare = (encode(text, add_special_tokens=False) for text in (" a", "a"))
    distinct = after_blank != bare and len(after_blank) == len(bare)
    return " " if distinct and backbone.architecture.kind == "decoder" else ""


def stop_ids(backbone: Backbone) -> list[int]:
    """The tokens that end a written text, the tokenizer's own first. Raises TemplateError: there is none."""
    generation = getattr(backbone.model, "generation_config", None)
    ends = [
        getattr(holder, "eos_token_id", None) for holder in (backbone.tokenizer, backbone.config, generation)
    ]
    known = [token for end in ends if end is not None for token in (end if isinstance(end, list) else [end])]
    if not known:
        raise TemplateError(
            f"{backbone.name!r} has no token that ends a text (eos), so it cannot write texts"
        )
    return [int(token) for token in dict.fromkeys(known)]


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
    made = (collate(backbone, encoded, group) for group in groups)
    return one_ahead(made) if backbone.device.type == "cuda" else made


def one_ahead(made: Iterable[Made]) -> Iterator[Made]:
    """Each of these after the one behind it was made: so its copy to the device is on the way already."""
    held: list[Made] = []
    for one in made:
        held.append(one)
        if len(held) > 1:
            yield held.pop(0)
    yield from held


def on_device(values: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor there. To a GPU it goes from pinned memory, which the host does not wait for."""
    host = torch.from_numpy(values)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


def collate(backbone: Backbone, encoded: Encoded, group: np.ndarray) -> Batch:
    """One batch of the examples at positions ``group``."""
    lengths = np.array([len(encoded.ids[i]) for i in group])
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)

    def padded(rows: Sequence[np.ndarray] | None, fill: int) -> Tensor | None:
        return None if rows is None else on_device(_padded(rows, group, fill), backbone.device)

    return Batch(
        ids=on_device(_padded(encoded.ids, group, backbone.pad_id), backbone.device),
        mask=counted(on_device(mask, backbone.device), int(lengths.sum())),
        types=padded(encoded.types, 0),
        labels=on_device(encoded.labels[group], backbone.device),
        index=tuple(int(i) for i in group),
        targets=padded(encoded.targets, NO_TOKEN),
    )


def _padded(rows: Sequence[np.ndarray], group: np.ndarray, fill: int) -> np.ndarray:
    """These rows as one int64 array [B, longest]."""
    padded = np.full((len(group), max(len(rows[i]) for i in group)), fill, dtype=np.int64)
    for row, i in enumerate(group):
        padded[row, : len(rows[i])] = rows[i]
    return padded


@dataclass(frozen=True)
class Prepared:
    """An encoded split as batches on the device: made once, run by every prompt with this number of rows.

    ``groups`` are the positions of the examples of each batch.
    """

    data: Encoded
    rows: int
    groups: tuple[np.ndarray, ...]
    batches: tuple[Batch, ...]

    def __len__(self) -> int:
        return len(self.data)


def prepared(
    backbone: Backbone, data: Encoded, *, prompt_rows: int, token_budget: int = TOKEN_BUDGET
) -> Prepared:
    """Bucket a split by length for prompts of P rows (the mask row counted) and put it on the device."""
    groups = tuple(buckets(data, prompt_rows=prompt_rows, token_budget=token_budget))
    return Prepared(data, prompt_rows, groups, tuple(batches(backbone, data, groups)))
