"""The sources for a target: scores with intervals, what ties, and what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transferscope.ordering import RankedSource, Ranking
from transferscope.plots.forest import Panel, Points, forest
from transferscope.plots.registry import plotter
from transferscope.plots.sheet import Sheet, legend
from transferscope.plots.style import BLUE, GREEN, LINES, VERMILLION, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@plotter(Ranking, kind="ranking")
def ranking_plot(record: Ranking) -> Figure:
    """Sources down the side, the best on top. Left the score with its 95 % interval, right what was measured.

    A filled marker ties with the best by the trials; a square is tied by evidence; a panel without any value
    is left out. What the baselines would reach on average are lines among the measured values.
    """
    sources = record.sources
    names = [f"{one.source} ({one.type})" if one.type else one.source for one in sources]
    panels = []
    if any(one.score is not None for one in sources) or not any(one.measured is not None for one in sources):
        panels.append(Panel(f"{record.indicator or 'score'} (larger: closer)", _scores(sources)))
    measured = [i for i, one in enumerate(sources) if one.measured is not None]
    if measured:
        values, unknown = [sources[i].measured for i in measured], [None] * len(measured)
        look = Look(GREEN, "D", "-")
        panels.append(
            Panel("measured transfer", [Points("measured", measured, values, unknown, unknown, look)])
        )
    sheet = Sheet()
    axes, handles = forest(sheet, names, panels, width=3.0)
    if measured:
        handles |= _baselines(axes[-1], record)
    legend(axes[-1], list(handles.values()), list(handles))
    by = f", by {record.indicator}" if record.indicator else ""
    return sheet.finish(f"Sources for {record.target}{by}", _notes(record))


def _scores(sources: tuple[RankedSource, ...]) -> list[Points]:
    """Markers for each combination of the two kinds of ties that there is."""
    found: dict[tuple[bool | None, bool | None], list[int]] = {}
    for i, one in enumerate(sources):
        found.setdefault((one.ties_with_best, one.tied_by_evidence), []).append(i)
    groups = []
    for (ties, evidence), rows in found.items():
        said = [*(["ties with the best"] if ties else []), *(["tied by evidence"] if evidence else [])]
        known = ties is not None or evidence is not None
        chosen = [sources[i] for i in rows]
        look = Look(VERMILLION if evidence else BLUE, "s" if evidence else "o", "-")
        groups.append(
            Points(
                " and ".join(said) or ("does not tie" if known else "score"),
                rows,
                [one.score for one in chosen],
                [one.low for one in chosen],
                [one.high for one in chosen],
                look,
                filled=bool(ties),
            )
        )
    return groups


def _baselines(axes: Axes, record: Ranking) -> dict[str, Any]:
    """A vertical line for what each baseline's pick reaches on average."""
    lines = {}
    known = [one for one in record.baselines if one.measured is not None]
    for i, one in enumerate(known):
        style = LINES[1 + i % (len(LINES) - 1)]
        grey = str(round(0.15 + 0.5 * i / max(1, len(known) - 1), 2))
        lines[f"baseline {one.name}"] = axes.axvline(
            float(one.measured or 0.0), color=grey, linestyle=style, linewidth=1.1, zorder=1
        )
    return lines


def _notes(record: Ranking) -> list[str]:
    bars = any(one.low is not None for one in record.sources)
    model = [f"Model: {record.model}."] if record.model else []
    return [*model, *(["Bars: 95 % intervals over trials."] if bars else [])]
