"""Units of a study's work, as plain values, and doing one in any process that sees the study's folder.

A unit is done through the study: what it makes is stored, and of a unit that is done already nothing is done
again.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from transferscope import measuring
from transferscope.errors import StudyError
from transferscope.pairing import TargetFeatures, profile_of
from transferscope.pieces import Cells, Features, Piece, Predictions, Profile, Start
from transferscope.pipeline import Pipeline, open_study
from transferscope.prompts import SoftPrompt, load_prompt
from transferscope.raced import Evaluations
from transferscope.signatures import Signature


class UnitStudy(Pipeline):
    """A study as one who does single units sees it: prompts that an earlier stage made are read, not checked.

    ``said`` has the lines that were reported.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self.said: list[str] = []
        # Of the last target, whose data are then encoded: the next unit is often of the same one.
        self._features: TargetFeatures | None = None
        self._raced: Evaluations | None = None
        super().__init__(*args, report=lambda line: self.said.append(line), **options)

    def prepare(self, tasks: tuple[str, ...]) -> None:
        """Check these tasks for tuning, and remember the model's fingerprint in the study."""
        self._check(tasks)
        _ = self.model_fingerprint

    def tuning(self, task: str, seed: int) -> None:
        """The prompt of one task and seed."""
        self._tuned(task, seed, lambda done, total, text: None)

    def extraction(self, task: str) -> Signature:
        """The signature of one task."""
        return self._extracted(task, self.prompts_of(task))

    def measurement(
        self, protocol: str, target: str, sources: tuple[str, ...], block: tuple[str, ...]
    ) -> None:
        """The cells of some sources and controls on one target, of a column with all these sources."""
        prompts = {name: self.prompts_of(name) for name in sources}
        measuring.measure_column(self, target, prompts, protocol, block=block)

    def start(self, piece: Start) -> None:
        """A target tuned from a task of the study or a control."""
        prompts = self.prompts_of(piece.start) if piece.start in self.settings.tasks else ()
        tuning = measuring.tuning_of(self.settings.tuning, piece.start, piece.rate, piece.shots)
        measuring.tune_start(self, piece.target, piece.start, prompts, tuning, piece.seed, piece.shots)

    def cells(self, piece: Cells) -> None:
        """`measurement`, without controls."""
        prompts = {name: self.prompts_of(name) for name in piece.sources}
        how: dict[str, Any] = {"with_controls": False, "block": piece.block}
        measuring.measure_column(self, piece.target, prompts, piece.protocol, **how)

    def features(self, piece: Features) -> None:
        """A target's data under the prompts of a source."""
        if self._features is None or self._features.target != piece.target:
            self._features = TargetFeatures(self, piece.target)
        for prompt in self.prompts_of(piece.source):
            self._features.get(piece.source, prompt)

    def profile(self, piece: Profile) -> None:
        """Parts of a task's profile; of texts alone without prompts."""
        own = any(part != "texts" for part in piece.parts)
        profile_of(self, piece.task, self.prompts_of(piece.task) if own else (), piece.parts)

    def predictions(self, piece: Predictions) -> None:
        """Examples of a target under one prompt of a source."""
        if self._raced is None or self._raced.target != piece.target:
            self._raced = Evaluations(self, piece.target)
        self._raced.forget()
        (prompt,) = (one for one in self.prompts_of(piece.source) if one.seed == piece.seed)
        self._raced.run(piece.source, prompt, piece.positions)

    def prompts_of(self, task: str) -> tuple[SoftPrompt, ...]:
        """The prompts of a task, read once."""
        if task not in self._prompts:
            self._prompts[task] = (
                self._given(task)
                if self.settings.tasks[task].prompts is not None
                else tuple(load_prompt(self.study.prompt_folder(task, s)) for s in self.settings.seeds)
            )
        return self._prompts[task]


@dataclass(frozen=True)
class Unit(ABC):
    """One unit of work: ``study`` is the address of the study's folder.

    ``opening`` tells one opening of a study from the next: what a worker has read serves one of them.
    """

    study: str
    opening: str

    @abstractmethod
    def do(self, study: UnitStudy) -> None:
        """Do it, or what is missing of it."""


@dataclass(frozen=True)
class Preparation(Unit):
    """What comes before the first tuning of some tasks: mistakes in them show, and the model is known."""

    tasks: tuple[str, ...]

    def do(self, study: UnitStudy) -> None:
        study.prepare(self.tasks)

    def __str__(self) -> str:
        return f"checking {', '.join(self.tasks)}"


@dataclass(frozen=True)
class Tuning(Unit):
    """The tuning of one task with one seed."""

    task: str
    seed: int

    def do(self, study: UnitStudy) -> None:
        study.tuning(self.task, self.seed)

    def __str__(self) -> str:
        return f"tuning {self.task} seed {self.seed}"


@dataclass(frozen=True)
class Extraction(Unit):
    """The extraction of one task's signature."""

    task: str

    def do(self, study: UnitStudy) -> None:
        study.extraction(self.task)

    def __str__(self) -> str:
        return f"extracting {self.task}"


@dataclass(frozen=True)
class Measurement(Unit):
    """Some sources and controls (``block``) on one target, of a column with all ``sources``."""

    protocol: str
    target: str
    sources: tuple[str, ...]
    block: tuple[str, ...]

    def do(self, study: UnitStudy) -> None:
        study.measurement(self.protocol, self.target, self.sources, self.block)

    def __str__(self) -> str:
        return f"measuring {self.protocol} on {self.target}, from {', '.join(self.block)}"


@dataclass(frozen=True)
class Ahead(Unit):
    """A piece of work that a stage said comes next."""

    piece: Piece

    def do(self, study: UnitStudy) -> None:
        ways: dict[type[Piece], Callable[[Any], None]] = {
            Start: study.start,
            Cells: study.cells,
            Features: study.features,
            Profile: study.profile,
            Predictions: study.predictions,
        }
        ways[type(self.piece)](self.piece)

    def __str__(self) -> str:
        return str(self.piece)


def perform(unit: Unit) -> tuple[str, ...]:
    """Do a unit, in whatever process this is, and return what was reported.

    The study stays open for the next unit, so that its model is loaded once.
    """
    study = _opened(unit.study, unit.opening)
    study.said.clear()
    unit.do(study)
    return tuple(study.said)


@lru_cache(maxsize=1)
def _opened(address: str, opening: str) -> UnitStudy:
    try:
        found = open_study(address)
    except StudyError as error:
        raise StudyError(
            f"{error}, as seen by a worker on {socket.gethostname()}: "
            "all workers need the study's folder under the same name"
        ) from None
    study = UnitStudy(found.study.folder, found.settings)
    study.device = own_device(found.settings.model.device)
    return study


def own_device(name: str) -> str:
    """The device that a study names, as a worker that may see fewer has it: cuda:3 of one GPU is cuda:0."""
    kind, _, number = name.partition(":")
    if kind != "cuda" or not number.isdecimal():
        return name
    import torch

    return f"cuda:{int(number) % max(1, torch.cuda.device_count())}"
