"""Learning curves of tuning from different starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from transferscope.initialisation import InitComparison
from transferscope.plots.lines import curve
from transferscope.plots.panels import beside, grid, same_scales
from transferscope.plots.references import HIGHLIGHT, thin
from transferscope.plots.registry import plotter
from transferscope.plots.sheet import Sheet
from transferscope.plots.style import VERMILLION, Look
from transferscope.transfer import SCRATCH

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@plotter(InitComparison, kind="learning")
def learning_plot(record: InitComparison | Sequence[InitComparison]) -> Figure:
    """One panel for each start at its best learning rate: mean over seeds, and the range of the seeds.

    The curve from scratch is a dashed line in every panel of its target.
    """
    several = [record] if isinstance(record, InitComparison) else list(record)
    made = [(one, start.start, start.learning_rate) for one in several for start in one.starts]
    sheet = Sheet()
    metrics = sorted({one.metric for one in several})
    titles = [_title(one, start, several) for one, start, _ in made]
    y = f"validation {metrics[0]}" if len(metrics) == 1 else "validation value"
    panels = grid(sheet, titles, x="step", y=y)
    handles: dict[str, Any] = {}
    for axes, (one, start, rate) in zip(panels, made, strict=True):
        steps, values = _seeds(one, start, rate)
        # One seed has no range: a band of no height cannot be seen.
        low, high = list(values.min(axis=0)), list(values.max(axis=0))
        handles["the panel's start"] = curve(axes, steps, list(values.mean(axis=0)), low, high, HIGHLIGHT)
        scratch = next((s for s in one.starts if s.start == SCRATCH), None)
        if scratch is not None and start != SCRATCH:
            x, found = _seeds(one, SCRATCH, scratch.learning_rate)
            handles["from scratch"] = thin(axes, x, list(found.mean(axis=0)), Look(VERMILLION, "", "--"))
    same_scales(panels, x=len(several) == 1, y=len(several) == 1)
    beside(panels, handles)
    notes = [
        "Mean over seeds at each start's best learning rate; bands: from the lowest seed to the highest."
    ]
    targets = list(dict.fromkeys(one.target for one in several))
    return sheet.finish(f"Tuning {', '.join(targets)} from different starts", [*notes, *several[0].notes])


def _title(one: InitComparison, start: str, several: Sequence[InitComparison]) -> str:
    shots = "" if one.shots is None else f", {one.shots} shots"
    return start if len(several) == 1 else f"{start} to {one.target}{shots}"


def _seeds(one: InitComparison, start: str, rate: float) -> tuple[list[int], np.ndarray]:
    """Steps [C] that all seeds of a start have, and their values [R, C]."""
    runs = [run for run in one.runs if run.start == start and run.learning_rate == rate]
    tables = [dict(zip(run.curve.steps, run.curve.values, strict=True)) for run in runs]
    steps = sorted(set.intersection(*map(set, tables)))
    return steps, np.array([[table[step] for step in steps] for table in tables])
