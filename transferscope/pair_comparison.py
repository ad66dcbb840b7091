"""Pairs of tasks by indicators that read the target's data under the source's prompt -> IndicatorMatrix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from indicators import Indicator, InvalidInput
from transferscope import comparison, needs
from transferscope.comparison import IndicatorMatrix
from transferscope.errors import IndicatorInputError, SignatureError
from transferscope.pair_features import PairFeatures

# These ask what the source's own head says of the target's data; all others read the target's label words.
OF_SOURCE_HEAD = frozenset({"leep", "nce"})


@dataclass
class Column:
    """One target: ``values[indicator][source]``, larger is closer, NaN where a pair lacks what is read.

    ``missing[indicator]`` are the needs that some pair lacked, ``kind`` the target's.
    """

    values: dict[str, dict[str, float]] = field(default_factory=dict)
    missing: dict[str, list[str]] = field(default_factory=dict)
    kind: str = "classification"


def compare_pairs(
    names: Sequence[str], targets: Mapping[str, Mapping[str, Sequence[PairFeatures]]]
) -> list[IndicatorMatrix]:
    """Pairs of tasks by these indicators; ``targets[target][source]`` are the source's prompts, one a seed.

    A score is the mean over seeds. A similarity of representations compares the target's texts under the
    source's prompts and under the target's own (itself among its sources), the mean over all pairs of seeds
    (of different seeds for a task with itself). A pair that is not there, or that lacks what an indicator
    reads (label words, say), is NaN.

    Raises IndicatorInputError: an unknown indicator, one that reads no pairs, one for which every pair lacks
    what it reads, an input that it refuses. SignatureError: nothing to compare.
    """
    records = [pair_record(name) for name in dict.fromkeys(names)]
    tasks = tuple(dict.fromkeys([*targets, *(source for sources in targets.values() for source in sources)]))
    columns = {
        target: column(records, target, sources.items(), sources.get(target, ()))
        for target, sources in targets.items()
    }
    return matrices(records, tasks, columns)


def pair_record(name: str) -> Indicator:
    """The record of an indicator that reads pairs. Raises IndicatorInputError."""
    record = needs.record(name)
    if not needs.of_pair(record):
        raise IndicatorInputError(
            f"the indicator {name!r} needs {' and '.join(record.needs)}: these are of tasks, not of a pair"
        )
    return record


def column(
    records: Sequence[Indicator],
    target: str,
    sources: Iterable[tuple[str, Sequence[PairFeatures]]],
    own: Sequence[PairFeatures],
) -> Column:
    """Every source of one target by each indicator.

    ``sources`` is read once, so that the pairs need not be in memory together. ``own`` are the target's own
    prompts on its data. Raises IndicatorInputError where an indicator refuses its input.
    """
    found = Column({record.name: {} for record in records})
    for source, several in sources:
        if any(one.labels is None for one in several):
            found.kind = "generation"
        for record in records:
            value, missing = _value(record, f"{source} -> {target}", several, own, itself=source == target)
            found.values[record.name][source] = value
            if missing:
                found.missing[record.name] = missing
    return found


def matrices(
    records: Sequence[Indicator], tasks: Sequence[str], columns: Mapping[str, Column]
) -> list[IndicatorMatrix]:
    """The columns of the targets as one matrix an indicator, NaN where there is no column.

    Raises IndicatorInputError for an indicator for which every pair lacks what it reads, SignatureError where
    there is no column.
    """
    if not columns:
        raise SignatureError("there is nothing to compare: no task has data to run other tasks' prompts on")
    place = {task: i for i, task in enumerate(tasks)}
    found = []
    for record in records:
        lacking = {target: one.missing.get(record.name) for target, one in columns.items()}
        values = np.full((len(tasks), len(tasks)), np.nan)
        for target, one in columns.items():
            for source, value in one.values[record.name].items():
                values[place[source], place[target]] = value
        if all(lacking.values()) and np.isnan(values).all():
            target, missing = next(iter(lacking.items()))
            raise needs.refuse(record, target, columns[target].kind, missing or [])
        found.append(IndicatorMatrix(record.name, tuple(tasks), values))
    return found


def _value(
    record: Indicator,
    pair: str,
    several: Sequence[PairFeatures],
    own: Sequence[PairFeatures],
    *,
    itself: bool,
) -> tuple[float, list[str]]:
    """The value of one pair; NaN, and what is missing, where it lacks what is read."""
    sides = [several] if record.convention == "score" else [several, own]
    if missing := [need for side in sides for need in _missing(record, side)]:
        return float("nan"), list(dict.fromkeys(missing))
    items = [[_arrays(record, one) for one in side] for side in sides]
    try:
        if record.convention == "score":
            raw = np.array([record.function(*arrays) for arrays in items[0]], dtype=np.float64)
            return float(np.mean(raw if record.higher_is_closer else 0.0 - raw)), []
        left, right = ([tuple(arrays) if arrays[1:] else arrays[0] for arrays in side] for side in items)
        block = comparison.pair_values(record, left, right)
    except (InvalidInput, IndicatorInputError) as error:
        raise IndicatorInputError(f"{record.name}, {pair}: {error}") from None
    if itself and len(block) > 1:
        block = block[~np.eye(len(block), dtype=bool)]
    return float(block.mean()), []


def _missing(record: Indicator, several: Sequence[PairFeatures]) -> list[str]:
    if not several:
        return list(record.needs)
    supplied = [_arrays(record, one) for one in several]
    return [need for i, need in enumerate(record.needs) if any(arrays[i] is None for arrays in supplied)]


def _arrays(record: Indicator, found: PairFeatures) -> list[Any]:
    """What an indicator reads of a pair, in the order of its needs; None where it is not there."""
    head = "source" if record.name in OF_SOURCE_HEAD else "target"
    return [found.get(need, head=head) for need in record.needs]  # type: ignore[arg-type]
