"""Ridge regression in closed form, its strength chosen by leaving groups out: numbers only.

Source: Hoerl & Kennard 1970 (ridge); Golub, Heath & Wahba 1979 (leave-one-out from one decomposition), here
for groups of rows instead of single ones, with the unpenalised intercept in the hat matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Times the mean squared singular value of X.
STRENGTHS: tuple[float, ...] = tuple(float(10.0**power) for power in range(-8, 4))


@dataclass(frozen=True)
class Ridge:
    """y ~ x ``down`` ``up``: [I, r] and [r, O] float64, for centred x and y.

    ``alpha`` is the penalty and ``error`` the mean squared distance |y - prediction|^2 of rows whose group
    was left out (NaN where there is one group only).
    """

    down: Floats
    up: Floats
    alpha: float
    error: float


def ridge(
    x: Floats, y: Floats, groups: Sequence[int] | NDArray[np.int64], *, strengths: Sequence[float] = STRENGTHS
) -> Ridge:
    """Minimise |x W - y|^2 + alpha |W|^2 over W for centred ``x`` [n, I] (of about unit scale), ``y`` [n, O].

    ``groups`` [n]: rows of one group are left out together. Of several alphas the one with the least error on
    left-out groups is taken; the smallest where there is one group only, or nothing varies.
    """
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    rank = int((s > max(x.shape) * np.finfo(float).eps * s.max(initial=1.0)).sum())
    u, s, vt = u[:, :rank], s[:rank], vt[:rank]
    alphas = [float(strength * np.mean(s**2)) if rank else 0.0 for strength in strengths]
    labels = np.asarray(groups)
    if rank == 0 or len(np.unique(labels)) < 2:
        alpha, error = alphas[0], float("nan")
    else:
        errors = _left_out(u, s, y, labels, alphas)
        best = int(np.argmin(errors))
        alpha, error = alphas[best], errors[best]
    shrunk = s / (s**2 + alpha) if rank else s
    return Ridge(vt.T.copy(), shrunk[:, None] * (u.T @ y), alpha, error)


def _left_out(u: Floats, s: Floats, y: Floats, groups: NDArray[np.int64], alphas: list[float]) -> list[float]:
    """Mean squared distance of left-out groups, for each alpha.

    A = I - H has the residuals A y; a group g left out has the residuals A_gg^-1 (A y)_g. What neither the
    intercept nor x explains is kept apart, so that small alphas do not drown in rounding.
    """
    n = len(u)
    if n < y.shape[1]:  # the same distances in n dimensions
        y = np.linalg.qr(y.T)[1].T
    coordinates = u.T @ y
    free = y - y.mean(axis=0) - u @ coordinates
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    rest = [_unexplained(u, rows, n) for rows in members]
    errors = []
    for alpha in alphas:
        left = alpha / (s**2 + alpha)
        total = 0.0
        for rows, kept in zip(members, rest, strict=True):
            own = (u[rows] * left) @ u[rows].T + kept
            residual = u[rows] @ (left[:, None] * coordinates) + free[rows]
            total += float((np.linalg.solve(own, residual) ** 2).sum())
        errors.append(total / n)
    return errors


def _unexplained(u: Floats, rows: NDArray[np.int64], n: int) -> Floats:
    """The block of I - 1 1^T / n - U U^T of these rows; nothing is left where U has all n - 1 directions."""
    if u.shape[1] == n - 1:
        return np.zeros((len(rows), len(rows)))
    block: Floats = np.eye(len(rows)) - 1.0 / n - u[rows] @ u[rows].T
    return block
