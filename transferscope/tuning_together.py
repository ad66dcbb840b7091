"""Several prompts of one task tuned in one batch: R trials, one step of each at a time, one frozen model.

Each trial is what it would be alone: its own split, order of batches, optimiser, schedule, clipping, choice
of the checkpoint and patience. Common is the pass through the model alone, and that not on a CPU. There the
same sums are taken over batches of other sizes and widths, in another order, so the prompts agree to float32
rounding and not bit for bit; AdamW divides by the gradient's own size, so a coordinate whose gradient is all
rounding moves freely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from transferscope.encoding import Encoded, collate
from transferscope.errors import InputError, PromptError
from transferscope.files import Place
from transferscope.models import Backbone
from transferscope.pooling import (
    Pool,
    Trial,
    cut_by_budget,
    evaluate_together,
    shares,
)
from transferscope.prompts import SoftPrompt
from transferscope.settings import TuningSettings
from transferscope.tasks import Task
from transferscope.templates import Batch
from transferscope.tuning import Begun, Progress, begin
from transferscope.tuning_run import TuningRun, prepare_seeds

Keep = Callable[[SoftPrompt], None]


def tune_together(
    backbone: Backbone,
    task: Task,
    *,
    seeds: Sequence[int],
    settings: TuningSettings | None = None,
    template: str | None = None,
    head: str = "verbalizer",
    init_from: Sequence[SoftPrompt] | None = None,
    max_length: int | None = None,
    token_budget: int = 8192,
    folders: Sequence[Place] | None = None,
    progress: Progress | None = None,
    keep: Keep | None = None,
) -> list[SoftPrompt]:
    """The prompts that `tune` gives for these R seeds, to float32 rounding, tuned in common batches.

    ``init_from`` and ``folders`` are one a seed; the states in the folders are those of `tune`, so either
    goes on from what the other left, and trials may be at different steps. A trial that has ended leaves the
    batch. ``keep`` is called with each prompt when all have ended. ``progress`` gets the steps of all trials.

    On a GPU a step is one pass of at most ``token_budget`` rows at a time; on a CPU, which one trial's batch
    fills, each trial's is a pass of its own, and texts and evaluations alone are common. Works for all that
    `tune` does, except that prompts to start from must have the same number of rows. Raises PromptError where
    they have not, InputError for seeds that are not distinct and where the loss of a trial was never finite
    (the others are kept before it is raised).
    """
    runs = _begun(
        backbone, task, seeds, settings or TuningSettings(), init_from, folders,
        template=template, head=head, max_length=max_length, token_budget=token_budget,
    )  # fmt: skip
    if init_from is not None:
        _evaluate([one.run for one in runs if not one.run.curve])
    while live := [one for one in runs if not one.run.finished]:
        step_together([one.run for one in live])
        due = [one for one in live if one.run.due]
        _evaluate([one.run for one in due])
        for one in due:
            if one.state is not None and one.run.scored:
                one.run.save(one.state, one.inputs)
        if progress is not None:
            progress(*_done(task, [one.run for one in runs]))
    return _results(task, runs, keep)


def _begun(
    backbone: Backbone,
    task: Task,
    seeds: Sequence[int],
    settings: TuningSettings,
    init_from: Sequence[SoftPrompt] | None,
    folders: Sequence[Place] | None,
    **options: Any,
) -> list[Begun]:
    """The trials, each at its first step or where its state left it."""
    if not seeds or len(set(seeds)) != len(seeds):
        raise InputError(f"prompts tuned together need one seed each, all different; found {list(seeds)}")
    starts: Sequence[SoftPrompt | None] = init_from or [None] * len(seeds)
    places: Sequence[Place | None] = folders or [None] * len(seeds)
    if not len(starts) == len(places) == len(seeds):
        raise InputError(
            f"{len(seeds)} seeds need as many prompts to start from and folders, found {len(starts)} and "
            f"{len(places)}"
        )
    rows = {len(start.rows) for start in starts if start is not None}
    if len(rows) > 1:
        raise PromptError(
            f"the prompts to start from have {', '.join(map(str, sorted(rows)))} rows; those tuned together "
            "need the same number: tune those of another number apart"
        )
    if rows:
        settings = settings.model_copy(update={"rows": rows.pop()})
    setups = prepare_seeds(backbone, task, settings, seeds, **options)
    return [
        begin(backbone, task, setup, settings, seed, start, max_length=options["max_length"], folder=folder)
        for setup, seed, start, folder in zip(setups, seeds, starts, places, strict=True)
    ]


def pools(backbone: Backbone) -> bool:
    """Whether the trials' batches share passes: they would only leave the cache of a CPU."""
    return backbone.device.type != "cpu"


