"""Scores from what a source's head says of the target's examples: LEEP, NCE, energy, zero-shot baselines.

The probabilities of `leep` and `nce` are over the source's own classes, those of `zero_shot_loss` and
`zero_shot_accuracy` over the target's label words, read under the source's prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from indicators.inputs import Array, ArrayLike, Float, InvalidInput
from indicators.label_inputs import class_ids, distributions, matrix, one_hot, share_of_best, whole
from indicators.registry import indicator


def mean_log_expected(theta: Float, classes: Array, counts: Float) -> float:
    """LEEP of probabilities [S, Z] and classes 0..K-1 [S]: mean ln sum_z P(y | z) theta(x)_z."""
    joint = one_hot(classes, len(counts)).T @ theta  # [K, Z], times S
    marginal = joint.sum(axis=0)
    # No example has anything of a dead column, so what P(y | z) is there does not matter.
    given = joint / np.where(marginal > 0, marginal, 1.0)
    expected = (given[classes] * theta).sum(axis=1)
    return float(min(np.log(expected).mean(), 0.0))


@indicator(
    "leep",
    family="label_scores",
    needs=("probabilities", "labels"),
    convention="score",
    symmetric=False,
    bounds=(-math.inf, 0.0),
    chance="-H(Y), the entropy of the target's classes: -ln K where they are balanced",
    self_value=None,
    zero_value=-math.log(2.0),
    degenerate="0 where all examples have one class; a column that is 0 for all examples is left out",
    formula=(
        "mean over examples of ln sum_z P(y | z) theta(x)_z, P(y, z) = mean over examples of class y "
        "of theta(x)_z, times their share"
    ),
    source=(
        "Nguyen et al., ICML 2020, eqs. (1) and (2); some public copies leave out the logarithm, and one "
        "puts a uniform P(y | z) where a column is 0"
    ),
    requires_equal_rows=True,
    rows="aligned",
    scale="none",
)
def leep(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Log expected empirical prediction of labels [S] from a source head's probabilities [S, Z].

    >>> round(leep([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], [4, 4, 9, 4]), 6)
    -0.346574
    """
    theta = distributions(probabilities)
    return mean_log_expected(theta, *class_ids(labels, len(theta), "probabilities"))


