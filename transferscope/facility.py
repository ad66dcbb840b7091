"""Facility location: at most K sources that serve all targets best, exactly or greedily with a bound."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from transferscope.errors import InputError

Floats = NDArray[np.float64]

SECONDS = 20.0  # of the exact solver for one K; it then gives its best, and the bound that it has proven
TIMED_OUT = 1  # a status of scipy.optimize.milp
CARDINALITY = "at least 63 % (1 - 1/e) of the largest gain over the sources that must be in"
BUDGETED = "at least 31 % ((1 - 1/e) / 2) of the largest gain over the sources that must be in"


@dataclass(frozen=True)
class Problem:
    """What can be chosen and whom it serves.

    `values` [S, T] float64 (NaN: not known, cannot serve), `weights` [T] sum to 1, `costs` [S]. A target that
    none of the chosen can serve counts as its worst known value, `worst` [T].
    """

    measure: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    values: Floats
    weights: Floats
    costs: Floats
    must: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()
    budget: float | None = None

    @property
    def worst(self) -> Floats:
        """The worst known value of each target, [T]."""
        return np.asarray(np.nanmin(self.values, axis=0), dtype=np.float64)

    @property
    def gains(self) -> Floats:
        """Weighted gain over the worst, [S, T], not negative; 0 where a source cannot serve."""
        gains: Floats = np.nan_to_num(self.values - self.worst, nan=0.0) * self.weights
        return gains

    @property
    def floor(self) -> float:
        """The weighted mean where every target has its worst value."""
        return float(self.worst @ self.weights)

    def mean(self, chosen: Iterable[int]) -> float:
        """The weighted mean over targets of the best chosen source's value."""
        rows = list(chosen)
        return self.floor + (float(self.gains[rows].max(axis=0).sum()) if rows else 0.0)

    def indices(self, names: Collection[str]) -> list[int]:
        """Where these sources stand."""
        return [i for i, name in enumerate(self.sources) if name in names]


@dataclass(frozen=True)
class Choice:
    """The chosen sources, the most useful first, and whom they serve.

    `mean`: the weighted mean over targets of what the best chosen source gives; `best`: the same with all
    sources that are allowed; `share` = mean / best (None unless best > 0); `bound`: no choice of so many has
    a larger mean. `serves`: target -> source (None: none of them can); `values`: target -> value. `guarantee`
    says in words what is known of it; `method`: "exact", "greedy", or "stopped" (exact, out of time).
    """

    k: int | None
    sources: tuple[str, ...]
    mean: float
    best: float
    share: float | None
    bound: float
    cost: float
    method: str
    guarantee: str
    serves: Mapping[str, str | None]
    values: Mapping[str, float]


def exact(made: Problem, k: int | None, seconds: float = SECONDS) -> Choice:
    """The optimum, by mixed-integer programming.

    Maximise sum g_st x_st with x_st <= y_s, sum_s x_st <= 1, sum y <= K, c'y <= budget, y binary: the strong
    formulation of facility location (Cornuejols, Nemhauser and Wolsey 1990), whose x need not be integer.
    After so many `seconds` the best found (or the greedy choice, if better) and a proven bound.
    """
    gains = made.gains
    s, t = np.nonzero(gains > 0)  # a pair that gains nothing needs no variable
    n, pairs = len(made.sources), len(s)
    value = np.concatenate([np.zeros(n), -gains[s, t]])
    lower, upper = np.zeros(n + pairs), np.ones(n + pairs)
    lower[made.indices(made.must)] = 1.0
    upper[made.indices(made.without)] = 0.0
    integer = np.concatenate([np.ones(n), np.zeros(pairs)])
    solved = optimize.milp(
        value,
        integrality=integer,
        bounds=optimize.Bounds(lower, upper),
        constraints=_constraints(made, k, s, t),
        options={"time_limit": seconds, "mip_rel_gap": 0.0},
    )
    if solved.x is None and solved.status != TIMED_OUT:
        raise InputError(f"no choice fits what was asked for: {solved.message}")
    if solved.status == TIMED_OUT:
        return _unfinished(made, k, solved, seconds)
    chosen = [int(i) for i in np.flatnonzero(solved.x[:n] > 0.5)]
    # The solver's own sum is only as exact as its tolerances: the value is computed from the choice.
    return _choice(made, k, chosen, made.mean(chosen), "exact", "the optimum")


