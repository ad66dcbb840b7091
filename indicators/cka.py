"""Centred kernel alignment (CKA) of two representations [S, D] of the same inputs: linear, debiased, RBF.

With centred columns and linear kernels K = X X', L = Y Y' every sum over K and L needs only <K, L> =
|Y' X|_F^2 and the diagonals. <K, L> is taken from the features where D < S, else from the Gram matrices: the
same value in fewer operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from indicators.inputs import ArrayLike, Float, InvalidInput
from indicators.registry import indicator
from indicators.representations import LAYERS, UNDEFINED, all_pairs, centred

FAMILY = "representations"
KORNBLITH = "Kornblith et al., ICML 2019"
VANISHES = 1e-12  # a share of the largest possible: an unbiased estimate below it is a rounded 0


@dataclass(frozen=True)
class Linear:
    """A centred representation [S, D] and what is read of its linear kernel K = X X'."""

    columns: Float

    @cached_property
    def gram(self) -> Float:
        """K, [S, S]."""
        return np.asarray(self.columns @ self.columns.T)

    @cached_property
    def diagonal(self) -> Float:
        """The diagonal of K, [S]."""
        return np.asarray((self.columns * self.columns).sum(axis=1))

    @cached_property
    def square(self) -> float:
        """<K, K>."""
        return inner(self, self)

    @cached_property
    def unbiased_square(self) -> float:
        """`unbiased` of K with itself, at least 0; 0 where only rounding is left of it."""
        value = unbiased(self, self)
        return value if value > VANISHES * self.square else 0.0


def inner(a: Linear, b: Linear) -> float:
    """<K, L>, the sum over all entries of the product of two centred linear kernels."""
    examples = len(a.columns)
    if min(a.columns.shape[1], b.columns.shape[1]) >= examples:
        return float(np.vdot(a.gram, b.gram))
    cross = a.columns.T @ b.columns
    return float(np.vdot(cross, cross))


def unbiased(a: Linear, b: Linear) -> float:
    """S (S - 3) times the unbiased HSIC of two linear kernels (Song et al., JMLR 2012, eq. 5).

    There K has a zero diagonal; since the rows of the centred K sum to 0, what that takes away are sums over
    the two diagonals k and l.
    """
    n, k, m = len(a.columns), a.diagonal, b.diagonal
    return inner(a, b) - n / (n - 2) * float(k @ m) + float(k.sum() * m.sum()) / ((n - 1) * (n - 2))


def _share(value: float, left: float, right: float, low: float) -> float:
    """value / sqrt(left right), kept within [low, 1]; NaN where one of the two is 0."""
    if not (left > 0 and right > 0):
        return float("nan")
    return float(np.clip(value / np.sqrt(left) / np.sqrt(right), low, 1.0))


def _linear_pairs(
    sources: Sequence[ArrayLike], targets: Sequence[ArrayLike], *, layer: int | None = None
) -> Float:
    return all_pairs(
        sources,
        targets,
        layer,
        lambda x: Linear(centred(x)),
        lambda a, b: _share(inner(a, b), a.square, b.square, 0.0),
    )


@indicator(
    "cka_linear",
    family=FAMILY,
    needs="representation",
    symmetric=True,
    bounds=(0.0, 1.0),
    chance="about sqrt(D1 D2) / (S + sqrt(D1 D2)): near 1 where D is much larger than S (biased)",
    self_value=1.0,
    zero_value=float("nan"),
    degenerate=f"undefined where a representation is constant; {UNDEFINED}",
    formula=f"|Y' X|_F^2 / (|X' X|_F |Y' Y|_F), the columns of X and Y centred; {LAYERS}",
    source=f"{KORNBLITH}, eq. (4)",
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
    pairwise=_linear_pairs,
)
def cka_linear(source: ArrayLike, target: ArrayLike, *, layer: int | None = None) -> float:
    """Linear CKA of the same S inputs through two prompts, [S, D1] and [S, D2], or [L, S, D] each.

    Biased: with few examples and many dimensions it is near 1 for whatever; see `cka_linear_debiased`.
    `layer` takes one layer instead of the mean.

    >>> round(cka_linear([[0.0], [1.0], [2.0]], [[0.0, 1.0], [1.0, 1.0], [2.0, 4.0]]), 6)
    0.853492
    """
    return float(_linear_pairs([source], [target], layer=layer)[0, 0])


