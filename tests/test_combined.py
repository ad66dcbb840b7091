"""Several backbones as one: values by hand, tasks drawn and renamed together, and the published backbones."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from tests.test_correlation import PUBLISHED, published
from transferscope import resampling
from transferscope.combined import CombinedReport, combine
from transferscope.comparison import IndicatorMatrix
from transferscope.correlation import correlate
from transferscope.errors import InputError
from transferscope.evidence import Evidence, Known
from transferscope.exporters import export
from transferscope.transfer import TransferMatrix

FIRST, SECOND = ("a", "b", "c", "d", "only-one"), ("d", "c", "b", "a", "x", "y")
KINDS = dict(zip(("a", "b", "c", "d", "only-one", "x", "y"), "uuvvuvv", strict=True))


def evidence(name: str, tasks: Sequence[str], seed: int, names: Sequence[str] = ("on", "cos")) -> Evidence:
    rng = np.random.default_rng(seed)
    size = (len(tasks), len(tasks))
    per_seed = rng.random(size) + rng.normal(0, 0.1, (2, *size))
    transfer = TransferMatrix(
        "zero-shot", tuple(tasks), tuple(tasks), per_seed.mean(axis=0), per_seed, (0, 1)
    )
    matrices = [
        IndicatorMatrix(one, tuple(tasks), transfer.values + rng.normal(0, 0.4, size)) for one in names
    ]
    return Evidence(name, matrices, transfer, Known({task: KINDS[task] for task in tasks}))


BOTH = [evidence("small", FIRST, 1), evidence("large", SECOND, 2)]


def by_hand(one: Evidence, matrix: IndicatorMatrix) -> list[float]:
    """Spearman of each target, own prompt left out."""
    n = len(matrix.tasks)
    return [
        spearmanr(np.delete(matrix.values[:, t], t), np.delete(one.transfer.values[:, t], t)).statistic
        for t in range(n)
    ]


def test_the_mean_is_over_the_targets_of_all_and_the_interval_over_tasks() -> None:
    report = combine(BOTH, permutations=0)
    assert (report.backbones, report.tasks) == (("small", "large"), 7)
    assert report.combined.targets[:2] == ("a (small)", "b (small)")
    for k, name in enumerate(("on", "cos")):
        values = np.concatenate([by_hand(one, one.matrices[k]) for one in BOTH])
        score = report.combined.get(name)
        expected = resampling.bootstrap_mean(values, 0, clusters=[*FIRST, *SECOND])
        assert (score.mean, score.low, score.high) == pytest.approx(expected)
        assert (score.n_targets, score.n_skipped, score.p) == (11, 0, None)
    assert {score.name for score in report.combined.scores} == {
        *("on", "cos", "random", "same_type", "own_performance", "mean_transfer")
    }


@pytest.mark.parametrize("metric", ["kendall", "regret@1", "ndcg"])
def test_each_backbone_alone_is_its_own_report(metric: str) -> None:
    options = {"seed": 4, "over_seeds": True, "expanded": True, "permutations": 199}
    report = combine(BOTH, metrics=[metric], scopes=["all", "different-type"], **options)  # type: ignore[arg-type]
    for one in BOTH:
        own = correlate(
            one.matrices,
            one.transfer,
            types=one.known.types,
            metrics=[metric],
            scopes=["all", "different-type"],
            **options,  # type: ignore[arg-type]
        )
        assert report.of(one.backbone) == own
    for score in report.combined.scores:
        own_scores = [alone.get(score.name, metric, scope=score.scope) for alone in report.alone]
        means = np.average([s.mean for s in own_scores], weights=[s.n_targets for s in own_scores])
        assert score.mean == pytest.approx(means)
        assert score.n_targets == sum(s.n_targets for s in own_scores)
    assert report.combined.resampled == "targets and seeds"


def mean_of(several: Sequence[Evidence], name: str) -> float:
    """Mean Spearman over all targets, own prompt left out, by hand."""
    found = []
    for one in several:
        (matrix,) = (m for m in one.matrices if m.indicator == name)
        found += by_hand(one, matrix)
    return float(np.mean(found))


def renamed(one: Evidence, names: dict[str, str]) -> Evidence:
    """The indicators' values of the tasks with their new names."""
    order = [one.matrices[0].tasks.index(names[task]) for task in one.matrices[0].tasks]
    return replace(one, matrices=[replace(m, values=m.values[np.ix_(order, order)]) for m in one.matrices])


