"""What fires single neurons: histograms of their activation by class, or its mean and deviation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transferscope.errors import InputError
from transferscope.neuron_view import NeuronCard, NeuronView
from transferscope.plots.lines import Number, points
from transferscope.plots.panels import beside, grid
from transferscope.plots.registry import plotter
from transferscope.plots.sheet import Sheet, row_height
from transferscope.plots.style import GREY, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@plotter(NeuronView, kind="activation")
def activation_plot(record: NeuronView) -> Figure:
    """One panel a neuron: a histogram by class where there is one, else mean and sd of each class.

    The dashed line is the baseline. InputError: no neurons.
    """
    if not record.neurons:
        raise InputError("there is nothing to draw: no neurons")
    sheet = Sheet()
    titles = [_title(card) for card in record.neurons]
    whole = all(card.histogram is not None for card in record.neurons)
    high = 1.5 if whole else max(1.0, 1.3 * row_height() * len(record.labels))
    panels = grid(sheet, titles, width=2.2, height=high, x="activation", y="dev texts" if whole else "class")
    handles: dict[str, Any] = {}
    for axes, card in zip(panels, record.neurons, strict=True):
        handles |= _histogram(axes, card) if whole else _means(axes, card)
        handles["baseline"] = axes.axvline(card.baseline, color=GREY, linestyle="--", linewidth=1)
    beside(panels, handles)
    notes = [
        f"{record.examples} dev texts under the prompt of seed {record.shown}, at each neuron's best row.",
        *([] if whole else ["Bars: one standard deviation to each side."]),
    ]
    return sheet.finish(f"Neurons of {record.task}, {record.model}", notes)


def _title(card: NeuronCard) -> str:
    known = "-" if card.predictivity is None else f"{card.predictivity:.3f}"
    return f"{card.layer}:{card.neuron} (Pred {known})"


def _histogram(axes: Axes, card: NeuronCard) -> dict[str, Any]:
    """Counts as outlines, in different colours and line styles."""
    assert card.histogram is not None  # the caller has looked
    made: dict[str, Any] = {}
    for i, (label, counts) in enumerate(zip(card.histogram.labels, card.histogram.counts, strict=True)):
        style = look(i)
        made[label] = axes.stairs(
            counts, card.histogram.edges, color=style.colour, linestyle=style.line, linewidth=1.4
        )
        axes.stairs(counts, card.histogram.edges, color=style.colour, fill=True, alpha=0.12)
    axes.set_ylim(0, None)
    return made


def _means(axes: Axes, card: NeuronCard) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for i, one in enumerate(card.classes):
        low: Number = None if one.sd is None else one.mean - one.sd
        high: Number = None if one.sd is None else one.mean + one.sd
        made[one.label] = points(axes, [i], [one.mean], [low], [high], look(i))
    axes.set_ylim(len(card.classes) - 0.5, -0.5)
    axes.set_yticks([])
    return made
