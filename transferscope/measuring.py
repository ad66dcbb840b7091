"""The measuring stage of a study: cells kept one by one, so that a long run goes on where it was killed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from transferscope import cells, initialisation, safe_precision, store, transfer
from transferscope.cells import TargetCells
from transferscope.errors import InputError, suggest
from transferscope.initialisation import InitComparison, InitRun
from transferscope.pieces import Cells, Start
from transferscope.prompts import SoftPrompt
from transferscope.settings import TuningSettings
from transferscope.staleness import say_again
from transferscope.transfer import Cell, TransferMatrix
from transferscope.workspace import Workspace, turn

Prompts = dict[str, tuple[SoftPrompt, ...]]


def default_protocol(workspace: Workspace) -> str:
    """Zero-shot where there are label words to read, else the linear probe."""
    return transfer.ZERO_SHOT if workspace.settings.head == "verbalizer" else transfer.LINEAR_PROBE


def measure(
    workspace: Workspace,
    *,
    protocol: str | None = None,
    targets: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
) -> TransferMatrix:
    """Transfer from these sources (None: all) to these targets (None: all with data), and the controls.

    The own prompts of the targets are measured with them. What is measured already is read. Raises InputError
    for an unknown protocol or task, TaskError for a target without data.
    """
    chosen, goals, named = planned(workspace, protocol, targets, sources)
    columns = prompts_of_columns(workspace, goals, named)
    for before, (target, prompts) in enumerate(columns.items()):
        measure_column(workspace, target, prompts, chosen, before=before, columns=len(columns))
    shown = {*named, *goals, *transfer.CONTROLS}
    kept = [
        row
        for row in write_table(workspace)
        if row["protocol"] == chosen and row["target"] in columns and row["source"] in shown
    ]
    return in_order(transfer.from_rows(kept)[0], list(workspace.settings.tasks))


def planned(
    workspace: Workspace, protocol: str | None, targets: Sequence[str] | None, sources: Sequence[str] | None
) -> tuple[str, list[str], list[str]]:
    """The protocol, the targets and the sources that `measure` means; raises what it raises for them."""
    chosen = protocol or default_protocol(workspace)
    if chosen not in transfer.PROTOCOLS:
        raise InputError(f"unknown protocol {chosen!r}. {suggest(chosen, transfer.PROTOCOLS)}")
    goals = workspace.chosen(targets) if targets else workspace.with_data
    if chosen == transfer.LINEAR_PROBE and not targets:
        goals = [name for name in goals if workspace.settings.tasks[name].kind == "classification"]
    if not goals:
        raise InputError("no task of this study has data to measure on: give one a dataset, a path or train")
    return chosen, goals, workspace.chosen(sources)


def prompts_of_columns(
    workspace: Workspace, targets: Sequence[str], sources: Sequence[str]
) -> dict[str, Prompts]:
    """The prompts that are measured on each target, tuned where they are not there.

    A target's own are among them: they are what the others are relative to.
    """
    for name in targets:
        workspace.task(name)  # so that a mistake in it shows before hours of tuning
    prompts = workspace.tune(list(dict.fromkeys([*sources, *targets])))
    return {target: {name: prompts[name] for name in dict.fromkeys([*sources, target])} for target in targets}


def measure_column(
    workspace: Workspace,
    target: str,
    prompts: Prompts,
    protocol: str,
    *,
    before: int = 0,
    columns: int = 1,
    with_controls: bool = True,
    block: Sequence[str] | None = None,
) -> list[Cell]:
    """The cells of one target; those that are there already are read, and with all there no model is.

    ``block``: those of these sources and controls alone, which go to a file of their own, so that several
    processes can measure one target; without it, what such files have is taken over.
    """
    settings = workspace.settings
    stored = open_cells(workspace, target, protocol, block)
    beside = transfer.control_recipes(prompts, settings.transfer.random_draws) if with_controls else {}
    keys = [key for key in _keys(prompts, beside) if block is None or key[0] in block]
    there = [cell for key in keys if (cell := stored.get(*key)) is not None]
    if len(there) == len(keys):
        _settle(stored, there, keys, block)
        return there
    say_again(workspace.report, f"measuring {protocol} on {target}", stored.changed)
    every: dict[str, Sequence[SoftPrompt]] = dict(prompts)
    if beside:
        every |= transfer.controls(workspace.backbone, prompts, draws=settings.transfer.random_draws)

    def known(source: str, prompt: SoftPrompt) -> Cell | None:
        return stored.get(source, prompt.seed, beside.get((source, prompt.seed)) or prompt.fingerprint)

    def keep(cell: Cell) -> None:
        stored.add(replace(cell, prompt=beside.get((cell.source, cell.seed)) or cell.prompt))

    found = transfer.column(
        safe_precision.as_made_in(workspace.backbone, stored.inputs),
        {name: several for name, several in every.items() if block is None or name in block},
        workspace.task(target),
        protocol=protocol,
        max_length=settings.max_length,
        token_budget=workspace.token_budget,
        known=known,
        keep=keep,
        progress=turn(workspace.progress, "measure", before, columns),
        **_options(workspace, protocol),
    )
    _settle(stored, there, keys, block)
    return found


def _settle(
    stored: TargetCells,
    there: Sequence[Cell],
    keys: Sequence[tuple[str, int, str]],
    block: Sequence[str] | None,
) -> None:
    """A whole column takes over what blocks had of it, in the order of measuring; a block stays as it is."""
    if block is None:
        stored.add(*there)
        stored.settle([key[:2] for key in keys])


def missing(workspace: Workspace, target: str, prompts: Prompts, protocol: str) -> list[str]:
    """The sources, and controls, with a cell that is still to be measured on a target."""
    stored = open_cells(workspace, target, protocol)
    keys = _keys(prompts, transfer.control_recipes(prompts, workspace.settings.transfer.random_draws))
    return list(dict.fromkeys(key[0] for key in keys if stored.get(*key) is None))


def _keys(prompts: Prompts, beside: Mapping[tuple[str, int], str]) -> list[tuple[str, int, str]]:
    """Source, seed and what the prompt is, of each cell of a column, in the order of measuring."""
    own = [(name, one.seed, one.fingerprint) for name, several in prompts.items() for one in several]
    return own + [(name, seed, recipe) for (name, seed), recipe in beside.items()]


def open_cells(
    workspace: Workspace, target: str, protocol: str, block: Sequence[str] | None = None
) -> TargetCells:
    """The stored cells of a target, as far as they are of this model, data and settings."""
    inputs = {
        "model": workspace.model_fingerprint,
        "task": workspace.task(target).fingerprint,
        "max_length": workspace.settings.max_length,
        **_options(workspace, protocol),
    }
    model, there = workspace.settings.model, cells.stored_inputs(workspace.study, protocol, target)
    if there is not None and safe_precision.is_current(model, there, inputs):
        inputs = safe_precision.accepted(model, there, inputs)  # a column is in one precision throughout
    elif safe_precision.probed(model):
        inputs |= safe_precision.made_in(workspace.scoring_backbone(workspace.task(target)))
    else:
        inputs = safe_precision.accepted(model, {}, inputs)
    name = None if block is None else store.fingerprint(*block)[:16]
    return TargetCells(workspace.study, protocol, target, inputs, name)


def _options(workspace: Workspace, protocol: str) -> dict[str, Any]:
    if protocol != transfer.LINEAR_PROBE:
        return {}
    settings = workspace.settings.transfer
    return {"probe": settings.probe, "examples": settings.probe_examples}


def write_table(workspace: Workspace) -> list[dict[str, Any]]:
    """transfer.csv from the cells, without those of tasks or prompts that the study no longer has.

    Cells of prompts that were not read in this run are taken for current.
    """
    tasks = workspace.settings.tasks
    known = {name: {p.fingerprint for p in several} for name, several in workspace.loaded.items()}
    draws = workspace.settings.transfer.random_draws

    def current(protocol: str, target: str, cell: Cell) -> bool:
        if target not in tasks or protocol not in transfer.PROTOCOLS:
            return target in tasks
        if cell.source == transfer.RANDOM:
            return cell.seed < draws
        if cell.source in known:
            return cell.prompt in known[cell.source]
        return cell.source in tasks or cell.source in transfer.CONTROLS

    return cells.write_table(workspace.study, current)


def in_order(matrix: TransferMatrix, tasks: Sequence[str]) -> TransferMatrix:
    """The matrix with its sources and targets in the order of the study's tasks."""
    place = {name: i for i, name in enumerate(tasks)}
    rows = sorted(
        transfer.to_rows(matrix),  # protocol, source, target, ...
        key=lambda row: (place.get(row[2], len(place)), place.get(row[1], len(place))),
    )
    return transfer.from_rows(dict(zip(transfer.COLUMNS, row, strict=True)) for row in rows)[0]


