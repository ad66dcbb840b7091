"""Optimal transport distance of two labelled data sets: texts [S, D] and class ids [S] on both sides.

The solver is POT's (`ot`), which is imported when a distance is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from indicators.distributions import embedded, gaussian_distance
from indicators.inputs import Array, ArrayLike, Float, InvalidInput, integers
from indicators.registry import indicator

ALVAREZ = "Alvarez-Melis and Fusi, NeurIPS 2020"
STEPS = 10_000_000  # of the network simplex; POT's own limit is too low for some thousand rows
CHANCE = "above 0 for two samples of the same data set too; it falls as rows are added"
DEGENERATE = "a class of one example is a point; one class is allowed; 0 where all rows are the same"
SOURCE = (
    f"{ALVAREZ}, with p = 2; without entropic smoothing, so that a data set is at 0 from itself. Their code "
    "halves both terms and gives the square"
)


@indicator(
    "otdd",
    needs=("inputs", "labels"),
    symmetric=True,
    bounds=(0.0, float("inf")),
    higher_is_closer=False,
    chance=CHANCE,
    degenerate=DEGENERATE,
    source=SOURCE,
    self_value=0.0,
    zero_value=0.0,
    formula=(
        "sqrt(min over plans of the mean of w |x - x'|^2 + W2(X_y, X_y')^2), w = 1, X_y the rows of class "
        "y, W2 exact"
    ),
    requires_equal_rows=False,
    rows="free",
    scale="value",
)
def otdd(
    source_inputs: ArrayLike,
    target_inputs: ArrayLike,
    source_labels: ArrayLike,
    target_labels: ArrayLike,
    *,
    feature_weight: float = 1.0,
) -> float:
    """Optimal transport distance of data sets [S1, D], [S2, D] with class ids [S1], [S2]; classes exact.

    What the ids are does not matter, and the sides may have different classes. `feature_weight` is w: .5
    halves the term of the features alone. Needs POT, else InvalidInput; for up to some thousand rows a side.

    >>> round(otdd([[0.0], [1.0]], [[3.0], [4.0]], [0, 1], [5, 7]) ** 2, 6)
    18.0
    """
    return _distance(
        source_inputs, target_inputs, source_labels, target_labels, feature_weight, _exact, "otdd"
    )


@indicator(
    "otdd_gaussian",
    needs=("inputs", "labels"),
    symmetric=True,
    bounds=(0.0, float("inf")),
    higher_is_closer=False,
    chance=CHANCE,
    degenerate=DEGENERATE,
    source=SOURCE,
    self_value=0.0,
    zero_value=0.0,
    formula="as `otdd`, with the W2 distance of the Gaussians fitted to the classes: `frechet` of their rows",
    requires_equal_rows=False,
    rows="free",
    scale="value",
)
def otdd_gaussian(
    source_inputs: ArrayLike,
    target_inputs: ArrayLike,
    source_labels: ArrayLike,
    target_labels: ArrayLike,
    *,
    feature_weight: float = 1.0,
) -> float:
    """Optimal transport distance of data sets [S1, D], [S2, D] with class ids [S1], [S2]; classes Gaussian.

    Never above `otdd`. Options, needs and errors are those of `otdd`.

    >>> round(otdd_gaussian([[0.0], [2.0]], [[4.0], [8.0]], [0, 0], [1, 1]) ** 2, 6)
    52.0
    """
    return _distance(
        source_inputs,
        target_inputs,
        source_labels,
        target_labels,
        feature_weight,
        gaussian_distance,
        "otdd_gaussian",
    )


def _distance(
    source: ArrayLike,
    target: ArrayLike,
    source_labels: ArrayLike,
    target_labels: ArrayLike,
    weight: float,
    of_classes: Callable[[Float, Float], float],
    name: str,
) -> float:
    x, y, power = embedded(source, target)
    left, right = _classes(source_labels, "source", x), _classes(target_labels, "target", y)
    if not 0 <= weight < np.inf:
        raise InvalidInput(f"feature_weight={weight!r}: a finite number of at least 0 is needed")
    _solver(name)
    apart = np.array(
        [
            [of_classes(x[left == a], y[right == b]) for b in range(right.max() + 1)]
            for a in range(left.max() + 1)
        ]
    )
    cost = weight * _squared(x, y) + apart[left][:, right] ** 2  # [S1, S2]
    return float(np.ldexp(np.sqrt(_transported(cost, name)), power))


def _classes(labels: ArrayLike, side: str, rows: Float) -> Array:
    """Class ids re-indexed to 0, 1, ... without gaps, one for each row."""
    array = integers(labels, f"{side} labels")
    if len(array) != len(rows):
        raise InvalidInput(
            f"{side} labels is {list(array.shape)} and {side} inputs is {list(rows.shape)}: one label for "
            "each row is needed"
        )
    return np.asarray(np.unique(array, return_inverse=True)[1])


def _exact(x: Float, y: Float) -> float:
    """W2 distance of two samples by exact transport."""
    return float(np.sqrt(_transported(_squared(x, y), "otdd")))


def _squared(x: Float, y: Float) -> Float:
    from scipy.spatial.distance import cdist

    # By differences, not by a product of matrices: a data set must be at exactly 0 from itself.
    return np.asarray(cdist(x, y, "sqeuclidean"))


def _transported(cost: Float, name: str) -> float:
    """The least mean cost of moving equal masses of the rows to equal masses of the columns."""
    if min(cost.shape) == 1:
        return float(cost.mean())
    value, log = _solver(name).emd2([], [], cost, numItermax=STEPS, log=True)
    if log["warning"]:
        raise InvalidInput(f"{name} on {list(cost.shape)} rows was not solved: {log['warning']}")
    return max(float(value), 0.0)


def _solver(name: str) -> Any:
    try:
        import ot
    except ImportError:
        raise InvalidInput(f"{name} needs the library POT: pip install 'transferscope[ot]'") from None
    return ot
