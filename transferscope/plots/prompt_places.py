"""Where on the prompt a task shows, and how many rows and trials settle its skill neurons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from transferscope.plots.lines import curve, level
from transferscope.plots.matrix import Cells, draw, extent
from transferscope.plots.references import thin, whole_numbers
from transferscope.plots.registry import plotter
from transferscope.plots.sheet import Sheet, legend
from transferscope.plots.style import BLACK, GREY, NORMAL, Look, look
from transferscope.prompt_rows import RowsReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDE, _HIGH, _DOWN = 3.4, 1.7, 2.5


@plotter(RowsReport, kind="rows")
def rows_plot(record: RowsReport) -> Figure:
    """Predictivity and overlap by row, how the overlap settles, and the best of each layer by row."""
    sheet = Sheet()
    upper, lower = sheet.axes(0, 0, _WIDE, _HIGH), sheet.axes(0, _DOWN, _WIDE, _HIGH)
    _predictivity(upper, record)
    _shares(lower, record)
    settling = sheet.axes(0, 2 * _DOWN, _WIDE, _HIGH)
    _settling(settling, record)
    values = np.asarray(record.best_by_layer, np.float64)
    if values.size:
        cells = Cells(
            values, [str(layer) for layer in record.layers], [str(row) for row in range(values.shape[1])],
            "predictivity", "Skill neurons that a row finds", row_label="layer", column_label="prompt row",
        )  # fmt: skip
        draw(sheet, _WIDE + 2.6 + extent(sheet, cells)[0], 0, cells)
    title = f"Where on the prompt: {record.task}, {len(record.seeds)} trials, rate {record.rate:g}"
    return sheet.finish(title, record.notes)


def _head(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=NORMAL, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.locator_params(axis="y", nbins=5)
    whole_numbers(axes)


def _predictivity(axes: Axes, record: RowsReport) -> None:
    x, nothing = [r.row for r in record.rows], [None] * len(record.rows)
    handles = [
        curve(axes, x, [r.best for r in record.rows], nothing, nothing, look(0)),
        curve(axes, x, [r.mean for r in record.rows], nothing, nothing, look(1)),
    ]
    _head(axes, "Predictivity at one row alone", "prompt row", "predictivity")
    legend(axes, handles, ["its skill neurons", "all neurons"])


def _shares(axes: Axes, record: RowsReport) -> None:
    x, nothing = [r.row for r in record.rows], [None] * len(record.rows)
    handles = [
        curve(axes, x, [r.share for r in record.rows], nothing, nothing, look(0)),
        curve(axes, x, [r.first_for for r in record.rows], nothing, nothing, look(1)),
        thin(axes, x, [r.chance for r in record.rows], Look(GREY, "", ":")),
    ]
    _head(axes, "Skill neurons of all rows", "prompt row", "share")
    axes.set_ylim(-0.03, 1.03)
    legend(axes, handles, ["found by this row alone", "this row is their best", "found by chance"])


def _settling(axes: Axes, record: RowsReport) -> None:
    handles: dict[str, Any] = {}
    for i, kind in enumerate(dict.fromkeys(one.kind for one in record.settling)):
        found = [one for one in record.settling if one.kind == kind]
        ends = [one.low for one in found], [one.high for one in found]
        x = [one.size for one in found]
        handles[kind] = curve(axes, x, [one.share for one in found], *ends, look(i))
        chance = thin(axes, x, [one.chance for one in found], Look(GREY, "", ":"))
    if record.settling:
        handles["chance"] = chance
    handles[f"limit {record.limit:g}"] = level(axes, record.limit, Look(BLACK, "", "--"))
    _head(axes, "Overlap with all rows or trials", "rows or trials", "share in common")
    axes.set_ylim(-0.03, 1.03)
    legend(axes, list(handles.values()), list(handles))
