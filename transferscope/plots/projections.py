"""Projected prompts beside the target's own, random ones, none at all, and chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from transferscope.errors import InputError
from transferscope.plots.forest import Panel, Points, forest
from transferscope.plots.registry import plotter
from transferscope.plots.sheet import Sheet, legend
from transferscope.plots.style import BLACK, BLUE, GREEN, GREY, ORANGE, Look
from transferscope.projection_report import ProjectedTask, ProjectionReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PROJECTED, _OWN, _RANDOM = Look(BLUE, "o", "-"), Look(GREEN, "D", "-"), Look(ORANGE, "s", "-")
_NONE, _MAJORITY = Look(BLACK, "x", "-"), Look(GREY, "|", "-")
_LINES = (-0.3, -0.1, 0.1, 0.3)  # of a row: projected, own, random, and what has no interval
_HIGH = 2.9


@plotter(ProjectionReport, kind="projected")
def projection_plot(record: ProjectionReport) -> Figure:
    """Tasks down the side, held-out ones on top: projected prompts with 95 % intervals, and what they beat.

    Filled: the projector has not seen the task. InputError: no task was measured.
    """
    tasks = sorted(record.tasks, key=lambda one: not one.held_out)
    if not tasks:
        raise InputError("there is nothing to draw: no task of both studies was measured")
    metrics = sorted({one.metric for one in tasks})
    panel = Panel(metrics[0] if len(metrics) == 1 else "value", _groups(tasks))
    sheet = Sheet()
    names = [one.task for one in tasks]
    (axes,), handles = forest(sheet, names, [panel], width=4.2, high=_HIGH)
    unseen = sum(one.held_out for one in tasks)
    if 0 < unseen < len(tasks):
        axes.axhline(unseen - 0.5, color="black", linewidth=0.7)
    legend(axes, list(handles.values()), list(handles))
    how = "whole prompts" if record.flatten else "by token"
    notes = [
        f"{record.kind} projector, {how}, objective {record.objective}; dev split, prompts unchanged.",
        "Bars: 95 % bootstrap intervals over prompts (seeds; random: draws), widened for few; none for one.",
    ]
    return sheet.finish(f"Prompts of {record.source_model} projected to {record.target_model}", notes)


def _groups(tasks: Sequence[ProjectedTask]) -> list[Points]:
    """Kinds of prompts one below the other in each row, on lines of their own."""
    groups = []
    for held_out, name in ((True, "projected, held-out task"), (False, "projected, task trained on")):
        rows = [i for i, one in enumerate(tasks) if one.held_out == held_out]
        if rows:
            found = [tasks[i] for i in rows]
            spreads = [one.projected_spread for one in found]
            groups.append(
                Points(
                    name, [i + _LINES[0] for i in rows], [one.value for one in found],
                    [one.low for one in spreads], [one.high for one in spreads], _PROJECTED, held_out,
                )
            )  # fmt: skip
    own, random = [one.own_spread for one in tasks], [one.random_spread for one in tasks]
    places = [[i + line for i in range(len(tasks))] for line in _LINES]
    unknown = [None] * len(tasks)
    groups += [
        Points(
            "target model's own prompt", places[1], [one.own for one in tasks], [one.low for one in own],
            [one.high for one in own], _OWN,
        ),
        Points(
            "random prompt", places[2], [one.random for one in tasks],
            [one.low for one in random], [one.high for one in random], _RANDOM, False,
        ),
        Points("no prompt", places[3], [one.none for one in tasks], unknown, unknown, _NONE),
        Points("majority class", places[3], [one.majority for one in tasks], unknown, unknown, _MAJORITY),
    ]  # fmt: skip
    return groups
