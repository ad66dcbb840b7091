"""Pieces of work that a stage does next, each with files of its own: an executor may do them first."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Piece(ABC):
    """Work of plain values, which needs no other piece of its stage; ``stage`` is what progress calls it."""

    stage: ClassVar[str]


@dataclass(frozen=True)
class Start(Piece):
    """The tuning of a target from a start, a task of the study or a control: ``init/...``."""

    stage = "init"
    target: str
    start: str
    rate: float
    seed: int
    shots: int | None

    def __str__(self) -> str:
        few = "" if self.shots is None else f" on {self.shots} examples"
        return f"tuning {self.target}{few} from {self.start} at {self.rate:g}, seed {self.seed}"


@dataclass(frozen=True)
class Cells(Piece):
    """Some sources (``block``) on a target, of a column with all ``sources`` and without controls."""

    stage = "measure"
    protocol: str
    target: str
    sources: tuple[str, ...]
    block: tuple[str, ...]

    def __str__(self) -> str:
        return f"measuring {self.protocol} on {self.target}, from {', '.join(self.block)}"


@dataclass(frozen=True)
class Features(Piece):
    """A target's data under the prompts of a source: ``features/<target>/<source>/``."""

    stage = "features"
    target: str
    source: str

    def __str__(self) -> str:
        return f"features of {self.target} under {self.source}"


@dataclass(frozen=True)
class Profile(Piece):
    """Parts of a task's profile: ``profiles/<task>.safetensors``."""

    stage = "profile"
    task: str
    parts: tuple[str, ...]

    def __str__(self) -> str:
        return f"profile of {self.task}: {', '.join(self.parts)}"


@dataclass(frozen=True)
class Predictions(Piece):
    """Examples of a target under a prompt of a source: ``races/<target>/<source>/<seed>.json``."""

    stage = "race"
    target: str
    source: str
    seed: int
    positions: tuple[int, ...]

    def __str__(self) -> str:
        return f"racing {self.source} on {self.target}, seed {self.seed}: {len(self.positions)} examples"
