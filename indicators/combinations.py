"""Several indicators as one: means of standardised scores, rank aggregation, and fitted weights.

Scores are [I, S] of I indicators over the S sources of one target, or [I, T, S] of T targets; always over the
last axis. Larger means better: turn distances round first. NaN is a score that is not there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indicators.inputs import ArrayLike, Bool, Float, InvalidInput, numbers


def z_mean(scores: ArrayLike) -> Float:
    """Mean over indicators of the z-scores over sources, float64 [S] or [T, S].

    The standard deviation is divided by the number of scores. An indicator with equal scores for all sources
    counts as 0. NaN where a source has no score. Raises InvalidInput for other shapes or infinite scores.

    >>> z_mean([[1.0, 2.0, 3.0], [30.0, 10.0, 20.0]]).round(3).tolist()
    [0.0, -0.612, 0.612]
    """
    return _mean(_standardised(_checked(scores)))


def borda(scores: ArrayLike) -> Float:
    """Mean over indicators of the share of other sources that a source beats: float64 [S] or [T, S], 0 to 1.

    Borda's count divided by the number of rivals. A tie is half a win; sources without a score do not take
    part. NaN where a source has no score; .5 where it is alone. Raises InvalidInput as `z_mean`.

    >>> borda([[1.0, 2.0, 3.0], [30.0, 10.0, 20.0]]).tolist()
    [0.5, 0.25, 0.75]
    """
    array = _checked(scores)
    rivals = (~np.isnan(array)).sum(axis=-1, keepdims=True) - 1
    share = np.where(rivals > 0, (_ranks(array) - 1) / np.maximum(rivals, 1), 0.5)
    return _mean(np.where(np.isnan(array), np.nan, share))


def reciprocal_rank_fusion(scores: ArrayLike, *, k: float = 60.0) -> Float:
    """Sum over indicators of 1 / (k + rank), the best source at rank 1: float64 [S] or [T, S].

    Ties share their average rank. A score that is not there adds 0. Raises InvalidInput as `z_mean`, and for
    a k below 0. Source: Cormack et al., SIGIR 2009; k = 60 is theirs.

    >>> reciprocal_rank_fusion([[1.0, 2.0, 3.0], [30.0, 10.0, 20.0]], k=1).round(3).tolist()
    [0.75, 0.583, 0.833]
    """
    array = _checked(scores)
    if not 0 <= k < np.inf:
        raise InvalidInput(f"k={k!r}: a finite number of at least 0 is needed")
    return np.asarray(np.where(np.isnan(array), 0.0, 1 / (k + _ranks(-array))).sum(axis=0))


@dataclass(frozen=True)
class HeldOut:
    """predictions float64 [T, S], each row by weights [T, I] that were fitted without that target."""

    predictions: Float
    weights: Float


def leave_one_target_out_ridge(scores: ArrayLike, transfer: ArrayLike, *, ridge: float = 1.0) -> HeldOut:
    """Predict each target's transfer from indicators [I, T, S], with weights fitted on the others' [T, S].

    Be careful. On published transfer matrices no refinement without labels, of hundreds tried, beat the plain
    ones on held-out targets; the type of the task, and measuring the best three, did more. With few targets
    the weights are mostly noise: compare the predictions with each indicator alone and with the baselines, on
    held-out targets only, and never report a fit to the targets that it was fitted on.

    Scores and transfer are standardised over the sources of each target, so a prediction says which source is
    better, not how good it is. NaN in `transfer` (a pair that was not measured) is left out of the fit and
    predicted all the same. A score that is not there counts as 0, the mean. Put NaN in both for a prompt on
    its own task: similarity to itself would be an outlier. `ridge` is the penalty as a share of the number of
    pairs in the fit: 1 halves the weight of an indicator that stands alone. Raises InvalidInput for fewer
    than two targets with a transfer, other shapes, infinite numbers, or a ridge that is not above 0.

    >>> values = [[0.1, 0.2, 0.3], [0.6, 0.4, 0.2]]
    >>> leave_one_target_out_ridge([values], values).weights.round(6).tolist()
    [[0.5], [0.5]]
    """
    array, measured = _checked(scores, (3,)), numbers(transfer, "transfer", "T, S", (2,), nan=True)
    if array.shape[1:] != measured.shape:
        raise InvalidInput(
            f"scores are {list(array.shape)} and transfer is {list(measured.shape)}: [I, T, S] and [T, S] "
            "are needed"
        )
    if not 0 < ridge < np.inf:
        raise InvalidInput(f"ridge={ridge!r}: a finite number above 0 is needed")
    known = ~np.isnan(measured)
    if known.any(axis=1).sum() < 2:
        raise InvalidInput("transfer is measured on fewer than 2 targets: none is left to fit on")
    inputs = np.nan_to_num(_standardised(array))  # [I, T, S]
    wanted = _standardised(np.asarray(measured, float))
    weights = np.stack([_weights(inputs, wanted, known, t, ridge) for t in range(len(measured))])
    return HeldOut(np.einsum("ti,its->ts", weights, inputs), weights)


def _weights(inputs: Float, wanted: Float, known: Bool, left_out: int, ridge: float) -> Float:
    used = known.copy()
    used[left_out] = False
    x, y = inputs[:, used], wanted[used]  # [I, pairs], [pairs]
    system = x @ x.T / len(y) + ridge * np.eye(len(x))
    return np.asarray(np.linalg.solve(system, x @ y / len(y)), float)


def _checked(scores: ArrayLike, dims: tuple[int, ...] = (2, 3)) -> Float:
    axes = "I, S] or [I, T, S" if 2 in dims else "I, T, S"
    return np.asarray(numbers(scores, "scores", axes, dims, nan=True), float)


def _standardised(array: Float) -> Float:
    """z-scores over the last axis; 0 where all are equal, NaN where there is none."""
    there = ~np.isnan(array)
    number = np.maximum(there.sum(axis=-1, keepdims=True), 1)
    filled = np.where(there, array, 0.0)
    peak = np.abs(filled).max(axis=-1, keepdims=True)
    filled = filled / np.where(peak > 0, peak, 1.0)
    gaps = np.where(there, filled - filled.sum(axis=-1, keepdims=True) / number, 0.0)
    deviation = np.sqrt((gaps**2).sum(axis=-1, keepdims=True) / number)
    # Entries are at most one here: what is below this is rounding of equal ones.
    varies = deviation > 1e-14
    return np.where(there, np.where(varies, gaps / np.where(varies, deviation, 1.0), 0.0), np.nan)


def _ranks(array: Float) -> Float:
    """Ranks 1, 2, ... over the last axis, the lowest first; ties share their average; NaN last."""
    below = (array[..., None, :] < array[..., :, None]).sum(axis=-1)
    equal = (array[..., None, :] == array[..., :, None]).sum(axis=-1)
    return np.asarray(1 + below + (equal - 1) / 2.0)


def _mean(array: Float) -> Float:
    """Mean over the first axis of what is there; NaN where nothing is."""
    there = ~np.isnan(array)
    number = there.sum(axis=0)
    total = np.where(there, array, 0.0).sum(axis=0)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)
