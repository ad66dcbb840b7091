"""Sources for a target, best first: scores with intervals over trials, ties, and baselines beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from indicators import Indicator
from transferscope import comparison
from transferscope.baselines import Baseline, Facts, baselines
from transferscope.comparison import POOLED, Floats, Material
from transferscope.errors import IndicatorInputError, InputError, PromptError, suggest
from transferscope.prompts import RECORD

if TYPE_CHECKING:
    from transferscope.comparison import IndicatorMatrix
    from transferscope.signatures import Signature
    from transferscope.transfer import TransferMatrix

DEFAULT, WITHOUT_PROMPTS = "prompt_cosine_mean_token", "on"
TINY = 1e-12  # differences below are rounding
WEAK = "Prompts no better than the majority class (within two standard errors), of which little can be said"


@dataclass(frozen=True)
class RankedSource:
    """One source: its score (larger: transfers better), 95 % interval, and measured transfer if any."""

    rank: int
    source: str
    score: float
    low: float | None
    high: float | None
    ties_with_best: bool | None
    measured: float | None
    type: str | None


@dataclass(frozen=True)
class Ranking:
    """The sources for one target, best first."""

    target: str
    model: str
    indicator: str
    sources: tuple[RankedSource, ...]
    baselines: tuple[Baseline, ...]
    notes: tuple[str, ...]


def rank(
    target: str,
    signatures: Mapping[str, Signature],
    *,
    indicator: str | None = None,
    transfer: TransferMatrix | None = None,
    types: Mapping[str, str] | None = None,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    resamples: int = 200,
) -> Ranking:
    """Rank all other tasks as sources for `target`.

    `indicator` None chooses one (the notes say why). `types` adds to the types that the signatures know;
    `sizes` are numbers of training examples. Intervals: 95 %, bootstrap over the trials of source and target
    (`resampled`).

    Raises InputError (unknown target, no source), SignatureError (different backbones), IndicatorInputError.
    """
    if target not in signatures:
        raise InputError(f"no signature of the target {target!r}. {suggest(target, signatures)}")
    materials = {name: comparison.from_signature(signature) for name, signature in signatures.items()}
    model = str(signatures[target].provenance.get("model") or signatures[target].model)
    goal = replace(materials.pop(target), task=target)
    sources = [replace(material, task=name) for name, material in materials.items()]
    facts = _facts(goal, sources, transfer, types, sizes)
    weak = [name for name, one in signatures.items() if comparison.no_better_than_majority(one.provenance)]
    notes = [f"{WEAK}: {', '.join(weak)}."] if weak else []
    return _rank(goal, sources, model, indicator, facts, notes, seed, resamples)


def rank_prompts(
    target_path: Path | str,
    folders: Sequence[Path | str],
    *,
    indicator: str | None = None,
    types: Mapping[str, str] | None = None,
    seed: int = 0,
    resamples: int = 200,
) -> Ranking:
    """Rank PEFT prompts as sources for another: `target_path` holds it (or its seeds), `folders` the sources.

    No task data and no model are needed. Raises PromptError, SignatureError (different backbones),
    IndicatorInputError (an indicator that needs more than prompts).
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
    model = str(comparison.soft_prompts.load_prompt(own[0]).provenance.get("model") or "")
    facts = _facts(goal, sources, types=types)
    return _rank(goal, sources, model, indicator, facts, notes, seed, resamples)


