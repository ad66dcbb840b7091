"""Options that commands share, where results go, and where messages go."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from transferscope.cli.messages import channels, finish, report

F = TypeVar("F", bound=Callable[..., Any])

FORMATS = ("table", "json", "csv", "md")


def output_options(function: F) -> F:
    """--format and --output: for each command that makes a table."""
    function = click.option(
        "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write there instead."
    )(function)
    choice = click.Choice(FORMATS)
    return click.option(
        "--format", "format_", type=choice, default="table", show_default=True, help="Of the result."
    )(function)


def study_option(required: bool = True) -> Callable[[F], F]:
    """--study: a study folder or its study.yaml."""
    path = click.Path(path_type=Path)
    return click.option("--study", type=path, required=required, help="A study folder or its study.yaml.")


def emit(record: Any, format_: str, output: Path | None) -> None:
    """A record in one of the formats to stdout, or whole or not at all to a file."""
    from transferscope.exporters import export

    text = export(record, format_, width=None if output else terminal_width())
    finish()
    if output is None:
        click.echo(text)
    else:
        from transferscope import store

        store.write_text(output, text + "\n")
        report(f"wrote {output}")


def terminal_width() -> int | None:
    """How wide a table may be: as the terminal is; as it likes where stdout is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def open_study(path: Path) -> Any:
    """The pipeline of a study, with its messages and progress on stderr."""
    from transferscope import pipeline

    report, progress = channels()
    return pipeline.open_study(path, report=report, progress=progress)


def read_types(path: Path | None) -> dict[str, str] | None:
    """A CSV file with the columns task,type as a dict; InputError names file and line."""
    from transferscope.errors import InputError
    from transferscope.store import read_csv

    if path is None:
        return None
    types = {}
    for row in read_csv(path, ("task", "type")):
        if not row["task"] or not row["type"]:
            raise InputError(
                f"{path}: a row with task {row['task']!r} and type {row['type']!r}; both are needed"
            )
        types[row["task"]] = row["type"]
    return types


def read_indicators(path: Path, names: Sequence[str] = ()) -> Any:
    """Indicator matrices (these, or all) from a long CSV file: indicator,source,target,value.

    Larger means "transfers better". InputError for a name that is not in the file.
    """
    from transferscope import comparison, store
    from transferscope.errors import InputError, suggest

    rows = store.read_csv(path, comparison.COLUMNS, numbers={"value"})
    matrices = {matrix.indicator: matrix for matrix in comparison.from_rows(rows, str(path))}
    for name in names:
        if name not in matrices:
            raise InputError(f"{path} has no indicator {name!r}. {suggest(name, matrices)}")
    return [matrices[name] for name in names or matrices]


def read_transfer(path: Path | None) -> Any:
    """Measured transfer, of the first protocol in a CSV file protocol,source,target,seed,metric,value."""
    from transferscope import store, transfer

    if path is None:
        return None
    rows = store.read_csv(path, transfer.COLUMNS, numbers={"seed", "value"})
    return next(iter(transfer.from_rows(rows)), None)
