"""Signatures: what the prompts of a task do inside the network, over R trials, with provenance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from indicators.predictivity import skill_mask
from transferscope import attachment, store
from transferscope.encoding import encode
from transferscope.errors import SignatureError, StoreError
from transferscope.measurement import NeuronMeasurement, measure, measure_neurons, measure_several, stimulate
from transferscope.models import Backbone
from transferscope.precision import arithmetic
from transferscope.prompts import SoftPrompt
from transferscope.task_spec import default_subtasks
from transferscope.tasks import Task

__all__ = [
    "NeuronMeasurement",
    "Signature",
    "extract",
    "extract_refused",
    "extract_without_data",
    "load_signature",
    "measure",
    "measure_neurons",
    "save_signature",
    "stimulate",
    "subtask_rows",
]


@dataclass(frozen=True)
class Signature:
    """A task's signature over R trials (one tuned prompt each).

    ``prompts`` [R, P', E] float32; ``stimulation`` [R, L, N] float32 and ``active`` [R, L, N] bool (value >
    0, or gate > 0 where the FFN is gated); ``predictivity`` [R, C, L, N] float64 (C subtasks: 1 for two
    classes, K one-vs-rest for more, or those that the task gives; NaN where undefined), ``baseline`` [R, L,
    P, N] float32, over all of train, and ``features`` [R, K, D] float32, all None where there was no task
    data, or no classes (a generation task); ``model`` is the backbone's fingerprint. ``provenance`` has the
    subtasks in their order, with names.
    """

    task: str
    seeds: tuple[int, ...]
    model: str
    prompts: np.ndarray
    stimulation: np.ndarray
    active: np.ndarray
    predictivity: np.ndarray | None = None
    baseline: np.ndarray | None = None
    features: np.ndarray | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def subtask_predictivity(self) -> np.ndarray:
        """Predictivity [C, L, N] of each subtask: the mean over trials where it is defined (NaN: in none)."""
        if self.predictivity is None:
            reason = str(self.provenance.get("without") or "extract it with the task's data")
            if self.provenance.get("kind") == "generation":
                reason = f"{self.task!r} is a generation task, which has no classes"
            raise SignatureError(f"the signature of {self.task!r} has no predictivity: {reason}")
        return _nan_mean(self.predictivity)

    @property
    def mean_predictivity(self) -> np.ndarray:
        """Predictivity [L, N]: mean over trials (Wang et al., EMNLP 2022), then over subtasks."""
        return _nan_mean(self.subtask_predictivity)

    def skill_mask(self, rate: float, by: str = "layer") -> np.ndarray:
        """Skill neurons [L, N] at a rate; with C > 1 subtasks the same number from each, united."""
        return skill_mask(self.subtask_predictivity, rate, by=by)


def extract(
    backbone: Backbone,
    task: Task,
    prompts: Sequence[SoftPrompt],
    *,
    max_length: int | None = None,
    compat: bool = False,
    balanced: bool | None = None,
    token_budget: int = 8192,
    quantized: bool = False,
    progress: Any = None,
) -> Signature:
    """The signature of a task over R trials: each of its prompts measured on the task's train and dev splits.

    The splits are tokenised once. Of a model that was loaded in bfloat16 or float16, the provenance has what
    share of the comparisons that flips under the first prompt (`precision.flip_rate`). A generation task has
    no classes: its signature is that of its prompts alone, without predictivity, baseline and features.
    ``quantized``: also of a model with 4-bit weights. Raises SignatureError where the prompts differ in shape
    or template, or the model is quantised.
    """
    _check_trials(task.name, prompts)
    if task.kind == "generation":
        alone = extract_without_data(backbone, task.name, prompts)
        return replace(alone, provenance=_provenance(backbone, task, prompts))
    attachments = [attachment.attach(backbone, prompt) for prompt in prompts]
    rows = attachments[0].rows
    train = encode(backbone, task.train, prompt_rows=rows, max_length=max_length)
    dev = encode(backbone, task.dev, prompt_rows=rows, max_length=max_length)
    how: dict[str, Any] = {"compat": compat, "balanced": balanced, "token_budget": token_budget}
    how["quantized"] = quantized
    measured = measure_several(attachments, train, dev, subtasks=task.subtasks, **how)
    found = list(_reported(measured, task, prompts, progress))
    return Signature(
        task=task.name,
        seeds=tuple(prompt.seed for prompt in prompts),
        model=backbone.fingerprint,
        prompts=np.stack([prompt.rows for prompt in prompts]),
        stimulation=np.stack([one.stimulation for one in found]),
        active=np.stack([one.active for one in found]),
        predictivity=np.stack([one.predictivity for one in found]),
        baseline=np.stack([one.baseline for one in found]).astype(np.float32),
        features=np.stack([one.features for one in found]),
        provenance=_provenance(backbone, task, prompts)
        | {
            "labels": list(task.labels),
            "subtasks": subtask_rows(task),
            "truncated_texts": train.truncated + dev.truncated,
            "precision": arithmetic(attachments[0], train, dev),
        },
    )


def _reported(
    measured: Iterable[NeuronMeasurement], task: Task, prompts: Sequence[SoftPrompt], progress: Any
) -> Iterator[NeuronMeasurement]:
    """The measurements of the prompts, each reported as it comes."""
    for number, one in enumerate(measured):
        if progress is not None:
            progress(number + 1, len(prompts), f"{task.name} seed {prompts[number].seed}")
        yield one


def subtask_rows(task: Task) -> list[dict[str, Any]]:
    """The subtasks of a task's predictivity in their order: their name, and the labels on each side."""
    return [
        {
            "name": one.name,
            "positive": [task.labels[k] for k in one.positive],
            "negative": [task.labels[k] for k in one.negative],
        }
        for one in task.subtasks or default_subtasks(task.labels)
    ]


