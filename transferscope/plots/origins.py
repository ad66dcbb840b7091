"""Where skill neurons come from: what they cost under each way of tuning, and who else finds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transferscope.errors import InputError
from transferscope.origin_perturbation import Effect
from transferscope.origin_report import OriginReport, Performance
from transferscope.plots.lines import curve, level
from transferscope.plots.panels import beside, grid, same_scales
from transferscope.plots.references import whole_numbers
from transferscope.plots.registry import plotter
from transferscope.plots.sheet import Sheet
from transferscope.plots.style import GREY, Look, look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AS_RANDOM = Look(GREY, "", "--")


@plotter(OriginReport, kind="effects")
def effects_plot(record: OriginReport) -> Figure:
    """One panel for each way of tuning: the drop beyond random neurons' by rate, with 95 % intervals.

    A curve for each way of choosing neurons. InputError: nothing was perturbed.
    """
    if not record.effects:
        raise InputError("there is nothing to draw: the report has no effects")
    sheet = Sheet()
    known = {one.subject: one for one in record.performances}
    subjects = list(dict.fromkeys(one.subject for one in record.effects))
    neurons = list(dict.fromkeys(one.neurons for one in record.effects))
    titles = [_title(name, known.get(name)) for name in subjects]
    y = f"drop of {record.metric}\nbeyond random neurons'"
    panels = grid(sheet, titles, width=2.2, height=1.8, x="share of each layer's neurons", y=y)
    handles: dict[str, Any] = {}
    for axes, subject in zip(panels, subjects, strict=True):
        handles["as random ones"] = level(axes, 0.0, _AS_RANDOM)
        for i, name in enumerate(neurons):
            found = [one for one in record.effects if (one.subject, one.neurons) == (subject, name)]
            if found:
                handles[name] = _curve(axes, found, look(i))
    same_scales(panels)
    beside(panels, dict(sorted(handles.items(), key=lambda one: [*neurons, "as random ones"].index(one[0]))))
    return sheet.finish(
        f"Perturbed neurons of {record.task} by way of tuning, {record.model}", _notes(record)
    )


def _title(name: str, known: Performance | None) -> str:
    return name if known is None else f"{name}\n{known.value:.3f} unperturbed"


def _curve(axes: Any, effects: Sequence[Effect], style: Look) -> Any:
    found = sorted(effects, key=lambda one: one.rate)
    means = [one.difference for one in found]
    values = ([d.mean for d in means], [d.low for d in means], [d.high for d in means])
    return curve(axes, [one.rate for one in found], *values, style)


def _notes(record: OriginReport) -> list[str]:
    plan = record.plan
    notes = [
        f"Noise of sd {plan.sd:g} on all rows. Above the dashed line: these neurons cost more than as many "
        "random ones of the same layers, under noise from the same seed. "
        f"Majority class: {record.majority:.3f}.",
        f"Bands: 95 % intervals over {plan.draws} draws, which all seeds share; other seeds may differ more."
        if plan.draws > 1
        else "One draw: no intervals.",
    ]
    if weak := [one.subject for one in record.performances if one.weak]:
        notes.append(f"No better than the majority class before anything is perturbed: {'; '.join(weak)}.")
    return notes


@plotter(OriginReport, kind="overlap")
def overlap_plot(record: OriginReport) -> Figure:
    """Do other ways of choosing find the skill neurons? By rate beside chance, and Spearman by layer.

    InputError: no controls were measured.
    """
    if not record.overlaps:
        raise InputError("no other way of choosing neurons was tried: origin --controls does")
    sheet = Sheet()
    names = list(dict.fromkeys(one.neurons for one in record.overlaps))
    titles = ["in common with the skill neurons", "scores of all neurons"]
    shared, layers = grid(sheet, titles, width=2.6, height=1.8)
    handles: dict[str, Any] = {}
    for i, name in enumerate(names):
        found = sorted((one for one in record.overlaps if one.neurons == name), key=lambda one: one.rate)
        rates, unknown = [one.rate for one in found], [None] * len(found)
        counts = [one.common / one.count for one in found]
        handles[name] = curve(shared, rates, counts, unknown, unknown, look(1 + i))
        chance = [one.expected / one.count for one in found]
        (by_chance,) = shared.plot(rates, chance, color=GREY, linestyle="--", linewidth=1.0)
        by_layer = found[0].by_layer
        empty = [None] * len(by_layer)
        curve(layers, list(range(len(by_layer))), by_layer, empty, empty, look(1 + i))
    level(layers, 0.0, _AS_RANDOM)
    whole_numbers(layers)
    shared.set_ylim(0, None)
    for axes, x, y in ((shared, "share of each layer's neurons", "share"), (layers, "layer", "Spearman")):
        axes.set_xlabel(x)
        axes.set_ylabel(y)
    beside([shared, layers], handles | {"by chance": by_chance})
    notes = ["Of predictivities that are means over trials: one value each, so there are no intervals."]
    return sheet.finish(f"Who else finds the skill neurons of {record.task}, {record.model}", notes)
