"""What measured transfer to other targets says of a ranking: which indicator, how sure, which ties.

The target of the ranking is left out, and what was measured on it plays no part. Another indicator than the
default is taken only if it orders the sources of the other targets better beyond doubt (paired differences,
Holm over all indicators): the best of many on a few targets is mostly the luckiest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from transferscope import agreement_tables, resampling
from transferscope.errors import InputError
from transferscope.evidence import Known, Measured, Ordering, Scope, aligned, common, same_type
from transferscope.ordering import Ranking, listed

if TYPE_CHECKING:
    from transferscope.comparison import IndicatorMatrix
    from transferscope.transfer import TransferMatrix

Floats = NDArray[np.float64]
MINIMUM = 4  # other targets measured, below which nothing is concluded
FEWEST = 3  # sources of such a target
LEVEL = 0.05


@dataclass(frozen=True)
class Estimate:
    """A mean over n targets with its 95 % interval (widened for few targets)."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Verdict:
    """How an indicator ordered the sources of measured targets other than the one that is ranked for.

    `agreement` is the mean Spearman with measured transfer, `by_type` that of the same-type baseline,
    `unlike` that among sources of other types than the target's (both None where types are not known).
    `behind` has for each place from the second the measured value of the first source minus that of this
    place. `candidates` is how many indicators were compared, `chosen_over` the default that lost against
    this one beyond doubt, `new_type` the type of the target where no measured target is of it.
    """

    indicator: str
    protocol: str
    targets: tuple[str, ...]
    agreement: Estimate
    by_type: Estimate | None
    unlike: Estimate | None
    behind: tuple[Estimate | None, ...]
    candidates: int
    chosen_over: str | None = None
    new_type: str | None = None


def weigh(
    target: str,
    matrices: Sequence[IndicatorMatrix],
    transfer: TransferMatrix | None,
    *,
    types: Mapping[str, str] | None = None,
    prefer_same_type: bool = False,
    default: str,
    choose: bool = False,
    seed: int = 0,
) -> Verdict | None:
    """The evidence for ranking the sources of `target` by `default`, or, with `choose`, by one that beats it.

    None with fewer than four other targets that have measured transfer from three sources or more.
    `prefer_same_type` judges the order by type first that the ranking will have.
    """
    measured = None if transfer is None else _others(target, matrices, transfer)
    if measured is None or default not in {matrix.indicator for matrix in matrices}:
        return None
    orderings = [Ordering(m.indicator, "indicator", aligned(m, measured)) for m in matrices]
    if not choose:
        orderings = [one for one in orderings if one.name == default]
    same = same_type(measured, Known(types))
    if prefer_same_type and same is not None:
        orderings = [replace(one, values=_by_type_first(one.values, same)) for one in orderings]
    table = _spearman(orderings, measured, "all", types)  # [N, T]
    base = [one.name for one in orderings].index(default)
    best = _better(table, base, seed)
    estimate = _estimate(table[best], seed)
    if estimate is None:
        return None
    found, by_type, unlike = orderings[best], None, None
    if same is not None:
        by_type = _estimate(
            _spearman([Ordering("same_type", "baseline", same)], measured, "all", types)[0], seed
        )
        unlike = _estimate(_spearman([found], measured, "different-type", types)[0], seed)
    return Verdict(
        indicator=found.name,
        protocol=measured.protocol,
        targets=measured.targets,
        agreement=estimate,
        by_type=by_type,
        unlike=unlike,
        behind=_behind(found, measured, seed),
        candidates=len(orderings),
        chosen_over=default if best != base else None,
        new_type=_new_type(target, measured, types),
    )


def enough(target: str, transfer: TransferMatrix) -> bool:
    """Whether there may be evidence at all: four other targets with three measured sources or more."""
    names = [[name != goal for name in transfer.sources] for goal in transfer.targets]
    sources = (np.isfinite(transfer.values) & np.array(names).T).sum(axis=0)
    others = np.array([goal != target for goal in transfer.targets])
    return int((sources[others] >= FEWEST).sum()) >= MINIMUM


def _others(target: str, matrices: Sequence[IndicatorMatrix], transfer: TransferMatrix) -> Measured | None:
    """The measured targets but this one that have three measured sources or more beside their own prompt."""
    try:
        measured = common(matrices, transfer)
    except InputError:
        return None
    cells = measured.cells("excluded", "all", None)
    keep = [i for i, name in enumerate(measured.targets) if name != target and cells[:, i].sum() >= FEWEST]
    if len(keep) < MINIMUM:
        return None
    return replace(
        measured,
        targets=tuple(measured.targets[i] for i in keep),
        values=measured.values[:, keep],
        per_seed=measured.per_seed[:, :, keep],
    )


def _by_type_first(values: Floats | None, same: Floats) -> Floats:
    """Values [S, T] that order the sources of a target's type before all others, and as before within."""
    assert values is not None  # of indicators
    ranks = np.apply_along_axis(rankdata, 0, values, nan_policy="omit")
    return np.asarray(ranks + same * (len(values) + 1))


