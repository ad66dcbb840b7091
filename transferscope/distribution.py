"""A study whose stages are spread over an executor: what is missing is done there, then read here."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from transferscope import measuring, pipeline, store, transfer
from transferscope.errors import InputError
from transferscope.executors import Executor
from transferscope.measuring import Prompts
from transferscope.models import Backbone
from transferscope.pieces import Piece
from transferscope.pipeline import Pipeline
from transferscope.prompts import SoftPrompt
from transferscope.signatures import Signature
from transferscope.transfer import TransferMatrix
from transferscope.units import Ahead, Extraction, Measurement, Preparation, Tuning, Unit, UnitStudy, perform
from transferscope.workspace import Progress, Report

PARTS = 4  # units of measuring for each worker, so that none waits long for the last


def open_study(
    path: Path | str,
    *,
    report: Report | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> Pipeline:
    """`transferscope.pipeline.open_study`, with an executor that tunes, extracts and measures.

    None, or one that works in this very process, leaves all to the pipeline. The executor stays the caller's,
    to close.
    """
    opened = pipeline.open_study(path, report=report, progress=progress)
    if executor is None or executor.here:
        return opened
    return DistributedPipeline(opened, executor)


class DistributedPipeline(Pipeline):
    """The stages of a study, whose missing units are done by an executor before each is gone through here.

    So every file is as it would be without an executor, and this process loads the model only for what is no
    unit: indicators that read targets' data, rankings that measure as they go, starts compared.
    """

    def __init__(self, opened: Pipeline, executor: Executor) -> None:
        folder, settings = opened.study.folder, opened.settings
        super().__init__(folder, settings, report=opened.report, progress=opened.progress)
        self.executor = executor
        self._address = _address(folder)
        self._opening = secrets.token_hex(8)
        self._there = _There(folder, settings)
        # What one of the two has read, the other need not read again.
        self._there._tasks, self._there._prompts = self._tasks, self._prompts
        self._said: set[str] = set()

    def tune(self, tasks: Sequence[str] | None = None) -> dict[str, tuple[SoftPrompt, ...]]:
        names = self.chosen(tasks)
        if given := [name for name in self.given(names) if name not in self._prompts]:
            super().tune(given)
        untuned = [name for name in names if name not in self._prompts]
        every = [
            Tuning(self._address, self._opening, name, seed)
            for name in untuned
            for seed in self.settings.seeds
        ]
        if units := [unit for unit in every if not self._there.has(unit)]:
            # Of all tasks, so that a mistake in the last one shows before hours of work.
            self._spread("check", [Preparation(self._address, self._opening, tuple(untuned))])
            self._spread("tune", units)
        return super().tune(names)

    def extract(self, tasks: Sequence[str] | None = None) -> dict[str, Signature]:
        names = self.chosen(tasks)
        if reason := self._foresee(names):
            self._said.add(reason)
        self.tune(names)
        units = []
        for name in names:
            if name not in self._signatures:
                signature = self._there.signature(name)
                if signature is not None:
                    self._signatures[name] = signature
                else:
                    units.append(Extraction(self._address, self._opening, name))
        self._spread("extract", units)
        return super().extract(names)

    def measure(
        self,
        protocol: str | None = None,
        *,
        targets: Sequence[str] | None = None,
        sources: Sequence[str] | None = None,
    ) -> TransferMatrix:
        chosen, goals, named = measuring.planned(self, protocol, targets, sources)
        columns: dict[str, tuple[Prompts, list[str]]] = {}
        for target, wanted in measuring.prompts_of_columns(self, goals, named).items():
            columns[target] = wanted, self._there.missing(target, wanted, chosen)
        missing = sum(len(names) for _, names in columns.values())
        size = max(1, round(missing / (PARTS * self.executor.workers)))
        units = [
            Measurement(
                self._address,
                self._opening,
                chosen,
                target,
                tuple(wanted),
                tuple(names[start : start + size]),
            )
            for target, (wanted, names) in columns.items()
            for start in range(0, len(names), size)
        ]
        self._spread("measure", units)
        return super().measure(protocol, targets=targets, sources=sources)

    def ahead(self, pieces: Sequence[Piece]) -> bool:
        """Pieces that a stage goes through next: those that are not there are done by the executor."""
        units = [Ahead(self._address, self._opening, piece) for piece in pieces]
        missing = [unit for unit in units if not self._there.has(unit)]
        for stage in dict.fromkeys(unit.piece.stage for unit in missing):
            self._spread(stage, [unit for unit in missing if unit.piece.stage == stage])
        return bool(missing)

    def _spread(self, stage: str, units: Sequence[Unit]) -> None:
        if not units:
            return
        self.progress(stage, 0, len(units), "")
        ended = self.executor.map(perform, units, report=self.report)
        for done, (unit, lines) in enumerate(ended, start=1):
            for line in lines:
                if line not in self._said:  # each worker loads the model, say
                    self._said.add(line)
                    self.report(line)
            self.progress(stage, done, len(units), str(unit))


class _Absent(Exception):
    """The model would be needed: something is not there yet."""


class _There(UnitStudy):
    """What is there and current of a study, as its pipeline sees it that has no model."""

    @cached_property
    def backbone(self) -> Backbone:
        return self._refuse()

    def _refuse(self) -> NoReturn:
        raise _Absent

    def has(self, unit: Unit) -> bool:
        """Whether a unit is done. If that cannot be said it is not: doing it says why."""
        try:
            unit.do(self)
        except (_Absent, InputError):
            return False
        return True

    def signature(self, task: str) -> Signature | None:
        """The signature of a task, if it need not be extracted."""
        try:
            return self.extraction(task)
        except _Absent:
            return None

    def missing(self, target: str, prompts: Prompts, protocol: str) -> list[str]:
        """The sources and controls with cells that are still to be measured."""
        try:
            return measuring.missing(self, target, prompts, protocol)
        except _Absent:
            return [*prompts, transfer.NONE, transfer.RANDOM]


def _address(folder: store.Place) -> str:
    return os.path.abspath(folder) if isinstance(folder, Path) else str(folder)
