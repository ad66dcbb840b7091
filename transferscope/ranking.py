"""Sources for a target, best first: scores with intervals over trials, ties, and baselines beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from transferscope import comparison, recommendation
from transferscope.baselines import Facts, baselines
from transferscope.comparison import Material
from transferscope.default_indicator import DEFAULT, Chosen, choose
from transferscope.errors import InputError, PromptError, suggest
from transferscope.files import AnyPath, place
from transferscope.ordering import (
    RankedSource,
    Ranking,
    about_measuring,
    about_types,
    by_known,
    of_other_type,
    remeasured,
)
from transferscope.prompts import RECORD
from transferscope.trials import around, resampled, score, ties

if TYPE_CHECKING:
    from transferscope.comparison import IndicatorMatrix
    from transferscope.signatures import Signature
    from transferscope.transfer import TransferMatrix

NO_TRIALS = "Values from a table: no trials, so no interval, and no telling which sources tie."
WEAK = "Prompts no better than the majority class (within two standard errors), of which little can be said"


def rank(
    target: str,
    signatures: Mapping[str, Signature],
    *,
    indicator: str | None = None,
    transfer: TransferMatrix | None = None,
    types: Mapping[str, str] | None = None,
    sizes: Mapping[str, int] | None = None,
    prefer_same_type: bool = False,
    measure: int | None = None,
    seed: int = 0,
    resamples: int = 200,
) -> Ranking:
    """Rank all other tasks as sources for `target`.

    `indicator` None chooses one (the notes say why). `types` adds to the types that the signatures know;
    `sizes` are numbers of training examples. Intervals: 95 %, bootstrap over the trials of source and target
    (`resampled`). `prefer_same_type` sorts by type first, by score inside. `measure` K orders the first K by
    `transfer`, above the others (what is measured only then: `remeasured`).

    Raises InputError (unknown target, no source, a type or value that is asked for and not known),
    SignatureError (different backbones), IndicatorInputError.
    """
    if target not in signatures:
        raise InputError(f"no signature of the target {target!r}. {suggest(target, signatures)}")
    materials = [replace(comparison.from_signature(one), task=name) for name, one in signatures.items()]
    weak = [name for name, one in signatures.items() if comparison.no_better_than_majority(one.provenance)]
    return rank_materials(
        target,
        materials,
        model=str(signatures[target].provenance.get("model") or signatures[target].model),
        notes=[f"{WEAK}: {', '.join(weak)}."] if weak else [],
        indicator=indicator,
        transfer=transfer,
        types=types,
        sizes=sizes,
        prefer_same_type=prefer_same_type,
        measure=measure,
        seed=seed,
        resamples=resamples,
    )


def rank_materials(
    target: str,
    materials: Sequence[Material],
    *,
    model: str = "",
    notes: Sequence[str] = (),
    indicator: str | None = None,
    transfer: TransferMatrix | None = None,
    types: Mapping[str, str] | None = None,
    sizes: Mapping[str, int] | None = None,
    prefer_same_type: bool = False,
    measure: int | None = None,
    seed: int = 0,
    resamples: int = 200,
    matrices: Sequence[IndicatorMatrix] | None = None,
) -> Ranking:
    """`rank`, on what every kind of source is turned into; ``notes`` stand last.

    ``matrices`` are indicators of these materials that were computed already, for the evidence.
    """
    goals = [material for material in materials if material.task == target]
    if not goals:
        names = [material.task for material in materials]
        raise InputError(f"nothing is known of the target {target!r}. {suggest(target, names)}")
    sources = [material for material in materials if material.task != target]
    facts = _facts(goals[0], sources, transfer, types, sizes)
    chosen = choose(goals[0], sources, indicator, facts.types, transfer, prefer_same_type, matrices)
    found = _rank(goals[0], sources, model, chosen, facts, notes, prefer_same_type, seed, resamples)
    return by_known(found, measure)


def rank_prompts(
    target_path: AnyPath,
    folders: Sequence[AnyPath],
    *,
    indicator: str | None = None,
    transfer: TransferMatrix | None = None,
    types: Mapping[str, str] | None = None,
    prefer_same_type: bool = False,
    measure: int | None = None,
    seed: int = 0,
    resamples: int = 200,
) -> Ranking:
    """Rank PEFT prompts as sources for another: `target_path` holds it (or its seeds), `folders` the sources.

    No task data and no model are needed; the other options are those of `rank`. Raises PromptError,
    SignatureError (different backbones), IndicatorInputError (an indicator that needs more than prompts),
    InputError (a type or value that is asked for and not known).
    """
    goals = comparison.read_folders([target_path])
    if len(goals) > 1:
        names = ", ".join(sorted(goal.task for goal in goals))
        raise PromptError(
            f"{str(target_path)!r} holds prompts of several tasks ({names}): name the folder of one target"
        )
    goal = goals[0]
    own = comparison.soft_prompts.find_prompts([target_path])
    sources, notes = _beside(goal, comparison.read_folders(folders, without=own))
    model = goal.model
    if "prompt" in goal.inputs:
        model = str(comparison.soft_prompts.load_prompt(own[0]).provenance.get("model") or "")
    facts = _facts(goal, sources, transfer, types)
    chosen = choose(goal, sources, indicator, facts.types, transfer, prefer_same_type)
    found = _rank(goal, sources, model, chosen, facts, notes, prefer_same_type, seed, resamples)
    return by_known(found, measure)


def rank_values(
    target: str,
    matrices: Sequence[IndicatorMatrix],
    *,
    indicator: str | None = None,
    transfer: TransferMatrix | None = None,
    types: Mapping[str, str] | None = None,
    prefer_same_type: bool = False,
    measure: int | None = None,
    notes: Sequence[str] = (NO_TRIALS,),
) -> Ranking:
    """Rank sources by indicator values that are there already (larger: transfers better), from a table, say.

    `indicator` None takes the only one, or the default if it is among them; the other options are those of
    `rank`. There are no trials in such a table, so there are no intervals, and `notes` say so. Raises
    InputError: unknown target or indicator, no source with a value, a type or value that is asked for and
    not known.
    """
    matrix = _one_of(matrices, indicator)
    if target not in matrix.tasks:
        raise InputError(f"no target {target!r} in the table. {suggest(target, matrix.tasks)}")
    evidence = recommendation.weigh(
        target,
        [matrix],
        transfer,
        types=types,
        prefer_same_type=prefer_same_type,
        default=matrix.indicator,
    )
    column = matrix.values[:, matrix.tasks.index(target)]
    scores = {
        task: float(value)
        for task, value in zip(matrix.tasks, column, strict=True)
        if task != target and np.isfinite(value)
    }
    if not scores:
        raise InputError(f"the table has no {matrix.indicator} of a source for {target!r}")
    facts = _facts(Material(target, {}), [Material(task, {}) for task in scores], transfer, types)
    ranked = [RankedSource(0, task, scores[task], None, None, None, *_known(facts, task)) for task in scores]
    found = _ranking("", matrix.indicator, facts, ranked, notes, prefer_same_type)
    return by_known(recommendation.applied(found, evidence), measure)


def measured_only(
    target: str,
    values: Mapping[str, float],
    *,
    model: str = "",
    transfer: TransferMatrix | None = None,
    types: Mapping[str, str] | None = None,
    own: Mapping[str, float] | None = None,
    sizes: Mapping[str, int] | None = None,
    examples: Mapping[str, int] | None = None,
    dropped: Mapping[str, int | None] | None = None,
    spent: int | None = None,
    known: int = 0,
    exhaustive: int | None = None,
) -> Ranking:
    """Rank sources by what was measured on the target alone: no indicator, as for a target with no prompt.

    `own` are the sources' scores on their own tasks, `transfer` what is known of other targets, both for the
    baselines; the other options are those of `remeasured`. Scores are None. Raises InputError.
    """
    sources = [Material(name, {}, own=(own or {}).get(name)) for name in values]
    facts = _facts(Material(target, {}), sources, transfer, types, sizes)
    ranked = [RankedSource(0, name, None, None, None, None, None, facts.types.get(name)) for name in values]
    why = "No indicator: the order is by what was measured on the target alone."
    found = _ranking(model, None, replace(facts, measured={}), ranked, [why], prefer_same_type=False)
    seen: dict[str, Any] = {"examples": examples, "dropped": dropped}
    return remeasured(found, values, **seen, spent=spent, known=known, exhaustive=exhaustive)


def _one_of(matrices: Sequence[IndicatorMatrix], indicator: str | None) -> IndicatorMatrix:
    by_name = {matrix.indicator: matrix for matrix in matrices}
    name = indicator or (DEFAULT if DEFAULT in by_name else next(iter(by_name)) if len(by_name) == 1 else "")
    if name not in by_name:
        asked = (
            f"no indicator {name!r} in the table" if name else "the table has several indicators: name one"
        )
        raise InputError(f"{asked}. {suggest(name, by_name)}")
    return by_name[name]


def _known(facts: Facts, task: str) -> tuple[float | None, str | None]:
    return facts.measured.get(task), facts.types.get(task)


def _ranking(
    model: str,
    indicator: str | None,
    facts: Facts,
    sources: Sequence[RankedSource],
    notes: Sequence[str],
    prefer_same_type: bool,
) -> Ranking:
    """The sources, given in any order, by score (by type first), with baselines and notes beside them."""
    names = [source.source for source in sources]
    other = [False] * len(names)
    if prefer_same_type:
        other = of_other_type(facts.target, names, facts.types)
    # stable: ties stay as given
    order = sorted(range(len(names)), key=lambda i: (other[i], *_by_score(sources[i])))
    ranked = tuple(replace(sources[i], rank=place) for place, i in enumerate(order, start=1))
    beside, missing = baselines(facts)
    sorting = [about_types(facts.target, ranked, facts.types)] if prefer_same_type else []
    measuring = about_measuring(ranked, "type and score" if prefer_same_type else "score")
    said = (*notes, *sorting, measuring, *missing)
    return Ranking(facts.target, model, indicator, ranked, tuple(beside), said)


def _by_score(source: RankedSource) -> tuple[bool, float]:
    """A sort key: the highest first, undefined ones last."""
    if source.score is None or np.isnan(source.score):
        return True, 0.0
    return False, -source.score


def _beside(goal: Material, found: list[Material]) -> tuple[list[Material], tuple[str, ...]]:
    """The sources: another seed of the target is left out, a stranger of the same name is renamed."""
    sources, notes = [], []
    for material in found:
        if material.task != goal.task:
            sources.append(material)
        elif (place(material.where) / RECORD).is_file():
            notes.append(f"{material.where} is a prompt of the target itself and was left out.")
        else:
            sources.append(replace(material, task=str(place(material.where))))
    return sources, tuple(notes)


def _facts(
    target: Material,
    sources: Sequence[Material],
    transfer: TransferMatrix | None = None,
    types: Mapping[str, str] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Facts:
    tasks = tuple(source.task for source in sources)
    known_types = {material.task: material.type for material in (target, *sources) if material.type}
    own = {source.task: source.own for source in sources if source.own is not None}
    means = {task: _mean_transfer(transfer, task, target.task) for task in tasks}
    measured = {task: _measured(transfer, task, target.task) for task in tasks}
    return Facts(
        target=target.task,
        sources=tasks,
        types={**known_types, **(types or {})},
        own=own,
        mean_transfer={task: value for task, value in means.items() if value is not None},
        sizes=sizes or {},
        measured={task: value for task, value in measured.items() if value is not None},
    )


def _measured(transfer: TransferMatrix | None, source: str, target: str) -> float | None:
    if transfer is None or source not in transfer.sources or target not in transfer.targets:
        return None
    value = float(transfer.values[transfer.sources.index(source), transfer.targets.index(target)])
    return value if np.isfinite(value) else None


def _mean_transfer(transfer: TransferMatrix | None, source: str, target: str) -> float | None:
    """Mean over other targets but the source's own task, relative to the targets' own prompts if possible."""
    if transfer is None:
        return None
    others = [task for task in transfer.targets if task not in (source, target)]
    own = [_measured(transfer, task, task) or 0.0 for task in others]
    values = [_measured(transfer, source, task) for task in others]
    relative = all(value > 0 for value in own)
    found = [v / o if relative else v for v, o in zip(values, own, strict=True) if v is not None]
    return float(np.mean(found)) if found else None


def _rank(
    target: Material,
    sources: Sequence[Material],
    model: str,
    chosen: Chosen,
    facts: Facts,
    notes: Sequence[str],
    prefer_same_type: bool,
    seed: int,
    resamples: int,
) -> Ranking:
    record = comparison.find(chosen.name, [target, *sources])
    scores = np.array([score(record, source, target) for source in sources])
    draws = resampled(record, sources, target, seed=seed, resamples=resamples)  # [sources, resamples]
    several = [max(target.trials, source.trials) > 1 for source in sources]
    best = min(range(len(sources)), key=lambda i: (np.isnan(scores[i]), -scores[i]))
    ranked = []
    for i, source in enumerate(sources):
        low, high = around(scores[i], draws[i]) if several[i] else (None, None)
        tie = ties(scores[best] - scores[i], draws[best] - draws[i]) if several[best] or several[i] else None
        known = _known(facts, source.task)
        ranked.append(RankedSource(0, source.task, float(scores[i]), low, high, tie, *known))
    ranked.sort(key=_by_score)
    said = [chosen.why, *_about_trials(target, sources, ranked)]
    found = _ranking(model, record.name, facts, ranked, said, prefer_same_type)
    found = recommendation.applied(found, chosen.evidence)
    return replace(found, notes=(*found.notes, *notes))


def _about_trials(target: Material, sources: Sequence[Material], ranked: Sequence[RankedSource]) -> list[str]:
    """What the intervals rest on, and which sources they cannot tell apart."""
    fewest = min(source.trials for source in sources)
    if target.trials == 1 and max(source.trials for source in sources) == 1:
        return [
            "One trial (seed) a task: one trial cannot tell sources apart, so there is no interval. "
            "Tune with more seeds."
        ]
    notes = [f"Intervals: 95 %, bootstrap over trials (target {target.trials}, sources {fewest} or more)."]
    if min(fewest, target.trials) < 5:
        notes.append("With fewer than five trials a side, intervals are likely too narrow.")
    ties = [source.source for source in ranked[1:] if source.ties_with_best]
    if ties:
        notes.append(
            f"The trials cannot tell {len(ties)} of the {len(ranked) - 1} other sources from the best: "
            f"{', '.join(ties)}."
        )
    return notes
