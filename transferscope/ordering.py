"""A target's ranked sources, and what orders them beside the score: the task type, and what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from transferscope.baselines import Baseline
from transferscope.errors import InputError, suggest
from transferscope.racing import finishing_order

FEW = 8  # names that a note still lists


@dataclass(frozen=True)
class RankedSource:
    """One source: its score (larger: transfers better), 95 % interval, and measured transfer if any.

    `score` is None where no indicator was computed. `basis` says what gave the source its place; `examples`
    how many the measured value rests on, where that is known. `ties_with_best` is what the trials say of the
    score, `tied_by_evidence` what transfer to other targets says of the place (`recommendation.applied`).
    """

    rank: int
    source: str
    score: float | None
    low: float | None
    high: float | None
    ties_with_best: bool | None
    measured: float | None
    type: str | None
    basis: Literal["measured", "predicted"] = "predicted"
    examples: int | None = None
    tied_by_evidence: bool | None = None


@dataclass(frozen=True)
class Ranking:
    """The sources for one target, best first; `indicator` None where the order is measured alone."""

    target: str
    model: str
    indicator: str | None
    sources: tuple[RankedSource, ...]
    baselines: tuple[Baseline, ...]
    notes: tuple[str, ...]


def of_other_type(target: str, names: Sequence[str], types: Mapping[str, str]) -> list[bool]:
    """For each source whether its type is another than the target's: a sort key, the same type first.

    Raises InputError where a type is not known.
    """
    missing = [name for name in (target, *names) if name not in types]
    if missing:
        raise InputError(
            "sorting by task type first needs the type of the target and of every source; it is not known "
            f"of: {', '.join(missing)}"
        )
    return [types[name] != types[target] for name in names]


def about_types(target: str, sources: Sequence[RankedSource], types: Mapping[str, str]) -> str:
    """What sorting by type did, for the notes."""
    same = [source.source for source in sources if source.type == types[target]]
    if not same:
        return f"No source is of the target's type, {types[target]}: the order is that of the score alone."
    scored = [source for source in sources if source.score is not None and not math.isnan(source.score)]
    best = max(scored, key=lambda source: source.score or 0.0).source if scored else "none"
    return (
        f"Sorted by type first: the sources of the target's type, {types[target]} ({listed(same)}), stand "
        "before the others, and the score orders within. Intervals and ties are those of the score alone, "
        f"whose best is {best}."
    )


def about_measuring(ranked: Sequence[RankedSource], by: str = "score") -> str:
    """What of a predicted order was measured anyway, for the notes."""
    measured = [source for source in ranked if source.measured is not None]
    if not measured:
        return "Scores are predictions: no transfer to this target was measured."
    best = max(measured, key=lambda source: source.measured or 0.0)
    first = ranked[0].measured
    gap = "" if first is None else f" The first by {by} reaches {first:.4f}."
    return (
        f"The order is by {by}, a prediction; transfer was measured for {len(measured)} of {len(ranked)} "
        f"sources. Best measured: {best.source}, {best.measured:.4f}.{gap}"
    )


def first(ranking: Ranking, measure: int) -> tuple[str, ...]:
    """The `measure` sources that a ranking puts first, all of them if it has fewer: those to be measured.

    Raises InputError for fewer than one.
    """
    if measure < 1:
        raise InputError(f"{measure} sources to measure: at least one is needed")
    return tuple(source.source for source in ranking.sources[:measure])


def by_known(ranking: Ranking, measure: int | None) -> Ranking:
    """A ranking whose first `measure` sources are ordered by the transfer that is known of them.

    None leaves it as it is. Raises InputError: fewer than one source, one whose transfer is not known.
    """
    if measure is None:
        return ranking
    known = {source.source: source.measured for source in ranking.sources}
    values = {name: value for name in first(ranking, measure) if (value := known[name]) is not None}
    missing = [name for name in first(ranking, measure) if name not in values]
    if missing:
        raise InputError(
            f"ordering the first {len(values) + len(missing)} sources for {ranking.target!r} by what was "
            f"measured needs a value of each; none is known of: {', '.join(missing)}"
        )
    return remeasured(ranking, values)


def remeasured(
    ranking: Ranking,
    values: Mapping[str, float],
    *,
    examples: Mapping[str, int] | None = None,
    dropped: Mapping[str, int | None] | None = None,
    spent: int | None = None,
    known: int = 0,
    exhaustive: int | None = None,
) -> Ranking:
    """A ranking with the sources that were measured on the target on top, by value; the others as predicted.

    `examples`: how many each value rests on (None: all of the dev split); `dropped`: after which round of a
    race a source was left out (None: it was left at the end), given for a race alone. Sources dropped earlier
    stand lower whatever their value, which is one of fewer examples. `spent` forward passes (source x
    example), `known` of them from before, stand in the notes against `exhaustive`, those of measuring every
    source of the ranking.

    Raises InputError: a value of a source that is not in the ranking, or that is not finite.
    """
    by_name = {source.source: source for source in ranking.sources}
    _check(values, by_name)
    top = [name for name in by_name if name in values]  # ties stay as predicted
    places = [*finishing_order(top, values, dropped or {}), *(name for name in by_name if name not in values)]
    sources = tuple(
        _placed(by_name[name], place, values.get(name), (examples or {}).get(name))
        for place, name in enumerate(places, start=1)
    )
    whole = len(top) == len(by_name) and (spent == exhaustive if dropped is not None else True)
    said = [
        _about_race(sources, dropped) if dropped is not None else _about_values(sources, len(top)),
        *_about_cost(spent, known, exhaustive),
        _about_rest(ranking, sources, len(top), whole),
    ]
    old = {about_measuring(ranking.sources, by) for by in ("score", "type and score")}
    notes = (*said, *(note for note in ranking.notes if note not in old))
    beside = tuple(_measured_too(one, values) if whole else one for one in ranking.baselines)
    return replace(ranking, sources=sources, baselines=beside, notes=notes)


def _check(values: Mapping[str, float], known: Mapping[str, RankedSource]) -> None:
    if not values:
        raise InputError("no source was measured: at least one value is needed")
    for name, value in values.items():
        if name not in known:
            raise InputError(f"a measured source {name!r} is not in the ranking. {suggest(name, known)}")
        if not math.isfinite(value):
            raise InputError(f"the measured value of {name!r} is {value}: a finite number is needed")


def _placed(source: RankedSource, place: int, value: float | None, examples: int | None) -> RankedSource:
    if value is None:
        return replace(source, rank=place)
    return replace(
        source,
        rank=place,
        measured=float(value),
        basis="measured",
        examples=examples,
        tied_by_evidence=None,  # that is said of a predicted place
    )


def _about_values(sources: Sequence[RankedSource], k: int) -> str:
    if k == len(sources):
        return f"Measured: all {k} sources; the order is by what was measured."
    names = listed(sorted(source.source for source in sources[:k]))
    return (
        f"Measured: {k} of {len(sources)} sources ({names}), ordered by what was measured. The other "
        f"{len(sources) - k} are only predicted and stand below, in the predicted order."
    )


def _about_race(sources: Sequence[RankedSource], dropped: Mapping[str, int | None]) -> str:
    raced = [source for source in sources if source.basis == "measured"]
    left = [source.source for source in raced if dropped.get(source.source) is None]
    others = len(sources) - len(raced)
    rest = (
        f" The other {others} are only predicted and stand below, in the predicted order." if others else ""
    )
    apart = ", which the race does not tell apart" if len(left) > 1 else ""
    return (
        f"Raced: {len(raced)} of {len(sources)} sources, left out on growing parts of the dev split; a value "
        f"rests on the examples that the source has seen. Left at the end: {listed(left)}{apart}.{rest}"
    )


def _about_cost(spent: int | None, known: int, exhaustive: int | None) -> list[str]:
    if spent is None or not exhaustive:
        return []
    now = spent - known
    before = f", and {known} that were known from before" if known else ""
    return [
        f"Forward passes (source x example): {now} of the {exhaustive} that measuring every source on "
        f"every example takes ({now / exhaustive:.0%}){before}."
    ]


def _about_rest(ranking: Ranking, sources: Sequence[RankedSource], k: int, whole: bool) -> str:
    """How good the choice is: known only where everything was measured."""
    best = f"First by what was measured: {sources[0].source}, {sources[0].measured:.4f}."
    if not whole:
        others = "those only predicted" if k < len(sources) else "those left out before the last example"
        return f"{best} A better one may be among {others}."
    if ranking.indicator is None:
        return best
    predicted = ranking.sources[0].source
    reached = next(source.measured for source in sources if source.source == predicted)
    return f"{best} The first by prediction, {predicted}, reaches {reached:.4f}."


def _measured_too(baseline: Baseline, values: Mapping[str, float]) -> Baseline:
    picks = [values[name] for name in baseline.best or values]
    return replace(baseline, measured=sum(picks) / len(picks))


def listed(names: Sequence[str]) -> str:
    """Names in a sentence, the first few of many."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more
