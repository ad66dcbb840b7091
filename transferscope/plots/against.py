"""An indicator against measured transfer, one panel for each target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata

from transferscope.agreement import spearman
from transferscope.default_indicator import DEFAULT, OF_UPDATES, WITHOUT_PROMPTS
from transferscope.errors import InputError, suggest
from transferscope.evidence import Evidence
from transferscope.plots.panels import beside, grid
from transferscope.plots.registry import plotter
from transferscope.plots.sheet import Sheet
from transferscope.plots.style import BLACK, BLUE, ORANGE, Look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_USUAL = (DEFAULT, WITHOUT_PROMPTS, OF_UPDATES)
_LOOKS = {
    "same type": Look(BLUE, "o", "-"),
    "another type": Look(ORANGE, "^", "-"),
    "source": Look(BLUE, "o", "-"),
    "own prompt": Look(BLACK, "*", "-"),
}


@plotter(Evidence, kind="scatter")
def scatter_plot(
    record: Evidence, *, indicator: str | None = None, types: Mapping[str, str] | None = None
) -> Figure:
    """A point for each source whose transfer was measured; Spearman without the target's own prompt.

    `indicator` None: the one that rankings take without evidence, where it is there, else the first.
    Raises InputError: no such indicator, or no target with a source of which both are known.
    """
    known = {matrix.indicator: matrix for matrix in record.matrices}
    name = indicator or next((one for one in _USUAL if one in known), next(iter(known), ""))
    if name not in known:
        raise InputError(f"no indicator {name!r} to draw. {suggest(name, known)}")
    matrix, transfer, types = known[name], record.transfer, types or record.known.types or {}
    found = {t: _points(matrix, transfer, t) for t in transfer.targets if t in matrix.tasks}
    found = {target: points for target, points in found.items() if points}
    if not found:
        raise InputError("nothing to draw: no target has a source of which both values are known")
    sheet = Sheet()
    titles = [f"{target}\n{_said(target, points)}" for target, points in found.items()]
    panels = grid(sheet, titles, x=name, y=f"{transfer.protocol} transfer")
    handles: dict[str, Any] = {}
    for axes, (target, points) in zip(panels, found.items(), strict=True):
        for group, look in _LOOKS.items():
            chosen = [points[s] for s in points if _group(s, target, types) == group]
            if chosen:
                x, y = zip(*chosen, strict=True)
                handles[group] = axes.scatter(
                    x, y, color=look.colour, marker=look.marker, s=22, alpha=0.8, linewidths=0
                )
    beside(panels, handles)
    notes = [
        "A point is a source; rho: Spearman over the sources without the target's own prompt (-: fewer than "
        f"two, or all alike). Larger {name}: closer. Each panel has its own scales."
    ]
    return sheet.finish(f"{name} against measured transfer, {record.backbone}", notes)


def _points(matrix: Any, transfer: Any, target: str) -> dict[str, tuple[float, float]]:
    """Source -> (indicator, measured), where both are known."""
    found = {}
    for source in (s for s in transfer.sources if s in matrix.tasks):
        x = float(matrix.values[matrix.tasks.index(source), matrix.tasks.index(target)])
        y = transfer.value(source, target)
        if np.isfinite(x) and np.isfinite(y):
            found[source] = (x, y)
    return found


def _said(target: str, points: Mapping[str, tuple[float, float]]) -> str:
    others = np.array([point for source, point in points.items() if source != target]).reshape(-1, 2)
    if len(others) < 2 or (np.ptp(rankdata(others, axis=0), axis=0) == 0).any():
        return "rho -"
    return f"rho {float(spearman(others[None, :, 0], others[None, :, 1])[0, 0]):.2f}"


def _group(source: str, target: str, types: Mapping[str, str]) -> str:
    if source == target:
        return "own prompt"
    if source not in types or target not in types:
        return "source"
    return "same type" if types[source] == types[target] else "another type"
