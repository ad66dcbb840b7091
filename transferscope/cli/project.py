"""transferscope project: prompts of one study's model made into prompts of another study's model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from transferscope.cli.messages import channels
from transferscope.cli.options import PlaceType, emit, output_options, plot_option

STUDY = PlaceType()
FILE, VALUES = "projector.safetensors", "measured.json"


@click.command("project")
@click.argument("study_a", type=STUDY)
@click.argument("study_b", type=STUDY)
@click.option(
    "--train-on",
    "train_on",
    multiple=True,
    metavar="TASK",
    help="A task of both studies to fit on (repeatable).  [default: all but one in four, drawn by --seed]",
)
@click.option(
    "--objective",
    type=click.Choice(["distance", "task"]),
    default="distance",
    show_default=True,
    help="Distance to B's own prompts, or the tasks' loss through B's model.",
)
@click.option(
    "--kind",
    type=click.Choice(["linear", "two-layer"]),
    help="[default: linear with --objective distance, two-layer with task]",
)
@click.option(
    "--flatten/--per-token", default=True, show_default=True, help="Whole prompts, or each row alone."
)
@click.option("--steps", type=click.IntRange(1), default=1000, show_default=True, help="Of training.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the projector and the projected prompts.  [default: STUDY_B/projected/NAME_OF_A]",
)
@output_options
@plot_option
def command(
    study_a: Path,
    study_b: Path,
    train_on: tuple[str, ...],
    objective: str,
    kind: str | None,
    flatten: bool,
    steps: int,
    seed: int,
    out: Path | None,
    format_: str,
    output: Path | None,
) -> None:
    """Project the prompts of STUDY_A's model to STUDY_B's model, and measure them there.

    The projector is fitted on tasks that both studies have. Every prompt of STUDY_A is projected and written
    as a PEFT folder, DIR/prompts/TASK/SEED; the projector is DIR/projector.safetensors. The report keeps
    tasks that the projector was trained on apart from those it has not seen.

    \b
    transferscope project study-bert study-roberta
    transferscope project study-bert study-roberta --train-on mnli --train-on snli --objective task
    """
    from transferscope import pipeline, store
    from transferscope.projector import ProjectorSettings

    report, progress = channels()
    a, b = (pipeline.open_study(path, report=report, progress=progress) for path in (study_a, study_b))
    trained, common = _tasks(a, b, train_on, objective, seed)
    folder = _folder(a, b, out)
    settings = ProjectorSettings(
        kind=kind or ("linear" if objective == "distance" else "two-layer"),
        flatten=flatten,
        steps=steps,
        seed=seed,
    )
    sources, targets = a.tune(), b.tune(common)

    projector = _projector(b, sources, targets, trained, objective, settings, store.Study(folder).path(FILE))
    _write(projector, sources, b, folder)
    report(f"wrote {FILE} and the projected prompts of {len(sources)} tasks to {folder}")
    _register()
    emit(_measured(b, projector, sources, targets, folder), format_, output)


def _tasks(
    a: Any, b: Any, train_on: tuple[str, ...], objective: str, seed: int
) -> tuple[list[str], list[str]]:
    """(the tasks to fit on, all that both studies have)."""
    from transferscope.errors import StudyError, suggest
    from transferscope.projection import split_tasks

    common = [name for name in a.settings.tasks if name in b.settings.tasks]
    if not common:
        raise StudyError(
            f"the studies have no task in common: {', '.join(a.settings.tasks)} in {a.study.folder}, "
            f"{', '.join(b.settings.tasks)} in {b.study.folder}"
        )
    if b.settings.head != "verbalizer":
        raise StudyError(
            f"{b.study.folder} has head: {b.settings.head}; projected prompts are measured with label words "
            "(head: verbalizer)"
        )
    for name in train_on:
        if name not in common:
            raise StudyError(f"--train-on {name!r} is not a task of both studies. {suggest(name, common)}")
    able = [name for name in common if objective == "distance" or b.settings.tasks[name].has_data]
    return sorted(set(train_on)) or list(split_tasks(able, seed)[0]), common


def _folder(a: Any, b: Any, out: Path | None) -> Any:
    from transferscope import store

    if out is not None:
        return out
    name = b.study.path("projected", store.checked_name(a.study.folder.resolve().name))
    return name


def _projector(
    b: Any, sources: Any, targets: Any, trained: list[str], objective: str, settings: Any, file: Any
) -> Any:
    """The projector in `file` if it was made from the same things; else a new one, which is written there.

    The state of a training that was killed lies beside it, until the projector is written.
    """
    from transferscope import store
    from transferscope.descent_state import STATE
    from transferscope.projector import load_projector, save_projector
    from transferscope.staleness import is_current

    tasks = {name: b.task(name) for name in trained} if objective == "task" else {}
    inputs = {
        "settings": settings.model_dump(),
        "objective": objective,
        "sources": {name: [prompt.fingerprint for prompt in sources[name]] for name in trained},
        "targets": {name: [prompt.fingerprint for prompt in targets[name]] for name in trained},
        "tasks": {name: task.fingerprint for name, task in tasks.items()},
        "model": b.model_fingerprint,
        "template": b.settings.template,
        "max_length": b.settings.max_length,
    }
    if tasks and settings.flatten:
        inputs["rows"] = b.settings.tuning.rows
    if file.is_file():
        known = load_projector(file)
        if is_current(known.provenance, inputs, b.report, "fitting the projector"):
            (file.parent / STATE).unlink(missing_ok=True)  # if it was killed between writing and this
            return known
    fitted = _fitted(b, sources, targets, trained, tasks, settings, file.parent)
    fitted = replace(fitted, provenance={**fitted.provenance, "inputs": store.json_ready(inputs)})
    save_projector(fitted, file)
    (file.parent / STATE).unlink(missing_ok=True)
    return fitted


def _fitted(
    b: Any, sources: Any, targets: Any, trained: list[str], tasks: Any, settings: Any, folder: Any
) -> Any:
    """A new projector: by the loss of `tasks`, or by distance where there are none."""
    from transferscope import projection

    fitted_on, progress = {name: sources[name] for name in trained}, _stage(b, "project")
    if not tasks:
        return projection.fit_distance(
            fitted_on,
            {name: targets[name] for name in trained},
            settings,
            template=b.settings.template,
            device=b.backbone.device,
            folder=folder,
            progress=progress,
        )
    return projection.fit_task(
        b.backbone,
        fitted_on,
        tasks,
        settings,
        template=b.settings.template,
        rows=b.settings.tuning.rows if settings.flatten else None,
        max_length=b.settings.max_length,
        token_budget=b.settings.token_budget,
        folder=folder,
        progress=progress,
    )


def _write(projector: Any, sources: Any, b: Any, folder: Path) -> None:
    """The projected prompts as PEFT folders."""
    from transferscope import store
    from transferscope.prompts import save_prompt

    place, kind = store.Study(folder), b.backbone.architecture.kind
    for several in sources.values():
        for prompt in several:
            there = place.prompt_folder(prompt.task, prompt.seed)
            save_prompt(projector.project(prompt), there, model=b.settings.model.name, kind=kind)


def _measured(b: Any, projector: Any, sources: Any, targets: Any, folder: Path) -> Any:
    """The report on the tasks of both studies that have data in B; values that are there are read."""
    from transferscope import store
    from transferscope.origin_perturbation import Values
    from transferscope.projection_report import evaluate_projection

    inputs = {"model": b.model_fingerprint, "max_length": b.settings.max_length}
    values = Values(store.Study(folder).path(VALUES), inputs)
    if values.changed:
        b.report(f"measuring projected prompts again: {'; '.join(values.changed)}")
    measurable = [name for name in targets if b.settings.tasks[name].has_data]
    found = evaluate_projection(
        b.backbone,
        projector,
        sources,
        {name: b.task(name) for name in measurable},
        own=targets,
        max_length=b.settings.max_length,
        token_budget=b.settings.token_budget,
        kept=values,
        progress=_stage(b, "measure"),
    )
    if left := [name for name in targets if name not in measurable]:
        note = f"not measured, no data in {b.study.folder}: {', '.join(left)}"
        found = replace(found, notes=(*found.notes, note))
    return found


def _stage(b: Any, name: str) -> Any:
    """A study's progress bar of this name, as library functions call it."""
    return lambda done, total, text: b.progress(name, done, total, text)


