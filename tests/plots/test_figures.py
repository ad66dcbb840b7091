"""Every plot at 5 and at 60 tasks: nothing is cut, no labels touch, every name is there."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import combinations, pairwise
from typing import Any

import plot_records as made
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from transferscope import plots

# The record, the kind, and whether every task name is on the sheet.
CASES: dict[str, tuple[Callable[[int], Any], str | None, bool]] = {
    "indicator": (made.indicator, None, True),
    "indicators": (lambda n: [made.indicator(n, name) for name in ("on", "cka")], None, True),
    "transfer": (made.transfer, None, True),
    "relative": (made.transfer, "relative", True),
    "scatter": (made.evidence, None, True),
    "ranking": (made.ranking, None, True),
    "forest": (made.correlation, None, False),
    "budget": (lambda n: made.budget(min(n, 8)), None, False),
    "sensitivity": (lambda n: made.sensitivity(min(n, 10)), None, False),
    "perturbation": (made.perturbation, None, True),
    "across": (made.perturbation, "across", True),
    "layers": (made.specificity, None, True),
    "spearman": (made.specificity, "spearman", True),
    "rows": (made.rows, None, False),
    "histograms": (lambda n: made.neurons(min(n, 10)), None, False),
    "means": (lambda n: made.neurons(min(n, 10), False), None, False),
    "learning": (made.starts, None, True),
    "graph": (made.graph_report, None, True),
    "whole graph": (made.task_graph, None, True),
    "value": (made.choice, "value", False),
    "serves": (made.choice, "serves", True),
    "pruned": (made.pruning, None, False),
    "effects": (lambda n: made.origin(min(n, 12)), None, False),
    "overlap": (made.origin, "overlap", False),
    "projected": (made.projection, None, True),
}
PARAMETERS = [(case, n) for case in CASES for n in (5, 60)]


@pytest.fixture(scope="module", params=PARAMETERS, ids=lambda p: f"{p[0]}-{p[1]}")
def drawn(request: pytest.FixtureRequest) -> Iterator[tuple[str, int, Figure]]:
    case, n = request.param
    record, kind, _ = CASES[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield case, n, plots.plot(record(n), kind, types=made.types(n))


def shown(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def box(text: Text) -> Bbox:
    figure = text.get_figure(root=True)
    assert isinstance(figure, Figure)
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    return text.get_window_extent(canvas.get_renderer())


def labels(axes: Axes, which: str) -> list[Text]:
    axis = getattr(axes, f"{which}axis")
    low, high = sorted(getattr(axes, f"get_{which}lim")())
    slack = (high - low) * 1e-9
    return [
        tick.label1
        for tick in axis.get_major_ticks()
        if low - slack <= tick.get_loc() <= high + slack
        and tick.label1.get_visible()
        and tick.label1.get_text()
    ]


def within(inner: Bbox, outer: Bbox) -> bool:
    return bool((inner.min >= outer.min).all() and (inner.max <= outer.max).all())


def flat(text: str) -> str:
    return "".join(text.split())


def test_nothing_is_cut_and_no_labels_touch(drawn: tuple[str, int, Figure]) -> None:
    _, _, figure = drawn
    canvas = figure.bbox
    for axes in figure.axes:
        if not axes.axison:
            continue
        for which in "xy":
            boxes = [box(text) for text in labels(axes, which)]
            for one in boxes:
                assert within(one, canvas)
            # Neighbours are enough: labels stand in order.
            order = sorted(boxes, key=lambda b: (b.x0, b.y0) if which == "x" else (b.y0, b.x0))
            assert not any(a.overlaps(b) for a, b in pairwise(order))
    whole = figure.get_tightbbox(figure.canvas.get_renderer())  # type: ignore[attr-defined]
    width, height = figure.get_size_inches()
    assert within(whole, Bbox.from_bounds(0, 0, width, height))


def test_panels_and_their_titles_do_not_overlap(drawn: tuple[str, int, Figure]) -> None:
    _, _, figure = drawn
    frames = [axes.get_window_extent() for axes in figure.axes]
    titles = [box(text) for axes in figure.axes if (text := axes._left_title).get_text()]  # type: ignore[attr-defined]
    assert not any(a.overlaps(b) for a, b in combinations(titles, 2))
    assert not any(a.overlaps(b) for a in titles for b in frames)
    assert not any(a.shrunk(0.999, 0.999).overlaps(b) for a, b in combinations(frames, 2))


def test_every_name_is_on_the_sheet(drawn: tuple[str, int, Figure]) -> None:
    case, n, figure = drawn
    texts = [flat(text.get_text()) for text in shown(figure)]
    if CASES[case][2]:
        for name in made.names(n):
            assert any(flat(name) in text for text in texts), name


def test_the_names_of_a_graph_do_not_overlap() -> None:
    for n in (5, 60):
        figure = plots.plot(made.graph_report(n))
        boxes = [box(text) for text in figure.axes[0].texts]
        assert len(boxes) == n
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_the_same_record_gives_the_same_file() -> None:
    for format_ in plots.ENDINGS:
        files = {plots.render(plots.plot(made.graph_report(5)), format_) for _ in range(2)}
        assert len(files) == 1, format_


def test_a_plot_leaves_no_trace_in_the_users_settings() -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 30.0, "text.parse_math": True}):
        before = dict(matplotlib.rcParams)
        large = plots.plot(made.ranking(5))
        assert dict(matplotlib.rcParams) == before
    assert large.get_size_inches().tolist() == plots.plot(made.ranking(5)).get_size_inches().tolist()


def test_figures_are_figures_and_pyplot_is_not_touched() -> None:
    assert isinstance(plots.plot(made.indicator(5)), Figure)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []
