"""How far each FFN neuron tells a task's labels apart, by other scores [L, N], and how two tasks' agree.

They stand in the place of predictivity: mean differences, point-biserial correlations, AUROC, and gradient
times activation. The sign of a score says only which class a neuron stands for, so strengths are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from indicators.inputs import (
    Array,
    ArrayLike,
    Float,
    InvalidInput,
    choice,
    integers,
    numbers,
    same_shape,
    tables,
)
from indicators.kernels import both
from indicators.registry import indicator, matrix

Measure = Callable[..., float]

ANTVERG = "Antverg and Belinkov, ICLR 2022 (probeless)"
WANG = "Wang et al., EMNLP 2022"
CONSTANT = 1e-12  # a standard deviation below this share of the largest mean is rounding


@dataclass(frozen=True)
class ClassMoments:
    """Per class: ids [K] ascending, counts [K], means and variances (divided by counts) float64 [K, L, N]."""

    classes: Array
    counts: Array
    means: Float
    variances: Float

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise InvalidInput(f"{len(self.classes)} class: scores of neurons need at least 2")
        if not len(self.classes) == len(self.counts) == len(self.means) or np.min(self.counts) < 1:
            raise InvalidInput(
                f"counts {np.asarray(self.counts).tolist()}: one of at least 1 for each class is needed"
            )
        if self.means.shape != self.variances.shape:
            raise InvalidInput(
                f"means are {list(self.means.shape)} and variances {list(self.variances.shape)}: they must "
                "agree"
            )


def class_moments(activations: ArrayLike, labels: ArrayLike) -> ClassMoments:
    """Moments per class of activations [S, L, N] with class ids [S] (gaps allowed). Raises InvalidInput.

    >>> class_moments([[[1.0]], [[3.0]], [[5.0]]], [4, 4, 9]).means.tolist()
    [[[2.0]], [[5.0]]]
    """
    values, ids = _examples(activations, labels)
    classes, counts = np.unique(ids, return_counts=True)
    groups = [values[ids == one] for one in classes]
    return ClassMoments(
        classes,
        counts,
        np.stack([group.mean(axis=0) for group in groups]),
        np.stack([group.var(axis=0) for group in groups]),
    )


def mean_difference(moments: ClassMoments) -> Float:
    """Sum over pairs of classes of |mean_a - mean_b|, float64 [L, N]: in units of the neuron's activation.

    Source: Antverg and Belinkov, ICLR 2022 (probeless).

    >>> mean_difference(class_moments([[[1.0]], [[3.0]], [[5.0]]], [4, 4, 9])).tolist()
    [[3.0]]
    """
    means = moments.means
    pairs = ((a, b) for b in range(len(means)) for a in range(b))
    return np.asarray(sum(np.abs(means[a] - means[b]) for a, b in pairs))


def point_biserial(moments: ClassMoments, *, per_class: bool = False) -> Float:
    """|r| of each neuron with each class against the rest, mean over the classes, float64 [L, N] in [0, 1].

    r = (mean_c - mean) sqrt(p_c / (1 - p_c)) / sd is Pearson's correlation with the indicator of class c, p_c
    its share. With two classes both have the same |r|. per_class=True: the signed r, [K, L, N]. 0 where a
    neuron does not vary.

    >>> point_biserial(class_moments([[[1.0]], [[3.0]], [[5.0]], [[7.0]]], [0, 1, 0, 1])).round(6).tolist()
    [[0.447214]]
    """
    share = (moments.counts / moments.counts.sum())[:, None, None]
    centre = (share * moments.means).sum(axis=0)
    deviation = np.sqrt((share * (moments.variances + (moments.means - centre) ** 2)).sum(axis=0))
    varies = deviation > CONSTANT * np.abs(moments.means).max(axis=0)
    signed = (moments.means - centre) * np.sqrt(share / (1 - share)) / np.where(varies, deviation, 1.0)
    signed = np.clip(np.where(varies, signed, 0.0), -1.0, 1.0)
    return np.asarray(signed if per_class else np.abs(signed).mean(axis=0))


def auroc(activations: ArrayLike, labels: ArrayLike, *, per_class: bool = False) -> Float:
    """max(A, 1 - A) of each neuron for each class against the rest, mean over classes: [L, N] in [.5, 1].

    From activations [S, L, N] and class ids [S], float64. A is the area under the ROC curve: the share of
    pairs (one of the class, one of the rest) where the activation of the first is larger, ties a half.
    per_class=True: A itself, [K, L, N]. Raises InvalidInput where there is one class alone.

    >>> auroc([[[1.0]], [[3.0]], [[3.0]], [[7.0]]], [0, 0, 1, 1]).tolist()
    [[0.875]]
    """
    from scipy.stats import rankdata

    values, ids = _examples(activations, labels)
    classes, counts = np.unique(ids, return_counts=True)
    if len(classes) < 2:
        raise InvalidInput("1 class: scores of neurons need at least 2")
    areas = np.empty((len(classes), *values.shape[1:]))
    for layer in range(values.shape[1]):
        ranks = rankdata(values[:, layer], axis=0)  # [S, N], ties share their average
        for k, (one, count) in enumerate(zip(classes, counts, strict=True)):
            above = ranks[ids == one].sum(axis=0) - count * (count + 1) / 2
            areas[k, layer] = above / (count * (len(ids) - count))
    return areas if per_class else np.maximum(areas, 1 - areas).mean(axis=0)


def attribution(activations: ArrayLike, gradients: ArrayLike) -> Float:
    """Mean over examples of |activation x gradient of the loss|, float64 [L, N], from [S, L, N] each.

    To first order, how much the loss changes if the neuron is set to zero (Molchanov et al., ICLR 2017).

    >>> attribution([[[2.0]], [[1.0]]], [[[-1.0]], [[3.0]]]).tolist()
    [[2.5]]
    """
    values = np.asarray(numbers(activations, "activations", "S, L, N", (3,)), float)
    slopes = np.asarray(numbers(gradients, "gradients", "S, L, N", (3,)), float)
    if values.shape != slopes.shape:
        raise InvalidInput(
            f"activations are {list(values.shape)} and gradients {list(slopes.shape)}: they must agree"
        )
    return np.asarray(np.abs(values * slopes).mean(axis=0))


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of score, as its two indicators describe it."""

    name: str
    strength: str
    source: str
    of: Callable[[Float], Float] = np.abs
    low: float = -np.inf
    high: float = np.inf
    any_scale: bool = True


