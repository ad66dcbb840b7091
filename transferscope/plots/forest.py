"""Names down the side, one value with its interval in each row, one panel for each measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transferscope.plots.lines import Number, points
from transferscope.plots.sheet import Sheet, name_rows, row_height
from transferscope.plots.style import NORMAL, PALE, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HIGH = 1.35  # of a row, in heights of a line


@dataclass(frozen=True)
class Points:
    """One group of rows in one panel: places (0 on top), values, intervals, and how they look."""

    name: str
    rows: Sequence[float]
    mean: Sequence[Number]
    low: Sequence[Number]
    high: Sequence[Number]
    look: Look
    filled: bool = True


@dataclass(frozen=True)
class Panel:
    """One panel: what is measured along x, its groups, and a vertical line at `zero` (None: none)."""

    label: str
    groups: Sequence[Points]
    zero: float | None = None
    title: str = ""


def forest(
    sheet: Sheet,
    names: Sequence[str],
    panels: Sequence[Panel],
    *,
    width: float = 2.3,
    left: float = 0.0,
    high: float = _HIGH,
) -> tuple[list[Axes], dict[str, Any]]:
    """Panels side by side over the same rows; returns them, and a handle for each group's name.

    Rows are `high` lines of text high.
    """
    high = max(len(names), 2) * row_height() * high
    made: list[Axes] = []
    handles: dict[str, Any] = {}
    for i, panel in enumerate(panels):
        axes = sheet.axes(left + i * (width + 0.3), 0, width, high)
        for row in range(0, len(names), 2):
            axes.axhspan(row - 0.5, row + 0.5, color=PALE, alpha=0.35, linewidth=0)
        if panel.zero is not None:
            axes.axvline(panel.zero, color="black", linewidth=0.7)
        for group in panel.groups:
            place = (group.rows, group.mean, group.low, group.high)
            handles.setdefault(group.name, points(axes, *place, group.look, filled=group.filled))
        axes.set_ylim(max(len(names), 2) - 0.5, -0.5)
        name_rows(axes, names if i == 0 else [""] * len(names))
        if i:
            axes.set_yticks([])
        axes.set_xlabel(panel.label)
        axes.set_title(panel.title, fontsize=NORMAL, loc="left")
        axes.locator_params(axis="x", nbins=5)
        made.append(axes)
    return made, handles
