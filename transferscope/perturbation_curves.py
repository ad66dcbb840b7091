"""What perturbation does: curves with intervals, the areas between them, drops from task to task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from transferscope.comparison import no_better_than_majority
from transferscope.perturbation_plan import BOTTOM, CONDITIONS, RANDOM, SKILL, PerturbationSettings
from transferscope.resampling import bootstrap_mean, holm, paired_difference

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """One value: of which condition and rate, the prompt's number, the draw, how many neurons were edited."""

    condition: str
    rate: float
    place: int
    draw: int
    neurons: int
    value: float


@dataclass(frozen=True)
class CurvePoint:
    """Mean over prompts and draws at one rate, and its 95 % interval; ``values`` is how many there are."""

    condition: str
    rate: float
    neurons: int
    mean: float
    low: float | None
    high: float | None
    values: int


@dataclass(frozen=True)
class Area:
    """The area between the curve of random neurons and a condition's, over the range of rates.

    In units of the metric: the mean of random value - condition's value over the rates. Positive: the
    condition hurts more than as many random neurons. ``low``, ``high`` and ``p`` are over the pairs of prompt
    and draw, so with these prompts. ``prompts_low``, ``prompts_high``: over prompts, None with one.
    ``p_holm``: corrected over the tasks of a report. ``as_harmful`` of the ``pairs``: how often the area
    under the random curve is at most the condition's.
    """

    condition: str
    mean: float
    low: float | None
    high: float | None
    p: float | None
    pairs: int
    prompts_low: float | None
    prompts_high: float | None
    as_harmful: int
    p_holm: float | None = None


@dataclass(frozen=True)
class TaskCurves:
    """One task under perturbation.

    ``unperturbed``: mean over its R prompts; ``majority``: what always answering the most frequent class
    gives (None for another metric); ``weak``: its prompts are no better than that.
    """

    task: str
    metric: str
    examples: int
    seeds: tuple[int, ...]
    unperturbed: float
    majority: float | None
    weak: bool
    points: tuple[CurvePoint, ...]
    areas: tuple[Area, ...]

    def point(self, condition: str, rate: float) -> CurvePoint:
        """One point of the curves. Raises KeyError."""
        for point in self.points:
            if (point.condition, point.rate) == (condition, rate):
                return point
        raise KeyError((condition, rate))

    def area(self, condition: str) -> Area | None:
        """The area of a condition's curve under that of random neurons; None where it was not measured."""
        return next((area for area in self.areas if area.condition == condition), None)


@dataclass(frozen=True)
class CrossTask:
    """What the skill neurons of task A do to task B, at one rate: arrays [A, B] float64.

    ``drops``: B's unperturbed value - its value with A's skill neurons perturbed; ``random``: the same with
    as many random neurons of the same layers; ``beyond`` = drops - random, with its 95 % interval over B's
    prompts (over draws where B has one prompt). NaN where there is none.
    """

    rate: float
    tasks: tuple[str, ...]
    drops: Floats
    random: Floats
    beyond: Floats
    low: Floats
    high: Floats

    @property
    def relative(self) -> Floats:
        """drops / random; NaN where random neurons do no harm."""
        harm = self.random > 0
        return np.where(harm, self.drops / np.where(harm, self.random, 1.0), np.nan)


@dataclass(frozen=True)
class PerturbationReport:
    """A perturbation study: curves of each task, and, where they were asked for, drops across tasks."""

    model: str
    settings: PerturbationSettings
    tasks: tuple[TaskCurves, ...]
    across: CrossTask | None = None
    notes: tuple[str, ...] = ()


def task_curves(
    task: str,
    metric: str,
    examples: int,
    seeds: Sequence[int],
    majority: float | None,
    found: Sequence[Measured],
    *,
    seed: int = 0,
) -> TaskCurves:
    """The curves of one task from its values."""
    tables = _tables(found)
    unperturbed = float(tables[SKILL, 0.0].mean())
    points = [_point(key, table, found, seed) for key, table in tables.items()]
    there = [condition for condition in (SKILL, BOTTOM) if any(key[0] == condition for key in tables)]
    random = any(key[0] == RANDOM for key in tables)
    score = {"metric": metric, "dev": unperturbed, "majority": majority}
    weak = majority is not None and no_better_than_majority({"scores": [score], "dev_examples": examples})
    areas = tuple(_area(condition, tables, seed) for condition in there) if random else ()
    return TaskCurves(task, metric, examples, tuple(seeds), unperturbed, majority, weak, tuple(points), areas)


