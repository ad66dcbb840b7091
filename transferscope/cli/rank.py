"""transferscope rank: the sources for a target, best first, with intervals and baselines."""

from __future__ import annotations

from pathlib import Path

import click

from transferscope.cli.options import (
    emit,
    open_study,
    output_options,
    read_indicators,
    read_transfer,
    read_types,
    study_option,
)

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("rank")
@click.argument("target")
@click.argument("more", nargs=-1, metavar="[DIR]...", type=FOLDER)
@study_option(required=False)
@click.option(
    "--prompts", multiple=True, metavar="DIR...", type=FOLDER, help="Folders of PEFT prompts: the sources."
)
@click.option("--indicator", help="What to rank by; chosen, and the choice explained, if not given.")
@click.option("--indicators", "table", type=FILE, help="CSV file indicator,source,target,value instead.")
@click.option("--transfer", type=FILE, help="CSV file of measured transfer, beside --indicators.")
@click.option("--types", type=FILE, help="CSV file task,type: for the same-type baseline without a study.")
@output_options
def command(
    target: str,
    more: tuple[Path, ...],
    study: Path | None,
    prompts: tuple[Path, ...],
    indicator: str | None,
    table: Path | None,
    transfer: Path | None,
    types: Path | None,
    format_: str,
    output: Path | None,
) -> None:
    """Rank the sources for TARGET: a task of a study, or a folder with the target's PEFT prompt.

    With --study, stages that are missing are done first. With --prompts, each DIR is an adapter folder or
    holds some, at most three levels down; no task data is needed. With --indicators, values of your own are
    ranked (larger: transfers better).

    \b
    transferscope rank sst2 --study my-study
    transferscope rank adapters/sst2 --prompts adapters/imdb adapters/mnli --format json
    transferscope rank sst2 --indicators values.csv --indicator on --types types.csv
    """
    if (study is not None) + bool(prompts) + (table is not None) != 1:
        raise click.UsageError("give one of --study DIR, --prompts DIR... and --indicators FILE")
    if (more and not prompts) or (types and study) or (transfer and not table):
        raise click.UsageError(
            "folders go with --prompts, --types with it or --indicators, --transfer with that"
        )
    if study is not None:
        emit(open_study(study).rank(target, indicator=indicator), format_, output)
        return
    from transferscope import ranking

    if table is None:
        found = ranking.rank_prompts(target, [*prompts, *more], indicator=indicator, types=read_types(types))
    else:
        found = ranking.rank_values(
            target,
            read_indicators(table),
            indicator=indicator,
            transfer=read_transfer(transfer),
            types=read_types(types),
        )
    emit(found, format_, output)
