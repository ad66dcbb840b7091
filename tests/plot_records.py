"""Records of made-up numbers for the tests of the plots: with any number of tasks, all names different."""

from __future__ import annotations

import numpy as np

from transferscope.agreement import METRICS
from transferscope.baselines import Baseline
from transferscope.budget import BudgetPoint, BudgetReport
from transferscope.choosing import ChoiceReport, choose, problem
from transferscope.comparison import IndicatorMatrix
from transferscope.correlation import CorrelationReport, Score
from transferscope.evidence import Evidence, Known
from transferscope.graph import TaskGraph, build
from transferscope.graph_tables import GraphReport, report
from transferscope.initialisation import Curve, InitComparison, InitRun, StartResult
from transferscope.neuron_view import ClassActivation, Histogram, NeuronCard, NeuronView
from transferscope.ordering import RankedSource, Ranking
from transferscope.origin_perturbation import Effect, Plan
from transferscope.origin_report import BY_WORDS, SKILL, OriginReport, Overlap, Performance
from transferscope.perturbation_curves import CrossTask, CurvePoint, PerturbationReport, TaskCurves
from transferscope.perturbation_plan import CONDITIONS, PerturbationSettings
from transferscope.projection_report import ProjectedTask, ProjectionReport, Spread
from transferscope.prompt_rows import RowResult, RowsReport, Settling
from transferscope.pruning_speed import Size
from transferscope.pruning_study import PrunedScore, PrunedShare, PruneSettings, PruningReport
from transferscope.resampling import Difference
from transferscope.sensitivity import SensitivityPoint, SensitivityReport
from transferscope.specificity import PairMeasure, SpecificityReport
from transferscope.transfer import TransferMatrix

TYPES = ("sentiment", "inference", "paraphrase", "ethics")
INDICATORS = (
    "on",
    "prompt_cosine",
    "prompt_cosine_mean_token",
    "skill_overlap",
    "predictivity_spearman",
    "cka_linear",
)
BASELINES = ("random", "same_type", "own_performance", "mean_transfer")


def names(n: int) -> tuple[str, ...]:
    """Names of one letter and of forty, with characters that a drawing library could take for its own."""
    odd = ("x", "_hidden", "cost_$5_or_$6", "naïve|<b>", "a_very_long_name_of_a_task_from_a_benchmark")
    return (*odd[:n], *(f"task_{i:02d}" + "_more" * (i % 4) for i in range(len(odd), n)))


def types(n: int) -> dict[str, str]:
    return {name: TYPES[i % 4] for i, name in enumerate(names(n))}


