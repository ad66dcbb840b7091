"""Scores over resampled trials: how far the seeds of source and target let a score be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from indicators import Indicator
from transferscope import comparison
from transferscope.comparison import POOLED, Floats, Material

TINY = 1e-12  # differences below are rounding


def score(record: Indicator, source: Material, target: Material) -> float:
    left, right = comparison.items(record, source), comparison.items(record, target)
    return float(comparison.pair_values(record, left, right).mean())


def resampled(
    record: Indicator, sources: Sequence[Material], target: Material, *, seed: int, resamples: int
) -> Floats:
    """Scores [sources, resamples] when the trials of target and sources are drawn again, with replacement.

    The target's draws are the same for all sources, so rows can be subtracted from each other. A side with
    one trial stays as it is; where both do, the row is constant. An indicator that needs pooled arrays alone
    (predictivity) is computed again from each draw's mean; where pooled arrays stand beside others, they stay
    those of all trials.
    """
    rng = np.random.default_rng(seed)
    of_target = _draw(rng, target.trials, resamples)
    pooled = set(record.needs) <= POOLED
    rows = []
    for source in sources:
        of_source = _draw(rng, source.trials, resamples)
        values = _pooled_values if pooled else _pair_means
        rows.append(values(record, source, target, of_source, of_target))
    return np.array(rows)


def _draw(rng: np.random.Generator, trials: int, resamples: int) -> NDArray[np.int64]:
    """Which trials each resample holds, sorted, so that equal draws are equal rows: [resamples, R]."""
    return np.sort(rng.integers(trials, size=(resamples, trials)), axis=1)


def _pair_means(
    record: Indicator,
    source: Material,
    target: Material,
    of_source: NDArray[np.int64],
    of_target: NDArray[np.int64],
) -> Floats:
    left, right = comparison.items(record, source), comparison.items(record, target)
    block = comparison.pair_values(record, left, right)  # [R_source, R_target]: all that any resample needs
    return np.asarray(block[of_source[:, :, None], of_target[:, None, :]].mean(axis=(1, 2)))


def _pooled_values(
    record: Indicator,
    source: Material,
    target: Material,
    of_source: NDArray[np.int64],
    of_target: NDArray[np.int64],
) -> Floats:
    lefts, row = np.unique(of_source, axis=0, return_inverse=True)
    rights, column = np.unique(of_target, axis=0, return_inverse=True)
    row, column = row.reshape(-1), column.reshape(-1)
    wanted = sorted(set(zip(row.tolist(), column.tolist(), strict=True)))
    # All pairs at once are cheap only where the indicator knows how.
    if record.pairwise:
        table = comparison.pair_values(
            record,
            [comparison.items(record, _taken(record, source, trials))[0] for trials in lefts],
            [comparison.items(record, _taken(record, target, trials))[0] for trials in rights],
        )
    else:
        table = np.full((len(lefts), len(rights)), np.nan)
        for i, j in wanted:
            table[i, j] = score(record, _taken(record, source, lefts[i]), _taken(record, target, rights[j]))
    return np.asarray(table[row, column])


def _taken(record: Indicator, material: Material, trials: NDArray[np.int64]) -> Material:
    return replace(
        material, inputs={need: [material.inputs[need][i] for i in trials] for need in record.needs}
    )


def ties(difference: float, draws: Floats) -> bool | None:
    """Whether the interval of score(best) - score(this) holds 0; None where a draw is undefined."""
    low, high = around(difference, draws)
    return None if low is None or high is None else bool(low <= TINY and high >= -TINY)


def around(value: float, draws: Floats) -> tuple[float | None, float | None]:
    """The 95 % interval of the draws' deviations from their own mean, around the value.

    A draw that holds a trial twice is noisier than all trials together, and some indicators sink with noise:
    the draws' mean would then lie beside the value, and with it the interval.
    """
    if not np.isfinite([value, *draws]).all():
        return None, None
    low, high = np.quantile(draws - draws.mean(), [0.025, 0.975])
    return float(value + low), float(value + high)
