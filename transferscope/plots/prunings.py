"""A pruned model: what is left of the score, by the share of the neurons that is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transferscope.plots.lines import curve, level, numbers
from transferscope.plots.panels import beside, grid
from transferscope.plots.registry import plotter
from transferscope.plots.sheet import Sheet
from transferscope.plots.style import BLUE, GREY, ORANGE, VERMILLION, Look
from transferscope.pruning_study import PrunedScore, PruningReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOOKS = {
    "after": ("skill neurons left", Look(BLUE, "o", "-")),
    "random neurons": ("as many random ones left", Look(ORANGE, "s", "--")),
}
_RETUNED, _BEFORE, _MAJORITY = Look(VERMILLION, "D", "-"), Look(GREY, "", "--"), Look(GREY, "", ":")


@plotter(PruningReport, kind="pruned")
def pruning_plot(record: PruningReport) -> Figure:
    """The value by the share of neurons gone: skill neurons left, random ones left, prompts tuned again.

    Each curve begins at the unpruned model. Bands and bars: 95 % intervals over the study's seeds.
    """
    sheet = Sheet()
    known = {score.what: score for score in record.scores}
    x = "share of the pruned layers' neurons that is gone"
    (axes,) = grid(sheet, [""], width=4.2, height=2.6, x=x, y=record.metric)
    axes.set_xlim(-0.03, 1.03)
    axes.locator_params(axis="x", nbins=6)
    handles: dict[str, Any] = {"unpruned": level(axes, known["before"].value, _BEFORE)}
    for what, (name, look) in _LOOKS.items():
        found = [(one.pruned, score) for one in record.curve for score in one.scores if score.what == what]
        if found:
            scores = [known["before"], *(score for _, score in found)]
            values = ([s.value for s in scores], [s.low for s in scores], [s.high for s in scores])
            handles[name] = curve(axes, [0.0, *(at for at, _ in found)], *values, look)
    if "re-tuned" in known:
        own = next(one.pruned for one in record.curve if one.keep == record.settings.keep)
        handles["skill neurons left, prompts tuned again"] = _point(axes, own, known["re-tuned"])
    handles["majority class"] = level(axes, record.majority, _MAJORITY)
    beside([axes], handles)
    return sheet.finish(f"{record.model} pruned for {record.task}", _notes(record))


def _point(axes: Axes, x: float, score: PrunedScore) -> Any:
    """One value with its interval."""
    low, high = numbers([score.low, score.high])
    axes.vlines(x, low, high, color=_RETUNED.colour, linewidth=1.3, zorder=3)
    (marker,) = axes.plot(
        [x], [score.value], linestyle="none", marker=_RETUNED.marker, color=_RETUNED.colour, zorder=3
    )
    return marker


def _notes(record: PruningReport) -> list[str]:
    settings = record.settings
    draws = f" (means over {settings.random_draws} draws)" if settings.random_draws else ""
    intervals = (
        f"Bands and bars: 95 % bootstrap intervals over {len(record.seeds)} seeds{draws}, widened for few."
        if len(record.seeds) > 1
        else f"One seed{draws}: no intervals."
    )
    where = (
        f"Layers pruned: from {settings.from_layer} on. Neurons that are gone are held at their mean "
        f"({settings.baseline}). They were chosen on dev, where the scores are, too."
    )
    return [where, intervals]
