"""The report of an origin study: what it found, as records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from indicators.predictivity import skill_mask
from transferscope.origin_perturbation import Chosen, Effect, Plan
from transferscope.signatures import Signature

SKILL, BY_WORDS = "skill", "word-selective"


@dataclass(frozen=True)
class Performance:
    """How well a subject does the task with nothing perturbed: mean on dev, by seed; ``weak``: within two
    standard errors of the majority class, so that there is little to be lost. ``parameters``: how many were
    trained.
    """

    subject: str
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    value: float
    majority: float
    weak: bool
    parameters: int


@dataclass(frozen=True)
class TopPredictivity:
    """Predictivities (mean over trials) under one condition: the highest, and the mean of the top of each
    layer at each rate.
    """

    condition: str
    trials: int
    highest: float
    top: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Overlap:
    """Skill neurons beside other neurons at a rate: how many both have, and how many random sets would have.

    ``spearman`` is over all neurons of the network, ``by_layer`` its value in each layer (None where it is
    not defined), between the two scores that choose them.
    """

    neurons: str
    rate: float
    count: int
    common: int
    expected: float
    spearman: float | None
    by_layer: tuple[float | None, ...]


@dataclass(frozen=True)
class WordNeuron:
    """A top neuron: its predictivity, its selectivity for its best word, and the words that it promotes."""

    kind: str
    layer: int
    neuron: int
    predictivity: float | None
    selectivity: float | None
    word: str
    promotes: tuple[str, ...]


@dataclass(frozen=True)
class OriginReport:
    """The origin study of one task."""

    task: str
    model: str
    metric: str
    majority: float
    plan: Plan
    performances: tuple[Performance, ...]
    effects: tuple[Effect, ...]
    predictivities: tuple[TopPredictivity, ...] = ()
    overlaps: tuple[Overlap, ...] = ()
    words: tuple[WordNeuron, ...] = ()
    notes: tuple[str, ...] = ()


def number(value: float) -> float | None:
    """A float, or None where it is not finite."""
    return float(value) if np.isfinite(value) else None


def top_of(condition: str, signature: Signature, plan: Plan) -> TopPredictivity:
    """The highest mean predictivities of a signature [L, N], and the means of its top neurons."""
    values = signature.mean_predictivity
    means = tuple((rate, float(np.nanmean(values[skill_mask(values, rate)]))) for rate in plan.rates)
    return TopPredictivity(condition, len(signature.seeds), float(np.nanmax(values)), means)


def overlap_of(
    name: str, rate: float, skill: Chosen, other: Chosen, first: np.ndarray, second: np.ndarray
) -> Overlap:
    """How far two ways of choosing neurons, by scores [L, N] each, choose the same ones at a rate."""
    a, b = skill.masks[rate], other.masks[rate]
    expected = float((a.sum(axis=1) * b.sum(axis=1) / a.shape[1]).sum())
    layers = tuple(spearman(x, y) for x, y in zip(first, second, strict=True))
    common = int((a & b).sum())
    return Overlap(name, rate, int(a.sum()), common, expected, spearman(first, second), layers)


def spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's correlation over what is defined in both; None for fewer than 3 values or constant ones."""
    known = np.isfinite(first) & np.isfinite(second)
    x, y = first[known], second[known]
    if len(x) < 3 or (x == x[0]).all() or (y == y[0]).all():
        return None
    return float(spearmanr(x, y).statistic)
