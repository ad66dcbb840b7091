"""What the similarities of representations share: layers, centred columns, all pairs of tasks.

A representation is [S, D]: the hidden states of the same S inputs through a prompt (or a model), one input a
row; or [L, S, D], one for each layer. The two sides may differ in D. An indicator is a `prepare`, done once
for each task and layer, and a `value` of two prepared tasks; over layers it is the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from indicators.inputs import ArrayLike, Float, InvalidInput, same_examples, tables
from indicators.kernels import both

Prepared = TypeVar("Prepared")

ROUNDING = 64 * float(np.finfo(np.float64).eps)  # a share of the peak: what varies by less does not vary

LAYERS = "of [L, S, D] the mean over layers"
UNDEFINED = "layers where it is undefined are left out of the mean; NaN where all are"


def all_pairs(
    sources: Sequence[ArrayLike],
    targets: Sequence[ArrayLike],
    layer: int | None,
    prepare: Callable[[Float], Prepared],
    value: Callable[[Prepared, Prepared], float],
    *,
    least: int = 2,
    symmetric: bool = True,
) -> Float:
    """Values [sources, targets] by `value(prepare(source), prepare(target))`, averaged over layers.

    One layer is in memory at a time. NaN stands for a layer that has no value. Raises InvalidInput (not the
    same examples or layers, fewer than `least` examples, no such layer).
    """
    left, right = both(representations, sources, targets)
    same_examples(left, right, "representation")
    _enough(left[0], least)
    total, number = np.zeros((2, len(left), len(right)))
    for index in chosen(layer, len(left[0])):
        rows = [prepare(item[index]) for item in left]
        columns = rows if right is left else [prepare(item[index]) for item in right]
        values = _values(rows, columns, value, symmetric)
        total += np.where(np.isnan(values), 0.0, values)
        number += ~np.isnan(values)
    return np.asarray(np.where(number > 0, total / np.maximum(number, 1), np.nan))


def representations(items: Sequence[ArrayLike], side: str) -> list[Float]:
    """Each representation as float64 [L, S, D]; [S, D] becomes L = 1."""
    try:
        arrays = tables(items, side, "representation", "S, D] or [L, S, D", dims=(2, 3))
    except InvalidInput:
        raise
    except ValueError as error:  # numpy's, of lists that are no array
        raise InvalidInput(
            f"a {side} representation has layers or rows of different lengths: [S, D] or [L, S, D] is needed"
        ) from error
    return [array if array.ndim == 3 else array[None] for array in arrays]


def chosen(layer: int | None, layers: int) -> Sequence[int]:
    """The layers to average: all, or the one that is asked for. Raises InvalidInput where it is not there."""
    if layer is None:
        return range(layers)
    if isinstance(layer, bool) or layer not in range(layers):
        raise InvalidInput(f"layer={layer!r} is asked for: there are the layers 0..{layers - 1}")
    return (int(layer),)


def scaled(x: Float) -> Float:
    """x by a power of two, so that its largest entry is near 1: no square overflows, no digit is lost."""
    return np.asarray(np.ldexp(x, -int(np.frexp(np.abs(x).max())[1])))


def centred(x: Float) -> Float:
    """The columns of x [S, D], `scaled`, less their means; exactly 0 where a column is constant."""
    x = scaled(x)
    rest = x - x.mean(axis=0)
    constant = np.abs(rest).max(axis=0) <= ROUNDING * np.abs(x).max(axis=0)
    return np.asarray(np.where(constant, 0.0, rest))


def standardised(x: Float) -> Float:
    """The columns of x [S, D] with mean 0 and standard deviation 1; 0 where a column is constant."""
    rest = centred(x)
    peak = np.abs(rest).max(axis=0)
    rest = rest / np.where(peak > 0, peak, 1.0)  # first, since the square of a small column would vanish
    deviation = np.sqrt((rest * rest).mean(axis=0))
    return np.asarray(rest / np.where(deviation > 0, deviation, 1.0))


def _values(
    rows: Sequence[Prepared],
    columns: Sequence[Prepared],
    value: Callable[[Prepared, Prepared], float],
    symmetric: bool,
) -> Float:
    values = np.empty((len(rows), len(columns)))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            known = symmetric and columns is rows and j < i
            values[i, j] = values[j, i] if known else value(row, column)
    return values


def _enough(first: Float, least: int) -> None:
    if first.shape[1] < least:
        raise InvalidInput(
            f"the representations hold {first.shape[1]} examples (the rows of [S, D]): "
            f"at least {least} are needed"
        )
