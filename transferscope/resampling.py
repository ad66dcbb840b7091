"""Uncertainty of a mean over targets: bootstrap, permutation tests, Holm's correction, paired differences.

Targets are what is resampled: an indicator is judged on tasks that were not seen, and the sources of one
target are not independent of each other. Targets that are one task (on several backbones, say) are drawn
together; measured values of several seeds are redrawn as well where they are given.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from transferscope.errors import InputError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Interval = tuple[float | None, float | None, float | None]

RESAMPLES = 2000
REPLICATES = 200  # tables of redrawn seeds; each resample of the targets takes one of them
PERMUTATIONS = 1999
LEVELS = (0.025, 0.975)


@dataclass(frozen=True)
class Difference:
    """Mean over targets of what `name` scores beyond `against`, its 95 % interval, and a sign-flip test.

    `p` is two-sided; `better` says whether the difference is an advantage; `minimum_targets` is how many
    targets would show a difference of this size four times in five.
    """

    name: str
    against: str
    metric: str
    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    better: bool | None
    n_targets: int
    minimum_targets: int | None


def bootstrap_mean(
    values: Floats,
    seed: int,
    *,
    clusters: Sequence[Hashable] | None = None,
    replicates: Floats | None = None,
    expanded: bool = False,
) -> Interval:
    """Mean of values [T] and its 95 % percentile bootstrap interval; None where there are too few.

    `clusters` [T] are drawn whole (None: every target alone). `replicates` [Q, T] are the values under
    redrawn seeds: each resample takes one row. `expanded` widens the percentiles to those that are right for
    a normal mean of few targets (Hesterberg, The American Statistician 2015, section 3.3).
    """
    if len(values) == 0:
        return None, None, None
    mean = float(values.mean())
    groups = _groups(values, clusters)
    if len(groups) == 1:
        return mean, None, None
    # The same seed draws the same targets for every indicator, so that intervals can be compared.
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(groups), size=(RESAMPLES, len(groups)))
    at = levels(len(groups)) if expanded else np.array(LEVELS)
    low, high = np.quantile(_means(values, groups, picks, replicates, rng), at)
    return mean, float(low), float(high)


def _groups(values: Floats, clusters: Sequence[Hashable] | None) -> list[Integers]:
    names = list(clusters) if clusters is not None else list(range(len(values)))
    if len(names) != len(values):
        raise InputError(f"{len(values)} targets and {len(names)} clusters: each target needs one")
    where: dict[Hashable, list[int]] = {}
    for i, name in enumerate(names):
        where.setdefault(name, []).append(i)
    return [np.array(members) for members in where.values()]


def _means(
    values: Floats,
    groups: list[Integers],
    picks: Integers,
    replicates: Floats | None,
    rng: np.random.Generator,
) -> Floats:
    if replicates is None and len(groups) == len(values):
        return np.asarray(values[picks].mean(axis=1))
    tables = values[None] if replicates is None else np.where(np.isfinite(replicates), replicates, values)
    sums = np.array([tables[:, members].sum(axis=1) for members in groups])  # [clusters, Q]
    sizes = np.array([len(members) for members in groups])
    chosen = rng.integers(len(tables), size=(len(picks), 1))
    return np.asarray(sums[picks, chosen].sum(axis=1) / sizes[picks].sum(axis=1))


def levels(n: int) -> Floats:
    """The two percentiles for n targets that make an interval as wide as Student's."""
    wide = norm.cdf(np.sqrt(n / (n - 1)) * t.ppf(LEVELS[0], n - 1))
    return np.array([wide, 1 - wide])


def redrawn(per_seed: Floats, seed: int, count: int = REPLICATES) -> Floats:
    """Means over seeds drawn anew, with replacement and for every source alone: [R, S, T] -> [count, S, T].

    A cell that none of the drawn seeds has keeps its mean over all seeds.
    """
    seeds, sources, _ = per_seed.shape
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=(count, sources)).astype(np.float64)
    known = np.isfinite(per_seed)
    filled = np.where(known, per_seed, 0.0)
    total = np.einsum("qsr,rst->qst", draws, filled)
    number = np.einsum("qsr,rst->qst", draws, known.astype(np.float64))
    plain = filled.sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)
    return np.where(number > 0, total / np.maximum(number, 1), plain)


