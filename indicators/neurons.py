"""Indicators on stimulations: which FFN neurons [L, N] each prompt activates on an empty input.

A neuron is active where its stimulation is above 0. For a gated FFN pass `gate > 0` instead, as booleans.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from indicators.inputs import Array, ArrayLike, Float, InvalidInput, choice, same_shape, stimulations
from indicators.kernels import both, counts, jaccard, ochiai, unit
from indicators.predictivity import skill_mask
from indicators.registry import indicator

__all__ = ["layer_groups", "on", "on_jaccard", "on_layers", "on_raw", "on_raw_layers", "skill_mask"]

SU = "Su et al., NAACL 2022, transferability indicators"


def _on_pairs(sources: Sequence[ArrayLike], targets: Sequence[ArrayLike]) -> Float:
    return ochiai(*_counts(*_checked(sources, targets)))


@indicator(
    "on",
    needs="stimulation",
    symmetric=True,
    bounds=(0.0, 1.0),
    chance="sqrt(p q) for independent neurons active at rates p and q: about .5 where half are active",
    self_value=1.0,
    zero_value=0.0,
    degenerate="0 where a prompt activates no neuron",
    formula="|A and B| / sqrt(|A| |B|), the cosine of the binary vectors A = [a > 0] and B = [b > 0]",
    source=f"{SU}: overlap rate of activated neurons, over the whole network as in their code",
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
    pairwise=_on_pairs,
)
def on(source: ArrayLike, target: ArrayLike) -> float:
    """Overlap of activated neurons (ON) of two stimulations [L, N], real or boolean.

    >>> on([[0.2, -0.1], [1.5, 0.0]], [[0.3, 0.1], [-1.0, 0.0]])
    0.5
    """
    return float(_on_pairs([source], [target])[0, 0])


def _on_layers_pairs(
    sources: Sequence[ArrayLike], targets: Sequence[ArrayLike], *, first: int, stop: int
) -> Float:
    left, right = _checked(sources, targets)
    if not 0 <= first < stop <= len(left[0]):
        raise InvalidInput(
            f"layers {first}..{stop - 1} are asked for: the network has layers 0..{len(left[0]) - 1}"
        )
    return ochiai(*_counts(*both(lambda items, _: [item[first:stop] for item in items], left, right)))


@indicator(
    "on_layers_A_B",
    needs="stimulation",
    symmetric=True,
    bounds=(0.0, 1.0),
    chance="sqrt(p q) for independent neurons active at rates p and q in these layers",
    self_value=1.0,
    zero_value=0.0,
    degenerate="0 where a prompt activates no neuron of these layers",
    formula="`on` over the layers A, ..., B-1 alone, 0 <= A < B <= L",
    source=f"{SU}: ON by groups of three layers (see `layer_groups`)",
    requires_equal_rows=True,
    rows="ordered",
    scale="each",
    pairwise=_on_layers_pairs,
    pattern=r"on_layers_(?P<first>\d+)_(?P<stop>\d+)",
    example="on_layers_1_3",
    accepts=lambda first, stop: first < stop,
)
def on_layers(source: ArrayLike, target: ArrayLike, *, first: int, stop: int) -> float:
    """Overlap of activated neurons of two stimulations [L, N] in the layers first..stop-1.

    >>> on_layers([[-1.0, 1.0], [1.0, -1.0]], [[1.0, 1.0], [1.0, -1.0]], first=1, stop=2)
    1.0
    """
    return float(_on_layers_pairs([source], [target], first=first, stop=stop)[0, 0])


def layer_groups(layers: int, size: int = 3) -> tuple[str, ...]:
    """The `on_layers_A_B` names that cut `layers` layers into groups of `size`; the last one may be short.

    >>> layer_groups(7)
    ('on_layers_0_3', 'on_layers_3_6', 'on_layers_6_7')
    """
    if layers < 1 or size < 1:
        raise InvalidInput(f"layers={layers}, size={size}: both must be at least 1")
    return tuple(f"on_layers_{first}_{min(first + size, layers)}" for first in range(0, layers, size))


def on_raw_layers(source: ArrayLike, target: ArrayLike) -> Float:
    """Cosine of the raw stimulations [L, N] of each layer, float64 [L]; 0 in a layer that is all zero.

    >>> on_raw_layers([[3.0, 0.0], [0.0, 0.0]], [[4.0, 3.0], [1.0, 1.0]]).round(6).tolist()
    [0.8, 0.0]
    """
    (left,), (right,) = _checked([source], [target])
    cosines = (unit(np.asarray(left, float)) * unit(np.asarray(right, float))).sum(axis=1)
    return np.asarray(np.clip(cosines, -1.0, 1.0))


def _on_raw_pairs(sources: Sequence[ArrayLike], targets: Sequence[ArrayLike], *, by: str = "layer") -> Float:
    choice(by, "by", ("layer", "network"))
    left, right = (_directions(side, by) for side in _checked(sources, targets))
    return np.clip(left @ right.T, -1.0, 1.0)


@indicator(
    "on_raw",
    needs="stimulation",
    symmetric=True,
    bounds=(-1.0, 1.0),
    chance="that of the activation function: well above 0, since idle neurons share a small negative value",
    self_value=1.0,
    zero_value=0.0,
    degenerate="a layer that is all zero counts as 0",
    formula="mean over layers of cos(a_l, b_l), values as they are; by='network': cos(vec a, vec b)",
    source=f"{SU}, version 2 of the code: one cosine per layer (`on_raw_layers`), here averaged",
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
    pairwise=_on_raw_pairs,
)
def on_raw(source: ArrayLike, target: ArrayLike, *, by: str = "layer") -> float:
    """Cosine of two raw stimulations [L, N], not binarised: another indicator than `on`.

    >>> round(on_raw([[3.0, 0.0], [1.0, 0.0]], [[4.0, 3.0], [0.0, 1.0]]), 6)
    0.4
    """
    return float(_on_raw_pairs([source], [target], by=by)[0, 0])


def _on_jaccard_pairs(sources: Sequence[ArrayLike], targets: Sequence[ArrayLike]) -> Float:
    return jaccard(*_counts(*_checked(sources, targets)))


@indicator(
    "on_jaccard",
    needs="stimulation",
    symmetric=True,
    bounds=(0.0, 1.0),
    chance="p / (2 - p) for independent neurons active at rate p: about 1/3 where half are active",
    self_value=1.0,
    zero_value=0.0,
    degenerate="0 where neither prompt activates a neuron",
    formula="|A and B| / |A or B| with A = [a > 0] and B = [b > 0]",
    source=f"own: the Jaccard index in place of the cosine in ON ({SU})",
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
    pairwise=_on_jaccard_pairs,
)
def on_jaccard(source: ArrayLike, target: ArrayLike) -> float:
    """Jaccard index of the activated neurons of two stimulations [L, N], real or boolean.

    >>> round(on_jaccard([[0.2, -0.1], [1.5, 0.0]], [[0.3, 0.1], [-1.0, 0.0]]), 6)
    0.333333
    """
    return float(_on_jaccard_pairs([source], [target])[0, 0])


def _checked(sources: Sequence[ArrayLike], targets: Sequence[ArrayLike]) -> tuple[list[Array], list[Array]]:
    left, right = both(stimulations, sources, targets)
    same_shape(left, right, "stimulation")
    return left, right


def _counts(sources: list[Array], targets: list[Array]) -> tuple[Float, Float, Float]:
    return counts(*both(lambda items, _: [item > 0 for item in items], sources, targets))


def _directions(items: list[Array], by: str) -> Float:
    """One vector per stimulation whose inner products are the cosines asked for, [items, L N]."""
    arrays = [np.asarray(item, float) for item in items]
    if by == "network":
        return np.stack([unit(array.ravel()) for array in arrays])
    return np.stack([unit(array).ravel() / np.sqrt(len(array)) for array in arrays])
