"""How projected prompts do on the target backbone: trained-on and held-out tasks, each group for itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from transferscope.errors import InputError, PromptError, suggest
from transferscope.fingerprints import fingerprint
from transferscope.metrics import metric
from transferscope.models import Backbone
from transferscope.projector import Objective, Projector
from transferscope.prompts import SoftPrompt
from transferscope.resampling import bootstrap_mean
from transferscope.tasks import Task
from transferscope.transfer import NONE, RANDOM, controls
from transferscope.zero_shot import ZeroShot

Prompts = Mapping[str, Sequence[SoftPrompt]]
Progress = Callable[[int, int, str], None]


class Kept(Protocol):
    """Where measured values are kept, by a digest of the task and the prompt."""

    def get(self, key: str) -> float | None: ...
    def add(self, key: str, value: float) -> None: ...


@dataclass(frozen=True)
class Spread:
    """Values of several prompts, and the 95 % bootstrap interval of their mean over prompts.

    ``low`` and ``high`` are None for fewer than two values; with few they are widened.
    """

    values: tuple[float, ...]
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of these values."""
        _, low, high = bootstrap_mean(np.array(values, dtype=np.float64), 0, expanded=True)
        return cls(tuple(map(float, values)), low, high)


@dataclass(frozen=True)
class ProjectedTask:
    """One task on dev, in its metric: ``value`` is the mean over the source prompts' ``seeds``.

    ``own``: the mean of the target backbone's own prompts (None: none given); ``random``: the mean of random
    prompts; ``none``: no prompt at all; ``majority``: always the most frequent class; ``relative``: value /
    own (None where own is unknown or not above 0). ``held_out``: the projector was not trained on this task.
    ``projected_spread``, ``own_spread`` and ``random_spread`` have the values behind the means.
    """

    task: str
    held_out: bool
    metric: str
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    value: float
    own: float | None
    relative: float | None
    random: float
    majority: float
    none: float
    projected_spread: Spread
    own_spread: Spread
    random_spread: Spread


@dataclass(frozen=True)
class GroupMeans:
    """Means over the tasks of one group; ``own`` and ``relative`` over those of its tasks that have them."""

    tasks: int
    value: float
    own: float | None
    relative: float | None
    random: float
    majority: float
    none: float


@dataclass(frozen=True)
class ProjectionReport:
    """Zero-shot performance of projected prompts. The two groups of tasks are never averaged together.

    ``trained`` and ``held_out`` are None where a group has no task.
    """

    source_model: str
    target_model: str
    kind: str
    flatten: bool
    objective: Objective
    projector: str
    trained_on: tuple[str, ...]
    tasks: tuple[ProjectedTask, ...]
    trained: GroupMeans | None
    held_out: GroupMeans | None
    notes: tuple[str, ...] = ()


def evaluate_projection(
    backbone: Backbone,
    projector: Projector,
    prompts: Prompts,
    tasks: Mapping[str, Task],
    *,
    own: Prompts | None = None,
    random_draws: int = 3,
    max_length: int | None = None,
    token_budget: int = 8192,
    kept: Kept | None = None,
    progress: Progress | None = None,
) -> ProjectionReport:
    """Measure the projected ``prompts`` of each of ``tasks`` on its dev split, unchanged (zero-shot).

    ``backbone`` is the target backbone, ``prompts`` are the source backbone's, ``own`` the target's own. A
    random prompt has the rows of a projected one, drawn from the distribution of the input embeddings.
    What is measured goes into ``kept`` at once, and what is there is not measured again. Raises PromptError
    for a task without a prompt, InputError for one without label words.
    """
    if random_draws < 1:
        raise InputError(f"random_draws should be at least 1, found {random_draws}")
    missing = [name for name in tasks if not prompts.get(name)]
    if missing:
        raise PromptError(f"task {missing[0]!r} has no prompt to project. {suggest(missing[0], prompts)}")
    rows = []
    for name, task in tasks.items():
        scorer = _Scorer(ZeroShot(backbone, task, max_length=max_length, token_budget=token_budget), kept)
        projected = [projector.project(prompt) for prompt in prompts[name]]
        unseen = name not in projector.trained_on
        rows.append(_row(scorer, projected, (own or {}).get(name, ()), random_draws, held_out=unseen))
        if progress is not None:
            progress(len(rows), len(tasks), name)
    about, settings = projector.provenance, projector.settings
    return ProjectionReport(
        source_model=str(about.get("source_model", "")),
        target_model=backbone.name,
        kind=settings.kind,
        flatten=settings.flatten,
        objective=projector.objective,
        projector=projector.fingerprint,
        trained_on=projector.trained_on,
        tasks=tuple(rows),
        trained=_means([row for row in rows if not row.held_out]),
        held_out=_means([row for row in rows if row.held_out]),
        notes=_notes(rows),
    )


