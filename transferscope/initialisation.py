"""Transfer by initialisation: learning curves from several starts -> speed-ups, and which start to take.

A *start* is a source's prompt, "scratch" (how the study tunes: its usual initialisation) or "random" (the
initialisation ``random``). Each is tuned with several learning rates and seeds, and judged at its own best
rate, chosen on the validation share of train: the rate that suits a fresh prompt is mostly too large for one
that is good already, and at a common rate the verdict may turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from transferscope.errors import InputError, TaskError
from transferscope.prompts import SoftPrompt
from transferscope.settings import RESERVED
from transferscope.tasks import Task, stratified

_, RANDOM, SCRATCH = RESERVED
TOLERANCE = 0.01


@dataclass(frozen=True)
class Curve:
    """Score on the validation share by step: steps [C], values [C]; larger is better."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def best(self) -> float:
        """The largest value."""
        return max(self.values)


@dataclass(frozen=True)
class InitRun:
    """One tuning from a start: its curve, the best validation score and loss, and the best prompt on dev."""

    start: str
    learning_rate: float
    seed: int
    curve: Curve
    validation: float
    loss: float
    dev: float

    @classmethod
    def of(cls, start: str, prompt: SoftPrompt) -> InitRun:
        """From the record that tuning leaves with a prompt."""
        record = prompt.provenance
        curve = Curve(tuple(record["curve"]["steps"]), tuple(record["curve"]["values"]))
        at = curve.steps.index(record["best_step"])
        loss = record["curve"]["losses"][at]
        scores = record["scores"]
        rate = float(record["settings"]["learning_rate"])
        return cls(start, rate, prompt.seed, curve, scores["validation"], loss, scores["dev"])


@dataclass(frozen=True)
class StartResult:
    """One start at its best learning rate: means over R seeds.

    ``validation`` chose the rate, ``dev`` is the result (``error``: its standard error over seeds);
    ``untouched`` is the source's dev value with no tuning at all; ``convergence_steps`` and
    ``comparable_steps`` (None: never reached by some seed) are means, the speed-ups what scratch takes
    divided by them (infinite where a start is there before its first step). ``edge``: the best rate is the
    smallest or largest tried, so a better one may lie beyond.
    """

    start: str
    learning_rate: float
    seeds: int
    validation: float
    dev: float
    error: float | None
    untouched: float | None
    convergence_steps: float
    convergence_speedup: float | None
    comparable_steps: float | None
    comparable_speedup: float | None
    edge: bool


@dataclass(frozen=True)
class InitComparison:
    """Starts for one target, best first by validation; ``recommended`` is the first of them.

    ``shots``: how many training examples there were (None: all).
    """

    target: str
    metric: str
    shots: int | None
    steps: int
    starts: tuple[StartResult, ...]
    runs: tuple[InitRun, ...]
    notes: tuple[str, ...]

    @property
    def recommended(self) -> StartResult:
        """The start, with its learning rate, that did best on validation."""
        return self.starts[0]


def steps_to_converge(curve: Curve, tolerance: float = TOLERANCE) -> int:
    """The first evaluated step whose value is within ``tolerance`` of the curve's own best."""
    return next(s for s, v in zip(curve.steps, curve.values, strict=True) if v >= curve.best - tolerance)


def steps_to_reach(curve: Curve, value: float) -> int | None:
    """The first evaluated step with at least this value; None if there is none."""
    return next((s for s, v in zip(curve.steps, curve.values, strict=True) if v >= value), None)


def few_shot(task: Task, shots: int, seed: int = 0) -> Task:
    """The task with ``shots`` (k) examples to tune on and k others to choose the checkpoint with.

    Both are drawn by class from train with the seed; ``Task.train`` holds all 2k, so tune with a validation
    share of one half. As in Gao et al., 2021 (LM-BFF). Raises TaskError where train is too small.
    """
    if shots < 1 or 2 * shots > len(task.train):
        raise TaskError(
            f"task {task.name!r}: {shots} shots need {2 * max(shots, 1)} training examples ({shots} to tune "
            f"on, as many to choose the checkpoint with), found {len(task.train)}"
        )
    if shots < task.classes:
        raise TaskError(f"task {task.name!r}: {shots} shots cannot hold its {task.classes} classes")
    labels = np.array([example.label for example in task.train])
    kept = stratified(labels, 2 * shots, np.random.default_rng([seed, shots]))
    return replace(task, train=tuple(task.train[i] for i in kept))


