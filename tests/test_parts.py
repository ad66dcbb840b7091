"""Indicators of some layers, at other rates, of some trials: against loops and the indicators themselves."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest

import indicators
from tests import reference
from transferscope import parts as cutting
from transferscope.comparison import Material, compare_materials
from transferscope.errors import IndicatorInputError, InputError
from transferscope.parts import Cut, Part, parts, trial_subsets

TRIALS, LAYERS, NEURONS = 3, 4, 20
LAYER_NAMES = (
    *("skill_jaccard", "skill_overlap", "skill_on", "predictivity_spearman"),
    *("predictivity_spearman_layers", "on", "on_raw", "on_jaccard"),
)


def material(
    task: str, seed: int, *, trials: int = TRIALS, gated: bool = False, classes: int = 1
) -> Material:
    rng = np.random.default_rng(seed)
    stimulation = rng.normal(size=(trials, LAYERS, NEURONS))
    inputs: dict[str, Any] = {
        "prompt": list(rng.normal(size=(trials, 3, 5))),
        "stimulation": list(stimulation),
        "predictivity": list(rng.uniform(0.5, 1, (trials, classes, LAYERS, NEURONS))),
    }
    active = list(rng.random(stimulation.shape) < 0.4) if gated else []
    return Material(task, inputs, active=active)


@pytest.fixture
def three() -> list[Material]:
    return [material("a", 1), material("b", 2), material("c", 3, classes=3)]


def by_label(found: list[Part], name: str) -> dict[str, np.ndarray]:
    return {part.label: part.matrices[0].values for part in found if part.name == name}


def over_trials(function: Any, left: list[Any], right: list[Any], same: bool) -> float:
    """Mean over all pairs of trials, of different ones for a task with itself."""
    pairs = [(i, j) for i in range(len(left)) for j in range(len(right)) if not (same and i == j)]
    return float(np.mean([function(left[i], right[j]) for i, j in pairs]))


def test_which_indicators_have_a_curve_follows_from_what_they_need(three: list[Material]) -> None:
    found, _ = parts("layer", three, LAYER_NAMES)
    assert tuple(dict.fromkeys(part.name for part in found)) == LAYER_NAMES
    every, _ = parts("layer-group", three, cut=Cut(group=2))
    assert {part.name for part in every} == set(LAYER_NAMES)
    rates, _ = parts("rate", three)
    assert {part.name for part in rates} == {"skill_jaccard", "skill_overlap", "skill_on"}
    trials, _ = parts("trials", three)
    assert {part.name for part in trials} == {*LAYER_NAMES, *indicators.names(needs="prompt")}


def test_a_layer_alone(three: list[Material]) -> None:
    found, _ = parts("layer", three, ["on", "on_raw", "predictivity_spearman"])
    assert [part.label for part in found[: LAYERS + 1]] == ["0", "1", "2", "3", "all"]
    assert [part.x for part in found[: LAYERS + 1]] == [0, 1, 2, 3, None]
    for name in ("on", "on_raw"):
        of_layers = by_label(found, name)
        for layer in range(LAYERS):
            for i, j in np.ndindex(3, 3):
                left, right = ([t[layer : layer + 1] for t in three[k].inputs["stimulation"]] for k in (i, j))
                expected = over_trials(reference.REFERENCE[name], left, right, i == j)
                assert of_layers[str(layer)][i, j] == pytest.approx(expected)
    means = [np.mean(one.inputs["predictivity"], axis=0) for one in three]
    slow = reference.REFERENCE["predictivity_spearman"]
    assert by_label(found, "predictivity_spearman")["2"][0, 2] == pytest.approx(
        slow(means[0][:, 2:3], means[2][:, 2:3])
    )


def test_skill_neurons_of_a_layer_are_chosen_in_this_layer(three: list[Material]) -> None:
    found, _ = parts("layer", three, ["skill_on"])
    means = [np.mean(one.inputs["predictivity"], axis=0)[:, 1:2] for one in three]

    def slow(i: int, j: int) -> float:
        def value(x: np.ndarray, y: np.ndarray) -> float:
            return float(reference.REFERENCE["skill_on"](x[1:2], y[1:2], means[i], means[j]))

        return over_trials(value, three[i].inputs["stimulation"], three[j].inputs["stimulation"], i == j)  # type: ignore[arg-type]

    expected = [[slow(i, j) for j in range(3)] for i in range(3)]
    np.testing.assert_allclose(by_label(found, "skill_on")["1"], expected)


def test_a_gated_network_is_read_by_its_gates() -> None:
    two = [material("a", 1, gated=True), material("b", 2, gated=True)]
    found, _ = parts("layer", two, ["on"])
    for layer in range(LAYERS):
        left, right = ([t[layer : layer + 1] for t in one.active] for one in two)
        expected = over_trials(reference.REFERENCE["on"], left, right, False)
        assert by_label(found, "on")[str(layer)][0, 1] == pytest.approx(expected)


def test_groups_of_layers_are_those_of_the_indicator_by_groups(three: list[Material]) -> None:
    found, notes = parts("layer-group", three, ["on"])
    of_groups = by_label(found, "on")
    assert list(of_groups) == ["0-2", "3", "all"]
    expected = compare_materials(three, [*indicators.layer_groups(LAYERS), "on"])
    for label, matrix in zip(of_groups, expected, strict=True):
        np.testing.assert_allclose(of_groups[label], matrix.values)
    assert "groups of 3 layers" in notes[0]
    halves, _ = parts("layer-group", three, ["on"], Cut(group=2))
    assert list(by_label(halves, "on")) == ["0-1", "2-3", "all"]


def test_the_same_curve_is_drawn_once_unless_it_is_named(three: list[Material]) -> None:
    found, notes = parts("layer", three)
    assert {part.name for part in found} == set(LAYER_NAMES) - {"predictivity_spearman_layers"}
    assert any(
        "predictivity_spearman_layers is left out: of so few layers it is predictivity_spearman" in note
        for note in notes
    )


@pytest.mark.parametrize("name", ["skill_jaccard", "skill_overlap", "skill_on"])
def test_the_default_rate_is_the_indicator_itself(name: str, three: list[Material]) -> None:
    found, _ = parts("rate", three, [name], Cut(rates=(0.2,)))
    (expected,) = compare_materials(three, [name])
    np.testing.assert_array_equal(found[0].matrices[0].values, expected.values)


def test_other_rates(three: list[Material]) -> None:
    found, notes = parts("rate", three, ["skill_jaccard", "skill_on"])
    means = [np.mean(one.inputs["predictivity"], axis=0) for one in three]
    assert [part.x for part in found] == [*cutting.RATES] * 2
    for rate in (0.05, 0.5):
        slow = reference.set_jaccard(*(reference.skills(means[k], rate) for k in (0, 2)))
        assert by_label(found, "skill_jaccard")[f"{rate:g}"][0, 2] == pytest.approx(slow)

        def value(x: np.ndarray, y: np.ndarray, rate: float = rate) -> float:
            skills = reference.skills(means[1], rate)
            return reference.set_cosine(
                reference.active(x.tolist()) & skills, reference.active(y.tolist()) & skills
            )

        trials = list(three[1].inputs["stimulation"])
        expected = over_trials(value, trials, trials, True)
        assert by_label(found, "skill_on")[f"{rate:g}"][1, 1] == pytest.approx(expected)
    assert f"At 0.01, 0.02 no neuron is chosen: a layer has {NEURONS}." in notes
    assert not by_label(found, "skill_jaccard")["0.01"].any()


def test_trials_in_all_subsets(three: list[Material]) -> None:
    found, _ = parts("trials", three, ["on", "skill_on"])
    assert [(part.name, part.label, len(part.matrices)) for part in found] == [
        *(("on", "1", 3), ("on", "2", 3), ("on", "3", 1)),
        *(("skill_on", "1", 3), ("skill_on", "2", 3), ("skill_on", "3", 1)),
    ]
    for matrix, subset in zip(found[4].matrices, combinations(range(3), 2), strict=True):
        fewer = [
            replace(one, inputs={need: [several[i] for i in subset] for need, several in one.inputs.items()})
            for one in three
        ]
        np.testing.assert_array_equal(matrix.values, compare_materials(fewer, ["skill_on"])[0].values)
    whole = compare_materials(three, ["on"])[0].values
    np.testing.assert_array_equal(found[2].matrices[0].values, whole)
    (alone, *_) = found[0].matrices
    left, right = (three[k].inputs["stimulation"][0] for k in (0, 1))
    assert alone.values[0, 1] == pytest.approx(reference.REFERENCE["on"](left, right))


def test_tasks_with_more_trials_are_read_as_far_as_all_go(three: list[Material]) -> None:
    found, notes = parts("trials", [*three[:2], material("c", 3, trials=5)], ["on"])
    assert [part.label for part in found] == ["1", "2", "3"]
    assert "Of tasks with more than 3 trials the first 3 are read." in notes


def test_subsets_are_drawn_where_there_are_too_many() -> None:
    drawn = trial_subsets(8, 4, 20, seed=0)
    assert len(set(drawn)) == 20
    assert all(len(set(subset)) == 4 and max(subset) < 8 for subset in drawn)
    assert drawn == trial_subsets(8, 4, 20, seed=0) != trial_subsets(8, 4, 20, seed=1)


def test_what_is_refused(three: list[Material]) -> None:
    with pytest.raises(InputError, match=r"by is 'layers'. Did you mean 'layer'\?"):
        parts("layers", three)  # type: ignore[arg-type]
    with pytest.raises(
        IndicatorInputError, match=r"'prompt_cosine_concat' has no curve by layer: it has to r"
    ):
        parts("layer", three, ["prompt_cosine_concat"])
    with pytest.raises(IndicatorInputError, match="'on' has no curve by rate: it has to read skill neurons"):
        parts("rate", three, ["on"])
    with pytest.raises(IndicatorInputError, match="unknown indicator 'onn'"):
        parts("layer", three, ["onn"])
    bare = [replace(one, inputs={"prompt": one.inputs["prompt"]}) for one in three]
    with pytest.raises(
        IndicatorInputError, match=r"no indicator has a curve by layer here: .* have prompt alone"
    ):
        parts("layer", bare)
    with pytest.raises(InputError, match=r"at least two trials .* of every task: c has one"):
        parts("trials", [*three[:2], material("c", 3, trials=1)])
    with pytest.raises(InputError, match=r"a rate is 1.5; a share of the neurons"):
        Cut(rates=(0.1, 1.5))
    with pytest.raises(InputError, match="groups of 0 layers"):
        Cut(group=0)
