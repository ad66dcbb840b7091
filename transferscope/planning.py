"""What a study will cost before it runs: forward passes, rows, operations, time and memory, by stage.

The passes are counted, not estimated (`transferscope.counting`), on an outline of the model without weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch

from transferscope import (
    foresight,
    measuring,
    pairing,
    safe_precision,
    store,
    templates,
    token_budget,
    transfer,
)
from transferscope.counting import Batches, Counter, Shape
from transferscope.errors import InputError, suggest
from transferscope.loading import choose_device
from transferscope.models import DTYPES, Backbone
from transferscope.outline import Sizes, outline, product_rate
from transferscope.pipeline import Pipeline
from transferscope.prompts import RECORD, SoftPrompt, load_prompt
from transferscope.settings import TuningSettings
from transferscope.signatures import load_signature
from transferscope.tasks import Task

Prompts = Mapping[str, tuple[SoftPrompt, ...] | None]  # by task; None while some are to be tuned
Stage = Literal["tune", "extract", "measure", "init"]
STAGES: tuple[Stage, ...] = ("tune", "extract", "measure")


@dataclass(frozen=True)
class Work:
    """One stage of one task: ``units`` (prompts, trials, cells, runs), those ``done``, what the rest costs.

    ``at_most``: it may be less (patience ends a tuning early, a text ends early). ``memory`` is the peak in
    bytes: ``weights``, ``activations`` of the largest batch, ``statistics`` and ``optimizer``.
    """

    stage: Stage
    task: str
    units: int
    done: int
    passes: int
    rows: int
    flops: float
    seconds: float
    at_most: bool
    weights: int
    activations: int
    statistics: int
    optimizer: int

    @property
    def memory(self) -> int:
        return self.weights + self.activations + self.statistics + self.optimizer


@dataclass(frozen=True)
class Plan:
    """A study's work by stage and task, on a device that does ``rate`` FLOP/s in a matrix product."""

    study: str
    model: str
    device: str
    rate: float
    work: tuple[Work, ...]
    notes: tuple[str, ...] = ()

    def total(self, field: str) -> float:
        """The sum of a field over all work; of memory the largest."""
        values = [getattr(one, field) for one in self.work]
        return max(values, default=0) if field == "memory" else sum(values)


def plan(
    study: Pipeline,
    *,
    stages: Sequence[str] = STAGES,
    tasks: Sequence[str] = (),
    rate: float | None = None,
) -> Plan:
    """What these stages of a study would do now, for these tasks (none: all). Nothing is run or written.

    ``rate`` None: measured here, for a moment, by a matrix product of the model's shape; the seconds are
    those of the operations at this rate, which is the least that they can take. Raises InputError: an unknown
    stage; what reading the study's tasks and the model's configuration raises.
    """
    for stage in stages:
        if stage not in STAGES:
            raise InputError(f"unknown stage {stage!r}. {suggest(stage, STAGES)}")
    planner = Planner(study)
    measured = study.measurable and len(study.settings.tasks) > 1
    wanted = [stage for stage in STAGES if stage in stages and (stage != "measure" or measured)]
    named = study.chosen(tasks)
    work: list[Work] = []
    for stage in wanted:
        work += planner.measure() if stage == "measure" else getattr(planner, stage)(named)
    return planner.plan(work, rate)


