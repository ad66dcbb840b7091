"""A task's score while neurons are edited: one evaluation for each unit of a perturbation study."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from transferscope import attachment, neuron_levels
from transferscope.activations import Probe
from transferscope.encoding import encode
from transferscope.errors import SignatureError
from transferscope.evaluation import Evaluation, Prepared, evaluate, prepared
from transferscope.interventions import Edit, intervene
from transferscope.models import Backbone
from transferscope.pair_features import sample
from transferscope.perturbation_plan import PerturbationSettings, Unit
from transferscope.prompts import SoftPrompt
from transferscope.readouts import readout_for
from transferscope.tasks import Example, Task

LEVEL_EXAMPLES = 500  # of train, that say what a neuron's own mean and sd are


class Subject:
    """A task under its own prompts, to be scored while neurons are edited.

    Its dev split is tokenised once and put in batches once.
    """

    def __init__(
        self,
        backbone: Backbone,
        task: Task,
        prompts: Sequence[SoftPrompt],
        settings: PerturbationSettings,
        *,
        baseline: np.ndarray | None = None,
        max_length: int | None = None,
        token_budget: int = 8192,
    ) -> None:
        """``baseline`` [R, L, P, N]: that of the task's signature."""
        self.backbone, self.task, self.settings, self.prompts = backbone, task, settings, tuple(prompts)
        self.max_length, self.token_budget = max_length, token_budget
        self.baseline = baseline
        self.attached = [attachment.attach(backbone, prompt) for prompt in prompts]
        self.readouts = [
            readout_for(backbone, task, "verbalizer" if p.head is None else "classifier", layer=p.head)
            for p in prompts
        ]
        self._levels: dict[int, neuron_levels.Levels] = {}

    def score(self, unit: Unit) -> Evaluation:
        """The task's score on dev while the unit's neurons are edited."""
        attached, readout = self.attached[unit.place], self.readouts[unit.place]
        if not unit.neurons:
            return evaluate(attached, readout, self.dev, metric=self.task.metric)
        edit = self.edit(unit)
        with intervene(self.backbone, edit, attached=attached, seed=unit.noise) as edited:
            return evaluate(edited, readout, self.dev, metric=self.task.metric)

    def edit(self, unit: Unit) -> Edit:
        """What is done to the unit's neurons. Raises SignatureError where a baseline is missing."""
        how = self.settings
        own_sd = how.mode == "noise" and how.unit == "neuron"
        return Edit(
            neurons=unit.mask,
            mode=how.mode,
            sd=how.sd,
            unit=how.unit,
            scale=self.levels(unit.place).sd if own_sd else None,
            baseline=self._means(unit.place) if how.mode == "mean" else None,
            rows=how.rows,
            noise_by=how.noise_by,
        )

    def _means(self, place: int) -> np.ndarray:
        """What "mean" puts: [L, P, N] on the prompt rows, [L, N] on all rows."""
        if self.settings.rows == "all" and self.settings.baseline == "all-rows":
            return self.levels(place).mean
        if self.baseline is None:
            raise SignatureError(
                f"mode 'mean' needs the baseline of {self.task.name!r}: its signature has none"
            )
        by_row = np.nan_to_num(self.baseline[place])  # no train example was sent to that expert: adds nothing
        if self.settings.rows == "prompt":
            return by_row
        exists = Probe.of(self.attached[place]).exists  # [L, P]
        return np.asarray(np.where(exists[:, :, None], by_row, 0).sum(axis=1) / exists.sum(axis=1)[:, None])

    def levels(self, place: int) -> neuron_levels.Levels:
        """Each neuron's own mean and sd under one prompt, on at most 500 examples of train."""
        if place not in self._levels:
            attached = self.attached[place]
            self._levels[place] = neuron_levels.levels(attached, self._train, self.settings.rows)
        return self._levels[place]

    @cached_property
    def dev(self) -> Prepared:
        """The dev split in batches."""
        return self._batches(self.task.dev, self.task.max_new_tokens)

    @cached_property
    def _train(self) -> Prepared:
        return self._batches(sample(self.task, LEVEL_EXAMPLES), None)

    def _batches(self, examples: Sequence[Example], new_tokens: int | None) -> Prepared:
        rows = self.attached[0].rows
        data = encode(
            self.backbone,
            examples,
            prompt_rows=rows,
            max_length=self.max_length,
            max_new_tokens=new_tokens,
        )
        return prepared(self.backbone, data, prompt_rows=rows, token_budget=self.token_budget)
