"""Skill neurons between tasks: in which layers they lie, and how much tasks have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from transferscope.plots.lines import level
from transferscope.plots.matrices import tiled
from transferscope.plots.matrix import Cells, draw, extent
from transferscope.plots.order import arrange
from transferscope.plots.references import HIGHLIGHT
from transferscope.plots.registry import plotter
from transferscope.plots.sheet import Sheet
from transferscope.plots.style import GREY, Look
from transferscope.specificity import MEASURES, SpecificityReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _types(record: SpecificityReport) -> Mapping[str, str] | None:
    known = {task: type_ for task, type_ in zip(record.tasks, record.types, strict=True) if type_ is not None}
    return known if len(known) == len(record.tasks) else None


@plotter(SpecificityReport, kind="layers")
def layers_plot(record: SpecificityReport) -> Figure:
    """Each task's skill neurons of the whole network by layer, as shares; above it the mean over tasks."""
    order = arrange(record.tasks, None, _types(record))
    at = np.array(order.places, dtype=int)
    counts = np.asarray(record.layer_counts, np.float64)[at]  # [T, L]
    total = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    names = [str(layer) for layer in range(record.layers)]
    cells = Cells(
        shares, [record.tasks[i] for i in at], names, "share of a task's skill neurons",
        row_label="task", column_label="layer", groups=order.groups,
    )  # fmt: skip
    sheet = Sheet()
    left = extent(sheet, cells)[0]
    axes = sheet.axes(left, 0, record.layers * cells.pitch[0], 0.9)
    known = np.isfinite(shares).any(axis=1)
    mean = shares[known].mean(axis=0) if known.any() else np.full(record.layers, np.nan)
    look = HIGHLIGHT
    axes.plot(range(record.layers), mean, color=look.colour, marker=look.marker, markersize=3.5)
    level(axes, 1 / record.layers, Look(GREY, "", "--"))
    axes.set_xlim(-0.5, record.layers - 0.5)
    axes.set_xticks([])
    axes.set_ylim(0, None)
    axes.set_ylabel("mean share")
    axes.locator_params(axis="y", nbins=3)
    draw(sheet, left, 1.05, cells)
    notes = [
        f"The highest {record.rate:g} of the whole network; dashed: each layer as good as another, "
        f"1/{record.layers}.",
    ]
    return sheet.finish(f"Skill neurons by layer, {record.model}", notes)


def _pairs(record: SpecificityReport, name: str) -> Figure:
    one = record.measure(name)
    n = len(record.tasks)
    values = np.where(np.eye(n, dtype=bool), one.trials, one.values)
    order = arrange(record.tasks, one.values, _types(record))
    at = np.array(order.places, dtype=int)
    names = [record.tasks[i] for i in at]
    cells = Cells(
        values[np.ix_(at, at)], names, names, name, row_label="task", column_label="task",
        groups=order.groups, columns_grouped=True,
    )  # fmt: skip
    said = MEASURES[name]
    notes = [f"On the diagonal a task's own trials with each other (grey: one trial alone); {order.said}."]
    return tiled([cells], f"{said[0].upper()}{said[1:]}, {record.model}", notes)


@plotter(SpecificityReport, kind="spearman")
def spearman_heatmap(record: SpecificityReport) -> Figure:
    """Spearman of the predictivities of all pairs of tasks."""
    return _pairs(record, "spearman")


@plotter(SpecificityReport, kind="share")
def share_heatmap(record: SpecificityReport) -> Figure:
    """The share of skill neurons that two tasks have in common."""
    return _pairs(record, "share")
