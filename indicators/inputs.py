"""What an indicator accepts: arrays are checked once here, with errors that name shapes and places.

Letters: P prompt rows, D hidden size, L layers, N neurons a layer, C binary subtasks, S examples, A
anchors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
ArrayLike = npt.ArrayLike


class InvalidInput(ValueError):
    """An array or an option that an indicator cannot use."""


def prompts(items: Sequence[ArrayLike], side: str) -> list[Float]:
    """Each prompt as float64 [P, D]; `side` ("source", "target") is how errors call it."""
    return [
        np.asarray(numbers(item, _label("prompt", side, i, items), "P, D", (2,)), float)
        for i, item in enumerate(items)
    ]


def stimulations(items: Sequence[ArrayLike], side: str) -> list[Array]:
    """Each stimulation as it came, [L, N], of any real or boolean dtype."""
    return [
        numbers(item, _label("stimulation", side, i, items), "L, N", (2,)) for i, item in enumerate(items)
    ]


def predictivities(items: Sequence[ArrayLike], side: str) -> list[Float]:
    """Each predictivity as float64 [C, L, N]; [L, N] becomes C = 1. NaN (undefined) is allowed."""
    return [predictivity(item, _label("predictivity", side, i, items)) for i, item in enumerate(items)]


def predictivity(item: ArrayLike, label: str = "predictivity") -> Float:
    """One predictivity as float64 [C, L, N]."""
    array = np.asarray(numbers(item, label, "L, N] or [C, L, N", (2, 3), nan=True), float)
    return array if array.ndim == 3 else array[None]


def tables(
    items: Sequence[ArrayLike],
    side: str,
    what: str,
    axes: str = "L, N",
    *,
    low: float = -np.inf,
    high: float = np.inf,
    dims: tuple[int, ...] = (2,),
) -> list[Float]:
    """Each array as float64 with the given number of axes; InvalidInput where an entry is not in [low, high].

    `what` ("firing", "inputs", ...) and `axes` are how errors call it.
    """
    arrays = []
    for i, item in enumerate(items):
        label = _label(what, side, i, items)
        array = np.asarray(numbers(item, label, axes, dims), float)
        outside = (array < low) | (array > high)
        if outside.any():
            place = tuple(int(j) for j in np.argwhere(outside)[0])
            raise InvalidInput(
                f"{label} holds {array[place]} at {list(place)}: {_range(low, high)} are needed"
            )
        arrays.append(array)
    return arrays


def integers(item: ArrayLike, label: str, axes: str = "S") -> Array:
    """A vector of whole numbers (class ids, token ids) as int64. InvalidInput for other types, floats too."""
    array = numbers(item, label, axes, (1,))
    if array.dtype.kind not in "iu":
        raise InvalidInput(f"{label} holds {array.dtype}: integers are needed")
    return array.astype(np.int64)


def same_examples(sources: Sequence[Array], targets: Sequence[Array], what: str) -> None:
    """InvalidInput unless all arrays [L, S, D] agree in L and S: the same inputs through the same layers."""
    _same(sources, targets, what, slice(0, 2), "the layers L and the examples S of [L, S, D] must agree")


def same_layers(sources: Sequence[Array], targets: Sequence[Array], what: str) -> None:
    """InvalidInput unless all arrays agree in their first axis."""
    _same(sources, targets, what, slice(0, 1), "the layers must agree")


def same_width(sources: Sequence[Array], targets: Sequence[Array], what: str) -> None:
    """InvalidInput unless all arrays agree in their last axis (prompts of one backbone)."""
    _same(sources, targets, what, slice(-1, None), "the last axis must agree")


def same_shape(sources: Sequence[Array], targets: Sequence[Array], what: str) -> None:
    """InvalidInput unless all arrays agree in their last two axes."""
    _same(sources, targets, what, slice(-2, None), "the shapes must agree")


def choice(value: str, option: str, allowed: tuple[str, ...]) -> None:
    """InvalidInput unless the option's value is one of those allowed."""
    if value not in allowed:
        raise InvalidInput(f"{option}={value!r}: allowed are {', '.join(map(repr, allowed))}")


def numbers(item: ArrayLike, label: str, axes: str, dims: tuple[int, ...], nan: bool = False) -> Array:
    """A non-empty array of finite real numbers or booleans with one of `dims` axes; InvalidInput otherwise.

    `label` and `axes` ("P, D") are how errors call it; `nan` allows NaN.
    """
    array = np.asarray(item)
    if array.dtype.kind not in "fiub":
        raise InvalidInput(f"{label} holds {array.dtype}: real numbers or booleans are needed")
    if array.ndim not in dims or array.size == 0:
        raise InvalidInput(f"{label} is {list(array.shape)}: a non-empty array [{axes}] is needed")
    if array.dtype.kind != "f":
        return array
    bad = np.isinf(array) if nan else ~np.isfinite(array)
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InvalidInput(
            f"{label} holds {array[place]} at {list(place)} ({int(bad.sum())} such values of {array.size})"
        )
    return array


def _same(sources: Sequence[Array], targets: Sequence[Array], what: str, axes: slice, rule: str) -> None:
    if len({item.shape[axes] for side in (sources, targets) for item in side}) <= 1:
        return
    for i, source in enumerate(sources):
        for j, target in enumerate(targets):
            if source.shape[axes] != target.shape[axes]:
                left, right = _label(what, "source", i, sources), _label(what, "target", j, targets)
                raise InvalidInput(
                    f"{left} is {list(source.shape)} and {right} is {list(target.shape)}: {rule}"
                )


def _label(what: str, side: str, index: int, items: Sequence[Any]) -> str:
    """ "source prompt", or "source prompt 3" where there are several."""
    return f"{side} {what} {index}" if len(items) > 1 else f"{side} {what}"


_numbers = numbers


def _range(low: float, high: float) -> str:
    return f"numbers of at least {low:g}" if np.isinf(high) else f"numbers from {low:g} to {high:g}"