def indicator(n: int, name: str = "on", seed: int = 0) -> IndicatorMatrix:
    """Tasks of one type are closer; some values are negative."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(n) % 4
    values = 0.45 * (kinds[:, None] == kinds) + rng.normal(0.0, 0.2, (n, n))
    values = (values + values.T) / 2
    np.fill_diagonal(values, 1.0)
    return IndicatorMatrix(name, names(n), values)


def transfer(n: int, seed: int = 1) -> TransferMatrix:
    rng = np.random.default_rng(seed)
    values = np.clip(0.55 + 0.2 * indicator(n).values + rng.normal(0.0, 0.04, (2, n, n)), 0.0, 1.0)
    controls = {"none": rng.uniform(0.4, 0.5, (1, n)), "random": rng.uniform(0.4, 0.5, (3, n))}
    metrics = dict.fromkeys(names(n), "accuracy")
    mean = values.mean(axis=0)
    return TransferMatrix("zero-shot", names(n), names(n), mean, values, (0, 1), metrics, controls)


def evidence(n: int) -> Evidence:
    return Evidence("roberta-base", [indicator(n)], transfer(n), Known(types=types(n)))


def ranking(n: int) -> Ranking:
    """A target and n sources: some tie, some are tied by evidence, three are measured."""
    sources = tuple(
        RankedSource(
            i + 1, name, 0.9 - 0.8 * i / n, 0.85 - 0.8 * i / n, 0.95 - 0.8 * i / n, i < 3,
            0.8 - 0.05 * i if i < 3 else None, TYPES[i % 4], tied_by_evidence=i < 2 or None,
        )
        for i, name in enumerate(names(n))
    )  # fmt: skip
    baselines = tuple(Baseline(name, "", None, None, 0.1, 0.5 + 0.05 * i) for i, name in enumerate(BASELINES))
    return Ranking("the_target", "roberta-base", "on", sources, baselines, ())


def correlation(n: int) -> CorrelationReport:
    """`n` indicators and the four baselines, by all metrics."""
    rng = np.random.default_rng(2)
    scores = []
    for i in range(n + len(BASELINES)):
        kind = "indicator" if i < n else "baseline"
        name = (
            (f"indicator_{i:02d}" if i >= len(INDICATORS) else INDICATORS[i]) if i < n else BASELINES[i - n]
        )
        for metric in METRICS:
            mean = float(rng.uniform(-0.1, 0.6))
            found = (mean, mean - 0.1, mean + 0.15, 0.04)
            scores.append(Score(name, kind, "all", "per-target", metric, *found, 13, 0))
    return CorrelationReport("zero-shot", "excluded", names(13), tuple(scores))


def budget(n: int) -> BudgetReport:
    points = []
    for i, name in enumerate((*(f"indicator_{j}" for j in range(n)), *BASELINES)):
        kind = "baseline" if name in BASELINES else "indicator"
        for k in range(1, 11):
            mean = (0.2 + 0.01 * i) / k
            points.append(BudgetPoint(name, kind, k, mean, mean * 0.7, mean * 1.4, 13))
    return BudgetReport("zero-shot", "excluded", names(13), tuple(points))


def sensitivity(n: int) -> SensitivityReport:
    """`n` indicators by 12 layers."""
    points = []
    for i in range(n):
        name = f"indicator_{i:02d}"
        for layer in range(12):
            mean = 0.1 + 0.03 * layer - 0.005 * i
            points.append(
                SensitivityPoint(
                    name, "indicator", float(layer), str(layer), mean, mean - 0.1, mean + 0.1, 0.1, 13, 0
                )
            )
        points.append(SensitivityPoint(name, "indicator", None, "whole network", 0.35, 0.2, 0.5, 0.01, 13, 0))
    baselines = tuple(
        SensitivityPoint(name, "baseline", None, "", 0.1 * i, 0.0, 0.5, None, 13, 0)
        for i, name in enumerate(BASELINES)
    )
    return SensitivityReport(
        "layer", "zero-shot", "spearman", "excluded", "all", names(13), tuple(points), baselines
    )


def perturbation(n: int) -> PerturbationReport:
    rates = (0.0, 0.05, 0.1, 0.15, 0.2)
    slopes = dict(zip(CONDITIONS, (1.8, 0.5, 0.1), strict=True))
    tasks = []
    for i, name in enumerate(names(n)):
        points = tuple(
            CurvePoint(condition, rate, int(1000 * rate), mean, mean - 0.03, mean + 0.03, 10)
            for condition, slope in slopes.items()
            for rate, mean in ((rate, 0.9 - slope * rate) for rate in rates)
        )
        tasks.append(TaskCurves(name, "accuracy", 200, (0, 1), 0.9, 0.5, i == 1, points, ()))
    beyond = np.random.default_rng(3).normal(0.05, 0.1, (n, n))
    across = CrossTask(0.2, names(n), beyond, beyond * 0, beyond, beyond - 0.1, beyond + 0.1)
    return PerturbationReport("roberta-base", PerturbationSettings(), tuple(tasks), across)


def specificity(n: int) -> SpecificityReport:
    rng = np.random.default_rng(4)
    counts = rng.integers(0, 50, (n, 12)) + np.arange(12) * 10
    values = indicator(n).values
    own = np.where(np.eye(n, dtype=bool), 0.8, values)
    measures = tuple(
        PairMeasure(name, values, values * 0, own, values * 0)
        for name in ("spearman", "spearman_layers", "share", "jaccard")
    )
    kinds = tuple(types(n).values())
    return SpecificityReport(
        "roberta-base", names(n), kinds, (2,) * n, 12, 3072, 0.2, "layer", measures,
        np.stack([values] * 12), counts, counts.sum(axis=1) / 12, (), (),
    )  # fmt: skip


def rows(n: int) -> RowsReport:
    """A prompt of n rows."""
    found = tuple(RowResult(i, 0.6, 0.7 + 0.2 * i / n, 0.3 + 0.5 * i / n, 0.2, 1 / n) for i in range(n))
    settling = []
    for kind in ("first rows", "random rows", "trials"):
        for size in range(1, 6):
            share = 0.3 + 0.14 * size
            settling.append(Settling(kind, size, share, max(share - 0.1, 0), min(share + 0.1, 1), 0.2, 10))
    best = np.random.default_rng(5).uniform(0.5, 1.0, (12, n))
    return RowsReport(
        "sst2", (0, 1, 2), 0.2, "layer", tuple(range(12)), found, best, tuple(settling), 0.9, {"trials": 5}
    )


def neurons(n: int, histogram: bool = True) -> NeuronView:
    labels = ("negative", "positive", "_neither")
    edges = tuple(float(x) for x in np.linspace(-0.2, 1.8, 11))
    counts = tuple(tuple((i * 3 + j * (k + 1)) % 17 for j in range(10)) for k, i in enumerate((1, 2, 3)))
    classes = tuple(ClassActivation(label, 50, 0.2 + 0.4 * i, 0.1) for i, label in enumerate(labels))
    cards = tuple(
        NeuronCard(
            3 + i % 9, 117 + i, 0.93, 0.01, (0.93,), i + 1, 4, 0.5, 0.93, "positive", classes, (), (), (),
            Histogram(edges, labels, counts) if histogram else None,
        )
        for i in range(n)
    )  # fmt: skip
    return NeuronView("sst2", "roberta-base", labels, (0, 1), 0, 150, 0.4, cards)


def starts(n: int) -> InitComparison:
    """From scratch and from n sources, two seeds each."""
    kinds = ("scratch", *names(n))
    runs, results = [], []
    for i, start in enumerate(kinds):
        for seed in (0, 1):
            values = tuple(0.5 + (0.3 + 0.1 * seed) * (1 - np.exp(-(step + i) / 3)) for step in range(8))
            curve = Curve(tuple(range(0, 80, 10)), tuple(map(float, values)))
            runs.append(InitRun(start, 0.03, seed, curve, values[-1], 0.3, 0.8))
        results.append(StartResult(start, 0.03, 2, 0.8, 0.8, 0.01, None, 40.0, 1.5, 30.0, 2.0, False))
    return InitComparison("the_target", "accuracy", None, 80, tuple(results), tuple(runs), ())


def task_graph(n: int) -> TaskGraph:
    return build([indicator(n)], [transfer(n)], types=types(n))


def graph_report(n: int) -> GraphReport:
    return report([task_graph(n).nearest(2)], with_groups=True)


def choice(n: int) -> ChoiceReport:
    return choose(problem(transfer(n)), 4, method="greedy")


def _pruned(what: str, value: float) -> PrunedScore:
    return PrunedScore(what, value, value - 0.04, value + 0.03, (value - 0.02, value + 0.02))


def pruning(n: int) -> PruningReport:
    """A model pruned at n shares, the second of them its own."""
    shares = [(i + 1) / (n + 1) for i in range(n)]
    curve = tuple(
        PrunedShare(
            1 - gone, gone,
            (_pruned("after", 0.9 - 0.2 * gone), _pruned("random neurons", 0.9 - 0.4 * gone)),
        )
        for gone in shares
    )  # fmt: skip
    scores = (_pruned("before", 0.9), *curve[1].scores, _pruned("re-tuned", 0.88))
    settings = PruneSettings(keep=curve[1].keep, shares=tuple(one.keep for one in curve))
    size = Size(10, 5, 40)
    return PruningReport(
        "sst2", "roberta-base", "accuracy", settings, (0, 1), 3072, (3072,) * 3 + (61,) * 9, size, size, 0.0,
        scores, 0.5, (), "cpu", 1, "", curve,
    )  # fmt: skip


def origin(n: int) -> OriginReport:
    """n ways of tuning by two ways of choosing neurons, at three rates."""
    plan = Plan((0.05, 0.1, 0.2), 5, 0.1)
    effects = []
    for i, subject in enumerate(names(n)):
        for j, neurons in enumerate((SKILL, BY_WORDS) if i == 0 else (SKILL,)):
            for rate in plan.rates:
                mean = rate * (1 - j) - 0.01 * (i % 5)
                found = Difference(neurons, "random", "drop", mean, mean - 0.02, mean + 0.03, 0.1, True, 5, 9)
                effects.append(Effect(subject, neurons, rate, 10, 0.9, mean + 0.1, 0.1, found, ()))
    performances = tuple(
        Performance(name, (0, 1), (0.9, 0.9), 0.9, 0.5, i == 1, 1000) for i, name in enumerate(names(n))
    )
    overlaps = tuple(
        Overlap(name, rate, 100, round(100 * rate) + 40 * k, 100 * rate, 0.3, (0.4, None, 0.2 - 0.3 * k))
        for k, name in enumerate((BY_WORDS, "found with random prompts"))
        for rate in plan.rates
    )
    return OriginReport(
        "sst2", "roberta-base", "accuracy", 0.5, plan, performances, tuple(effects), (), overlaps
    )


def projection(n: int) -> ProjectionReport:
    """n tasks, every third one held out; those of every fifth have no prompt of the target's own."""
    tasks = []
    for i, name in enumerate(names(n)):
        values = (0.6 + 0.2 * i / n, 0.7 + 0.2 * i / n)
        own = Spread.of(()) if i % 5 == 4 else Spread.of((0.9, 0.92))
        mean = None if i % 5 == 4 else 0.91
        random = Spread.of((0.45, 0.5, 0.58))
        tasks.append(
            ProjectedTask(
                name, i % 3 == 0, "accuracy", (0, 1), values, sum(values) / 2, mean, None, 0.51, 0.5, 0.55,
                Spread.of(values), own, random,
            )
        )  # fmt: skip
    return ProjectionReport(
        "roberta-base", "t5-small", "linear", True, "distance", "0" * 32, (), tuple(tasks), None, None
    )
