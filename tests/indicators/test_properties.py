"""Properties of every indicator of pairs, read from its record: a new one is tested by being registered.

Those of scores (of a target's data under a source's prompt) are in test_score_properties.py.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import indicators
from indicators import Indicator, InvalidInput
from tests.reference import REFERENCE

TIGHT = 1e-10  # float64 against float64
SINGLE = 1e-6  # float32 inputs, of values rounded to float32
TRIES = 5

RECORDS = [
    *(record for record in indicators.records() if record.convention == "pair"),
    *(indicators.get(record.example or "") for record in indicators.parametric()),
]
SHAPES = {
    "prompt": (6, 9),
    "stimulation": (4, 15),
    "predictivity": (2, 4, 15),
    "update": (6, 9),
    "representation": (14, 4),
    "anchors": (6, 9),
}
# What is seen through examples or anchors, not dimensions, may have other dimensions on the two sides.
ANY_WIDTH = {
    record.name for record in RECORDS if {"representation", "anchors"}.intersection(record.needs)
} - {"activation_mean_cosine"}
# Where not any number will do.
SAMPLES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "inputs": lambda rng: rng.normal(size=(6, 9)) + rng.normal(0.0, 0.7, size=9),
    "labels": lambda rng: rng.permutation([3, 3, 3, 7, 7, 7]),
    "vocabulary": lambda rng: rng.choice(40, size=12, replace=False),
    "prompt_fisher": lambda rng: rng.exponential(size=(6, 9)),
    "ffn_fisher": lambda rng: rng.exponential(size=(4, 15)),
    "firing": lambda rng: rng.uniform(0.0, 0.3, size=(4, 15)),  # three times as much is a rate, too
    "mean_difference": lambda rng: rng.exponential(size=(4, 15)),
    "auroc": lambda rng: rng.uniform(size=(4, 15)),
}
SHAPES |= {"lape_mask": (4, 15), "point_biserial": (4, 15), "attribution": (4, 15)}
every = pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)


def sample(need: str, rng: np.random.Generator) -> Any:
    """A random array of what an indicator can need; predictivities have ties, like those of few examples.

    An update is no array but {module: (A, B)}, and stands for the matrices B A: the properties are about
    those. Half of the samples change a third module.
    """
    if need == "predictivity":
        return 0.5 + rng.integers(0, 12, size=SHAPES[need]) / 32
    if need == "update":
        out, width = SHAPES[need]
        ranks = {"q": 3, "v": 2} | ({"o": 3} if rng.random() < 0.5 else {})
        return {n: (rng.normal(size=(r, width)), rng.normal(size=(out, r))) for n, r in ranks.items()}
    if need in SAMPLES:
        return SAMPLES[need](rng)
    if need in SHAPES:
        return rng.normal(0.1, 1.0, size=SHAPES[need])
    raise KeyError(f"no random sample for {need!r}: add one to the property tests")


def ids(part: Any) -> bool:
    """Whether it is a vector of class ids or token ids: these have rows, but no dimensions and no scale."""
    return isinstance(part, np.ndarray) and part.dtype.kind == "i"


def rows(part: Any, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    """An input with its axis of rows changed; the rows of B A are those of B."""
    if ids(part):
        return change(part[:, None])[:, 0]
    return change(part) if isinstance(part, np.ndarray) else {n: (a, change(b)) for n, (a, b) in part.items()}


def columns(part: Any, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    """An input with its last axis changed; the columns of B A are those of A."""
    if ids(part):
        return part
    return change(part) if isinstance(part, np.ndarray) else {n: (change(a), b) for n, (a, b) in part.items()}


def scaled(part: Any, factor: float) -> Any:
    return part if ids(part) else rows(part, lambda array: factor * array)


def cast(part: Any, dtype: type) -> Any:
    if ids(part):
        return part
    return columns(rows(part, lambda array: array.astype(dtype)), lambda array: array.astype(dtype))


def shape(part: Any) -> tuple[int, ...]:
    """The shape of an array, or of the matrices of an update."""
    if isinstance(part, np.ndarray):
        return (len(part), 1) if ids(part) else part.shape
    a, b = next(iter(part.values()))
    return len(b), a.shape[1]


def put(array: np.ndarray, place: Any, value: float) -> np.ndarray:
    changed = array.copy()
    changed[place] = value
    return changed


def task(record: Indicator, rng: np.random.Generator) -> list[Any]:
    return [sample(need, rng) for need in record.needs]


def pairs(record: Indicator) -> list[tuple[list[Any], list[Any]]]:
    """Some related pairs: the target is a mixture of the source and something else."""
    rng = np.random.default_rng(20)
    return [(task(record, rng), task(record, rng)) for _ in range(TRIES)]


def value(record: Indicator, source: list[Any], target: list[Any], **options: Any) -> float:
    one = len(record.needs) == 1
    return record.value(source[0] if one else tuple(source), target[0] if one else tuple(target), **options)


def item(record: Indicator, arrays: list[Any]) -> Any:
    return arrays[0] if len(record.needs) == 1 else tuple(arrays)


@every
def test_returns_a_python_float_within_bounds(record: Indicator) -> None:
    low, high = record.bounds
    for source, target in pairs(record):
        result = value(record, source, target)
        assert type(result) is float
        assert low <= result <= high


@every
def test_symmetry_is_as_declared(record: Indicator) -> None:
    there = np.array([value(record, a, b) for a, b in pairs(record)])
    back = np.array([value(record, b, a) for a, b in pairs(record)])
    if record.symmetric:
        np.testing.assert_allclose(there, back, atol=TIGHT)
    else:
        assert np.abs(there - back).max() > 1e-3


@every
def test_value_with_itself(record: Indicator) -> None:
    own = [value(record, a, a) for a, _ in pairs(record)]
    if record.self_value is None:
        assert np.ptp(own) > 1e-6, "declared to depend on the task"
    else:
        np.testing.assert_allclose(own, record.self_value, atol=TIGHT)
        others = [value(record, a, b) for a, b in pairs(record)]
        far = max(others) if record.higher_is_closer else -min(others)
        assert far < (record.self_value if record.higher_is_closer else -record.self_value)


@every
def test_agrees_with_the_loops(record: Indicator) -> None:
    loop = REFERENCE[record.template or record.name]
    options = {"first": 1, "stop": 3} if record.template == "on_layers_A_B" else {}
    for source, target in pairs(record):
        arrays = [array for pair in zip(source, target, strict=True) for array in pair]
        assert value(record, source, target) == pytest.approx(loop(*arrays, **options), abs=TIGHT)


@every
def test_all_pairs_agree_with_each_pair(record: Indicator) -> None:
    sources, targets = zip(*pairs(record), strict=True)
    left, right = [item(record, task) for task in sources], [item(record, task) for task in targets[:3]]
    expected = [[value(record, a, b) for b in targets[:3]] for a in sources]
    got = indicators.matrix(record.name, left, right)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, atol=TIGHT)
    square = indicators.matrix(record.name, left)
    np.testing.assert_allclose(square, [[value(record, a, b) for b in sources] for a in sources], atol=TIGHT)


@every
def test_inputs_are_not_changed(record: Indicator) -> None:
    source, target = pairs(record)[0]
    before = copy.deepcopy((source, target))
    value(record, source, target)
    np.testing.assert_equal((source, target), before)


@every
def test_the_order_of_the_last_axis_does_not_matter(record: Indicator) -> None:
    """Neurons of a layer, or dimensions of the embedding, renamed in the same way on both sides.

    Distinct values: ties in predictivity are decided by the index of the neuron, on purpose.
    """
    rng = np.random.default_rng(3)
    for source, target in pairs(record):
        distinct = [
            [columns(part, lambda array: array + 1e-3 * rng.random(array.shape)) for part in side]
            for side in (source, target)
        ]
        order = rng.permutation(shape(source[0])[-1])
        moved = [[columns(p, lambda array, by=order: array[..., by]) for p in side] for side in distinct]
        assert value(record, *moved) == pytest.approx(value(record, *distinct), abs=TIGHT)


def reordered(part: Any, order: np.ndarray) -> Any:
    return rows(part, lambda array: array[..., order, :])


@every
def test_the_order_of_the_rows_is_as_declared(record: Indicator) -> None:
    rng = np.random.default_rng(4)
    together, apart = 0.0, 0.0
    for source, target in pairs(record):
        plain = value(record, source, target)
        order = np.roll(np.arange(shape(source[0])[-2]), 1)
        moved = [reordered(part, order) for part in target]
        together = max(
            together, abs(value(record, [reordered(part, order) for part in source], moved) - plain)
        )
        other = rng.permutation(order)
        apart = max(apart, abs(value(record, [reordered(part, other) for part in source], target) - plain))
    assert (together < TIGHT) == (record.rows in ("free", "aligned"))
    assert (apart < TIGHT) == (record.rows == "free")


@every
def test_scale_law(record: Indicator) -> None:
    if record.scale == "none":
        pytest.skip("nothing is declared")
    apart = []
    for source, target in pairs(record):
        plain = value(record, source, target)
        tripled = [[scaled(part, 3.0) for part in side] for side in (source, target)]
        alone = value(record, [scaled(part, 0.01) for part in source], tripled[1])
        if record.scale == "each":
            assert alone == pytest.approx(plain, abs=TIGHT)
        elif record.scale == "both":
            assert value(record, *tripled) == pytest.approx(plain, abs=TIGHT)
            apart.append(abs(alone - plain))
        elif record.scale == "value":
            assert value(record, *tripled) == pytest.approx(3 * plain, rel=TIGHT)
        else:
            assert 1 / value(record, *tripled) - 1 == pytest.approx(3 * (1 / plain - 1), rel=TIGHT)
    assert record.scale != "both" or max(apart) > 1e-6


@every
def test_single_precision_in_the_same_out(record: Indicator) -> None:
    for source, target in pairs(record):
        single = [[cast(part, np.float32) for part in side] for side in (source, target)]
        double = [[cast(part, np.float64) for part in side] for side in single]
        result = value(record, *single)
        assert type(result) is float
        assert result == pytest.approx(value(record, *double), abs=TIGHT)
        assert result == pytest.approx(value(record, source, target), abs=SINGLE)


@every
def test_tiny_and_huge_inputs(record: Indicator) -> None:
    if record.scale in ("distance", "value", "none"):
        pytest.skip("it follows the scale, or may")
    source, target = pairs(record)[0]
    for factor in (1e-200, 1e200):
        far = [[scaled(part, factor) for part in side] for side in (source, target)]
        assert value(record, *far) == pytest.approx(value(record, source, target), abs=TIGHT)


@every
def test_zero_input_has_the_declared_value(record: Indicator) -> None:
    zero = [scaled(sample(need, np.random.default_rng(5)), 0.0) for need in record.needs]
    assert value(record, zero, zero) == pytest.approx(record.zero_value, nan_ok=True, abs=0)
    matrix = indicators.matrix(record.name, [item(record, zero)])
    np.testing.assert_array_equal(matrix, [[record.zero_value]])
    if math.isnan(record.zero_value):
        assert "NaN" in record.degenerate


@every
def test_one_zero_row_stays_finite(record: Indicator) -> None:
    for source, target in pairs(record):
        blank = [rows(part, lambda array: put(array, (..., 0, slice(None)), 0.0)) for part in source]
        result = value(record, blank, target)
        assert record.bounds[0] <= result <= record.bounds[1]


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_with_its_place(record: Indicator, bad: float) -> None:
    source, target = pairs(record)[0]
    if record.needs == ("predictivity",) and np.isnan(bad):
        pytest.skip("NaN marks an undefined predictivity")
    if ids(target[0]):
        pytest.skip("integers are finite")
    target[0] = columns(target[0], lambda array: put(array, (..., 1, 2), bad))
    place = r"0, 1, 2" if len(shape(target[0])) == 3 else r"1, 2"
    # Of an update the message also says which factor of which module it is.
    with pytest.raises(InvalidInput, match=rf"target {record.needs[0]}(, .*)? holds {bad} at \[{place}\]"):
        value(record, source, target)


@every
def test_shapes_that_do_not_fit_are_named(record: Indicator) -> None:
    source, target = pairs(record)[0]
    if ids(target[0]):
        pytest.skip("a set has no shape")
    narrow = [columns(part, lambda array: array[..., :-1]) for part in target]
    if record.name in ANY_WIDTH:
        arrays = [array for pair in zip(source, narrow, strict=True) for array in pair]
        assert value(record, source, narrow) == pytest.approx(REFERENCE[record.name](*arrays), abs=TIGHT)
        return
    with pytest.raises(InvalidInput) as caught:
        value(record, source, narrow)
    assert "is [" in str(caught.value)
    assert str(list(shape(narrow[0])[-2:]))[1:-1] in str(caught.value)


@every
def test_rows_may_differ_only_where_declared(record: Indicator) -> None:
    source, target = pairs(record)[0]
    short = [rows(part, lambda array: array[..., :-1, :]) for part in target]
    if record.requires_equal_rows:
        with pytest.raises(InvalidInput, match="must agree"):
            value(record, source, short)
    else:
        result = value(record, source, short)
        arrays = [array for pair in zip(source, short, strict=True) for array in pair]
        assert result == pytest.approx(REFERENCE[record.name](*arrays), abs=TIGHT)


@every
@pytest.mark.parametrize("wrong", [np.ones(3), np.ones((0, 3)), np.array([["a"]]), np.ones((2, 2), complex)])
def test_other_arrays_are_refused(record: Indicator, wrong: np.ndarray) -> None:
    if wrong.ndim == 1 and "ffn_fisher" in record.needs:
        pytest.skip("a vector is allowed")
    arrays = [wrong for _ in record.needs]
    with pytest.raises(InvalidInput, match=f"source {record.needs[0]}"):
        value(record, arrays, arrays)
