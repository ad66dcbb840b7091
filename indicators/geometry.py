"""Geometry of two representations [S, D] of the same inputs: distances between examples, rotations, means."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from indicators.inputs import ArrayLike, Float, InvalidInput, same_layers, same_width
from indicators.kernels import average_ranks, both, unit
from indicators.registry import indicator
from indicators.representations import (
    LAYERS,
    UNDEFINED,
    all_pairs,
    centred,
    representations,
    scaled,
    standardised,
)

FAMILY = "representations"
DIGITS = 12  # distances that differ by less are a tie: rounding alone parts them
VANISHES = 1e-12

STANDARD = "features standardised over the examples first (`standardise`)"


def _rsa_pairs(
    sources: Sequence[ArrayLike],
    targets: Sequence[ArrayLike],
    *,
    standardise: bool = True,
    layer: int | None = None,
) -> Float:
    prepare = standardised if standardise else scaled
    return all_pairs(sources, targets, layer, lambda x: rdm_ranks(prepare(x)), _defined, least=3)


@indicator(
    "rsa",
    family=FAMILY,
    needs="representation",
    symmetric=True,
    bounds=(-1.0, 1.0),
    chance="0",
    self_value=1.0,
    zero_value=float("nan"),
    degenerate=(
        "an example that is the same in all features correlates 0 with every other; undefined where all "
        f"distances are equal; {UNDEFINED}"
    ),
    formula=(
        "Spearman correlation (ties to 12 digits) of the S (S - 1) / 2 distances 1 - Pearson(x_i, x_j) with "
        f"those of y; {STANDARD}; {LAYERS}"
    ),
    source=(
        "Kriegeskorte et al., Frontiers in Systems Neuroscience 2008; Dwivedi & Roig, CVPR 2019; "
        "standardised as in the code of Bolya et al., NeurIPS 2021 (PARC)"
    ),
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
    pairwise=_rsa_pairs,
)
def rsa(source: ArrayLike, target: ArrayLike, *, standardise: bool = True, layer: int | None = None) -> float:
    """Representational similarity analysis, [S, D1] and [S, D2], or [L, S, D] each; at least 3 examples.

    standardise=False correlates the features as they are. `layer` takes one layer instead of the mean.

    >>> x = [[0.0, 1.0, 2.0], [1.0, 0.0, 3.0], [2.0, 2.0, 0.0], [0.0, 3.0, 1.0]]
    >>> round(rsa(x, [row[:2] + [row[2] ** 2] for row in x]), 6)
    0.942857
    """
    return float(_rsa_pairs([source], [target], standardise=standardise, layer=layer)[0, 0])


def _dds_pairs(
    sources: Sequence[ArrayLike],
    targets: Sequence[ArrayLike],
    *,
    standardise: bool = True,
    layer: int | None = None,
) -> Float:
    prepare = standardised if standardise else scaled
    return all_pairs(sources, targets, layer, lambda x: distance_direction(prepare(x)), _defined, least=4)


@indicator(
    "dds",
    family=FAMILY,
    needs="representation",
    symmetric=True,
    bounds=(-1.0, 1.0),
    chance="0",
    self_value=1.0,
    zero_value=float("nan"),
    degenerate=f"an example that is all zero has a cosine of 0; undefined where all distances are equal; "
    f"{UNDEFINED}",
    formula=f"debiased CKA of the cosine distances 1 - cos(x_i, x_j) as kernels; {STANDARD}; {LAYERS}",
    source=(
        "Dwivedi et al., ECCV 2020 (duality diagram similarity), in the debiased form of the code of Bolya "
        "et al., NeurIPS 2021 (PARC)"
    ),
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
    pairwise=_dds_pairs,
)
def dds(source: ArrayLike, target: ArrayLike, *, standardise: bool = True, layer: int | None = None) -> float:
    """Duality diagram similarity, [S, D1] and [S, D2], or [L, S, D] each; at least 4 examples.

    standardise=False takes the features as they are. `layer` takes one layer instead of the mean.

    >>> x = [[0.0, 1.0, 2.0], [1.0, 0.0, 3.0], [2.0, 2.0, 0.0], [0.0, 3.0, 1.0]]
    >>> round(dds(x, [row[:2] + [row[2] ** 2] for row in x]), 6)
    0.994646
    """
    return float(_dds_pairs([source], [target], standardise=standardise, layer=layer)[0, 0])


def _procrustes_pairs(
    sources: Sequence[ArrayLike], targets: Sequence[ArrayLike], *, layer: int | None = None
) -> Float:
    return all_pairs(sources, targets, layer, _shape, _unrotated)


@indicator(
    "procrustes",
    family=FAMILY,
    needs="representation",
    symmetric=True,
    bounds=(0.0, 1.0),
    higher_is_closer=False,
    chance="that of shuffled examples: below 1, and near 0 where D is much larger than S",
    self_value=0.0,
    zero_value=float("nan"),
    degenerate=f"undefined where a representation is constant; {UNDEFINED}",
    formula=f"1 - |X' Y|_*, the sum of singular values, X and Y centred and of Frobenius norm 1; {LAYERS}",
    source=(
        "Ding et al., NeurIPS 2021, section 2: half of their squared distance, the least |X - Y R|_F^2 over "
        "orthogonal maps R"
    ),
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
    pairwise=_procrustes_pairs,
)
def procrustes(source: ArrayLike, target: ArrayLike, *, layer: int | None = None) -> float:
    """Procrustes distance, [S, D1] and [S, D2], or [L, S, D] each: what no rotation of the features mends.

    `layer` takes one layer instead of the mean.

    >>> round(procrustes([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], [[0.0, 0.0], [0.0, 1.0], [-2.0, 1.0]]), 6)
    0.015114
    """
    return float(_procrustes_pairs([source], [target], layer=layer)[0, 0])


def _activation_pairs(
    sources: Sequence[ArrayLike],
    targets: Sequence[ArrayLike],
    *,
    baseline: ArrayLike | None = None,
    layer: int | None = None,
) -> Float:
    left, right = both(representations, sources, targets)
    same_width(left, right, "representation")
    same_layers(left, right, "representation")
    shift = 0.0 if baseline is None else _baseline(baseline, left[0])
    rows = _means(left, shift)
    columns = rows if right is left else _means(right, shift)
    return all_pairs(rows, columns, layer, lambda x: unit(x[0]), _cosine, least=1)


@indicator(
    "activation_mean_cosine",
    family=FAMILY,
    needs="representation",
    symmetric=True,
    bounds=(-1.0, 1.0),
    chance="near 1 without a baseline: hidden states share a large mean, whatever the prompt",
    self_value=1.0,
    zero_value=0.0,
    degenerate="0 in a layer where a mean, less the baseline's, is zero",
    formula=f"cos(mean_i x_i - m, mean_i y_i - m), m = 0 or the mean of the baseline; {LAYERS}",
    source="own: the task embedding of Vu et al., EMNLP 2020 (mean of hidden states), layer by layer",
    requires_equal_rows=False,
    rows="free",
    scale="each",
    pairwise=_activation_pairs,
)
def activation_mean_cosine(
    source: ArrayLike, target: ArrayLike, *, baseline: ArrayLike | None = None, layer: int | None = None
) -> float:
    """Cosine of the mean representations, [S1, D] and [S2, D], or [L, S, D] each.

    `baseline` is the representation of inputs without any prompt, [S0, D] or [L, S0, D]: its mean is
    subtracted from both, which one should do. `layer` takes one layer instead of the mean.

    >>> round(activation_mean_cosine([[1.0, 0.0], [3.0, 0.0]], [[4.0, 4.0]], baseline=[[1.0, 0.0]]), 6)
    0.6
    """
    return float(_activation_pairs([source], [target], baseline=baseline, layer=layer)[0, 0])


def rdm_ranks(x: Float) -> Float:
    """The centred ranks of the distances 1 - Pearson(x_i, x_j), of norm 1 (or 0), [S (S - 1) / 2]."""
    rows = unit(centred(x.T).T)
    distances = np.round(1.0 - rows @ rows.T, DIGITS)[np.triu_indices(len(x), 1)]
    ranks = average_ranks(distances)
    return unit(ranks - ranks.mean())


def distance_direction(x: Float) -> Float:
    """The cosine distances of x [S, D], U-centred, of norm 1, [S, S]; 0 where all are equal."""
    rows = unit(x)
    distances = u_centred(1.0 - rows @ rows.T)
    vanishes = np.linalg.norm(distances) <= VANISHES * len(x)
    return np.zeros_like(distances) if vanishes else unit(distances.ravel())


def u_centred(kernel: Float) -> Float:
    """A symmetric [S, S] with diagonal and row sums 0 (Szekely & Rizzo, Annals of Statistics 2014, eq. 2.5).

    The sum of the products of two of these is S (S - 3) times their unbiased HSIC.
    """
    n = len(kernel)
    kernel = kernel - np.diag(np.diag(kernel))
    sums = kernel.sum(axis=0)
    kernel = kernel - (sums[:, None] + sums[None, :]) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(kernel, 0.0)
    return np.asarray(kernel)


def _cosine(a: Float, b: Float) -> float:
    """The inner product of two arrays of norm 1 or 0."""
    return float(np.clip(np.vdot(a, b), -1.0, 1.0))


def _defined(a: Float, b: Float) -> float:
    """`_cosine`, but NaN where an array is all zero."""
    return _cosine(a, b) if a.any() and b.any() else float("nan")


def _shape(x: Float) -> Float:
    """x [S, D] centred and of Frobenius norm 1; with more dimensions than examples turned into [S, S]."""
    x = centred(x)
    if x.shape[1] > len(x):
        x = np.asarray(np.linalg.qr(x.T, mode="r")).T
    return unit(x.ravel()).reshape(x.shape)


def _unrotated(a: Float, b: Float) -> float:
    if not (a.any() and b.any()):
        return float("nan")
    return float(np.clip(1.0 - np.linalg.svd(a.T @ b, compute_uv=False).sum(), 0.0, 1.0))


def _baseline(item: ArrayLike, first: Float) -> Float:
    """The mean of a baseline [L, S0, D], as [L, 1, D]; InvalidInput where it does not fit the first task."""
    (plain,) = representations([item], "baseline")
    if (plain.shape[0], plain.shape[2]) != (first.shape[0], first.shape[2]):
        raise InvalidInput(
            f"the baseline representation is {list(plain.shape)} and the source's is {list(first.shape)}: "
            "the layers L and the dimensions D of [L, S, D] must agree"
        )
    return np.asarray(plain.mean(axis=1, keepdims=True))


def _means(items: Sequence[Float], shift: Float | float) -> list[Float]:
    """Mean over examples of each [L, S, D], less a shift [L, 1, D], as [L, 1, D]."""
    return [np.asarray(item.mean(axis=1, keepdims=True) - shift) for item in items]
