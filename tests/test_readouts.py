"""The readout of a task: the token loss equal to the stock model's own, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from transferscope.attachment import Attached, Readout, attach
from transferscope.encoding import Encoded, collate, encode, from_token_ids
from transferscope.errors import TaskError, TemplateError
from transferscope.models import Backbone, wrap
from transferscope.prompts import Head
from transferscope.readouts import TextReadout, check_writes, head_words, readout_for
from transferscope.tasks import Example, Task

CASES = [
    ("t5", "prefix"),
    ("t5-gated", "prefix"),
    ("gpt2", "suffix"),
    ("llama", "prefix"),
    ("llama", "suffix"),
]
PAIRS = [("cat dog red", "blue"), ("movie", "the film was good"), ("we like the music so much", "two three")]


def written(**fields: Any) -> Task:
    examples = tuple(Example(text, None, -1, (right, "other")) for text, right in PAIRS)
    return Task("g", examples, examples, (), metric="exact_match", **fields)


def classified(words: tuple[str, ...] | None = ("good", "bad")) -> Task:
    examples = tuple(Example(text, None, i % 2) for i, (text, _) in enumerate(PAIRS))
    return Task("c", examples, examples, ("yes", "no"), words)


def backbone_of(name: str, **options: Any) -> Backbone:
    return wrap(tiny.model(name, **options), tiny.tokenizer(tiny.tokenizer_kind(name)))


def under(backbone: Backbone, template: str) -> Attached:
    rows = torch.randn(3, backbone.embedding_size, generator=torch.Generator().manual_seed(0))
    return attach(backbone, rows.requires_grad_(True), template)


def encoded(prompt: Attached, task: Task) -> Encoded:
    return encode(prompt.backbone, task.train, prompt_rows=prompt.rows, max_new_tokens=task.max_new_tokens)


@torch.no_grad()
def stock_nll(prompt: Attached, text: str, target: list[int], template: str) -> float:
    """Sum of -log p of a target by the stock model, one example, no padding."""
    backbone = prompt.backbone
    ids = torch.tensor([backbone.tokenizer(text)["input_ids"]])
    embeds, labels = backbone.embed(ids), torch.tensor([target])
    rows = prompt.prompt.unsqueeze(0)
    inputs = torch.cat([embeds, rows] if template == "suffix" else [rows, embeds], dim=1)
    if backbone.architecture.kind == "encoder-decoder":
        return float(backbone.model(inputs_embeds=inputs, labels=labels).loss) * len(target)
    inputs = torch.cat([inputs, backbone.embed(labels)], dim=1)
    unread = torch.full((1, inputs.shape[1] - len(target)), -100)
    logits = backbone.model(inputs_embeds=inputs).logits[:, :-1]
    wanted = torch.cat([unread, labels], dim=1)[:, 1:]
    return float(torch.nn.functional.cross_entropy(logits[0], wanted[0], reduction="sum"))


@pytest.mark.parametrize(("name", "template"), CASES)
def test_the_token_loss_is_the_stock_models(name: str, template: str) -> None:
    prompt, task = under(backbone_of(name), template), written()
    data = encoded(prompt, task)
    readout = readout_for(prompt.backbone, task)
    assert isinstance(readout, TextReadout)
    assert data.targets is not None
    sums = [
        stock_nll(prompt, example.text, target.tolist(), template)
        for example, target in zip(task.train, data.targets, strict=True)
    ]
    tokens = sum(map(len, data.targets))
    batch = collate(prompt.backbone, data, np.array([1, 0, 2]))  # texts and targets of other lengths together
    total, count = readout.surprise(prompt, batch)
    assert int(count) == tokens == 1 + 4 + 2 + len(PAIRS)
    assert float(total.detach()) == pytest.approx(sum(sums), rel=1e-4)
    loss = readout.loss(prompt, batch)
    assert float(loss.detach()) == pytest.approx(sum(sums) / tokens, rel=1e-4)


@pytest.mark.parametrize(("name", "template"), CASES)
def test_the_gradient_is_the_slope_of_the_loss(name: str, template: str) -> None:
    backbone = backbone_of(name)
    backbone.model.double()
    prompt, readout = under(backbone, template), TextReadout(backbone, 8)
    batch = collate(backbone, encoded(prompt, written()), np.arange(3))
    (slope,) = torch.autograd.grad(readout.loss(prompt, batch), prompt.prompt)
    direction = torch.randn(slope.shape, generator=torch.Generator().manual_seed(1))
    step = 1e-3
    ahead, behind = (
        float(readout.loss(Attached(backbone, template, prompt.prompt.detach() + s * direction, None), batch))
        for s in (step, -step)
    )
    assert float((slope * direction).sum()) == pytest.approx(
        (ahead - behind) / (2 * step), rel=2e-2, abs=1e-4
    )


def test_the_readout_of_each_task_and_head() -> None:
    backbone = backbone_of("t5")
    words = readout_for(backbone, classified())
    assert isinstance(words, Readout)
    assert words.word_ids is not None
    assert tuple(words.word_ids.tolist()) == head_words(backbone, classified())
    layer = Head(np.ones((2, 16), np.float32), np.zeros(2, np.float32))
    linear = readout_for(backbone, classified(None), "classifier", layer=layer)
    assert isinstance(linear, Readout)
    assert linear.weight is not None
    for head in ("verbalizer", "classifier"):  # a text is read by the language-model head in any case
        assert readout_for(backbone, written(max_new_tokens=7), head) == TextReadout(backbone, 7)
    assert head_words(backbone, written()) == ()


@pytest.mark.parametrize(
    ("name", "head_of_model", "task", "head", "message"),
    [
        ("bert", True, written(), "verbalizer", "is an encoder .bert., which cannot write texts: use an enc"),
        ("t5", False, written(), "verbalizer", "was loaded without its language-model head"),
        ("t5", False, classified(), "verbalizer", "has no language-model head, so no verbalizer"),
        ("t5", True, classified(None), "verbalizer", "has no label words"),
        (
            "t5",
            True,
            classified(),
            "classifier",
            "linear layer that was tuned with a prompt, and none is given",
        ),
        ("t5", True, classified(), "clasifier", "unknown head 'clasifier'. Did you mean 'classifier'"),
    ],
)
def test_what_does_not_fit_is_said(
    name: str, head_of_model: bool, task: Task, head: str, message: str
) -> None:
    with pytest.raises(TemplateError, match=message):
        readout_for(backbone_of(name, head=head_of_model), task, head)


def test_a_batch_of_classes_has_no_token_loss() -> None:
    prompt = under(backbone_of("t5"), "prefix")
    batch = collate(prompt.backbone, from_token_ids([([5, 6, 1], 0)]), np.arange(1))
    with pytest.raises(TaskError, match="no targets: a text readout is for a generation task"):
        TextReadout(prompt.backbone, 4).loss(prompt, batch)


def test_every_word_has_its_logit() -> None:
    for name in ("t5", "t5-gated", "gpt2", "llama"):
        backbone = backbone_of(name)
        rows = torch.randn(2, backbone.hidden_size, generator=torch.Generator().manual_seed(0))
        everything = torch.arange(tiny.VOCAB)
        some = backbone.label_logits(rows, everything)
        torch.testing.assert_close(backbone.vocabulary_logits(rows), some)
        assert math.isfinite(float(some.sum()))


def test_an_encoder_cannot_write_even_with_a_head() -> None:
    with pytest.raises(TemplateError, match="task 'g' is a generation task"):
        check_writes(backbone_of("roberta"), written())
