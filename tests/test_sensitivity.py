"""Curves by layer, rate and trials: equal to `correlate` point by point, and they find what was planted."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from transferscope import resampling
from transferscope.comparison import Material, compare_materials
from transferscope.correlation import correlate
from transferscope.errors import InputError
from transferscope.exporters import export
from transferscope.parts import Cut, parts
from transferscope.sensitivity import SensitivityReport, sensitivity
from transferscope.transfer import TransferMatrix

TASKS = tuple(f"t{i}" for i in range(8))
LAYERS, NEURONS, TRIALS = 4, 60, 3
TYPES = dict(zip(TASKS, "uuuuvvvv", strict=True))


def planted(seed: int = 0) -> tuple[list[Material], TransferMatrix]:
    """Tasks lie on a line; near ones transfer, and layer 2 alone knows the line."""
    rng = np.random.default_rng(seed)
    line = rng.permutation(8) / 8
    materials = []
    for place, task in zip(line, TASKS, strict=True):
        stimulation = rng.normal(size=(TRIALS, LAYERS, NEURONS))
        stimulation[:, 2] = np.cos(2 * np.arange(NEURONS) / NEURONS * 3 + 3 * place) + rng.normal(
            0, 0.15, (TRIALS, NEURONS)
        )
        predictivity = rng.uniform(0.5, 1, (TRIALS, 1, LAYERS, NEURONS))
        inputs = {"stimulation": list(stimulation), "predictivity": list(predictivity)}
        materials.append(Material(task, inputs))
    values = 1 - np.abs(line[:, None] - line[None, :]) + rng.normal(0, 0.05, (2, 8, 8))
    return materials, TransferMatrix("zero-shot", TASKS, TASKS, values.mean(axis=0), values, (0, 1))


MATERIALS, TRANSFER = planted()


@pytest.fixture(scope="module")
def by_layer() -> SensitivityReport:
    return sensitivity(MATERIALS, TRANSFER, "layer", types=TYPES, names=["on", "skill_on"])


def test_the_layer_that_knows_is_found(by_layer: SensitivityReport) -> None:
    points = by_layer.curve("on")
    best = max(points, key=lambda point: point.mean or -1)
    assert (best.label, best.x) == ("2", 2)
    assert best.mean > 0.8  # type: ignore[operator]
    assert best.low > max(p.mean for p in points if p.label in "013")  # type: ignore[operator, type-var]
    assert best.p < 0.05  # type: ignore[operator]
    assert all(point.p > 0.05 for point in points if point.label in "013")  # type: ignore[operator]
    assert [point.label for point in points] == ["0", "1", "2", "3", "all"]
    assert by_layer.names == ("on", "skill_on")
    assert {one.name for one in by_layer.baselines} == {
        *("random", "same_type", "own_performance", "mean_transfer")
    }


@pytest.mark.parametrize("by", ["layer", "layer-group", "rate"])
def test_points_are_those_of_correlate_on_the_parts(by: str) -> None:
    options = {"types": TYPES, "seed": 2, "over_seeds": True, "expanded": True, "permutations": 3999}
    cut = Cut(rates=(0.1, 0.5), group=2)
    names = ["skill_on", "skill_overlap"]
    report = sensitivity(MATERIALS, TRANSFER, by, names=names, cut=cut, metric="kendall", **options)  # type: ignore[arg-type]
    found, _ = parts(by, MATERIALS, names, cut)  # type: ignore[arg-type]
    matrices = [matrix for part in found for matrix in part.matrices]
    expected = correlate(matrices, TRANSFER, metrics=["kendall"], **options)  # type: ignore[arg-type]
    assert len(report.points) == len(found) == len(matrices)
    assert report.resampled == expected.resampled == "targets and seeds"
    for point, matrix in zip(report.points, matrices, strict=True):
        score = expected.get(matrix.indicator, "kendall")
        for key in ("mean", "low", "high", "p", "n_targets", "n_skipped"):
            assert getattr(point, key) == getattr(score, key)
    for point in report.baselines:
        assert point.mean == expected.get(point.name, "kendall").mean


def test_trials_are_averaged_over_subsets_and_the_interval_is_over_targets() -> None:
    report = sensitivity(MATERIALS, TRANSFER, "trials", names=["on"])
    found, _ = parts("trials", MATERIALS, ["on"])
    for point, part in zip(report.curve("on"), found, strict=True):
        by_hand = np.array(
            [
                [
                    spearmanr(np.delete(m.values[:, t], t), np.delete(TRANSFER.values[:, t], t)).statistic
                    for t in range(8)
                ]
                for m in part.matrices
            ]
        )
        assert point.subsets == len(part.matrices)
        assert point.mean == pytest.approx(by_hand.mean())
        _, low, high = resampling.bootstrap_mean(by_hand.mean(axis=0), 0)
        assert (point.low, point.high) == pytest.approx((low, high))
        spread = by_hand.mean(axis=1).std(ddof=1) if len(by_hand) > 1 else None
        assert point.spread == (None if spread is None else pytest.approx(spread))
    assert [point.subsets for point in report.points] == [3, 3, 1]
    assert any("The interval is over targets, not over subsets" in note for note in report.notes)


def test_there_are_as_many_renamings_as_the_correction_needs() -> None:
    report = sensitivity(MATERIALS, TRANSFER, "layer", names=["on"], permutations=1)
    # 5 points: 199 renamings, so the best can reach 5 / 200.
    assert min(point.p for point in report.points) == pytest.approx(0.025)  # type: ignore[type-var]
    untested = sensitivity(MATERIALS, TRANSFER, "layer", names=["on"], permutations=0)
    assert {point.p for point in untested.points} == {None}
    assert not any(note.startswith("p:") for note in untested.notes)


def test_own_prompt_and_scope_are_passed_on(by_layer: SensitivityReport) -> None:
    included = sensitivity(MATERIALS, TRANSFER, "layer", names=["on"], own_prompt="included", permutations=0)
    (matrix,) = compare_materials(MATERIALS, ["on"])
    expected = correlate([matrix], TRANSFER, own_prompt="included", permutations=0).get("on")
    assert included.curve("on")[-1].mean == expected.mean != by_layer.curve("on")[-1].mean
    inside = sensitivity(
        MATERIALS, TRANSFER, "layer", names=["on"], types=TYPES, scope="same-type", permutations=0
    )
    assert inside.scope == "same-type"
    assert inside.curve("on")[2].mean != by_layer.curve("on")[2].mean


def test_what_is_refused(by_layer: SensitivityReport) -> None:
    with pytest.raises(InputError, match=r"no curve of 'onn'. Did you mean 'on'\?"):
        by_layer.curve("onn")
    with pytest.raises(InputError, match="unknown metric 'spearmann'"):
        sensitivity(MATERIALS, TRANSFER, "layer", metric="spearmann")
    with pytest.raises(InputError, match=r"scope is 'same'. Did you mean 'same-type'\?"):
        sensitivity(MATERIALS, TRANSFER, "layer", scope="same")  # type: ignore[arg-type]


def test_formats(by_layer: SensitivityReport) -> None:
    table = export(by_layer, "table")
    assert "on by layer: agreement with measured transfer (zero-shot)" in table
    assert "What a curve has to beat" in table
    assert "Own prompt excluded; all sources; 8 targets" in table
    assert "spread" not in table
    rows = list(csv.DictReader(io.StringIO(export(by_layer, "csv"))))
    assert len(rows) == 10 + 4
    assert (rows[2]["by"], rows[2]["name"], rows[2]["x"], rows[2]["label"]) == ("layer", "on", "2.0", "2")
    assert float(rows[2]["mean"]) == by_layer.points[2].mean
    document = json.loads(export(by_layer, "json"))
    assert list(document) == [
        *("by", "protocol", "metric", "own_prompt", "scope", "targets", "curves", "baselines", "notes")
    ]
    assert [curve["indicator"] for curve in document["curves"]] == ["on", "skill_on"]
    assert document["curves"][0]["points"][2]["mean"] == by_layer.points[2].mean
    assert "| layer | spearman |" in export(by_layer, "md")
    assert "\\begin{tabular}" in export(by_layer, "latex")
    trials = sensitivity(MATERIALS, TRANSFER, "trials", names=["on"], permutations=0)
    assert "subsets" in export(trials, "table").splitlines()[1]