def _from_half(area: Float) -> Float:
    """|A - .5|, to 12 digits: .4 and .6 are equally strong."""
    return np.asarray(np.round(np.abs(area - 0.5), 12))


KINDS = (
    Kind(
        name="mean_difference",
        strength="sum over pairs of classes of |mean_a - mean_b|",
        source=ANTVERG,
        low=0.0,
    ),
    Kind(
        name="point_biserial", strength="|r| of the activation with the class", source="Pearson's correlation"
    ),
    Kind(
        name="auroc",
        strength="|A - .5|, A the area under the ROC curve of the activation",
        source="Mann and Whitney, 1947",
        of=_from_half,
        low=0.0,
        high=1.0,
        any_scale=False,
    ),
    Kind(name="attribution", strength="|gradient x activation|", source="Molchanov et al., ICLR 2017"),
)


def _strengths(kind: Kind, items: Sequence[ArrayLike], side: str) -> list[Float]:
    return [kind.of(item) for item in tables(items, side, kind.name, low=kind.low, high=kind.high)]


def _pairs(
    sources: Sequence[ArrayLike],
    targets: Sequence[ArrayLike],
    *,
    kind: Kind,
    statistic: Callable[..., Float],
    **options: float | str,
) -> Float:
    left, right = both(partial(_strengths, kind), sources, targets)
    same_shape(left, right, kind.name)
    return statistic(left, right, **options)


