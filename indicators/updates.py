"""Indicators on weight differences of low rank: what a LoRA adapter adds to each weight matrix of a model.

An update maps the name of a module to (A [r, in], B [out, r]), any r, scale included: the module's weights
differ by W = B A. A module that an update does not name is not changed by it, so W is zero there. W itself is
never made: each module is brought to U diag(s) V' by QR of the factors, so the values do not depend on how W
is factorised, and a product of two takes r1 * r2 inner products of columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from indicators.inputs import ArrayLike, Float, InvalidInput, _label, _numbers
from indicators.registry import indicator

Update = Mapping[str, tuple[ArrayLike, ArrayLike]]
Checked = dict[str, tuple[Float, Float]]

FLAT = "with w all modules of W, one after another, as one vector"
NEAR = 1e-3  # |X - Y|^2 / (|X|^2 + |Y|^2) below which |X|^2 + |Y|^2 - 2 <X, Y> loses too many digits
ROUNDING = 1e-6  # singular values below this share of the largest are what float32 factors are rounded by


class Thin(NamedTuple):
    """W of one module as U diag(s) V': U [out, k] and V [in, k] orthonormal, s [k] > 0 descending."""

    left: Float
    values: Float
    right: Float


def _cosine_pairs(sources: Sequence[Update], targets: Sequence[Update]) -> Float:
    rows, columns = _checked(sources, targets)
    inner = np.zeros((len(rows), len(columns)))
    squares = np.zeros(len(rows)), np.zeros(len(columns))
    for left, right in _modules(
        rows, columns, [_exponent(row) for row in rows], [_exponent(c) for c in columns]
    ):
        _add_squares(squares, left, right)
        _add_inner(inner, left, right)
    norms = np.sqrt(squares[0])[:, None] * np.sqrt(squares[1])[None, :]
    return np.clip(inner / np.where(norms > 0, norms, 1.0), -1.0, 1.0)


@indicator(
    "update_cosine",
    needs="update",
    symmetric=True,
    bounds=(-1.0, 1.0),
    chance="0 (independent updates, nearly orthogonal)",
    self_value=1.0,
    zero_value=0.0,
    degenerate="0 where an update is zero, or where no module is changed by both",
    formula=f"<w1, w2> / (|w1| |w2|), {FLAT}; <w1, w2> is the sum over modules of tr(B1' B2 A2 A1')",
    source="Ilharco et al., ICLR 2023: cosine of task vectors; here of what is added to the weights",
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
    pairwise=_cosine_pairs,
)
def update_cosine(source: Update, target: Update) -> float:
    """Cosine of two weight differences, each {module: (A [r, in], B [out, r])}; r may differ.

    >>> round(update_cosine({"q": ([[1.0, 0.0]], [[2.0]])}, {"q": ([[3.0, 4.0]], [[1.0]])}), 6)
    0.6
    """
    return float(_cosine_pairs([source], [target])[0, 0])


def _euclidean_pairs(sources: Sequence[Update], targets: Sequence[Update]) -> Float:
    rows, columns = _checked(sources, targets)
    # One scale for all, so that squares neither overflow nor vanish.
    common = max(_exponent(item) for item in rows + columns)
    scales = [common] * len(rows), [common] * len(columns)
    squared = np.zeros((len(rows), len(columns)))
    squares = np.zeros(len(rows)), np.zeros(len(columns))
    for left, right in _modules(rows, columns, *scales):
        _add_squares(squares, left, right)
        _add_inner(squared, left, right)
    size = squares[0][:, None] + squares[1][None, :]
    squared = size - 2.0 * squared
    near = squared < NEAR * size
    squared[near] = 0.0
    if rows is columns:
        np.fill_diagonal(near, False)  # an update and itself
    for left, right in _modules(rows, columns, *scales) if near.any() else ():
        for i, j in np.argwhere(near):
            squared[i, j] += _gap(left.get(i), right.get(j))
    with np.errstate(over="ignore"):  # infinitely far: 0
        return np.asarray(1.0 / (1.0 + np.ldexp(np.sqrt(squared), common)))


