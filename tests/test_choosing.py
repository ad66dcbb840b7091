"""Choosing K sources: optimal against brute force, the greedy guarantee and bounds, and what is refused."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transferscope.choosing import ChoiceReport, choose, problem
from transferscope.comparison import IndicatorMatrix
from transferscope.errors import InputError
from transferscope.facility import Problem, exact, greedy
from transferscope.transfer import TransferMatrix

VALUES = np.array([[0.9, 0.2, 0.1], [0.3, 0.8, 0.6], [0.2, 0.7, 0.65]])


def transfer(values: np.ndarray) -> TransferMatrix:
    sources = tuple(f"s{i}" for i in range(values.shape[0]))
    targets = tuple(f"t{i}" for i in range(values.shape[1]))
    return TransferMatrix("zero-shot", sources, targets, values, values[None])


def brute(made: Problem, k: int | None) -> float:
    """The best mean of all admissible sets, straight from the definition."""
    best = -math.inf
    n = len(made.sources)
    for size in range(n + 1 if k is None else k + 1):
        for rows in itertools.combinations(range(n), size):
            names = {made.sources[i] for i in rows}
            cost = sum(made.costs[i] for i in rows)
            if not made.must <= names or names & made.without:
                continue
            if made.budget is not None and cost > made.budget:
                continue
            total = 0.0
            for t in range(len(made.targets)):
                known = [made.values[i, t] for i in range(n) if np.isfinite(made.values[i, t])]
                served = [made.values[i, t] for i in rows if np.isfinite(made.values[i, t])]
                total += made.weights[t] * max(served, default=min(known))
            best = max(best, total)
    return best


@st.composite
def problems(draw: st.DrawFn) -> tuple[Problem, int | None]:
    n, t = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    level = st.one_of(st.integers(-3, 3).map(float), st.floats(-1, 1), st.just(math.nan))
    values = np.array(draw(st.lists(st.lists(level, min_size=t, max_size=t), min_size=n, max_size=n)))
    values[0] = np.nan_to_num(values[0])  # s0 can serve every target
    matrix = transfer(values)
    weights = {name: draw(st.integers(1, 3)) / 2 for name in matrix.targets}
    roles = draw(st.lists(st.sampled_from("..mw"), min_size=n - 1, max_size=n - 1))
    must = [f"s{i}" for i, role in enumerate(roles, 1) if role == "m"]
    without = [f"s{i}" for i, role in enumerate(roles, 1) if role == "w"]
    costs = {name: float(draw(st.integers(0, 4))) for name in matrix.sources}
    k = draw(st.none() | st.integers(max(1, len(must)), n - len(without)))
    extra = draw(st.integers(0, 8) if k is None else st.none() | st.integers(0, 8))
    budget = None if extra is None else sum(costs[name] for name in must) + extra
    return problem(matrix, costs=costs, budget=budget, must=must, without=without, weights=weights), k


@settings(max_examples=150)
@given(problems())
def test_the_optimum_the_greedy_guarantee_and_the_bound(given: tuple[Problem, int | None]) -> None:
    made, k = given
    best = brute(made, k)
    found, quick = exact(made, k), greedy(made, k)
    assert found.mean == pytest.approx(best, abs=1e-9)
    assert quick.mean <= best + 1e-9
    assert quick.bound >= best - 1e-9
    base = made.mean(made.indices(made.must))
    if made.budget is None or k is None:
        share = (1 - 1 / math.e) * (1 if made.budget is None else 0.5)
        assert quick.mean - base >= share * (best - base) - 1e-9
    for one in (found, quick):
        assert made.must <= set(one.sources)
        assert not made.without & set(one.sources)
        assert k is None or len(one.sources) <= k
        assert made.budget is None or one.cost <= made.budget + 1e-9
        weights = dict(zip(made.targets, made.weights, strict=True))
        assert sum(weights[t] * v for t, v in one.values.items()) == pytest.approx(one.mean, abs=1e-9)
        assert set(one.serves.values()) <= {*one.sources, None}


def test_by_hand() -> None:
    report = choose(problem(transfer(VALUES)), 2)
    # Alone, s1 is best (1.7 / 3); of two, s0 and s1 (2.3 / 3) are better than s0 and s2 (2.25 / 3).
    assert [one.sources for one in report.curve] == [("s1",), ("s1", "s0")]
    assert [one.mean for one in report.curve] == pytest.approx([1.7 / 3, 2.3 / 3])
    assert report.choice.best == pytest.approx(2.35 / 3)
    assert report.choice.share == pytest.approx(2.3 / 2.35)
    assert report.choice.serves == {"t0": "s0", "t1": "s1", "t2": "s1"}
    assert report.choice.values == {"t0": 0.9, "t1": 0.8, "t2": 0.6}
    assert report.notes == ("exact: the optimum.",)


def test_costs_weights_must_and_without() -> None:
    matrix = transfer(VALUES)
    costs = {"s0": 1.0, "s1": 5.0, "s2": 2.0}
    assert choose(problem(matrix, costs=costs, budget=3.0)).choice.sources == ("s2", "s0")
    assert choose(problem(matrix, weights={"t0": 9.0}), 1).choice.sources == ("s0",)
    assert choose(problem(matrix, must=["s2"]), 1).choice.sources == ("s2",)
    without = choose(problem(matrix, without=["s1"]), 2).choice
    assert set(without.sources) == {"s0", "s2"}
    assert without.best == pytest.approx(2.25 / 3)  # the best achievable is that of those allowed
    nobody = choose(problem(matrix, weights={"t2": 0.0}), 2).choice
    assert set(nobody.serves) == {"t0", "t1"}


def test_a_source_that_serves_nobody_is_left_out() -> None:
    report = choose(problem(transfer(np.array([[1.0, 1.0], [0.5, 0.2], [0.1, 0.1]]))), 2)
    assert report.choice.sources == ("s0",)
    assert any("Fewer than 2" in note for note in report.notes)
    equal = choose(problem(transfer(np.ones((3, 2)))), 2).choice
    assert (equal.sources, equal.serves) == (("s0",), {"t0": "s0", "t1": "s0"})


def test_a_target_that_none_of_the_chosen_serves() -> None:
    report = choose(problem(transfer(np.array([[1.0, np.nan], [0.0, 0.5], [0.2, 0.3]]))), 1)
    assert report.choice.sources == ("s0",)
    assert report.choice.serves == {"t0": "s0", "t1": None}
    assert report.choice.mean == pytest.approx((1.0 + 0.3) / 2)
    assert any("None of them is known to serve t1" in note for note in report.notes)


def test_relative_values_and_others_only() -> None:
    tasks, values = ("a", "b"), np.array([[0.8, 0.4], [0.6, 0.5]])
    matrix = TransferMatrix("zero-shot", tasks, tasks, values, values[None])
    relative = problem(matrix, relative=True)
    np.testing.assert_allclose(relative.values, [[1.0, 0.8], [0.75, 1.0]])
    assert relative.measure == "zero-shot relative"
    others = choose(problem(matrix, others_only=True), 2).choice
    assert others.serves == {"a": "b", "b": "a"}
    predicted = problem(IndicatorMatrix("on", tasks, values))
    assert predicted.measure == "on"
    with pytest.raises(InputError, match="on is an indicator"):
        problem(IndicatorMatrix("on", tasks, values), relative=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: problem(m, must=["t0"]), "'t0' is not among them. Did you mean 's0'"),
        (lambda m: problem(m, must=["s0"], without=["s0"]), "both be in and not"),
        (lambda m: problem(m, weights={"t0": -1.0}), "weight of 't0' is -1"),
        (lambda m: problem(m, weights=dict.fromkeys(m.targets, 0.0)), "at least one must count"),
        (lambda m: problem(m, costs={"s0": 1.0}), "no cost is given of: s1, s2"),
        (lambda m: problem(m, budget=math.nan), "budget of nan"),
        (lambda m: problem(m, must=["s0", "s1"], budget=1.0), "cost 2, more than the budget of 1"),
        (lambda m: problem(transfer(VALUES * [1, 1, np.nan])), "no value is known of the targets t2"),
        (lambda m: choose(problem(m)), "a number, or costs and a budget"),
        (lambda m: choose(problem(m), 0), "at least one must be chosen"),
        (lambda m: choose(problem(m, must=["s0", "s1"]), 1), "2 sources must be in, more than the 1"),
        (lambda m: choose(problem(m, without=["s0"]), 3), "only 2 are allowed"),
    ],
)
def test_what_is_refused(call: Callable[[Any], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(transfer(VALUES))


def large(n: int, seed: int = 0) -> TransferMatrix:
    return transfer(np.random.default_rng(seed).uniform(size=(n, n)))


def test_sixty_tasks_and_ten_sources_within_thirty_seconds() -> None:
    start = time.perf_counter()
    report = choose(problem(large(60)), 10, curve=False)
    assert time.perf_counter() - start < 30
    assert report.choice.guarantee == "the optimum"
    assert report.choice.mean == report.choice.bound >= greedy(problem(large(60)), 10).mean


def test_above_sixty_greedy_with_a_bound() -> None:
    report: ChoiceReport = choose(problem(large(90)), 8)
    assert report.choice.method == "greedy"
    assert "1 - 1/e" in report.notes[0]
    assert report.choice.mean < report.choice.bound <= report.choice.best
    means = [one.mean for one in report.curve]
    assert means == sorted(means)
    assert len(means) == 8


def test_a_solver_without_time_says_what_it_has_proven() -> None:
    made = problem(large(60))
    found = exact(made, 4, seconds=0.01)
    assert "stopped after 0.01 s" in found.guarantee
    assert found.method == "stopped"
    assert greedy(made, 4).mean <= found.mean <= found.bound


def test_the_published_figures(shared: Callable[..., Path], tmp_path: Path) -> None:
    """Those of docs/graph.md, of the Roberta prompts of Su et al."""
    from transferscope import importers, pipeline
    from transferscope.graph import build
    from transferscope.graph_analysis import communities

    clone = shared("published")
    importers.get("prompt-transferability").function(clone=clone, backbone="Roberta", out=tmp_path / "su")
    study = pipeline.open_study(tmp_path / "su")
    matrix = study.known_transfer("zero-shot")
    assert matrix is not None
    curve = choose(problem(matrix), 5).curve
    assert [round(one.share or 0, 3) for one in curve] == [0.726, 0.838, 0.873, 0.904, 0.93]
    assert curve[2].sources == ("tweetevalsentiment", "MNLI", "QQP")
    assert curve[-1].best == pytest.approx(0.8276, abs=5e-5)
    found = communities(build([], [matrix], types=study.types).nearest(3)).agreement
    assert found is not None
    assert (round(found.rand, 3), round(found.information, 3), found.p_rand) == (0.537, 0.711, 0.001)
