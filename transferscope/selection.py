"""Choosing a source by measuring on the target: the best few of a ranking, or a race of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from transferscope import adaptive, measuring, ordering, ranking, transfer
from transferscope.comparison import IndicatorMatrix
from transferscope.errors import InputError
from transferscope.metrics import metric as find_metric
from transferscope.ordering import Ranking
from transferscope.pieces import Cells
from transferscope.prompts import SoftPrompt
from transferscope.raced import Evaluations
from transferscope.racing import RaceResult, race, stratified
from transferscope.workspace import Workspace

Prompts = Mapping[str, Sequence[SoftPrompt]]


def measure_first(workspace: Workspace, found: Ranking, measure: int, protocol: str | None) -> Ranking:
    """A ranking whose first ``measure`` sources are measured on the target, cell by cell, and ordered so."""
    names = ordering.first(found, measure)
    prompts = workspace.tune(names)
    chosen = protocol or measuring.default_protocol(workspace)
    stored = measuring.open_cells(workspace, found.target, chosen)
    new = [
        prompt
        for name, several in prompts.items()
        for prompt in several
        if stored.get(name, prompt.seed, prompt.fingerprint) is None
    ]
    workspace.ahead([Cells(chosen, found.target, tuple(names), (name,)) for name in names])
    cells = measuring.measure_column(workspace, found.target, prompts, chosen, with_controls=False)
    measuring.write_table(workspace)
    values = {name: float(np.mean([c.value for c in cells if c.source == name])) for name in names}
    examples = len(workspace.task(found.target).dev)
    return ordering.remeasured(
        found,
        values,
        spent=len(new) * examples,
        exhaustive=_exhaustive(workspace, [source.source for source in found.sources], examples),
    )


def measure_adaptively(
    workspace: Workspace, found: Ranking, matrix: IndicatorMatrix, measure: int, protocol: str | None
) -> Ranking:
    """A ranking whose measured sources were chosen one after another, by what those before them reached.

    ``matrix`` is the indicator that serves as kernel (`adaptive.kernel`). The target's own prompts are
    measured first: values relative to theirs are what the Gaussian process is about. Raises InputError where
    their value is not positive, or the indicator is no kernel.
    """
    chosen = protocol or measuring.default_protocol(workspace)
    target, values, new = found.target, dict[str, float](), 0
    everyone = [source.source for source in found.sources]
    correlations, place = adaptive.kernel(matrix), {name: i for i, name in enumerate(matrix.tasks)}
    examples = len(workspace.task(target).dev)
    stored = measuring.open_cells(workspace, target, chosen)

    def value(name: str) -> float:
        nonlocal new
        prompts = workspace.tune([name])
        new += sum(stored.get(name, p.seed, p.fingerprint) is None for p in prompts[name])
        cells = measuring.measure_column(workspace, target, prompts, chosen, with_controls=False)
        return float(np.mean([cell.value for cell in cells if cell.source == name]))

    own = value(target)
    if own <= 0:
        raise InputError(f"the own prompts of {target!r} reach {own:.4g}: nothing can be relative to that")

    def relative(index: int) -> float:
        values[matrix.tasks[index]] = value(matrix.tasks[index])
        return values[matrix.tasks[index]] / own

    budget = len(ordering.first(found, measure))
    adaptive.order(correlations, place[target], [place[name] for name in everyone], relative, budget=budget)
    measuring.write_table(workspace)
    result = ordering.remeasured(
        found, values, spent=new * examples, exhaustive=_exhaustive(workspace, everyone, examples)
    )
    return replace(result, notes=(_about_adapting(matrix.indicator, values, target, own), *result.notes))


def _about_adapting(indicator: str, values: Mapping[str, float], target: str, own: float) -> str:
    return (
        f"Measured one after another, each chosen by what those before it reached (Gaussian process, kernel "
        f"{indicator}, values relative to the {own:.4f} of {target}'s own prompts, which were measured for "
        f"it): {', '.join(values)}."
    )


def race_first(workspace: Workspace, found: Ranking, measure: int | None, protocol: str | None) -> Ranking:
    """A ranking whose first ``measure`` sources (None: all) race on the target's dev split."""
    names = ordering.first(found, len(found.sources) if measure is None else measure)
    result, trials, known = _race(workspace, found.target, names, protocol)
    examples = len(workspace.task(found.target).dev)
    everyone = [source.source for source in found.sources]
    return ordering.remeasured(
        found,
        result.values,
        examples=result.examples,
        dropped=result.dropped,
        spent=result.spent * trials,
        known=known,
        exhaustive=len(everyone) * examples * trials,
    )


def race_all(workspace: Workspace, target: str, protocol: str | None) -> Ranking:
    """All other tasks of the study race on a target that has no prompt of its own yet, and needs none."""
    names = [name for name in workspace.settings.tasks if name != target]
    if not names:
        raise InputError(f"there is no source for {target!r}: at least one other task is needed")
    result, trials, known = _race(workspace, target, names, protocol)
    return ranking.measured_only(
        target,
        result.values,
        model=workspace.settings.model.name,
        types=workspace.types or None,
        examples=result.examples,
        dropped=result.dropped,
        spent=result.spent * trials,
        known=known,
        exhaustive=result.exhaustive * trials,
    )


def _race(
    workspace: Workspace, target: str, names: Sequence[str], protocol: str | None
) -> tuple[RaceResult, int, int]:
    """The race, how many prompts of each source ran in it, and of how many passes the outcome was known."""
    chosen = protocol or measuring.default_protocol(workspace)
    if chosen != transfer.ZERO_SHOT:
        raise InputError(
            f"a race is run zero-shot, found {chosen}: under a linear probe most passes are those over "
            "train, which no subset of dev saves; use --measure K"
        )
    task, prompts = workspace.task(target), workspace.tune(list(names))
    trials = min(len(several) for several in prompts.values())
    evaluations, known = Evaluations(workspace, target), find_metric(task.metric)

    def measure(alive: Sequence[str], positions: np.ndarray) -> np.ndarray:
        evaluations.ahead({name: prompts[name][:trials] for name in alive}, positions)
        # The seeds of a source side by side, [n, R C]: its value is the mean of theirs.
        return np.stack(
            [
                np.concatenate(
                    [evaluations.statistics(name, prompt, positions) for prompt in prompts[name][:trials]],
                    axis=1,
                )
                for name in alive
            ]
        )

    def value(sums: np.ndarray) -> np.ndarray:
        return known.value(sums.reshape(*sums.shape[:-1], trials, -1)).mean(axis=-1)

    result = race(
        names,
        measure,
        len(task.dev),
        value=value,
        order=stratified([example.label for example in task.dev]),
        progress=lambda done, total, text: workspace.progress("race", done, total, text),
    )
    return result, trials, result.spent * trials - evaluations.new


def _exhaustive(workspace: Workspace, names: Sequence[str], examples: int) -> int:
    return sum(len(several) for several in workspace.tune(list(names)).values()) * examples
