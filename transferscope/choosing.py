"""Which K sources serve all targets best: facility location on measured or predicted transfer."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from transferscope.comparison import IndicatorMatrix
from transferscope.errors import InputError, suggest
from transferscope.facility import SECONDS, Choice, Problem, exact, greedy
from transferscope.transfer import TransferMatrix

Floats = NDArray[np.float64]

LARGEST_EXACT = 60  # sources and targets
CURVE_SECONDS = 10.0  # of the exact solver for all smaller K together
Method = Literal["auto", "exact", "greedy"]


@dataclass(frozen=True)
class ChoiceReport:
    """A choice, and the curve: the choice of each smaller number of sources up to it."""

    measure: str
    choice: Choice
    curve: tuple[Choice, ...]
    notes: tuple[str, ...] = ()


def problem(
    matrix: TransferMatrix | IndicatorMatrix,
    *,
    costs: Mapping[str, float] | None = None,
    budget: float | None = None,
    must: Collection[str] = (),
    without: Collection[str] = (),
    weights: Mapping[str, float] | None = None,
    relative: bool = False,
    others_only: bool = False,
) -> Problem:
    """What is to be solved, checked.

    A target that is not in `weights` counts 1; a source must have a cost where costs are given. `relative`
    divides measured values by what the target's own prompt reaches. A chosen source serves its own task by
    its own prompt, unless `others_only`.

    Raises InputError: unknown names, one that must and must not be in, weights or costs that are negative or
    not finite, sources that must be in and cost more than the budget, a target with no known value.
    """
    name, sources, targets, values = _parts(matrix, relative)
    values = _known(values, sources, targets, others_only)
    _check_names((must, sources), (without, sources), (weights or {}, targets), (costs or {}, sources))
    if both := sorted(set(must) & set(without)):
        raise InputError(f"{both[0]!r} cannot both be in and not be in")
    weight = _numbers("weight", {t: (weights or {}).get(t, 1.0) for t in targets})
    if not weight.sum() > 0:
        raise InputError("all targets have the weight 0: at least one must count")
    if costs is not None and (missing := [s for s in sources if s not in costs and s not in without]):
        raise InputError(f"no cost is given of: {', '.join(missing)}")
    cost = _numbers("cost", {s: 1.0 if costs is None else costs.get(s, 0.0) for s in sources})
    counted = weight > 0  # a target that does not count need not be known
    allowed = [s not in without for s in sources]
    served = np.asarray(np.isfinite(values[allowed]).any(axis=0))
    if unknown := [t for t, k, c in zip(targets, served, counted, strict=True) if c and not k]:
        raise InputError(f"no value is known of the targets {', '.join(unknown)}: leave them out by weight 0")
    kept = tuple(t for t, c in zip(targets, counted, strict=True) if c)
    made = Problem(
        name,
        sources,
        kept,
        values[:, counted],
        weight[counted] / weight.sum(),
        cost,
        frozenset(must),
        frozenset(without),
        budget,
    )
    _check_budget(made)
    return made


def _parts(
    matrix: TransferMatrix | IndicatorMatrix, relative: bool
) -> tuple[str, tuple[str, ...], tuple[str, ...], Floats]:
    if isinstance(matrix, IndicatorMatrix):
        if relative:
            raise InputError(
                f"{matrix.indicator} is an indicator: only measured transfer has relative values"
            )
        return matrix.indicator, matrix.tasks, matrix.tasks, np.asarray(matrix.values, np.float64)
    if relative:
        return f"{matrix.protocol} relative", matrix.sources, matrix.targets, matrix.relative
    return matrix.protocol, matrix.sources, matrix.targets, np.asarray(matrix.values, np.float64)


def _known(values: Floats, sources: Sequence[str], targets: Sequence[str], others_only: bool) -> Floats:
    """The values [S, T] with NaN for what is not known, or is of a task's own prompt and does not count."""
    if others_only:
        own = np.array([[source == target for target in targets] for source in sources])
        values = np.where(own, np.nan, values)
    return np.where(np.isfinite(values), values, np.nan)


def _check_names(*groups: tuple[Collection[str], Sequence[str]]) -> None:
    """Raises InputError for the first name of a group that is not among those that it may have."""
    for names, known in groups:
        for one in names:
            if one not in known:
                raise InputError(f"{one!r} is not among them. {suggest(one, known)}")


def _numbers(what: str, given: Mapping[str, float]) -> Floats:
    for name, value in given.items():
        if not math.isfinite(value) or value < 0:
            raise InputError(f"the {what} of {name!r} is {value}: a finite number of at least 0 is needed")
    return np.array([float(value) for value in given.values()])


def _check_budget(made: Problem) -> None:
    if made.budget is None:
        return
    if not math.isfinite(made.budget) or made.budget < 0:
        raise InputError(f"a budget of {made.budget}: a finite number of at least 0 is needed")
    fixed = float(made.costs[made.indices(made.must)].sum())
    if fixed > made.budget:
        raise InputError(
            f"the sources that must be in cost {fixed:g}, more than the budget of {made.budget:g}"
        )


def choose(
    made: Problem, k: int | None = None, *, method: Method = "auto", curve: bool = True
) -> ChoiceReport:
    """At most `k` sources (None: as many as the budget allows) with the largest weighted mean over targets.

    "auto" is exact (mixed-integer programming, HiGHS) up to LARGEST_EXACT sources and targets, else greedy.
    Sources that would serve nobody are left out, unless they must be in. `curve`: also for 1 .. k - 1.

    Raises InputError: k < 1, fewer than must be in, neither k nor a budget.
    """
    allowed = len(made.sources) - len(made.without)
    if k is None and made.budget is None:
        raise InputError("how many sources? Give a number, or costs and a budget")
    if k is not None and k < 1:
        raise InputError(f"{k} sources: at least one must be chosen")
    if k is not None and k < len(made.must):
        raise InputError(f"{len(made.must)} sources must be in, more than the {k} to choose")
    if k is not None and k > allowed:
        raise InputError(f"{k} sources to choose, and only {allowed} are allowed")
    if method == "auto":
        method = "exact" if max(made.values.shape) <= LARGEST_EXACT else "greedy"
    smaller = range(max(1, len(made.must)), k) if curve and k is not None else range(0)

    def solve(number: int | None, seconds: float) -> Choice:
        return exact(made, number, seconds) if method == "exact" else greedy(made, number)

    choice = solve(k, SECONDS)
    end, found = time.perf_counter() + CURVE_SECONDS, list[Choice]()
    for left, fewer in zip(range(len(smaller), 0, -1), smaller, strict=True):
        # What the easy ones do not use is for the others.
        found.append(solve(fewer, max(end - time.perf_counter(), 0.1) / left))
    found.append(choice)
    return ChoiceReport(made.measure, choice, tuple(found), tuple(_notes(made, choice)))


def _notes(made: Problem, choice: Choice) -> list[str]:
    notes = [f"{choice.method}: {choice.guarantee}."]
    if unserved := [target for target, source in choice.serves.items() if source is None]:
        notes.append(
            f"None of them is known to serve {', '.join(unserved)}: each counts as its worst known value."
        )
    if choice.k is not None and len(choice.sources) < choice.k:
        notes.append(
            f"Fewer than {choice.k} sources: another one would serve no target better, or is too dear."
        )
    return notes
