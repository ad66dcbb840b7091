"""Task embeddings: values by hand, centres, Fishers that are zero or large, vocabularies, errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import indicators
from indicators import InvalidInput
from indicators.task_embeddings import (
    prompt_fisher,
    task2vec,
    task2vec_asymmetric,
    text_embedding,
    vocabulary_overlap,
)
from tests import reference_distances as loops


def test_text_embedding_does_not_depend_on_the_number_of_texts() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(4, 6)) + 1.0, rng.normal(size=(7, 6)) + 1.0
    assert text_embedding(np.repeat(x, 5, axis=0), y) == pytest.approx(text_embedding(x, y), abs=1e-14)
    assert text_embedding(x.mean(axis=0, keepdims=True), y) == pytest.approx(text_embedding(x, y), abs=1e-14)


def test_a_centre_undoes_what_all_texts_share() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(4, 6)), rng.normal(size=(5, 6))
    shared = 100.0 * np.ones(6)
    assert text_embedding(x + shared, y + shared) > 0.99
    apart = text_embedding(x + shared, y + shared, centre=shared)
    assert apart == pytest.approx(text_embedding(x, y), abs=1e-12)
    assert apart == pytest.approx(
        loops.text_embedding((x + shared).tolist(), (y + shared).tolist(), list(shared))
    )
    assert text_embedding(shared[None], y, centre=shared) == 0.0


@pytest.mark.parametrize(
    ("centre", "message"),
    [
        (np.ones(5), r"centre is \[5\] and source inputs is \[3, 6\]: the last axis must agree"),
        (np.ones((1, 6)), "centre is"),
        (np.full(6, np.nan), "nan"),
    ],
)
def test_centres_that_do_not_fit(centre: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        text_embedding(np.ones((3, 6)), np.ones((3, 6)), centre=centre)


def test_fishers_by_hand() -> None:
    x, y = [[1.0, 0.0], [2.0, 2.0]], [[0.0, 1.0], [2.0, 4.0]]
    assert prompt_fisher(x, y) == pytest.approx(12 / (3 * math.sqrt(21)))
    # F1 / (F1 + F2) = 1, 0, 1/2, 1/3 and F2 / (F1 + F2) = 0, 1, 1/2, 2/3.
    size = (1 + 1 / 4 + 1 / 9) * (1 + 1 / 4 + 4 / 9)
    assert task2vec(x, y) == pytest.approx((1 / 4 + 2 / 9) / math.sqrt(size))


def test_task2vec_asks_for_each_parameter_alike() -> None:
    """A parameter's unit does not matter, though a cosine of Fishers would see the largest alone."""
    rng = np.random.default_rng(3)
    x, y, unit = rng.exponential(size=(3, 2, 8))
    units = 10.0 ** rng.integers(-12, 12, size=unit.shape)
    assert task2vec(x * units, y * units) == pytest.approx(task2vec(x, y), abs=1e-13)
    assert abs(prompt_fisher(x * units, y * units) - prompt_fisher(x, y)) > 1e-3


def test_task2vec_of_small_fishers_is_not_damped() -> None:
    """The published code adds 1e-8 to the sum, which takes over where Fishers are of that size."""
    rng = np.random.default_rng(4)
    x, y = 1e-9 * rng.exponential(size=(2, 3, 5))
    damped = loops.cosine(
        [a / (a + b + 1e-8) for a, b in zip(x.ravel(), y.ravel(), strict=True)],
        [b / (a + b + 1e-8) for a, b in zip(x.ravel(), y.ravel(), strict=True)],
    )
    assert task2vec(x, y) == pytest.approx(task2vec(1e9 * x, 1e9 * y), abs=1e-13)
    assert abs(task2vec(x, y) - damped) > 0.01


def test_parameters_without_information_are_left_out() -> None:
    x, y = np.array([[1.0, 3.0, 0.0]]), np.array([[3.0, 1.0, 0.0]])
    assert task2vec(x, y) == pytest.approx(task2vec(x[:, :2], y[:, :2]))
    assert task2vec([[1.0, 0.0]], [[0.0, 1.0]]) == 0.0
    assert task2vec(0 * x, y) == 0.0
    assert task2vec_asymmetric(0 * x, y) == pytest.approx(0.15)


