"""Which plots there are: a function from a record to a figure, registered by the record's type and a kind.

Adding a plot is a file in this folder with one decorated function:

    @plotter(Ranking, "ranking")
    def ranking_plot(record: Ranking) -> Figure: ...

The first kind of a type is its default. A list of records goes by its elements' type.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from transferscope.errors import InputError, suggest
from transferscope.plots.style import styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

F = TypeVar("F", bound=Callable[..., "Figure"])

_PLOTS: dict[type, dict[str, Callable[..., Figure]]] = {}


def plotter(*records: type, kind: str) -> Callable[[F], F]:
    """Register a function from any of these records to a figure; it runs in the package's style."""

    def add(function: F) -> F:
        @functools.wraps(function)
        def drawn(*args: Any, **options: Any) -> Figure:
            with styled():
                return function(*args, **options)

        for record in records:
            _PLOTS.setdefault(record, {})[kind] = drawn
        return cast(F, drawn)

    return add


def pairs() -> list[tuple[str, str]]:
    """(record type, kind) of all plots, sorted."""
    return sorted((record.__name__, kind) for record, several in _PLOTS.items() for kind in several)


def kinds(record: Any) -> tuple[str, ...]:
    """The kinds of plots of a record (or a list, or a type), the default first; () if there are none."""
    return tuple(_PLOTS.get(_type(record), {}))


def plot(
    record: Any, kind: str | None = None, *, types: Mapping[str, str] | None = None, **options: Any
) -> Figure:
    """A record as a figure; `kind` None: the default one.

    `types` (task -> type) is given to the plots that can use it; `options` are the plot's own. Raises
    InputError: no plot of such a record, an unknown kind, nothing to draw, or no matplotlib.
    """
    name = _type(record).__name__
    if isinstance(record, list | tuple) and not record:
        raise InputError("there is nothing to draw: the list of records is empty")
    several = _PLOTS.get(_type(record))
    if not several:
        raise InputError(f"there is no plot of a {name}. {suggest(name, {one for one, _ in pairs()})}")
    if kind is not None and kind not in several:
        raise InputError(f"a {name} has no plot {kind!r}. {suggest(kind, several)}")
    function = several[kind or next(iter(several))]
    if types is not None and "types" in inspect.signature(function).parameters:
        options["types"] = types
    return function(record, **options)


def _type(record: Any) -> type:
    if isinstance(record, type):
        return record
    return type(record[0]) if isinstance(record, list | tuple) and record else type(record)
