"""What a study will cost before it runs: forward passes, rows, operations, time and memory, by stage.

The passes are counted, not estimated: tasks are read and tokenised, and batches made, as the stages do it.
Only the model has no weights (`transferscope.outline`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np
import torch

from transferscope import foresight, measuring, pairing, store, templates, transfer
from transferscope.activations import Probe
from transferscope.attachment import attach
from transferscope.encoding import Encoded, buckets, encode, in_order
from transferscope.errors import InputError, suggest
from transferscope.loading import choose_device
from transferscope.models import DTYPES, Backbone
from transferscope.outline import Sizes, outline, product_rate, statistics_bytes
from transferscope.pipeline import Pipeline
from transferscope.probing import sample_of_train
from transferscope.prompts import RECORD, SoftPrompt, load_prompt
from transferscope.signatures import load_signature
from transferscope.streaming import COMPAT_BATCH, within_cache
from transferscope.tasks import Task
from transferscope.tuning_run import batch_order, prepare

Stage = Literal["tune", "extract", "measure"]
STAGES: tuple[Stage, ...] = ("tune", "extract", "measure")


@dataclass(frozen=True)
class Batches:
    """Batches of a kind of pass: how many, the rows in them (prompt and padding counted), the largest."""

    passes: int = 0
    rows: int = 0
    flops: float = 0.0
    largest: int = 0

    def __add__(self, other: Batches) -> Batches:
        largest = max(self.largest, other.largest)
        return Batches(self.passes + other.passes, self.rows + other.rows, self.flops + other.flops, largest)

    def __mul__(self, times: int) -> Batches:
        return Batches(self.passes * times, self.rows * times, self.flops * times, self.largest)


@dataclass(frozen=True)
class Work:
    """One stage of one task: ``units`` (prompts, trials, cells), those ``done``, and what the rest costs.

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
    planner = _Planner(study, study.chosen(tasks))
    measured = study.measurable and len(study.settings.tasks) > 1
    wanted = [stage for stage in STAGES if stage in stages and (stage != "measure" or measured)]
    work = [one for stage in wanted for one in getattr(planner, stage)()]
    settings, sizes = study.settings, planner.sizes
    device = planner.device
    speed = rate or product_rate(sizes, settings.token_budget, DTYPES[settings.model.dtype], device)
    timed = tuple(replace(one, seconds=one.flops / speed) for one in work)
    return Plan(str(study.study.folder), settings.model.name, str(device), speed, timed, planner.notes())


