"""A choice of sources: the value against their number, and which source serves which target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transferscope.choosing import ChoiceReport
from transferscope.plots.forest import Panel, Points, forest
from transferscope.plots.lines import curve, level
from transferscope.plots.references import HIGHLIGHT, thin, whole_numbers
from transferscope.plots.registry import plotter
from transferscope.plots.sheet import Sheet, legend
from transferscope.plots.style import BLACK, GREY, Look, look

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@plotter(ChoiceReport, kind="value")
def value_plot(record: ChoiceReport) -> Figure:
    """The weighted mean over targets by the number of sources, its bound, and what all sources reach."""
    points = [(len(one.sources) if one.k is None else one.k, one) for one in record.curve or (record.choice,)]
    sheet = Sheet()
    axes = sheet.axes(0, 0, 4.2, 2.8)
    nothing = [None] * len(points)
    x = [k for k, _ in points]
    line = curve(axes, x, [one.mean for _, one in points], nothing, nothing, HIGHLIGHT)
    handles = {"chosen": line}
    # A proven optimum is its own bound: only a gap is worth a line.
    if any(one.bound > one.mean + 1e-9 for _, one in points):
        handles["no choice has more"] = thin(axes, x, [one.bound for _, one in points], Look(GREY, "", ":"))
    handles["all sources"] = level(axes, record.choice.best, Look(BLACK, "", "--"))
    axes.set_xlabel("sources chosen, K")
    axes.set_ylabel(f"mean over targets of {record.measure}")
    whole_numbers(axes)
    legend(axes, list(handles.values()), list(handles))
    notes = [f"K = {k}: {', '.join(one.sources)}." for k, one in points]
    return sheet.finish("What K sources reach together", [*notes, *record.notes])


@plotter(ChoiceReport, kind="serves")
def serves_plot(record: ChoiceReport) -> Figure:
    """Every target's value from the chosen source that serves it, the targets of one source together."""
    choice = record.choice
    of = {source: [t for t, by in choice.serves.items() if by == source] for source in choice.sources}
    left = [t for t, by in choice.serves.items() if by not in of]
    groups: list[Points] = []
    names: list[str] = []
    for i, (source, targets) in enumerate([*of.items(), *([("none", left)] if left else [])]):
        targets = sorted(targets, key=lambda t: -choice.values[t])
        rows, unknown = range(len(names), len(names) + len(targets)), [None] * len(targets)
        said = f"{source} ({len(targets)})"
        groups.append(Points(said, rows, [choice.values[t] for t in targets], unknown, unknown, look(i)))
        names += targets
    sheet = Sheet()
    axes, handles = forest(sheet, names, [Panel(record.measure, groups)], width=3.6)
    legend(axes[0], list(handles.values()), list(handles), "served by")
    title = f"{len(choice.sources)} sources: mean over targets {choice.mean:.4g}"
    return sheet.finish(title, record.notes)
