"""Where prompt rows stand beside the text, where the label is read, and which token stands for which class.

``mask-first``  ``[MASK] p1 .. pP-1 x``  encoders; read at the mask row (row 0), as in both seed papers
``prefix``      ``p1 .. pP x``           any model, as PEFT does; read at the CLS row, the decoder start or
the last row ``suffix``      ``x p1 .. pP``           causal models; read at the last prompt row
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from transferscope.errors import TemplateError, suggest
from transferscope.masks import Counted, counted

TEMPLATES = {
    "mask-first": ("encoder",),
    "prefix": ("encoder", "encoder-decoder", "decoder"),
    "suffix": ("decoder",),
}
DEFAULTS = {"encoder": "mask-first", "encoder-decoder": "prefix", "decoder": "prefix"}
HEADS = ("verbalizer", "classifier")


@dataclass(frozen=True)
class Batch:
    """Texts as right-padded token rows: ids, mask (1 = text) and types (or None), each [B, T] int64.

    ``labels`` [B] int64 are class ids; ``index`` are the positions of the examples in their split.
    ``targets`` [B, Tt] int64 are the tokens to be written, -100 behind their end; None where the label is a
    class.
    """

    ids: Tensor
    mask: Tensor
    types: Tensor | None
    labels: Tensor
    index: tuple[int, ...]
    targets: Tensor | None = None


@dataclass(frozen=True)
class Placed:
    """Input rows of one batch: embeds [B, Q, E], mask [B, Q], types [B, Q] or None.

    ``prompt`` picks the prompt rows (a slice, or row numbers [B, P] where they differ by example) and
    ``readout`` [B] is the row where the label is read (in the decoder, for an encoder-decoder).
    """

    embeds: Tensor
    mask: Tensor
    types: Tensor | None
    prompt: slice | Tensor
    readout: Tensor


def check(template: str, kind: str) -> str:
    """The template's name, if it fits this kind of model; otherwise TemplateError says which do."""
    if template not in TEMPLATES:
        raise TemplateError(f"unknown template {template!r}. {suggest(template, TEMPLATES)}")
    if kind not in TEMPLATES[template]:
        fitting = [name for name, kinds in TEMPLATES.items() if kind in kinds]
        raise TemplateError(
            f"template {template!r} does not fit a model of kind {kind!r}: it is for "
            f"{' and '.join(TEMPLATES[template])} models. Use {' or '.join(fitting)}."
        )
    return template


def place(
    template: str, kind: str, prompt: Tensor, text: Tensor, mask: Tensor, types: Tensor | None
) -> Placed:
    """Put prompt rows [P, E] (with the mask row, if there is one) beside text embeddings [B, T, E].

    Prompt rows [B, P, E] are each example's own.
    """
    size, rows = text.shape[0], prompt.shape[-2]
    prompts = prompt.to(text.dtype).expand(size, -1, -1)  # [B, P, E]
    ones, zeros = mask.new_ones(size, rows), mask.new_zeros(size, rows)
    if template == "suffix":
        return _after_text(prompts, text, mask, types)
    embeds = torch.cat([prompts, text], dim=1)  # [B, P + T, E]
    full = torch.cat([ones, mask], dim=1)
    kinds = None if types is None else torch.cat([zeros, types], dim=1)
    if template == "mask-first" or kind == "encoder-decoder":
        readout = mask.new_zeros(size)
    elif kind == "encoder":
        readout = mask.new_full((size,), rows)
    else:
        readout = rows + mask.sum(dim=1) - 1
    return Placed(embeds, full, kinds, slice(0, rows), readout)


def _after_text(prompts: Tensor, text: Tensor, mask: Tensor, types: Tensor | None) -> Placed:
    # The prompt follows the last text token of each example, so padding stays at the right and changes
    # nothing.
    size, rows = prompts.shape[:2]
    lengths = mask.sum(dim=1)
    order, embeds, full = _joined(text, mask, prompts, mask.new_ones(size, rows))
    kinds = None if types is None else torch.cat([types, types.new_zeros(size, rows)], dim=1).gather(1, order)
    index = lengths.unsqueeze(1) + torch.arange(rows, device=mask.device)  # [B, P]
    return Placed(embeds, full, kinds, index, lengths + rows - 1)


