"""A plan as a table: work by stage and task, with its sum."""

from __future__ import annotations

from transferscope.exporters import Table, tabular
from transferscope.planning import Plan, Work

COLUMNS = (
    "stage",
    "task",
    "units",
    "done",
    "passes",
    "rows",
    "TFLOP",
    "seconds",
    "weights MB",
    "activations MB",
    "statistics MB",
    "optimiser MB",
    "peak MB",
)
MB = 1e6


def _row(work: Work) -> tuple[str | int | float, ...]:
    sizes = (work.weights, work.activations, work.statistics, work.optimizer, work.memory)
    cost = (work.passes, work.rows, work.flops / 1e12, work.seconds)
    return (work.stage, work.task, work.units, work.done, *cost, *(size / MB for size in sizes))


def _tables(plan: Plan) -> list[Table]:
    total = [plan.total(name) for name in ("units", "done", "passes", "rows", "flops", "seconds", "memory")]
    units, done, passes, rows, flops, seconds, memory = total
    counted = (int(units), int(done), int(passes), int(rows), flops / 1e12, seconds)
    last = ("all", "", *counted, None, None, None, None, memory / MB)
    notes = [f"{plan.model} on {plan.device}, {plan.rate / 1e9:.4g} GFLOP/s in a matrix product", *plan.notes]
    if most := [f"{one.stage} {one.task}" for one in plan.work if one.at_most]:
        notes.append(f"at most, since it may end early: {', '.join(most)}")
    table = (*(_row(one) for one in plan.work), last)
    return [Table(COLUMNS, table, f"Plan of {plan.study}: what is left to do", tuple(notes))]


def _long(plan: Plan) -> Table:
    return Table(COLUMNS, tuple(_row(one) for one in plan.work), "", ())


tabular(Plan, _tables, _long)
