"""Panels of one highlighted curve each, with the same thin reference lines in every panel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transferscope.plots.style import COLOURS, GREY, LINES, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HIGHLIGHT = Look(COLOURS[0], "o", "-")
# Of a reference: not the colours of the highlighted curve and of what it is compared with; never solid.
_OTHERS = (GREY, *COLOURS[2:6])


def reference(i: int) -> Look:
    """The look of the i-th reference line."""
    return Look(_OTHERS[i % len(_OTHERS)], "", LINES[1 + i % (len(LINES) - 1)])


def whole_numbers(axes: Axes) -> None:
    """Ticks along x at whole numbers alone: layers, rows, numbers of sources."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))


def thin(axes: Axes, x: Sequence[float], y: Sequence[float], look: Look) -> Any:
    """A reference line through points; returns it."""
    (line,) = axes.plot(x, y, color=look.colour, linestyle=look.line, linewidth=1.0, zorder=1.5)
    return line
