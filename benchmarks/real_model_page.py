"""The page of `real_model.py`: every number and every sentence from the study, none by hand."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

import numpy as np

import indicators
from transferscope.budget import budget_curves
from transferscope.correlation import CorrelationReport, Score, correlate
from transferscope.evidence import Evidence
from transferscope.pipeline import Pipeline
from transferscope.sensitivity import SensitivityReport, sensitivity
from transferscope.transfer import TransferMatrix

AGAINST = "same_type"
BY_LAYER = ("on", "skill_on", "skill_jaccard", "predictivity_spearman")
BUDGET = ("prompt_cosine_mean_token", "on")
# Measuring itself, or a look at it: these read the target under the source's prompt, labels included.
NEEDS_LABELS = "label_scores"


def page(pipeline: Pipeline) -> str:
    """The page as Markdown; what the study lacks is done first."""
    pipeline.extract()
    given = pipeline.evidence()
    rules = {"over_seeds": True, "expanded": True, **given.beside}
    report = correlate(
        given.matrices,
        given.transfer,
        scopes=("all", "different-type"),
        against=AGAINST,
        metrics=["spearman", "regret@1", "top_1"],
        **rules,
    )
    layers = sensitivity(pipeline.materials(), given.transfer, "layer", names=list(BY_LAYER), **rules)
    parts = [
        _head(pipeline, given),
        _tasks(pipeline),
        _transfer(given.transfer),
        _agreement(report),
        _words(report),
        _layers(layers),
        _budget(given, rules),
        LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


def _head(pipeline: Pipeline, given: Evidence) -> str:
    settings = pipeline.settings
    tuning = settings.tuning
    about = (
        "The model is a published sentence encoder of 6 layers, 384 hidden units and 1,536 FFN neurons a "
        "layer "
        "(all-MiniLM-L6-v2), trained on for a while as a masked language model so that label words can be "
        "read. "
        f"It stayed frozen. {len(settings.tasks)} tasks, {len(settings.seeds)} seeds each: soft prompts of "
        f"{tuning.rows} rows, {tuning.steps} steps of {tuning.batch_size} examples, the checkpoint chosen "
        f"on a "
        f"share of train. Protocol: {given.transfer.protocol}, a source's prompt unchanged on the target's "
        f"dev "
        "split, read by the target's label words. Dev was seen by no choice. The command writes this page: "
        "its "
        "numbers and sentences are those of one run."
    )
    return (
        "# What predicted transfer on a real model\n\n"
        "A study from task files to this page by one command (some three hours on one CPU core; what is "
        "there is "
        "not done again):\n\n"
        "    python benchmarks/real_model.py --model MODEL --tasks TASKS --study STUDY --page "
        "docs/real-model.md"
        f"\n\n{_fold(about)}"
    )


def _tasks(pipeline: Pipeline) -> str:
    rows = []
    for name, signature in pipeline.extract().items():
        scores = signature.provenance["scores"]
        dev = np.array([one["dev"] for one in scores])
        known = pipeline.settings.tasks[name]
        rows.append(
            (
                *(name, known.type or "", signature.provenance["train_examples"]),
                *(signature.provenance["dev_examples"], len(known.words or ()), dev.mean(), dev.std(ddof=1)),
                scores[0]["majority"],
            )
        )
    columns = ("task", "type", "train", "dev", "classes", "own prompts", "sd", "majority class")
    return f"## The tasks\n\n{_table(columns, rows)}"


def _transfer(matrix: TransferMatrix) -> str:
    rows = [(s, *row) for s, row in zip(matrix.sources, matrix.values, strict=True)]
    rows += [(f"({name})", *np.nanmean(values, axis=0)) for name, values in matrix.controls.items()]
    off = np.array([[s != t for t in matrix.targets] for s in matrix.sources])
    controls = {name: np.nanmean(values, axis=0) for name, values in matrix.controls.items()}
    best = np.where(off, matrix.values, -np.inf).max(axis=0)
    said = []
    if "none" in controls:
        gains = best - controls["none"]
        named = [t for t, gain in zip(matrix.targets, gains, strict=True) if gain > 0.03]
        said.append(
            f"For {len(named)} of {len(gains)} targets some other task's prompt is more than .03 above the "
            f"model without any prompt{_listed(named)}."
        )
    about = (
        "Accuracy, mean over seeds; sources down, targets across; in brackets no prompt and random prompts."
    )
    table = _table(("source", *matrix.targets), rows)
    return f"## Measured transfer\n\n{about}\n\n{table}\n\n{_fold(' '.join(said))}"


def _agreement(report: CorrelationReport) -> str:
    names = dict.fromkeys(score.name for score in report.scores)
    ordered = sorted(names, key=lambda name: _mean(_score(report, name)), reverse=True)
    gaps = {one.name: one for one in report.differences if one.metric == "spearman"}
    rows = []
    for name in ordered:
        score, unlike = _score(report, name), _score(report, name, scope="different-type")
        gap = gaps.get(name)
        rows.append(
            (
                *(name, _family(name) or "baseline", _interval(score), _p(score), _interval(unlike)),
                report.get(name, "regret@1").mean,
                ""
                if gap is None or gap.mean is None
                else f"{gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]",
            )
        )
    columns = ("", "family", "Spearman [95 %]", "p", "unlike sources", "regret@1", f"beyond {AGAINST}")
    about = (
        f"Mean over {len(report.targets)} targets of the Spearman correlation between an indicator and "
        f"measured "
        "transfer, own prompts left out. Intervals: bootstrap over targets and seeds, widened for few "
        "targets. p: "
        "renaming the tasks, corrected by Holm over all indicators. Unlike sources: those of other types "
        "than the "
        "target's alone. Regret@1: accuracy lost by taking the first. The last column is the paired "
        "difference "
        f"from `{AGAINST}`, target by target."
    )
    return f"## Agreement with measured transfer\n\n{_fold(about)}\n\n{_table(columns, rows)}"


def _words(report: CorrelationReport) -> str:
    """What the table says, sentence by sentence."""
    found = [score for score in _scores(report, "spearman", "all") if score.kind == "indicator"]
    above = [score for score in found if score.low is not None and score.low > 0]
    sure = [score for score in found if score.p is not None and score.p < 0.05]
    unlike = [s for s in _scores(report, "spearman", "different-type") if s.kind == "indicator"]
    clear = [score.name for score in unlike if score.low is not None and score.low > 0]
    gaps = [one for one in report.differences if one.metric == "spearman" and _family(one.name)]
    better = [one.name for one in gaps if one.low is not None and one.low > 0]
    worse = [one.name for one in gaps if one.high is not None and one.high < 0]
    regrets = {score.name: score.mean or 0.0 for score in _scores(report, "regret@1", "all")}
    least = min((score.name for score in found), key=regrets.__getitem__)
    cheap = [score for score in found if _family(score.name) != NEEDS_LABELS]
    best = max(cheap, key=_mean)
    labelled = [score for score in found if _family(score.name) == NEEDS_LABELS]
    first = max(labelled, key=_mean) if labelled else None
    lines = [
        f"{len(above)} of {len(found)} indicators have an interval above 0; {len(sure)} keep p < .05 after "
        f"correction for the number of indicators{_listed(s.name for s in sure)}.",
        f"Highest without the target's data under the source's prompt: `{best.name}`, {_interval(best)}.",
    ]
    if first is not None:
        lines.append(
            f"Highest of those that read the target's labelled data under the source's prompt (a forward "
            f"pass "
            f"over it, nearly what measuring costs): `{first.name}`, {_interval(first)}."
        )
    lines += [
        f"Beyond `{AGAINST}`, target by target, with an interval above 0: {len(better)}{_listed(better)}; "
        f"below it "
        f"with an interval under 0: {len(worse)}{_listed(worse)}. These are not corrected for their number.",
        f"Among unlike sources {len(clear)} have an interval above 0{_listed(clear)}.",
        f"Taking the first source costs least with `{least}`: {regrets[least]:.3f} on average, against "
        f"{regrets['random']:.3f} for a random source and {regrets[AGAINST]:.3f} for `{AGAINST}`.",
    ]
    return "## In words\n\n" + "\n".join(_fold(f"- {line}", "  ") for line in lines)


def _layers(report: SensitivityReport) -> str:
    points = {name: report.curve(name) for name in report.names}
    labels = [point.label for point in next(iter(points.values()))]
    rows = [(name, *(_interval(point) for point in curve)) for name, curve in points.items()]
    sure = [p for curve in points.values() for p in curve if p.p is not None and p.p < 0.05]
    about = (
        "The same, of indicators computed from one layer's neurons alone (p corrected over all points: "
        f"{len(sure)} of {sum(map(len, points.values()))} below .05)."
    )
    return f"## Which layers\n\n{about}\n\n{_table(('', *labels), rows)}"


def _budget(given: Evidence, rules: dict[str, object]) -> str:
    matrices = [matrix for matrix in given.matrices if matrix.indicator in BUDGET]
    report = budget_curves(
        matrices,
        given.transfer,
        baselines=["random", AGAINST, "mean_transfer"],
        largest=5,
        adaptive=[matrix.indicator for matrix in matrices],
        **rules,  # type: ignore[arg-type]
    )
    rows = [(name, *(_interval(point, 3) for point in report.curve(name))) for name in report.names]
    columns = ("", *(f"k = {point.k}" for point in report.curve(report.names[0])))
    about = "Accuracy lost by keeping the best of the first k (gp: one after another, by a Gaussian process)."
    return f"## If k sources are measured\n\n{about}\n\n{_table(columns, rows)}"


LIMITS = """## What this does not say

