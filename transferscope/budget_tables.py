"""Budget curves as tables, CSV, JSON and LaTeX."""

from __future__ import annotations

from dataclasses import fields

from transferscope.budget import BudgetPoint, BudgetReport
from transferscope.exporters import Table, exporter, latex_text, show, tabular


def _budget_long(report: BudgetReport) -> Table:
    keys, head = tuple(f.name for f in fields(BudgetPoint)), (report.protocol, report.own_prompt)
    rows = tuple((*head, *(getattr(point, key) for key in keys)) for point in report.points)
    return Table(("protocol", "own_prompt", *keys), rows)


def _budget_tables(report: BudgetReport) -> list[Table]:
    """One row an ordering, one column a k, each with its interval."""
    columns = ("", "kind", *(f"k = {point.k}" for point in report.curve(report.names[0])))
    rows = tuple(
        (name, report.curve(name)[0].kind, *map(_with_interval, report.curve(name))) for name in report.names
    )
    note = (
        "Best measured value minus the best of the first k, mean over targets; own prompt "
        f"{report.own_prompt}; {len(report.targets)} targets; 95 % bootstrap in brackets."
    )
    return [Table(columns, rows, f"Regret after measuring k sources ({report.protocol})", (note,))]


def _with_interval(point: BudgetPoint) -> str:
    ends = "" if point.low is None else f" [{show(point.low)}, {show(point.high)}]"
    return show(point.mean) + ends


tabular(BudgetReport, _budget_tables, _budget_long)
exporter(BudgetReport, "latex")(lambda report: latex_text(_budget_tables(report)))
