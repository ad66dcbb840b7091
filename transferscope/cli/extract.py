"""transferscope extract: what each tuned prompt does inside the network, as signatures."""

from __future__ import annotations

from pathlib import Path

import click

from transferscope.cli.options import open_study, study_option


@click.command("extract")
@click.argument("tasks", nargs=-1)
@study_option()
def command(tasks: tuple[str, ...], study: Path) -> None:
    """Measure the neurons under each tuned prompt and store the signatures.

    TASKS are names of the study's tasks; without any, all of them. What is finished is left alone.

    \b
    transferscope extract --study my-study
    transferscope extract sst2 mnli --study my-study
    """
    open_study(study).extract(tasks=list(tasks) or None)