def _unfinished(made: Problem, k: int | None, solved: Any, seconds: float) -> Choice:
    """What is known when the time is over: ."""
    quick = greedy(made, k)
    proven = solved.mip_dual_bound
    bound = quick.bound if proven is None else min(quick.bound, made.floor - float(proven))
    n = len(made.sources)
    chosen = [] if solved.x is None else [int(i) for i in np.flatnonzero(solved.x[:n] > 0.5)]
    if made.mean(chosen) < quick.mean:
        chosen = made.indices(quick.sources)
    said = f"not proven to be the optimum: the solver was stopped after {seconds:g} s, see the bound"
    return _choice(made, k, chosen, max(bound, made.mean(chosen)), "stopped", said)


def _constraints(made: Problem, k: int | None, s: Any, t: Any) -> list[optimize.LinearConstraint]:
    n, pairs = len(made.sources), len(s)
    row, ones = np.arange(pairs), np.ones(pairs)
    opened = sparse.csr_array(
        (np.concatenate([ones, -ones]), (np.concatenate([row, row]), np.concatenate([n + row, s]))),
        shape=(pairs, n + pairs),
    )
    served = sparse.csr_array((ones, (t, n + row)), shape=(len(made.targets), n + pairs))
    limits = [(np.ones(n), float(k))] if k is not None else []
    if made.budget is not None:
        limits.append((made.costs, made.budget))
    found = [optimize.LinearConstraint(opened, -np.inf, 0.0), optimize.LinearConstraint(served, -np.inf, 1.0)]
    for coefficients, most in limits:
        whole = np.concatenate([coefficients, np.zeros(pairs)])[None, :]
        found.append(optimize.LinearConstraint(sparse.csr_array(whole), -np.inf, most))
    return found if pairs else found[2:]


def greedy(made: Problem, k: int | None) -> Choice:
    """One source after the other, each the one that adds most (with a budget: most for its cost).

    Nemhauser, Wolsey and Fisher 1978: with a number alone at least 1 - 1/e of the largest gain. With a
    budget, the better of adding by gain and by gain per cost has half of that (Leskovec et al. 2007,
    CELF). The bound is of what the optimum could add at most to any of the prefixes (ibid., sec. 3.2).
    """
    paths = [_path(made, k, per_cost=False)]
    if made.budget is not None:
        paths.append(_path(made, k, per_cost=True))
    bounds = [_bound(made, k, path[:end]) for path in paths for end in range(len(path) + 1)]
    best = max(paths, key=made.mean)
    said = CARDINALITY if made.budget is None else BUDGETED
    if made.budget is not None and k is not None:
        said = "with both a number and a budget no share is guaranteed; see the bound"
    return _choice(made, k, best, max(min(bounds), made.mean(best)), "greedy", said)


def _path(made: Problem, k: int | None, per_cost: bool) -> list[int]:
    """The sources that must be in, then those added; lazily, since what one adds can only shrink (CELF)."""
    gains, chosen = made.gains, made.indices(made.must)
    reached = gains[chosen].max(axis=0, initial=0.0)
    spent = float(made.costs[chosen].sum())
    closed = {*chosen, *made.indices(made.without)}

    def worth(i: int) -> float:
        adds = float(np.maximum(gains[i] - reached, 0.0).sum())
        if not per_cost:
            return adds
        return adds / made.costs[i] if made.costs[i] > 0 else (math.inf if adds > 0 else 0.0)

    queue = [(-worth(i), i) for i in range(len(made.sources)) if i not in closed]
    heapq.heapify(queue)
    while queue and (k is None or len(chosen) < k):
        _, i = heapq.heappop(queue)
        if made.budget is not None and spent + made.costs[i] > made.budget:
            continue  # what is spent only grows: it will never fit
        now = worth(i)
        if now <= 0:
            continue
        if queue and -now > queue[0][0]:
            heapq.heappush(queue, (-now, i))
            continue
        chosen.append(i)
        spent += float(made.costs[i])
        reached = np.maximum(reached, gains[i])
    return chosen


