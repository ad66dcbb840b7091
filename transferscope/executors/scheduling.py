"""Units given to workers that may die: one loop for every kind of worker."""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from transferscope.errors import InputError, TransferscopeError, WorkerError
from transferscope.executors.registry import R, Report, U

ATTEMPTS = 3  # a unit whose worker died so many times is not tried again
PLACEMENTS = 12  # for a unit that so often found no worker, each further time counts as a death


@dataclass(frozen=True)
class Outcome:
    """How a unit ended: with a value, an error of ours, or another's (its first line and its traceback)."""

    value: Any = None
    error: TransferscopeError | None = None
    unexpected: tuple[str, str] | None = None


@dataclass(frozen=True)
class Death:
    """A worker that died, and how, as the end of "the process that did it ..."."""

    reason: str


@dataclass(frozen=True)
class Unplaced:
    """A worker that never was, for want of a node, and why (as in `Death`). Its unit is given to another."""

    reason: str


def attempt(function: Callable[[Any], Any], unit: Any) -> Outcome:
    """Do a unit, in a worker. Errors of others become text: not all of them survive the way back."""
    try:
        return Outcome(function(unit))
    except TransferscopeError as error:
        return Outcome(error=error)
    except Exception as error:
        return Outcome(unexpected=(f"{type(error).__name__}: {error}".strip(), traceback.format_exc()))


class Pool(ABC):
    """Places for workers, each doing one unit at a time; one that died is replaced with the next unit."""

    here = False

    def __init__(self, workers: int) -> None:
        """Raises InputError for less than one worker."""
        if workers < 1:
            raise InputError(f"an executor needs at least one worker, got {workers}")
        self.workers = workers

    @abstractmethod
    def give(self, place: int, function: Callable[[Any], Any], unit: Any) -> None:
        """Have `attempt(function, unit)` done by the worker at this place (0 to workers - 1)."""

    @abstractmethod
    def take(self) -> tuple[int, Outcome | Death | Unplaced]:
        """Wait for the next unit to end, and say at which place."""

    @abstractmethod
    def stop(self) -> None:
        """End all workers, with what they are doing; `give` starts new ones."""

    def places(self) -> Sequence[int]:
        """The places that may have a worker now. Raises WorkerError: there is none, nor will there be."""
        return range(self.workers)

    def close(self) -> None:
        """See `Executor.close`."""
        self.stop()

    def map(
        self, function: Callable[[U], R], units: Sequence[U], *, report: Report | None = None
    ) -> Iterator[tuple[U, R]]:
        """See `Executor.map`. Where it ends early, the workers are ended with it."""
        waiting, doing = deque(range(len(units))), dict[int, int]()
        deaths, unplaced = Counter[int](), Counter[int]()
        finished = False
        try:
            while waiting or doing:
                for place in self.places():
                    if waiting and place not in doing:
                        doing[place] = waiting.popleft()
                        self.give(place, function, units[doing[place]])
                place, outcome = self.take()
                number = doing.pop(place)
                if isinstance(outcome, Outcome):
                    yield units[number], _value(outcome, units[number])
                    continue
                waiting.appendleft(number)
                if isinstance(outcome, Unplaced):
                    unplaced[number] += 1
                    if unplaced[number] < PLACEMENTS:
                        continue
                deaths[number] += 1
                _go_on(units[number], outcome, deaths[number], report)
            finished = True
        finally:
            if not finished:
                self.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _value(outcome: Outcome, unit: Any) -> Any:
    if outcome.error is not None:
        raise outcome.error
    if outcome.unexpected is not None:
        line, trace = outcome.unexpected
        unexpected = WorkerError(f"{unit}: unexpected {line}")
        unexpected.add_note(trace)
        raise unexpected
    return outcome.value


def _go_on(unit: Any, death: Death | Unplaced, times: int, report: Report | None) -> None:
    if times >= ATTEMPTS:
        raise WorkerError(
            f"{unit}: the process that did it died {times} times; the last time it {death.reason}. What was "
            "finished is kept"
        )
    if report is not None:
        report(f"{unit}: the process that did it {death.reason}; doing it again")
