"""The perturbation stage of a study: units kept as they are measured, so that a killed study goes on.

perturbation/<task>/<how>.json    the values of one task under one way of editing, by what was edited
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from transferscope import perturbation_curves, store
from transferscope.dev_halves import found_on_half, halves
from transferscope.errors import InputError, StoreError
from transferscope.kept_signatures import Keeper
from transferscope.perturbation import LEVEL_EXAMPLES, Subject
from transferscope.perturbation_curves import Measured, PerturbationReport, TaskCurves
from transferscope.perturbation_plan import RANDOM, SKILL, PerturbationSettings, Ranking, Unit, plan
from transferscope.prompts import SoftPrompt
from transferscope.signatures import Signature
from transferscope.staleness import say_again
from transferscope.store import Study
from transferscope.tasks import Task

FOLDER = "perturbation"
SECONDS = 1.0  # between two writes of one file: a kill loses what was measured in so many seconds,
SHARE = 0.01  # or in as many as keep the time for writing at this share


class Pipeline(Keeper, Protocol):
    """What of a study is needed: `transferscope.pipeline.Pipeline` has it."""

    @property
    def with_data(self) -> list[str]: ...
    def chosen(self, tasks: Sequence[str] | None) -> list[str]: ...
    def tune(self, tasks: Sequence[str] | None = None) -> dict[str, tuple[SoftPrompt, ...]]: ...
    def extract(self, tasks: Sequence[str] | None = None) -> dict[str, Signature]: ...


@dataclass(frozen=True)
class Value:
    """What one unit came to: metric, mean cross-entropy (nats), and how many neurons were edited."""

    value: float
    loss: float
    neurons: int


class KeptUnits:
    """The measured units of one task under one way of editing, by their keys.

    ``changed`` says which inputs differ from those of the units that were there (empty: none do).
    """

    def __init__(self, study: Study, task: str, how: str, inputs: Mapping[str, Any]) -> None:
        self.path = study.path(FOLDER, store.checked_name(task), f"{how}.json")
        self.inputs = store.json_ready(dict(inputs))
        self.changed: list[str] = []
        self._values: dict[str, Value] = {}
        self._unwritten, self._due = 0, time.monotonic() + SECONDS
        if self.path.is_file():
            record = _read(self.path)
            self.changed = store.stale_reason(record["inputs"], self.inputs)
            if not self.changed:
                self._values = record["units"]

    def get(self, unit: Unit) -> Value | None:
        """What a unit came to, if it was measured."""
        return self._values.get(unit.key)

    def add(self, unit: Unit, value: Value) -> None:
        """Keep a unit; it is written with others, about once a second."""
        self._values[unit.key] = value
        self._unwritten += 1
        if time.monotonic() >= self._due:
            self.write()

    def write(self) -> None:
        """Write what is not written yet."""
        if self._unwritten:
            begun = time.monotonic()
            units = {key: asdict(value) for key, value in self._values.items()}
            store.write_json(self.path, {"inputs": self.inputs, "units": units}, versioned=True)
            ended = time.monotonic()
            self._unwritten, self._due = 0, ended + max(SECONDS, (ended - begun) / SHARE)


def _read(path: Any) -> dict[str, Any]:
    record = store.read_json(path)
    try:
        units = {str(key): Value(**value) for key, value in record["units"].items()}
        return {"inputs": dict(record["inputs"]), "units": units}
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} does not hold perturbed values: {error}") from None


def perturb(
    pipeline: Pipeline,
    tasks: Sequence[str] | None = None,
    settings: PerturbationSettings | None = None,
    *,
    across: bool = False,
) -> PerturbationReport:
    """Perturb the skill neurons of these tasks (None: all that have classes and data).

    ``across``: at the highest rate, the skill neurons of each of them also while every other one is done.
    What is measured already is read, and with all there no model is loaded. Raises InputError for tasks
    without data or without classes.
    """
    chosen = settings or PerturbationSettings()
    names = pipeline.chosen(tasks) if tasks else [n for n in pipeline.with_data if _has_classes(pipeline, n)]
    if not names:
        raise InputError("no task of this study has data and classes: skill neurons need both")
    if without := [name for name in names if not _has_classes(pipeline, name)]:
        raise InputError(f"skill neurons need classes, and {', '.join(without)}: a generation task")
    if across and len(names) < 2:
        raise InputError(f"across tasks at least two are needed; got {', '.join(names)}")
    prompts = pipeline.tune(names)
    signatures = (
        {name: found_on_half(pipeline, name, prompts[name]) for name in names}
        if chosen.held_out
        else pipeline.extract(names)
    )
    rankings = {name: Ranking.of(signatures[name]) for name in names}
    stage = _Stage(pipeline, chosen, signatures, prompts)
    curves = [stage.curves(name, rankings[name], before, len(names)) for before, name in enumerate(names)]
    crossed = stage.across(names, rankings) if across else None
    notes = _notes(chosen, curves)
    return PerturbationReport(
        pipeline.settings.model.name, chosen, perturbation_curves.with_holm(curves), crossed, notes
    )


def _has_classes(pipeline: Pipeline, name: str) -> bool:
    return pipeline.settings.tasks[name].kind == "classification"


class _Stage:
    """One way of editing, on the tasks of a study."""

    def __init__(
        self,
        pipeline: Pipeline,
        settings: PerturbationSettings,
        signatures: Mapping[str, Signature],
        prompts: Mapping[str, tuple[SoftPrompt, ...]],
    ) -> None:
        self.pipeline, self.settings = pipeline, settings
        self.signatures, self.prompts = signatures, prompts
        self._subjects: dict[str, Subject] = {}
        self._files: dict[str, KeptUnits] = {}

    def task(self, name: str) -> Task:
        """The task with the dev examples that scores are of."""
        whole = self.pipeline.task(name)
        return halves(whole)[1] if self.settings.held_out else whole

    def curves(self, name: str, ranking: Ranking, before: int, tasks: int) -> TaskCurves:
        """The curves of one task."""
        task = self.task(name)
        units = list(plan(ranking, self.prompts[name], self.settings))
        found = self._measured(name, units, before * len(units), tasks * len(units), name)
        return perturbation_curves.task_curves(
            name,
            task.metric,
            len(task.dev),
            [prompt.seed for prompt in self.prompts[name]],
            task.majority,
            found,
            seed=self.settings.seed,
        )

    def across(self, names: Sequence[str], rankings: Mapping[str, Ranking]) -> perturbation_curves.CrossTask:
        """The drops of every task with the skill neurons of every one, at the highest rate."""
        rate = self.settings.rates[-1]
        found: dict[tuple[str, str], list[Measured]] = {}
        for performed in names:  # task by task: its batches are made once
            planned = {
                skilled: list(
                    plan(
                        rankings[skilled],
                        self.prompts[performed],
                        self.settings,
                        rates=(0.0, rate),
                        conditions=(SKILL, RANDOM),
                    )
                )
                for skilled in names
            }
            total = sum(map(len, planned.values()))
            before = len(found) // len(names) * total
            flat = [unit for units in planned.values() for unit in units]
            values = iter(self._measured(performed, flat, before, len(names) * total, f"across, {performed}"))
            for skilled, units in planned.items():
                found[skilled, performed] = [next(values) for _ in units]
        return perturbation_curves.cross_task(rate, names, found, seed=self.settings.seed)

    def _measured(
        self, name: str, units: Sequence[Unit], before: int, total: int, text: str
    ) -> list[Measured]:
        """The values of these units of one task: read, or measured now and kept."""
        kept, found = self._kept(name), []
        try:
            for number, unit in enumerate(units):
                value = kept.get(unit)
                if value is None:
                    score = self._subject(name).score(unit)
                    value = Value(score.value, score.loss, unit.neurons)
                    kept.add(unit, value)
                    self.pipeline.progress("perturb", before + number + 1, total, text)
                found.append(
                    Measured(unit.condition, unit.rate, unit.place, unit.draw, unit.neurons, value.value)
                )
        finally:
            kept.write()
        return found

    def _subject(self, name: str) -> Subject:
        if name not in self._subjects:
            study = self.pipeline.settings
            self._subjects[name] = Subject(
                self.pipeline.backbone,
                self.task(name),
                self.prompts[name],
                self.settings,
                baseline=self.signatures[name].baseline,
                max_length=study.max_length,
                token_budget=study.token_budget,
            )
        return self._subjects[name]

    def _kept(self, name: str) -> KeptUnits:
        if name not in self._files:
            how, inputs = _how(self.settings)
            study, task = self.pipeline.settings, self.task(name)
            inputs |= {
                "model": self.pipeline.model_fingerprint,
                "task": task.fingerprint,
                "metric": task.metric,
                "max_length": study.max_length,
                "token_budget": study.token_budget,  # noise is drawn batch by batch
            }
            self._files[name] = KeptUnits(self.pipeline.study, name, how, inputs)
            say_again(self.pipeline.report, f"perturbing {name}", self._files[name].changed)
        return self._files[name]


def _how(settings: PerturbationSettings) -> tuple[str, dict[str, Any]]:
    """The name of a way of editing, and what it is; which neurons are edited is in the keys of the units."""
    how: dict[str, Any] = {"mode": settings.mode, "rows": settings.rows}
    if settings.mode == "noise":
        how |= {"sd": settings.sd, "unit": settings.unit, "noise_by": settings.noise_by}
    if settings.mode == "mean" and settings.rows == "all":
        how["baseline"] = settings.baseline
    name = "_".join(f"{part:g}" if isinstance(part, float) else str(part) for part in how.values())
    if how.get("unit") == "neuron" or how.get("baseline") == "all-rows":
        how["level_examples"] = LEVEL_EXAMPLES
    if settings.held_out:
        name += "_half-of-dev"
    return name, how


def _notes(settings: PerturbationSettings, curves: Sequence[TaskCurves]) -> tuple[str, ...]:
    what = {
        "noise": f"noise of sd {settings.sd:g}{' of their own sd' if settings.unit == 'neuron' else ''}, one "
        f"draw {'a row' if settings.noise_by == 'row' else 'an example'},",
        "zero": "zero",
        "mean": "their mean over all rows" if settings.baseline == "all-rows" else "their baseline",
    }[settings.mode]
    first, last = settings.layers
    where = (
        "all layers"
        if (first, last) == (0, None)
        else f"layers {first} to {'the last' if last is None else last}"
    )
    rows = "the probed rows of the prompt" if settings.rows == "prompt" else "all rows"
    notes = [
        f"Chosen neurons get {what} on {rows}; {where}; rates are shares of each layer, highest by "
        f"{settings.neurons}. random, bottom: as many in the same layers; {settings.draws} draws a prompt.",
        "Intervals are 95 % bootstraps: of a point over prompts (with one prompt: over draws), of an area "
        "over prompt and draw pairs, so with these prompts; p by flipping signs, two-sided.",
        "Found on one half of dev, scored on the other."
        if settings.held_out
        else "Found and scored on the same dev examples, as in the paper, which flatters skill neurons a "
        "little: --held-out uses one half for each.",
    ]
    if weak := [one.task for one in curves if one.weak]:
        notes.append(f"no better than the majority class, so nothing to lose: {', '.join(weak)}")
    return tuple(notes)
