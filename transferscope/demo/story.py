"""What a newcomer reads when the demo is done: what happened, what came out, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from transferscope.correlation import CorrelationReport, Score
from transferscope.demo.run import Demo
from transferscope.exporters import Table, export

TOP = 6  # indicators shown; all are in correlation.json


def tell(demo: Demo, width: int | None = None) -> str:
    """The demo's story as plain text, with tables folded to ``width``."""
    return "\n\n".join(
        [
            _what_happened(demo),
            export(demo.summary, "table", width=width),
            _transfer(demo),
            export(demo.ranking, "table", width=width),
            _agreement(demo, width),
            _next(demo),
        ]
    )


def _what_happened(demo: Demo) -> str:
    tasks, seeds = demo.summary.tasks, demo.summary.tasks[0].seeds
    return (
        f"A small masked language model stayed frozen while {len(tasks) * seeds} soft prompts were tuned: "
        f"{len(tasks)} tasks, {seeds} seeds each.\n"
        "Then: neuron signatures extracted, tasks compared, transfer measured, sources ranked. "
        f"{demo.seconds:.0f} s."
    )


def _transfer(demo: Demo) -> str:
    means = demo.means
    return (
        "Measured zero-shot transfer (a source's prompt, unchanged, on another task with its label words):\n"
        f"  within a family  {means.same:.3f}   ({means.same_relative:.0%} of the target's own prompt, "
        f"mean of {means.same_cells} pairs)\n"
        f"  across families  {means.different:.3f}   ({means.different_relative:.0%} of the target's own "
        f"prompt, mean of {means.different_cells} pairs)"
    )


def _agreement(demo: Demo, width: int | None) -> str:
    scores = [
        score
        for score in demo.report.scores
        if (score.metric, score.scope, score.aggregate) == ("spearman", "all", "per-target")
    ]
    found = sorted((s for s in scores if s.kind == "indicator"), key=_mean, reverse=True)
    shown = found if len(found) <= 2 * TOP else found[:TOP] + found[-2:]
    baselines = sorted((s for s in scores if s.kind == "baseline"), key=_mean, reverse=True)
    table = Table(
        ("", "kind", "Spearman", "95 % low", "high", "regret@1"),
        tuple(_row(score, demo.report) for score in [*shown, *baselines]),
        "How well each indicator agreed with measured transfer (mean over targets, own prompt left out)",
        _left_out(found, shown),
    )
    return export(table, "table", width=width)


def _left_out(found: Sequence[Score], shown: Sequence[Score]) -> tuple[str, ...]:
    few = "Few tasks, wide intervals: how an indicator does on your model and tasks has to be measured there."
    if len(found) == len(shown):
        return (few,)
    return (
        f"{len(found) - len(shown)} indicators in the middle are left out here; all are in correlation.json.",
        few,
    )


def _row(score: Score, report: CorrelationReport) -> tuple[str | float | None, ...]:
    return score.name, score.kind, score.mean, score.low, score.high, report.get(score.name, "regret@1").mean


def _mean(score: Score) -> float:
    return float("-inf") if score.mean is None else score.mean


def _next(demo: Demo) -> str:
    folder = demo.folder
    another = demo.summary.tasks[-1].task
    return (
        f"Everything is in {folder}/ : study.yaml, prompts/ (PEFT folders), signatures/, indicators.csv,\n"
        "transfer.csv, correlation.json. Go on with:\n"
        f"  transferscope rank {another} --study {folder}\n"
        f"  transferscope compare --study {folder} --indicator on --format csv\n"
        "  transferscope rank MY_ADAPTER --prompts MY_ADAPTERS    (your own PEFT prompts, no data needed)\n"
        f"  for your own model and tasks: edit a copy of {folder}/study.yaml, then `transferscope run` it"
    )
