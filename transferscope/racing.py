"""Which of several sources is best, found by elimination on growing subsets of the examples.

Measuring N sources on S examples takes N S forward passes. A race looks at nested random subsets and leaves a
source out as soon as it can hardly be the best any more (Maron & Moore, NIPS 1994, "Hoeffding races"; here
with a paired bootstrap in place of Hoeffding's bound).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from transferscope.errors import InputError

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]
Measure = Callable[[Sequence[str], Positions], Floats]
Value = Callable[[Floats], Floats]
Progress = Callable[[int, int, str], None]

CELLS = 1 << 22  # counts held at once while resampling: 32 MiB


@dataclass(frozen=True)
class RaceResult:
    """How a race ended.

    `order` is best first: the survivors by value, then the others, last dropped first. `values` are on the
    `examples` that each source has seen (all survivors the same ones); `dropped` is the round, from 1, after
    which a source was left out (None: it survived). `spent` counts forward passes (source x example),
    `exhaustive` those of measuring every source on every example.
    """

    order: tuple[str, ...]
    values: Mapping[str, float]
    examples: Mapping[str, int]
    dropped: Mapping[str, int | None]
    survivors: tuple[str, ...]
    rounds: int
    spent: int
    exhaustive: int


def race(
    names: Sequence[str],
    measure: Measure,
    examples: int,
    *,
    value: Value,
    seed: int = 0,
    first: int = 32,
    growth: float = 2.0,
    resamples: int = 1000,
    level: float = 0.95,
    keep: int = 1,
    order: Positions | None = None,
    progress: Progress | None = None,
) -> RaceResult:
    """Race the sources `names` over a split of S = `examples` examples.

    `measure(names, positions [n])` gives the statistics [len(names), n, C] of each example (C numbers whose
    sums `value` [..., C] -> [...] turns into a metric, larger is better); it is asked once at most for each
    source and example. Round r looks at the first `first * growth ** (r - 1)` examples of `order` [S] int64
    (None: a random one; see `stratified`), the last round at all.

    A source is dropped where the lower bound of leader - source is above 0 (`outclassed`: one-sided, paired
    bootstrap, simultaneous over who leads). The rounds share 1 - `level` equally (Bonferroni), so the best
    source is dropped in at most that share of races. When no more than `keep` sources are left the race ends
    early, with values on the examples seen until then; never are fewer than `keep` left.

    Raises InputError: arguments out of range, an `order` that is no permutation, statistics of another shape
    or not finite.
    """
    sizes = schedule(examples, first, growth)
    alpha = (1 - level) / len(sizes)
    _check(names, level, keep, alpha, resamples)
    rng = np.random.default_rng(seed)
    path = rng.permutation(examples) if order is None else _permutation(order, examples)
    alive, seen = list(names), dict[str, Floats]()
    dropped: dict[str, int | None] = dict.fromkeys(names)
    for look, (start, stop) in enumerate(pairwise([0, *sizes]), start=1):
        _extend(seen, alive, measure, path[start:stop])
        losers = outclassed(np.stack([seen[name] for name in alive]), value, alpha, resamples, rng)
        dropped.update(dict.fromkeys(_worst(alive, seen, value, losers, len(alive) - keep), look))
        alive = [name for name in alive if dropped[name] is None]
        if progress is not None:
            progress(stop, examples, f"{len(alive)} of {len(names)} sources left")
        if len(alive) <= keep:
            break
    return _result(names, seen, value, dropped, look, examples)


def schedule(examples: int, first: int = 32, growth: float = 2.0) -> list[int]:
    """How many of S = `examples` examples each planned round has seen, growing to S.

    >>> schedule(300)
    [32, 64, 128, 256, 300]
    """
    if examples < 1 or first < 1:
        raise InputError(f"a race needs at least one example: {examples} in all, {first} in the first round")
    if not growth > 1:
        raise InputError(f"growth {growth!r}: each round must see more examples than the last, so above 1")
    sizes = [min(first, examples)]
    while sizes[-1] < examples:
        sizes.append(min(examples, max(sizes[-1] + 1, int(sizes[-1] * growth))))
    return sizes


def stratified(groups: Sequence[object], seed: int = 0) -> Positions:
    """A random order [S] int64 in which every prefix has nearly the groups' shares (of classes, say) of all.

    Examples of a group of size g stand in random order at (i + u) / g, i = 0 .. g - 1, u uniform in [0, 1).
    """
    rng = np.random.default_rng(seed)
    members: dict[object, list[int]] = {}
    for position, group in enumerate(groups):
        members.setdefault(group, []).append(position)
    places = np.empty(len(groups))
    for several in members.values():
        places[rng.permutation(several)] = (np.arange(len(several)) + rng.uniform(size=len(several))) / len(
            several
        )
    return np.argsort(places, kind="stable").astype(np.int64)


def outclassed(
    statistics: Floats, value: Value, alpha: float, resamples: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Which sources can hardly be the best, [A] bool, from the statistics [A, n, C] of the same n examples.

    For source s let D_j = v_j - v_s. All sources are computed on the same resampled examples (paired). s is
    outclassed where max_j D_j is above the 1 - alpha quantile over resamples of max_j (D*_j - mean D*_j): the
    lower bound of leader - s is above 0. The maximum over j allows for the leader being chosen as the best of
    many, which makes it look better than it is (Hsu 1984, multiple comparisons with the best, with a
    bootstrap in place of normal quantiles). Deviations are subtracted, not quantiles taken as they are (the
    basic bootstrap interval): with few examples on which two sources differ the plain percentile interval is
    too narrow. A source that ties with all others on every resample is never outclassed, nor is any where a
    value is not finite.
    """
    values = value(statistics.sum(axis=1))
    draws = _resampled(statistics, value, resamples, rng)
    if not (np.isfinite(values).all() and np.isfinite(draws).all()):
        return np.zeros(len(values), dtype=bool)
    deviations = draws - draws.mean(axis=0)  # [B, A]
    highest = deviations.max(axis=1)
    bounds = [np.quantile(highest - deviations[:, s], 1 - alpha, method="higher") for s in range(len(values))]
    return np.asarray(values.max() - values > np.maximum(bounds, 1e-12))  # below: rounding


