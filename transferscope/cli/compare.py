"""transferscope compare: how alike are all pairs of tasks, by each indicator."""

from __future__ import annotations

from pathlib import Path

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
    study_option,
)

FOLDER = PlaceType(exists=True, file_okay=False)
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
@click.option(
    "--models", multiple=True, nargs=2, metavar="STUDY STUDY", type=PlaceType(exists=True),
    help="Two studies: how alike their models are.",
)  # fmt: skip
@click.option("--indicator", "names", multiple=True, help="Only this one (can be repeated).")
@executor_options
@output_options
@plot_option
def command(
    more: tuple[Path, ...],
    study: Path | None,
    prompts: tuple[Path, ...],
    table: Path | None,
    models: tuple[tuple[Path, Path], ...],
    names: tuple[str, ...],
    format_: str,
    output: Path | None,
) -> None:
    """All pairs of tasks by each indicator, of a study, of folders of PEFT prompts, or of a table.

    In every table, larger means closer: distances are negated. Without --indicator a study is compared by all
    indicators that its signatures are enough for. Those that read a target's data under a source's prompt,
    or a task's texts, are computed (and what they read is kept in the study) when they are named.

    \b
    transferscope compare --study my-study --indicator on --format csv
    transferscope compare --study my-study --indicator logme --indicator cka_linear
    transferscope compare --prompts adapters/sst2 adapters/mnli adapters/qqp
    transferscope compare --models study-bert study-roberta

    With --models, over the tasks of both studies: whether the two models find the same tasks alike, and how
    their prompts, their views of the same texts and their neurons correspond.
    """
    given = (study is not None) + bool(prompts) + (table is not None) + bool(models)
    if given != 1 or (more and not prompts) or len(models) > 1:
        raise click.UsageError("give one of --study DIR, --prompts DIR..., --indicators FILE, --models A B")
    executor_goes_with(study)
    if models:
        from transferscope.model_comparison import compare_models

        a, b = (open_study(path) for path in models[0])
        emit(compare_models(a, b, list(names) or None), format_, output)
        return
    types = None
    if study is not None:
        pipeline = open_study(study)
        matrices, types = pipeline.compare(list(names) or None), pipeline.types
    elif table is not None:
        matrices = read_indicators(table, names)
    else:
        from transferscope.comparison import compare_folders

        matrices = compare_folders([*prompts, *more], list(names) or None)
    emit(matrices, format_, output, types=types)
