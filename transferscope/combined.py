"""Several backbones as one body of evidence: scores over the targets of all, and of each backbone alone.

Sources are ordered within a backbone, as ever; what is put together are the targets. One task on two
backbones is not two independent targets: intervals draw tasks, with all their backbones (a cluster), and p
renames the tasks on all backbones alike, among tasks that have the same places on the same backbones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from transferscope import agreement, resampling
from transferscope.correlation import CorrelationReport, Score, correlate, paired_differences
from transferscope.errors import InputError, suggest
from transferscope.evidence import SCOPES, Evidence, Known, Measured, Ordering, OwnPrompt, Scope, gather
from transferscope.judging import Bench, Floats, Integers, Judged, judge
from transferscope.resampling import Difference


@dataclass(frozen=True)
class CombinedReport:
    """Scores over the targets of all backbones, and each backbone's own report by the same rules.

    ``targets`` of ``combined`` are "task (backbone)"; ``tasks`` is how many different tasks they are. Every
    report has the orderings that all backbones have; ``notes`` names the others.
    """

    backbones: tuple[str, ...]
    tasks: int
    combined: CorrelationReport
    alone: tuple[CorrelationReport, ...]
    notes: tuple[str, ...] = ()

    def of(self, backbone: str) -> CorrelationReport:
        """One backbone's own report; InputError with the nearest name if it is not there."""
        if backbone not in self.backbones:
            raise InputError(f"there is no backbone {backbone!r} here. {suggest(backbone, self.backbones)}")
        return self.alone[self.backbones.index(backbone)]


@dataclass(frozen=True)
class _Rules:
    """How scores are computed, for all backbones alike."""

    own_prompt: OwnPrompt
    seed: int
    metrics: tuple[str, ...]
    over_seeds: bool
    expanded: bool
    permutations: int


@dataclass(frozen=True)
class _One:
    """One backbone's evidence, of the orderings that all have."""

    backbone: str
    measured: Measured
    orderings: dict[str, Ordering]
    known: Known


def combine(
    several: Sequence[Evidence],
    *,
    own_prompt: OwnPrompt = "excluded",
    baselines: Sequence[str] | None = None,
    seed: int = 0,
    metrics: Sequence[str] | None = None,
    scopes: Sequence[Scope] = ("all",),
    against: str | None = None,
    over_seeds: bool = False,
    expanded: bool = False,
    permutations: int = resampling.PERMUTATIONS,
) -> CombinedReport:
    """How well the indicators that all backbones have order the sources of the targets of all of them.

    Arguments as in `correlation.correlate`. Every target counts once, so a backbone with more targets counts
    for more. Raises InputError: fewer than two backbones, a name twice, different protocols, no indicator in
    common, for a scope by type a task of two types, or as `correlate`.
    """
    _check(several, scopes)
    shared, notes = _shared_indicators(several)
    several = [
        replace(one, matrices=[m for name in shared for m in one.matrices if m.indicator == name])
        for one in several
    ]
    chosen = tuple(agreement.find(name).name for name in (metrics or agreement.METRICS))
    rules = _Rules(own_prompt, seed, chosen, over_seeds, expanded, permutations)
    parts, lacking = _gathered(several, baselines)
    alone = tuple(_alone(one, part, rules, scopes) for one, part in zip(several, parts, strict=True))
    scores: list[Score] = []
    differences: list[Difference] = []
    for scope in scopes:
        on = _stacked(parts, rules, scope)
        orderings = _side_by_side(parts, on.measured)
        judged = judge(on, [[ordering] for ordering in orderings], chosen)
        scores += _scores(orderings, judged, scope)
        if against is not None and scope == scopes[0]:
            differences = paired_differences(
                orderings, against, judged.tables, seed=on.seed, clusters=on.clusters
            )
    resampled: Literal["targets", "targets and seeds"] = "targets and seeds" if on.over_seeds else "targets"
    combined = CorrelationReport(
        *(on.measured.protocol, own_prompt, on.measured.targets, tuple(scores), tuple(differences)),
        resampled=resampled,
        expanded=expanded,
    )
    names = tuple(part.backbone for part in parts)
    return CombinedReport(names, len(set(on.clusters or ())), combined, alone, (*notes, *lacking))


