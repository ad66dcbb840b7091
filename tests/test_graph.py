"""The task graph: what its edges carry, and its views, against hand-made and brute-force versions."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from transferscope import graph
from transferscope.comparison import IndicatorMatrix
from transferscope.errors import InputError
from transferscope.graph import TaskGraph, build
from transferscope.transfer import TransferMatrix


def made(values: np.ndarray, name: str = "on", **options: object) -> TaskGraph:
    tasks = tuple("abcdefghij"[: len(values)])
    return build([IndicatorMatrix(name, tasks, np.asarray(values, float))], **options)  # type: ignore[arg-type]


def measured(values: list[list[float]], sources: str, targets: str) -> TransferMatrix:
    array = np.array(values, float)
    return TransferMatrix("zero-shot", tuple(sources), tuple(targets), array, array[None])


def pairs(found: TaskGraph) -> set[tuple[str, str]]:
    return {(s, t) for s, t, _ in found.edges}


def some(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.1, 1.0, (n, n))


def test_edges_carry_all_that_is_known_and_which_is_shown() -> None:
    on = IndicatorMatrix("on", ("a", "b"), np.array([[1.0, 0.3], [0.2, 1.0]]))
    found = build(
        [on],
        [measured([[0.8, 0.4], [np.nan, 0.5], [0.6, 0.7]], "abc", "ab")],
        types={"a": "NLI"},
        sizes={"b": 7},
        model="tiny",
    )
    network = found.network()
    assert isinstance(network, nx.MultiDiGraph)
    assert network.nodes["a"] == {"type": "NLI", "own": 0.8, "model": "tiny"}
    assert network.nodes["b"] == {"own": 0.5, "size": 7, "model": "tiny"}
    assert network.nodes["c"] == {"model": "tiny"}
    # Measured transfer is shown first; b -> a was not measured, and no task has an edge to itself.
    assert set(network.edges) == {("a", "b", "zero-shot"), ("c", "a", "zero-shot"), ("c", "b", "zero-shot")}
    assert network.edges["a", "b", "zero-shot"] == {
        "weight": 0.4,
        "shown": "zero-shot",
        "on": 0.3,
        "zero-shot": 0.4,
        "zero-shot relative": 0.4 / 0.5,
    }
    assert found.kinds == {"on": "indicator", "zero-shot": "measured", "zero-shot relative": "measured"}
    assert found.show("on").network().edges["b", "a", "on"] == {"weight": 0.2, "shown": "on", "on": 0.2}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build(), "give at least one"),
        (lambda: made(some(3), name="weight"), "'weight' of their own"),
        (lambda: made(some(3), shown="om"), "Did you mean 'on'"),
        (lambda: build([IndicatorMatrix("on", ("a",), np.ones((1, 1)))] * 2), "same name: on"),
        (lambda: made(some(3)).nearest(0), "at least one"),
        (lambda: made(some(3)).backbone(1.0), "below 1"),
        (lambda: made(some(3) - 1).backbone(0.5), "not negative, and on goes down to"),
    ],
)
def test_what_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_threshold_and_nearest() -> None:
    values = np.array([[0, 0.9, 0.2], [0.5, 0, 0.2], [0.4, 0.1, 0]])
    whole = made(values)
    assert pairs(whole.threshold(0.4)) == {("a", "b"), ("b", "a"), ("c", "a")}
    # Of c, a and b are equally near: the first as they stand.
    assert pairs(whole.nearest(1)) == {("a", "b"), ("b", "a"), ("a", "c")}
    assert pairs(whole.nearest(1, mutual=True)) == {("a", "b"), ("b", "a")}
    assert pairs(whole.nearest(2)) == pairs(whole)
    assert pairs(whole.threshold(0.45).nearest(1)) == {("a", "b"), ("b", "a")}
    assert whole.threshold(0.4).nearest(1).said == (
        "edges of on at least 0.4",
        "for each target its 1 best sources by on",
    )
    assert [edge[2] for edge in whole.edges] == sorted(values[~np.eye(3, dtype=bool)], reverse=True)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shift", [0.0, -2.0])  # weights below 0 must not be left out
def test_the_arborescence_is_the_best_of_all(seed: int, shift: float) -> None:
    values = some(4, seed) + shift
    found = made(values).arborescence()

    def total(parents: tuple[int, ...], root: int) -> float | None:
        children = [i for i in range(4) if i != root]
        up = dict(zip(children, parents, strict=True))
        for child in children:
            seen = {child}
            while child != root:
                child = up[child]
                if child in seen:
                    return None
                seen.add(child)
        return sum(values[parent, child] for child, parent in up.items())

    every = [total(p, root) for root in range(4) for p in itertools.product(range(4), repeat=3)]
    assert sum(edge[2] for edge in found.edges) == pytest.approx(max(t for t in every if t is not None))
    assert nx.is_arborescence(nx.DiGraph(found.network()))


def test_no_arborescence_where_no_task_reaches_all() -> None:
    values = np.full((3, 3), np.nan)
    values[0, 2] = values[1, 2] = 1.0
    with pytest.raises(InputError, match="no task reaches all others"):
        made(values).arborescence()


@pytest.mark.parametrize("seed", range(4))
def test_the_tree_is_the_best_of_all(seed: int) -> None:
    values = some(5, seed) - 0.5
    found = made(values).tree()
    both = (values + values.T) / 2
    every = [
        sum(both[i, j] for i, j in edges)
        for edges in itertools.combinations(itertools.combinations(range(5), 2), 4)
        if nx.is_connected(nx.Graph([*edges, *((i, i) for i in range(5))]))
    ]
    assert sum(edge[2] for edge in found.edges) / 2 == pytest.approx(max(every))
    assert len(found.edges) == 8


def test_a_forest_where_there_are_parts_and_one_direction_is_enough() -> None:
    values = np.full((4, 4), np.nan)
    values[0, 1] = values[3, 2] = 1.0
    found = made(values).tree()
    assert pairs(found) == {("a", "b"), ("d", "c")}
    assert "forest of 2 parts" in found.said[0]


def test_the_backbone_by_hand_and_by_simulation() -> None:
    values = np.array([[0, 8, 1, 1], [0, 0, 0, 0], [0, 3, 0, 3], [0, 0, 0, 0]], float)
    found = made(values).backbone(0.1)
    assert pairs(found) == {("a", "b")}
    level = found.significance
    assert level is not None
    assert level[0, 1] == pytest.approx(0.2**2)  # a's three edges; at b, of its two: (1 - 8/11)^1
    assert level[2, 1] == pytest.approx(min(0.5, 1 - 3 / 11))
    assert level[0, 2] == pytest.approx(0.9**2)  # the only edge of weight into c says nothing
    assert found.network().edges["a", "b", "on"]["significance"] == pytest.approx(0.04)
    # The law behind it: the chance that a given part of a stick broken at random in three is at least .8.
    parts = np.random.default_rng(0).dirichlet(np.ones(3), 200_000)[:, 0]
    assert np.mean(parts >= 0.8) == pytest.approx(level[0, 1], abs=0.002)


def test_a_view_of_a_view_keeps_the_level_and_another_measure_starts_anew() -> None:
    whole = made(np.where(some(5) > 0.8, 50.0, some(5)))
    found = whole.backbone(0.3).nearest(1)
    assert found.significance is not None
    assert pairs(found) <= pairs(whole.backbone(0.3))
    assert found.show("on").significance is None
    assert pairs(found.show("on")) == pairs(whole)


def test_of_a_published_study(shared: Callable[..., Path], tmp_path: Path) -> None:
    from transferscope import importers, pipeline

    clone = shared("published")
    importers.get("prompt-transferability").function(clone=clone, backbone="Roberta", out=tmp_path / "su")
    study = pipeline.open_study(tmp_path / "su")
    found = graph.of_study(study, ["prompt_cosine_mean_token"], "zero-shot")
    assert (len(found.tasks), found.shown, len(found.edges)) == (14, "zero-shot", 14 * 13)
    assert found.types["MNLI"] == "NLI"
    assert found.nodes["MNLI"].own == pytest.approx(study.known_transfer().value("MNLI", "MNLI"))
    assert "prompt_cosine_mean_token" in found.network().edges["MNLI", "QNLI", "zero-shot"]
    with pytest.raises(InputError, match="no measured transfer by the protocol 'init'"):
        graph.of_study(study, ["prompt_cosine_mean_token"], "init")
