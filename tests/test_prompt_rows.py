"""Predictivity along the prompt: what is kept, what each row finds, what rows and trials settle."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_neurons as slow
import tiny
from by_hand import task

from transferscope import (
    attachment,
    neuron_tables,  # noqa: F401  # registers the exporters
    store,
)
from transferscope.encoding import encode
from transferscope.errors import InputError, SignatureError, StoreError, TaskError
from transferscope.exporters import export
from transferscope.measurement import measure
from transferscope.models import wrap
from transferscope.prompt_rows import RowAccuracy, load_rows, measure_rows, save_rows, where_on_prompt
from transferscope.prompts import SoftPrompt
from transferscope.signatures import extract
from transferscope.task_spec import Subtask

L, P, N = 2, 5, 10


def prompt(seed: int, template: str = "mask-first", width: int = 16) -> SoftPrompt:
    values = 0.3 * np.random.default_rng(seed).standard_normal((2, width))
    return SoftPrompt(values.astype(np.float32), "t", seed, template)


@pytest.fixture(scope="module")
def backbone() -> Any:
    return wrap(tiny.model("bert"), tiny.tokenizer("bert"), "tiny")


# Measuring and keeping.


@pytest.mark.parametrize("classes", [2, 3])
def test_rows_are_those_of_the_measurement_and_make_the_signature(backbone: Any, classes: int) -> None:
    data, prompts = task(classes=classes), [prompt(3), prompt(8)]
    steps: list[Any] = []
    rows = measure_rows(backbone, data, prompts, progress=lambda *what: steps.append(what))
    assert (rows.task, rows.seeds) == ("t", (3, 8))
    assert steps == [(1, 2, "t seed 3"), (2, 2, "t seed 8")]
    assert rows.accuracy.shape == (2, 1 if classes == 2 else 3, 2, 3, 24)
    for trial, one in enumerate(prompts):
        attached = attachment.attach(backbone, one)
        found = measure(attached, *(encode(backbone, s, prompt_rows=3) for s in (data.train, data.dev)))
        assert np.isnan(rows.accuracy[trial][:, ~found.defined]).all()
        kept = rows.accuracy[trial][:, found.defined]
        np.testing.assert_array_equal(kept, found.subtask_accuracy[:, found.defined])
    signature = extract(backbone, data, prompts)
    by_row = np.where(np.isfinite(rows.by_row), rows.by_row, -np.inf).max(axis=3)
    assert signature.predictivity is not None
    np.testing.assert_array_equal(np.where(np.isfinite(by_row), by_row, np.nan), signature.predictivity)
    report = where_on_prompt(rows)
    everything = [one for one in report.settling if one.kind == "trials" and one.size == 2]
    assert everything[0].share == 1.0


def test_subtasks_that_a_task_gives(backbone: Any) -> None:
    data = task(classes=3, subtasks=(Subtask((0,), (1, 2), "a"), Subtask((1,), (2,), "b")))
    rows = measure_rows(backbone, data, [prompt(0)])
    signature = extract(backbone, data, [prompt(0)])
    assert signature.predictivity is not None
    best = np.where(np.isfinite(rows.by_row), rows.by_row, -np.inf).max(axis=3)
    known = np.isfinite(signature.predictivity)
    np.testing.assert_array_equal(best[known], signature.predictivity[known])
    assert best.shape == (1, 2, 2, 24)


def test_a_file_of_them(tmp_path: Path, backbone: Any) -> None:
    rows = measure_rows(backbone, task(), [prompt(1)])
    rows = RowAccuracy(rows.task, rows.seeds, rows.accuracy, {"inputs": {"a": 1}})
    save_rows(rows, tmp_path / "x.safetensors")
    found = load_rows(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(found.accuracy, rows.accuracy)
    assert (found.task, found.seeds, found.provenance) == ("t", (1,), {"inputs": {"a": 1}})


@pytest.mark.parametrize(
    ("array", "meta"),
    [
        (np.zeros((1, 1, 2, 3, 4)), {"kind": "signature"}),
        (np.zeros((1, 2, 3, 4)), {}),
        (np.zeros((1, 1, 2, 3, 4), np.float32), {}),
        (np.full((1, 1, 2, 3, 4), 1.5), {}),
        (np.zeros((2, 1, 2, 3, 4)), {}),
    ],
)
def test_another_file_is_refused(tmp_path: Path, array: np.ndarray, meta: dict[str, Any]) -> None:
    base = {"kind": "rows", "task": "t", "seeds": [0], "provenance": {}}
    store.save_arrays(tmp_path / "x.safetensors", {"accuracy": array}, base | meta)
    with pytest.raises(StoreError, match="has no accuracies by row"):
        load_rows(tmp_path / "x.safetensors")


def test_what_cannot_be_measured(backbone: Any) -> None:
    with pytest.raises(SignatureError, match="found none"):
        measure_rows(backbone, task(), [])
    other = SoftPrompt(np.zeros((4, 16), np.float32), "t", 1, "mask-first")
    with pytest.raises(SignatureError, match=r"\(2, 16\) mask-first, \(4, 16\) mask-first"):
        measure_rows(backbone, task(), [prompt(0), other])
    with pytest.raises(InputError, match="takes none of 10"):
        where_on_prompt(random_rows(1), rate=0.05)


# What is found, against loops.


def random_rows(trials: int, subtasks: int = 1) -> RowAccuracy:
    """Later rows say more; some cells are undefined, one neuron everywhere."""
    rng = np.random.default_rng(4)
    accuracy = 0.5 + 0.4 * rng.uniform(-1, 1, (trials, subtasks, L, P, N)) * np.linspace(0.3, 1, P)[:, None]
    accuracy[:, :, 0, 1, 2] = np.nan
    accuracy[0, :, 1, :, 3] = np.nan
    accuracy[:, :, 1, :, 7] = np.nan
    return RowAccuracy("t", tuple(range(trials)), accuracy)


def tables(rows: RowAccuracy) -> list[Any]:
    """[R][L][P][N] of the first subtask."""
    found: list[Any] = rows.accuracy[:, 0].tolist()
    return found


def test_each_row_against_loops() -> None:
    rows = random_rows(3)
    report, trials = where_on_prompt(rows, rate=0.3), tables(rows)
    everything = slow.skill_set(slow.best_rows(trials, range(P)), 0.3)
    by_row = [slow.best_rows(trials, [p]) for p in range(P)]
    for p, found in enumerate(report.rows):
        assert found.row == p
        cells = [value for row in by_row[p] for value in row if not math.isnan(value)]
        assert found.mean == pytest.approx(sum(cells) / len(cells))
        alone = slow.skill_set(by_row[p], 0.3)
        values = [by_row[p][i][n] for i, n in alone]
        assert found.best == pytest.approx(sum(values) / len(values))
        both = slow.in_common(alone, everything, L, N)
        assert (found.share, found.chance) == pytest.approx((both["share"], both["share_chance"]))
        for i in range(L):
            inside = [by_row[p][i][n] for layer, n in alone if layer == i]
            assert report.best_by_layer[i, p] == pytest.approx(sum(inside) / len(inside))
    best = {}
    for i, n in everything:
        known = [p for p in range(P) if not math.isnan(by_row[p][i][n])]
        best[i, n] = max(known, key=lambda p: by_row[p][i][n])
    expected = [sum(p == row for p in best.values()) / len(best) for row in range(P)]
    assert [one.first_for for one in report.rows] == pytest.approx(expected)


def test_sets_from_part_of_the_rows_against_loops() -> None:
    rows = random_rows(2)
    report, trials = where_on_prompt(rows, rate=0.3, draws=7, seed=5), tables(rows)
    everything = slow.skill_set(slow.best_rows(trials, range(P)), 0.3)
    rng = np.random.default_rng(5)
    orders = [rng.permutation(P).tolist() for _ in range(7)]
    curve = {(one.kind, one.size): one for one in report.settling}
    for size in range(1, P + 1):
        several = []
        for order in [list(range(P)), *orders]:
            part = slow.skill_set(slow.best_rows(trials, order[:size]), 0.3)
            several.append(slow.in_common(part, everything, L, N)["share"])
        assert curve["first rows", size].share == pytest.approx(several[0])
        drawn = curve["random rows", size]
        assert (drawn.share, drawn.sets) == (pytest.approx(np.mean(several[1:])), 7)
        assert [drawn.low, drawn.high] == pytest.approx(np.quantile(several[1:], [0.025, 0.975]))
    assert curve["first rows", P].share == curve["random rows", P].share == 1.0
    assert curve["first rows", 1].share < 0.7  # the test is of something


def test_sets_from_part_of_the_trials_against_loops() -> None:
    rows = random_rows(4)
    report, trials = where_on_prompt(rows, rate=0.3), tables(rows)

    def chosen(some: tuple[int, ...]) -> set[Any]:
        return slow.skill_set(slow.best_rows([trials[r] for r in some], range(P)), 0.3)

    curve = {(one.kind, one.size): one for one in report.settling}
    for size in range(1, 5):
        subsets = list(itertools.combinations(range(4), size))
        found = [slow.in_common(chosen(one), chosen((0, 1, 2, 3)), L, N) for one in subsets]
        point = curve["trials", size]
        assert point.sets == len(subsets)
        assert point.share == pytest.approx(sum(one["share"] for one in found) / len(found))
        assert point.chance == pytest.approx(sum(one["share_chance"] for one in found) / len(found))
    halves = [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))]
    found = [slow.in_common(chosen(a), chosen(b), L, N) for a, b in halves]
    assert curve["split trials", 2].share == pytest.approx(sum(one["share"] for one in found) / 3)
    assert curve["split trials", 1].sets == 6
    assert ("split trials", 3) not in curve


def test_many_trials_are_drawn() -> None:
    report = where_on_prompt(random_rows(9), rate=0.3, draws=2)
    sets = {(one.kind, one.size): one.sets for one in report.settling}
    assert (sets["trials", 1], sets["trials", 4], sets["trials", 8]) == (9, 50, 9)
    assert (sets["split trials", 1], sets["split trials", 4]) == (36, 50)
    again = where_on_prompt(random_rows(9), rate=0.3, draws=2)
    assert report.settling == again.settling
    other = where_on_prompt(random_rows(9), rate=0.3, draws=2, seed=1)
    assert report.settling != other.settling


def test_subtasks_are_united() -> None:
    rows = random_rows(1, subtasks=3)
    report = where_on_prompt(rows, rate=0.2)
    every = [RowAccuracy("t", (0,), rows.accuracy[:, c : c + 1]) for c in range(3)]
    everything, first = (
        set().union(*(slow.skill_set(slow.best_rows(tables(one), some), 0.2) for one in every))
        for some in (range(P), [0])
    )
    expected = slow.in_common(first, everything, L, N)
    assert report.rows[0].share == pytest.approx(expected["share"])
    assert report.rows[0].chance == pytest.approx(expected["share_chance"])


# When a set has settled.


def test_when_a_set_has_settled() -> None:
    """Row 2 says it all: from three rows on the set is that of all rows."""
    rng = np.random.default_rng(0)
    accuracy = 0.5 + 0.01 * rng.uniform(-1, 1, (2, 1, L, P, N))
    accuracy[:, :, :, 2] = 0.6 + 0.3 * rng.uniform(0, 1, (L, N))
    report = where_on_prompt(RowAccuracy("t", (0, 1), accuracy), rate=0.3)
    assert report.settled == {"first rows": 3, "random rows": report.settled["random rows"], "trials": 1,
                              "split trials": 1}  # fmt: skip
    assert report.rows[2].first_for == 1.0
    strict = where_on_prompt(random_rows(2), rate=0.3, limit=1.0)
    assert strict.settled["split trials"] is None
    assert strict.settled["trials"] is None  # both are needed


def test_many_rows_are_looked_at_in_steps() -> None:
    accuracy = np.random.default_rng(1).uniform(0, 1, (1, 1, 1, 40, N))
    report = where_on_prompt(RowAccuracy("t", (0,), accuracy), rate=0.3, draws=2)
    sizes = [one.size for one in report.settling if one.kind == "first rows"]
    assert (len(sizes), sizes[0], sizes[-1]) == (16, 1, 40)
    assert len(report.rows) == 40
    assert "one trial alone" in report.notes[-1]


# Models whose layers are probed at the readout row.


def test_layers_probed_at_the_readout_row_are_left_out() -> None:
    t5 = wrap(tiny.model("t5"), tiny.tokenizer("t5"), "t5")
    rows = measure_rows(t5, task(), [prompt(0, "prefix")])
    report = where_on_prompt(rows)
    assert report.layers == (0, 1)
    assert "without the layers probed at the readout row alone: 2, 3, 4" in report.notes[0]
    assert len(report.rows) == 2
    trials = [one for one in report.settling if one.kind == "trials"]
    assert [one.share for one in trials] == [1.0]


def test_one_probed_row_leaves_nothing_to_compare() -> None:
    gpt2 = wrap(tiny.model("gpt2"), tiny.tokenizer("causal"), "gpt2")
    rows = measure_rows(gpt2, task(), [prompt(0, "prefix")])
    report = where_on_prompt(rows)
    assert [one.share for one in report.rows] == [1.0]
    assert report.notes[0].startswith("one row alone is probed")
    assert report.settled["first rows"] is None


def test_a_generation_task_has_no_classes(backbone: Any) -> None:
    import tiny_trained

    with pytest.raises(TaskError, match="generation task"):
        measure_rows(
            wrap(tiny.model("t5"), tiny.tokenizer("t5"), "t5"),
            tiny_trained.task("copy", "animals", train=4, dev=4),
            [prompt(0, "prefix")],
        )


def test_export() -> None:
    report = where_on_prompt(random_rows(2), rate=0.3)
    found = json.loads(export(report, "json"))
    assert [one["row"] for one in found["rows"]] == list(range(P))
    assert found["settled"].keys() == {"first rows", "random rows", "trials", "split trials"}
    text = export(report, "table")
    assert "Where on the prompt: t, 2 trials" in text
    assert "How many rows and trials settle the skill neurons" in text
    lines = export(report, "csv").splitlines()
    assert len(lines) == 1 + P + len(report.settling)
    assert lines[1].startswith("t,row,0,")
