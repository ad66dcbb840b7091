"""How plots look: colours that are safe for colour-blind people, markers, line styles, sizes."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from transferscope.errors import InputError

# Okabe and Ito 2008, "Color universal design"; yellow last, as it is weak on white.
BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PURPLE, SKY, BLACK, YELLOW = "#CC79A7", "#56B4E9", "#000000", "#F0E442"
COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK, YELLOW)
# Seven, nine and five: with eight colours a pair repeats only after 56 or 72 groups.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h", "*")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
GREY, PALE = "#555555", "#D9D9D9"

SEQUENTIAL, DIVERGING = "cividis", "PuOr_r"
DPI = 100
SMALL, NORMAL, LARGE = 7.5, 9.0, 11.0  # points

_SETTINGS: dict[str, Any] = {
    "font.size": NORMAL,
    "axes.titlesize": NORMAL,
    "axes.labelsize": NORMAL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-4, 5),
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # a name with two dollar signs is a name, not a formula
    "svg.hashsalt": "transferscope",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
}


@dataclass(frozen=True)
class Look:
    """How one of several groups or lines is drawn."""

    colour: str
    marker: str
    line: Any


def look(i: int) -> Look:
    """The look of the i-th group: neighbours differ in colour, marker and line style."""
    return Look(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], LINES[i % len(LINES)])


def require_matplotlib() -> None:
    """Raises InputError, which names the extra, where matplotlib is not there."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError(
            "plots need matplotlib, which is not installed: pip install 'transferscope[plot]' "
            "(or pip install matplotlib)"
        )


@contextmanager
def styled() -> Iterator[None]:
    """These settings while a block runs, whatever the user's own are, and the user's again after it."""
    require_matplotlib()
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(cast(Any, _SETTINGS))
        yield
