"""How projected prompts do on the target backbone: trained-on and held-out tasks, each group for itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from transferscope import attachment
from transferscope.errors import InputError, PromptError, suggest
from transferscope.metrics import metric
from transferscope.models import Backbone
from transferscope.projector import Objective, Projector
from transferscope.prompts import SoftPrompt
from transferscope.tasks import Task
from transferscope.zero_shot import ZeroShot

Prompts = Mapping[str, Sequence[SoftPrompt]]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class ProjectedTask:
    """One task on dev, in its metric: ``value`` is the mean over the source prompts' ``seeds``.

    ``own``: the mean of the target backbone's own prompts (None: none given); ``random``: the mean of random
    prompts; ``majority``: always the most frequent class; ``relative``: value / own (None where own is
    unknown or not above 0). ``held_out``: the projector was not trained on this task.
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


@dataclass(frozen=True)
class GroupMeans:
    """Means over the tasks of one group; ``own`` and ``relative`` over those of its tasks that have them."""

    tasks: int
    value: float
    own: float | None
    relative: float | None
    random: float
    majority: float


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
    progress: Progress | None = None,
) -> ProjectionReport:
    """Measure the projected ``prompts`` of each of ``tasks`` on its dev split, unchanged (zero-shot).

    ``backbone`` is the target backbone, ``prompts`` are the source backbone's, ``own`` the target's own. A
    random prompt has the rows of a projected one, drawn from the distribution of the input embeddings.
    Raises PromptError for a task without a prompt, InputError for one without label words.
    """
    if random_draws < 1:
        raise InputError(f"random_draws should be at least 1, found {random_draws}")
    missing = [name for name in tasks if not prompts.get(name)]
    if missing:
        raise PromptError(f"task {missing[0]!r} has no prompt to project. {suggest(missing[0], prompts)}")
    rows = []
    for name, task in tasks.items():
        rows.append(
            _row(
                ZeroShot(backbone, task, max_length=max_length, token_budget=token_budget),
                [projector.project(prompt) for prompt in prompts[name]],
                (own or {}).get(name, ()),
                random_draws,
                held_out=name not in projector.trained_on,
            )
        )
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


def _row(
    target: ZeroShot,
    projected: Sequence[SoftPrompt],
    own: Sequence[SoftPrompt],
    draws: int,
    *,
    held_out: bool,
) -> ProjectedTask:
    values = [target.score(prompt).value for prompt in projected]
    value = float(np.mean(values))
    its_own = float(np.mean([target.score(prompt).value for prompt in own])) if own else None
    random = [target.score(_random(target, projected[0], draw)).value for draw in range(draws)]
    return ProjectedTask(
        task=target.target.name,
        held_out=held_out,
        metric=target.target.metric,
        seeds=tuple(prompt.seed for prompt in projected),
        values=tuple(values),
        value=value,
        own=its_own,
        relative=value / its_own if its_own is not None and its_own > 0 else None,
        random=float(np.mean(random)),
        majority=_majority(target.target),
    )


def _random(target: ZeroShot, like: SoftPrompt, draw: int) -> SoftPrompt:
    """A random prompt with the rows and the template of a projected one."""
    rows = attachment.initial_rows(target.backbone, len(like.rows), init="random", seed=draw).cpu().numpy()
    return SoftPrompt(rows, like.task, draw, like.template)


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
    )


def _notes(rows: Sequence[ProjectedTask]) -> tuple[str, ...]:
    notes = []
    if rows and not any(row.held_out for row in rows):
        notes.append("no task was held out: nothing here says how the projector does on a new task")
    if chance := [row.task for row in rows if row.value <= max(row.random, row.majority)]:
        notes.append(f"no better than a random prompt or the majority class: {', '.join(chance)}")
    if len({row.metric for row in rows}) > 1:
        notes.append("the tasks have different metrics: compare means of relative values, not of values")
    return tuple(notes)
