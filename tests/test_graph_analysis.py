"""What a task graph says, on graphs whose answers are known beforehand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from transferscope.comparison import IndicatorMatrix
from transferscope.errors import InputError
from transferscope.graph import TaskGraph, build
from transferscope.graph_analysis import (
    agreement,
    asymmetry,
    clusters,
    communities,
    needy,
    roles,
    with_communities,
)
from transferscope.transfer import TransferMatrix

TASKS = tuple("abcdef")
TYPES = dict(zip(TASKS, ["x", "x", "x", "x", "y", "y"], strict=True))


def made(values: np.ndarray, types: dict[str, str] | None = None) -> TaskGraph:
    tasks = TASKS[: len(values)]
    return build([IndicatorMatrix("on", tasks, np.asarray(values, float))], types=types)


def blocks() -> np.ndarray:
    kind = np.array([TYPES[t] for t in TASKS])
    return np.where(kind[:, None] == kind, 0.9, 0.1) + 0.01 * np.random.default_rng(0).random((6, 6))


def test_planted_communities_are_found_and_agree_with_the_types() -> None:
    found = communities(made(blocks(), TYPES))
    assert found.groups == (("a", "b", "c", "d"), ("e", "f"))
    assert found.modularity > 0.1
    assert found.agreement is not None
    assert (found.agreement.rand, found.agreement.information) == pytest.approx((1.0, 1.0))
    # 15 ways to lay out four x and two y, one of which fits: p is near 1 / 15.
    assert found.agreement.p_rand == pytest.approx(1 / 15, abs=0.03)
    nodes = with_communities(made(blocks()), found).network().nodes
    assert [nodes[t]["community"] for t in TASKS] == [0, 0, 0, 0, 1, 1]
    assert communities(made(blocks(), TYPES)) == found


def test_negative_weights_are_shifted_and_no_edges_leave_each_alone() -> None:
    found = communities(made(blocks() - 2, TYPES))
    assert found.groups == (("a", "b", "c", "d"), ("e", "f"))
    assert "added to every weight" in found.note
    alone = communities(made(blocks(), TYPES).threshold(5.0))
    assert (len(alone.groups), alone.modularity) == (6, 0.0)
    with pytest.raises(InputError, match="above 0"):
        communities(made(blocks()), resolution=0.0)


def test_agreement_by_counting_pairs() -> None:
    of = dict(zip(TASKS, [0, 0, 1, 1, 1, 0], strict=True))
    found = agreement(of, TYPES, permutations=9)
    assert found is not None
    same = [(of[s] == of[t], TYPES[s] == TYPES[t]) for s, t in itertools.combinations(TASKS, 2)]
    both, left, right = (sum(map(f, same)) for f in (all, lambda p: p[0], lambda p: p[1]))
    expected = left * right / len(same)
    assert found.rand == pytest.approx((both - expected) / ((left + right) / 2 - expected))
    joint = {(g, t): sum((of[n], TYPES[n]) == (g, t) for n in TASKS) / 6 for g in (0, 1) for t in "xy"}
    g, t = (
        {k: sum(v for key, v in joint.items() if key[i] == k) for k in ks}
        for i, ks in ((0, (0, 1)), (1, "xy"))
    )
    mutual = sum(v * math.log(v / (g[a] * t[b])) for (a, b), v in joint.items() if v)
    entropy = [-sum(v * math.log(v) for v in one.values()) for one in (g, t)]
    assert found.information == pytest.approx(mutual / (sum(entropy) / 2))
    assert 0.1 <= found.p_rand <= 1.0


def test_agreement_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    rng = np.random.default_rng(1)
    for n, groups in ((8, 1), (8, 3), (8, 8), (30, 4)):
        of = {str(i): (i % groups) * 3 for i in range(n)}
        types = {task: "wxyz"[rng.integers(4)] for task in of}
        found = agreement(of, types, permutations=1)
        assert found is not None
        args = list(types.values()), list(of.values())
        assert found.rand == pytest.approx(adjusted_rand_score(*args), abs=1e-12)
        assert found.information == pytest.approx(normalized_mutual_info_score(*args), abs=1e-12)
    alone = agreement({"a": 0, "b": 1}, {"a": "x", "b": "y"}, permutations=3)
    assert alone is not None
    assert (alone.rand, alone.p_rand) == (1.0, 1.0)


def test_agreement_needs_two_types_and_leaves_out_unknown_ones() -> None:
    assert agreement({"a": 0, "b": 1}, {"a": "x", "b": "x"}) is None
    assert agreement({"a": 0, "b": 1}, {}) is None
    found = agreement({"a": 0, "b": 1, "c": 0}, {"a": "x", "b": "y"}, permutations=3)
    assert found is not None
    assert found.tasks == 2


def test_random_types_are_seldom_significant() -> None:
    rng, of = np.random.default_rng(0), {str(i): i % 3 for i in range(15)}
    p = [
        agreement(of, {task: "xyz"[rng.integers(3)] for task in of}, seed, 59).p_rand  # type: ignore[union-attr]
        for seed in range(40)
    ]
    assert np.mean(np.array(p) <= 0.1) < 0.25


def test_roles_by_hand() -> None:
    values = np.array([[0.9, 0.8, 0.3], [0.5, 0.85, 0.6], [0.4, 0.2, 0.95]])
    tasks = ("a", "b", "c")
    graph = build([], [TransferMatrix("zero-shot", tasks, tasks, values, values[None])])
    found = {role.task: role for role in roles(graph)}
    # Means of the targets: a .45, b .5, c .45.
    assert found["a"].gives == pytest.approx(((0.8 - 0.5) + (0.3 - 0.45)) / 2)
    assert found["b"].gives == pytest.approx(((0.5 - 0.45) + (0.6 - 0.45)) / 2)
    assert [roles(graph)[i].task for i in range(3)] == ["b", "a", "c"]
    assert {task: role.first_for for task, role in found.items()} == {"a": 1, "b": 2, "c": 0}
    assert (found["c"].gets, found["c"].best) == (0.6, "b")
    assert found["c"].needs == pytest.approx(0.35)
    assert [role.task for role in needy(roles(graph))] == ["a", "c", "b"]
    predicted = roles(made(values))
    assert predicted[0].needs is None
    assert next(iter(needy(predicted))).task == "a"
    assert roles(graph.show("zero-shot relative"))[0].needs is None


def test_roles_without_edges() -> None:
    (first, *_) = roles(made(blocks()).threshold(9.0))
    assert (first.gives, first.first_for, first.gets, first.best) == (None, 0, None, None)


def test_asymmetry_by_hand() -> None:
    values = np.array([[0, 3.0, 1.0], [1.0, 0, 2.0], [1.0, 4.0, 0]])
    found = asymmetry(made(values), largest=2)
    assert found.pairs == 3
    assert found.mean_difference == pytest.approx(4 / 3)
    assert found.share == pytest.approx(4 * 1.0 / sum((v - 2) ** 2 for v in (3, 1, 1, 2, 1, 4)))
    assert found.largest == (("a", "b", 3.0, 1.0), ("c", "b", 4.0, 2.0))
    alike = asymmetry(made(np.add.outer(range(4), range(4))))
    assert (alike.share, alike.largest) == (0.0, ())
    assert alike.spearman == pytest.approx(1.0)
    assert asymmetry(made(np.ones((3, 3)))).share is None
    assert asymmetry(made(np.array([[0, 1.0], [np.nan, 0]]))).pairs == 0


def test_clusters_by_hand() -> None:
    # Distances .1 (a b), .5 (a c), .7 (b c): c joins at .6.
    values = np.array([[0, 0.9, 0.5], [0.9, 0, 0.3], [0.5, 0.3, 0]])
    values[0, 1] = values[1, 0] = 1.0
    found = clusters(made(values))
    np.testing.assert_allclose(found.linkage[:, 2], [0.0, 0.6])
    assert found.cophenetic == pytest.approx(np.corrcoef([0.0, 0.5, 0.7], [0.0, 0.6, 0.6])[0, 1])
    assert found.groups(2) in ({"a": 0, "b": 0, "c": 1},)
    assert sorted(found.order) == ["a", "b", "c"]
    assert clusters(made(np.ones((3, 3)))).cophenetic is None
    assert len(set(clusters(made(np.ones((4, 4)))).groups(3).values())) == 3
    with pytest.raises(InputError, match="from 1 to 3"):
        found.groups(4)


def test_clusters_need_every_pair() -> None:
    values = blocks()
    values[1, 4] = values[4, 1] = np.nan
    with pytest.raises(InputError, match="none of b and e"):
        clusters(made(values))
    values[1, 4] = 0.2  # one direction is enough
    assert len(clusters(made(values)).order) == 6
    with pytest.raises(InputError, match="at least two tasks"):
        clusters(build([IndicatorMatrix("on", ("a",), np.ones((1, 1)))]))