def compare_starts(
    workspace: Workspace,
    target: str,
    sources: Mapping[str, Sequence[SoftPrompt]],
    *,
    shots: int | None = None,
    learning_rates: Sequence[float] | None = None,
    seeds: Sequence[int] | None = None,
    settings: TuningSettings | None = None,
    with_random: bool = True,
) -> InitComparison:
    """Tune a target from each source, from scratch and from a random prompt; each run is kept as it ends.

    ``learning_rates`` None: the study's factors times its tuning rate, for every start alike. Seed r starts
    from the source's prompt of seed r, or from its r-th where there is none. Finished runs are read; one that
    was interrupted goes on from its last evaluation. Each is a PEFT folder, ``init/<target>/<shots or
    all>/<start>/<rate>/<seed>``; the study's own prompt is the run from scratch at the study's rate.
    """
    study, base = workspace.settings, settings or workspace.settings.tuning
    task = workspace.task(target)
    rates = learning_rates or [factor * base.learning_rate for factor in study.transfer.learning_rates]
    chosen = tuple(seeds or study.seeds)
    starts: dict[str, Sequence[SoftPrompt]] = {initialisation.SCRATCH: (), **sources}
    if with_random and base.init != "random":
        starts[initialisation.RANDOM] = ()
    grid = [(start, rate, seed) for start in starts for rate in dict.fromkeys(rates) for seed in chosen]
    if settings is None:
        _ahead(workspace, target, grid, sources, shots)
    runs = []
    for number, (start, rate, seed) in enumerate(grid):
        tuning = tuning_of(base, start, rate, shots)
        progress = turn(workspace.progress, "init", number, len(grid), f"{start} -> ")
        prompt = tune_start(workspace, target, start, starts[start], tuning, seed, shots, progress)
        runs.append(InitRun.of(start, prompt))
    untouched = _untouched(workspace, target, sources) if sources else {}
    return initialisation.compare_starts(
        target,
        task.metric,
        runs,
        untouched=untouched,
        shots=shots,
        steps=base.steps,
        tolerance=study.transfer.tolerance,
    )