def _check(several: Sequence[Evidence], scopes: Sequence[Scope]) -> None:
    if len(several) < 2:
        raise InputError(f"{len(several)} backbone: at least two are combined")
    twice = [name for name, count in Counter(one.backbone for one in several).items() if count > 1]
    if twice:
        raise InputError(f"backbone {twice[0]!r} is given twice; each needs a name of its own")
    protocols = {one.backbone: one.transfer.protocol for one in several}
    if len(set(protocols.values())) > 1:
        shown = ", ".join(f"{protocol} on {name}" for name, protocol in protocols.items())
        raise InputError(f"different protocols cannot be combined: {shown}")
    for scope in scopes:
        if scope not in SCOPES:
            raise InputError(f"scope is {scope!r}. {suggest(scope, SCOPES)}")


def _shared_indicators(several: Sequence[Evidence]) -> tuple[list[str], list[str]]:
    """The indicators that all have, in the first one's order, and a note on those that are left out."""
    names = [[matrix.indicator for matrix in one.matrices] for one in several]
    shared = [name for name in names[0] if all(name in other for other in names[1:])]
    if not shared and any(names):
        found = "; ".join(
            f"{one.backbone} has {', '.join(own) or 'none'}" for one, own in zip(several, names, strict=True)
        )
        raise InputError(f"the backbones have no indicator in common: {found}")
    others = list(dict.fromkeys(name for own in names for name in own if name not in shared))
    return shared, [f"Not on all backbones, and left out: {', '.join(others)}."] if others else []


def _gathered(several: Sequence[Evidence], baselines: Sequence[str] | None) -> tuple[list[_One], list[str]]:
    """Measured values and orderings of each, without baselines that cannot be computed on all."""
    found = [gather(one.matrices, one.transfer, one.known, baselines) for one in several]
    by_name = [{ordering.name: ordering for ordering in orderings} for _, orderings in found]
    shared = [name for name in by_name[0] if all(name in other for other in by_name[1:])]
    parts = [
        _One(one.backbone, measured, {name: own[name] for name in shared}, one.known)
        for one, (measured, _), own in zip(several, found, by_name, strict=True)
    ]
    others = list(dict.fromkeys(name for own in by_name for name in own if name not in shared))
    return parts, [f"Baselines of some backbones alone: {', '.join(others)}."] if others else []


def _alone(one: Evidence, part: _One, rules: _Rules, scopes: Sequence[Scope]) -> CorrelationReport:
    return correlate(
        one.matrices,
        one.transfer,
        types=one.known.types,
        own_prompt=rules.own_prompt,
        baselines=[name for name, ordering in part.orderings.items() if ordering.kind == "baseline"],
        seed=rules.seed,
        metrics=rules.metrics,
        scopes=scopes,
        over_seeds=rules.over_seeds,
        expanded=rules.expanded,
        permutations=rules.permutations,
        sizes=one.known.sizes,
        text_embedding=one.known.text_embedding,
        zero_shot=one.known.zero_shot,
    )


