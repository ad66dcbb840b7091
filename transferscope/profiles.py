"""Task profiles: what a task's own texts do, on the bare model and under the task's own prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transferscope import attachment, store
from transferscope.activity import KEPT, activity
from transferscope.encoding import Prepared
from transferscope.errors import InputError, SignatureError, StoreError, suggest
from transferscope.gradients import gradients
from transferscope.layer_sums import WORK
from transferscope.models import Backbone
from transferscope.needs import PROFILE, WITHOUT_TRIALS
from transferscope.pair_features import EXAMPLES, Extractor, source_readout
from transferscope.prompts import SoftPrompt
from transferscope.tasks import Task
from transferscope.templates import Batch

NEEDS = tuple(need for part in PROFILE.values() for need in part)
# A pass that goes back keeps what every layer did: smaller batches need less memory.
GRADIENT_SHARE = 4
Progress = Callable[[int, int, str], None]
Arrays = dict[str, Any]


@dataclass(frozen=True)
class TaskProfile:
    """What is known of one task from S examples of its train split; None: not computed, or there is none.

    On the bare model: ``inputs`` [S, D] float32 (the mean over a text's tokens of the last layer; of an
    encoder-decoder the encoder's), ``labels`` [S] int64, ``vocabulary`` [V] int64 (ascending token ids of the
    texts, without special tokens).

    Under the task's own R prompts: ``firing``, ``mean_difference``, ``point_biserial`` and ``auroc`` [R, L,
    N] (see `activity.Activity`), ``attribution`` [R, L, N], ``prompt_fisher`` [R, P', E] and ``ffn_fisher``
    [R, L, N] (see `gradients.Gradients`), all float64. A generation task has no classes: it has inputs,
    vocabulary and firing alone.
    """

    task: str
    seeds: tuple[int, ...] = ()
    inputs: np.ndarray | None = None
    labels: np.ndarray | None = None
    vocabulary: np.ndarray | None = None
    firing: np.ndarray | None = None
    mean_difference: np.ndarray | None = None
    point_biserial: np.ndarray | None = None
    auroc: np.ndarray | None = None
    attribution: np.ndarray | None = None
    prompt_fisher: np.ndarray | None = None
    ffn_fisher: np.ndarray | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def items(self, need: str) -> list[np.ndarray]:
        """What an indicator calls by this name: an array a trial, or one in all; [] if there is none."""
        array = getattr(self, need) if need in NEEDS else None
        if array is None:
            return []
        return [array] if need in WITHOUT_TRIALS else list(array)


def profile(
    backbone: Backbone,
    task: Task,
    prompts: Sequence[SoftPrompt] = (),
    *,
    parts: Sequence[str] = ("texts", "activity", "gradients"),
    examples: int = EXAMPLES,
    max_length: int | None = None,
    token_budget: int = 8192,
    kept: int = KEPT,
    fisher_labels: str = "drawn",
    seed: int = 0,
    progress: Progress | None = None,
) -> TaskProfile:
    """A task's profile on at most ``examples`` of its train split (dev is what transfer is measured on).

    ``parts``: "texts" needs no prompt and no labels; "activity" and "gradients" run the task's own
    ``prompts``, one for each trial. ``fisher_labels`` and ``seed``: see `gradients.gradients`. Memory grows
    with the sample, never with the task. Raises InputError for an unknown part, SignatureError where prompts
    are missing or differ in shape.
    """
    for part in parts:
        if part not in PROFILE:
            raise InputError(f"unknown part {part!r} of a profile. {suggest(part, PROFILE)}")
    options: dict[str, Any] = {"examples": examples, "max_length": max_length}
    whole = Extractor(backbone, task, token_budget=token_budget, **options)
    smaller = Extractor(backbone, task, token_budget=token_budget // GRADIENT_SHARE, **options)
    passes: dict[str, Callable[[SoftPrompt], Arrays]] = {
        "activity": lambda prompt: _activity(whole, prompt, kept),
        "gradients": lambda prompt: _gradients(smaller, prompt, fisher_labels, seed),
    }
    own = [part for part in parts if part in passes]
    if own:
        _check_prompts(task.name, prompts)
    found = TaskProfile(task.name, tuple(prompt.seed for prompt in prompts) if own else ())
    total, done = len(parts) - len(own) + len(own) * len(prompts), 0
    for part in parts:
        trials: list[Arrays] = []
        for prompt in prompts if part in own else (None,):
            trials.append(_texts(whole) if prompt is None else passes[part](prompt))
            done += 1
            if progress is not None:
                progress(done, total, f"{task.name} {part}")
        found = replace(found, **(_stacked(trials) if part in own else trials[0]))
    return found


def _check_prompts(task: str, prompts: Sequence[SoftPrompt]) -> None:
    shapes = {prompt.rows.shape for prompt in prompts}
    if len(shapes) != 1:
        found = ", ".join(map(str, sorted(shapes))) or "none"
        raise SignatureError(
            f"a profile of {task!r} under its own prompts needs one or more of one shape; found {found}"
        )


def _stacked(trials: Sequence[Arrays]) -> Arrays:
    return {
        name: None if first is None else np.stack([np.asarray(trial[name]) for trial in trials])
        for name, first in trials[0].items()
    }


def _texts(extractor: Extractor) -> Arrays:
    """The bare model on the texts."""
    backbone, data = extractor.backbone, extractor.batches(0)
    with torch.inference_mode():
        found = backbone.fitting.over(WORK, data.batches, partial(_token_mean, backbone))
        means = torch.cat(found).cpu().numpy()
    inputs = np.empty_like(means)
    inputs[np.concatenate(data.groups)] = means
    labels = data.data.labels if extractor.target.kind == "classification" else None
    return {"inputs": inputs, "labels": labels, "vocabulary": _vocabulary(backbone, data)}


def _token_mean(backbone: Backbone, batch: Batch) -> Tensor:
    """The mean over a text's tokens of the last layer, [B, D] float32."""
    embeds = backbone.embed(batch.ids)
    if backbone.architecture.kind == "encoder-decoder":  # its decoder has read nothing yet but the start
        hidden = backbone.base.get_encoder()(inputs_embeds=embeds, attention_mask=batch.mask)[0]
        hidden = hidden.to(backbone.device)
    else:
        hidden = backbone.hidden(embeds, batch.mask, batch.types)
    mask = batch.mask.unsqueeze(-1).float()
    return (hidden.float() * mask).sum(dim=1) / mask.sum(dim=1)


def _vocabulary(backbone: Backbone, data: Prepared) -> np.ndarray:
    found = np.unique(np.concatenate(data.data.ids))
    return np.setdiff1d(found, list(backbone.tokenizer.all_special_ids))


def _activity(extractor: Extractor, prompt: SoftPrompt, kept: int) -> Arrays:
    attached = attachment.attach(extractor.backbone, prompt)
    found = activity(attached, extractor.batches(attached.rows), kept=kept)
    return {name: getattr(found, name) for name in PROFILE["activity"]}


def _gradients(extractor: Extractor, prompt: SoftPrompt, labels: str, seed: int) -> Arrays:
    task, readout = extractor.target, None
    if task.kind == "classification":
        readout = source_readout(extractor.backbone, prompt, task)
    if readout is None:
        return dict.fromkeys(PROFILE["gradients"])
    attached = attachment.attach(extractor.backbone, prompt)
    found = gradients(attached, readout, extractor.batches(attached.rows), labels=labels, seed=seed)
    return {name: getattr(found, name) for name in PROFILE["gradients"]}


def save_profile(profile: TaskProfile, path: store.AnyPath) -> None:
    """Write a profile as one safetensors file, atomically; what it was made from goes into its metadata."""
    arrays = {need: getattr(profile, need) for need in NEEDS if getattr(profile, need) is not None}
    meta = {"task": profile.task, "seeds": list(profile.seeds), "provenance": dict(profile.provenance)}
    store.save_arrays(path, arrays, {"kind": "profile", **meta})


def load_profile(path: store.AnyPath) -> TaskProfile:
    """Read a profile.

    Raises StudyError where there is none, StoreError where it is damaged or not a profile.
    """
    arrays, meta = store.load_arrays(path)
    try:
        if meta["kind"] != "profile" or not set(arrays) <= set(NEEDS):
            raise KeyError("kind")
        seeds = tuple(int(seed) for seed in meta["seeds"])
        return TaskProfile(str(meta["task"]), seeds, **arrays, provenance=meta["provenance"])
    except (KeyError, TypeError) as error:
        raise StoreError(f"{path} is not the profile of a task: {error}") from None
