"""How well predictions x order the measured values y of one target: correlations, regret, NDCG, top-1.

Every metric takes x [N, S], predictions of N orderings for S sources (larger: better), and y [Q, S], Q
versions of the measured values (larger: better), and returns [N, Q] float64; NaN where it is not defined.
`chance` is the expectation over all orders of the sources, each as likely, never one draw.

Ties in x stand for every order of the tied sources, each as likely: regret, NDCG, MRR and top-1 are the exact
expectation over them; Spearman takes average ranks, Kendall is tau-b, and the weighted tau breaks ties by the
other variable, as SciPy does (its weights have no closed expectation).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import comb

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from transferscope.errors import InputError, suggest

Floats = NDArray[np.float64]
Function = Callable[[Floats, Floats], Floats]


@dataclass(frozen=True)
class Metric:
    """One metric: what it computes, its value for a random order of y ([Q, S] -> [Q]), and its direction.

    `definition` is printed with every table.
    """

    name: str
    function: Function
    chance: Callable[[Floats], Floats]
    definition: str
    higher_is_better: bool = True


def evaluate(x: Floats, y: Floats, metrics: Sequence[str | Metric] | None = None) -> dict[str, Floats]:
    """The metrics (None: all) of x [N, S] against y [Q, S], each [N, Q]; all NaN with fewer than two sources.

    Raises InputError for an unknown metric.
    """
    few = y.shape[1] < 2
    nothing = np.full((len(x), len(y)), np.nan)
    return {one.name: nothing.copy() if few else one.function(x, y) for one in chosen(metrics)}


def chance(y: Floats, metrics: Sequence[str | Metric] | None = None) -> dict[str, Floats]:
    """The metrics' exact expectations over all orders of the sources of y [Q, S], each [Q]; NaN if S < 2."""
    few = y.shape[1] < 2
    return {one.name: np.full(len(y), np.nan) if few else one.chance(y) for one in chosen(metrics)}


def chosen(metrics: Sequence[str | Metric] | None) -> list[Metric]:
    """Metrics by name or as they are; None: all of the table."""
    if metrics is None:
        return list(METRICS.values())
    return [find(one) if isinstance(one, str) else one for one in metrics]


def find(name: str) -> Metric:
    """A metric by name; InputError with the nearest one if it is unknown."""
    if name not in METRICS:
        raise InputError(f"unknown metric {name!r}. {suggest(name, METRICS)}")
    return METRICS[name]


def pearson(x: Floats, y: Floats) -> Floats:
    """Pearson's correlation; NaN where one side is constant."""
    return _unit(x) @ _unit(y).T


def spearman(x: Floats, y: Floats) -> Floats:
    """Pearson's correlation of the average ranks; NaN where one side is constant."""
    return pearson(rankdata(x, axis=1), rankdata(y, axis=1))


def kendall(x: Floats, y: Floats) -> Floats:
    """Tau-b: (concordant - discordant pairs) / sqrt(pairs not tied in x * pairs not tied in y)."""
    left, right = (_signs(values).reshape(len(values), -1) for values in (x, y))
    return _divide(left @ right.T, np.sqrt(np.outer((left**2).sum(axis=1), (right**2).sum(axis=1))))


def weighted_tau(x: Floats, y: Floats) -> Floats:
    """Tau on scores, a pair weighted by 1/(1 + r_i) + 1/(1 + r_j), r the ranks, 0 for the best.

    The mean of ranking by (x, ties by y) and by (y, ties by x). Source: Vigna, WWW 2015; equal to
    `scipy.stats.weightedtau(x, y)`.
    """
    signs = _signs(y)
    return np.array([_weighted_tau(one, signs) for one in _signs(x)])


