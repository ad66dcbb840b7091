"""transferscope origin: are skill neurons crucial under other tuning methods, and what else explains them?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from transferscope.cli.options import emit, open_study, output_options, plot_option, shares, study_option


@click.command("origin")
@click.argument("task")
@study_option()
@click.option(
    "--method", "methods", multiple=True,
    help="Another way of tuning: bitfit, lora, adapter or prefix (can be repeated).  "
    "[default: bitfit, adapter and lora, as far as the model can have them]",
)  # fmt: skip
@click.option(
    "--rates", default="0.05,0.1,0.2", show_default=True, callback=shares, help="Shares of each layer."
)
@click.option(
    "--draws", type=click.IntRange(1), default=5, show_default=True, help="Of noise and random neurons."
)
@click.option(
    "--sd", type=click.FloatRange(0, min_open=True), default=0.1, show_default=True, help="Of the noise."
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    help="Of the methods.  [default: each its own]",
)
@click.option(
    "--controls/--no-controls", default=True, show_default=True,
    help="Random-initialised model, neurons found with random prompts, word selectivity.",
)  # fmt: skip
@output_options
@plot_option
def command(
    task: str,
    study: Path,
    methods: tuple[str, ...],
    rates: tuple[float, ...],
    draws: int,
    sd: float,
    learning_rate: float | None,
    controls: bool,
    format_: str,
    output: Path | None,
) -> None:
    """Perturb TASK's skill neurons under its prompts and under other tuning methods.

    The methods leave the weights of the FFN frozen, so the neurons are the same ones. What is tuned goes to
    methods/TASK, everything else to origin/TASK of the study; finished pieces are kept, so it can be stopped.

    \b
    transferscope origin sst2 --study my-study
    transferscope origin sst2 --study my-study --method bitfit --no-controls --format csv
    """
    from transferscope import origin, origin_tables  # noqa: F401  (registers the tables)
    from transferscope.origin_perturbation import Plan

    pipeline: Any = open_study(study)
    plan = Plan(rates=rates, draws=draws, sd=sd)
    found = origin.origin(
        pipeline,
        task,
        lambda: pipeline.extract([task])[task],
        methods=methods or None,
        plan=plan,
        learning_rate=learning_rate,
        controls=controls,
    )
    emit(found, format_, output)
