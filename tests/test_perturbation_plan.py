"""Which neurons are perturbed: settings, sets of neurons, units and their keys."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from transferscope.errors import InputError, SignatureError
from transferscope.perturbation_plan import (
    BOTTOM,
    RANDOM,
    RATES,
    SKILL,
    PerturbationSettings,
    Ranking,
    layer_range,
    parse_rates,
    plan,
)
from transferscope.prompts import SoftPrompt

LAYERS, NEURONS = 3, 50


def ranking(subtasks: int = 1, seed: int = 0) -> Ranking:
    values = np.random.default_rng(seed).random((subtasks, LAYERS, NEURONS))
    values[:, 1, :4] = np.nan
    return Ranking("task", values, values.mean(axis=0))


def prompts(count: int = 2) -> list[SoftPrompt]:
    return [SoftPrompt(np.full((2, 4), r, np.float32), "task", seed=r) for r in range(count)]


def test_the_settings_of_the_paper_are_the_default() -> None:
    found = PerturbationSettings()
    assert (found.mode, found.sd, found.unit, found.neurons) == ("noise", 0.1, "absolute", "layer")
    assert found.rates == RATES == (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2)
    assert PerturbationSettings(rates=(0.2, 0.1, 0.1)).rates == (0.0, 0.1, 0.2)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"mode": "zeros"}, "unknown mode 'zeros'. Did you mean 'zero'"),
        ({"neurons": "layers"}, "unknown neurons 'layers'. Did you mean 'layer'"),
        ({"rates": (0.1, 1.2)}, r"rates must be shares from 0 to 1.*\[0.1, 1.2\]"),
        ({"rates": (0.0,)}, "one of them above 0"),
        ({"draws": 0}, "draws 0"),
        ({"sd": float("inf")}, "sd inf"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        PerturbationSettings(**options)


@pytest.mark.parametrize("text", ["", "x", "3-1", "-3", "1,2"])
def test_layers_that_are_no_range_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="layers"):
        layer_range(text)


def test_rates_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match=r"rates '0\.1;0\.2'"):
        parse_rates("0.1;0.2")


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5, 1.0])
def test_sets_are_the_highest_the_lowest_and_as_many_random_ones(rate: float) -> None:
    found, settings = ranking(), PerturbationSettings(rates=(rate,))
    units = [unit for unit in plan(found, prompts(1), settings) if unit.rate == rate and unit.draw == 0]
    sets = {unit.condition: unit.mask for unit in units}
    for layer in range(LAYERS):
        values = found.values[layer]
        known = np.flatnonzero(np.isfinite(values)).tolist()
        count = min(int(rate * NEURONS), len(known))
        ordered = sorted(known, key=lambda n: values[n])
        assert set(np.flatnonzero(sets[SKILL][layer])) == set(ordered[len(ordered) - count :])
        assert set(np.flatnonzero(sets[BOTTOM][layer])) == set(ordered[:count])
        assert sets[RANDOM][layer].sum() == count


def test_random_sets_differ_by_draw_and_prompt_and_grow_with_the_rate() -> None:
    units = [u for u in plan(ranking(), prompts(2), PerturbationSettings(draws=3)) if u.condition == RANDOM]
    largest = {(u.place, u.draw): u.mask for u in units if u.rate == 0.2}
    assert len({mask.tobytes() for mask in largest.values()}) == 6
    for unit in units:
        assert not (unit.mask & ~largest[unit.place, unit.draw]).any()
    again = [u for u in plan(ranking(), prompts(2), PerturbationSettings(draws=3)) if u.condition == RANDOM]
    assert [u.key for u in again] == [u.key for u in units]
    other = plan(ranking(), prompts(2), PerturbationSettings(draws=3, seed=1))
    keys = {u.key for u in units if u.neurons}
    assert not keys & {u.key for u in other if u.neurons}


def test_random_neurons_are_drawn_from_all_of_a_layer() -> None:
    settings = PerturbationSettings(rates=(0.2,), draws=400)
    units = [u for u in plan(ranking(), prompts(1), settings, rates=(0.2,)) if u.condition == RANDOM]
    often = np.mean([unit.mask for unit in units], axis=0)
    assert np.abs(often - 0.2).max() < 0.09  # 4.5 standard errors


def test_with_subtasks_the_sets_are_united_and_the_others_as_large() -> None:
    found = ranking(subtasks=3)
    units = list(plan(found, prompts(1), PerturbationSettings(rates=(0.1,)), rates=(0.1,)))
    sizes = {unit.condition: unit.mask.sum(axis=1).tolist() for unit in units}
    assert sizes[SKILL] == sizes[RANDOM] == sizes[BOTTOM]
    assert all(5 < size <= 15 for size in sizes[SKILL])


@pytest.mark.parametrize("by", ["layer", "network"])
def test_layers_outside_the_range_are_left_alone(by: str) -> None:
    settings = PerturbationSettings(layers=(1, 1), neurons=by)
    for unit in plan(ranking(), prompts(1), settings):
        assert unit.mask[1].sum() == int(unit.rate * NEURONS) == unit.neurons
    with pytest.raises(SignatureError, match="layers 2 to 3: the model has 3, numbered from 0"):
        ranking().skill(0.1, PerturbationSettings(layers=(2, 3)))


def test_by_network_the_highest_of_all_layers_are_taken() -> None:
    found = ranking()
    mask = found.skill(0.1, PerturbationSettings(neurons="network"))
    assert mask.sum() == int(0.1 * LAYERS * NEURONS)
    assert found.values[mask].min() > np.nanmax(found.values[~mask])


@pytest.mark.parametrize(("mode", "runs"), [("noise", 5), ("zero", 1), ("mean", 1)])
def test_only_what_is_random_is_run_several_times(mode: str, runs: int) -> None:
    units = list(plan(ranking(), prompts(2), PerturbationSettings(mode=mode)))
    count = Counter((unit.condition, unit.rate, unit.place) for unit in units)
    assert count[SKILL, 0.0, 0] == count[RANDOM, 0.0, 0] == 1
    assert {count[SKILL, 0.2, 1], count[BOTTOM, 0.2, 1]} == {runs}
    assert count[RANDOM, 0.2, 1] == 5
    distinct = {unit.key for unit in units}
    assert len(distinct) == 2 * (1 + 10 * (5 + 2 * runs))  # rate 0 once a prompt
    assert all((unit.noise == 0) == (mode != "noise" or unit.rate == 0) for unit in units)
    draws = {unit.noise for unit in units if unit.neurons}
    assert len(draws) == (10 if mode == "noise" else 1)


def test_the_same_set_at_two_rates_is_one_evaluation() -> None:
    few = PerturbationSettings(mode="zero", rates=(0.01, 0.02, 0.03, 0.04))  # int(rate * 50): 0, 1, 1, 2
    units = [unit for unit in plan(ranking(), prompts(1), few) if unit.condition == SKILL]
    assert [unit.neurons for unit in units] == [0, 0, 3, 3, 6]
    assert len({unit.key for unit in units}) == 3