@indicator(
    "nce",
    family="label_scores",
    needs=("probabilities", "labels"),
    convention="score",
    symmetric=False,
    bounds=(-math.inf, 0.0),
    chance="just above -H(Y), the entropy of the target's classes: -ln K where they are balanced",
    self_value=None,
    zero_value=-math.log(2.0),
    degenerate="0 where all examples have one class; of equal probabilities the first column is taken",
    formula="-H(Y | Z) = sum over y, z of P(y, z) ln(P(y, z) / P(z)), Z the most probable column",
    source="Tran et al., ICCV 2019, eq. (9): negative conditional entropy; nothing is added to the counts",
    requires_equal_rows=True,
    rows="aligned",
    scale="none",
)
def nce(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Negative conditional entropy of labels [S] given the class that a head [S, Z] finds most probable.

    >>> round(nce([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]], [4, 4, 9, 4]), 6)
    -0.346574
    """
    theta = distributions(probabilities)
    classes, counts = class_ids(labels, len(theta), "probabilities")
    joint = one_hot(classes, len(counts)).T @ one_hot(theta.argmax(axis=1), theta.shape[1])
    given = joint / np.maximum(joint.sum(axis=0), 1.0)
    seen = joint > 0
    return float(min((joint[seen] * np.log(given[seen])).sum() / len(theta), 0.0))


@indicator(
    "etran_energy",
    family="label_scores",
    needs=("logits",),
    convention="score",
    symmetric=False,
    bounds=(-math.inf, math.inf),
    chance="none: it follows the size of the logits; compare only sources with one and the same head",
    self_value=None,
    zero_value=math.log(2.0),
    degenerate="none: ln Z for logits that are all 0",
    formula="mean over examples of ln sum_z exp(logit_z), the negative free energy at temperature 1",
    source=(
        "Gholami et al., ICCV 2023 (ETran), the energy score alone; there it is scaled to 0..1 over the "
        "candidates and added to another score, so that one candidate's value depends on the others'"
    ),
    requires_equal_rows=True,
    rows="aligned",
    scale="none",
)
def etran_energy(logits: ArrayLike) -> float:
    """Mean log-sum-exp of the logits [S, Z] of a source's head on the target's data; reads no labels.

    >>> round(etran_energy([[0.0, 0.0], [3.0, 3.0]]), 6)
    2.193147
    """
    array = matrix(logits, "logits", "S, Z")
    top = array.max(axis=1)
    return float((top + np.log(np.exp(array - top[:, None]).sum(axis=1))).mean())


@indicator(
    "zero_shot_loss",
    family="label_scores",
    needs=("probabilities", "labels"),
    convention="score",
    symmetric=False,
    bounds=(0.0, math.inf),
    higher_is_closer=False,
    chance="ln K for a head that knows nothing; more for one that is sure and wrong",
    self_value=None,
    zero_value=math.log(2.0),
    degenerate="infinite where the probability of an example's own class is 0",
    formula="- mean over examples of ln p(x)_y, over the target's label words under the source's prompt",
    source="the loss of prompt tuning on the target before any tuning; the baseline of every label score",
    requires_equal_rows=True,
    rows="aligned",
    scale="none",
)
def zero_shot_loss(
    probabilities: ArrayLike, labels: ArrayLike, *, classes: Sequence[int] | None = None
) -> float:
    """Mean negative log probability [S, K] of the target's own labels [S].

    Labels are columns, 0..K-1; with `classes` the column of a label is its place in that list.

    >>> round(zero_shot_loss([[0.5, 0.5], [0.25, 0.75]], [0, 1]), 6)
    0.490415
    """
    theta = distributions(probabilities)
    own = theta[np.arange(len(theta)), _columns(labels, theta, classes)]
    with np.errstate(divide="ignore"):
        return float(max(-np.log(own).mean(), 0.0))


@indicator(
    "zero_shot_accuracy",
    family="label_scores",
    needs=("probabilities", "labels"),
    convention="score",
    symmetric=False,
    bounds=(0.0, 1.0),
    chance="1 / K for balanced classes; the share of the largest class for a head that always says it",
    self_value=None,
    zero_value=0.5,
    degenerate="where m columns are equally probable, 1/m for an example whose class is among them",
    formula="share of examples whose most probable label word is their own class's",
    source="Su et al., NAACL 2022: zero-shot transfer, measured; the baseline of every label score",
    requires_equal_rows=True,
    rows="aligned",
    scale="none",
)
def zero_shot_accuracy(
    probabilities: ArrayLike, labels: ArrayLike, *, classes: Sequence[int] | None = None
) -> float:
    """Accuracy of probabilities [S, K] over the target's label words against its labels [S].

    Labels are columns, 0..K-1; with `classes` the column of a label is its place in that list.

    >>> zero_shot_accuracy([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], [0, 1, 1]).__round__(6)
    0.666667
    """
    theta = distributions(probabilities)
    return share_of_best(theta, _columns(labels, theta, classes))


def _columns(labels: ArrayLike, theta: Float, classes: Sequence[int] | None) -> Array:
    """The column of each label."""
    ids, width = whole(labels, len(theta), "probabilities"), theta.shape[1]
    known = list(range(width)) if classes is None else [int(name) for name in classes]
    if len(known) != width or len(set(known)) != width:
        raise InvalidInput(f"classes={known}: {width} different ids are needed, one for each column")
    place = {name: column for column, name in enumerate(known)}
    strange = sorted({int(name) for name in ids} - set(known))
    if strange:
        raise InvalidInput(
            f"labels holds {strange[0]}, which is no column: the columns are {known}; give the ids of the "
            "columns as classes=[...]"
        )
    return np.array([place[int(name)] for name in ids])
