"""The evidence of several backbones as text: one row an ordering, all backbones together, then each alone."""

from __future__ import annotations

from dataclasses import asdict, fields

from transferscope.agreement import METRICS
from transferscope.combined import CombinedReport
from transferscope.correlation import CorrelationReport
from transferscope.correlation_tables import SCORE_KEYS
from transferscope.exporters import Cell, Table, exporter, json_text, latex_text, tabular
from transferscope.resampling import Difference

ALL = "all"


def _tables(report: CombinedReport) -> list[Table]:
    """For each scope the first metric in full, of the others the means; then differences, if any."""
    scopes = dict.fromkeys(score.scope for score in report.combined.scores)
    tables = [table for scope in scopes for table in _of_scope(report, scope)]
    if report.combined.differences:
        keys = tuple(field.name for field in fields(Difference))
        rows = tuple(tuple(getattr(one, key) for key in keys) for one in report.combined.differences)
        title = f"Differences from {report.combined.differences[0].against}, target by target"
        note = "p by flipping signs, of a task's targets together; two-sided, not corrected."
        tables.append(Table(keys, rows, title, (note,)))
    return tables


def _of_scope(report: CombinedReport, scope: str) -> list[Table]:
    combined = report.combined
    scores = [score for score in combined.scores if score.scope == scope]
    first, *others = dict.fromkeys(score.metric for score in scores)
    columns = ("", "kind", first, "low", "high", "p", "targets", "skipped", *report.backbones)
    rows: list[tuple[Cell, ...]] = []
    for score in scores:
        if score.metric == first:
            alone = (own.get(score.name, first, scope=scope).mean for own in report.alone)
            shown = (score.mean, score.low, score.high, score.p, score.n_targets, score.n_skipped)
            rows.append((score.name, score.kind, *shown, *alone))
    title = (
        f"Agreement with measured transfer ({combined.protocol}) over {len(report.backbones)} backbones: "
        f"{scope} sources, mean over targets"
    )
    notes = (*_notes(report), f"{first}: {METRICS[first].definition}.")
    tables = [Table(columns, tuple(rows), title, notes)]
    if others:
        names = dict.fromkeys(score.name for score in scores)
        means = tuple((name, *(combined.get(name, m, scope=scope).mean for m in others)) for name in names)
        definitions = tuple(f"{metric}: {METRICS[metric].definition}." for metric in others)
        more = f"Other metrics over all backbones: {scope} sources, mean over targets"
        tables.append(Table(("", *others), means, more, definitions))
    return tables


def _notes(report: CombinedReport) -> list[str]:
    combined = report.combined
    wide = ", widened for few tasks" if combined.expanded else ""
    counts = ", ".join(
        f"{name} {len(own.targets)}" for name, own in zip(report.backbones, report.alone, strict=True)
    )
    return [
        f"Own prompt {combined.own_prompt}; {len(combined.targets)} targets ({counts}) of {report.tasks} "
        f"tasks; 95 % bootstrap over tasks with all their {combined.resampled}{wide}.",
        "p: one-sided, of renaming the tasks on all backbones alike; for indicators corrected by Holm over "
        "all indicators.",
        "The last columns are the means of each backbone alone.",
        *report.notes,
    ]


def _reports(report: CombinedReport) -> list[tuple[str, CorrelationReport]]:
    return [(ALL, report.combined), *zip(report.backbones, report.alone, strict=True)]


def _long(report: CombinedReport) -> Table:
    """One row a score; the backbone is "all" where the targets of all are taken together."""
    rows = tuple(
        (one.protocol, one.own_prompt, backbone, *(getattr(score, key) for key in SCORE_KEYS))
        for backbone, one in _reports(report)
        for score in one.scores
    )
    return Table(("protocol", "own_prompt", "backbone", *SCORE_KEYS), rows)


@exporter(CombinedReport, "json")
def report_json(report: CombinedReport) -> str:
    """{"protocol", "own_prompt", "backbones", "tasks", "targets", "scores", "alone", "notes"}.

    "scores" are those over all backbones, "alone" and "targets" by backbone; "differences" if asked for.
    """
    combined = report.combined
    more = {"differences": [asdict(one) for one in combined.differences]} if combined.differences else {}
    return json_text(
        {
            "protocol": combined.protocol,
            "own_prompt": combined.own_prompt,
            "backbones": report.backbones,
            "tasks": report.tasks,
            "targets": {name: own.targets for name, own in _reports(report)[1:]},
            "scores": _scores(combined),
            "alone": {name: _scores(own) for name, own in _reports(report)[1:]},
            **more,
            "notes": report.notes,
        }
    )


def _scores(report: CorrelationReport) -> list[dict[str, Cell]]:
    return [{key: getattr(score, key) for key in SCORE_KEYS} for score in report.scores]


tabular(CombinedReport, _tables, _long)
exporter(CombinedReport, "latex")(lambda report: latex_text(_tables(report)))
