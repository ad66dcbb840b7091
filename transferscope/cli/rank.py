"""transferscope rank: the sources for a target, best first, with intervals and baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from transferscope.cli.options import (
    PlaceType,
    emit,
    executor_goes_with,
    executor_options,
    open_study,
    output_options,
    plot_option,
    read_indicators,
    read_transfer,
    read_types,
    study_option,
)

FOLDER = PlaceType(exists=True, file_okay=False)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
PROTOCOLS = ("zero-shot", "linear-probe")


@click.command("rank")
@click.argument("target")
@click.argument("more", nargs=-1, metavar="[DIR]...", type=FOLDER)
@study_option(required=False)
@click.option(
    "--prompts",
    multiple=True,
    metavar="DIR...",
    type=FOLDER,
    help="Folders of PEFT prompts, or LoRA or IA3: the sources.",
)
@click.option("--indicator", help="What to rank by; chosen, and the choice explained, if not given.")
@click.option("--indicators", "table", type=FILE, help="CSV file indicator,source,target,value instead.")
@click.option("--transfer", type=FILE, help="CSV file of measured transfer, beside these two.")
@click.option("--types", type=FILE, help="CSV file task,type, beside these two.")
@click.option("--prefer-same-type", is_flag=True, help="Sort by task type first, by the indicator inside.")
@click.option("--measure", type=click.IntRange(min=1), metavar="K", help="Order the K best by real transfer.")
@click.option("--race", is_flag=True, help="Measure by elimination: the K best, or all sources.")
@click.option("--adaptive", is_flag=True, help="Choose each of the K by what those before it reached.")
@click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    help="How to measure. [default: zero-shot, or linear-probe for a study with classifier heads]",
)
@executor_options
@output_options
@plot_option
def command(
    target: str,
    more: tuple[Path, ...],
    study: Path | None,
    prompts: tuple[Path, ...],
    indicator: str | None,
    table: Path | None,
    transfer: Path | None,
    types: Path | None,
    prefer_same_type: bool,
    measure: int | None,
    race: bool,
    adaptive: bool,
    protocol: str | None,
    format_: str,
    output: Path | None,
) -> None:
    """Rank the sources for TARGET: a task of a study, or a folder with the target's PEFT prompt.

    With --study, stages that are missing are done first. With --prompts, each DIR is an adapter folder or
    holds some, at most three levels down; no task data is needed. With --indicators, values of your own are
    ranked (larger: transfers better). With --measure or --race the order is what was measured, for a study
    on the spot, else from --transfer.

    \b
    transferscope rank sst2 --study my-study
    transferscope rank sst2 --study my-study --prefer-same-type --measure 3
    transferscope rank sst2 --study my-study --measure 3 --adaptive
    transferscope rank adapters/sst2 --prompts adapters/imdb adapters/mnli --format json
    transferscope rank sst2 --indicators values.csv --indicator on --types types.csv
    """
    if (study is not None) + bool(prompts) + (table is not None) != 1:
        raise click.UsageError("give one of --study DIR, --prompts DIR... and --indicators FILE")
    if adaptive and (race or not measure):
        raise click.UsageError("--adaptive goes with --measure K, and not with --race")
    if (more and not prompts) or (study and (types or transfer)):
        raise click.UsageError("folders go with --prompts, --types and --transfer with it or --indicators")
    how: dict[str, Any] = {"indicator": indicator, "measure": measure, "prefer_same_type": prefer_same_type}
    executor_goes_with(study)
    if study is not None:
        found = open_study(study).rank(target, race=race, adaptive=adaptive, protocol=protocol, **how)
    else:
        _check_without_study(bool(race or adaptive or protocol), bool(measure and not transfer))
        found = _ranked(target, [*prompts, *more], table, transfer, types, how)
    emit(found, format_, output)


def _check_without_study(on_the_spot: bool, unmeasured: bool) -> None:
    if on_the_spot:
        raise click.UsageError(
            "--race, --adaptive and --protocol go with --study: they need a model and the task's data"
        )
    if unmeasured:
        raise click.UsageError("--measure needs --transfer FILE, or --study to measure there")


def _ranked(
    target: str,
    prompts: list[Path],
    table: Path | None,
    transfer: Path | None,
    types: Path | None,
    how: dict[str, Any],
) -> Any:
    """The ranking of prompt folders, or of the values in a table."""
    from transferscope import ranking

    how = {**how, "transfer": read_transfer(transfer), "types": read_types(types)}
    if table is None:
        return ranking.rank_prompts(target, prompts, **how)
    return ranking.rank_values(target, read_indicators(table), **how)
