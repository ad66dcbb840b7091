"""Heatmaps of indicators and of measured transfer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from transferscope.comparison import IndicatorMatrix
from transferscope.errors import InputError
from transferscope.plots.matrix import Cells, draw, extent
from transferscope.plots.order import arrange
from transferscope.plots.registry import plotter
from transferscope.plots.sheet import Sheet
from transferscope.transfer import TransferMatrix
from transferscope.transfer_tables import TransferReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SPAN = "colours span the pairs of different tasks"
_UNKNOWN = "grey: not known"


@plotter(IndicatorMatrix, kind="heatmap")
def indicator_heatmap(
    record: IndicatorMatrix | Sequence[IndicatorMatrix], *, types: Mapping[str, str] | None = None
) -> Figure:
    """One panel for each indicator; tasks by type where `types` knows all of them, else by clusters."""
    several = [record] if isinstance(record, IndicatorMatrix) else list(record)
    cells, said = [], ""
    for one in several:
        order = arrange(one.tasks, one.values, types)
        at = np.array(order.places, dtype=int)
        names = [one.tasks[i] for i in at]
        title = one.indicator if len(several) > 1 else ""
        values = np.asarray(one.values, np.float64)[np.ix_(at, at)]
        others = ~np.eye(len(names), dtype=bool)
        cells.append(
            Cells(
                values, names, names, one.indicator, title,
                groups=order.groups, columns_grouped=True, scaled=others,
            )
        )  # fmt: skip
        said = order.said
    title = "Indicators of transfer" if len(several) > 1 else f"Indicator {several[0].indicator}"
    notes = [f"Larger: closer. Rows are sources; {said}; {_SPAN}."]
    return tiled(cells, title, notes)


@plotter(TransferMatrix, TransferReport, kind="heatmap")
def transfer_heatmap(
    record: TransferMatrix | TransferReport, *, types: Mapping[str, str] | None = None
) -> Figure:
    """Measured values with the controls (means over their draws) as rows below."""
    matrix = _matrix(record)
    metrics = sorted(set((matrix.metrics or {}).values()))
    label = metrics[0] if len(metrics) == 1 else "value"
    below = [np.nanmean(values, axis=0) for values in matrix.controls.values()]
    names = [f"({name})" for name in matrix.controls]
    return _transfer(matrix, matrix.values, label, "Measured transfer", types, below, names)


@plotter(TransferMatrix, TransferReport, kind="relative")
def relative_heatmap(
    record: TransferMatrix | TransferReport, *, types: Mapping[str, str] | None = None
) -> Figure:
    """Measured values divided by what the target's own prompt reaches. InputError: none is known."""
    matrix = _matrix(record)
    if not np.isfinite(matrix.relative).any():
        raise InputError("no relative values: no target's own prompt has a positive measured value")
    return _transfer(
        matrix, matrix.relative, "value / own prompt's", "Transfer relative to the own prompt", types
    )


def _matrix(record: TransferMatrix | TransferReport) -> TransferMatrix:
    return record.matrix if isinstance(record, TransferReport) else record


def _transfer(
    matrix: TransferMatrix,
    values: np.ndarray,
    label: str,
    title: str,
    types: Mapping[str, str] | None,
    below: Sequence[np.ndarray] = (),
    below_rows: Sequence[str] = (),
) -> Figure:
    square = matrix.sources == matrix.targets
    rows = arrange(matrix.sources, values if square else None, types)
    columns = rows if square else arrange(matrix.targets, None, types)
    down, across = (np.array(order.places, dtype=int) for order in (rows, columns))
    cells = Cells(
        np.asarray(values, np.float64)[np.ix_(down, across)],
        [matrix.sources[i] for i in down],
        [matrix.targets[i] for i in across],
        label,
        below=np.array([row[across] for row in below]).reshape(len(below), len(across)),
        below_rows=below_rows,
        groups=rows.groups,
        columns_grouped=square,
    )
    seeds = f"; mean over {len(matrix.seeds)} seeds" if len(matrix.seeds) > 1 else ""
    own = "on the diagonal the target's own prompt; " if square else ""
    unknown = "" if np.isfinite(values).all() else f"; {_UNKNOWN}"
    controls = "; below the gap: controls, the mean of their draws" if below_rows else ""
    note = f"Rows are sources, columns targets; {own}{rows.said}{seeds}{controls}{unknown}."
    return tiled([cells], f"{title} ({matrix.protocol})", [note])


def tiled(cells: Sequence[Cells], title: str, notes: Sequence[str]) -> Figure:
    """Several matrices on one sheet, in rows of about as many as there are rows."""
    sheet = Sheet()
    spaces = [extent(sheet, one) for one in cells]
    sizes = [
        (space[0] + one.values.shape[1] * one.pitch[0] + space[2], space[1] + one.height + space[3])
        for one, space in zip(cells, spaces, strict=True)
    ]
    wide, high = (max(size[k] for size in sizes) for k in (0, 1))
    columns = max(1, math.ceil(math.sqrt(len(cells))))
    for i, (one, space) in enumerate(zip(cells, spaces, strict=True)):
        row, column = divmod(i, columns)
        draw(sheet, column * wide + space[0], row * high + space[1], one)
    return sheet.finish(title, notes)