@pytest.mark.parametrize("factor", [1e-300, 1e300])
def test_tiny_and_huge_fishers(factor: float) -> None:
    x, y = np.random.default_rng(5).exponential(size=(2, 3, 5))
    for name in ("prompt_fisher", "task2vec", "task2vec_asymmetric"):
        function = indicators.get(name).function
        assert function(factor * x, factor * y) == pytest.approx(function(x, y), abs=1e-12)


def test_a_fisher_may_be_a_vector() -> None:
    x, y = np.random.default_rng(6).exponential(size=(2, 3, 5))
    for function in (task2vec, task2vec_asymmetric):
        assert function(x.ravel(), y.ravel()) == function(x, y)
        with pytest.raises(
            InvalidInput, match=r"source ffn_fisher is \[3, 5\] and target ffn_fisher is \[15\]"
        ):
            function(x, y.ravel())


def test_a_complex_source_is_preferred() -> None:
    """Of two sources as near to the target, the one further from the trivial task."""
    target, easy, hard, trivial = np.array([[[2.0, 2.0]], [[4.0, 1.0]], [[1.0, 4.0]], [[4.0, 1.5]]])
    assert task2vec(easy, target) == pytest.approx(task2vec(hard, target))
    low, high = (task2vec_asymmetric(item, target, trivial=trivial) for item in (easy, hard))
    assert low + 0.01 < high
    # With no trivial task given, that whose information is spread evenly is one.
    even, uneven = np.ones((1, 4)), np.array([[8.0, 0.1, 0.1, 0.1]])
    assert task2vec_asymmetric(even, even) == pytest.approx(1.0)
    assert 1.05 < task2vec_asymmetric(uneven, uneven) < 1.15


def test_the_asymmetric_form_with_a_trivial_task() -> None:
    x, y, nothing = np.random.default_rng(7).exponential(size=(3, 3, 5))
    for alpha in (0.0, 0.15, 2.0):
        got = task2vec_asymmetric(x, y, trivial=nothing, alpha=alpha)
        expected = loops.task2vec_asymmetric(x.tolist(), y.tolist(), nothing.tolist(), alpha)
        assert got == pytest.approx(expected, abs=1e-13)
    assert task2vec_asymmetric(x, y, alpha=0.0) == task2vec(x, y)
    with pytest.raises(InvalidInput, match="alpha=-1"):
        task2vec_asymmetric(x, y, alpha=-1.0)
    with pytest.raises(InvalidInput, match=r"trivial ffn_fisher is \[2, 5\]"):
        task2vec_asymmetric(x, y, trivial=nothing[:2])


@pytest.mark.parametrize("name", ["prompt_fisher", "task2vec", "task2vec_asymmetric"])
def test_a_fisher_is_not_negative(name: str) -> None:
    record = indicators.get(name)
    bad = np.array([[1.0, 2.0], [3.0, -0.5]])
    with pytest.raises(
        InvalidInput, match=rf"target {record.needs[0]} holds -0\.5 at \[1, 1\]: numbers of at least 0"
    ):
        record.function(np.ones((2, 2)), bad)


def test_vocabularies_are_sets() -> None:
    assert vocabulary_overlap([1, 2, 3, 3], [3, 2, 9]) == 0.5
    assert vocabulary_overlap(np.array([1, 2], np.uint16), np.array([2, 1], np.int32)) == 1.0
    assert vocabulary_overlap([0], [1]) == 0.0
    both: tuple[list[int], list[int]] = (list(range(0, 3000)), list(range(1000, 4000)))
    assert vocabulary_overlap(*both) == 0.5


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([1.0, 2.0], "target vocabulary holds float64: integers are needed"),
        ([True, False], "target vocabulary holds bool"),
        ([3, -1], "target vocabulary holds -1: token ids of at least 0"),
        ([], r"target vocabulary is \[0\]"),
        ([[1, 2]], r"target vocabulary is \[1, 2\]"),
        (["a"], "target vocabulary holds <U1"),
    ],
)
def test_vocabularies_that_are_none(tokens: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        vocabulary_overlap([1, 2], tokens)
