"""Perturbation curves: skill neurons against random ones and those of the lowest predictivity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from transferscope.errors import InputError
from transferscope.perturbation_curves import PerturbationReport
from transferscope.perturbation_plan import CONDITIONS
from transferscope.plots.lines import curve, level
from transferscope.plots.matrices import tiled
from transferscope.plots.matrix import Cells
from transferscope.plots.order import arrange
from transferscope.plots.panels import beside, grid, same_scales
from transferscope.plots.registry import plotter
from transferscope.plots.sheet import Sheet
from transferscope.plots.style import BLUE, GREEN, GREY, ORANGE, Look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOOKS = dict(
    zip(CONDITIONS, (Look(BLUE, "o", "-"), Look(ORANGE, "s", "--"), Look(GREEN, "^", "-.")), strict=True)
)
_MAJORITY = Look(GREY, "", ":")


@plotter(PerturbationReport, kind="curves")
def perturbation_plot(record: PerturbationReport) -> Figure:
    """One panel for each task: the value by rate under each condition, with 95 % intervals."""
    if not record.tasks:
        raise InputError("there is nothing to draw: the report has no task")
    sheet = Sheet()
    metrics = sorted({one.metric for one in record.tasks})
    y = metrics[0] if len(metrics) == 1 else "value"
    panels = grid(sheet, [one.task for one in record.tasks], x="share of neurons perturbed", y=y)
    handles: dict[str, Any] = {}
    for axes, one in zip(panels, record.tasks, strict=True):
        for name, look in _LOOKS.items():
            points = sorted((p for p in one.points if p.condition == name), key=lambda p: p.rate)
            if points:
                values = ([p.mean for p in points], [p.low for p in points], [p.high for p in points])
                handles[f"{name} neurons"] = curve(axes, [p.rate for p in points], *values, look)
        if one.majority is not None:
            handles["majority class"] = level(axes, one.majority, _MAJORITY)
    same_scales(panels, y=len(metrics) == 1)
    beside(panels, handles)
    mode = record.settings.mode
    if mode == "noise":
        own = " of each neuron's own" if record.settings.unit == "neuron" else ""
        mode += f", sd {record.settings.sd:g}{own}"
    weak = [one.task for one in record.tasks if one.weak]
    notes = [f"Bands: 95 % intervals; edited rows: {record.settings.rows}."]
    if weak:
        notes.append(f"No better than the majority class before anything is perturbed: {', '.join(weak)}.")
    return sheet.finish(f"Perturbed neurons ({mode}), {record.model}", notes)


@plotter(PerturbationReport, kind="across")
def across_plot(record: PerturbationReport) -> Figure:
    """What each task's skill neurons cost every task, beyond random ones. InputError: it was not measured."""
    across = record.across
    if across is None:
        raise InputError("nothing was measured across tasks: perturb --across does")
    order = arrange(across.tasks, None, None)
    names = [across.tasks[i] for i in order.places]
    cells = Cells(
        np.asarray(across.beyond, np.float64), names, names, "drop beyond random neurons'",
        row_label="skill neurons of", column_label="task",
    )  # fmt: skip
    note = "Positive: these skill neurons cost the task more than as many random neurons of the same layers."
    return tiled([cells], f"Skill neurons across tasks, rate {across.rate:g}, {record.model}", [note])
