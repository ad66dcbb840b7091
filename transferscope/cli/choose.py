"""transferscope choose: the K sources that serve all targets best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from transferscope.cli.options import (
    emit,
    open_study,
    output_options,
    plot_option,
    read_indicators,
    study_option,
)

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("choose")
@click.option("-k", "k", type=int, metavar="K", help="At most so many sources; not needed with --budget.")
@study_option(required=False)
@click.option("--indicators", type=FILE, help="CSV file indicator,source,target,value instead.")
@click.option("--transfer", type=FILE, help="CSV file protocol,source,target,seed,metric,value instead.")
@click.option("--indicator", metavar="NAME", help="By what this indicator predicts.")
@click.option("--measured", metavar="PROTOCOL", help="By this protocol, where several are known.")
@click.option("--relative", is_flag=True, help="Values divided by what a target's own prompt reaches.")
@click.option("--others-only", is_flag=True, help="No chosen source serves its own task.")
@click.option("--must", multiple=True, metavar="TASK", help="It must be in (can be repeated).")
@click.option("--without", multiple=True, metavar="TASK", help="It must not be in (can be repeated).")
@click.option("--cost", type=FILE, help="CSV file task,cost: of each source.")
@click.option("--budget", type=float, help="All chosen together cost at most this (each 1 without --cost).")
@click.option("--weights", type=FILE, help="CSV file task,weight: of targets; 1 where not given.")
@click.option(
    "--method", type=click.Choice(["auto", "exact", "greedy"]), default="auto", show_default=True,
    help="auto: exact up to 60 tasks.",
)  # fmt: skip
@output_options
@plot_option
def command(
    k: int | None,
    study: Path | None,
    indicators: Path | None,
    transfer: Path | None,
    indicator: str | None,
    measured: str | None,
    cost: Path | None,
    weights: Path | None,
    method: Any,
    format_: str,
    output: Path | None,
    **limits: Any,
) -> None:
    """The K sources with which all targets together are served best, and the curve of value against K.

    Each target is served by the best of the chosen, its own task's prompt included where that is among them.
    By measured transfer where it is known, else by an indicator.

    \b
    transferscope choose -k 3 --study my-study
    transferscope choose -k 3 --study my-study --indicator prompt_cosine_mean_token
    transferscope choose --transfer transfer.csv --cost hours.csv --budget 40 --must sst2
    """
    from transferscope import choosing, graph_tables  # noqa: F401  # the latter says how a choice is printed

    if sum(one is not None for one in (study, indicators, transfer)) != 1:
        raise click.UsageError("give one of --study DIR, --indicators FILE, --transfer FILE")
    if indicator is not None and measured is not None:
        raise click.UsageError("--indicator and --measured exclude each other")
    if study is not None:
        matrix = _of_study(study, indicator, measured)
    elif indicators is not None:
        matrix = _first(read_indicators(indicators, [indicator] if indicator else []), indicators)
    else:
        matrix = _measured(transfer, measured)
    made = choosing.problem(
        matrix, costs=_numbers(cost, "cost"), weights=_numbers(weights, "weight"), **limits
    )
    emit(choosing.choose(made, k, method=method), format_, output)


def _of_study(path: Path, indicator: str | None, measured: str | None) -> Any:
    from transferscope.errors import InputError

    study = open_study(path)
    known = study.known_transfer(measured) if indicator is None else None
    if measured is not None and known is None:
        raise InputError(f"the study has no measured transfer by the protocol {measured!r}")
    return known or _first(study.compare([indicator] if indicator else None), path)


def _measured(path: Path | None, protocol: str | None) -> Any:
    from transferscope import store, transfer
    from transferscope.errors import InputError, suggest

    rows = store.read_csv(path, transfer.COLUMNS, numbers={"seed", "value"}) if path else []
    known = {matrix.protocol: matrix for matrix in transfer.from_rows(rows)}
    if protocol is not None and protocol not in known:
        raise InputError(f"{path} has no protocol {protocol!r}. {suggest(protocol, known)}")
    return known[protocol] if protocol else _first(list(known.values()), path)


def _first(matrices: Any, where: Any) -> Any:
    from transferscope.errors import InputError

    if not matrices:
        raise InputError(f"{where} has no values to choose by")
    return matrices[0]


def _numbers(path: Path | None, column: str) -> dict[str, float] | None:
    """A CSV file with the columns task and this one as a dict."""
    from transferscope.errors import InputError
    from transferscope.store import read_csv

    if path is None:
        return None
    found: dict[str, float] = {}
    for row in read_csv(path, ("task", column), numbers={column}):
        if row["task"] in found:
            raise InputError(f"{path}: {row['task']!r} is given twice")
        found[row["task"]] = row[column]
    return found
