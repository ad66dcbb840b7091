"""Small multiples: a grid of equal axes, each under a name, with the same scales."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transferscope.plots.sheet import Sheet, legend
from transferscope.plots.style import NORMAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONGEST = 32  # letters of a line of a panel's name
_LEFT, _BELOW = 0.55, 0.38


def grid(
    sheet: Sheet,
    names: Sequence[str],
    *,
    width: float = 1.9,
    height: float = 1.5,
    top: float = 0.0,
    x: str = "",
    y: str = "",
) -> list[Axes]:
    """One panel for each name, the names above them; at most eight a row. `x` and `y` label the outer axes.

    Panels are as wide as the longest line of a name; longer names take more lines.
    """
    lines = ["\n".join(part for line in name.split("\n") for part in _wrapped(line)) for name in names]
    wide = max(width, sheet.text_width(lines, NORMAL) + 0.1)
    head = 0.18 * max((line.count("\n") + 1 for line in lines), default=1) + 0.1
    columns = min(len(names), max(1, math.ceil(math.sqrt(1.3 * len(names)))), max(1, int(16 // wide)))
    made: list[Axes] = []
    for i, line in enumerate(lines):
        row, column = divmod(i, columns)
        place = (column * (wide + _LEFT), top + row * (height + _BELOW + head) + head)
        axes = sheet.axes(*place, wide, height)
        axes.set_title(line, fontsize=NORMAL, loc="left", pad=4)
        axes.locator_params(axis="x", nbins=4)
        axes.locator_params(axis="y", nbins=5)
        if i + columns >= len(names):
            axes.set_xlabel(x)
        if column == 0:
            axes.set_ylabel(y)
        made.append(axes)
    return made


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, _LONGEST) or [""]


def same_scales(panels: Sequence[Axes], x: bool = True, y: bool = True) -> None:
    """The widest limits of the panels, for all of them."""
    for wanted, get, set_ in ((x, "get_xlim", "set_xlim"), (y, "get_ylim", "set_ylim")):
        if wanted and panels:
            limits = [getattr(one, get)() for one in panels]
            both = min(low for low, _ in limits), max(high for _, high in limits)
            for one in panels:
                getattr(one, set_)(both)


def beside(panels: Sequence[Axes], handles: Mapping[str, Any], title: str = "") -> None:
    """A legend for all panels, to the right of the first row."""
    first = [one for one in panels if one.get_position().y0 == panels[0].get_position().y0]
    legend(first[-1], list(handles.values()), list(handles), title)
