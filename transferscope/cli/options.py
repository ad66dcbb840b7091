"""Options that commands share, where results go, and where messages go."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from transferscope.cli.messages import channels, finish, report

F = TypeVar("F", bound=Callable[..., Any])

FORMATS = ("table", "json", "csv", "md")
PLOT, PLOT_KIND = "transferscope.plot", "transferscope.plot_kind"
EXECUTOR, WORKERS, ADDRESS = "transferscope.executor", "transferscope.workers", "transferscope.address"


class PlaceType(click.Path):
    """A local path, checked as `click.Path` does, or an address such as s3://bucket/study."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A Path, or an Address. Raises StudyError for an address that cannot be used."""
        from transferscope.addresses import Address, is_address

        return Address(value) if is_address(value) else super().convert(value, param, ctx)


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
    """--study: a study folder or its study.yaml, here or at an address."""
    help_ = "A study folder or its study.yaml; also an address, s3://bucket/study."
    return click.option("--study", type=PlaceType(), required=required, help=help_)


def dry_run_option(function: F) -> F:
    """--dry-run: for each command that runs stages of a study."""
    return click.option(
        "--dry-run",
        is_flag=True,
        help="Only print what it would cost: forward passes, time and memory.",
    )(function)


def emit_plan(
    study: Path,
    stages: Sequence[str],
    format_: str,
    output: Path | None,
    tasks: Sequence[str] = (),
) -> None:
    """The plan of these stages of a study (of these tasks, or all), in place of running them."""
    from transferscope.planning import plan

    emit(plan(open_study(study), stages=stages, tasks=tasks), format_, output)


def emit_starts_plan(
    study: Path,
    targets: Sequence[str],
    sources: Sequence[str],
    shots: Sequence[int | None],
    rates: Sequence[float],
    format_: str,
    output: Path | None,
    *,
    with_random: bool = True,
) -> None:
    """The plan of comparing starts for these targets, in place of tuning them; () where nothing is said."""
    from transferscope.planning_starts import plan_starts

    found = plan_starts(
        open_study(study),
        targets,
        sources or None,
        shots=shots,
        learning_rates=rates or None,
        with_random=with_random,
    )
    emit(found, format_, output)


def plot_option(function: F) -> F:
    """--plot and --plot-kind: for each command whose record has a plot; `emit` draws it."""
    function = click.option(
        "--plot-kind",
        metavar="KIND",
        expose_value=False,
        callback=_keep_kind,
        help="With --plot: which one, where there are several.",
    )(function)
    return click.option(
        "--plot",
        metavar="FILE.png|svg|pdf",
        type=click.Path(dir_okay=False, path_type=Path),
        expose_value=False,
        callback=_keep_plot,
        help="Also draw it (extra plot).",
    )(function)


def _keep_plot(context: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    """A wrong ending, or no matplotlib, is said before any work is done."""
    if value is not None:
        from transferscope.plots.style import require_matplotlib
        from transferscope.plots.writing import checked_ending

        checked_ending(value)
        require_matplotlib()
        context.meta[PLOT] = value


def _keep_kind(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.meta[PLOT_KIND] = value


def shares(context: click.Context, parameter: click.Parameter, value: str) -> tuple[float, ...]:
    """The callback of an option: comma-separated shares; () for an empty text."""
    try:
        return tuple(float(part) for part in value.split(",") if value)
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is no list of shares such as 0.05,0.1,0.2", context, parameter
        ) from None


def executor_options(function: F) -> F:
    """--executor, --workers and --address: for each command with much to do; `open_study` reads them."""

    def option(name: str, key: str, help_: str, **more: Any) -> Callable[[F], F]:
        def keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
            if value is not None:
                context.meta[key] = value

        return click.option(name, expose_value=False, callback=keep, help=help_, **more)

    function = option("--address", ADDRESS, "With --executor ray: the cluster.", metavar="HOST:PORT|auto")(
        function
    )
    function = option("--workers", WORKERS, "How many at once; default one a GPU.", type=click.IntRange(1))(
        function
    )
    where = "Where the work is done: in this process, in one a GPU, or on a Ray cluster."
    return option("--executor", EXECUTOR, where, metavar="serial|processes|ray")(function)


def executor_goes_with(study: Path | None) -> None:
    """Refuse an executor where there is no study whose work it could do."""
    if study is None and EXECUTOR in click.get_current_context().meta:
        raise click.UsageError("--executor goes with --study")


def _executor() -> Any:
    """The executor that the options ask for, as long as the command runs; None where they say nothing."""
    context = click.get_current_context()
    name = context.meta.get(EXECUTOR)
    options = {"workers": context.meta.get(WORKERS), "address": context.meta.get(ADDRESS)}
    if name is None:
        if any(value is not None for value in options.values()):
            raise click.UsageError("--workers and --address go with --executor")
        return None
    from transferscope import executors

    made = executors.make(name, **options)
    context.call_on_close(made.close)
    return made


def emit(
    record: Any,
    format_: str,
    output: Path | None,
    *,
    types: Mapping[str, str] | None = None,
    beside: Sequence[Any] = (),
) -> None:
    """A record in one of the formats to stdout, or whole or not at all to a file; and as a plot, with --plot.

    `types` (task -> type) and the records `beside` are for plots: a kind that this record does not have may
    be one of theirs.
    """
    from transferscope.exporters import export

    text = export(record, format_, width=None if output else terminal_width())
    finish()
    if output is None:
        click.echo(text)
    else:
        from transferscope import store

        store.write_text(output, text + "\n")
        report(f"wrote {output}")
    _draw([record, *beside], types)


def _draw(records: Sequence[Any], types: Mapping[str, str] | None) -> None:
    """What --plot and --plot-kind ask for, if anything."""
    context = click.get_current_context(silent=True)
    chosen = context.meta if context is not None else {}
    path, kind = chosen.get(PLOT), chosen.get(PLOT_KIND)
    if path is None and kind is not None:
        raise click.UsageError("--plot-kind goes with --plot FILE")
    if path is None:
        return
    from transferscope import plots
    from transferscope.errors import InputError, suggest

    known = {name: record for record in reversed(records) for name in plots.kinds(record)}
    if known and kind is not None and kind not in known:
        raise InputError(f"there is no plot {kind!r} of this. {suggest(kind, known)}")
    drawn = records[0] if kind is None else known.get(kind, records[0])
    plots.write(plots.plot(drawn, kind, types=types), path)
    report(f"wrote {path}")


def terminal_width() -> int | None:
    """How wide a table may be: as the terminal is; as it likes where stdout is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def open_study(path: Path) -> Any:
    """The pipeline of a study, with its messages and progress on stderr, and the executor asked for."""
    from transferscope import pipeline

    report, progress = channels()
    executor = _executor()
    if executor is None:
        return pipeline.open_study(path, report=report, progress=progress)
    from transferscope import distribution

    return distribution.open_study(path, report=report, progress=progress, executor=executor)


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