One small model, one way of tuning, tasks of which half are sentiment, and dev splits of at most 400 examples,
whose own scatter is .02 to .025. The tasks share words and, in part, domains. How large a difference eight
targets could show is in the intervals. What holds here need not hold for another model:
`transferscope correlate` is for that."""


def _scores(report: CorrelationReport, metric: str, scope: str) -> list[Score]:
    return [score for score in report.scores if (score.metric, score.scope) == (metric, scope)]


def _score(report: CorrelationReport, name: str, *, scope: str = "all") -> Score:
    return report.get(name, "spearman", scope=scope)


def _mean(score: Score) -> float:
    return -np.inf if score.mean is None else score.mean


def _family(name: str) -> str:
    """The family of an indicator; empty for a baseline."""
    try:
        return indicators.get(name).family
    except indicators.UnknownIndicator:
        return ""


def _interval(score: object, digits: int = 2) -> str:
    mean, low, high = (getattr(score, key) for key in ("mean", "low", "high"))
    if mean is None:
        return "-"
    ends = "" if low is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{mean:.{digits}f}{ends}"


def _p(score: Score) -> str:
    return "" if score.p is None else f"{score.p:.3f}"


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    return f" ({', '.join(every)})" if every else ""


def _fold(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 130, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = (f"{cell:.3f}" if isinstance(cell, float | np.floating) else str(cell) for cell in row)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
