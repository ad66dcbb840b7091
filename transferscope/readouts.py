"""What a task is read by: label words, a linear layer, or, of texts, the whole vocabulary word by word."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from transferscope import attachment, templates
from transferscope.attachment import Attached, Readout
from transferscope.encoding import NO_TOKEN
from transferscope.errors import TaskError, TemplateError, suggest
from transferscope.models import Backbone
from transferscope.prompts import Head
from transferscope.tasks import Task
from transferscope.templates import Batch


@dataclass(frozen=True)
class TextReadout:
    """Reads a text: the language-model head over all V words at the rows where the text is written.

    In an encoder-decoder model these are the decoder's rows; in a causal model they follow the prompt and the
    text (``prefix``) or the text and the prompt (``suffix``).
    """

    backbone: Backbone
    max_new_tokens: int

    def loss(self, attached: Attached, batch: Batch) -> Tensor:
        """Mean cross-entropy (nats) of a batch's target tokens, each after the right ones before it."""
        total, count = self.surprise(attached, batch)
        return total / count

    def surprise(self, attached: Attached, batch: Batch) -> tuple[Tensor, Tensor]:
        """The sum of -log p of a batch's target tokens, and how many they are.

        Differentiable with respect to the prompt. Raises TaskError where the batch has no targets.
        """
        logits, targets, _ = self._logits(attached, batch)
        total = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        return total, torch.full((), len(targets), device=total.device)

    def losses(self, attached: Attached, batch: Batch) -> Tensor:
        """The sum of -log p of the target tokens of each example, [B]; differentiable and raises likewise."""
        logits, targets, wanted = self._logits(attached, batch)
        each = torch.nn.functional.cross_entropy(logits, targets, reduction="none")  # [n]
        return each.new_zeros(wanted.shape).masked_scatter(wanted, each).sum(dim=1)

    def token_logits(self, attached: Attached, batch: Batch) -> tuple[Tensor, Tensor]:
        """The logits [n, V] of a batch's n target tokens, each after the right ones, and these tokens [n].

        Raises TaskError where the batch has no targets.
        """
        logits, targets, _ = self._logits(attached, batch)
        return logits, targets

    def _logits(self, attached: Attached, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [n, V] at the n target tokens of a batch, those tokens [n], and where they are, [B, Tt]."""
        if batch.targets is None:
            raise TaskError("these examples have no targets: a text readout is for a generation task")
        rows = self._rows(attached, batch, batch.targets)  # [B, Tt, D]
        wanted = batch.targets != NO_TOKEN
        return self.backbone.vocabulary_logits(rows[wanted]), batch.targets[wanted], wanted

    def _rows(self, attached: Attached, batch: Batch, targets: Tensor) -> Tensor:
        """The last hidden states from which each target token is read, [B, Tt, D]."""
        placed, backbone = attached.place(batch), self.backbone
        known = targets != NO_TOKEN
        before = backbone.embed(targets.masked_fill(~known, backbone.pad_id)[:, :-1])  # [B, Tt - 1, E]
        if backbone.architecture.kind == "encoder-decoder":
            start = backbone.decoder_start(len(targets))
            return backbone.hidden(
                placed.embeds, placed.mask, placed.types, torch.cat([start, before], dim=1)
            )
        embeds, mask = templates.follow(placed, before, known[:, 1:].to(placed.mask.dtype))
        hidden = backbone.hidden(embeds, mask)
        first = placed.mask.sum(dim=1, keepdim=True) - 1  # the row from which the first token is read
        index = first + torch.arange(targets.shape[1], device=first.device)  # [B, Tt]
        index = index.clamp(max=hidden.shape[1] - 1)  # behind a target's end anything may be read
        return hidden.gather(1, index.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))


AnyReadout = Readout | TextReadout


def readout_for(
    backbone: Backbone, task: Task, head: str = "verbalizer", *, layer: Head | None = None
) -> AnyReadout:
    """The readout of a task: of a generation task the text, else its label words or the linear ``layer``.

    The task's own readout serves the prompts of all tasks. Raises TemplateError where the head is unknown,
    where model or task lack what it needs, and for a classifier without its layer.
    """
    if head not in templates.HEADS:
        raise TemplateError(f"unknown head {head!r}. {suggest(head, templates.HEADS)}")
    if task.kind == "generation":
        check_writes(backbone, task)
        return TextReadout(backbone, task.max_new_tokens)
    if head == "verbalizer":
        return attachment.verbalizer(backbone, head_words(backbone, task))
    if layer is None:
        raise TemplateError(
            f"task {task.name!r}: head 'classifier' reads through the linear layer that was tuned with a "
            "prompt, and none is given"
        )
    return attachment.classifier(backbone, layer)


def head_words(backbone: Backbone, task: Task) -> tuple[int, ...]:
    """The label word ids of a task on a backbone; none for a generation task.

    Raises TemplateError where the backbone has no language-model head or the task no words, or where the
    backbone cannot write a generation task's texts.
    """
    if task.kind == "generation":
        check_writes(backbone, task)
        return ()
    if not backbone.has_lm_head:
        raise TemplateError(
            f"{backbone.name!r} has no language-model head, so no verbalizer: use head: classifier"
        )
    if task.words is None:
        raise TemplateError(
            f"task {task.name!r} has no label words ('words'): give one a class, or use head: classifier"
        )
    return tuple(templates.label_word_ids(backbone.tokenizer, task.words, task.labels, task.name))


def check_writes(backbone: Backbone, task: Task) -> None:
    """Raises TemplateError unless the backbone is a causal or encoder-decoder language model."""
    kind = backbone.architecture.kind
    if kind == "encoder":
        raise TemplateError(
            f"task {task.name!r} is a generation task, and {backbone.name!r} is an encoder "
            f"({backbone.architecture.model_type}), which cannot write texts: use an encoder-decoder model "
            "(t5) or a causal one (gpt2, llama)"
        )
    if not backbone.has_lm_head:
        raise TemplateError(
            f"task {task.name!r} is a generation task, and {backbone.name!r} was loaded without its "
            "language-model head: use head: verbalizer"
        )