def relabellings(
    sources: Sequence[str],
    targets: Sequence[str],
    count: int,
    seed: int,
    *,
    within: dict[str, str] | None = None,
) -> tuple[Integers, Integers]:
    """Random renamings of the tasks: indices of sources [count, S] and of targets [count, T].

    A task that is source and target gets one new name in both roles, so that an own prompt stays one and what
    holds of a source on every target moves as one (Mantel's test). `within`: only among tasks of one value.
    """
    rng = np.random.default_rng(seed)
    names = list(dict.fromkeys([*sources, *targets]))
    roles = [(n in sources, n in targets, within.get(n) if within is not None else None) for n in names]
    new = np.tile(np.arange(len(names)), (count, 1))
    for role in dict.fromkeys(roles):
        members = np.array([i for i, one in enumerate(roles) if one == role])
        new[:, members] = rng.permuted(np.tile(members, (count, 1)), axis=1)
    place = {name: i for i, name in enumerate(names)}
    columns = []
    for several in (sources, targets):
        back = np.full(len(names), -1)
        own = np.array([place[name] for name in several], dtype=np.int64)
        back[own] = np.arange(len(several))
        columns.append(back[new[:, own]])
    return columns[0], columns[1]


def p_value(observed: float, null: Floats, *, higher_is_better: bool = True) -> float | None:
    """(1 + draws at least as good) / (1 + draws), one-sided; None where nothing is defined.

    Source: Phipson and Smyth, Statistical Applications in Genetics 2010: never 0.
    """
    known = null[np.isfinite(null)]
    if not np.isfinite(observed) or len(known) == 0:
        return None
    sign = 1.0 if higher_is_better else -1.0
    # Equal up to rounding is equal: a renaming that changes nothing must count.
    as_good = np.count_nonzero(sign * known >= sign * observed - 1e-12)
    return float((1 + as_good) / (1 + len(known)))


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction of the p-values that are there (Scandinavian J. of Statistics 1979)."""
    there = sorted((value, i) for i, value in enumerate(p) if value is not None)
    found: list[float | None] = [None] * len(p)
    largest = 0.0
    for place, (value, i) in enumerate(there):
        largest = max(largest, min(1.0, (len(there) - place) * value))
        found[i] = largest
    return found


def sign_flip_p(
    differences: Floats,
    seed: int,
    draws: int = PERMUTATIONS,
    *,
    clusters: Sequence[Hashable] | None = None,
) -> float:
    """Two-sided p of a mean difference [T] of 0: each sign as likely; all signs where they are at most 10.

    The targets of one cluster (`clusters` [T]; None: every target alone) change their signs together.
    """
    sums = np.array([differences[members].sum() for members in _groups(differences, clusters)])
    n = len(sums)
    exact = n <= 10
    if exact:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, n))
    as_far = np.count_nonzero(np.abs(signs @ sums) >= abs(sums.sum()) - 1e-12)
    return float(as_far / len(signs) if exact else (1 + as_far) / (1 + len(signs)))


def minimum_targets(
    deviation: float, difference: float, *, power: float = 0.8, level: float = 0.05
) -> int | None:
    """How many targets show a mean paired difference of this size with this power (two-sided t test).

    `deviation` is that of the differences between targets. Normal power with t quantiles, at least 3; None
    where the difference is 0 or not defined.
    """
    if not (np.isfinite(deviation) and np.isfinite(difference)) or difference == 0:
        return None
    ratio = abs(deviation / difference)
    n = max(3, int(np.ceil((ratio * (norm.ppf(1 - level / 2) + norm.ppf(power))) ** 2)))
    # t quantiles are wider than normal ones, so the answer is never below this start.
    while n < (ratio * (t.ppf(1 - level / 2, float(n - 1)) + t.ppf(power, float(n - 1)))) ** 2:
        n += 1
    return n


def paired_difference(
    first: Floats,
    second: Floats,
    *,
    names: tuple[str, str],
    metric: str,
    seed: int,
    higher_is_better: bool = True,
    clusters: Sequence[Hashable] | None = None,
) -> Difference:
    """first - second, both [T] and of the same targets, over the targets that both have.

    `clusters` [T] (one task on several backbones, say) are drawn together, change signs together, and are
    what more is needed of in `minimum_targets`. None: every target alone.
    """
    both = np.isfinite(first) & np.isfinite(second)
    off = (first - second)[both]
    kept = [name for name, keep in zip(clusters, both, strict=True) if keep] if clusters is not None else None
    mean, low, high = bootstrap_mean(off, seed, clusters=kept)
    groups = _groups(off, kept)
    if mean is None or len(groups) < 2:
        return Difference(*names, metric, mean, low, high, None, None, len(off), None)
    better = None if mean == 0 else (mean > 0) == higher_is_better
    size = len(off) / len(groups)
    deviation = float(np.std([(off[members] - mean).sum() / size for members in groups], ddof=1))
    needed = minimum_targets(deviation, mean)
    targets = None if needed is None else int(np.ceil(needed * size))
    p = sign_flip_p(off, seed, clusters=kept)
    return Difference(*names, metric, mean, low, high, p, better, len(off), targets)
