"""What is lost when only the first k sources of an ordering are measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transferscope.budget import BudgetReport
from transferscope.errors import InputError
from transferscope.plots.lines import curve, numbers
from transferscope.plots.panels import beside, grid, same_scales
from transferscope.plots.references import HIGHLIGHT, reference, thin, whole_numbers
from transferscope.plots.registry import plotter
from transferscope.plots.sheet import Sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@plotter(BudgetReport, kind="budget")
def budget_plot(record: BudgetReport) -> Figure:
    """One panel for each ordering, its curve with the interval, and every baseline as a thin line in each."""
    if not record.points:
        raise InputError("there is nothing to draw: the report has no budget curves")
    sheet = Sheet()
    panels = grid(sheet, record.names, x="sources measured, k", y="regret")
    baselines = [name for name in record.names if record.curve(name)[0].kind == "baseline"]
    handles: dict[str, Any] = {}
    for axes, name in zip(panels, record.names, strict=True):
        points = record.curve(name)
        values = ([p.mean for p in points], [p.low for p in points], [p.high for p in points])
        handles["the panel's own"] = curve(axes, [p.k for p in points], *values, HIGHLIGHT)
        for i, other in enumerate(baselines):
            if other != name:
                found = record.curve(other)
                y = numbers([p.mean for p in found])
                handles[other] = thin(axes, [p.k for p in found], list(y), reference(i))
        whole_numbers(axes)
    same_scales(panels)
    beside(panels, handles)
    wide = ", widened for few targets" if record.expanded else ""
    notes = [
        "Regret: best measured value minus the best of the first k, mean over "
        f"{len(record.targets)} targets (0 is best); own prompt {record.own_prompt}; bands: 95 % "
        f"bootstrap{wide}."
    ]
    return sheet.finish(f"Regret after measuring k sources ({record.protocol})", notes)