def rank_values(
    target: str,
    matrices: Sequence[IndicatorMatrix],
    *,
    indicator: str | None = None,
    transfer: TransferMatrix | None = None,
    types: Mapping[str, str] | None = None,
) -> Ranking:
    """Rank sources by indicator values that are there already (larger: transfers better), from a table, say.

    `indicator` None takes the only one, or the default if it is among them. There are no trials in such a
    table, so there are no intervals. Raises InputError: unknown target or indicator, no source with a value.
    """
    by_name = {matrix.indicator: matrix for matrix in matrices}
    name = indicator or (DEFAULT if DEFAULT in by_name else next(iter(by_name)) if len(by_name) == 1 else "")
    if name not in by_name:
        asked = (
            f"no indicator {name!r} in the table" if name else "the table has several indicators: name one"
        )
        raise InputError(f"{asked}. {suggest(name, by_name)}")
    matrix = by_name[name]
    if target not in matrix.tasks:
        raise InputError(f"no target {target!r} in the table. {suggest(target, matrix.tasks)}")
    column = matrix.values[:, matrix.tasks.index(target)]
    scores = {
        task: float(value)
        for task, value in zip(matrix.tasks, column, strict=True)
        if task != target and np.isfinite(value)
    }
    if not scores:
        raise InputError(f"the table has no {name} of a source for {target!r}")
    sources = [Material(task, {}) for task in scores]
    facts = _facts(Material(target, {}), sources, transfer, types)
    order = sorted(scores, key=lambda task: -scores[task])  # stable: ties stay as given
    ranked = tuple(
        RankedSource(
            place, task, scores[task], None, None, None, facts.measured.get(task), facts.types.get(task)
        )
        for place, task in enumerate(order, start=1)
    )
    beside, missing = baselines(facts)
    notes = ("Values from a table: no trials, so no interval, and no telling which sources tie.",)
    return Ranking(target, "", name, ranked, tuple(beside), (*notes, _about_measuring(ranked), *missing))


def _beside(goal: Material, found: list[Material]) -> tuple[list[Material], tuple[str, ...]]:
    """The sources: another seed of the target is left out, a stranger of the same name is renamed."""
    sources, notes = [], []
    for material in found:
        if material.task != goal.task:
            sources.append(material)
        elif Path(material.where, RECORD).is_file():
            notes.append(f"{material.where} is a prompt of the target itself and was left out.")
        else:
            sources.append(replace(material, task=str(Path(material.where))))
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
    name: str | None,
    facts: Facts,
    notes: Sequence[str],
    seed: int,
    resamples: int,
) -> Ranking:
    if not sources:
        raise InputError(f"there is no source for {target.task!r}: at least one other task is needed")
    comparison.check_together([target, *sources])
    chosen, why = (name, f"Indicator {name}: asked for.") if name else choose([target, *sources])
    record = comparison.find(chosen, [target, *sources])
    scores = np.array([_score(record, source, target) for source in sources])
    draws = resampled(record, sources, target, seed=seed, resamples=resamples)  # [sources, resamples]
    several = [max(target.trials, source.trials) > 1 for source in sources]
    order = sorted(
        range(len(sources)), key=lambda i: (np.isnan(scores[i]), -scores[i])
    )  # stable: ties stay as given
    ranked = []
    best = order[0]
    for place, i in enumerate(order, start=1):
        low, high = _around(scores[i], draws[i]) if several[i] else (None, None)
        tie = _ties(scores[best] - scores[i], draws[best] - draws[i]) if several[best] or several[i] else None
        task = sources[i].task
        measured, kind = facts.measured.get(task), facts.types.get(task)
        ranked.append(RankedSource(place, task, float(scores[i]), low, high, tie, measured, kind))
    beside, missing = baselines(facts)
    said = [why, *_about_trials(target, sources, ranked), _about_measuring(ranked), *missing, *notes]
    return Ranking(target.task, model, record.name, tuple(ranked), tuple(beside), tuple(said))


def choose(materials: Sequence[Material]) -> tuple[str, str]:
    """The indicator to use when none is asked for, and why."""
    supplied = comparison.have(materials)
    if "prompt" in supplied:
        return DEFAULT, (
            f"Indicator {DEFAULT}: the default. It needs prompts alone, and prompts of any length. With "
            "the published transfer of RoBERTa-base and T5-small (31 targets) its mean per-target Spearman "
            'is .411, that of "same task type" .535.'
        )
    if "stimulation" in supplied:
        return WITHOUT_PROMPTS, (
            f"Indicator {WITHOUT_PROMPTS}: chosen because not every source has prompt rows to compare; "
            "it needs the stimulated neurons alone."
        )
    raise IndicatorInputError(
        "no indicator can be chosen: some task has neither a prompt nor a stimulation "
        f"(they come from {comparison.SUPPLIERS['prompt']}; {comparison.SUPPLIERS['stimulation']})"
    )


def _score(record: Indicator, source: Material, target: Material) -> float:
    left, right = comparison.items(record, source), comparison.items(record, target)
    return float(comparison.pair_values(record, left, right).mean())