def _tables(found: Sequence[Measured]) -> dict[tuple[str, float], Floats]:
    """(condition, rate) -> values [R, draws], in the order of conditions and rates."""
    cells: dict[tuple[str, float], dict[int, dict[int, float]]] = {}
    for one in found:
        cells.setdefault((one.condition, one.rate), {}).setdefault(one.place, {})[one.draw] = one.value
    ordered = sorted(cells, key=lambda key: (CONDITIONS.index(key[0]), key[1]))
    return {
        key: np.array([[draws[d] for d in sorted(draws)] for _, draws in sorted(cells[key].items())])
        for key in ordered
    }


def _point(key: tuple[str, float], table: Floats, found: Sequence[Measured], seed: int) -> CurvePoint:
    condition, rate = key
    neurons = max(one.neurons for one in found if (one.condition, one.rate) == key)
    _, low, high = interval(table, seed)
    return CurvePoint(condition, rate, neurons, float(table.mean()), low, high, table.size)


def interval(table: Floats, seed: int) -> tuple[float | None, float | None, float | None]:
    """Mean of values [R, draws] and its 95 % bootstrap interval.

    Prompts are drawn with all their draws, since values of one prompt are alike, and the percentiles are
    widened for few prompts; with one prompt, draws are drawn. None where there is one value.
    """
    prompts, draws = table.shape
    if prompts == 1:
        return bootstrap_mean(table[0], seed, expanded=draws > 1)
    names = np.repeat(np.arange(prompts), draws).tolist()
    return bootstrap_mean(table.ravel(), seed, clusters=names, expanded=True)


def _area(condition: str, tables: Mapping[tuple[str, float], Floats], seed: int) -> Area:
    """Trapezoids over the rates, by prompt and draw; a condition with one draw meets every random draw."""
    random, own = _areas(RANDOM, tables), _areas(condition, tables)
    own = np.broadcast_to(own, random.shape)
    found = paired_difference(
        random.ravel(), own.ravel(), names=(RANDOM, condition), metric="area under the curve", seed=seed
    )
    over_prompts = interval(random - own, seed) if len(random) > 1 else (None, None, None)
    return Area(
        condition=condition,
        mean=float((random - own).mean()),
        low=found.low,
        high=found.high,
        p=found.p,
        pairs=random.size,
        prompts_low=over_prompts[1],
        prompts_high=over_prompts[2],
        as_harmful=int((random <= own.mean(axis=1, keepdims=True)).sum()),
    )


def _areas(condition: str, tables: Mapping[tuple[str, float], Floats]) -> Floats:
    """The area under each curve over the range of rates: [R, draws]."""
    rates = sorted(rate for name, rate in tables if name == condition)
    shape = np.broadcast_shapes(*(tables[condition, rate].shape for rate in rates))
    curves = np.stack([np.broadcast_to(tables[condition, rate], shape) for rate in rates])
    return np.asarray(np.trapezoid(curves, rates, axis=0) / (rates[-1] - rates[0]))


def with_holm(tasks: Sequence[TaskCurves]) -> tuple[TaskCurves, ...]:
    """The tasks with the p of their areas corrected over the tasks, each condition for itself."""
    corrected: dict[tuple[str, str], float | None] = {}
    for condition in (SKILL, BOTTOM):
        there = [(one.task, area) for one in tasks if (area := one.area(condition)) is not None]
        for (task, _), value in zip(there, holm([area.p for _, area in there]), strict=True):
            corrected[task, condition] = value
    return tuple(
        replace(one, areas=tuple(replace(a, p_holm=corrected[one.task, a.condition]) for a in one.areas))
        for one in tasks
    )


def cross_task(
    rate: float, tasks: Sequence[str], found: Mapping[tuple[str, str], Sequence[Measured]], *, seed: int = 0
) -> CrossTask:
    """Drops across tasks from the values of each (A, B): B's, with the neurons found on A."""
    drops, random, low, high = (np.full((len(tasks), len(tasks)), np.nan) for _ in range(4))
    for i, skilled in enumerate(tasks):
        for j, performed in enumerate(tasks):
            tables = _tables(found[skilled, performed])
            plain = tables[SKILL, 0.0][:, :1]  # [R, 1]
            drops[i, j] = (plain - tables[SKILL, rate]).mean()
            random[i, j] = (plain - tables[RANDOM, rate]).mean()
            _, below, above = interval(tables[RANDOM, rate] - tables[SKILL, rate], seed)
            low[i, j] = np.nan if below is None else below
            high[i, j] = np.nan if above is None else above
    return CrossTask(rate, tuple(tasks), drops, random, drops - random, low, high)
