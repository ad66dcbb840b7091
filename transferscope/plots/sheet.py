"""A sheet of axes at places in inches; when it is finished, the canvas grows until it holds everything on it.

So names of any length are never cut: whatever sticks out of the axes makes the figure larger, not the axes
smaller.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from transferscope.plots.style import DPI, LARGE, NORMAL, SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

INCH = 72.0  # points
_WORKING = 10.0  # inches, of the canvas while it is drawn on
_MARGIN = 0.12
_NARROWEST = 4.0
_GAP = 0.1


class Sheet:
    """A figure under construction. Places are inches from the top left corner, downwards."""

    def __init__(self) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.figure: Figure = Figure(figsize=(_WORKING, _WORKING), dpi=DPI)
        self._canvas = FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float, **options: Any) -> Axes:
        """New axes at this place."""
        box = (left, _WORKING - top - height, width, height)
        return self.figure.add_axes(tuple(x / _WORKING for x in box), **options)  # type: ignore[arg-type]

    def text_width(self, texts: Iterable[str], size: float = SMALL) -> float:
        """The widest of some texts (or of their lines), in inches."""
        from matplotlib.font_manager import FontProperties

        font, renderer = FontProperties(size=size), self._canvas.get_renderer()
        lines = [line for text in texts for line in text.split("\n") if line]
        return (
            max((renderer.get_text_width_height_descent(x, font, False)[0] for x in lines), default=0) / DPI
        )

    def wrapped(self, text: str, width: float, size: float) -> str:
        """A text in lines of at most this width in inches, broken at spaces (a longer word is left whole)."""
        lines = [""]
        for word in text.split(" "):
            longer = f"{lines[-1]} {word}" if lines[-1] else word
            if lines[-1] and self.text_width([longer], size) > width:
                lines.append(word)
            else:
                lines[-1] = longer
        return "\n".join(lines)

    def finish(self, title: str, notes: Sequence[str] = ()) -> Figure:
        """The figure, with a title above and notes below, as large as what is on it."""
        figure = self.figure
        box = figure.get_tightbbox(self._canvas.get_renderer())
        width = max(box.width, _NARROWEST)
        head = self._text(self.wrapped(title, width, LARGE), LARGE, weight="bold", va="top")
        foot = self._text("\n".join(self.wrapped(n, width, SMALL) for n in notes), SMALL, va="bottom")
        above, below = (self._extent(text)[1] + (_GAP if text.get_text() else 0) for text in (head, foot))
        width = max(width, self._extent(head)[0], self._extent(foot)[0])
        size = (width + 2 * _MARGIN, box.height + above + below + 2 * _MARGIN)
        self._move(_MARGIN - box.x0, _MARGIN + below - box.y0, size)
        head.set_position((_MARGIN / size[0], 1 - _MARGIN / size[1]))
        foot.set_position((_MARGIN / size[0], _MARGIN / size[1]))
        figure.set_label(title)
        return figure

    def _text(self, text: str, size: float, **options: Any) -> Text:
        return self.figure.text(0, 0, text, fontsize=size, ha="left", **options)

    def _extent(self, text: Text) -> tuple[float, float]:
        if not text.get_text():
            return 0.0, 0.0
        box = text.get_window_extent(self._canvas.get_renderer())
        return box.width / DPI, box.height / DPI

    def _move(self, right: float, up: float, size: tuple[float, float]) -> None:
        """Axes keep their size in inches on a canvas of another size, and are moved on it."""
        places = []
        for axes in self.figure.axes:
            x, y, width, height = (part * _WORKING for part in axes.get_position(original=True).bounds)
            places.append((axes, (x + right, y + up, width, height)))
        self.figure.set_size_inches(*size)
        for axes, (x, y, width, height) in places:
            axes.set_position((x / size[0], y / size[1], width / size[0], height / size[1]))


def row_height(size: float = SMALL) -> float:
    """Inches from one line of names to the next, such that they do not touch."""
    return size * 1.5 / INCH


def name_rows(axes: Axes, names: Sequence[str], size: float = SMALL) -> None:
    """Names at 0, 1, ... down the left side."""
    axes.set_yticks(range(len(names)), labels=list(names), fontsize=size)
    axes.tick_params(axis="y", length=0)


def name_columns(
    sheet: Sheet, axes: Axes, names: Sequence[str], pitch: float, size: float = SMALL, top: bool = False
) -> None:
    """Names at 0, 1, ... along one side; upright where they are wider than `pitch` inches."""
    level = sheet.text_width(names, size) < pitch - 0.06
    axes.set_xticks(range(len(names)), labels=list(names), fontsize=size, rotation=0 if level else 90)
    axes.tick_params(axis="x", length=0, top=top, labeltop=top, bottom=not top, labelbottom=not top)


def legend(axes: Axes, handles: Sequence[Any], names: Sequence[str], title: str = "") -> None:
    """A legend to the right of the axes; handles and names are given, so that no name is left out."""
    axes.legend(
        list(handles),
        list(names),
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0.4,
        title=title or None,
        title_fontsize=SMALL,
        alignment="left",
        handlelength=2.8,
    )


__all__ = ["INCH", "NORMAL", "Sheet", "legend", "name_columns", "name_rows", "row_height"]
