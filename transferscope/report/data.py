"""A study as one record for a report: sentences, tables for the page, and numbers for its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import indicators
from transferscope import graph, graph_analysis, ranking, transfer
from transferscope.agreement import METRICS as KNOWN
from transferscope.errors import InputError
from transferscope.files import AnyPath
from transferscope.graph_analysis import Communities
from transferscope.ordering import Ranking
from transferscope.report import summary
from transferscope.report.agreement import METRICS, Agreement, agreement
from transferscope.report.neurons import TaskNeurons, task_neurons
from transferscope.report.packing import numbers, one_way, rounded
from transferscope.report.provenance import Provenance, TaskRow, provenance, task_rows
from transferscope.report.stored import Lack, Stored, read_stored
from transferscope.skill_sets import RATE
from transferscope.workspace import Progress

NEAREST = summary.NEAREST
DEFAULT_INDICATORS = (ranking.DEFAULT, "on")


@dataclass(frozen=True)
class StudyReport:
    """What a report shows. ``data`` is ready for JSON (n tasks: matrices are lists of n * n, a row a source,
    None where not known); all else is text for the page.
    """

    name: str
    model: str
    summary: tuple[str, ...]
    caveats: tuple[str, ...]
    lacks: tuple[Lack, ...]
    tasks: tuple[TaskRow, ...]
    provenance: Provenance
    data: Mapping[str, Any]


def collect(path: AnyPath, progress: Progress | None = None) -> StudyReport:
    """The report's record of a study folder, from what lies there. Raises StudyError, StoreError."""
    stored = read_stored(path)
    rows = task_rows(stored)
    rankings = rank_all(stored, rows, progress)
    agreed = agreement(stored)
    neurons = task_neurons(stored.signatures)
    groups, communities = _communities(stored)
    lacks = (*stored.lacks, *(agreed.lacks if agreed else ()))
    model = Path(stored.pipeline.settings.model.name).name or stored.pipeline.settings.model.name
    facts = summary.Facts(stored, rows, rankings, agreed, communities, neurons)
    return StudyReport(
        name=stored.pipeline.study.folder.resolve().name,
        model=model,
        summary=tuple(map(one_way, summary.sentences(facts))),
        caveats=tuple(map(one_way, summary.caveats(facts))),
        lacks=tuple(replace(lack, what=one_way(lack.what)) for lack in lacks),
        tasks=rows,
        provenance=provenance(stored),
        data={
            "tasks": stored.tasks,
            "types": [stored.types.get(name) for name in stored.tasks],
            "own": [rounded(row.own) for row in rows],
            "weak": [row.weak for row in rows],
            "measures": _measures(stored),
            "protocol": stored.protocol,
            "rankings": [_ranking(found) for found in rankings],
            "agreement": _agreement(agreed),
            "budget": _budget(agreed),
            "communities": groups,
            "neurons": _neurons(neurons),
        },
    )


def rank_all(
    stored: Stored, rows: Sequence[TaskRow], progress: Progress | None = None
) -> tuple[Ranking, ...]:
    """The sources of every target that has some, as `transferscope rank` orders them.

    By trials where prompts or signatures of all tasks are there, else by the table of indicators, else by
    what was measured alone.
    """
    found = []
    weak = tuple(row.task for row in rows if row.weak)
    for done, target in enumerate(stored.tasks, start=1):
        if progress is not None:
            progress("report", done, len(stored.tasks), f"ranking sources for {target}")
        try:
            one = _ranked(stored, target, weak)
        except InputError:  # no source, or no value for this target
            continue
        if one is not None and one.sources:
            found.append(one)
    return tuple(found)


def _ranked(stored: Stored, target: str, weak: Sequence[str]) -> Ranking | None:
    beside: dict[str, Any] = {"transfer": stored.measured, "types": stored.types or None}
    if any(material.task == target for material in stored.materials):
        return ranking.rank_materials(
            target,
            stored.materials,
            model=stored.pipeline.settings.model.name,
            notes=[f"{ranking.WEAK}: {', '.join(weak)}."] if weak else [],
            sizes=stored.sizes,
            matrices=stored.matrices or None,
            **beside,
        )
    if stored.matrices:
        names = [matrix.indicator for matrix in stored.matrices]
        usual = next((name for name in DEFAULT_INDICATORS if name in names), names[0])
        return ranking.rank_values(target, stored.matrices, indicator=usual, **beside)
    measured = stored.measured
    if measured is None or target not in measured.targets:
        return None
    column = measured.values[:, measured.targets.index(target)]
    values = {
        source: float(value)
        for source, value in zip(measured.sources, column, strict=True)
        if source != target and np.isfinite(value)
    }
    return ranking.measured_only(target, values, **beside) if values else None


