"""How far a study's indicators agree with its measured transfer: scores, differences, budget curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from transferscope import correlation, resampling
from transferscope.budget import BudgetReport, budget_curves
from transferscope.correlation import CorrelationReport, Score
from transferscope.errors import InputError
from transferscope.evidence import SCOPES, Known, Scope, evidence_of
from transferscope.report.stored import CORRELATION, Lack, Stored
from transferscope.resampling import Difference
from transferscope.transfer import ZERO_SHOT

# The others of `agreement.METRICS` cost more than a report may, and are in correlation.json.
METRICS = ("spearman", "kendall", "regret@1", "regret@3", "top_1", "relative_top_1")
LEVEL = 0.05
SAME = 1e-6  # how far two means of the same numbers may be apart


@dataclass(frozen=True)
class Agreement:
    """What the report shows of it.

    ``report`` has no p where correlation.json is missing or of other numbers. ``differences`` are those of
    the indicators' Spearman from the same-type baseline, their p corrected by Holm; empty where types are not
    known.
    """

    report: CorrelationReport
    budget: BudgetReport
    differences: tuple[Difference, ...]
    lacks: tuple[Lack, ...]

    @property
    def best(self) -> Score | None:
        """The indicator with the highest mean Spearman."""
        found = [one for one in self._spearman if one.kind == "indicator" and one.mean is not None]
        return max(found, key=lambda one: one.mean or 0.0) if found else None

    @property
    def beyond_chance(self) -> tuple[str, ...] | None:
        """Indicators whose corrected p is below .05; None where there is no p."""
        found = [one for one in self._spearman if one.kind == "indicator"]
        if all(one.p is None for one in found):
            return None
        return tuple(one.name for one in found if one.p is not None and one.p < LEVEL)

    @property
    def beyond_type(self) -> tuple[str, ...] | None:
        """Indicators that beat the same-type baseline beyond doubt; None where types are not known."""
        if not self.differences:
            return None
        return tuple(d.name for d in self.differences if d.better and d.p is not None and d.p < LEVEL)

    @property
    def _spearman(self) -> list[Score]:
        return [one for one in self.report.scores if (one.metric, one.scope) == ("spearman", "all")]


def agreement(stored: Stored) -> Agreement | None:
    """None where there is nothing to judge: no indicators, nothing measured, or too little in common.

    Means and intervals are computed from the tables; p takes many permutations and comes from
    correlation.json, where that is of the same numbers.
    """
    measured = stored.measured
    if measured is None or not stored.matrices:
        return None
    zero_shot = next((one for one in stored.transfers if one.protocol == ZERO_SHOT), None)
    known = Known(types=stored.types or None, sizes=stored.sizes or None, zero_shot=zero_shot)
    given = evidence_of("", stored.matrices, measured, known)
    options: dict[str, Any] = {"over_seeds": True, "expanded": True, **given.beside}
    typed = set(measured.sources) | set(measured.targets) <= set(stored.types)
    try:
        report = correlation.correlate(
            given.matrices,
            given.transfer,
            metrics=METRICS,
            scopes=SCOPES if typed else SCOPES[:1],
            against="same_type" if typed else None,
            permutations=0,
            **options,
        )
        budget = budget_curves(given.matrices, given.transfer, **options)
    except InputError:  # fewer than two sources, or no target, that both tables have
        return None
    p = _p_values(stored.correlation, report)
    lacks = () if p is not None else (Lack(_why_no_p(stored), "run STUDY"),)
    scores = tuple(replace(one, p=(p or {}).get(_key(one))) for one in report.scores)
    return Agreement(replace(report, scores=scores), budget, _corrected(report), lacks)


def _key(score: Score) -> tuple[str, str, Scope]:
    return score.name, score.metric, score.scope


def _why_no_p(stored: Stored) -> str:
    what = "p values of the agreement with measured transfer"
    return what if stored.correlation is None else f"{what} as it is now ({CORRELATION} is of other numbers)"


def _p_values(
    record: Mapping[str, Any] | None, report: CorrelationReport
) -> dict[tuple[str, str, str], float | None] | None:
    """p by name, metric and scope; None where the record is of other numbers than the report."""
    rows = [row for row in _rows(record) if row.get("aggregate") == "per-target"]
    known = {(str(row.get("name")), str(row.get("metric")), str(row.get("scope"))): row for row in rows}
    if not known or (record or {}).get("protocol") != report.protocol:
        return None
    here = [one for one in report.scores if (one.kind, one.scope) == ("indicator", "all")]
    if any(not _equal(one.mean, known.get(_key(one), {}).get("mean", "missing")) for one in here):
        return None
    return {key: _number(row.get("p")) for key, row in known.items()}


def _rows(record: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    rows = (record or {}).get("scores")
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None


def _equal(one: float | None, other: Any) -> bool:
    if one is None or other is None:
        return one is None and other is None
    return isinstance(other, int | float) and abs(one - other) <= SAME


def _corrected(report: CorrelationReport) -> tuple[Difference, ...]:
    """The indicators' differences in Spearman, their p corrected over the indicators."""
    indicators = {one.name for one in report.scores if one.kind == "indicator"}
    found = [one for one in report.differences if one.metric == "spearman" and one.name in indicators]
    p = resampling.holm([one.p for one in found])
    return tuple(replace(one, p=value) for one, value in zip(found, p, strict=True))
