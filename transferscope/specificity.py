"""Are skill neurons a task's own: predictivity and sets compared between trials, and between tasks.

Source: Wang et al., EMNLP 2022, skill neurons are task-specific (Spearman of predictivity between tasks), and
their distribution over layers. Chance levels, single trials and intervals are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

import indicators
from indicators import kernels
from indicators.predictivity import skill_mask
from transferscope.errors import SignatureError
from transferscope.resampling import (
    LEVELS,
    PERMUTATIONS,
    RESAMPLES,
    bootstrap_mean,
    p_value,
    relabellings,
)
from transferscope.signatures import Signature
from transferscope.skill_sets import RATE, Bools, Floats, check_rate, overlap

MEASURES = {
    "spearman": "Spearman of predictivity over all neurons",
    "spearman_layers": "mean over layers of the Spearman of predictivity in a layer",
    "share": "share of their skill neurons that two sets have in common",
    "jaccard": "Jaccard index of two sets of skill neurons",
}
OWN, SAME, DIFFERENT, OTHER = "trials of one task", "same type", "different types", "different tasks"
FEWEST = 3  # tasks in the pairs of a group, for an interval


@dataclass(frozen=True)
class PairMeasure:
    """One measure over all pairs of tasks, each array float64 [T, T], NaN where undefined.

    ``values``: of the tasks' predictivities, the mean over their trials. ``trials``: of single trials, the
    mean over pairs of trials; on the diagonal over pairs of different trials of the task (NaN where it has
    one), which is how stable the task is. The ``chance`` of each stands beside it.
    """

    measure: str
    values: Floats
    chance: Floats
    trials: Floats
    trials_chance: Floats


@dataclass(frozen=True)
class GroupMean:
    """A measure over a group of pairs: ``basis`` is "single trials" or "mean over trials"; 95 % interval."""

    measure: str
    basis: str
    group: str
    mean: float
    low: float | None
    high: float | None
    chance: float
    pairs: int
    tasks: int


@dataclass(frozen=True)
class TypeDifference:
    """Pairs of the same type less those of different types: interval, and one-sided p of renaming tasks."""

    measure: str
    basis: str
    mean: float
    low: float | None
    high: float | None
    p: float | None


@dataclass(frozen=True)
class SpecificityReport:
    """T tasks of one model with L layers of N neurons; ``trials`` is the number of each task's prompts.

    ``spearman_by_layer`` [L, T, T]; ``layer_counts`` [T, L]: how many of the skill neurons at the rate lie in
    each layer where they are the highest of the whole network, and ``layer_expected`` [T] how many were each
    layer as good as another. ``measures`` are of skill neurons chosen as ``by`` says.
    """

    model: str
    tasks: tuple[str, ...]
    types: tuple[str | None, ...]
    trials: tuple[int, ...]
    layers: int
    neurons: int
    rate: float
    by: str
    measures: tuple[PairMeasure, ...]
    spearman_by_layer: Floats
    layer_counts: np.ndarray
    layer_expected: Floats
    groups: tuple[GroupMean, ...]
    differences: tuple[TypeDifference, ...]
    notes: tuple[str, ...] = ()

    def measure(self, name: str) -> PairMeasure:
        """One of the measures, by its name."""
        return next(one for one in self.measures if one.measure == name)


def specificity(
    signatures: Mapping[str, Signature],
    *,
    types: Mapping[str, str] | None = None,
    rate: float = RATE,
    by: str = "layer",
    seed: int = 0,
) -> SpecificityReport:
    """Compare the predictivities of tasks; those without any (no data, no classes) are left out and named.

    ``by`` "layer" takes the int(rate N) highest of each layer, "network" the highest of all. Raises
    SignatureError where no task has a predictivity or where models differ, InputError for the rate.
    """
    known = {name: one for name, one in signatures.items() if one.predictivity is not None}
    tasks = tuple(known)
    if not known:
        raise SignatureError("no task here has predictivities: they need tasks with data and classes")
    if len({one.model for one in known.values()}) > 1:
        raise SignatureError(f"the signatures of {', '.join(tasks)} are of different models")
    trials = [list(one.predictivity) for one in known.values() if one.predictivity is not None]
    means = [one.subtask_predictivity for one in known.values()]
    layers, neurons = means[0].shape[1:]
    check_rate(rate, neurons)
    measures = _measures(means, trials, rate, by)
    kinds = tuple((types or {}).get(name) for name in tasks)
    groups, differences = _summary(measures, kinds, seed)
    spread = np.stack([skill_mask(one, rate, by="network").sum(axis=1) for one in means])
    return SpecificityReport(
        model=str(next(iter(known.values())).provenance.get("model", "")),
        tasks=tasks,
        types=kinds,
        trials=tuple(map(len, trials)),
        layers=layers,
        neurons=neurons,
        rate=rate,
        by=by,
        measures=measures,
        spearman_by_layer=np.stack([_spearman(means, layer) for layer in range(layers)]),
        layer_counts=spread,
        layer_expected=spread.sum(axis=1) / layers,
        groups=groups,
        differences=differences,
        notes=_notes(tuple(name for name in signatures if name not in known), rate, by),
    )


def _measures(
    means: list[Floats], trials: list[list[Floats]], rate: float, by: str
) -> tuple[PairMeasure, ...]:
    several = [item for one in trials for item in one]
    ends = np.cumsum([0, *map(len, trials)])
    of_means, of_trials = _all_pairs(means, rate, by), _all_pairs(several, rate, by)
    return tuple(
        PairMeasure(name, *of_means[name], *(_blocks(table, ends) for table in of_trials[name]))
        for name in MEASURES
    )


def _all_pairs(items: list[Floats], rate: float, by: str) -> dict[str, tuple[Floats, Floats]]:
    """For each measure its values and its chance level over all pairs of predictivities [C, L, N]."""
    masks: list[Bools] = [skill_mask(item, rate, by=by) for item in items]
    sets = overlap(masks, masks, by)
    by_layer = indicators.matrix("predictivity_spearman_layers", items)
    return {
        "spearman": (_spearman(items), level_spearman(items)),
        "spearman_layers": (by_layer, np.where(np.isnan(by_layer), np.nan, 0.0)),
        "share": (sets.share, sets.share_chance),
        "jaccard": (sets.jaccard, sets.jaccard_chance),
    }


def _spearman(items: Sequence[Floats], layer: int | None = None) -> Floats:
    """Over the whole network, or in one layer, [I, I]."""
    chosen = items if layer is None else [item[:, layer : layer + 1] for item in items]
    return np.asarray(indicators.matrix("predictivity_spearman", chosen))


def level_spearman(items: Sequence[Floats]) -> Floats:
    """The Spearman correlation that the layers' levels alone give, [I, I], for predictivities [C, L, N].

    It is the mean over all shufflings of a task's neurons within their layers: with centred ranks r and s of
    norm 1, sum over layers of n_l mean(r_l) mean(s_l), over the n_l cells that both tasks have defined. NaN
    where fewer than 3 are.
    """
    flat = [_scaled(np.asarray(item).mean(axis=0)) for item in items]
    whole = [bool(np.isfinite(item).all()) for item in flat]
    everywhere = np.ones(flat[0].shape, dtype=bool)
    sums = [_rank_sums(item, everywhere) if full else None for item, full in zip(flat, whole, strict=True)]
    found = np.full((len(flat), len(flat)), np.nan)
    for i, left in enumerate(sums):
        for j, right in enumerate(sums[: i + 1]):
            if left is not None and right is not None:
                value = float((left * right).sum() / flat[0].shape[1]) if flat[0].size >= 3 else np.nan
            else:
                value = _level(flat[i], flat[j])
            found[i, j] = found[j, i] = value
    return found


def _level(left: Floats, right: Floats) -> float:
    both = np.isfinite(left) & np.isfinite(right)
    if both.sum() < 3:
        return float("nan")
    product = _rank_sums(left, both) * _rank_sums(right, both)
    return float((product / np.maximum(both.sum(axis=1), 1)).sum())


def _scaled(mean: Floats) -> Floats:
    """A share of its peak to 12 digits, as the indicator ranks it: what rounding alone parts is a tie."""
    peak = np.abs(mean).max(initial=0.0, where=np.isfinite(mean))
    return np.asarray(np.round(mean / peak, 12) if peak > 0 else mean)


def _rank_sums(item: Floats, known: Bools) -> Floats:
    """By layer the sum of the centred ranks, of norm 1 over the known cells, [L]."""
    ranks = kernels.average_ranks(item[known])
    centred = np.zeros(item.shape)
    centred[known] = kernels.unit(ranks - ranks.mean())
    return np.asarray(centred.sum(axis=1))


def _blocks(table: Floats, ends: np.ndarray) -> Floats:
    """Means over pairs of trials [T, T] of a table over all trials; a trial is not compared with itself."""
    number = len(ends) - 1
    found = np.full((number, number), np.nan)
    for i in range(number):
        for j in range(number):
            block = table[ends[i] : ends[i + 1], ends[j] : ends[j + 1]]
            cells = block[~np.eye(len(block), dtype=bool)] if i == j else block.ravel()
            cells = cells[np.isfinite(cells)]
            found[i, j] = cells.mean() if len(cells) else np.nan
    return found


def _summary(
    measures: Sequence[PairMeasure], types: Sequence[str | None], seed: int
) -> tuple[tuple[GroupMean, ...], tuple[TypeDifference, ...]]:
    groups: list[GroupMean] = []
    differences: list[TypeDifference] = []
    for one in measures:
        groups += _own(one, seed)
        for basis, values, chance in (
            ("single trials", one.trials, one.trials_chance),
            ("mean over trials", one.values, one.chance),
        ):
            for name, member in _members(types).items():
                groups += _group(one.measure, basis, name, values, chance, member, seed)
            differences += _difference(one.measure, basis, values, types, seed)
    return tuple(groups), tuple(differences)


def _own(one: PairMeasure, seed: int) -> list[GroupMean]:
    own, chance = np.diag(one.trials), np.diag(one.trials_chance)
    known = np.isfinite(own)
    if not known.any():
        return []
    mean, low, high = bootstrap_mean(own[known], seed)
    assert mean is not None  # there is one
    number = int(known.sum())
    few = number < FEWEST
    ends = (None, None) if few else (low, high)
    found = GroupMean(
        one.measure, "single trials", OWN, mean, *ends, float(chance[known].mean()), number, number
    )
    return [found]


def _members(types: Sequence[str | None]) -> dict[str, Bools]:
    """Which pairs [T, T] a group has; a task with no type is in none but that of all pairs."""
    names = np.array([name or "" for name in types], dtype=object)
    typed = np.array([name is not None for name in types])
    off = ~np.eye(len(names), dtype=bool)
    known, same = typed[:, None] & typed[None, :] & off, names[:, None] == names[None, :]
    return {SAME: known & same, DIFFERENT: known & ~same, OTHER: off}


def _group(
    measure: str, basis: str, name: str, values: Floats, chance: Floats, member: Bools, seed: int
) -> list[GroupMean]:
    there = member & np.isfinite(values)
    if not there.any():
        return []
    tasks = int(there.any(axis=0).sum())
    draws = _draws(values, there, seed)
    low, high = _interval(draws) if tasks >= FEWEST else (None, None)
    level = float(chance[there & np.isfinite(chance)].mean())
    pairs = int(there.sum()) // 2
    return [GroupMean(measure, basis, name, float(values[there].mean()), low, high, level, pairs, tasks)]


def _difference(
    measure: str, basis: str, values: Floats, types: Sequence[str | None], seed: int
) -> list[TypeDifference]:
    groups = _members(types)
    same, different = (groups[name] & np.isfinite(values) for name in (SAME, DIFFERENT))
    if not (same.any() and different.any()):
        return []
    mean = float(values[same].mean() - values[different].mean())
    draws = _draws(values, same, seed) - _draws(values, different, seed)
    tasks = int((same | different).any(axis=0).sum())
    low, high = _interval(draws) if tasks >= FEWEST else (None, None)
    return [TypeDifference(measure, basis, mean, low, high, _mantel(values, types, mean, seed))]


def _mantel(values: Floats, types: Sequence[str | None], mean: float, seed: int) -> float | None:
    """p of a mean difference at least as large when the types go to other tasks (Mantel's test)."""
    typed = [i for i, name in enumerate(types) if name is not None]
    table, names = values[np.ix_(typed, typed)], [types[i] for i in typed]
    number = [str(i) for i in typed]
    orders, _ = relabellings(number, number, PERMUTATIONS, seed)
    groups = _members(names)
    known = np.isfinite(table)
    null = []
    for order in orders:
        moved = np.ix_(order, order)
        same, different = (groups[name][moved] & known for name in (SAME, DIFFERENT))
        both = same.any() and different.any()
        null.append(table[same].mean() - table[different].mean() if both else np.nan)
    return p_value(mean, np.array(null))


def _draws(values: Floats, member: Bools, seed: int) -> Floats:
    """Means over pairs when the tasks are drawn anew, with replacement, [RESAMPLES].

    Pairs that share a task are not independent, so tasks are what is drawn: a pair counts as often as the
    product of how often its two tasks were drawn, and a task is never paired with itself. NaN where a draw
    has no pair.
    """
    number = len(values)
    draws = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=RESAMPLES)
    weights = draws.astype(np.float64)
    filled = np.where(member, values, 0.0)
    total = ((weights @ filled) * weights).sum(axis=1)
    count = ((weights @ member.astype(np.float64)) * weights).sum(axis=1)
    return np.divide(total, count, out=np.full(RESAMPLES, np.nan), where=count > 0)


