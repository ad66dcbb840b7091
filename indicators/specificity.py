"""Neurons that fire for few of three or more tasks, by the entropy of their firing rates over the tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indicators.inputs import ArrayLike, Bool, Float, InvalidInput, same_shape, tables
from indicators.kernels import both, counts
from indicators.registry import indicator

TANG = "Tang et al., ACL 2024 (LAPE)"


@dataclass(frozen=True)
class Specificity:
    """entropies float64 [L, N] in nats (NaN: the neuron never fires); masks bool [T, L, N] of each task."""

    entropies: Float
    masks: Bool


def lape(firing: Sequence[ArrayLike], *, rate: float = 0.01, active: float = 0.95) -> Specificity:
    """Task-specific neurons of at least three tasks, from firing rates [T, L, N] in [0, 1].

    A neuron's entropy is that of p_t / sum p over tasks t, p_t its rate. Neurons whose rate is in no task
    above the `active` quantile of all rates are left out; of the others the round(rate L N) of lowest
    entropy are taken, in order of their index where equal. Each is specific to the tasks in which its rate is
    above the same quantile. Raises InvalidInput for fewer than three tasks, rates of different shapes, and
    shares outside [0, 1]. Source: Tang et al., ACL 2024 (LAPE), as in their published code: the quantile is
    the round(active T L N)-th smallest rate. Theirs has 0 for NaN.

    >>> found = lape([[[0.9, 0.5]], [[0.0, 0.5]], [[0.0, 0.5]]], rate=0.5, active=0.5)
    >>> found.masks[:, 0, 0].tolist(), found.entropies.round(3).tolist()
    ([True, False, False], [[0.0, 1.099]])
    """
    if len(firing) < 3:
        raise InvalidInput(f"{len(firing)} tasks: entropy over tasks needs at least 3")
    for name, share in ("rate", rate), ("active", active):
        if not 0 <= share <= 1:
            raise InvalidInput(f"{name}={share!r}: a share from 0 to 1 is needed")
    rates = tables(firing, "task", "firing", low=0.0, high=1.0)
    for i, item in enumerate(rates):
        if item.shape != rates[0].shape:
            raise InvalidInput(
                f"task firing {i} is {list(item.shape)} and task firing 0 is {list(rates[0].shape)}: the "
                "shapes must agree"
            )
    stacked = np.stack(rates)  # [T, L, N]
    entropies = _entropies(stacked)
    bar = np.sort(stacked, axis=None)[max(round(active * stacked.size), 1) - 1]
    above = stacked > bar
    ranked = np.where(above.any(axis=0), entropies, np.inf).ravel()
    chosen = np.zeros(ranked.size, bool)
    chosen[np.argsort(ranked, kind="stable")[: round(rate * ranked.size)]] = True
    return Specificity(entropies, above & chosen.reshape(entropies.shape))


def _lape_pairs(sources: Sequence[ArrayLike], targets: Sequence[ArrayLike]) -> Float:
    left, right = both(_masks, sources, targets)
    same_shape(left, right, "lape_mask")
    shared, a, b = counts(left, right)
    by_layer_a, by_layer_b = both(
        lambda items, _: np.stack([i.sum(axis=1) for i in items]) * 1.0, left, right
    )
    expected = by_layer_a @ by_layer_b.T / left[0].shape[1]
    most = (a + b) / 2.0
    # Sizes are whole numbers: what is not zero here is at least about 1 / N.
    free = most - expected > 1e-9
    return np.asarray(np.where(free, (shared - expected) / np.where(free, most - expected, 1.0), 0.0))


@indicator(
    "lape",
    needs="lape_mask",
    symmetric=True,
    bounds=(-1.0, 1.0),
    chance="0 for random sets of the same sizes in the same layers",
    self_value=1.0,
    zero_value=0.0,
    degenerate="0 where a task has no neuron of its own, or all of them",
    formula="(|A and B| - E) / ((|A| + |B|) / 2 - E), E = sum over layers of |A_l| |B_l| / N",
    source=f"Cohen's kappa (1960) of the neurons specific to two tasks by {TANG}",
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
    pairwise=_lape_pairs,
)
def lape_overlap(source: ArrayLike, target: ArrayLike) -> float:
    """Chance-corrected overlap of two tasks' specific neurons: masks [L, N] of `lape`, true where above 0.

    >>> lape_overlap([[1, 1, 0, 0]], [[True, False, True, False]])
    0.0
    """
    return float(_lape_pairs([source], [target])[0, 0])


def _masks(items: Sequence[ArrayLike], side: str) -> list[Bool]:
    return [item > 0 for item in tables(items, side, "lape_mask")]


def _entropies(rates: Float) -> Float:
    """Entropy over tasks of the rates [T, L, N], in nats; NaN where all are zero."""
    total = rates.sum(axis=0)
    shares = rates / np.where(total > 0, total, 1.0)
    terms = shares * np.log(np.where(shares > 0, shares, 1.0))
    return np.where(total > 0, -terms.sum(axis=0) + 0.0, np.nan)