def test_p_is_of_one_renaming_for_all_backbones_among_tasks_that_all_have() -> None:
    observed = mean_of(BOTH, "on")
    as_good = []
    for order in itertools.permutations("abcd"):
        for swapped in (("x", "y"), ("y", "x")):
            names = dict(zip("abcdxy", (*order, *swapped), strict=True)) | {"only-one": "only-one"}
            as_good.append(mean_of([renamed(one, names) for one in BOTH], "on") >= observed - 1e-12)
    one_indicator = [replace(one, matrices=one.matrices[:1]) for one in BOTH]
    report = combine(one_indicator, permutations=3999, metrics=["spearman"])
    assert report.combined.get("on").p == pytest.approx(np.mean(as_good), abs=0.025)
    assert 0.02 < np.mean(as_good) < 0.98  # or this test could not tell


def test_by_type_tasks_are_renamed_within_their_type_on_all_backbones() -> None:
    # Inside types {a, b} and {c, d} and {x, y} there are 8 renamings: p is a multiple of about 1 / 8.
    one_indicator = [replace(one, matrices=one.matrices[:1]) for one in BOTH]
    report = combine(one_indicator, permutations=3999, metrics=["spearman"], scopes=["different-type"])
    p = report.combined.get("on", scope="different-type").p
    assert p == pytest.approx(round(8 * p) / 8, abs=0.02)  # type: ignore[operator]
    other = replace(BOTH[1], known=Known({**(BOTH[1].known.types or {}), "a": "v"}))
    with pytest.raises(InputError, match="task 'a' is of type 'u' and on large of type 'v'"):
        combine([BOTH[0], other], scopes=["different-type"], metrics=["spearman"])
    assert combine([BOTH[0], other], metrics=["spearman"], permutations=0).tasks == 7


def test_a_backbone_that_agrees_with_itself_adds_nothing() -> None:
    twin = replace(BOTH[0], backbone="twin")
    options = {"metrics": ["spearman"], "permutations": 199}
    twice = combine([BOTH[0], twin], **options)  # type: ignore[arg-type]
    alone = twice.of("small").get("on")
    score = twice.combined.get("on")
    assert (score.mean, score.low, score.high) == pytest.approx((alone.mean, alone.low, alone.high))
    assert score.p == alone.p
    assert score.n_targets == 10


def test_only_what_all_have_is_compared_and_the_rest_is_named() -> None:
    third = evidence("third", FIRST, 3, names=("cos", "skill_on"))
    report = combine([BOTH[1], replace(third, known=Known())], metrics=["spearman"], permutations=0)
    assert {s.name for s in report.combined.scores if s.kind == "indicator"} == {"cos"}
    assert {s.name for s in report.combined.scores if s.kind == "baseline"} == {
        *("random", "own_performance", "mean_transfer")
    }
    assert report.notes == (
        "Not on all backbones, and left out: on, skill_on.",
        "Baselines of some backbones alone: same_type.",
    )
    assert {s.name for s in report.alone[1].scores} == {s.name for s in report.combined.scores}


def test_differences_flip_a_task_on_all_backbones() -> None:
    report = combine(BOTH, metrics=["spearman"], against="cos", permutations=0)
    values = [np.concatenate([by_hand(one, one.matrices[k]) for one in BOTH]) for k in (0, 1)]
    off, clusters = values[0] - values[1], [*FIRST, *SECOND]
    found = report.combined.differences[0]
    assert (found.name, found.against, found.n_targets) == ("on", "cos", 11)
    assert found.mean == pytest.approx(off.mean())
    sums = [
        sum(v for v, c in zip(off, clusters, strict=True) if c == task) for task in dict.fromkeys(clusters)
    ]
    flips = [abs(np.dot(signs, sums)) for signs in itertools.product((1, -1), repeat=len(sums))]
    assert found.p == pytest.approx(np.mean(np.array(flips) >= abs(sum(sums)) - 1e-12))
    with pytest.raises(InputError, match=r"no indicator or baseline 'coss' here. Did you mean 'cos'\?"):
        combine(BOTH, metrics=["spearman"], against="coss", permutations=0)


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="1 backbone: at least two are combined"):
        combine(BOTH[:1])
    with pytest.raises(InputError, match="backbone 'small' is given twice"):
        combine([BOTH[0], BOTH[0]])
    probe = replace(BOTH[1], transfer=replace(BOTH[1].transfer, protocol="linear-probe"))
    with pytest.raises(InputError, match="cannot be combined: zero-shot on small, linear-probe on large"):
        combine([BOTH[0], probe])
    other = evidence("other", FIRST, 3, names=("skill_on",))
    with pytest.raises(InputError, match="no indicator in common: small has on, cos; other has skill_on"):
        combine([BOTH[0], other])
    with pytest.raises(InputError, match=r"scope is 'same'. Did you mean 'same-type'\?"):
        combine(BOTH, scopes=["same"])  # type: ignore[list-item]
    report = combine(BOTH, metrics=["spearman"], permutations=0)
    with pytest.raises(InputError, match=r"no backbone 'smal' here. Did you mean 'small'\?"):
        report.of("smal")