def _bound(made: Problem, k: int | None, prefix: Sequence[int]) -> float:
    """No choice has a larger mean: this one's, and the most that others would add without overlap."""
    gains, must = made.gains, made.indices(made.must)
    prefix = sorted({*must, *prefix})
    open_ = [i for i in range(len(made.sources)) if i not in {*prefix, *made.indices(made.without)}]
    reached = gains[prefix].max(axis=0, initial=0.0)
    adds = np.maximum(gains[open_] - reached, 0.0).sum(axis=1)
    most = float(adds.sum())
    if k is not None:
        most = min(most, float(np.sort(adds)[::-1][: k - len(must)].sum()))
    if made.budget is not None:
        left = made.budget - float(made.costs[must].sum())
        most = min(most, _fractional(adds, made.costs[open_], left))
    everything = made.mean(i for i in range(len(made.sources)) if made.sources[i] not in made.without)
    return min(made.floor + float(reached.sum()) + most, everything)


def _fractional(adds: Floats, costs: Floats, left: float) -> float:
    """The most that a budget buys where sources can be bought in part."""
    ratio = np.divide(adds, costs, out=np.full(adds.shape, np.inf), where=costs > 0)
    total = 0.0
    for i in np.argsort(-ratio):
        part = 1.0 if costs[i] <= left else left / costs[i]
        total += part * float(adds[i])
        left -= part * float(costs[i])
    return total


def _choice(
    made: Problem, k: int | None, chosen: Sequence[int], bound: float, method: str, guarantee: str
) -> Choice:
    ordered = _ordered(made, k, chosen)
    allowed = [i for i in range(len(made.sources)) if made.sources[i] not in made.without]
    mean, best = made.mean(ordered), made.mean(allowed)
    serves: dict[str, str | None] = {}
    values: dict[str, float] = {}
    for column, target in enumerate(made.targets):
        can = [i for i in ordered if np.isfinite(made.values[i, column])]
        first = max(can, key=lambda i: made.values[i, column], default=None)
        serves[target] = None if first is None else made.sources[first]
        values[target] = float(made.worst[column] if first is None else made.values[first, column])
    return Choice(
        k,
        tuple(made.sources[i] for i in ordered),
        mean,
        best,
        mean / best if best > 0 else None,
        bound,
        float(made.costs[list(ordered)].sum()),
        method,
        guarantee,
        serves,
        values,
    )


def _ordered(made: Problem, k: int | None, chosen: Sequence[int]) -> list[int]:
    """The chosen, the one that adds most first; ties go to who serves most targets that nobody serves yet.

    Those that neither gain nor serve anything are left out, unless they must be in; where there is room left,
    others that serve what is not served yet (at its worst value, which gains nothing) come in.
    """
    picked, ordered = set(chosen), list[int]()
    reached, served = np.zeros(len(made.targets)), np.zeros(len(made.targets), bool)
    gains, can, must = made.gains, np.isfinite(made.values), set(made.indices(made.must))
    barred = set(made.indices(made.without))
    while True:
        useful = [i for i in range(len(made.sources)) if i not in {*ordered, *barred}]
        useful = [i for i in useful if i in picked or _fits(made, k, {*picked, i})]
        worth = {
            # What was chosen comes first: another one is for what remains unserved after all of them.
            i: (i in picked, np.maximum(gains[i] - reached, 0.0).sum(), (can[i] & ~served).sum(), -i)
            for i in useful
        }
        worth = {i: w for i, w in worth.items() if (w[0] and w[1] > 0) or w[2] > 0 or i in must}
        if not worth:
            return ordered
        best = max(worth, key=lambda i: worth[i])
        ordered.append(best)
        picked = {*ordered, *(i for i in picked if i in worth)}
        reached, served = np.maximum(reached, gains[best]), served | can[best]


def _fits(made: Problem, k: int | None, chosen: Collection[int]) -> bool:
    """Whether so many, of such cost, may be chosen."""
    cost = float(made.costs[list(chosen)].sum())
    return (k is None or len(chosen) <= k) and (made.budget is None or cost <= made.budget)
