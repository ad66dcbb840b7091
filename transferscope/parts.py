"""Indicators computed from parts of what is known of each task: some layers, a rate, some trials -> Part.

Every part is one point of a curve (`sensitivity`): one indicator and one matrix, or a matrix for each subset
of the trials.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb
from typing import Literal, get_args

import numpy as np

from indicators import Indicator
from transferscope import comparison
from transferscope.comparison import IndicatorMatrix, Material
from transferscope.errors import IndicatorInputError, InputError, suggest

By = Literal["layer", "layer-group", "rate", "trials"]
KINDS: tuple[By, ...] = get_args(By)
RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
GROUP = 3  # layers in a group, as in Su et al., NAACL 2022
SUBSETS = 20
WHOLE = "all"
# Arrays [..., L, N] of a task, of which some layers alone can be read.
LAYERED = frozenset({"stimulation", "predictivity"})


@dataclass(frozen=True)
class Part:
    """An indicator from one part: ``x`` is its place on the curve (None: the whole), ``label`` names it.

    ``matrices`` are one, or one for each subset of the trials.
    """

    name: str
    x: float | None
    label: str
    matrices: tuple[IndicatorMatrix, ...]


@dataclass(frozen=True)
class Cut:
    """How parts are cut: rates of skill neurons, layers in a group, and the most subsets of trials."""

    rates: Sequence[float] = RATES
    group: int = GROUP
    subsets: int = SUBSETS
    seed: int = 0

    def __post_init__(self) -> None:
        for rate in self.rates:
            if not 0 < rate <= 1:
                raise InputError(
                    f"a rate is {rate!r}; a share of the neurons, above 0 and up to 1, is needed"
                )
        if not self.rates or self.group < 1 or self.subsets < 1:
            raise InputError(
                f"{len(self.rates)} rates, groups of {self.group} layers, {self.subsets} subsets of trials: "
                "each must be at least 1"
            )


def parts(
    by: By, materials: Sequence[Material], names: Sequence[str] | None = None, cut: Cut | None = None
) -> tuple[list[Part], list[str]]:
    """The parts of these indicators (None: all that can be), curve after curve, and notes on them.

    "layer": each layer alone, and the whole network; "layer-group": several layers at a time; "rate": skill
    neurons at other rates; "trials": r = 1 .. R trials of every task. An indicator that nobody named and that
    is another one as soon as it reads few layers is left out, with a note.

    Raises InputError: an unknown kind, one trial alone; IndicatorInputError: an unknown indicator, one that
    has no such curve, or none that has.
    """
    if by not in KINDS:
        raise InputError(f"by is {by!r}. {suggest(by, KINDS)}")
    comparison.check_together(materials)
    records, cut = _records(by, materials, names), cut or Cut()
    if by == "rate":
        return _by_rate(materials, records, cut)
    if by == "trials":
        return _by_trials(materials, records, cut)
    found, notes = _by_layers(materials, records, 1 if by == "layer" else cut.group)
    return (found, notes) if names else _different(found, notes)


def _reads_layers(record: Indicator, materials: Sequence[Material]) -> bool:
    return LAYERED.issuperset(record.needs)


def _reads_rate(record: Indicator, materials: Sequence[Material]) -> bool:
    return "rate" in inspect.signature(record.function).parameters


_LAYERS = (_reads_layers, "it has to read stimulations or predictivities, and nothing else")
# kind: which indicators have such a curve, and the rule in words
_FITTING: dict[By, tuple[Callable[[Indicator, Sequence[Material]], bool], str]] = {
    "layer": _LAYERS,
    "layer-group": _LAYERS,
    "rate": (_reads_rate, "it has to read skill neurons at a rate"),
    "trials": (comparison.fits, "it has to fit the shapes of all trials"),
}


def _records(by: By, materials: Sequence[Material], names: Sequence[str] | None) -> list[Indicator]:
    """The indicators that have such a curve, or those of these names."""
    test, rule = _FITTING[by]
    fixed = [record for record in comparison.available(materials) if record.template is None]
    fitting = {record.name: record for record in fixed if test(record, materials)}
    for name in names or ():
        comparison.find(name, materials)  # says what is missing
        if name not in fitting:
            hint = f" {suggest(name, fitting)}" if fitting else ""
            raise IndicatorInputError(f"{name!r} has no curve by {by}: {rule}.{hint}")
    if not fitting:
        have = ", ".join(sorted(comparison.have(materials))) or "nothing"
        raise IndicatorInputError(
            f"no indicator has a curve by {by} here: {rule}, and all tasks have {have} alone. "
            "`transferscope extract` supplies stimulation, and predictivity where there is labelled data"
        )
    return [fitting[name] for name in dict.fromkeys(names or fitting)]


def _by_layers(
    materials: Sequence[Material], records: Sequence[Indicator], size: int
) -> tuple[list[Part], list[str]]:
    names = [record.name for record in records]
    arrays = next(arrays for need, arrays in materials[0].inputs.items() if need in LAYERED)
    layers = np.shape(arrays[0])[-2]
    cuts = [(first, min(first + size, layers)) for first in range(0, layers, size)]
    labels = [str(first) if stop == first + 1 else f"{first}-{stop - 1}" for first, stop in cuts]
    points = [(float(cut[0]), label, cut) for cut, label in zip(cuts, labels, strict=True)]
    computed = [
        (x, label, comparison.compare_materials([layers_of(one, *cut) for one in materials], names))
        for x, label, cut in [*points, (None, WHOLE, (0, layers))]
    ]
    found = [
        _part(name, "layer", x, label, [matrices[i]])
        for i, name in enumerate(names)
        for x, label, matrices in computed
    ]
    short = f"groups of {size} layers, the last one may be short; " if size > 1 else ""
    return found, [f"{short}layers count from 0; {WHOLE}: the whole network."]


def _part(name: str, what: str, x: float | None, label: str, several: Sequence[IndicatorMatrix]) -> Part:
    """Matrices get names of their own, so that an error can say which it is."""
    numbers = [f" ({i + 1})" if len(several) > 1 else "" for i in range(len(several))]
    renamed = (
        replace(matrix, indicator=f"{name}@{what} {label}{number}")
        for matrix, number in zip(several, numbers, strict=True)
    )
    return Part(name, x, label, tuple(renamed))


def _different(found: list[Part], notes: list[str]) -> tuple[list[Part], list[str]]:
    """Without curves that are another's (a mean over layers, of one layer, say): Holm counts every point."""
    curves: dict[str, np.ndarray] = {}
    left_out: dict[str, str] = {}
    for name in dict.fromkeys(part.name for part in found):
        values = [part.matrices[0].values for part in found if part.name == name and part.x is not None]
        curve = np.array(values)
        same = [o for o, known in curves.items() if np.allclose(known, curve, 0, 1e-12, equal_nan=True)]
        if same:
            left_out[name] = same[0]
        else:
            curves[name] = curve
    more = [f"{name} is left out: of so few layers it is {other}." for name, other in left_out.items()]
    return [part for part in found if part.name not in left_out], [*notes, *more]


