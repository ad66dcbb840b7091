"""Correlation with measured transfer: definitions, ties, skipped rows, baselines, and published numbers."""

from __future__ import annotations

import csv
import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from transferscope.agreement import METRICS
from transferscope.comparison import IndicatorMatrix, Material, from_rows
from transferscope.correlation import CorrelationReport, correlate, regret_at_1, spearman
from transferscope.default_indicator import by_needs
from transferscope.errors import InputError
from transferscope.exporters import export
from transferscope.transfer import TransferMatrix

TASKS = ("a", "b", "c", "d", "e")


def measured(values: np.ndarray, tasks: tuple[str, ...] = TASKS) -> TransferMatrix:
    return TransferMatrix("zero-shot", tasks, tasks, values, values[None])


@pytest.fixture
def random_pair() -> tuple[IndicatorMatrix, TransferMatrix]:
    rng = np.random.default_rng(0)
    return IndicatorMatrix("on", TASKS, rng.random((5, 5))), measured(rng.uniform(0.3, 1, (5, 5)))


def test_per_target_spearman_without_the_own_prompt_then_the_mean(
    random_pair: tuple[IndicatorMatrix, TransferMatrix],
) -> None:
    matrix, transfer = random_pair
    expected = []
    for t in range(5):
        others = [s for s in range(5) if s != t]
        expected.append(spearmanr(matrix.values[others, t], transfer.values[others, t]).statistic)
    score = correlate([matrix], transfer).get("on")
    assert score.mean == pytest.approx(np.mean(expected))
    assert score.low is not None
    assert score.high is not None
    assert score.low < np.mean(expected) < score.high
    assert (score.kind, score.scope, score.aggregate) == ("indicator", "all", "per-target")


def test_the_own_prompt_can_be_included_and_the_report_says_so(
    random_pair: tuple[IndicatorMatrix, TransferMatrix],
) -> None:
    matrix, transfer = random_pair
    report = correlate([matrix], transfer, own_prompt="included")
    columns = [spearmanr(matrix.values[:, t], transfer.values[:, t]).statistic for t in range(5)]
    assert report.own_prompt == "included"
    assert report.get("on").mean == pytest.approx(np.mean(columns))


def test_regret_is_the_expectation_over_ties() -> None:
    y = np.array([0.9, 0.5, 0.7])
    assert regret_at_1(np.array([0.1, 0.9, 0.2]), y) == pytest.approx(0.4)
    assert regret_at_1(np.array([0.1, 0.9, 0.9]), y) == pytest.approx(0.9 - 0.6)
    assert regret_at_1(None, y) == pytest.approx(0.9 - 0.7)


def test_spearman_of_a_constant_is_undefined_and_of_a_random_order_zero() -> None:
    y = np.array([0.9, 0.5, 0.7])
    assert np.isnan(spearman(np.ones(3), y))
    assert np.isnan(spearman(y, np.ones(3)))
    assert spearman(None, y) == 0


def test_constant_rows_are_skipped_and_counted(random_pair: tuple[IndicatorMatrix, TransferMatrix]) -> None:
    matrix, transfer = random_pair
    values, targets = matrix.values.copy(), transfer.values.copy()
    values[:, 1], targets[:, 3] = 0.5, 0.5
    report = correlate([IndicatorMatrix("on", TASKS, values)], measured(targets))
    score, chance = report.get("on"), report.get("random")
    assert (score.n_targets, score.n_skipped) == (3, 2)
    assert (chance.n_targets, chance.n_skipped) == (4, 1)


def test_a_perfect_indicator_is_perfect(random_pair: tuple[IndicatorMatrix, TransferMatrix]) -> None:
    transfer = random_pair[1]
    report = correlate([IndicatorMatrix("oracle", TASKS, transfer.values)], transfer)
    assert report.get("oracle").mean == pytest.approx(1)
    assert report.get("oracle", "regret@1").mean == 0