def _register() -> None:
    from transferscope.exporters import tabular
    from transferscope.projection_report import ProjectionReport

    tabular(ProjectionReport, tables)


def tables(report: Any) -> list[Any]:
    """A `ProjectionReport` as two tables: one row a task, and the means of each group."""
    from transferscope.exporters import Table

    others = ("own prompt", "relative", "random prompt", "no prompt", "majority class")
    rows = tuple(
        (
            row.task,
            _group(row.held_out),
            row.metric,
            len(row.seeds),
            row.value,
            row.projected_spread.low,
            row.projected_spread.high,
            row.own,
            row.relative,
            row.random,
            row.none,
            row.majority,
        )
        for row in report.tasks
    )
    means = tuple(
        (
            _group(held), group.tasks, group.value, group.own, group.relative, group.random, group.none,
            group.majority,
        )
        for held, group in ((False, report.trained), (True, report.held_out))
        if group is not None
    )  # fmt: skip
    how = "whole prompts" if report.flatten else "by token"
    about = (
        f"{report.kind} projector, {how}, objective {report.objective}; scores on dev, low and high: 95 % "
        "bootstrap over the source's prompts, widened for few"
    )
    models = f"from {report.source_model} to {report.target_model}"
    columns = ("task", "group", "metric", "prompts", "projected", "low", "high", *others)
    return [
        Table(columns, rows, f"Projected prompts, {models}", (about,)),
        Table(("group", "tasks", "projected", *others), means, "Means of each group", report.notes),
    ]


def _group(held_out: bool) -> str:
    return "held out" if held_out else "trained on"