class Planner:
    """The stages of one study, counted; tasks, model and what is done are read once."""

    def __init__(self, study: Pipeline) -> None:
        self.study, self.settings = study, study.settings

    @cached_property
    def backbone(self) -> Backbone:
        """The model's outline."""
        return outline(self.study.model_name, self.settings.model, self.settings.head)

    @cached_property
    def sizes(self) -> Sizes:
        return Sizes.of(self.backbone, self.settings.model.quantization)

    @cached_property
    def device(self) -> torch.device:
        spread = self.settings.model.device_map is not None
        return choose_device("auto" if spread else self.settings.model.device)

    @cached_property
    def counter(self) -> Counter:
        return Counter(self.backbone, self.sizes, self.settings, self.device, self.budget)

    @cached_property
    def budget(self) -> int:
        """Rows in one pass of what is only read; on a GPU, if the settings leave it open, by its memory."""
        if self.settings.has_token_budget:
            return self.settings.token_budget
        return token_budget.automatic(self.backbone, self.device, self.sizes.weights)

    @cached_property
    def refused(self) -> str | None:
        """Why no predictivity will be extracted."""
        return foresight.refused_predictivity(self.study)

    @property
    def usual(self) -> Shape:
        """The prompts that the study tunes."""
        template = self.settings.template or templates.DEFAULTS[self.backbone.architecture.kind]
        return Shape(self.settings.tuning.rows, template)

    def plan(self, work: Iterable[Work], rate: float | None, notes: Sequence[str] = ()) -> Plan:
        """The plan of this work; ``rate`` as in `plan`."""
        model, work = self.settings.model, list(work)
        speed = rate or product_rate(self.sizes, self.budget, DTYPES[model.dtype], self.device)
        timed = tuple(replace(one, seconds=one.flops / speed) for one in work)
        every = (*self.notes(), *notes)
        return Plan(str(self.study.study.folder), model.name, str(self.device), speed, timed, every)

    def tune(self, tasks: Iterable[str]) -> Iterator[Work]:
        """Each task's prompts: steps and evaluations, a prompt at a time or several together."""
        tuning, shape = self.settings.tuning, self.usual
        for name in tasks:
            if self.settings.tasks[name].prompts is not None:
                continue
            task = self.study.task(name)
            missing = [seed for seed in self.settings.seeds if self.tuned(name, seed) is None]
            wanted = tuning.together is True or (tuning.together == "auto" and self.device.type == "cuda")
            blocks = [missing] if wanted and missing else [[seed] for seed in missing]
            counted = sum((self.counter.tuning(task, one, tuning, shape) for one in blocks), Batches())
            units = len(self.settings.seeds), len(self.settings.seeds) - len(missing)
            at_once, early = max(map(len, blocks), default=0), ends_early(task, tuning)
            yield self.of_tuning("tune", name, units, counted, at_once * shape.beside, early)

    def of_tuning(
        self, stage: Stage, name: str, units: tuple[int, int], counted: Batches, rows: int, at_most: bool
    ) -> Work:
        """Tunings, with the optimiser of so many prompt rows."""
        optimizer = self.sizes.optimizer(rows) if counted.passes else 0
        return replace(self.work(stage, name, units, counted), at_most=at_most, optimizer=optimizer)

    def extract(self, tasks: Iterable[str]) -> Iterator[Work]:
        """Each task's signature: over train and dev for each trial, and one empty text."""
        for name in tasks:
            prompts = self.prompts(name)
            shape, trials = self.usual, len(self.settings.seeds)
            if prompts is not None:
                shape, trials = shape_of(prompts[0]), len(prompts)
            done = trials if prompts is not None and self._extracted(name, prompts) else 0
            task = None
            if self.settings.tasks[name].has_data and not self.refused:
                task = self.study.task(name)
            read = None if task is None or task.kind == "generation" else task
            counted, statistics = self.counter.extraction(read, shape, trials - done)
            yield replace(self.work("extract", name, (trials, done), counted), statistics=statistics)

    def measure(self) -> Iterator[Work]:
        """Each target's cells: every prompt of every task, and the controls."""
        protocol = measuring.default_protocol(self.study)
        known = {name: self.prompts(name) for name in self.study.chosen(None)}
        for target in self.study.with_data:
            if protocol == transfer.LINEAR_PROBE and self.study.task(target).kind != "classification":
                continue
            yield self.cells(target, protocol, known)

    def cells(self, target: str, protocol: str, known: Prompts, *, with_controls: bool = True) -> Work:
        """One target's cells under these prompts."""
        task = self.study.task(target)
        every = list(self._own_cells(target, protocol, known))
        if with_controls:
            every += self._controls(target, protocol, known)
        missing = [shape for shape, found in every if not found]
        counted = self.counter.cells(task, missing, protocol)
        found = self.work("measure", target, (len(every), len(every) - len(missing)), counted)
        return replace(found, at_most=task.kind == "generation")

    def _own_cells(self, target: str, protocol: str, known: Prompts) -> Iterator[tuple[Shape, bool]]:
        """The shape of each prompt, and whether its cell is there."""
        there = self._there(target, protocol)
        for name, prompts in known.items():
            if prompts is None:
                yield from ((self.usual, False) for _ in self.settings.seeds)
            for one in prompts or ():
                found = there is not None and there.get(name, one.seed, one.fingerprint)
                yield shape_of(one), bool(found)

    def _controls(self, target: str, protocol: str, known: Prompts) -> Iterator[tuple[Shape, bool]]:
        """No prompt, and random ones."""
        there, draws, usual = self._there(target, protocol), self.settings.transfer.random_draws, self.usual
        recipes = {(transfer.NONE, 0): ""} | {(transfer.RANDOM, draw): "" for draw in range(draws)}
        complete = {name: several for name, several in known.items() if several is not None}
        if complete and len(complete) == len(known):
            recipes = transfer.control_recipes(complete, draws)
            usual = Shape(*transfer.usual_shape(complete))
        for (name, seed), recipe in recipes.items():
            found = there is not None and there.get(name, seed, recipe)
            yield (replace(usual, rows=0) if name == transfer.NONE else usual), bool(found)

    def _there(self, target: str, protocol: str) -> Any:
        """The cells that are there; None where the model is not known yet."""
        if self.study.remembered_fingerprint is None:
            return None
        return measuring.open_cells(self.study, target, protocol)

    def work(self, stage: Stage, task: str, units: tuple[int, int], counted: Batches) -> Work:
        """Without statistics and optimiser; where nothing is left to do, no memory either."""
        weights = self.sizes.weights if counted.passes else 0
        return Work(
            stage, task, *units, counted.passes, counted.rows, counted.flops, 0.0, False,
            weights, counted.memory, 0, 0,
        )  # fmt: skip

    def tuned(self, name: str, seed: int) -> SoftPrompt | None:
        """The study's own prompt, if it is there and current."""
        folder = self.study.study.prompt_folder(name, seed)
        return self.current(folder, self.study.task(name), self.settings.tuning)

    def current(
        self, folder: store.Place, task: Task, tuning: TuningSettings, start: SoftPrompt | None = None
    ) -> SoftPrompt | None:
        """The prompt of a folder, if it is there and what a tuning by these settings would give."""
        if self.study.remembered_fingerprint is None or not (folder / RECORD).is_file():
            return None
        prompt = load_prompt(folder)
        stored = prompt.provenance.get("inputs") or {}
        inputs = self.study.prompt_inputs(task, tuning, start)
        wanted = safe_precision.accepted(self.settings.model, stored, inputs)
        return None if store.stale_reason(stored, wanted) else prompt

    def prompts(self, name: str) -> tuple[SoftPrompt, ...] | None:
        """All prompts of a task, or None while some are to be tuned."""
        if self.settings.tasks[name].prompts is not None:
            return self.study.tune([name])[name]  # they are given: read, not tuned
        found = [self.tuned(name, seed) for seed in self.settings.seeds]
        return None if None in found else tuple(one for one in found if one is not None)

    def _extracted(self, name: str, prompts: Sequence[SoftPrompt]) -> bool:
        file = self.study.study.signature_file(name)
        if self.study.remembered_fingerprint is None or not file.is_file():
            return False
        inputs = self.study.signature_inputs(name, prompts)
        return not store.stale_reason(load_signature(file).provenance.get("inputs") or {}, inputs)

    def notes(self) -> tuple[str, ...]:
        """What the numbers leave out."""
        found = [
            "time is that of the operations at the rate of a matrix product: the least that they can take"
        ]
        if self.study.remembered_fingerprint is None and self.study.study.prompts():
            found.append(
                "the model is not known to this study yet, or has changed: nothing is taken for done"
            )
        if self.refused and self.study.with_data:
            found.append(self.refused)
        beside = [name for name in self.settings.indicators or () if pairing.concerns(name)]
        if beside:
            found.append(f"not counted: the passes of indicators that read data ({', '.join(beside)})")
        if self.settings.model.device_map is not None:
            found.append("memory is that of all devices together")
        return tuple(found)


def shape_of(prompt: SoftPrompt) -> Shape:
    """What decides the passes of a prompt."""
    return Shape(len(prompt.rows), prompt.template)


def ends_early(task: Task, tuning: TuningSettings) -> bool:
    """Whether a tuning may take fewer passes than it has steps for: by patience, or texts that end."""
    return tuning.patience is not None or task.kind == "generation"