def test_random_is_its_exact_expectation(random_pair: tuple[IndicatorMatrix, TransferMatrix]) -> None:
    transfer = random_pair[1]
    score = correlate([], transfer).get("random", "regret@1")
    others = [[transfer.values[s, t] for s in range(5) if s != t] for t in range(5)]
    assert score.mean == pytest.approx(np.mean([max(row) - np.mean(row) for row in others]))


def test_baselines_by_hand() -> None:
    values = np.array([[0.5, 0.2, 0.4], [0.3, 1.0, 0.1], [0.1, 0.6, 0.8]])
    transfer = measured(values, ("a", "b", "c"))
    report = correlate([], transfer, types={"a": "x", "b": "x", "c": "y"})
    # own performance .5, 1, .8: for a it picks b (the best), for b c (the best), for c b (.1 for .4)
    assert report.get("own_performance", "regret@1").mean == pytest.approx((0 + 0 + 0.3) / 3)
    # same type: for a it picks b (right), for b it picks a (.2 for .6), for c nothing: (.4 + .1) / 2 for .4
    assert report.get("same_type", "regret@1").mean == pytest.approx((0 + 0.4 + 0.15) / 3)
    # mean transfer, relative, own task left out: for a: b by c .1/.8, c by b .6/1: c (.1 for .3);
    # for b: a by c .4/.8, c by a .1/.5: a (.2 for .6); for c: a by b .2, b by a .3/.5: b (.1 for .4)
    assert report.get("mean_transfer", "regret@1").mean == pytest.approx((0.2 + 0.4 + 0.3) / 3)


def test_a_baseline_that_is_constant_for_a_target_is_a_random_order_there() -> None:
    rng = np.random.default_rng(1)
    types = dict(zip(TASKS, ("x", "x", "y", "y", "alone"), strict=True))
    score = correlate([], measured(rng.random((5, 5))), types=types).get("same_type")
    assert (score.n_targets, score.n_skipped) == (5, 0)


def test_baselines_without_what_they_need() -> None:
    transfer = measured(np.random.default_rng(0).random((5, 5)))
    assert "same_type" not in {score.name for score in correlate([], transfer).scores}
    with pytest.raises(
        InputError, match=r"'same_type' cannot be computed here: it needs the type of every task"
    ):
        correlate([], transfer, baselines=["same_type"])
    with pytest.raises(InputError, match=r"unknown baseline 'same_typ'. Did you mean 'same_type'\?"):
        correlate([], transfer, baselines=["same_typ"])
    with pytest.raises(InputError, match=r"own_prompt is 'exclude'. Did you mean 'excluded'"):
        correlate([], transfer, own_prompt="exclude")  # type: ignore[arg-type]


def test_only_common_tasks_are_used_and_none_is_an_error() -> None:
    rng = np.random.default_rng(0)
    transfer = measured(rng.random((5, 5)))
    wider = IndicatorMatrix("on", ("z", "b", "a", "c"), rng.random((4, 4)))
    assert correlate([wider], transfer).targets == ("a", "b", "c")
    with pytest.raises(
        InputError, match="too few tasks in common: indicators have y, z; transfer has sources a, b"
    ):
        correlate([IndicatorMatrix("on", ("y", "z"), np.eye(2))], transfer)


def test_one_target_has_no_interval_and_a_missing_score_is_named(
    random_pair: tuple[IndicatorMatrix, TransferMatrix],
) -> None:
    values = random_pair[1].values
    one = TransferMatrix("zero-shot", TASKS, ("a",), values[:, :1], values[None, :, :1])
    report = correlate([random_pair[0]], one)
    assert report.get("on").low is None
    assert report.get("on").mean is not None
    with pytest.raises(InputError, match=r"no score 'onn' 'spearman'. Did you mean 'on spearman'\?"):
        report.get("onn")


