"""A linear probe in closed form, each example predicted by the probe of all others."""

from __future__ import annotations

import math

import numpy as np

from indicators.inputs import ArrayLike, Float, InvalidInput
from indicators.label_inputs import examples, one_hot, share_of_best, thin
from indicators.registry import indicator

STRENGTHS: tuple[float, ...] = tuple(10.0**power for power in range(-4, 4))


@indicator(
    "linear_probe_cv",
    family="label_scores",
    needs=("features", "labels"),
    convention="score",
    symmetric=False,
    bounds=(0.0, 1.0),
    chance="the share of the largest class, 1 / K where they are balanced",
    self_value=None,
    zero_value=0.5,
    degenerate="constant features: the share of the largest class (ties: 1/K); InvalidInput for one class",
    formula=(
        "share of examples whose class has the largest y_k: ridge regression of one-hot labels on centred "
        "features, y(-i) = (H y - h_ii y) / (1 - h_ii) without example i, H = X (X'X + a I)^-1 X'; a of "
        "least squared error out of 1e-4, ..., 1e3 times the mean of the nonzero eigenvalues of X'X"
    ),
    source=(
        "own, the honest baseline of label scores: ridge (Hoerl & Kennard 1970) with the leave-one-out "
        "formula of Allen 1974; the means of features and labels are those of all examples, so that "
        "leaving one out tells nothing of its class"
    ),
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
)
def linear_probe_cv(
    features: ArrayLike, labels: ArrayLike, *, strengths: tuple[float, ...] = STRENGTHS
) -> float:
    """Leave-one-out accuracy of a ridge classifier on features [S, D] and class ids [S].

    >>> linear_probe_cv([[0.0, 1.0], [1.0, 0.0], [4.0, 1.0], [5.0, 0.0]], [0, 0, 1, 1])
    1.0
    """
    if not strengths or not all(math.isfinite(strength) and strength > 0 for strength in strengths):
        raise InvalidInput(f"strengths={strengths!r}: at least one positive number is needed")
    array, classes, counts, _ = examples(features, labels)
    left, values = thin(array)
    prior = counts / counts.sum()
    targets = one_hot(classes, len(counts)) - prior
    squares = values**2 / max((values**2).mean(), np.finfo(float).tiny) if len(values) else values
    predicted = [_left_out(left, squares / (squares + strength), targets) for strength in strengths]
    errors = [((guess - targets) ** 2).sum() for guess in predicted]
    return share_of_best(prior + predicted[int(np.argmin(errors))], classes)


def _left_out(left: Float, shrunk: Float, targets: Float) -> Float:
    """What the other examples predict of each, [S, K], from the eigenvectors [S, r] and eigenvalues of H."""
    own = (left**2 @ shrunk)[:, None]  # h_ii
    fitted = left @ (shrunk[:, None] * (left.T @ targets))
    return np.asarray((fitted - own * targets) / (1.0 - own))
