"""A perturbation study as tables: areas by task, the curves, and drops across tasks."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from transferscope.exporters import Cell, Table, exporter, json_text, tabular
from transferscope.perturbation_curves import Area, CrossTask, CurvePoint, PerturbationReport, TaskCurves
from transferscope.perturbation_plan import BOTTOM, CONDITIONS, SKILL

COLUMNS = ("task", "neurons_of", "what", "rate", "neurons", "value", "low", "high")


def _tables(report: PerturbationReport) -> list[Table]:
    across = [] if report.across is None else _across_tables(report.across)
    return [_areas_table(report), *map(_curves_table, report.tasks), *across]


def _areas_table(report: PerturbationReport) -> Table:
    columns = (
        "task", "metric", "prompts", "unperturbed", "majority", "weak", "area", "95 % interval", "p",
        "Holm's p", "over prompts", "random as harmful", "area of bottom",
    )  # fmt: skip
    rows = tuple(_areas_row(one) for one in report.tasks)
    title = f"Skill neurons against as many random ones, {report.model}: area between the two curves"
    return Table(columns, rows, title, report.notes)


def _areas_row(one: TaskCurves) -> tuple[Cell, ...]:
    area, bottom = one.area(SKILL), one.area(BOTTOM)
    head = (one.task, one.metric, len(one.seeds), one.unperturbed, one.majority, one.weak)
    if area is None:
        return (*head, *[None] * 7)
    return (
        *head,
        area.mean,
        _interval(area.low, area.high),
        area.p,
        area.p_holm,
        _interval(area.prompts_low, area.prompts_high),
        f"{area.as_harmful} of {area.pairs}",
        None if bottom is None else bottom.mean,
    )


def _interval(low: float | None, high: float | None) -> str | None:
    return None if low is None or high is None else f"{low:.4f} .. {high:.4f}"


def _curves_table(one: TaskCurves) -> Table:
    columns = ["rate", "neurons"]
    there = [name for name in CONDITIONS if any(point.condition == name for point in one.points)]
    for name in there:
        columns += [name, f"95 % of {name}"]
    rates = sorted({point.rate for point in one.points})
    rows: list[tuple[Cell, ...]] = []
    for rate in rates:
        points = [one.point(name, rate) for name in there]
        cells: list[Cell] = [rate, points[0].neurons]
        for point in points:
            cells += [point.mean, _interval(point.low, point.high)]
        rows.append(tuple(cells))
    weak = ("its prompts are no better than the majority class",) if one.weak else ()
    return Table(tuple(columns), tuple(rows), f"{one.task}: {one.metric} by the share of neurons", weak)


def _across_tables(across: CrossTask) -> list[Table]:
    where = f"at rate {across.rate:g} (skill neurons of, down; task done, across)"
    several = {
        f"Drop {where}": across.drops,
        f"Drop beyond that of as many random neurons, {where}": across.beyond,
    }
    tables = [_grid(title, across, values.tolist()) for title, values in several.items()]
    limits: list[list[Cell]] = [
        [_interval(*map(_known, pair)) for pair in zip(*rows, strict=True)]
        for rows in zip(across.low, across.high, strict=True)
    ]
    return [*tables, _grid(f"95 % interval of the drop beyond random, {where}", across, limits)]


def _grid(title: str, across: CrossTask, values: list[list[Cell]]) -> Table:
    rows = tuple((task, *row) for task, row in zip(across.tasks, values, strict=True))
    return Table(("neurons of", *across.tasks), rows, title)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _long(report: PerturbationReport) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for one in report.tasks:
        rows += [_point_row(one.task, point) for point in one.points]
        rows += [_area_row(one.task, area) for area in one.areas]
    if report.across is not None:
        rows += _across_rows(report.across)
    return Table(COLUMNS, tuple(rows))


def _point_row(task: str, point: CurvePoint) -> tuple[Cell, ...]:
    return task, task, point.condition, point.rate, point.neurons, point.mean, point.low, point.high


def _area_row(task: str, area: Area) -> tuple[Cell, ...]:
    return task, task, f"area of {area.condition}", None, None, area.mean, area.low, area.high


def _across_rows(across: CrossTask) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    for i, skilled in enumerate(across.tasks):
        for j, performed in enumerate(across.tasks):
            head = (performed, skilled)
            rows.append((*head, "drop", across.rate, None, float(across.drops[i, j]), None, None))
            limits = _known(across.low[i, j]), _known(across.high[i, j])
            rows.append((*head, "drop beyond random", across.rate, None, float(across.beyond[i, j]), *limits))
    return rows


@exporter(PerturbationReport, "json")
def report_json(report: PerturbationReport) -> str:
    """The fields of PerturbationReport; "across" is null, or has arrays [neurons of][task done]."""
    across = None if report.across is None else {**asdict(report.across), "relative": report.across.relative}
    return json_text({**asdict(report), "across": across})


tabular(PerturbationReport, _tables, _long)
