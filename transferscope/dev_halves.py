"""Skill neurons found on one half of a task's dev split, so that the other half can judge them.

Predictivity is an accuracy on dev. Neurons that are the highest there are so partly by chance, and chance
favours them again where they are scored on the same examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from transferscope import kept_signatures, store
from transferscope.errors import TaskError
from transferscope.kept_signatures import Keeper
from transferscope.prompts import SoftPrompt
from transferscope.signatures import Signature
from transferscope.tasks import Task
from transferscope.tuning_run import hold_out

SEED = 0  # of the halves: the same for every study, so that kept units stay of use


def halves(task: Task) -> tuple[Task, Task]:
    """The task with each half of its dev split: stratified by class, no example in both.

    Raises TaskError where some class has fewer than two examples in dev.
    """
    labels = np.array([example.label for example in task.dev])
    few = [
        task.labels[label] for label, n in zip(*np.unique(labels, return_counts=True), strict=True) if n < 2
    ]
    if few:
        raise TaskError(
            f"dev of {task.name!r} has one example of {', '.join(few)}, and halves need two of each class: "
            "give it more, or find and judge skill neurons on the same examples"
        )
    first, second = hold_out(labels, 0.5, SEED)
    return tuple(replace(task, dev=tuple(task.dev[i] for i in half)) for half in (first, second))  # type: ignore[return-value]


def found_on_half(workspace: Keeper, name: str, prompts: Sequence[SoftPrompt]) -> Signature:
    """A task's signature on the first half, kept as ``perturbation/<task>/half-of-dev.safetensors``.

    Baselines are those of all of train.
    """
    return kept_signatures.kept(
        workspace,
        halves(workspace.task(name))[0],
        workspace.study.path("perturbation", store.checked_name(name), "half-of-dev.safetensors"),
        f"{name} on half of dev",
        made_of=[prompt.fingerprint for prompt in prompts],
        prompts=lambda: prompts,
        backbone=lambda: workspace.backbone,
    )