class _Planner:
    """The stages of one study, counted; tasks, model and what is done are read once."""

    def __init__(self, study: Pipeline, tasks: Sequence[str]) -> None:
        self.study, self.settings, self.tasks = study, study.settings, tasks

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
    def refused(self) -> str | None:
        """Why no predictivity will be extracted."""
        return foresight.refused_predictivity(self.study)

    @property
    def template(self) -> str:
        return self.settings.template or templates.DEFAULTS[self.backbone.architecture.kind]

    def tune(self) -> Iterator[Work]:
        """Each task's prompts: steps and evaluations, a prompt at a time."""
        tuning = self.settings.tuning
        for name in self.tasks:
            if self.settings.tasks[name].prompts is not None:
                continue
            task, counted, done = self.study.task(name), Batches(), 0
            for seed in self.settings.seeds:
                if self._tuned(name, seed) is not None:
                    done += 1
                else:
                    counted += self._tuning(task, seed)
            free = tuning.patience is None and task.kind == "classification"
            rows = tuning.rows + (self.template == "mask-first")
            kept = self.sizes.tuning(counted.largest)
            found = self._work("tune", name, (len(self.settings.seeds), done), counted, kept)
            optimizer = self.sizes.optimizer(rows) if found.passes else 0
            yield replace(found, at_most=not free, optimizer=optimizer)

    def _tuning(self, task: Task, seed: int) -> Batches:
        """One prompt: its steps in the order that they have, its evaluations, and the one on dev."""
        tuning = self.settings.tuning
        setup = prepare(
            self.backbone, task, tuning, template=self.settings.template, head=self.settings.head,
            max_length=self.settings.max_length, token_budget=self.settings.token_budget, seed=seed,
        )  # fmt: skip
        rows = tuning.rows + (setup.template == "mask-first")
        order = batch_order(setup.fit.lengths, tuning.batch_size, seed)
        steps = self._count(setup.fit, list(islice(order, tuning.steps * tuning.accumulate)), rows)
        every = tuning.evaluate_every
        evaluations = tuning.steps // every + (tuning.steps % every > 0)
        # Frozen weights get no gradient: the way back costs what the way there costs.
        there_and_back = replace(steps, flops=2 * steps.flops)
        scored = self._scored(setup.validation, rows, task) * evaluations + self._scored(
            setup.dev, rows, task
        )
        return there_and_back + replace(scored, largest=0)

    def extract(self) -> Iterator[Work]:
        """Each task's signature: over train and dev for each trial, and one empty text."""
        for name in self.tasks:
            prompts = self._prompts(name)
            if prompts is None:
                trials, rows = len(self.settings.seeds), self.settings.tuning.rows
                template = self.template
            else:
                trials, rows, template = len(prompts), len(prompts[0].rows), prompts[0].template
            beside = rows + (template == "mask-first")
            done = trials if prompts is not None and self._extracted(name, prompts) else 0
            one, statistics = self._extraction(name, rows, template, beside)
            busy = self.sizes.reading(one.largest) + 16 * one.largest * self.sizes.neurons
            found = self._work("extract", name, (trials, done), one * (trials - done), busy)
            yield replace(found, statistics=statistics if found.passes else 0)

    def _extraction(self, name: str, rows: int, template: str, beside: int) -> tuple[Batches, int]:
        """One trial, and the bytes of its statistics."""
        spec, settings = self.settings.tasks[name], self.settings
        blank = Batches(1, 1 + beside, self.sizes.flops(1, 1 + beside), 1 + beside)
        if not spec.has_data or self.study.task(name).kind == "generation" or self.refused:
            return blank, 0
        task, total = self.study.task(name), blank
        for split in (task.train, task.dev):
            data = encode(self.backbone, split, prompt_rows=beside, max_length=settings.max_length)
            budget = within_cache(self.backbone, settings.token_budget)
            groups = buckets(data, prompt_rows=beside, token_budget=budget)
            if settings.signatures.compat:
                groups = in_order(len(data), COMPAT_BATCH)
            total += self._count(data, groups, beside)
        prompt = torch.zeros(rows, self.sizes.embedding, device=self.backbone.device)
        probed = Probe.of(attach(self.backbone, prompt, template))
        return total, statistics_bytes(
            task.classes, self.sizes.layers, probed.rows, self.sizes.neurons,
            subtasks=len(task.subtasks), wide=4 if self.device.type == "mps" else 8,
            experts=self.backbone.architecture.experts,
        )  # fmt: skip

    def measure(self) -> Iterator[Work]:
        """Each target's cells: every prompt of every task, and the controls."""
        protocol = measuring.default_protocol(self.study)
        names = self.study.chosen(None)
        known = {name: self._prompts(name) for name in names}
        for target in self.study.with_data:
            task = self.study.task(target)
            if protocol == transfer.LINEAR_PROBE and task.kind != "classification":
                continue
            counted, units, done = Batches(), 0, 0
            for rows, missing in self._cells(target, protocol, known):
                units, done = units + 1, done + (not missing)
                if missing:
                    counted += self._cell(task, rows, protocol)
            busy = self.sizes.reading(counted.largest)
            found = self._work("measure", target, (units, done), counted, busy)
            yield replace(found, at_most=task.kind == "generation")

    def _cells(
        self, target: str, protocol: str, known: dict[str, tuple[SoftPrompt, ...] | None]
    ) -> Iterator[tuple[int, bool]]:
        """For each cell the rows beside the text, and whether it is missing."""
        there = None
        if self.study.remembered_fingerprint is not None:
            there = measuring.open_cells(self.study, target, protocol)
        for name, prompts in known.items():
            if prompts is None:
                rows = self.settings.tuning.rows + (self.template == "mask-first")
                yield from ((rows, True) for _ in self.settings.seeds)
            for one in prompts or ():
                found = there is not None and there.get(name, one.seed, one.fingerprint)
                yield len(one.rows) + (one.template == "mask-first"), not found
        draws = self.settings.transfer.random_draws
        usual, template = self.settings.tuning.rows, self.template
        recipes = {(transfer.NONE, 0): ""} | {(transfer.RANDOM, draw): "" for draw in range(draws)}
        complete = {name: several for name, several in known.items() if several is not None}
        if complete and len(complete) == len(known):
            recipes = transfer.control_recipes(complete, draws)
            usual, template = transfer.usual_shape(complete)
        for (name, seed), recipe in recipes.items():
            found = there is not None and there.get(name, seed, recipe)
            yield (0 if name == transfer.NONE else usual) + (template == "mask-first"), not found

    def _cell(self, task: Task, rows: int, protocol: str) -> Batches:
        if protocol == transfer.ZERO_SHOT:
            return self._scored(self._encoded(task, "dev", rows), rows, task)
        return sum(
            (self._bucketed(self._encoded(task, split, rows), rows) for split in ("sample", "dev")), Batches()
        )

    def _encoded(self, task: Task, split: str, rows: int) -> Encoded:
        examples = (
            task.dev if split == "dev" else sample_of_train(task.train, self.settings.transfer.probe_examples)
        )
        return encode(
            self.backbone, examples, prompt_rows=rows, max_length=self.settings.max_length,
            max_new_tokens=task.max_new_tokens,
        )  # fmt: skip

    def _scored(self, data: Encoded, rows: int, task: Task) -> Batches:
        """One evaluation: a pass a batch, or, of texts, one for the loss and one for each token written."""
        read = self._bucketed(data, rows)
        if task.kind == "classification":
            return read
        most = task.max_new_tokens or 1
        body = self.sizes.decoder or self.sizes.body
        written = len(data) * most
        loss = replace(read, rows=read.rows + written, flops=read.flops + 2.0 * body * written)
        steps = Batches(read.passes * (most - 1), written, 2.0 * body * written, 0)
        return loss + read + steps

    def _bucketed(self, data: Encoded, rows: int) -> Batches:
        groups = buckets(data, prompt_rows=rows, token_budget=self.settings.token_budget)
        return self._count(data, groups, rows)

    def _count(self, data: Encoded, groups: Iterable[np.ndarray], rows: int) -> Batches:
        """Batches of these groups, each padded to its longest text."""
        lengths, total = data.lengths, Batches()
        for group in groups:
            width = int(lengths[group].max()) + rows
            size = len(group) * width
            total += Batches(1, size, self.sizes.flops(len(group), width), size)
        return total

    def _work(
        self, stage: Stage, task: str, units: tuple[int, int], counted: Batches, activations: int
    ) -> Work:
        """Without statistics and optimiser; where nothing is left to do, no memory either."""
        weights, busy = (self.sizes.weights, activations) if counted.passes else (0, 0)
        return Work(
            stage, task, *units, counted.passes, counted.rows, counted.flops, 0.0, False, weights, busy, 0, 0
        )

    def _tuned(self, name: str, seed: int) -> SoftPrompt | None:
        """The prompt, if it is there and current."""
        folder = self.study.study.prompt_folder(name, seed)
        if self.study.remembered_fingerprint is None or not (folder / RECORD).is_file():
            return None
        prompt = load_prompt(folder)
        inputs = self.study.prompt_inputs(self.study.task(name), self.settings.tuning)
        return None if store.stale_reason(prompt.provenance.get("inputs") or {}, inputs) else prompt

    def _prompts(self, name: str) -> tuple[SoftPrompt, ...] | None:
        """All prompts of a task, or None while some are to be tuned."""
        if self.settings.tasks[name].prompts is not None:
            return self.study.tune([name])[name]  # they are given: read, not tuned
        found = [self._tuned(name, seed) for seed in self.settings.seeds]
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
