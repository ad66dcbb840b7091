"""A prompt's score: metrics by hand, the order of logits, independence of how examples are batched."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from transferscope.attachment import attach, verbalizer
from transferscope.encoding import Encoded, collate, from_token_ids
from transferscope.errors import InputError
from transferscope.evaluation import evaluate, evaluation
from transferscope.metrics import names
from transferscope.models import wrap

WORDS = (9, 20, 12)


def logits_of(predictions: Sequence[int], classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[list(predictions)]


def by_hand(metric: str, labels: Sequence[int], predictions: Sequence[int]) -> float:
    pairs = list(zip(labels, predictions, strict=True))
    if metric == "accuracy":
        return sum(label == prediction for label, prediction in pairs) / len(pairs)
    if metric == "macro_f1":
        scores = []
        for c in sorted({*labels, *predictions}):
            hits = sum(label == c == prediction for label, prediction in pairs)
            wrong = sum((label == c) != (prediction == c) for label, prediction in pairs)
            scores.append(2 * hits / (2 * hits + wrong))
        return sum(scores) / len(scores)
    n, right = len(pairs), sum(label == prediction for label, prediction in pairs)
    true = [labels.count(c) for c in range(9)]
    said = [predictions.count(c) for c in range(9)]
    spread = math.sqrt((n * n - sum(t * t for t in true)) * (n * n - sum(s * s for s in said)))
    return (right * n - sum(t * s for t, s in zip(true, said, strict=True))) / spread if spread else 0.0


@pytest.mark.parametrize("metric", names("classification"))
@given(
    st.integers(2, 4).flatmap(
        lambda k: st.lists(
            st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)), min_size=2, max_size=30
        ).filter(lambda pairs: len({label for label, _ in pairs}) > 1)
    )
)
def test_metrics_are_their_formulas(metric: str, pairs: list[tuple[int, int]]) -> None:
    labels, predictions = [label for label, _ in pairs], [prediction for _, prediction in pairs]
    found = evaluation(logits_of(predictions, 4), np.array(labels), metric)
    assert found.value == pytest.approx(by_hand(metric, labels, predictions), abs=1e-12)
    assert (found.metric, found.examples) == (metric, len(pairs))


@pytest.mark.parametrize(("metric", "value"), [("accuracy", 0.6), ("macro_f1", 0.375), ("matthews", 0.0)])
def test_a_blind_guess(metric: str, value: float) -> None:
    assert evaluation(logits_of([1] * 5, 2), np.array([1, 1, 1, 0, 0]), metric).value == pytest.approx(value)


@pytest.mark.parametrize("metric", names("classification"))
def test_a_split_of_one_class_gives_no_warning(metric: str) -> None:
    value = evaluation(logits_of([1, 1, 1], 2), np.array([1, 1, 1]), metric).value
    assert value == (0.0 if metric == "matthews" else 1.0)


def test_loss_is_the_mean_cross_entropy_in_nats() -> None:
    logits = np.array([[2.0, 0.5, -1.0], [0.0, 3.0, 1.0]], dtype=np.float32)
    labels = np.array([0, 2])
    expected = np.mean([math.log(np.exp(row).sum()) - row[y] for row, y in zip(logits, labels, strict=True)])
    assert evaluation(logits, labels, "accuracy").loss == pytest.approx(expected, rel=1e-6)


def test_an_unknown_metric_names_those_there_are() -> None:
    with pytest.raises(InputError, match=r"unknown metric 'acuracy'\. Did you mean 'accuracy'\?.*matthews"):
        evaluation(np.zeros((2, 2), np.float32), np.array([0, 1]), "acuracy")


def split(count: int = 23) -> Encoded:
    rng = np.random.default_rng(0)
    return from_token_ids(
        [(rng.integers(5, 60, size=rng.integers(1, 30)).tolist(), int(rng.integers(3))) for _ in range(count)]
    )


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("bert", "mask-first"),
        ("roberta", "prefix"),
        ("t5", "prefix"),
        ("gpt2", "suffix"),
        ("llama", "prefix"),
    ],
)
def test_logits_stand_in_the_order_of_the_split_whatever_the_batches(name: str, template: str) -> None:
    made = wrap(tiny.model(name), tiny.tokenizer(tiny.tokenizer_kind(name)))
    attached = attach(made, 0.5 * torch.randn(3, made.embedding_size), template)
    readout, data = verbalizer(made, WORDS), split()
    with torch.no_grad():
        alone = [collate(made, data, np.array([i])) for i in range(len(data))]
        expected = torch.cat([readout.logits(attached.forward(attached.place(one))) for one in alone]).numpy()
    found = [evaluate(attached, readout, data, token_budget=budget) for budget in (1, 100, 8192)]
    for one in found:
        assert one.logits.shape == (23, 3)
        assert one.logits.dtype == np.float32
        assert np.abs(one.logits - expected).max() < 1e-5
        assert one.loss == pytest.approx(found[0].loss, abs=1e-5)
        assert one.value == found[0].value == (expected.argmax(1) == data.labels).mean()
    assert np.abs(np.diff(expected, axis=0)).max(axis=1).min() > 1e-3  # no two neighbours could be exchanged


def test_evaluation_leaves_no_gradient_behind() -> None:
    made = wrap(tiny.model("bert"), tiny.tokenizer("bert"))
    prompt = torch.randn(3, 16).requires_grad_(True)
    evaluate(attach(made, prompt), verbalizer(made, WORDS), split(5))
    assert prompt.grad is None
    assert prompt.requires_grad
