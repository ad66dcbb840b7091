"""What a study of the origin of skill neurons needs beside prompts, each piece kept in the study folder.

methods/<task>/<method>/<seed>/             the task tuned by another method
origin/<task>/random-init/<seed>/           prompts tuned on a random-initialised model of the same config
origin/<task>/random-init.safetensors       their signature there
origin/<task>/random-prompts.safetensors    the signature of random prompts on the study's own model
origin/<task>/words.safetensors             the word selectivity of every neuron
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any

import torch

from transferscope import kept_prompts, kept_signatures, methods, store
from transferscope.encoding import encode
from transferscope.errors import StudyError
from transferscope.method_tuning import (
    RECORD,
    TunedMethod,
    load_tuned,
    save_tuned,
    settings_of,
    tune_method,
)
from transferscope.methods import Sizes
from transferscope.models import Backbone, wrap
from transferscope.prompts import SoftPrompt
from transferscope.signatures import Signature
from transferscope.staleness import is_current
from transferscope.tasks import Task
from transferscope.transfer import random_prompts
from transferscope.word_selectivity import MAX_WORDS, MIN_COUNT, WordSelectivity, word_selectivity
from transferscope.workspace import Workspace

FOLDER, METHODS = "origin", "methods"
INIT_SEED = 0  # of the random-initialised backbone


def tuned_methods(
    workspace: Workspace,
    task: str,
    method: str,
    *,
    learning_rate: float | None = None,
    sizes: Sizes | None = None,
) -> list[TunedMethod]:
    """A task tuned by a method, once for each seed of the study: read where it is current, else tuned.

    ``learning_rate`` None: the method's own. Everything else is as for the study's prompts.
    """
    methods.get(method)
    return [
        _tuned(workspace, task, method, seed, learning_rate, sizes or Sizes())
        for seed in workspace.settings.seeds
    ]


def _tuned(
    workspace: Workspace, name: str, method: str, seed: int, learning_rate: float | None, sizes: Sizes
) -> TunedMethod:
    study, task = workspace.settings, workspace.task(name)
    folder = workspace.study.path(METHODS, store.checked_name(name), store.checked_name(method), str(seed))
    chosen = settings_of(method, study.tuning, learning_rate)
    inputs = {**tuning_inputs(workspace, task), "tuning": chosen.model_dump(), "sizes": asdict(sizes)}
    if (folder / RECORD).is_file():
        known = load_tuned(folder)
        if is_current(known.provenance, inputs, workspace.report, f"tuning {name} by {method} seed {seed}"):
            return known
    found = tune_method(
        workspace.backbone,
        task,
        method,
        settings=chosen,
        sizes=sizes,
        seed=seed,
        template=study.template,
        head=study.head,
        max_length=study.max_length,
        token_budget=study.token_budget,
        folder=folder,
        progress=stage(workspace, "tune"),
    )
    found = replace(found, provenance={**found.provenance, "inputs": inputs})
    save_tuned(found, folder)
    _say(workspace, f"{name} by {method}", seed, found.provenance)
    return found


def tuning_inputs(workspace: Workspace, task: Task) -> dict[str, Any]:
    """What everything tuned in a study is made from, beside its settings."""
    study = workspace.settings
    return {
        "model": workspace.model_fingerprint,
        "task": task.fingerprint,
        "template": study.template,
        "head": study.head,
        "max_length": study.max_length,
    }


def random_backbone(backbone: Backbone, seed: int = INIT_SEED) -> Backbone:
    """The same class, configuration and tokenizer, with weights as the class initialises them."""
    devices = [backbone.device] if backbone.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        model = type(backbone.model)(deepcopy(backbone.config))
    name = f"{backbone.name}, random initialisation {seed}"
    made = wrap(model.to(backbone.device, backbone.dtype), backbone.tokenizer, name)
    made.fitting.report = backbone.fitting.report
    return made


def random_init_prompts(
    workspace: Workspace, name: str, backbone: Callable[[], Backbone]
) -> list[SoftPrompt]:
    """Prompts tuned on the random-initialised backbone with the study's settings, one for each seed."""
    study, task, found = workspace.settings, workspace.task(name), []
    inputs = {**tuning_inputs(workspace, task), "tuning": study.tuning.model_dump(), "initialised": INIT_SEED}
    for seed in study.seeds:
        folder = _path(workspace, name, "random-init", str(seed))
        what = f"{name} on the random-initialised model"
        prompt, new = kept_prompts.kept(
            workspace,
            task,
            folder,
            f"tuning {what} seed {seed}",
            made_of=inputs,
            backbone=backbone,
            seed=seed,
            template=study.template,
            progress=stage(workspace, "tune"),
        )
        if new:
            _say(workspace, what, seed, prompt.provenance)
        found.append(prompt)
    return found


