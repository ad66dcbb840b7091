"""A batch that does not fit is halved: nothing is lost or counted twice, wherever the pass broke off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from by_hand import WORDS, task
from torch import Tensor

from transferscope import attachment
from transferscope.activations import FireCounts, Moments
from transferscope.attachment import Attached
from transferscope.decoding import generate_ids
from transferscope.encoding import Encoded, encode, from_token_ids, prepared
from transferscope.errors import BackboneError
from transferscope.evaluation import evaluate
from transferscope.halving import Fitting, Ledger, is_out_of_memory, pieces
from transferscope.measurement import NeuronMeasurement, measure
from transferscope.models import Backbone, wrap
from transferscope.probing import features
from transferscope.prompts import Head
from transferscope.readouts import readout_for
from transferscope.settings import TuningSettings
from transferscope.task_spec import Subtask
from transferscope.tasks import Example, Task
from transferscope.tuning_run import TuningRun, prepare

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
CPU_FULL = RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: x")


@contextmanager
def room_for(
    backbone: Backbone, most: int, layer: int, *, late: bool = False, error: Exception = FULL
) -> Iterator[list[int]]:
    """Memory for so many examples: a larger batch breaks off at a layer, before or behind its neurons' hook.

    Gives the sizes of the batches that failed.
    """
    failed: list[int] = []

    def hook(module: Any, inputs: Any, output: Any = None) -> None:
        if len(inputs[0]) > most:
            failed.append(len(inputs[0]))
            raise error

    down = backbone.down_projections()[layer][2]
    handle = down.register_forward_hook(hook) if late else down.register_forward_pre_hook(hook)
    try:
        yield failed
    finally:
        handle.remove()


def backbone(model_type: str = "bert") -> Backbone:
    made = wrap(tiny.model(model_type), tiny.tokenizer(tiny.tokenizer_kind(model_type)))
    made.fitting.report = lambda line: None
    return made


def attached_to(made: Backbone, template: str | None = None) -> Attached:
    rows = attachment.initial_rows(made, 3, init="random", seed=1)
    return attachment.attach(made, rows, template)


def examples(count: int, classes: int, seed: int = 0) -> Encoded:
    rng = np.random.default_rng(seed)
    return from_token_ids(
        [(rng.integers(5, 90, rng.integers(4, 12)).tolist(), i % classes) for i in range(count)]
    )


def same(one: NeuronMeasurement, other: NeuronMeasurement) -> None:
    """What is counted is alike to the last bit; what is summed, up to the order of the sum."""
    np.testing.assert_array_equal(one.subtask_accuracy, other.subtask_accuracy)
    np.testing.assert_array_equal(one.defined, other.defined)
    np.testing.assert_array_equal(one.stimulation, other.stimulation)
    np.testing.assert_allclose(one.baseline, other.baseline, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one.features, other.features, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("most", [1, 3, 8])
def test_a_measurement_in_halves_is_the_undisturbed_one(most: int, layer: int, late: bool) -> None:
    made = backbone()
    attached, train, dev = attached_to(made), examples(21, 3), examples(14, 3, seed=1)
    subtasks = (Subtask((1,), (0,)), Subtask((2,), (0, 1)))
    expected = measure(attached, train, dev, subtasks=subtasks)
    with room_for(made, most, layer, late=late) as failed:
        found = measure(attached, train, dev, subtasks=subtasks)
    assert failed
    same(found, expected)


@pytest.mark.parametrize(
    ("model_type", "template"), [("t5", "prefix"), ("gpt2", "prefix"), ("llama", "suffix")]
)
def test_other_kinds_of_models(model_type: str, template: str) -> None:
    made = backbone(model_type)
    attached, train, dev = attached_to(made, template), examples(9, 2), examples(6, 2, seed=1)
    expected = measure(attached, train, dev)
    with room_for(made, 2, len(made.widths) - 1) as failed:
        same(measure(attached, train, dev), expected)
    assert failed


@dataclass(frozen=True)
class Items:
    ids: Tensor
    values: Tensor
    labels: Tensor


@pytest.mark.parametrize("seed", range(12))
def test_each_deed_is_done_once_wherever_memory_runs_out(seed: int) -> None:
    """Whole numbers, so that any order of the sums is exact; failures at random deeds, several in a row."""
    rng = np.random.default_rng(seed)
    layers, count = 4, 16
    values = torch.from_numpy(rng.integers(-9, 9, (count, layers, 2, 5)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, 3, count))
    fitting, ledger = Fitting(lambda line: None), Ledger()
    moments = Moments.zeros(3, (layers, 2, 5), torch.device("cpu"))
    fires = FireCounts.above(torch.zeros(layers, 2, 5, dtype=torch.float64), 3)
    ends: list[int] = []

    def step(items: Items) -> None:
        breaks = rng.integers(0, 2 * layers + 1) if len(items.ids) > rng.integers(1, 5) else None
        for deed in range(2 * layers):
            if deed == breaks:
                raise FULL
            into = (moments, fires)[deed % 2]
            layer = deed // 2
            ledger.once(
                deed, lambda into=into, layer=layer: into.add(layer, items.values[:, layer], items.labels)
            )
        ends.extend(items.ids[:, 0].tolist())

    for start in range(0, count, 8):
        part = slice(start, start + 8)
        batch = Items(torch.arange(count)[part, None], values[part], labels[part])
        fitting.run("extraction", batch, step, ledger=ledger)
    assert ends == list(range(count))
    onehot = torch.nn.functional.one_hot(labels, 3).double()
    assert torch.equal(moments.counts, onehot.sum(0))
    assert torch.equal(moments.seen, torch.full((layers,), float(count), dtype=torch.float64))
    assert torch.equal(moments.sums, torch.einsum("sk,slpn->klpn", onehot, values.double()))
    assert torch.equal(fires.fires, torch.einsum("sk,slpn->klpn", onehot, (values > 0).double()))
    assert torch.equal(fires.counts, onehot.sum(0))
    deviations = (values - values.mean(0)).double().square().sum(0)
    torch.testing.assert_close(moments.squares, deviations, rtol=1e-5, atol=1e-4)


def test_the_smaller_size_is_remembered_and_said_once() -> None:
    said: list[str] = []
    made = backbone()
    made.fitting.report = said.append
    attached, data = attached_to(made), examples(16, 2)
    with room_for(made, 4, 1) as failed:
        measure(attached, data, data)
    assert failed == [16, 8]
    assert len(said) == 2
    assert "extraction with 16 texts of 15 rows" in said[0]  # 11 tokens, 3 rows, the mask
    assert made.fitting.rows == {"extraction": 4 * 15}
    with room_for(made, 4, 1) as failed:
        measure(attached, data, data)
    assert not failed


def test_without_a_listener_it_is_a_warning() -> None:
    fitting = Fitting()

    def step(items: Items) -> int:
        if len(items.ids) > 1:
            raise FULL
        return int(items.ids)

    batch = Items(torch.arange(2)[:, None], torch.zeros(2), torch.zeros(2))
    with pytest.warns(RuntimeWarning, match="memory ran out in evaluation with 2 texts"):
        assert fitting.run("evaluation", batch, step) == [0, 1]


def test_one_text_that_does_not_fit_is_an_error_with_a_remedy() -> None:
    made = backbone()
    attached, data = attached_to(made), examples(4, 2)
    with room_for(made, 0, 0), pytest.raises(BackboneError, match=r"one text of .* rows.*max_length"):
        measure(attached, data, data)


def test_other_errors_pass() -> None:
    made = backbone()
    attached, data = attached_to(made), examples(4, 2)
    with room_for(made, 0, 0, error=RuntimeError("a shape")), pytest.raises(RuntimeError, match="a shape"):
        measure(attached, data, data)
    assert not made.fitting.rows


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (FULL, True),
        (CPU_FULL, True),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (...)"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_out_of_memory(error: Exception, full: bool) -> None:
    assert is_out_of_memory(error) is full


@pytest.mark.parametrize("error", [FULL, CPU_FULL])
def test_scores_and_features_in_halves(error: Exception) -> None:
    made = backbone()
    attached, data = attached_to(made), examples(13, 2)
    readout = attachment.verbalizer(made, [20, 30])
    batches = prepared(made, data, prompt_rows=attached.rows)
    expected, rows = evaluate(attached, readout, batches), features(attached, batches)
    with room_for(made, 3, 1, error=error) as failed:
        np.testing.assert_allclose(evaluate(attached, readout, batches).logits, expected.logits, atol=1e-5)
        np.testing.assert_allclose(features(attached, batches), rows, rtol=1e-5, atol=1e-5)
    assert failed == [13, 7, 4]  # the second pass knew


def test_pieces_are_the_batch() -> None:
    made = backbone()
    batch = prepared(made, examples(7, 2), prompt_rows=0).batches[0]
    parts = pieces(batch, 3)
    assert [len(part.ids) for part in parts] == [3, 3, 1]
    assert torch.equal(torch.cat([part.ids for part in parts]), batch.ids)
    assert torch.equal(torch.cat([part.labels for part in parts]), batch.labels)
    assert sum((part.index for part in parts), ()) == batch.index


def writing() -> Task:
    """Texts with answers of one to four words."""
    rng = np.random.default_rng(0)

    def example() -> Example:
        text, answer = (" ".join(rng.choice(WORDS, rng.integers(1, most))) for most in (9, 5))
        return Example(text, None, -1, (answer,))

    train, dev = (tuple(example() for _ in range(count)) for count in (18, 12))
    return Task("w", train, dev, (), metric="exact_match", max_new_tokens=6)


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_texts_written_in_halves(kind: str) -> None:
    made, written = backbone(kind), writing()
    attached = attached_to(made, "prefix")
    data = encode(made, written.dev, prompt_rows=attached.rows, max_new_tokens=written.max_new_tokens)
    batches = prepared(made, data, prompt_rows=attached.rows)
    expected = generate_ids(attached, batches, max_new_tokens=6)
    whole = evaluate(attached, readout_for(made, written), batches, metric=written.metric)
    with room_for(made, 5, -1) as failed:
        found = generate_ids(attached, batches, max_new_tokens=6)
        again = evaluate(attached, readout_for(made, written), batches, metric=written.metric)
    assert failed
    assert [row.tolist() for row in found] == [row.tolist() for row in expected]
    assert len({tuple(row.tolist()) for row in found}) > 1
    assert again.texts == whole.texts
    assert again.loss == pytest.approx(whole.loss, rel=1e-5)


def gradients(run: TuningRun) -> list[Tensor]:
    """The gradients of the first step, before they are clipped."""
    found: list[Tensor] = []

    def step() -> None:
        found.extend(parameter.grad.clone() for parameter in run.parameters)

    run.optimizer.step = step  # type: ignore[method-assign, assignment]
    run.step_once()
    return found


def tuning(made: Backbone, one: Task, head: str) -> TuningRun:
    settings = TuningSettings(rows=3, steps=4, batch_size=8, accumulate=2, clip=1e9)
    setup = prepare(made, one, settings, head=head, template="prefix")
    prompt = attachment.initial_rows(made, 3, init="random", seed=2).requires_grad_(True)
    attached = attachment.attach(made, prompt, "prefix")
    rng = np.random.default_rng(0)  # a classifier that is not zero, or nothing would reach the prompt
    layer = Head(rng.normal(size=(2, made.readout_size)).astype(np.float32), np.zeros(2, np.float32))
    return TuningRun(attached, setup, settings, 0, [prompt], layer)


@contextmanager
def broken_backward(made: Backbone, most: int) -> Iterator[list[int]]:
    """Memory runs out on the way back: the classifier has its gradient then, the prompt has not."""
    failed: list[int] = []

    def back(module: Any, grad_input: Any, grad_output: Any) -> None:
        if len(grad_output[0]) > most:
            failed.append(len(grad_output[0]))
            raise FULL

    handle = made.down_projections()[0][2].register_full_backward_hook(back)
    try:
        yield failed
    finally:
        handle.remove()


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(
    ("kind", "written", "head"),
    [
        ("t5", True, "verbalizer"),
        ("llama", True, "verbalizer"),
        ("bert", False, "verbalizer"),
        ("bert", False, "classifier"),
    ],
)
def test_a_step_in_halves_has_the_same_gradient(kind: str, written: bool, head: str, backwards: bool) -> None:
    """Also of texts, whose loss is a mean over tokens: halves have different numbers of them."""
    made, one = backbone(kind), writing() if written else task()
    expected = gradients(tuning(made, one, head))
    with broken_backward(made, 3) if backwards else room_for(made, 3, 1) as failed:
        found = gradients(tuning(made, one, head))
    assert failed
    assert len(found) == (1 if head == "verbalizer" else 3)
    for gradient, other in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-6)
        assert other.abs().max() > 1e-3
