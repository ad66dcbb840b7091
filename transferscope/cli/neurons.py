"""transferscope neurons: skill neurons between tasks, along the prompt, and one by one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from transferscope.cli.options import emit, open_study, output_options, plot_option, study_option


class _Neuron(click.ParamType):
    """A layer and a number in it, as 3:117."""

    name = "L:N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return int(value[0]), int(value[1])
        match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", str(value))
        if match is None:
            self.fail(
                f"{value!r} is no neuron: give layer and number, both from 0, such as 3:117", param, ctx
            )
        return int(match[1]), int(match[2])


@click.command("neurons")
@click.argument("task", required=False)
@study_option()
@click.option("--top", type=click.IntRange(1), help="TASK: so many, the most predictive; default 10.")
@click.option(
    "--rate", type=click.FloatRange(0, 1, min_open=True),
    help="TASK: all its skill neurons at this rate; otherwise how many are skill neurons, default 0.2.",
)  # fmt: skip
@click.option(
    "--by", type=click.Choice(["layer", "network"]), default="layer", show_default=True,
    help="The highest of each layer, or of the whole network.",
)  # fmt: skip
@click.option(
    "--neuron", "neurons", multiple=True, type=_Neuron(),
    help="TASK: this one, with a histogram by class (can be repeated).",
)  # fmt: skip
@click.option("--examples", type=click.IntRange(0), help="TASK: texts at each end; default 5.")
@click.option("--words", type=click.IntRange(0), help="TASK: promoted words; default 10.")
@click.option("--bins", type=click.IntRange(1, 1000), help="--neuron: of the histogram; default 20.")
@click.option("--trial", type=click.IntRange(0), help="TASK: under the prompt of this seed.")
@click.option("--where", is_flag=True, help="TASK: predictivity by prompt row; rows and trials needed.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is drawn.")
@output_options
@plot_option
def command(
    task: str | None,
    study: Path,
    rate: float | None,
    by: str,
    neurons: tuple[tuple[int, int], ...],
    where: bool,
    seed: int,
    format_: str,
    output: Path | None,
    **given: int | None,
) -> None:
    """Skill neurons: how far they are a task's own, where on the prompt they show, and what fires them.

    Without TASK: predictivity and skill neurons compared between trials of a task and between tasks, beside
    chance, and their layers. With TASK: its top neurons, the classes and dev texts that fire them, and the
    words they promote. TASK --where: what each row of the prompt finds, and how many rows and trials are
    needed.

    \b
    transferscope neurons --study my-study
    transferscope neurons sst2 --study my-study --top 5 --examples 3
    transferscope neurons sst2 --study my-study --neuron 3:117
    transferscope neurons sst2 --study my-study --where --format json
    """
    from transferscope import neuron_study, neuron_tables  # noqa: F401  # the latter says how they are printed
    from transferscope.neuron_view import BINS
    from transferscope.skill_sets import RATE

    options = {name: value for name, value in given.items() if value is not None}
    _check(task, where, rate, neurons, options)
    pipeline = open_study(study)
    common: dict[str, Any] = {"rate": RATE if rate is None else rate, "by": by, "seed": seed}
    if task is None:
        emit(neuron_study.compare_tasks(pipeline, **common), format_, output)
        return
    if where:
        emit(neuron_study.where(pipeline, task, **common), format_, output)
        return
    if "trial" in options:
        options["shown"] = options.pop("trial")
    if neurons:
        options.setdefault("bins", BINS)
    found = neuron_study.look(pipeline, task, neurons=neurons or None, rate=rate, by=by, **options)
    emit(found, format_, output)


def _check(
    task: str | None, where: bool, rate: float | None, neurons: tuple[Any, ...], options: dict[str, int]
) -> None:
    """Options that do not go together are refused before anything is read."""
    wanted = [f"--{name}" for name in options] + (["--neuron"] if neurons else [])
    if task is None and (wanted or where):
        raise click.UsageError(f"{(wanted or ['--where'])[0]} needs a TASK")
    if where and wanted:
        raise click.UsageError(f"{wanted[0]} does not go with --where")
    choices = [rate is not None, "top" in options, bool(neurons)]
    if not where and task is not None and sum(choices) > 1:
        raise click.UsageError("give one of --top, --rate, --neuron")
    if "bins" in options and not neurons:
        raise click.UsageError("--bins goes with --neuron")