def signature_of(
    workspace: Workspace,
    name: str,
    which: str,
    made_of: Any,
    prompts: Callable[[], Sequence[SoftPrompt]],
    backbone: Callable[[], Backbone],
) -> Signature:
    """A signature kept as ``origin/<task>/<which>.safetensors``: read if current, so without any model.

    ``made_of`` says what the prompts are.
    """
    return kept_signatures.kept(
        workspace,
        workspace.task(name),
        _path(workspace, name, f"{which}.safetensors"),
        f"{which} of {name}",
        made_of=made_of,
        prompts=prompts,
        backbone=backbone,
    )


def random_prompt_signature(workspace: Workspace, name: str, like: SoftPrompt) -> Signature:
    """The predictivities of neurons on a task under random prompts of a prompt's shape, nothing tuned.

    As many draws as the study has of random controls, at least one.
    """
    draws, rows = max(1, workspace.settings.transfer.random_draws), len(like.rows)
    return signature_of(
        workspace,
        name,
        "random-prompts",
        f"{draws} random, {rows} rows, {like.template}",
        lambda: random_prompts(workspace.backbone, rows, template=like.template, draws=draws),
        lambda: workspace.backbone,
    )


def words_of(workspace: Workspace, name: str) -> WordSelectivity:
    """The word selectivity of all neurons on a task's train texts, ``origin/<task>/words.safetensors``."""
    study, task = workspace.settings, workspace.task(name)
    file = _path(workspace, name, "words.safetensors")
    inputs = {
        "model": workspace.model_fingerprint,
        "task": task.fingerprint,
        "max_length": study.max_length,
        "min_count": MIN_COUNT,
        "max_words": MAX_WORDS,
    }
    if file.is_file():
        arrays, meta = store.load_arrays(file)
        if is_current(meta, inputs, workspace.report, f"measuring word selectivity on {name}"):
            counts = {int(token): int(count) for token, count in meta["counts"].items()}
            return WordSelectivity(arrays["scores"], arrays["words"], counts, int(meta["tokens"]))
    data = encode(workspace.backbone, task.train, prompt_rows=0, max_length=study.max_length)
    found = word_selectivity(workspace.backbone, data, token_budget=study.token_budget)
    by_token = {str(token): count for token, count in found.counts.items()}
    meta = {"inputs": inputs, "counts": by_token, "tokens": found.tokens}
    store.save_arrays(file, {"scores": found.scores, "words": found.words}, meta)
    return found


def _path(workspace: Workspace, task: str, *parts: str) -> store.Place:
    return workspace.study.path(FOLDER, store.checked_name(task), *parts)


def require_classes(workspace: Workspace, name: str) -> None:
    """Raises StudyError for a task whose neurons have no predictivity."""
    if workspace.task(name).kind == "generation":
        able = [one for one in workspace.with_data if workspace.settings.tasks[one].kind == "classification"]
        raise StudyError(
            f"task {name!r} is a generation task, which has no classes and so no skill neurons; tasks of "
            f"this study that have: {', '.join(able) or 'none'}"
        )


def stage(workspace: Workspace, name: str) -> Callable[[int, int, str], None]:
    """The progress of one stage, as library functions report it."""
    return lambda done, total, text: workspace.progress(name, done, total, text)


def _say(workspace: Workspace, what: str, seed: int, provenance: Mapping[str, Any]) -> None:
    scores = provenance["scores"]
    workspace.report(
        f"tuned {what} seed {seed}: {scores['metric']} {scores['dev']:.3f} "
        f"(majority class {scores['majority']:.3f})"
    )
