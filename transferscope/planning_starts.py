"""What comparing starts for a target will cost: its grid of tunings, and what has to be there before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from transferscope import initialisation, measuring, store
from transferscope.counting import Batches, Shape
from transferscope.pipeline import BEST, STARTS, Pipeline
from transferscope.planning import Plan, Planner, Work, ends_early, shape_of
from transferscope.prompts import SoftPrompt
from transferscope.settings import TuningSettings
from transferscope.tasks import Task

# By name; None: prompts of the study that are still to be tuned, or that no ranking has chosen yet.
Starts = Mapping[str, tuple[SoftPrompt, ...] | None]
UNRANKED = "which sources rank first is known when all signatures are there; the plan counts as many"


def plan_starts(
    study: Pipeline,
    targets: Sequence[str],
    sources: Sequence[str] | None = None,
    *,
    shots: Sequence[int | None] = (None,),
    learning_rates: Sequence[float] | None = None,
    with_random: bool = True,
    rate: float | None = None,
) -> Plan:
    """What `Pipeline.compare_starts` would do now, of each of these targets and numbers of ``shots``.

    Sources that are tasks are tuned before; where a ranking chooses them, every task is, and is extracted.
    Then come the runs of the grid (stage ``init``), and the untouched sources on the target (``measure``).
    Runs and cells that are there are not planned again, and nothing is run or written. ``rate`` as in
    `planning.plan`. Raises StudyError: no such task, a source that is neither a task nor a folder; what
    reading the tasks raises.
    """
    study.chosen(targets)
    planner, ranks = Planner(study), sources is None or BEST in sources
    before = study.chosen(None) if ranks else [name for name in sources or () if name in study.settings.tasks]
    work = list(planner.tune(before))
    if ranks:
        work += planner.extract(before)
    known = not any(one.passes for one in work)
    for target in targets:
        starts = _starts(planner, target, sources, known)
        for k in shots:
            runs = _runs(planner, target, starts, k, learning_rates, with_random)
            work.append(_grid(planner, target, [run for run in runs if not run.is_own(before)], k))
        if starts:
            protocol = measuring.default_protocol(study)
            work.append(planner.cells(target, protocol, starts, with_controls=False))
    return planner.plan(work, rate, [UNRANKED] if ranks and not known else [])


def _starts(planner: Planner, target: str, sources: Sequence[str] | None, known: bool) -> Starts:
    """The prompts of each source; ``known``: whether all is there that a ranking reads."""
    study = planner.study
    if known and (sources is None or BEST in sources):
        ranked = [one.source for one in study.rank(target).sources]
    else:
        ranked = [f"({number})" for number in range(1, max(2, len(study.settings.tasks)))]
    found: dict[str, tuple[SoftPrompt, ...] | None] = {}
    for name in sources or ranked[:STARTS]:
        chosen = ranked[0] if name == BEST else name
        if chosen in study.settings.tasks:
            found[chosen] = planner.prompts(chosen)
        elif sources is None or name == BEST:
            found[chosen] = None
        else:
            found |= {short: tuple(several) for short, several in study.start_prompts(chosen).items()}
    return found


@dataclass(frozen=True)
class _Run:
    """One tuning of the grid: of what, into which folder, and the prompt that it starts from.

    ``waits``: that prompt is not there yet.
    """

    task: Task
    seed: int
    tuning: TuningSettings
    folder: store.Place
    source: SoftPrompt | None
    waits: bool
    own: store.Place

    def is_own(self, tuned: Sequence[str]) -> bool:
        """Whether this is a prompt of the study itself, planned where these tasks are tuned."""
        return self.task.name in tuned and self.folder == self.own


def _runs(
    planner: Planner,
    target: str,
    starts: Starts,
    shots: int | None,
    learning_rates: Sequence[float] | None,
    with_random: bool,
) -> Iterator[_Run]:
    """The grid of `measuring.compare_starts`."""
    study, base = planner.study, planner.settings.tuning
    factors = planner.settings.transfer.learning_rates
    rates = learning_rates or [factor * base.learning_rate for factor in factors]
    every: dict[str, tuple[SoftPrompt, ...] | None] = {initialisation.SCRATCH: (), **starts}
    if with_random and base.init != "random":
        every[initialisation.RANDOM] = ()
    whole = study.task(target)
    for seed in planner.settings.seeds:
        task = whole if shots is None else initialisation.few_shot(whole, shots, seed)
        own = study.study.prompt_folder(target, seed)
        for start, prompts in every.items():
            source = measuring.of_seed(prompts or (), seed)
            for rate in dict.fromkeys(rates):
                tuning = measuring.tuning_of(base, start, rate, shots)
                folder = measuring.run_folder(study, target, start, tuning, seed, shots)
                yield _Run(task, seed, tuning, folder, source, prompts is None, own)


def _grid(planner: Planner, target: str, runs: Sequence[_Run], shots: int | None) -> Work:
    """The runs of a grid: those that are done, and what the others cost."""
    missing = [
        run
        for run in runs
        if run.waits or planner.current(run.folder, run.task, run.tuning, run.source) is None
    ]
    costs: dict[
        tuple[int, Shape, bool], Batches
    ] = {}  # the learning rate, and how rows begin, change no pass
    counted, beside = Batches(), 0
    for run in missing:
        shape = planner.usual if run.source is None else shape_of(run.source)
        key = run.seed, shape, run.waits or run.source is not None
        if key not in costs:
            costs[key] = planner.counter.tuning(run.task, [run.seed], run.tuning, shape, from_source=key[2])
        counted, beside = counted + costs[key], max(beside, shape.beside)
    units = len(runs), len(runs) - len(missing)
    early = ends_early(planner.study.task(target), planner.settings.tuning)
    found = planner.of_tuning("init", target, units, counted, beside, early)
    return found if shots is None else replace(found, task=f"{target}, {shots} shots")
