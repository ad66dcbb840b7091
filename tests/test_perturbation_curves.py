"""Curves, areas and drops against arithmetic by hand."""

from __future__ import annotations

import numpy as np
import pytest

from transferscope.perturbation_curves import Measured, cross_task, interval, task_curves, with_holm
from transferscope.perturbation_plan import BOTTOM, RANDOM, SKILL
from transferscope.resampling import sign_flip_p

RATES = (0.0, 0.1, 0.3)


def values(
    rng: np.random.Generator, prompts: int, draws: int, *, skill_draws: int | None = None
) -> list[Measured]:
    """0.9 at rate 0; then skill loses most, and bottom nothing."""
    found = []
    for condition, loss in ((SKILL, 1.0), (RANDOM, 0.3), (BOTTOM, 0.0)):
        several = draws if condition == RANDOM else skill_draws or draws
        for rate in RATES:
            for place in range(prompts):
                for draw in range(several if rate else 1):
                    noise = 0.02 * rng.normal() if rate else 0.0
                    value = 0.9 + 0.01 * place - loss * rate + noise
                    found.append(Measured(condition, rate, place, draw, int(100 * rate), value))
    return found


@pytest.mark.parametrize(("prompts", "skill_draws"), [(1, None), (3, None), (3, 1)])
def test_points_and_areas_are_those_of_slow_loops(prompts: int, skill_draws: int | None) -> None:
    found = values(np.random.default_rng(0), prompts, 4, skill_draws=skill_draws)
    curves = task_curves("t", "accuracy", 200, range(prompts), 0.5, found)
    by_cell = {(m.condition, m.rate, m.place, m.draw): m.value for m in found}
    for point in curves.points:
        own = [m.value for m in found if (m.condition, m.rate) == (point.condition, point.rate)]
        assert point.mean == pytest.approx(np.mean(own), abs=1e-12)
        assert (point.values, point.neurons) == (len(own), int(100 * point.rate))
        if point.rate:
            assert point.low is not None or len(own) == 1
    differences = []
    for place in range(prompts):
        for draw in range(4):
            total = 0.0
            for a, b in ((0.0, 0.1), (0.1, 0.3)):
                gaps = []
                for rate in (a, b):
                    run, own_run = (draw, 0 if skill_draws else draw) if rate else (0, 0)
                    gaps.append(by_cell[RANDOM, rate, place, run] - by_cell[SKILL, rate, place, own_run])
                total += (b - a) * sum(gaps) / 2
            differences.append(total / 0.3)
    area = curves.area(SKILL)
    assert area is not None
    assert area.mean == pytest.approx(np.mean(differences), abs=1e-12)
    assert area.p == sign_flip_p(np.array(differences), 0)
    assert area.pairs == 4 * prompts
    assert area.low is not None
    assert area.high is not None
    assert min(differences) <= area.low < area.mean < area.high <= max(differences)
    assert area.low > 0
    assert (area.prompts_low is None) == (prompts == 1)
    assert area.as_harmful == 0
    bottom = curves.area(BOTTOM)
    assert bottom is not None
    assert bottom.mean < 0
    assert bottom.as_harmful == 4 * prompts
    assert curves.unperturbed == pytest.approx(0.9 + 0.005 * (prompts - 1))
    assert not curves.weak
    with pytest.raises(KeyError):
        curves.point(SKILL, 0.2)


def test_intervals_are_over_prompts_with_all_their_draws() -> None:
    table = np.array([[0.5, 0.5, 0.5], [0.7, 0.7, 0.7], [0.9, 0.9, 0.9]])
    mean, low, high = interval(table, 0)
    assert (mean, low, high) == (pytest.approx(0.7), pytest.approx(0.5), pytest.approx(0.9))
    _, low, high = interval(table.T, 0)  # every prompt has the same mean
    assert (low, high) == (pytest.approx(0.7), pytest.approx(0.7))
    _, low, high = interval(np.array([[0.5, 0.7, 0.9]]), 0)  # one prompt: over draws
    assert (low, high) == (pytest.approx(0.5), pytest.approx(0.9))
    assert interval(np.array([[0.5]]), 0) == (0.5, None, None)


def test_a_prompt_no_better_than_the_majority_class_is_marked() -> None:
    found = [Measured(SKILL, 0.0, 0, 0, 0, 0.54), Measured(SKILL, 0.1, 0, 0, 5, 0.5)]
    assert task_curves("t", "accuracy", 200, [0], 0.5, found).weak  # 2 standard errors are .07
    assert not task_curves("t", "accuracy", 20_000, [0], 0.5, found).weak
    assert not task_curves("t", "f1", 200, [0], None, found).weak
    assert task_curves("t", "accuracy", 200, [0], 0.5, found).areas == ()


def test_p_is_corrected_over_tasks() -> None:
    tasks = [
        task_curves(name, "accuracy", 200, range(2), 0.5, values(np.random.default_rng(i), 2, 3))
        for i, name in enumerate("abc")
    ]
    corrected = with_holm(tasks)
    for before, after in zip(tasks, corrected, strict=True):
        first, second = before.area(SKILL), after.area(SKILL)
        assert first is not None
        assert second is not None
        assert first.p_holm is None
        assert first.p == pytest.approx(2 / 2**6)  # all six pairs agree
        assert second.p_holm == pytest.approx(3 * 2 / 2**6)


def test_drops_across_tasks() -> None:
    level = {"a": 0.9, "b": 0.7}
    found = {}
    for skilled in "ab":
        for performed in "ab":
            hurt = 0.2 if skilled == performed else 0.05
            cell = []
            for place in range(3):
                start = level[performed] + 0.01 * place
                cell += [Measured(c, 0.0, place, 0, 0, start) for c in (SKILL, RANDOM)]
                for draw in range(2):
                    cell.append(Measured(SKILL, 0.2, place, draw, 9, start - hurt))
                    cell.append(Measured(RANDOM, 0.2, place, draw, 9, start - 0.04 - 0.02 * draw))
            found[skilled, performed] = cell
    matrix = cross_task(0.2, ("a", "b"), found)
    np.testing.assert_allclose(matrix.drops, [[0.2, 0.05], [0.05, 0.2]])
    np.testing.assert_allclose(matrix.random, np.full((2, 2), 0.05))
    np.testing.assert_allclose(matrix.beyond, [[0.15, 0], [0, 0.15]], atol=1e-12)
    np.testing.assert_allclose(matrix.low, matrix.beyond, atol=1e-12)  # each prompt has the same mean
    np.testing.assert_allclose(matrix.high, matrix.beyond, atol=1e-12)
    np.testing.assert_allclose(matrix.relative, [[4, 1], [1, 4]])