def test_the_same_seed_gives_the_same_intervals(random_pair: tuple[IndicatorMatrix, TransferMatrix]) -> None:
    matrix, transfer = random_pair
    assert correlate([matrix], transfer, seed=3) == correlate([matrix], transfer, seed=3)
    assert correlate([matrix], transfer, seed=3) != correlate([matrix], transfer, seed=4)


PUBLISHED = {
    "Roberta": {
        "C_average": 0.40,
        "C_meantoken": 0.32,
        "C_concat": 0.16,
        "E_concat": -0.03,
        "same_type": 0.55,
        "mean_transfer": 0.34,
    },
    "T5Small": {
        "C_average": 0.43,
        "C_meantoken": 0.48,
        "C_concat": 0.09,
        "E_concat": 0.02,
        "same_type": 0.53,
        "mean_transfer": 0.23,
    },
}


def published(
    shared: Callable[..., Path], backbone: str
) -> tuple[list[IndicatorMatrix], TransferMatrix, dict[str, str]]:
    cells = {}
    for file in shared("published", "Prompt-Transferability-1.0", "result").glob(f"*Prompt{backbone}/*.json"):
        source = file.stem.removeprefix("result_").removesuffix(f"Prompt{backbone}")
        if source != file.stem.removeprefix("result_") and not source.startswith(
            ("random", "model_transfer")
        ):
            target = file.parent.name.removesuffix(f"Prompt{backbone}")
            cells[source, target] = json.loads(json.loads(file.read_text()))["acc"]
    tasks = tuple(sorted({target for _, target in cells}))
    values = np.array([[cells[s, t] for t in tasks] for s in tasks])
    with shared("published", "reference_indicators.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["backbone"] == backbone]
    with shared("published", "task_types.csv").open() as file:
        types = {row["task"]: row["type"] for row in csv.DictReader(file)}
    return from_rows(rows), measured(values, tasks), types


def published_report(shared: Callable[..., Path], backbone: str) -> CorrelationReport:
    matrices, transfer, types = published(shared, backbone)
    return correlate(matrices, transfer, types=types, permutations=0)


@pytest.mark.parametrize("backbone", PUBLISHED)
def test_published_numbers(shared: Callable[..., Path], backbone: str) -> None:
    report = published_report(shared, backbone)
    for name, expected in PUBLISHED[backbone].items():
        score = report.get(name)
        assert score.mean == pytest.approx(expected, abs=0.01)
        assert score.low is not None
        assert score.high is not None
        assert score.low < expected < score.high


def test_the_evidence_that_rank_quotes_for_its_default(shared: Callable[..., Path]) -> None:
    reports = [published_report(shared, backbone) for backbone in PUBLISHED]
    _, why = by_needs([Material("a", {"prompt": [np.zeros((2, 3))]})])
    assert f"({sum(len(report.targets) for report in reports)} targets)" in why
    for name in ("C_meantoken", "same_type"):
        scores = [report.get(name) for report in reports]
        mean = np.average([score.mean for score in scores], weights=[score.n_targets for score in scores])
        assert f"{mean:.3f}".lstrip("0") in why


def test_pooled_regret_of_a_random_order_is_its_expectation(shared: Callable[..., Path]) -> None:
    matrices, transfer, _ = published(shared, "Roberta")
    report = correlate(matrices, transfer, aggregates=["per-target", "pooled"], permutations=0)
    cells = np.sort([transfer.value(s, t) for t in transfer.targets for s in transfer.sources if s != t])
    n = len(cells)
    for k in (1, 3):
        expected = sum(v * math.comb(j, k - 1) for j, v in enumerate(cells)) / math.comb(n, k)
        score = report.get("random", f"regret@{k}", aggregate="pooled")
        assert score.mean == pytest.approx(cells[-1] - expected)
        assert score.low is not None
        assert score.low < score.mean < score.high  # type: ignore[operator]


def test_with_the_own_prompt_published_values_differ(shared: Callable[..., Path]) -> None:
    matrices, transfer, types = published(shared, "T5Small")
    without = correlate(matrices, transfer, types=types, permutations=0)
    report = correlate(matrices, transfer, types=types, own_prompt="included", permutations=0)
    assert report.get("C_meantoken").mean > without.get("C_meantoken").mean + 0.05  # type: ignore[operator]
    assert "Own prompt included" in export(report, "table")
    assert "Own prompt excluded" in export(without, "md")


def test_per_target_and_pooled_can_differ_in_sign() -> None:
    # Inside each target the right order; across targets, easy ones have low indicator values.
    tasks = ("a", "b", "c", "d")
    base = np.array([[0.1], [0.2], [0.3], [0.4]])
    level = np.array([[0.0, 1.0, 2.0, 3.0]])
    report = correlate(
        [IndicatorMatrix("x", tasks, base - level)],
        measured(base + level, tasks),
        aggregates=["per-target", "pooled"],
    )
    assert report.get("x").mean == pytest.approx(1)
    assert report.get("x", aggregate="pooled").mean < -0.5  # type: ignore[operator]


def test_scopes_by_type(random_pair: tuple[IndicatorMatrix, TransferMatrix]) -> None:
    matrix, transfer = random_pair
    types = dict(zip(TASKS, "xxxyy", strict=True))
    report = correlate([matrix], transfer, types=types, scopes=["all", "same-type", "different-type"])
    expected = []
    for t in range(3):  # of y each target has one source of its type: nothing to order
        others = [s for s in range(3) if s != t]
        expected.append(spearmanr(matrix.values[others, t], transfer.values[others, t]).statistic)
    score = report.get("on", scope="same-type")
    assert (score.mean, score.n_targets, score.n_skipped) == (pytest.approx(np.mean(expected)), 3, 2)
    assert report.get("on", scope="different-type").n_targets == 5
    assert report.get("same_type", scope="different-type").mean == 0  # constant there: a random order
    with pytest.raises(InputError, match="the scope 'same-type' needs the type of every task"):
        correlate([matrix], transfer, scopes=["same-type"])
    with pytest.raises(InputError, match=r"scope is 'same'. Did you mean 'same-type'\?"):
        correlate([matrix], transfer, scopes=["same"])  # type: ignore[list-item]


def test_given_facts_make_more_baselines(random_pair: tuple[IndicatorMatrix, TransferMatrix]) -> None:
    matrix, transfer = random_pair
    text = IndicatorMatrix("anything", ("a", "b", "c", "d"), matrix.values[:4, :4])
    probe = TransferMatrix("linear-probe", TASKS, TASKS, transfer.values, transfer.per_seed)
    report = correlate(
        [], probe, sizes=dict(zip(TASKS, range(5), strict=True)), text_embedding=text, zero_shot=transfer
    )
    assert {score.name for score in report.scores} == {
        *("random", "own_performance", "mean_transfer", "data_size", "text_embedding", "zero_shot")
    }
    assert report.get("zero_shot").mean == pytest.approx(1)
    sizes = [
        spearmanr([s for s in range(5) if s != t], np.delete(transfer.values[:, t], t)).statistic
        for t in range(5)
    ]
    assert report.get("data_size").mean == pytest.approx(np.mean(sizes))
    assert report.get("text_embedding").n_skipped == 1  # e has no text
    # Zero-shot transfer would order itself without a mistake.
    assert "zero_shot" not in {s.name for s in correlate([], transfer, zero_shot=transfer).scores}


def test_p_is_the_share_of_renamings_that_do_as_well(
    random_pair: tuple[IndicatorMatrix, TransferMatrix],
) -> None:
    matrix, transfer = random_pair
    observed = correlate([matrix], transfer, permutations=0).get("on").mean
    as_good = []
    for order in itertools.permutations(range(5)):
        renamed = IndicatorMatrix("on", TASKS, matrix.values[np.ix_(order, order)])
        mean = correlate([renamed], transfer, permutations=0, metrics=["spearman"]).get("on").mean
        as_good.append(mean >= observed - 1e-12)  # type: ignore[operator]
    p = correlate([matrix], transfer, permutations=3999, metrics=["spearman"]).get("on").p
    assert p == pytest.approx(np.mean(as_good), abs=0.03)
    assert correlate([matrix], transfer, permutations=0).get("on").p is None


def test_missing_cells_are_left_out_everywhere(random_pair: tuple[IndicatorMatrix, TransferMatrix]) -> None:
    matrix, transfer = random_pair
    values, targets = matrix.values.copy(), transfer.values.copy()
    values[0, 1], targets[2, 3] = np.nan, np.nan
    report = correlate([IndicatorMatrix("on", TASKS, values)], measured(targets), permutations=99)
    expected = []
    for t in range(5):
        keep = [s for s in range(5) if s != t and np.isfinite(values[s, t]) and np.isfinite(targets[s, t])]
        expected.append(spearmanr(values[keep, t], targets[keep, t]).statistic)
    assert report.get("on").mean == pytest.approx(np.mean(expected))
    assert 0 < report.get("on").p <= 1  # type: ignore[operator]


def test_paired_differences(random_pair: tuple[IndicatorMatrix, TransferMatrix]) -> None:
    matrix, transfer = random_pair
    oracle = IndicatorMatrix("oracle", TASKS, transfer.values)
    report = correlate([oracle, matrix], transfer, against="on", metrics=["spearman", "regret@1"])
    first = report.differences[0]
    assert (first.name, first.against, first.metric, first.better) == ("oracle", "on", "spearman", True)
    assert first.mean == pytest.approx(1 - report.get("on").mean)  # type: ignore[operator]
    assert next(d for d in report.differences if d.metric == "regret@1").better
    assert json.loads(export(report, "json"))["differences"][0]["name"] == "oracle"
    with pytest.raises(InputError, match=r"no indicator or baseline 'onn' here. Did you mean 'on'\?"):
        correlate([matrix], transfer, against="onn")


def test_seeds_are_redrawn_where_asked(random_pair: tuple[IndicatorMatrix, TransferMatrix]) -> None:
    matrix, transfer = random_pair
    per_seed = transfer.values + np.random.default_rng(0).normal(0, 0.2, (3, 5, 5))
    several = TransferMatrix("zero-shot", TASKS, TASKS, per_seed.mean(axis=0), per_seed)
    plain = correlate([matrix], several, permutations=0)
    redrawn = correlate([matrix], several, permutations=0, over_seeds=True)
    assert (plain.resampled, redrawn.resampled) == ("targets", "targets and seeds")
    assert redrawn.get("on").mean == pytest.approx(plain.get("on").mean)
    assert redrawn.get("on").low != plain.get("on").low
    assert correlate([matrix], transfer, over_seeds=True).resampled == "targets"  # there is one seed


def test_definitions_are_printed_with_the_table(
    random_pair: tuple[IndicatorMatrix, TransferMatrix],
) -> None:
    report = correlate([random_pair[0]], random_pair[1])
    for format_ in ("table", "md", "latex"):
        text = " ".join(export(report, format_).replace("\\", "").split())
        for metric in METRICS.values():
            assert metric.definition[:40] in text
    assert "regret@1 & " in export(report, "latex")
    assert "own\\_performance & baseline & " in export(report, "latex")
    assert export(report, "csv").splitlines()[0].startswith("protocol,own_prompt,name,kind,scope,aggregate,")


def test_a_large_study_is_quick() -> None:
    rng = np.random.default_rng(0)
    tasks = tuple(f"t{i}" for i in range(17))
    matrices = [IndicatorMatrix(f"i{k}", tasks, rng.random((17, 17))) for k in range(30)]
    start = time.process_time()
    correlate(matrices, measured(rng.random((17, 17)), tasks))
    assert time.process_time() - start < 20