def _debiased_pairs(
    sources: Sequence[ArrayLike], targets: Sequence[ArrayLike], *, layer: int | None = None
) -> Float:
    return all_pairs(
        sources,
        targets,
        layer,
        lambda x: Linear(centred(x)),
        lambda a, b: _share(unbiased(a, b), a.unbiased_square, b.unbiased_square, -1.0),
        least=4,
    )


@indicator(
    "cka_linear_debiased",
    family=FAMILY,
    needs="representation",
    symmetric=True,
    bounds=(-1.0, 1.0),
    chance="0",
    self_value=1.0,
    zero_value=float("nan"),
    degenerate=(
        "undefined where a representation is constant, or constant but for one example, or all examples are "
        f"equally far from each other; {UNDEFINED}"
    ),
    formula=f"HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), unbiased HSIC, K = X X' and L = Y Y'; {LAYERS}",
    source=f"{KORNBLITH}, with the unbiased HSIC of Song et al., JMLR 2012, eq. (5)",
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
    pairwise=_debiased_pairs,
)
def cka_linear_debiased(source: ArrayLike, target: ArrayLike, *, layer: int | None = None) -> float:
    """Linear CKA with the unbiased HSIC, [S, D1] and [S, D2], or [L, S, D] each; at least 4 examples.

    `layer` takes one layer instead of the mean.

    >>> x = [[0.0], [1.0], [2.0], [4.0]]
    >>> round(cka_linear_debiased(x, [[0.0, 1.0], [1.0, 1.0], [2.0, 4.0], [3.0, 0.0]]), 6)
    0.755929
    """
    return float(_debiased_pairs([source], [target], layer=layer)[0, 0])


def _rbf_pairs(
    sources: Sequence[ArrayLike],
    targets: Sequence[ArrayLike],
    *,
    fraction: float = 0.5,
    layer: int | None = None,
) -> Float:
    if not 0 < fraction < np.inf:
        raise InvalidInput(f"fraction={fraction!r}: a number above 0 is needed")
    return all_pairs(
        sources,
        targets,
        layer,
        lambda x: rbf_direction(x, fraction),
        lambda a, b: float(np.clip(np.vdot(a, b), 0.0, 1.0)) if a.size and b.size else float("nan"),
    )


@indicator(
    "cka_rbf",
    family=FAMILY,
    needs="representation",
    symmetric=True,
    bounds=(0.0, 1.0),
    chance="above 0, growing with D and falling with S and the bandwidth: that of shuffled examples",
    self_value=1.0,
    zero_value=float("nan"),
    degenerate=f"undefined where half of all pairs of examples are at one place; {UNDEFINED}",
    formula=(
        "<H K H, H L H> / (|H K H| |H L H|), k(x, x') = exp(-|x - x'|^2 / (2 s^2)), s the fraction (.5) of "
        f"the median distance, H centring; {LAYERS}"
    ),
    source=(
        f"{KORNBLITH}, section 4 and the authors' code: the median is that of all S^2 squared distances, the "
        "diagonal's zeros included"
    ),
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
    pairwise=_rbf_pairs,
)
def cka_rbf(
    source: ArrayLike, target: ArrayLike, *, fraction: float = 0.5, layer: int | None = None
) -> float:
    """CKA with Gaussian kernels, [S, D1] and [S, D2], or [L, S, D] each; S^2 numbers are held.

    The bandwidth is `fraction` of the median distance of each representation. `layer` takes one layer.

    >>> round(cka_rbf([[0.0], [1.0], [2.0]], [[0.0, 1.0], [1.0, 1.0], [2.0, 4.0]]), 6)
    0.99536
    """
    return float(_rbf_pairs([source], [target], fraction=fraction, layer=layer)[0, 0])


def rbf_direction(x: Float, fraction: float) -> Float:
    """The doubly centred Gaussian kernel of x [S, D], of norm 1, [S, S]; [0] where it is undefined."""
    linear = Linear(centred(x))
    norms = linear.diagonal
    squared = norms[:, None] + norms[None, :] - 2.0 * linear.gram
    squared[squared <= VANISHES * norms.max()] = 0.0
    median = float(np.median(squared))
    if not median > 0:
        return np.zeros(0)
    kernel = np.exp(-squared / (2.0 * fraction**2 * median))
    mean = kernel.mean(axis=0)
    kernel += mean.mean() - mean[:, None] - mean[None, :]
    norm = float(np.linalg.norm(kernel))
    return kernel / norm if norm > VANISHES * len(x) else np.zeros(0)