def _communities(stored: Stored) -> tuple[dict[str, Sequence[int]], Communities | None]:
    """Louvain communities by each measure, and those of the measure that the graph shows first.

    Of the graph of every target's best sources: where everything transfers a little, the graph of all pairs
    is one community.
    """
    if not stored.matrices and not stored.transfers:
        return {}, None
    whole = graph.build(
        stored.matrices,
        [stored.measured] if stored.measured is not None else [],
        types=stored.types,
    )
    groups: dict[str, Sequence[int]] = {}
    for name in whole.measures:
        of = graph_analysis.communities(whole.show(name).nearest(NEAREST), permutations=0).of
        groups[name] = [of.get(task, -1) for task in stored.tasks]
    return groups, graph_analysis.communities(whole.nearest(NEAREST))


def _measures(stored: Stored) -> list[dict[str, Any]]:
    """Everything that is known of all pairs: what was measured first, then indicators."""
    found = []
    for one in stored.transfers:
        sides = (one.sources, one.targets)
        spread = numbers(_spread(stored.tasks, one.standard_errors, *sides))
        what = _about_protocol(one.protocol)
        found.append(_measure(stored, one.protocol, "measured", one.values, sides, what, errors=spread))
        if np.isfinite(one.relative).any():
            name = f"{one.protocol} {graph.RELATIVE}"
            relative = f"{what}, divided by what the target's own prompt reaches"
            found.append(_measure(stored, name, "relative", one.relative, sides, relative))
    for matrix in stored.matrices:
        sides = (matrix.tasks, matrix.tasks)
        about = _about_indicator(matrix.indicator)
        found.append(_measure(stored, matrix.indicator, "indicator", matrix.values, sides, about))
    return found


def _measure(
    stored: Stored,
    name: str,
    kind: str,
    values: np.ndarray,
    sides: tuple[tuple[str, ...], tuple[str, ...]],
    about: str,
    **more: Any,
) -> dict[str, Any]:
    spread = numbers(_spread(stored.tasks, values, *sides))
    return {"name": name, "kind": kind, "about": about, "values": spread, **more}


def _spread(tasks: Sequence[str], values: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> Any:
    """Values [rows, columns] at their places among all tasks [n, n]; NaN elsewhere."""
    place = {name: i for i, name in enumerate(tasks)}
    found = np.full((len(tasks), len(tasks)), np.nan)
    found[np.ix_([place[name] for name in rows], [place[name] for name in columns])] = values
    return found


def _about_protocol(protocol: str) -> str:
    known = {
        transfer.ZERO_SHOT: "Measured: the source's prompt, unchanged, on the target with its label words",
        transfer.LINEAR_PROBE: "Measured: the source's prompt, frozen, a linear head fitted on the target",
        transfer.INIT: "Measured: the target's own tuning, started from the source's prompt",
    }
    return known.get(protocol, f"Measured by the protocol {protocol}")


def _about_indicator(name: str) -> str:
    """What it is, in one line, and on which scale: values are turned so that larger transfers better."""
    try:
        record = indicators.get(name)
    except indicators.UnknownIndicator:
        return "An indicator from a table; larger: transfers better"
    said = f"{record.formula} ({record.source})"
    return said if record.higher_is_closer else f"Minus a distance: {said}"


def _ranking(found: Ranking) -> dict[str, Any]:
    return {
        "target": found.target,
        "indicator": found.indicator,
        "sources": [
            [
                *(one.source, rounded(one.score), rounded(one.low), rounded(one.high), one.ties_with_best),
                *(rounded(one.measured), one.tied_by_evidence),
            ]
            for one in found.sources
        ],
        "baselines": [
            [b.name, b.description, None if b.best is None else list(b.best), b.chance, rounded(b.measured)]
            for b in found.baselines
        ],
        "notes": [one_way(note) for note in found.notes],
    }


def _agreement(agreed: Agreement | None) -> dict[str, Any] | None:
    if agreed is None:
        return None
    report = agreed.report
    return {
        "protocol": report.protocol,
        "targets": len(report.targets),
        "resampled": report.resampled,
        "metrics": [[name, KNOWN[name].definition, KNOWN[name].higher_is_better] for name in METRICS],
        "scores": [
            [
                *(s.name, s.kind, s.scope, s.metric, rounded(s.mean), rounded(s.low), rounded(s.high)),
                *(rounded(s.p), s.n_targets, s.n_skipped),
            ]
            for s in report.scores
        ],
    }


def _budget(agreed: Agreement | None) -> list[list[Any]]:
    points = agreed.budget.points if agreed else ()
    return [[p.name, p.kind, p.k, rounded(p.mean), rounded(p.low), rounded(p.high)] for p in points]


def _neurons(found: Sequence[TaskNeurons]) -> dict[str, Any] | None:
    if not found:
        return None
    return {
        "rate": RATE,
        "tasks": [
            {
                "task": one.task,
                "counts": one.counts,
                "expected": rounded(one.expected),
                "top": [
                    [
                        *(t.layer, t.neuron, rounded(t.predictivity), rounded(t.low), rounded(t.high)),
                        *(t.subtask, rounded(t.stimulation)),
                    ]
                    for t in one.top
                ],
            }
            for one in found
        ],
    }
