"""An adaptive order of sources: each next one is chosen from what the ones before it reached on the target.

A Gaussian process over the prompts of all tasks, the target's own among them, with an indicator as its
kernel. y is a prompt's value on the target relative to the target's own prompt, so y(own) = 1 is known before
anything is measured. Then the source with the largest posterior mean + explore * sd is measured, and so on.
The first choice is therefore the indicator's own, and what is measured speaks for prompts that are like it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from transferscope.errors import InputError

if TYPE_CHECKING:
    from transferscope.comparison import IndicatorMatrix

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Process:
    """The prior of y: `mean`; covariance sd^2 (share C + (1 - share) I), C the kernel; sd of the noise.

    `explore` weighs uncertainty against expected value. The defaults were set on published matrices of
    prompt transfer, where other values (share .3 to .9, explore 0) gave the same within .002 of regret.
    """

    mean: float = 0.6
    sd: float = 0.25
    share: float = 0.6
    noise: float = 0.03
    explore: float = 0.5


DEFAULT = Process()


def kernel(matrix: IndicatorMatrix) -> Floats:
    """Correlations [n, n] between all tasks of an indicator's matrix: symmetric, diagonal 1, positive.

    Distances (no value above 0, as a matrix has them) are taken as exp(-d / median d), other values in
    [-1, 1] as they are. The two directions of a pair are averaged, and eigenvalues below 0 are set to 0.

    Raises InputError: a value that is not known, or values of another range, which are no correlation.
    """
    values = np.asarray(matrix.values, dtype=np.float64)
    off = ~np.eye(len(values), dtype=bool)
    if not np.isfinite(values[off]).all():
        raise InputError(
            f"{matrix.indicator} cannot be a kernel: some pairs of tasks have no value, and all are needed"
        )
    if values[off].max(initial=-1.0) <= 0:
        values = np.exp(values / (np.median(-values[off]) or 1.0))
    elif np.abs(values[off]).max() > 1.0:
        raise InputError(
            f"{matrix.indicator} cannot be a kernel: its values reach from {values[off].min():.3g} to "
            f"{values[off].max():.3g}, and a kernel is a similarity in [-1, 1] or a distance"
        )
    symmetric = (values + values.T) / 2
    np.fill_diagonal(symmetric, 1.0)
    eigenvalues, vectors = np.linalg.eigh(symmetric)
    if eigenvalues[0] >= 0:
        return symmetric
    clipped = (vectors * np.maximum(eigenvalues, 0.0)) @ vectors.T
    scale = np.sqrt(np.diag(clipped))
    return np.asarray(clipped / np.outer(scale, scale))


def order(
    correlations: Floats,
    own: int,
    sources: Sequence[int],
    measure: Callable[[int], float],
    *,
    budget: int | None = None,
    process: Process = DEFAULT,
) -> list[int]:
    """The sources in the order in which they are measured, `budget` of them (None: all).

    `correlations` [n, n] are those of `kernel`, `own` and `sources` indices into it; `measure` gives a
    source's value relative to the own prompt's. Sources that the process does not tell apart keep the order
    in which they are given. Raises InputError for a budget below 1.
    """
    if budget is not None and budget < 1:
        raise InputError(f"{budget} sources to measure: at least one is needed")
    left, seen, y = list(sources), [own], [1.0]
    found: list[int] = []
    while left and (budget is None or len(found) < budget):
        mean, sd = posterior(correlations, seen, y, left, process)
        best = left.pop(int(np.argmax(mean + process.explore * sd)))
        found.append(best)
        seen.append(best)
        y.append(measure(best))
    return found


def posterior(
    correlations: Floats, seen: Sequence[int], y: Sequence[float], at: Sequence[int], process: Process
) -> tuple[Floats, Floats]:
    """Mean and sd, each [len(at)], of the prompts `at` after the values `y` of those `seen`."""
    variance = process.sd**2
    covariance = variance * (process.share * correlations + (1 - process.share) * np.eye(len(correlations)))
    observed = covariance[np.ix_(seen, seen)] + process.noise**2 * np.eye(len(seen))
    across = covariance[np.ix_(seen, at)]  # [seen, at]
    solved = np.linalg.solve(observed, np.column_stack([np.asarray(y) - process.mean, across]))
    mean = process.mean + across.T @ solved[:, 0]
    left = variance - (across * solved[:, 1:]).sum(axis=0)
    return mean, np.sqrt(np.maximum(left, 0.0))