def _stacked(parts: Sequence[_One], rules: _Rules, scope: Scope) -> Bench:
    """All backbones on one bench: the union of sources down, the targets of one after the other across.

    A source that a backbone has not is NaN there.
    """
    sources = list(dict.fromkeys(source for part in parts for source in part.measured.sources))
    targets = [(part.backbone, target) for part in parts for target in part.measured.targets]
    cells = [part.measured.cells(rules.own_prompt, scope, part.known.types) for part in parts]
    seeds = rules.over_seeds and any(len(part.measured.per_seed) > 1 for part in parts)
    versions = [
        # Backbones were tuned apart: each draws its seeds by itself.
        _placed(part.measured.versions(rules.seed + number, redrawn=seeds), part.measured.sources, sources)
        for number, part in enumerate(parts)
    ]
    stacked = np.concatenate(versions, axis=2)
    keep = [
        _placed(own.astype(np.float64)[None], part.measured.sources, sources)[0] == 1
        for own, part in zip(cells, parts, strict=True)
    ]
    measured = Measured(
        parts[0].measured.protocol,
        tuple(sources),
        tuple(f"{target} ({backbone})" for backbone, target in targets),
        stacked[0],
        np.empty((0, *stacked[0].shape)),
    )
    renamed = _renamed(parts, sources, targets, rules, scope) if rules.permutations else None
    clusters = tuple(target for _, target in targets)
    on = (measured, stacked, np.concatenate(keep, axis=1), renamed, clusters)
    return Bench(*on, seed=rules.seed, expanded=rules.expanded)


def _placed(values: Floats, own: Sequence[str], sources: Sequence[str]) -> Floats:
    """Values [Q, S', T] of a backbone's own sources at the places of all, [Q, S, T]; NaN elsewhere."""
    found = np.full((len(values), len(sources), values.shape[2]), np.nan)
    found[:, [sources.index(source) for source in own]] = values
    return found


def _renamed(
    parts: Sequence[_One],
    sources: Sequence[str],
    targets: Sequence[tuple[str, str]],
    rules: _Rules,
    scope: Scope,
) -> tuple[Integers, Integers]:
    """One renaming of the tasks for all backbones: of sources [B, S], of targets on backbones [B, T]."""
    tasks = list(dict.fromkeys(target for _, target in targets))
    types = _types(parts, [*sources, *tasks]) if scope != "all" else {}
    places = {
        task: [(task in part.measured.sources, task in part.measured.targets) for part in parts]
        for task in [*sources, *tasks]
    }
    # Only tasks with the same places can stand for each other on every backbone.
    within = {task: f"{where} {types.get(task)}" for task, where in places.items()}
    rows, columns = resampling.relabellings(sources, tasks, rules.permutations, rules.seed, within=within)
    place = {target: i for i, target in enumerate(targets)}
    across = [
        # What stands at (backbone, task) is the target of the task's new name on the same backbone.
        np.array([place.get((backbone, task), -1) for task in tasks])[columns[:, tasks.index(target)]]
        for backbone, target in targets
    ]
    return rows, np.stack(across, axis=1)


def _types(parts: Sequence[_One], tasks: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in parts:
        for task, kind in (part.known.types or {}).items():
            if task in tasks and found.setdefault(task, kind) != kind:
                raise InputError(
                    f"task {task!r} is of type {found[task]!r} and on {part.backbone} of type {kind!r}: "
                    "scopes by type need one type a task"
                )
    return found


def _side_by_side(parts: Sequence[_One], measured: Measured) -> list[Ordering]:
    """Each ordering on all backbones as one [S, T]; a random order stays one."""
    found = []
    for name, first in parts[0].orderings.items():
        blocks = []
        for part in parts:
            values = part.orderings[name].values
            if values is not None:
                blocks.append(_placed(values[None], part.measured.sources, measured.sources)[0])
        joined = np.concatenate(blocks, axis=1) if blocks else None
        found.append(Ordering(name, first.kind, joined))
    return found


def _scores(orderings: Sequence[Ordering], judged: Judged, scope: Scope) -> list[Score]:
    return [
        Score(
            *(one.name, one.kind, scope, "per-target", metric, found.mean, found.low, found.high, found.p),
            n_targets=found.n_targets,
            n_skipped=found.n_skipped,
        )
        for i, one in enumerate(orderings)
        for metric, estimates in judged.estimates.items()
        for found in [estimates[i]]
    ]