def resampled(
    record: Indicator, sources: Sequence[Material], target: Material, *, seed: int, resamples: int
) -> Floats:
    """Scores [sources, resamples] when the trials of target and sources are drawn again, with replacement.

    The target's draws are the same for all sources, so rows can be subtracted from each other. A side with
    one trial stays as it is; where both do, the row is constant. An indicator that needs pooled arrays alone
    (predictivity) is computed again from each draw's mean; where pooled arrays stand beside others, they stay
    those of all trials.
    """
    rng = np.random.default_rng(seed)
    of_target = _draw(rng, target.trials, resamples)
    pooled = set(record.needs) <= POOLED
    rows = []
    for source in sources:
        of_source = _draw(rng, source.trials, resamples)
        values = _pooled_values if pooled else _pair_means
        rows.append(values(record, source, target, of_source, of_target))
    return np.array(rows)


def _draw(rng: np.random.Generator, trials: int, resamples: int) -> NDArray[np.int64]:
    """Which trials each resample holds, sorted, so that equal draws are equal rows: [resamples, R]."""
    return np.sort(rng.integers(trials, size=(resamples, trials)), axis=1)


def _pair_means(
    record: Indicator,
    source: Material,
    target: Material,
    of_source: NDArray[np.int64],
    of_target: NDArray[np.int64],
) -> Floats:
    left, right = comparison.items(record, source), comparison.items(record, target)
    block = comparison.pair_values(record, left, right)  # [R_source, R_target]: all that any resample needs
    return np.asarray(block[of_source[:, :, None], of_target[:, None, :]].mean(axis=(1, 2)))


def _pooled_values(
    record: Indicator,
    source: Material,
    target: Material,
    of_source: NDArray[np.int64],
    of_target: NDArray[np.int64],
) -> Floats:
    lefts, row = np.unique(of_source, axis=0, return_inverse=True)
    rights, column = np.unique(of_target, axis=0, return_inverse=True)
    row, column = row.reshape(-1), column.reshape(-1)
    wanted = sorted(set(zip(row.tolist(), column.tolist(), strict=True)))
    # All pairs at once are cheap only where the indicator knows how.
    if record.pairwise:
        table = comparison.pair_values(
            record,
            [comparison.items(record, _taken(record, source, trials))[0] for trials in lefts],
            [comparison.items(record, _taken(record, target, trials))[0] for trials in rights],
        )
    else:
        table = np.full((len(lefts), len(rights)), np.nan)
        for i, j in wanted:
            table[i, j] = _score(record, _taken(record, source, lefts[i]), _taken(record, target, rights[j]))
    return np.asarray(table[row, column])


def _taken(record: Indicator, material: Material, trials: NDArray[np.int64]) -> Material:
    return replace(
        material, inputs={need: [material.inputs[need][i] for i in trials] for need in record.needs}
    )


def _ties(difference: float, draws: Floats) -> bool | None:
    """Whether the interval of score(best) - score(this) holds 0; None where a draw is undefined."""
    low, high = _around(difference, draws)
    return None if low is None or high is None else bool(low <= TINY and high >= -TINY)


def _around(value: float, draws: Floats) -> tuple[float | None, float | None]:
    """The 95 % interval of the draws' deviations from their own mean, around the value.

    A draw that holds a trial twice is noisier than all trials together, and some indicators sink with noise:
    the draws' mean would then lie beside the value, and with it the interval.
    """
    if not np.isfinite([value, *draws]).all():
        return None, None
    low, high = np.quantile(draws - draws.mean(), [0.025, 0.975])
    return float(value + low), float(value + high)


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


def _about_measuring(ranked: Sequence[RankedSource]) -> str:
    measured = [source for source in ranked if source.measured is not None]
    if not measured:
        return "Scores are predictions: no transfer to this target was measured."
    best = max(measured, key=lambda source: source.measured or 0.0)
    first = ranked[0].measured
    gap = "" if first is None else f" The first by score reaches {first:.4f}."
    return (
        f"The order is by score, a prediction; transfer was measured for {len(measured)} of {len(ranked)} "
        f"sources. Best measured: {best.source}, {best.measured:.4f}.{gap}"
    )
