"""transferscope perturb: what a task loses when its skill neurons are disturbed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from transferscope.cli.options import emit, open_study, output_options, plot_option, study_option


@click.command("perturb")
@click.argument("tasks", nargs=-1)
@study_option()
@click.option(
    "--mode", type=click.Choice(["noise", "zero", "mean"]), default="noise", show_default=True,
    help="What chosen neurons get.",
)  # fmt: skip
@click.option("--sd", type=click.FloatRange(0), default=0.1, show_default=True, help="Of the noise.")
@click.option(
    "--unit", type=click.Choice(["absolute", "neuron"]), default="absolute", show_default=True,
    help="Of --sd: of the activations, or each neuron's own sd.",
)  # fmt: skip
@click.option(
    "--rows", type=click.Choice(["prompt", "all"]), default="all", show_default=True,
    help="Edit the probed rows of the prompt, or all rows.",
)  # fmt: skip
@click.option(
    "--noise-by", type=click.Choice(["example", "row"]), default="example", show_default=True,
    help="Draw once for all rows of a text, or for each.",
)  # fmt: skip
@click.option(
    "--baseline", type=click.Choice(["prompt-rows", "all-rows"]), default="prompt-rows", show_default=True,
    help="What mean puts on all rows: the mean over these.",
)  # fmt: skip
@click.option("--rates", help="Shares of the neurons, such as 0.05,0.1,0.2; default 0.02 to 0.2.")
@click.option("--draws", type=click.IntRange(1), default=5, show_default=True, help="Random sets a prompt.")
@click.option("--layers", default="0-", show_default=True, help="3-: from layer 3 on; 0-5; 4 alone.")
@click.option(
    "--neurons", type=click.Choice(["layer", "network"]), default="layer", show_default=True,
    help="The highest of each layer, or of the network.",
)  # fmt: skip
@click.option("--held-out", is_flag=True, help="Find skill neurons on one half of dev, score on the other.")
@click.option("--across", is_flag=True, help="Each task's neurons on every other task, at the highest rate.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of sets and noise.")
@output_options
@plot_option
def command(
    tasks: tuple[str, ...], study: Path, rates: str | None, layers: str, across: bool, format_: str,
    output: Path | None, **options: Any,
) -> None:  # fmt: skip
    """Perturb the skill neurons of TASKS (default: all of the study's with classes).

    Against them stand as many random neurons of the same layers, drawn several times, and those of the lowest
    predictivity. Finished evaluations are kept in the study, so it can be stopped and gone on with.

    \b
    transferscope perturb sst2 --study my-study
    transferscope perturb sst2 imdb --study my-study --mode zero --rows all --layers 3-
    transferscope perturb --study my-study --across --format csv
    """
    from transferscope import perturbation_tables  # noqa: F401  # registers the tables
    from transferscope.perturbation_plan import PerturbationSettings, layer_range, parse_rates
    from transferscope.perturbing import perturb

    if rates:
        options["rates"] = parse_rates(rates)
    settings = PerturbationSettings(layers=layer_range(layers), **options)
    emit(perturb(open_study(study), tasks, settings, across=across), format_, output)
