"""transferscope correlate: how well indicators and baselines predict measured transfer, with uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from transferscope.cli.evidence_input import check_inputs, read_files, read_studies
from transferscope.cli.options import FORMATS, PlaceType, emit, plot_option

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


def _repeated(name: str, plural: str, help_: str, type_: Any = FILE, **more: Any) -> Callable[[F], F]:
    return click.option(f"--{name}", plural, multiple=True, type=type_, help=help_, **more)


@click.command("correlate")
@_repeated(
    "study", "studies", "A study folder or its study.yaml, or an address; several: combined.", PlaceType()
)
@_repeated("indicators", "tables", "CSV file indicator,source,target,value instead; several: combined.")
@_repeated("transfer", "transfers", "CSV file protocol,source,target,seed,metric,value, beside each of them.")
@_repeated("types", "types", "CSV file task,type, beside these (one for all, or one each).")
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
@_repeated(
    "adaptive",
    "adaptive",
    "With --budget: also by a Gaussian process on this indicator.",
    str,
    metavar="NAME",
)
@click.option(
    "--by",
    type=click.Choice(["layer", "layer-group", "rate", "trials"]),
    help="Instead: indicators of one layer, of groups of layers, by rate of skill neurons, by trials.",
)
@_repeated("indicator", "names", "With --by: only this indicator (can be repeated).", str, metavar="NAME")
@click.option("--group", type=int, default=3, show_default=True, help="Layers in a group, by layer-group.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of bootstrap and permutations.")
@click.option(
    "--format", "format_", type=click.Choice([*FORMATS, "latex"]), default="table", show_default=True,
    help="Of the result.",
)  # fmt: skip
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write there instead.")
@plot_option
@click.pass_context
def command(
    context: click.Context,
    studies: tuple[Path, ...],
    tables: tuple[Path, ...],
    transfers: tuple[Path, ...],
    types: tuple[Path, ...],
    protocol: str | None,
    format_: str,
    output: Path | None,
    **chosen: Any,
) -> None:
    """Compare the orders that indicators and baselines give with measured transfer.

    Of a study (what is not measured yet is measured first), or of two CSV files. Every number has a 95 %
    interval, of drawing the targets (and seeds) anew; p is that of renaming the tasks, corrected for the
    number of indicators. Several studies (on several backbones) are combined: targets of one task are drawn
    together.

    \b
    transferscope correlate --study my-study
    transferscope correlate --study my-study --metric spearman --against same_type --format json
    transferscope correlate --study my-study --by layer --indicator on
    transferscope correlate --study on-roberta --study on-t5 --metric spearman
    transferscope correlate --indicators values.csv --transfer transfer.csv --types types.csv --budget
    """
    check_inputs(studies, tables, transfers, types)
    given_aggregates = context.get_parameter_source("aggregates") != ParameterSource.DEFAULT
    _check(chosen, len(studies), len(tables), given_aggregates)
    several = read_studies(studies, protocol) if studies else read_files(tables, transfers, types, protocol)
    beside = [given for given, _ in several] if len(several) == 1 else []
    emit(_report(several, **chosen), format_, output, beside=beside)


def _check(chosen: dict[str, Any], studies: int, tables: int, aggregates: bool) -> None:
    """What excludes what. Raises click.UsageError."""
    one_scope, plain = len(chosen["scopes"]) == 1, not (chosen["against"] or aggregates)
    if chosen["budget"] and (chosen["metrics"] or chosen["against"] or not one_scope):
        raise click.UsageError("--budget goes with one --scope, and with neither --metric nor --against")
    if chosen["budget"] and (chosen["by"] or studies + tables > 1):
        raise click.UsageError("--budget goes with one study or one pair of files, and not with --by")
    if chosen["adaptive"] and not chosen["budget"]:
        raise click.UsageError("--adaptive goes with --budget")
    if chosen["by"] and studies != 1:
        raise click.UsageError("--by goes with one --study: indicators are computed anew from its signatures")
    if chosen["by"] and not (one_scope and plain and len(chosen["metrics"]) < 2):
        raise click.UsageError(
            "--by goes with one --scope and one --metric, and with neither --against nor --aggregate"
        )
    if chosen["names"] and not chosen["by"]:
        raise click.UsageError("--indicator goes with --by")
    if studies + tables > 1 and aggregates and "pooled" in chosen["aggregates"]:
        raise click.UsageError("several backbones are combined per target: leave --aggregate pooled out")


def _report(several: Sequence[tuple[Any, Any]], **chosen: Any) -> Any:
    """The record that the options ask for."""
    rules = _rules(chosen)
    metrics = chosen["metrics"] or None
    if len(several) > 1:
        from transferscope.combined import combine

        rules |= {key: chosen[key] for key in ("scopes", "against")}
        return combine([one for one, _ in several], metrics=metrics, **rules)
    ((given, pipeline),) = several
    rules |= given.beside
    if chosen["by"]:
        from transferscope.parts import Cut
        from transferscope.sensitivity import sensitivity

        rules |= {"names": chosen["names"] or None, "scope": chosen["scopes"][0]}
        rules |= {"cut": Cut(group=chosen["group"], seed=chosen["seed"])}
        metric = (*chosen["metrics"], "spearman")[0]
        return sensitivity(pipeline.materials(), given.transfer, chosen["by"], metric=metric, **rules)
    if chosen["budget"]:
        from transferscope.budget import budget_curves

        rules |= {"adaptive": chosen["adaptive"], "scope": chosen["scopes"][0]}
        return budget_curves(given.matrices, given.transfer, **rules)
    from transferscope.correlation import correlate

    rules |= {key: chosen[key] for key in ("scopes", "aggregates", "against")}
    return correlate(given.matrices, given.transfer, metrics=metrics, **rules)


def _rules(chosen: dict[str, Any]) -> dict[str, Any]:
    return {"own_prompt": chosen["own_prompt"], "seed": chosen["seed"], "over_seeds": True, "expanded": True}
