"""transferscope tune: a soft prompt for each task and seed of a study, or one that starts from a source."""

from __future__ import annotations

from pathlib import Path

import click

from transferscope.cli.messages import report
from transferscope.cli.options import (
    dry_run_option,
    emit,
    emit_plan,
    emit_starts_plan,
    executor_options,
    open_study,
    output_options,
    study_option,
)


@click.command("tune")
@click.argument("tasks", nargs=-1)
@study_option()
@click.option(
    "--init-from", "source", metavar="SOURCE|DIR|best",
    help="Start from this task's prompt, a PEFT folder, or the source that ranks first.",
)  # fmt: skip
@click.option("--shots", type=click.IntRange(1), help="With --init-from: tune on K examples.")
@click.option(
    "--learning-rate", "rates", multiple=True, type=click.FloatRange(0, min_open=True),
    help="With --init-from: try this one (can be repeated).",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="With --init-from: save the best there."
)
@dry_run_option
@executor_options
@output_options
def command(
    tasks: tuple[str, ...],
    study: Path,
    source: str | None,
    shots: int | None,
    rates: tuple[float, ...],
    out: Path | None,
    dry_run: bool,
    format_: str,
    output: Path | None,
) -> None:
    """Tune a soft prompt for each task and seed of a study, or one task from a source.

    TASKS are names of the study's tasks; without any, all of them. What is finished is left alone.

    With --init-from, one task is tuned from the source and from scratch, each with several learning rates,
    and what came out is shown beside the untouched source. The best prompt is a PEFT folder.

    \b
    transferscope tune --study my-study
    transferscope tune sst2 mnli --study my-study --dry-run
    transferscope tune sst2 --study my-study --init-from best --out sst2-prompt
    """
    if source is not None and len(tasks) != 1:
        raise click.UsageError("--init-from needs exactly one task to tune")
    if dry_run:
        if source is None:
            emit_plan(study, ("tune",), format_, output, tasks)
        else:
            emit_starts_plan(study, tasks, (source,), (shots,), rates, format_, output, with_random=False)
        return
    pipeline = open_study(study)
    if source is None:
        if shots or rates or out or output:
            raise click.UsageError("--shots, --learning-rate, --out and --output go with --init-from")
        pipeline.tune(tasks=list(tasks) or None)
        for name in pipeline.given(list(tasks) or None):
            report(f"{name}: its prompts are given (prompts: in the study), so there is nothing to tune")
        return
    found = pipeline.compare_starts(
        tasks[0], [source], shots=shots, learning_rates=list(rates) or None, with_random=False
    )
    best = pipeline.best_run(found)
    if out is not None:
        from transferscope.prompts import load_prompt, save_prompt

        save_prompt(load_prompt(best), out, kind=pipeline.backbone.architecture.kind)
        best = out
    report(f"the best prompt is in {best}")
    emit(found, format_, output)
