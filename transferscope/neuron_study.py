"""Skill neurons of a study: between its tasks, along a task's prompts, and one by one."""

from __future__ import annotations

from collections.abc import Sequence

from transferscope import store
from transferscope.errors import TaskError
from transferscope.neuron_view import EXAMPLES, TOP, NeuronView, choose, view
from transferscope.pipeline import Pipeline
from transferscope.prompt_rows import (
    RowAccuracy,
    RowsReport,
    load_rows,
    measure_rows,
    save_rows,
    where_on_prompt,
)
from transferscope.skill_sets import RATE
from transferscope.specificity import SpecificityReport, specificity
from transferscope.staleness import is_current
from transferscope.word_promotion import WORDS, Neuron


def compare_tasks(
    pipeline: Pipeline, *, rate: float = RATE, by: str = "layer", seed: int = 0
) -> SpecificityReport:
    """Skill neurons between the tasks of a study; signatures that are missing are extracted first."""
    return specificity(pipeline.extract(), types=pipeline.types, rate=rate, by=by, seed=seed)


def where(
    pipeline: Pipeline, task: str, *, rate: float = RATE, by: str = "layer", seed: int = 0
) -> RowsReport:
    """Where on the prompt a task shows, and how many rows and trials settle its skill neurons."""
    return where_on_prompt(stored_rows(pipeline, task), rate=rate, by=by, seed=seed)


def stored_rows(pipeline: Pipeline, name: str) -> RowAccuracy:
    """A task's accuracies by row, from ``rows/<task>.safetensors``; measured where that is not current.

    Raises TaskError for a task without classes.
    """
    task, settings = pipeline.task(name), pipeline.settings
    if task.kind != "classification":
        raise TaskError(f"task {name!r} is a generation task, and predictivity needs classes")
    prompts = pipeline.tune([name])[name]
    inputs = pipeline.signature_inputs(name, prompts)
    file = pipeline.study.path("rows", f"{store.checked_name(name)}.safetensors")
    if file.is_file():
        found = load_rows(file)
        if is_current(found.provenance, inputs, pipeline.report, f"measuring the rows of {name}"):
            return found
    measured = measure_rows(
        pipeline.backbone,
        task,
        prompts,
        max_length=settings.max_length,
        compat=settings.signatures.compat,
        balanced=settings.signatures.balanced,
        token_budget=settings.token_budget,
        progress=lambda done, total, text: pipeline.progress("rows", done, total, text),
    )
    found = RowAccuracy(measured.task, measured.seeds, measured.accuracy, {"inputs": inputs})
    save_rows(found, file)
    pipeline.report(f"measured the rows of {name}: {len(prompts)} trials")
    return found


def look(
    pipeline: Pipeline,
    name: str,
    *,
    neurons: Sequence[Neuron] | None = None,
    top: int = TOP,
    rate: float | None = None,
    by: str = "layer",
    shown: int | None = None,
    examples: int = EXAMPLES,
    words: int = WORDS,
    bins: int | None = None,
) -> NeuronView:
    """These neurons of a task, or its top ones, or all its skill neurons at a rate.

    Raises SignatureError for a task without predictivity (no data, no classes).
    """
    (signature,) = pipeline.extract([name]).values()
    chosen = neurons if neurons is not None else choose(signature, top=top, rate=rate, by=by)
    _ = signature.subtask_predictivity  # says why there is none, before the task's data are asked for
    settings = pipeline.settings
    return view(
        pipeline.backbone,
        pipeline.task(name),
        pipeline.tune([name])[name],
        signature,
        chosen,
        shown=shown,
        examples=examples,
        words=words,
        bins=bins,
        max_length=settings.max_length,
        balanced=settings.signatures.balanced,
        token_budget=settings.token_budget,
    )
