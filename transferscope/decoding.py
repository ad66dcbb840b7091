"""Greedy decoding under an attached prompt: in batches, with the key-value cache, one row a step."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from transferscope.attachment import Attached
from transferscope.encoding import Prepared, stop_ids
from transferscope.masks import Counted, counted
from transferscope.models import Backbone
from transferscope.templates import Batch, Placed, padded_left

LOOK = 4  # steps between two looks at whether all texts have ended: a look waits for the device

# Takes the tokens [B] just written; gives the hidden rows [B, D] that the next ones are read from.
Step = Callable[[Tensor], Tensor]
Attach = Callable[[Batch], Attached]


def generate(
    attached: Attached, data: Prepared, *, max_new_tokens: int, by: Attach | None = None
) -> list[str]:
    """What the model writes after each text of a split, by always taking the likeliest token.

    Special tokens are left out, and blanks at both ends. Each text is what it would be alone, up to rounding:
    neither the padding nor the other texts of its batch change it. ``by``: what is attached for a batch,
    where its examples have prompts of their own.
    """
    rows = generate_ids(attached, data, max_new_tokens=max_new_tokens, by=by)
    tokenizer = attached.backbone.tokenizer
    texts = tokenizer.batch_decode([row.tolist() for row in rows], skip_special_tokens=True)
    return [text.strip() for text in texts]


def generate_ids(
    attached: Attached, data: Prepared, *, max_new_tokens: int, by: Attach | None = None
) -> list[np.ndarray]:
    """The tokens of `generate`, one int64 array an example, without the one that ends it."""
    stops = stop_ids(attached.backbone)
    found: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(data)

    def write(part: Batch) -> np.ndarray:
        own = attached if by is None else by(part)
        return greedy(own, part, stops, max_new_tokens).cpu().numpy()  # [B, steps]

    with torch.inference_mode(), attached.backbone.rounding():
        for group, batch in zip(data.groups, data.batches, strict=True):
            beside = attached.rows + max_new_tokens
            parts = attached.backbone.fitting.run("generation", batch, write, beside=beside)
            for place, row in zip(group.tolist(), chain(*parts), strict=True):
                ended = np.flatnonzero(np.isin(row, stops))
                found[place] = row[: ended[0]] if len(ended) else row
    return found


def greedy(attached: Attached, batch: Batch, stops: list[int], most: int) -> Tensor:
    """Tokens [B, steps] of one batch; behind a text's end stands its stop token again and again."""
    backbone = attached.backbone
    ends = torch.tensor(stops, device=batch.ids.device)
    tokens = torch.full((len(batch.ids), most), stops[0], dtype=torch.int64, device=batch.ids.device)
    finished = torch.zeros(len(batch.ids), dtype=torch.bool, device=batch.ids.device)
    rows, step = _begun(attached, batch, most)
    for number in range(most):
        token = backbone.vocabulary_logits(rows).argmax(dim=-1).masked_fill(finished, stops[0])
        tokens[:, number] = token
        finished |= torch.isin(token, ends)
        if number % LOOK == LOOK - 1 and bool(finished.all()):
            return tokens[:, : number + 1]
        if number + 1 < most:
            rows = step(token)
    return tokens


def _begun(attached: Attached, batch: Batch, most: int) -> tuple[Tensor, Step]:
    """The rows [B, D] that the first tokens are read from, and the step that goes on."""
    placed = attached.place(batch)
    if attached.backbone.architecture.kind == "encoder-decoder":
        return _decoder(attached.backbone, placed)
    return _causal(attached.backbone, attached.moved(padded_left(placed)), most)


def _decoder(backbone: Backbone, placed: Placed) -> tuple[Tensor, Step]:
    """The encoder once; then the decoder, a row a step."""
    embeds, mask = placed.embeds.to(backbone.dtype), placed.mask
    encoded = backbone.base.get_encoder()(inputs_embeds=embeds, attention_mask=mask)[0]
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    seen = _additive(mask, encoded.dtype)

    def read(rows: Tensor) -> Tensor:
        return backbone.base.get_decoder()(
            inputs_embeds=rows,
            encoder_hidden_states=encoded,
            encoder_attention_mask=seen,
            past_key_values=cache,
            use_cache=True,
        )[0][:, -1].to(backbone.device)

    return read(backbone.decoder_start(len(mask))), lambda token: read(backbone.embed(token.unsqueeze(1)))


def _causal(backbone: Backbone, placed: Placed, most: int) -> tuple[Tensor, Step]:
    """Prompt and text in one pass; then a row a step. Padding stands at the left (`padded_left`)."""
    cache, lengths, width = DynamicCache(), placed.mask.sum(dim=1), placed.mask.shape[1]
    everything = torch.cat([placed.mask, placed.mask.new_ones(len(lengths), most)], dim=1)
    takes_positions = "position_ids" in inspect.signature(backbone.base.forward).parameters

    def read(rows: Tensor, written: int, positions: Tensor) -> Tensor:
        mask = everything[:, : width + written]
        if isinstance(placed.mask, Counted):
            mask = counted(mask, placed.mask.ones + written * len(mask))
        return backbone.base(
            inputs_embeds=rows.to(backbone.dtype),
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **({"position_ids": positions} if takes_positions else {}),
        )[0][:, -1].to(backbone.device)

    def step(token: Tensor) -> Tensor:
        written = cache.get_seq_length() - width
        return read(backbone.embed(token.unsqueeze(1)), written + 1, (lengths + written).unsqueeze(1))

    return read(placed.embeds, 0, (placed.mask.cumsum(dim=1) - 1).clamp(min=0)), step


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask [B, Q] as what is added to attention scores, [B, 1, 1, Q].

    Given the mask in its own form, the models look at its values in every pass, and wait for the device.
    """
    return (1.0 - mask[:, None, None, :].to(dtype)) * torch.finfo(dtype).min
