"""Examples of several trials in one batch: each once, under its own prompt, with no more padding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from transferscope import attachment
from transferscope.encoding import Encoded, collate
from transferscope.errors import InputError
from transferscope.evaluation import evaluate
from transferscope.models import Backbone, wrap
from transferscope.pooling import Pool, Trial, cut_by_budget, evaluate_together, shares, together
from transferscope.prompts import Head
from transferscope.readouts import TextReadout

LENGTHS = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=12), min_size=1, max_size=6)


def pooled(trials: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([length for trial in trials for length in trial])
    return lengths, np.repeat(np.arange(len(trials)), [len(trial) for trial in trials])


@given(LENGTHS, st.integers(1, 200))
def test_pieces_by_budget_hold_it_or_are_as_large_as_a_batch(trials: list[list[int]], budget: int) -> None:
    lengths, owner = pooled(trials)
    pieces = cut_by_budget(lengths, owner, prompt_rows=3, token_budget=budget)
    assert sorted(np.concatenate(pieces).tolist()) == list(range(len(lengths)))
    largest = max(map(len, trials))
    for piece in pieces:
        assert len(piece) <= largest or len(piece) * (int(lengths[piece].max()) + 3) <= budget
    if budget >= len(lengths) * (int(lengths.max()) + 3):
        assert len(pieces) == 1


def small(model_type: str = "bert", **options: Any) -> Backbone:
    tokenizer = tiny.tokenizer(tiny.tokenizer_kind(model_type))
    return wrap(tiny.model(model_type, **options), tokenizer, model_type)


def part(seed: int, count: int, *, targets: bool = False) -> Encoded:
    """Random tokens, behind a first one as the tokenizers give it."""
    rng = np.random.default_rng(seed)

    def rows(most: int) -> tuple[np.ndarray, ...]:
        return tuple(rng.integers(5, tiny.VOCAB, rng.integers(1, most)) for _ in range(count))

    texts = tuple(f"good {i}" for i in range(count))
    return Encoded(
        rows(12),
        None,
        rng.integers(0, 2, count),
        targets=rows(5) if targets else None,
        references=tuple((text,) for text in texts) if targets else None,
    )


def trials_of(backbone: Backbone, head: str, several: int = 3) -> list[Trial]:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(several):
        rows = torch.from_numpy(rng.normal(size=(4, backbone.embedding_size)).astype(np.float32))
        weight, bias = rng.normal(size=(2, backbone.readout_size)), rng.normal(size=2)
        readout: Any = {
            "classifier": attachment.classifier(backbone, Head(weight, bias)),
            "verbalizer": attachment.verbalizer(backbone, [7, 8]),
            "text": TextReadout(backbone, 4),
        }[head]
        found.append(Trial(attachment.attach(backbone, rows.requires_grad_(True)), readout))
    return found


@pytest.mark.parametrize(
    ("model_type", "head"),
    [("bert", "verbalizer"), ("gpt2", "classifier"), ("t5", "verbalizer"), ("t5", "text"), ("llama", "text")],
)
def test_evaluated_together_each_has_its_own_score(model_type: str, head: str) -> None:
    backbone = small(model_type)
    trials = trials_of(backbone, head)
    parts = [part(seed, 5 + seed, targets=head == "text") for seed in range(3)]
    metric = "exact_match" if head == "text" else "accuracy"
    found = evaluate_together(trials, parts, metric=metric, token_budget=64)
    for one, trial, data in zip(found, trials, parts, strict=True):
        alone = evaluate(trial.attached, trial.readout, data, metric=metric, token_budget=64)
        assert (one.metric, one.value, one.examples, one.texts) == (
            alone.metric,
            alone.value,
            alone.examples,
            alone.texts,
        )
        assert one.loss == pytest.approx(alone.loss, rel=1e-5)
        if alone.logits is not None and one.logits is not None:
            np.testing.assert_allclose(one.logits, alone.logits, atol=1e-4)


@pytest.mark.parametrize(
    ("model_type", "head"), [("bert", "classifier"), ("t5", "verbalizer"), ("gpt2", "text")]
)
def test_the_shares_of_a_batch_add_up_to_the_mean_losses(model_type: str, head: str) -> None:
    backbone = small(model_type)
    trials = trials_of(backbone, head)
    parts = [part(seed, 3 + seed, targets=head == "text") for seed in range(3)]
    pool, weights = Pool.of(parts), torch.from_numpy(shares(parts))
    for piece in cut_by_budget(pool.data.lengths, pool.owner, prompt_rows=3, token_budget=60):
        group = pool.by_trial(piece)
        joint = together(trials, pool.owner[group])
        losses = joint.readout.losses(joint.attached, collate(backbone, pool.data, group))
        (losses @ weights[group]).backward()
    gradients = [trial.attached.prompt.grad.clone() for trial in trials]  # type: ignore[union-attr]
    for trial, data, gradient in zip(trials, parts, gradients, strict=True):
        trial.attached.prompt.grad = None
        trial.readout.loss(trial.attached, collate(backbone, data, np.arange(len(data)))).backward()
        torch.testing.assert_close(gradient, trial.attached.prompt.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("model_type", "template"),
    [("bert", "mask-first"), ("bert", "prefix"), ("gpt2", "suffix"), ("gpt2", "prefix"), ("t5", "prefix")],
)
def test_a_prompt_of_each_example_stands_where_a_common_one_does(model_type: str, template: str) -> None:
    backbone, data = small(model_type), part(0, 4)
    batch = collate(backbone, data, np.arange(4))
    rows = torch.randn(4, 3, backbone.embedding_size, generator=torch.Generator().manual_seed(0))
    common = attachment.attach(backbone, rows[0], template)
    each = replace(common, prompt=rows)
    assert each.rows == common.rows == 3 + (template == "mask-first")
    own = each.place(batch)
    for example in range(4):
        alone = attachment.attach(backbone, rows[example], template).place(batch)
        assert torch.equal(own.embeds[example], alone.embeds[example])
        assert torch.equal(own.mask, alone.mask)
        assert torch.equal(own.readout, alone.readout)


def test_a_metric_of_the_other_kind_is_refused() -> None:
    backbone = small()
    with pytest.raises(InputError, match="the metric 'rouge_l' is for generation"):
        evaluate_together(trials_of(backbone, "verbalizer"), [part(0, 3)] * 3, metric="rouge_l")
