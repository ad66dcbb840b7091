"""How well indicators and baselines predict transfer: every score with its interval, one panel a metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from transferscope.agreement import METRICS
from transferscope.combined import CombinedReport
from transferscope.correlation import CorrelationReport, Score
from transferscope.errors import InputError, suggest
from transferscope.plots.forest import Panel, Points, forest
from transferscope.plots.registry import plotter
from transferscope.plots.sheet import Sheet, legend
from transferscope.plots.style import BLUE, VERMILLION, Look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOOKS = {"indicator": Look(BLUE, "o", "-"), "baseline": Look(VERMILLION, "s", "--")}
FIRST = ("spearman", "ndcg", "regret@1", "top_1")  # shown where no metric is named


@plotter(CorrelationReport, kind="forest")
def correlation_forest(
    record: CorrelationReport,
    *,
    metrics: Sequence[str] | None = None,
    scope: str | None = None,
    aggregate: str | None = None,
) -> Figure:
    """Indicators and baselines, the best first by the first metric, with 95 % intervals.

    `metrics`: None for a few that say different things (those of the report, where it has at most four).
    `scope`, `aggregate`: None for the report's first. Raises InputError for one that the report has not.
    """
    if not record.scores:
        raise InputError("there is nothing to draw: the report has no scores")
    wanted = scope or record.scores[0].scope, aggregate or record.scores[0].aggregate
    chosen = [one for one in record.scores if (one.scope, one.aggregate) == wanted]
    if not chosen:
        known = {f"{one.scope} {one.aggregate}" for one in record.scores}
        raise InputError(
            f"the report has no scores of {' '.join(wanted)}. {suggest(' '.join(wanted), known)}"
        )
    shown = _metrics(chosen, metrics)
    how = "mean over targets" if wanted[1] == "per-target" else "cells of all targets pooled"
    wide = ", widened for few targets" if record.expanded else ""
    notes = [
        f"{wanted[0]} sources, {how}; own prompt {record.own_prompt}; {len(record.targets)} targets; bars: "
        f"95 % bootstrap over {record.resampled}{wide}.",
        *(f"{metric}: {METRICS[metric].definition}." for metric in shown if metric in METRICS),
    ]
    return _draw(chosen, shown, f"Agreement with measured transfer ({record.protocol})", notes)


@plotter(CombinedReport, kind="forest")
def combined_forest(record: CombinedReport, *, metrics: Sequence[str] | None = None) -> Figure:
    """The same over the targets of all backbones."""
    chosen = list(record.combined.scores)
    if not chosen:
        raise InputError("there is nothing to draw: the report has no scores")
    chosen = [one for one in chosen if one.scope == chosen[0].scope]
    backbones = ", ".join(record.backbones)
    notes = [f"{record.tasks} tasks on {len(record.backbones)} backbones: {backbones}.", *record.notes]
    return _draw(chosen, _metrics(chosen, metrics), "Agreement with measured transfer, all backbones", notes)


def _metrics(chosen: Sequence[Score], metrics: Sequence[str] | None) -> list[str]:
    known = list(dict.fromkeys(one.metric for one in chosen))
    for name in metrics or ():
        if name not in known:
            raise InputError(f"the report has no metric {name!r}. {suggest(name, known)}")
    few = known if len(known) <= 4 else [name for name in FIRST if name in known] or known[:4]
    return list(metrics or few)


def _draw(chosen: Sequence[Score], metrics: Sequence[str], title: str, notes: Sequence[str]) -> Figure:
    better = -1 if metrics[0] not in METRICS or METRICS[metrics[0]].higher_is_better else 1
    by_name = {(one.name, one.metric): one for one in chosen}
    first = [one for one in chosen if one.metric == metrics[0]]
    ranked = sorted(first, key=lambda one: (one.mean is None, better * (one.mean or 0.0)))
    names = [one.name for one in ranked]
    panels = []
    for metric in metrics:
        groups = []
        for kind, look in LOOKS.items():
            rows = [i for i, one in enumerate(ranked) if one.kind == kind and (one.name, metric) in by_name]
            found = [by_name[names[i], metric] for i in rows]
            ends = [one.low for one in found], [one.high for one in found]
            groups.append(
                Points(kind, rows, [one.mean for one in found], *ends, look, filled=kind == "indicator")
            )
        lower = metric in METRICS and not METRICS[metric].higher_is_better
        panels.append(Panel(f"{metric} ({'lower' if lower else 'higher'} is better)", groups, 0.0))
    sheet = Sheet()
    axes, handles = forest(sheet, names, panels)
    legend(axes[-1], list(handles.values()), list(handles))
    return sheet.finish(title, notes)
