"""What a stage sends through the model, from the lengths of its texts: passes, rows, operations, memory.

Tasks are read and tokenised, and batches made, as the stages do it; the model is an outline without weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice

import numpy as np
import torch

from transferscope import text_cache, transfer
from transferscope.activations import Probe
from transferscope.attachment import attach
from transferscope.encoding import Encoded, buckets, encode, in_order
from transferscope.models import Backbone
from transferscope.outline import Sizes, statistics_bytes
from transferscope.pooling import Pool, cut_by_budget
from transferscope.probing import sample_of_train
from transferscope.settings import StudySettings, TuningSettings
from transferscope.streaming import COMPAT_BATCH, in_one_pass, within_cache
from transferscope.tasks import Example, Task
from transferscope.tuning_run import batch_order, prepare_seeds

# Of each batch its examples, and the tokens of its longest text.
Shapes = Sequence[tuple[int, int]]
TAKEN_IN = 16  # bytes a row and neuron of what extraction makes of a layer


@dataclass(frozen=True)
class Batches:
    """Passes of a kind: how many, the rows in them (prompt and padding counted), the bytes of the largest."""

    passes: int = 0
    rows: int = 0
    flops: float = 0.0
    memory: int = 0

    def __add__(self, other: Batches) -> Batches:
        memory = max(self.memory, other.memory)
        return Batches(self.passes + other.passes, self.rows + other.rows, self.flops + other.flops, memory)

    def __mul__(self, times: int) -> Batches:
        return Batches(self.passes * times, self.rows * times, self.flops * times, self.memory * bool(times))


@dataclass(frozen=True)
class Shape:
    """Of a prompt what decides its passes: how many rows it has, and its template."""

    rows: int
    template: str

    @property
    def beside(self) -> int:
        """The rows beside a text, the mask row counted."""
        return self.rows + (self.template == "mask-first")


def shapes(data: Encoded, groups: Iterable[np.ndarray]) -> list[tuple[int, int]]:
    """The shapes of these batches of a split, each padded to its longest text."""
    lengths = data.lengths
    return [(len(group), int(lengths[group].max())) for group in groups]


def over_texts(
    sizes: Sizes,
    batches: Shapes,
    beside: int,
    *,
    prompts: int = 1,
    shared: bool = False,
    to_end: bool = True,
    taken_in: int = 0,
) -> Batches:
    """Prompts of so many rows over a split, with nothing kept for a way back.

    ``shared``: a text goes through once for all of them. Not ``to_end``: passes end before the last down
    projection, save those over texts alone. ``taken_in`` are bytes for each row that is recorded.
    """
    total = Batches()
    for size, tokens in batches:
        width = tokens + beside
        if shared and tokens:
            texts, rows = size * tokens, size * beside
            held = max(sizes.reading(texts), sizes.reading(rows) + taken_in * rows)
            held += sizes.beside_texts(texts, rows)
            total += Batches(1, texts, sizes.flops(size, tokens), held)
            behind = sizes.flops(size, beside, before=tokens, to_end=to_end)
            total += Batches(1, rows, behind) * prompts
        else:
            rows = size * width
            held = sizes.reading(rows) + taken_in * rows
            total += Batches(1, rows, sizes.flops(size, width, to_end=to_end), held) * prompts
    return total


def steps(sizes: Sizes, batches: Shapes, beside: int, *, shared: bool = False) -> Batches:
    """Passes there and back: as weights are frozen and get no gradient, both ways cost the same.

    ``shared``: a text is read first, without a way back.
    """
    total = Batches()
    for size, tokens in batches:
        width = tokens + beside
        if shared and tokens:
            texts, rows = size * tokens, size * beside
            flops = sizes.flops(size, tokens) + 2 * sizes.flops(size, beside, before=tokens)
            total += Batches(2, texts + rows, flops, sizes.tuning_beside_texts(texts, rows))
        else:
            rows = size * width
            total += Batches(1, rows, 2 * sizes.flops(size, width), sizes.tuning(rows))
    return total


class Counter:
    """Counts the passes of single units of a study's work: a tuning, a signature, a target's cells."""

    def __init__(
        self, backbone: Backbone, sizes: Sizes, settings: StudySettings, device: torch.device, budget: int
    ) -> None:
        """``budget``: the rows in one pass of what is only read; the backbone may be an outline."""
        self.backbone, self.sizes, self.settings, self.device = backbone, sizes, settings, device
        self.budget = budget
        self._held: dict[tuple[str, str, int], Encoded] = {}  # of the last target

    @property
    def pools(self) -> bool:
        """Whether the steps of prompts that are tuned together share passes (`tuning_together.pools`)."""
        return self.device.type != "cpu"

    def shares(self, task: Task, shape: Shape) -> bool:
        """Whether texts of a task are read once for prompts of this shape; what is written never is."""
        return task.kind == "classification" and text_cache.shares(
            self.backbone, shape.template, shape.beside
        )

    def tuning(
        self,
        task: Task,
        seeds: Sequence[int],
        settings: TuningSettings,
        shape: Shape,
        *,
        from_source: bool = False,
    ) -> Batches:
        """Prompts that are tuned together, or one: steps in their order, evaluations, and the one on dev.

        ``from_source``: with an evaluation before the first step.
        """
        setups = prepare_seeds(
            self.backbone, task, settings, seeds, template=shape.template, head=self.settings.head,
            rows=shape.rows, max_length=self.settings.max_length, token_budget=self.budget,
        )  # fmt: skip
        stepped = self._steps(task, [setup.fit for setup in setups], seeds, settings, shape)
        every = settings.evaluate_every
        evaluations = settings.steps // every + (settings.steps % every > 0) + from_source
        chosen, last = (
            self._scored(task, Pool.of(parts).data, shape.beside)
            for parts in ([one.validation for one in setups], [one.dev for one in setups])
        )
        return stepped + chosen * evaluations + last

    def _steps(
        self,
        task: Task,
        fits: Sequence[Encoded],
        seeds: Sequence[int],
        settings: TuningSettings,
        shape: Shape,
    ) -> Batches:
        """The steps of each prompt; batches of several share passes where those do not fill the device."""
        count, total = settings.steps * settings.accumulate, Batches()
        orders = [
            islice(batch_order(fit.lengths, settings.batch_size, seed), count)
            for fit, seed in zip(fits, seeds, strict=True)
        ]
        if len(seeds) == 1 or not self.pools:
            for fit, order in zip(fits, orders, strict=True):
                shared = self.shares(task, shape)
                total += steps(self.sizes, shapes(fit, order), shape.beside, shared=shared)
            return total
        for groups in zip(*orders, strict=True):
            parts = [fit.lengths[group] for fit, group in zip(fits, groups, strict=True)]
            lengths, owner = np.concatenate(parts), np.repeat(range(len(parts)), [len(one) for one in parts])
            cut = cut_by_budget(lengths, owner, prompt_rows=shape.beside, token_budget=self.budget)
            total += steps(
                self.sizes, [(len(piece), int(lengths[piece].max())) for piece in cut], shape.beside
            )
        return total

    def extraction(self, task: Task | None, shape: Shape, trials: int) -> tuple[Batches, int]:
        """The trials of a signature, and the bytes of their statistics; of no task: on empty texts alone."""
        beside = shape.beside
        blank = over_texts(self.sizes, [(1, 1)], beside) * trials
        if task is None or not trials:
            return blank, 0
        compat = self.settings.signatures.compat
        shared = not compat and trials > 1 and self.shares(task, shape)
        prompt = torch.zeros(shape.rows, self.sizes.embedding, device=self.backbone.device)
        probed = Probe.of(attach(self.backbone, prompt, shape.template))
        cells = self.sizes.layers * probed.rows * self.sizes.neurons
        sizes, experts = (cells, task.classes, len(task.subtasks)), self.backbone.architecture.experts
        at_once = min(in_one_pass(*sizes, experts=experts) if shared else 1, trials)
        total = blank
        for done in range(0, trials, at_once):
            for split, to_end in ((task.train, self.settings.model.device_map is not None), (task.dev, True)):
                total += over_texts(
                    self.sizes, self._extracted(split, beside, compat), beside, shared=shared, to_end=to_end,
                    prompts=min(at_once, trials - done), taken_in=TAKEN_IN * self.sizes.neurons,
                )  # fmt: skip
        return total, at_once * statistics_bytes(
            task.classes, self.sizes.layers, probed.rows, self.sizes.neurons,
            subtasks=len(task.subtasks), wide=4 if self.device.type == "mps" else 8,
            experts=self.backbone.architecture.experts,
        )  # fmt: skip

    def _extracted(self, split: Sequence[Example], beside: int, compat: bool) -> Shapes:
        data = encode(self.backbone, split, prompt_rows=beside, max_length=self.settings.max_length)
        budget = within_cache(self.device, self.budget)
        cut = buckets(data, prompt_rows=beside, token_budget=budget)
        return shapes(data, in_order(len(data), COMPAT_BATCH) if compat else cut)

    def cells(self, task: Task, prompts: Sequence[Shape], protocol: str) -> Batches:
        """A target's cells under prompts of these shapes, in the order in which they are measured."""
        total = Batches()
        for (shared, _), group in groupby(prompts, lambda one: (self.shares(task, one), one.rows)):
            several = list(group)
            at_once = transfer.TOGETHER if shared else 1
            for start in range(0, len(several), at_once):
                block = several[start : start + at_once]
                total += self._cell(task, block[0].beside, protocol, shared, len(block))
        return total

    def _cell(self, task: Task, beside: int, protocol: str, shared: bool, prompts: int) -> Batches:
        if task.kind == "generation":
            return self._scored(task, self._texts(task, "dev", beside), beside) * prompts
        total = Batches()
        for split in ("dev",) if protocol == transfer.ZERO_SHOT else ("sample", "dev"):
            cut = self._cut(self._texts(task, split, beside), beside)
            total += over_texts(self.sizes, cut, beside, prompts=prompts, shared=shared)
        return total

    def _texts(self, task: Task, split: str, beside: int) -> Encoded:
        """Dev, or the sample of train that a linear probe is fitted on."""
        key, most = (task.name, split, beside), self.settings.transfer.probe_examples
        if key not in self._held:
            self._held = {known: data for known, data in self._held.items() if known[0] == task.name}
            self._held[key] = encode(
                self.backbone, task.dev if split == "dev" else sample_of_train(task.train, most),
                prompt_rows=beside, max_length=self.settings.max_length, max_new_tokens=task.max_new_tokens,
            )  # fmt: skip
        return self._held[key]

    def _cut(self, data: Encoded, beside: int) -> Shapes:
        return shapes(data, buckets(data, prompt_rows=beside, token_budget=self.budget))

    def _scored(self, task: Task, data: Encoded, beside: int) -> Batches:
        """One evaluation: a pass a batch, or, of texts, one for the loss and one for each token written."""
        read = over_texts(self.sizes, self._cut(data, beside), beside)
        if task.kind == "classification":
            return read
        most = task.max_new_tokens or 1
        body = self.sizes.decoder or self.sizes.body
        written = len(data) * most
        loss = replace(read, rows=read.rows + written, flops=read.flops + 2.0 * body * written)
        return loss + read + Batches(read.passes * (most - 1), written, 2.0 * body * written)