def step_together(runs: Sequence[TuningRun]) -> None:
    """One update of each trial, which all have the same settings; each may be at a step of its own."""
    if not pools(runs[0].backbone):
        for run in runs:
            run.step_once()
        return
    for run in runs:
        run.begin_step()
    for _ in range(runs[0].settings.accumulate):
        _add_gradients(runs, [run.setup.fit.take(next(run.order)) for run in runs])
    for run in runs:
        run.end_step()


def _add_gradients(runs: Sequence[TuningRun], parts: Sequence[Encoded]) -> None:
    """The gradient of each trial's mean loss over its own batch, of all batches piece by piece."""
    backbone, pool = runs[0].backbone, Pool.of(parts)
    weights = torch.from_numpy(shares(parts) / runs[0].settings.accumulate)
    trials = [Trial(run.attached, run.readout) for run in runs]
    rows, budget = runs[0].attached.rows, runs[0].setup.token_budget
    pieces = cut_by_budget(pool.data.lengths, pool.owner, prompt_rows=rows, token_budget=budget)

    def loss(batch: Batch) -> Tensor:
        pooled = pool.of_batch(trials, batch)
        losses = pooled.readout.losses(pooled.attached, batch)
        return losses @ weights[list(batch.index)].to(losses.device)

    parameters, beside = [one for run in runs for one in run.parameters], trials[0].attached.rows
    for piece in pieces:
        batch = collate(backbone, pool.data, pool.by_trial(piece))
        backbone.fitting.backward("tuning", batch, loss, parameters, beside=beside, summed=True)


def _evaluate(runs: Sequence[TuningRun]) -> None:
    """Score each trial on its own held-out examples."""
    if not runs:
        return
    found = evaluate_together(
        [Trial(run.attached, run.readout) for run in runs],
        [run.setup.validation for run in runs],
        metric=runs[0].setup.metric,
        token_budget=runs[0].setup.token_budget,
    )
    for run, score in zip(runs, found, strict=True):
        run.judge(score)


def _done(task: Task, runs: Sequence[TuningRun]) -> tuple[int, int, str]:
    """Steps made of all trials, how many there are, and what is said of them."""
    best = [run.best_text for run in runs if run.scored]
    named = ", ".join(str(run.seed) for run in runs)
    steps = sum(run.settings.steps if run.finished else run.step for run in runs)
    return (
        steps,
        sum(run.settings.steps for run in runs),
        f"{task.name} seeds {named} {max(best, default='')}",
    )


def _results(task: Task, begun: Sequence[Begun], keep: Keep | None) -> list[SoftPrompt]:
    """The best prompts, scored on dev together; a trial that diverged is said when the others are kept."""
    good = [one for one in begun if one.run.scored]
    for one in good:
        one.run.take_best(task)
    prompts = []
    if good:
        setup = good[0].run.setup
        scores = evaluate_together(
            [Trial(one.run.attached, one.run.readout) for one in good],
            [setup.dev] * len(good),
            metric=setup.metric,
            token_budget=setup.token_budget,
        )
        for one, dev in zip(good, scores, strict=True):
            prompts.append(_with_company(one.run.result(task, dev), begun))
            if one.state is not None:
                one.state.unlink(missing_ok=True)
            if keep is not None:
                keep(prompts[-1])
    for one in begun:
        one.run.take_best(task)  # raises for one that diverged
    return prompts


def _with_company(prompt: SoftPrompt, begun: Sequence[Begun]) -> SoftPrompt:
    """The prompt, with the seeds that shared its batches in its provenance."""
    seeds = [one.run.seed for one in begun]
    return replace(prompt, provenance={**prompt.provenance, "tuned_together": seeds})
