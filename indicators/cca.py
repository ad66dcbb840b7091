"""Canonical correlations (CCA) of two representations [S, D] of the same inputs: mean, SVCCA, PWCCA.

With U and V orthonormal bases of the two centred column spaces the canonical correlations rho are the
singular values of U' V = A diag(rho) B', and h_i = U a_i are the source's canonical variables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from indicators.inputs import ArrayLike, Float, InvalidInput, choice
from indicators.registry import indicator
from indicators.representations import LAYERS, UNDEFINED, all_pairs, centred, standardised

FAMILY = "representations"
RANK = 1e-6  # singular values below this share of the largest are what float32 inputs are rounded by
CHANCE = "that of shuffled examples: above 0, growing with D / S; k1 + k2 - S + 1 correlations are always 1"


class Space(NamedTuple):
    """A representation's centred columns [S, D] and an orthonormal basis [S, k] of the space they span."""

    columns: Float
    basis: Float


def whole(x: Float) -> Space:
    """x [S, D] with a basis of all its dimensions. Columns of one size first: their scale is no matter."""
    left, values, _ = np.linalg.svd(standardised(x), full_matrices=False)
    return _space(x, left[:, values > RANK * values[0]])


def principal(x: Float, variance: float) -> Space:
    """x [S, D] with the fewest of its principal directions that explain this share of the variance."""
    columns = centred(x)
    left, values, _ = np.linalg.svd(columns, full_matrices=False)
    left, values = left[:, values > RANK * values[0]], values[values > RANK * values[0]]
    explained = np.cumsum(values * values)
    # One direction fewer than reaches the share; rounding shall not ask for one that explains nothing.
    kept = 1 + int((explained < variance * explained[-1:] * (1 - 1e-12)).sum())
    return _space(x, left[:, :kept])


def correlations(a: Space, b: Space) -> Float:
    """The canonical correlations, [min(k1, k2)], descending."""
    return np.asarray(np.clip(np.linalg.svd(a.basis.T @ b.basis, compute_uv=False), 0.0, 1.0))


def weighted(a: Space, b: Space) -> float:
    """The correlations' mean, each weighted by how much of a's columns its canonical variable carries."""
    directions, values, _ = np.linalg.svd(a.basis.T @ b.basis, full_matrices=False)
    weights = np.abs((a.basis @ directions).T @ a.columns).sum(axis=1)
    return float(np.clip(weights @ np.clip(values, 0.0, 1.0) / weights.sum(), 0.0, 1.0))


def _space(x: Float, basis: Float) -> Space:
    examples, rank = basis.shape
    if 0 < examples - 1 <= rank:
        raise InvalidInput(
            f"{rank} dimensions of a representation of {examples} examples leave nothing to chance: all "
            "canonical correlations are 1. More examples than dimensions are needed (else `svcca` with a "
            "lower variance, or `cka_linear_debiased`)"
        )
    return Space(centred(x), basis)


def _mean(a: Space, b: Space) -> float:
    defined = a.basis.size and b.basis.size
    return float(correlations(a, b).mean()) if defined else float("nan")


def _cca_pairs(
    sources: Sequence[ArrayLike], targets: Sequence[ArrayLike], *, layer: int | None = None
) -> Float:
    return all_pairs(sources, targets, layer, whole, _mean)


@indicator(
    "cca_mean",
    family=FAMILY,
    needs="representation",
    symmetric=True,
    bounds=(0.0, 1.0),
    chance=CHANCE,
    self_value=1.0,
    zero_value=float("nan"),
    degenerate=(
        f"undefined where a representation is constant; {UNDEFINED}; InvalidInput where one spans S - 1 "
        "dimensions"
    ),
    formula=f"mean of the min(k1, k2) canonical correlations, k the ranks; {LAYERS}",
    source="Raghu et al., NeurIPS 2017, section 2 (Hotelling 1936); k is the numerical rank (1e-6)",
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
    pairwise=_cca_pairs,
)
def cca_mean(source: ArrayLike, target: ArrayLike, *, layer: int | None = None) -> float:
    """Mean canonical correlation, [S, D1] and [S, D2], or [L, S, D] each; more examples than dimensions.

    Any invertible linear map of a side's features leaves it as it is. `layer` takes one layer.

    >>> round(cca_mean([[0.0], [1.0], [2.0], [4.0]], [[0.0], [1.0], [2.0], [3.0]]), 6)
    0.982708
    """
    return float(_cca_pairs([source], [target], layer=layer)[0, 0])


def _svcca_pairs(
    sources: Sequence[ArrayLike],
    targets: Sequence[ArrayLike],
    *,
    variance: float = 0.99,
    layer: int | None = None,
) -> Float:
    if not 0 < variance <= 1:
        raise InvalidInput(f"variance={variance!r}: a share above 0, at most 1, is needed")
    return all_pairs(sources, targets, layer, lambda x: principal(x, variance), _mean)


