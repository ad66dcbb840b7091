"""transferscope measure: real transfer, of every source prompt on every target."""

from __future__ import annotations

from pathlib import Path

import click

from transferscope.cli.options import (
    dry_run_option,
    emit,
    emit_plan,
    emit_starts_plan,
    executor_options,
    open_study,
    output_options,
    plot_option,
    study_option,
)


@click.command("measure")
@study_option()
@click.option(
    "--protocol",
    type=click.Choice(["zero-shot", "linear-probe", "init"]),
    help="How; default zero-shot with label words, else linear-probe.",
)
@click.option("--target", "targets", multiple=True, help="Only on this task (can be repeated).")
@click.option("--source", "sources", multiple=True, help="Only from this task (can be repeated).")
@click.option(
    "--shots", multiple=True, type=click.IntRange(1), help="init: with K examples (can be repeated)."
)
@click.option(
    "--learning-rate", "rates", multiple=True, type=click.FloatRange(0, min_open=True),
    help="init: try this one (can be repeated).",
)  # fmt: skip
@dry_run_option
@executor_options
@output_options
@plot_option
def command(
    study: Path,
    protocol: str | None,
    targets: tuple[str, ...],
    sources: tuple[str, ...],
    shots: tuple[int, ...],
    rates: tuple[float, ...],
    dry_run: bool,
    format_: str,
    output: Path | None,
) -> None:
    """Measure transfer between the tasks of a study, with controls beside it.

    zero-shot: the source's prompt, unchanged, with the target's label words. linear-probe: the source's
    prompt, frozen, with a linear head fitted on the target. init: the target's tuning starts from the source;
    without --source, from the three that rank first. Finished cells are left alone, so it can be stopped.

    \b
    transferscope measure --study my-study
    transferscope measure --study my-study --dry-run
    transferscope measure --study my-study --target sst2 --format csv
    transferscope measure --study my-study --protocol init --target sst2 --source imdb --shots 64
    transferscope measure --study my-study --protocol init --target sst2 --dry-run
    """
    if (shots or rates) and protocol != "init":
        raise click.UsageError("--shots and --learning-rate go with --protocol init")
    if protocol == "init" and not targets:
        raise click.UsageError("--protocol init needs --target: it tunes the target many times")
    if dry_run and protocol == "init":
        emit_starts_plan(study, targets, sources, shots or (None,), rates, format_, output)
        return
    if dry_run:
        if protocol or targets or sources:
            raise click.UsageError("--dry-run plans the study's whole table: give --study alone")
        emit_plan(study, ("tune", "measure"), format_, output)
        return
    pipeline = open_study(study)
    if protocol == "init":
        found = [
            pipeline.compare_starts(
                target, list(sources) or None, shots=k, learning_rates=list(rates) or None
            )
            for target in targets
            for k in shots or (None,)
        ]
        emit(found, format_, output)
        return
    found = pipeline.report_transfer(protocol, targets=list(targets) or None, sources=list(sources) or None)
    emit(found, format_, output, types=pipeline.types)
