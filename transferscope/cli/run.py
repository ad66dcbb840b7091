"""transferscope run: every stage of a study that is not finished, in order."""

from __future__ import annotations

from pathlib import Path

import click

from transferscope.cli.options import (
    PlaceType,
    dry_run_option,
    emit,
    emit_plan,
    executor_options,
    open_study,
    output_options,
)


@click.command("run")
@click.argument("study", type=PlaceType())
@dry_run_option
@executor_options
@output_options
def command(study: Path, dry_run: bool, format_: str, output: Path | None) -> None:
    """Do what is missing of a study, from tuning to ranking, and sum it up.

    STUDY is a study folder or its study.yaml, here or at an address. Finished stages are left alone; an
    interrupted one goes on where it stopped.

    \b
    transferscope run my-study
    transferscope run my-study --dry-run
    transferscope run s3://bucket/my-study
    """
    if dry_run:
        emit_plan(study, ("tune", "extract", "measure"), format_, output)
        return
    emit(open_study(study).run(), format_, output)