def _weighted_tau(x: Floats, y: Floats) -> Floats:
    """Signs x [S, S] and y [Q, S, S] of all differences -> [Q]."""
    index = np.arange(len(x))
    # Sources tied in both are alike to all others, so which of them stands first changes nothing.
    both = ((x == 0) & (y == 0) & (index[None, :] < index[:, None])).sum(axis=2)
    by_x = (x < 0).sum(axis=1) + ((x == 0) & (y < 0)).sum(axis=2) + both
    by_y = (y < 0).sum(axis=2) + ((y == 0) & (x < 0)).sum(axis=2) + both
    agreeing = np.einsum("ij,qij->qi", x, y)
    untied = (x != 0).sum(axis=1)[None], (y != 0).sum(axis=2)
    found = []
    for ranks in (by_x, by_y):
        weights = 1.0 / (1.0 + ranks)
        # The sum over pairs of (w_i + w_j) c_ij is the sum over i of w_i times the sum over j of c_ij.
        scale = np.sqrt((weights * untied[0]).sum(axis=1) * (weights * untied[1]).sum(axis=1))
        found.append(_divide((weights * agreeing).sum(axis=1), scale))
    return np.mean(found, axis=0)


def regret(x: Floats, y: Floats, *, k: int) -> Floats:
    """Best of y minus the best among the first k by x, in expectation over the orders of ties in x."""
    best = y.max(axis=1)
    # Never below 0: expectations are sums of products, and rounded.
    return np.array([np.maximum(best - _best_of_first(one, y, k), 0.0) for one in x])


def _best_of_first(x: Floats, y: Floats, k: int) -> Floats:
    """Expected maximum of y [Q, S] over the first k sources by x [S], [Q]."""
    k = min(k, len(x))
    edge = np.sort(x)[-k]
    above, tied = x > edge, x == edge
    reached = y[:, above].max(axis=1, initial=-np.inf)
    return _expected_best(y[:, tied], k - int(above.sum()), reached)


def _expected_best(y: Floats, k: int, floor: Floats) -> Floats:
    """E max(floor, best of k of the columns of y [Q, M] drawn without replacement), [Q]."""
    m = y.shape[1]
    # The j-th smallest is the best of k draws in C(j - 1, k - 1) of the C(m, k) draws.
    chances = np.array([comb(j, k - 1) / comb(m, k) for j in range(m)])
    ordered = np.sort(y, axis=1) if m > 1 else y
    return np.asarray(np.maximum(ordered, floor[:, None]) @ chances)


def random_regret(y: Floats, k: int) -> Floats:
    """Expected regret@k of a random order of the sources of y [Q, S], [Q]."""
    nothing = np.full(len(y), -np.inf)
    best = _expected_best(y, min(k, y.shape[1]), nothing)
    return np.asarray(np.maximum(y.max(axis=1) - best, 0.0))


def relative_regret(x: Floats, y: Floats) -> Floats:
    """regret@1 / best; NaN where the best is not positive."""
    return regret(x, y, k=1) / _positive(y.max(axis=1))


def relative_top_1(x: Floats, y: Floats) -> Floats:
    """What the first by x reaches, relative to the best: 1 - relative regret."""
    return 1.0 - relative_regret(x, y)


def top_1(x: Floats, y: Floats) -> Floats:
    """The chance that the first by x is a best source; NaN where all are alike."""
    first = _first(x)
    return np.where(_varies(y), first @ _is_best(y).T, np.nan)


def ndcg(x: Floats, y: Floats) -> Floats:
    """sum_i g_i / log2(i + 1) by x over the same in the best order; g = (y - min) / (max - min)."""
    gains = _gains(y)
    discounts = 1.0 / np.log2(np.arange(2, y.shape[1] + 2))
    # A tied source is at each place of its tie equally often.
    places = np.array([_tie_means(one, discounts) for one in x])
    ideal = -np.sort(-gains, axis=1) @ discounts
    return np.asarray(_divide(places @ gains.T, np.broadcast_to(ideal, (len(x), len(y)))))


def mrr(x: Floats, y: Floats) -> Floats:
    """1 / rank, by x, of the first source whose y is best; NaN where all are alike."""
    best = _is_best(y)
    found = np.array([_reciprocal_rank(one, best) for one in x])
    return np.where(_varies(y), found, np.nan)


def _reciprocal_rank(x: Floats, best: Floats) -> Floats:
    found = np.zeros(len(best))
    open_ = np.ones(len(best), dtype=bool)
    before = 0
    for value in np.unique(x)[::-1]:
        tied = x == value
        size = int(tied.sum())
        hits = best[:, tied].sum(axis=1).astype(int)
        table = np.array([_first_of(hits_, size, before) for hits_ in range(size + 1)])
        found = np.where(open_ & (hits > 0), table[hits], found)
        open_ &= hits == 0
        before += size
    return found


