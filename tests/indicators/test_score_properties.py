"""Properties of every score (of a target's data under a source's prompt), read from its record.

A new score is tested by being registered; a need with no sample here is an error that says so.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import indicators
from indicators import Indicator, InvalidInput
from tests.reference import REFERENCE

TIGHT = 1e-9  # the same formula, summed in another order
SINGLE = 1e-3  # float32 inputs, of values rounded to float32
TRIES = 4
EXAMPLES, WIDTH, COLUMNS = 24, 5, 4

RECORDS = [record for record in indicators.records() if record.convention == "score"]
every = pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
of_features = pytest.mark.parametrize(
    "record", [record for record in RECORDS if record.needs == ("features", "labels")], ids=lambda r: r.name
)
# Their labels are the columns of their probabilities, so the names of classes have a meaning.
BY_COLUMN = {"zero_shot_loss", "zero_shot_accuracy"}
# The centres of k-means are drawn by the places of the examples, which are sorted by dimension, and between
# equals the digits that float32 does not have may decide.
BY_CHANCE = {"nleep"}


def classes(count: int = EXAMPLES) -> np.ndarray:
    """Columns 0, 2 and 3 as class ids, of different sizes: 1 is missing."""
    return np.array(([0, 2, 0, 3, 2, 0] * count)[:count])


def balanced(count: int) -> np.ndarray:
    return np.array(([0, 2, 3] * count)[:count])


def sample(need: str, rng: np.random.Generator, labels: np.ndarray, width: int = WIDTH) -> Any:
    """A random array of what a score can need, which says something of the labels."""
    if need == "labels":
        return labels
    if need == "features":
        means = rng.normal(size=(COLUMNS, width))
        return 0.3 + means[labels] + rng.normal(size=(len(labels), width))
    logits = rng.normal(size=(len(labels), COLUMNS)) + 1.5 * np.eye(COLUMNS)[labels]
    if need == "logits":
        return logits
    if need == "probabilities":
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    raise KeyError(f"no random sample for {need!r}: add one to the property tests")


def arrays(
    record: Indicator, seed: int = 0, labels: np.ndarray | None = None, width: int = WIDTH
) -> list[Any]:
    rng = np.random.default_rng([30, seed])
    return [sample(need, rng, classes() if labels is None else labels, width) for need in record.needs]


def samples(record: Indicator) -> list[list[Any]]:
    return [arrays(record, seed) for seed in range(TRIES)]


def within(record: Indicator, value: float) -> bool:
    return type(value) is float and record.bounds[0] <= value <= record.bounds[1]


def labelled(record: Indicator) -> None:
    if "labels" not in record.needs:
        pytest.skip("reads no labels")


@every
def test_returns_a_python_float_within_bounds(record: Indicator) -> None:
    for given in samples(record):
        assert within(record, record.function(*given))
        assert within(record, record.function(*(array.tolist() for array in given)))


@every
def test_agrees_with_the_loops(record: Indicator) -> None:
    for given in samples(record):
        assert record.function(*given) == pytest.approx(REFERENCE[record.name](*given), abs=TIGHT, rel=TIGHT)


@every
def test_a_pair_is_called_through_its_record(record: Indicator) -> None:
    given = arrays(record)
    if len(given) == 2:
        assert record.value(*given) == record.function(*given)
    with pytest.raises(InvalidInput, match=f"{record.name} is a score of one pair's {record.needs[0]}"):
        indicators.matrix(record.name, given)


@every
def test_the_record_is_that_of_a_score(record: Indicator) -> None:
    assert (record.symmetric, record.self_value, record.requires_equal_rows) == (False, None, True)
    assert (record.rows, record.family, record.pairwise) == ("aligned", "label_scores", None)
    options = [p for p in inspect.signature(record.function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert all(option.default is not option.empty for option in options)


@every
def test_the_same_twice_and_nothing_is_changed(record: Indicator) -> None:
    given = arrays(record)
    before = copy.deepcopy(given)
    state = np.random.get_state()[1].tolist()
    first = record.function(*given)
    np.testing.assert_equal(given, before)
    assert record.function(*given) == first
    assert np.random.get_state()[1].tolist() == state


@every
def test_the_order_of_the_examples_does_not_matter(record: Indicator) -> None:
    rng = np.random.default_rng(31)
    apart = 0.0
    for given in samples(record):
        order = rng.permutation(EXAMPLES)
        plain = record.function(*given)
        assert record.function(*(array[order] for array in given)) == pytest.approx(plain, abs=TIGHT)
        if len(given) > 1:
            apart = max(apart, abs(record.function(given[0][order], given[1]) - plain))
    assert apart > 1e-3 or len(record.needs) == 1


@every
def test_the_order_of_the_last_axis_does_not_matter(record: Indicator) -> None:
    if record.name in BY_CHANCE | BY_COLUMN:
        pytest.skip("its last axis has an order")
    order = np.random.default_rng(32).permutation(WIDTH)
    for first, *rest in samples(record):
        moved = first[:, order[order < first.shape[1]]]
        assert record.function(moved, *rest) == pytest.approx(record.function(first, *rest), abs=TIGHT)


@every
def test_the_names_of_the_classes_do_not_matter(record: Indicator) -> None:
    labelled(record)
    names = np.array([700, 0, -4, 12])  # in another order, with gaps
    for first, labels in samples(record):
        plain = record.function(first, labels)
        if record.name in BY_COLUMN:
            assert record.function(first, names[labels], classes=names.tolist()) == plain
            order = [2, 0, 3, 1]
            assert record.function(first[:, order], labels, classes=order) == pytest.approx(plain, abs=TIGHT)
            continue
        for other in (names[labels], labels.astype(np.uint8), labels.astype(float), labels * 10**12):
            assert record.function(first, other) == pytest.approx(plain, abs=TIGHT)


@every
def test_scale_law(record: Indicator) -> None:
    changed = 0.0
    for first, *rest in samples(record):
        plain = record.function(first, *rest)
        if record.needs[0] == "probabilities":
            with pytest.raises(
                InvalidInput, match="probabilities sums to 3 in row 0: each row must sum to 1"
            ):
                record.function(3.0 * first, *rest)
        elif record.scale == "each":
            for factor in (3.0, 1e-3, 1e3, 1e-200, 1e200):
                assert record.function(factor * first, *rest) == pytest.approx(plain, abs=1e-8)
        else:
            assert record.scale == "none"
            for factor in (0.1, 3.0, 1e-150, 1e150):
                value = record.function(factor * first, *rest)
                assert within(record, value)
                changed = max(changed, abs(value - plain))
    assert (changed > 1e-3) == (record.scale == "none" and record.needs[0] != "probabilities")


@every
def test_single_precision_in_the_same_out(record: Indicator) -> None:
    for first, *rest in samples(record):
        single = first.astype(np.float32)
        result = record.function(single, *rest)
        assert type(result) is float
        assert result == record.function(single.astype(np.float64), *rest)
        if record.name not in BY_CHANCE:
            assert result == pytest.approx(record.function(first, *rest), abs=SINGLE)


@every
def test_what_says_nothing_has_the_declared_value(record: Indicator) -> None:
    """Features or logits that are all 0, probabilities that are all equal; two classes of the same size."""
    blank = {"features": np.zeros((8, 3)), "logits": np.zeros((8, 2)), "probabilities": np.full((8, 2), 0.5)}
    given = [blank | {"labels": np.array([0, 1] * 4)}][0]
    result = record.function(*(given[need] for need in record.needs))
    assert result == pytest.approx(record.zero_value, abs=1e-12)
    if record.needs[0] == "features" and record.name != "logme":  # the evidence has no intercept
        constant = np.full((8, 3), 0.1) * [1.0, 3.0, -7.0]
        assert record.function(constant, given["labels"]) == pytest.approx(record.zero_value, abs=1e-12)


@every
def test_better_inputs_have_better_values(record: Indicator) -> None:
    """The direction of the record: what goes with the labels is closer than the same with labels shuffled."""
    labelled(record)
    rng = np.random.default_rng(33)
    sign = 1 if record.higher_is_closer else -1
    for seed in range(TRIES):
        first, labels = arrays(record, seed, balanced(120))
        shuffled = np.mean([record.function(first, rng.permutation(labels)) for _ in range(5)])
        assert sign * record.function(first, labels) > sign * shuffled


@every
def test_one_class_alone(record: Indicator) -> None:
    labelled(record)
    first, labels = arrays(record)
    alone = np.full_like(labels, 2)
    if record.needs[0] == "features":
        with pytest.raises(InvalidInput, match="labels holds one class for all 24 examples: at least two"):
            record.function(first, alone)
    elif record.name in BY_COLUMN:
        assert record.function(first, alone) == pytest.approx(REFERENCE[record.name](first, alone))
    else:
        assert record.function(first, alone) == pytest.approx(0.0, abs=1e-12)


@of_features
def test_one_example_of_each_class(record: Indicator) -> None:
    features = np.random.default_rng(34).normal(size=(4, 6))
    assert within(record, record.function(features, [0, 1, 2, 3]))
    assert within(record, record.function(features[:2], [0, 1]))
    assert within(record, record.function(features, [0, 1, 1, 1]))


@of_features
def test_fewer_examples_than_dimensions(record: Indicator) -> None:
    for seed in range(TRIES):
        given = arrays(record, seed, classes(12), width=40)
        result = record.function(*given)
        assert within(record, result)
        assert math.isfinite(result)
        if record.name != "h_score":  # the pseudo-inverse of a covariance has no cut-off that fits all
            assert result == pytest.approx(REFERENCE[record.name](*given), abs=1e-6)


@of_features
@pytest.mark.parametrize("kind", ["constant", "duplicated", "collinear", "ties", "duplicates of examples"])
def test_degenerate_features_stay_finite(record: Indicator, kind: str) -> None:
    for features, labels in samples(record):
        change: dict[str, Callable[[], np.ndarray]] = {
            "constant": lambda x=features: np.hstack([x, np.full((EXAMPLES, 2), 0.1)]),
            "duplicated": lambda x=features: np.hstack([x, x, x[:, :1]]),
            "collinear": lambda x=features: np.hstack([x, x @ np.ones((WIDTH, 3)) * 0.1]),
            "ties": lambda y=labels: np.eye(4)[y],
            "duplicates of examples": lambda x=features: x[np.arange(EXAMPLES) // 4 * 4],
        }
        result = record.function(change[kind](), labels)
        assert within(record, result)
        assert math.isfinite(result)


@of_features
def test_constant_features_change_nothing(record: Indicator) -> None:
    if record.name in {"logme", "h_score_shrinkage", "gbc_spherical", "sfda", "parc"}:
        pytest.skip("an intercept, a mean over dimensions, or a correlation over them: they count")
    for features, labels in samples(record):
        wide = np.hstack([features, np.full((EXAMPLES, 1), 0.1), np.zeros((EXAMPLES, 2))])
        assert record.function(wide, labels) == pytest.approx(record.function(features, labels), abs=1e-8)


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_with_its_place(record: Indicator, bad: float) -> None:
    for position, need in enumerate(record.needs):
        given = [np.array(array, float) for array in arrays(record)]
        place = (3, 1) if given[position].ndim == 2 else (3,)
        given[position][place] = bad
        where = ", ".join(map(str, place))
        with pytest.raises(InvalidInput, match=rf"{need} holds {bad} at \[{where}\]"):
            record.function(*given)


@every
def test_shapes_that_do_not_fit_are_named(record: Indicator) -> None:
    labelled(record)
    first, labels = arrays(record)
    with pytest.raises(InvalidInput, match=rf"labels is \[23\] and {record.needs[0]} has 24 rows"):
        record.function(first, labels[:-1])
    with pytest.raises(InvalidInput, match=rf"{record.needs[0]} is \[24\]"):
        record.function(labels, labels)


@every
@pytest.mark.parametrize("wrong", [np.ones(3), np.ones((0, 3)), np.array([["a"]]), np.ones((2, 2), complex)])
def test_other_arrays_are_refused(record: Indicator, wrong: np.ndarray) -> None:
    given = arrays(record)
    with pytest.raises(InvalidInput, match=f"{record.needs[0]} (is|holds)"):
        record.function(wrong, *given[1:])


@every
def test_labels_that_are_no_class_ids_are_refused(record: Indicator) -> None:
    labelled(record)
    first, labels = arrays(record)
    with pytest.raises(InvalidInput, match="labels holds <U1"):
        record.function(first, labels.astype("<U1"))
    if record.name != "logme":  # where these are regression targets
        with pytest.raises(InvalidInput, match=r"labels holds 0\.5 at \[2\]: class ids are whole numbers"):
            record.function(first, np.where(np.arange(EXAMPLES) == 2, 0.5, labels))
        with pytest.raises(InvalidInput, match=r"labels is \[24, 1\]"):
            record.function(first, labels[:, None])
