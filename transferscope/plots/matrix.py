"""A matrix as coloured cells under names, with a scale beside it; values are written where there is room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from transferscope.plots.sheet import Sheet, name_columns, name_rows, row_height
from transferscope.plots.style import DIVERGING, NORMAL, PALE, SEQUENTIAL, SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WRITTEN = 20  # at most so many rows and columns have their values written in the cells
_GAP = 0.35  # rows, between the matrix and the rows below it


@dataclass(frozen=True)
class Cells:
    """What is drawn: values [R, C] float64 (NaN: not known), `below` [B, C] under a gap, and names.

    `groups` are (name, how many rows) from the top, written beside the rows; `scaled` [R, C] bool says which
    cells set the colours' range (None: all).
    """

    values: np.ndarray
    rows: Sequence[str]
    columns: Sequence[str]
    label: str
    title: str = ""
    row_label: str = "source"
    column_label: str = "target"
    below: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    below_rows: Sequence[str] = ()
    groups: Sequence[tuple[str, int]] = ()
    columns_grouped: bool = False
    scaled: np.ndarray | None = None

    @property
    def written(self) -> bool:
        """Whether there is room for the values in the cells."""
        return max(self.values.shape) <= WRITTEN

    @property
    def pitch(self) -> tuple[float, float]:
        """Width and height of a cell in inches."""
        return (0.4, 0.25) if self.written else (row_height(), row_height())

    @property
    def height(self) -> float:
        """Of all rows, in inches."""
        extra = len(self.below_rows) + _GAP if self.below_rows else 0
        return (len(self.rows) + extra) * self.pitch[1]


def extent(sheet: Sheet, cells: Cells) -> tuple[float, float, float, float]:
    """Inches that a matrix takes beside its cells: left, above, right, below."""
    rows, columns = sheet.text_width([*cells.rows, *cells.below_rows]), sheet.text_width(cells.columns)
    scale = 0.75 + sheet.text_width([name for name, _ in cells.groups])
    under = columns if columns > cells.pitch[0] - 0.06 else 0.1
    return rows + 0.35, 0.32 if cells.title else 0.05, scale + 0.2, under + 0.4


def draw(sheet: Sheet, left: float, top: float, cells: Cells) -> Axes:
    """The matrix whose first cell has its corner at (left, top) inches; its scale stands to the right."""
    wide, (rows, columns) = cells.pitch[0], cells.values.shape
    axes = sheet.axes(left, top, columns * wide, cells.height)
    axes.set_facecolor(PALE)
    norm, colours = _scale(cells)
    x = np.arange(columns + 1) - 0.5
    mesh = axes.pcolormesh(x, np.arange(rows + 1) - 0.5, cells.values, norm=norm, cmap=colours)
    _mark(axes, cells, cells.values, mesh, 0.0)
    names = list(cells.rows)
    places = list(range(rows))
    if cells.below_rows:
        start = rows + _GAP
        y = start + np.arange(len(cells.below_rows) + 1) - 0.5
        axes.axhspan(rows - 0.5, start - 0.5, color="white", linewidth=0)
        under = axes.pcolormesh(x, y, cells.below, norm=norm, cmap=colours)
        _mark(axes, cells, cells.below, under, start)
        names += list(cells.below_rows)
        places += [start + i for i in range(len(cells.below_rows))]
    axes.set_ylim(places[-1] + 0.5, -0.5)
    name_rows(axes, names)
    axes.set_yticks(places, labels=names)
    name_columns(sheet, axes, cells.columns, wide)
    axes.set_ylabel(cells.row_label)
    axes.set_xlabel(cells.column_label)
    axes.set_title(cells.title, fontsize=NORMAL, loc="left")
    for spine in axes.spines.values():
        spine.set_visible(False)
    _groups(axes, cells)
    _bar(sheet, left + columns * wide, top, cells, mesh)
    return axes


def _scale(cells: Cells) -> tuple[Any, str]:
    """Values of both signs diverge from 0; others go from the least to the largest."""
    from matplotlib.colors import CenteredNorm, Normalize

    counted = cells.values if cells.scaled is None else cells.values[cells.scaled]
    known = np.concatenate([counted.ravel(), cells.below.ravel()])
    known = known[np.isfinite(known)]
    if not len(known):
        known = np.array([0.0, 1.0])
    low, high = float(known.min()), float(known.max())
    if low < 0 < high:
        return CenteredNorm(0.0, max(-low, high)), DIVERGING
    return Normalize(low, high if high > low else low + 1e-9 + abs(low) * 1e-9), SEQUENTIAL


def _mark(axes: Axes, cells: Cells, values: np.ndarray, mesh: Any, start: float) -> None:
    """The values in the cells; where there is no room, a dash in each negative cell among others."""
    dark = _dark(mesh)
    if cells.written:
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                ink = "white" if dark[i, j] else "black"
                text = written(float(value))
                axes.text(j, start + i, text, ha="center", va="center", fontsize=SMALL - 0.5, color=ink)
    elif (values < 0).any() and (values > 0).any():
        for ink, chosen in (("white", dark), ("black", ~dark)):
            i, j = np.nonzero((values < 0) & chosen)
            axes.scatter(j, i + start, marker="_", s=9, linewidths=0.7, color=ink)


def written(value: float) -> str:
    """A value in a cell: about three digits."""
    size = abs(value)
    if size and not 0.0005 <= size < 999.5:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    if 0 < size < 0.005:
        return f"{value:.3f}"
    return f"{value:.{2 if size < 9.995 else 1 if size < 99.95 else 0}f}"


def _dark(mesh: Any) -> np.ndarray:
    """Which cells are dark, by their luminance (ITU-R BT.709)."""
    values = mesh.get_array()
    colours = mesh.to_rgba(values)[..., :3]
    return np.asarray(colours @ np.array([0.2126, 0.7152, 0.0722]) < 0.45).reshape(values.shape)


def _groups(axes: Axes, cells: Cells) -> None:
    """White lines between groups, and their names to the right of the rows."""
    start = 0
    for name, count in cells.groups:
        if start:
            axes.axhline(start - 0.5, color="white", linewidth=2.5)
            if cells.columns_grouped:
                axes.axvline(start - 0.5, color="white", linewidth=2.5)
        place = (len(cells.columns) - 0.5, start + (count - 1) / 2)
        axes.annotate(
            name, place, (5, 0), textcoords="offset points", va="center", fontsize=SMALL, style="italic"
        )
        start += count


def _bar(sheet: Sheet, left: float, top: float, cells: Cells, mesh: Any) -> None:
    beside = sheet.text_width([name for name, _ in cells.groups])
    height = min(cells.height, 2.2)
    axes = sheet.axes(left + beside + (0.3 if beside else 0.15), top, 0.14, height)
    bar = sheet.figure.colorbar(mesh, cax=axes, label=cells.label)
    bar.outline.set_visible(False)
    bar.ax.locator_params(nbins=5)
