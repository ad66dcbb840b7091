"""Scores of neurons from activations and labels, their comparison, and task-specific neurons (LAPE)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import indicators
from indicators import InvalidInput
from indicators.neuron_scores import (
    KINDS,
    ClassMoments,
    attribution,
    auroc,
    class_moments,
    mean_difference,
    point_biserial,
)
from indicators.specificity import lape, lape_overlap
from tests import reference_distances as loops


def data(seed: int, classes: int, examples: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Activations [S, 2, 5] with ties and a class effect, and class ids with gaps."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(np.arange(examples) % classes)
    values = rng.normal(size=(examples, 2, 5)) + 0.8 * rng.normal(size=(classes, 2, 5))[ids]
    return np.round(values, 1), 4 * ids - 3


def per_neuron(function: Any, values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    cells = [[function(values[:, i, n].tolist(), labels.tolist()) for n in range(5)] for i in range(2)]
    return np.array(cells)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_scores_agree_with_the_loops(classes: int) -> None:
    values, labels = data(classes, classes)
    moments = class_moments(values, labels)
    for got, loop in (
        (mean_difference(moments), loops.mean_difference),
        (point_biserial(moments), loops.point_biserial),
        (auroc(values, labels), loops.auroc),
    ):
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, per_neuron(loop, values, labels), atol=1e-12)


def test_public_implementations_of_the_scores() -> None:
    from scipy.stats import pointbiserialr
    from sklearn.metrics import roc_auc_score

    values, labels = data(1, 2)
    correlations = point_biserial(class_moments(values, labels), per_class=True)
    areas = auroc(values, labels, per_class=True)
    for layer in range(2):
        for n in range(5):
            column, second = values[:, layer, n], labels == labels.max()
            assert correlations[1, layer, n] == pytest.approx(pointbiserialr(second, column).statistic)
            assert areas[1, layer, n] == pytest.approx(roc_auc_score(second, column))
    np.testing.assert_allclose(correlations[0], -correlations[1], atol=1e-12)
    np.testing.assert_allclose(areas[0], 1 - areas[1], atol=1e-12)


def test_the_classes_may_be_renamed_and_the_examples_reordered() -> None:
    values, labels = data(2, 3)
    order, renamed = np.random.default_rng(0).permutation(len(labels)), 100 - 7 * labels
    for got in (
        lambda v, y: mean_difference(class_moments(v, y)),
        lambda v, y: point_biserial(class_moments(v, y)),
        auroc,
    ):
        np.testing.assert_allclose(got(values[order], renamed[order]), got(values, labels), atol=1e-12)


def test_ranges_and_what_tells_classes_apart_best() -> None:
    values = np.zeros((6, 1, 3))
    values[:, 0, 0] = [0, 0, 0, 2, 2, 2]  # the label itself
    values[:, 0, 1] = 7.1  # does not vary
    values[:, 0, 2] = [1, 2, 3, 1, 2, 3]  # the same in both classes
    labels = np.array([0, 0, 0, 1, 1, 1])
    moments = class_moments(values, labels)
    np.testing.assert_allclose(mean_difference(moments), [[2.0, 0.0, 0.0]])
    np.testing.assert_allclose(point_biserial(moments), [[1.0, 0.0, 0.0]])
    np.testing.assert_allclose(auroc(values, labels), [[1.0, 0.5, 0.5]])
    np.testing.assert_allclose(auroc(-values, labels), [[1.0, 0.5, 0.5]])


def test_units_of_a_neuron_matter_to_mean_differences_alone() -> None:
    values, labels = data(3, 3)
    units = np.array([1.0, 10.0, 0.1, 3.0, -2.0])
    one, other = class_moments(values, labels), class_moments(values * units, labels)
    np.testing.assert_allclose(mean_difference(other), np.abs(units) * mean_difference(one), atol=1e-12)
    np.testing.assert_allclose(point_biserial(other), point_biserial(one), atol=1e-12)
    np.testing.assert_allclose(auroc(values * units, labels), auroc(values, labels), atol=1e-12)


def test_moments_come_from_sums_as_well() -> None:
    values, labels = data(4, 3)
    classes = np.unique(labels)
    counts = np.array([(labels == c).sum() for c in classes])
    sums = np.stack([values[labels == c].sum(axis=0) for c in classes])
    squares = np.stack([(values[labels == c] ** 2).sum(axis=0) for c in classes])
    means = sums / counts[:, None, None]
    streamed = ClassMoments(classes, counts, means, squares / counts[:, None, None] - means**2)
    np.testing.assert_allclose(
        point_biserial(streamed), point_biserial(class_moments(values, labels)), atol=1e-12
    )


def test_a_class_of_one_example_counts() -> None:
    values, labels = data(5, 2)
    labels[0] = 99
    for got, loop in (
        (point_biserial(class_moments(values, labels)), loops.point_biserial),
        (auroc(values, labels), loops.auroc),
    ):
        np.testing.assert_allclose(got, per_neuron(loop, values, labels), atol=1e-12)


def test_attribution_is_by_example() -> None:
    rng = np.random.default_rng(6)
    values, slopes = rng.normal(size=(2, 7, 2, 5))
    expected = np.mean([[[abs(a * g) for a, g in zip(p, q, strict=True)] for p, q in zip(v, s, strict=True)]
                        for v, s in zip(values, slopes, strict=True)], axis=0)  # fmt: skip
    np.testing.assert_allclose(attribution(values, slopes), expected, atol=1e-15)
    # Gradients of opposite sign do not cancel: the neuron matters to both examples.
    assert attribution(np.ones((2, 1, 1)), [[[1.0]], [[-1.0]]]).tolist() == [[1.0]]
    with pytest.raises(InvalidInput, match=r"activations are \[7, 2, 5\] and gradients \[6, 2, 5\]"):
        attribution(values, slopes[:6])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 1, 1, 1], "1 class: scores of neurons need at least 2"),
        ([1, 2, 1], r"activations are \[4, 1, 2\] and labels \[3\]: one label for each example"),
        ([0.0, 1.0, 0.0, 1.0], "labels holds float64: integers"),
    ],
)
@pytest.mark.parametrize("function", [class_moments, auroc])
def test_labels_that_do_not_fit(function: Any, labels: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        function(np.zeros((4, 1, 2)), labels)


def test_moments_that_do_not_fit() -> None:
    ones = np.ones((2, 1, 3))
    with pytest.raises(InvalidInput, match=r"counts \[3, 0\]"):
        ClassMoments(np.arange(2), np.array([3, 0]), ones, ones)
    with pytest.raises(InvalidInput, match=r"means are \[2, 1, 3\] and variances \[2, 1, 2\]"):
        ClassMoments(np.arange(2), np.array([3, 1]), ones, ones[:, :, :2])
    with pytest.raises(InvalidInput, match=r"activations holds nan at \[0, 0, 1\]"):
        class_moments([[[1.0, np.nan]], [[1.0, 2.0]]], [0, 1])


def test_every_kind_has_both_indicators() -> None:
    assert [kind.name for kind in KINDS] == ["mean_difference", "point_biserial", "auroc", "attribution"]
    for kind in KINDS:
        for statistic in ("spearman", "overlap"):
            record = indicators.get(f"neuron_{statistic}_{kind.name}")
            assert record.needs == (kind.name,)
            assert record.name in record.function.__doc__
            assert kind.strength in record.formula


@pytest.mark.parametrize("name", ["neuron_spearman_point_biserial", "neuron_overlap_attribution"])
def test_the_sign_is_of_the_class_and_not_of_the_task(name: str) -> None:
    x, y = np.random.default_rng(7).normal(size=(2, 3, 20))
    function = indicators.get(name).function
    assert function(x, -y) == function(x, y) == function(np.abs(x), y)


def test_an_auroc_below_half_is_as_strong_as_above() -> None:
    x, y = np.round(np.random.default_rng(8).uniform(size=(2, 3, 20)), 1)
    for name in ("neuron_spearman_auroc", "neuron_overlap_auroc"):
        function = indicators.get(name).function
        assert function(x, 1 - y) == pytest.approx(function(x, y), abs=1e-12)
        with pytest.raises(InvalidInput, match=r"source auroc holds 1\.5 at \[0, 1\]: numbers from 0 to 1"):
            function([[0.0, 1.5]], [[0.0, 1.0]])
    with pytest.raises(InvalidInput, match="at least 0"):
        indicators.get("neuron_overlap_mean_difference").function([[1.0, -1.0]], [[1.0, 1.0]])


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS])
def test_layers_of_another_level_fool_the_network_alone(kind: str) -> None:
    rng = np.random.default_rng(9)
    level = np.array([0.5, 0.6, 0.7, 0.8])[:, None]
    x, y = level + 0.05 * rng.uniform(size=(2, 4, 300))
    spearman, overlap = (indicators.get(f"neuron_{what}_{kind}").function for what in ("spearman", "overlap"))
    assert abs(spearman(x, y)) < 0.1
    assert spearman(x, y, by="network") > 0.8
    assert abs(overlap(x, y)) < 0.1
    assert overlap(x, y, by="network") > 0.5
    assert overlap(x, y, rate=0.5) != overlap(x, y)
    with pytest.raises(InvalidInput, match="by='head'"):
        spearman(x, y, by="head")


def test_undefined_layers_are_left_out() -> None:
    function = indicators.get("neuron_spearman_attribution").function
    x = np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])
    y = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    assert function(x, y) == pytest.approx(1.0)
    assert math.isnan(function(x[1:], y[1:]))
    assert math.isnan(function(x[:, :2], y[:, :2]))


@pytest.mark.parametrize(("rate", "active"), [(0.01, 0.95), (0.1, 0.8), (0.5, 0.5), (1.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("tasks", [3, 5])
def test_lape_agrees_with_the_loops(tasks: int, rate: float, active: float) -> None:
    firing = np.round(np.random.default_rng(tasks).beta(0.5, 2.0, size=(tasks, 4, 30)), 2)
    firing[:, 0, 0] = 0.0
    found = lape(firing, rate=rate, active=active)
    entropies, masks = loops.lape(firing, rate, active)
    np.testing.assert_allclose(found.entropies, entropies, atol=1e-12)
    np.testing.assert_array_equal(found.masks, masks)
    assert np.isnan(found.entropies[0, 0])
    assert found.masks.any() == (rate >= 0.01 and active < 1.0)


def test_lape_finds_the_neurons_of_each_task() -> None:
    rng = np.random.default_rng(1)
    firing = rng.uniform(0.1, 0.3, size=(3, 2, 50))
    for task in range(3):
        firing[task, :, task] = 0.9  # its own
    firing[:2, :, 7] = 0.8  # shared by two
    firing[2, :, 7] = 0.0
    found = lape(firing, rate=0.08, active=0.95)
    for task in range(3):
        own = {task, 7} if task < 2 else {task}
        assert set(np.flatnonzero(found.masks[task].all(axis=0))) == own
    assert found.entropies[0, 7] == pytest.approx(math.log(2))
    assert found.entropies.max() <= math.log(3) + 1e-12
    related, unrelated = (lape_overlap(found.masks[0], found.masks[i]) for i in (1, 2))
    assert related > 0.4
    assert unrelated < 0.0
    np.testing.assert_allclose(indicators.matrix("lape", list(found.masks))[0], [1.0, related, unrelated])


def test_lape_where_all_fire_alike() -> None:
    found = lape(np.full((3, 2, 10), 0.4), rate=0.5, active=0.5)
    np.testing.assert_allclose(found.entropies, math.log(3))
    assert not found.masks.any(), "no rate is above the others"
    assert lape_overlap(found.masks[0], found.masks[1]) == 0.0


@pytest.mark.parametrize(
    ("firing", "options", "message"),
    [
        (np.ones((2, 2, 3)), {}, "2 tasks: entropy over tasks needs at least 3"),
        (np.full((3, 2, 3), 1.5), {}, r"task firing 0 holds 1\.5 at \[0, 0\]"),
        (
            [np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 4))],
            {},
            r"task firing 2 is \[2, 4\] and task firing 0 is",
        ),
        (np.ones((3, 2, 3)), {"rate": 1.5}, r"rate=1\.5"),
        (np.ones((3, 2, 3)), {"active": -0.1}, r"active=-0\.1"),
        (np.full((3, 2, 3), np.nan), {}, "task firing 0 holds nan"),
    ],
)
def test_lape_refuses(firing: Any, options: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        lape(firing, **options)