def tune_start(
    workspace: Workspace,
    target: str,
    start: str,
    prompts: Sequence[SoftPrompt],
    tuning: TuningSettings,
    seed: int,
    shots: int | None,
    progress: Callable[[int, int, str], None] | None = None,
) -> SoftPrompt:
    """One run of `compare_starts`: a target tuned from a start, whose prompts these are, or read."""
    task = workspace.task(target)
    prompt, _ = workspace.tuned(
        task if shots is None else initialisation.few_shot(task, shots, seed),
        run_folder(workspace, target, start, tuning, seed, shots),
        seed=seed,
        settings=tuning,
        init_from=of_seed(prompts, seed),
        progress=progress,
    )
    return prompt


def _ahead(
    workspace: Workspace,
    target: str,
    grid: Sequence[tuple[str, float, int]],
    sources: Mapping[str, Sequence[SoftPrompt]],
    shots: int | None,
) -> None:
    """Runs from tasks of the study and from controls, and those tasks untouched, may be done elsewhere.

    A folder that a start was read from may be on this machine alone.
    """
    tasks = tuple(name for name in sources if name in workspace.settings.tasks)
    known = (*tasks, initialisation.SCRATCH, initialisation.RANDOM)
    workspace.ahead([Start(target, start, rate, seed, shots) for start, rate, seed in grid if start in known])
    protocol = default_protocol(workspace)
    workspace.ahead([Cells(protocol, target, tasks, (name,)) for name in tasks])


def tuning_of(base: TuningSettings, start: str, rate: float, shots: int | None) -> TuningSettings:
    """How a start is tuned: with few shots, half of the examples choose the checkpoint."""
    changed: dict[str, Any] = {"learning_rate": rate}
    if start == initialisation.RANDOM:
        changed["init"] = "random"
    if shots is not None:
        changed["validation"] = 0.5
    return base.model_copy(update=changed)


def run_folder(
    workspace: Workspace, target: str, start: str, tuning: TuningSettings, seed: int, shots: int | None
) -> store.Place:
    """Where a run lies: ``init/...``, or the study's own prompt if that is what the run is."""
    study = workspace.settings
    plain = start == initialisation.SCRATCH and shots is None and tuning == study.tuning
    # Prompts that are given are never tuned over.
    if plain and seed in study.seeds and study.tasks[target].prompts is None:
        return workspace.study.prompt_folder(target, seed)
    rate = f"{tuning.learning_rate:g}"
    name = store.checked_name(start)
    return workspace.study.path("init", target, str(shots or "all"), name, rate, str(seed))


def of_seed(prompts: Sequence[SoftPrompt], seed: int) -> SoftPrompt | None:
    """The prompt that a run of this seed starts from: that of the seed, or the r-th; None: there are none."""
    if not prompts:
        return None
    return next((prompt for prompt in prompts if prompt.seed == seed), prompts[seed % len(prompts)])


def _untouched(
    workspace: Workspace, target: str, sources: Mapping[str, Sequence[SoftPrompt]]
) -> dict[str, float]:
    """What each source reaches on the target with no tuning, by the study's protocol, mean over seeds."""
    prompts = {name: tuple(several) for name, several in sources.items()}
    protocol = default_protocol(workspace)
    found = measure_column(workspace, target, prompts, protocol, with_controls=False)
    values = {name: [cell.value for cell in found if cell.source == name] for name in prompts}
    return {name: sum(several) / len(several) for name, several in values.items()}


def record_starts(workspace: Workspace, comparison: InitComparison) -> None:
    """Put the result into the study: ``init/<target>/<shots or all>/comparison.json``, and transfer.csv.

    The table has results of whole training sets only.
    """
    folder = workspace.study.path("init", comparison.target, str(comparison.shots or "all"))
    store.write_json(folder / "comparison.json", comparison, versioned=True)
    if comparison.shots is None:
        stored = TargetCells(workspace.study, transfer.INIT, comparison.target, {})
        for row in initialisation.as_rows(comparison):
            stored.add(Cell(row["source"], row["seed"], row["metric"], row["value"]))
        write_table(workspace)
