"""Chosen neurons against random ones under whatever a task was tuned by: drops by seed and by draw.

Every unit (a tuned run, a set of neurons, a draw of the noise) is kept under a digest of what it is, so
nothing is measured twice, and nothing that changed is taken for current.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from transferscope import store
from transferscope.attachment import Attached
from transferscope.encoding import encode
from transferscope.errors import InputError, StoreError, StudyError
from transferscope.evaluation import Prepared, evaluate, prepared
from transferscope.interventions import Edit, intervene
from transferscope.models import Backbone
from transferscope.prompts import Head
from transferscope.readouts import AnyReadout, readout_for
from transferscope.resampling import Difference, paired_difference
from transferscope.workspace import Workspace

SD = 0.1  # of the noise, as in the paper


@dataclass(frozen=True)
class Run:
    """One tuned thing: a prompt, or another method, of one seed.

    ``open()`` puts it into its backbone while a block runs and yields what is evaluated; ``places`` are the
    positions that it takes beside its rows, ``fingerprint`` says what it is, the backbone included.
    """

    seed: int
    fingerprint: str
    open: Callable[[], AbstractContextManager[Attached]]
    head: Head | None = None
    places: int = 0


@dataclass(frozen=True)
class Subject:
    """What neurons are perturbed under: the runs of one way of tuning, on one backbone."""

    name: str
    backbone: Callable[[], Backbone]
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Chosen:
    """A way of choosing neurons, and what it chooses at each rate: ``masks`` {rate: bool [L, N]}."""

    name: str
    masks: Mapping[float, np.ndarray]


@dataclass(frozen=True)
class SeedEffect:
    """One seed's part of an effect: unperturbed, and the mean drops over draws; ``higher`` counts the draws
    in which the chosen neurons cost more than the random ones.
    """

    seed: int
    clean: float
    drop: float
    random_drop: float
    higher: int


@dataclass(frozen=True)
class Effect:
    """What noise on chosen neurons costs beside noise on as many random ones in the same layers.

    ``drop`` and ``random_drop`` are means over seeds and draws of (unperturbed - perturbed). ``difference``
    pairs the two within seed and draw; its interval and p are over draws, whose random neurons all seeds
    share.
    """

    subject: str
    neurons: str
    rate: float
    count: int
    clean: float
    drop: float
    random_drop: float
    difference: Difference
    seeds: tuple[SeedEffect, ...]


@dataclass(frozen=True)
class Plan:
    """What is measured: noise of deviation ``sd`` on all rows, at each rate, with so many draws."""

    rates: tuple[float, ...] = (0.05, 0.1, 0.2)
    draws: int = 5
    sd: float = SD

    def __post_init__(self) -> None:
        if not self.rates or not all(0 < rate <= 1 for rate in self.rates):
            raise InputError(f"rates are {list(self.rates)}; each must be above 0 and at most 1")
        if self.draws < 1:
            raise InputError(f"draws is {self.draws}; at least 1 is needed, 5 for an interval worth reading")


def random_like(neurons: np.ndarray, seed: int) -> np.ndarray:
    """As many of each layer as in ``neurons`` [L, N], any neuron alike, chosen ones too: bool [L, N]."""
    rng = np.random.default_rng(seed)
    drawn = np.zeros_like(neurons)
    for layer, count in enumerate(neurons.sum(axis=1)):
        drawn[layer, rng.permutation(neurons.shape[1])[:count]] = True
    return drawn


class Values:
    """Measured values by the digest of their unit, in one JSON file, rewritten whole for each new one."""

    def __init__(self, path: store.Place, inputs: Mapping[str, object]) -> None:
        self.path, self.inputs = path, store.json_ready(dict(inputs))
        self._values: dict[str, float] = {}
        self.changed: list[str] = []
        if path.is_file():
            record = store.read_json(path)
            try:
                self.changed = store.stale_reason(record["inputs"], self.inputs)
                known = {str(key): float(value) for key, value in record["values"].items()}
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise StoreError(f"{path} does not hold measured values: {error}") from None
            self._values = {} if self.changed else known

    def get(self, key: str) -> float | None:
        """The value of a unit, if it was measured."""
        return self._values.get(key)

    def add(self, key: str, value: float) -> None:
        """Keep a value, now."""
        self._values[key] = value
        store.write_json(self.path, {"inputs": self.inputs, "values": self._values}, versioned=True)


@dataclass(frozen=True)
class Unit:
    """One evaluation: a run with these neurons perturbed (None: none) by the noise of this draw."""

    run: Run
    neurons: np.ndarray | None = None
    draw: int = 0
    sd: float = SD

    @property
    def key(self) -> str:
        """The digest of all that the value depends on beside the task."""
        if self.neurons is None:
            return store.fingerprint(self.run.fingerprint, "clean")
        return store.fingerprint(self.run.fingerprint, "noise on all rows", self.neurons, self.draw, self.sd)


def effects(
    workspace: Workspace,
    task: str,
    subject: Subject,
    choices: Sequence[Chosen],
    plan: Plan,
    values: Values,
    progress: Callable[[int], None] = lambda measured: None,
) -> list[Effect]:
    """The effects of all choices of neurons at all rates under one subject, measured where not known.

    ``progress`` gets the number of units that were measured since it was called last. Raises StudyError where
    a rate is so low that it means no neuron.
    """
    for choice in choices:
        for rate, mask in choice.masks.items():
            if not mask.any():
                raise StudyError(
                    f"rate {rate:g} of {mask.shape[1]} neurons a layer is none ({choice.name}); the lowest "
                    f"rate that means one is {1 / mask.shape[1]:.3g}"
                )
    for run in subject.runs:
        units = {unit.key: unit for unit in _units(run, choices, plan)}
        missing = [unit for key, unit in units.items() if values.get(key) is None]
        if missing:
            _measure(workspace, task, subject, run, missing, values, progress)
    return [
        _effect(subject, choice, rate, plan, values, workspace.task(task).metric)
        for choice in choices
        for rate in plan.rates
    ]


def count_units(choices: Sequence[Chosen], plan: Plan) -> int:
    """At most so many evaluations a run."""
    return 1 + len(choices) * len(plan.rates) * plan.draws * 2


def _units(run: Run, choices: Sequence[Chosen], plan: Plan) -> Iterator[Unit]:
    yield Unit(run)
    for choice in choices:
        for rate in plan.rates:
            for draw in range(plan.draws):
                yield from _pair(run, choice.masks[rate], draw, plan)


def _pair(run: Run, mask: np.ndarray, draw: int, plan: Plan) -> tuple[Unit, Unit]:
    """The chosen neurons and a draw of random ones, under noise from the same seed."""
    return Unit(run, mask, draw, plan.sd), Unit(run, random_like(mask, draw), draw, plan.sd)


def _measure(
    workspace: Workspace,
    name: str,
    subject: Subject,
    run: Run,
    units: Sequence[Unit],
    values: Values,
    progress: Callable[[int], None],
) -> None:
    backbone, task, study = subject.backbone(), workspace.task(name), workspace.settings
    with run.open() as attached:
        readout = readout_for(backbone, task, study.head, layer=run.head)
        dev = encode(backbone, task.dev, prompt_rows=attached.rows + run.places, max_length=study.max_length)
        data = prepared(backbone, dev, prompt_rows=attached.rows, token_budget=study.token_budget)
        for unit in units:
            values.add(unit.key, _value(backbone, attached, readout, data, unit, task.metric))
            progress(1)


def _value(
    backbone: Backbone, attached: Attached, readout: AnyReadout, data: Prepared, unit: Unit, metric: str
) -> float:
    if unit.neurons is None:
        return evaluate(attached, readout, data, metric=metric).value
    edit = Edit(unit.neurons, mode="noise", sd=unit.sd, rows="all")
    with intervene(backbone, edit, seed=unit.draw):
        return evaluate(attached, readout, data, metric=metric).value


def clean_values(subject: Subject, values: Values) -> list[float]:
    """The score of each run with nothing perturbed."""
    return [_known(values, Unit(run)) for run in subject.runs]


def _known(values: Values, unit: Unit) -> float:
    value = values.get(unit.key)
    if value is None:
        raise InputError("this unit was not measured: call effects() first")
    return value


def _effect(subject: Subject, choice: Chosen, rate: float, plan: Plan, values: Values, metric: str) -> Effect:
    mask = choice.masks[rate]
    clean = np.array(clean_values(subject, values))  # [R]
    pairs = np.array(
        [
            [[_known(values, unit) for unit in _pair(run, mask, draw, plan)] for draw in range(plan.draws)]
            for run in subject.runs
        ]
    )  # [R, draws, 2]
    drops = clean[:, None, None] - pairs
    means = drops.mean(axis=1)  # [R, 2]
    higher = (drops[:, :, 0] > drops[:, :, 1]).sum(axis=1)
    seeds = tuple(
        SeedEffect(run.seed, float(value), float(own[0]), float(own[1]), int(count))
        for run, value, own, count in zip(subject.runs, clean, means, higher, strict=True)
    )
    # Draws stand for the random sets and noises that might have been; all seeds share them.
    draws = [draw for _ in subject.runs for draw in range(plan.draws)]
    difference = paired_difference(
        drops[:, :, 0].ravel(),
        drops[:, :, 1].ravel(),
        names=(choice.name, "random"),
        metric=f"drop of {metric}",
        seed=0,
        clusters=draws,
    )
    mean, random_mean = drops.mean(axis=(0, 1))
    return Effect(
        subject.name, choice.name, rate, int(mask.sum()), float(clean.mean()), float(mean),
        float(random_mean), difference, seeds,
    )  # fmt: skip