def _spearman(left: list[Float], right: list[Float], *, by: str = "layer") -> Float:
    choice(by, "by", ("layer", "network"))
    return matrix("predictivity_spearman_layers" if by == "layer" else "predictivity_spearman", left, right)


def _overlap(left: list[Float], right: list[Float], *, rate: float = 0.2, by: str = "layer") -> Float:
    return matrix("skill_overlap", left, right, rate=rate, by=by)


def _register_spearman(kind: Kind) -> Measure:
    pairs = partial(_pairs, kind=kind, statistic=_spearman)

    def spearman(source: ArrayLike, target: ArrayLike, *, by: str = "layer") -> float:
        return float(pairs([source], [target], by=by)[0, 0])

    spearman.__doc__ = f"""Mean over layers of the Spearman correlation of two {kind.name} scores [L, N].

    by="network": over all neurons at once, which is above 0 where layers differ in level in both tasks.

    >>> round(neuron_spearman_{kind.name}([[0.5, 0.6, 0.7, 0.9]], [[0.5, 0.7, 0.6, 0.9]]), 6)
    0.8
    """
    return indicator(
        f"neuron_spearman_{kind.name}",
        needs=kind.name,
        symmetric=True,
        bounds=(-1.0, 1.0),
        chance="0",
        self_value=1.0,
        zero_value=float("nan"),
        degenerate="layers with fewer than 3 neurons, or of equal strengths, are left out; NaN if all are",
        formula=f"mean over layers of the Spearman correlation of the strengths {kind.strength}",
        source=f"{kind.source}; compared as {WANG} compare predictivities",
        requires_equal_rows=True,
        rows="aligned",
        scale="each" if kind.any_scale else "none",
        pairwise=pairs,
    )(spearman)


def _register_overlap(kind: Kind) -> Measure:
    pairs = partial(_pairs, kind=kind, statistic=_overlap)

    def overlap(source: ArrayLike, target: ArrayLike, *, rate: float = 0.2, by: str = "layer") -> float:
        return float(pairs([source], [target], rate=rate, by=by)[0, 0])

    overlap.__doc__ = f"""Chance-corrected overlap of the strongest neurons by the {kind.name} scores [L, N].

    `rate` and `by` are those of `skill_mask`: the int(rate N) strongest of each layer, or of the network.

    >>> neuron_overlap_{kind.name}([[0.9, 0.8, 0.5, 0.5]], [[0.9, 0.5, 0.8, 0.5]], rate=0.5)
    0.0
    """
    return indicator(
        f"neuron_overlap_{kind.name}",
        needs=kind.name,
        symmetric=True,
        bounds=(-1.0, 1.0),
        chance="0 for random sets of the same sizes (in the same layers)",
        self_value=1.0,
        zero_value=1.0,
        degenerate="0 where no neuron is chosen or all are; ties choose the first neurons: 1 for equal ones",
        formula=f"as `skill_overlap`, of the strongest neurons: those of the highest {kind.strength}",
        source=f"{kind.source}; Cohen's kappa (1960) of the two sets",
        requires_equal_rows=True,
        rows="aligned",
        scale="each" if kind.any_scale else "none",
        pairwise=pairs,
    )(overlap)


def _examples(activations: ArrayLike, labels: ArrayLike) -> tuple[Float, Array]:
    values = np.asarray(numbers(activations, "activations", "S, L, N", (3,)), float)
    ids = integers(labels, "labels")
    if len(values) != len(ids):
        raise InvalidInput(
            f"activations are {list(values.shape)} and labels {list(ids.shape)}: one label for each "
            "example is needed"
        )
    return values, ids


(
    neuron_spearman_mean_difference,
    neuron_spearman_point_biserial,
    neuron_spearman_auroc,
    neuron_spearman_attribution,
) = (_register_spearman(kind) for kind in KINDS)
(
    neuron_overlap_mean_difference,
    neuron_overlap_point_biserial,
    neuron_overlap_auroc,
    neuron_overlap_attribution,
) = (_register_overlap(kind) for kind in KINDS)
