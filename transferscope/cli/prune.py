"""transferscope prune: a smaller model for one task, of its skill neurons in the upper layers."""

from __future__ import annotations

from pathlib import Path

import click

from transferscope.cli.options import emit, open_study, output_options, plot_option, shares, study_option


@click.command("prune")
@click.argument("task")
@study_option()
@click.option(
    "--keep", type=click.FloatRange(0, 1, min_open=True), default=0.02, show_default=True,
    help="Share of the neurons that stays in each pruned layer.",
)  # fmt: skip
@click.option(
    "--from-layer", type=click.IntRange(0), default=3, show_default=True,
    help="The first pruned layer, numbered from 0 (in each stack).",
)  # fmt: skip
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder for the model; new, or empty."
)
@click.option(
    "--baseline", type=click.Choice(["prompt-rows", "all-rows"]), default="prompt-rows", show_default=True,
    help="Hold the others at their mean over the prompt's rows, or over all.",
)  # fmt: skip
@click.option("--retune/--no-retune", default=True, show_default=True, help="Tune the prompts again on it.")
@click.option(
    "--batch", "batches", type=click.IntRange(1), multiple=True, default=(1, 8, 32), show_default=True,
    help="Measure speed at this batch size (can be repeated).",
)  # fmt: skip
@click.option("--rows", type=click.IntRange(1), default=128, show_default=True, help="Of each text there.")
@click.option(
    "--random-draws", type=click.IntRange(0), default=3, show_default=True,
    help="Of as many random neurons, as a control.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of these draws.")
@click.option(
    "--shares", default="", callback=shares,
    help="Other shares to keep, such as 0.5,0.2,0.1: scored beside, not written.",
)  # fmt: skip
@output_options
@plot_option
def command(
    task: str,
    study: Path,
    keep: float,
    from_layer: int,
    out: Path,
    baseline: str,
    retune: bool,
    batches: tuple[int, ...],
    rows: int,
    random_draws: int,
    seed: int,
    shares: tuple[float, ...],
    format_: str,
    output: Path | None,
) -> None:
    """Keep the skill neurons of TASK in the upper layers, and write a smaller model.

    The other neurons of these layers are held at their mean activation, which goes into a bias; the model
    has no trace of them any more. It is scored with the task's prompts, before and after they are tuned
    again, and timed against the unpruned model. The prompts are in DIR/prompt.

    \b
    transferscope prune sst2 --study my-study --out pruned-sst2
    transferscope prune sst2 --study my-study --keep 0.1 --from-layer 6 --no-retune --out pruned-sst2
    transferscope prune sst2 --study my-study --shares 0.5,0.2,0.1,0.05 --out pruned-sst2 --plot pruned.png
    """
    from transferscope import pruning_study, pruning_tables  # noqa: F401 (the second one registers the tables)

    settings = pruning_study.PruneSettings(
        keep=keep,
        from_layer=from_layer,
        baseline=baseline,
        retune=retune,
        random_draws=random_draws,
        batches=batches,
        rows=rows,
        seed=seed,
        shares=shares,
    )
    emit(pruning_study.prune(open_study(study), task, settings, out), format_, output)
