"""What ranks sources without any indicator, to be seen beside every ranking."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Baseline:
    """What ranks the sources without any indicator.

    `order` is best first (None: no order), `best` the sources tied for the first place (None: all), `chance`
    the probability with which each of these is picked, `measured` their mean measured transfer (None: not
    measured).
    """

    name: str
    description: str
    order: tuple[str, ...] | None
    best: tuple[str, ...] | None
    chance: float
    measured: float | None


@dataclass(frozen=True)
class Facts:
    """What is known of a target's sources beside the indicator; a source not in a mapping is unknown.

    `own`: a source's score on its own task; `mean_transfer`: its mean measured transfer to other targets;
    `sizes`: numbers of training examples; `measured`: its measured transfer to this target.
    """

    target: str
    sources: tuple[str, ...]
    types: Mapping[str, str]
    own: Mapping[str, float]
    mean_transfer: Mapping[str, float]
    sizes: Mapping[str, int]
    measured: Mapping[str, float]


def baselines(facts: Facts) -> tuple[list[Baseline], list[str]]:
    """All baselines that can be computed, and a note that names the others with what they lack."""
    found, missing = [_random(facts)], []
    for name, (of, description, lacks) in _ROWS.items():
        values = of(facts)
        if values is None:
            missing.append(f"{name} ({lacks})")
        else:
            found.append(_by_value(facts, name, description, values))
    return found, [f"Baselines left out: {'; '.join(missing)}."] if missing else []


def _random(facts: Facts) -> Baseline:
    n = len(facts.sources)
    description = f"any source alike: each of the {n} has the chance {1 / n:.3g}"
    return Baseline("random", description, None, None, 1 / n, _mean_measured(facts, facts.sources))


def _by_value(facts: Facts, name: str, description: str, values: Mapping[str, float]) -> Baseline:
    order = tuple(sorted(facts.sources, key=lambda source: -values[source]))  # stable: ties stay as given
    best = tuple(source for source in order if math.isclose(values[source], values[order[0]]))
    return Baseline(name, description, order, best, 1 / len(best), _mean_measured(facts, best))


def _mean_measured(facts: Facts, sources: Sequence[str]) -> float | None:
    """What picking one of the sources at random gains; None unless all were measured."""
    if not set(sources) <= set(facts.measured):
        return None
    return sum(facts.measured[source] for source in sources) / len(sources)


def _same_type(facts: Facts) -> Mapping[str, float] | None:
    """1 for a source of the target's type, else 0; None unless all types are known."""
    if not {facts.target, *facts.sources} <= set(facts.types):
        return None
    return {source: float(facts.types[source] == facts.types[facts.target]) for source in facts.sources}


def _complete(values: Mapping[str, float], sources: Sequence[str]) -> Mapping[str, float] | None:
    return values if set(sources) <= set(values) else None


# name: (values of the sources, or None; what it is; what it lacks where it is left out)
_ROWS: dict[str, tuple[Callable[[Facts], Mapping[str, float] | None], str, str]] = {
    "same_type": (
        _same_type,
        "sources of the target's task type first, in no order among themselves",
        "the type of every task is needed",
    ),
    "own_performance": (
        lambda facts: _complete(facts.own, facts.sources),
        "the source that does best on its own task",
        "the dev score of every source is needed",
    ),
    "mean_transfer": (
        lambda facts: _complete(facts.mean_transfer, facts.sources),
        "the source that does best on the other targets",
        "measured transfer is needed",
    ),
    "data_size": (
        lambda facts: _complete(facts.sizes, facts.sources),
        "the source with most training examples",
        "the number of training examples of every source is needed",
    ),
}
