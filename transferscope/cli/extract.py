"""transferscope extract: what each tuned prompt does inside the network, as signatures."""

from __future__ import annotations

from pathlib import Path

import click

from transferscope.cli.options import (
    dry_run_option,
    emit_plan,
    executor_options,
    open_study,
    output_options,
    study_option,
)


@click.command("extract")
@click.argument("tasks", nargs=-1)
@study_option()
@dry_run_option
@executor_options
@output_options
def command(tasks: tuple[str, ...], study: Path, dry_run: bool, format_: str, output: Path | None) -> None:
    """Measure the neurons under each tuned prompt and store the signatures.

    TASKS are names of the study's tasks; without any, all of them. What is finished is left alone.

    \b
    transferscope extract --study my-study
    transferscope extract sst2 mnli --study my-study --dry-run
    """
    if dry_run:
        emit_plan(study, ("tune", "extract"), format_, output, tasks)
        return
    if output is not None:
        raise click.UsageError("--output goes with --dry-run: signatures are written into the study")
    open_study(study).extract(tasks=list(tasks) or None)
