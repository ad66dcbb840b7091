"""The task graph: tasks as nodes, transfer as arrows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from transferscope.errors import InputError
from transferscope.graph import TaskGraph
from transferscope.graph_tables import GraphReport
from transferscope.plots.places import places
from transferscope.plots.registry import plotter
from transferscope.plots.sheet import Sheet, legend
from transferscope.plots.style import GREY, PALE, SMALL, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 4  # edges a task that are drawn; of a graph with more, each target's best sources
_NEAREST = 2
_NODE = 9.0  # points, of a marker
_HIGH = 0.42  # inches, of a marker and its name
_LEAST, _LARGEST = 0.5, 3.2  # points, of an edge


@plotter(TaskGraph, GraphReport, kind="graph")
def graph_plot(record: TaskGraph | GraphReport, *, by: str | None = None, seed: int = 0) -> Figure:
    """The first view: nodes coloured `by` "community" or "type" (None: the first that is known).

    Edges are as wide as their values. Of very many edges, those from each target's two best
    sources are drawn.

    InputError: no tasks, or `by` is something else.
    """
    graph = record.graphs[0] if isinstance(record, GraphReport) else record
    if not graph.tasks:
        raise InputError("there is nothing to draw: the graph has no tasks")
    if by not in (None, "community", "type"):
        raise InputError(f"nodes coloured by {by!r}: it must be 'community' or 'type'")
    drawn = graph.nearest(_NEAREST) if graph.kept.sum() > MOST * len(graph.tasks) else graph
    sheet = Sheet()
    widths = [max(0.35, sheet.text_width([name]) + 0.12) for name in graph.tasks]
    at = places(drawn, widths, _HIGH, seed)
    axes = _board(sheet, at, widths)
    scale = _edges(axes, drawn, at)
    handles = _nodes(axes, graph, at, by)
    handles |= _widths(scale, graph.shown)
    legend(axes, list(handles.values()), list(handles))
    return sheet.finish(f"The task graph by {graph.shown}", _notes(graph, drawn))


def _notes(graph: TaskGraph, drawn: TaskGraph) -> list[str]:
    notes = [f"Shown: {', then '.join(graph.said)}."] if graph.said else []
    if drawn is not graph:
        notes.append(
            f"Drawn: for each target its {_NEAREST} best sources, of {int(graph.kept.sum())} edges in all."
        )
    return [*notes, "An arrow goes from the source to the target."]


def _board(sheet: Sheet, at: np.ndarray, widths: Sequence[float]) -> Axes:
    """Axes whose data are inches."""
    half = np.asarray(widths) / 2
    left, right = float((at[:, 0] - half).min()), float((at[:, 0] + half).max())
    low, high = float(at[:, 1].min()) - _HIGH, float(at[:, 1].max()) + _HIGH
    axes = sheet.axes(0, 0, right - left, high - low)
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    axes.set_axis_off()
    return axes


def _edges(axes: Axes, graph: TaskGraph, at: np.ndarray) -> tuple[float, float]:
    """Arrows, bent where there is one each way; returns the least and largest value."""
    from matplotlib.patches import FancyArrowPatch

    values = graph.values
    known = values[graph.kept]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    for s, t in np.argwhere(graph.kept):
        bend = 0.12 if graph.kept[t, s] else 0.0
        width = _width(float(values[s, t]), low, high)
        arrow = FancyArrowPatch(
            tuple(at[s]),
            tuple(at[t]),
            arrowstyle="-|>",
            mutation_scale=5 + 2 * width,
            connectionstyle=f"arc3,rad={bend}",
            shrinkA=_NODE / 2 + 1,
            shrinkB=_NODE / 2 + 1,
            linewidth=width,
            color="#8A8A8A",
            alpha=0.75,
            zorder=1,
        )
        arrow.set_gid(f"{graph.tasks[s]} to {graph.tasks[t]}")
        axes.add_patch(arrow)
    return low, high


def _width(value: float, low: float, high: float) -> float:
    share = (value - low) / (high - low) if high > low else 1.0
    return _LEAST + share * (_LARGEST - _LEAST)


def _widths(scale: tuple[float, float], shown: str) -> dict[str, Any]:
    from matplotlib.lines import Line2D

    low, high = scale
    values = [high] if high == low else [high, (low + high) / 2, low]
    return {
        f"{shown} {value:.3g}": Line2D([], [], color="#8A8A8A", linewidth=_width(value, low, high))
        for value in values
    }


def _nodes(axes: Axes, graph: TaskGraph, at: np.ndarray, by: str | None) -> dict[str, Any]:
    """Markers in a colour and shape for each group, names under them; returns a handle for each group."""
    nodes = [graph.nodes[name] for name in graph.tasks]
    if by is None:
        by = "community" if any(node.community is not None for node in nodes) else "type"
    groups = [getattr(node, by) for node in nodes]
    known = list(dict.fromkeys(group for group in groups if group is not None))
    handles: dict[str, Any] = {}
    for i, group in enumerate([*sorted(known), *([None] if None in groups else [])]):
        style = look(i)
        chosen = np.array([one == group for one in groups])
        (markers,) = axes.plot(
            *at[chosen].T,
            linestyle="none",
            marker=style.marker if group is not None else "o",
            markersize=_NODE,
            color=style.colour if group is not None else PALE,
            markeredgecolor="white" if group is not None else GREY,
            markeredgewidth=0.8,
            zorder=3,
        )
        if known:
            name = "not known" if group is None else f"community {group}" if by == "community" else str(group)
            handles[name] = markers
    for name, place in zip(graph.tasks, at, strict=True):
        box = {"facecolor": "white", "alpha": 0.7, "pad": 0.6, "linewidth": 0}
        axes.annotate(
            name, tuple(place), (0, -_NODE / 2 - 2), textcoords="offset points", ha="center", va="top",
            fontsize=SMALL, zorder=4, bbox=box,
        )  # fmt: skip
    return handles
