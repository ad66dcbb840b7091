"""Sets of skill neurons side by side: how much they share, and how much random sets of their sizes would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indicators import kernels
from transferscope.errors import InputError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

RATE = 0.2


@dataclass(frozen=True)
class Overlap:
    """All pairs of S and T sets, each array float64 [S, T].

    ``share``: |A and B| over the mean of the two sizes (Dice), 0 where both sets are empty. ``jaccard``: |A
    and B| / |A or B|. ``share_chance`` and ``jaccard_chance``: the same of E, the number that random sets of
    these sizes have in common on average: sum over layers of |A_l| |B_l| / N, with by="network" |A| |B| / (L
    N). Of Jaccard it is the value at the average, not the average of the values.
    """

    share: Floats
    jaccard: Floats
    share_chance: Floats
    jaccard_chance: Floats


def overlap(left: Sequence[Bools], right: Sequence[Bools], by: str = "layer") -> Overlap:
    """What sets of neurons [L, N] have in common; ``by`` says among which neurons chance would draw them.

    >>> found = overlap([np.array([[True, True, False, False]])], [np.array([[True, False, True, False]])])
    >>> found.share.tolist(), found.share_chance.tolist(), found.jaccard.round(3).tolist()
    ([[0.5]], [[0.5]], [[0.333]])
    """
    shared, a, b = kernels.counts(left, right)
    expected = _by_chance(left, right, by)
    mean = (a + b) / 2
    size = np.where(mean > 0, mean, 1.0)
    return Overlap(
        shared / size,
        kernels.jaccard(shared, a, b),
        expected / size,
        kernels.jaccard(expected, a, b),
    )


def _by_chance(left: Sequence[Bools], right: Sequence[Bools], by: str) -> Floats:
    """How many neurons random sets of the same sizes have in common on average, [S, T]."""
    layers = 1 if by == "network" else len(left[0])
    a, b = (np.stack([one.reshape(layers, -1).sum(axis=1) for one in side]) * 1.0 for side in (left, right))
    return np.asarray(a @ b.T / (left[0].size // layers))


def mean_defined(values: Floats) -> Floats:
    """Mean over the first axis of what is defined; NaN where nothing is."""
    known = np.isfinite(values)
    count, total = known.sum(axis=0), np.where(known, values, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def check_rate(rate: float, neurons: int) -> None:
    """Raises InputError for a rate of skill neurons that takes none of N, or is no share."""
    if not 0 < rate <= 1:
        raise InputError(f"a rate of skill neurons of {rate:g}: a share above 0 and at most 1 is needed")
    if int(rate * neurons) == 0:
        raise InputError(
            f"a rate of skill neurons of {rate:g} takes none of {neurons}: at least {1 / neurons:.3g} does"
        )
