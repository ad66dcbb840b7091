"""transferscope correlate: how well indicators and baselines predict measured transfer, with uncertainty."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from transferscope.cli.options import FORMATS, emit, open_study, read_indicators, read_types, study_option

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
F = TypeVar("F", bound=Callable[..., Any])


def _choice(name: str, values: tuple[str, ...], default: list[str], help_: str) -> Callable[[F], F]:
    """An option that can be repeated, or takes its default."""
    return click.option(
        f"--{name}",
        f"{name}s",
        multiple=True,
        type=click.Choice(values),
        default=default,
        show_default=True,
        help=f"{help_} (can be repeated).",
    )


@click.command("correlate")
@study_option(required=False)
@click.option("--indicators", "table", type=FILE, help="CSV file indicator,source,target,value instead.")
@click.option("--transfer", type=FILE, help="CSV file protocol,source,target,seed,metric,value, beside it.")
@click.option("--types", type=FILE, help="CSV file task,type, beside these two.")
@click.option("--protocol", help="Judge this one; default the study's, or the first of the file.")
@click.option("--metric", "metrics", multiple=True, help="Only this metric (can be repeated).")
@_choice("scope", ("all", "same-type", "different-type"), ["all"], "Among which sources")
@_choice("aggregate", ("per-target", "pooled"), ["per-target", "pooled"], "How targets are put together")
@click.option(
    "--own-prompt",
    type=click.Choice(["excluded", "included"]),
    default="excluded",
    show_default=True,
    help="A target's own prompt among its sources.",
)
@click.option("--against", metavar="NAME", help="Compare all others with this one, target by target.")
@click.option("--budget", is_flag=True, help="Instead: regret after measuring the first 1 .. 10 sources.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of bootstrap and permutations.")
@click.option(
    "--format", "format_", type=click.Choice([*FORMATS, "latex"]), default="table", show_default=True,
    help="Of the result.",
)  # fmt: skip
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write there instead.")
def command(
    study: Path | None,
    table: Path | None,
    transfer: Path | None,
    types: Path | None,
    protocol: str | None,
    metrics: tuple[str, ...],
    scopes: tuple[Any, ...],
    aggregates: tuple[str, ...],
    own_prompt: str,
    against: str | None,
    budget: bool,
    seed: int,
    format_: str,
    output: Path | None,
) -> None:
    """Compare the orders that indicators and baselines give with measured transfer.

    Of a study (what is not measured yet is measured first), or of two CSV files. Every number has a 95 %
    interval, of drawing the targets (and seeds) anew; p is that of renaming the tasks, corrected for the
    number of indicators.

    \b
    transferscope correlate --study my-study
    transferscope correlate --study my-study --metric spearman --against same_type --format json
    transferscope correlate --indicators values.csv --transfer transfer.csv --types types.csv --budget
    """
    if (study is None) == (table is None) or (table is None) != (transfer is None):
        raise click.UsageError("give --study DIR, or --indicators FILE with --transfer FILE")
    if study is not None and types is not None:
        raise click.UsageError("--types goes with --indicators: a study says the types of its tasks")
    if budget and (metrics or against or len(scopes) > 1):
        raise click.UsageError("--budget goes with one --scope, and with neither --metric nor --against")
    if study is not None:
        given = _of_study(study, protocol)
    else:
        assert table is not None  # checked above
        assert transfer is not None
        given = {**_of_files(table, transfer, protocol), "types": read_types(types)}
    from transferscope.budget import budget_curves
    from transferscope.correlation import correlate

    matrices, measured = given.pop("matrices"), given.pop("measured")
    options = {**given, "own_prompt": own_prompt, "seed": seed, "over_seeds": True, "expanded": True}
    if budget:
        emit(budget_curves(matrices, measured, scope=scopes[0], **options), format_, output)
        return
    options |= {"metrics": metrics or None, "scopes": scopes, "aggregates": aggregates, "against": against}
    emit(correlate(matrices, measured, **options), format_, output)


def _of_study(path: Path, protocol: str | None) -> dict[str, Any]:
    """Indicators, transfer and what baselines read, of a study."""
    from transferscope.errors import InputError

    pipeline = open_study(path)
    measured = pipeline.measure(protocol) if pipeline.with_data else pipeline.known_transfer(protocol)
    if measured is None:
        raise InputError(f"{path} has neither data to measure on nor measured transfer of this protocol")
    sizes = {}
    if pipeline.with_data:
        found = {name: one.provenance.get("train_examples") for name, one in pipeline.extract().items()}
        sizes = {name: size for name, size in found.items() if size}
    matrices = pipeline.compare()
    zero_shot = pipeline.known_transfer("zero-shot")
    return {
        **_split(matrices),
        "measured": measured,
        "types": pipeline.types or None,
        "sizes": sizes or None,
        "zero_shot": zero_shot,
    }


def _of_files(table: Path, file: Path, protocol: str | None) -> dict[str, Any]:
    from transferscope import store, transfer
    from transferscope.errors import InputError, suggest

    rows = store.read_csv(file, transfer.COLUMNS, numbers={"seed", "value"})
    several = {matrix.protocol: matrix for matrix in transfer.from_rows(rows)}
    if not several:
        raise InputError(f"{file} has no measured transfer: it has no rows")
    name = protocol or next(iter(several))
    if name not in several:
        raise InputError(f"{file} has no protocol {name!r}. {suggest(name, several)}")
    return {
        **_split(read_indicators(table)),
        "measured": several[name],
        "zero_shot": several.get(transfer.ZERO_SHOT),
    }


def _split(matrices: Any) -> dict[str, Any]:
    """Similarity of texts needs no prompt: it is what others have to beat, a baseline."""
    texts = [matrix for matrix in matrices if matrix.indicator == "text_embedding"]
    return {
        "matrices": [matrix for matrix in matrices if matrix.indicator != "text_embedding"],
        "text_embedding": texts[0] if texts else None,
    }