def _spearman(
    orderings: Sequence[Ordering], measured: Measured, scope: Scope, types: Mapping[str, str] | None
) -> Floats:
    """Per-target Spearman [N, T]; NaN where it is not defined."""
    cells = measured.cells("excluded", scope, types)
    return agreement_tables.per_target(orderings, measured.values[None], cells, ["spearman"])["spearman"][
        :, 0
    ]


def _estimate(values: Floats, seed: int) -> Estimate | None:
    """None where fewer than two targets have a value."""
    known = values[np.isfinite(values)]
    mean, low, high = resampling.bootstrap_mean(known, seed, expanded=True)
    if mean is None or low is None or high is None:
        return None
    return Estimate(mean, low, high, len(known))


def _better(table: Floats, base: int, seed: int) -> int:
    """The indicator that beats the one at `base` by most, beyond doubt; `base` where none does."""
    others = [i for i in range(len(table)) if i != base]
    found = [
        resampling.paired_difference(
            table[i], table[base], names=(str(i), str(base)), metric="spearman", seed=seed
        )
        for i in others
    ]
    p = resampling.holm([one.p for one in found])
    sure = [
        (one.mean, i)
        for i, one, corrected in zip(others, found, p, strict=True)
        if one.better and corrected is not None and corrected < LEVEL and one.mean is not None
    ]
    return max(sure)[1] if sure else base


def _behind(one: Ordering, measured: Measured, seed: int) -> tuple[Estimate | None, ...]:
    """By how much the source at each place from the second is behind the first, mean over targets."""
    assert one.values is not None  # of indicators
    cells = measured.cells("excluded", "all", None)
    gaps = np.full((len(measured.targets), len(measured.sources)), np.nan)
    for t in range(len(measured.targets)):
        there = cells[:, t] & np.isfinite(one.values[:, t])
        placed = by_place(one.values[there, t], measured.values[there, t])
        gaps[t, : len(placed)] = placed[:1] - placed
    last = int(np.isfinite(gaps).any(axis=0).sum())
    return tuple(_estimate(gaps[:, place], seed) for place in range(1, last))


def by_place(x: Floats, y: Floats) -> Floats:
    """What stands at each place when y [S] is sorted by x [S], the largest first; ties share their mean."""
    order = np.argsort(-x, kind="stable")
    _, group = np.unique(-x[order], return_inverse=True)
    return np.asarray((np.bincount(group, weights=y[order]) / np.bincount(group))[group])


def _new_type(target: str, measured: Measured, types: Mapping[str, str] | None) -> str | None:
    """The type of the target where no measured target is of it."""
    kind = (types or {}).get(target)
    return kind if kind and kind not in {(types or {}).get(name) for name in measured.targets} else None


def applied(ranking: Ranking, evidence: Verdict | None) -> Ranking:
    """A ranking with the sources marked that the evidence does not tell apart from the first, and notes.

    A source is marked where the interval of (value of the first - value at its place), over the measured
    targets, holds 0. Places that the evidence does not reach are not marked (None).
    """
    if evidence is None:
        return ranking
    marks: list[bool | None] = [None]
    marks += [None if one is None else bool(one.low <= 0) for one in evidence.behind]
    marks += [None] * (len(ranking.sources) - len(marks))
    sources = tuple(
        replace(source, tied_by_evidence=mark) for source, mark in zip(ranking.sources, marks, strict=False)
    )
    alike = [source.source for source in sources if source.tied_by_evidence]
    told = [*about(evidence)]
    if alike:
        told.append(
            "The evidence does not tell these from the first (over the measured targets, what stands at "
            f"their place is not reliably behind what stands first): {listed(alike)}."
        )
    return replace(ranking, sources=sources, notes=(*ranking.notes, *told))


def why(evidence: Verdict) -> str:
    """Why this indicator, in a sentence or two."""
    where = f"measured {evidence.protocol} transfer to {len(evidence.targets)} other targets"
    if evidence.chosen_over:
        return (
            f"Indicator {evidence.indicator}: of {evidence.candidates} that can be computed here it is the "
            f"one that {where} puts furthest above the default, {evidence.chosen_over}, beyond doubt (paired "
            "differences, corrected for the number of indicators)."
        )
    return (
        f"Indicator {evidence.indicator}: the default. By {where} none of the {evidence.candidates - 1} "
        "others that can be computed here is better beyond doubt."
    )


def about(evidence: Verdict) -> list[str]:
    """What the evidence says of the order, as sentences for the notes."""
    chance = "" if evidence.agreement.low > 0 else " That cannot be told from a random order."
    beside = f", that of same task type {evidence.by_type}" if evidence.by_type else ""
    said = [
        f"How far to trust it: over {evidence.agreement.n} other targets, its mean Spearman with measured "
        f"{evidence.protocol} transfer is {evidence.agreement}{beside}.{chance}"
    ]
    if evidence.unlike is None:
        return said
    verdict = (
        "no better than chance can be shown, so do not trust it for a task unlike those measured here"
        if evidence.unlike.low <= 0
        else "better than chance"
    )
    who = (
        f"No measured target is of the target's type, {evidence.new_type}, and then this counts: "
        if evidence.new_type
        else ""
    )
    said.append(
        f"{who}{'among' if who else 'Among'} sources of other types it is {evidence.unlike}: {verdict}."
    )
    return said
