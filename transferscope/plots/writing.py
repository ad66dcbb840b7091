"""A figure as a file: png, svg or pdf, the same bytes for the same figure, written whole or not at all."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

from transferscope import store
from transferscope.errors import InputError, suggest
from transferscope.plots.style import DPI, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What each format would write of its own accord about when and by what it was made.
_SILENT: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
ENDINGS = tuple(_SILENT)
_LARGEST = 60_000  # pixels along a side; the drawing library stops at 65 536


def checked_ending(path: str | os.PathLike[str]) -> str:
    """The format that a file name asks for. Raises InputError, which lists what is allowed."""
    found = os.path.splitext(os.fspath(path))[1].removeprefix(".").lower()
    if found not in ENDINGS:
        what = f"the ending .{found}" if found else "no ending"
        raise InputError(f"{os.fspath(path)}: a plot with {what}. {suggest(found, ENDINGS)}")
    return found


def render(figure: Figure, format_: str) -> bytes:
    """The figure as the bytes of a file. Raises InputError for an unknown format."""
    if format_ not in ENDINGS:
        raise InputError(f"no plot format {format_!r}. {suggest(format_, ENDINGS)}")
    metadata = {**_SILENT[format_], "Title": str(figure.get_label()) or None}
    page = io.BytesIO()
    dpi = min(DPI, _LARGEST / max(figure.get_size_inches()))
    with styled():
        figure.savefig(page, format=format_, metadata=metadata, dpi=dpi)
    return page.getvalue()


def write(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure atomically; the file's ending says the format. Raises InputError for another ending."""
    store.write_bytes(path, render(figure, checked_ending(path)))