def _interval(draws: Floats) -> tuple[float | None, float | None]:
    """The 95 % percentile interval; None where most draws have no such pair, which says too little."""
    known = draws[np.isfinite(draws)]
    if len(known) < len(draws) / 2:
        return None, None
    low, high = np.quantile(known, LEVELS)
    return float(low), float(high)


def _notes(left_out: Sequence[str], rate: float, by: str) -> tuple[str, ...]:
    where = "of each layer" if by == "layer" else "of the whole network"
    notes = [
        f"skill neurons: the highest {rate:g} {where}; chance: random sets of the same sizes"
        + (" in the same layers" if by == "layer" else "")
        + "; of Spearman over all neurons, what the layers' different levels alone would give",
        "95 % intervals: tasks drawn anew (a pair counts as often as both its tasks are drawn), so that "
        f"pairs with a task in common are not taken for independent; none below {FEWEST} tasks",
        "single trials: pairs of one prompt each, the mean over pairs of trials; only these compare trials "
        "of one task with other tasks fairly, because means over trials are less noisy",
        "counts by layer are of the highest of the whole network; chosen by layer, each layer has the same "
        "number by construction",
    ]
    if left_out:
        notes.append(f"left out, without predictivity (no data or no classes): {', '.join(left_out)}")
    return tuple(notes)
