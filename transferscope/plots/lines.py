"""Lines with intervals, and points with intervals beside names: what several plots are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from transferscope.plots.style import Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Number = float | None


def numbers(values: Sequence[Number]) -> np.ndarray:
    """Float64, NaN for None."""
    return np.array([np.nan if value is None else value for value in values], np.float64)


def curve(
    axes: Axes,
    x: Sequence[Number],
    mean: Sequence[Number],
    low: Sequence[Number],
    high: Sequence[Number],
    look: Look,
) -> Any:
    """A line with markers, and a band from low to high where both are known; returns the line."""
    places, lower, upper = numbers(x), numbers(low), numbers(high)
    (line,) = axes.plot(
        places, numbers(mean), color=look.colour, marker=look.marker, linestyle=look.line, markersize=3.5
    )
    if np.isfinite(lower).any():
        axes.fill_between(places, lower, upper, color=look.colour, alpha=0.18, linewidth=0)
    return line


def level(axes: Axes, value: Number, look: Look, width: float = 1.0) -> Any:
    """A horizontal line; returns it."""
    height = np.nan if value is None else value
    return axes.axhline(height, color=look.colour, linestyle=look.line, linewidth=width)


def points(
    axes: Axes,
    rows: Sequence[float],
    mean: Sequence[Number],
    low: Sequence[Number],
    high: Sequence[Number],
    look: Look,
    *,
    filled: bool = True,
) -> Any:
    """Markers at values along x, one a row, with a bar from low to high where both are known."""
    heights, middle = np.asarray(rows, np.float64), numbers(mean)
    lower, upper = numbers(low), numbers(high)
    known = np.isfinite(lower) & np.isfinite(upper)
    axes.hlines(heights[known], lower[known], upper[known], color=look.colour, linewidth=1.3)
    (markers,) = axes.plot(
        middle,
        heights,
        linestyle="none",
        marker=look.marker,
        color=look.colour,
        markerfacecolor=look.colour if filled else "white",
        markersize=5.5,
    )
    return markers
