"""Skill neurons between trials and tasks: each number against slow loops written like its formula."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import reference_neurons as slow

from transferscope import neuron_tables  # noqa: F401  # registers the exporters
from transferscope.errors import InputError, SignatureError
from transferscope.exporters import export
from transferscope.signatures import Signature
from transferscope.skill_sets import mean_defined, overlap
from transferscope.specificity import SpecificityReport, level_spearman, specificity

L, N = 3, 12


def signature(name: str, predictivity: np.ndarray | None, model: str = "m") -> Signature:
    """[R, C, L, N]."""
    trials = 1 if predictivity is None else len(predictivity)
    empty = np.zeros((trials, L, N), np.float32)
    seeds = tuple(range(trials))
    return Signature(name, seeds, model, empty, empty, empty > 0, predictivity, provenance={"model": "tiny"})


def made(seed: int, like: np.ndarray, noise: float, trials: int = 2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(like + noise * rng.standard_normal((trials, 1, L, N)), 0.5, 1.0)


@pytest.fixture(scope="module")
def signatures() -> dict[str, Signature]:
    """Two types of two tasks each, one task of a third type; two neurons of the first are undefined."""
    rng = np.random.default_rng(0)
    a, b, c = (rng.uniform(0.55, 0.95, (1, 1, L, N)) for _ in range(3))
    tables = {
        "a1": made(1, a, 0.02, 3),
        "a2": made(2, a, 0.05),
        "b1": made(3, b, 0.02),
        "b2": made(4, b, 0.05, 1),
        "c": made(5, c, 0.05),
    }
    tables["a1"][:, :, 0, 3] = np.nan
    tables["a1"][1, :, 2, 5] = np.nan
    return {name: signature(name, table) for name, table in tables.items()}


TYPES = {"a1": "a", "a2": "a", "b1": "b", "b2": "b", "c": "c"}


@pytest.fixture(scope="module")
def report(signatures: dict[str, Signature]) -> SpecificityReport:
    return specificity(signatures, types=TYPES, rate=0.25)


def flat(table: Any) -> list[float]:
    return [float(value) for row in table for value in row]


def of(one: Any) -> Any:
    """A trial or task [1, L, N] as nested lists."""
    return np.asarray(one)[0].tolist()


def slow_pair(left: Any, right: Any) -> dict[str, float]:
    a, b = (slow.skill_set(of(one), 0.25) for one in (left, right))
    by_layer = [slow.spearman(x, y) for x, y in zip(of(left), of(right), strict=True)]
    return {
        "spearman": slow.spearman(flat(of(left)), flat(of(right))),
        "spearman_layers": sum(by_layer) / L,
        **slow.in_common(a, b, L, N),
    }


@pytest.mark.parametrize("measure", ["spearman", "spearman_layers", "share", "jaccard"])
def test_matrices_are_the_slow_loops(
    measure: str, report: SpecificityReport, signatures: dict[str, Signature]
) -> None:
    found = report.measure(measure)
    several = list(signatures.values())
    for i, left in enumerate(several):
        for j, right in enumerate(several):
            means = slow_pair(left.subtask_predictivity, right.subtask_predictivity)
            assert found.values[i, j] == pytest.approx(means[measure], abs=1e-9)
            assert left.predictivity is not None
            assert right.predictivity is not None
            trials = [
                slow_pair(x, y)
                for (r, x), (s, y) in itertools.product(
                    enumerate(left.predictivity), enumerate(right.predictivity)
                )
                if i != j or r != s
            ]
            expected = sum(one[measure] for one in trials) / len(trials) if trials else math.nan
            assert found.trials[i, j] == pytest.approx(expected, abs=1e-9, nan_ok=True)
            if measure in ("share", "jaccard"):
                chance = [one[f"{measure}_chance"] for one in trials]
                level = sum(chance) / len(chance) if chance else math.nan
                assert found.chance[i, j] == pytest.approx(means[f"{measure}_chance"])
                assert found.trials_chance[i, j] == pytest.approx(level, nan_ok=True)


def test_spearman_of_each_layer(report: SpecificityReport, signatures: dict[str, Signature]) -> None:
    several = [one.subtask_predictivity[0].tolist() for one in signatures.values()]
    for layer, i, j in itertools.product(range(L), range(5), range(5)):
        expected = slow.spearman(several[i][layer], several[j][layer])
        assert report.spearman_by_layer[layer, i, j] == pytest.approx(expected, abs=1e-9)


def test_the_level_of_layers_is_the_mean_over_all_shufflings() -> None:
    rng = np.random.default_rng(1)
    left, right = rng.uniform(0.5, 0.7, (2, 1, 2, 3)) + np.array([0.0, 0.15])[:, None]
    right[0, 1, 1] = right[0, 1, 0]  # a tie
    found = []
    for first in itertools.permutations(range(3)):
        for second in itertools.permutations(range(3)):
            moved = [left[0, 0, list(first)], left[0, 1, list(second)]]
            found.append(slow.spearman(flat(moved), flat(right[0])))
    assert level_spearman([left, right])[0, 1] == pytest.approx(sum(found) / len(found))
    assert abs(sum(found) / len(found)) > 0.2  # the layers do differ


def test_the_level_of_layers_leaves_out_what_one_of_both_lacks() -> None:
    left = np.array([[[0.5, 0.6, np.nan], [0.9, 0.8, 0.7]]])
    right = np.array([[[0.6, 0.55, 0.99], [0.8, np.nan, 0.9]]])
    # ranks over the four cells that both have: 1 2 | 4 3 and 2 1 | 3 4, centred -1.5 -0.5 | 1.5 0.5 ...
    assert level_spearman([left, right])[0, 1] == pytest.approx((2 * 1.0 + 2 * 1.0) / 5)
    few = np.full((1, 2, 3), np.nan)
    assert math.isnan(level_spearman([few, right])[0, 1])


def test_groups_and_their_intervals_draw_tasks(report: SpecificityReport) -> None:
    names = list(TYPES)
    same = [[TYPES[a] == TYPES[b] and a != b for b in names] for a in names]
    different = [[TYPES[a] != TYPES[b] for b in names] for a in names]
    draws = np.random.default_rng(0).multinomial(5, np.full(5, 1 / 5), size=2000).tolist()
    groups = {(g.measure, g.basis, g.group): g for g in report.groups}
    for group, member, pairs in (("same type", same, 2), ("different types", different, 8)):
        found = groups["share", "mean over trials", group]
        values = report.measure("share").values.tolist()
        assert found.pairs == pairs
        assert found.mean == pytest.approx(slow.pairs_drawn(values, member, [1] * 5))
        means = np.array([slow.pairs_drawn(values, member, one) for one in draws])
        known = means[np.isfinite(means)]
        low, high = np.quantile(known, [0.025, 0.975])
        assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
        levels = report.measure("share").chance.tolist()
        assert found.chance == pytest.approx(slow.pairs_drawn(levels, member, [1] * 5))
    own = groups["spearman", "single trials", "trials of one task"]
    assert own.tasks == 4  # one task has a single trial
    assert own.mean == pytest.approx(np.nanmean(np.diag(report.measure("spearman").trials)))
    assert groups["share", "single trials", "same type"].mean > 0.5 > own.chance


def test_the_difference_of_types_and_its_p(report: SpecificityReport) -> None:
    names = list(TYPES)
    table = report.measure("spearman").values
    found = next(d for d in report.differences if (d.measure, d.basis) == ("spearman", "mean over trials"))

    def difference(order: tuple[int, ...]) -> float:
        kinds = [TYPES[names[i]] for i in order]
        pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
        same = [table[i, j] for i, j in pairs if kinds[i] == kinds[j]]
        other = [table[i, j] for i, j in pairs if kinds[i] != kinds[j]]
        return float(np.mean(same) - np.mean(other))

    assert found.mean == pytest.approx(difference(tuple(range(5))))
    exact = np.mean([difference(one) >= found.mean - 1e-12 for one in itertools.permutations(range(5))])
    assert found.p == pytest.approx(exact, abs=0.02)
    assert found.p is not None
    assert found.p < 0.1


def test_the_layers_of_the_highest_of_the_network(
    report: SpecificityReport, signatures: dict[str, Signature]
) -> None:
    number = int(0.25 * L * N)
    for place, one in enumerate(signatures.values()):
        table = one.subtask_predictivity[0]
        cells = [(i, n) for i in range(L) for n in range(N) if np.isfinite(table[i, n])]
        best = sorted(cells, key=lambda cell: -table[cell])[:number]
        expected = [sum(i == layer for i, _ in best) for layer in range(L)]
        assert report.layer_counts[place].tolist() == expected
        assert report.layer_expected[place] == pytest.approx(number / L)


def test_sets_of_the_whole_network_have_the_chance_of_the_whole_network() -> None:
    a, b = np.zeros((2, 2, 10), bool)
    a[0, :8], b[0, 4:10] = True, True
    b[1, :2] = True
    by_layer, of_all = overlap([a], [b]), overlap([a], [b], "network")
    assert by_layer.share[0, 0] == of_all.share[0, 0] == 0.5
    assert by_layer.share_chance[0, 0] == pytest.approx((8 * 6 / 10) / 8)
    assert of_all.share_chance[0, 0] == pytest.approx((8 * 8 / 20) / 8)
    assert overlap([a * False], [a * False]).share[0, 0] == 0


def test_mean_of_what_is_defined() -> None:
    nan = np.nan
    found = mean_defined(np.array([[1.0, nan, nan], [3.0, 2.0, nan]]))
    np.testing.assert_array_equal(found, [2.0, 2.0, nan])


def test_subtasks_are_united_and_averaged() -> None:
    rng = np.random.default_rng(3)
    three, two = rng.uniform(0.5, 1, (2, 3, L, N)), rng.uniform(0.5, 1, (2, 1, L, N))
    report = specificity({"x": signature("x", three), "y": signature("y", two)}, rate=0.25)
    x, y = three.mean(axis=0), two.mean(axis=0)
    united = set().union(*(slow.skill_set(one.tolist(), 0.25) for one in x))
    expected = slow.in_common(united, slow.skill_set(y[0].tolist(), 0.25), L, N)
    assert report.measure("share").values[0, 1] == pytest.approx(expected["share"])
    assert report.measure("share").chance[0, 1] == pytest.approx(expected["share_chance"])
    spearman = slow.spearman(flat(x.mean(axis=0)), flat(y[0]))
    assert report.measure("spearman").values[0, 1] == pytest.approx(spearman)


def test_few_tasks_have_no_intervals_and_no_types_no_difference(signatures: dict[str, Signature]) -> None:
    two = specificity({name: signatures[name] for name in ("a1", "b1")}, rate=0.25)
    assert two.differences == ()
    assert {g.group for g in two.groups} == {"trials of one task", "different tasks"}
    assert all((g.low, g.high) == (None, None) for g in two.groups)
    one = specificity({"b2": signatures["b2"]}, rate=0.25)
    assert one.groups == ()
    assert np.isnan(one.measure("share").trials).all()


def test_tasks_without_predictivity_are_named(signatures: dict[str, Signature]) -> None:
    given = {**signatures, "writing": signature("writing", None)}
    report = specificity(given, types=TYPES, rate=0.25)
    assert report.tasks == tuple(signatures)
    assert report.notes[-1].endswith("(no data or no classes): writing")


@pytest.mark.parametrize(
    ("given", "rate", "error", "words"),
    [
        ({"x": signature("x", None)}, 0.2, SignatureError, "no task here has predictivities"),
        ({"x": None}, 0.01, InputError, "takes none of 12: at least 0.0833"),
        ({"x": None}, 1.5, InputError, "a share above 0 and at most 1"),
    ],
)
def test_what_is_refused(
    given: dict[str, Any], rate: float, error: type[Exception], words: str, signatures: dict[str, Signature]
) -> None:
    several = {name: one or signatures["a2"] for name, one in given.items()}
    with pytest.raises(error, match=words):
        specificity(several, rate=rate)


def test_signatures_of_two_models_are_refused(signatures: dict[str, Signature]) -> None:
    other = signature("z", np.full((1, 1, L, N), 0.6), model="another")
    with pytest.raises(SignatureError, match="of different models"):
        specificity({"a1": signatures["a1"], "z": other})


def test_export(report: SpecificityReport) -> None:
    found = json.loads(export(report, "json"))
    assert found["tasks"] == list(TYPES)
    measures = {one["measure"]: one for one in found["measures"]}
    np.testing.assert_allclose(measures["share"]["values"], report.measure("share").values)
    assert measures["share"]["trials"][3][3] is None
    text = export(report, "table")
    for words in ("trials of one task", "Pairs of the same type less those of different types", "expected"):
        assert words in text
    lines = export(report, "csv").splitlines()
    assert lines[0] == "measure,basis,layer,source,target,value,chance"
    assert len(lines) == 1 + 25 * (4 * 2 + L) + 5 * L
    counts = [line for line in lines if line.startswith("skill_neurons,mean over trials,1,b1,b1,")]
    assert [line.split(",")[5] for line in counts] == [str(report.layer_counts[2, 1])]