def test_formats() -> None:
    report = combine(BOTH, metrics=["spearman", "regret@1"], against="random", permutations=99)
    table = export(report, "table")
    assert "over 2 backbones: all sources, mean over targets" in table
    assert "11 targets (small 5, large 6) of 7" in " ".join(table.split())
    assert "Differences from random" in table
    rows = list(csv.DictReader(io.StringIO(export(report, "csv"))))
    assert list(dict.fromkeys(row["backbone"] for row in rows)) == ["all", "small", "large"]
    assert float(rows[0]["mean"]) == report.combined.scores[0].mean
    document = json.loads(export(report, "json"))
    assert list(document) == [
        *(
            "protocol",
            "own_prompt",
            "backbones",
            "tasks",
            "targets",
            "scores",
            "alone",
            "differences",
            "notes",
        )
    ]
    assert document["targets"]["large"] == list(SECOND)
    assert document["alone"]["small"][0]["mean"] == report.alone[0].scores[0].mean
    assert "| on | indicator |" in export(report, "md")
    assert "on & indicator & " in export(report, "latex")


@pytest.fixture(scope="module")
def both_published(shared: Callable[..., Path]) -> CombinedReport:
    several = []
    for backbone in PUBLISHED:
        matrices, transfer, types = published(shared, backbone)
        several.append(Evidence(backbone, matrices, transfer, Known(types)))
    return combine(several, metrics=["spearman", "regret@1"], permutations=199)


def test_the_published_backbones_together(
    both_published: CombinedReport, shared: Callable[..., Path]
) -> None:
    combined = both_published.combined
    assert (len(combined.targets), both_published.tasks) == (31, 18)
    data = {backbone: published(shared, backbone) for backbone in PUBLISHED}
    for name in ("C_average", "C_meantoken", "C_concat", "E_concat"):
        values = {}
        for backbone, (matrices, transfer, _) in data.items():
            (matrix,) = (m for m in matrices if m.indicator == name)
            for target in transfer.targets:
                others = [s for s in transfer.sources if s != target]
                x = [matrix.values[matrix.tasks.index(s), matrix.tasks.index(target)] for s in others]
                y = [transfer.value(s, target) for s in others]
                values[backbone, target] = spearmanr(x, y).statistic
            own = np.mean([v for (where, _), v in values.items() if where == backbone])
            assert both_published.of(backbone).get(name).mean == pytest.approx(own)
            assert own == pytest.approx(PUBLISHED[backbone][name], abs=0.01)
        score = combined.get(name)
        assert score.mean == pytest.approx(np.mean(list(values.values())))
        assert score.low is not None
        assert score.high is not None
        assert score.low < score.mean < score.high  # type: ignore[operator]
    # Together .41 and .54 are more than renaming 18 tasks can explain; the Euclidean distance is not.
    assert combined.get("C_meantoken").p == combined.get("same_type").p * 7 == 7 / 200  # type: ignore[operator]
    assert combined.get("E_concat").p > 0.2  # type: ignore[operator]


@pytest.mark.slow
def test_under_no_relation_intervals_cover_and_tests_do_not_reject() -> None:
    rng = np.random.default_rng(1)
    tasks = tuple(f"t{i}" for i in range(12))
    size = (12, 12)
    rejected, covered = [], []
    for seed in range(250):
        # What both backbones share: good and bad sources, what transfers, and a symmetric indicator.
        shared = rng.normal(size=size) + rng.normal(size=(12, 1))
        alike = rng.normal(size=size)
        several = []
        for name in ("one", "other"):
            values = shared + rng.normal(0, 0.5, size)
            matrix = IndicatorMatrix("x", tasks, alike + alike.T + rng.normal(0, 0.3, size))
            transfer = TransferMatrix("zero-shot", tasks, tasks, values, values[None])
            several.append(Evidence(name, [matrix], transfer))
        options = {"metrics": ["spearman"], "baselines": [], "permutations": 199, "expanded": True}
        score = combine(several, seed=seed, **options).combined.get("x")  # type: ignore[arg-type]
        rejected.append(score.p <= 0.05)  # type: ignore[operator]
        covered.append(score.low <= 0 <= score.high)  # type: ignore[operator]
    assert np.mean(rejected) <= 0.08
    assert 0.90 <= np.mean(covered) <= 0.98
