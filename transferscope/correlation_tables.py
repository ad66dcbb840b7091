"""A correlation report as tables, CSV, JSON and LaTeX."""

from __future__ import annotations

from dataclasses import asdict, fields

from transferscope.agreement import METRICS
from transferscope.correlation import CorrelationReport, Score
from transferscope.exporters import Table, exporter, json_text, latex_text, tabular
from transferscope.resampling import Difference

SCORE_KEYS = tuple(f.name for f in fields(Score))


def _report_long(report: CorrelationReport) -> Table:
    """One row a score, under what it was computed for: several reports can stand in one file."""
    head = (report.protocol, report.own_prompt)
    rows = tuple((*head, *(getattr(score, key) for key in SCORE_KEYS)) for score in report.scores)
    return Table(("protocol", "own_prompt", *SCORE_KEYS), rows)


def _report_tables(report: CorrelationReport) -> list[Table]:
    """For each scope and aggregate: one row an ordering, the first metric in full, of the others the mean."""
    kinds = dict.fromkeys((score.scope, score.aggregate) for score in report.scores)
    tables = [_scores_table(report, scope, aggregate) for scope, aggregate in kinds]
    if report.differences:
        keys = tuple(f.name for f in fields(Difference))
        rows = tuple(tuple(getattr(one, key) for key in keys) for one in report.differences)
        against = report.differences[0].against
        note = "p by flipping signs, two-sided, not corrected; minimum_targets: to see it 4 times in 5."
        tables.append(Table(keys, rows, f"Differences from {against}, target by target", (note,)))
    return tables


def _scores_table(report: CorrelationReport, scope: str, aggregate: str) -> Table:
    scores = [score for score in report.scores if (score.scope, score.aggregate) == (scope, aggregate)]
    metrics = list(dict.fromkeys(score.metric for score in scores))
    by_name: dict[str, dict[str, Score]] = {}
    for score in scores:
        by_name.setdefault(score.name, {})[score.metric] = score
    first = metrics[0]
    columns = ("", "kind", first, "low", "high", "p", "targets", "skipped", *metrics[1:])
    rows = tuple(
        (
            *(name, row[first].kind, row[first].mean, row[first].low, row[first].high, row[first].p),
            *(row[first].n_targets, row[first].n_skipped),
            *(row[metric].mean for metric in metrics[1:]),
        )
        for name, row in by_name.items()
    )
    what = "mean over targets" if aggregate == "per-target" else "cells of all targets pooled in one list"
    title = f"Agreement with measured transfer ({report.protocol}): {scope} sources, {what}"
    wide = ", widened for few targets" if report.expanded else ""
    notes = [
        f"Own prompt {report.own_prompt}; {len(report.targets)} targets; 95 % bootstrap over "
        f"{report.resampled}{wide}; low, high, p and targets are those of {first}.",
        "p: one-sided, of renaming the tasks; for indicators corrected by Holm over all indicators.",
        *(f"{metric}: {METRICS[metric].definition}." for metric in metrics),
    ]
    return Table(columns, rows, title, tuple(notes))


@exporter(CorrelationReport, "json")
def reportjson_text(report: CorrelationReport) -> str:
    """{"protocol", "own_prompt", "targets", "scores": [SCORE_KEYS]}, and "differences" if asked for."""
    scores = [{key: getattr(score, key) for key in SCORE_KEYS} for score in report.scores]
    head = {"protocol": report.protocol, "own_prompt": report.own_prompt, "targets": report.targets}
    more = {"differences": [asdict(one) for one in report.differences]} if report.differences else {}
    return json_text({**head, "scores": scores, **more})


tabular(CorrelationReport, _report_tables, _report_long)
exporter(CorrelationReport, "latex")(lambda report: latex_text(_report_tables(report)))