def padded_left(placed: Placed) -> Placed:
    """The same rows with the padding in front of them, so that what comes next stands right behind.

    Windows of attention and biases by distance count columns: with a gap they would not be those of the
    example alone. ``types`` are left out: causal models have none.
    """
    width = placed.mask.shape[1]
    order = torch.sort(placed.mask, dim=1, stable=True).indices  # padding first, the rest in its order
    padding = width - placed.mask.sum(dim=1)  # [B]
    rows = placed.prompt
    if isinstance(rows, slice):
        rows = torch.arange(*rows.indices(width), device=padding.device).unsqueeze(0)
    embeds = placed.embeds.gather(1, order.unsqueeze(-1).expand_as(placed.embeds))
    mask = placed.mask.gather(1, order)
    if isinstance(placed.mask, Counted):
        mask = counted(mask, placed.mask.ones)
    return Placed(embeds, mask, None, rows + padding.unsqueeze(1), placed.readout + padding)


def follow(placed: Placed, rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [B, R, E] (mask [B, R]) behind the last row of each example: embeds [B, Q + R, E], their mask.

    So a causal model reads each example as if it stood alone, padding at its right.
    """
    _, embeds, full = _joined(placed.embeds, placed.mask, rows.to(placed.embeds.dtype), mask)
    return embeds, full


def _joined(
    first: Tensor, first_mask: Tensor, second: Tensor, second_mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The order [B, Q + R] that moves all padding to the right, and the rows and their mask in it."""
    key = torch.cat([2 * (1 - first_mask), 3 - 2 * second_mask], dim=1)  # first 0, second 1, padding 2 and 3
    order = torch.sort(key, dim=1, stable=True).indices
    joined = torch.cat([first, second], dim=1)
    embeds = joined.gather(1, order.unsqueeze(-1).expand(-1, -1, joined.shape[-1]))
    return order, embeds, torch.cat([first_mask, second_mask], dim=1).gather(1, order)


def probed(template: str, kind: str, rows: str) -> str:
    """Which rows of a stack are recorded: ``prompt`` or ``readout``.

    The prompt rows of a causal prefix come before the text and never see it, so there the readout row is
    probed.
    """
    return "readout" if kind == "decoder" and template == "prefix" else rows


def label_word_ids(
    tokenizer: Any, words: Sequence[str], labels: Sequence[str], task: str = "task"
) -> list[int]:
    """The token id of each label word, one a class.

    A word is tried as it follows a space (byte-level and sentencepiece vocabularies), then as it is; a word
    that starts with a space is taken exactly so. Raises TemplateError for a word of several tokens (with its
    pieces), an unknown word, and two classes with the same token.
    """
    ids: list[int] = []
    for word, label in zip(words, labels, strict=True):
        ids.append(_word_id(tokenizer, word, label, task))
        if ids[-1] in ids[:-1]:
            other = labels[ids.index(ids[-1])]
            raise TemplateError(
                f"task {task!r}: the label words of {other!r} and {label!r} are the same token "
                f"({tokenizer.convert_ids_to_tokens(ids[-1])!r}); each class needs its own"
            )
    return ids


def _word_id(tokenizer: Any, word: str, label: str, task: str) -> int:
    if not word.strip():
        raise TemplateError(f"task {task!r}: the label word of {label!r} is empty")
    tries = [word] if word != word.lstrip() else [" " + word, word]
    pieces = [tokenizer.encode(text, add_special_tokens=False) for text in tries]
    # A vocabulary that splits nothing knows the word with a space, or without, but not both.
    single = [piece[0] for piece in pieces if len(piece) == 1]
    known = [token for token in single if token != tokenizer.unk_token_id]
    if known:
        return int(known[0])
    if not single:
        shown = " + ".join(repr(token) for token in tokenizer.convert_ids_to_tokens(min(pieces, key=len)))
        raise TemplateError(
            f"task {task!r}: the label word {word!r} of {label!r} is {min(map(len, pieces))} tokens "
            f"({shown}); a label word must be one token of the model's vocabulary: choose another word"
        )
    raise TemplateError(
        f"task {task!r}: the label word {word!r} of {label!r} is not in the model's vocabulary"
    )