class _Scorer:
    """One task's scores: of each prompt once, whoever asks."""

    def __init__(self, target: ZeroShot, kept: Kept | None) -> None:
        self.target, self.task, self.kept = target, target.target, kept

    def spread(self, prompts: Sequence[SoftPrompt]) -> Spread:
        """The scores of several prompts."""
        return Spread.of([self.score(prompt) for prompt in prompts])

    def score(self, prompt: SoftPrompt) -> float:
        """A prompt's score on the task's dev split."""
        key = fingerprint(self.task.fingerprint, prompt.fingerprint)
        known = None if self.kept is None else self.kept.get(key)
        if known is None:
            known = self.target.score(prompt).value
            if self.kept is not None:
                self.kept.add(key, known)
        return known


def _row(
    scorer: _Scorer,
    projected: Sequence[SoftPrompt],
    own: Sequence[SoftPrompt],
    draws: int,
    *,
    held_out: bool,
) -> ProjectedTask:
    others = controls(scorer.target.backbone, {scorer.task.name: projected}, draws=draws)
    found, its_own, random = (scorer.spread(several) for several in (projected, own, others[RANDOM]))
    value = float(np.mean(found.values))
    mean = float(np.mean(its_own.values)) if own else None
    return ProjectedTask(
        task=scorer.task.name,
        held_out=held_out,
        metric=scorer.task.metric,
        seeds=tuple(prompt.seed for prompt in projected),
        values=found.values,
        value=value,
        own=mean,
        relative=value / mean if mean is not None and mean > 0 else None,
        random=float(np.mean(random.values)),
        majority=_majority(scorer.task),
        none=scorer.score(others[NONE][0]),
        projected_spread=found,
        own_spread=its_own,
        random_spread=random,
    )


def _majority(task: Task) -> float:
    """The metric of always answering the dev split's most frequent class (or text)."""
    if task.kind == "generation":
        return task.majority
    gold = np.array([example.label for example in task.dev])
    return metric(task.metric).of(gold, np.full_like(gold, np.bincount(gold).argmax()))


def _means(rows: Sequence[ProjectedTask]) -> GroupMeans | None:
    if not rows:
        return None

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    return GroupMeans(
        tasks=len(rows),
        value=float(np.mean([row.value for row in rows])),
        own=mean([row.own for row in rows]),
        relative=mean([row.relative for row in rows]),
        random=float(np.mean([row.random for row in rows])),
        majority=float(np.mean([row.majority for row in rows])),
        none=float(np.mean([row.none for row in rows])),
    )


def _notes(rows: Sequence[ProjectedTask]) -> tuple[str, ...]:
    notes = []
    if rows and not any(row.held_out for row in rows):
        notes.append("no task was held out: nothing here says how the projector does on a new task")
    if chance := [row.task for row in rows if row.value <= max(row.random, row.majority)]:
        notes.append(f"no better than a random prompt or the majority class: {', '.join(chance)}")
    if idle := [row.task for row in rows if row.value <= row.none]:
        notes.append(f"no better than no prompt at all: {', '.join(idle)}")
    if len({row.metric for row in rows}) > 1:
        notes.append("the tasks have different metrics: compare means of relative values, not of values")
    return tuple(notes)
