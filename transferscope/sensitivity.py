"""Which layers, which rate of skill neurons, how many trials: parts of indicators against measured transfer.

An indicator is computed anew from one layer, from a group of layers, at other rates of skill neurons, or from
fewer trials of every task (`parts`). Each of these is one point of its curve: the agreement with measured
transfer, by the rules of `correlation.correlate` (own prompts, seeds, intervals over targets, p of renaming
the tasks), where Holm's correction is over all points of all curves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from transferscope import agreement, resampling
from transferscope.errors import InputError, suggest
from transferscope.evidence import SCOPES, Kind, Known, OwnPrompt, Scope, gather
from transferscope.judging import Estimate, bench, judge
from transferscope.parts import By, Cut, Part, parts

if TYPE_CHECKING:
    from transferscope.comparison import IndicatorMatrix, Material
    from transferscope.transfer import TransferMatrix


@dataclass(frozen=True)
class SensitivityPoint:
    """One indicator computed from one part (or one baseline): its mean agreement over targets.

    ``x`` is the layer (a group's first), the rate or the number of trials, None of the whole network and of a
    baseline; ``label`` names it. ``subsets`` of the trials were averaged; ``spread`` is the standard
    deviation of their means.
    """

    name: str
    kind: Kind
    x: float | None
    label: str
    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    n_targets: int
    n_skipped: int
    subsets: int = 1
    spread: float | None = None


@dataclass(frozen=True)
class SensitivityReport:
    """Curves of indicators by one kind of part and for one metric, and the baselines beside them."""

    by: By
    protocol: str
    metric: str
    own_prompt: OwnPrompt
    scope: Scope
    targets: tuple[str, ...]
    points: tuple[SensitivityPoint, ...]
    baselines: tuple[SensitivityPoint, ...] = ()
    resampled: str = "targets"
    expanded: bool = False
    notes: tuple[str, ...] = ()

    def curve(self, name: str) -> tuple[SensitivityPoint, ...]:
        """The points of one indicator, in order; InputError with the nearest name if it is not there."""
        found = tuple(point for point in self.points if point.name == name)
        if not found:
            raise InputError(f"there is no curve of {name!r}. {suggest(name, self.names)}")
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The indicators, as they were given."""
        return tuple(dict.fromkeys(point.name for point in self.points))


def sensitivity(
    materials: Sequence[Material],
    transfer: TransferMatrix,
    by: By,
    *,
    names: Sequence[str] | None = None,
    cut: Cut | None = None,
    metric: str = "spearman",
    scope: Scope = "all",
    types: Mapping[str, str] | None = None,
    own_prompt: OwnPrompt = "excluded",
    baselines: Sequence[str] | None = None,
    seed: int = 0,
    over_seeds: bool = False,
    expanded: bool = False,
    permutations: int = resampling.PERMUTATIONS,
    sizes: Mapping[str, int] | None = None,
    text_embedding: IndicatorMatrix | None = None,
    zero_shot: TransferMatrix | None = None,
) -> SensitivityReport:
    """How well indicators agree with measured transfer when they read a part of the materials alone.

    ``by``, ``names`` and ``cut`` as in `parts.parts` (``cut`` None: the defaults, with this seed). There are
    at least ``permutations`` renamings, and as many as Holm's correction over all points needs to reach .025.
    The rest as in `correlation.correlate`. Raises InputError as these two.
    """
    metric = agreement.find(metric).name
    _check("scope", scope, SCOPES)
    _check("own_prompt", own_prompt, ("excluded", "included"))
    found, notes = parts(by, materials, names, cut or Cut(seed=seed))
    known = Known(types, sizes, text_embedding, zero_shot)
    matrices = [matrix for part in found for matrix in part.matrices]
    measured, orderings = gather(matrices, transfer, known, baselines)
    options = {"own_prompt": own_prompt, "scope": scope, "seed": seed, "over_seeds": over_seeds}
    reach = max(permutations, 40 * len(found) - 1) if permutations else 0
    on = bench(measured, types, expanded=expanded, permutations=reach, **options)  # type: ignore[arg-type]
    ends = np.cumsum([0, *(len(part.matrices) for part in found)])
    groups = [orderings[first:stop] for first, stop in pairwise(ends)]
    beside = orderings[len(matrices) :]
    scores = judge(on, [*groups, *([one] for one in beside)], [metric]).estimates[metric]
    points, others = scores[: len(found)], scores[len(found) :]
    return SensitivityReport(
        *(by, measured.protocol, metric, own_prompt, scope, measured.targets),
        tuple(_point(part, score) for part, score in zip(found, points, strict=True)),
        tuple(_baseline(one.name, score) for one, score in zip(beside, others, strict=True)),
        "targets and seeds" if on.over_seeds else "targets",
        expanded,
        (*notes, *_about(len(points), permutations > 0)),
    )


def _check(what: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(f"{what} is {value!r}. {suggest(value, allowed)}")


def _point(part: Part, score: Estimate) -> SensitivityPoint:
    return SensitivityPoint(
        *(part.name, "indicator", part.x, part.label, score.mean, score.low, score.high, score.p),
        *(score.n_targets, score.n_skipped, len(part.matrices), score.spread),
    )


def _baseline(name: str, score: Estimate) -> SensitivityPoint:
    ends = (score.mean, score.low, score.high, score.p, score.n_targets, score.n_skipped)
    return SensitivityPoint(name, "baseline", None, "", *ends)


def _about(points: int, tested: bool) -> list[str]:
    test = (
        "p: one-sided, of renaming the tasks; for indicators corrected by Holm over all "
        f"{points} points of the curves."
    )
    best = "The best of many points looks better than it is: judge it on other targets than it was chosen on."
    return [*([test] if tested else []), best]
