"""transferscope compare: how alike are all pairs of tasks, by each indicator."""

from __future__ import annotations

from pathlib import Path

import click

from transferscope.cli.options import emit, open_study, output_options, study_option

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command("compare")
@click.argument("more", nargs=-1, metavar="[DIR]...", type=FOLDER)
@study_option(required=False)
@click.option(
    "--prompts", multiple=True, metavar="DIR...", type=FOLDER, help="Folders of PEFT prompts instead."
)
@click.option("--indicator", "names", multiple=True, help="Only this one (can be repeated).")
@output_options
def command(
    more: tuple[Path, ...],
    study: Path | None,
    prompts: tuple[Path, ...],
    names: tuple[str, ...],
    format_: str,
    output: Path | None,
) -> None:
    """All pairs of tasks by each indicator, of a study or of folders of PEFT prompts.

    In every table, larger means closer: distances are negated.

    \b
    transferscope compare --study my-study --indicator on --format csv
    transferscope compare --prompts adapters/sst2 adapters/mnli adapters/qqp
    """
    if (study is None) == (not prompts) or (more and not prompts):
        raise click.UsageError("give either --study DIR or --prompts DIR...")
    if study is not None:
        matrices = open_study(study).compare(list(names) or None)
    else:
        from transferscope.comparison import compare_folders

        matrices = compare_folders([*prompts, *more], list(names) or None)
    emit(matrices, format_, output)
