"""transferscope compare: how alike are all pairs of tasks, by each indicator."""

from __future__ import annotations

from pathlib import Path

import click

from transferscope.cli.options import emit, open_study, output_options, read_indicators, study_option

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("compare")
@click.argument("more", nargs=-1, metavar="[DIR]...", type=FOLDER)
@study_option(required=False)
@click.option(
    "--prompts",
    multiple=True,
    metavar="DIR...",
    type=FOLDER,
    help="Folders of PEFT prompts, or LoRA or IA3, instead.",
)
@click.option("--indicators", "table", type=FILE, help="CSV file indicator,source,target,value instead.")
@click.option("--indicator", "names", multiple=True, help="Only this one (can be repeated).")
@output_options
def command(
    more: tuple[Path, ...],
    study: Path | None,
    prompts: tuple[Path, ...],
    table: Path | None,
    names: tuple[str, ...],
    format_: str,
    output: Path | None,
) -> None:
    """All pairs of tasks by each indicator, of a study, of folders of PEFT prompts, or of a table.

    In every table, larger means closer: distances are negated.

    \b
    transferscope compare --study my-study --indicator on --format csv
    transferscope compare --prompts adapters/sst2 adapters/mnli adapters/qqp
    """
    if (study is not None) + bool(prompts) + (table is not None) != 1 or (more and not prompts):
        raise click.UsageError("give one of --study DIR, --prompts DIR... and --indicators FILE")
    if study is not None:
        matrices = open_study(study).compare(list(names) or None)
    elif table is not None:
        matrices = read_indicators(table, names)
    else:
        from transferscope.comparison import compare_folders

        matrices = compare_folders([*prompts, *more], list(names) or None)
    emit(matrices, format_, output)