def layers_of(material: Material, first: int, stop: int) -> Material:
    """The same task, as if the network had the layers first .. stop - 1 alone."""
    inputs = {
        need: [np.asarray(array)[..., first:stop, :] for array in arrays]
        for need, arrays in material.inputs.items()
        if need in LAYERED
    }
    return replace(material, inputs=inputs, active=[active[first:stop] for active in material.active])


def _by_rate(
    materials: Sequence[Material], records: Sequence[Indicator], cut: Cut
) -> tuple[list[Part], list[str]]:
    tasks = tuple(material.task for material in materials)
    found = [
        _part(
            *(record.name, "rate", rate, f"{rate:g}"),
            [IndicatorMatrix(record.name, tasks, comparison.all_pairs(record, materials, rate=rate))],
        )
        for record in records
        for rate in cut.rates
    ]
    notes = ["rate r: the int(r N) best of the N neurons of each layer are a task's skill neurons."]
    neurons = int(np.shape(materials[0].inputs[records[0].needs[-1]][0])[-1])
    if empty := [f"{rate:g}" for rate in cut.rates if int(rate * neurons) == 0]:
        notes.append(f"At {', '.join(empty)} no neuron is chosen: a layer has {neurons}.")
    return found, notes


def _by_trials(
    materials: Sequence[Material], records: Sequence[Indicator], cut: Cut
) -> tuple[list[Part], list[str]]:
    names = [record.name for record in records]
    counts = {material.task: material.trials for material in materials}
    most, least = max(counts.values()), min(counts.values())
    if least < 2:
        few = [task for task, count in counts.items() if count < 2]
        raise InputError(
            f"a curve by trials needs at least two trials (seeds) of every task: {', '.join(few)} "
            f"{'has' if len(few) == 1 else 'have'} one"
        )
    found: dict[str, list[Part]] = {name: [] for name in names}
    for count in range(1, least + 1):
        chosen = trial_subsets(least, count, cut.subsets, cut.seed)
        several = [
            comparison.compare_materials([trials_of(one, subset) for one in materials], names)
            for subset in chosen
        ]
        for i, name in enumerate(names):
            matrices = [matrices[i] for matrices in several]
            found[name].append(_part(name, "trials", float(count), str(count), matrices))
    notes = [
        "r trials of every task, the same of all; agreement is averaged over all subsets of r, or "
        f"{cut.subsets} drawn. spread: its standard deviation over subsets, which have trials in common. The "
        "interval is over targets, not over subsets.",
        "Measured transfer is that of all its seeds, whatever r.",
    ]
    if most > least:
        notes.append(f"Of tasks with more than {least} trials the first {least} are read.")
    return [part for curve in found.values() for part in curve], notes


def trial_subsets(trials: int, count: int, largest: int, seed: int) -> list[tuple[int, ...]]:
    """All subsets of `count` of the trials, or `largest` different ones drawn by the seed.

    >>> trial_subsets(3, 2, 20, seed=0)
    [(0, 1), (0, 2), (1, 2)]
    """
    if comb(trials, count) <= largest:
        return list(combinations(range(trials), count))
    rng = np.random.default_rng([seed, count])
    found: dict[tuple[int, ...], None] = {}
    while len(found) < largest:
        found[tuple(sorted(map(int, rng.choice(trials, count, replace=False))))] = None
    return list(found)


def trials_of(material: Material, subset: Sequence[int]) -> Material:
    """The same task, as if it had these trials alone; what has one item whatever its trials stays."""
    inputs = {
        need: [items[i] for i in subset] if len(items) > 1 else items
        for need, items in material.inputs.items()
    }
    return replace(material, inputs=inputs, active=[material.active[i] for i in subset if material.active])
