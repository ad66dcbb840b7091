"""Tuning a soft prompt on a frozen backbone: AdamW on its rows alone, best checkpoint kept, resumable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from transferscope import attachment, store
from transferscope.attachment import Readout
from transferscope.evaluation import Evaluation
from transferscope.files import Place
from transferscope.models import Backbone
from transferscope.prompts import Head, SoftPrompt
from transferscope.settings import TuningSettings
from transferscope.tasks import Task
from transferscope.templates import Batch
from transferscope.tuning_run import STATE, Progress, Setup, TuningRun, hold_out, prepare

__all__ = ["Begun", "Progress", "Setup", "begin", "hold_out", "prepare", "tune"]


def tune(
    backbone: Backbone,
    task: Task,
    *,
    settings: TuningSettings | None = None,
    seed: int = 0,
    template: str | None = None,
    head: str = "verbalizer",
    init_from: SoftPrompt | None = None,
    max_length: int | None = None,
    token_budget: int = 8192,
    folder: store.Place | None = None,
    progress: Progress | None = None,
) -> SoftPrompt:
    """Tune a soft prompt of ``settings.rows`` rows for a task. The backbone is frozen and gets no gradient.

    Evaluates every ``evaluate_every`` steps on examples held out of train (with ``init_from`` before the
    first step, too), keeps the best (score, then loss), and scores that one on dev: ``provenance["scores"]``
    has ``validation``, ``dev``, ``dev_loss`` and ``majority``, ``provenance["curve"]`` the ``steps``,
    ``values`` and ``losses`` of the evaluations. With a ``folder``, the state is written there at each
    evaluation and a later call with the same inputs goes on from it. The same seed on the same machine gives
    the same prompt, interrupted or not.

    A generation task is tuned on the cross-entropy of its targets' tokens and scored on what it writes.

    Source: Su et al., NAACL 2022; Wang et al., EMNLP 2022: both tune on cross-entropy over the label words.
    """
    settings = settings or TuningSettings()
    if init_from is not None:  # its number of rows is kept, and the text gets the room they leave
        settings = settings.model_copy(update={"rows": len(init_from.rows)})
    setup = prepare(
        backbone,
        task,
        settings,
        template=template,
        head=head,
        max_length=max_length,
        token_budget=token_budget,
        seed=seed,
    )
    begun = begin(backbone, task, setup, settings, seed, init_from, max_length=max_length, folder=folder)
    run, state = begun.run, begun.state
    if init_from is not None and not run.curve:
        run.evaluate()  # a source that is best untouched stays so, and its curve begins there
    run.run(task.name, state, begun.inputs, progress)
    prompt = run.result(task)
    if state is not None:
        state.unlink(missing_ok=True)
    return prompt


@dataclass(frozen=True)
class Begun:
    """A tuning at its first step, or where its state left it: the run, the state's file, what it is of."""

    run: _Run
    state: Place | None
    inputs: str


def begin(
    backbone: Backbone,
    task: Task,
    setup: Setup,
    settings: TuningSettings,
    seed: int,
    init_from: SoftPrompt | None = None,
    *,
    max_length: int | None = None,
    folder: Place | None = None,
) -> Begun:
    """Begin the tuning of a prompt, or go on from the state that a folder has of the same inputs."""
    run = _Run(backbone, setup, settings, seed, init_from)
    state = None if folder is None else store.place(folder) / STATE
    inputs = store.fingerprint(
        backbone.fingerprint, task.fingerprint, settings.model_dump(), seed, setup.template, setup.head,
        max_length, init_from.fingerprint if init_from else None,
        *([str(backbone.autocast)] if backbone.autocast is not None else []),
    )  # fmt: skip
    if state is not None:
        run.load(state, inputs)
    return Begun(run, state, inputs)


class _Run(TuningRun):
    """The tuning of a prompt's rows."""

    def __init__(
        self, backbone: Backbone, setup: Setup, settings: TuningSettings, seed: int, init: SoftPrompt | None
    ) -> None:
        rows = attachment.initial_rows(
            backbone,
            settings.rows,
            init=init or settings.init,
            word_ids=setup.word_ids,
            candidates=np.unique(np.concatenate(setup.fit.ids)).tolist(),
            seed=seed,
        )
        self.prompt = rows.requires_grad_(True)
        attached = attachment.attach(backbone, self.prompt, setup.template)
        super().__init__(attached, setup, settings, seed, [self.prompt], None if init is None else init.head)

    def loss(self, batch: Batch) -> Tensor:
        """The backbone is frozen, so texts that stand before the prompt are read without gradients."""
        if not isinstance(self.readout, Readout):
            return super().loss(batch)
        return self.readout.loss(self.attached, batch, next(attachment.placements([self.attached], batch)))

    def result(self, task: Task, dev: Evaluation | None = None) -> SoftPrompt:
        """The best prompt, scored on dev (``dev`` if it was). Raises InputError: no loss was ever finite."""
        arrays, provenance = self.finish(task, dev)
        return SoftPrompt(
            rows=arrays[0],
            task=task.name,
            seed=self.seed,
            template=self.setup.template,
            head=Head(arrays[1], arrays[2]) if len(arrays) > 1 else None,
            provenance=provenance,
        )