def _first_of(hits: int, size: int, before: int) -> float:
    """E 1 / place of the first of `hits` among `size` in random order, `before` others standing in front."""
    if hits == 0:
        return 0.0
    return sum(comb(size - j, hits - 1) / (before + j) for j in range(1, size + 1)) / comb(size, hits)


def _unit(values: Floats) -> Floats:
    """Rows centred and of norm 1; NaN where a row is constant."""
    # Compared exactly: a constant row minus its mean may leave rounding errors that are no variation.
    constant = np.ptp(values, axis=1, keepdims=True) == 0
    off = values - values.mean(axis=1, keepdims=True)
    norms = np.sqrt((off**2).sum(axis=1, keepdims=True))
    return np.asarray(off / np.where(constant | (norms == 0), np.nan, norms))


def _signs(values: Floats) -> Floats:
    """sign(v_i - v_j), [N, S, S]."""
    return np.asarray(np.sign(values[:, :, None] - values[:, None, :]))


def _divide(a: Floats, b: Floats) -> Floats:
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b > 0)


def _positive(values: Floats) -> Floats:
    return np.where(values > 0, values, np.nan)


def _varies(y: Floats) -> NDArray[np.bool_]:
    return np.asarray(np.ptp(y, axis=1) > 0)


def _is_best(y: Floats) -> Floats:
    return np.asarray(y == y.max(axis=1, keepdims=True), dtype=np.float64)


def _first(x: Floats) -> Floats:
    """The chance of each source to stand first, [N, S]."""
    best = _is_best(x)
    return np.asarray(best / best.sum(axis=1, keepdims=True))


def _gains(y: Floats) -> Floats:
    low, high = y.min(axis=1, keepdims=True), y.max(axis=1, keepdims=True)
    return np.asarray((y - low) / np.where(high > low, high - low, np.nan))


def _tie_means(x: Floats, by_place: Floats) -> Floats:
    """For each source the mean of `by_place` over the places that its tie takes, [S]."""
    order = np.argsort(-x, kind="stable")
    _, group = np.unique(-x, return_inverse=True)
    sums = np.bincount(group[order], weights=by_place)
    return np.asarray((sums / np.bincount(group))[group])


def _zero_chance(y: Floats) -> Floats:
    return np.where(_varies(y), 0.0, np.nan)


def _tied(function: Function) -> Callable[[Floats], Floats]:
    """Chance is what an ordering that ties all sources gets, where ties are averaged over their orders."""
    return lambda y: function(np.zeros((1, y.shape[1])), y)[0]


def regret_metric(k: int) -> Metric:
    """regret@k: 0 is best."""
    text = f"best measured value minus the best among the first {k} by the prediction"
    return Metric(f"regret@{k}", partial(regret, k=k), partial(random_regret, k=k), text, False)


def _rows() -> list[Metric]:
    rows = [
        Metric("spearman", spearman, _zero_chance, "Pearson correlation of average ranks"),
        Metric("kendall", kendall, _zero_chance, "Kendall's tau-b"),
        Metric(
            "weighted_tau",
            weighted_tau,
            _zero_chance,
            "Kendall's tau on scores, pairs weighted by 1/(1 + r_i) + 1/(1 + r_j), r the rank from 0; the "
            "mean of ranks by the prediction and by the measurement",
        ),
        Metric("pearson", pearson, _zero_chance, "Pearson correlation"),
    ]
    rows += [regret_metric(k) for k in (1, 3, 5)]
    relative = _tied(relative_regret)
    return [
        *rows,
        Metric("relative_regret", relative_regret, relative, "regret@1 / best measured value", False),
        Metric(
            "ndcg",
            ndcg,
            _tied(ndcg),
            "sum of gain / log2(place + 1) over that of the best order; gain linear, 0 for the target's "
            "worst source and 1 for its best",
        ),
        Metric("mrr", mrr, _tied(mrr), "1 / place of the first source that is best"),
        Metric("top_1", top_1, _tied(top_1), "chance that the first is a best source"),
        Metric(
            "relative_top_1",
            relative_top_1,
            _tied(relative_top_1),
            "value of the first / best measured value",
        ),
    ]


METRICS: dict[str, Metric] = {metric.name: metric for metric in _rows()}
