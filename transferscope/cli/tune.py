"""transferscope tune: a soft prompt for each task and seed of a study."""

from __future__ import annotations

from pathlib import Path

import click

from transferscope.cli.options import open_study, study_option


@click.command("tune")
@click.argument("tasks", nargs=-1)
@study_option()
def command(tasks: tuple[str, ...], study: Path) -> None:
    """Tune a soft prompt for each task and seed of a study.

    TASKS are names of the study's tasks; without any, all of them. What is finished is left alone.

    \b
    transferscope tune --study my-study
    transferscope tune sst2 mnli --study my-study
    """
    open_study(study).tune(tasks=list(tasks) or None)
