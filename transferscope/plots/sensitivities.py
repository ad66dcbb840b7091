"""Indicators by layer, rate or trials: how well each part predicts transfer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transferscope.errors import InputError
from transferscope.plots.lines import curve, level
from transferscope.plots.panels import beside, grid, same_scales
from transferscope.plots.references import HIGHLIGHT, reference, whole_numbers
from transferscope.plots.registry import plotter
from transferscope.plots.sheet import Sheet
from transferscope.plots.style import VERMILLION, Look
from transferscope.sensitivity import SensitivityReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_X = {
    "layer": "layer",
    "layer-group": "first layer of a group",
    "rate": "share of neurons, rate",
    "trials": "trials",
}


@plotter(SensitivityReport, kind="curves")
def sensitivity_plot(record: SensitivityReport) -> Figure:
    """One panel for each indicator: its curve with the interval, the whole network and baselines as lines."""
    if not record.points:
        raise InputError("there is nothing to draw: the report has no curves")
    sheet = Sheet()
    names = list(dict.fromkeys(point.name for point in record.points))
    panels = grid(sheet, names, x=_X.get(record.by, record.by), y=record.metric)
    handles: dict[str, Any] = {}
    for axes, name in zip(panels, names, strict=True):
        points = [p for p in record.curve(name) if p.x is not None]
        values = ([p.mean for p in points], [p.low for p in points], [p.high for p in points])
        handles[f"by {record.by}"] = curve(axes, [p.x for p in points], *values, HIGHLIGHT)
        for whole in (p for p in record.curve(name) if p.x is None):
            handles[whole.label] = level(axes, whole.mean, Look(VERMILLION, "", "-"), 1.4)
        for i, one in enumerate(record.baselines):
            handles[one.name] = level(axes, one.mean, reference(i))
        if record.by != "rate":
            whole_numbers(axes)
    same_scales(panels)
    beside(panels, handles)
    wide = ", widened for few targets" if record.expanded else ""
    notes = [
        f"{record.scope} sources; own prompt {record.own_prompt}; {len(record.targets)} targets; bands: 95 % "
        f"bootstrap over {record.resampled}{wide}; baselines are shown without theirs.",
        *record.notes,
    ]
    title = f"Agreement with measured transfer ({record.protocol}), indicators by {record.by}"
    return sheet.finish(title, notes)
