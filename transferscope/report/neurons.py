"""Skill neurons as a report shows them: in which layers they lie, and each task's most predictive ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from indicators.predictivity import skill_mask
from transferscope.signatures import Signature
from transferscope.skill_sets import RATE, mean_defined

TOP = 10


@dataclass(frozen=True)
class TopNeuron:
    """One neuron: mean predictivity over trials and subtasks, lowest and highest of single trials.

    ``subtask`` is the one that it tells apart best, None for a task with one; ``stimulation`` is its mean
    activation under the prompts and an empty input.
    """

    layer: int
    neuron: int
    predictivity: float
    low: float
    high: float
    subtask: str | None
    stimulation: float


@dataclass(frozen=True)
class TaskNeurons:
    """One task: how many of its skill neurons lie in each of L layers, and its top neurons.

    The skill neurons here are the highest of the whole network at the rate; ``expected`` is how many each
    layer had if each were as good as another.
    """

    task: str
    counts: tuple[int, ...]
    expected: float
    top: tuple[TopNeuron, ...]


def task_neurons(
    signatures: Mapping[str, Signature], *, rate: float = RATE, top: int = TOP
) -> tuple[TaskNeurons, ...]:
    """Those of each task that has predictivities, in the order of the signatures."""
    return tuple(
        _of_task(name, signature, rate, top)
        for name, signature in signatures.items()
        if signature.predictivity is not None and np.isfinite(signature.predictivity).any()
    )


def _of_task(name: str, signature: Signature, rate: float, top: int) -> TaskNeurons:
    by_subtask = signature.subtask_predictivity  # [C, L, N]
    counts = skill_mask(by_subtask, rate, by="network").sum(axis=1)  # [L]
    mean = mean_defined(by_subtask)  # [L, N]
    trials = np.stack([mean_defined(one) for one in np.asarray(signature.predictivity)])  # [R, L, N]
    stimulation = signature.stimulation.mean(axis=0)  # [L, N]
    flat = np.where(np.isfinite(mean), mean, -np.inf).reshape(-1)
    order = np.argsort(-flat, kind="stable")[:top]
    names = [str(row.get("name")) for row in signature.provenance.get("subtasks") or ()]
    found = []
    for layer, neuron in zip(*np.unravel_index(order, mean.shape), strict=True):
        if not np.isfinite(mean[layer, neuron]):
            break
        single = trials[:, layer, neuron]
        of_subtasks = by_subtask[:, layer, neuron]
        best = int(np.nanargmax(of_subtasks))
        found.append(
            TopNeuron(
                int(layer),
                int(neuron),
                float(mean[layer, neuron]),
                float(np.nanmin(single)),
                float(np.nanmax(single)),
                names[best] if len(of_subtasks) > 1 and len(names) == len(of_subtasks) else None,
                float(stimulation[layer, neuron]),
            )
        )
    return TaskNeurons(name, tuple(map(int, counts)), float(counts.sum()) / len(counts), tuple(found))