def _resampled(statistics: Floats, value: Value, resamples: int, rng: np.random.Generator) -> Floats:
    """Values [B, A] when the examples of [A, n, C] are drawn again with replacement, the same for all A."""
    sources, n, numbers = statistics.shape
    flat = statistics.transpose(1, 0, 2).reshape(n, sources * numbers)
    rows = []
    for start in range(0, resamples, size := max(1, CELLS // n)):
        picks = rng.integers(n, size=(min(size, resamples - start), n))
        counts = np.stack([np.bincount(pick, minlength=n) for pick in picks]).astype(np.float64)
        rows.append(value((counts @ flat).reshape(len(picks), sources, numbers)))
    return np.concatenate(rows)


def _extend(seen: dict[str, Floats], alive: Sequence[str], measure: Measure, positions: Positions) -> None:
    """Add the statistics of the new examples to those seen of each source, [n, C]."""
    found = np.asarray(measure(tuple(alive), positions), dtype=np.float64)
    known = next(iter(seen.values())).shape[1] if seen else None
    right = found.ndim == 3 and found.shape[:2] == (len(alive), len(positions))
    if not right or known not in (None, found.shape[2]):
        wanted = (len(alive), len(positions), known or "C")
        raise InputError(f"statistics have the shape {found.shape}; sources, examples, numbers are {wanted}")
    if not np.isfinite(found).all():
        raise InputError("statistics of examples must be finite: a NaN or an infinity was found")
    for name, block in zip(alive, found, strict=True):
        seen[name] = np.concatenate([seen[name], block]) if name in seen else block


def _worst(
    alive: Sequence[str], seen: Mapping[str, Floats], value: Value, losers: NDArray[np.bool_], most: int
) -> list[str]:
    """The outclassed sources, worst first, `most` at most."""
    found = [name for name, loser in zip(alive, losers, strict=True) if loser]
    return sorted(found, key=lambda name: float(value(seen[name].sum(axis=0))))[: max(most, 0)]


def _result(
    names: Sequence[str],
    seen: Mapping[str, Floats],
    value: Value,
    dropped: Mapping[str, int | None],
    rounds: int,
    examples: int,
) -> RaceResult:
    values = {name: float(value(seen[name].sum(axis=0))) for name in names}
    order = finishing_order(names, values, dropped)
    return RaceResult(
        order=order,
        values=values,
        examples={name: len(seen[name]) for name in names},
        dropped=dropped,
        survivors=tuple(name for name in order if dropped[name] is None),
        rounds=rounds,
        spent=sum(len(seen[name]) for name in names),
        exhaustive=len(names) * examples,
    )


def finishing_order(
    names: Sequence[str], values: Mapping[str, float], dropped: Mapping[str, int | None]
) -> tuple[str, ...]:
    """Survivors by value, then the others, last dropped first and by value within a round; ties as given."""

    def place(name: str) -> tuple[float, bool, float]:
        left = dropped.get(name)
        value = values[name]
        return (-np.inf if left is None else -left, np.isnan(value), -value)

    return tuple(sorted(names, key=place))


def _check(names: Sequence[str], level: float, keep: int, alpha: float, resamples: int) -> None:
    if not names:
        raise InputError("there is nothing to race: no source was given")
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise InputError(f"sources given twice: {', '.join(twice)}; each runs once")
    if not 0 < level < 1:
        raise InputError(f"level {level!r}: a probability between 0 and 1 is needed, .95 say")
    if keep < 1:
        raise InputError(f"keep {keep!r}: at least one source must be left")
    if resamples * alpha < 1:
        raise InputError(
            f"{resamples} resamples are too few for a bound at {alpha:.2g}, this level's share of one round: "
            f"at least {int(np.ceil(1 / alpha))} are needed"
        )


def _permutation(order: Positions, examples: int) -> Positions:
    found = np.asarray(order)
    right = found.shape == (examples,) and np.issubdtype(found.dtype, np.integer)
    if not right or not np.array_equal(np.sort(found), np.arange(examples)):
        raise InputError(
            f"the order of examples must hold each of 0 .. {examples - 1} once; its shape is {found.shape}, "
            f"its type {found.dtype}"
        )
    return found.astype(np.int64)
