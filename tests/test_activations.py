"""Capturing neurons: hooks and their removal, probed rows, streamed statistics against slow loops."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from tests import tiny
from tests.down_projections import BERT, DOWN, GATES, JOINT
from transferscope.activations import (
    CONSTANT_SD,
    FireCounts,
    Moments,
    Probe,
    capture,
    float32_floor,
    select,
    to_numpy,
    wide_dtype,
)
from transferscope.attachment import attach
from transferscope.encoding import Encoded, batches, buckets, collate, from_token_ids
from transferscope.models import Backbone, wrap
from transferscope.templates import Placed

CPU = torch.device("cpu")
LAYERS, ROWS, NEURONS = 2, 3, 4


@cache
def backbone(name: str) -> Backbone:
    return wrap(tiny.model(name), tiny.tokenizer(tiny.tokenizer_kind(name)), name)


def modules(made: Backbone, paths: list[str]) -> list[torch.nn.Module]:
    """The modules of all layers of all stacks, by their names in this test."""
    depths = tiny.layers(made.name)
    places = [path.format(i) for path, depth in zip(paths, depths, strict=True) for i in range(depth)]
    return [made.base.get_submodule(place) for place in places]


def split(count: int = 6) -> Encoded:
    rng = np.random.default_rng(0)
    return from_token_ids(
        [(rng.integers(5, 60, size=rng.integers(2, 9)).tolist(), i % 2) for i in range(count)]
    )


def placed_batch(made: Backbone, template: str | None = None) -> tuple[Any, Placed]:
    attached = attach(made, torch.randn(ROWS, made.embedding_size), template)
    return attached, attached.place(collate(made, split(), np.arange(6)))


def hooks(made: Backbone) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in made.model.modules())


def same(one: Tensor, other: Tensor) -> None:
    """To the bit, and NaN (of an expert that a row is not sent to) in the same places."""
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", tiny.ALL)
def test_capture_gives_what_enters_each_down_projection(name: str) -> None:
    made = backbone(name)
    attached, placed = placed_batch(made)
    plain: list[Tensor] = []
    gates: list[Tensor] = []
    caught: list[tuple[int, Tensor, Tensor | None]] = []
    handles = [
        module.register_forward_pre_hook(lambda module, inputs: plain.append(inputs[0]))
        for module in modules(made, DOWN.get(name, BERT))
    ]
    handles += [
        module.register_forward_hook(
            lambda module, inputs, output: gates.append(output[..., :24] if name in JOINT else output)
        )
        for module in (modules(made, GATES[name]) if name in GATES else [])
    ]
    with torch.no_grad():
        attached.forward(placed)
        for handle in handles:
            handle.remove()
        with capture(made, lambda *caught_now: caught.append(caught_now), gates=True, missing=True):
            attached.forward(placed)
    assert [layer for layer, _, _ in caught] == list(range(made.layers))
    assert len(plain) == made.layers == sum(tiny.layers(name))
    for i, (_, values, gate) in enumerate(caught):
        assert values.shape[-1] == made.neurons == tiny.neurons(name)
        assert values.shape[0] == 6
        same(values, plain[i])
        assert values[~values.isnan()].std() > 1e-2
        assert (gate is None) == (name not in GATES)
        if gate is not None:
            same(gate, gates[i])
            assert gate.shape == values.shape


def test_gates_are_given_only_where_they_are_asked_for() -> None:
    made = backbone("llama")
    attached, placed = placed_batch(made)
    caught: list[Tensor | None] = []
    with torch.no_grad(), capture(made, lambda layer, values, gate: caught.append(gate)):
        attached.forward(placed)
    assert caught == [None, None]


def test_each_pass_is_caught_and_captures_may_be_nested() -> None:
    made = backbone("bert")
    attached, placed = placed_batch(made)
    outer: list[int] = []
    inner: list[int] = []
    with torch.no_grad(), capture(made, lambda layer, values, gate: outer.append(layer)):
        with capture(made, lambda layer, values, gate: inner.append(layer)):
            attached.forward(placed)
        attached.forward(placed)
    assert (outer, inner) == ([0, 1, 0, 1], [0, 1])


@pytest.mark.parametrize("name", ["bert", "llama", "t5-gated"])
def test_hooks_are_gone_afterwards(name: str) -> None:
    made = backbone(name)
    attached, placed = placed_batch(made)
    before = hooks(made)

    def fails(layer: int, values: Tensor, gate: Tensor | None) -> None:
        raise RuntimeError("in the sink")

    with capture(made, fails, gates=True):
        assert hooks(made) == before + made.layers * (2 if name in GATES else 1)
    assert hooks(made) == before
    with pytest.raises(RuntimeError, match="in the sink"), capture(made, fails, gates=True):
        attached.forward(placed)
    assert hooks(made) == before
    with pytest.raises(KeyError, match="in the block"), capture(made, fails, gates=True):
        raise KeyError("in the block")
    assert hooks(made) == before
    with torch.no_grad():
        attached.forward(placed)  # and the model works as before


def test_select_takes_a_slice_or_rows_by_example() -> None:
    values = torch.arange(2 * 5 * 3).reshape(2, 5, 3).float()
    assert torch.equal(select(values, slice(1, 3)), values[:, 1:3])
    chosen = select(values, torch.tensor([[4, 0], [2, 2]]))
    assert torch.equal(chosen, torch.stack([values[0, [4, 0]], values[1, [2, 2]]]))


@pytest.mark.parametrize(
    ("name", "template", "kinds", "rows"),
    [
        ("bert", "mask-first", ("prompt", "prompt"), ROWS + 1),
        ("bert", "prefix", ("prompt", "prompt"), ROWS),
        ("t5", "prefix", ("prompt", "prompt", "readout", "readout", "readout"), ROWS),
        ("gpt2", "prefix", ("readout", "readout"), 1),
        ("llama", "suffix", ("prompt", "prompt"), ROWS),
    ],
)
def test_probed_rows(name: str, template: str, kinds: tuple[str, ...], rows: int) -> None:
    made = backbone(name)
    attached, placed = placed_batch(made, template)
    probe = Probe.of(attached)
    assert (probe.kinds, probe.rows) == (kinds, rows)
    assert probe.exists.shape == (made.layers, rows)
    picked: dict[int, Tensor] = {}
    whole: dict[int, Tensor] = {}

    def sink(layer: int, values: Tensor, gate: Tensor | None) -> None:
        whole[layer], picked[layer] = values, probe.pick(layer, values, placed)

    with torch.no_grad(), capture(made, sink):
        attached.forward(placed)
    lengths = split().lengths
    for layer, kind in enumerate(kinds):
        assert (
            probe.exists[layer].tolist() == [True] * rows
            if kind == "prompt"
            else [True] + [False] * (rows - 1)
        )
        for i, length in enumerate(lengths):
            at = list(range(rows))
            if template == "suffix":
                at = [int(length) + p for p in range(ROWS)]
            if kind == "readout":
                at = [0] if name == "t5" else [ROWS + int(length) - 1]
            assert torch.equal(picked[layer][i], whole[layer][i, at])


# streamed statistics


def activations(classes: int, examples: int = 23) -> tuple[Tensor, Tensor]:
    """Values [S, L, P, N] of many sizes and labels [S], each class there."""
    rng = np.random.default_rng(classes)
    scale = 10.0 ** rng.integers(-3, 3, size=(LAYERS, ROWS, NEURONS))
    centre = rng.normal(size=(LAYERS, ROWS, NEURONS))
    values = (scale * (centre + rng.normal(size=(examples, LAYERS, ROWS, NEURONS)))).astype(np.float32)
    values[:, 0, 0, :2] = np.round(values[:, 0, 0, :2])  # ties, also with the mean
    labels = rng.permutation(np.arange(examples) % classes)
    return torch.from_numpy(values), torch.from_numpy(labels)


def stream(into: Moments | FireCounts, values: Tensor, labels: Tensor, size: int) -> Any:
    for start in range(0, len(labels), size):
        for layer in range(LAYERS):
            into.add(layer, values[start : start + size, layer], labels[start : start + size])
    return into


def moments(classes: int, values: Tensor, labels: Tensor, size: int = 5) -> Moments:
    return stream(Moments.zeros(classes, (LAYERS, ROWS, NEURONS), CPU), values, labels, size)


def fires(baseline: Tensor, classes: int, values: Tensor, labels: Tensor, size: int = 5) -> FireCounts:
    return stream(FireCounts.above(baseline, classes), values, labels, size)


CELLS = list(itertools.product(range(LAYERS), range(ROWS), range(NEURONS)))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("size", [1, 5, 23])
def test_moments_are_those_of_slow_loops(classes: int, size: int) -> None:
    values, labels = activations(classes)
    found = moments(classes, values, labels, size)
    assert found.mean.dtype == torch.float64
    assert found.counts.tolist() == [int((labels == c).sum()) for c in range(classes)]
    for cell in CELLS:
        column = [float(row[cell]) for row in values]
        mean = sum(column) / len(column)
        squares = sum((value - mean) ** 2 for value in column)
        assert float(found.mean[cell]) == pytest.approx(mean, rel=1e-12, abs=1e-12)
        assert float(found.squares[cell]) == pytest.approx(squares, rel=1e-5)
        for c in range(classes):
            own = sum(value for value, label in zip(column, labels, strict=True) if label == c)
            assert float(found.sums[(c, *cell)]) == pytest.approx(own, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("size", [1, 5, 23])
def test_accuracies_are_those_of_slow_loops(classes: int, size: int) -> None:
    values, labels = activations(classes)
    baseline = moments(classes, values, labels).mean
    found = fires(baseline, classes, values, labels, size)
    for positive in range(classes):
        accuracy, balanced = found.accuracy(positive), found.accuracy(positive, balanced=True)
        for cell in CELLS:
            right: dict[bool, list[bool]] = {True: [], False: []}
            for row, label in zip(values, labels, strict=True):
                truth = int(label) == positive
                right[truth].append((float(row[cell]) > float(baseline[cell])) == truth)
            every = right[True] + right[False]
            assert float(accuracy[cell]) == sum(every) / len(every)
            shares = [sum(part) / len(part) for part in right.values()]
            assert float(balanced[cell]) == pytest.approx(sum(shares) / 2, abs=1e-15)


def test_accuracy_of_sides_leaves_the_other_classes_out() -> None:
    values, labels = activations(4)
    baseline = moments(4, values, labels).mean
    found = fires(baseline, 4, values, labels)
    inside = labels != 1
    binary = fires(baseline, 2, values[inside], (labels[inside] != 3).long())  # 0 and 2 against 3
    for balanced in (False, True):
        sides = found.accuracy([0, 2], [3], balanced=balanced)
        assert torch.equal(sides, binary.accuracy(1, balanced=balanced))
        rest = found.accuracy((1,), (0, 2, 3), balanced=balanced)
        assert torch.equal(rest, found.accuracy(1, balanced=balanced))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("cuts", [(9,), (1, 2, 17), (0, 23)])
def test_shards_merge_by_addition(classes: int, cuts: tuple[int, ...]) -> None:
    values, labels = activations(classes)
    whole = moments(classes, values, labels)
    edges = [0, *cuts, 23]
    shards = [(values[a:b], labels[a:b]) for a, b in itertools.pairwise(edges)]
    first, *others = [moments(classes, *shard) for shard in shards]
    merged = sum(others, first)
    assert torch.equal(merged.counts, whole.counts)
    torch.testing.assert_close(merged.sums, whole.sums, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(merged.squares, whole.squares, rtol=1e-5, atol=1e-12)
    counted = fires(whole.mean, classes, values, labels)
    one, *more = [fires(whole.mean, classes, *shard) for shard in shards]
    total = sum(more, one)
    assert torch.equal(total.fires, counted.fires)
    assert torch.equal(total.counts, counted.counts)
    assert torch.equal(total.accuracy(1), counted.accuracy(1))


def test_layers_with_fewer_rows_leave_the_others_at_zero() -> None:
    values, labels = activations(2)
    found = Moments.zeros(2, (LAYERS, ROWS, NEURONS), CPU)
    found.add(0, values[:, 0], labels)
    found.add(1, values[:, 1, :1], labels)
    whole = moments(2, values, labels, 23)
    assert torch.equal(found.mean[1, 0], whole.mean[1, 0])
    assert not found.mean[1, 1:].any()
    assert not found.squares[1, 1:].any()
    assert found.counts.tolist() == whole.counts.tolist()


@pytest.mark.parametrize("size", [1, 7, 11, 29, 100])
@pytest.mark.parametrize("constant", [0.0, -0.17, 1.0, 333.333, 1234.567, -98765.4, 1e-30])
def test_a_constant_does_not_vary_however_large(constant: float, size: int) -> None:
    # one cell alone: the sums over its examples then run in the order that rounds most
    values, labels = torch.full((100, 1, 1), constant), torch.arange(100) % 2
    found, shard = (Moments.zeros(2, (1, 1, 1), CPU) for _ in range(2))
    for start in range(0, 100, size):
        found.add(0, values[start : start + size], labels[start : start + size])
    shard.add(0, values[:13], labels[:13])
    assert not found.varies.any()
    assert not (found + shard).varies.any()


@pytest.mark.parametrize("centre", [0.0, -3.0, 20.0])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_cells_vary_from_the_threshold_on(centre: float, size: int) -> None:
    spread = torch.tensor([0.5, 0.8, 1.25, 2.0]) * CONSTANT_SD
    sign = torch.tensor([1.0, -1.0]).repeat(50)
    values = (centre + sign[:, None].double() * spread).float()[:, None, None].expand(-1, LAYERS, ROWS, -1)
    sd = values[:, 0, 0].double().std(dim=0, correction=0)  # what float32 made of it
    found = moments(2, values, (sign > 0).long(), size)
    assert found.varies[1, 2].tolist() == (sd >= CONSTANT_SD).tolist() == [False, False, True, True]


def test_statistics_of_a_model_do_not_depend_on_the_batches() -> None:
    made, data = backbone("bert"), split(12)
    attached = attach(made, torch.randn(ROWS, 16))
    probe = Probe.of(attached)
    shape = (made.layers, probe.rows, made.neurons)

    def measured(budget: int) -> Moments:
        found = Moments.zeros(2, shape, CPU)
        for batch in batches(made, data, buckets(data, prompt_rows=probe.rows, token_budget=budget)):
            placed = attached.place(batch)

            def sink(
                layer: int, values: Tensor, gate: Any, placed: Placed = placed, y: Tensor = batch.labels
            ) -> None:
                found.add(layer, probe.pick(layer, values, placed), y)

            with torch.inference_mode(), capture(made, sink):
                attached.forward(placed)
        return found

    one, all_together = measured(1), measured(10_000)
    assert one.counts.tolist() == [6, 6]
    torch.testing.assert_close(one.mean, all_together.mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(one.squares, all_together.squares, rtol=1e-4, atol=1e-6)


SINGLES = st.floats(width=32, allow_nan=False)


@given(st.one_of(st.floats(allow_nan=False), SINGLES), SINGLES)
@example(1e300, float("inf"))
@example(-1e300, float("-inf"))
@example(float("inf"), float("inf"))
@example(float("-inf"), -3.4028234663852886e38)
@example(-1e-320, 0.0)
@example(1e-320, 1.401298464324817e-45)
@example(-1e-46, -1.401298464324817e-45)
@example(0.1, 0.10000000149011612)
def test_float32_floor_compares_as_float64_does(threshold: float, value: float) -> None:
    floor = float32_floor(torch.tensor([threshold], dtype=torch.float64))
    assert floor.dtype == torch.float32
    near = torch.tensor([threshold], dtype=torch.float64).float()
    infinity = torch.tensor([torch.inf])
    tries = [torch.tensor([value]), near, near.nextafter(infinity), near.nextafter(-infinity), -near]
    for single in tries:
        assert bool(single > floor) == (float(single) > threshold)


def test_a_plain_rounding_would_not_do() -> None:
    # 0.3 rounds up in float32: the activation that equals the rounded value is above 0.3 all the same
    threshold = torch.tensor([0.3], dtype=torch.float64)
    activation = threshold.float()
    assert float(activation) > 0.3
    assert not bool(activation > threshold.float())
    assert bool(activation > float32_floor(threshold))


def test_wide_numbers_are_float64_where_the_device_has_them() -> None:
    assert wide_dtype(CPU) == wide_dtype(torch.device("cuda")) == torch.float64
    assert wide_dtype(torch.device("mps")) == torch.float32
    assert to_numpy(torch.ones(2, requires_grad=True)).dtype == np.float64