def _provenance(backbone: Backbone, task: Task, prompts: Sequence[SoftPrompt]) -> dict[str, Any]:
    return {
        "model": backbone.name,
        "task_fingerprint": task.fingerprint,
        "type": task.type,
        "kind": task.kind,
        "train_examples": len(task.train),
        "dev_examples": len(task.dev),
        "template": prompts[0].template,
        "active_means": "gate > 0" if any(gate is not None for gate in backbone.gates()) else "value > 0",
        "scores": [prompt.provenance.get("scores", {}) for prompt in prompts],
        "prompts": [prompt.fingerprint for prompt in prompts],
    }


def extract_without_data(backbone: Backbone, name: str, prompts: Sequence[SoftPrompt]) -> Signature:
    """The signature of prompts alone: their rows and stimulation. No task data is needed."""
    _check_trials(name, prompts)
    found = [stimulate(attachment.attach(backbone, prompt)) for prompt in prompts]
    return Signature(
        task=name,
        seeds=tuple(prompt.seed for prompt in prompts),
        model=backbone.fingerprint,
        prompts=np.stack([prompt.rows for prompt in prompts]),
        stimulation=np.stack([values for values, _ in found]),
        active=np.stack([active for _, active in found]),
        provenance={
            "model": backbone.name,
            "scores": [prompt.provenance.get("scores", {}) for prompt in prompts],
        },
    )


def extract_refused(backbone: Backbone, task: Task, prompts: Sequence[SoftPrompt], reason: str) -> Signature:
    """The signature of a task's prompts alone, where predictivity is refused; the provenance says why."""
    alone = extract_without_data(backbone, task.name, prompts)
    return replace(alone, provenance=_provenance(backbone, task, prompts) | {"without": reason})


ARRAYS = ("prompts", "stimulation", "active", "predictivity", "baseline", "features")


def save_signature(signature: Signature, path: store.AnyPath, fingerprint: str = "") -> None:
    """Write a signature as one safetensors file; what it was made from goes into the file's metadata."""
    arrays = {name: getattr(signature, name) for name in ARRAYS if getattr(signature, name) is not None}
    store.save_arrays(
        path,
        arrays,
        {
            "task": signature.task,
            "seeds": list(signature.seeds),
            "model": signature.model,
            "fingerprint": fingerprint,
            "provenance": dict(signature.provenance),
        },
    )


def load_signature(path: store.AnyPath) -> Signature:
    """Read a signature.

    Raises StudyError where there is none, StoreError where it is damaged or not a signature.
    """
    arrays, meta = store.load_arrays(path)
    try:
        return Signature(
            task=str(meta["task"]),
            seeds=tuple(int(seed) for seed in meta["seeds"]),
            model=str(meta["model"]),
            provenance=meta["provenance"],
            **{name: arrays[name] for name in ARRAYS if name in arrays},
        )
    except (KeyError, TypeError) as error:
        raise StoreError(f"{path} is not a signature: {error}") from None


def _check_trials(name: str, prompts: Sequence[SoftPrompt]) -> None:
    if not prompts:
        raise SignatureError(f"no prompts for {name!r}")
    shapes = {(prompt.rows.shape, prompt.template) for prompt in prompts}
    if len(shapes) > 1:
        found = ", ".join(f"{shape} {template}" for shape, template in sorted(shapes))
        raise SignatureError(
            f"the prompts of {name!r} differ in shape or template: {found}; one signature needs them alike"
        )


def _nan_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is defined; NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
