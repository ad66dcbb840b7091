"""What an importer is: a function that makes or extends a study, registered with its parameters' help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from transferscope.errors import InputError, suggest
from transferscope.exporters import Table, tabular

F = TypeVar("F", bound=Callable[..., "ImportReport"])


@dataclass(frozen=True)
class ImportReport:
    """What an import found and wrote.

    `tasks` are the tasks of the study that it made or changed, `prompts` how many prompts were read, `cells`
    how many results went into transfer.csv, `random` how many of a random prompt beside them, `apart` how
    many results stand in a table of their own, `missing` how many results would fill the matrix. `problems`
    says what was left out or is not as expected, one line each.
    """

    importer: str
    study: str
    model: str
    tasks: tuple[str, ...] = field(default_factory=tuple)
    prompts: int = 0
    cells: int = 0
    random: int = 0
    apart: int = 0
    missing: int = 0
    problems: tuple[str, ...] = field(default_factory=tuple)


@dataclass(frozen=True)
class Importer:
    """One importer. Its function's parameters are the command's: positional ones are arguments, keyword-only
    ones options; `help` says what each option is.
    """

    name: str
    function: Callable[..., ImportReport]
    help: dict[str, str]


_IMPORTERS: dict[str, Importer] = {}


def importer(name: str, **help_: str) -> Callable[[F], F]:
    """Register a function as `transferscope import NAME`."""

    def add(function: F) -> F:
        _IMPORTERS[name] = Importer(name, function, help_)
        return function

    return add


def names() -> list[str]:
    """The names of all importers, sorted."""
    return sorted(_IMPORTERS)


def get(name: str) -> Importer:
    """One importer by name. Raises InputError with the nearest name."""
    if name not in _IMPORTERS:
        raise InputError(f"no importer {name!r}. {suggest(name, _IMPORTERS)}")
    return _IMPORTERS[name]


COUNTS = {
    "tasks": "tasks of the study",
    "prompts": "prompts read",
    "cells": "results in transfer.csv",
    "random": "results of a random prompt beside them",
    "apart": "results of other backbones' prompts, apart in cross-model.csv",
    "missing": "results that are missing",
}


def _tables(report: ImportReport) -> list[Table]:
    counts = {
        name: len(value) if isinstance(value := getattr(report, name), tuple) else value for name in COUNTS
    }
    rows = tuple((COUNTS[name], number) for name, number in counts.items())
    model = f", model {report.model}" if report.model else ""
    summary = Table(("what", "number"), rows, f"Imported into {report.study}{model}")
    if not report.problems:
        return [summary]
    problems = Table(("not as expected",), tuple((line,) for line in report.problems))
    return [problems, summary]


def _long(report: ImportReport) -> Table:
    counts = _tables(report)[-1].rows
    rows = tuple((str(what), number, "") for what, number in counts)
    return Table(
        ("what", "number", "text"), rows + tuple(("problem", None, line) for line in report.problems)
    )


tabular(ImportReport, _tables, _long)