@indicator(
    "svcca",
    family=FAMILY,
    needs="representation",
    symmetric=True,
    bounds=(0.0, 1.0),
    chance=CHANCE,
    self_value=1.0,
    zero_value=float("nan"),
    degenerate=(
        f"undefined where a representation is constant; {UNDEFINED}; InvalidInput where S - 1 directions "
        "of one are kept"
    ),
    formula=(
        "`cca_mean` of the k1 and k2 principal directions that explain 99 % of each side's variance "
        f"(sum of squared singular values); {LAYERS}"
    ),
    source="Raghu et al., NeurIPS 2017, section 2.1",
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
    pairwise=_svcca_pairs,
)
def svcca(source: ArrayLike, target: ArrayLike, *, variance: float = 0.99, layer: int | None = None) -> float:
    """Mean canonical correlation of the principal directions, [S, D1] and [S, D2], or [L, S, D] each.

    `variance` is the share of the variance that the kept directions explain. `layer` takes one layer.

    >>> round(svcca([[0, 0], [1, 0.01], [2, 0], [4, 0]], [[0.0], [1.0], [2.0], [3.0]]), 7)
    0.9827076
    """
    return float(_svcca_pairs([source], [target], variance=variance, layer=layer)[0, 0])


def _pwcca_pairs(
    sources: Sequence[ArrayLike],
    targets: Sequence[ArrayLike],
    *,
    weights: str = "source",
    form: str = "paper",
    layer: int | None = None,
) -> Float:
    choice(weights, "weights", ("source", "target", "both"))
    choice(form, "form", ("paper", "published"))

    def value(a: Space, b: Space) -> float:
        if not (a.basis.size and b.basis.size):
            return float("nan")
        sides = {"source": [(a, b)], "target": [(b, a)], "both": [(a, b), (b, a)]}[weights]
        return float(np.mean([weighted(*side) for side in sides]))

    def published(x: Float, y: Float) -> float:
        sides = {"source": [(x, y)], "target": [(y, x)], "both": [(x, y), (y, x)]}[weights]
        return float(np.mean([_published(*side) for side in sides]))

    if form == "published":
        return all_pairs(sources, targets, layer, np.asarray, published, symmetric=False)
    return all_pairs(sources, targets, layer, whole, value, symmetric=False)


def _published(x: Float, y: Float) -> float:
    """The authors' code, for any widths: directions not whitened, the neurons' means added to them."""
    width, means = x.shape[1], x.mean(axis=0)
    joint = np.atleast_2d(np.cov(x.T, y.T))
    cross = (
        _inverse_root(joint[:width, :width]) @ joint[:width, width:] @ _inverse_root(joint[width:, width:])
    )
    directions, values, _ = np.linalg.svd(cross, full_matrices=False)
    basis, _ = np.linalg.qr((x - means) @ directions + means[: directions.shape[1]])
    weights = np.abs(basis.T @ x).sum(axis=1)
    total = weights.sum()
    return float(np.clip(weights @ np.clip(values, 0.0, 1.0) / total, 0.0, 1.0)) if total else float("nan")


def _inverse_root(matrix: Float) -> Float:
    values, vectors = np.linalg.eigh(np.linalg.pinv(matrix))
    return np.asarray(vectors @ np.diag(np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


@indicator(
    "pwcca",
    family=FAMILY,
    needs="representation",
    symmetric=False,
    bounds=(0.0, 1.0),
    chance=CHANCE,
    self_value=1.0,
    zero_value=float("nan"),
    degenerate=(
        f"undefined where a representation is constant; {UNDEFINED}; InvalidInput where one spans S - 1 "
        "dimensions"
    ),
    formula=(
        "sum_i w_i rho_i / sum_i w_i, w_i = sum_j |<h_i, x_j>| over the source's centred columns x_j, "
        f"i = 1..min(k1, k2); {LAYERS}"
    ),
    source=(
        "Morcos et al., NeurIPS 2018, section 2 (projection weighting). The authors' code takes h_i not "
        "whitened and adds the neurons' means to them, which makes its value depend on the order of the "
        "neurons, and fails where the source is wider; followed only where form='published' is asked for"
    ),
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
    pairwise=_pwcca_pairs,
)
def pwcca(
    source: ArrayLike,
    target: ArrayLike,
    *,
    weights: str = "source",
    form: str = "paper",
    layer: int | None = None,
) -> float:
    """Canonical correlations weighted by what they carry, [S, D1] and [S, D2] of any widths, or [L, S, D].

    `weights` says whose features count: the source's as in the paper, the target's, or the mean of "both"
    (then it is symmetric). `form` "published" is what the authors' code computes. `layer` takes one layer.

    >>> x, y = [[0.0, 1.0], [1.0, 0.0], [2.0, 3.0], [4.0, 0.0]], [[0.0], [1.0], [2.0], [3.0]]
    >>> round(pwcca(x, y), 6)
    0.992203
    """
    return float(_pwcca_pairs([source], [target], weights=weights, form=form, layer=layer)[0, 0])