@indicator(
    "update_euclidean",
    needs="update",
    symmetric=True,
    bounds=(0.0, 1.0),
    chance="none: it depends on the norms of the updates, and goes to 0 as they grow",
    self_value=1.0,
    zero_value=1.0,
    degenerate="none: 1 for two zero updates; a module that only one changes counts with its whole size",
    formula=f"1 / (1 + |w1 - w2|), {FLAT}",
    source="own: the distance of task vectors (Ilharco et al., ICLR 2023) in the form of Su et al.: E_concat",
    requires_equal_rows=True,
    rows="aligned",
    scale="distance",
    pairwise=_euclidean_pairs,
)
def update_euclidean(source: Update, target: Update) -> float:
    """Euclidean similarity of two weight differences, each {module: (A [r, in], B [out, r])}; r may differ.

    >>> update_euclidean({"q": ([[1.0, 0.0]], [[3.0]])}, {"q": ([[0.0, 2.0]], [[2.0]])})
    0.16666666666666666
    """
    return float(_euclidean_pairs([source], [target])[0, 0])


def _subspace_pairs(sources: Sequence[Update], targets: Sequence[Update]) -> Float:
    rows, columns = _checked(sources, targets)
    total, count = np.zeros((2, len(rows), len(columns)))
    # A scale for each module: how large its update is does not matter here.
    for left, right in _modules(rows, columns, None, None):
        if not left or not right:
            continue
        spans = {j: _span(thin) for j, thin in right.items()}
        rank = np.array([span.shape[1] for span in spans.values()])
        stacked, starts, places = np.hstack(list(spans.values())), np.cumsum(rank) - rank, list(spans)
        for i, thin in left.items():
            span = spans[i] if right is left else _span(thin)
            overlap = np.add.reduceat(((span.T @ stacked) ** 2).sum(axis=0), starts)  # [targets here]
            total[i, places] += np.minimum(overlap / np.minimum(span.shape[1], rank), 1.0)
            count[i, places] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


@indicator(
    "update_subspace",
    needs="update",
    symmetric=True,
    bounds=(0.0, 1.0),
    chance="max(r1, r2) / out, for independent updates of a module with `out` outputs",
    self_value=1.0,
    zero_value=float("nan"),
    degenerate="modules that not both updates change are left out; NaN where none is left",
    formula="mean over modules of |U1' U2|_F^2 / min(r1, r2), with W = U S V' of rank r",
    source=(
        "Hu et al., ICLR 2022 (LoRA), eq. (4), there for leading right singular vectors of A; here for all "
        "left ones of W, which do not depend on how W is factorised"
    ),
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
    pairwise=_subspace_pairs,
)
def update_subspace(source: Update, target: Update) -> float:
    """Overlap of the column spaces of two weight differences, each {module: (A [r, in], B [out, r])}.

    >>> round(update_subspace({"q": ([[1.0]], [[5.0], [0.0]])}, {"q": ([[2.0]], [[1.0], [1.0]])}), 6)
    0.5
    """
    return float(_subspace_pairs([source], [target])[0, 0])


def _checked(sources: Sequence[Update], targets: Sequence[Update]) -> tuple[list[Checked], list[Checked]]:
    """Every update with arrays for factors; both sides the same list if they are. Raises InvalidInput."""
    rows = [_factors(item, _label("update", "source", i, sources)) for i, item in enumerate(sources)]
    columns = rows
    if targets is not sources:
        columns = [_factors(item, _label("update", "target", i, targets)) for i, item in enumerate(targets)]
    first: dict[str, tuple[str, list[int]]] = {}
    for side, items, given in ("source", rows, sources), ("target", columns, targets):
        for i, item in enumerate(items):
            for name, (down, up) in item.items():
                shape, label = [len(up), down.shape[1]], _label("update", side, i, given)
                other, wanted = first.setdefault(name, (label, shape))
                if shape != wanted:
                    raise InvalidInput(
                        f"the module {name!r} of {other} is {wanted} and that of {label} is {shape}: "
                        "the shapes must agree"
                    )
    return rows, columns


def _factors(item: Update, label: str) -> Checked:
    if not isinstance(item, Mapping) or not item:
        found = f"an array {list(item.shape)}" if isinstance(item, np.ndarray) else type(item).__name__
        raise InvalidInput(
            f"{label} is {found}: a mapping from at least one module to (A [r, in], B [out, r]) is needed"
        )
    checked = {}
    for name, pair in item.items():
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise InvalidInput(f"{label}, {name!r} is no tuple of two factors (A [r, in], B [out, r])")
        down = _numbers(pair[0], f"{label}, A of {name!r}", "r, in", (2,))
        up = _numbers(pair[1], f"{label}, B of {name!r}", "out, r", (2,))
        if up.shape[1] != len(down):
            raise InvalidInput(
                f"{label}, {name!r}: A is {list(down.shape)} and B is {list(up.shape)}: "
                "B needs a column for each row of A"
            )
        checked[name] = (down, up)
    return checked