def compare_starts(
    target: str,
    metric: str,
    runs: Sequence[InitRun],
    *,
    untouched: Mapping[str, float] | None = None,
    shots: int | None = None,
    steps: int = 0,
    tolerance: float = TOLERANCE,
) -> InitComparison:
    """Judge starts by their runs. ``untouched``: each source's zero-shot value on the target.

    *Convergence speed-up*: steps that scratch takes to converge (`steps_to_converge`), divided by those of
    the start. *Comparable-result speed-up*: steps that scratch takes to its own best value, divided by those
    that the start takes to reach that value (Su et al., NAACL 2022, section 4.2). Both by means over seeds,
    each side at its own best learning rate.

    Raises InputError: no run of "scratch".
    """
    by_start: dict[str, list[InitRun]] = {}
    for run in runs:
        by_start.setdefault(run.start, []).append(run)
    if SCRATCH not in by_start:
        raise InputError(f"no run from {SCRATCH!r} to compare with; found {', '.join(by_start) or 'none'}")
    chosen = {start: _at_best_rate(several) for start, several in by_start.items()}
    plain = chosen[SCRATCH]
    results = [
        _result(start, chosen[start], plain, by_start[start], (untouched or {}).get(start), tolerance)
        for start in by_start
    ]
    results.sort(key=lambda result: -result.validation)  # stable: ties stay as given
    return InitComparison(
        target, metric, shots, steps, tuple(results), tuple(runs), tuple(_notes(results, chosen))
    )


def _at_best_rate(runs: Iterable[InitRun]) -> list[InitRun]:
    """The runs of the rate with the best mean validation score, then the smaller mean loss; by seed."""
    by_rate: dict[float, list[InitRun]] = {}
    for run in runs:
        by_rate.setdefault(run.learning_rate, []).append(run)
    best = max(
        by_rate.values(),
        key=lambda several: (_mean(r.validation for r in several), -_mean(r.loss for r in several)),
    )
    return sorted(best, key=lambda run: run.seed)


def _result(
    start: str,
    runs: Sequence[InitRun],
    plain: Sequence[InitRun],
    every: Sequence[InitRun],
    untouched: float | None,
    tolerance: float,
) -> StartResult:
    rates = sorted({run.learning_rate for run in every})
    dev = np.array([run.dev for run in runs])
    converged = _mean(steps_to_converge(run.curve, tolerance) for run in runs)
    plain_converged = _mean(steps_to_converge(run.curve, tolerance) for run in plain)
    aim = _mean(run.curve.best for run in plain)
    reached = [steps_to_reach(run.curve, aim) for run in runs]
    plain_reached = _mean(run.curve.steps[int(np.argmax(run.curve.values))] for run in plain)
    comparable = None if None in reached else _mean(step for step in reached if step is not None)
    return StartResult(
        start=start,
        learning_rate=runs[0].learning_rate,
        seeds=len(runs),
        validation=_mean(run.validation for run in runs),
        dev=float(dev.mean()),
        error=float(dev.std(ddof=1) / len(dev) ** 0.5) if len(dev) > 1 else None,
        untouched=untouched,
        convergence_steps=converged,
        convergence_speedup=None if start == SCRATCH else _ratio(plain_converged, converged),
        comparable_steps=plain_reached if start == SCRATCH else comparable,
        comparable_speedup=None
        if start == SCRATCH or comparable is None
        else _ratio(plain_reached, comparable),
        edge=len(rates) > 1 and runs[0].learning_rate in (rates[0], rates[-1]),
    )


def _ratio(plain: float, other: float) -> float:
    return plain / other if other else float("inf")


def _mean(values: Iterable[float]) -> float:
    return float(np.mean([*values]))


def _notes(results: Sequence[StartResult], chosen: Mapping[str, Sequence[InitRun]]) -> list[str]:
    first = results[0]
    notes = [
        f"Recommended: start from {first.start} with learning rate {first.learning_rate:g} (best validation "
        f"score, {first.validation:.4f}). dev had no part in any choice."
    ]
    ties = [other.start for other in results[1:] if _cannot_tell(chosen[first.start], chosen[other.start])]
    if first.seeds == 1:
        notes.append("One seed: how much of a difference is chance cannot be said. Tune with more seeds.")
    elif ties:
        notes.append(
            f"On dev, {first.seeds} seeds cannot tell it from: {', '.join(ties)} "
            "(95 % t intervals of the paired differences hold 0)."
        )
    edges = [f"{result.start} ({result.learning_rate:g})" for result in results if result.edge]
    if edges:
        notes.append(
            f"The best learning rate is at an end of what was tried, and a better one may lie beyond: "
            f"{', '.join(edges)}."
        )
    return notes


def _cannot_tell(one: Sequence[InitRun], other: Sequence[InitRun]) -> bool:
    devs = {run.seed: run.dev for run in other}
    gaps = np.array([run.dev - devs[run.seed] for run in one if run.seed in devs])
    if len(gaps) < 2:
        return True
    # Student's t, since two or three seeds say little of their own spread.
    width = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5
    return bool(abs(gaps.mean()) <= width)


def as_rows(comparison: InitComparison) -> list[dict[str, Any]]:
    """The dev values at each start's best rate as long rows of measured transfer (protocol ``init``)."""
    rates = {result.start: result.learning_rate for result in comparison.starts}
    return [
        {
            "protocol": "init",
            "source": run.start,
            "target": comparison.target,
            "seed": run.seed,
            "metric": comparison.metric,
            "value": run.dev,
        }
        for run in comparison.runs
        if run.learning_rate == rates[run.start]
    ]
