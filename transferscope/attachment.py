"""How a soft prompt enters a frozen model: its initial rows, and a forward pass with it attached.

The only file that knows this; everything above sees something attached, its probed rows and its readout row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

import numpy as np
import torch
from torch import Tensor

from transferscope import templates, text_cache
from transferscope.errors import PromptError, TemplateError
from transferscope.masks import Counted, counted
from transferscope.models import Backbone
from transferscope.prompts import Head, SoftPrompt
from transferscope.templates import Batch, Placed
from transferscope.text_cache import AfterText, ReadText

INITS = ("random", "label-words", "vocabulary")


@dataclass(frozen=True)
class Attached:
    """A backbone with a prompt: ``prompt`` [P', E], which may require gradients, in a template.

    A prompt [B, P', E] has rows of its own for each of the B examples of one batch.
    """

    backbone: Backbone
    template: str
    prompt: Tensor
    mask_row: Tensor | None

    @property
    def rows(self) -> int:
        """P: how many rows stand in front of (or behind) the text."""
        return self.prompt.shape[-2] + (self.mask_row is not None)

    @property
    def shares_texts(self) -> bool:
        """Whether a text's keys and values are the same without this prompt (see `text_cache`)."""
        return text_cache.shares(self.backbone, self.template, self.rows)

    def place(self, batch: Batch) -> Placed:
        """The input rows of a batch with the prompt in its place."""
        prompt = self.prompt
        if self.mask_row is not None:
            prompt = torch.cat([self.mask_row.expand(*prompt.shape[:-2], -1, -1), prompt], dim=-2)
        text = self.backbone.embed(batch.ids)
        placed = templates.place(
            self.template, self.backbone.architecture.kind, prompt, text, batch.mask, batch.types
        )
        if not isinstance(batch.mask, Counted):
            return placed
        return replace(placed, mask=counted(placed.mask, batch.mask.ones + len(batch.mask) * self.rows))

    def moved(self, placed: Placed) -> Placed:
        """Rows that now stand elsewhere, for a pass that is not `forward`: whoever follows them is told."""
        return placed

    def forward(self, placed: Placed) -> Tensor:
        """The last hidden state at the readout row, [B, D]."""
        if isinstance(placed, AfterText):
            hidden = text_cache.hidden(self.backbone, placed)
        else:
            hidden = self.backbone.hidden(placed.embeds, placed.mask, placed.types)
        return hidden[torch.arange(hidden.shape[0], device=hidden.device), placed.readout]


def placements(several: Sequence[Attached], batch: Batch) -> Iterator[Placed]:
    """Each prompt beside the texts of a batch, which are read once for all those that can share them.

    The texts are read without gradients, when the first of these prompts is asked for.
    """
    text: ReadText | None = None
    for one in several:
        if one.shares_texts and batch.ids.shape[1]:
            text = text_cache.read(one.backbone, batch) if text is None else text
            yield text_cache.follow(text, one.prompt)
        else:
            yield one.place(batch)


@dataclass(frozen=True)
class Readout:
    """From the readout row [B, D] to class logits [B, K]: label words by the LM head, or a linear layer.

    The layer is ``weight`` [K, D] and ``bias`` [K], or one for each example: [B, K, D] and [B, K].
    """

    backbone: Backbone
    word_ids: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None

    def logits(self, rows: Tensor) -> Tensor:
        """Class logits [B, K], float32."""
        if self.word_ids is not None:
            return self.backbone.label_logits(rows, self.word_ids)
        if self.weight is not None and self.bias is not None and self.weight.ndim == 3:
            return (self.weight @ rows.float().unsqueeze(-1)).squeeze(-1) + self.bias
        return torch.nn.functional.linear(rows.float(), self.weight, self.bias)  # type: ignore[arg-type]

    def loss(self, attached: Attached, batch: Batch, placed: Placed | None = None) -> Tensor:
        """Mean cross-entropy of a batch (nats), differentiable with respect to the prompt.

        ``placed``: the prompt beside the batch's texts, where that is made already.
        """
        logits = self.logits(attached.forward(attached.place(batch) if placed is None else placed))
        return torch.nn.functional.cross_entropy(logits.float(), batch.labels)

    def losses(self, attached: Attached, batch: Batch) -> Tensor:
        """The cross-entropy of each example of a batch (nats), [B], differentiable as ``loss`` is."""
        logits = self.logits(attached.forward(attached.place(batch)))
        return torch.nn.functional.cross_entropy(logits.float(), batch.labels, reduction="none")


def attach(backbone: Backbone, prompt: SoftPrompt | Tensor, template: str | None = None) -> Attached:
    """Attach a prompt (or a tensor of its rows P', the mask row not among them).

    Raises PromptError, TemplateError.
    """
    name = template or (prompt.template if isinstance(prompt, SoftPrompt) else None)
    if isinstance(prompt, SoftPrompt):
        rows = torch.from_numpy(np.array(prompt.rows, dtype=np.float32)).to(backbone.device)
    else:
        rows = prompt
    attached = attach_rows(backbone, rows, name or templates.DEFAULTS[backbone.architecture.kind])
    return replace(attached, mask_row=mask_row(backbone)) if attached.template == "mask-first" else attached


def attach_rows(backbone: Backbone, rows: Tensor, template: str) -> Attached:
    """Attach all P rows as they are, the mask row included where the template has one."""
    templates.check(template, backbone.architecture.kind)
    if rows.ndim != 2 or rows.shape[1] != backbone.embedding_size:
        raise PromptError(
            f"prompt rows of shape {tuple(rows.shape)} do not fit {backbone.name!r}, "
            f"whose input embeddings are {backbone.embedding_size} wide"
        )
    return Attached(backbone, template, rows, None)


def mask_row(backbone: Backbone) -> Tensor:
    """The input embedding of the mask token, [1, E]."""
    token = getattr(backbone.tokenizer, "mask_token_id", None)
    if token is None:
        raise TemplateError(
            f"template 'mask-first' needs a mask token, and the tokenizer of {backbone.name!r} has none"
        )
    return backbone.embed(torch.tensor([token], device=backbone.device)).detach()


def verbalizer(backbone: Backbone, word_ids: Sequence[int]) -> Readout:
    """Read classes as label words through the model's own LM head."""
    return Readout(backbone, word_ids=torch.tensor(list(word_ids), device=backbone.device))


def classifier(backbone: Backbone, head: Head) -> Readout:
    """Read classes through a linear layer stored with the prompt."""
    weight, bias = (torch.from_numpy(np.array(part, dtype=np.float32)) for part in (head.weight, head.bias))
    return Readout(backbone, weight=weight.to(backbone.device), bias=bias.to(backbone.device))


def initial_rows(
    backbone: Backbone,
    rows: int,
    *,
    init: str | SoftPrompt = "vocabulary",
    word_ids: Sequence[int] = (),
    candidates: Sequence[int] | None = None,
    seed: int = 0,
) -> Tensor:
    """The rows [rows, E] float32 from which tuning starts.

    ``random``: normal with the mean and standard deviation of the embedding table, by coordinate;
    ``vocabulary``: embeddings of tokens drawn without replacement from ``candidates`` (the tokens of the
    task's texts; None: the whole vocabulary); ``label-words``: the label words first, then as ``vocabulary``
    (Lester et al. 2021); or another prompt, whose number of rows is then kept.
    """
    if isinstance(init, SoftPrompt):
        return attach(backbone, init, init.template).prompt.clone()
    if init not in INITS:
        raise PromptError(f"unknown initialisation {init!r}; use {', '.join(INITS)} or another prompt")
    table = backbone.embeddings
    generator = torch.Generator().manual_seed(seed)
    if init == "random":
        noise = torch.randn(rows, table.shape[1], generator=generator).to(table.device)
        return table.float().mean(0) + table.float().std(0) * noise
    known = sorted(set(range(table.shape[0]) if candidates is None else candidates))
    first = list(word_ids) if init == "label-words" else []
    if init == "label-words" and not first:
        raise PromptError("initialisation 'label-words' needs a verbalizer head and label words")
    order = torch.randperm(len(known), generator=generator).tolist()
    others = [known[i] for i in order if known[i] not in (backbone.pad_id, *first)]
    if not first + others:
        raise PromptError(
            f"initialisation {init!r} needs at least one token that is not padding, found {known}"
        )
    taken = list(islice(cycle(first + others), rows))  # where tokens are fewer than rows, some appear again
    return backbone.embed(torch.tensor(taken, device=table.device)).detach().float().clone()
