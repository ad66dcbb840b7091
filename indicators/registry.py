"""The registry: one frozen record per indicator holds all that code, tests and documentation ask about it.

Two calling conventions; options are keyword-only. "pair": for each need in order, the source's array, then
the target's: `function(source, target)`, with two needs `function(source_a, target_a, source_b, target_b)`.
"score": the needs in order, once, since they are of the target's data under the source's prompt:
`function(features, labels)`.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from inspect import cleandoc
from typing import Any, Literal, Required, TypedDict, TypeVar, Unpack

import numpy as np

from indicators.inputs import Float, InvalidInput

F = TypeVar("F", bound=Callable[..., float])
Scale = Literal["each", "both", "distance", "value", "none"]
Convention = Literal["pair", "score"]


class UnknownIndicator(ValueError):
    """No indicator has this name; the message has the nearest names and says where the list is."""


@dataclass(frozen=True, kw_only=True)
class Indicator:
    """What is known of one indicator.

    `needs` names the arrays of each task that it reads ("prompt" [P, D], "stimulation" [L, N], "predictivity"
    [L, N] or [C, L, N]). `self_value` is the value of a task with itself (None: it depends on the task) and
    `zero_value` the value when every array is zero.
    """

    name: str
    function: Callable[..., float]
    needs: tuple[str, ...]
    family: str
    symmetric: bool
    bounds: tuple[float, float]
    higher_is_closer: bool = True
    chance: str
    self_value: float | None
    zero_value: float
    degenerate: str
    formula: str
    source: str
    requires_equal_rows: bool
    # "free": the rows of each side may be reordered alone; "aligned": only together; "ordered": not at all.
    rows: Literal["free", "aligned", "ordered"]
    # A positive factor on "each" side alone, or on "both", changes nothing; "distance": on 1/value - 1;
    # "value": the value is multiplied by it; "none": it may change everything.
    scale: Scale
    convention: Convention = "pair"
    pairwise: Callable[..., Float] | None = None
    template: str | None = None
    example: str | None = None
    pattern: str | None = None
    accepts: Callable[..., bool] | None = None

    def value(self, source: Any, target: Any, **options: Any) -> float:
        """The raw value of one pair. A task is its array, or a tuple in the order of several `needs`.

        Of a "score", `source` and `target` are what the needs name (features and labels, say).
        """
        if self.convention == "score":
            return self.function(*(source, target)[: len(self.needs)], **options)
        if len(self.needs) == 1:
            return self.function(source, target, **options)
        self.check_tasks([source], [target])
        return self.function(
            *(array for pair in zip(source, target, strict=True) for array in pair), **options
        )

    def check_tasks(self, sources: Sequence[Any], targets: Sequence[Any]) -> None:
        """InvalidInput unless each task is a tuple of one array per need, where there are several needs."""
        for side, tasks in ("source", sources), ("target", targets):
            for index, task in enumerate(tasks if len(self.needs) > 1 else ()):
                if not isinstance(task, tuple) or len(task) != len(self.needs):
                    wanted = f"a tuple ({', '.join(self.needs)})"
                    raise InvalidInput(f"{self.name} needs {wanted} for each task: {side} {index} is not one")


_RECORDS: dict[str, Indicator] = {}
_TEMPLATES: dict[str, Indicator] = {}


class Facts(TypedDict, total=False):
    """What is told of an indicator where it is defined; each is the field of `Indicator` of this name."""

    symmetric: Required[bool]
    bounds: Required[tuple[float, float]]
    chance: Required[str]
    self_value: Required[float | None]
    zero_value: Required[float]
    degenerate: Required[str]
    formula: Required[str]
    source: Required[str]
    requires_equal_rows: Required[bool]
    rows: Required[Literal["free", "aligned", "ordered"]]
    scale: Required[Scale]
    convention: Convention
    higher_is_closer: bool
    pairwise: Callable[..., Float] | None
    pattern: str | None
    example: str | None
    accepts: Callable[..., bool] | None


def indicator(
    name: str, *, needs: str | tuple[str, ...], family: str | None = None, **facts: Unpack[Facts]
) -> Callable[[F], F]:
    """Register the decorated function under `name` and complete its docstring with the facts given here.

    A parametric indicator has a name with capitals for its parameters, a regular expression `pattern` whose
    named groups are integer keyword arguments of the function, an `example` name, `accepts(**parameters)`.
    The family is the module's name unless it is given.
    """

    def register(function: F) -> F:
        record = Indicator(
            name=name,
            function=function,
            needs=(needs,) if isinstance(needs, str) else needs,
            family=family or function.__module__.rpartition(".")[2],
            template=name if facts.get("pattern") else None,
            **facts,
        )
        _add(record)
        function.__doc__ = _documentation(record)
        return function

    return register


def get(name: str) -> Indicator:
    """The record called `name`; parametric names such as `on_layers_3_6` too. Raises UnknownIndicator."""
    if name in _RECORDS:
        return _RECORDS[name]
    for template in _TEMPLATES.values():
        if found := re.fullmatch(template.pattern or "", name):
            return _bound(template, name, {key: int(value) for key, value in found.groupdict().items()})
    near = difflib.get_close_matches(name, [*_RECORDS, *_TEMPLATES], n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    where = f"indicators.names() lists all, beside the parametric {', '.join(_TEMPLATES)}"
    raise UnknownIndicator(f"unknown indicator {name!r}.{hint} {where}.")


def records() -> tuple[Indicator, ...]:
    """Every indicator that has a fixed name."""
    return tuple(_RECORDS.values())


def parametric() -> tuple[Indicator, ...]:
    """The templates of parametric names: each has an `example` that `get` resolves."""
    return tuple(_TEMPLATES.values())


def names(*, needs: str | Iterable[str] | None = None, symmetric: bool | None = None) -> tuple[str, ...]:
    """The fixed names; with `needs`, those that can be computed from these arrays alone.

    >>> names(needs="stimulation")
    ('on', 'on_raw', 'on_jaccard')
    """
    have = {needs} if isinstance(needs, str) else None if needs is None else set(needs)
    return tuple(
        record.name
        for record in _RECORDS.values()
        if (have is None or have.issuperset(record.needs)) and symmetric in (None, record.symmetric)
    )


def matrix(name: str, sources: Sequence[Any], targets: Sequence[Any] | None = None, **options: Any) -> Float:
    """Raw values of all pairs, float64 [sources, targets]; without `targets` they are the sources.

    A task is its array, or a tuple of arrays in the order of `needs` where an indicator needs several. A
    "score" has no such matrix (its input is of a pair): InvalidInput.

    >>> matrix("on", [[[1.0, -1.0]], [[2.0, 3.0]]]).round(3).tolist()
    [[1.0, 0.707], [0.707, 1.0]]
    """
    record = get(name)
    same = targets is None or targets is sources
    if record.convention == "score":
        raise InvalidInput(f"{name} is a score of one pair's {' and '.join(record.needs)}: call its function")
    columns = sources if targets is None else targets
    if not len(sources) or not len(columns):
        return np.zeros((len(sources), len(columns)))
    record.check_tasks(sources, columns)
    if record.pairwise:
        return record.pairwise(sources, columns, **options)
    values = np.empty((len(sources), len(columns)))
    for i, source in enumerate(sources):
        for j, target in enumerate(columns):
            if same and record.symmetric and j < i:
                values[i, j] = values[j, i]
                continue
            try:
                values[i, j] = record.value(source, target, **options)
            except InvalidInput as error:
                raise InvalidInput(f"{name}, source {i} and target {j}: {error}") from error
    return values


def _add(record: Indicator) -> None:
    known = _RECORDS.get(record.name) or _TEMPLATES.get(record.name)
    if known and known.function.__module__ != record.function.__module__:
        raise ValueError(f"indicator {record.name!r} is defined in {known.function.__module__} already")
    (_TEMPLATES if record.pattern else _RECORDS)[record.name] = record


def _bound(template: Indicator, name: str, parameters: dict[str, int]) -> Indicator:
    if template.accepts and not template.accepts(**parameters):
        raise UnknownIndicator(f"{name!r} does not fit {template.name}: {template.formula}.")
    function = functools.partial(template.function, **parameters)
    pairwise = functools.partial(template.pairwise, **parameters) if template.pairwise else None
    functools.update_wrapper(function, template.function)
    return replace(template, name=name, function=function, pairwise=pairwise)


def _documentation(record: Indicator) -> str:
    low, high = record.bounds
    direction = "larger" if record.higher_is_closer else "smaller"
    symmetry = "symmetric" if record.symmetric else "not symmetric"
    symmetry = "of a source on a target" if record.convention == "score" else symmetry
    return (
        f"{cleandoc(record.function.__doc__ or '')}\n\n"
        f"Formula: {record.formula}.\n"
        f"Range [{low:g}, {high:g}]; {direction} means closer; {symmetry}; by chance {record.chance}.\n"
        f"Degenerate: {record.degenerate}.\n"
        f"Source: {record.source}.\n"
    )
