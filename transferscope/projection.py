"""Fitting a projector between two backbones: by the distance of prompts, or by the tasks' own loss.

Source: Su et al., NAACL 2022, the section on transfer across models: its two objectives, distance minimising
and task tuning. Departures: see `transferscope.projector`; a linear projector of distances is solved in
closed form; the checkpoint is chosen on tasks (or on shares of train splits) that training does not see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transferscope import attachment, store
from transferscope.descent import Descent
from transferscope.descent_state import STATE, StateFile
from transferscope.encoding import collate
from transferscope.errors import PromptError, suggest
from transferscope.evaluation import evaluate
from transferscope.models import Backbone
from transferscope.projector import Projector, ProjectorSettings, Space
from transferscope.prompts import SoftPrompt
from transferscope.readouts import readout_for
from transferscope.ridge import ridge
from transferscope.settings import TuningSettings
from transferscope.tasks import Task
from transferscope.templates import DEFAULTS, Batch
from transferscope.tuning import Setup, prepare

Prompts = Mapping[str, Sequence[SoftPrompt]]
Arrays = dict[str, np.ndarray]
Progress = Callable[[int, int, str], None]
HELD_OUT = 4  # one task in so many is held out by default
FEWEST = 5  # with fewer training tasks, none can be spared to choose the checkpoint


def split_tasks(names: Sequence[str], seed: int = 0) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(trained on, held out): one task in four held out, at least one of three or more, drawn with a seed.

    The order in which the names come does not matter; each part is sorted.
    """
    known = sorted(set(names))
    count = max(len(known) // HELD_OUT, int(len(known) >= 3))
    held = {known[i] for i in np.random.default_rng(seed).permutation(len(known))[:count]}
    return tuple(name for name in known if name not in held), tuple(sorted(held))


def fit_distance(
    sources: Prompts,
    targets: Prompts,
    settings: ProjectorSettings | None = None,
    *,
    template: str | None = None,
    device: str | torch.device = "cpu",
    folder: store.AnyPath | None = None,
    progress: Progress | None = None,
) -> Projector:
    """Minimise the squared distance |projected source prompt - target prompt|^2 over pairs of one task.

    Every seed of a task's source prompts is paired with every seed of its target prompts. Kind ``linear`` is
    a ridge regression in closed form whose penalty is chosen by leaving one task out (one pair, where there
    is one task). Kind ``two-layer`` is trained by AdamW; with five training tasks or more a share of the
    tasks chooses the checkpoint, with fewer the training pairs themselves do. Distances in ``provenance``
    are in units of the variance of the target prompts: 1 is what their mean reaches.

    ``template`` is the target backbone's (None: that of its prompts). Training by AdamW keeps its state in
    ``folder`` (None: nowhere) at evaluations, and goes on from it to the same projector, bit for bit; the
    file, `descent_state.STATE`, is for the caller to remove once the projector is kept. Raises PromptError
    for tasks without a pair, and for prompts that differ in shape, template or backbone among themselves.
    """
    settings = settings or ProjectorSettings()
    _same_tasks(sources, targets)
    spaces = _space(sources, "source"), _space(targets, "target")
    if not settings.flatten and spaces[0].rows != spaces[1].rows:
        raise PromptError(
            f"by token, a prompt of {spaces[0].rows} rows has no pair among prompts of {spaces[1].rows} "
            "rows: use flatten"
        )
    order = sorted(sources)
    pairs = [(task, a, b) for task in order for a in sources[task] for b in targets[task]]
    x = np.stack([a.rows for _, a, _ in pairs]).astype(np.float64)
    y = np.stack([b.rows for _, _, b in pairs]).astype(np.float64)
    groups = np.array([order.index(task) for task, _, _ in pairs], dtype=np.int64)
    statistics = _statistics("input", x, settings) | _statistics("output", y, settings)
    if settings.kind == "linear":
        layers, training = _closed_form(x, y, groups, statistics)
    else:
        run = Descent(settings, spaces, statistics, torch.device(device))
        state = _state(folder, "distance", settings.model_dump(), x, y, groups)
        layers, training = _by_distance(run, x, y, groups, progress, state)
    about = _about(sources, "source") | _about(targets, "target") | {"training": training}
    chosen = template or _template(targets)
    return Projector(settings, *spaces, layers | statistics, chosen, tuple(order), "distance", about)


def fit_task(
    backbone: Backbone,
    prompts: Prompts,
    tasks: Mapping[str, Task],
    settings: ProjectorSettings | None = None,
    *,
    template: str | None = None,
    rows: int | None = None,
    max_length: int | None = None,
    token_budget: int = 8192,
    folder: store.AnyPath | None = None,
    progress: Progress | None = None,
) -> Projector:
    """Train a projector by the loss of ``tasks`` through the frozen target ``backbone``.

    Each step takes the next task in turn, one of its source prompts (its seeds in turn), and one batch; the
    gradient of the task's own loss reaches the projector alone. The checkpoint is the best mean
    validation score over the training tasks (a share of train, never dev), then the lowest loss; the state
    before the first step is among the candidates. No prompt of the target backbone is needed: outputs start
    with the mean and the spread of its input embeddings.

    ``rows``: how many rows the projected prompts have (None: as many as the source's; by token always so).
    The same settings on the same machine give the same projector. ``folder``: as in `fit_distance`. Raises
    PromptError, TemplateError for a task without label words, InputError where no loss was finite.
    """
    settings = settings or ProjectorSettings()
    _same_tasks(prompts, tasks)
    source = _space(prompts, "source")
    if rows is not None and not settings.flatten and rows != source.rows:
        raise PromptError(f"by token, {source.rows} rows stay {source.rows} rows, not {rows}: use flatten")
    target = Space(rows or source.rows, backbone.embedding_size)
    template = template or DEFAULTS[backbone.architecture.kind]
    options: dict[str, Any] = {"template": template, "max_length": max_length, "token_budget": token_budget}
    tuning = TuningSettings(rows=target.rows, validation=settings.validation)
    setups = {
        name: prepare(backbone, tasks[name], tuning, seed=settings.seed, **options) for name in sorted(tasks)
    }
    given = np.stack([prompt.rows for name in sorted(prompts) for prompt in prompts[name]])
    statistics = _statistics("input", given, settings) | _of_embeddings(backbone, settings, target)
    run = Descent(settings, (source, target), statistics, backbone.device)
    through = _Through(backbone, tasks, setups, prompts, run)
    state = _state(
        folder, "task", settings.model_dump(), backbone.fingerprint, str(backbone.autocast), template,
        target.rows, max_length, {name: task.fingerprint for name, task in tasks.items()},
        {name: [prompt.fingerprint for prompt in several] for name, several in prompts.items()},
    )  # fmt: skip
    layers, training = run.run(through.descend, through.score, progress, state)
    about = _about(prompts, "source") | _about_backbone(backbone) | {"training": training}
    trained_on = tuple(sorted(tasks))
    return Projector(settings, source, target, layers | statistics, template, trained_on, "task", about)


class _Through:
    """The loss and the validation score of projected prompts on tasks, through the target backbone."""

    def __init__(
        self,
        backbone: Backbone,
        tasks: Mapping[str, Task],
        setups: Mapping[str, Setup],
        prompts: Prompts,
        run: Descent,
    ) -> None:
        self.backbone, self.setups, self.run, self.names = backbone, setups, run, list(setups)
        self.rows = {name: [_tensor(p.rows, backbone.device) for p in prompts[name]] for name in setups}
        self.readouts = {name: readout_for(backbone, tasks[name]) for name in setups}
        self.batches = {
            name: _Batches(len(setup.fit), run.settings.batch_size, (run.settings.seed, number))
            for number, (name, setup) in enumerate(setups.items())
        }

    def descend(self, step: int) -> None:
        """The gradient of the loss of one batch: of the task whose turn it is, with one of its prompts."""
        name = self.names[step % len(self.names)]
        several, setup, turn = self.rows[name], self.setups[name], step // len(self.names)
        rows = several[turn % len(several)]
        batch = collate(self.backbone, setup.fit, self.batches[name].at(turn))

        def loss(piece: Batch) -> Tensor:
            attached = attachment.attach(self.backbone, self.run.project(rows), setup.template)
            return self.readouts[name].loss(attached, piece)

        layers, beside = list(self.run.layers.values()), self.run.target.rows + 1  # and perhaps a mask row
        self.backbone.fitting.backward("tuning", batch, loss, layers, beside=beside)

    def score(self) -> tuple[float, float]:
        """Mean validation score and loss: over a task's source prompts, then over tasks."""
        found = [[self._evaluate(name, rows) for rows in several] for name, several in self.rows.items()]
        value, loss = np.mean([np.mean(one, axis=0) for one in found], axis=0).tolist()
        return value, loss

    def _evaluate(self, name: str, rows: Tensor) -> tuple[float, float]:
        setup = self.setups[name]
        with torch.no_grad():
            attached = attachment.attach(self.backbone, self.run.project(rows), setup.template)
        found = evaluate(
            attached,
            self.readouts[name],
            setup.validation,
            metric=setup.metric,
            token_budget=setup.token_budget,
        )
        return found.value, found.loss


class _Batches:
    """Positions 0 to ``count`` - 1 by batch, without end, a function of the seed and the batch's number."""

    def __init__(self, count: int, size: int, seed: tuple[int, int]) -> None:
        self.count, self.size = count, size
        self._rng, self._epoch = np.random.default_rng(seed), -1
        self._order = np.arange(count)

    def at(self, number: int) -> np.ndarray:
        """The batch of this number, from 0; numbers must not go back, as epochs are drawn one by one."""
        epoch, place = divmod(number, -(-self.count // self.size))
        for _ in range(epoch - self._epoch):
            self._order = self._rng.permutation(self.count)
        self._epoch = epoch
        return self._order[place * self.size : (place + 1) * self.size]


def _state(folder: store.AnyPath | None, *inputs: Any) -> StateFile | None:
    """The state of a training of these inputs in a folder."""
    return None if folder is None else StateFile(store.place(folder) / STATE, store.fingerprint(*inputs))


def _by_distance(
    run: Descent,
    x: np.ndarray,
    y: np.ndarray,
    groups: NDArray[np.int64],
    progress: Progress | None,
    state: StateFile | None,
) -> tuple[Arrays, dict[str, Any]]:
    """Train on the pairs of some tasks, score on those of the others (all on all where tasks are few)."""
    tasks = int(groups.max()) + 1
    share = round(run.settings.validation * tasks) or 1
    drawn = np.random.default_rng(run.settings.seed).permutation(tasks)[: share if tasks >= FEWEST else 0]
    held = np.isin(groups, drawn)
    fit, choose = np.flatnonzero(~held), np.flatnonzero(held if held.any() else ~held)
    sources, targets = _tensor(x, run.device), _tensor(y, run.device)
    batches = _Batches(len(fit), run.settings.batch_size, (run.settings.seed, 0))

    def distance(places: np.ndarray) -> Tensor:
        missed = (run.project(sources[places]) - targets[places]) / run.tensors["output.scale"]
        return (missed**2).mean()

    def score() -> tuple[float, float]:
        with torch.no_grad():
            found = float(distance(choose))
        return -found, found

    def descend(step: int) -> None:
        distance(fit[batches.at(step)]).backward()

    layers, training = run.run(descend, score, progress, state)
    return layers, training | {"held_out_tasks": len(drawn)}


def _closed_form(
    x: np.ndarray, y: np.ndarray, groups: NDArray[np.int64], statistics: Mapping[str, np.ndarray]
) -> tuple[Arrays, dict[str, Any]]:
    """Ridge on standardised pairs; the map is kept as two factors where these are smaller."""
    groups = groups if groups.max() else np.arange(len(x))
    flatten = statistics["input.mean"].ndim == 2
    if not flatten:
        groups = np.repeat(groups, x.shape[1])
    x, y = (value.reshape(len(groups), -1) for value in (x, y))
    x, y = (x - x.mean(axis=0)) / statistics["input.scale"], (y - y.mean(axis=0)) / statistics["output.scale"]
    found = ridge(x, y, groups)
    factors = found.down.size + found.up.size < x.shape[1] * y.shape[1]
    layers = {"down": found.down, "up": found.up} if factors else {"weight": found.down @ found.up}
    layers |= {"bias": np.zeros(y.shape[1])}
    left_out = None if np.isnan(found.error) else found.error / y.shape[1]
    return _single(layers), {"alpha": found.alpha, "left_out_distance": left_out}


def _statistics(name: str, values: np.ndarray, settings: ProjectorSettings) -> Arrays:
    """Mean by coordinate of prompts [n, P, E] (by token: [E]), and one scale for all coordinates.

    One scale, as a coordinate that hardly varies over few prompts would otherwise be blown up in others.
    """
    values = values.astype(np.float64)
    mean = values.mean(axis=0 if settings.flatten else (0, 1))
    scale = float(np.sqrt(np.mean((values - mean) ** 2)))
    if scale <= 1e-6 * float(np.sqrt(np.mean(values**2))):  # one prompt, or always the same
        scale = 1.0
    return _single({f"{name}.mean": mean, f"{name}.scale": np.array(scale)})


def _of_embeddings(backbone: Backbone, settings: ProjectorSettings, target: Space) -> Arrays:
    """The mean of the input embeddings and their spread, as statistics of outputs."""
    table = backbone.embeddings.detach().float().cpu().numpy()
    mean = table.mean(axis=0, dtype=np.float64)
    scale = np.sqrt(np.mean((table - mean) ** 2))
    whole = np.tile(mean, (target.rows, 1)) if settings.flatten else mean
    return _single({"output.mean": whole, "output.scale": np.array(scale)})


def _single(arrays: Mapping[str, np.ndarray]) -> Arrays:
    return {name: np.asarray(array, dtype=np.float32) for name, array in arrays.items()}


def _tensor(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32)).to(device)


def _same_tasks(prompts: Prompts, others: Mapping[str, Any]) -> None:
    if not prompts:
        raise PromptError("nothing to fit a projector on: give prompts of at least one task")
    for name in sorted(prompts.keys() ^ others.keys()):
        side, there = ("target", others) if name in prompts else ("source", prompts)
        raise PromptError(f"task {name!r} is missing on the {side} side. {suggest(name, there)}")
    for side, given in (("source", prompts), ("target", others)):
        if empty := [
            name for name, several in given.items() if isinstance(several, Sequence) and not several
        ]:
            raise PromptError(f"task {empty[0]!r} has no {side} prompt")


def _space(prompts: Prompts, side: str) -> Space:
    """The common shape of prompts. Raises PromptError where they differ, or are of several backbones."""
    every = [(task, prompt) for task in sorted(prompts) for prompt in prompts[task]]
    shapes = {prompt.rows.shape: task for task, prompt in every}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        found = ", ".join(f"{shape} ({task})" for shape, task in shapes.items()) or "none"
        raise PromptError(f"the {side} prompts should have one shape [rows, width], found {found}")
    for what in ("model_fingerprint", "model"):
        models = {str(prompt.provenance[what]) for _, prompt in every if prompt.provenance.get(what)}
        if len(models) > 1:
            raise PromptError(f"the {side} prompts are of several backbones: {', '.join(sorted(models))}")
    return Space(*next(iter(shapes)))


def _template(targets: Prompts) -> str:
    names = sorted({prompt.template for several in targets.values() for prompt in several})
    if len(names) != 1:
        raise PromptError(f"the target prompts have several templates ({', '.join(names)}): name one")
    return names[0]


def _about(prompts: Prompts, side: str) -> dict[str, Any]:
    """What the prompts say of their backbone, and which they are."""
    every = [prompt for task in sorted(prompts) for prompt in prompts[task]]
    known = {
        f"{side}_{name}": next((p.provenance[name] for p in every if p.provenance.get(name)), None)
        for name in ("model", "model_fingerprint", "layers", "attention_heads")
    }
    known = {name: value for name, value in known.items() if value is not None}
    return known | {f"{side}_prompts": [prompt.fingerprint for prompt in every]}


def _about_backbone(backbone: Backbone) -> dict[str, Any]:
    return {
        "target_model": backbone.name,
        "target_model_fingerprint": backbone.fingerprint,
        "target_layers": backbone.layers,
        "target_attention_heads": int(getattr(backbone.model.config, "num_attention_heads", 1)),
    }