def _modules(
    rows: list[Checked],
    columns: list[Checked],
    of_rows: Sequence[int] | None,
    of_columns: Sequence[int] | None,
) -> Iterator[tuple[dict[int, Thin], dict[int, Thin]]]:
    """Module by module, so that one is in memory: place -> W, of the updates where W is not zero.

    W is divided by two to the power given for its update, or (None) by one of its own size.
    """
    for name in dict.fromkeys(name for item in rows + columns for name in item):
        left = _thins(rows, name, of_rows)
        yield left, left if columns is rows else _thins(columns, name, of_columns)


def _thins(items: list[Checked], name: str, exponents: Sequence[int] | None) -> dict[int, Thin]:
    found = {}
    for i, item in enumerate(items):
        if name in item:
            thin = _thin(*item[name], None if exponents is None else exponents[i])
            if len(thin.values):
                found[i] = thin
    return found


def _thin(down: Float, up: Float, exponent: int | None) -> Thin:
    """B A / 2**exponent from A [r, in] and B [out, r], by QR of both and the SVD of what is between."""
    own, a, b = _scaled(down, up)
    (q, x), (p, y) = np.linalg.qr(b), np.linalg.qr(a.T)  # q [out, .], x [., r]; p [in, .], y [., r]
    u, values, v = np.linalg.svd(x @ y.T, full_matrices=False)
    # What is left where columns of B or rows of A cancel is rounding.
    kept = values > 10 * len(a) * np.finfo(float).eps * np.linalg.norm(x) * np.linalg.norm(y)
    if exponent is not None:
        values = np.ldexp(values, own - exponent)
    return Thin(q @ u[:, kept], values[kept], p @ v[kept].T)


def _scaled(down: Float, up: Float) -> tuple[int, Float, Float]:
    """Both factors with entries of at most one, and the power of two that was taken out: exact."""
    powers = [int(np.frexp(np.abs(factor).max())[1]) for factor in (down, up)]
    a, b = (np.ldexp(np.asarray(f, float), -power) for f, power in zip((down, up), powers, strict=True))
    return sum(powers), a, b


def _exponent(item: Checked) -> int:
    """The power of two that brings the largest module of an update to about one."""
    sizes = [(np.abs(down).max(), np.abs(up).max()) for down, up in item.values()]
    return max((int(np.frexp(a)[1] + np.frexp(b)[1]) for a, b in sizes if a > 0 and b > 0), default=0)


def _add_squares(totals: tuple[Float, Float], left: dict[int, Thin], right: dict[int, Thin]) -> None:
    for total, thins in zip(totals, (left, right), strict=True):
        for i, thin in thins.items():
            total[i] += (thin.values**2).sum()


def _add_inner(total: Float, left: dict[int, Thin], right: dict[int, Thin]) -> None:
    """Add <W1, W2> = sum over the columns of both of s1 s2 (U1' U2) (V1' V2)."""
    if not left or not right:
        return
    rank = np.array([len(thin.values) for thin in right.values()])
    ups = np.hstack([thin.left * thin.values for thin in right.values()])  # [out, sum of ranks]
    downs = np.hstack([thin.right for thin in right.values()])
    for i, thin in left.items():
        products = ((thin.left * thin.values).T @ ups) * (thin.right.T @ downs)
        total[i, list(right)] += np.add.reduceat(products.sum(axis=0), np.cumsum(rank) - rank)


def _gap(one: Thin | None, other: Thin | None) -> float:
    """|W1 - W2|_F^2 with no difference of large numbers: QR of both updates' factors side by side."""
    there = [thin for thin in (one, other) if thin is not None]
    if len(there) < 2:
        return float(sum((thin.values**2).sum() for thin in there))
    x, y = there
    ups = np.linalg.qr(np.hstack([x.left * x.values, -y.left * y.values])).R
    downs = np.linalg.qr(np.hstack([x.right, y.right])).R
    return float(((ups @ downs.T) ** 2).sum())


def _span(thin: Thin) -> Float:
    """An orthonormal basis [out, k] of the columns of W."""
    return thin.left[:, thin.values > ROUNDING * thin.values[0]]
